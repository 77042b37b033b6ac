//! Percentiles.

use std::time::Duration;

/// Samples of one thing, in milliseconds.
#[derive(Default, Clone)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds one.
    pub fn add(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1000.0);
    }

    /// Takes over another's samples.
    pub fn join(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// How many there are.
    pub fn count(&self) -> f64 {
        self.0.len() as f64
    }

    /// The sample below which this share of all lies (nearest rank).
    pub fn at(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a rank among a few samples")]
        let rank = (share * last as f64).round() as usize;
        sorted.get(rank).copied().unwrap_or(f64::NAN)
    }

    /// One line of a table.
    pub fn line(&self, name: &str) -> String {
        format!("{name:<40} {:>9.1} {:>9.1} {:>9.1} {:>6}", self.at(0.5), self.at(0.99), self.at(1.0), self.0.len())
    }

    /// The line above.
    pub fn head(unit: &str) -> String {
        format!("{:<40} {:>9} {:>9} {:>9} {:>6}", unit, "p50", "p99", "max", "n")
    }
}

/// The middle of some numbers.
pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    match numbers.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => numbers[n / 2],
        n => f64::midpoint(numbers[n / 2 - 1], numbers[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks() {
        let mut samples = Samples::default();
        (1..=101).for_each(|ms| samples.add(Duration::from_millis(ms)));
        assert!((samples.at(0.5) - 51.0).abs() < 1e-9 && (samples.at(0.99) - 100.0).abs() < 1e-9 && (samples.at(1.0) - 101.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }
}
