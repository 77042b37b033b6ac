//! What upstream's kubelet counts of devices (`pkg/kubelet/metrics`, subsystem `dra`).

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

/// Upper ends of the buckets in seconds, but for the last, which has none: fifteen from 0.1 to 40, each so many times the one before.
pub const BUCKETS_S: [f64; 15] = [
    0.1,
    0.1534127404634391,
    0.23535468936502524,
    0.36106407876409946,
    0.5539182980610752,
    0.849781240983936,
    1.303672689737678,
    1.9999999999999993,
    3.0682548092687805,
    4.7070937873005025,
    7.221281575281985,
    11.078365961221499,
    16.995624819678714,
    26.07345379475354,
    39.99999999999997,
];

/// How long things took.
#[derive(Clone, Debug, Default)]
pub struct Spread {
    /// How many were in each bucket.
    pub buckets: [u64; BUCKETS_S.len() + 1],
    /// All together.
    pub sum_s: f64,
}

impl Spread {
    fn add(&mut self, took: Duration) {
        let took_s = took.as_secs_f64();
        self.sum_s += took_s;
        self.buckets[BUCKETS_S.partition_point(|end| *end < took_s)] += 1;
    }
}

/// A call of a driver: its name, the method, the code that it ended with.
pub type Call = (String, String, String);

/// All that is counted.
#[derive(Debug, Default)]
pub struct Counts {
    operations: Mutex<BTreeMap<(&'static str, bool), Spread>>,
    calls: Mutex<BTreeMap<Call, Spread>>,
}

impl Counts {
    /// All claims of a pod were prepared or taken back, or were not.
    pub(super) fn operation(&self, name: &'static str, is_error: bool, took: Duration) {
        self.operations.lock().entry((name, is_error)).or_default().add(took);
    }

    /// A driver was called.
    pub(super) fn call(&self, driver: &str, method: String, code: String, took: Duration) {
        self.calls.lock().entry((driver.to_owned(), method, code)).or_default().add(took);
    }

    /// By operation and whether it failed.
    pub fn operations(&self) -> Vec<((&'static str, bool), Spread)> {
        self.operations.lock().iter().map(|(of, spread)| (*of, spread.clone())).collect()
    }

    /// By call.
    pub fn calls(&self) -> Vec<(Call, Spread)> {
        self.calls.lock().iter().map(|(of, spread)| (of.clone(), spread.clone())).collect()
    }
}
