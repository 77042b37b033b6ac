//! Expressions by mutation: whatever the text and the values are, compiling and evaluating end soon, without a panic.
//!
//! The corpus is the recorded expressions. An ordinary run tries the same mutations each time;
//! `KNARR_FUZZ_SECONDS=600 cargo test -p kubecel --test fuzz` goes on for so long with others.

#[path = "../../machinery/fuzz/numbers.rs"]
mod numbers;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use kubecel::eval::{Limits, Plan};
use kubecel::value::{Json, Node, typed};
use kubecel::{Env, Type, Value, Version, declared::Declared};
use numbers::Numbers;
use serde_json::json;

const CORPUS: [&str; 2] = [include_str!("golden/cases.txt"), include_str!("golden/run.txt")];
/// Mutations in an ordinary run.
const ROUNDS: u32 = 2_000;
/// No text takes longer, on a machine with ten builds and without optimisation (one took 65 s there); what has no end is cut then.
const SLOWEST: Duration = Duration::from_secs(600);
/// Parts that make expressions of expressions.
const PARTS: [&str; 24] = [
    " && ",
    " || ",
    " + ",
    " == ",
    " in ",
    "[0]",
    ".size()",
    "?.x",
    ".all(x, ",
    ".map(x, ",
    ")",
    "(",
    "[",
    "]",
    "{",
    "}",
    "self",
    "d",
    "has(",
    "optional.of(",
    "'é😀'",
    "9223372036854775807",
    ".matches('",
    "lists.range(100)",
];

impl Numbers {
    fn json(&mut self, depth: usize) -> Json {
        match self.below(if depth == 0 { 6 } else { 9 }) {
            0 => Json::Null,
            1 => json!(self.next() & 1 == 0),
            2 => json!(self.next() as i64),
            3 => json!(f64::from_bits(self.next())),
            4 => json!(self.below(10)),
            5 => json!(["", "a", "é😀", "2024-01-01T00:00:00Z", "1Gi", "10.0.0.0/8"][self.below(6)]),
            6 => (0..self.below(5)).map(|_| self.json(depth - 1)).collect(),
            _ => Json::Object(["a", "l", "m", "s", "i"].iter().take(self.below(6)).map(|key| ((*key).to_owned(), self.json(depth - 1))).collect()),
        }
    }
}

fn mutate(numbers: &mut Numbers, text: &str, other: &str) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let other: Vec<char> = other.chars().collect();
    for _ in 0..=numbers.below(3) {
        let at = numbers.below(chars.len() + 1).min(chars.len());
        let length = numbers.below(12).min(chars.len() - at);
        match numbers.below(5) {
            0 => drop(chars.drain(at..at + length)),
            1 => drop(chars.splice(at..at, PARTS[numbers.below(PARTS.len())].chars())),
            2 => {
                let from = numbers.below(other.len());
                let to = (from + numbers.below(40)).min(other.len());
                chars.splice(at..at, other[from..to].iter().copied());
            }
            3 => {
                let copy = chars[at..at + length].to_vec();
                chars.splice(at..at, copy);
            }
            _ => drop(chars.splice(at..at + length.min(1), char::from_u32(numbers.below(0x250) as u32))),
        }
    }
    chars.into_iter().collect()
}

/// The environment of all texts, with a schema for `self`.
fn environment(schema: &Json) -> Env {
    let declared = Declared::of_schema(schema, false).map(|declared| declared.named("selfType1")).expect("a type");
    let mut env = Env::new(Version::STORED).with_declared(&[&declared]).with_variable("self", declared.cel_type());
    for name in ["d", "m", "s", "i", "l", "y"] {
        env = env.with_variable(name, Type::Dyn);
    }
    env
}

