//! `$(VAR)` in values, commands and arguments.
//!
//! Rules as upstream's `third_party/forked/golang/expansion`: `$$` is a dollar sign, a reference that is not known stays as it
//! is written, and so does one that is never closed.

/// Expands references by `lookup`.
pub fn expand(input: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match rest.as_bytes().first() {
            Some(b'$') => {
                out.push('$');
                rest = &rest[1..];
            }
            Some(b'(') => match rest.find(')') {
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

/// Expands every element; for commands and arguments.
#[must_use]
pub fn expand_all(items: &[String], env: &[(String, String)]) -> Vec<String> {
    let map: std::collections::HashMap<&str, &str> = env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    items.iter().map(|i| expand(i, |n| map.get(n).map(|v| (*v).to_owned()))).collect()
}

/// Expands a `subPathExpr`; here an unknown name is an error, as upstream's `MappingFuncFor` demands.
pub fn expand_strict(input: &str, env: &[(String, String)]) -> Result<String, String> {
    let missing = std::cell::RefCell::new(None);
    let out = expand(input, |n| match env.iter().find(|(k, _)| k == n) {
        Some((_, v)) => Some(v.clone()),
        None => {
            missing.borrow_mut().get_or_insert_with(|| n.to_owned());
            None
        }
    });
    match missing.into_inner() {
        Some(name) => Err(format!("missing value for {name:?}")),
        None => Ok(out),
    }
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
    fn sub_path_expressions_must_be_known() {
        let env = [("A".to_owned(), "x".to_owned())];
        assert_eq!(expand_strict("p/$(A)", &env).unwrap(), "p/x");
        assert!(expand_strict("p/$(B)", &env).is_err());
    }
}
