//! The licences of the dependencies: each is one of those that `deny.toml` allows. `cargo deny check licenses` looks into the
//! texts as well and is asked where it is installed; what packages say of themselves is checked everywhere.

use crate::task::{cargo, step};
use anyhow::{Context as _, bail};
use serde_json::Value;
use std::path::Path;

/// Where the program runs; other systems' dependencies are not in it.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Checks all.
pub fn check(root: &Path) -> anyhow::Result<()> {
    step("licences");
    let allowed = allowed(&std::fs::read_to_string(root.join("deny.toml"))?);
    if allowed.is_empty() {
        bail!("deny.toml allows no licence");
    }
    let output = cargo(root).args(["metadata", "--format-version=1", "--filter-platform", TARGET]).output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let wrong: Vec<String> = packages
        .iter()
        .filter(|package| !package["license"].as_str().is_some_and(|licence| is_allowed(licence, &allowed)))
        .map(|package| format!("  {} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    if !wrong.is_empty() {
        bail!("licences that deny.toml does not allow:\n{}", wrong.join("\n"));
    }
    println!("{} packages", packages.len());
    let installed = cargo(root).args(["deny", "--version"]).output().is_ok_and(|o| o.status.success());
    if installed && !cargo(root).args(["deny", "check", "licenses"]).status()?.success() {
        bail!("cargo deny refuses a licence");
    }
    Ok(())
}

/// The list `allow` of deny.toml's section on licences.
fn allowed(text: &str) -> Vec<String> {
    let section = text.split("[licenses]").nth(1).and_then(|rest| rest.split_once("allow = [")?.1.split_once(']'));
    section.map_or("", |(list, _)| list).split(',').map(|name| name.trim().trim_matches('"').to_owned()).filter(|name| !name.is_empty()).collect()
}

/// Whether an SPDX expression can be kept with these: AND needs both sides, OR one; a slash is an old OR.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let expression = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ").replace(" WITH ", "+WITH+");
    let words: Vec<&str> = expression.split_whitespace().collect();
    let mut rest = words.as_slice();
    either(&mut rest, allowed) && rest.is_empty()
}

fn either(rest: &mut &[&str], allowed: &[String]) -> bool {
    let mut ok = both(rest, allowed);
    while let Some(("OR", after)) = rest.split_first().map(|(word, after)| (*word, after)) {
        *rest = after;
        ok |= both(rest, allowed);
    }
    ok
}

fn both(rest: &mut &[&str], allowed: &[String]) -> bool {
    let mut ok = one(rest, allowed);
    while let Some(("AND", after)) = rest.split_first().map(|(word, after)| (*word, after)) {
        *rest = after;
        ok &= one(rest, allowed);
    }
    ok
}

fn one(rest: &mut &[&str], allowed: &[String]) -> bool {
    let Some((word, after)) = rest.split_first() else { return false };
    *rest = after;
    if *word != "(" {
        // "Or a later one" is kept by the one that it names.
        let named = word.replace("+WITH+", " WITH ");
        return allowed.iter().any(|name| *name == named || named.strip_suffix('+') == Some(name));
    }
    let ok = either(rest, allowed);
    match rest.split_first() {
        Some((&")", after)) => {
            *rest = after;
            ok
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_mean_what_spdx_says() {
        let allowed = allowed("[graph]\n[licenses]\nallow = [\n \"MIT\",\n \"Apache-2.0 WITH LLVM-exception\", \"ISC\",\n]\n");
        assert_eq!(allowed, ["MIT", "Apache-2.0 WITH LLVM-exception", "ISC"]);
        for (expression, ok) in [
            ("MIT", true),
            ("GPL-3.0", false),
            ("MIT OR GPL-3.0", true),
            ("GPL-3.0/MIT", true),
            ("MIT AND GPL-3.0", false),
            ("(MIT OR GPL-3.0) AND ISC", true),
            ("MIT AND (GPL-3.0 OR BSD-1-Clause)", false),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("Apache-2.0", false),
            ("ISC+", true),
            ("GPL-3.0+", false),
            ("(MIT", false),
            ("", false),
        ] {
            assert_eq!(is_allowed(expression, &allowed), ok, "{expression}");
        }
    }
}
