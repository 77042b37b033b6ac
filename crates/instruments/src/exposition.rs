//! The text format of Prometheus, as Go's client library writes it: families by name, labels by name, numbers as Go prints them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the values of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How values are spread.
    Histogram,
}

/// A family of samples.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    help: &'static str,
}

impl Family {
    /// A family of this name. Its help begins with its stability, as the original's does.
    #[must_use]
    pub const fn new(name: &'static str, kind: Kind, help: &'static str) -> Self {
        Self { name, kind, help }
    }
}

/// Samples by family.
#[derive(Debug, Default)]
pub struct Families(BTreeMap<&'static str, (Family, String)>);

impl Families {
    fn of(&mut self, family: &Family) -> &mut String {
        &mut self.0.entry(family.name).or_insert_with(|| (*family, String::new())).1
    }

    /// A sample; `at` is when it was measured, if that is to be told. Labels are in the order of their names.
    pub fn add(&mut self, family: &Family, labels: &[(&str, &str)], value: f64, at: Option<SystemTime>) {
        let out = self.of(family);
        out.push_str(family.name);
        write_labels(out, labels);
        out.push(' ');
        write_number(out, value);
        if let Some(ms) = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok()) {
            let _ = write!(out, " {}", ms.as_millis());
        }
        out.push('\n');
    }

    /// A histogram of durations: how many were in each bucket with its upper end, the last being that without one, and the sum.
    pub fn add_histogram(&mut self, family: &Family, labels: &[(&str, &str)], ends_s: &[f64], buckets: &[u64], sum_s: f64) {
        let out = self.of(family);
        let mut all = 0;
        for (at, count) in buckets.iter().enumerate() {
            all += count;
            let mut end = String::new();
            write_number(&mut end, ends_s.get(at).copied().unwrap_or(f64::INFINITY));
            let labelled: Vec<(&str, &str)> = labels.iter().copied().chain([("le", end.as_str())]).collect();
            let _ = write!(out, "{}_bucket", family.name);
            write_labels(out, &labelled);
            let _ = writeln!(out, " {all}");
        }
        for (part, value) in [("sum", sum_s), ("count", all as f64)] {
            let _ = write!(out, "{}_{part}", family.name);
            write_labels(out, labels);
            out.push(' ');
            write_number(out, value);
            out.push('\n');
        }
    }

    /// The whole text.
    #[must_use]
    pub fn finish(self) -> String {
        let mut out = String::new();
        for (family, samples) in self.0.values() {
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let _ = write!(out, "# HELP {0} {1}\n# TYPE {0} {kind}\n{samples}", family.name, family.help);
        }
        out
    }
}

fn write_labels(out: &mut String, labels: &[(&str, &str)]) {
    for (at, (name, value)) in labels.iter().enumerate() {
        out.push(if at == 0 { '{' } else { ',' });
        out.push_str(name);
        out.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    if !labels.is_empty() {
        out.push('}');
    }
}

/// A number as Go's `%g` prints it, with as many digits as it takes: from 10⁶ on, and below 10⁻⁴, with an exponent.
fn write_number(out: &mut String, value: f64) {
    if !value.is_finite() {
        out.push_str(if value.is_nan() {
            "NaN"
        } else if value > 0.0 {
            "+Inf"
        } else {
            "-Inf"
        });
        return;
    }
    let spelled = format!("{value:e}");
    let (digits, exponent) = spelled.split_once('e').unwrap_or((&spelled, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..6).contains(&exponent) {
        let _ = write!(out, "{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    } else {
        let _ = write!(out, "{value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const BUCKETS_S: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

    #[test]
    fn numbers_are_go_s() {
        let written = |value: f64| {
            let mut out = String::new();
            write_number(&mut out, value);
            out
        };
        assert_eq!([0.0, 1.0, -2.5, 100_000.0, 0.0001].map(written), ["0", "1", "-2.5", "100000", "0.0001"]);
        assert_eq!([1e6, 12_582_912.0, 1.616_273_408e9, 0.000_05, 1e21].map(written), ["1e+06", "1.2582912e+07", "1.616273408e+09", "5e-05", "1e+21"]);
        assert_eq!([f64::INFINITY, f64::NEG_INFINITY, f64::NAN].map(written), ["+Inf", "-Inf", "NaN"]);
    }

    #[test]
    fn families_are_sorted_and_labels_escaped() {
        const B: Family = Family::new("b_total", Kind::Counter, "B.");
        const A: Family = Family::new("a", Kind::Gauge, "A.");
        const H: Family = Family::new("h_seconds", Kind::Histogram, "H.");
        let mut out = Families::default();
        out.add(&B, &[("x", "a\"b\\c\nd"), ("y", "")], 3.0, Some(UNIX_EPOCH + Duration::from_millis(1500)));
        out.add(&A, &[], 0.5, None);
        let mut buckets = [0; 12];
        (buckets[0], buckets[11]) = (2, 1);
        out.add_histogram(&H, &[("x", "1")], &BUCKETS_S, &buckets, 20.25);
        let text = out.finish();
        assert!(
            text.starts_with("# HELP a A.\n# TYPE a gauge\na 0.5\n# HELP b_total B.\n# TYPE b_total counter\nb_total{x=\"a\\\"b\\\\c\\nd\",y=\"\"} 3 1500\n"),
            "{text}"
        );
        let histogram: Vec<&str> = text.lines().filter(|line| line.starts_with("h_seconds")).collect();
        assert_eq!((histogram[0], histogram[11]), ("h_seconds_bucket{x=\"1\",le=\"0.005\"} 2", "h_seconds_bucket{x=\"1\",le=\"+Inf\"} 3"));
        assert_eq!(histogram[12..], ["h_seconds_sum{x=\"1\"} 20.25", "h_seconds_count{x=\"1\"} 3"]);
    }
}
