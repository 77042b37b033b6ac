//! Schemas by mutation: whatever a definition says, looking at it ends soon, and so does all that a schema that was taken is used for:
//! decoding objects by it, judging them, and evaluating its rules.
//!
//! The corpus is `fuzz/corpus/schemas`: schemas, one a file. An ordinary run tries the same mutations of it each time;
//! `KNARR_FUZZ_SECONDS=600 cargo test -p kinds --test schemas` goes on for so long with others, and writes down what fails.

#[path = "../../machinery/fuzz/numbers.rs"]
mod numbers;

use kinds::{Strategy as _, custom::Custom};
use machinery::{
    Value,
    gvk::Gvk,
    json::{self, Validation},
    structural,
};
use numbers::Numbers;
use serde_json::{Map, json};
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

/// Mutations in an ordinary run.
const ROUNDS: u32 = 1000;
/// No schema takes longer, on a busy machine and without optimisation.
const SLOWEST: Duration = Duration::from_secs(60);
/// A schema does not grow past this.
const BYTES_MAX: usize = 64 << 10;
/// Words of schemas.
const KEYS: [&str; 34] = [
    "type",
    "format",
    "properties",
    "items",
    "additionalProperties",
    "required",
    "enum",
    "default",
    "nullable",
    "pattern",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "multipleOf",
    "maxLength",
    "minLength",
    "maxItems",
    "minItems",
    "maxProperties",
    "minProperties",
    "uniqueItems",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-validations",
    "metadata",
    "a",
];
const TEXTS: [&str; 26] = [
    "string",
    "object",
    "array",
    "integer",
    "number",
    "boolean",
    "",
    "a",
    "set",
    "map",
    "atomic",
    "granular",
    "date-time",
    "int32",
    "byte",
    "ipv4",
    "duration",
    "^(a{1,99}b){1,99}$",
    "(",
    "self.a == oldSelf.a",
    "self.all(x, self.all(y, x == y))",
    "self.a.matches('(a+)+$')",
    "has(self.a)",
    "true",
    "self",
    "é😀",
];

impl Numbers {
    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 6 } else { 9 }) {
            0 => Value::Null,
            1 => (self.next() & 1 == 0).into(),
            2 => (self.next() as i64).into(),
            3 => self.below(5).into(),
            4 | 5 => self.one(&TEXTS).into(),
            6 => json!([{"rule": self.one(&TEXTS), "message": self.one(&TEXTS)}]),
            7 => (0..self.below(4)).map(|_| self.value(depth - 1)).collect(),
            _ => Value::Object((0..self.below(4)).map(|_| (self.one(&KEYS).to_owned(), self.value(depth - 1))).collect()),
        }
    }

    /// Changes a tree somewhere.
    fn mutate(&mut self, tree: &mut Value, other: &Value) {
        let goes_on = self.below(5) > 0;
        match tree {
            Value::Object(fields) if goes_on && !fields.is_empty() => {
                let key = fields.keys().nth(self.below(fields.len())).cloned().unwrap_or_default();
                match (self.below(8), fields.get_mut(&key)) {
                    (0, _) => drop(fields.remove(&key)),
                    (1, _) => drop(fields.insert(self.one(&KEYS).to_owned(), self.value(2))),
                    (_, Some(value)) => self.mutate(value, other),
                    _ => {}
                }
            }
            Value::Array(items) if goes_on && !items.is_empty() => {
                let at = self.below(items.len());
                match self.below(5) {
                    0 => drop(items.remove(at)),
                    1 => items.push(items[at].clone()),
                    _ => self.mutate(&mut items[at], other),
                }
            }
            place if self.below(4) == 0 => *place = part(other, self.below(64)).clone(),
            place if self.below(6) == 0 => *place = json!({"type": "object", "properties": {"a": place.take()}, "additionalProperties": self.value(1)}),
            place => *place = self.value(3),
        }
    }
}

