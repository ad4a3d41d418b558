//! What was lost comes back by itself, and only what is safe is repeated.
