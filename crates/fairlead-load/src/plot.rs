//! Lines over time as SVG: no script, colours from the page, and never by colour alone (lines differ in their dashes and
//! carry their names).

use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 92.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 30.0;

/// Larger values are drawn as this one.
const MOST: f64 = 1e15;

/// How far apart the names of lines are.
const NAME: f64 = 14.0;

/// One line.
pub(crate) struct Series {
    pub(crate) name: &'static str,
    /// The class that the page styles: `s1`, `s2`, ...
    pub(crate) class: &'static str,
    /// Seconds and value; where there is no value, the line is interrupted.
    pub(crate) points: Vec<(f64, Option<f64>)>,
}

/// A stretch of the horizontal axis with a name.
pub(crate) struct Band {
    pub(crate) name: String,
    pub(crate) from: f64,
    pub(crate) to: f64,
}

/// What is drawn.
pub(crate) struct Plot {
    /// Distinguishes it from the others of the page.
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// What is to be seen, for whoever does not see it.
    pub(crate) description: String,
    /// Whether the vertical axis is logarithmic.
    pub(crate) is_log: bool,
    /// How a value of the vertical axis is written.
    pub(crate) label: fn(f64) -> String,
    pub(crate) series: Vec<Series>,
    pub(crate) bands: Vec<Band>,
}

/// Text for XML.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            character if character.is_control() => out.push(' '),
            character => out.push(character),
        }
    }
    out
}

/// From values to places.
struct Scale {
    end: f64,
    low: f64,
    high: f64,
    is_log: bool,
}

impl Scale {
    fn x(&self, seconds: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (seconds / self.end).clamp(0.0, 1.0)
    }

    fn y(&self, value: f64) -> f64 {
        let part = if self.is_log {
            (value.max(self.low).log10() - self.low.log10()) / (self.high.log10() - self.low.log10())
        } else {
            (value - self.low) / (self.high - self.low)
        };
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * part.clamp(0.0, 1.0)
    }
}

/// A step of 1, 2 or 5 times a power of ten, of which about `count` make up `span`.
fn step(span: f64, count: f64) -> f64 {
    let rough = (span / count).max(f64::MIN_POSITIVE);
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| rough <= factor * power).unwrap_or(10.0);
    factor * power
}

impl Plot {
    fn values(&self) -> impl Iterator<Item = f64> {
        self.series
            .iter()
            .flat_map(|series| series.points.iter().filter_map(|(_, value)| value.map(|value| value.min(MOST))))
    }

    fn scale(&self) -> (Scale, Vec<f64>) {
        let seconds = self.series.iter().flat_map(|series| series.points.iter().map(|(at, _)| *at));
        let end = seconds.chain(self.bands.iter().map(|band| band.to)).fold(0.0, f64::max).max(1e-3);
        let most = self.values().fold(0.0, f64::max);
        if self.is_log {
            let least = self.values().filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
            let low = if least.is_finite() { 10_f64.powf(least.log10().floor()) } else { 1.0 };
            let high = 10_f64.powf(most.max(low).log10().ceil()).max(low * 10.0);
            let decades = (high / low).log10().round().max(1.0);
            let mut ticks = Vec::new();
            let mut tick = low;
            for _ in 0..=(decades.min(20.0) as u32) {
                ticks.push(tick);
                tick *= 10.0;
            }
            return (Scale { end, low, high, is_log: true }, ticks);
        }
        let step = step(if most > 0.0 { most } else { 1.0 }, 5.0);
        let count = (most / step).ceil().max(1.0);
        let ticks = (0..=(count.min(20.0) as u32)).map(|tick| f64::from(tick) * step).collect();
        (Scale { end, low: 0.0, high: count * step, is_log: false }, ticks)
    }

