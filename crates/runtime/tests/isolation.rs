//! What a tenant or an image may try, and what a hung or dying part does to the others. Everything runs with a umask that
//! takes all it can, as an administrator's may: nothing depends on it.

mod common;

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::{Duration, Instant};

use common::*;
use runtime::*;

/// Held by who makes an image: those are made of files as a usual umask leaves them.
static USUAL: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn umask(mask: u32) {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask));
}

/// As [`Host::with_image`], under a strict umask from then on.
async fn strict() -> Host {
    let _usual = USUAL.lock().await;
    umask(0o022);
    let host = Host::with_image().await;
    umask(0o077);
    host
}

/// A file of the host that no container may find.
fn marker(host: &Host) -> String {
    let path = host.dir.join("marker");
    write(&path, b"the host's").to_str().unwrap().to_owned()
}

/// An image of these files beside the guest program.
async fn image(host: &Host, name: &str, files: &[(&str, &str)], config: ImageConfig) {
    let _usual = USUAL.lock().await;
    umask(0o022);
    let mut all = vec![LocalFile { host: program(), path: "/bin/main".into(), mode: 0o755 }];
    for (at, (path, text)) in files.iter().enumerate() {
        let file = write(&host.dir.join(format!("{name}-{at}")), text.as_bytes());
        all.push(LocalFile { host: file, path: path.into(), mode: 0o644 });
    }
    let base = host.rt.image("guest").unwrap().config;
    host.rt.add_layer_image(name, all, ImageConfig { entrypoint: base.entrypoint, env: base.env, ..config }).await.unwrap();
    umask(0o077);
}

/// An image of a tar alone: nothing in it can run.
async fn tar_image(host: &Host, name: &str, tar: Tar) {
    let built = build(&[tar.done()], serde_json::json!({"Entrypoint": ["/bin/main"]}));
    let path = write(&host.dir.join(format!("{name}.tar")), &layout(&[(&format!("docker.io/library/{name}:latest"), &built)]));
    host.rt.import(&path, quiet()).await.unwrap();
}

async fn start_error(host: &Host, config: ContainerConfig) -> String {
    let id = config.id.clone();
    host.rt.create_container("s", config).await.unwrap();
    host.rt.start_container(&id).await.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_published_ways_out_are_closed() {
    let host = strict().await;
    host.sandbox("s").await;
    let marker = marker(&host);
    // As a pod without any security context is: all capabilities of the baseline, no filter.
    let open = |id: &str, args: &[&str]| ContainerConfig { seccomp: Seccomp::Unconfined, ..host.container(id, args) };
    for config in [open("a", &["attack", "all", &marker]), host.container("b", &["attack", "all", &marker])] {
        let said = host.run("s", config).await;
        assert_eq!(said.lines().count(), 16, "{said}");
        assert!(said.lines().all(|l| l.contains(": held (")), "{said}");
    }
    // The same attempts do go through where they are meant to: the test sees what it looks for.
    let said = host.run("s", ContainerConfig { privileged: true, ..open("c", &["attack", "mount", "proc", "/mnt"]) }).await;
    assert_eq!(said, "proc: THROUGH (\"proc\" at \"/mnt\")\n");
    // A working directory that leads through a descriptor of the runtime's own (CVE-2024-21626).
    for fd in [3, 4, 5, 6, 7, 8, 9, 10, 11, 12] {
        let id = format!("fd{fd}");
        let config = ContainerConfig { working_dir: format!("/proc/self/fd/{fd}"), ..open(&id, &["attack", "cwd", &marker]) };
        host.rt.create_container("s", config).await.unwrap();
        if host.rt.start_container(&id).await.is_ok() {
            host.ended(&id).await;
            assert!(host.said(&id).contains("held"), "{}", host.said(&id));
        }
    }
    // The runtime's program as the container's own (CVE-2019-5736).
    host.start("s", open("d", &["sleep"])).await;
    for program in ["/proc/self/exe", "/bin/main"] {
        let cmd = [program, "guest", "attack", "exe"].map(str::to_owned).to_vec();
        if let Ok(done) = host.rt.exec_sync("d", cmd, Some(PATIENCE)).await {
            assert!(!String::from_utf8_lossy(&done.stdout).contains("THROUGH"), "{done:?}");
        }
    }
    let keys = |text: String| text.trim().parse::<i64>().unwrap();
    // SAFETY: plain integers.
    #[allow(unsafe_code)]
    let ours = unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 0) };
    let theirs = [keys(host.run("s", open("e", &["attack", "keyring"])).await), keys(host.exec_text("d", &["attack", "keyring"]).await)];
    assert!(theirs.iter().all(|k| *k != ours), "the session keyring of who started the test: {ours} {theirs:?}");
}

