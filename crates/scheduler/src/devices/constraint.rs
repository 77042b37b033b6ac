//! What devices of a claim must have in common, or must not. A constraint that does not hold does not hold with more devices either, so
//! a search stops there.

use k8s_openapi::api::resource::v1::{Device, DeviceAttribute, DeviceConstraint};

use super::pools::Entry;

/// A constraint of a claim, with what the devices that were chosen so far have.
pub(super) struct Constraint<'a> {
    requests: &'a [String],
    attribute: &'a str,
    distinct: bool,
    seen: Vec<&'a DeviceAttribute>,
}

impl<'a> Constraint<'a> {
    /// None: it says nothing that is known.
    pub(super) fn new(constraint: &'a DeviceConstraint) -> Option<Self> {
        let (attribute, distinct) = match (&constraint.match_attribute, &constraint.distinct_attribute) {
            (Some(attribute), _) => (attribute, false),
            (None, Some(attribute)) => (attribute, true),
            (None, None) => return None,
        };
        Some(Self { requests: constraint.requests.as_deref().unwrap_or_default(), attribute, distinct, seen: Vec::new() })
    }

    /// Whether it is about a request. `whole` names a subrequest with its request.
    fn is_about(&self, request: &str, whole: &str) -> bool {
        self.requests.is_empty() || self.requests.iter().any(|name| name == request || name == whole)
    }

    /// Takes a device in, unless it breaks the constraint.
    pub(super) fn add(&mut self, request: &str, whole: &str, entry: &Entry<'a>) -> bool {
        if !self.is_about(request, whole) {
            return true;
        }
        let Some(attribute) = find(entry.device, &entry.id.driver, self.attribute) else { return false };
        let known = attribute.string.is_some() || attribute.int.is_some() || attribute.bool.is_some() || attribute.version.is_some();
        let holds = if self.distinct {
            self.seen.is_empty() || (known && !self.seen.iter().any(|other| same(other, attribute)))
        } else {
            self.seen.first().is_none_or(|first| known && same(first, attribute))
        };
        if holds {
            self.seen.push(attribute);
        }
        holds
    }

    /// Lets the last device go that was taken in.
    pub(super) fn remove(&mut self, request: &str, whole: &str) {
        if self.is_about(request, whole) {
            self.seen.pop();
        }
    }
}

/// An attribute by its whole name; one without a domain is of the driver's.
fn find<'d>(device: &'d Device, driver: &str, name: &str) -> Option<&'d DeviceAttribute> {
    let all = device.attributes.as_ref()?;
    all.get(name).or_else(|| {
        let (domain, short) = name.split_once('/')?;
        all.get(short).filter(|_| domain == driver)
    })
}

/// Whether two attributes are of one kind and equal.
fn same(a: &DeviceAttribute, b: &DeviceAttribute) -> bool {
    (b.string.is_some() && a.string == b.string)
        || (b.int.is_some() && a.int == b.int)
        || (b.bool.is_some() && a.bool == b.bool)
        || (b.version.is_some() && a.version == b.version)
}
