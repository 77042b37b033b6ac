//! What selectors of devices see (`k8s.io/dynamic-resource-allocation/cel`): one device, with bounds by which their cost is estimated, and
//! as a value.

use super::{Declared, Shape};
use crate::cost::{Size, Sizes};
use crate::library::{quantity, semver};
use crate::types::{Str, Type};
use crate::value::{Entries, Key, Map, Text, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most bytes of a driver's name, or of the domain before an attribute's name.
const DOMAIN_MAX: i64 = 63;
/// The most bytes of an attribute's name.
const NAME_MAX: i64 = 32;
/// The most bytes of an attribute's value.
const VALUE_MAX: i64 = 64;
/// Attributes and capacities of a device at most.
const ENTRIES_MAX: i64 = 32;

/// `device`.
pub fn device() -> Declared {
    let attributes = by_domain(sized(Type::Any, VALUE_MAX));
    let capacity = by_domain(Declared::simple(Type::object("kubernetes.Quantity"), 8));
    let fields =
        [("driver", sized(Type::String, DOMAIN_MAX)), ("allowMultipleAllocations", sized(Type::Bool, 1)), ("attributes", attributes), ("capacity", capacity)];
    Declared::object("kubernetes.DRADevice", fields)
}

fn sized(ty: Type, elements_max: i64) -> Declared {
    Declared { elements_max, ..Declared::simple(ty, 1) }
}

/// By a domain and by a name in it.
fn by_domain(value: Declared) -> Declared {
    let map = |key_max, value| Declared { shape: Shape::Map(Arc::new(sized(Type::String, key_max)), Arc::new(value)), elements_max: ENTRIES_MAX, bytes_min: 2 };
    map(DOMAIN_MAX, map(NAME_MAX, value))
}

/// The sizes of what a selector reads of its device, and of nothing else. An attribute may be read as a field.
pub struct DeviceSizes(Declared);

impl Default for DeviceSizes {
    fn default() -> Self {
        DeviceSizes(device())
    }
}

impl Sizes for DeviceSizes {
    fn size(&self, path: &[Str], _ty: &Type) -> Option<Size> {
        let (variable, steps) = path.split_first()?;
        if &**variable != "device" {
            return None;
        }
        steps.iter().try_fold(&self.0, |at, step| at.part(step).or_else(|| attribute(at))).map(Declared::size)
    }
}

/// What the attributes in a domain are, whatever they are called.
fn attribute(domain: &Declared) -> Option<&Declared> {
    match &domain.shape {
        Shape::Map(_, value) if value.shape == Shape::Simple(Type::Any) => Some(value),
        _ => None,
    }
}

/// What an attribute is.
#[derive(Debug, Clone, Copy)]
pub enum Attribute<'d> {
    Bool(bool),
    Int(i64),
    Text(&'d str),
    Version(&'d str),
    /// What is not known, or not in this version.
    Other,
}

/// A device as the value of `device`. A name without a domain is of the driver's.
///
/// # Errors
/// An attribute or a capacity has no value, in the original's words.
pub fn value<'d>(
    driver: &'d str,
    shared: bool,
    attributes: impl IntoIterator<Item = (&'d str, Attribute<'d>)>,
    capacity: impl IntoIterator<Item = (&'d str, &'d str)>,
) -> Result<Value<'static>, String> {
    let mut by_domain = Domains::new();
    for (name, attribute) in attributes {
        let value = match attribute {
            Attribute::Bool(value) => Ok(Value::Bool(value)),
            Attribute::Int(value) => Ok(Value::Int(value)),
            Attribute::Text(text) => Ok(Value::text(text)),
            Attribute::Version(text) => semver::value(text).map_err(|why| format!("parse semantic version: {why}")),
            Attribute::Other => Err("unsupported attribute value".to_owned()),
        };
        put(&mut by_domain, driver, name, value.map_err(|why| format!("attribute {name}: {why}"))?);
    }
    let mut room = Domains::new();
    for (name, amount) in capacity {
        put(&mut room, driver, name, quantity::value(amount).map_err(|why| format!("capacity {name}: {why}"))?);
    }
    let fields =
        [("driver", Value::text(driver)), ("allowMultipleAllocations", Value::Bool(shared)), ("attributes", opened(by_domain)), ("capacity", opened(room))];
    Ok(Value::Map(Map::of(fields.into_iter().map(|(name, value)| (Key::String(Text::Borrowed(name)), value)).collect())))
}

type Domains = BTreeMap<String, Entries<'static>>;

fn put(domains: &mut Domains, driver: &str, name: &str, value: Value<'static>) {
    let (domain, name) = name.split_once('/').unwrap_or((driver, name));
    domains.entry(domain.to_owned()).or_default().insert(key(name), value);
}

fn opened(domains: Domains) -> Value<'static> {
    Value::Map(Map::open(domains.into_iter().map(|(domain, entries)| (key(&domain), Value::Map(Map::of(entries)))).collect()))
}

fn key(text: &str) -> Key<'static> {
    Key::String(Text::Shared(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{Limits, Plan};
    use crate::{Env, Version};

    #[test]
    fn an_attribute_has_its_size_and_nothing_beside_the_device_has_one() {
        let most = |text: &str| Env::devices(Version::NEW).compile(text).expect("a program").estimate(&DeviceSizes::default()).max;
        assert!(most("device.attributes['a.b'].c == device.attributes['c.d'].c") < 100);
        assert!(most("device.driver == 'x'") < 100);
        assert!(most("type(device.driver) == string") > 1_000_000);
    }

    #[test]
    fn a_selector_reads_a_device() {
        let attributes = [("model", Attribute::Text("a100")), ("other.io/cores", Attribute::Int(4)), ("ver", Attribute::Version("1.2.3"))];
        let device = value("d.io", true, attributes, [("memory", "80Gi")]).expect("a device");
        let told = |text: &str| {
            let plan = Plan::new(&Env::devices(Version::NEW).compile(text).expect("a program")).expect("a plan");
            let outcome = plan.run(&[("device", device.clone())], Limits::default());
            outcome.value.map(|value| matches!(value, Value::Bool(true))).map_err(|error| error.to_string())
        };
        for (text, holds) in [
            ("device.driver == 'd.io' && device.allowMultipleAllocations", true),
            ("device.attributes['d.io'].model == 'a100'", true),
            ("device.attributes['other.io'].cores > 4", false),
            ("device.attributes['d.io'].ver.isGreaterThan(semver('1.0.0'))", true),
            ("device.capacity['d.io'].memory.compareTo(quantity('80Gi')) == 0", true),
            // A domain that the device does not have is empty, but it is not there.
            ("has(device.attributes['none.io'].x)", false),
            ("device.attributes['none.io'].?x.orValue(1) == 1", true),
            ("'none.io' in device.attributes", false),
            ("'d.io' in device.attributes", true),
        ] {
            assert_eq!(told(text), Ok(holds), "{text}");
        }
        assert_eq!(told("device.attributes['none.io'].x == 1"), Err("no such key: x".to_owned()));
        assert_eq!(value("d.io", false, [("x", Attribute::Other)], []).map(drop), Err("attribute x: unsupported attribute value".to_owned()));
        let wrong = value("d.io", false, [("v", Attribute::Version("1"))], []).map(drop);
        assert_eq!(wrong, Err("attribute v: parse semantic version: No Major.Minor.Patch elements found".to_owned()));
    }
}
