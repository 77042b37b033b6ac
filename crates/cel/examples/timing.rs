//! How long expressions of the usual kind take: compiled, and evaluated.
//!
//!     cargo run -p kubecel --example timing
//!
//! Without optimisation the figures say nothing but which of them are the slow ones.

use std::hint::black_box;
use std::time::{Duration, Instant};

use kubecel::declared::Declared;
use kubecel::eval::{Limits, Plan};
use kubecel::value::{Node, typed};
use kubecel::{Env, Value, Version};
use serde_json::json;

const RULES: [&str; 10] = [
    "self.replicas <= self.maxReplicas",
    "self.containers.all(c, c.image.startsWith('registry.example.com/'))",
    "self.containers.exists(c, c.name == 'main')",
    "has(self.labels) && 'app' in self.labels",
    "self.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    "self.kind in ['a', 'b', 'c']",
    "self.containers.map(c, c.name).size() == self.containers.size()",
    "self.containers.filter(c, c.name.contains('i')).size() > 0",
    "quantity(self.memory).isLessThan(quantity('4Gi'))",
    "!has(self.nothing) || self.replicas > 0 && self.maxReplicas < 100 && self.name != ''",
];

fn main() {
    let text = json!({"type": "string"});
    let schema = json!({"type": "object", "properties": {
        "replicas": {"type": "integer"}, "maxReplicas": {"type": "integer"}, "name": text, "kind": text, "memory": text, "nothing": text,
        "labels": {"type": "object", "additionalProperties": text},
        "containers": {"type": "array", "items": {"type": "object", "properties": {"name": text, "image": text}}},
    }});
    let container = |name: &str| json!({"name": name, "image": format!("registry.example.com/{name}:1")});
    let object = json!({
        "replicas": 2, "maxReplicas": 5, "name": "an-object", "kind": "c", "memory": "512Mi", "labels": {"app": "x", "tier": "y"},
        "containers": [container("init"), container("main"), container("sidecar")],
    });
    let declared = Declared::of_schema(&schema, false).map(|declared| declared.named("selfType1")).expect("a type");
    let node = Node::of(&schema);
    let env = Env::new(Version::STORED).with_declared(&[&declared]).with_variable("self", declared.cel_type());
    for text in RULES {
        let started = Instant::now();
        let program = env.compile(text).expect("an expression");
        let plan = Plan::new(&program).expect("a plan");
        let compiled = started.elapsed();
        let variables = [("self", typed(&object, &node).expect("a value"))];
        let outcome = plan.run(&variables, Limits::default());
        assert!(matches!(outcome.value, Ok(Value::Bool(true))), "{text}: {:?}", outcome.value);
        let (mut turns, started) = (0u32, Instant::now());
        while started.elapsed() < Duration::from_millis(100) {
            for _ in 0..100 {
                black_box(plan.run(black_box(&variables), Limits::default()).cost);
            }
            turns += 100;
        }
        println!(
            "{:>8.0} ns {:>6.0} µs to compile  cost {:>3}  {text}",
            started.elapsed().as_nanos() as f64 / f64::from(turns),
            compiled.as_micros(),
            outcome.cost
        );
    }
}
