//! Filters of system calls: the default profile of container runtimes, and profile files, compiled to classic BPF.
//!
//! A program first checks the architecture, then finds the call's number by binary search among ranges with the same
//! answer, so that an allowed call costs about eight comparisons. 32-bit programs have numbers of their own: where a profile
//! names their architecture (the default does) its rules hold for them by the calls' names, else they are killed, as with
//! libseccomp. x86's x32 numbers do not exist: they mean other things, and would pass by every rule of a list of what is
//! denied. (A profile may name x32, and containerd's default one does; nearly all kernels are made without it, and answer just so.) What 32-bit programs give to `socketcall` lies in memory, where a filter cannot look, so a rule about a socket's
//! family does not hold for that call (containerd's default profile says so of itself).
//! As with runc, a call that is newer than everything the profile names does not exist (`ENOSYS`) instead of being forbidden,
//! so that C libraries fall back to an older one.

mod profile;
mod table;
#[cfg(target_arch = "x86_64")]
mod table32;

use std::collections::BTreeMap;
use std::path::Path;

use crate::caps;
use crate::error::{Error, Result};
use crate::sys;

/// An instruction as the kernel takes it: code, jump if true, jump if false, operand.
pub(crate) type Instruction = (u16, u8, u8, u32);

/// Programs are at most this long (the kernel's `BPF_MAXINSNS`).
const INSTRUCTIONS_MAX: usize = 4096;

const ALLOW: u32 = 0x7fff_0000;
const LOG: u32 = 0x7ffc_0000;
const TRACE: u32 = 0x7ff0_0000;
const ERRNO: u32 = 0x0005_0000;
const NO_SUCH_CALL: u32 = ERRNO | libc::ENOSYS as u32;
/// The bit of x32's numbers, beyond every other architecture's.
const X32: u32 = 0x4000_0000;
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xC000_00B7;
/// `AUDIT_ARCH_I386`.
const ARCHITECTURE_32: u32 = 0x4000_0003;
/// What becomes of a call of an architecture that the profile does not name: libseccomp kills the thread.
const FOREIGN: u32 = 0;

/// Classic BPF: load a word of the call's data, compare, return.
mod op {
    pub(super) const LOAD: u16 = 0x20;
    pub(super) const AND: u16 = 0x54;
    pub(super) const JUMP: u16 = 0x05;
    pub(super) const EQUAL: u16 = 0x15;
    pub(super) const GREATER: u16 = 0x25;
    pub(super) const AT_LEAST: u16 = 0x35;
    pub(super) const RETURN: u16 = 0x06;
}

/// How an argument of a call is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// `argument & mask == value`
    Masked(u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    argument: u32,
    compare: Compare,
    value: u64,
}

/// An action for when all conditions hold.
type Clause = (Vec<Condition>, u32);

/// What is done with calls by their number.
type Calls = BTreeMap<u32, Vec<Clause>>;

/// What a filter does with each call.
#[derive(Debug, Default)]
struct Rules {
    default: u32,
    calls: Calls,
    /// The same for 32-bit programs, if they may run.
    calls_32: Option<Calls>,
    /// `SECCOMP_FILTER_FLAG_*`
    flags: u32,
}

/// What a process gives to the kernel.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    pub(crate) program: Vec<Instruction>,
    pub(crate) flags: u32,
}

impl Rules {
    fn add(&mut self, name: &str, conditions: Vec<Condition>, action: u32) {
        if let Some(calls) = &mut self.calls_32 {
            add_32(calls, name, &conditions, action);
        }
        if let Some(number) = table::number(name) {
            self.calls.entry(number).or_default().push((conditions, action));
        }
    }
}

/// A rule for 32-bit programs: for the call itself, and for the one that it is also reached through.
#[cfg(target_arch = "x86_64")]
fn add_32(calls: &mut Calls, name: &str, conditions: &[Condition], action: u32) {
    if let Some(number) = table::number_32(name) {
        calls.entry(number).or_default().push((conditions.to_vec(), action));
    }
    for (by, names) in [(table32::SOCKETCALL, table32::BY_SOCKETCALL), (table32::IPC, table32::BY_IPC)] {
        if let Some((_, which)) = names.iter().find(|(known, _)| *known == name) {
            let condition = Condition { argument: 0, compare: Compare::Equal, value: u64::from(*which) };
            calls.entry(by).or_default().push((vec![condition], action));
        }
    }
}

/// No other architecture's 32-bit programs are known.
#[cfg(not(target_arch = "x86_64"))]
fn add_32(_: &mut Calls, _: &str, _: &[Condition], _: u32) {}

