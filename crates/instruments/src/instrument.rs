//! The instruments: an atomic each, or a few.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::exposition::{Families, Family};

/// Something that is counted on, and can be told.
pub trait Instrument: Send + Sync + 'static {
    /// Tells it as a sample of this family with these labels, in the order of their names.
    fn tell(&self, out: &mut Families, family: &Family, labels: &[(&str, &str)]);
}

/// Only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    /// How many there were.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Instrument for Counter {
    fn tell(&self, out: &mut Families, family: &Family, labels: &[(&str, &str)]) {
        out.add(family, labels, self.get() as f64, None);
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// It is so much now.
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    /// So much more, or less.
    pub fn add(&self, more: i64) {
        self.0.fetch_add(more, Relaxed);
    }

    /// How much it is.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }

    /// One more, until what is returned is dropped.
    #[must_use]
    pub fn hold(self: &Arc<Self>) -> Held {
        self.add(1);
        Held(self.clone())
    }
}

/// One that a gauge counts as long as it is there.
#[derive(Debug)]
pub struct Held(Arc<Gauge>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

impl Instrument for Gauge {
    fn tell(&self, out: &mut Families, family: &Family, labels: &[(&str, &str)]) {
        out.add(family, labels, self.get() as f64, None);
    }
}

/// How values are spread.
#[derive(Debug)]
pub struct Histogram {
    /// Upper ends of the buckets, but for the last, which has none.
    ends: &'static [f64],
    buckets: Box<[AtomicU64]>,
    /// The sum's bits.
    sum: AtomicU64,
}

impl Histogram {
    /// Nothing observed yet, in buckets with these upper ends and one more without.
    #[must_use]
    pub fn new(ends: &'static [f64]) -> Self {
        Self { ends, buckets: (0..=ends.len()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0.0_f64.to_bits()) }
    }

    /// One value more.
    pub fn observe(&self, value: f64) {
        self.buckets[self.ends.partition_point(|end| *end < value)].fetch_add(1, Relaxed);
        // It is never refused.
        let _ = self.sum.fetch_update(Relaxed, Relaxed, |bits| Some((f64::from_bits(bits) + value).to_bits()));
    }

    /// Something took so long, in seconds.
    pub fn took(&self, time: Duration) {
        self.observe(time.as_secs_f64());
    }

    /// How many values there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }
}

impl Instrument for Histogram {
    fn tell(&self, out: &mut Families, family: &Family, labels: &[(&str, &str)]) {
        let buckets: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        out.add_histogram(family, labels, self.ends, &buckets, f64::from_bits(self.sum.load(Relaxed)));
    }
}

/// Upper ends of buckets, each so many times the one before: to the last digit what Go's client library makes of the same numbers
/// (`ExponentialBuckets`).
#[must_use]
pub const fn exponential<const N: usize>(start: f64, factor: f64) -> [f64; N] {
    let (mut ends, mut end, mut at) = ([0.0; N], start, 0);
    while at < N {
        ends[at] = end;
        end *= factor;
        at += 1;
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    const H: Family = Family::new("h", Kind::Histogram, "[ALPHA] H.");

    #[test]
    fn a_value_is_in_the_bucket_whose_end_it_does_not_exceed() {
        static ENDS: [f64; 3] = exponential(1.0, 2.0);
        let histogram = Histogram::new(&ENDS);
        [1.0, 1.5, 4.0, 4.5].into_iter().for_each(|value| histogram.observe(value));
        histogram.took(Duration::from_millis(500));
        let mut out = Families::default();
        histogram.tell(&mut out, &H, &[]);
        let told = out.finish();
        let samples: Vec<&str> = told.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(samples, ["h_bucket{le=\"1\"} 2", "h_bucket{le=\"2\"} 3", "h_bucket{le=\"4\"} 4", "h_bucket{le=\"+Inf\"} 5", "h_sum 11.5", "h_count 5"]);
        assert_eq!(histogram.count(), 5);
    }

    #[test]
    fn what_is_held_is_counted_while_it_is_there() {
        let gauge = Arc::new(Gauge::default());
        let held = [gauge.hold(), gauge.hold()];
        assert_eq!(gauge.get(), 2);
        drop(held);
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn ends_are_multiplied_as_go_does() {
        // Not 1e-07 and 1e-05.
        assert_eq!(exponential::<4>(10e-9, 10.0), [1e-08, 1e-07, 1e-06, 9.999999999999999e-06]);
        assert_eq!(exponential::<3>(0.0001, 2.0), [0.0001, 0.0002, 0.0004]);
    }
}
