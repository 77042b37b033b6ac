//! JSONPath as the original reads it (`client-go/util/jsonpath`), without its braces and ranges: what printer columns and
//! selectable fields of custom resources are found by.
//!
//! `.spec.replicas`, `.status.conditions[?(@.type=="Ready")].status`, `.metadata.annotations['a\.b']`, `.items[0:2].name`,
//! `..name`, `[*]`. A key that is not there is nothing; a step that does not fit its value is an error, as there.
//!
//! The walk is as deep as filters stand in each other ([`FILTERS_MAX`]), but for `..`, which goes as deep as the value. Who writes
//! a path chooses what it costs: a search that comes by more than [`FOUND_MAX`] values is given up.

use crate::Value;

/// Steps of a path at most: a path is as long as its text, and nobody needs more.
const STEPS_MAX: usize = 256;
/// Bytes of a path at most.
const PATH_BYTES_MAX: usize = 4_096;
/// Filters in each other at most.
const FILTERS_MAX: usize = 8;
/// Values that one search comes by at most, those that it asks a filter for among them.
const FOUND_MAX: usize = 100_000;

/// A path that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Wildcard,
    /// First, end, step.
    Slice(Option<i64>, Option<i64>, i64),
    Index(i64),
    Union(Vec<Step>),
    Filter(Operand, Option<(Operator, Operand)>),
    Descend,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Operator {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Path(JsonPath),
    Literal(Value),
}

impl JsonPath {
    /// Reads a path; `None` if it is none.
    pub fn parse(text: &str) -> Option<JsonPath> {
        if text.len() > PATH_BYTES_MAX { None } else { Self::parse_within(text, 0) }
    }

    fn parse_within(text: &str, filters: usize) -> Option<JsonPath> {
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() && steps.len() < STEPS_MAX {
            if let Some(after) = rest.strip_prefix("..") {
                steps.push(Step::Descend);
                // What follows is a field without its dot, or a bracket.
                if !after.starts_with('[') {
                    let (name, left) = field(after)?;
                    steps.push(name);
                    rest = left;
                    continue;
                }
                rest = after;
            } else if let Some(after) = rest.strip_prefix('.') {
                if after.starts_with('[') {
                    rest = after;
                    continue;
                }
                let (name, left) = field(after)?;
                steps.push(name);
                rest = left;
            } else if let Some(after) = rest.strip_prefix('[') {
                let (inside, left) = bracket(after)?;
                match dotted(inside).and_then(|path| Self::parse_within(&path, filters)) {
                    Some(path) => steps.extend(path.0),
                    None => steps.push(subscript(inside, filters)?),
                }
                rest = left;
            } else {
                return None;
            }
        }
        rest.is_empty().then_some(JsonPath(steps))
    }

    /// What lies at the path. Nothing if a key is not there.
    ///
    /// # Errors
    /// A step does not fit its value, or there is too much to look at.
    pub fn find<'v>(&self, root: &'v Value) -> Result<Vec<&'v Value>, Misfit> {
        self.find_within(root, &mut Budget(FOUND_MAX))
    }

    fn find_within<'v>(&self, root: &'v Value, budget: &mut Budget) -> Result<Vec<&'v Value>, Misfit> {
        let mut found = vec![root];
        for step in &self.0 {
            let mut next = Vec::new();
            for value in found {
                step.walk(value, &mut next, budget)?;
            }
            found = next;
        }
        Ok(found)
    }

    /// The names of the fields, if the path is made of nothing else.
    pub fn fields(&self) -> Option<Vec<&str>> {
        self.0.iter().map(|step| if let Step::Field(name) = step { Some(name.as_str()) } else { None }).collect()
    }
}

/// A step that does not fit its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Misfit;

/// How many values a search may still come by.
struct Budget(usize);

impl Budget {
    fn spend(&mut self, values: usize) -> Result<(), Misfit> {
        self.0 = self.0.checked_sub(values).ok_or(Misfit)?;
        Ok(())
    }
}

/// A field's name, where a backslash takes the next character as it is; and the rest.
fn field(text: &str) -> Option<(Step, &str)> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    let mut end = text.len();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => {
                end = at;
                break;
            }
            ']' | '(' | ')' | '{' | '}' | '"' | '\'' | ' ' | '=' | '!' | '<' | '>' => return None,
            c => name.push(c),
        }
    }
    if end == 0 {
        return None;
    }
    Some((if name == "*" { Step::Wildcard } else { Step::Field(name) }, text.get(end..)?))
}

