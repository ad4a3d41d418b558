//! Owners of upstream servers.
//!
//! Each configured server has one long-lived, supervised *owner* task. It opens and closes the
//! *links* to the server (a child process, a legacy HTTP session, or the one link a modern server
//! needs), finds out its era, learns its catalog and heals what breaks. What it knows it publishes
//! as an immutable [`ServerView`]; a call reads the view, takes a [`Lease`] on a link and talks to
//! the server without passing the owner.
//!
//! This crate never learns who is calling: what must be kept apart arrives as an opaque
//! [`ShareKey`], a [`CapabilitySet`](fairlead_wire::CapabilitySet) and, for servers that follow
//! them, a set of [`Roots`].

mod balance;
pub mod catalog;
mod ejection;
pub mod event;
pub mod exchange;
pub mod group;
pub mod handle;
mod handshake;
mod health;
pub mod http_client;
pub mod inject;
pub mod instance;
pub mod link;
pub mod owner;
mod roster;
pub mod view;
pub mod watch;

pub use balance::affinity;
pub use catalog::{Catalog, Entry, Listing, ListingKind};
pub use event::ServerEvent;
pub use exchange::{Exchange, Final, Item, OpenQuestions, Outbound, Starting, Witness};
pub use fairlead_process::GuardBinary;
pub use group::{InstanceStatus, Running, ServerHandle, start};
pub use handle::{Avoid, Lease, LeaseError, Memory, Purpose, Want};
pub use http_client::{PoolStats, Worker};
pub use inject::Injection;
pub use instance::{CallEnd, Gate, Instance};
pub use link::{Link, LinkKey, Peer, Roots, ShareKey};
pub use owner::Environment;
pub use roster::{Reach, Review, Roster, Search};
pub use view::{Asks, CatalogKey, ServerView, State};
pub use watch::{Watch, WatchError};
