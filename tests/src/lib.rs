//! Real clusters for tests, driven from outside: the program that `KNARR` names makes them as root, the kubectl that
//! `KUBECTL` names (or the one on the path) talks to them, and our client crate where a watch is needed.
//!
//! Every cluster has a name and folders of its own. When a [`Cluster`] is dropped it is taken down, and the test fails if
//! anything of it is left on the machine. Watches, output lines, locks and exits are awaited, each with a limit that a slow
//! machine keeps easily; tests sleep only to choose a moment (of a kill, of load).

pub mod archive;
pub mod host;
pub mod http;
pub mod leftovers;
pub mod machines;
pub mod netns;
pub mod process;
pub mod small;
pub mod watching;
pub mod web;
pub mod workers;

use process::{Output, Running};
use serde_json::Value;
use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// For everything that a healthy cluster does within a second or ten.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// For the start of a cluster with the roll-out of its manifests.
const START: Duration = Duration::from_secs(180);
/// The image that every cluster has; also as `:v2`.
pub const IMAGE: &str = "knarr.local/shop:v1";

/// A cluster of this machine.
pub struct Cluster {
    /// Its name: the test's, and the process's so that two runs do not meet.
    pub name: String,
    /// Its own folder: data, kubeconfig, whatever the test puts there.
    pub folder: PathBuf,
    pub(crate) runtime: tokio::runtime::Runtime,
    options: Vec<String>,
    data: PathBuf,
    kubeconfig: PathBuf,
    /// The network namespace that it is in, if that is not the host's.
    space: Option<PathBuf>,
    stands: bool,
}

/// The program under test.
#[must_use]
pub fn knarr() -> PathBuf {
    let path = std::env::var_os("KNARR").expect("KNARR names the program under test; `cargo xtask test cluster` sets it");
    std::path::absolute(path).expect("a current directory")
}

/// The kubectl to use.
#[must_use]
pub fn kubectl() -> PathBuf {
    std::env::var_os("KUBECTL").map_or_else(|| "kubectl".into(), PathBuf::from)
}

/// A file of the repository's `examples/`.
#[must_use]
pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

/// What every node of the tests is told: it is short of disk only where a test fills it, whatever else lies on the machine's own.
/// Neither are images that nobody uses taken for old ones.
pub const AMPLE: [&str; 2] = ["--eviction-hard=nodefs.available<1Mi", "--image-gc-high-threshold=100"];

/// A command line, split at blanks.
#[must_use]
pub fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

impl Cluster {
    /// A cluster that runs, with these manifests rolled out.
    #[must_use]
    pub fn up(name: &str, manifests: &[PathBuf]) -> Self {
        let mut cluster = Self::new(name);
        cluster.start(manifests).assert_ok();
        cluster
    }

