//! identify: who is calling. Before anything is looked up or counted, because everything after is
//! keyed by the caller.
//!
//! Credentials come with authentication; until then every caller is anonymous, which is why the
//! listener is on the loopback address unless somebody says otherwise.

use fairlead_core::Caller;

/// The caller of a request.
pub(crate) fn caller(_headers: &http::HeaderMap) -> Caller {
    Caller::anonymous()
}
