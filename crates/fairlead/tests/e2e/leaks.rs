//! Nothing stays: no process, no memory, no session.
