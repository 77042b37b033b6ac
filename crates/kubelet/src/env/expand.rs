//! `$(VAR)` in values, commands and arguments.
//!
//! Rules as upstream's `third_party/forked/golang/expansion`: `$$` is a dollar sign, a reference that is not known stays as it
//! is written, and so does one that is never closed.

use std::collections::HashMap;

/// Bytes that the kernel takes of arguments and environment together at most, whatever its limits (execve(2)): what is longer runs nowhere, and is not
/// made whole, since variables that refer to others can double at each step.
pub const BYTES_MAX: usize = 6 << 20;

/// Expands references by `lookup`; none any more once the text is longer than [`BYTES_MAX`].
pub fn expand(input: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    // Where one reference is never closed none behind it is.
    let mut closed = true;
    while let Some(at) = rest.find('$').filter(|_| out.len() <= BYTES_MAX) {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match rest.as_bytes().first() {
            Some(b'$') => {
                out.push('$');
                rest = &rest[1..];
            }
            Some(b'(') => match closed.then(|| rest.find(')')).flatten() {
                Some(end) => {
                    let name = &rest[1..end];
                    match lookup(name) {
                        Some(value) => out.push_str(&value),
                        None => {
                            out.push_str("$(");
                            out.push_str(name);
                            out.push(')');
                        }
                    }
                    rest = &rest[end + 1..];
                }
                None => {
                    closed = false;
                    out.push_str("$(");
                    rest = &rest[1..];
                }
            },
            _ => out.push('$'),
        }
    }
    out.push_str(rest);
    out
}

fn by_name(env: &[(String, String)]) -> HashMap<&str, &str> {
    env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect()
}

/// Expands every element, up to those that are too many for any program; for commands and arguments.
#[must_use]
pub fn expand_all(items: &[String], env: &[(String, String)]) -> Vec<String> {
    let (map, mut bytes) = (by_name(env), 0);
    let one = |item: &String| {
        let expanded = (bytes <= BYTES_MAX).then(|| expand(item, |n| map.get(n).map(|v| (*v).to_owned())))?;
        bytes += expanded.len();
        Some(expanded)
    };
    items.iter().map_while(one).collect()
}

/// Expands a `subPathExpr`. A name that is unknown or says nothing is an error (upstream's `ExpandContainerVolumeMounts`): the whole volume is not a
/// part of it.
pub fn expand_strict(input: &str, env: &[(String, String)]) -> Result<String, String> {
    let (map, missing) = (by_name(env), std::cell::RefCell::new(std::collections::BTreeSet::new()));
    let out = expand(input, |n| {
        let value = map.get(n).copied().unwrap_or_default().to_owned();
        if value.is_empty() {
            missing.borrow_mut().insert(n.to_owned());
        }
        Some(value)
    });
    let missing = missing.into_inner();
    if missing.is_empty() { Ok(out) } else { Err(format!("missing value for {}", missing.into_iter().collect::<Vec<_>>().join(", "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_table() {
        let look = |n: &str| match n {
            "VAR_A" => Some("A".to_owned()),
            "VAR_B" => Some("B".to_owned()),
            "VAR_REF" => Some("$(VAR_A)".to_owned()),
            "VAR_EMPTY" => Some(String::new()),
            _ => None,
        };
        for (input, want) in [
            ("$(VAR_A)", "A"),
            ("___$(VAR_B)___", "___B___"),
            ("$(VAR_A)$(VAR_A)", "AA"),
            ("$(VAR_REF)", "$(VAR_A)"),
            ("$$(VAR_A)", "$(VAR_A)"),
            ("$$$(VAR_A)", "$A"),
            ("$$$$(VAR_A)", "$$(VAR_A)"),
            ("$(UNKNOWN)x", "$(UNKNOWN)x"),
            ("foo$(VAR_EMPTY)bar", "foobar"),
            ("$VAR_A", "$VAR_A"),
            ("foo$(VAR_A", "foo$(VAR_A"),
            ("$", "$"),
            ("$?", "$?"),
            ("$()", "$()"),
            ("a$$", "a$"),
        ] {
            assert_eq!(expand(input, look), want, "{input}");
        }
    }

    #[test]
    fn what_no_program_takes_is_not_made_whole() {
        let env = [("A".to_owned(), "x".repeat(1 << 20))];
        let all = expand_all(&["$(A)".repeat(100), "b".to_owned()], &env);
        assert!(all.len() == 1 && (BYTES_MAX..BYTES_MAX + (2 << 20)).contains(&all[0].len()), "{}", all.len());
        assert_eq!(expand(&"$(".repeat(1 << 20), |_| None).len(), 2 << 20, "and is not looked through again and again");
    }

    #[test]
    fn sub_path_expressions_must_be_known() {
        let env = [("A".to_owned(), "x".to_owned())];
        assert_eq!(expand_strict("p/$(A)", &env).unwrap(), "p/x");
        assert_eq!(expand_strict("p/$(C)$(B)", &env).unwrap_err(), "missing value for B, C");
    }
}
