//! Which instance of a server a call goes to.

pub(crate) mod load;
pub(crate) mod report;
