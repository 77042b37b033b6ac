//! What expressions give, how they fail and what they count, against the original's answers (`golden/answers.jsonl`).

use std::sync::Arc;

use kubecel::declared::Declared;
use kubecel::eval::{Limits, Plan};
use kubecel::library::authorizer::{Authorizer, Check, Verdict, authorizer};
use kubecel::time::Timestamp;
use kubecel::value::{Entries, Json, Key, Map, Node, Text};
use kubecel::{Env, Type, Value, Version, gotext};

/// The expressions, and the original's answers to each: those that are checked, and those that are run for their values and costs.
const RECORDED: [(&str, &str); 2] =
    [(include_str!("golden/cases.txt"), include_str!("golden/answers.jsonl")), (include_str!("golden/run.txt"), include_str!("golden/run.jsonl"))];

/// Expressions whose answers depend on the order of a map, which the original chooses each time anew.
const ELSEWHERE: [&str; 2] = ["m.transformList(", "y.map("];

/// What the directives before an expression have said.
#[derive(Default)]
struct State {
    stored: bool,
    variables: Vec<(String, String, Option<Json>)>,
    /// The schema of `self` and `oldSelf`, and whether it is that of a whole resource.
    schema: Option<Json>,
    root: bool,
    now: Option<Json>,
    before: Option<Json>,
    /// What policies see is checked, and not evaluated.
    admission: bool,
}

/// Who may read, as the recorder's authorizer has it.
struct Rules;

impl Authorizer for Rules {
    fn authorize(&self, check: &Check) -> Verdict {
        match check.verb.as_str() {
            "get" => Verdict { allowed: true, reason: "reads are free".to_owned(), error: None },
            "fail" => Verdict { error: Some("it failed".to_owned()), ..Verdict::default() },
            _ => Verdict::default(),
        }
    }
}

/// Expressions nest as deep as they may, and so do the program's stacks.
#[test]
fn as_the_original_answered() {
    let all = std::thread::Builder::new().stack_size(machinery::json::STACK_BYTES).spawn(ask_all).expect("a thread");
    all.join().expect("as the original");
}

fn ask_all() {
    let (mut asked, mut wrong) = (0, Vec::new());
    for (cases, answers) in RECORDED {
        asked += ask(cases, answers, &mut wrong);
    }
    assert!(wrong.is_empty(), "{} of {asked}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(asked > 1_000);
}

/// How many were asked; those that were answered otherwise are added.
fn ask(cases: &str, answers: &str, wrong: &mut Vec<String>) -> usize {
    let mut state = State::default();
    let mut answers = answers.lines();
    let mut asked = 0;
    for line in cases.lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(directive) = line.strip_prefix('@') {
            state.directive(directive);
            continue;
        }
        let answer: Json = serde_json::from_str(answers.next().expect("an answer")).expect("JSON");
        assert_eq!(answer["expr"].as_str(), Some(line));
        let text = |name: &str| answer[name].as_str().unwrap_or_default();
        if answer.get("type").is_none() || state.admission || text("value").contains('?') {
            continue;
        }
        if ELSEWHERE.iter().any(|part| line.contains(part)) {
            continue;
        }
        asked += 1;
        let (value, fail, cost) = state.evaluate(line);
        let value = if value.starts_with("<kubernetes.") { text("value").to_owned() } else { value };
        if (value.as_str(), fail.as_str(), cost.as_str()) != (text("value"), text("fail"), text("cost")) {
            wrong.push(format!("{line}\n    {} {} {}\n    {value} {fail} {cost}", text("value"), text("fail"), text("cost")));
        }
    }
    asked
}

impl State {
    fn directive(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "reset" => *self = State::default(),
            "env" => self.stored = rest == "stored",
            "var" => {
                let mut parts = rest.splitn(3, ' ').map(str::to_owned);
                let (name, ty) = (parts.next().expect("a name"), parts.next().expect("a type"));
                self.variables.push((name, ty, parts.next().map(|json| serde_json::from_str(&json).expect("JSON"))));
            }
            "schema" => self.schema = Some(serde_json::from_str(rest).expect("JSON")),
            "root" => self.root = true,
            "value" => self.now = Some(serde_json::from_str(rest).expect("JSON")),
            "old" => self.before = Some(serde_json::from_str(rest).expect("JSON")),
            "admission" => self.admission = true,
            _ => {}
        }
    }

    fn evaluate(&self, text: &str) -> (String, String, String) {
        let mut env = Env::new(if self.stored { Version::STORED } else { Version::NEW });
        for (name, ty, _) in &self.variables {
            env = env.with_variable(name, type_of(ty));
        }
        let declared = self.schema.as_ref().and_then(|schema| Declared::of_schema(schema, self.root)).map(|declared| declared.named("selfType"));
        if let Some(declared) = &declared {
            env = env.with_declared(&[declared]).with_variable("self", declared.cel_type()).with_variable("oldSelf", declared.cel_type());
        }
        let program = match env.compile(&text.replace('⏎', "\n")) {
            Ok(program) => program,
            Err(issues) => return (String::new(), format!("not compiled: {issues}"), String::new()),
        };
        let plan = match Plan::new(&program) {
            Ok(plan) => plan,
            Err(error) => return (String::new(), format!("program: {error}"), String::new()),
        };
        let node = self.schema.as_ref().map(Node::of);
        let activation = Variables { state: self, node: node.as_ref() };
        let outcome = plan.run(&activation, Limits::default());
        let cost = outcome.cost.to_string();
        match outcome.value {
            Ok(value) => (show(&value), String::new(), cost),
            Err(error) => (String::new(), error.to_string(), cost),
        }
    }
}

