//! Broken servers break nothing.
