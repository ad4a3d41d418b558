//! Every fuzz target over its seed corpus, whole and cut short at every byte.

use std::path::Path;

/// Longer seeds are run whole only.
const CUT_UP_TO: usize = 2_000;

fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut seeds = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let seed = std::fs::read(entry.unwrap().path()).unwrap();
        seeds += 1;
        target(&seed);
        for length in 0..seed.len().min(CUT_UP_TO) {
            target(&seed[..length]);
        }
    }
    assert!(seeds >= 5, "{name} has {seeds} seeds");
}

#[test]
fn frame() {
    replay("frame", fairlead_wire::fuzz::frame);
}

#[test]
fn edit() {
    replay("edit", fairlead_wire::fuzz::edit);
}

#[test]
fn sse() {
    replay("sse", fairlead_wire::fuzz::sse);
}

#[test]
fn header() {
    replay("header", fairlead_wire::fuzz::header);
}

#[test]
fn name() {
    replay("name", fairlead_wire::fuzz::name);
}
