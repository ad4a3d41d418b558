//! Fetching anew what is given although its time is over, while nobody waits.
//!
//! One at a time per answer. The call is the same as that of the client who found the answer old, but nobody is there to be
//! asked anything or to hear of progress: a server that asks is told that nobody waits any more, and the old answer stays
//! for as long as it may.

use super::{keep, plan::Plan, store::Kept};
use crate::{
    call::Call,
    dispatch::{self, Begun},
    record,
    resolve::Target,
};
use fairlead_core::UpstreamError;
use fairlead_observe::ReuseOutcome;
use fairlead_upstream::{Exchange, Final, Item};
use fairlead_wire::{Era, Frame, Kind};
use std::sync::Arc;

/// Ends when it is dropped, so that the next one may begin.
struct Refreshing(Arc<Kept>);

impl Drop for Refreshing {
    fn drop(&mut self) {
        self.0.refreshed();
    }
}

/// Begins to fetch an answer anew, unless somebody does.
pub(super) fn start(call: &Call, target: &Target, plan: &Plan, kept: &Arc<Kept>) {
    if !kept.begin_refresh() {
        return;
    }
    let refreshing = Refreshing(Arc::clone(kept));
    let (call, target, plan) = (call.aside(), target.clone(), plan.clone());
    let gateway = call.gateway.clone();
    gateway.serve_beside(async move {
        let _refreshing = refreshing;
        let since = call.gateway.0.reuse.ledger.now();
        target.upstream.metrics.reused(ReuseOutcome::Refresh);
        match fetch(&call, &target).await {
            Ok((answer, link)) => {
                record::call(&call, &target, record::status_of(&answer.frame));
                keep(&call, &plan, &answer, link, since);
            }
            Err(Some(error)) => record::failure(&call, &target, &error),
            Err(None) => {}
        }
    });
}

/// Makes a call that nobody listens to. `Err(None)`: it was not made, or asked its client something.
pub(super) async fn fetch(call: &Call, target: &Target) -> Result<(Final, Era), Option<UpstreamError>> {
    let deadline = call.started + target.timeouts().1;
    match dispatch::begin(call, target, deadline).await {
        Begun::Answered { answer, link } => Ok((answer, link)),
        Begun::Spoke { exchange, frame } => listen(exchange, Some(frame)).await,
        Begun::Quiet { exchange } => listen(exchange, None).await,
        Begun::Failed(error) => Err(Some(error)),
        // Over a limit: whoever asks next tries again.
        Begun::Refused(_) | Begun::NeedsRoots | Begun::Waits(_) => Err(None),
    }
}

/// Listens to the end of an exchange that nobody else listens to.
async fn listen(exchange: Box<Exchange>, first: Option<Frame>) -> Result<(Final, Era), Option<UpstreamError>> {
    let mut listening = Listening { exchange, why: Some("nobody waits for it any more") };
    let mut next = first.map(Item::Message);
    loop {
        let item = match next.take() {
            Some(item) => item,
            None => listening.exchange.next().await.map_err(Some)?,
        };
        match item {
            Item::Message(frame) if frame.kind() == Kind::Request => {
                listening.why = Some("nobody is there to be asked");
                return Err(None);
            }
            Item::Message(_) => {}
            Item::Final(answer) => {
                listening.why = None;
                let link = listening.exchange.link().peer().revision.era();
                return Ok((answer, link));
            }
        }
    }
}

/// An exchange whose server is told when it is given up.
struct Listening {
    exchange: Box<Exchange>,
    why: Option<&'static str>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(why) = self.why {
            self.exchange.cancel(why);
        }
    }
}
