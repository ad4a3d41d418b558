//! A fault that is injected into one exchange, on purpose.
//!
//! It stands where the transport does: whatever looks at the exchange (its deadline, the health of its instance, a
//! breaker, retries, hedges) sees what it would see of the real thing. What is decided elsewhere is which exchange is hit.

use crate::{
    exchange::{Final, Item, WireExchange},
    link::http,
};
use ::http::StatusCode;
use fairlead_config::Spoil;
use fairlead_core::{Code, Outcome, UpstreamError, UpstreamErrorKind};
use fairlead_wire::{Era, Frame, Limits, Method, message};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};

/// What happens to an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injection {
    /// What the fault is called.
    pub name: Arc<str>,
    /// How much later the first thing comes that comes back.
    pub latency: Duration,
    /// Bytes of the request that are read in a second.
    pub request_rate: Option<usize>,
    /// Bytes of the answer that come in a second.
    pub answer_rate: Option<usize>,
    /// What else becomes of it.
    pub spoil: Option<Spoil>,
}

impl Injection {
    /// Whether nothing is sent: what comes back is made here.
    fn is_silent(&self) -> bool {
        matches!(self.spoil, Some(Spoil::Rpc(_) | Spoil::Tool | Spoil::Http(_) | Spoil::Connect))
    }
}

/// What an injection has to know of its exchange.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) method: Method,
    pub(crate) era: Era,
    pub(crate) is_http: bool,
    pub(crate) bytes: usize,
}

type Came = Result<Option<Item>, UpstreamError>;

/// An injection at work.
#[derive(Debug)]
pub(crate) struct Injected {
    injection: Box<Injection>,
    request: Request,
    /// Something came already.
    is_late: bool,
    /// What came, and until when it is held up.
    held: Option<(Instant, Came)>,
}

impl Injected {
    pub(crate) fn new(injection: Box<Injection>, request: Request) -> Self {
        Self { injection, request, is_late: false, held: None }
    }

    /// Whether nothing is sent.
    pub(crate) fn is_silent(&self) -> bool {
        self.injection.is_silent()
    }

    /// What comes next, as the fault leaves it. Cancel safe.
    pub(crate) async fn next(&mut self, wire: &mut WireExchange) -> Came {
        if self.held.is_none() {
            let came = if self.injection.is_silent() { self.instead() } else { wire.next().await };
            let wait = self.wait_for(&came);
            self.held = Some((Instant::now() + wait, came));
        }
        if let Some((until, _)) = &self.held {
            sleep_until(*until).await;
        }
        let (_, came) = self.held.take().expect("invariant: held above");
        self.spoil(came)
    }

    /// How long what came is held up.
    fn wait_for(&mut self, came: &Came) -> Duration {
        let mut wait = Duration::ZERO;
        if !std::mem::replace(&mut self.is_late, true) {
            wait += self.injection.latency + takes(self.request.bytes, self.injection.request_rate);
        }
        if let Ok(Some(Item::Final(answer))) = came {
            wait += takes(answer.frame.bytes().len(), self.injection.answer_rate);
        }
        wait
    }

