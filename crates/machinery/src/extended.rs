//! Whose a resource is that pods ask for, by its name (`pkg/apis/core/v1/helper`, `pkg/scheduler/util`): Kubernetes' own, somebody else's, or
//! one for which devices may stand. API server, quotas and scheduler must mean the same by it.

use crate::names;

/// Before the name of a class of devices, where that is the resource (upstream's `ResourceDeviceClassPrefix`).
pub const BY_CLASS: &str = "deviceclass.resource.kubernetes.io/";

/// Whether it is one of Kubernetes' own, which may be requested below the limit (upstream `IsNativeResource`).
#[must_use]
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether it is somebody else's, of which there are only whole ones (upstream `IsExtendedResourceName`).
#[must_use]
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether devices may stand for it (upstream `IsDRAExtendedResourceName`).
#[must_use]
pub fn may_be_devices(name: &str) -> bool {
    is_extended(name) || name.starts_with(BY_CLASS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_somebody_elses_by_its_domain() {
        for extended in ["example.com/gpu", "kubernetes.io.example.com/gpu"] {
            assert!(is_extended(extended) && !is_native(extended) && may_be_devices(extended), "{extended}");
        }
        // The original looks for the letters, wherever a domain begins.
        for native in ["cpu", "hugepages-2Mi", "kubernetes.io/batch", "a.kubernetes.io/b", "mykubernetes.io/b"] {
            assert!(is_native(native) && !is_extended(native) && !may_be_devices(native), "{native}");
        }
        for neither in ["requests.example.com/gpu", "example.com/", "Example.com/gpu", "a/b/c"] {
            assert!(!is_native(neither) && !is_extended(neither), "{neither}");
        }
        assert!(may_be_devices("deviceclass.resource.kubernetes.io/gpu") && !is_extended("deviceclass.resource.kubernetes.io/gpu"));
    }
}
