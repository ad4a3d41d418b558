//! Bounds: what is over a limit is refused with its name, and whoever does not read waits alone.
