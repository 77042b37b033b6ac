//! All that a part counts.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::exposition::{Families, Family, Kind};
use crate::instrument::{Counter, Gauge, Histogram, Instrument};
use crate::labelled::Labelled;

/// A family and the names of its labels, in order.
pub type Declared = (&'static Family, &'static [&'static str]);

/// Something that has samples to tell when it is asked.
pub trait Collect: Send + Sync {
    /// Tells them.
    fn collect(&self, out: &mut Families);
    /// Shows which families those may be of, whether there are any yet or not.
    fn declare(&self, show: &mut dyn FnMut(&'static Family, &[&'static str]));
}

/// What is worked out when somebody asks.
struct Asked<F> {
    declared: &'static [Declared],
    tell: F,
}

impl<F: Fn(&mut Families) + Send + Sync> Collect for Asked<F> {
    fn collect(&self, out: &mut Families) {
        (self.tell)(out);
    }

    fn declare(&self, show: &mut dyn FnMut(&'static Family, &[&'static str])) {
        self.declared.iter().for_each(|(family, labels)| show(family, labels));
    }
}

/// The instruments of a part. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<Vec<Arc<dyn Collect>>>>);

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registry").field(&self.0.lock().len()).finish()
    }
}

/// One instrument without labels, which is told from the beginning.
struct Alone<M>(&'static Family, Arc<M>);

impl<M: Instrument> Collect for Alone<M> {
    fn collect(&self, out: &mut Families) {
        self.1.tell(out, self.0, &[]);
    }

    fn declare(&self, show: &mut dyn FnMut(&'static Family, &[&'static str])) {
        show(self.0, &[]);
    }
}

impl Registry {
    /// Adds whatever has something to tell.
    pub fn register(&self, collector: Arc<dyn Collect>) {
        self.0.lock().push(collector);
    }

    /// Adds what is worked out when somebody asks, of these families.
    pub fn collect(&self, declared: &'static [Declared], tell: impl Fn(&mut Families) + Send + Sync + 'static) {
        self.register(Arc::new(Asked { declared, tell }));
    }

    /// Shows the families that may be told.
    pub fn declare(&self, show: &mut dyn FnMut(&'static Family, &[&'static str])) {
        let all = self.0.lock().clone();
        all.iter().for_each(|one| one.declare(show));
    }

    /// All families that may be told: names, kinds and the names of their labels, in order.
    #[must_use]
    pub fn declared(&self) -> BTreeSet<(&'static str, Kind, Vec<&'static str>)> {
        let mut declared = BTreeSet::new();
        self.declare(&mut |family, labels| {
            declared.insert((family.name, family.kind, labels.to_vec()));
        });
        declared
    }

    fn alone<M: Instrument>(&self, family: &'static Family, instrument: M) -> Arc<M> {
        let instrument = Arc::new(instrument);
        self.register(Arc::new(Alone(family, instrument.clone())));
        instrument
    }

    fn labelled<const N: usize, M: Instrument>(
        &self,
        family: &'static Family,
        names: [&'static str; N],
        make: impl Fn() -> M + Send + Sync + 'static,
    ) -> Arc<Labelled<N, M>> {
        let all = Arc::new(Labelled::new(family, names, make));
        self.register(all.clone());
        all
    }

    /// A counter.
    #[must_use]
    pub fn counter(&self, family: &'static Family) -> Arc<Counter> {
        self.alone(family, Counter::default())
    }

    /// A gauge.
    #[must_use]
    pub fn gauge(&self, family: &'static Family) -> Arc<Gauge> {
        self.alone(family, Gauge::default())
    }

    /// A histogram with these upper ends of its buckets.
    #[must_use]
    pub fn histogram(&self, family: &'static Family, ends: &'static [f64]) -> Arc<Histogram> {
        self.alone(family, Histogram::new(ends))
    }

    /// Counters by labels, whose names are in order.
    #[must_use]
    pub fn counters<const N: usize>(&self, family: &'static Family, names: [&'static str; N]) -> Arc<Labelled<N, Counter>> {
        self.labelled(family, names, Counter::default)
    }

    /// Gauges by labels, whose names are in order.
    #[must_use]
    pub fn gauges<const N: usize>(&self, family: &'static Family, names: [&'static str; N]) -> Arc<Labelled<N, Gauge>> {
        self.labelled(family, names, Gauge::default)
    }

    /// Histograms by labels, whose names are in order.
    #[must_use]
    pub fn histograms<const N: usize>(&self, family: &'static Family, names: [&'static str; N], ends: &'static [f64]) -> Arc<Labelled<N, Histogram>> {
        self.labelled(family, names, move || Histogram::new(ends))
    }

    /// Tells all of it.
    pub fn tell(&self, out: &mut Families) {
        let all = self.0.lock().clone();
        all.iter().for_each(|collector| collector.collect(out));
    }

    /// All of it, in the text format.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = Families::default();
        self.tell(&mut out);
        out.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Family = Family::new("a", Kind::Gauge, "[ALPHA] A.");
    const B: Family = Family::new("b_total", Kind::Counter, "[ALPHA] B.");
    const C: Family = Family::new("c_total", Kind::Counter, "[ALPHA] C.");

    #[test]
    fn all_is_told_in_order_and_two_registries_share_nothing() {
        let (one, other) = (Registry::default(), Registry::default());
        one.counter(&B).add(3);
        one.collect(&[(&A, &["x"])], |out| out.add(&A, &[("x", "1")], 0.5, None));
        let counts = one.counters(&C, ["of"]);
        let samples = |of: &Registry| of.text().lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(samples(&one.clone()), ["a{x=\"1\"} 0.5", "b_total 3"]);
        counts.with(["y"]).inc();
        assert_eq!(samples(&one)[2..], ["c_total{of=\"y\"} 1"]);
        assert_eq!(other.text(), "");
        let declared = [("a", Kind::Gauge, vec!["x"]), ("b_total", Kind::Counter, vec![]), ("c_total", Kind::Counter, vec!["of"])];
        assert_eq!(one.declared(), declared.into());
    }
}
