//! What a pod asks for and this node cannot give: it does not run as if it had not asked.
//!
//! Reasons and words are those of the original on a node whose runtime, devices or drivers lack it. What admission refuses
//! (AppArmor, resources) is in `admission`; this is what fails at set-up there and is tried again, since a RuntimeClass may be
//! changed.

use k8s_openapi::api::core::v1::{Container, Pod};

use super::Context;
use crate::util;

/// The handlers of RuntimeClasses that mean this runtime: none, its own name, and that of the runtime that it stands in for.
pub const HANDLERS: [&str; 3] = ["", "knarr", "runc"];
/// Where SELinux is seen, if the kernel has it and it is on.
const SELINUX: &str = "/sys/fs/selinux/enforce";

/// Reason and message of the Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Reason.
    pub reason: &'static str,
    /// Message.
    pub message: String,
}

fn no_sandbox(why: impl std::fmt::Display) -> Refusal {
    Refusal { reason: "FailedCreatePodSandBox", message: format!("Failed to create pod sandbox: {why}") }
}

/// Whether the pod can be set up on this node.
pub async fn check(cx: &Context, pod: &Pod) -> Result<(), Refusal> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let handler = match spec.runtime_class_name.as_deref().filter(|n| !n.is_empty()) {
        Some(name) => cx.api.runtime_handler(name).await.map_err(no_sandbox)?,
        None => String::new(),
    };
    let runtime = std::sync::Arc::clone(&cx.runtime);
    let own_users = spec.host_users == Some(false);
    let (users, selinux) = util::blocking(move || (!own_users || runtime.user_namespaces().is_ok(), std::path::Path::new(SELINUX).exists())).await;
    fits(pod, &handler, users, selinux)
}

fn fits(pod: &Pod, handler: &str, users: bool, selinux: bool) -> Result<(), Refusal> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    if !HANDLERS.contains(&handler) {
        return Err(no_sandbox(format!("failed to get sandbox runtime: no runtime for {handler:?} is configured")));
    }
    if spec.host_users == Some(false) && !users {
        return Err(no_sandbox(format!("RuntimeClass handler {handler:?} does not support user namespaces")));
    }
    let all = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    // Without SELinux in the kernel labels mean nothing, there as here; with it they would have to be set.
    let label = |c: &Container| c.security_context.as_ref().is_some_and(|s| s.se_linux_options.is_some());
    if selinux && (all().any(label) || spec.security_context.as_ref().is_some_and(|s| s.se_linux_options.is_some())) {
        return Err(no_sandbox("SELinux is enabled on the host, and this runtime sets no SELinux labels"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn what_cannot_be_given_is_refused_in_the_originals_words() {
        let verdict = |spec: Value, handler: &str, selinux: bool| {
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            fits(&pod, handler, false, selinux).map_err(|r| format!("{}: {}", r.reason, r.message))
        };
        let plain = || json!({"containers": [{"name": "c"}]});
        assert_eq!(verdict(plain(), "", true), Ok(()));
        assert_eq!(verdict(plain(), "runc", false), Ok(()));
        assert!(
            verdict(plain(), "runsc", false)
                .unwrap_err()
                .contains("FailedCreatePodSandBox: Failed to create pod sandbox: failed to get sandbox runtime: no runtime for \"runsc\" is configured")
        );
        let users = json!({"containers": [{"name": "c"}], "hostUsers": false});
        assert!(verdict(users, "", false).unwrap_err().ends_with("RuntimeClass handler \"\" does not support user namespaces"));
        assert_eq!(verdict(json!({"containers": [{"name": "c"}], "hostUsers": true}), "", false), Ok(()));
        let device = json!({"containers": [{"name": "c", "volumeDevices": [{"name": "d", "devicePath": "/dev/d"}]}]});
        assert_eq!(verdict(device, "", false), Ok(()), "volumes bring devices");
        let label = json!({"containers": [{"name": "c", "securityContext": {"seLinuxOptions": {"level": "s0"}}}]});
        assert_eq!(verdict(label.clone(), "", false), Ok(()));
        assert!(verdict(label, "", true).is_err());
    }
}