    /// A cluster that is not started yet.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(format!("knarr-test-{name}"));
        if folder.exists() {
            // Of a run with the same number that was killed.
            let mut down = Command::new(knarr());
            down.args(["down", "--name", &name]).arg("--data-dir").arg(folder.join("data")).arg("--kubeconfig").arg(folder.join("config"));
            eprintln!("--- {} was there: {}", folder.display(), process::run(&mut down, &[], PATIENCE));
            let _ = std::fs::remove_dir_all(&folder);
        }
        std::fs::create_dir_all(&folder).expect("a folder for the test");
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o711)).expect("the folder is ours");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        Self { data: folder.join("data"), kubeconfig: folder.join("config"), name, folder, runtime, options: Vec::new(), space: None, stands: false }
    }

    /// The same with options for every `knarr up`.
    #[must_use]
    pub fn with(mut self, options: &[&str]) -> Self {
        self.options = options.iter().map(|o| (*o).to_owned()).collect();
        self
    }

    /// The same with its data elsewhere.
    #[must_use]
    pub fn data_in(mut self, folder: &Path) -> Self {
        self.data = folder.to_owned();
        self
    }

    /// The same in a network namespace, as on another machine: kubectl is there, too.
    #[must_use]
    pub fn inside(mut self, space: &Path) -> Self {
        self.space = Some(space.to_owned());
        self
    }

    /// A program where the cluster is.
    fn program(&self, path: PathBuf) -> Command {
        let Some(space) = &self.space else { return Command::new(path) };
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", space.display())).arg(path);
        command
    }

    /// The same with this kubeconfig, which others may use too.
    #[must_use]
    pub fn kubeconfig_in(mut self, file: &Path) -> Self {
        self.kubeconfig = file.to_owned();
        self
    }

    /// Where its data lies.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Its kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Its volatile folder.
    #[must_use]
    pub fn run_folder(&self) -> PathBuf {
        Path::new("/run/knarr").join(&self.name)
    }

    /// `knarr WORDS… --name … --data-dir … --kubeconfig …`, not run yet.
    #[must_use]
    pub fn knarr(&self, words: &[&str]) -> Command {
        let mut command = self.program(knarr());
        command.args(words).args(["--name", &self.name]).arg("--data-dir").arg(&self.data);
        command.arg("--kubeconfig").arg(self.kubeconfig()).env("HOME", &self.folder).env_remove("KUBECONFIG");
        command
    }

    /// [`AMPLE`], where there is a node to be told.
    fn ample(&self) -> &'static [&'static str] {
        let none = self.options.windows(2).any(|o| o[0] == "--disable" && o[1].contains("kubelet"));
        if none { &[] } else { &AMPLE }
    }

    /// `knarr up --detach`, to its end.
    pub fn start(&mut self, manifests: &[PathBuf]) -> Output {
        // Also what fails half-way is taken down.
        self.stands = true;
        let mut command = self.knarr(&["up", "--detach"]);
        command.args(self.ample()).args(&self.options).args(manifests);
        process::run(&mut command, &[], START)
    }

    /// `knarr up` in the foreground, line by line; what is left of it is taken down when this cluster is dropped.
    pub fn foreground(&mut self, options: &[&str], manifests: &[PathBuf]) -> Running {
        self.stands = true;
        let mut command = self.knarr(&["up"]);
        command.args(self.ample()).args(&self.options).args(options).args(manifests);
        Running::start(command.stdin(Stdio::null()))
    }

    /// `knarr down`, and nothing may be left.
    pub fn down(&mut self) {
        self.stands = false;
        process::run(&mut self.knarr(&["down"]), &[], PATIENCE).assert_ok();
        let left = leftovers::of(&self.name, &self.folder);
        assert!(left.is_empty(), "left behind by the cluster {}:\n{}", self.name, left.join("\n"));
        assert!(!self.data.exists(), "{} is left behind", self.data.display());
    }

    /// `knarr down --keep-data`.
    pub fn down_keeping_data(&mut self) {
        process::run(&mut self.knarr(&["down", "--keep-data"]), &[], PATIENCE).assert_ok();
    }

    /// The process that runs the cluster.
    #[must_use]
    pub fn pid(&self) -> i32 {
        let text = std::fs::read_to_string(self.run_folder().join("lock")).expect("the cluster's lock");
        text.trim().parse().expect("the lock holds the process's ID")
    }

    /// `kill -9` to that process, which may still be dying when this returns: whoever starts the cluster again waits for that.
    pub fn kill(&self) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), nix::sys::signal::Signal::SIGKILL).expect("it runs");
    }

    /// `kubectl WORDS…`, not run yet.
    #[must_use]
    pub fn kubectl_command(&self, words: &[&str]) -> Command {
        let mut command = self.program(kubectl());
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", &self.folder).args(["--context", &self.name]).args(words);
        command
    }

    /// What kubectl says to these words.
    pub fn try_kubectl(&self, words: &[&str]) -> Output {
        process::run(&mut self.kubectl_command(words), &[], PATIENCE)
    }

    /// What kubectl prints for a line, which must succeed.
    pub fn kubectl(&self, line: &str) -> String {
        self.try_kubectl(&words(line)).assert_ok().stdout
    }

    /// The same with something on its standard input.
    pub fn kubectl_with(&self, line: &str, input: &str) -> Output {
        process::run(&mut self.kubectl_command(&words(line)), input.as_bytes(), PATIENCE)
    }

    /// kubectl that goes on running, line by line.
    pub fn kubectl_running(&self, line: &str) -> Running {
        let mut command = self.kubectl_command(&words(line));
        Running::start(command.stdin(Stdio::piped()))
    }

    /// The JSON that `kubectl get … -o json` prints.
    pub fn json(&self, line: &str) -> Value {
        let text = self.kubectl(&format!("{line} -o json"));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("kubectl {line}: {e}: {text}"))
    }

    /// One value of an object, as `-o jsonpath` shows it.
    pub fn value(&self, line: &str, path: &str) -> String {
        let mut all = words(line);
        let path = format!("jsonpath={path}");
        all.extend(["-o", &path]);
        self.try_kubectl(&all).assert_ok().stdout
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str) -> Output {
        self.kubectl_with("apply -f -", manifest).assert_ok()
    }

    /// Waits for a pod to be ready.
    pub fn ready(&self, namespace: &str, pod: &str) {
        self.kubectl(&format!("-n {namespace} wait --for=condition=Ready pod/{pod} --timeout=50s"));
    }

    /// The node's address.
    #[must_use]
    pub fn node_ip(&self) -> String {
        self.value("get nodes", "{.items[0].status.addresses[?(@.type=='InternalIP')].address}")
    }

    /// What helps to understand a failure.
    fn tell(&self) {
        for line in ["get pods,nodes -A -o wide", "get events -A --sort-by=.lastTimestamp"] {
            let told = self.try_kubectl(&words(line));
            eprintln!("--- kubectl {line}\n{}{}", told.stdout, told.stderr);
        }
        let further = std::fs::read_dir(self.data.join("nodes")).into_iter().flatten().flatten().map(|node| node.path());
        for folder in [self.data.clone()].into_iter().chain(further) {
            let path = folder.join("knarr.log");
            let log = std::fs::read_to_string(&path).unwrap_or_default();
            let from = log.len() - log.len().min(8000);
            eprintln!("--- end of {}\n{}", path.display(), log.get(from..).unwrap_or(&log));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        if failing && self.stands {
            self.tell();
        }
        if self.stands {
            if failing {
                // A second panic would hide the first.
                let end = process::run(&mut self.knarr(&["down"]), &[], PATIENCE);
                eprintln!("--- down: {end}\nleft: {:?}", leftovers::of(&self.name, &self.folder));
            } else {
                self.down();
            }
        }
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            eprintln!("{}: {error}", self.folder.display());
        }
    }
}
