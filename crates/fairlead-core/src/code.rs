//! The one table of error codes. A code is never reused; each has a page `docs/errors/FL-xxxx.md`
//! (a tidy test checks that) and a fixed HTTP status and JSON-RPC code.

/// A stable error code. The number is what people search for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Code {
    /// The body is not JSON.
    NotJson = 1001,
    /// The JSON is not a JSON-RPC 2.0 message.
    NotJsonRpc = 1002,
    /// The body is larger than `listen.max_body`.
    BodyTooLarge = 1003,
    /// The body did not arrive within `listen.body_timeout`.
    BodyTooSlow = 1004,
    /// The JSON nests deeper than the limit.
    TooDeep = 1005,
    /// `Origin` or `Host` is not one the listener serves.
    ForeignOrigin = 1006,
    /// The HTTP method is not served here.
    HttpMethod = 1007,
    /// `Content-Type` or `Accept` does not fit the protocol.
    MediaType = 1008,
    /// A batch where the revision has none.
    BatchNotAllowed = 1009,
    /// No such path.
    UnknownPath = 1010,
    /// A WebSocket's path was asked for something else.
    UpgradeRequired = 1011,
    /// `MCP-Protocol-Version` names a revision that is not served.
    UnsupportedRevision = 1101,
    /// A required `Mcp-*` header is missing, doubled or differs from the body.
    HeaderMismatch = 1102,
    /// A required member of `_meta` is missing or malformed.
    BadRequestMeta = 1103,
    /// A session id is required and was not sent.
    SessionMissing = 1104,
    /// The session is unknown, ended, expired or somebody else's.
    SessionUnknown = 1105,
    /// The method is not one this endpoint has.
    UnknownMethod = 1106,
    /// The parameters do not fit the method.
    BadParams = 1107,
    /// The cursor was not issued here, or for something else.
    BadCursor = 1108,
    /// The session has as many calls in flight as it may have.
    TooManyCalls = 1109,
    /// There are as many sessions or streams as there may be.
    TooManySessions = 1110,
    /// The gateway is draining.
    Draining = 1111,
    /// `Last-Event-ID` is none of the session's, or what it continues is not kept any more.
    BadEventId = 1112,
    /// No such tool or prompt (or not for this caller).
    UnknownName = 1201,
    /// No such resource (or not for this caller). Legacy clients get the code of their revisions, -32002.
    UnknownResource = 1202,
    /// No such task (or not of this caller).
    UnknownTask = 1203,
    /// The server cannot be reached; the call was not made.
    ServerUnavailable = 1301,
    /// The server did not answer in time; whether the call took effect is unknown.
    ServerTimeout = 1302,
    /// The connection broke in mid-call; whether the call took effect is unknown.
    ServerLost = 1303,
    /// The server answered with something that is not MCP.
    ServerGarbage = 1304,
    /// The server has as many sessions or processes as it may have.
    ServerAtCapacity = 1305,
    /// The server asked for something that its caller cannot answer.
    QuestionDeclined = 1306,
    /// The server's message is larger than its limit.
    ServerMessageTooLarge = 1307,
    /// The server asked its caller again and again, more often than `bridge.max_rounds` allows.
    TooManyRounds = 1308,
    /// `requestState` was not issued here, for another request or caller, was used before, or is too old.
    BadRequestState = 1309,
    /// The call that waited for an answer is gone with the gateway that kept it; whether it took effect is unknown.
    ParkedCallLost = 1310,
    /// As many calls wait for an answer of their client as may.
    TooManyParked = 1311,
    /// Calls to the server, the tool or something it depends on are held back after failures; the call was not made.
    ServerHeldBack = 1312,
    /// The time for the call was over before it could be made.
    NoTimeLeft = 1313,
    /// The pool of calls that the call belongs to is full.
    BulkheadFull = 1314,
    /// None of the connections a server may have became free in time; the call was not made.
    NoConnection = 1315,
    /// The configuration cannot be read or is not valid.
    BadConfig = 1401,
    /// Another instance runs on this data directory.
    DataDirLocked = 1402,
    /// The data directory or what is in it cannot be used.
    DataDir = 1403,
    /// Two servers claim one name and prefixes are off.
    NameClash = 1404,
    /// The address cannot be listened on.
    CannotListen = 1405,
    /// The certificate of the listener, or its key, cannot be used.
    BadCertificate = 1406,
    /// A rate limit is reached.
    RateLimited = 1501,
    /// A quota is used up.
    QuotaSpent = 1502,
    /// The same call was made by the same caller too often.
    RunawayLoop = 1503,
    /// The gateway has too many calls under way.
    Overloaded = 1504,
    /// The gateway is short of memory.
    LowMemory = 1505,
    /// The arguments do not fit the tool's input schema, or give one that the gateway sets.
    InvalidInput = 1601,
    /// The rest of an answer that was cut is not kept (any more), or is somebody else's. Legacy clients get -32002.
    ResultGone = 1602,
    /// The error was made by the gateway on purpose, to see what becomes of calls then.
    FaultInjected = 1701,
    /// Something inside the gateway went wrong.
    Internal = 1999,
}

