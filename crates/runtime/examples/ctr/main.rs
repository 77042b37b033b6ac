//! A small tool to try the runtime by hand, as root:
//!
//!     ctr local NAME FILE          an image of one static program, at /bin/main
//!     ctr import ARCHIVE · pull NAME · images · rmi NAME
//!     ctr run NAME POD [ARG…]      a sandbox and a container in it; the container goes on when this program ends
//!     ctr ps · logs POD · exec POD CMD… · stop POD · rm POD · purge
//!
//! State lies in `CTR_ROOT` (default /var/lib/knarr-ctr) and `CTR_RUN` (default /run/knarr-ctr). The program is also the
//! guest of the crate's tests: `ctr guest …` does inside a container what a test wants to see.
#![allow(clippy::disallowed_methods)]

mod attack;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::{Config, ContainerConfig, ImageConfig, LocalFile, Progress, Resources, Runtime, SandboxConfig, Seccomp, Step};

fn main() {
    let mut args: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|a| a == "shim") {
        args.remove(0);
        runtime::shim_main(args);
    }
    if args.first().is_some_and(|a| a == "unpack") {
        args.remove(0);
        runtime::unpack_main(args);
    }
    let args: Vec<String> = args.into_iter().filter_map(|a| a.into_string().ok()).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    if let ["guest", rest @ ..] = args.as_slice() {
        std::process::exit(guest(rest));
    }
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an executor");
    if let Err(e) = tokio.block_on(command(&args)) {
        eprintln!("ctr: {e}");
        std::process::exit(1);
    }
}

struct Shown;

impl Progress for Shown {
    fn step(&self, step: Step) {
        match step {
            Step::Layers(layers) => eprintln!("{} layers", layers.len()),
            Step::Fetched { .. } => {}
            Step::Unpacked { layer } => eprintln!("{layer} unpacked"),
        }
    }
}

async fn command(args: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let path = |name: &str, default: &str| std::env::var(name).map_or_else(|_| PathBuf::from(default), PathBuf::from);
    let config = Config {
        root: path("CTR_ROOT", "/var/lib/knarr-ctr"),
        store: None,
        run: path("CTR_RUN", "/run/knarr-ctr"),
        cgroup_root: "/sys/fs/cgroup".into(),
        mark: std::env::var("CTR_MARK").unwrap_or_else(|_| "knarr-ctr".into()),
        registries: std::env::var("CTR_REGISTRIES").ok().map(PathBuf::from),
        network: None,
        shim: "/proc/self/exe".into(),
    };
    let rt = Runtime::open(config).await?;
    match args {
        ["local", name, file] => {
            let file = LocalFile { host: file.into(), path: "/bin/main".into(), mode: 0o755 };
            let config = ImageConfig { entrypoint: vec!["/bin/main".into()], ..ImageConfig::default() };
            println!("{}", rt.add_layer_image(name, vec![file], config).await?.id);
        }
        ["import", file] => rt.import(file.as_ref(), Arc::new(Shown)).await?.iter().for_each(|i| println!("{} {:?}", i.id, i.repo_tags)),
        ["pull", name] => println!("{}", rt.pull(name, None, Arc::new(Shown)).await?.id),
        ["images"] => rt.images().iter().for_each(|i| println!("{} {:>12} {:?} {:?}", &i.id[7..19], i.size, i.repo_tags, i.repo_digests)),
        ["rmi", name] => rt.remove_image(name).await?,
        ["run", image, pod, rest @ ..] => run(&rt, image, pod, rest).await?,
        ["ps"] => {
            for c in rt.containers() {
                println!("{:<20} {:?} pid {} exit {} {} {}", c.id, c.state, c.pid, c.exit_code, c.reason, c.message);
            }
        }
        ["logs", pod] => {
            let log = rt.container(pod).ok_or("no such container")?.log_path;
            print!("{}", std::fs::read_to_string(log)?);
        }
        ["exec", pod, cmd @ ..] => {
            let done = rt.exec_sync(pod, cmd.iter().map(ToString::to_string).collect(), None).await?;
            std::io::stdout().write_all(&done.stdout)?;
            std::io::stderr().write_all(&done.stderr)?;
            std::process::exit(done.exit_code);
        }
        ["stop", pod] => rt.stop_container(pod, Duration::from_secs(10)).await?,
        ["rm", pod] => rt.remove_sandbox(&format!("{pod}-sandbox")).await?,
        ["purge"] => rt.purge().await?,
        other => return Err(format!("what is {other:?}? See the head of examples/ctr").into()),
    }
    Ok(())
}