/// The default profile for a process with these capabilities.
pub(crate) fn runtime_default(capabilities: u64) -> Result<Filter> {
    compile(&profile::runtime_default(&|name| caps::bit(name).is_some_and(|bit| capabilities & bit != 0)))
}

/// A profile file in the form of the OCI runtime specification, or Docker's.
pub(crate) fn from_file(path: &Path, capabilities: u64) -> Result<Filter> {
    // The words are containerd's.
    const BEFORE: &str = "failed to create containerd container: ";
    let fail = |what: String| Error::Invalid(format!("{BEFORE}decoding seccomp profile failed {path:?}: {what}"));
    let unread = |e: std::io::Error| Error::Invalid(format!("{BEFORE}cannot load seccomp profile {path:?}: open {}: {}", path.display(), sys::words(&e)));
    let text = std::fs::read(path).map_err(unread)?;
    let has = |name: &str| caps::bit(name).is_some_and(|bit| capabilities & bit != 0);
    compile(&profile::parse(&text, &has).map_err(fail)?)
}

/// Interprets a program as the kernel does: its answer to a call.
fn answer(program: &[Instruction], (architecture, number): (u32, u32), args: [u64; 6]) -> u32 {
    let mut data = [0_u8; 64];
    data[0..4].copy_from_slice(&number.to_le_bytes());
    data[4..8].copy_from_slice(&architecture.to_le_bytes());
    for (i, arg) in args.iter().enumerate() {
        data[16 + 8 * i..24 + 8 * i].copy_from_slice(&arg.to_le_bytes());
    }
    let (mut at, mut word) = (0_usize, 0_u32);
    while let Some(&(code, yes, no, k)) = program.get(at) {
        let branch = |hit: bool| usize::from(if hit { yes } else { no });
        at += 1;
        match code {
            op::LOAD => {
                let at = k as usize;
                word = data.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
            }
            op::AND => word &= k,
            op::JUMP => at += k as usize,
            op::EQUAL => at += branch(word == k),
            op::GREATER => at += branch(word > k),
            op::AT_LEAST => at += branch(word >= k),
            _ => return k,
        }
    }
    // No program of the compiler ends without a return.
    0
}

/// Whether a process under this filter may make the call.
pub(crate) fn allows(program: &[Instruction], number: libc::c_long, args: [u64; 6]) -> bool {
    program.is_empty() || matches!(answer(program, (ARCHITECTURE, number as u32), args), ALLOW | LOG)
}

fn compile(rules: &Rules) -> Result<Filter> {
    let no_such_call = (op::RETURN, 0, 0, NO_SUCH_CALL);
    let mut own = vec![(op::LOAD, 0, 0, 0), (op::AT_LEAST, 0, 1, X32), no_such_call];
    own.extend(by_number(&rules.calls, rules.default));
    let mut program = vec![(op::LOAD, 0, 0, 4)];
    section(&mut program, ARCHITECTURE, own);
    if let Some(calls) = &rules.calls_32 {
        let mut foreign = vec![(op::LOAD, 0, 0, 0)];
        foreign.extend(by_number(calls, rules.default));
        section(&mut program, ARCHITECTURE_32, foreign);
    }
    program.push((op::RETURN, 0, 0, FOREIGN));
    if program.len() > INSTRUCTIONS_MAX {
        return Err(Error::Invalid(format!("the seccomp profile is too long: {} instructions", program.len())));
    }
    Ok(Filter { program, flags: rules.flags })
}

/// Code for one architecture, which is loaded; the others pass by it. It always ends with an answer.
fn section(program: &mut Vec<Instruction>, architecture: u32, code: Vec<Instruction>) {
    program.extend([(op::EQUAL, 1, 0, architecture), (op::JUMP, 0, 0, code.len() as u32)]);
    program.extend(code);
}

/// Code that finds the answer for a number, which is loaded.
fn by_number(calls: &Calls, default: u32) -> Vec<Instruction> {
    // Ranges of numbers with the same unconditional answer, and single numbers with conditions.
    let mut leaves: Vec<(u32, Vec<Instruction>)> = vec![(0, vec![(op::RETURN, 0, 0, default)])];
    let mut next = 0;
    for (&number, clauses) in calls {
        let code = leaf(clauses, default);
        if number > next {
            push(&mut leaves, next, vec![(op::RETURN, 0, 0, default)]);
        }
        push(&mut leaves, number, code);
        next = number + 1;
    }
    // A default that lets pass (allow, log, trace) does so for newer calls too.
    let newer = if matches!(default & 0xffff_0000, ALLOW | LOG | TRACE) { default } else { NO_SUCH_CALL };
    push(&mut leaves, next, vec![(op::RETURN, 0, 0, newer)]);
    search(&leaves)
}

