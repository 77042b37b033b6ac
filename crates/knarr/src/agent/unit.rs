//! An agent as a service of systemd: its unit, and the word that it runs.

use crate::cli::Agent;
use anyhow::Context as _;
use std::{
    ffi::{OsStr, OsString},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    path::Path,
    time::Duration,
};

/// The variable that holds the token, so that neither the unit nor the list of processes does.
pub const TOKEN: &str = "KNARR_TOKEN";
/// Where systemd listens to its services.
const SOCKET: &str = "NOTIFY_SOCKET";
/// A start that has failed rests so long before it ends. The unit waits hardly at all, for the sake of the node's DNS after a kill; what fails
/// by itself, on a full disk for one, is not to be started ten times a second.
const REST: Duration = Duration::from_millis(400);
/// Options with a path, which a service would look for elsewhere.
const PATHS: [&str; 5] = ["--data-dir", "--registries", "--pod-manifest-path", "--image-credential-provider-config", "--image-credential-provider-bin-dir"];

/// The unit of this very command.
pub fn text(command: &Agent) -> anyhow::Result<String> {
    let program = std::env::current_exe().context("this program cannot find itself")?;
    let words =
        words(std::env::args_os().skip(1).map(OsString::into_string).collect::<Result<_, _>>().map_err(|word| anyhow::anyhow!("{word:?} is no text"))?)?;
    let start = std::iter::once(program.display().to_string()).chain(words).map(|word| quoted(&word)).collect::<Vec<_>>().join(" ");
    let name = &command.name;
    Ok(format!(
        "# A node of a Kubernetes cluster. As /etc/systemd/system/{name}-agent.service, started by:\n\
         #   install -d -m 0700 /etc/knarr && (umask 077 && echo {TOKEN}=ID.SECRET > /etc/knarr/{name}.env)\n\
         #   systemctl daemon-reload && systemctl enable --now {name}-agent\n\
         # The file with the token is for the first start alone, and can be removed then. Before `knarr agent --reset`:\n\
         #   systemctl disable --now {name}-agent\n\
         [Unit]\nDescription=Node of a Kubernetes cluster (knarr)\nWants=network-online.target\nAfter=network-online.target\n\
         # However often it fails, a full disk for one: it is tried again.\nStartLimitIntervalSec=0\n\n\
         [Service]\nType=notify\nEnvironmentFile=-/etc/knarr/{name}.env\nExecStart={start}\n\
         # Containers run on when this ends, and the next start takes them over. It comes soon: until then this node's pods have no DNS if it was killed.\n\
         KillMode=process\nRestart=always\nRestartSec=100ms\nTimeoutStartSec=infinity\n\
         LimitNOFILE=1048576\nTasksMax=infinity\nDelegate=yes\n\n\
         [Install]\nWantedBy=multi-user.target\n"
    ))
}

/// The command's words without the token and the wish for a unit, with paths from the root.
fn words(all: Vec<String>) -> anyhow::Result<Vec<String>> {
    let mut words = Vec::new();
    let mut all = all.into_iter();
    while let Some(word) = all.next() {
        let (option, value) = match word.split_once('=') {
            Some((option, value)) if option.starts_with("--") => (option.to_owned(), Some(value.to_owned())),
            _ => (word, None),
        };
        match option.as_str() {
            "--print-unit" => {}
            "--token" => drop(value.or_else(|| all.next())),
            path if PATHS.contains(&path) => {
                let value = value.or_else(|| all.next()).with_context(|| format!("{option} has no value"))?;
                words.push(format!("{option}={}", std::path::absolute(Path::new(&value))?.display()));
            }
            _ => words.push(value.map_or_else(|| option.clone(), |value| format!("{option}={value}"))),
        }
    }
    Ok(words)
}

/// A word of a unit's command line: no variable and no specifier is meant.
fn quoted(word: &str) -> String {
    let word = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$").replace('\n', "\\n");
    let plain = !word.is_empty() && word.chars().all(|c| !c.is_whitespace() && !matches!(c, '\'' | '"' | ';' | '\\'));
    if plain { word } else { format!("\"{word}\"") }
}