    /// What comes back of a request that was not sent.
    fn instead(&self) -> Came {
        match self.injection.spoil {
            Some(Spoil::Tool) if self.request.method == Method::ToolsCall => {
                let result_type = if self.request.era == Era::Modern { r#""resultType":"complete","# } else { "" };
                let text = message::quote(&self.text("the tool failed"));
                let meta = format!("\"_meta\":{{\"fairlead/fault\":{}}}", message::quote(&self.injection.name));
                let result =
                    format!(r#"{{{result_type}"content":[{{"type":"text","text":{text}}}],"isError":true,{meta}}}"#);
                Ok(Some(self.answer(message::result(&self.request.id.to_string(), &result))))
            }
            Some(Spoil::Rpc(code)) => Ok(Some(self.answer(self.error(i64::from(code))))),
            Some(Spoil::Http(status)) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let error = http::no_message(status, Outcome::NotMade, None);
                let message = self.text(&error.message);
                Err(UpstreamError { message: message.into(), ..error })
            }
            Some(Spoil::Connect) => {
                let text = self.text("it cannot be reached");
                Err(UpstreamError::new(UpstreamErrorKind::Unavailable, Outcome::NotMade, text))
            }
            // What only tools have is an error of everything else.
            _ => Ok(Some(self.answer(self.error(Code::FaultInjected.info().rpc)))),
        }
    }

    fn error(&self, code: i64) -> bytes::Bytes {
        let data = format!("{{\"fault\":{}}}", message::quote(&self.injection.name));
        message::error(Some(&self.request.id.to_string()), code, &self.text("the server failed"), Some(&data))
    }

    fn answer(&self, bytes: bytes::Bytes) -> Item {
        let frame = Frame::parse(bytes, &Limits::default()).expect("invariant: our own answer is valid");
        Item::Final(Final { frame, status: self.request.is_http.then_some(200) })
    }

    /// What is left of what came.
    fn spoil(&self, came: Came) -> Came {
        let broken = |text: &str| Err(UpstreamError::new(UpstreamErrorKind::Lost, Outcome::Unknown, self.text(text)));
        match (self.injection.spoil, came) {
            (Some(Spoil::Before), Ok(Some(_))) => broken("the connection broke before it answered"),
            (Some(Spoil::Middle), Ok(Some(Item::Final(_)))) => {
                broken("the connection broke before the answer was complete")
            }
            (Some(Spoil::Garbage), Ok(Some(Item::Final(answer)))) => {
                let bytes = answer.frame.bytes();
                let half = bytes.slice(..bytes.len() / 2);
                let text = self.text("its answer is not JSON-RPC");
                let error = UpstreamError::new(UpstreamErrorKind::Garbage, Outcome::Unknown, text);
                Err(match Frame::parse(half, &Limits::default()) {
                    Err(cause) => error.because(cause),
                    Ok(_) => error,
                })
            }
            (_, came) => came,
        }
    }

    fn text(&self, what: &str) -> String {
        format!("{what} (fault `{}` was injected, {})", self.injection.name, Code::FaultInjected.label())
    }
}

/// How long so many bytes take.
fn takes(bytes: usize, rate: Option<usize>) -> Duration {
    rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn injected(spoil: Spoil, method: Method) -> Injected {
        let injection = Injection {
            name: "f".into(),
            latency: Duration::from_millis(100),
            request_rate: Some(1000),
            answer_rate: Some(100),
            spoil: Some(spoil),
        };
        let request = Request { id: 7, method, era: Era::Modern, is_http: true, bytes: 50 };
        Injected::new(Box::new(injection), request)
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_sent_is_answered_here_and_late() {
        for (spoil, method, part) in [
            (Spoil::Tool, Method::ToolsCall, r#""isError":true"#),
            (Spoil::Tool, Method::PromptsGet, r#""code":-32603"#),
            (Spoil::Rpc(-32000), Method::ToolsCall, r#""code":-32000"#),
        ] {
            let began = Instant::now();
            let mut injected = injected(spoil, method);
            let Ok(Some(Item::Final(answer))) = injected.next(&mut WireExchange::Silent).await else {
                panic!("no answer: {spoil:?}")
            };
            let text = String::from_utf8_lossy(answer.frame.bytes()).into_owned();
            assert!(text.contains(part) && text.contains("FL-1701") && text.contains(r#""id":7"#), "{text}");
            // 100 ms, 50 bytes of a request at 1,000 a second, and the answer at 100.
            let least = Duration::from_millis(150 + 10 * text.len() as u64);
            assert!(began.elapsed() >= least && began.elapsed() < least + Duration::from_millis(5));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_those_of_the_real_thing() {
        use UpstreamErrorKind as Kind;
        for (spoil, kind, outcome, status) in [
            (Spoil::Connect, Kind::Unavailable, Outcome::NotMade, None),
            (Spoil::Http(503), Kind::Unavailable, Outcome::Unknown, Some(503)),
            (Spoil::Http(429), Kind::Garbage, Outcome::NotMade, Some(429)),
            (Spoil::Http(401), Kind::Unavailable, Outcome::NotMade, Some(401)),
        ] {
            let mut injected = injected(spoil, Method::ToolsCall);
            let Err(error) = injected.next(&mut WireExchange::Silent).await else { panic!("an answer: {spoil:?}") };
            assert_eq!((error.kind, error.outcome, error.status), (kind, outcome, status), "{spoil:?}");
            assert!(error.message.contains("FL-1701"), "{error}");
        }
    }

    #[tokio::test]
    async fn answers_break_off_or_are_garbage() {
        let answer = || {
            let frame = Frame::parse(message::result("7", "{}"), &Limits::default()).expect("an answer");
            Ok(Some(Item::Final(Final { frame, status: None })))
        };
        let notice = || {
            let frame = Frame::parse(message::notification("notifications/message", None), &Limits::default());
            Ok(Some(Item::Message(frame.expect("a message"))))
        };
        use UpstreamErrorKind as Kind;
        for (spoil, of_message, of_answer) in [
            (Spoil::Before, Some(Kind::Lost), Kind::Lost),
            (Spoil::Middle, None, Kind::Lost),
            (Spoil::Garbage, None, Kind::Garbage),
        ] {
            let injected = injected(spoil, Method::ToolsCall);
            assert_eq!(injected.spoil(notice()).err().map(|error| error.kind), of_message, "{spoil:?}");
            let error = injected.spoil(answer()).expect_err("spoilt");
            assert_eq!((error.kind, error.outcome), (of_answer, Outcome::Unknown), "{spoil:?}");
        }
    }
}
