//! What a server wants to know, as a request that this client's revision has, and what its answer means.

use super::older;
use crate::{call::Call, roots, watching};
use bytes::Bytes;
use fairlead_core::{Code, Refusal};
use fairlead_wire::{Field, Frame, Kind, Method, Revision, list, message};
use std::borrow::Cow;

/// Longest part of a name that is repeated in an error, in characters.
const MAX_SHOWN: usize = 60;
/// What a client that does not answer is taken to have said.
const CANCELLED: Bytes = Bytes::from_static(b"{\"action\":\"cancel\"}");
/// What is kept of a client that has no roots, or did not say.
const NO_ROOTS: &[u8] = b"{\"roots\":[]}";

/// Who asks, and during which call.
pub(super) struct Source<'a> {
    pub(super) server: &'a str,
    pub(super) call: &'a Call,
}

impl Source<'_> {
    fn garbage(&self, what: &str) -> Refusal {
        Refusal::new(Code::ServerGarbage, format!("server `{}`: {what}", self.server))
    }

    /// Whether the client's revision is from before 2025-11-25, whose questions look like today's.
    fn is_older(&self) -> bool {
        self.call.session.as_ref().is_none_or(|session| session.revision < Revision::V2025_11_25)
    }

    fn undeclared(&self, what: &str) -> Refusal {
        let text = format!("server `{}` asks for something that the client did not declare: {what}", self.server);
        Refusal::new(Code::QuestionDeclined, text)
    }
}

/// One question of a round.
#[derive(Debug)]
pub(super) struct Question<'a> {
    /// The server's name for it.
    pub(super) key: &'a str,
    pub(super) method: Method,
    /// Raw parameters as the client gets them.
    pub(super) params: Option<Cow<'a, str>>,
    /// The elicitation id in them, if the gateway made it up.
    pub(super) minted: Option<String>,
}

impl<'a> Question<'a> {
    /// Reads one member of `inputRequests`. What the client cannot be asked is refused here.
    pub(super) fn read(source: &Source<'_>, key: &'a str, raw: &'a str) -> Result<Self, Refusal> {
        let method = list::string_member(raw, "method").ok_or_else(|| source.garbage("it asks without a method"))?;
        let params = list::raw_member(raw, "params");
        if params.is_some_and(|params| !params.starts_with('{')) {
            return Err(source.garbage("it asks with parameters that are not an object"));
        }
        if source.call.in_batch {
            let text = format!(
                "server `{}` asks its client something, and a call in a batch has no way to ask; send it alone",
                source.server
            );
            return Err(Refusal::new(Code::QuestionDeclined, text));
        }
        let declared = source.call.capabilities;
        let whole = |method, params| Ok(Self { key, method, params, minted: None });
        match (Method::of(&method), params) {
            (Method::RootsList, _) if !declared.has_roots() => Err(source.undeclared("roots")),
            (Method::RootsList, params) => whole(Method::RootsList, params.map(Cow::Borrowed)),
            (Method::CreateMessage, _) if !declared.has_sampling() => Err(source.undeclared("sampling")),
            (Method::CreateMessage, Some(params)) => {
                let has = |member| list::raw_member(params, member).is_some();
                if (has("tools") || has("toolChoice")) && !declared.has_sampling_tools() {
                    return Err(source.undeclared("sampling with tools"));
                }
                let params = if source.is_older() { older::sampling(params) } else { Cow::Borrowed(params) };
                whole(Method::CreateMessage, Some(params))
            }
            (Method::ElicitationCreate, Some(params)) => Self::elicitation(source, key, params),
            (Method::CreateMessage | Method::ElicitationCreate, None) => {
                Err(source.garbage("it asks without parameters"))
            }
            _ => {
                let shown: String = method.chars().take(MAX_SHOWN).collect();
                Err(source.garbage(&format!("it asks for `{shown}`, which no client can answer")))
            }
        }
    }

    fn elicitation(source: &Source<'_>, key: &'a str, params: &'a str) -> Result<Self, Refusal> {
        let declared = source.call.capabilities;
        let mode = match list::raw_member(params, "mode") {
            None => None,
            Some(_) => Some(list::string_member(params, "mode").ok_or_else(|| source.garbage("its mode is no text"))?),
        };
        let question = |params, minted| Ok(Self { key, method: Method::ElicitationCreate, params, minted });
        match mode.as_deref() {
            None | Some("form") => {
                if !declared.has_form_elicitation() {
                    return Err(source.undeclared("elicitation"));
                }
                let params = if source.is_older() { older::form(params) } else { Cow::Borrowed(params) };
                question(Some(params), None)
            }
            Some("url") => {
                if !declared.has_url_elicitation() {
                    return Err(source.undeclared("elicitation by URL"));
                }
                if list::raw_member(params, "elicitationId").is_some() {
                    return question(Some(Cow::Borrowed(params)), None);
                }
                // The client's revision requires one; as good as random, which is all it has to be.
                let minted = source.call.gateway.0.sealer.seal("elicitation", b"");
                let rest = params.trim_start().strip_prefix('{').unwrap_or("}");
                let params = format!("{{\"elicitationId\":{},{rest}", message::quote(&minted));
                question(Some(Cow::Owned(params)), Some(minted))
            }
            Some(other) => {
                let shown: String = other.chars().take(MAX_SHOWN).collect();
                Err(source.undeclared(&format!("elicitation of mode `{shown}`")))
            }
        }
    }

    /// What the client said before and would say again: its roots, when it tells of their changes.
    pub(super) fn known_answer(&self, call: &Call) -> Option<Bytes> {
        if self.method != Method::RootsList || !call.capabilities.announces_roots() {
            return None;
        }
        let roots = call.session.as_ref()?.roots()?;
        (roots.result != NO_ROOTS).then(|| roots.result.clone())
    }

    /// Keeps an answer that stays true until the client says otherwise, which it had not done after `changes`.
    pub(super) fn keep(&self, call: &Call, answer: &Bytes, changes: u32) {
        if self.method == Method::RootsList
            && call.capabilities.announces_roots()
            && let Some(session) = &call.session
        {
            session.keep_roots(roots::roots(answer.clone()), changes);
            watching::roots_changed(&call.gateway, session);
        }
    }

    /// What the server is told; `None` when the client never answered.
    pub(super) fn answer(&self, server: &str, answer: Option<&Frame>) -> Result<Bytes, Refusal> {
        let method = self.method.as_str();
        let failed = |what: String| {
            let text = format!("server `{server}` asked `{method}` and {what}");
            Err(Refusal::new(Code::QuestionDeclined, text))
        };
        match answer.map(|frame| (frame.kind(), frame)) {
            Some((Kind::Result, frame)) => match frame.slice(Field::Result) {
                Some(result) if result.starts_with(b"{") => Ok(result),
                _ => failed("the client's answer is not an object".to_owned()),
            },
            // To whoever was asked an error is no different from a closed window.
            Some(_) if self.method == Method::ElicitationCreate => Ok(CANCELLED),
            Some((_, frame)) => {
                failed(format!("the client answered with error {}", frame.error_code().unwrap_or_default()))
            }
            None => failed("the client did not answer".to_owned()),
        }
    }
}
