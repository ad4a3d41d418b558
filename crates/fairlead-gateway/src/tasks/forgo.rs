//! Calls that must not become tasks: what comes of a task is asked for with another request, which does not say of which
//! tool it is, so rules for the tool's answers would not find it. Such a call is answered when it is done.

use crate::{call::Call, capabilities, resolve::Target, tasks::EXTENSION};
use fairlead_wire::{Era, Field, list};

/// Makes the call one that becomes no task, though its client could follow one.
pub(crate) fn forgo(call: &mut Call, target: &mut Target) {
    if call.era == Era::Legacy || !call.capabilities.has_task_extension() {
        return;
    }
    call.capabilities = call.capabilities.without_task_extension();
    undeclare(call, target);
}

/// The same for a call that has forgone its task already and is made at another server.
pub(crate) fn undeclare(call: &Call, target: &mut Target) {
    let declared = call.frame.raw(Field::MetaClientCapabilities).zip(call.frame.span(Field::MetaClientCapabilities));
    if let Some((declared, span)) = declared
        && let Some(extensions) = list::raw_member(declared, "extensions")
    {
        let others = capabilities::without(extensions, EXTENSION);
        let without = capabilities::without(declared, "extensions");
        let comma = if without.len() > 2 { "," } else { "" };
        target.edits.replace(span, format!("{{\"extensions\":{others}{comma}{}", &without[1..]));
    }
}
