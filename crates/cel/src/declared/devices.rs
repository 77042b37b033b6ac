//! What selectors of devices see (`k8s.io/dynamic-resource-allocation/cel`): one device, with bounds by which their cost is estimated.

use super::{Declared, Shape};
use crate::types::Type;
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