    /// The picture.
    pub(crate) fn svg(&self) -> String {
        let (scale, ticks) = self.scale();
        let id = self.id;
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\">\
             <title id=\"{id}-t\">{}</title><desc id=\"{id}-d\">{}</desc>\n",
            escape(self.title),
            escape(&self.description)
        );
        for (at, band) in self.bands.iter().enumerate() {
            let (from, to) = (scale.x(band.from), scale.x(band.to));
            let class = if at % 2 == 0 { "band" } else { "band odd" };
            let _ = writeln!(
                svg,
                "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/>\
                 <text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                (to - from).max(0.0),
                HEIGHT - TOP - BOTTOM,
                (from + to) / 2.0,
                TOP - 8.0,
                escape(&band.name)
            );
        }
        for tick in &ticks {
            let y = scale.y(*tick);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"value\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0,
                escape(&(self.label)(*tick))
            );
        }
        let step = step(scale.end, 8.0);
        for tick in 0..=((scale.end / step).floor().min(50.0) as u32) {
            let at = f64::from(tick) * step;
            let text = crate::text::number(at);
            let (x, y) = (scale.x(at), HEIGHT - BOTTOM + 18.0);
            let _ = writeln!(svg, "<text class=\"time\" x=\"{x:.1}\" y=\"{y:.1}\">{text} s</text>");
        }
        let mut taken: Vec<f64> = Vec::new();
        for series in &self.series {
            svg.push_str(&line(series, &scale, &mut taken));
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// The path of a line, and its name at its end.
fn line(series: &Series, scale: &Scale, taken: &mut Vec<f64>) -> String {
    let mut path = String::new();
    let mut is_down = false;
    let mut last = None;
    for (at, value) in &series.points {
        let Some(value) = value else {
            is_down = false;
            continue;
        };
        let (x, y) = (scale.x(*at), scale.y(*value));
        let _ = write!(path, "{}{x:.1} {y:.1}", if is_down { "L" } else { "M" });
        // A point alone would not be seen.
        if !is_down {
            path.push_str("h0.01");
        }
        is_down = true;
        last = Some(y);
    }
    let Some(mut y) = last else { return String::new() };
    // Names do not stand on each other. From top to bottom, so that one pass is enough.
    taken.sort_by(f64::total_cmp);
    for other in taken.iter() {
        if (other - y).abs() < NAME {
            y = other + NAME;
        }
    }
    taken.push(y);
    let (class, x) = (series.class, WIDTH - RIGHT + 8.0);
    format!(
        "<path class=\"line {class}\" d=\"{path}\"/><text class=\"end {class}\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>\n",
        y + 4.0,
        escape(series.name)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(is_log: bool, points: Vec<(f64, Option<f64>)>) -> String {
        let series = vec![Series { name: "a<b", class: "s1", points }];
        let label = |value: f64| value.to_string();
        let bands = vec![Band { name: "x & y".to_owned(), from: 0.0, to: 2.0 }];
        Plot { id: "p", title: "T", description: String::new(), is_log, label, series, bands }.svg()
    }

    #[test]
    fn nothing_is_drawn_outside_and_nothing_breaks_on_what_is_odd() {
        for is_log in [false, true] {
            for points in [
                vec![],
                vec![(0.0, None)],
                vec![(0.0, Some(0.0))],
                vec![(0.0, Some(1e12)), (1.0, None), (2.0, Some(1e-9))],
                vec![(5.0, Some(f64::MAX))],
            ] {
                let svg = plot(is_log, points);
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
                assert!(svg.contains("x &amp; y") && !svg.contains("a<b"));
            }
        }
        let svg = plot(false, vec![(0.0, Some(0.0)), (2.0, Some(10.0))]);
        assert!(svg.contains("d=\"M64.0 250.0h0.01L768.0 26.0\""), "{svg}");
    }

    #[test]
    fn names_of_lines_stand_apart_wherever_they_end() {
        for at in 0..5_000 {
            let (one, other) = (f64::from(at) * 0.037, f64::from(at) * 0.0371);
            let line = |value| Series { name: "n", class: "s1", points: vec![(0.0, Some(value)), (1.0, Some(100.0))] };
            let mut series = vec![line(1.0), line(2.0), line(3.0)];
            for (series, value) in series.iter_mut().zip([one, other, one]) {
                series.points.push((2.0, Some(value)));
            }
            let label = |value: f64| value.to_string();
            let plot =
                Plot { id: "p", title: "T", description: String::new(), is_log: false, label, series, bands: vec![] };
            let svg = plot.svg();
            let mut ends: Vec<f64> = svg
                .lines()
                .filter_map(|line| {
                    line.split_once("class=\"end")?.1.split_once("y=\"")?.1.split('"').next()?.parse().ok()
                })
                .collect();
            ends.sort_by(f64::total_cmp);
            assert!(ends.len() == 3 && ends.windows(2).all(|pair| pair[1] - pair[0] > NAME - 0.2), "{at}: {ends:?}");
        }
    }

    #[test]
    fn steps_are_round() {
        for (span, count, expected) in [(10.0, 5.0, 2.0), (9.0, 5.0, 2.0), (1.0, 5.0, 0.2), (430.0, 5.0, 100.0)] {
            assert!((step(span, count) - expected).abs() < 1e-9, "{span}");
        }
    }
}
