//! Durable state: SQLite in the data directory.
//!
//! Two things live here. [`DataDir`] owns the directory: one instance at a time, the file that tells commands where the
//! running instance listens, and the secret keys. [`Store`] is the database in it and implements the storage ports of
//! `fairlead-core`; what the rows mean is known above.
//!
//! The data plane never waits for this crate: session records are queued and written in batches by one task, catalogs are
//! read once at start. What is stored is either a cache of what servers say or the small record of a session, so a database
//! that cannot be read is set aside and a fresh one begun.

pub mod data_dir;
mod queue;
pub mod store;

pub use data_dir::{DataDir, DataDirError, Instance, read_instance};
pub use store::{OpenError, Store};
