//! Who a container runs as: the pod's and the container's security contexts in one.
//!
//! A number that is checked here is the number that is used: an image's numeric user is resolved once, and handed to the
//! runtime as a number (upstream's `determineEffectiveSecurityContext`), so that no file of the image can say otherwise.

use k8s_openapi::api::core::v1::{AppArmorProfile, Container as Spec, Pod, SeccompProfile};

use crate::cri::{APPARMOR_RUNTIME_DEFAULT, Image, Seccomp, SecuritySpec, apparmor_default};
use crate::util;

/// Root of local seccomp profiles on the node (upstream's default).
const SECCOMP_ROOT: &str = "/var/lib/kubelet/seccomp";
/// The largest user or group: what is above is not a user to every kernel interface, and the last means "as before".
const MAX_ID: i64 = i32::MAX as i64;

/// The security of a container; an error is a `CreateContainerConfigError`.
pub fn for_container(pod: &Pod, c: &Spec, image: &Image) -> Result<SecuritySpec, String> {
    let level = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let own = c.security_context.as_ref();
    let uid = own.and_then(|s| s.run_as_user).or(level.and_then(|s| s.run_as_user));
    let gid = own.and_then(|s| s.run_as_group).or(level.and_then(|s| s.run_as_group));
    let uid = match uid {
        Some(uid) => Some(uid),
        None => image_uid(image)?,
    };
    for id in uid.iter().chain(&gid) {
        if !(0..=MAX_ID).contains(id) {
            return Err(format!("uids and gids must be in range 0-{MAX_ID}: {id}"));
        }
    }
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
    // An unmasked /proc belongs to who is root in a user namespace of the pod's own, never to the host's root.
    let own_users = pod.spec.as_ref().is_some_and(|s| s.host_users == Some(false));
    let profile = own.and_then(|s| s.seccomp_profile.as_ref()).or(level.and_then(|s| s.seccomp_profile.as_ref()));
    let confined = own.and_then(|s| s.app_armor_profile.as_ref()).or(level.and_then(|s| s.app_armor_profile.as_ref()));
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
        apparmor: if privileged { None } else { apparmor(confined, apparmor_default) },
        unmasked_proc: own.and_then(|s| s.proc_mount.as_deref()) == Some("Unmasked") && own_users,
    })
}

/// The AppArmor profile of a container that is not privileged. What names one where the kernel has none was refused by
/// admission; where none is named it is the default, if the host has one (`has_default`).
fn apparmor(profile: Option<&AppArmorProfile>, has_default: impl Fn() -> bool) -> Option<String> {
    let default = || Some(APPARMOR_RUNTIME_DEFAULT.to_owned());
    match profile.map(|p| (p.type_.as_str(), p.localhost_profile.as_deref())) {
        Some(("Localhost", Some(name))) => Some(name.to_owned()),
        Some(("RuntimeDefault", _)) => default(),
        None if has_default() => default(),
        _ => None,
    }
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

/// The image's user, if it is a number.
fn image_uid(image: &Image) -> Result<Option<i64>, String> {
    let user = image.user.split(':').next().unwrap_or_default();
    if user.is_empty() || !user.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    user.parse().map(Some).map_err(|_| format!("uids and gids must be in range 0-{MAX_ID}: {user}"))
}

fn check_non_root(pod: &Pod, c: &Spec, image: &Image, uid: Option<i64>) -> Result<(), String> {
    let where_ = format!("(pod: {:?}, container: {})", util::describe(pod), c.name);
    let asked = c.security_context.as_ref().and_then(|s| s.run_as_user);
    let asked = asked.or_else(|| pod.spec.as_ref()?.security_context.as_ref()?.run_as_user);
    let user = image.user.split(':').next().unwrap_or_default();
    match uid {
        Some(0) if asked.is_some() => Err(format!("container's runAsUser breaks non-root policy {where_}")),
        Some(0) => Err(format!("container has runAsNonRoot and image will run as root {where_}")),
        Some(_) => Ok(()),
        None if user.is_empty() => Err(format!("container has runAsNonRoot and image will run as root {where_}")),
        None => Err(format!("container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {where_}")),
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
        let good = for_container(&pod, c, &image("1000:1000")).unwrap();
        assert_eq!((good.uid, good.supplemental_groups), (Some(1000), vec![7]), "the number that was checked is the number that is used");
        for bad in ["4294967295", "2147483648", "99999999999999999999"] {
            assert!(for_container(&pod, c, &image(bad)).unwrap_err().starts_with("uids and gids must be in range"), "{bad}");
        }
        assert!(for_container(&pod, c, &image("0")).unwrap_err().contains("image will run as root"));
    }

    #[test]
    fn profiles_are_the_containers_own_or_the_pods() {
        let of = |own: serde_json::Value, level: serde_json::Value| {
            let pod: Pod = serde_json::from_value(json!({"spec": {"securityContext": level, "containers": [{"name": "c", "securityContext": own}]}})).unwrap();
            for_container(&pod, &pod.spec.as_ref().unwrap().containers[0], &Image::default()).unwrap().apparmor
        };
        let local = json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "mine"}});
        let default = json!({"appArmorProfile": {"type": "RuntimeDefault"}});
        let free = json!({"appArmorProfile": {"type": "Unconfined"}});
        assert_eq!(of(local.clone(), default.clone()).as_deref(), Some("mine"));
        assert_eq!(of(json!({}), default.clone()).as_deref(), Some(APPARMOR_RUNTIME_DEFAULT));
        assert_eq!(of(free.clone(), default.clone()), None);
        let profile = |v: &serde_json::Value| serde_json::from_value::<AppArmorProfile>(v["appArmorProfile"].clone()).unwrap();
        assert_eq!(apparmor(None, || true).as_deref(), Some(APPARMOR_RUNTIME_DEFAULT), "where the host has one");
        assert_eq!((apparmor(None, || false), apparmor(Some(&profile(&free)), || true)), (None, None));
        assert_eq!(of(json!({"privileged": true, "appArmorProfile": local["appArmorProfile"]}), default), None);
    }

    #[test]
    fn proc_is_unmasked_only_in_a_user_namespace() {
        let unmasked = |host_users: bool| {
            let pod: Pod = serde_json::from_value(json!({"spec": {"hostUsers": host_users,
                "containers": [{"name": "c", "securityContext": {"procMount": "Unmasked"}}]}}))
            .unwrap();
            for_container(&pod, &pod.spec.as_ref().unwrap().containers[0], &Image::default()).unwrap().unmasked_proc
        };
        assert!(unmasked(false) && !unmasked(true));
    }
}
