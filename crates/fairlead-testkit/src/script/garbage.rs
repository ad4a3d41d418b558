//! Answers that are wrong.

use serde::{Deserialize, Serialize};

/// A wrong answer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Garbage {
    /// The id of another request.
    WrongId,
    /// `"id": null`.
    NullId,
    /// The right id as the other type (a number as a string, a string as a number).
    OtherIdType,
    /// `result` and `error` together.
    ResultAndError,
    /// Neither `result` nor `error`.
    Neither,
    /// No `jsonrpc` member.
    NoVersion,
    /// Text that is not JSON.
    NotJson,
    /// JSON that ends in the middle.
    Truncated,
    /// Status 500 with an HTML page; over stdio the page as lines.
    Html500,
    /// Status 200 with an empty body; over stdio an empty line.
    Empty,
    /// A correct body of type `text/plain`; over stdio not JSON.
    WrongContentType,
    /// A string of that many bytes where the result should be.
    Huge(usize),
    /// The answer, twice.
    Twice,
    /// Status 429 with `Retry-After` of that many seconds; over stdio as [`Garbage::Html500`].
    TooMany(u64),
}
