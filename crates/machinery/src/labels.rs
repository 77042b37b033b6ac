//! Label selectors, as text (`a=b,c in (d,e),!f`) and as objects (`matchLabels`, `matchExpressions`).
//!
//! Source: `apimachinery/pkg/labels`; a selector means the same in both forms, except that an absent object selects nothing
//! and an empty text everything.

use crate::{Value, names, quote::Quoted};
use std::fmt;

/// What a requirement asks of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `=`, `==` or `in`: has one of the values.
    In,
    /// `!=` or `notin`: has none of the values, or is absent.
    NotIn,
    /// Is there.
    Exists,
    /// Is not there.
    DoesNotExist,
    /// Is an integer greater than the value.
    GreaterThan,
    /// Is an integer less than the value.
    LessThan,
}

impl Operator {
    /// The one that an object's `operator` names.
    pub(crate) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::GreaterThan,
            "Lt" => Operator::LessThan,
            _ => return None,
        })
    }
}

/// One term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// What is asked.
    pub operator: Operator,
    /// The values, sorted.
    pub values: Vec<String>,
}

/// All terms must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Requirement {
    /// A checked requirement.
    ///
    /// # Errors
    /// Upstream's wording.
    pub fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Self, String> {
        let mut errors: Vec<String> = wrong_key(key).into_iter().collect();
        let shown = Value::from(values.clone());
        let mut wrong = |detail: &str| errors.push(format!("values: Invalid value: {shown}: {detail}"));
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => wrong("for 'in', 'notin' operators, values set can't be empty"),
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                wrong("values set must be empty for exists and does not exist");
            }
            Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
                wrong("for 'Gt', 'Lt' operators, exactly one value is required");
            }
            Operator::GreaterThan | Operator::LessThan if values.iter().any(|v| v.parse::<i64>().is_err()) => {
                errors.push(format!("values[0]: Invalid value: {}: for 'Gt', 'Lt' operators, the value must be an integer", shown[0]));
            }
            _ => {}
        }
        for (at, value) in values.iter().enumerate() {
            let problems = names::label_value(value);
            if !problems.is_empty() {
                errors.push(format!("values[{at}][{key}]: Invalid value: {}: {}", Quoted(value), problems.join("; ")));
            }
        }
        match errors.as_slice() {
            [] => {}
            [one] => return Err(one.clone()),
            more => return Err(format!("[{}]", more.join(", "))),
        }
        values.sort();
        values.dedup();
        Ok(Self { key: key.to_owned(), operator, values })
    }

    /// Whether the value of the label (`None`: absent) is as asked.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let has = |v: &str| self.values.iter().any(|w| w == v);
        let compare = |holds: fn(&i64, &i64) -> bool| match (value.map(str::parse), self.values.first().map(|v| v.parse())) {
            (Some(Ok(a)), Some(Ok(b))) => holds(&a, &b),
            _ => false,
        };
        match self.operator {
            Operator::In => value.is_some_and(has),
            Operator::NotIn => !value.is_some_and(has),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => compare(i64::gt),
            Operator::LessThan => compare(i64::lt),
        }
    }
}

