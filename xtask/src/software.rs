//! `cargo xtask software [NAME…]`: real software against a cluster of this checkout's program (root, go, python3). What is not built yet is
//! built into a folder outside of the repository (`software/build`); each program's `check` runs within its time, and a table tells all.
//!
//! A check tells its results by lines (`ok WHAT`, `WRONG WHAT`); whatever it leaves on the host goes with its process group and the cluster.

use crate::{
    task::{cargo, step},
    test::{kubectl, target, workspace},
};
use anyhow::{Context as _, bail};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

/// What people run on a cluster, rather than what extends one: `cargo xtask test workloads`. They are built of packages that a machine
/// must be able to get, so they are not among the tests that need none.
pub const WORKLOADS: [&str; 4] = ["postgres", "redis", "etcd", "nginx"];
/// Of the cluster that is started.
const CLUSTER: &str = "software";
/// What building one program may take: kueue took fifteen minutes of two loaded cores.
const BUILD_S: u32 = 3600;
/// After its time a check is asked to end, and this later it is ended.
const GRACE_S: u32 = 10;

/// A line of `software/programs.txt`.
#[derive(Debug, PartialEq)]
struct Program {
    name: String,
    time_s: u32,
    version: String,
}

/// What a check told.
struct Outcome<'a> {
    program: &'a Program,
    right: usize,
    wrong: usize,
    ended: &'static str,
    took_s: u64,
}

/// Where everything is.
struct Place {
    folder: PathBuf,
    out: PathBuf,
    knarr: PathBuf,
    kubectl: PathBuf,
    data: PathBuf,
}

/// Runs the task. `OUT` is another folder for what is built, `KNARR` another program, `PORT` the first of the ports that are used.
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    let root = workspace()?;
    let folder = root.join("software");
    let list = std::fs::read_to_string(folder.join("programs.txt")).context("software/programs.txt")?;
    let programs = chosen(programs(&list)?, arguments)?;
    let out = std::env::var_os("OUT").map_or_else(|| target(&root).map(|t| t.join("software")), |out| Ok(out.into()))?;
    step("the programs");
    for program in &programs {
        // One by one: what does not build is told with its name, and what was built stays.
        if !Command::new("timeout").arg(BUILD_S.to_string()).arg(folder.join("build")).arg(&out).arg(&program.name).status()?.success() {
            bail!("{} does not build", program.name);
        }
    }
    let place = Place { folder, knarr: knarr(&root)?, kubectl: kubectl(&root)?, data: out.join("cluster"), out };
    step("the cluster");
    place.up()?;
    let outcomes: anyhow::Result<Vec<Outcome>> = programs.iter().map(|program| place.check(program)).collect();
    place.down()?;
    let outcomes = outcomes?;
    step("what was run");
    print!("{}", table(&outcomes));
    if outcomes.iter().any(|o| o.wrong > 0 || !o.ended.is_empty()) {
        bail!("not everything works; {} tells what", place.out.join("log").display());
    }
    Ok(())
}

fn programs(list: &str) -> anyhow::Result<Vec<Program>> {
    let lines = list.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let (Some(name), Some(time), Some(_), Some(pinned)) = (words.next(), words.next(), words.next(), words.next()) else {
                bail!("programs.txt: {line:?} lacks a word");
            };
            let version = pinned.rsplit_once('@').map_or(pinned, |(_, version)| version);
            Ok(Program { name: name.into(), time_s: time.parse().with_context(|| line.to_owned())?, version: version.into() })
        })
        .collect()
}

fn chosen(all: Vec<Program>, names: &[String]) -> anyhow::Result<Vec<Program>> {
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|p| p.name != **name)) {
        bail!("{unknown:?} is not in programs.txt");
    }
    Ok(all.into_iter().filter(|p| names.is_empty() || names.contains(&p.name)).collect())
}

fn knarr(root: &Path) -> anyhow::Result<PathBuf> {
    if let Some(given) = std::env::var_os("KNARR") {
        return Ok(given.into());
    }
    step("the release program");
    if !cargo(root).args(["build", "--release", "--package", "knarr"]).status()?.success() {
        bail!("the program does not build");
    }
    Ok(target(root)?.join("x86_64-unknown-linux-gnu/release/knarr"))
}

fn first_port() -> anyhow::Result<u16> {
    std::env::var("PORT").map_or(Ok(7443), |port| port.parse().context("PORT"))
}

