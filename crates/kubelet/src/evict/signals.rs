//! What is watched for shortages, and below what a node is short of it: `--eviction-hard` and its like, in upstream's words.

use std::collections::BTreeMap;
use std::time::Duration;

use machinery::quantity::{Format, Quantity};
use machinery::time::parse_go_duration;

use crate::flags::Pairs;

/// What may run short (upstream's `evictionapi.Signal`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Memory of the machine.
    Memory,
    /// Memory that pods may take together.
    AllocatableMemory,
    /// Bytes where pods' volumes and logs lie.
    NodeFs,
    /// Inodes there.
    NodeFsInodes,
    /// Bytes where images lie.
    ImageFs,
    /// Inodes there.
    ImageFsInodes,
    /// Bytes where containers' layers lie: with the images here, so whatever is said of it is what is said of them.
    ContainerFs,
    /// Inodes there.
    ContainerFsInodes,
    /// Process numbers.
    Pids,
}

const NAMES: [(Signal, &str); 9] = [
    (Signal::Memory, "memory.available"),
    (Signal::AllocatableMemory, "allocatableMemory.available"),
    (Signal::NodeFs, "nodefs.available"),
    (Signal::NodeFsInodes, "nodefs.inodesFree"),
    (Signal::ImageFs, "imagefs.available"),
    (Signal::ImageFsInodes, "imagefs.inodesFree"),
    (Signal::ContainerFs, "containerfs.available"),
    (Signal::ContainerFsInodes, "containerfs.inodesFree"),
    (Signal::Pids, "pid.available"),
];

impl Signal {
    fn parse(name: &str) -> Result<Self, String> {
        NAMES.iter().find(|(_, n)| *n == name).map(|(s, _)| *s).ok_or_else(|| format!("unsupported eviction signal {name}"))
    }

    /// As flags and metrics name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        NAMES.iter().find(|(s, _)| *s == self).map_or("", |(_, name)| name)
    }

    /// The resource that is short, as messages name it.
    #[must_use]
    pub fn resource(self) -> &'static str {
        match self {
            Self::Memory | Self::AllocatableMemory => "memory",
            Self::NodeFs | Self::ImageFs | Self::ContainerFs => "ephemeral-storage",
            Self::NodeFsInodes | Self::ImageFsInodes | Self::ContainerFsInodes => "inodes",
            Self::Pids => "pids",
        }
    }

    /// How its amounts are written.
    #[must_use]
    pub fn format(self) -> Format {
        if matches!(self.resource(), "inodes" | "pids") { Format::Decimal } else { Format::Binary }
    }
}

/// An amount, or a share of all there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// So much.
    Quantity(Quantity),
    /// Of one.
    Share(f32),
}

impl Amount {
    /// How much that is of so much.
    #[must_use]
    pub fn of(self, capacity: i64) -> Quantity {
        match self {
            Self::Quantity(q) => q,
            // As upstream's arithmetic has it.
            Self::Share(share) => Quantity::from_value((capacity as f64 * f64::from(share)) as i64, Format::Binary),
        }
    }
}

/// Below this a node is short of something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    /// Of what.
    pub signal: Signal,
    /// Below what.
    pub below: Amount,
    /// How long before anything is done; nothing for a hard threshold.
    pub grace: Duration,
    /// How much more must be there before it is over.
    pub reclaim: Option<Amount>,
}

impl Threshold {
    /// Whether it is acted upon at once.
    #[must_use]
    pub fn is_hard(&self) -> bool {
        self.grace.is_zero()
    }
}

/// What there is, and what there could be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Free.
    pub available: i64,
    /// In all.
    pub capacity: i64,
}

/// By signal; of what is not known there is none.
pub type Observations = BTreeMap<Signal, Observed>;

/// Upstream's `DefaultEvictionHard`, but for the images' file system, which counts by itself only where it is another (see
/// [`super::pressure`]).
pub const DEFAULT_HARD: [&str; 1] = ["memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%"];

fn share(text: &str) -> Result<f32, String> {
    let number = text.trim_end_matches('%');
    number.parse::<f32>().map(|n| n / 100.0).map_err(|_| format!("strconv.ParseFloat: parsing {number:?}: invalid syntax"))
}

fn threshold(signal: Signal, text: &str) -> Result<Option<Amount>, String> {
    let name = signal.as_str();
    if text.ends_with('%') {
        if text == "0%" || text == "100%" {
            return Ok(None);
        }
        let share = share(text)?;
        return match share {
            s if s < 0.0 => Err(format!("eviction percentage threshold {name} must be >= 0%: {text}")),
            s if s > 1.0 => Err(format!("eviction percentage threshold {name} must be <= 100%: {text}")),
            share => Ok(Some(Amount::Share(share))),
        };
    }
    let quantity: Quantity = text.parse().map_err(|e: machinery::quantity::ParseError| e.to_string())?;
    if quantity <= Quantity::ZERO {
        return Err(format!("eviction threshold {name} must be positive: {quantity}"));
    }
    Ok(Some(Amount::Quantity(quantity)))
}

fn thresholds(pairs: &Pairs, mut grace: impl FnMut(Signal) -> Result<Duration, String>) -> Result<Vec<Threshold>, String> {
    let mut out = Vec::new();
    for (name, text) in pairs {
        let signal = Signal::parse(name)?;
        if let Some(below) = threshold(signal, text)? {
            out.push(Threshold { signal, below, grace: grace(signal)?, reclaim: None });
        }
    }
    Ok(out)
}

