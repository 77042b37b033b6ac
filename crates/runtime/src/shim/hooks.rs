//! Hooks that run in a container's namespaces when its file system is made and not yet its root (`createContainer`): the tools of
//! devices' drivers link and cache libraries there. They have the host's root before them and all rights.

use std::path::Path;

use super::{Step, process};
use crate::proto::Spec;
use crate::types::HookMoment;
use crate::{apparmor, hooks};

/// Runs them in order, up to the first that fails. `rootfs` is where the container's root is mounted.
pub(super) fn create_container(spec: &Spec, rootfs: &Path) -> Step<()> {
    const MOMENT: HookMoment = HookMoment::CreateContainer;
    if !hooks::has(spec, &[MOMENT]) {
        return Ok(());
    }
    let fail = |e| format!("state for {MOMENT} hooks: {e}");
    hooks::bundle(spec, rootfs, true).map_err(fail)?;
    process::set_umask(0o022);
    process::close_on_exec_from(3);
    // They are the host's programs: what confines the container's next one is not for them.
    confine(spec, apparmor::UNCONFINED)?;
    let mut told = hooks::Told::new().map_err(fail)?;
    // As the container's own process namespace numbers it, as runc tells it; where that is another's (a pod's, the host's), as that does.
    told.state(spec, "creating", std::process::id()).map_err(fail)?;
    hooks::run(spec, MOMENT, &mut told)?;
    process::set_umask(0);
    spec.apparmor.as_deref().map_or(Ok(()), |profile| confine(spec, profile))
}

/// By which profile the next program is confined, if the container has one at all.
fn confine(spec: &Spec, profile: &str) -> Step<()> {
    if spec.apparmor.is_none() {
        return Ok(());
    }
    apparmor::at_next_program(profile).map_err(|e| format!("apply apparmor profile {profile:?}: {e}"))
}