impl Selector {
    /// Selects everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects nothing.
    pub fn nothing() -> Self {
        Self { nothing: true, ..Self::default() }
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// Upstream's wording.
    pub fn parse(text: &str) -> Result<Self, String> {
        // Upstream's lexer takes a zero for the end.
        let rest = text.split('\0').next().unwrap_or_default();
        let requirements = Parser { rest }.requirements()?;
        Ok(Self { requirements, nothing: false })
    }

    /// Reads a `LabelSelector` object; `Null` selects nothing, an empty one everything.
    ///
    /// # Errors
    /// Upstream's wording.
    pub fn from_label_selector(selector: &Value) -> Result<Self, String> {
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let mut requirements = Vec::new();
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            requirements.push(Requirement::new(key, Operator::In, vec![value.as_str().unwrap_or_default().to_owned()])?);
        }
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            let operator = expression["operator"].as_str().unwrap_or_default();
            // Those that compare are operators of a node's selectors.
            let known = Operator::of(operator).filter(|known| !matches!(known, Operator::GreaterThan | Operator::LessThan));
            let operator = known.ok_or_else(|| format!("{} is not a valid label selector operator", Quoted(operator)))?;
            let values = expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
            requirements.push(Requirement::new(expression["key"].as_str().unwrap_or_default(), operator, values.collect())?);
        }
        Ok(Self { requirements, nothing: false })
    }

    /// The selector of an object's typed `LabelSelector`; none selects nothing, and so does one that cannot be read.
    ///
    /// To be called once for an object and kept: it makes a tree of what it is given.
    pub fn of(selector: Option<&impl serde::Serialize>) -> Self {
        let tree = selector.and_then(|s| serde_json::to_value(s).ok()).unwrap_or_default();
        Self::from_label_selector(&tree).unwrap_or_else(|_| Self::nothing())
    }

    /// All of these must hold.
    pub fn from_requirements(requirements: Vec<Requirement>) -> Self {
        Self { requirements, nothing: false }
    }

    /// Selects by equality, as the selectors of Services and ReplicationControllers do.
    pub fn from_set<'s>(labels: impl IntoIterator<Item = (&'s str, &'s str)>) -> Self {
        let requirements = labels.into_iter().map(|(key, value)| Requirement { key: key.to_owned(), operator: Operator::In, values: vec![value.to_owned()] });
        Self { requirements: requirements.collect(), nothing: false }
    }

    /// The terms.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether there are no terms and so everything is selected.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether an object with these labels is selected.
    pub fn matches<'v>(&self, value_of: impl Fn(&str) -> Option<&'v str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(value_of(&r.key)))
    }

    /// The same over a map of labels, such as the typed objects have.
    pub fn matches_map(&self, labels: &std::collections::BTreeMap<String, String>) -> bool {
        self.matches(|key| labels.get(key).map(String::as_str))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, r) in self.requirements.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            let (key, values) = (&r.key, r.values.join(","));
            match (r.operator, r.values.len()) {
                (Operator::In, 1) => write!(f, "{key}={values}")?,
                (Operator::In, _) => write!(f, "{key} in ({values})")?,
                (Operator::NotIn, 1) => write!(f, "{key}!={values}")?,
                (Operator::NotIn, _) => write!(f, "{key} notin ({values})")?,
                (Operator::Exists, _) => write!(f, "{key}")?,
                (Operator::DoesNotExist, _) => write!(f, "!{key}")?,
                (Operator::GreaterThan, _) => write!(f, "{key}>{values}")?,
                (Operator::LessThan, _) => write!(f, "{key}<{values}")?,
            }
        }
        Ok(())
    }
}

/// What is wrong with a label's key. Upstream has no path for it.
fn wrong_key(key: &str) -> Option<String> {
    let problems = names::qualified_name(key);
    (!problems.is_empty()).then(|| format!("<nil>: Invalid value: {}: {}", Quoted(key), problems.join("; ")))
}

/// Reads the text form, token by token.
struct Parser<'t> {
    rest: &'t str,
}

/// Characters that are tokens or parts of operators.
const SPECIAL: [char; 7] = ['=', '!', '(', ')', ',', '>', '<'];