fn reclaims(pairs: &Pairs) -> Result<BTreeMap<Signal, Amount>, String> {
    let mut out = BTreeMap::new();
    for (name, text) in pairs {
        let signal = Signal::parse(name)?;
        let amount = if text.ends_with('%') {
            let share = share(text)?;
            if share <= 0.0 {
                return Err(format!("eviction percentage minimum reclaim {name} must be positive: {text}"));
            }
            Amount::Share(share)
        } else {
            let quantity: Quantity = text.parse().map_err(|e: machinery::quantity::ParseError| e.to_string())?;
            if quantity < Quantity::ZERO {
                return Err(format!("negative eviction minimum reclaim specified for {name}"));
            }
            Amount::Quantity(quantity)
        };
        out.insert(signal, amount);
    }
    Ok(out)
}

/// The thresholds of four flags (upstream's `ParseThresholdConfig`). `enforced`: pods have a limit together, whose rest counts as the
/// machine's does.
pub fn parse(hard: &Pairs, soft: &Pairs, soft_grace: &Pairs, reclaim: &Pairs, enforced: bool) -> Result<Vec<Threshold>, String> {
    let mut out = thresholds(hard, |_| Ok(Duration::ZERO))?;
    let mut graces = BTreeMap::new();
    let soft = {
        for (name, text) in soft_grace {
            let signal = Signal::parse(name)?;
            let grace = parse_go_duration(text)?;
            if grace < 0 {
                return Err(format!("invalid eviction grace period specified: {text}, must be a positive value"));
            }
            graces.insert(signal, Duration::from_nanos(u64::try_from(grace).unwrap_or(0)));
        }
        let grace = |signal: Signal| {
            let missing = || format!("grace period must be specified for the soft eviction threshold {}", signal.as_str());
            graces.get(&signal).copied().ok_or_else(missing)
        };
        thresholds(soft, grace)?
    };
    out.extend(soft);
    let reclaims = reclaims(reclaim)?;
    for t in &mut out {
        t.reclaim = reclaims.get(&t.signal).copied();
    }
    let of_memory = out.iter().find(|t| enforced && t.signal == Signal::Memory && t.is_hard()).copied();
    out.extend(of_memory.map(|t| Threshold { signal: Signal::AllocatableMemory, ..t }));
    // Layers lie with the images: what is said of theirs apart is not heard (upstream overrides it likewise).
    out.retain(|t| !matches!(t.signal, Signal::ContainerFs | Signal::ContainerFsInodes));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags;

    fn of(hard: &str, soft: &str, grace: &str, reclaim: &str) -> Result<Vec<Threshold>, String> {
        let pairs = |text: &str, by: char| flags::pairs(&[text.to_owned()], by).unwrap();
        parse(&pairs(hard, '<'), &pairs(soft, '<'), &pairs(grace, '='), &pairs(reclaim, '='), false)
    }

    #[test]
    fn flags_are_read_and_refused_in_the_originals_words() {
        let all =
            of("memory.available<100Mi,nodefs.available<10%,imagefs.available<0%", "memory.available<1Gi", "memory.available=1m30s", "memory.available=1Mi")
                .unwrap();
        assert_eq!(all.len(), 3);
        let hard = all.iter().find(|t| t.signal == Signal::Memory && t.is_hard()).unwrap();
        assert_eq!((hard.below.of(0).value(), hard.reclaim.map(|r| r.of(0).value())), (100 << 20, Some(1 << 20)));
        assert_eq!(all.iter().find(|t| t.signal == Signal::NodeFs).unwrap().below.of(1000).to_string(), "100");
        let soft = all.iter().find(|t| !t.is_hard()).unwrap();
        assert_eq!((soft.grace, soft.reclaim.is_some()), (Duration::from_secs(90), true));
        let refused = |hard: &str, soft: &str, grace: &str, reclaim: &str| of(hard, soft, grace, reclaim).unwrap_err();
        assert_eq!(refused("mem<1Gi", "", "", ""), "unsupported eviction signal mem");
        assert_eq!(refused("memory.available<-1Gi", "", "", ""), "eviction threshold memory.available must be positive: -1Gi");
        assert_eq!(refused("nodefs.available<120%", "", "", ""), "eviction percentage threshold nodefs.available must be <= 100%: 120%");
        assert_eq!(refused("", "memory.available<1Gi", "", ""), "grace period must be specified for the soft eviction threshold memory.available");
        assert_eq!(refused("", "", "memory.available=-1s", ""), "invalid eviction grace period specified: -1s, must be a positive value");
        assert_eq!(refused("", "", "memory.available=soon", ""), "time: invalid duration \"soon\"");
        assert_eq!(refused("", "", "", "memory.available=-5Mi"), "negative eviction minimum reclaim specified for memory.available");
        assert!(refused("memory.available<much", "", "", "").starts_with("quantities must match"));
    }

    #[test]
    fn what_pods_may_take_together_runs_short_as_the_machine_does() {
        let hard = flags::pairs(&DEFAULT_HARD.map(str::to_owned), '<').unwrap();
        let none = Pairs::new();
        let all = parse(&hard, &none, &none, &none, true).unwrap();
        let of = |s: Signal| all.iter().find(|t| t.signal == s).map(|t| t.below);
        assert_eq!(of(Signal::AllocatableMemory), of(Signal::Memory));
        assert_eq!(all.len(), 6);
    }
}
