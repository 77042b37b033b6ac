//! Machines beside each other: network namespaces on one switch, each with an address of its own. What runs in one reaches the others by
//! that switch alone; disks and processes they have in common. One may join the cluster of another.

use crate::{AMPLE, Cluster, PATIENCE, knarr, leftovers, netns::ip, process, words};
use nix::sys::signal::Signal;
use std::{
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The switch's range, in the one that is set aside for such tests (RFC 2544).
const RANGE: &str = "198.18.78";
/// The same of IPv6 (RFC 5180).
const RANGE6: &str = "2001:2::";

/// How a program is run as the child of the first process of a machine's own, whose end is that of all others.
const BOOT: [&str; 10] =
    ["unshare", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child=SIGKILL", "sh", "-c", "mount -t tmpfs tmpfs /run && \"$@\"; exit $?", "sh"];

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
        (0..number).for_each(|at| machines.plug(at));
        machines
    }

    /// Makes one's network, as it is after its start.
    fn plug(&self, at: usize) {
        let (switch, space) = (self.switch(), self.space(at));
        for line in [
            format!("netns add {space}"),
            format!("-n {switch} link add port{at} type veth peer name eth0 netns {space}"),
            format!("-n {switch} link set port{at} master br0 up"),
            // A card has its address for life: what others know of it stays true.
            format!("-n {space} link set eth0 address 02:00:c6:12:4e:{:02x}", at + 1),
            format!("-n {space} addr add {}/24 dev eth0", self.ip(at)),
            format!("-n {space} addr add {}/64 dev eth0 nodad", self.ip6(at)),
            format!("-n {space} link set eth0 up"),
            format!("-n {space} link set lo up"),
        ] {
            ip(&line).assert_ok();
        }
    }

    /// One's network as it is after another start: whatever was made in it is gone.
    pub fn plug_anew(&self, at: usize) {
        // A namespace takes its links with it, but later.
        ip(&format!("-n {} link del port{at}", self.switch())).assert_ok();
        ip(&format!("netns del {}", self.space(at))).assert_ok();
        self.plug(at);
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

    /// Gives one a further address.
    pub fn also(&self, at: usize, address: &str) {
        ip(&format!("-n {} addr add {address}/24 dev eth0", self.space(at))).assert_ok();
    }

    /// Whether what one sends to an address is lost without a word.
    pub fn loses(&self, at: usize, address: &str, lost: bool) {
        let what = if lost { "add" } else { "del" };
        ip(&format!("-n {} route {what} blackhole {address}/32", self.space(at))).assert_ok();
    }

    /// Its address of IPv6.
    #[must_use]
    pub fn ip6(&self, at: usize) -> String {
        format!("{RANGE6}{}", at + 1)
    }

    /// What it has beside its own link and loopback: links, and routes by whatever they go.
    #[must_use]
    pub fn left(&self, at: usize) -> Vec<String> {
        let space = self.space(at);
        let lines = |line: &str| ip(&format!("-n {space} {line}")).assert_ok().stdout.lines().map(str::to_owned).collect::<Vec<_>>();
        let links = lines("-o link").into_iter().filter(|l| !l.contains(": lo:") && !l.contains(": eth0@"));
        let own = |route: &String| [RANGE, RANGE6, "fe80::"].iter().any(|range| route.starts_with(range));
        links.chain([lines("route"), lines("-6 route")].concat().into_iter().filter(|route| !own(route))).collect()
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

/// A machine's own part of the command line.
pub struct Agent {
    /// The name by which what it makes is marked.
    pub name: String,
    /// Its node's name.
    pub node: &'static str,
    /// Where its data lies, in a folder by the node's name.
    pub folder: PathBuf,
    /// The machine.
    pub space: PathBuf,
}

impl Agent {
    /// One that is to join the cluster on the machine `at`.
    #[must_use]
    pub fn new(cluster: &Cluster, machines: &Machines, at: usize, node: &'static str) -> Self {
        Self { name: format!("{}-{node}", cluster.name), node, folder: cluster.folder.clone(), space: machines.path(at) }
    }

    /// `knarr agent WORDS…` on the machine.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.space.display())).arg(knarr()).arg("agent").args(words);
        command.args(["--name", &self.name, "--node-name", self.node]).arg("--data-dir").arg(self.folder.join(self.node));
        if words != ["--reset"] {
            command.args(AMPLE);
        }
        command.env("HOME", &self.folder).env_remove("KUBECONFIG");
        command
    }

    /// Starts it, and waits until its node is Ready.
    #[must_use]
    pub fn start(&self, words: &[&str]) -> process::Running {
        self.is_ready(&mut self.command(words))
    }

    fn is_ready(&self, command: &mut Command) -> process::Running {
        let mut running = process::Running::start(command.stdin(Stdio::null()));
        running.line(PATIENCE, |line| line.contains(&format!("node {} Ready", self.node)));
        running
    }

    /// The same on a machine whose processes, mounts and volatile directory end with this program ([`Agent::power_off`]).
    #[must_use]
    pub fn boot(&self, words: &[&str]) -> process::Running {
        let plain = self.command(words);
        let mut all = plain.get_args();
        let mut command = Command::new(plain.get_program());
        // Into the machine's network first: its file lies in the directory that is hidden then.
        command.args(all.next()).args(BOOT).args(all).env("HOME", &self.folder).env_remove("KUBECONFIG");
        self.is_ready(&mut command)
    }

    /// Takes the power from what was started by [`Agent::boot`].
    pub fn power_off(&self, running: process::Running) {
        running.signal(Signal::SIGKILL);
        running.end(PATIENCE);
        let end = Instant::now() + PATIENCE;
        while let Some(process) = leftovers::of(&self.name, &self.folder.join(self.node)).iter().find(|what| what.starts_with("process ")) {
            assert!(Instant::now() < end, "{process} runs on");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Why the machine is not taken.
    #[must_use]
    pub fn refused(&self, words: &[&str]) -> String {
        process::run(&mut self.command(words), &[], PATIENCE).assert_fails()
    }

    /// Leaves, and nothing may be left; what it says.
    pub fn reset(&self, machines: &Machines, at: usize) -> String {
        let told = process::run(&mut self.command(&["--reset"]), &[], PATIENCE).assert_ok().stdout;
        let left = [leftovers::of(&self.name, &self.folder.join(self.node)), machines.left(at)].concat();
        assert!(left.is_empty() && !self.folder.join(self.node).exists(), "left behind by {}: {left:#?}", self.node);
        told
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // What a test that fails has left would be in the next one's way.
        if std::thread::panicking() {
            eprintln!("--- reset: {}", process::run(&mut self.command(&["--reset"]), &[], PATIENCE));
        }
    }
}

/// The words of the command that `knarr token create` prints, after `knarr agent`.
#[must_use]
pub fn invitation(cluster: &Cluster) -> Vec<String> {
    let printed = process::run(&mut cluster.knarr(&["token", "create", "--description=for a test"]), &[], PATIENCE).assert_ok().stdout;
    let all: Vec<String> = words(printed.trim()).into_iter().map(str::to_owned).collect();
    assert_eq!(all[..2], ["knarr", "agent"], "{printed}");
    all[2..].to_vec()
}

/// Words that are borrowed.
#[must_use]
pub fn strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}