impl<'t> Parser<'t> {
    /// The next token; empty at the end.
    fn peek(&self) -> &'t str {
        let text = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let operators = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];
        if let Some(operator) = operators.into_iter().find(|o| text.starts_with(o)) {
            return &text[..operator.len()];
        }
        let end = text.find(|c: char| SPECIAL.contains(&c) || c.is_ascii_whitespace()).unwrap_or(text.len());
        &text[..end]
    }

    fn next(&mut self) -> &'t str {
        let token = self.peek();
        let text = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        self.rest = &text[token.len()..];
        token
    }

    fn is_word(token: &str) -> bool {
        !token.is_empty() && !token.starts_with(SPECIAL)
    }

    fn requirements(mut self) -> Result<Vec<Requirement>, String> {
        let mut out = Vec::new();
        if self.peek().is_empty() {
            return Ok(out);
        }
        loop {
            let token = self.peek();
            if token != "!" && !Self::is_word(token) {
                return Err(format!("found '{token}', expected: !, identifier, or 'end of string'"));
            }
            out.push(self.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?);
            match self.next() {
                "" => return Ok(out),
                "," => {
                    let token = self.peek();
                    if token != "!" && !Self::is_word(token) {
                        return Err(format!("found '{token}', expected: identifier after ','"));
                    }
                }
                token => return Err(format!("found '{token}', expected: ',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let negated = self.peek() == "!";
        if negated {
            self.next();
        }
        let key = self.next();
        if !Self::is_word(key) {
            return Err(format!("found '{key}', expected: identifier"));
        }
        // Of a wrong key alone is told: what follows it has not been read then.
        if let Some(wrong) = wrong_key(key) {
            return Err(wrong);
        }
        if negated {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        match self.peek() {
            "" | "," => return Requirement::new(key, Operator::Exists, Vec::new()),
            _ => {}
        }
        let (operator, set) = match self.next() {
            "=" | "==" => (Operator::In, false),
            "!=" => (Operator::NotIn, false),
            "in" => (Operator::In, true),
            "notin" => (Operator::NotIn, true),
            ">" => (Operator::GreaterThan, false),
            "<" => (Operator::LessThan, false),
            other => return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        let values = if set { self.set()? } else { vec![self.value()?] };
        Requirement::new(key, operator, values)
    }

    /// An exact value, which may be empty.
    fn value(&mut self) -> Result<String, String> {
        match self.peek() {
            "" | "," => Ok(String::new()),
            token if Self::is_word(token) => Ok(self.next().to_owned()),
            token => Err(format!("found '{token}', expected: identifier")),
        }
    }

    fn set(&mut self) -> Result<Vec<String>, String> {
        let open = self.next();
        if open != "(" {
            return Err(format!("found '{open}' expected: '('"));
        }
        let mut values = Vec::new();
        let (mut after_value, mut first) = (false, true);
        loop {
            let expected = match (after_value, first) {
                (true, _) => "',' or ')'",
                (false, true) => "',', ')' or identifier",
                (false, false) => "',', or identifier",
            };
            first = false;
            match self.next() {
                ")" => {
                    if !after_value {
                        values.push(String::new());
                    }
                    return Ok(values);
                }
                "," => {
                    if !after_value {
                        values.push(String::new());
                    }
                    after_value = false;
                }
                token if Self::is_word(token) && !after_value => {
                    values.push(token.to_owned());
                    after_value = true;
                }
                token => return Err(format!("found '{token}', expected: {expected}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn selects(text: &str, labels: &[(&str, &str)]) -> bool {
        Selector::parse(text).unwrap().matches(|key| labels.iter().find(|(k, _)| *k == key).map(|(_, v)| *v))
    }

    #[test]
    fn what_cannot_be_seen_is_shown_as_go_shows_it() {
        let told = |key: &str| Selector::parse(&format!("{key}=1")).expect_err("no label");
        for (key, shown) in [("\u{a0}", r#""\u00a0""#), ("a\u{1}", r#""a\x01""#), ("e\u{301}", "\"e\u{301}\"")] {
            assert!(told(key).contains(&format!("Invalid value: {shown}: ")), "{}", told(key));
        }
    }

    #[test]
    fn texts_select() {
        let labels = [("a", "b"), ("n", "5"), ("e", "")];
        for text in
            ["", "a=b", "a==b", "a in (x, b)", "a notin (x)", "x notin (y)", "a", "!x", "x!=y", "n>4", "n<6,a", "e=", "e in ()", " a = b , !x ", "a\0,x=y"]
        {
            assert!(selects(text, &labels), "{text}");
        }
        for text in ["a=c", "a!=b", "a in (x)", "a notin (b)", "x", "!a", "n>5", "a>1", "e=x"] {
            assert!(!selects(text, &labels), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["a in", "a in (", "a in (b", ",", "a,", "=b", "a=b=c", "a b", "!", "a in (b c)", "A B=c", "a=-", "x>y", "-=1"] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn objects_select() {
        let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["d"]}]});
        let selector = Selector::from_label_selector(&selector).unwrap();
        assert_eq!(selector.to_string(), "a=b,c!=d");
        assert!(selector.matches(|k| (k == "a").then_some("b")));
        assert!(Selector::from_label_selector(&json!({})).unwrap().is_everything());
        assert!(!Selector::from_label_selector(&Value::Null).unwrap().matches(|_| None));
        let told = Selector::parse("-a in -b").unwrap_err();
        assert!(told.starts_with("unable to parse requirement: <nil>: Invalid value: \"-a\": ") && !told.contains("-b"), "{told}");
        for operator in ["Like", "Gt", "Lt"] {
            let refused = Selector::from_label_selector(&json!({"matchExpressions": [{"key": "a", "operator": operator, "values": ["1"]}]})).unwrap_err();
            assert_eq!(refused, format!("{operator:?} is not a valid label selector operator"));
        }
    }
}
