//! Sessions of legacy clients: sealed, bound, and as durable as the data directory.
