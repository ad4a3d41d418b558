//! What an instance says of its own load, for `balance: resource`.
//!
//! Over HTTP in the response header `endpoint-load-metrics` (the one of ORCA, which Envoy and gRPC read), in its text
//! form: `TEXT cpu_utilization=0.3, mem_utilization=0.8, application_utilization=0.5`. On any transport in the
//! result's `_meta`: `"fairlead/load": {"cpu": 0.3, "memory": 0.8, "queue": 0.5}`. All are shares of what the instance
//! can bear, 1 is full.

use fairlead_wire::list;

/// The response header.
pub(crate) const HEADER: &str = "endpoint-load-metrics";
/// The member of a result's `_meta`.
pub(crate) const META: &str = "fairlead/load";

/// Shares of what an instance can bear, 0 to 1 (a queue may be fuller).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Pressure {
    cpu: f64,
    memory: f64,
    queue: f64,
}

impl Pressure {
    /// What is scarcest decides.
    pub(crate) fn worst(self) -> f64 {
        self.cpu.max(self.memory).max(self.queue).clamp(0.0, 1.0)
    }

    /// Reads the header's value; `None` when it says none of what counts.
    pub(crate) fn of_header(value: &str) -> Option<Self> {
        let text = value.trim();
        let text = text.strip_prefix("TEXT").map_or(text, str::trim_start);
        let mut read = Self::default();
        let mut said = false;
        for pair in text.split(',') {
            let Some((key, value)) = pair.split_once('=') else { continue };
            let place = match key.trim() {
                "cpu_utilization" => &mut read.cpu,
                "mem_utilization" => &mut read.memory,
                "application_utilization" => &mut read.queue,
                _ => continue,
            };
            if let Some(share) = share(value) {
                *place = share;
                said = true;
            }
        }
        said.then_some(read)
    }

    /// Reads a result's `_meta` (raw JSON).
    pub(crate) fn of_meta(meta: &str) -> Option<Self> {
        let load = list::raw_member(meta, META)?;
        let member = |name| list::raw_member(load, name).and_then(share);
        let (cpu, memory, queue) = (member("cpu"), member("memory"), member("queue"));
        (cpu.is_some() || memory.is_some() || queue.is_some()).then(|| Self {
            cpu: cpu.unwrap_or(0.0),
            memory: memory.unwrap_or(0.0),
            queue: queue.unwrap_or(0.0),
        })
    }
}

/// A number that can be a share.
fn share(text: &str) -> Option<f64> {
    text.trim().parse::<f64>().ok().filter(|share| share.is_finite() && *share >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read_and_the_rest_ignored() {
        for (header, worst) in [
            ("TEXT cpu_utilization=0.3, mem_utilization=0.8", Some(0.8)),
            ("cpu_utilization=0.25", Some(0.25)),
            ("TEXT application_utilization=7", Some(1.0)),
            ("TEXT rps_fractional=10.0", None),
            ("TEXT cpu_utilization=NaN", None),
            ("TEXT cpu_utilization=-1", None),
            ("BIN AAAA", None),
            ("", None),
        ] {
            assert_eq!(Pressure::of_header(header).map(Pressure::worst), worst, "{header}");
        }
        for (meta, worst) in [
            (r#"{"fairlead/load":{"cpu":0.5,"queue":0.9}}"#, Some(0.9)),
            (r#"{"fairlead/load":{}}"#, None),
            (r#"{"other":1}"#, None),
            (r#"{"fairlead/load":{"cpu":"much"}}"#, None),
        ] {
            assert_eq!(Pressure::of_meta(meta).map(Pressure::worst), worst, "{meta}");
        }
    }
}