/// What stands in a bracket up to its end, and the rest. Brackets and quotes inside are skipped.
fn bracket(text: &str) -> Option<(&str, &str)> {
    let (mut depth, mut quote, mut escaped) = (0_usize, None, false);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (_, '\\') => escaped = true,
            (Some(open), c) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some((text.get(..at)?, text.get(at + 1..)?)),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

/// A quoted name with dots as the path that the original reads in it: `['a.b']` is `.a.b`, and the key with a dot is `['a\.b']`.
fn dotted(text: &str) -> Option<String> {
    let name = text.strip_prefix('\'')?.strip_suffix('\'')?;
    (name.contains('.') && !name.contains('\'')).then(|| format!(".{name}"))
}

fn subscript(text: &str, filters: usize) -> Option<Step> {
    // A slice of which nothing is said ends after its beginning, which is the first.
    if text.is_empty() {
        return Some(Step::Index(0));
    }
    let text = text.trim();
    if let Some(filter) = text.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        return (filters < FILTERS_MAX).then(|| condition(filter, filters + 1))?;
    }
    // All places of a list: what is none has none of them.
    if text == "*" {
        return Some(Step::Slice(None, None, 1));
    }
    let parts = split(text, ',');
    if parts.len() > 1 {
        return parts.into_iter().map(|part| subscript(part.trim(), filters)).collect::<Option<Vec<_>>>().map(Step::Union);
    }
    if let Some(name) = quoted(text) {
        return Some(Step::Field(name));
    }
    let mut numbers = text.split(':');
    let number = |text: &str| if text.is_empty() { Some(None) } else { text.parse::<i64>().ok().map(Some) };
    let first = number(numbers.next()?.trim())?;
    let Some(end) = numbers.next() else { return first.map(Step::Index) };
    let end = number(end.trim())?;
    let step = numbers.next().map_or(Some(None), |text| number(text.trim()))?.unwrap_or(1);
    (numbers.next().is_none() && step > 0).then_some(Step::Slice(first, end, step))
}

/// Splits at a character that stands outside of quotes and brackets.
fn split(text: &str, at: char) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut quote, mut escaped) = (Vec::new(), 0, 0_usize, None, false);
    for (place, c) in text.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (_, '\\') => escaped = true,
            (Some(open), c) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '(') => depth += 1,
            (None, ']' | ')') => depth = depth.saturating_sub(1),
            (None, c) if c == at && depth == 0 => {
                parts.push(&text[start..place]);
                start = place + c.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn quoted(text: &str) -> Option<String> {
    let mut chars = text.chars();
    let open = chars.next().filter(|c| matches!(c, '"' | '\''))?;
    let inside = chars.as_str().strip_suffix(open)?;
    let mut out = String::with_capacity(inside.len());
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next()? } else { c });
    }
    Some(out)
}

fn condition(text: &str, filters: usize) -> Option<Step> {
    const OPERATORS: [(&str, Operator); 6] = [
        ("==", Operator::Equal),
        ("!=", Operator::Unequal),
        ("<=", Operator::LessOrEqual),
        (">=", Operator::GreaterOrEqual),
        ("<", Operator::Less),
        (">", Operator::Greater),
    ];
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (_, '\\') => escaped = true,
            (Some(open), c) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '=' | '!' | '<' | '>') => {
                let (sign, operator) = OPERATORS.into_iter().find(|(sign, _)| text[at..].starts_with(sign))?;
                let (left, right) = (text[..at].trim(), text[at + sign.len()..].trim());
                return Some(Step::Filter(operand(left, filters)?, Some((operator, operand(right, filters)?))));
            }
            _ => {}
        }
    }
    Some(Step::Filter(operand(text.trim(), filters)?, None))
}

fn operand(text: &str, filters: usize) -> Option<Operand> {
    if let Some(path) = text.strip_prefix('@') {
        return JsonPath::parse_within(path, filters).map(Operand::Path);
    }
    let value = match (quoted(text), text) {
        (Some(text), _) => Value::String(text),
        (None, "true" | "false") => Value::Bool(text == "true"),
        (None, number) => number.parse::<i64>().map(Value::from).or_else(|_| number.parse::<f64>().map(Value::from)).ok()?,
    };
    Some(Operand::Literal(value))
}

