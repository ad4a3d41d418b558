//! What servers ask reaches the client whose call it belongs to, and nobody else.
