//! Machines beside each other: network namespaces on one switch, each with an address of its own. What runs in one reaches the others by
//! that switch alone; disks and processes they have in common.

use crate::netns::ip;
use std::path::PathBuf;

/// The switch's range, in the one that is set aside for such tests (RFC 2544).
const RANGE: &str = "198.18.78";

/// Some machines; they go with this value.
pub struct Machines {
    name: String,
    number: usize,
}

impl Machines {
    /// Makes so many. `test`: machines of other tests of this process are others.
    #[must_use]
    pub fn new(test: &str, number: usize) -> Self {
        let machines = Self { name: format!("knarr-{test}-{}", std::process::id()), number };
        let switch = machines.switch();
        for line in [format!("netns add {switch}"), format!("-n {switch} link add br0 type bridge"), format!("-n {switch} link set br0 up")] {
            ip(&line).assert_ok();
        }
        for at in 0..number {
            let space = machines.space(at);
            for line in [
                format!("netns add {space}"),
                format!("-n {switch} link add port{at} type veth peer name eth0 netns {space}"),
                format!("-n {switch} link set port{at} master br0 up"),
                format!("-n {space} addr add {}/24 dev eth0", machines.ip(at)),
                format!("-n {space} link set eth0 up"),
                format!("-n {space} link set lo up"),
            ] {
                ip(&line).assert_ok();
            }
        }
        machines
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.name)
    }

    fn space(&self, at: usize) -> String {
        format!("{}-{at}", self.name)
    }

    /// The file that stands for one.
    #[must_use]
    pub fn path(&self, at: usize) -> PathBuf {
        PathBuf::from("/run/netns").join(self.space(at))
    }

    /// Its address.
    #[must_use]
    pub fn ip(&self, at: usize) -> String {
        format!("{RANGE}.{}", at + 1)
    }

    /// What it has beside its own link and loopback: links, and routes by whatever they go.
    #[must_use]
    pub fn left(&self, at: usize) -> Vec<String> {
        let space = self.space(at);
        let lines = |line: &str| ip(&format!("-n {space} {line}")).assert_ok().stdout.lines().map(str::to_owned).collect::<Vec<_>>();
        let links = lines("-o link").into_iter().filter(|l| !l.contains(": lo:") && !l.contains(": eth0@"));
        links.chain(lines("route").into_iter().filter(|r| !r.starts_with(RANGE))).collect()
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        // Their links go with them.
        for space in (0..self.number).map(|at| self.space(at)).chain([self.switch()]) {
            ip(&format!("netns del {space}"));
        }
    }
}