async fn run(rt: &Runtime, image: &str, pod: &str, args: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let times = [Instant::now(); 1];
    let sandbox = format!("{pod}-sandbox");
    rt.create_sandbox(SandboxConfig {
        id: sandbox.clone(),
        name: pod.into(),
        hostname: pod.into(),
        cgroup_parent: format!("/{}/{pod}", std::env::var("CTR_MARK").unwrap_or_else(|_| "knarr-ctr".into())),
        log_dir: std::env::temp_dir(),
        ..SandboxConfig::default()
    })
    .await?;
    let made = times[0].elapsed();
    rt.create_container(
        &sandbox,
        ContainerConfig {
            id: pod.into(),
            name: pod.into(),
            image: image.into(),
            args: args.iter().map(ToString::to_string).collect(),
            log_path: format!("{pod}.log").into(),
            seccomp: Seccomp::RuntimeDefault,
            resources: Resources { memory_limit: Some(256 << 20), ..Resources::default() },
            ..ContainerConfig::default()
        },
    )
    .await?;
    let created = times[0].elapsed();
    rt.start_container(pod).await?;
    println!("sandbox {made:?}, container {:?}, start {:?}", created - made, times[0].elapsed() - created);
    Ok(())
}

/// Owner, group and mode.
fn owner(path: &str) -> String {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).map_or_else(|e| e.to_string(), |m| format!("{}:{} {:o}", m.uid(), m.gid(), m.mode()))
}

/// What a test's container does. Answers its exit code.
fn guest(args: &[&str]) -> i32 {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_else(|e| format!("{e}\n"));
    match args {
        ["say", text, rest @ ..] => {
            println!("{text}");
            return if rest.is_empty() { 0 } else { guest(rest) };
        }
        ["complain", text, rest @ ..] => {
            eprintln!("{text}");
            return if rest.is_empty() { 0 } else { guest(rest) };
        }
        ["exit", code] => return code.parse().unwrap_or(1),
        ["sleep"] => loop {
            std::thread::park();
        },
        ["cat"] => drop(std::io::copy(&mut std::io::stdin(), &mut std::io::stdout())),
        ["read", paths @ ..] => paths.iter().for_each(|p| print!("{}", read(p))),
        ["list", path] => {
            let mut names: Vec<String> =
                std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            println!("{}", names.join(" "));
        }
        ["write", path, text] => match std::fs::write(path, text) {
            Ok(()) => println!("written"),
            Err(e) => println!("{e}"),
        },
        ["copy", from, to] => return i32::from(std::fs::write(to, read(from)).is_err()),
        ["env"] => std::env::vars().for_each(|(k, v)| println!("{k}={v}")),
        ["where"] => println!("{}", std::env::current_dir().map_or_else(|e| e.to_string(), |d| d.display().to_string())),
        // What a tenant would try: answers the attempts that went through.
        ["attack", rest @ ..] => return attack::run(rest),
        ["owner", paths @ ..] => paths.iter().for_each(|p| println!("{}", owner(p))),
        ["hostname"] => print!("{}", read("/proc/sys/kernel/hostname")),
        ["obey"] => {
            let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an executor");
            return tokio.block_on(async {
                let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("a signal");
                println!("ready");
                term.recv().await;
                println!("bye");
                7
            });
        }
        ["tty"] => {
            use std::io::IsTerminal;
            println!("{} {}", std::io::stdin().is_terminal(), std::io::stdout().is_terminal());
        }
        ["size"] => {
            // SAFETY: the structure lives through the call.
            #[allow(unsafe_code)]
            let size = unsafe {
                let mut size: libc::winsize = std::mem::zeroed();
                let mut line = String::new();
                let _ = std::io::stdin().read_line(&mut line);
                libc::ioctl(0, libc::TIOCGWINSZ, &raw mut size);
                size
            };
            println!("{}x{}", size.ws_col, size.ws_row);
        }
        ["id"] => {
            let status = read("/proc/self/status");
            let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("").split_whitespace().collect::<Vec<_>>().join(" ");
            for name in ["Uid:", "Gid:", "Groups:", "CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:"] {
                println!("{name} {}", field(name));
            }
        }
        ["eat", mebibytes] => {
            let mut all = Vec::new();
            for _ in 0..mebibytes.parse().unwrap_or(0) {
                all.push(vec![1_u8; 1 << 20]);
            }
            println!("ate {}", all.len());
        }
        ["serve", port] => {
            let Ok(listener) = std::net::TcpListener::bind(format!("127.0.0.1:{port}")) else { return 1 };
            println!("listening");
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let mut byte = [0];
                while stream.read(&mut byte).is_ok_and(|n| n == 1) {
                    let _ = stream.write_all(&[byte[0].to_ascii_uppercase()]);
                }
            }
        }
        ["flood", lines] => {
            let mut out = std::io::stdout().lock();
            for n in 0..lines.parse().unwrap_or(0) {
                let _ = writeln!(out, "line {n}");
            }
        }
        other => {
            eprintln!("unknown {other:?}");
            return 64;
        }
    }
    0
}