struct Variables<'v> {
    state: &'v State,
    node: Option<&'v Node>,
}

impl<'v> kubecel::eval::Activation<'v> for Variables<'v> {
    fn find(&self, name: &str) -> Option<Value<'v>> {
        let object = match name {
            "self" => self.state.now.as_ref(),
            "oldSelf" => self.state.before.as_ref(),
            _ => None,
        };
        if let (Some(json), Some(node)) = (object, self.node) {
            return kubecel::value::typed(json, node).ok();
        }
        let (_, ty, json) = self.state.variables.iter().rev().find(|(known, ..)| known == name)?;
        match json {
            Some(json) => Some(typed(ty, json)),
            None if ty.ends_with("Authorizer") => Some(authorizer(Arc::new(Rules))),
            None => None,
        }
    }
}

fn inside<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')')
}

fn type_of(text: &str) -> Type {
    if let Some(of) = inside(text, "list") {
        return Type::list(type_of(of));
    }
    if let Some(of) = inside(text, "optional") {
        return Type::optional(type_of(of));
    }
    if let Some((key, value)) = inside(text, "map").and_then(|of| of.split_once(',')) {
        return Type::map(type_of(key), type_of(value));
    }
    match text {
        "dyn" => Type::Dyn,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "null" => Type::Null,
        other => Type::object(other),
    }
}

/// A value of a type, as the recorder makes it.
fn typed<'v>(ty: &str, json: &'v Json) -> Value<'v> {
    match (ty, json) {
        ("timestamp", Json::String(text)) => Timestamp::parse(text).map(Value::Timestamp).expect("a time"),
        ("duration", Json::String(text)) => gotext::parse_duration(text).map(Value::Duration).expect("a duration"),
        ("bytes", Json::String(text)) => Value::Bytes(text.as_bytes().into()),
        (_, Json::Number(number)) if ty.starts_with("uint") => Value::Uint(number.as_u64().expect("a number")),
        (_, Json::Number(number)) if ty.starts_with("double") => Value::Double(number.as_f64().expect("a number")),
        (_, Json::Array(elements)) => {
            let of = ty.strip_prefix("list(").unwrap_or(ty);
            Value::list(elements.iter().map(|element| typed(of, element)).collect())
        }
        (_, Json::Object(fields)) => {
            let of = ty.split_once(',').map_or("", |(_, of)| of);
            let entries: Entries<'v> = fields.iter().map(|(key, value)| (Key::String(Text::Borrowed(key)), typed(of, value))).collect();
            Value::Map(Map::of(entries))
        }
        _ => Value::json(json),
    }
}

/// A value as the recorder shows it.
fn show(value: &Value<'_>) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => format!("{value}u"),
        Value::Double(value) => format!("double({})", gotext::general(*value)),
        Value::String(text) => gotext::quote(text),
        Value::Bytes(bytes) => format!("bytes({})", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
        Value::Timestamp(time) => format!("timestamp({}.{:09})", time.seconds(), time.nanos()),
        Value::Duration(nanos) => format!("duration({nanos})"),
        Value::Optional(None) => "optional.none".to_owned(),
        Value::Optional(Some(value)) => format!("optional({})", show(value)),
        Value::List(list) => {
            let elements: Vec<_> = list.iter().map(|element| element.map_or_else(|error| error.to_string(), |element| show(&element))).collect();
            format!("[{}]", elements.join(", "))
        }
        Value::Map(map) => {
            let entry = |key: Value<'_>| format!("{}: {}", show(&key), map.find(&key).ok().flatten().map_or("?".to_owned(), |value| show(&value)));
            let mut entries: Vec<_> = map.keys().into_iter().map(entry).collect();
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Type(ty) => format!("type({})", ty.runtime_name()),
        Value::Opaque(opaque) => match (opaque.type_name(), opaque.text()) {
            ("net.IP", Some(text)) => format!("ip({text})"),
            ("net.CIDR", Some(text)) => format!("cidr({text})"),
            (name, _) => format!("<{name}>"),
        },
        other => format!("<{}>", other.type_name()),
    }
}