fn push(leaves: &mut Vec<(u32, Vec<Instruction>)>, start: u32, code: Vec<Instruction>) {
    match leaves.last_mut() {
        Some((_, last)) if *last == code => {}
        Some((at, last)) if *at == start => *last = code,
        _ => leaves.push((start, code)),
    }
}

/// Finds the last leaf that begins at or below the number.
fn search(leaves: &[(u32, Vec<Instruction>)]) -> Vec<Instruction> {
    if let [(_, code)] = leaves {
        return code.clone();
    }
    let (low, high) = leaves.split_at(leaves.len() / 2);
    let (first, second) = (search(low), search(high));
    let mut code = vec![(op::AT_LEAST, 0, 1, high[0].0), (op::JUMP, 0, 0, first.len() as u32)];
    code.extend(first);
    code.extend(second);
    code
}

/// The first clause whose conditions hold decides.
fn leaf(clauses: &[Clause], default: u32) -> Vec<Instruction> {
    let mut code = Vec::new();
    for (conditions, action) in clauses {
        let mut clause: Vec<(u16, Jump, Jump, u32)> = Vec::new();
        for condition in conditions {
            test(condition, &mut clause);
        }
        clause.push((op::RETURN, Jump::By(0), Jump::By(0), *action));
        let end = clause.len();
        let resolve = |jump: &Jump, at: usize| match jump {
            Jump::By(n) => *n,
            Jump::Fail => (end - at - 1) as u8,
        };
        code.extend(clause.iter().enumerate().map(|(at, (op, yes, no, k))| (*op, resolve(yes, at), resolve(no, at), *k)));
        if conditions.is_empty() {
            return code;
        }
    }
    code.push((op::RETURN, 0, 0, default));
    code
}

enum Jump {
    By(u8),
    /// Past the clause.
    Fail,
}