/// The part of a tree at some place.
fn part(tree: &Value, at: usize) -> &Value {
    let mut open = vec![tree];
    let mut seen = 0;
    while let Some(next) = open.pop() {
        if seen == at {
            return next;
        }
        seen += 1;
        match next {
            Value::Object(fields) => open.extend(fields.values()),
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    tree
}

/// Whether it was taken.
fn attempt(numbers: &mut Numbers, schema: &Value) -> bool {
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}}});
    let mut definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "as.example.com"},
        "spec": {"group": "example.com", "scope": "Cluster", "names": {"plural": "as", "kind": "A", "listKind": "AList", "singular": "a"}, "versions": [version],
            "conversion": {"strategy": "None"}},
        "status": {"storedVersions": ["v1"]},
    });
    let definitions = kinds::strategy("apiextensions.k8s.io", "customresourcedefinitions");
    let kind = machinery::schema::builtin().kind(&Gvk::new("apiextensions.k8s.io", "v1", "CustomResourceDefinition")).expect("a built-in kind");
    let Ok(read) = json::normalize(definition.take(), kind, Validation::Ignore) else { return false };
    definition = read.value;
    definitions.default(&mut definition);
    definitions.prepare_create(&kinds::Context::new(std::time::SystemTime::UNIX_EPOCH, "fuzz"), &mut definition);
    if !definitions.validate(&definition).is_empty() {
        return false;
    }
    let version = &definition["spec"]["versions"][0];
    let gvk = Gvk::new("example.com", "v1", "A");
    let schema = structural::schema(&[(gvk.clone(), Some(&version["schema"]["openAPIV3Schema"]))]);
    let ty = schema.kind(&gvk).expect("the kind that was described");
    let custom = Custom { kind: gvk.clone(), version: kinds::custom::Described::new(version), has_status: true, ..<Custom as Default>::default() };
    for _ in 0..3 {
        let mut body = json!({"apiVersion": "example.com/v1", "kind": "A", "metadata": {"name": "a"}});
        body.as_object_mut().into_iter().for_each(|fields| fields.extend(["a", "spec", "m"].iter().map(|key| ((*key).to_owned(), numbers.value(3)))));
        let Ok(read) = json::decode(body.to_string().as_bytes(), Some(ty), Validation::Strict)
            .or_else(|_| json::decode(body.to_string().as_bytes(), Some(ty), Validation::Ignore))
        else {
            continue;
        };
        let mut object = read.value;
        machinery::defaulting::apply(ty, &mut object);
        let (stop, old) = (AtomicBool::new(false), Value::Object(Map::new()));
        let judged = custom.judge(&object, &stop);
        assert!(judged.errors.len() < 100_000);
        let _ = custom.judge_through("", &object, &old, &stop);
    }
    true
}

#[test]
fn any_schema_ends() {
    let all = std::thread::Builder::new().stack_size(json::STACK_BYTES).spawn(fuzz).expect("a thread");
    assert!(all.join().is_ok(), "see above");
}

fn fuzz() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/schemas");
    let files = fs::read_dir(&folder).expect("the corpus").map(|file| fs::read(file.expect("a file").path()).expect("a schema"));
    let mut corpus: Vec<Value> = files.map(|bytes| json::read(&bytes).expect("JSON")).collect();
    corpus.sort_by_key(Value::to_string);
    let seconds = std::env::var("KNARR_FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    // Those of a long run are others each time.
    let mut numbers = Numbers(if end.is_some() { u64::from(std::process::id()) << 32 | 0x7f4a_7c15 } else { 0x9e37_79b9_7f4a_7c15 });
    let (mut round, mut taken) = (0_u32, 0_u32);
    while end.map_or(round < ROUNDS, |end| Instant::now() < end) {
        let mut schema = corpus[round as usize % corpus.len()].clone();
        let other = corpus[numbers.below(corpus.len())].clone();
        // Each is tried as it is first.
        let changes = if (round as usize) < corpus.len() { 0 } else { 1 + numbers.below(3) };
        (0..changes).for_each(|_| numbers.mutate(&mut schema, &other));
        round += 1;
        let text = schema.to_string();
        if text.len() > BYTES_MAX {
            continue;
        }
        let started = Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(|| attempt(&mut numbers, &schema)));
        let Some(good) = ended.ok().filter(|_| started.elapsed() <= SLOWEST) else {
            let file = std::env::temp_dir().join(format!("schema-{}.json", std::process::id()));
            let _ = fs::write(&file, &text);
            panic!("a schema took {:?}: {}", started.elapsed(), file.display());
        };
        assert!(changes > 0 || good, "what is in the corpus is taken: {text}");
        taken += u32::from(good);
    }
    println!("{taken} of {round} schemas were taken");
}