/// Each capability that Pod Security's "baseline" lets a pod add, alone and without a filter of system calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_capability_of_the_baseline_is_a_way_out() {
    const BASELINE: [&str; 13] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let host = strict().await;
    host.sandbox("s").await;
    let marker = marker(&host);
    for (at, capability) in BASELINE.into_iter().enumerate() {
        let config = ContainerConfig {
            capabilities_drop: vec!["ALL".into()],
            capabilities_add: vec![capability.into()],
            seccomp: Seccomp::Unconfined,
            ..host.container(&format!("c{at}"), &["attack", "all", &marker])
        };
        let said = host.run("s", config).await;
        assert_eq!(said.lines().count(), 16, "{capability}: {said}");
        assert!(said.lines().all(|l| l.contains(": held (")), "{capability}: {said}");
    }
}

/// CVE-2025-52881: writes to `/proc` that go elsewhere, because what lies there is not the kernel's. A volume full of such files
/// is refused in its place; the kernel's own may be there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_else_passes_for_proc() {
    let host = strict().await;
    host.sandbox("s").await;
    let fake = host.dir.join("fake");
    let files = ["self/attr/exec", "self/attr/apparmor/exec", "thread-self/attr/exec", "self/oom_score_adj", "self/setgroups", "sys/kernel/hostname"];
    for file in files {
        write(&fake.join(file), b"untouched");
    }
    let resources = Resources { oom_score_adj: Some(500), ..Resources::default() };
    let at = |id: &str, from: &Path, to: &str| ContainerConfig {
        mounts: vec![Mount { host: from.to_owned(), container: to.into(), ..Mount::default() }],
        resources: resources.clone(),
        ..host.container(id, &["sleep"])
    };
    for (id, to) in [("a", "/proc"), ("b", "/proc/"), ("c", "/proc/.")] {
        let error = start_error(&host, at(id, &fake, to)).await;
        assert!(error.contains("is not of type proc") || error.contains("inside /proc"), "{error}");
    }
    // Upon the host's own, which may be there.
    for (id, to) in [("g", "/proc/"), ("h", "/proc/self/attr")] {
        let twice = ContainerConfig { mounts: [at(id, Path::new("/proc"), "/proc").mounts, at(id, &fake, to).mounts].concat(), ..at(id, &fake, to) };
        let error = start_error(&host, twice).await;
        assert!(error.contains("is not of type proc") || error.contains("inside /proc"), "{to}: {error}");
    }
    // By a link of the image, which leads there.
    tar_image(&host, "leading", Tar::new().link("way", "/proc", false)).await;
    let error = start_error(&host, ContainerConfig { image: "leading".into(), ..at("d", &fake, "/way") }).await;
    assert!(error.contains("inside /proc"), "{error}");
    // A neighbour's volume is in the way of nothing that an exec writes.
    host.start("s", at("e", &fake, "/elsewhere")).await;
    assert_eq!(host.exec_text("e", &["read", "/proc/self/oom_score_adj"]).await, "500\n");
    host.start("s", at("f", Path::new("/proc"), "/proc")).await;
    for file in files {
        assert_eq!(std::fs::read_to_string(fake.join(file)).unwrap(), "untouched", "{file}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kernels_file_systems_need_ordinary_directories() {
    let host = strict().await;
    host.sandbox("s").await;
    for (at, name) in ["proc", "sys", "dev"].into_iter().enumerate() {
        let tar = Tar::new().dir("dev2/", 0o755).dir("dev2/p/", 0o755).dir("real/", 0o755).link(name, "dev2/p/../../real", false);
        tar_image(&host, &format!("linked-{name}"), tar).await;
        let config = ContainerConfig { image: format!("linked-{name}"), ..host.container(&format!("c{at}"), &[]) };
        let error = start_error(&host, config).await;
        assert!(error.contains(&format!("filesystem {name:?} must be mounted on ordinary directory")), "{error}");
    }
    // A link to what does not exist is made, as `/var/run` of many images wants it: only the program is missing then.
    tar_image(&host, "dangling", Tar::new().dir("var/", 0o755).link("var/run", "/run", false)).await;
    let data = host.dir.join("data");
    write(&data.join("in"), b"x");
    let mount = |to: &str| vec![Mount { host: data.clone(), container: to.into(), ..Mount::default() }];
    let config = ContainerConfig { image: "dangling".into(), mounts: mount("/var/run/secrets/x"), ..host.container("d", &[]) };
    let error = start_error(&host, config).await;
    assert!(error.contains("stat /bin/main: no such file or directory"), "{error}");
    // Nothing is put over the kernel's own files but what others may know better.
    let config = ContainerConfig { mounts: mount("/proc/self"), ..host.container("e", &[]) };
    let error = start_error(&host, config).await;
    assert!(error.contains("inside /proc"), "{error}");
    // What a mount may not be used for holds for it, and for nothing below the host's directory.
    let less = vec![Mount { noexec: true, nosuid: true, nodev: true, ..mount("/less").remove(0) }];
    let table = host.run("s", ContainerConfig { mounts: less, ..host.container("g", &["read", "/proc/self/mountinfo"]) }).await;
    let options = table.lines().find_map(|line| line.split_once(" /less ")?.1.split(' ').next()).unwrap_or_default().to_owned();
    assert!(["noexec", "nosuid", "nodev"].iter().all(|option| options.split(',').any(|o| o == *option)), "{table}");
    let file = |to: &str| vec![Mount { host: data.join("in"), container: to.into(), ..Mount::default() }];
    assert_eq!(host.run("s", ContainerConfig { mounts: file("/proc/uptime"), ..host.container("f", &["read", "/proc/uptime"]) }).await, "x\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_user_that_was_checked_is_the_one_that_runs() {
    let host = strict().await;
    host.sandbox("s").await;
    let passwd = [("/etc/passwd", "1000:x:0:0::/:/bin/sh\nbig:x:4294967295:0::/:/bin/sh\n"), ("/etc/group", "1000:x:0:\n")];
    for (name, user) in [("number", "1000:1000"), ("minus-one", "4294967295"), ("by-name", "big")] {
        image(&host, name, &passwd, ImageConfig { user: user.into(), ..ImageConfig::default() }).await;
    }
    let of = |image: &str| ContainerConfig { image: image.into(), ..host.container(image, &["id"]) };
    let said = host.run("s", of("number")).await;
    assert!(said.starts_with("Uid: 1000 1000 1000 1000\nGid: 1000 1000 1000 1000\n"), "{said}");
    for (name, error) in [("minus-one", "unable to find user 4294967295"), ("by-name", "range 0-2147483647")] {
        let refused = host.rt.create_container("s", of(name)).await.unwrap_err().to_string();
        assert!(refused.contains(error), "{refused}");
        assert!(!host.config.root.join("containers").join(name).exists(), "nothing is left of it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_umask_cuts_what_a_container_needs() {
    let host = strict().await;
    host.sandbox("s").await;
    let user = User { uid: Some(1000), gid: Some(1000), ..User::default() };
    let devices = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];
    let mine = Device { host: "/dev/zero".into(), container: "/dev/mine".into(), permissions: "rw".into(), ..Device::default() };
    let owned = DeviceOwner::Given { uid: None, gid: Some(7) };
    let given = vec![mine.clone(), Device { container: "/dev/owned".into(), mode: Some(0o640), owner: owned, ..mine }];
    let paths: Vec<&str> = ["owner", "/", "/dev", "/dev/mine", "/dev/owned", "/dev/pts/ptmx"].into_iter().chain(devices).collect();
    let said = host.run("s", ContainerConfig { devices: given, user: user.clone(), ..host.container("a", &paths) }).await;
    assert_eq!(said, format!("0:0 40755\n0:0 40755\n0:0 20666\n1000:7 20640\n0:0 20666\n{}", "0:0 20666\n".repeat(devices.len())));
    assert_eq!(host.run("s", ContainerConfig { user: user.clone(), ..host.container("b", &["write", "/dev/null", "x"]) }).await, "written\n");
    // With a terminal there is a console, which is that terminal.
    let tty = ContainerConfig { tty: true, user, ..host.container("c", &["owner", "/dev/console", "/dev/pts/0"]) };
    let said = host.run("s", tty).await.replace('\r', "");
    assert_eq!(said, "1000:5 20620\n1000:5 20620\n");
    assert_eq!(host.run("s", host.container("d", &["owner", "/dev/console"])).await, "No such file or directory (os error 2)\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_of_the_host_looks_in() {
    let host = strict().await;
    host.sandbox("s").await;
    let secret = ContainerConfig { env: vec![("PASSWORD".into(), "secret".into())], ..host.container("c", &["sleep"]) };
    host.start("s", secret).await;
    let sandbox = host.config.run.join("sandboxes/s");
    let spec = sandbox.join("c-c.json");
    assert!(std::fs::read_to_string(&spec).unwrap().contains("secret"));
    for file in [&spec, &sandbox.join("sandbox.json"), &sandbox.join("state.json"), &sandbox.join("shim.log")] {
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
    // What a former version left open is closed.
    let containers = host.config.root.join("containers");
    for dir in [&host.config.root, &host.config.run, &containers] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    drop(Runtime::open(host.config.clone()).await.unwrap());
    for dir in [&host.config.root, &host.config.run, &containers, &sandbox] {
        assert_eq!(std::fs::metadata(dir).unwrap().permissions().mode() & 0o777, 0o700, "{dir:?}");
    }
    let program = containers.join("c/upper");
    let as_nobody = |path: &Path| std::process::Command::new("ls").arg(path).uid(65534).gid(65534).output().unwrap().status.success();
    assert!(as_nobody(Path::new("/")) && !as_nobody(&spec) && !as_nobody(&program) && !as_nobody(&host.config.root.join("layers")));
    assert!(std::fs::metadata(sandbox.join("shim.sock")).unwrap().file_type().is_socket());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joins_a_container_shows_nothing_of_the_host() {
    /// Processes that each of them is to have looked through, from their first moment on.
    const MET: usize = 20;
    /// They end when they have met them; on a machine that does other things they are seldom awake at the right time.
    const END_MAX: Duration = PATIENCE.saturating_mul(10);
    let host = strict().await;
    host.rt.create_sandbox(SandboxConfig { share_pid: true, ..host.sandbox_config("s") }).await.unwrap();
    host.sandbox("t").await;
    let marker = marker(&host);
    // Both may look into every process that they see.
    let nosy = |id: &str| ContainerConfig {
        capabilities_add: vec!["SYS_PTRACE".into()],
        seccomp: Seccomp::Unconfined,
        ..host.container(id, &["attack", "peek", &marker, &MET.to_string(), &END_MAX.as_secs().to_string()])
    };
    host.start("s", nosy("a")).await;
    host.start("t", nosy("b")).await;
    host.hears("a", "ready").await;
    host.hears("b", "ready").await;
    // Execs, also with a filter of their own, and containers that start beside.
    let mut n = 0;
    let looks = |id| host.rt.container(id).unwrap().state == ContainerState::Running;
    while looks("a") || looks("b") {
        n += 1;
        let id = format!("c{n}");
        let drop = ContainerConfig { capabilities_drop: vec!["ALL".into()], no_new_privileges: n % 2 == 0, ..host.container(&id, &["say", "x"]) };
        host.run("s", drop).await;
        for container in ["a", "b"] {
            let _ = host.rt.exec_sync(container, ["/bin/main", "guest", "say", "x"].map(str::to_owned).to_vec(), Some(PATIENCE)).await;
        }
    }
    for id in ["a", "b"] {
        host.ended(id).await;
        let said = host.said(id);
        let met: usize = said.lines().find_map(|l| l.strip_prefix("met ")?.parse().ok()).unwrap();
        assert!(!said.contains("saw ") && met == MET, "{n} times: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exec_has_one_deadline_and_any_output() {
    let host = strict().await;
    host.sandbox("s").await;
    host.start("s", host.container("c", &["sleep"])).await;
    let done = host.exec("c", &["flood", "300000"]).await;
    assert_eq!((done.exit_code, done.stdout.len()), (0, 64 << 10), "what it says beyond measure ends nothing");
    // What lies at /dev/null is not waited for.
    let pipe = host.dir.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
    host.start(
        "s",
        ContainerConfig { stdin: true, mounts: vec![Mount { host: pipe, container: "/dev/null".into(), ..Mount::default() }], ..host.container("d", &["cat"]) },
    )
    .await;
    let error = host.rt.exec_sync("d", vec!["/bin/main".into(), "guest".into(), "say".into()], Some(PATIENCE)).await.unwrap_err().to_string();
    assert!(error.contains("not the null device"), "{error}");
    // A terminal is of a kind, also where the container has none.
    let config = ExecConfig { cmd: ["/bin/main", "guest", "env"].map(str::to_owned).to_vec(), tty: true, stdout: true, ..ExecConfig::default() };
    let mut session = host.rt.exec("c", config).await.unwrap();
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(session.stdout.as_mut().unwrap(), &mut text).await.unwrap();
    assert!(text.contains("TERM=xterm"), "{text:?}");
}

/// A shim that is stopped answers nothing; one that is none does not start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_that_hangs_is_ended_and_holds_up_nobody() {
    let host = strict().await;
    let signal = |pid: u32, signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal).unwrap();
    let mut shims = Vec::new();
    for (sandbox, container) in [("s", "a"), ("t", "b"), ("u", "c")] {
        shims.push(host.sandbox(sandbox).await.shim_pid);
        host.start(sandbox, host.container(container, &["sleep"])).await;
    }
    let first_of_c = host.rt.container("c").unwrap().pid;
    shims.iter().for_each(|pid| signal(*pid, nix::sys::signal::Signal::SIGSTOP));
    let begun = Instant::now();
    let (stopped, removed, adopted) = tokio::join!(
        host.rt.stop_container("a", Duration::from_secs(1)),
        host.rt.remove_sandbox("t"),
        tokio::time::timeout(PATIENCE, Runtime::open(host.config.clone())),
    );
    stopped.unwrap();
    removed.unwrap();
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    assert_eq!(host.rt.container("a").unwrap().state, ContainerState::Exited);
    assert!(host.rt.container("b").is_none());
    // The next process calls its containers lost only because they are gone.
    let c = adopted.unwrap().unwrap().container("c").unwrap();
    assert_eq!((c.state, c.reason.as_str()), (ContainerState::Exited, "ContainerStatusUnknown"));
    assert!(!Path::new(&format!("/proc/{first_of_c}/exe")).exists(), "it still runs");
    let broken = Config { shim: "/bin/false".into(), ..host.config.clone() };
    let other = Runtime::open(Config { run: host.config.run.join("other"), root: host.dir.join("other"), ..broken }).await.unwrap();
    other.create_sandbox(host.sandbox_config("x")).await.unwrap_err();
    assert!(!host.config.run.join("other/sandboxes/x").exists());
    let cgroups = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|e| e.path().join(&host.config.mark).join("x"));
    assert!(cgroups.into_iter().all(|dir| !dir.exists()), "what was made for it is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_images_volumes_lie_beside_its_layers() {
    let host = strict().await;
    host.sandbox("s").await;
    let volumes = ["/data", "/made/here", "/taken"].map(|v| (v.to_owned(), serde_json::json!({}))).into();
    image(&host, "v", &[("/data/in", "of the image"), ("/taken/in", "hidden")], ImageConfig { volumes, ..ImageConfig::default() }).await;
    let own = host.dir.join("own");
    write(&own.join("mine"), b"of the pod");
    let mounts = vec![Mount { host: own, container: "/taken".into(), ..Mount::default() }];
    let config = ContainerConfig { image: "v".into(), readonly_rootfs: true, mounts, ..host.container("c", &["sleep"]) };
    host.start("s", config).await;
    assert_eq!(host.exec_text("c", &["read", "/data/in", "/taken/mine"]).await, "of the imageof the pod");
    assert_eq!(host.exec_text("c", &["owner", "/data", "/data/in", "/made/here"]).await, "0:0 40755\n0:0 100644\n0:0 40755\n");
    for (path, said) in [("/data/new", "written\n"), ("/made/here/new", "written\n"), ("/made/new", "Read-only file system (os error 30)\n")] {
        assert_eq!(host.exec_text("c", &["write", path, "x"]).await, said, "{path}");
    }
    let mounts = host.exec_text("c", &["read", "/proc/self/mountinfo"]).await;
    assert!(mounts.lines().any(|l| l.contains(" /data ") && !l.contains("- overlay")), "{mounts}");
    let kept = host.config.root.join("containers/c/volumes");
    assert!(kept.exists());
    host.rt.remove_container("c").await.unwrap();
    assert!(!kept.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_may_have_users_of_its_own() {
    const FIRST: u32 = 0x7000_0000;
    let host = strict().await;
    let own = |id: &str| SandboxConfig { user_namespace: true, ..host.sandbox_config(id) };
    let refused = host.rt.create_sandbox(SandboxConfig { host_network: true, ..own("x") }).await.unwrap_err().to_string();
    assert!(refused.contains("cannot share the host's"), "{refused}");
    host.rt.create_sandbox(own("s")).await.unwrap();
    host.rt.create_sandbox(SandboxConfig { share_pid: true, ..own("t") }).await.unwrap();
    let data = host.dir.join("data");
    write(&data.join("in"), b"of the host's root\n");
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).unwrap();
    // Another test may have had the usual umask just then.
    std::fs::set_permissions(data.join("in"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let mounts = vec![Mount { host: data.clone(), container: "/data".into(), ..Mount::default() }];
    let rights = |id: &str| ContainerConfig {
        mounts: mounts.clone(),
        // As procMount: Unmasked asks, which is for such pods alone.
        masked_paths: Some(vec![]),
        readonly_paths: Some(vec![]),
        capabilities_add: vec!["SYS_ADMIN".into(), "SYS_PTRACE".into(), "NET_ADMIN".into()],
        seccomp: Seccomp::Unconfined,
        ..host.container(id, &["sleep"])
    };
    host.start("s", rights("a")).await;
    host.start("t", rights("b")).await;
    let mut firsts = Vec::new();
    for id in ["a", "b"] {
        let pid = host.rt.container(id).unwrap().pid;
        let map = std::fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
        let numbers: Vec<u32> = map.split_whitespace().map(|n| n.parse().unwrap()).collect();
        assert!(numbers[0] == 0 && numbers[1] >= FIRST && numbers[2] == 65536, "{map}");
        let owner = std::fs::metadata(format!("/proc/{pid}")).unwrap().uid();
        assert!(owner == numbers[1] || owner == 0, "{owner}");
        firsts.push(numbers[1]);
        let said = host.exec_text(id, &["id"]).await;
        assert!(said.starts_with("Uid: 0 0 0 0\nGid: 0 0 0 0\n"), "{said}");
        // What lies on disk is root's on both sides; the container's own files, too.
        assert_eq!(
            host.exec_text(id, &["owner", "/", "/bin/main", "/data/in", "/dev", "/dev/null"]).await,
            "0:0 40755\n0:0 100755\n0:0 100600\n0:0 40755\n0:0 20666\n"
        );
        assert_eq!(host.exec_text(id, &["read", "/data/in"]).await, "of the host's root\n");
        let file = format!("/data/{id}");
        for path in [file.as_str(), "/file", "/dev/shm/x", "/dev/null"] {
            assert_eq!(host.exec_text(id, &["write", path, "x"]).await, "written\n", "{path}");
        }
        assert_eq!(std::fs::metadata(data.join(id)).unwrap().uid(), 0);
        assert_eq!(std::fs::metadata(host.config.root.join(format!("containers/{id}/upper/file"))).unwrap().uid(), numbers[1]);
        // Its rights count for what is its own, and for nothing of the host's.
        assert!(host.exec_text(id, &["attack", "mount", "tmpfs", "/mnt"]).await.contains("THROUGH"));
        assert_eq!(host.exec_text(id, &["write", "/proc/sys/net/ipv4/ip_forward", "1"]).await, "written\n");
        assert!(host.exec_text(id, &["write", "/proc/sys/kernel/core_pattern", "x"]).await.contains("denied"));
        assert_ne!(host.exec_text(id, &["write", "/proc/sysrq-trigger", "h"]).await, "written\n");
        assert!(host.exec_text(id, &["list", "/sys/class/net"]).await.contains("lo"));
    }
    assert_ne!(firsts[0], firsts[1]);
    assert_eq!(host.exec_text("b", &["read", "/proc/1/comm"]).await, "pause\n");
    // A second container of the pod has the same users; an ordinary user of it is one of them.
    let user = User { uid: Some(1000), gid: Some(1000), ..User::default() };
    let said = host.run("s", ContainerConfig { user: user.clone(), tty: true, ..host.container("c", &["owner", "/dev/console"]) }).await.replace('\r', "");
    assert_eq!(said, "1000:5 20620\n");
    assert!(host.run("s", ContainerConfig { user, ..host.container("d", &["write", "/dev/stdout", "text"]) }).await.contains("written"));
    let taken = |host: &Host| {
        std::fs::read_dir("/run/knarr-users")
            .unwrap()
            .flatten()
            .filter(|e| std::fs::read_to_string(e.path()).is_ok_and(|t| t.starts_with(&format!("{}\n", host.config.mark))))
            .count()
    };
    assert_eq!(taken(&host), 2);
    // The next process knows them, and frees them with the sandbox.
    let next = Runtime::open(host.config.clone()).await.unwrap();
    assert_eq!(taken(&host), 2);
    drop(next);
    host.rt.remove_sandbox("s").await.unwrap();
    assert_eq!(taken(&host), 1);
    host.rt.remove_sandbox("t").await.unwrap();
    assert_eq!(taken(&host), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_enforced_is_refused() {
    let host = strict().await;
    host.sandbox("s").await;
    if apparmor_enabled() {
        let config = ContainerConfig { apparmor: Some("no such profile".into()), ..host.container("c", &[]) };
        assert!(host.rt.create_container("s", config).await.unwrap_err().to_string().contains("profile not found"));
        return;
    }
    for profile in [APPARMOR_RUNTIME_DEFAULT, "mine"] {
        let config = ContainerConfig { apparmor: Some(profile.into()), ..host.container("c", &[]) };
        let error = host.rt.create_container("s", config).await.unwrap_err().to_string();
        assert_eq!(error, "Cannot enforce AppArmor: AppArmor is not enabled on the host");
    }
}
