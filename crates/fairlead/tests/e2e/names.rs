//! Names and URIs: stable, collision-free, and the same everywhere they occur.
