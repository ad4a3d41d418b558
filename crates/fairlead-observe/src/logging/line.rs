//! From an event to one line.
//!
//! The fields of the spans around an event are written after its own, outermost first. An error given as
//! `error = &error as &dyn Error` is written with its chain of causes, since our errors never repeat their source.

use super::{Format, escape, time};
use std::{borrow::Cow, error::Error, fmt, io::Write};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{Layer, fmt::MakeWriter, layer::Context, registry::LookupSpan};

/// Fields of one span; more are not kept.
const MAX_SPAN_FIELDS: usize = 32;
/// Causes of an error that are written.
const MAX_CAUSES: usize = 16;
const MESSAGE: &str = "message";
/// Names that JSON lines use themselves.
const RESERVED: [&str; 4] = ["time", "level", "target", MESSAGE];

/// Writes events as lines.
#[derive(Debug)]
pub(super) struct Lines<W> {
    format: Format,
    writer: W,
}

impl<W> Lines<W> {
    pub(super) fn new(format: Format, writer: W) -> Self {
        Self { format, writer }
    }
}

/// A value as it was recorded: JSON keeps numbers and booleans what they are.
#[derive(Debug)]
enum Value {
    Bare(String),
    Text(String),
}

/// Recorded fields in order.
#[derive(Debug, Default)]
struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    fn push(&mut self, field: &Field, value: Value) {
        self.0.push((field.name(), value));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, Value::Text(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, Value::Text(value.to_owned()));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut text = value.to_string();
        for cause in std::iter::successors(value.source(), |&cause| cause.source()).take(MAX_CAUSES) {
            text.push_str(": ");
            text.push_str(&cause.to_string());
        }
        self.push(field, Value::Text(text));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, Value::Bare(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, Value::Bare(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, Value::Bare(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        let text = value.to_string();
        // JSON has no word for infinity.
        self.push(field, if value.is_finite() { Value::Bare(text) } else { Value::Text(text) });
    }
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            fields.0.truncate(MAX_SPAN_FIELDS);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            let mut recorded = Fields::default();
            values.record(&mut recorded);
            for (name, value) in recorded.0 {
                if let Some(slot) = fields.0.iter_mut().find(|(known, _)| *known == name) {
                    slot.1 = value;
                } else if fields.0.len() < MAX_SPAN_FIELDS {
                    fields.0.push((name, value));
                }
            }
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut line = String::with_capacity(256);
        let mut open =
            Line::begin(&mut line, self.format, *event.metadata().level(), event.metadata().target(), &fields);
        for (name, value) in fields.0.iter().filter(|(name, _)| *name != MESSAGE) {
            open.field(name, value);
        }
        if let Some(scope) = context.event_scope(event) {
            for span in scope.from_root() {
                if let Some(around) = span.extensions().get::<Fields>() {
                    for (name, value) in &around.0 {
                        open.field(name, value);
                    }
                }
            }
        }
        open.end();
        // Nobody is left to be told when standard error is gone.
        let _ = self.writer.make_writer_for(event.metadata()).write_all(line.as_bytes());
    }
}

/// A line being written.
struct Line<'a> {
    out: &'a mut String,
    format: Format,
    /// Names that are taken: of two values of one name, the nearer one to the event stays.
    taken: Vec<Cow<'static, str>>,
}

impl<'a> Line<'a> {
    fn begin(out: &'a mut String, format: Format, level: Level, target: &str, fields: &Fields) -> Self {
        let message = fields.0.iter().find(|(name, _)| *name == MESSAGE).map_or("", |(_, value)| match value {
            Value::Bare(text) | Value::Text(text) => text.as_str(),
        });
        match format {
            Format::Json => {
                out.push_str("{\"time\":\"");
                time::now(out);
                out.push_str("\",\"level\":\"");
                out.push_str(&level.as_str().to_ascii_lowercase());
                out.push_str("\",\"message\":");
                escape::json(out, message);
                out.push_str(",\"target\":");
                escape::json(out, target);
            }
            Format::Text | Format::Color => {
                time::now(out);
                out.push(' ');
                let (before, after) = color(format, level);
                out.push_str(before);
                out.push_str(level.as_str());
                out.push_str(after);
                // Levels have four or five letters.
                out.push_str(if level.as_str().len() < 5 { "  " } else { " " });
                escape::plain(out, message);
            }
        }
        Self { out, format, taken: Vec::new() }
    }

    fn field(&mut self, name: &'static str, value: &Value) {
        let name: Cow<'static, str> = match self.format == Format::Json && RESERVED.contains(&name) {
            true => format!("field_{name}").into(),
            // `r#type` is how Rust spells a field called `type`.
            false => name.trim_start_matches("r#").into(),
        };
        if self.taken.contains(&name) {
            return;
        }
        match self.format {
            Format::Json => {
                self.out.push(',');
                escape::json(self.out, &name);
                self.out.push(':');
                match value {
                    Value::Bare(text) => self.out.push_str(text),
                    Value::Text(text) => escape::json(self.out, text),
                }
            }
            Format::Text | Format::Color => {
                self.out.push(' ');
                escape::plain(self.out, &name);
                self.out.push('=');
                match value {
                    Value::Bare(text) => self.out.push_str(text),
                    Value::Text(text) => escape::value(self.out, text),
                }
            }
        }
        self.taken.push(name);
    }

    fn end(self) {
        if self.format == Format::Json {
            self.out.push('}');
        }
        self.out.push('\n');
    }
}

fn color(format: Format, level: Level) -> (&'static str, &'static str) {
    if format != Format::Color {
        return ("", "");
    }
    let before = match level {
        Level::ERROR => "\u{1b}[31m",
        Level::WARN => "\u{1b}[33m",
        Level::INFO => "\u{1b}[32m",
        Level::DEBUG => "\u{1b}[34m",
        Level::TRACE => "\u{1b}[35m",
    };
    (before, "\u{1b}[0m")
}
