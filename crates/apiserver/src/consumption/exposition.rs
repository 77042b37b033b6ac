//! The text format of Prometheus, as far as what is used is told in it (KEP-727).
//!
//! What has no use of the CPU or no memory has not been measured yet: of a pod with such a container nothing is told, nor of such a
//! node. A line that is none spoils the whole answer, as it does for the add-on.

use super::samples::{Batch, Point};
use std::collections::{BTreeMap, HashMap};

const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: f64 = 1e9;

/// A line of a measure.
struct Line<'t> {
    name: &'t str,
    labels: &'t str,
    value: f64,
    /// When it was measured, if that is told.
    at_ms: Option<u64>,
}

/// What a kubelet has told; `now_ns` is when, for measures that do not say it.
///
/// # Errors
/// A line is none of the format.
pub(super) fn read(text: &str, now_ns: u64) -> Result<Batch, String> {
    let mut node = Point::default();
    let mut pods: HashMap<(String, String), BTreeMap<String, Point>> = HashMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let line = parse(line).ok_or_else(|| format!("failed parsing metrics: {line:?}"))?;
        let at_ns = line.at_ms.map_or(now_ns, |ms| ms.saturating_mul(NS_PER_MS));
        match line.name {
            "node_cpu_usage_seconds_total" => (node.cpu_ns, node.at_ns) = (nanos(line.value), at_ns),
            "node_memory_working_set_bytes" => (node.memory_bytes, node.at_ns) = (whole(line.value), at_ns),
            "container_cpu_usage_seconds_total" | "container_memory_working_set_bytes" | "container_start_time_seconds" => {
                let [container, namespace, pod] = ["container", "namespace", "pod"].map(|label| value_of(line.labels, label));
                let point = pods.entry((namespace, pod)).or_default().entry(container).or_default();
                match line.name {
                    "container_start_time_seconds" => point.started_ns = nanos(line.value),
                    "container_cpu_usage_seconds_total" => (point.cpu_ns, point.at_ns) = (nanos(line.value), at_ns),
                    _ => (point.memory_bytes, point.at_ns) = (whole(line.value), at_ns),
                }
            }
            _ => {}
        }
    }
    pods.retain(|_, containers| containers.values().all(Point::is_measured));
    Ok(Batch { node: Some(node).filter(Point::is_measured), pods })
}

// A float's range is larger; the conversion ends at the whole numbers' own.
fn whole(value: f64) -> u64 {
    value as u64
}

fn nanos(seconds: f64) -> u64 {
    (seconds * NS_PER_S) as u64
}

fn parse(line: &str) -> Option<Line<'_>> {
    let end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inner) => inner.split_at_checked(closing(inner)?).map(|(labels, rest)| (labels, &rest[1..]))?,
        None => ("", rest),
    };
    let mut parts = rest.split_whitespace();
    let value = parts.next()?;
    // Go's spelling of what is no number is Rust's too.
    let value = value.parse().ok()?;
    let at_ms = match parts.next() {
        None => None,
        Some(text) => Some(text.parse::<i64>().ok().map(|ms| u64::try_from(ms).unwrap_or(0))?),
    };
    parts.next().is_none().then_some(Line { name, labels, value, at_ms })
}

/// Where the labels end: at a brace outside of quotes.
fn closing(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    text.char_indices().find_map(|(at, c)| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted => return Some(at),
            _ => {}
        }
        None
    })
}

/// A label's value; empty without it.
fn value_of(labels: &str, wanted: &str) -> String {
    let mut rest = labels;
    while let Some((name, after)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut chars = after.char_indices();
        let mut end = after.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    end = at + 1;
                    break;
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, other)) => value.push(other),
                    None => {}
                },
                c => value.push(c),
            }
        }
        if name.trim_matches([',', ' ']) == wanted {
            return value;
        }
        rest = &after[end..];
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: &str = "# HELP node_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the node in core-seconds\n\
        # TYPE node_cpu_usage_seconds_total counter\n\
        node_cpu_usage_seconds_total 357.35491 1633253809720\n\
        node_memory_working_set_bytes 1.616273408e+09 1633253809720\n\
        container_cpu_usage_seconds_total{container=\"a\",namespace=\"n\",pod=\"p\"} 4.71 1633253812125\n\
        container_memory_working_set_bytes{container=\"a\",namespace=\"n\",pod=\"p\"} 1.2582912e+07 1633253812125\n\
        container_start_time_seconds{container=\"a\",namespace=\"n\",pod=\"p\"} 1633253800.5\n\
        container_cpu_usage_seconds_total{container=\"b\",namespace=\"n\",pod=\"unmeasured\"} 0\n\
        container_memory_working_set_bytes{container=\"b\",namespace=\"n\",pod=\"unmeasured\"} 5\n\
        scrape_error 0\n";

    #[test]
    fn figures_are_read_and_what_has_none_is_left_out() {
        let batch = read(TOLD, 7).unwrap();
        let node = Point { started_ns: 0, at_ns: 1_633_253_809_720_000_000, cpu_ns: 357_354_910_000, memory_bytes: 1_616_273_408 };
        assert_eq!(batch.node, Some(node));
        let point = Point { started_ns: 1_633_253_800_500_000_000, at_ns: 1_633_253_812_125_000_000, cpu_ns: 4_710_000_000, memory_bytes: 12_582_912 };
        assert_eq!(batch.pods, HashMap::from([(("n".to_owned(), "p".to_owned()), BTreeMap::from([("a".to_owned(), point)]))]));
    }

    #[test]
    fn labels_may_hold_anything() {
        let odd = r#"container_cpu_usage_seconds_total{pod="a}\"b",container="c\\",namespace="container=\"x"} 1"#;
        let line = parse(odd).unwrap();
        assert_eq!(["pod", "container", "namespace", "other"].map(|label| value_of(line.labels, label)), ["a}\"b", "c\\", "container=\"x", ""]);
        assert_eq!((line.value, line.at_ms), (1.0, None));
        for broken in ["node_cpu_usage_seconds_total", "x{a=\"b\" 1", "x one", "x 1 y", "x 1 2 3", "x{", "{"] {
            assert!(read(broken, 0).is_err(), "{broken}");
        }
        let negative = read("node_cpu_usage_seconds_total -1 -5\nnode_memory_working_set_bytes NaN", 0).unwrap();
        assert_eq!(negative.node, None);
    }
}
