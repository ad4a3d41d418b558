//! What is wrong with the certificate of the listener, or with its key, is found when the configuration is read.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so")]

use fairlead_config::{Config, Problems, diff, load};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use std::{fs, path::Path};

const FILE: &str = "listen:\n  tls:\n    certificate: server.pem\n    key: server.key\nservers: {}\n";

/// A certificate that is good from the beginning of one year to that of another, and its key.
fn identity(from: i32, to: i32) -> (String, String) {
    let mut params = CertificateParams::new(vec!["gateway.test".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn loaded(directory: &Path, text: &str, certificate: &str, key: &str) -> Result<Config, Problems> {
    fs::write(directory.join("server.pem"), certificate).unwrap();
    fs::write(directory.join("server.key"), key).unwrap();
    let file = directory.join("fairlead.yaml");
    fs::write(&file, text).unwrap();
    load(&[file], &|_| None)
}

#[test]
fn a_pair_that_fits_is_taken_with_those_who_signed_it() {
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = identity(2000, 3000);
    let (between, _) = identity(2000, 3000);
    let config = loaded(directory.path(), FILE, &(certificate.clone() + &between), &key).unwrap();
    let tls = config.listen.tls.clone().unwrap();
    assert_eq!(tls.identity.cert.len(), 2);
    assert_eq!(tls.files, ["server.pem", "server.key"].map(|name| directory.path().join(name)));
    assert_eq!(tls.expires, 32_503_680_000, "the year 3000 begins then");
    assert!(!format!("{config:?}").contains("PRIVATE"), "nothing of the key is shown");
    let again = loaded(directory.path(), FILE, &(certificate + &between), &key).unwrap();
    assert!(diff(&config, &again).is_empty(), "the same files are the same configuration");
    let (certificate, key) = identity(2000, 3000);
    let renewed = loaded(directory.path(), FILE, &certificate, &key).unwrap();
    assert!(diff(&config, &renewed).listen_changed, "another certificate is another configuration");
}

#[test]
fn what_does_not_fit_is_shown_where_it_is_named() {
    let (good, key) = identity(2000, 3000);
    let (old, old_key) = identity(2000, 2001);
    let (young, young_key) = identity(2999, 3000);
    let (_, other) = identity(2000, 3000);
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let broken = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    let (in_certificate, in_key) = (":3:18:", ":4:10:");
    for (certificate, key, place, message) in [
        (good.as_str(), other.as_str(), in_key, "does not belong to the certificate"),
        (&old, &old_key, in_certificate, "the certificate has expired"),
        (&young, &young_key, in_certificate, "the certificate is not valid yet"),
        (&key, &key, in_certificate, "there is no certificate in this file"),
        (broken, &key, in_certificate, "the certificate cannot be read"),
        ("", &key, in_certificate, "there is no certificate in this file"),
        (&good, &good, in_key, "there is no private key in this file"),
        (&good, encrypted, in_key, "asks for a passphrase"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let problems = loaded(directory.path(), FILE, certificate, key).unwrap_err();
        let problem = problems.errors().next().unwrap();
        assert!(problem.to_string().contains(place) && problem.message.contains(message), "{message}: {problem}");
        assert_eq!((problem.code.as_ref(), problems.0.len()), ("FL-1406", 1), "{problems}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = identity(2000, 3000);
    let elsewhere = FILE.replace("server.key", "keys/server.key");
    for (text, code, message) in [
        (elsewhere.as_str(), "FL-1406", "keys/server.key`: No such file"),
        ("listen:\n  tls: { certificate: server.pem }\n", "FL-1401", "`listen.tls` needs a `key`"),
        ("listen:\n  tls: {}\n", "FL-1401", "`listen.tls` needs a `certificate`"),
        ("listen:\n  tls: { certificate: server.pem, key: '' }\n", "FL-1401", "this is not a path"),
    ] {
        let problems = loaded(directory.path(), text, &certificate, &key).unwrap_err();
        let problem = problems.errors().next().unwrap();
        assert!(problem.message.contains(message) && problem.line > 0, "{text}: {problem}");
        assert_eq!(problem.code, code, "{problem}");
    }
    let off = loaded(directory.path(), "listen: { tls: off }\n", "", "").unwrap();
    assert!(off.listen.tls.is_none());
}
