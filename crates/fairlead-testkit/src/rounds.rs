//! Questions of the modern era as a script prescribes them: `input_required` byte for byte, and a look at what comes back.
//!
//! The server keeps nothing between two rounds. Which round a request belongs to is what its `requestState` says, and a
//! state that is not one of the script's, byte for byte, is refused: so a test that passes has proved the echo.

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use crate::answer::{Incoming, Outcome};

/// One round of questions.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Round {
    /// `inputRequests` as JSON text; without it the member is absent.
    #[serde(default)]
    pub requests: Option<String>,
    /// `requestState` as JSON text, quotes included; without it the member is absent.
    #[serde(default)]
    pub state: Option<String>,
}

impl Round {
    /// A round that asks this and gives this state along.
    pub fn new(requests: &str, state: &str) -> Self {
        Self { requests: Some(requests.to_owned()), state: Some(state.to_owned()) }
    }

    /// A round without a state.
    pub fn stateless(requests: &str) -> Self {
        Self { requests: Some(requests.to_owned()), state: None }
    }

    /// A round that asks for nothing but to come again with this state.
    pub fn again(state: &str) -> Self {
        Self { requests: None, state: Some(state.to_owned()) }
    }

    fn result(&self) -> String {
        let member = |key: &str, value: &Option<String>| {
            value.as_ref().map(|value| format!(",\"{key}\":{value}")).unwrap_or_default()
        };
        let (requests, state) = (member("inputRequests", &self.requests), member("requestState", &self.state));
        format!("{{\"resultType\":\"input_required\"{requests}{state}}}")
    }

    /// The keys that have to be answered.
    fn keys(&self) -> Vec<String> {
        let requests = self.requests.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
        requests.as_ref().and_then(Value::as_object).into_iter().flatten().map(|(key, _)| key.clone()).collect()
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Given {
    #[serde(default)]
    request_state: Option<Box<RawValue>>,
    #[serde(default)]
    input_responses: Option<Value>,
}

/// Where a request stands in the rounds.
pub(crate) enum Turn {
    /// To be answered so.
    Answer(Outcome),
    /// Through, with the responses of the last round.
    Through(Value),
}

/// What a request gets; with `endless` the first round comes again and again.
pub(crate) fn turn(rounds: &[Round], endless: bool, incoming: &Incoming) -> Turn {
    let refused = |reason: String| Turn::Answer(Outcome::Refused((-32602, reason, None)));
    let given = incoming.params.as_ref().and_then(|raw| serde_json::from_str::<Given>(raw.get()).ok());
    let given = given.unwrap_or_default();
    let state = given.request_state.as_ref().map(|raw| raw.get());
    let passed = match (state, &given.input_responses) {
        (None, None) => 0,
        (state, _) => match rounds.iter().position(|round| round.state.as_deref() == state) {
            Some(round) => round + 1,
            None => return refused(format!("`requestState` is not one of mine: {state:?}")),
        },
    };
    let responses = given.input_responses.unwrap_or_default();
    if let Some(round) = passed.checked_sub(1).and_then(|round| rounds.get(round)) {
        let missing = round.keys().into_iter().find(|key| !responses[key].is_object());
        if let Some(missing) = missing {
            return refused(format!("`{missing}` was not answered"));
        }
        if round.requests.is_none() && !responses.is_null() {
            return refused("there was nothing to answer".to_owned());
        }
    }
    match rounds.get(if endless { 0 } else { passed }) {
        Some(round) => Turn::Answer(Outcome::Result(round.result())),
        None => Turn::Through(responses),
    }
}
