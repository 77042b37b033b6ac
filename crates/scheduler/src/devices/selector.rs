//! Whether a device is one that a class or a request selects, by CEL. Programs are kept by their text: few texts are in use at a time.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::resource::v1::DeviceAttribute;
use kubecel::declared::devices::{self, Attribute};
use kubecel::eval::{Limits, Plan};
use kubecel::{Env, Value, Version};
use parking_lot::Mutex;

use super::pools::Entry;

/// Programs that are kept. They come from users; with more texts than this all are forgotten and compiled anew when they are used.
const PROGRAMS_MAX: usize = 200;

type Compiled = Result<Arc<Plan>, String>;

static ENV: LazyLock<Env> = LazyLock::new(|| Env::devices(Version::STORED));
static PROGRAMS: LazyLock<Mutex<HashMap<String, Compiled>>> = LazyLock::new(Mutex::default);

fn program(text: &str) -> Compiled {
    let mut programs = PROGRAMS.lock();
    if let Some(known) = programs.get(text) {
        return known.clone();
    }
    let compiled = ENV.compile(text).map_err(|issues| format!("compilation failed: {issues}"));
    let compiled = compiled.and_then(|program| Plan::new(&program).map(Arc::new).map_err(|error| format!("program instantiation failed: {error}")));
    if programs.len() >= PROGRAMS_MAX {
        programs.clear();
    }
    programs.insert(text.to_owned(), compiled.clone());
    compiled
}

/// A device as expressions see it.
///
/// # Errors
/// It has an attribute without a value.
pub(super) fn value(entry: &Entry<'_>) -> Result<Value<'static>, String> {
    let attributes = entry.device.attributes.iter().flatten().map(|(name, attribute)| (name.as_str(), of(attribute)));
    let capacity = entry.device.capacity.iter().flatten().map(|(name, capacity)| (name.as_str(), capacity.value.0.as_str()));
    devices::value(&entry.id.driver, entry.is_shared(), attributes, capacity)
}

fn of(attribute: &DeviceAttribute) -> Attribute<'_> {
    match attribute {
        DeviceAttribute { int: Some(value), .. } => Attribute::Int(*value),
        DeviceAttribute { bool: Some(value), .. } => Attribute::Bool(*value),
        DeviceAttribute { string: Some(text), .. } => Attribute::Text(text),
        DeviceAttribute { version: Some(text), .. } => Attribute::Version(text),
        _ => Attribute::Other,
    }
}

/// Whether an expression selects a device, and what it cost to find out, in CEL's units.
///
/// # Errors
/// It cannot be compiled, or has no value for this device.
pub(super) fn selects(text: &str, device: &Result<Value<'static>, String>, id: &dyn std::fmt::Display) -> Result<(bool, u64), String> {
    let plan = program(text).map_err(|why| format!(": CEL compile error: {why}"))?;
    let wrong = |why: &dyn std::fmt::Display| format!(" on device {id}: CEL runtime error: {why}");
    let device = device.as_ref().map_err(|why| wrong(why))?;
    let outcome = plan.run(&[("device", device.clone())], Limits::default());
    let cost = outcome.cost;
    match outcome.value {
        Ok(Value::Bool(selected)) => Ok((selected, cost)),
        Ok(other) => {
            Err(wrong(&format!("CEL result of type {} could not be converted to bool: type conversion error from '{0}' to 'bool'", other.type_name())))
        }
        Err(error) if error.message.contains("no such key:") => Err(wrong(&format!(
            "{error}. consider using CEL optional chaining (.? followed by orValue()) or guarding the check with has() for optional fields"
        ))),
        Err(error) => Err(wrong(&error)),
    }
}
