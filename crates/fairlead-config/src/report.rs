//! Problems for a person at a terminal: reason, source line with the place underlined, hint.

use crate::{Problem, Problems, Severity};
use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents, SourceCode,
    SourceSpan, SpanContents,
};
use std::fmt;

/// Renders every problem. Secrets in the source lines shown are masked. `color` allows terminal
/// escapes.
#[must_use]
pub fn report(problems: &Problems, color: bool) -> String {
    let theme = if color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let handler = GraphicalReportHandler::new_themed(theme).with_links(false).with_width(120);
    let mut out = String::new();
    for problem in problems {
        let mut rendered = String::new();
        if handler.render_report(&mut rendered, &Shown(problem)).is_err() {
            rendered = format!("{problem}\n");
        }
        out.push_str(rendered.trim_start_matches('\n'));
    }
    out
}

/// A problem as miette wants to see it.
struct Shown<'a>(&'a Problem);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0, f)
    }
}

impl fmt::Display for Shown<'_> {
    /// The place is in the frame around the source line, if there is one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.0.excerpt, &self.0.file) {
            (None, Some(file)) if self.0.line > 0 => {
                write!(f, "{}:{}:{}: ", file.display(), self.0.line, self.0.column)?;
            }
            (None, Some(file)) => write!(f, "{}: ", file.display())?,
            _ => {}
        }
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Shown<'_> {}

impl Diagnostic for Shown<'_> {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.0.code.as_ref()))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.0.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.0.hint.as_ref().map(|hint| Box::new(hint) as Box<dyn fmt::Display + 'a>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.0.excerpt.as_ref().map(|_| self as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let excerpt = self.0.excerpt.as_ref()?;
        let start: usize =
            excerpt.line.chars().take(self.0.column.saturating_sub(1)).map(char::len_utf8).sum::<usize>();
        let length: usize = excerpt.line[start..].chars().take(excerpt.length).map(char::len_utf8).sum();
        Some(Box::new(std::iter::once(LabeledSpan::new(None, start, length))))
    }
}

impl SourceCode for Shown<'_> {
    /// One line is all there is, under its number in the file.
    fn read_span<'a>(
        &'a self,
        _span: &SourceSpan,
        lines_before: usize,
        _lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let excerpt = self.0.excerpt.as_ref().ok_or(MietteError::OutOfBounds)?;
        let name = self.0.file.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
        let line = excerpt.line.as_str();
        // Without context it is the frame's title that asks; there the column is that of the problem.
        let column = if lines_before == 0 { self.0.column.saturating_sub(1) } else { 0 };
        let contents = MietteSpanContents::new_named(
            name,
            line.as_bytes(),
            (0, line.len()).into(),
            self.0.line.saturating_sub(1),
            column,
            1,
        );
        Ok(Box::new(contents))
    }
}