fn attempt(env: &Env, node: &Node, text: &str, object: &Json) {
    let Ok(program) = env.compile(text) else { return };
    let Ok(plan) = Plan::new(&program) else { return };
    let value = || Value::json(object);
    let this = typed(object, node).unwrap_or(Value::Null);
    let variables = [("d", value()), ("m", value()), ("s", value()), ("i", value()), ("l", value()), ("y", value()), ("self", this)];
    let outcome = plan.run(&variables, Limits { cost: 100_000, ..Limits::default() });
    if let Ok(value) = outcome.value {
        assert!(outcome.cost <= 100_000);
        let _ = kubecel::value::shown(&value);
    }
}

#[test]
fn any_text_ends() {
    let all = std::thread::Builder::new().stack_size(machinery::json::STACK_BYTES).spawn(fuzz).expect("a thread");
    assert!(all.join().is_ok(), "see above");
}

fn fuzz() {
    let text = json!({"type": "string"});
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "integer"}, "s": text, "i": {"x-kubernetes-int-or-string": true},
        "l": {"type": "array", "items": text, "x-kubernetes-list-type": "set"}, "m": {"type": "object", "additionalProperties": {"type": "number"}},
    }});
    let (env, node) = (environment(&schema), Node::of(&schema));
    let corpus: Vec<&str> =
        CORPUS.iter().flat_map(|text| text.lines()).filter(|line| !line.is_empty() && !line.starts_with(['#', '@']) && line.len() < 300).collect();
    let end = std::env::var("KNARR_FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).map(|seconds| Instant::now() + Duration::from_secs(seconds));
    // Those of a long run are others each time.
    let mut numbers = Numbers(if end.is_some() { u64::from(std::process::id()) << 32 | 0x7f4a_7c15 } else { 0x9e37_79b9_7f4a_7c15 });
    let mut round = 0;
    while end.map_or(round < ROUNDS, |end| Instant::now() < end) {
        round += 1;
        let text = corpus[numbers.below(corpus.len())];
        let other = corpus[numbers.below(corpus.len())];
        let text = mutate(&mut numbers, text, other);
        let object = numbers.json(3);
        let started = Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(|| attempt(&env, &node, &text, &object)));
        assert!(ended.is_ok() && started.elapsed() < SLOWEST, "{text:?} with {object} took {:?}", started.elapsed());
    }
}

