//! Under what conditions a figure was measured: it means nothing without them.

use std::{fs, path::Path, process::Command};

/// Prints them.
pub fn print(name: &str) {
    let date = said(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]));
    let load = read("/proc/loadavg");
    println!("# {name}, {date}");
    println!("machine  {} x {}, {} MiB, {}", cores(), model(), memory_mib(), platform());
    println!("kernel   {}, cgroup v{}, {} at {}", read("/proc/sys/kernel/osrelease"), cgroup(), file_system(), std::env::temp_dir().display());
    println!("load     {} (1, 5, 15 minutes before the run; what else runs is in the figures)", load.split(' ').take(3).collect::<Vec<_>>().join(" "));
    if let Some(program) = std::env::var_os("KNARR") {
        println!("program  {} ({})", said(Command::new(&program).arg("--version")), commit());
    }
    println!();
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// What a program prints.
pub fn said(command: &mut Command) -> String {
    command.output().map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

fn model() -> String {
    let info = read("/proc/cpuinfo");
    let line = info.lines().find_map(|l| l.strip_prefix("model name"));
    line.map_or_else(|| "unknown processor".into(), |l| l.trim_start_matches([' ', '\t', ':']).to_owned())
}

fn memory_mib() -> u64 {
    let info = read("/proc/meminfo");
    let total = info.lines().find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    total.unwrap_or(0) / 1024
}

fn platform() -> &'static str {
    if read("/proc/cpuinfo").contains("hypervisor") { "virtual machine" } else { "bare metal" }
}

fn cgroup() -> u8 {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { 2 } else { 1 }
}

fn file_system() -> String {
    said(Command::new("stat").args(["-f", "-c", "%T"]).arg(std::env::temp_dir()))
}

fn commit() -> String {
    let id = said(Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "--short", "HEAD"]));
    if id.is_empty() { "no commit known".into() } else { format!("checkout at {id}") }
}
