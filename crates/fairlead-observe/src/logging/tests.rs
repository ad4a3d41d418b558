//! Lines as an operator, or a program that reads them, gets them.

use super::*;
use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};
use tracing::{debug, error, info, info_span, subscriber::with_default, warn};

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Captured {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn lines(level: &str, format: Format, emit: impl FnOnce(&LogControl)) -> Vec<String> {
    let captured = Captured::default();
    let writer = captured.clone();
    let (subscriber, control) = subscriber(level, format, move || writer.clone()).unwrap();
    with_default(subscriber, || emit(&control));
    captured.text().lines().map(str::to_owned).collect()
}

/// The line after the time.
fn after_time(line: &str) -> &str {
    let (time, rest) = line.split_once(' ').unwrap();
    assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    rest
}

#[derive(Debug, thiserror::Error)]
#[error("cannot open the link")]
struct Outer(#[source] io::Error);

#[test]
fn text_is_a_sentence_with_fields() {
    let error = Outer(io::Error::other("refused"));
    let written = lines("info", Format::Text, |_| {
        let span = info_span!("call", server = "files", session = 7, attempt = 1);
        let _entered = span.enter();
        info!(attempt = 2, note = "two words", "The link is open");
        warn!(error = &error as &dyn std::error::Error, empty = "", "The link failed");
    });
    assert_eq!(after_time(&written[0]), "INFO  The link is open attempt=2 note=\"two words\" server=files session=7");
    assert_eq!(
        after_time(&written[1]),
        "WARN  The link failed error=\"cannot open the link: refused\" empty=\"\" server=files session=7 attempt=1"
    );
    assert_eq!(written.len(), 2);
}

#[test]
fn json_is_flat_and_keeps_types() {
    let written = lines("info", Format::Json, |_| {
        let span = info_span!("call", server = "files", era = tracing::field::Empty);
        span.record("era", "legacy");
        let _entered = span.enter();
        error!(count = 3, ratio = 0.5, nan = f64::NAN, done = true, time = "mine", "It \"failed\"\n");
    });
    let line: serde_json::Value = serde_json::from_str(&written[0]).unwrap();
    let object = line.as_object().unwrap();
    assert_eq!(object["level"], "error");
    assert_eq!(object["message"], "It \"failed\"\n");
    assert_eq!(object["target"], module_path!());
    assert_eq!(object["count"], 3);
    assert_eq!(object["ratio"], 0.5);
    assert_eq!(object["nan"], "NaN");
    assert_eq!(object["done"], true);
    assert_eq!(object["field_time"], "mine");
    assert_eq!((&object["server"], &object["era"]), (&"files".into(), &"legacy".into()));
    assert_eq!(object["time"].as_str().unwrap().len(), 24);
}

#[test]
fn foreign_text_stays_in_its_line_and_does_nothing_to_a_terminal() {
    let evil = "a\r\nFAKE ERROR\u{1b}[2J\u{9b}31m\u{202e}\u{0}\u{2028}end";
    for format in [Format::Text, Format::Json] {
        let written = lines("info", format, |_| info!(evil, debug = ?evil, "{evil}"));
        assert_eq!(written.len(), 1, "{format:?}");
        assert!(
            !written[0].contains(|c: char| c.is_control() || matches!(c, '\u{202e}' | '\u{2028}')),
            "{}",
            written[0]
        );
        if format == Format::Json {
            let line: serde_json::Value = serde_json::from_str(&written[0]).unwrap();
            assert_eq!(line["evil"], evil);
            assert_eq!(line["message"], evil);
        }
    }
}

#[test]
fn long_values_are_cut_at_a_character() {
    let long = format!("x{}", "é".repeat(escape::MAX_VALUE_BYTES));
    for format in [Format::Text, Format::Json] {
        let written = lines("info", format, |_| info!(long, "{long}"));
        assert!(written[0].len() < 2 * escape::MAX_VALUE_BYTES + 300, "{}", written[0].len());
        assert!(written[0].contains("é…"));
    }
}

#[test]
fn levels_filter_and_can_be_changed() {
    let written = lines("warn", Format::Text, |control| {
        info!("hidden");
        control.set_level("debug").unwrap();
        debug!("seen");
        debug!(target: "hyper::client", "a library stays quiet");
        warn!(target: "hyper::client", "unless it warns");
        control.set_level("fairlead_observe=error,hyper=debug").unwrap();
        warn!("hidden");
        debug!(target: "hyper::client", "asked for");
        assert!(matches!(control.set_level("loud=very"), Err(LogError::Level { .. })));
        control.set_level("off").unwrap();
        error!("hidden");
        control.set_level("INFO").unwrap();
        info!("seen again");
    });
    let messages: Vec<_> = written.iter().map(|line| after_time(line)[6..].trim()).collect();
    assert_eq!(messages, ["seen", "unless it warns", "asked for", "seen again"]);
}

#[test]
fn color_marks_the_level_alone() {
    let written = lines("info", Format::Color, |_| error!(server = "files", "Down"));
    assert_eq!(after_time(&written[0]), "\u{1b}[31mERROR\u{1b}[0m Down server=files");
}
