//! Files to a validated configuration: layers, references, errors with a place and a hint, schema, diff.
//!
//! [`load`] reads the layers into a tree that remembers where everything stands, checks it against
//! the published schema, and builds a [`Config`] in which every default is filled in. What people
//! write ([`file::ConfigFile`]) and what the program uses ([`model`]) are two sets of types. The crate
//! reads the files it is given and those they refer to; it writes nothing and knows no network.

pub mod batch;
mod build;
mod check;
mod client_format;
pub mod compression;
pub mod connections;
pub mod correlation;
mod decode;
pub mod diff;
pub mod faults;
pub mod file;
pub mod glob;
pub mod import;
pub mod install;
pub mod instances;
pub mod leaf;
pub mod limits;
mod load;
pub mod model;
pub mod overload;
pub mod problem;
mod reference;
mod report;
pub mod resilience;
pub mod reuse;
pub mod routes;
pub mod rules;
pub mod secret;
pub mod switch;
mod syntax;
pub mod tls;
pub mod tool_shape;
pub mod toolset;
mod tree;
pub mod versions;

pub use batch::{Batch, CallMany};
pub use compression::{AnswerCompression, RequestCoding, ServerCompression};
pub use connections::{Connections, Evict, Reuse};
pub use correlation::Correlation;
pub use diff::{Diff, diff};
pub use faults::{FaultFile, FaultRule, FaultsConfig, Latency, Spoil};
pub use file::{ConfigFile, schema};
pub use glob::{Glob, GlobError};
pub use instances::{Balance, Check, Ejection, Health, Instances, Place, Probe, StickyBy, Strategy};
pub use limits::{Limits, Period, Quota, Rate, ServerLimits, Shape};
pub use load::{MAX_FILE, MAX_LAYERS, default_data_dir, load, parse_str};
pub use model::{
    Admin, Bridge, Catalog, Config, Filter, HostPort, Http, HttpKind, Listen, Log, LogFormat, Names, Park,
    ResourceUris, Server, Sessions, Share, Start, Stdio, Tasks, Timeouts, Transport, Url, UrlError, WebSocket,
};
pub use overload::{Bulkhead, Overload, Priority};
pub use problem::{Problem, Problems, Severity};
pub use report::report;
pub use resilience::{BreakerRule, Fallback, RetryRule};
pub use reuse::{Cache, CacheRule, CacheScope, Invalidates, ServerCache};
pub use routes::{Destination, Labels, Mirror, Route};
pub use rules::{ServerRules, ToolRule};
pub use secret::Secret;
pub use tls::Tls;
pub use tool_shape::{Response, Results, ToolShape};
pub use toolset::{Find, Mode, Toolset};
pub use versions::{ToolVersion, ToolVersions};
