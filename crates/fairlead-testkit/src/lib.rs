//! Scripted servers, rude clients and a TCP fault proxy for the tests.
//!
//! * [`ScriptedServer`] does what its [`Script`] says over Streamable HTTP, in either era: pages, delays, silence,
//!   garbage, questions in mid-call, forgotten sessions, restarts. It records everything it was sent. The same port
//!   has HTTP+SSE and WebSocket on other paths, and other [`Door`]s take lines over TCP and Unix sockets. The binary
//!   `scripted SCRIPT.json` does the same on stdin and stdout, and can be stubborn.
//! * [`McpClient`] says exactly what it is told to, vanishes when asked to, and returns every byte.
//! * [`AnyClient`] says the same over Streamable HTTP, HTTP+SSE and WebSocket; [`WebSocket`] is one end of the last.
//! * [`Authority`] signs certificates for servers, and is trusted by the clients that are told to.
//! * [`FaultProxy`] stands between the two and delays, cuts, throttles, swallows or refuses.
//!
//! Nothing here shares code with the gateway's own reading of the protocol: it must be able to be wrong on purpose, and
//! right where the gateway is wrong. Everything listens on port 0 of 127.0.0.1, ends when it is dropped, and waits for
//! a bounded time.

mod answer;
mod any_client;
mod call;
mod client;
mod conversation;
mod core;
mod fault;
mod received;
mod rounds;
mod script;
mod server;
mod session;
pub mod stdio;
mod stream_log;
mod tasks;
mod tls;
mod web_socket;

pub use self::{
    any_client::{AnyClient, AnyClientOptions, Way},
    client::{Answer, AnswerStream, Frame, McpClient, Reply},
    fault::{FaultProxy, Faults},
    received::Received,
    rounds::Round,
    script::{Answers, DoorScript, Finish, Garbage, Hang, Question, Script, StdioScript, Step, ToolScript, Via},
    server::{Door, ScriptedServer},
    tls::{Authority, Good, Identity, Trust},
    web_socket::{Said, WebSocket},
};
