//! What of a cluster is on this machine: everything that `knarr down` must have removed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Everything that carries the cluster's name, or lies in its folder.
#[must_use]
pub fn of(name: &str, folder: &Path) -> Vec<String> {
    let mut found = processes(name);
    found.extend(mounts(name, folder).into_iter().map(|m| format!("mount {m}")));
    found.extend(devices(folder).into_iter().map(|d| format!("device {d}")));
    found.extend(entries("/run/netns").into_iter().filter(|n| file_name(n) == name).map(|n| format!("namespace {}", n.display())));
    found.extend(cgroups(name).into_iter().map(|c| format!("cgroup {}", c.display())));
    found.extend(links(name).into_iter().map(|l| format!("link {l}")));
    found.extend(tables(name).into_iter().map(|t| format!("nftables {t}")));
    let run = Path::new("/run/knarr").join(name);
    if run.exists() {
        found.push(format!("{}: {:?}", run.display(), entries(&run)));
    }
    found
}

fn entries(folder: impl AsRef<Path>) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Processes in the cluster's control groups, and those whose command line names the cluster: knarr itself and its shims.
fn processes(name: &str) -> Vec<String> {
    let (group, run) = (format!(":/{name}"), format!("/run/knarr/{name}/"));
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for process in entries("/proc") {
        let pid = file_name(&process);
        if pid == own || pid.parse::<u32>().is_err() {
            continue;
        }
        let command = fs::read(process.join("cmdline")).unwrap_or_default();
        let words: Vec<_> = command.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
        let groups = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
        let inside = groups.lines().any(|l| l.split_once(&group).is_some_and(|(_, rest)| rest.is_empty() || rest.starts_with('/')));
        if inside || words.iter().any(|w| *w == name || w.contains(&run)) {
            found.push(format!("process {pid}: {}", words.join(" ")));
        }
    }
    found
}

fn mounts(name: &str, folder: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let (run, folder) = (format!("/run/knarr/{name}/"), format!("{}/", folder.display()));
    let ours = |l: &&str| l.contains(&run) || l.contains(&folder);
    table.lines().filter(ours).map(str::to_owned).collect()
}

/// Loop devices of files in the folder, also of deleted ones.
fn devices(folder: &Path) -> Vec<String> {
    let folder = format!("{}/", folder.display());
    let file = |d: PathBuf| fs::read_to_string(d.join("loop/backing_file")).ok();
    entries("/sys/block").into_iter().filter_map(file).filter(|f| f.starts_with(&folder)).map(|f| f.trim().to_owned()).collect()
}

fn cgroups(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let of_each = entries(root).into_iter().map(|h| h.join(name));
    of_each.chain([root.join(name)]).filter(|p| p.exists()).collect()
}

/// Links by their alias, which names the cluster.
fn links(name: &str) -> Vec<String> {
    let alias = format!("knarr:{name}/");
    let of_ours = |l: &PathBuf| fs::read_to_string(l.join("ifalias")).is_ok_and(|a| format!("{}/", a.trim()).starts_with(&alias));
    entries("/sys/class/net").into_iter().filter(of_ours).map(|l| file_name(&l)).collect()
}

/// Tables of nftables, if its program is installed.
fn tables(name: &str) -> Vec<String> {
    let Ok(output) = Command::new("nft").args(["list", "tables"]).output() else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (one, more) = (format!("knarr-{name}"), format!("knarr-{name}/"));
    let ours = |l: &&str| l.split_whitespace().any(|w| w.trim_matches('"') == one || w.trim_matches('"').starts_with(&more));
    text.lines().filter(ours).map(str::to_owned).collect()
}
