//! Sandboxes and containers on the real kernel, with the example program as shim and as guest.

mod common;

use std::time::{Duration, Instant};

use common::*;
use runtime::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_says_something_and_ends() {
    let host = Host::with_image().await;
    let mut events = host.rt.events();
    host.sandbox("s").await;
    assert_eq!(host.run("s", host.container("a", &[])).await, "default\n");
    let (sandbox, container) = ("s".to_owned(), "a".to_owned());
    assert_eq!(events.recv().await.unwrap(), Event::Started { sandbox: sandbox.clone(), container: container.clone() });
    assert_eq!(events.recv().await.unwrap(), Event::Exited { sandbox, container });
    let status = host.rt.container("a").unwrap();
    assert_eq!((status.exit_code, status.reason.as_str(), status.pid), (0, "Completed", 0));
    assert!(status.started.unwrap() <= status.finished.unwrap());
    assert_eq!(host.run("s", host.container("b", &["complain", "no", "exit", "3"])).await, "no\n");
    let status = host.rt.container("b").unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    let line = std::fs::read_to_string(status.log_path).unwrap();
    assert!(line.ends_with(" stderr F no\n"), "{line:?}");
    host.run("s", host.container("c", &["flood", "20000"])).await;
    assert_eq!(host.said("c").lines().count(), 20000, "nothing of the output is lost at the end");
    host.rt.remove_container("a").await.unwrap();
    assert!(host.rt.container("a").is_none());
    host.rt.remove_sandbox("s").await.unwrap();
    assert_eq!((host.rt.containers().len(), host.rt.sandboxes().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_start_says_why() {
    let host = Host::with_image().await;
    host.sandbox("s").await;
    let say = |id: &str, config: ContainerConfig| {
        let (id, host) = (id.to_owned(), &host);
        async move {
            host.rt.create_container("s", config).await.unwrap();
            let error = host.rt.start_container(&id).await.unwrap_err().to_string();
            let status = host.ended(&id).await;
            assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
            assert_eq!(status.message, error);
            error
        }
    };
    let command = |id: &str, command: &str| ContainerConfig { command: vec![command.into()], ..host.container(id, &[]) };
    let error = say("a", command("a", "nope")).await;
    assert!(error.ends_with("unable to start container process: exec: \"nope\": executable file not found in $PATH"), "{error}");
    let error = say("b", command("b", "/nope")).await;
    assert!(error.ends_with("exec: \"/nope\": stat /nope: no such file or directory"), "{error}");
    let error = say("c", command("c", "/etc")).await;
    assert!(error.ends_with("exec: \"/etc\": is a directory"), "{error}");
    let unknown = ContainerConfig { image: "unknown".into(), ..host.container("d", &[]) };
    assert!(host.rt.create_container("s", unknown).await.unwrap_err().is_not_found());
    let mount = Mount { host: "/no/such/path".into(), container: "/m".into(), ..Mount::default() };
    let error = host.rt.create_container("s", ContainerConfig { mounts: vec![mount], ..host.container("e", &[]) }).await;
    assert!(error.unwrap_err().to_string().contains("no such file or directory"));
    assert!(host.rt.create_container("none", host.container("f", &[])).await.unwrap_err().is_not_found());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_sees_its_own_world() {
    let host = Host::with_image().await;
    let mut config = host.sandbox_config("s");
    config.sysctls.insert("net.core.somaxconn".into(), "77".into());
    host.rt.create_sandbox(config).await.unwrap();
    let data = host.dir.join("data");
    write(&data.join("in"), b"from the host\n");
    let mount = |from: &std::path::Path, to: &str, readonly| Mount { host: from.into(), container: to.into(), readonly, ..Mount::default() };
    host.start(
        "s",
        ContainerConfig {
            env: vec![("FROM".into(), "pod".into()), ("X".into(), "1".into())],
            working_dir: "/made/here".into(),
            mounts: vec![mount(&data, "/rw", false), mount(&data, "/ro", true), mount(&data.join("in"), "/etc/file", true)],
            resources: Resources {
                memory_limit: Some(64 << 20),
                cpu_shares: Some(512),
                cpu_quota: Some(50_000),
                cpu_period: Some(100_000),
                pids_limit: Some(100),
                ..Resources::default()
            },
            ..host.container("c", &["say", "up", "obey"])
        },
    )
    .await;
    host.hears("c", "ready").await;
    let env = host.exec_text("c", &["env"]).await;
    assert!(env.contains("FROM=pod\n") && env.contains("X=1\n") && env.contains("PATH=/bin\n"), "{env}");
    assert_eq!(host.exec_text("c", &["where"]).await, "/made/here\n");
    assert_eq!(host.exec_text("c", &["hostname"]).await, "s-host\n");
    assert_eq!(host.exec_text("c", &["read", "/rw/in", "/etc/file"]).await, "from the host\nfrom the host\n");
    assert_eq!(host.exec_text("c", &["write", "/rw/out", "x"]).await, "written\n");
    assert_eq!(std::fs::read_to_string(data.join("out")).unwrap(), "x");
    assert!(host.exec_text("c", &["write", "/ro/out", "x"]).await.contains("Read-only"));
    assert!(host.exec_text("c", &["write", "/proc/sys/kernel/domainname", "x"]).await.contains("Read-only"));
    assert_eq!(host.exec_text("c", &["read", "/proc/sys/net/core/somaxconn", "/proc/keys"]).await, "77\n");
    assert_eq!(host.exec_text("c", &["list", "/sys/class/net"]).await, "lo\n");
    let mounts = host.exec_text("c", &["read", "/proc/self/mountinfo"]).await;
    assert!(mounts.lines().all(|l| !l.contains(" /run ") && !l.contains("/var/tmp ")), "the host's mounts are gone: {mounts}");
    let status = host.rt.container("c").unwrap();
    assert_eq!(std::fs::read_to_string(format!("/proc/{}/oom_score_adj", status.pid)).unwrap().len(), "0\n".len().max(2));
    let stats = host.rt.stats("c").unwrap();
    assert!(stats.memory_usage_bytes > 0 && stats.pids >= 1 && stats.cpu_usage_ns > 0, "{stats:?}");
    assert_eq!(stats.memory_limit_bytes, Some(64 << 20));
    host.rt.update_resources("c", Resources { memory_limit: Some(80 << 20), ..Resources::default() }).await.unwrap();
    assert_eq!(host.rt.stats("c").unwrap().memory_limit_bytes, Some(80 << 20));
    let begun = Instant::now();
    host.rt.stop_container("c", PATIENCE).await.unwrap();
    assert!(begun.elapsed() < PATIENCE / 2, "it obeys the stop signal");
    let status = host.rt.container("c").unwrap();
    assert_eq!((status.exit_code, host.said("c").as_str()), (7, "up\nready\nbye\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_are_those_that_were_given() {
    let host = Host::with_image().await;
    host.sandbox("s").await;
    let nobody = ContainerConfig {
        user: User { uid: Some(1000), gid: Some(2000), supplemental: vec![3000], ..User::default() },
        no_new_privileges: true,
        readonly_rootfs: true,
        capabilities_drop: vec!["ALL".into()],
        ..host.container("a", &["id"])
    };
    let said = host.run("s", nobody).await;
    assert_eq!(
        said,
        "Uid: 1000 1000 1000 1000\nGid: 2000 2000 2000 2000\nGroups: 2000 3000\nCapEff: 0000000000000000\n\
         CapBnd: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2\n"
    );
    let said = host.run("s", host.container("b", &["id"])).await;
    assert!(said.contains("CapEff: 00000000a80425fb\n") && said.contains("NoNewPrivs: 0\nSeccomp: 2\n"), "{said}");
    let readonly = ContainerConfig { readonly_rootfs: true, ..host.container("c", &["write", "/file", "x"]) };
    assert!(host.run("s", readonly).await.contains("Read-only"));
    assert_eq!(host.run("s", host.container("d", &["write", "/file", "x"])).await, "written\n");
    let privileged = ContainerConfig { privileged: true, ..host.container("e", &["id"]) };
    let said = host.run("s", privileged).await;
    assert!(said.contains("Seccomp: 0\n") && !said.contains("CapEff: 00000000a80425fb"), "{said}");
    let devices = ContainerConfig { privileged: true, ..host.container("f", &["list", "/dev"]) };
    assert!(host.run("s", devices).await.split(' ').count() > 30, "a privileged container sees the host's devices");
    // Its user can open its own standard output anew, as nginx does.
    let own = ContainerConfig { user: User { uid: Some(1000), ..User::default() }, ..host.container("g", &["write", "/dev/stdout", "text"]) };
    assert!(host.run("s", own).await.contains("written"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_in_all_its_forms() {
    let host = Host::with_image().await;
    host.sandbox("s").await;
    host.start("s", host.container("c", &["sleep"])).await;
    let done = host.exec("c", &["say", "out", "complain", "err", "exit", "9"]).await;
    assert_eq!((done.stdout.as_slice(), done.stderr.as_slice(), done.exit_code), (&b"out\n"[..], &b"err\n"[..], 9));
    let error = host.rt.exec_sync("c", vec!["nope".into()], None).await.unwrap_err().to_string();
    assert!(error.contains("exec failed") && error.contains("executable file not found in $PATH"), "{error}");
    let sleep = vec!["/bin/main".into(), "guest".into(), "sleep".into()];
    let slow = host.rt.exec_sync("c", sleep, Some(Duration::from_millis(200))).await;
    assert!(matches!(slow, Err(Error::Timeout { .. })));
    let cat: Vec<String> = ["/bin/main", "guest", "cat"].map(Into::into).into();
    let config = ExecConfig { cmd: cat, stdin: true, stdout: true, ..ExecConfig::default() };
    let mut session = host.rt.exec("c", config).await.unwrap();
    let (mut stdin, mut stdout) = (session.stdin.take().unwrap(), session.stdout.take().unwrap());
    let big = vec![b'x'; 1 << 20];
    let write = async {
        stdin.write_all(&big).await.unwrap();
        stdin.shutdown().await.unwrap();
    };
    let mut back = Vec::new();
    let (_, read) = tokio::join!(write, stdout.read_to_end(&mut back));
    read.unwrap();
    assert_eq!((back.len(), session.wait().await.unwrap()), (1 << 20, 0));
    // On a terminal, with a size.
    let size: Vec<String> = ["/bin/main", "guest", "size"].map(Into::into).into();
    let config = ExecConfig { cmd: size, tty: true, stdin: true, stdout: true, ..ExecConfig::default() };
    let mut session = host.rt.exec("c", config).await.unwrap();
    session.terminal.as_ref().unwrap().resize(99, 33).unwrap();
    session.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
    let mut text = String::new();
    session.stdout.as_mut().unwrap().read_to_string(&mut text).await.unwrap();
    assert!(text.contains("99x33"), "{text:?}");
    assert_eq!(session.wait().await.unwrap(), 0);
    // What is left behind by those who leave ends: only the first process stays.
    drop(session);
    let alone = async {
        while host.exec_text("c", &["list", "/proc"]).await.split(' ').filter(|n| n.parse::<u32>().is_ok()).count() > 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, alone).await.expect("the command that timed out still runs");
    host.rt.stop_container("c", Duration::ZERO).await.unwrap();
    assert_eq!(host.rt.container("c").unwrap().exit_code, 137);
    assert!(host.rt.exec_sync("c", vec!["x".into()], None).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attach_joins_the_streams() {
    let host = Host::with_image().await;
    host.sandbox("s").await;
    let config = ContainerConfig { stdin: true, stdin_once: true, ..host.container("c", &["cat"]) };
    host.start("s", config).await;
    // Who only listens takes the input from nobody.
    assert!(host.rt.attach("c", false, true, false).await.unwrap().stdin.is_none());
    let mut session = host.rt.attach("c", true, true, true).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"hello\n").await.unwrap();
    let mut line = [0; 6];
    session.stdout.as_mut().unwrap().read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"hello\n");
    // Whoever else attaches writes into the same input.
    let mut second = host.rt.attach("c", true, false, false).await.unwrap().stdin.unwrap();
    second.write_all(b"again\n").await.unwrap();
    session.stdout.as_mut().unwrap().read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"again\n");
    stdin.shutdown().await.unwrap();
    tokio::time::timeout(PATIENCE, second.ended_by_others().cancelled()).await.expect("the second client is not told");
    assert!(host.rt.attach("c", true, true, false).await.unwrap().stdin.is_none(), "it has ended for who comes later as well");
    drop(second);
    assert_eq!(host.ended("c").await.exit_code, 0, "the end of the first client's input is the end");
    assert_eq!(host.said("c"), "hello\nagain\n");
    let mut rest = Vec::new();
    session.stdout.as_mut().unwrap().read_to_end(&mut rest).await.unwrap();
    // A terminal: one stream.
    let config = ContainerConfig { stdin: true, tty: true, ..host.container("t", &["tty"]) };
    assert_eq!(host.run("s", config).await, "true true\n");
    let raw = std::fs::read_to_string(host.rt.container("t").unwrap().log_path).unwrap();
    assert!(raw.ends_with(" stdout F true true\r\n"), "{raw:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_of_a_pod_are_reached() {
    let host = Host::with_image().await;
    host.sandbox("s").await;
    host.start("s", host.container("c", &["serve", "8080"])).await;
    host.hears("c", "listening").await;
    let mut stream = host.rt.port_forward("s", 8080).await.unwrap();
    stream.write_all(b"abc").await.unwrap();
    let mut back = [0; 3];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"ABC");
    let error = host.rt.port_forward("s", 81).await.unwrap_err().to_string();
    assert!(error.contains("Connection refused"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_can_be_shared() {
    let host = Host::with_image().await;
    host.rt.create_sandbox(SandboxConfig { share_pid: true, ..host.sandbox_config("s") }).await.unwrap();
    host.start("s", host.container("a", &["sleep"])).await;
    host.start("s", host.container("b", &["sleep"])).await;
    let seen = host.exec_text("a", &["list", "/proc"]).await;
    assert!(seen.split(' ').filter(|n| n.parse::<u32>().is_ok()).count() >= 4, "the first one, both containers, the exec: {seen}");
    assert_eq!(host.exec_text("a", &["read", "/proc/1/comm"]).await, "pause\n");
    // Separate ones, but one container looks into another.
    host.sandbox("t").await;
    host.start("t", host.container("c", &["sleep"])).await;
    let debug = ContainerConfig { pid_target: Some("c".into()), ..host.container("d", &["sleep"]) };
    host.start("t", debug).await;
    assert!(host.exec_text("d", &["read", "/proc/1/cmdline"]).await.contains("sleep"));
    host.rt.stop_container("c", Duration::ZERO).await.unwrap();
    host.ended("d").await;
    host.rt.stop_sandbox("s").await.unwrap();
    assert_eq!(host.rt.container("b").unwrap().exit_code, 137);
    assert!(host.rt.sandboxes().iter().any(|s| s.config.id == "s" && !s.ready));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_much_memory_kills() {
    let host = Host::with_image().await;
    host.sandbox("s").await;
    let resources = Resources { memory_limit: Some(24 << 20), ..Resources::default() };
    let mut events = host.rt.events();
    host.run("s", ContainerConfig { resources, ..host.container("c", &["eat", "100"]) }).await;
    let status = host.rt.container("c").unwrap();
    assert_eq!((status.exit_code, status.reason.as_str(), status.oom_killed), (137, "OOMKilled", true));
    let mut all = Vec::new();
    while let Ok(event) = events.try_recv() {
        all.push(event);
    }
    assert!(all.iter().any(|e| matches!(e, Event::Oom { container, .. } if container == "c")), "{all:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_go_on_after_rotation() {
    let host = Host::with_image().await;
    host.sandbox("s").await;
    host.start("s", ContainerConfig { stdin: true, ..host.container("c", &["cat"]) }).await;
    let session = host.rt.attach("c", true, false, false).await.unwrap();
    let mut stdin = session.stdin.unwrap();
    stdin.write_all(b"one\n").await.unwrap();
    host.hears("c", "one").await;
    let path = host.rt.container("c").unwrap().log_path;
    std::fs::rename(&path, path.with_extension("old")).unwrap();
    host.rt.reopen_log("c").await.unwrap();
    stdin.write_all(b"two\n").await.unwrap();
    host.hears("c", "two").await;
    assert_eq!(host.said("c"), "two\n");
}

/// The process with the runtime dies at once; the next one finds all as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_takes_over() {
    let host = Host::with_image().await;
    let ctr = |args: &[&str]| {
        let mut command = std::process::Command::new(program());
        command.args(args).env("CTR_ROOT", &host.config.root).env("CTR_RUN", &host.config.run).env("CTR_MARK", &host.config.mark);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    // This runtime does not see what another process makes; the next one will.
    ctr(&["run", "guest", "a", "obey"]);
    ctr(&["run", "guest", "b", "exit", "5"]);
    let rt = Runtime::open(host.config.clone()).await.unwrap();
    let next = Host { rt, config: host.config.clone(), dir: host.dir.clone() };
    let (a, b) = (next.rt.container("a").unwrap(), next.ended("b").await);
    assert_eq!((a.state, b.exit_code), (ContainerState::Running, 5));
    let pid = a.pid;
    assert_eq!(next.exec_text("a", &["say", "hi"]).await, "hi\n");
    next.rt.stop_container("a", PATIENCE).await.unwrap();
    let rt = Runtime::open(host.config.clone()).await.unwrap();
    let a = rt.container("a").unwrap();
    assert_eq!((a.state, a.exit_code, pid > 0), (ContainerState::Exited, 7, true));
    // A shim that is killed takes its containers along, and is missed.
    next.sandbox("s").await;
    next.start("s", next.container("c", &["sleep"])).await;
    let (shim, mut events) = (next.rt.sandboxes().into_iter().find(|s| s.config.id == "s").unwrap().shim_pid, next.rt.events());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim as i32), nix::sys::signal::Signal::SIGKILL).unwrap();
    let c = next.ended("c").await;
    assert_eq!(c.reason, "ContainerStatusUnknown");
    let gone = async { while !matches!(events.recv().await.unwrap(), Event::SandboxGone { .. }) {} };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purging_leaves_nothing() {
    let host = Host::with_image().await;
    host.sandbox("s").await;
    host.rt.create_sandbox(SandboxConfig { share_pid: true, ..host.sandbox_config("t") }).await.unwrap();
    host.start("s", host.container("a", &["sleep"])).await;
    host.start("t", host.container("b", &["sleep"])).await;
    assert!(!host.traces().is_empty());
    // Another process does it, after a crash: it finds the shims by itself.
    let next = Runtime::open(host.config.clone()).await.unwrap();
    next.purge().await.unwrap();
    let gone = async {
        while !host.traces().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, gone).await;
    assert!(waited.is_ok(), "{:?}", host.traces());
    assert_eq!(next.images().len(), 1, "images stay");
}

/// The OCI's `create` and `start`: everything is there before the program is, and a directory can be the root itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_container_has_all_but_its_program() {
    let host = Host::with_image().await;
    host.sandbox("s").await;
    let root = host.dir.join("bundle");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy(program(), root.join("bin/main")).unwrap();
    // Its user is another, whatever the umask of who runs the tests.
    for path in ["", "bin", "bin/main"] {
        std::fs::set_permissions(root.join(path), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let sets = CapabilitySets {
        bounding: vec!["CAP_CHOWN".into(), "CAP_KILL".into()],
        inheritable: vec!["CAP_KILL".into()],
        permitted: vec!["CAP_KILL".into()],
        effective: vec!["CAP_KILL".into()],
        ambient: vec!["CAP_KILL".into()],
    };
    let config = |id: &str| ContainerConfig {
        rootfs: Some(root.clone()),
        command: vec!["/bin/main".into(), "guest".into(), "id".into()],
        user: User { uid: Some(1000), gid: Some(1000), ..User::default() },
        capability_sets: Some(sets.clone()),
        rlimits: vec![Rlimit { name: "RLIMIT_CORE".into(), soft: 7, hard: 9 }],
        ..host.container(id, &[])
    };
    let hold = async |id: &str| {
        host.rt.create_container("s", config(id)).await.unwrap();
        let (mut read, write) = std::io::pipe().unwrap();
        let null = || std::fs::File::open("/dev/null").unwrap().into();
        host.rt.hold_container(id, [null(), write.into(), null()]).await.unwrap();
        let status = host.rt.container(id).unwrap();
        assert_eq!((status.state, status.pid > 0), (ContainerState::Created, true));
        (status.pid, move || std::io::read_to_string(&mut read).unwrap())
    };
    let (pid, mut said) = hold("a").await;
    let seen = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    assert!(seen.lines().any(|l| l.split(' ').nth(4) == Some("/dev/shm")), "its mounts are its own: {seen}");
    assert!(host.rt.start_container("a").await.unwrap_err().to_string().contains("started before"));
    host.rt.release_container("a").await.unwrap();
    host.ended("a").await;
    let said = said();
    assert!(said.contains("Uid: 1000 1000 1000 1000") && said.contains("CapEff: 0000000000000020") && said.contains("CapBnd: 0000000000000021"), "{said}");
    assert_eq!(host.said("a"), "", "its streams are the caller's");
    assert!(host.rt.release_container("a").await.is_err());
    // One that is never let go ends like any other.
    let (pid, mut said) = hold("b").await;
    host.rt.stop_container("b", Duration::ZERO).await.unwrap();
    let status = host.ended("b").await;
    assert_eq!((status.pid, said().as_str()), (0, ""));
    assert!(!std::path::Path::new(&format!("/proc/{pid}/root")).exists());
    assert!(host.rt.release_container("b").await.is_err());
    // What no kernel has is refused before anything is made.
    let unknown = ContainerConfig { rlimits: vec![Rlimit { name: "RLIMIT_NONE".into(), soft: 1, hard: 1 }], ..config("c") };
    assert_eq!(host.rt.create_container("s", unknown).await.unwrap_err().to_string(), "unknown limit \"RLIMIT_NONE\"");
    host.rt.remove_sandbox("s").await.unwrap();
    assert!(root.join("bin/main").exists(), "a directory that is not the runtime's stays");
    // The shim is spared when memory is short, and its containers are not unless they are meant to be.
    host.sandbox("t").await;
    assert_eq!(host.run("t", host.container("d", &["read", "/proc/self/oom_score_adj"])).await, "0\n");
}

/// Found by ten minutes of nonsense: who had left a container that says nothing was kept for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_left_a_silent_container_is_not_kept() {
    let host = Host::with_image().await;
    let shim = host.sandbox("s").await.shim_pid;
    host.start("s", host.container("c", &["sleep"])).await;
    let open = || std::fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
    let before = open();
    for _ in 0..40 {
        drop(host.rt.attach("c", false, true, true).await.unwrap());
    }
    let wait = async {
        while open() > before + 4 {
            // A list of descriptors tells nobody that it changed.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{} descriptors, before {before}", open()));
    let mut held = Vec::new();
    let refused = loop {
        match host.rt.attach("c", false, true, true).await {
            Ok(session) => held.push(session),
            Err(e) => break e.to_string(),
        }
    };
    assert!(held.len() >= 60 && refused.contains("too many listen"), "{} {refused}", held.len());
}
