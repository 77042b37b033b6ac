//! From a pod to a pod of another node: how many bytes a second, and how long a byte takes there and back, beside the barest path that the
//! kernel has between two network namespaces of one machine: two pairs of links at a bridge.

use super::within;
use anyhow::{Context as _, ensure};
use cluster_tests::{Cluster, IMAGE, netns::ip};
use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::mpsc,
    time::{Duration, Instant},
};

const PORT: u16 = 5201;
const CHUNK: usize = 128 << 10;
const LIMIT: Duration = Duration::from_secs(20);
/// Of all paths in turn, of which the best counts: what else the machine does only takes away.
const ROUNDS: usize = 10;

/// What a path carries.
struct Carried {
    gigabits: f64,
    /// There and back, in microseconds.
    p50: f64,
    p99: f64,
}

/// Measures pods of nodes of this machine.
pub fn run(port: &str, seconds: f64) -> anyhow::Result<()> {
    let mut cluster = Cluster::new("bench-path").with(&["--port", port, "--nodes", "3"]);
    cluster.start(&[]).assert_ok();
    one_on_each(&cluster);
    let pods: Vec<PathBuf> = (1..=3).map(|node| a_pod(&cluster.name, node)).collect::<Result<_, _>>()?;
    let bare = Bare::new();
    compare(
        &[
            ("two namespaces at a bridge", bare.spaces()),
            ("pods of nodes 2 and 3", [pods[1].clone(), pods[2].clone()]),
            ("pods of nodes 1 and 2", [pods[0].clone(), pods[1].clone()]),
        ],
        seconds,
    )?;
    cluster.down();
    Ok(())
}

/// A pod on each node.
pub(super) fn one_on_each(cluster: &Cluster) {
    cluster.apply(&format!(
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: one}}\nspec:\n  selector: {{matchLabels: {{app: one}}}}\n  template:\n    metadata: {{labels: {{app: one}}}}\n    \
        spec: {{automountServiceAccountToken: false, containers: [{{name: c, image: '{IMAGE}', args: [web]}}]}}\n"
    ));
    cluster.kubectl("rollout status daemonset/one --timeout=55s");
}

/// The network namespace of a pod on a node.
pub(super) fn a_pod(cluster: &str, node: u32) -> anyhow::Result<PathBuf> {
    within::of_pods(cluster, node).into_iter().next().with_context(|| format!("no pod runs on node {node} of {cluster}"))
}

/// Measures paths in turn and prints them, each beside the first one.
pub(super) fn compare(paths: &[(&str, [PathBuf; 2])], seconds: f64) -> anyhow::Result<()> {
    let mut all: Vec<Vec<Carried>> = paths.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for ((_, [from, to]), carried) in paths.iter().zip(&mut all) {
            carried.push(measure(from, to, Duration::from_secs_f64(seconds))?);
        }
    }
    let best = |carried: &[Carried]| {
        let of = |what: fn(&Carried) -> f64, best: fn(f64, f64) -> f64| carried.iter().map(what).fold(f64::NAN, best);
        Carried { gigabits: of(|c| c.gigabits, f64::max), p50: of(|c| c.p50, f64::min), p99: of(|c| c.p99, f64::min) }
    };
    let all: Vec<Carried> = all.iter().map(|carried| best(carried)).collect();
    println!("{:<40} {:>9} {:>6} {:>9} {:>6} {:>9}", "best of ten rounds in turn", "Gbit/s", "%", "p50, µs", "%", "p99, µs");
    for ((name, _), Carried { gigabits, p50, p99 }) in paths.iter().zip(&all) {
        let (more, sooner) = (gigabits / all[0].gigabits * 100.0, all[0].p50 / p50 * 100.0);
        println!("{name:<40} {gigabits:>9.2} {more:>6.1} {p50:>9.1} {sooner:>6.1} {p99:>9.1}");
    }
    println!();
    Ok(())
}

fn measure(from: &Path, to: &Path, time: Duration) -> anyhow::Result<Carried> {
    let (tell, told) = mpsc::channel();
    let server = within::start(to, move || {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
        tell.send(own_address()?)?;
        let (mut stream, _) = listener.accept()?;
        let mut chunk = vec![0; CHUNK];
        while stream.read(&mut chunk)? > 0 {}
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut byte = [0];
        while stream.read(&mut byte)? > 0 {
            stream.write_all(&byte)?;
        }
        Ok(())
    })?;
    let address = SocketAddr::from((told.recv_timeout(LIMIT).context("the server did not begin")?, PORT));
    let client = within::start(from, move || {
        let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
        let (chunk, begun, mut sent) = (vec![7; CHUNK], Instant::now(), 0_u64);
        while begun.elapsed() < time {
            stream.write_all(&chunk)?;
            sent += CHUNK as u64;
        }
        let took = begun.elapsed();
        drop(stream);
        let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
        stream.set_nodelay(true)?;
        let (begun, mut times, mut byte) = (Instant::now(), Vec::new(), [1]);
        while begun.elapsed() < time {
            let sent = Instant::now();
            stream.write_all(&byte)?;
            stream.read_exact(&mut byte)?;
            times.push(sent.elapsed().as_secs_f64() * 1e6);
        }
        times.sort_by(f64::total_cmp);
        ensure!(!times.is_empty(), "no byte came back");
        let at = |hundredths: usize| times[(times.len() - 1) * hundredths / 100];
        #[expect(clippy::cast_precision_loss, reason = "bytes of a few seconds")]
        let gigabits = sent as f64 * 8.0 / took.as_secs_f64() / 1e9;
        Ok(Carried { gigabits, p50: at(50), p99: at(99) })
    })?;
    let carried = within::end(client)?;
    within::end(server)?;
    Ok(carried)
}

/// The address by which this namespace speaks to the rest of the world. Nothing is sent.
fn own_address() -> anyhow::Result<Ipv4Addr> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((FAR, 9))?;
    match socket.local_addr()? {
        SocketAddr::V4(own) => Ok(*own.ip()),
        SocketAddr::V6(own) => anyhow::bail!("{own} is no IPv4 address"),
    }
}

/// Of the range that is set aside for such measurements (RFC 2544), as is all of the bare path.
const FAR: Ipv4Addr = Ipv4Addr::new(198, 19, 255, 254);

/// The bare path; it goes with this value.
struct Bare {
    names: [String; 2],
    bridge: String,
}

impl Bare {
    fn new() -> Bare {
        let pid = std::process::id();
        let bare = Bare { names: ["a", "b"].map(|end| format!("knarr-bench-{pid}-{end}")), bridge: format!("kb{pid}") };
        let bridge = &bare.bridge;
        ip(&format!("link add {bridge} type bridge")).assert_ok();
        ip(&format!("link set {bridge} up")).assert_ok();
        for (number, name) in bare.names.iter().enumerate() {
            let link = format!("{bridge}{number}");
            for line in [
                format!("netns add {name}"),
                format!("link add {link} type veth peer name eth0 netns {name}"),
                format!("link set {link} master {bridge}"),
                format!("link set {link} up"),
                format!("-n {name} addr add 198.19.0.{}/16 dev eth0", number + 1),
                format!("-n {name} link set eth0 up"),
                format!("-n {name} link set lo up"),
            ] {
                ip(&line).assert_ok();
            }
        }
        bare
    }

    fn spaces(&self) -> [PathBuf; 2] {
        self.names.each_ref().map(|name| Path::new("/run/netns").join(name))
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // Their links go with them.
        self.names.iter().for_each(|name| drop(ip(&format!("netns del {name}"))));
        ip(&format!("link del {}", self.bridge));
    }
}
