//! Names on the host by the cluster's mark.
//!
//! A link's name has at most 15 bytes, so links are named by a hash; which cluster and sandbox a link really belongs to
//! stands in its alias. Names are a function of the mark alone: a process that starts after a crash finds what is its own.

use std::fmt;

/// The mark of one cluster on this machine: its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mark(String);

/// FNV-1a, 64 bits: short stable names, no security in it (the alias decides ownership).
pub(crate) fn hash(parts: &[&str]) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for b in part.bytes().chain([0]) {
            h = (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    h
}

impl Mark {
    /// The mark with this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The default name of the node's bridge: `knarr` for itself, short names whole, others by hash; at most 15 bytes.
    pub fn bridge(&self) -> String {
        let plain = self.0.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        match self.0.as_str() {
            "knarr" => "knarr".into(),
            short if plain && !short.is_empty() && short.len() <= 9 => format!("knarr-{short}"),
            _ => format!("knarr{:010x}", hash(&[&self.0]) & 0xff_ffff_ffff),
        }
    }

    /// The host's end of a sandbox's link: `kn`, four digits of the mark, eight of the sandbox.
    pub fn link(&self, sandbox: &str) -> String {
        format!("{}{:08x}", self.link_prefix(), hash(&[&self.0, sandbox]) & 0xffff_ffff)
    }

    /// What every [`Mark::link`] of this mark begins with.
    pub fn link_prefix(&self) -> String {
        format!("kn{:04x}", hash(&[&self.0]) & 0xffff)
    }

    /// The device by which pods of other machines are reached. It begins as all links of pods do, and no pod's has an `x` there.
    pub fn overlay(&self) -> String {
        format!("knx{:08x}", hash(&[&self.0]) & 0xffff_ffff)
    }

    /// A number that routes of this mark have, so that they are found again. (The kernel takes it for their metric.)
    pub fn number(&self) -> u32 {
        (hash(&[&self.0, "routes"]) & 0x3fff_ffff) as u32 | 0x4000_0000
    }

    /// The alias of everything of this mark begins with this.
    pub fn alias(&self) -> String {
        format!("{ALIAS}{}/", self.0)
    }

    /// The pod network's table.
    pub fn table(&self) -> String {
        format!("knarr-{}", self.0)
    }

    /// The service proxy's table.
    pub fn proxy_table(&self) -> String {
        // No mark has a slash in it, so this is no other cluster's table.
        format!("knarr-{}/services", self.0)
    }

    /// The name of the cluster whose proxy has this table, if one has.
    pub(crate) fn of_proxy_table(table: &str) -> Option<&str> {
        table.strip_prefix("knarr-")?.strip_suffix("/services")
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What every pod's link of any cluster begins with.
pub(crate) const LINKS: &str = "kn";
/// In an alias, after the mark: what leads to other machines, and is no pod's.
pub(crate) const OVERLAY: &str = "overlay ";
/// In the alias of the link to a further node of this machine, after the mark and before the node's number and range.
pub(crate) const NODE: &str = "node ";
/// What every alias of any cluster begins with.
pub(crate) const ALIAS: &str = "knarr:";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ() {
        for name in ["knarr", "a", "a-long-name-of-a-cluster-indeed", "böse", ""] {
            let mark = Mark::new(name);
            assert!(mark.bridge().len() <= 15, "{name}");
            assert!(mark.link("3f2a").len() <= 15, "{name}");
            assert!(mark.overlay().len() <= 15 && mark.overlay().starts_with("kn"), "{name}");
        }
        assert_ne!(Mark::new("a").link("s"), Mark::new("b").link("s"));
        assert_eq!(Mark::of_proxy_table(&Mark::new("a-b").proxy_table()), Some("a-b"));
        assert_eq!(Mark::of_proxy_table(&Mark::new("a-b").table()), None);
        assert_eq!(Mark::new("test").bridge(), "knarr-test");
    }
}
