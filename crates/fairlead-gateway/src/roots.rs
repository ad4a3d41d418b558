//! Asking a client for its roots, once, when a server turns out to follow them.

use crate::{call::Call, questions::Questions, voice::Voice, watching};
use bytes::Bytes;
use fairlead_upstream::Roots;
use fairlead_wire::{Field, Kind};
use sha2::{Digest, Sha256};
use std::{sync::Arc, time::Duration};

/// How long a client may take over it.
const WAIT: Duration = Duration::from_secs(30);

/// Asks over the call's own stream. A client that does not answer has no roots.
pub(crate) async fn ask(call: &Call, voice: &Voice) {
    let Some(session) = &call.session else { return };
    // In a batch no question has a place: nobody would see it.
    if session.roots().is_some() || call.in_batch {
        return;
    }
    let none = Bytes::from_static(b"{\"roots\":[]}");
    let answer = match Questions::ask_own(&call.gateway, call.user, "roots/list", None) {
        Some((_asked, question, answer)) => {
            let asked = voice.say(&question).await;
            match asked {
                Ok(()) => tokio::time::timeout(WAIT, answer).await.ok().and_then(Result::ok),
                Err(_) => None,
            }
        }
        None => None,
    };
    let result = match answer {
        Some(frame) if frame.kind() == Kind::Result => frame.slice(Field::Result).unwrap_or(none),
        _ => {
            tracing::info!("a client that declares roots did not list them; it is treated as having none");
            none
        }
    };
    session.set_roots(roots(result));
    watching::roots_changed(&call.gateway, session);
}

/// What a client listed, with its digest.
pub(crate) fn roots(result: Bytes) -> Arc<Roots> {
    let digest = Sha256::digest(&result);
    let digest = digest.iter().take(8).fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    Arc::new(Roots { digest, result })
}