/// What costs little by the original's reckoning and is much work.
#[test]
fn work_has_a_limit_beside_the_cost() {
    let all = std::thread::Builder::new().stack_size(machinery::json::STACK_BYTES).spawn(|| {
        let big = Json::from("x".repeat(1 << 20));
        let bigger = Json::from("x".repeat(3 << 20));
        let env = Env::new(Version::STORED).with_variable("s", Type::String).with_variable("t", Type::String);
        // A list that is as long as two to such a power, for a cost of some hundreds.
        let doubled = |list: &str, times: usize, call: &str| format!("[{list}]{}[0]{call}", ".map(a, a + a)".repeat(times));
        let shared = format!("[[0, 1]]{}", ".map(a, [a, a])".repeat(60));
        // Values of fifty lists, one within the other, so many times.
        let deep = |times: usize| format!("dyn([1]{})", format!(".map(x, dyn({}x{}))", "[".repeat(50), "]".repeat(50)).repeat(times));
        let program = env.compile(&format!("{0} == {0}", deep(80))).unwrap_or_else(|issues| panic!("{issues}"));
        let outcome = Plan::new(&program).expect("a plan").run(&[], Limits::default());
        assert!(matches!(outcome.value, Ok(Value::Bool(true))), "{:?}", outcome.value.map(|_| ()));
        for text in [
            "s.replace('', s).size() > 0".to_owned(),
            "lists.range(20000).map(x, s).join(s).size() > 0".to_owned(),
            "(lists.range(1000).map(x, '%s').join()).format(lists.range(1000).map(x, s)).size() > 0".to_owned(),
            "lists.range(10000000).size() > 0".to_owned(),
            format!("{shared} == {shared}"),
            format!("{shared}.indexOf({shared}[0]) == 0"),
            format!("'%s'.format([{shared}]).size() > 0"),
            "lists.range(300).all(x, lists.range(300).all(y, 'a'.matches('a{' + string(x) + '}b{' + string(y) + '}') || true))".to_owned(),
            doubled("[1]", 70, ".size() > 0"),
            doubled("[1]", 40, ".isSorted()"),
            doubled("[1]", 40, ".sum() > 0"),
            doubled("[1]", 40, ".indexOf(2) > 0"),
            doubled("[1]", 40, ".includes(2)"),
            doubled("[1]", 40, ".slice(0, 1000000000000).size() > 0"),
            doubled("[1]", 40, ".reverse().size() > 0"),
            doubled("[1]", 40, ".sort().size() > 0"),
            doubled("['']", 40, ".join().size() > 0"),
            doubled("[optional.none()]", 40, ".unwrapOpt().size() > 0"),
            format!("sets.intersects({}, [2])", doubled("[1]", 40, "")),
            format!("{} == 1", deep(120)),
            "t.split('').size() > 0".to_owned(),
            "t.split('x').size() > 0".to_owned(),
            "t.findAll('x').size() > 0".to_owned(),
            format!("[dyn(s)]{}[0].size() > 0", ".map(x, x + x)".repeat(40)),
            format!("[dyn(bytes(s))]{}[0].size() > 0", ".map(x, x + x)".repeat(40)),
            "lists.range(20000).map(x, bytes(dyn(s))).size() > 0".to_owned(),
            "[bytes(s)].all(b, lists.range(20000).map(x, string(dyn(b))).size() > 0)".to_owned(),
            "lists.range(20000).all(x, s.size() > 0)".to_owned(),
            "lists.range(20000).all(x, s.charAt(x) == 'x')".to_owned(),
            "lists.range(20000).all(x, isURL(s) || true)".to_owned(),
            "lists.range(20000).all(x, isQuantity(s) || true)".to_owned(),
            "lists.range(30000).all(x, [s] == [s])".to_owned(),
            "[lists.range(5000).map(x, string(x))].all(l, [l.transformMapEntry(i, v, {v: i})].all(m, l.all(x, m.exists(k, v, true))))".to_owned(),
        ] {
            let program = env.compile(&text).unwrap_or_else(|issues| panic!("{issues}"));
            let plan = Plan::new(&program).expect("a plan");
            let started = Instant::now();
            let outcome = plan.run(&[("s", Value::json(&big)), ("t", Value::json(&bigger))], Limits::default());
            let message = outcome.value.map(|_| ()).map_err(|error| error.to_string());
            assert_eq!(message, Err("operation cancelled: actual cost limit exceeded".to_owned()), "{text}");
            assert!(started.elapsed() < SLOWEST, "{text}: {:?}", started.elapsed());
        }
    });
    assert!(all.expect("a thread").join().is_ok(), "see above");
}

#[test]
fn what_is_shared_is_shown_with_a_limit() {
    let all = std::thread::Builder::new().stack_size(machinery::json::STACK_BYTES).spawn(|| {
        let env = Env::new(Version::STORED);
        let shared = format!("[[0, 1]]{}", ".map(a, [a, a])".repeat(60));
        for text in [format!("[dyn(''), dyn({shared})].join() == ''"), format!("[dyn(optional.none()), dyn({{dyn({shared}): 1}})].unwrapOpt().size() > 0")] {
            let Ok(program) = env.compile(&text) else { panic!("{text}") };
            let started = Instant::now();
            let outcome = Plan::new(&program).expect("a plan").run(&[], Limits::default());
            let message = outcome.value.expect_err("an error").to_string();
            assert!(message.len() < 1 << 17 && message.contains("[0, 1], [0, 1]"), "{text}: {} bytes, {:.200}", message.len(), message);
            assert!(started.elapsed() < SLOWEST, "{text}: {:?}", started.elapsed());
        }
    });
    assert!(all.expect("a thread").join().is_ok(), "see above");
}