impl Step {
    fn walk<'v>(&self, value: &'v Value, out: &mut Vec<&'v Value>, budget: &mut Budget) -> Result<(), Misfit> {
        budget.spend(1)?;
        match self {
            Step::Field(name) => out.extend(value.get(name)),
            Step::Wildcard => match value {
                Value::Array(items) => {
                    budget.spend(items.len())?;
                    out.extend(items);
                }
                Value::Object(map) => {
                    budget.spend(map.len())?;
                    out.extend(map.values());
                }
                _ => {}
            },
            Step::Index(at) => {
                let items = value.as_array().ok_or(Misfit)?;
                let at = if *at < 0 { at + i64::try_from(items.len()).unwrap_or(i64::MAX) } else { *at };
                out.push(usize::try_from(at).ok().and_then(|at| items.get(at)).ok_or(Misfit)?);
            }
            Step::Slice(first, end, step) => {
                let items = value.as_array().ok_or(Misfit)?;
                let len = i64::try_from(items.len()).unwrap_or(i64::MAX);
                let place = |at: i64| if at < 0 { at.saturating_add(len) } else { at };
                let (first, end) = (place(first.unwrap_or(0)), place(end.unwrap_or(len)));
                if first == end {
                    return Ok(());
                }
                // An end that is beyond the list is as wrong as a beginning.
                let (Ok(first), Ok(end)) = (usize::try_from(first), usize::try_from(end)) else { return Err(Misfit) };
                let step = usize::try_from(*step).unwrap_or(1);
                let items = items.get(first..end).ok_or(Misfit)?;
                budget.spend(items.len())?;
                out.extend(items.iter().step_by(step));
            }
            Step::Union(steps) => {
                for step in steps {
                    step.walk(value, out, budget)?;
                }
            }
            Step::Filter(left, comparison) => {
                for item in value.as_array().ok_or(Misfit)? {
                    budget.spend(1)?;
                    if holds(item, left, comparison.as_ref(), budget)? {
                        out.push(item);
                    }
                }
            }
            Step::Descend => descend(value, out, budget)?,
        }
        Ok(())
    }
}

fn descend<'v>(value: &'v Value, out: &mut Vec<&'v Value>, budget: &mut Budget) -> Result<(), Misfit> {
    budget.spend(1)?;
    out.push(value);
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| descend(item, out, budget)),
        Value::Object(map) => map.values().try_for_each(|item| descend(item, out, budget)),
        _ => Ok(()),
    }
}

impl Operand {
    /// The one value that it stands for, if there is one.
    fn of<'v>(&'v self, item: &'v Value, budget: &mut Budget) -> Result<Option<&'v Value>, Misfit> {
        match self {
            Operand::Literal(value) => Ok(Some(value)),
            Operand::Path(path) => match path.find_within(item, budget)?.as_slice() {
                [] => Ok(None),
                [one] => Ok(Some(*one)),
                _ => Err(Misfit),
            },
        }
    }
}

fn holds(item: &Value, left: &Operand, comparison: Option<&(Operator, Operand)>, budget: &mut Budget) -> Result<bool, Misfit> {
    let Some((operator, right)) = comparison else { return Ok(left.of(item, budget)?.is_some()) };
    let whole = [left, right].map(|operand| matches!(operand, Operand::Path(_)));
    let (Some(left), Some(right)) = (left.of(item, budget)?, right.of(item, budget)?) else { return Ok(false) };
    let order = match (left, right) {
        (Value::Number(a), Value::Number(b)) if is_float(a, whole[0]) != is_float(b, whole[1]) => None,
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
        (Value::Bool(a), Value::Bool(b)) if matches!(operator, Operator::Equal | Operator::Unequal) => Some(a.cmp(b)),
        _ => None,
    };
    let Some(order) = order else { return if *operator == Operator::Unequal { Ok(true) } else { Err(Misfit) } };
    Ok(match operator {
        Operator::Equal => order.is_eq(),
        Operator::Unequal => order.is_ne(),
        Operator::Less => order.is_lt(),
        Operator::LessOrEqual => order.is_le(),
        Operator::Greater => order.is_gt(),
        Operator::GreaterOrEqual => order.is_ge(),
    })
}

