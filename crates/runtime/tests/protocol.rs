//! The shim's protocol under nonsense: packets that were valid once, cut, mixed and changed at random (always the same random,
//! so that a failure can be repeated), with descriptors beside them. Whoever sends it is root, but may be another version or
//! broken: the shim goes on, and what it holds with it. A longer run: `KNARR_FUZZ_SECONDS=600 cargo test -p runtime --test protocol`.

mod common;

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use common::*;
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, setsockopt, socket, sockopt::SendTimeout};
use nix::sys::time::TimeVal;
use runtime::*;

/// What a client may say, but for the one thing that ends a shim.
const CORPUS: [&str; 12] = [
    r#"{"version":1,"body":"Subscribe"}"#,
    r#"{"version":1,"body":{"Start":{"container":"c"}}}"#,
    r#"{"version":1,"body":{"Start":{"container":"../../../etc/passwd"}}}"#,
    r#"{"version":1,"body":{"Kill":{"container":"none","signal":2147483647,"all":true}}}"#,
    r#"{"version":1,"body":{"Kill":{"container":"c","signal":0,"all":false}}}"#,
    r#"{"version":1,"body":{"Exec":{"container":"c","cmd":[],"tty":true,"stdin":true,"stdout":true,"stderr":true}}}"#,
    r#"{"version":1,"body":{"Exec":{"container":"c","cmd":["/bin/main","guest","say","x"],"tty":false,"stdin":false,"stdout":true,"stderr":true}}}"#,
    r#"{"version":1,"body":{"Attach":{"container":"c","stdin":true,"stdout":true,"stderr":true}}}"#,
    r#"{"version":1,"body":{"PortForward":{"port":1}}}"#,
    r#"{"version":1,"body":{"ReopenLog":{"container":"c"}}}"#,
    r#"{"version":1,"body":{"Forget":{"container":"c"}}}"#,
    r#"{"version":4294967295,"body":{"Unknown":[[[[[[[[[[{"a":null}]]]]]]]]]]}}"#,
];

/// Marsaglia's xorshift: the same numbers every time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }

    fn packet(&mut self) -> Vec<u8> {
        let mut bytes = CORPUS[self.below(CORPUS.len())].as_bytes().to_vec();
        for _ in 0..self.below(4) {
            let at = self.below(bytes.len());
            match self.below(5) {
                0 => bytes.truncate(at),
                1 => bytes.extend_from_slice(CORPUS[self.below(CORPUS.len())].as_bytes()),
                2 => bytes.splice(at..at, std::iter::repeat_n(b'[', self.below(4000))).for_each(drop),
                3 if !bytes.is_empty() => bytes[at] = self.below(256) as u8,
                _ => bytes.splice(at..at, b"\\ud800,18446744073709551616".iter().copied()).for_each(drop),
            }
        }
        bytes
    }
}

fn client(path: &Path) -> OwnedFd {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    // A shim that does not read any more is a failure, not a wait.
    setsockopt(&fd, SendTimeout, &TimeVal::new(PATIENCE.as_secs() as i64, 0)).unwrap();
    connect(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    fd
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_survives_whatever_it_is_told() {
    const PACKETS: usize = 3000;
    let host = Host::with_image().await;
    let shim = host.sandbox("s").await.shim_pid;
    host.start("s", host.container("c", &["sleep"])).await;
    let socket = host.config.run.join("sandboxes/s/shim.sock");
    let until = std::env::var("KNARR_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).map(|s| Instant::now() + Duration::from_secs(s));
    let work = tokio::task::spawn_blocking(move || {
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        let null = std::fs::File::open("/dev/null").unwrap();
        let mut fd = client(&socket);
        let mut sent = 0;
        while until.map_or(sent < PACKETS, |until| Instant::now() < until) {
            let (bytes, beside) = (random.packet(), vec![null.as_raw_fd(); random.below(5)]);
            let rights = [ControlMessage::ScmRights(&beside)];
            let control: &[ControlMessage<'_>] = if beside.is_empty() { &[] } else { &rights };
            // It may hang up on nonsense; then the next client goes on. Nobody reads its answers.
            if bytes.is_empty()
                || random.below(20) == 0
                || sendmsg::<UnixAddr>(fd.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None).is_err()
            {
                fd = client(&socket);
            }
            sent += 1;
        }
    });
    work.await.unwrap();
    assert_eq!(host.exec_text("c", &["say", "still here"]).await, "still here\n");
    let now = host.rt.sandboxes().into_iter().find(|s| s.config.id == "s").unwrap();
    assert_eq!((now.ready, now.shim_pid, host.rt.container("c").unwrap().state), (true, shim, ContainerState::Running));
    // Nothing of its clients is left with it but what serves the one that stays, and who listens to the container: `/dev/null` never
    // says that nobody reads it, so those stay, as many as may be.
    const LISTENERS_MAX: usize = 128;
    let open = std::fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
    assert!(open < LISTENERS_MAX + 64, "{open} descriptors");
}

/// What a process has used of the CPU, in hundredths of a second.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_without_descriptors_waits_and_answers_when_it_has_some() {
    let host = Host::with_image().await;
    let shim = host.sandbox("s").await.shim_pid;
    host.start("s", host.container("c", &["sleep"])).await;
    let socket = host.config.run.join("sandboxes/s/shim.sock");
    let limit = |soft: u64| {
        let done = std::process::Command::new("prlimit").args(["--pid", &shim.to_string(), &format!("--nofile={soft}:")]).status();
        assert!(done.unwrap().success());
    };
    // What the start's clients had is given back.
    tokio::time::sleep(Duration::from_millis(300)).await;
    // The next that it would get is one too many.
    let used: Vec<u64> = std::fs::read_dir(format!("/proc/{shim}/fd")).unwrap().map(|f| f.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    limit((0..).find(|fd| !used.contains(fd)).unwrap());
    let before = ticks(shim);
    let waiting: Vec<OwnedFd> = (0..6).map(|_| client(&socket)).collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(ticks(shim) - before < 6, "it does not turn round and round: {} ticks", ticks(shim) - before);
    limit(1024);
    assert_eq!(host.exec_text("c", &["say", "again"]).await, "again\n");
    drop(waiting);
}
