//! Child processes that outlive nobody: a guard, bounded output, a stop that always ends.
//!
//! A server started as a child process is rarely one process: `npx` starts a shell that starts an interpreter, a wrapper
//! forks into the background, a helper asks for its own session. Signals to a process group miss the last two, a
//! parent-death signal follows the *thread* that spawned and is not inherited by grandchildren, and code that runs at
//! exit does not run on `kill -9`. So every command runs below a **guard**, a second run of the program's own binary:
//!
//! ```text
//! program ── guard (own session, subreaper) ── command ── whatever it starts
//!    └── lifeline pipe ──┘
//! ```
//!
//! * The program alone holds the write end of the *lifeline*. The kernel closes it however the program ends; the guard
//!   reads end-of-file and ends the tree: TERM, a grace, KILL.
//! * The guard is a *subreaper*: a descendant whose parent dies becomes the guard's child, also after a double fork or
//!   `setsid`. "No children left" therefore means that nothing is left at all.
//! * The guard blocks every signal that can be blocked. If it is killed nevertheless, the command gets a parent-death
//!   signal, and the rest becomes the program's own children (after [`become_subreaper`]) and is ended by the
//!   [`Process`] that lost its guard, or by [`reap_orphans`].
//!
//! One case is left: program and guard killed in the same moment. The command dies even then, but what it had started
//! goes to the system's init and lives until it notices that its pipes are closed.
//!
//! The program's `main` hands over to [`guard_main`] before anything else when its first argument is
//! [`GUARD_SUBCOMMAND`]. Nothing else is needed: [`spawn`] starts the guard.
//!
//! On systems other than Linux there is no subreaper and no `/proc`: the guard then ends the command's process group, and
//! a descendant that left the group is not found.
//!
//! This crate gives no meaning to what a child writes; [`lines`] only cuts it into bounded lines.

mod child;
mod environment;
mod guard;
pub mod lines;
mod lookup;
mod orphans;
mod table;

pub use child::{Child, ChildSpec, GuardBinary, Process, spawn};
pub use environment::inherited_environment;
pub use guard::{GUARD_SUBCOMMAND, guard_main};
pub use orphans::{become_subreaper, reap_orphans};