/// Continues behind itself if the condition holds. Arguments have 64 bits, comparisons 32: high word first.
fn test(condition: &Condition, code: &mut Vec<(u16, Jump, Jump, u32)>) {
    use Jump::{By, Fail};
    let offset = 16 + 8 * condition.argument;
    let (high, low) = ((condition.value >> 32) as u32, condition.value as u32);
    let load = |word: u32| (op::LOAD, By(0), By(0), offset + word);
    match condition.compare {
        Compare::Equal => code.extend([load(4), (op::EQUAL, By(0), Fail, high), load(0), (op::EQUAL, By(0), Fail, low)]),
        Compare::Masked(mask) => code.extend([
            load(4),
            (op::AND, By(0), By(0), (mask >> 32) as u32),
            (op::EQUAL, By(0), Fail, high),
            load(0),
            (op::AND, By(0), By(0), mask as u32),
            (op::EQUAL, By(0), Fail, low),
        ]),
        Compare::NotEqual => code.extend([load(4), (op::EQUAL, By(0), By(2), high), load(0), (op::EQUAL, Fail, By(0), low)]),
        Compare::Greater | Compare::GreaterOrEqual => {
            let last = if condition.compare == Compare::Greater { op::GREATER } else { op::AT_LEAST };
            code.extend([load(4), (op::GREATER, By(3), By(0), high), (op::EQUAL, By(0), Fail, high), load(0), (last, By(0), Fail, low)]);
        }
        Compare::Less | Compare::LessOrEqual => {
            let last = if condition.compare == Compare::Less { op::AT_LEAST } else { op::GREATER };
            code.extend([load(4), (op::GREATER, Fail, By(0), high), (op::EQUAL, By(0), By(2), high), load(0), (last, Fail, By(0), low)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(filter: &Filter, number: u32, args: [u64; 6]) -> u32 {
        answer(&filter.program, (ARCHITECTURE, number), args)
    }

    #[test]
    fn a_profile_that_is_not_there_is_told_as_by_containerd() {
        let told = from_file(Path::new("/nowhere/no.json"), 0).err().map(|e| e.to_string());
        let words = "failed to create containerd container: cannot load seccomp profile \"/nowhere/no.json\": open /nowhere/no.json: no such file or directory";
        assert_eq!(told.as_deref(), Some(words));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn programs_of_32_bits_run_by_the_same_rules_where_a_profile_names_them() {
        let eperm = ERRNO | libc::EPERM as u32;
        let call = |filter: &Filter, name: &str, args: [u64; 6]| answer(&filter.program, (ARCHITECTURE_32, table::number_32(name).unwrap()), args);
        let default = runtime_default(caps::resolve(&[], &[], false)).unwrap();
        // What a C library of 32 bits starts and works with; among it numbers that mean something else with 64 (4 is write, not stat).
        for name in
            ["write", "execve", "mmap2", "fcntl64", "set_thread_area", "clock_gettime64", "futex_time64", "getuid32", "_llseek", "socketcall", "fchmodat2"]
        {
            assert_eq!(call(&default, name, [0; 6]), ALLOW, "{name}");
        }
        for name in ["mount", "umount2", "reboot", "init_module", "setns", "unshare", "keyctl", "stime", "vm86", "uselib"] {
            assert_eq!(call(&default, name, [0; 6]), eperm, "{name}");
        }
        assert_eq!(call(&default, "clone", [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0]), eperm);
        assert_eq!((call(&default, "socket", [2, 0, 0, 0, 0, 0]), call(&default, "socket", [40, 0, 0, 0, 0, 0])), (ALLOW, eperm));
        let file = |text: &str| compile(&profile::parse(text.as_bytes(), &|_| true).unwrap()).unwrap();
        let rules = r#""defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["connect","mkdir"],"action":"SCMP_ACT_ERRNO"}]"#;
        // Docker's form and the specification's; what the profile does not name is killed.
        for named in
            [r#""archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"]}]"#, r#""architectures":["SCMP_ARCH_X86"]"#]
        {
            let filter = file(&format!("{{{named},{rules}}}"));
            assert_eq!((call(&filter, "mkdir", [0; 6]), call(&filter, "mount", [0; 6])), (eperm, ALLOW));
            assert_eq!((call(&filter, "socketcall", [3, 0, 0, 0, 0, 0]), call(&filter, "socketcall", [4, 0, 0, 0, 0, 0])), (eperm, ALLOW));
            assert_eq!(run(&filter, table::number("mkdir").unwrap(), [0; 6]), eperm, "and its own");
        }
        for other in
            ["", r#""architectures":["SCMP_ARCH_X86_64"],"#, r#""archMap":[{"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_X86"]}],"#]
        {
            let filter = file(&format!("{{{other}{rules}}}"));
            assert_eq!((call(&filter, "write", [0; 6]), run(&filter, 1, [0; 6])), (FOREIGN, ALLOW));
        }
        assert_eq!(answer(&default.program, (0xC000_00B7, 64), [0; 6]), FOREIGN, "no other machine's");
        assert!(profile::parse(br#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_Z80"]}"#, &|_| true).is_err());
        assert!(table32::CALLS.is_sorted(), "looked up by bisection");
    }

    #[test]
    fn the_default_profile_allows_work_and_refuses_power() {
        let default = runtime_default(caps::resolve(&[], &[], false)).unwrap();
        let call = |name: &str, args: [u64; 6]| run(&default, table::number(name).unwrap(), args);
        let eperm = ERRNO | libc::EPERM as u32;
        for name in ["read", "openat", "futex", "execve", "mmap", "chroot", "exit_group", "statx", "getrandom"] {
            assert_eq!(call(name, [0; 6]), ALLOW, "{name}");
        }
        for name in ["mount", "reboot", "init_module", "bpf", "setns", "unshare", "kexec_load", "keyctl", "add_key", "io_uring_setup"] {
            assert_eq!(call(name, [0; 6]), eperm, "{name}");
        }
        assert_eq!(call("clone3", [0; 6]), ERRNO | libc::ENOSYS as u32);
        assert_eq!(call("clone", [libc::CLONE_VM as u64, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(call("clone", [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0]), eperm);
        assert_eq!(call("socket", [libc::AF_INET as u64, 0, 0, 0, 0, 0]), ALLOW);
        for (family, expected) in [(libc::AF_VSOCK, eperm), (libc::AF_ALG, eperm), (libc::AF_NETLINK, ALLOW), (libc::AF_XDP, ALLOW), (39, ALLOW), (46, eperm)] {
            assert_eq!(call("socket", [family as u64, 0, 0, 0, 0, 0]), expected, "family {family}");
        }
        assert_eq!(call("personality", [0xffff_ffff, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(call("personality", [0x40000, 0, 0, 0, 0, 0]), eperm);
        let all = runtime_default(caps::ALL).unwrap();
        assert_eq!(run(&all, table::number("mount").unwrap(), [0; 6]), ALLOW);
    }

    #[test]
    fn foreign_numbers_and_newer_calls_do_not_exist() {
        let none = ERRNO | libc::ENOSYS as u32;
        let default = runtime_default(caps::ALL).unwrap();
        let deny_list =
            compile(&profile::parse(br#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mount"],"action":"SCMP_ACT_ERRNO"}]}"#, &|_| true).unwrap())
                .unwrap();
        let strict =
            compile(&profile::parse(br#"{"defaultAction":"SCMP_ACT_KILL","syscalls":[{"names":["mount"],"action":"SCMP_ACT_ALLOW"}]}"#, &|_| true).unwrap())
                .unwrap();
        let mount = table::number("mount").unwrap();
        for filter in [&default, &deny_list, &strict] {
            assert_eq!(run(filter, X32 | mount, [0; 6]), none, "the x32 numbers pass by no rule");
        }
        // Newer than whatever these know: a list of what is denied lets it through, the others have never heard of it.
        assert_eq!((run(&default, 5000, [0; 6]), run(&strict, mount + 1, [0; 6]), run(&deny_list, 5000, [0; 6])), (none, none, ALLOW));
        assert_eq!((run(&strict, mount - 1, [0; 6]), run(&deny_list, mount, [0; 6])), (0, ERRNO | libc::EPERM as u32));
    }

    #[test]
    fn several_conditions_on_one_argument_are_each_a_rule() {
        let text = br#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_TSYNC"],"syscalls":[
            {"names":["socket"],"action":"SCMP_ACT_ERRNO","args":[
                {"index":0,"value":16,"op":"SCMP_CMP_EQ"},{"index":0,"value":40,"op":"SCMP_CMP_EQ"}]},
            {"names":["personality"],"action":"SCMP_ACT_ERRNO","args":[
                {"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":1,"value":2,"op":"SCMP_CMP_EQ"}]}]}"#;
        let filter = compile(&profile::parse(text, &|_| true).unwrap()).unwrap();
        let call = |name: &str, first: u64, second: u64| allows(&filter.program, libc::c_long::from(table::number(name).unwrap()), [first, second, 0, 0, 0, 0]);
        assert_eq!([call("socket", 16, 0), call("socket", 40, 0), call("socket", 2, 0)], [false, false, true]);
        assert_eq!([call("personality", 1, 2), call("personality", 1, 0)], [false, true], "different arguments must all fit");
        assert_eq!(filter.flags, 2);
        assert!(profile::parse(br#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["NOPE"]}"#, &|_| true).is_err());
    }

    #[test]
    fn conditions_compare_all_64_bits() {
        let check = |compare: Compare, value: u64, argument: u64| {
            let mut rules = Rules { default: 1, ..Rules::default() };
            rules.add("read", vec![Condition { argument: 2, compare, value }], 2);
            run(&compile(&rules).unwrap(), table::number("read").unwrap(), [9, 9, argument, 9, 9, 9]) == 2
        };
        let samples = [0, 1, 7, 0xffff_ffff, 1 << 32, (1 << 32) + 7, u64::MAX];
        for value in samples {
            for argument in samples {
                assert_eq!(check(Compare::Equal, value, argument), argument == value);
                assert_eq!(check(Compare::NotEqual, value, argument), argument != value);
                assert_eq!(check(Compare::Less, value, argument), argument < value, "{argument} < {value}");
                assert_eq!(check(Compare::LessOrEqual, value, argument), argument <= value);
                assert_eq!(check(Compare::Greater, value, argument), argument > value);
                assert_eq!(check(Compare::GreaterOrEqual, value, argument), argument >= value);
                assert_eq!(check(Compare::Masked(0x1_0000_0005), value, argument), argument & 0x1_0000_0005 == value);
            }
        }
    }

    #[test]
    fn a_profile_file_counts() {
        let text = br#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":13},
            {"names":["socket"],"action":"SCMP_ACT_KILL","args":[{"index":0,"value":16,"op":"SCMP_CMP_EQ"}]},
            {"names":["chmod"],"action":"SCMP_ACT_ERRNO","excludes":{"caps":["CAP_SYS_ADMIN"]}}]}"#;
        let program = compile(&profile::parse(text, &|cap| cap == "CAP_SYS_ADMIN").unwrap()).unwrap();
        let call = |name: &str, first: u64| run(&program, table::number(name).unwrap(), [first, 0, 0, 0, 0, 0]);
        assert_eq!((call("mkdir", 0), call("mkdirat", 0)), (ERRNO | 13, ERRNO | 13));
        assert_eq!((call("socket", 16), call("socket", 2), call("chmod", 0)), (0, ALLOW, ALLOW));
        assert!(profile::parse(b"{\"defaultAction\":\"NOPE\"}", &|_| false).is_err());
    }
}
