//! The report as one page: no script, nothing fetched, readable in light and dark and without its pictures.

use crate::{
    plot::{Band, Plot, Series, escape},
    report::Report,
    text,
};
use std::fmt::Write as _;

const STYLE: &str = "
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#57606a;--line:#d8dee4;--band:#f3f5f7;--s1:#0b62c4;--s2:#a84300;--s3:#b3122e}
@media(prefers-color-scheme:dark){:root{--bg:#14171b;--fg:#e6e9ec;--dim:#9aa4ae;--line:#333a42;--band:#1c2127;--s1:#6cb0ff;--s2:#ffa45c;--s3:#ff7b8a}}
body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif;max-width:920px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem;margin-bottom:0}h2{font-size:1.1rem;margin-top:2rem}p.sub{color:var(--dim);margin-top:.2rem;overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:nth-child(-n+2),td:nth-child(-n+2),table.errors th,table.errors td{text-align:left}thead th{color:var(--dim);font-weight:600}
svg{width:100%;height:auto;display:block}svg text{font:12px system-ui,sans-serif;fill:var(--dim)}
.value{text-anchor:end}.time,.name{text-anchor:middle}.grid{stroke:var(--line)}.band{fill:var(--band)}.band.odd{fill:none}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
path.s1{stroke:var(--s1)}path.s2{stroke:var(--s2);stroke-dasharray:7 4}path.s3{stroke:var(--s3);stroke-dasharray:2 4}
svg text.s1{fill:var(--s1)}svg text.s2{fill:var(--s2)}svg text.s3{fill:var(--s3)}
.warn{border-left:4px solid var(--s2);padding:.2rem .8rem;background:var(--band)}
";

fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

impl Report {
    fn bands(&self) -> Vec<Band> {
        let band = |phase: &crate::PhaseReport| {
            let from = seconds(phase.began_ms);
            Band { name: phase.name.clone(), from, to: from + phase.seconds }
        };
        self.phases.iter().map(band).collect()
    }

    fn course(&self) -> [Plot; 2] {
        let at = |point: &crate::Point| seconds(point.at_ms) + seconds(self.point_ms) / 2.0;
        let rate = |count: u64| Some(count as f64 / seconds(self.point_ms.max(1)));
        let over = |value: &dyn Fn(&crate::Point) -> Option<f64>| {
            self.points.iter().map(|point| (at(point), value(point))).collect::<Vec<_>>()
        };
        let failed: u64 = self.points.iter().map(|point| point.errors).sum();
        let throughput = Plot {
            id: "throughput",
            title: "Calls per second",
            description: format!(
                "Calls that ended per second, and those of them that failed ({failed} in all). The table below has the numbers of each phase."
            ),
            is_log: false,
            label: text::number,
            series: vec![
                Series { name: "ended", class: "s1", points: over(&|point| rate(point.calls)) },
                Series { name: "failed", class: "s3", points: over(&|point| rate(point.errors)) },
            ],
            bands: self.bands(),
        };
        let latency = Plot {
            id: "latency",
            title: "Latency",
            description: "Median and 99th percentile of the latency over time, on a logarithmic scale.".to_owned(),
            is_log: true,
            label: |us| text::time(us.round().clamp(0.0, 1e15) as u64),
            series: vec![
                Series { name: "p50", class: "s1", points: over(&|point| point.p50_us.map(|us| us as f64)) },
                Series { name: "p99", class: "s2", points: over(&|point| point.p99_us.map(|us| us as f64)) },
            ],
            bands: self.bands(),
        };
        [throughput, latency]
    }

    /// A page for a browser.
    #[must_use]
    pub fn html(&self) -> String {
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
             <title>Load on {target}</title>\n<style>{STYLE}</style>\n<main>\n<h1>Load on {target}</h1>\n<p class=\"sub\">{load}{stopped}</p>\n",
            target = escape(&self.target),
            load = escape(&self.load),
            stopped = if self.interrupted { "; interrupted: this is the report so far" } else { "" },
        );
        for warning in &self.warnings {
            let _ = writeln!(page, "<p class=\"warn\">{}</p>", escape(warning));
        }
        page.push_str("<ul>\n");
        for line in text::verdict(self) {
            let _ = writeln!(page, "<li>{}</li>", escape(&line));
        }
        page.push_str("</ul>\n");
        for plot in self.course() {
            let _ = write!(page, "<h2>{}</h2>\n{}", escape(plot.title), plot.svg());
        }
        page.push_str("<h2>Phases</h2>\n<div class=\"wide\"><table>\n<thead><tr>");
        for heading in text::HEADINGS {
            let _ = write!(page, "<th scope=\"col\">{heading}</th>");
        }
        page.push_str("</tr></thead>\n<tbody>\n");
        for phase in &self.phases {
            page.push_str("<tr>");
            for (at, cell) in text::cells(phase).iter().enumerate() {
                let (open, close) = if at == 0 { ("<th scope=\"row\">", "</th>") } else { ("<td>", "</td>") };
                let _ = write!(page, "{open}{}{close}", escape(cell));
            }
            page.push_str("</tr>\n");
        }
        page.push_str("</tbody></table></div>\n");
        self.errors(&mut page);
        page.push_str("</main>\n</html>\n");
        page
    }

    fn errors(&self, page: &mut String) {
        if self.phases.iter().all(|phase| phase.errors.is_empty()) {
            return;
        }
        page.push_str("<h2>Errors</h2>\n<div class=\"wide\"><table class=\"errors\">\n<thead><tr>");
        page.push_str("<th scope=\"col\">phase</th><th scope=\"col\">error</th><th scope=\"col\">calls</th></tr></thead>\n<tbody>\n");
        for phase in &self.phases {
            for (error, count) in &phase.errors {
                let (name, error) = (escape(&phase.name), escape(error));
                let _ = writeln!(page, "<tr><th scope=\"row\">{name}</th><td>{error}</td><td>{count}</td></tr>");
            }
        }
        page.push_str("</tbody></table></div>\n");
    }
}

#[cfg(test)]
mod tests {
    use crate::report::tests::report;

    #[test]
    fn golden() {
        let mut report = report();
        report.target = "http://x/<script>".to_owned();
        let page = report.html();
        assert!(!page.contains("<script") && !page.contains("http-equiv") && !page.contains("src="));
        insta::assert_snapshot!(page);
    }

    #[test]
    fn json_golden() {
        let mut report = report();
        report.points.truncate(2);
        insta::assert_snapshot!(serde_json::to_string_pretty(&report).expect("JSON"));
    }

    #[test]
    fn nothing_at_all_is_a_page_too() {
        let mut report = report();
        report.phases.clear();
        report.points.clear();
        assert!(report.html().contains("</html>"));
    }
}