impl Place {
    fn up(&self) -> anyhow::Result<()> {
        // Of a run that was cut off.
        if self.data.exists() {
            self.down()?;
        }
        let mut command = Command::new(&self.knarr);
        command.arg("up").args(self.cluster()?).args(["--detach", "--port", &first_port()?.to_string()]).arg("--kubeconfig").arg(self.kubeconfig());
        if command.stdout(Stdio::null()).status()?.success() { Ok(()) } else { bail!("the cluster does not start") }
    }

    fn down(&self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.knarr);
        command.arg("down").args(self.cluster()?).arg("--kubeconfig").arg(self.kubeconfig());
        if command.stdout(Stdio::null()).status()?.success() { Ok(()) } else { bail!("the cluster does not go") }
    }

    fn check<'a>(&self, program: &'a Program) -> anyhow::Result<Outcome<'a>> {
        step(&format!("{} {}", program.name, program.version));
        let (logs, work) = (self.out.join("log"), self.out.join("work").join(&program.name));
        std::fs::create_dir_all(&logs)?;
        if work.exists() {
            std::fs::remove_dir_all(&work)?;
        }
        std::fs::create_dir_all(&work)?;
        let log = logs.join(&program.name);
        let started = Instant::now();
        let mut command = Command::new("timeout");
        command.args([&format!("--kill-after={GRACE_S}"), &program.time_s.to_string()]).arg(self.folder.join(&program.name).join("check"));
        command.current_dir(&work).env("WORK", &work).env("OUT", &self.out).env("PORT", (first_port()? + 10).to_string());
        command.env("KUBECONFIG", self.kubeconfig()).env("KUBECTL", &self.kubectl).env("KNARR", &self.knarr).env("CLUSTER", self.cluster()?.join(" "));
        let status = command.stdin(Stdio::null()).stdout(File::create(&log)?).stderr(File::options().append(true).open(&log)?).status()?;
        let told = std::fs::read_to_string(&log)?;
        print!("{told}");
        let count = |word: &str| told.lines().filter(|line| line.starts_with(word)).count();
        let (right, wrong) = (count("ok "), count("WRONG "));
        let ended = match status.code() {
            Some(0) if right > 0 => "",
            Some(0) => "checked nothing",
            Some(124 | 137) => "cut off",
            Some(1) if wrong > 0 => "",
            _ => "died",
        };
        Ok(Outcome { program, right, wrong, ended, took_s: started.elapsed().as_secs() })
    }

    fn kubeconfig(&self) -> PathBuf {
        self.out.join("kubeconfig")
    }

    fn cluster(&self) -> anyhow::Result<[String; 4]> {
        let data = self.data.to_str().context("OUT is not text")?;
        Ok(["--name".into(), CLUSTER.into(), "--data-dir".into(), data.into()])
    }
}

fn table(outcomes: &[Outcome]) -> String {
    let mut out = format!("{:<22}{:<10}{:>6}{:>7}{:>6}\n", "program", "version", "right", "wrong", "s");
    for o in outcomes {
        out.push_str(&format!("{:<22}{:<10}{:>6}{:>7}{:>6}  {}\n", o.program.name, o.program.version, o.right, o.wrong, o.took_s, o.ended));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read() -> anyhow::Result<()> {
        let list = programs("# NAME SECONDS\nhelm  180  go  helm.sh/helm/v4@v4.3.2  cmd/helm\n\npython 60 pip kubernetes@37.0.2\n")?;
        let helm = Program { name: "helm".into(), time_s: 180, version: "v4.3.2".into() };
        assert_eq!(list[0], helm);
        assert_eq!(chosen(list, &["helm".into()])?, [helm]);
        assert!(programs("helm 180").is_err());
        assert!(chosen(programs("")?, &["helm".into()]).is_err());
        Ok(())
    }

    #[test]
    fn the_repository_has_a_check_for_each() -> anyhow::Result<()> {
        let folder = workspace()?.join("software");
        let list = programs(&std::fs::read_to_string(folder.join("programs.txt"))?)?;
        for program in &list {
            assert!(folder.join(&program.name).join("check").is_file(), "{}", program.name);
        }
        assert_eq!(chosen(list, &WORKLOADS.map(str::to_owned))?.len(), WORKLOADS.len());
        Ok(())
    }
}
