//! Bad input: the caller gets the protocol's error, the log the cause, and nobody else notices.
