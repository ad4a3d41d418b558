//! A call that may be repeated and takes long is made a second time: the first answer counts, and the server is told to
//! forget the other. A hedge is paid from the budget of retries.

use super::{At, Begun, Unheard, is_unmade, once};
use crate::{call::Call, guard::Second, resolve::Target};
use fairlead_core::{Outcome, UpstreamError};
use fairlead_upstream::{Exchange, Item, Want};
use fairlead_wire::{Era, Frame};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio::time::Instant;

const LOST: &str = "another try was faster";

/// Makes the call, and once more when nothing was heard of it after `after`.
pub(super) async fn race(
    call: &Call,
    target: &Target,
    frame: &Frame,
    want: &Want,
    quiet_until: Instant,
    after: Duration,
    at: &mut At<'_>,
) -> Begun {
    let first_until = quiet_until.min(Instant::now() + after);
    match once(call, target, frame, want, first_until, at).await {
        Begun::Quiet { exchange } if Instant::now() < quiet_until && affords(target) => {
            both(call, target, frame, want, quiet_until, exchange).await
        }
        Begun::Quiet { exchange } if Instant::now() < quiet_until => {
            let mut first = Unheard::new(exchange, call, None);
            heard(&mut first, quiet_until).await
        }
        begun => begun,
    }
}

fn affords(target: &Target) -> bool {
    target.upstream.rules.guard.as_ref().is_none_or(|guard| guard.afford(Second::Hedge))
}

async fn both(
    call: &Call,
    target: &Target,
    frame: &Frame,
    want: &Want,
    quiet_until: Instant,
    exchange: Box<Exchange>,
) -> Begun {
    let lost = AtomicBool::new(false);
    let mut at = At { instance: None, lost: Some(&lost) };
    let mut want = want.clone();
    want.avoid.add(exchange.link().instance());
    let mut first = Unheard::new(exchange, call, None);
    // Boxed: dropped before the race is over, when it lost.
    let mut second = Box::pin(async {
        let begun = once(call, target, frame, &want, quiet_until, &mut at).await;
        (begun, at.instance)
    });
    tokio::select! {
        biased;
        begun = heard(&mut first, quiet_until) => match begun {
            Begun::Failed(error) => {
                let (begun, _) = second.await;
                better(error, begun)
            }
            begun => {
                lost.store(true, Ordering::Relaxed);
                drop(second);
                begun
            }
        },
        (begun, instance) = &mut second => match begun {
            Begun::Failed(error) => {
                tracing::debug!(server = %target.upstream.handle.name(), %error, "the second try failed; the first goes on");
                let begun = heard(&mut first, quiet_until).await;
                better(error, begun)
            }
            Begun::NeedsRoots => heard(&mut first, quiet_until).await,
            begun => {
                match instance {
                    Some(winner) => first.exchange().outrun(&winner, LOST),
                    None => first.exchange().cancel(LOST),
                }
                begun
            }
        },
    }
}

/// What came of the try that was left. When that was certainly not made and of the other one nobody knows, nobody knows.
fn better(other: UpstreamError, begun: Begun) -> Begun {
    if other.outcome == Outcome::Unknown && is_unmade(&begun) { Begun::Failed(other) } else { begun }
}

/// What the exchange brings first.
async fn heard(unheard: &mut Unheard<'_>, quiet_until: Instant) -> Begun {
    let heard = unheard.exchange().next_before(quiet_until).await;
    let link: Era = unheard.exchange().link().peer().revision.era();
    match heard {
        Ok(Some(Item::Final(answer))) => Begun::Answered { answer, link },
        Ok(Some(Item::Message(frame))) => Begun::Spoke { exchange: unheard.take(), frame },
        Ok(None) => Begun::Quiet { exchange: unheard.take() },
        Err(error) => Begun::Failed(error),
    }
}
