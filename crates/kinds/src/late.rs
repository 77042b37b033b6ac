//! Errors that upstream tells last: of some fields it tells what its declared rules find (`+k8s:beta` in the published types), behind
//! all that its validation in code finds, and not what that says of the same (`FilterCoveredHandwrittenErrors`).

use machinery::field::{Error, ErrorKind};

const OF_HPA: &str = "must be greater than or equal to ";

/// Kind, field without its indexes, what is wrong, and how the words begin.
const LATE: [(&str, &str, ErrorKind, &str); 35] = [
    ("DeviceClass", "metadata.name", ErrorKind::Invalid, ""),
    ("DeviceClass", "spec.selectors", ErrorKind::TooMany, ""),
    ("DeviceClass", "spec.config", ErrorKind::TooMany, ""),
    ("DeviceClass", "spec.config[].opaque.driver", ErrorKind::Required, ""),
    ("DeviceClass", "spec.config[].opaque.driver", ErrorKind::Invalid, ""),
    ("DeviceClass", "spec.config[].opaque.driver", ErrorKind::TooLong, ""),
    ("DeviceClass", "spec.extendedResourceName", ErrorKind::Invalid, ""),
    ("EndpointSlice", "addressType", ErrorKind::Required, ""),
    ("EndpointSlice", "addressType", ErrorKind::Invalid, "field is immutable"),
    ("EndpointSlice", "endpoints[].addresses", ErrorKind::Required, ""),
    ("EndpointSlice", "endpoints[].addresses", ErrorKind::TooMany, ""),
    ("HorizontalPodAutoscaler", "spec.minReplicas", ErrorKind::Invalid, OF_HPA),
    ("HorizontalPodAutoscaler", "spec.maxReplicas", ErrorKind::Required, ""),
    ("HorizontalPodAutoscaler", "spec.maxReplicas", ErrorKind::Invalid, "must be greater than or equal to 1"),
    ("IPAddress", "spec.parentRef", ErrorKind::Required, ""),
    ("IPAddress", "spec.parentRef", ErrorKind::Invalid, "field is immutable"),
    ("IPAddress", "spec.parentRef.resource", ErrorKind::Required, ""),
    ("IPAddress", "spec.parentRef.name", ErrorKind::Required, ""),
    ("IngressClass", "spec.parameters.kind", ErrorKind::Required, ""),
    ("IngressClass", "spec.parameters.name", ErrorKind::Required, ""),
    ("NetworkPolicy", "spec.ingress[].from[].ipBlock.cidr", ErrorKind::Required, ""),
    ("NetworkPolicy", "spec.egress[].to[].ipBlock.cidr", ErrorKind::Required, ""),
    ("PriorityLevelConfiguration", "spec.type", ErrorKind::Required, ""),
    ("PriorityLevelConfiguration", "spec.exempt", ErrorKind::Forbidden, ""),
    ("PriorityLevelConfiguration", "spec.limited", ErrorKind::Forbidden, ""),
    ("PriorityLevelConfiguration", "spec.limited", ErrorKind::Required, ""),
    ("PriorityLevelConfiguration", "spec.limited.limitResponse.type", ErrorKind::Required, ""),
    ("PriorityLevelConfiguration", "spec.limited.limitResponse.queuing", ErrorKind::Forbidden, ""),
    ("PriorityLevelConfiguration", "spec.limited.limitResponse.queuing", ErrorKind::Required, ""),
    ("ReplicationController", "metadata.name", ErrorKind::Invalid, ""),
    ("ReplicationController", "spec.replicas", ErrorKind::Invalid, ""),
    ("ReplicationController", "spec.minReadySeconds", ErrorKind::Invalid, ""),
    ("RuntimeClass", "handler", ErrorKind::Required, ""),
    ("ValidatingAdmissionPolicyBinding", "spec.policyName", ErrorKind::Required, ""),
    ("ValidatingAdmissionPolicyBinding", "spec.validationActions", ErrorKind::Required, ""),
];

/// Whether an error of an object of this kind comes behind those that are not such.
pub fn is_late(kind: &str, error: &Error) -> bool {
    let mut rules = LATE.iter().filter(|(of, ..)| *of == kind).peekable();
    if rules.peek().is_none() {
        return false;
    }
    let field = without_indexes(error.path.as_str());
    rules.any(|(_, late, wrong, words)| *late == field && *wrong == error.kind && error.detail.starts_with(words))
}

fn without_indexes(path: &str) -> String {
    path.split('[')
        .enumerate()
        .map(|(at, part)| if at == 0 { part.to_owned() } else { format!("[{}", part.trim_start_matches(|c: char| c.is_ascii_digit())) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::field::Path;

    #[test]
    fn what_is_declared_comes_last() {
        let place = Path::root("endpoints").index(12).child("addresses");
        assert!(is_late("EndpointSlice", &Error::required(&place, "must contain at least 1 address")));
        assert!(!is_late("EndpointSlice", &Error::invalid(&place, "x", "")) && !is_late("Pod", &Error::required(&place, "")));
        let (kind, fixed) = (Path::root("addressType"), "field is immutable");
        assert!(is_late("EndpointSlice", &Error::required(&kind, "")) && is_late("EndpointSlice", &Error::invalid(&kind, "", fixed)));
        assert!(!is_late("EndpointSlice", &Error::not_supported(&kind, "x", &["IPv4"])));
        let most = Path::root("spec").child("maxReplicas");
        assert!(is_late("HorizontalPodAutoscaler", &Error::invalid(&most, 0, "must be greater than or equal to 1")));
        assert!(!is_late("HorizontalPodAutoscaler", &Error::invalid(&most, 1, "must be greater than or equal to `minReplicas`")));
    }
}
