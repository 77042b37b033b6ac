//! Kill -9 of the program and of a shim at ten moments of each step, and a cut of power: nothing half-made is trusted afterwards, and nothing is
//! left behind.
//!
//! A cut of power is tried on the directory as it may be found: what was synced is there, of everything after that any part may
//! be, in any order. The volatile directory is empty then.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::*;
use runtime::*;
use serde_json::json;

/// Moments of a command at which it is killed.
const MOMENTS: u32 = 10;

/// The example program on this host's store.
fn ctr(host: &Host, args: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(args).env("CTR_ROOT", &host.config.root).env("CTR_RUN", &host.config.run).env("CTR_MARK", &host.config.mark);
    command.env("TMPDIR", &host.dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn names(dir: &Path) -> Vec<String> {
    let mut all: Vec<String> = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    all.sort();
    all
}

async fn ended(rt: &Runtime, id: &str) {
    let mut events = rt.events();
    let wait = async {
        while rt.container(id).is_some_and(|c| c.state != ContainerState::Exited) {
            let _ = events.recv().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it neither runs nor ends");
}

/// What the next process finds is what it says, and all of it can be taken away.
async fn check_and_clear(host: &Host, when: &str) {
    let next = Runtime::open(host.config.clone()).await.unwrap();
    for container in next.containers() {
        match container.state {
            ContainerState::Running => {
                let cmd = ["/bin/main", "guest", "say", "x"].map(str::to_owned).to_vec();
                match next.exec_sync(&container.id, cmd, Some(PATIENCE)).await {
                    Ok(done) if done.exit_code == 0 => assert_eq!(done.stdout, b"x\n", "{when}"),
                    // It was told to end before, and does.
                    _ => ended(&next, &container.id).await,
                }
            }
            ContainerState::Created => {
                // Its shim may have heard of it, and not be done.
                if let Err(e) = next.start_container(&container.id).await {
                    assert!(e.to_string().contains("was started before"), "{when}: {e}");
                }
            }
            ContainerState::Exited => {}
        }
    }
    for sandbox in next.sandboxes() {
        next.remove_sandbox(&sandbox.config.id).await.unwrap();
    }
    assert_eq!((names(&host.config.run.join("sandboxes")), names(&host.config.root.join("containers"))), (vec![], vec![]), "{when}");
    next.purge().await.unwrap();
    let own = std::process::id().to_string();
    let left: Vec<String> = host.traces().into_iter().filter(|trace| !trace.contains(&own)).collect();
    assert_eq!(left, Vec::<String>::new(), "{when}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_can_be_killed_at_any_moment() {
    let host = Host::with_image().await;
    let done = |args: &[&str]| {
        let told = ctr(&host, args).stderr(Stdio::piped()).output().unwrap();
        assert!(told.status.success(), "{args:?}: {}\n{}", told.status, String::from_utf8_lossy(&told.stderr));
    };
    // It ends when it is told to.
    let run = ["run", "guest", "pod", "obey"];
    // How long each takes when nobody disturbs it.
    let timed = |args: &[&str]| {
        let begun = Instant::now();
        done(args);
        begun.elapsed()
    };
    let took = [timed(&run), timed(&["stop", "pod"]), timed(&["rm", "pod"])];
    for (args, took) in [&run[..], &["stop", "pod"], &["rm", "pod"]].into_iter().zip(took) {
        for moment in 0..MOMENTS {
            if args[0] != "run" {
                done(&run);
            }
            let mut child = ctr(&host, args).spawn().unwrap();
            std::thread::sleep(took * moment / MOMENTS);
            child.kill().unwrap();
            child.wait().unwrap();
            check_and_clear(&host, &format!("{args:?} killed at {moment}/{MOMENTS} of {took:?}")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_can_be_killed_at_any_moment() {
    let host = Host::with_image().await;
    let mut took = [Duration::ZERO; 3];
    for moment in 0..=MOMENTS {
        for (at, step) in ["start", "stop", "remove"].into_iter().enumerate() {
            let (sandbox, container) = (format!("s{moment}{at}"), format!("c{moment}{at}"));
            let shim = host.sandbox(&sandbox).await.shim_pid;
            host.rt.create_container(&sandbox, host.container(&container, &["sleep"])).await.unwrap();
            if step != "start" {
                host.rt.start_container(&container).await.unwrap();
            }
            let (rt, id, of) = (host.rt.clone(), container.clone(), sandbox.clone());
            let begun = Instant::now();
            let work = tokio::spawn(async move {
                match step {
                    "start" => rt.start_container(&id).await,
                    "stop" => rt.stop_container(&id, Duration::ZERO).await,
                    _ => rt.remove_sandbox(&of).await,
                }
            });
            // The first round only shows how long it takes.
            if moment > 0 {
                tokio::time::sleep(took[at] * (moment - 1) / MOMENTS).await;
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim as i32), nix::sys::signal::Signal::SIGKILL);
            }
            let answered = tokio::time::timeout(PATIENCE, work).await.expect("it has an end").unwrap();
            if moment == 0 {
                answered.unwrap();
                took[at] = begun.elapsed();
            } else if step != "remove" {
                assert_eq!(host.ended(&container).await.pid, 0);
            }
            tokio::time::timeout(PATIENCE, host.rt.remove_sandbox(&sandbox)).await.expect("it has an end").unwrap();
        }
    }
    assert_eq!((host.rt.sandboxes().len(), host.rt.containers().len()), (0, 0));
    assert_eq!((names(&host.config.run.join("sandboxes")), names(&host.config.root.join("containers"))), (vec![], vec![]));
    host.rt.purge().await.unwrap();
    assert_eq!(host.traces(), Vec::<String>::new());
}

/// One way in which a directory may be found after a cut of power.
type Cut = (&'static str, fn(&Path, &[String]));

/// Steps of unpacking, recording and removing an image, each broken off: the names are those of its layers, lowest first.
const CUTS: [Cut; 11] = [
    ("a layer without its mark, its files lost", |root, layers| {
        std::fs::remove_file(root.join(format!("layers/{}.ok", layers[1]))).unwrap();
        let dir = root.join("layers").join(&layers[1]);
        std::fs::remove_dir_all(&dir).unwrap();
        std::fs::create_dir(&dir).unwrap();
    }),
    ("a mark that was being written", |root, layers| {
        let mark = root.join(format!("layers/{}.ok", layers[1]));
        std::fs::remove_file(&mark).unwrap();
        std::fs::write(mark.with_extension("tmp"), "1").unwrap();
    }),
    ("a mark, and its layer set aside", |root, layers| {
        std::fs::rename(root.join("layers").join(&layers[1]), root.join("layers/.gone-1")).unwrap();
    }),
    ("a layer that was being made", |root, layers| {
        std::fs::remove_file(root.join(format!("layers/{}.ok", layers[1]))).unwrap();
        let work = root.join("layers/.tmp-1");
        std::fs::create_dir(&work).unwrap();
        std::fs::rename(root.join("layers").join(&layers[1]), work.join("fs")).unwrap();
    }),
    ("a layer half removed", |root, layers| {
        std::fs::remove_file(root.join(format!("layers/{}.ok", layers[0]))).unwrap();
        let going = root.join("layers/.gone-2");
        std::fs::rename(root.join("layers").join(&layers[0]), &going).unwrap();
        std::fs::remove_file(going.join("first")).unwrap();
    }),
    ("a record that was being written", |root, _| {
        let file = std::fs::read_dir(root.join("images")).unwrap().flatten().next().unwrap().path();
        std::fs::write(file.with_extension("tmp"), "{\"id\"").unwrap();
        std::fs::remove_file(file).unwrap();
    }),
    ("a record without its content", |root, _| {
        let file = std::fs::read_dir(root.join("images")).unwrap().flatten().next().unwrap().path();
        std::fs::write(file, "").unwrap();
    }),
    ("a blob whose content was lost, its length not", |root, _| {
        std::fs::write(root.join("ingest").join("0".repeat(64)), vec![0; 4096]).unwrap();
    }),
    ("a file that was about to have no name", |root, _| std::fs::write(root.join("ingest/.expanded-1"), "").unwrap()),
    ("pins of who is gone", |root, layers| std::fs::write(root.join("ingest/pins-1"), layers.join("\n")).unwrap()),
    ("a container's directory without a container", |root, _| std::fs::create_dir_all(root.join("containers/x/upper/deep")).unwrap()),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_cut_of_power_nothing_half_made_is_trusted() {
    let host = Host::new().await;
    let layers = [Tar::new().file("first", 0o644, b"one").done(), Tar::new().file("second", 0o644, b"two").done()];
    let archive = write(&host.dir.join("image.tar"), &layout(&[("app", &build(&layers, json!({"Cmd": ["/x"]})))]));
    let image = host.rt.import(&archive, quiet()).await.unwrap().remove(0);
    host.sandbox("s").await;
    let pristine = host.dir.join("pristine");
    let copy = |from: &Path, to: &Path| assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    copy(&host.config.root, &pristine);
    let whole = |root: &Path| {
        let read = |layer: usize, file: &str| std::fs::read_to_string(root.join("layers").join(&image.layers[layer]).join(file)).unwrap_or_default();
        (read(0, "first"), read(1, "second")) == ("one".to_owned(), "two".to_owned())
    };
    for (at, (what, cut)) in CUTS.into_iter().enumerate() {
        let root = host.dir.join(format!("root-{at}"));
        copy(&pristine, &root);
        cut(&root, &image.layers);
        let config = Config { root: root.clone(), run: host.config.run.join(format!("run-{at}")), ..host.config.clone() };
        let next = Runtime::open(config).await.unwrap();
        assert!(next.images().is_empty() || whole(&root), "{what}: an image without its layers");
        assert!(next.containers().is_empty() && names(&root.join("containers")).is_empty(), "{what}: {:?}", names(&root.join("containers")));
        next.import(&archive, quiet()).await.unwrap();
        assert!(whole(&root), "{what}: it can be had again");
        assert_eq!(next.images(), std::slice::from_ref(&image), "{what}");
        next.remove_image("app").await.unwrap();
        assert_eq!(names(&root.join("layers")), ["empty"], "{what}: what nobody needs is gone");
        assert!(names(&root.join("images")).iter().all(|name| name.ends_with(".tmp")), "{what}: {:?}", names(&root.join("images")));
        let ingest = names(&root.join("ingest"));
        let stays = |name: &String| name == "lock" || name.starts_with("user-") || name.len() == 64;
        assert!(ingest.iter().all(stays), "{what}: {ingest:?}");
    }
}
