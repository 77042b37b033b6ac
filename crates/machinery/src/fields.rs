//! Field selectors: `status.phase!=Running,spec.nodeName=a` (`apimachinery/pkg/fields`).

use std::fmt;

/// One term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The field's path.
    pub field: String,
    /// The value.
    pub value: String,
    /// Must be equal, or must differ.
    pub equal: bool,
}

/// All terms must hold; none selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<Requirement>);

impl FieldSelector {
    /// Reads a selector. `\`, `,` and `=` in values are escaped by `\`.
    ///
    /// # Errors
    /// Upstream's wording.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Vec::new();
        // In order, so that of several wrong terms the first by its letters is told.
        let mut all = terms(text);
        all.sort_unstable();
        for term in all.into_iter().filter(|t| !t.is_empty()) {
            let begins = |(at, _): (usize, char)| ["!=", "==", "="].into_iter().find(|o| term[at..].starts_with(o)).map(|o| (at, o));
            let found = term.char_indices().find_map(begins);
            let (at, operator) = found.ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{term}'"))?;
            let (field, value) = (&term[..at], unescape(&term[at + operator.len()..])?);
            // A term of nothing at all says nothing.
            if !field.is_empty() || !value.is_empty() {
                requirements.push(Requirement { field: field.to_owned(), value, equal: operator != "!=" });
            }
        }
        Ok(Self(requirements))
    }

    /// Names the fields otherwise that are known by another name.
    pub fn rename(&mut self, alias: impl Fn(&str) -> Option<&'static str>) {
        for requirement in &mut self.0 {
            if let Some(name) = alias(&requirement.field) {
                requirement.field = name.to_owned();
            }
        }
    }

    /// The terms.
    pub fn requirements(&self) -> &[Requirement] {
        &self.0
    }

    /// The value that a field must have, if the selector says so: for index look-ups.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|r| r.equal && r.field == field).map(|r| r.value.as_str())
    }

    /// Whether an object with these fields is selected; an absent field is empty.
    pub fn matches<'v>(&self, value_of: impl Fn(&str) -> Option<&'v str>) -> bool {
        self.0.iter().all(|r| (value_of(&r.field).unwrap_or("") == r.value) == r.equal)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, r) in self.0.iter().enumerate() {
            let value = r.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{}{}{}{value}", if at > 0 { "," } else { "" }, r.field, if r.equal { "=" } else { "!=" })?;
        }
        Ok(())
    }
}

/// Splits at commas that are not escaped.
fn terms(text: &str) -> Vec<&str> {
    let (mut out, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                out.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    let rest = other.map(String::from).unwrap_or_default();
                    return Err(format!("invalid field selector: invalid escape sequence: \\{rest}"));
                }
            },
            ',' | '=' => return Err(format!("invalid field selector: unescaped character in value: {}", c as u32)),
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_read_and_matched() {
        let selector = FieldSelector::parse("spec.nodeName=a,status.phase!=Running,metadata.name==x\\,y").unwrap();
        let pod = |field: &str| match field {
            "spec.nodeName" => Some("a"),
            "metadata.name" => Some("x,y"),
            _ => None,
        };
        assert!(selector.matches(pod));
        assert_eq!(selector.exact("spec.nodeName"), Some("a"));
        assert_eq!(selector.to_string(), "metadata.name=x\\,y,spec.nodeName=a,status.phase!=Running");
        assert!(FieldSelector::parse("").unwrap().requirements().is_empty());
        assert!(FieldSelector::parse("oops").is_err());
        assert!(FieldSelector::parse("a=b=c").is_err());
        // A term without an operator begins where the field does.
        assert_eq!(FieldSelector::parse("!a=b").unwrap().requirements()[0].field, "!a");
        assert_eq!(FieldSelector::parse("z,b").unwrap_err(), "invalid selector: 'z,b'; can't understand 'b'");
    }
}
