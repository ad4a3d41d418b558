//! A new configuration changes what it changes, and nothing else.