/// The unit of systemd that a process is the main one of: it is the first process's child, in the unit's own control group.
pub fn of(process: i32) -> Option<String> {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{process}/{file}"));
    unit_of(&read("stat").ok()?, &read("cgroup").ok()?)
}

fn unit_of(stat: &str, groups: &str) -> Option<String> {
    // After the command's name, which may hold anything: state and parent.
    let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
    let unit = groups.lines().find_map(|line| line.rsplit_once('/').map(|(_, last)| last).filter(|last| last.ends_with(".service")))?;
    (parent == "1").then(|| unit.to_owned())
}

/// How long this rests before it ends with an error: not where nobody starts it again.
pub fn rest() -> Duration {
    rest_of(std::env::var_os(SOCKET).as_deref())
}

fn rest_of(socket: Option<&OsStr>) -> Duration {
    if socket.is_some_and(|path| !path.is_empty()) { REST } else { Duration::ZERO }
}

/// Tells systemd, if it has started this, that the node runs.
pub fn ready() {
    let Some(path) = std::env::var_os(SOCKET) else { return };
    let told = || {
        let socket = UnixDatagram::unbound()?;
        let address = match path.to_str().and_then(|path| path.strip_prefix('@')) {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        socket.send_to_addr(b"READY=1", &address)
    };
    if let Err(error) = told() {
        tracing::warn!(%error, "systemd is not told that the node runs");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_would_start_it_again_is_known() {
        let groups = "1:name=systemd:/system.slice/knarr-agent.service\n0::/system.slice/knarr-agent.service\n";
        assert_eq!(unit_of("7 (a) b) S 1 7 7", groups).as_deref(), Some("knarr-agent.service"));
        assert_eq!(unit_of("7 (knarr) S 1 7 7", "0::/user.slice/session-1.scope\n"), None);
        assert_eq!(unit_of("7 (knarr) S 4711 7 7", groups), None, "somebody's who runs in a service");
    }

    #[test]
    fn only_a_service_rests_before_it_ends() {
        assert_eq!((rest_of(Some(OsStr::new("/run/systemd/notify"))), rest_of(Some(OsStr::new(""))), rest_of(None)), (REST, Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn a_unit_has_the_command_without_its_secret() {
        let all = [
            "agent",
            "--join",
            "https://a:6443",
            "--token",
            "abcdef.0123456789abcdef",
            "--print-unit",
            "--data-dir=/d/x y",
            "--labels=a=b",
            "--node-name",
            "n",
        ];
        let all = words(all.map(str::to_owned).to_vec()).unwrap();
        assert_eq!(all, ["agent", "--join", "https://a:6443", "--data-dir=/d/x y", "--labels=a=b", "--node-name", "n"]);
        assert_eq!(words(vec!["--token=abcdef.0123456789abcdef".into()]).unwrap(), [""; 0]);
        let options = <Agent as clap::Args>::augment_args(clap::Command::new("agent"));
        let paths = options.get_arguments().filter(|option| option.get_value_parser().type_id() == std::any::TypeId::of::<std::path::PathBuf>());
        let paths: Vec<String> = paths.filter_map(|option| Some(format!("--{}", option.get_long()?))).collect();
        assert!(paths.contains(&"--data-dir".to_owned()), "{paths:?}");
        for option in paths {
            let relative = words(vec![option.clone(), "d".into()]).unwrap();
            assert!(relative[0].starts_with(&format!("{option}=/")) && relative[0].ends_with("/d"), "{relative:?}");
        }
        assert_eq!(
            ["a", "--data-dir=/d/x y", "50%", "$HOME", "", "a\"b"].map(quoted),
            ["a", "\"--data-dir=/d/x y\"", "50%%", "$$HOME", "\"\"", "\"a\\\"b\""].map(str::to_owned)
        );
    }
}
