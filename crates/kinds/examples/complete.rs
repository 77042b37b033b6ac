//! Completes and checks objects as a create or an update does, without a server: to compare with the original by hand.
//!
//! Reads JSON lines `{"group":…, "resource":…, "object":…, "old":…, "part": "status"|"resize"|…}`; writes for each
//! `{"object", "warnings"}`, or `{"errors": [{"field", "reason", "message"}]}`.

use kinds::Context;
use machinery::{Value, defaulting, field::Error, gvk::Gvk, json, schema};
use serde_json::json;
use std::{
    io::{self, BufRead, Write},
    time::SystemTime,
};

fn complete(case: &Value) -> Value {
    let text = |v: &'_ Value| v.as_str().unwrap_or_default().to_owned();
    let (group, resource) = (text(&case["group"]), text(&case["resource"]));
    let strategy = kinds::strategy(&group, &resource);
    let labelled = case["object"]["metadata"]["labels"].as_object().is_some_and(|labels| !labels.is_empty());
    let cx = Context { labelled, ..Context::new(SystemTime::now(), "admin") };
    let finish = |object: &Value| -> Result<Value, String> {
        let gvk = Gvk::parse(&text(&object["apiVersion"]), &text(&object["kind"]));
        let ty = schema::builtin().kind(&gvk).ok_or("no such kind")?;
        let mut value = json::decode(object.to_string().as_bytes(), Some(ty), json::Validation::Strict).map_err(|s| s.message)?.value;
        defaulting::apply(ty, &mut value);
        strategy.default(&mut value);
        Ok(value)
    };
    let mut object = match finish(&case["object"]) {
        Ok(object) => object,
        Err(problem) => return json!({ "problem": problem }),
    };
    let namespaced = object["metadata"]["namespace"].is_string();
    if let Some(part) = case["part"].as_str().filter(|part| !part.is_empty()) {
        strategy.prepare_through(&cx, part, &mut object, &case["old"]);
        let errors = strategy.validate_through(part, &object, &case["old"]);
        return answer(object, &errors, strategy.warnings(&Value::Null, None));
    }
    let mut errors = if case["old"].is_object() {
        strategy.prepare_update(&cx, &mut object, &case["old"]);
        kinds::validate_meta_update("", &object, &case["old"], strategy)
    } else {
        object["metadata"]["uid"] = "5d3c1f0e-0000-4000-8000-000000000000".into();
        strategy.prepare_create(&cx, &mut object);
        strategy.name_addresses(&mut object);
        kinds::validate_meta(&object, namespaced, strategy)
    };
    errors.extend(match case["old"].is_object() {
        true => strategy.validate_update(&object, &case["old"]),
        false => strategy.validate(&object),
    });
    let old = Some(&case["old"]).filter(|old| old.is_object());
    let warnings = strategy.warnings(&object, old);
    if old.is_none() {
        strategy.read_again(&mut object);
    }
    answer(object, &errors, warnings)
}

fn answer(object: Value, errors: &[Error], warnings: Vec<String>) -> Value {
    if errors.is_empty() {
        return json!({"object": object, "warnings": warnings});
    }
    let shown: Vec<Value> = errors.iter().map(|e| json!({"field": e.path.to_string(), "reason": e.kind.reason(), "message": e.body()})).collect();
    json!({ "errors": shown })
}

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let case: Value = serde_json::from_str(&line?).unwrap_or_default();
        writeln!(out, "{}", complete(&case))?;
    }
    Ok(())
}
