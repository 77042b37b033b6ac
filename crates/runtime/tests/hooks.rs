//! Programs at the moments of a container's life (OCI runtime specification, hooks), as the tools of devices' drivers are.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::*;
use runtime::*;

/// What tools of drivers do: the state tells the bundle, the bundle's configuration the root. The first word is the log.
const LOOK: &str = r#"log=$1; name=$2; state=$(cat)
    field() { printf %s "$state" | sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p"; }
    pid=$(field pid); root=$(sed -n 's/.*"root":{"path":"\([^"]*\)".*/\1/p' "$(field bundle)/config.json")"#;

/// A hook by the host's shell, which has looked around.
fn hook(moment: HookMoment, log: &Path, script: &str) -> Hook {
    let script = format!("{LOOK}\n{script}");
    Hook {
        moment,
        path: "/bin/sh".into(),
        args: ["sh", "-c", &script, "zero", log.to_str().unwrap(), moment.name()].map(str::to_owned).into(),
        env: vec!["NAME=hook".into(), "PATH=/usr/bin:/bin".into()],
        timeout_s: Some(60),
    }
}

/// A hook by the guest program.
fn inside(args: &[&str]) -> Hook {
    let args = ["main", "guest"].iter().chain(args).map(|a| (*a).to_owned()).collect();
    Hook { moment: HookMoment::StartContainer, path: "/bin/main".into(), args, ..Hook::default() }
}

fn log(host: &Host) -> PathBuf {
    write(&host.dir.join("log"), b"")
}

fn lines(log: &Path) -> Vec<String> {
    std::fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect()
}

async fn start_error(host: &Host, config: ContainerConfig) -> String {
    let id = config.id.clone();
    host.rt.create_container("s", config).await.unwrap();
    host.rt.start_container(&id).await.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_moment_has_its_time_and_its_place() {
    let host = Host::with_image().await;
    let ours = std::fs::read_link("/proc/self/ns/net").unwrap();
    for share_pid in [false, true] {
        let log = log(&host);
        let sandbox = host.rt.create_sandbox(SandboxConfig { share_pid, ..host.sandbox_config("s") }).await.unwrap();
        let pods = std::fs::read_link(&sandbox.netns).unwrap();
        // Where the container's file system is not yet its root it can be finished; its process is known to the host.
        let made = r#"[ -d "$root/proc/1" ] && echo "$name" > "$root/$name" && echo "$name $(field status) $(readlink /proc/self/ns/net)" >> "$log""#;
        let there = r#"[ "$(readlink "/proc/$pid/ns/net")" = "$(readlink "/proc/$$/ns/net")" ] && exit 9"#;
        let hooks = vec![
            hook(HookMoment::Poststop, &log, r#"[ -z "$pid" ] && [ ! -e "$root/bin" ] && echo "$name $(field status)" >> "$log""#),
            hook(HookMoment::Poststart, &log, &format!("{there}\n{}", r#"[ -e "$root/prestart" ] && echo "$name $(field status) $pid" >> "$log""#)),
            hook(HookMoment::CreateContainer, &log, made),
            hook(HookMoment::CreateRuntime, &log, &format!("{there}\n{made}")),
            hook(HookMoment::Prestart, &log, &format!("{there}\n{made}")),
        ];
        let config = ContainerConfig { hooks, readonly_rootfs: true, ..host.container("c", &["sleep"]) };
        host.start("s", config).await;
        let pid = host.rt.container("c").unwrap().pid;
        let told = |moment: &str, net: &Path| format!("{moment} creating {}", net.display());
        let first = [told("prestart", &ours), told("createRuntime", &ours), told("createContainer", &pods), format!("poststart running {pid}")];
        assert_eq!(lines(&log), first);
        assert_eq!(host.exec_text("c", &["read", "/prestart", "/createRuntime", "/createContainer"]).await, "prestart\ncreateRuntime\ncreateContainer\n");
        host.rt.remove_container("c").await.unwrap();
        assert_eq!(lines(&log)[4..], ["poststop stopped"]);
        assert!(!host.config.root.join("containers/c").exists());
        host.rt.remove_sandbox("s").await.unwrap();
    }
}

/// A `startContainer` hook is a program of the image, and has no more rights than the image's other programs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_before_the_program_is_confined_as_it_is() {
    let host = Host::with_image().await;
    host.sandbox("s").await;
    let out = host.dir.join("out");
    std::fs::create_dir_all(&out).unwrap();
    std::fs::set_permissions(&out, std::fs::Permissions::from_mode(0o777)).unwrap();
    let config = |id: &str, hooks: Vec<Hook>| ContainerConfig {
        hooks,
        mounts: vec![Mount { host: out.clone(), container: "/out".into(), ..Mount::default() }],
        user: User { uid: Some(1000), gid: Some(1000), ..User::default() },
        no_new_privileges: true,
        capabilities_drop: vec!["ALL".into()],
        ..host.container(id, &["read", "/out/state"])
    };
    let copies = vec![inside(&["copy", "/proc/self/fd/0", "/out/state"]), inside(&["copy", "/proc/self/status", "/out/status"])];
    let state: serde_json::Value = serde_json::from_str(&host.run("s", config("a", copies)).await).unwrap();
    assert_eq!((&state["id"], &state["status"], &state["pid"]), (&"a".into(), &"created".into(), &1.into()));
    let status = std::fs::read_to_string(out.join("status")).unwrap();
    for line in ["Uid:\t1000\t1000\t1000\t1000", "NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000", "CapEff:\t0000000000000000"] {
        assert!(status.lines().any(|l| l == line), "{line}: {status}");
    }
    let error = start_error(&host, config("b", vec![inside(&["complain", "no such library", "exit", "3"])])).await;
    assert!(error.contains("error running startContainer hook #0: /bin/main: exit status: 3, stderr: no such library"), "{error}");
    assert_eq!(host.said("b"), "", "its program did not run");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_that_fails_says_why_and_holds_its_container() {
    let host = Host::with_image().await;
    host.sandbox("s").await;
    let log = log(&host);
    let with = |id: &str, hooks: Vec<Hook>| ContainerConfig { hooks, ..host.container(id, &["say", "here", "sleep"]) };
    let fails = |moment: HookMoment, words: &str| hook(moment, &log, &format!("echo '{words}' >&2; exit 7"));
    let stop = |code: u8| hook(HookMoment::Poststop, &log, &format!("echo \"$(field id) stopped\" >> \"$log\"; exit {code}"));
    for moment in [HookMoment::Prestart, HookMoment::CreateRuntime, HookMoment::CreateContainer, HookMoment::Poststart] {
        let id = format!("c-{moment}");
        let fine = hook(moment, &log, "exit 0");
        // One that fails at the end keeps no other from its work, and nobody from removing the container.
        let error = start_error(&host, with(&id, vec![fine, fails(moment, "no such library"), stop(5), stop(0)])).await;
        assert!(error.contains(&format!("error running {moment} hook #1: /bin/sh: exit status: 7, stderr: no such library")), "{error}");
        let status = host.ended(&id).await;
        if moment != HookMoment::Poststart {
            assert_eq!((status.reason.as_str(), host.said(&id).as_str()), ("StartError", ""), "{status:?}");
            assert!(status.message.contains("no such library"), "{status:?}");
        }
        host.rt.remove_container(&id).await.unwrap();
        assert_eq!(lines(&log), [format!("{id} stopped"), format!("{id} stopped")]);
        std::fs::write(&log, "").unwrap();
    }
    // One that was never started owes nothing.
    host.rt.create_container("s", with("never", vec![stop(0)])).await.unwrap();
    host.rt.remove_container("never").await.unwrap();
    assert_eq!(lines(&log), [""; 0]);
    // Why it failed is told at the end of what it says, in whatever bytes.
    let long = "long ".repeat(1_000) + "\u{fffd} the end";
    let error = start_error(&host, with("long", vec![fails(HookMoment::CreateContainer, &long)])).await;
    assert!(error.contains("the end") && error.len() < 2_000, "{error}");
    let error = start_error(&host, with("none", vec![Hook { path: "/does/not/exist".into(), ..Hook::default() }])).await;
    assert!(error.contains("hook #0: /does/not/exist: No such file or directory"), "{error}");
    let late = Hook { timeout_s: Some(0), ..hook(HookMoment::Prestart, &log, "exec sleep 60") };
    let error = start_error(&host, with("late", vec![late])).await;
    assert!(error.contains("/bin/sh: hook ran past specified timeout of 0.0s"), "{error}");
}

/// Whoever started a container and dies while its hooks run will not come back to it: it ends, and can be made anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_does_not_wait_for_hooks_of_the_dead() {
    let host = Host::with_image().await;
    host.sandbox("s").await;
    let log = log(&host);
    let waits = hook(HookMoment::Prestart, &log, r#"echo $$ >> "$log"; while :; do sleep 0.02; done"#);
    host.rt.create_container("s", ContainerConfig { hooks: vec![waits], ..host.container("c", &["sleep"]) }).await.unwrap();
    let started = tokio::spawn({
        let rt = host.rt.clone();
        async move { rt.start_container("c").await }
    });
    let began = async {
        while lines(&log).is_empty() {
            // A file tells nobody that it grew.
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, began).await.expect("the hook begins");
    started.abort();
    let status = host.ended("c").await;
    assert_eq!((status.reason.as_str(), status.pid), ("StartError", 0), "{status:?}");
    let hook = Path::new("/proc").join(&lines(&log)[0]);
    let over = async {
        while hook.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, over).await.expect("its hook ends with it");
}

/// What followed a container's end is over before the next begins, and before its pod's devices are another's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_an_end_comes_once_and_before_what_is_next() {
    let host = Host::with_image().await;
    host.sandbox("s").await;
    let log = log(&host);
    for id in ["a", "b"] {
        let hooks = [HookMoment::Prestart, HookMoment::Poststop].map(|moment| hook(moment, &log, r#"echo "$(field id) $name" >> "$log""#)).to_vec();
        host.start("s", ContainerConfig { hooks, ..host.container(id, &["exit", "0"]) }).await;
        host.ended(id).await;
    }
    let all = ["a prestart", "a poststop", "b prestart", "b poststop"];
    assert_eq!(lines(&log), all[..3]);
    host.rt.stop_sandbox("s").await.unwrap();
    assert_eq!(lines(&log), all);
    host.rt.remove_sandbox("s").await.unwrap();
    assert_eq!(lines(&log), all);
}

/// A program may be over before what follows its beginning is: its own end is told, and no failed start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_beside_a_program_that_has_ended_is_no_failed_start() {
    let host = Host::with_image().await;
    host.sandbox("s").await;
    let log = log(&host);
    let fails = hook(HookMoment::Poststart, &log, r#"while kill -0 "$pid" 2> /dev/null; do sleep 0.02; done; exit 7"#);
    host.start("s", ContainerConfig { hooks: vec![fails], ..host.container("c", &["exit", "3"]) }).await;
    let status = host.ended("c").await;
    assert_eq!((status.exit_code, status.message.as_str()), (3, ""), "{status:?}");
}
