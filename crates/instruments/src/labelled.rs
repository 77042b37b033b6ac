//! Instruments that are told apart by labels.

use std::cmp::Ordering;
use std::fmt;
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;

use crate::exposition::{Families, Family};
use crate::instrument::Instrument;
use crate::registry::Collect;

/// How many series a family may have. What comes beyond is counted and not told: labels that users choose cannot fill the memory.
pub const SERIES_MAX: usize = 2000;

/// An instrument and the values of its labels.
type Series<const N: usize, M> = ([Box<str>; N], Arc<M>);

/// One instrument for each choice of labels.
pub struct Labelled<const N: usize, M> {
    family: &'static Family,
    /// In order.
    names: [&'static str; N],
    make: Box<dyn Fn() -> M + Send + Sync>,
    /// By their values, in order.
    held: RwLock<Vec<Series<N, M>>>,
    beyond: OnceLock<Arc<M>>,
}

impl<const N: usize, M> fmt::Debug for Labelled<N, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Labelled").field("family", &self.family.name).finish_non_exhaustive()
    }
}

impl<const N: usize, M: Instrument> Labelled<N, M> {
    /// None yet. The names of labels are in order.
    pub(crate) fn new(family: &'static Family, names: [&'static str; N], make: impl Fn() -> M + Send + Sync + 'static) -> Self {
        debug_assert!(names.is_sorted(), "labels of {} are not in order", family.name);
        Self { family, names, make: Box::new(make), held: RwLock::default(), beyond: OnceLock::new() }
    }

    /// The instrument of these values. Nothing is allocated if it is there; who counts on it often keeps it.
    pub fn with(&self, values: [&str; N]) -> Arc<M> {
        let held = self.held.read();
        if let Ok(at) = held.binary_search_by(|(key, _)| order(key, &values)) {
            return held[at].1.clone();
        }
        drop(held);
        let mut held = self.held.write();
        match held.binary_search_by(|(key, _)| order(key, &values)) {
            Ok(at) => held[at].1.clone(),
            Err(_) if held.len() >= SERIES_MAX => self.beyond.get_or_init(|| Arc::new((self.make)())).clone(),
            Err(at) => {
                let made = Arc::new((self.make)());
                held.insert(at, (values.map(Box::from), made.clone()));
                made
            }
        }
    }

    /// Shows all, in the order of their values.
    pub fn each(&self, mut show: impl FnMut([&str; N], &M)) {
        for (values, instrument) in self.held.read().iter() {
            show(std::array::from_fn(|at| &*values[at]), instrument);
        }
    }

    /// Forgets one: what it counted is gone.
    pub fn forget(&self, values: [&str; N]) {
        let mut held = self.held.write();
        if let Ok(at) = held.binary_search_by(|(key, _)| order(key, &values)) {
            held.remove(at);
        }
    }
}

fn order<const N: usize>(key: &[Box<str>; N], values: &[&str; N]) -> Ordering {
    key.iter().map(AsRef::as_ref).cmp(values.iter().copied())
}

impl<const N: usize, M: Instrument> Collect for Labelled<N, M> {
    fn collect(&self, out: &mut Families) {
        self.each(|values, instrument| {
            let labels: [(&str, &str); N] = std::array::from_fn(|at| (self.names[at], values[at]));
            instrument.tell(out, self.family, &labels);
        });
    }

    fn declare(&self, show: &mut dyn FnMut(&'static Family, &[&'static str])) {
        show(self.family, &self.names);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Counter, Kind};

    const C: Family = Family::new("c_total", Kind::Counter, "[STABLE] C.");

    fn told(of: &impl Collect) -> String {
        let mut out = Families::default();
        of.collect(&mut out);
        out.finish()
    }

    #[test]
    fn each_choice_of_labels_is_counted_by_itself() {
        let all = Labelled::new(&C, ["a", "b"], Counter::default);
        assert_eq!(told(&all), "", "what was never counted is not told");
        all.with(["y", "1"]).inc();
        all.with(["x", "2"]).add(2);
        all.with(["y", "1"]).inc();
        assert_eq!(told(&all), "# HELP c_total [STABLE] C.\n# TYPE c_total counter\nc_total{a=\"x\",b=\"2\"} 2\nc_total{a=\"y\",b=\"1\"} 2\n");
        all.forget(["x", "2"]);
        assert!(!told(&all).contains("\"x\""));
    }

    #[test]
    fn what_users_name_cannot_fill_the_memory() {
        let all = Labelled::new(&C, ["namespace"], Counter::default);
        (0..SERIES_MAX + 10).for_each(|n| all.with([&n.to_string()]).inc());
        assert_eq!(told(&all).lines().count(), SERIES_MAX + 2);
        all.with(["0"]).inc();
        assert_eq!(all.with(["0"]).get(), 2, "those that are there go on");
        assert_eq!(all.with(["one more"]).get(), 10);
    }
}
