//! The older tables of iptables (`iptables-legacy`): the kernel has them beside nf_tables, and what they refuse nobody else
//! can let through.
//!
//! They are written by one program alone, as a whole and under its own lock. Whoever has such tables has that program, so it is
//! called where they are in use and refuse what they do not know; where it cannot be found, the log says what is to be done.

use std::io;
use std::process::{Command, Stdio};

use super::firewall::Pods;
use crate::cidr::Net;
use crate::mark::Mark;
use crate::nft::Family;
use crate::{Error, Result};

/// What it is called where both are installed.
fn program(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables-legacy",
        Family::V6 => "ip6tables-legacy",
    }
}

/// Where administrators' programs are, also for a service without a path.
const PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";
/// Seconds to wait for others who change the tables.
const WAIT_S: &str = "5";

/// A rule as it is given to the program: behind the chain's name.
type Rule = Vec<String>;

/// Whether this network namespace has the older table of filters of a family.
pub(super) fn in_use(family: Family) -> bool {
    let names = if family == Family::V4 { "ip_tables_names" } else { "ip6_tables_names" };
    std::fs::read_to_string(format!("/proc/thread-self/net/{names}")).is_ok_and(|names| names.lines().any(|name| name == "filter"))
}

fn call(family: Family, words: &[&str]) -> Result<String> {
    run(program(family), &[&["-w", WAIT_S], words].concat())
}

fn run(program: &str, words: &[&str]) -> Result<String> {
    let output = Command::new(program).env("PATH", PATH).args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|e| Error::io(format!("run {program}"), e))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Config(format!("{program} {}: {why}", words.join(" "))));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether the program is not installed: then nothing of ours was ever written by it.
fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Kernel { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

/// The rules of a chain, the first first.
fn rules(chain: &str, pods: Pods, comment: &str) -> Vec<Rule> {
    let (range, gateway) = (pods.range.to_string(), Net::one(pods.gateway).to_string());
    let matches: &[&[&str]] = match chain {
        "INPUT" => &[&["-s", &range, "-d", &gateway]],
        _ => &[&["-d", &range], &["-s", &range]],
    };
    let rest = ["-m", "comment", "--comment", comment, "-j", "ACCEPT"];
    matches.iter().map(|m| m.iter().chain(&rest).map(|w| (*w).to_owned()).collect()).collect()
}

/// A chain as `-S` lists it.
#[derive(Debug, PartialEq, Eq)]
struct Chain<'a> {
    /// It refuses what no rule knows: by policy, or by a last rule that looks at nothing.
    refuses: bool,
    rules: Vec<&'a str>,
}

fn read<'a>(chain: &str, listed: &'a str) -> Chain<'a> {
    let (policy, append) = (format!("-P {chain} "), format!("-A {chain} "));
    let drops = listed.lines().any(|l| l.strip_prefix(&policy).is_some_and(|p| p.trim() != "ACCEPT"));
    let rules: Vec<&str> = listed.lines().filter_map(|l| l.strip_prefix(&append)).collect();
    let last = rules.last().is_some_and(|r| *r == "-j DROP" || *r == "-j REJECT" || r.starts_with("-j REJECT --reject-with"));
    Chain { refuses: drops || last, rules }
}

/// Whether a listed rule is ours.
fn has(rule: &str, comment: &str) -> bool {
    words(rule).contains(&comment)
}

/// A listed rule as it is given to the program again. There is no space within a word of ours.
fn words(rule: &str) -> Vec<&str> {
    rule.split_whitespace().map(|word| word.trim_matches('"')).collect()
}

