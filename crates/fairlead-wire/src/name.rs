//! How names and URIs of many servers live together behind one endpoint.
//!
//! An exposed name depends on the server's name, the original and the configured length, and on nothing else that happens to
//! be running. A name that is exposed unchanged is `server__name`; one that had to be altered or cut ends in `_` and a hash
//! of the original, so that two originals never meet by being altered alike.
//!
//! [`split`] is for people and for hints. Routing looks the exposed name up; it does not take it apart.

use sha2::{Digest, Sha256};

/// Between server and name. No server's name contains it.
pub const SEPARATOR: &str = "__";

/// The shortest limit that every name can be brought under: a server's 24 characters, the separator, `_` and the hash.
pub const MIN_MAX: usize = 24 + SEPARATOR.len() + TAIL;

/// Characters of the hash.
const HASH: usize = 8;

/// What an altered name ends in: `_` and the hash.
const TAIL: usize = 1 + HASH;

const URI_SCHEME: &str = "fairlead+";

/// The name under which a server's tool or prompt is exposed, at most `max` characters (not less than [`MIN_MAX`]).
#[must_use]
pub fn expose(server: &str, original: &str, max: usize) -> String {
    let prefix = server.len() + SEPARATOR.len();
    if is_plain(original) && prefix + original.len() <= max {
        return [server, SEPARATOR, original].concat();
    }
    [server, SEPARATOR, &tidy(original, max.saturating_sub(prefix))].concat()
}

/// An original brought into the allowed characters and `max` characters, always with the hash at its end. Never shorter than `_`
/// and the hash.
#[must_use]
pub fn tidy(original: &str, max: usize) -> String {
    let allowed = |character: char| if is_plain_char(character) { character } else { '_' };
    let mut out: String = original.chars().map(allowed).take(max.saturating_sub(TAIL)).collect();
    out.push('_');
    out.push_str(&hash(original));
    out
}

/// A name that an operator chose, at most `max` characters: as it is, or else brought into the rules as others are.
#[must_use]
pub fn allowed(chosen: &str, max: usize) -> String {
    if is_plain(chosen) && chosen.len() <= max { chosen.to_owned() } else { tidy(chosen, max) }
}

/// The server and the rest of an exposed name, at the first separator.
#[must_use]
pub fn split(exposed: &str) -> Option<(&str, &str)> {
    exposed.split_once(SEPARATOR).filter(|(server, _)| !server.is_empty())
}

/// The URI under which a server's resource is exposed when it cannot keep its own.
#[must_use]
pub fn prefix_uri(server: &str, uri: &str) -> String {
    [URI_SCHEME, server, ":", uri].concat()
}

/// The server and the original of a URI made by [`prefix_uri`].
#[must_use]
pub fn unprefix_uri(uri: &str) -> Option<(&str, &str)> {
    uri.strip_prefix(URI_SCHEME)?.split_once(':').filter(|(server, _)| !server.is_empty())
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(is_plain_char)
}

fn is_plain_char(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | '-')
}

/// The first forty bits of SHA-256, five to a character.
fn hash(original: &str) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let digest = Sha256::digest(original.as_bytes());
    let bits = digest.iter().take(5).fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
    (0..HASH).rev().map(|place| char::from(ALPHABET[(bits >> (place * 5) & 31) as usize])).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_exposed_by_the_rule() {
        let long = "a".repeat(60);
        let exposed: Vec<_> =
            ["search", "get_Item-2", "_x", "__x", "", "a.b", "a/b", "ä🦀", "with space", &long, &"b".repeat(44)]
                .map(|original| expose("crm", original, 48))
                .into();
        insta::assert_snapshot!(exposed.join("\n"), @r"
        crm__search
        crm__get_Item-2
        crm___x
        crm____x
        crm___4oymiquy
        crm__a_b_fzztnxeo
        crm__a_b_yfgn3qbt
        crm_____aryis5rh
        crm__with_space_xc4pews7
        crm__aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa_chxdseqr
        crm__bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb_26u4ybsq
        ");
        // The longest that fits stays; one more is cut.
        assert_eq!(expose("crm", &"c".repeat(43), 48), format!("crm__{}", "c".repeat(43)));
        let cut = expose("crm", &"c".repeat(44), 48);
        assert_eq!((cut.len(), &cut[..40]), (48, &*format!("crm__{}_", "c".repeat(34))));
        // The hash is of the original alone: another server, another limit, the same tail.
        assert_eq!(expose("crm", "a.b", 48)[5..], expose("files", "a.b", 128)[7..]);
    }

    #[test]
    fn chosen_names_are_kept_where_they_may_be() {
        assert_eq!(allowed("find-it_2", 48), "find-it_2");
        assert_eq!(allowed("find.it", 48), tidy("find.it", 48));
        assert_eq!(allowed(&"a".repeat(49), 48).len(), 48);
    }

    #[test]
    fn exposed_names_split_at_the_first_separator() {
        for (exposed, parts) in [
            ("crm__search", Some(("crm", "search"))),
            ("crm___x", Some(("crm", "_x"))),
            ("crm__a__b", Some(("crm", "a__b"))),
            ("my-crm_2__", Some(("my-crm_2", ""))),
            ("__x", None),
            ("search", None),
            ("", None),
        ] {
            assert_eq!(split(exposed), parts, "{exposed}");
        }
    }

    #[test]
    fn uris_are_prefixed_and_unprefixed() {
        assert_eq!(prefix_uri("crm", "file:///a:b?c#d"), "fairlead+crm:file:///a:b?c#d");
        for (uri, parts) in [
            ("fairlead+crm:file:///a:b", Some(("crm", "file:///a:b"))),
            ("fairlead+crm:", Some(("crm", ""))),
            ("fairlead+:x", None),
            ("fairlead+crm", None),
            ("file:///fairlead+crm:x", None),
            ("Fairlead+crm:x", None),
        ] {
            assert_eq!(unprefix_uri(uri), parts, "{uri}");
        }
    }

    #[test]
    fn what_would_be_altered_alike_stays_apart() {
        let mut seen = HashMap::new();
        for number in 0..20_000 {
            for original in [
                format!("t.{number}"),
                format!("t/{number}"),
                format!("t_{number}"),
                format!("{}{number}", "x".repeat(60)),
            ] {
                let exposed = expose("s", &original, 48);
                assert_eq!(seen.insert(exposed.clone(), original.clone()), None, "{exposed} for {original}");
            }
        }
    }

    proptest! {
        #[test]
        fn exposed_names_keep_the_rules(
            server in "[a-z][a-z0-9]{0,5}([_-][a-z0-9]{1,5}){0,3}", original in ".{0,80}", max in MIN_MAX..200,
        ) {
            let exposed = expose(&server, &original, max);
            prop_assert!(exposed.len() <= max);
            prop_assert!(exposed.chars().all(is_plain_char));
            prop_assert_eq!(&exposed, &expose(&server, &original, max));
            prop_assert_eq!(split(&exposed).unwrap().0, &server);
            let whole = format!("{server}__{original}");
            if is_plain(&original) && whole.len() <= max {
                prop_assert_eq!(exposed, whole);
            } else {
                let tail = format!("_{}", hash(&original));
                prop_assert!(exposed.ends_with(&tail));
                prop_assert!(tidy(&original, max).ends_with(&tail));
            }
        }
    }
}
