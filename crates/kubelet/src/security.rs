//! Who a container runs as: the pod's and the container's security contexts in one.

use k8s_openapi::api::core::v1::{Container as Spec, Pod, SeccompProfile};

use crate::cri::{Image, Seccomp, SecuritySpec};
use crate::util;

/// Root of local seccomp profiles on the node (upstream's default).
const SECCOMP_ROOT: &str = "/var/lib/kubelet/seccomp";

/// The security of a container; an error is a `CreateContainerConfigError`.
pub fn for_container(pod: &Pod, c: &Spec, image: &Image) -> Result<SecuritySpec, String> {
    let level = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let own = c.security_context.as_ref();
    let uid = own.and_then(|s| s.run_as_user).or(level.and_then(|s| s.run_as_user));
    let gid = own.and_then(|s| s.run_as_group).or(level.and_then(|s| s.run_as_group));
    let non_root = own.and_then(|s| s.run_as_non_root).or(level.and_then(|s| s.run_as_non_root)).unwrap_or(false);
    if non_root {
        check_non_root(pod, c, image, uid)?;
    }
    let privileged = own.and_then(|s| s.privileged).unwrap_or(false);
    let mut groups: Vec<i64> = level.and_then(|s| s.supplemental_groups.clone()).unwrap_or_default();
    groups.extend(level.and_then(|s| s.fs_group));
    let caps = own.and_then(|s| s.capabilities.as_ref());
    let added = caps.and_then(|c| c.add.clone()).unwrap_or_default();
    // no_new_privs contradicts what privileged containers and CAP_SYS_ADMIN are for (upstream's AddNoNewPrivileges).
    let allow = own.and_then(|s| s.allow_privilege_escalation).unwrap_or(true);
    let profile = own.and_then(|s| s.seccomp_profile.as_ref()).or(level.and_then(|s| s.seccomp_profile.as_ref()));
    let bare = |list: Vec<String>| list.into_iter().map(|c| c.trim_start_matches("CAP_").to_owned()).collect();
    Ok(SecuritySpec {
        uid,
        gid,
        supplemental_groups: groups,
        merge_groups: level.and_then(|s| s.supplemental_groups_policy.as_deref()) != Some("Strict"),
        add_capabilities: bare(added),
        drop_capabilities: bare(caps.and_then(|c| c.drop.clone()).unwrap_or_default()),
        privileged,
        readonly_rootfs: own.and_then(|s| s.read_only_root_filesystem).unwrap_or(false),
        no_new_privileges: !allow,
        seccomp: if privileged { Seccomp::Unconfined } else { seccomp(profile)? },
        unmasked_proc: own.and_then(|s| s.proc_mount.as_deref()) == Some("Unmasked"),
    })
}

fn seccomp(profile: Option<&SeccompProfile>) -> Result<Seccomp, String> {
    match profile.map(|p| (p.type_.as_str(), p.localhost_profile.as_deref())) {
        Some(("RuntimeDefault", _)) => Ok(Seccomp::RuntimeDefault),
        Some(("Localhost", Some(name))) if !name.is_empty() => {
            crate::volumes::subpath::check(name)?;
            Ok(Seccomp::Localhost(std::path::Path::new(SECCOMP_ROOT).join(name)))
        }
        Some(("Localhost", _)) => Err("localhostProfile must be set if seccompProfile type is Localhost.".into()),
        _ => Ok(Seccomp::Unconfined),
    }
}

fn check_non_root(pod: &Pod, c: &Spec, image: &Image, uid: Option<i64>) -> Result<(), String> {
    let where_ = format!("(pod: {:?}, container: {})", util::describe(pod), c.name);
    match uid {
        Some(0) => return Err(format!("container's runAsUser breaks non-root policy {where_}")),
        Some(_) => return Ok(()),
        None => {}
    }
    let user = image.user.split(':').next().unwrap_or_default();
    match user.parse::<i64>() {
        _ if user.is_empty() => Err(format!("container has runAsNonRoot and image will run as root {where_}")),
        Ok(0) => Err(format!("container has runAsNonRoot and image will run as root {where_}")),
        Ok(_) => Ok(()),
        Err(_) => Err(format!("container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {where_}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn non_root_is_checked_against_the_image() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"securityContext": {"runAsNonRoot": true, "fsGroup": 7}, "containers": [{"name": "c"}]}}))
        .unwrap();
        let c = &pod.spec.as_ref().unwrap().containers[0];
        let image = |user: &str| Image { user: user.into(), ..Image::default() };
        assert!(for_container(&pod, c, &image("")).unwrap_err().contains("image will run as root"));
        assert!(for_container(&pod, c, &image("nobody")).unwrap_err().contains("non-numeric user (nobody)"));
        assert_eq!(for_container(&pod, c, &image("1000:1000")).unwrap().supplemental_groups, [7]);
    }
}
