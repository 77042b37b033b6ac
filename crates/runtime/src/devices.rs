//! Which device files a container may use. Version 1 has files for that in the cgroup; version 2 wants a program attached to
//! it, which is made here by hand: for each rule a few comparisons that let pass, and at the end a refusal.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::error::{Error, Result};
use crate::proto::CgroupPlan;
use crate::sys;

/// The device files that every container may use, in version 1's words (the default list of the OCI runtimes).
const DEVICES: [&str; 12] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
    "c 10:200 rwm",
];

/// Lets the cgroup use the standard devices and those given (in the same form), nothing else.
pub(crate) fn restrict(plan: &CgroupPlan, extra: &[String]) -> Result<()> {
    let rules = || DEVICES.iter().copied().chain(extra.iter().map(String::as_str));
    if plan.unified {
        let Some(dir) = plan.dirs.first() else { return Ok(()) };
        let rules: Option<Vec<Rule>> = rules().map(Rule::parse).collect();
        let program = program(&rules.ok_or_else(|| Error::Invalid("a device rule makes no sense".to_owned()))?);
        return attach(dir, &program).map_err(|e| Error::io(format!("cannot restrict the devices of {}", dir.display()), e));
    }
    // Without that hierarchy any container could make and open the host's disks: as with runc, there is none then.
    let dir = plan.dirs.iter().find(|d| d.join("devices.deny").exists());
    let dir = dir.ok_or_else(|| Error::State("the devices cgroup is not mounted: containers could use every device of the host".to_owned()))?;
    let put = |file: &str, rule: &str| {
        let file = dir.join(file);
        fs::write(&file, rule).map_err(|e| Error::io(format!("cannot write {rule:?} to {}", file.display()), e))
    };
    put("devices.deny", "a")?;
    rules().try_for_each(|rule| put("devices.allow", rule))
}

/// `c 136:* rwm`
struct Rule {
    kind: i32,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

impl Rule {
    fn parse(text: &str) -> Option<Rule> {
        let mut words = text.split(' ');
        let kind = match words.next()? {
            "b" => 1,
            "c" => 2,
            _ => return None,
        };
        let (major, minor) = words.next()?.split_once(':')?;
        let number = |t: &str| if t == "*" { Some(None) } else { t.parse().ok().map(Some) };
        let bit = |b: u8| match b {
            b'm' => Some(1),
            b'r' => Some(2),
            b'w' => Some(4),
            _ => None,
        };
        let access = words.next()?.bytes().try_fold(0, |all, b| Some(all | bit(b)?))?;
        Some(Rule { kind, major: number(major)?, minor: number(minor)?, access })
    }
}

/// An instruction of the extended machine: `struct bpf_insn`.
fn instruction(code: u8, to: u8, from: u8, jump: i16, value: i32) -> u64 {
    let registers = u64::from(to | from << 4);
    u64::from(code) | registers << 8 | u64::from(jump as u16) << 16 | u64::from(value as u32) << 32
}

/// Register 1 points to what is asked: type and access in one word, major, minor.
fn program(rules: &[Rule]) -> Vec<u64> {
    const LOAD: u8 = 0x61;
    const AND: u8 = 0x54;
    const SHIFT_RIGHT: u8 = 0x74;
    const COPY: u8 = 0xbc;
    const SET: u8 = 0xb7;
    const UNEQUAL: u8 = 0x55;
    const EXIT: u8 = 0x95;
    let mut code = vec![
        instruction(LOAD, 2, 1, 0, 0),
        instruction(COPY, 3, 2, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD, 4, 1, 4, 0),
        instruction(LOAD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let tests = [(2, Some(rule.kind)), (4, rule.major), (5, rule.minor)];
        let tests = tests.into_iter().filter_map(|(register, value)| Some((register, value?)));
        // Each test jumps behind the rule; how far is known when all are there.
        let mut body: Vec<(u64, bool)> = tests.map(|(register, value)| (instruction(UNEQUAL, register, 0, 0, value), true)).collect();
        if rule.access != 7 {
            body.push((instruction(COPY, 6, 3, 0, 0), false));
            body.push((instruction(AND, 6, 0, 0, !rule.access & 7), false));
            body.push((instruction(UNEQUAL, 6, 0, 0, 0), true));
        }
        body.push((instruction(SET, 0, 0, 0, 1), false));
        body.push((instruction(EXIT, 0, 0, 0, 0), false));
        let length = body.len();
        code.extend(body.into_iter().enumerate().map(|(at, (one, jumps))| if jumps { one | ((length - at - 1) as u64) << 16 } else { one }));
    }
    code.extend([instruction(SET, 0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    code
}

fn attach(dir: &Path, program: &[u64]) -> io::Result<()> {
    sys::attach_device_program(&File::open(dir)?, program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_one_without_its_hierarchy_is_refused() {
        let dir = std::env::temp_dir().join(format!("knarr-devices-v1-{}", std::process::id()));
        // Of a run with the same number that was killed.
        let _ = std::fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let plan = CgroupPlan { dirs: vec![dir.clone()], memory: None, unified: false };
        let error = restrict(&plan, &[]).unwrap_err().to_string();
        assert!(error.contains("devices cgroup is not mounted"), "{error}");
        for file in ["devices.deny", "devices.allow"] {
            fs::write(dir.join(file), "").unwrap();
        }
        restrict(&plan, &["c 1:11 r".to_owned()]).unwrap();
        assert_eq!(
            (fs::read_to_string(dir.join("devices.deny")).unwrap(), fs::read_to_string(dir.join("devices.allow")).unwrap()),
            ("a".into(), "c 1:11 r".into())
        );
        fs::remove_dir_all(&dir).unwrap();
    }

    /// On the real kernel, as root, where a hierarchy of version 2 is mounted somewhere.
    #[test]
    fn version_two_refuses_what_is_not_in_the_list() {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let Some(root) = mounts.lines().find(|l| l.split(' ').nth(2) == Some("cgroup2")).and_then(|l| l.split(' ').nth(1)) else { return };
        let dir = Path::new(root).join(format!("knarr-devices-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let plan = CgroupPlan { dirs: vec![dir.clone()], memory: None, unified: true };
        restrict(&plan, &["c 1:11 r".to_owned()]).unwrap();
        let inside = |command: &str| {
            let script = format!("echo $$ > {}/cgroup.procs && {command}", dir.display());
            std::process::Command::new("sh").arg("-c").arg(script).stderr(std::process::Stdio::null()).status().unwrap().success()
        };
        // Opening decides: /dev/kmsg is 1:11, given for reading alone.
        let results = (inside("head -c1 /dev/zero > /dev/null"), inside(": < /dev/kmsg"), inside(": <> /dev/kmsg"));
        fs::remove_dir(&dir).unwrap();
        assert_eq!(results, (true, true, false));
    }
}