/// Lets the pods' packets through the tables, which are in use, where they are not yet.
pub(super) fn open(mark: &Mark, pods: Pods) -> Result<()> {
    let (comment, family) = (super::firewall::comment(mark), pods.range.family());
    for chain in ["FORWARD", "INPUT"] {
        let listed = call(family, &["-S", chain])?;
        let there = read(chain, &listed);
        let wanted = if there.refuses { rules(chain, pods, &comment) } else { Vec::new() };
        let ours = there.rules.iter().filter(|r| has(r, &comment)).count();
        // By their words: those of a former start may be of other ranges.
        let head: Vec<Vec<&str>> =
            there.rules.iter().take_while(|r| r.contains(super::firewall::PODS)).filter(|r| has(r, &comment)).map(|r| words(r)).collect();
        if ours == wanted.len() && head == wanted {
            continue;
        }
        remove(family, chain, &there, &comment)?;
        for rule in wanted.iter().rev() {
            call(family, &[&["-I", chain], &rule.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat())?;
        }
        if !wanted.is_empty() {
            tracing::info!(chain, "this host's {} refuses what it does not know; letting pods through", program(family));
        }
    }
    Ok(())
}

fn remove(family: Family, chain: &str, there: &Chain<'_>, comment: &str) -> Result<()> {
    // By their own words and not by number: somebody may have put a rule before them since they were listed.
    for rule in there.rules.iter().filter(|rule| has(rule, comment)) {
        call(family, &[&["-D", chain], &words(rule)[..]].concat())?;
    }
    Ok(())
}

/// Takes the rules away again; how many there were.
pub(super) fn close(mark: &Mark, family: Family) -> Result<usize> {
    let (comment, mut removed) = (super::firewall::comment(mark), 0);
    if !in_use(family) {
        return Ok(0);
    }
    for chain in ["FORWARD", "INPUT"] {
        let listed = match call(family, &["-S", chain]) {
            Ok(listed) => listed,
            Err(error) if is_missing(&error) => return Ok(removed),
            Err(other) => return Err(other),
        };
        let there = read(chain, &listed);
        removed += there.rules.iter().filter(|r| has(r, &comment)).count();
        remove(family, chain, &there, &comment)?;
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_that_refuses_is_told_from_one_that_does_not() {
        let docker = "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n-A FORWARD -o docker0 -j DOCKER\n";
        assert_eq!(read("FORWARD", docker), Chain { refuses: true, rules: vec!["-j DOCKER-USER", "-o docker0 -j DOCKER"] });
        assert!(!read("FORWARD", "-P FORWARD ACCEPT\n-A FORWARD -i eth0 -j DROP\n").refuses, "not all");
        for last in ["-j DROP", "-j REJECT --reject-with icmp-host-prohibited"] {
            assert!(read("INPUT", &format!("-P INPUT ACCEPT\n-A INPUT {last}\n")).refuses);
        }
    }

    #[test]
    fn a_program_that_is_missing_is_told_from_one_that_fails() {
        assert!(is_missing(&run("knarr-has-no-such-program", &[]).unwrap_err()));
        let failed = run("false", &[]).unwrap_err();
        assert!(!is_missing(&failed), "its rules may still be there: {failed}");
    }

    #[test]
    fn only_pods_and_the_node_are_named_and_the_rules_are_found_again() {
        let pods = Pods { range: "10.244.0.0/16".parse().unwrap(), gateway: [10, 244, 0, 1].into() };
        let text = |chain| rules(chain, pods, "knarr:a/pods").iter().map(|r| r.join(" ")).collect::<Vec<_>>();
        let tail = "-m comment --comment knarr:a/pods -j ACCEPT";
        assert_eq!(text("FORWARD"), [format!("-d 10.244.0.0/16 {tail}"), format!("-s 10.244.0.0/16 {tail}")]);
        assert_eq!(text("INPUT"), [format!("-s 10.244.0.0/16 -d 10.244.0.1/32 {tail}")]);
        assert!(has(&text("INPUT")[0], "knarr:a/pods") && !has(&text("INPUT")[0], "knarr:ab/pods"));
        let quoted = format!("-s 10.244.0.0/16 {}", tail.replace("knarr:a/pods", "\"knarr:a/pods\""));
        assert!(has(&quoted, "knarr:a/pods"), "some versions quote");
        assert_eq!(words(&quoted), rules("FORWARD", pods, "knarr:a/pods")[1], "it is removed by the words that it was made with");
    }
}