#[test]
fn work_beyond_what_is_free_is_told_as_a_cost() {
    let env = Env::new(Version::STORED).with_variable("s", Type::String);
    let cost = |length: usize| {
        let text = Json::from("x".repeat(length));
        let program = env.compile("s.split('').size() > 0").unwrap_or_else(|issues| panic!("{issues}"));
        let outcome = Plan::new(&program).expect("a plan").run(&[("s", Value::json(&text))], Limits::default());
        assert!(outcome.value.is_ok(), "{length}");
        outcome.cost
    };
    assert_eq!((cost(100), cost(100_000)), (23, 20_003));
    assert_eq!(cost(1_000_000), 200_003 + (8_000_000 + 1_000_000 / 64 - 1_000_000) / 20);
}

/// How many patterns an expression has is no matter, and what they take is: those that there is no room for are compiled when they
/// are used, and paid for.
#[test]
fn constant_patterns_have_room_together() {
    let all = std::thread::Builder::new().stack_size(machinery::json::STACK_BYTES).spawn(|| {
        let env = Env::new(Version::STORED);
        let run = |count: usize, pattern: &dyn Fn(usize) -> String| {
            let text: Vec<_> = (0..count).map(|at| format!("'b'.matches('{}')", pattern(at))).collect();
            let program = env.compile(&text.join(" || ")).unwrap_or_else(|issues| panic!("{issues}"));
            let plan = Plan::new(&program).expect("a plan");
            plan.run(&[], Limits::default()).value.map_err(|error| error.to_string()).map(|value| matches!(value, Value::Bool(true)))
        };
        let limit = Err("operation cancelled: actual cost limit exceeded".to_owned());
        assert_eq!(run(500, &|_| "a{1,900}".to_owned()), Ok(false));
        assert_eq!(run(1_000, &|at| format!("a{at}|b")), Ok(true));
        let started = Instant::now();
        assert_eq!(run(2_000, &|at| format!("^\\\\pL{{0,160}}c{at}")), limit);
        assert!(started.elapsed() < SLOWEST, "{:?}", started.elapsed());
    });
    assert!(all.expect("a thread").join().is_ok(), "see above");
}

/// Patterns of a few characters that are megabytes of program, each another one, and texts that all of a pattern is compared with.
#[test]
fn computed_patterns_are_paid_for() {
    let all = std::thread::Builder::new().stack_size(machinery::json::STACK_BYTES).spawn(|| {
        let text = Type::list(Type::String);
        let env = Env::new(Version::STORED).with_variable("p", text).with_variable("t", Type::String);
        let run = |rule: &str, patterns: Vec<String>, text: &str| {
            let program = env.compile(rule).unwrap_or_else(|issues| panic!("{issues}"));
            let (patterns, text) = (Json::from(patterns), Json::from(text));
            let started = Instant::now();
            let outcome = Plan::new(&program).expect("a plan").run(&[("p", Value::json(&patterns)), ("t", Value::json(&text))], Limits::default());
            assert!(started.elapsed() < SLOWEST, "{rule}: {:?}", started.elapsed());
            outcome.value.map_err(|error| error.to_string()).map(|value| matches!(value, Value::Bool(true)))
        };
        let limit = Err("operation cancelled: actual cost limit exceeded".to_owned());
        let large = |count: usize| (0..count).map(|at| format!("\\pL{{0,160}}{at}")).collect();
        assert_eq!(run("p.all(p, t.matches(p) || true)", large(190), "a"), Ok(true), "they are too large, and it is told soon");
        assert_eq!(run("lists.range(10).all(n, p.all(p, t.matches(p) || true))", large(190), "a"), limit, "what fails is paid for, too");
        let long = (0..100).map(|at| "\\pL".repeat(5_000) + &at.to_string()).collect();
        assert_eq!(run("p.all(p, t.matches(p) || true)", long, "a"), limit);
        let usual = |count: usize| (0..count).map(|at| format!("^[a-z]{{1,{}}}$", at + 1)).collect();
        assert_eq!(run("p.all(p, t.matches(p))", usual(100), "a"), Ok(true));
        assert_eq!(run("t.matches('^[a-z]+$')", Vec::new(), &"a".repeat(1 << 20)), Ok(true));
        let states = "(?:\\\\pL{0,3}a){40}\\\\d";
        assert_eq!(run(&format!("t.matches('{states}')"), Vec::new(), &"a".repeat(1 << 20)), limit);
    });
    assert!(all.expect("a thread").join().is_ok(), "see above");
}