/// What a code means on the wire.
#[derive(Debug, Clone, Copy)]
pub struct CodeInfo {
    /// The code.
    pub code: Code,
    /// HTTP status where the refusal decides it.
    pub http: u16,
    /// JSON-RPC code. Those of the protocol where one fits, else the gateway's own
    /// (outside -32768..-32000, as the revision of 2026-07-28 asks).
    pub rpc: i64,
    /// One line for tables.
    pub title: &'static str,
}

macro_rules! table {
    ($($code:ident $http:literal $rpc:literal $title:literal)*) => {
        /// Every code, in order.
        pub const TABLE: &[CodeInfo] = &[$(CodeInfo { code: Code::$code, http: $http, rpc: $rpc, title: $title }),*];
    };
}

table! {
    NotJson 400 -32700 "the body is not JSON"
    NotJsonRpc 400 -32600 "not a JSON-RPC 2.0 message"
    BodyTooLarge 413 -32600 "the body is too large"
    BodyTooSlow 408 -32600 "the body arrives too slowly"
    TooDeep 400 -32600 "the JSON nests too deeply"
    ForeignOrigin 403 -32600 "the origin or host is not allowed"
    HttpMethod 405 -32600 "the HTTP method is not served here"
    MediaType 406 -32600 "the media type does not fit"
    BatchNotAllowed 400 -32600 "batches are not part of this revision"
    UnknownPath 404 -32600 "no such path"
    UpgradeRequired 426 -32600 "the path is a WebSocket"
    UnsupportedRevision 400 -32022 "the protocol revision is not served"
    HeaderMismatch 400 -32020 "headers and body differ"
    BadRequestMeta 400 -32602 "required request metadata is missing"
    SessionMissing 400 -32600 "a session id is required"
    SessionUnknown 404 -32600 "the session is unknown or has ended"
    UnknownMethod 404 -32601 "no such method"
    BadParams 400 -32602 "the parameters do not fit"
    BadCursor 400 -32602 "the cursor is not valid"
    TooManyCalls 429 -31429 "too many calls in flight"
    TooManySessions 503 -31503 "too many sessions or streams"
    Draining 503 -31503 "the gateway is shutting down"
    BadEventId 400 -32600 "the event id does not fit"
    UnknownName 400 -32602 "no such tool or prompt"
    UnknownResource 400 -32602 "no such resource"
    UnknownTask 400 -32602 "no such task"
    ServerUnavailable 502 -31502 "the server is unavailable"
    ServerTimeout 504 -31504 "the server did not answer in time"
    ServerLost 502 -31502 "the connection to the server broke"
    ServerGarbage 502 -31502 "the server's answer is not valid"
    ServerAtCapacity 503 -31503 "the server is at capacity"
    QuestionDeclined 200 -32601 "the server's question cannot be answered"
    ServerMessageTooLarge 502 -31502 "the server's message is too large"
    TooManyRounds 502 -31502 "the server asks without end"
    BadRequestState 400 -32602 "the request state is not valid"
    ParkedCallLost 502 -31502 "the waiting call is lost"
    TooManyParked 503 -31503 "too many calls wait for an answer"
    ServerHeldBack 503 -31503 "calls to the server are held back"
    NoTimeLeft 504 -31504 "no time left to make the call"
    BulkheadFull 503 -31503 "the bulkhead is full"
    NoConnection 503 -31503 "no connection became free"
    BadConfig 500 -32603 "the configuration is not valid"
    DataDirLocked 500 -32603 "another instance uses the data directory"
    DataDir 500 -32603 "the data directory cannot be used"
    NameClash 500 -32603 "two servers claim one name"
    CannotListen 500 -32603 "the address cannot be listened on"
    BadCertificate 500 -32603 "the certificate cannot be used"
    RateLimited 429 -31429 "a rate limit is reached"
    QuotaSpent 429 -31429 "a quota is used up"
    RunawayLoop 429 -31429 "the same call too often"
    Overloaded 503 -31503 "too many calls under way"
    LowMemory 503 -31503 "short of memory"
    InvalidInput 400 -32602 "the arguments are not valid"
    ResultGone 400 -32602 "the kept result is gone"
    FaultInjected 500 -32603 "a fault was injected"
    Internal 500 -32603 "internal error"
}

impl Code {
    /// The code as people see it, for example `FL-1201`.
    #[must_use]
    pub fn label(self) -> String {
        format!("FL-{:04}", self as u16)
    }

    /// What the code means on the wire.
    #[must_use]
    pub fn info(self) -> &'static CodeInfo {
        TABLE.iter().find(|info| info.code == self).expect("invariant: every code is in the table (tested)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_ordered_and_own_codes_stay_out_of_reserved_ranges() {
        for pair in TABLE.windows(2) {
            assert!((pair[0].code as u16) < (pair[1].code as u16));
        }
        let protocol = [-32700, -32600, -32601, -32602, -32603, -32020, -32021, -32022];
        for info in TABLE {
            assert!(protocol.contains(&info.rpc) || !(-32768..=-32000).contains(&info.rpc), "{}", info.title);
            assert_eq!(info.code.info().title, info.title);
        }
    }
}
