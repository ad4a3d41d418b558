//! What keeps calls together on one instance of their server, where its `balance` is `sticky`.

use crate::{call::Call, resolve::Target};
use fairlead_config::{StickyBy, Strategy};
use fairlead_upstream::affinity;
use fairlead_wire::{Field, list};

/// The hash of what the call has in common with others; `None` where nothing keeps them together.
pub(crate) fn of(call: &Call, target: &Target) -> Option<u64> {
    let handle = &target.upstream.handle;
    if !handle.has_siblings() {
        return None;
    }
    let balance = &handle.config().instances.balance;
    if balance.strategy != Strategy::Sticky {
        return None;
    }
    match &balance.by {
        StickyBy::Session => Some(affinity(&call.user.to_le_bytes())),
        StickyBy::Caller => Some(affinity(call.caller.key().as_str().as_bytes())),
        StickyBy::Argument(name) => {
            let arguments = call.frame.raw(Field::Arguments);
            let value = match name {
                Some(name) => arguments.and_then(|arguments| list::raw_member(arguments, name)),
                None => arguments,
            };
            // A resource is its own argument. A call without the argument goes anywhere.
            let value = value.or_else(|| call.frame.raw(Field::Uri));
            value.map(|value| affinity(value.as_bytes()))
        }
    }
}
