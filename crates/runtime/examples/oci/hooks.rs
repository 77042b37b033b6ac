//! Programs of the host that a bundle wants to be run in its container's life. Each reads the state as JSON.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::config::Hook;

/// Between two looks at a hook that has an end to keep.
const LOOK: Duration = Duration::from_millis(5);

/// Runs them in order, up to the first that fails.
pub(crate) fn run(hooks: &[Hook], state: &str) -> Result<(), String> {
    hooks.iter().try_for_each(|hook| one(hook, state).map_err(|e| format!("hook {:?}: {e}", hook.path)))
}

fn one(hook: &Hook, state: &str) -> Result<(), String> {
    if !hook.path.is_absolute() {
        return Err("its path is not absolute".to_owned());
    }
    let mut command = Command::new(&hook.path);
    if let Some((name, args)) = hook.args.split_first() {
        command.arg0(name).args(args);
    }
    command.env_clear().envs(hook.env.iter().filter_map(|entry| entry.split_once('=')));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().map_err(|e| e.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that reads nothing may end before.
        let _ = stdin.write_all(state.as_bytes());
    }
    let deadline = hook.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    loop {
        match (child.try_wait().map_err(|e| e.to_string())?, deadline) {
            (Some(status), _) if status.success() => return Ok(()),
            (Some(status), _) => return Err(status.to_string()),
            (None, Some(deadline)) if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("not done in {} s", hook.timeout.unwrap_or_default()));
            }
            (None, _) => std::thread::sleep(LOOK),
        }
    }
}
