//! How fast the CPU is used: by what was used between two measures.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Measures that are nearer to one another say little; the rate before stands.
const WINDOW_MIN: Duration = Duration::from_secs(1);

struct Rate {
    at: Instant,
    cpu_ns: u64,
    nanocores: Option<u64>,
}

/// The last measures, by what was measured.
#[derive(Default)]
pub struct Rates(Mutex<HashMap<String, Rate>>);

impl Rates {
    /// The rates of all that was measured, in order; none of what was measured for the first time. Others are forgotten.
    pub(super) fn update(&self, measured: Vec<(String, u64)>) -> Vec<Option<u64>> {
        let mut held = self.0.lock();
        let mut old = std::mem::take(&mut *held);
        let now = Instant::now();
        let next = |(key, cpu_ns): (String, u64)| {
            let rate = match old.remove(&key) {
                Some(rate) if now - rate.at < WINDOW_MIN => rate,
                Some(rate) => {
                    let used = cpu_ns.saturating_sub(rate.cpu_ns) as f64 / (now - rate.at).as_secs_f64();
                    Rate { at: now, cpu_ns, nanocores: Some(used as u64) }
                }
                None => Rate { at: now, cpu_ns, nanocores: None },
            };
            let nanocores = rate.nanocores;
            held.insert(key, rate);
            nanocores
        };
        measured.into_iter().map(next).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_takes_two_measures() {
        let rates = Rates::default();
        let update = |cpu_ns| rates.update(vec![("c".into(), cpu_ns)])[0];
        assert_eq!(update(1_000_000_000), None);
        tokio::time::advance(Duration::from_millis(10)).await;
        assert_eq!(update(1_000_000_000), None, "too near");
        tokio::time::advance(Duration::from_millis(1990)).await;
        assert_eq!(update(2_000_000_000), Some(500_000_000));
        tokio::time::advance(Duration::from_millis(10)).await;
        assert_eq!(update(3_000_000_000), Some(500_000_000), "what was said before stands");
        rates.update(Vec::new());
        assert_eq!(update(5_000_000_000), None, "what is not measured is forgotten");
    }
}
