//! Sealing of what the gateway hands out and wants back unchanged: session ids.
//!
//! AES-256-GCM with a random nonce; the nonce doubles as the handle's identity. Any replica with the
//! key opens what another one sealed, and a restart loses nothing.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

/// Bytes of a key.
pub const KEY_LEN: usize = 32;
/// Longest text that is tried: ours are under 160 characters.
const MAX_TEXT: usize = 512;

/// Seals and opens.
pub(crate) struct Sealer {
    key: LessSafeKey,
}

impl Sealer {
    pub(crate) fn new(key: &[u8; KEY_LEN]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("invariant: the key has the cipher's length");
        Self { key: LessSafeKey::new(key) }
    }

    /// Seals `plain` for one `purpose`; the text is URL-safe base64.
    pub(crate) fn seal(&self, purpose: &'static str, plain: &[u8]) -> String {
        let mut nonce = [0_u8; NONCE_LEN];
        rand::fill(&mut nonce).expect("invariant: the system has random numbers");
        let mut sealed = plain.to_vec();
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(purpose.as_bytes()), &mut sealed)
            .expect("invariant: the text is far below the cipher's limit");
        let mut all = Vec::with_capacity(NONCE_LEN + sealed.len());
        all.extend_from_slice(&nonce);
        all.extend_from_slice(&sealed);
        URL_SAFE_NO_PAD.encode(all)
    }

    /// Opens what was sealed for the same purpose with the same key; anything else is `None`.
    pub(crate) fn open(&self, purpose: &'static str, text: &str) -> Option<Vec<u8>> {
        self.open_up_to(purpose, text, MAX_TEXT)
    }

    /// The same for texts of up to `max` bytes.
    pub(crate) fn open_up_to(&self, purpose: &'static str, text: &str, max: usize) -> Option<Vec<u8>> {
        if text.len() > max {
            return None;
        }
        let mut all = URL_SAFE_NO_PAD.decode(text).ok()?;
        if all.len() < NONCE_LEN {
            return None;
        }
        let mut sealed = all.split_off(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&all).ok()?;
        let plain = self.key.open_in_place(nonce, Aad::from(purpose.as_bytes()), &mut sealed).ok()?;
        Some(plain.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_what_was_sealed_for_it() {
        let sealer = Sealer::new(&[7; KEY_LEN]);
        let text = sealer.seal("session", b"hello");
        assert_eq!(sealer.open("session", &text).as_deref(), Some(&b"hello"[..]));
        assert_eq!(sealer.open("cursor", &text), None);
        assert_eq!(Sealer::new(&[8; KEY_LEN]).open("session", &text), None);
        for at in 0..text.len() {
            let mut forged = text.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).expect("ascii");
            assert_eq!(sealer.open("session", &forged), None, "changed at {at}");
        }
        for junk in ["", "A", "!!!", &"A".repeat(4096)] {
            assert_eq!(sealer.open("session", junk), None);
        }
        assert_ne!(text, sealer.seal("session", b"hello"));
    }
}