/// Whether Go holds a number as a float. One that was stored is a whole number if it has no fraction.
fn is_float(number: &serde_json::Number, stored: bool) -> bool {
    !number.is_i64() && (!stored || number.as_f64().is_some_and(|float| crate::numerals::reread(float).is_none()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_find_what_they_name() {
        let object = json!({"metadata": {"annotations": {"a.b/c": "x"}}, "spec": {"n": 3, "list": [{"name": "a", "v": 1}, {"name": "b", "v": 2}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Odd", "status": "False"}]}});
        for (path, found) in [
            (".spec.n", json!([3])),
            ("$.spec.n", json!([3])),
            (".spec.none.deeper", json!([])),
            (r".metadata.annotations.a\.b/c", json!(["x"])),
            (r".metadata.annotations['a\.b/c']", json!(["x"])),
            // The dot parts names here too, as in the original.
            (".metadata.annotations['a.b/c']", json!([])),
            (".['spec.n']", json!([3])),
            (r#".status.conditions[?(@.type=="Ready")].status"#, json!(["True"])),
            (".status.conditions[?(@.type!='Ready')].status", json!(["False"])),
            (".spec.list[?(@.v>1)].name", json!(["b"])),
            (".spec.list[?(@.w)].name", json!([])),
            (".spec.list[?(@.v!=1.0)].name", json!(["a", "b"])),
            (".spec.list[0].name", json!(["a"])),
            (".spec.list[].name", json!(["a"])),
            (".spec.list[-1].name", json!(["b"])),
            (".spec.list[*].name", json!(["a", "b"])),
            (".spec.list[0:1].name", json!(["a"])),
            (".spec.list[0,1].v", json!([1, 2])),
            ("..name", json!(["a", "b"])),
        ] {
            let parsed = JsonPath::parse(path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!(json!(parsed.find(&object).unwrap()), found, "{path}");
        }
        assert_eq!(JsonPath::parse(".spec.n[0]").unwrap().find(&object), Err(Misfit));
        assert_eq!(JsonPath::parse(".spec.list[?(@.v>1.0)]").unwrap().find(&object), Err(Misfit), "numbers of two kinds");
        assert_eq!(JsonPath::parse(".spec.n[*]").unwrap().find(&object), Err(Misfit));
        assert_eq!(JsonPath::parse(".spec.list[7]").unwrap().find(&object), Err(Misfit));
        for beyond in [".spec.list[0:3]", ".spec.list[-3:]", ".spec.list[1:0]"] {
            assert_eq!(JsonPath::parse(beyond).unwrap().find(&object), Err(Misfit), "{beyond}");
        }
        assert_eq!(JsonPath::parse(".spec.list[2:]").unwrap().find(&object), Ok(Vec::new()));
        for wrong in ["spec", ".spec[", ".spec[?(]", ".", ".a b", ".spec[x]", ".a.[?(@.b=c)]"] {
            assert_eq!(JsonPath::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_a_path_costs_is_bounded() {
        let nested = |filters: usize| format!("{}.b{}", ".a[?(@".repeat(filters), ")]".repeat(filters));
        assert!(JsonPath::parse(&nested(FILTERS_MAX)).is_some());
        assert_eq!(JsonPath::parse(&nested(FILTERS_MAX + 1)), None);
        // As deep as the stack would not hold, were it not for the length.
        assert_eq!(JsonPath::parse(&".a[?(@".repeat(200_000)), None);
        assert!(JsonPath::parse(&format!(".{}", "a".repeat(PATH_BYTES_MAX - 1))).is_some());
        assert_eq!(JsonPath::parse(&format!(".{}", "a".repeat(PATH_BYTES_MAX))), None);

        let wide = json!({"a": vec![json!({"a": [{"a": [1, 2, 3]}, {"a": [1, 2, 3]}]}); 300]});
        for (path, good) in [("..*", true), ("..*..*..*..*", false), ("['a','a','a','a','a','a','a','a']", true)] {
            assert_eq!(JsonPath::parse(path).unwrap().find(&wide).is_ok(), good, "{path}");
        }
        // Each step finds everything twice.
        let doubled = "[0,0]".repeat(40);
        let mut tower = json!([]);
        for _ in 0..40 {
            tower = json!([tower]);
        }
        assert_eq!(JsonPath::parse(&doubled).unwrap().find(&tower), Err(Misfit));
        // So does what filters ask, though nothing is found by them.
        let filters = "..[?(@..[?(@..[?(@..[?(@..[?(@.x)])])])])]";
        assert_eq!(JsonPath::parse(filters).map(|path| path.find(&tower)), Some(Err(Misfit)));
    }
}