/// An element of a list that is made of many is found in few steps.
#[test]
fn sums_of_many_lists_are_copied_now_and_then() {
    let all = std::thread::Builder::new().stack_size(machinery::json::STACK_BYTES).spawn(|| {
        let env = Env::new(Version::STORED).with_variable("l", Type::list(Type::Dyn)).with_variable("n", Type::list(Type::Int));
        let one = env.compile("l + [1]").unwrap_or_else(|issues| panic!("{issues}"));
        let one = Plan::new(&one).expect("a plan");
        let mut list = Value::list(Vec::new());
        for _ in 0..4_000 {
            list = one.run(&[("l", list), ("n", Value::Null)], Limits::default()).value.unwrap_or_else(|error| panic!("{error}"));
        }
        let all = env.compile("n.all(x, l[0] == 1) && l.size() == 4000").unwrap_or_else(|issues| panic!("{issues}"));
        let numbers = Json::from((0..100_000).collect::<Vec<i32>>());
        let started = Instant::now();
        let outcome = Plan::new(&all).expect("a plan").run(&[("l", list), ("n", Value::json(&numbers))], Limits::default());
        assert!(matches!(outcome.value, Ok(Value::Bool(true))), "{:?}", outcome.value);
        assert!(started.elapsed() < SLOWEST / 4, "{:?}", started.elapsed());
    });
    assert!(all.expect("a thread").join().is_ok(), "see above");
}

/// What objects hold, and what expressions make of them, is compared at a price.
#[test]
fn what_is_compared_is_paid_for() {
    let all = std::thread::Builder::new().stack_size(machinery::json::STACK_BYTES).spawn(|| {
        let limit = Err("operation cancelled: actual cost limit exceeded".to_owned());
        let kept = json!({"type": "object", "properties": {"k": {"x-kubernetes-preserve-unknown-fields": true}}});
        let text = json!({"type": "string"});
        let set = json!({"type": "array", "items": text, "x-kubernetes-list-type": "set"});
        let schema = json!({"type": "object", "properties": {"x": kept, "y": kept, "l": set}});
        let (env, node) = (environment(&schema), Node::of(&schema));
        let many: Vec<u32> = (0..50_000).collect();
        let object = json!({"x": {"k": [many]}, "y": {"k": {"b": "x".repeat(3 << 20)}}, "l": ["x".repeat(1 << 20)]});
        let run = |env: &Env, text: &str| {
            let program = env.compile(text).unwrap_or_else(|issues| panic!("{issues}"));
            let started = Instant::now();
            let plan = Plan::new(&program).expect("a plan");
            let outcome = plan.run(&[("self", typed(&object, &node).expect("an object"))], Limits::default());
            assert!(started.elapsed() < SLOWEST, "{text}: {:?}", started.elapsed());
            outcome.value.map(|value| matches!(value, Value::Bool(true))).map_err(|error| error.to_string())
        };
        for same in ["self.x == self.x", "self.y == self.y", "self.l == self.l"] {
            assert_eq!(run(&env, same), Ok(true));
            assert_eq!(run(&env, &format!("lists.range(30000).all(n, {same})")), limit, "{same}");
        }
        assert!(run(&env, "{'a': 1}[self.l[0]] == 1").is_err_and(|why| why.starts_with("no such key: xx") && why.len() < 1 << 17));
        let patches = Env::admission(Version::STORED, kubecel::declared::admission::Optional { patches: true, ..Default::default() });
        let shared = |times: usize| format!("[dyn(Object{{}})]{}[0]", ".map(x, dyn(Object{a: x, b: x}))".repeat(times));
        assert_eq!(run(&patches, &format!("{0} == {0}", shared(3))), Ok(true));
        assert_eq!(run(&patches, &format!("{0} == {0}", shared(50))), limit);
    });
    assert!(all.expect("a thread").join().is_ok(), "see above");
}
