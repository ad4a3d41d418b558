//! Compression in HTTP, towards clients and towards servers: what people write, and what the program uses.

use crate::leaf::SizeText;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Bytes from which a body is compressed.
const MIN_SIZE: SizeText = SizeText(1 << 10);

/// Compression towards clients. Compressed requests are always accepted.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ListenCompressionFile {
    /// Whether answers are compressed (`zstd`, `gzip`, `br`) for clients that accept it. Event streams never are.
    pub answers: bool,
    /// The shortest answer that is.
    pub min_size: SizeText,
}

impl Default for ListenCompressionFile {
    fn default() -> Self {
        Self { answers: false, min_size: MIN_SIZE }
    }
}

/// Compression towards a server with a `url`.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServerCompressionFile {
    /// Whether the server is told that it may compress its answers (`zstd`, `gzip`, `br`). `max_message` bounds them
    /// as they are after decoding.
    pub answers: bool,
    /// How requests are compressed. Only for a server that is known to take them so. Default: not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<RequestCodingFile>,
    /// The shortest request that is.
    pub min_size: SizeText,
}

impl Default for ServerCompressionFile {
    fn default() -> Self {
        Self { answers: false, requests: None, min_size: MIN_SIZE }
    }
}

/// How requests are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "documented variants would turn the schema's enum into a list of constants")]
pub enum RequestCodingFile {
    Gzip,
    Br,
    Zstd,
}

/// Answers to clients are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerCompression {
    /// The shortest answer that is.
    pub min_size: usize,
}

impl AnswerCompression {
    /// What a file says.
    pub(crate) fn of(file: &ListenCompressionFile) -> Option<Self> {
        file.answers.then_some(Self { min_size: file.min_size.0 })
    }
}

/// Compression towards a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerCompression {
    /// The server may compress its answers.
    pub answers: bool,
    /// How requests are compressed.
    pub requests: Option<RequestCoding>,
    /// The shortest request that is.
    pub min_size: usize,
}

/// How requests are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestCoding {
    /// `gzip`.
    Gzip,
    /// `br`.
    Br,
    /// `zstd`.
    Zstd,
}

impl ServerCompression {
    /// What a file says.
    pub(crate) fn of(file: &ServerCompressionFile) -> Self {
        Self {
            answers: file.answers,
            requests: file.requests.map(|coding| match coding {
                RequestCodingFile::Gzip => RequestCoding::Gzip,
                RequestCodingFile::Br => RequestCoding::Br,
                RequestCodingFile::Zstd => RequestCoding::Zstd,
            }),
            min_size: file.min_size.0,
        }
    }
}

impl Default for ServerCompression {
    fn default() -> Self {
        Self::of(&ServerCompressionFile::default())
    }
}
