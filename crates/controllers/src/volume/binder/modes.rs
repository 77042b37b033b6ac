//! Sets of access modes: volumes of one set lie together, and claims look at the smallest sets that hold theirs first
//! (upstream's `index.go`).

/// Known modes, in the order in which upstream writes them.
const KNOWN: [&str; 4] = ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"];

/// A set of access modes. Smaller sets come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Modes {
    count: u32,
    bits: u8,
}

impl Modes {
    /// Validation lets nothing but known modes through.
    pub(super) fn of(modes: Option<&Vec<String>>) -> Self {
        let named = modes.into_iter().flatten().filter_map(|mode| KNOWN.iter().position(|known| known == mode));
        let bits = named.fold(0, |bits, at| bits | 1 << at);
        Self { count: u8::count_ones(bits), bits }
    }

    pub(super) fn hold(self, wanted: Self) -> bool {
        self.bits & wanted.bits == wanted.bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_set_that_holds_what_is_wanted_comes_first() {
        let of = |modes: &[&str]| Modes::of(Some(&modes.iter().map(|m| (*m).to_owned()).collect()));
        let (once, both, all) = (of(&[KNOWN[0]]), of(&[KNOWN[1], KNOWN[0], KNOWN[0]]), of(&KNOWN));
        let mut sets = [all, both, once];
        sets.sort_unstable();
        assert_eq!(sets, [once, both, all]);
        assert!(both.hold(once) && both.hold(both) && !once.hold(both) && once.hold(Modes::of(None)));
        assert!(!all.hold(once) || !of(&[KNOWN[3]]).hold(once), "once by a pod is not once by a node");
    }
}
