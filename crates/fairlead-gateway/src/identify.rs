//! identify: who is calling. Before anything is looked up or counted, because everything after is
//! keyed by the caller.
//!
//! Credentials come with authentication; until then every caller is anonymous, which is why the
//! listener is on the loopback address unless somebody says otherwise.

//!
//! What is not identity but tells callers apart where limits are counted: the address a connection came from. (That of
//! a proxy, where there is one: what a request says of its way is not believed.)

use crate::listen::Door;
use fairlead_core::Caller;

/// The caller of a request.
pub(crate) fn caller(_headers: &http::HeaderMap, door: Door) -> Caller {
    match door {
        Door::Public(address) => Caller::anonymous().at(Some(address)),
        Door::Control => Caller::anonymous(),
    }
}
