//! A machine in a network namespace of its own, pods in theirs, and somebody outside.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use network::link::{self, End, Settings, Way};
use network::netlink::{self, Messages, Socket};
use network::nft::Family;
use network::pod::{self, AttachRequest, HostPort, PodNetwork};
use network::{Mark, Net, Part, Result, netns};
use nix::sched::{CloneFlags, unshare};

pub const NODE_IP: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
/// For what comes at once, on a machine that is busy with others.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// A first packet that came before the rules is lost for good; a new connection is the quicker way to find out.
const ATTEMPT: Duration = Duration::from_millis(500);

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace with a thread in it.
pub struct Space {
    pub path: PathBuf,
    jobs: mpsc::Sender<Job>,
}

impl Space {
    pub fn new() -> Self {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(nix::unistd::gettid()).unwrap();
            for job in inbox {
                job();
            }
        });
        let path = format!("/proc/self/task/{}/ns/net", told.recv().unwrap());
        Self { path: path.into(), jobs }
    }

    /// Does something inside.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        self.jobs.send(Box::new(move || drop(tell.send(work())))).unwrap();
        told.recv().unwrap()
    }

    /// Does something inside without waiting for it.
    pub fn go<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
        let (tell, told) = mpsc::channel();
        self.jobs.send(Box::new(move || drop(tell.send(std::thread::spawn(work))))).unwrap();
        told.recv().unwrap()
    }

    /// Answers each TCP connection at a port with a name and the caller's address, and each datagram with a name.
    pub fn serve(&self, port: u16, name: &str) {
        let name = name.to_owned();
        let (tcp, udp) = self.run(move || {
            let any = Ipv4Addr::UNSPECIFIED;
            (TcpListener::bind((any, port)).unwrap(), UdpSocket::bind((any, port)).unwrap())
        });
        let udp_name = name.clone();
        std::thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                let name = name.clone();
                std::thread::spawn(move || answer(stream, &name));
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(udp_name.as_bytes(), from);
            }
        });
    }

    /// Who answers a connection from inside.
    pub fn call(&self, to: (Ipv4Addr, u16)) -> std::io::Result<String> {
        self.run(move || call(to))
    }
}

fn answer(mut stream: TcpStream, name: &str) {
    let Ok(SocketAddr::V4(from)) = stream.peer_addr() else { return };
    // A line asks for an answer; the connection stays for the next.
    let mut byte = [0];
    while matches!(stream.read(&mut byte), Ok(1)) {
        if stream.write_all(format!("{name} {}\n", from.ip()).as_bytes()).is_err() {
            return;
        }
    }
}

/// Asks once over an open connection.
pub fn ask(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.write_all(b"?")?;
    let mut out = Vec::new();
    let mut byte = [0];
    while out.last() != Some(&b'\n') {
        if stream.read(&mut byte)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        out.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&out).trim().to_owned())
}

pub fn dial(to: (Ipv4Addr, u16)) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to.into(), DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// Who answers: `NAME CALLER`.
pub fn call(to: (Ipv4Addr, u16)) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to.into(), ATTEMPT)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    ask(&mut stream)
}

/// Runs a test in a fresh machine: loopback, and a link to somebody outside. Needs root.
pub fn machine(test: impl FnOnce(Space) + Send) {
    netns::fresh(|| {
        let outside = Space::new();
        let mut socket = Socket::open(netlink::ROUTE)?;
        let mut m = Messages::new();
        link::up(&mut m, 1);
        socket.call("loopback", &m)?;
        let there = std::fs::File::open(&outside.path).unwrap();
        join(&mut socket, "up0", &there, (HOST, OUTSIDE), [2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])?;
        outside.run(|| -> Result<()> {
            let mut socket = Socket::open(netlink::ROUTE)?;
            configure(&mut socket, "eth0", OUTSIDE, HOST)
        })?;
        test(outside);
        Ok(())
    })
    .unwrap();
}

pub fn join(socket: &mut Socket, name: &str, there: &std::fs::File, (own, other): (Ipv4Addr, Ipv4Addr), near: [u8; 6], far: [u8; 6]) -> Result<()> {
    let mut m = Messages::new();
    link::add_veth(&mut m, End { name, mac: near }, End { name: "eth0", mac: far }, there.as_raw_fd(), 1500);
    socket.call("link", &m)?;
    let index = address(socket, name, own, other)?;
    // The first of them leads everywhere.
    if name != "up0" {
        return Ok(());
    }
    default_route(socket, index, other)
}

pub fn configure(socket: &mut Socket, name: &str, own: Ipv4Addr, other: Ipv4Addr) -> Result<()> {
    let index = address(socket, name, own, other)?;
    default_route(socket, index, other)
}

fn default_route(socket: &mut Socket, index: u32, router: Ipv4Addr) -> Result<()> {
    let mut m = Messages::new();
    link::add_route(&mut m, Net::everything(Family::V4), Way::Gateway { index, router: router.into(), source: None });
    socket.call("route", &m).map(drop)
}

fn address(socket: &mut Socket, name: &str, address: Ipv4Addr, other: Ipv4Addr) -> Result<u32> {
    let mut m = Messages::new();
    link::set(&mut m, name, &Settings { up: true, ..Settings::default() });
    link::get(&mut m, name);
    let index = link::index_of(&socket.call("up", &m)?, name)?;
    let mut m = Messages::new();
    link::add_address(&mut m, index, address);
    link::add_route(&mut m, Net::one(other), Way::Link { index, source: Some(address.into()) });
    socket.call("address", &m)?;
    Ok(index)
}

/// What a node has that has the cluster's whole range.
pub fn part(pods: &str, services: &str) -> Part {
    Part { pod_cidr: pods.parse().unwrap(), cluster_cidr: pods.parse().unwrap(), service_cidr: services.parse().unwrap() }
}

/// A node's network with its pods.
pub struct Node {
    pub network: PodNetwork,
    pub config: pod::Config,
    pub runtime: tokio::runtime::Runtime,
}

static DIRECTORIES: AtomicUsize = AtomicUsize::new(0);

impl Node {
    pub fn new() -> Self {
        Self::named("test", "10.244.0.0/16", "10.96.0.0/16")
    }

    /// One with a range of its own, and what else is to be otherwise.
    pub fn with(change: impl FnOnce(pod::Config) -> pod::Config, range: Net) -> Self {
        Self::of(change(Self::config("test", &range.to_string(), "10.96.0.0/16")))
    }

    /// A cluster's node beside others.
    pub fn named(mark: &str, pods: &str, services: &str) -> Self {
        Self::of(Self::config(mark, pods, services))
    }

    fn config(mark: &str, pods: &str, services: &str) -> pod::Config {
        let number = DIRECTORIES.fetch_add(1, Ordering::Relaxed);
        let run_dir = std::env::temp_dir().join(format!("knarr-node-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&run_dir);
        let parts = vec![part(pods, services)];
        pod::Config { mark: Mark::new(mark), run_dir, bridge: None, parts, mtu: None, own_ports: Vec::new(), behind: false, tunnel: None, lan: None }
    }

    fn of(config: pod::Config) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { network: PodNetwork::open(config.clone()).unwrap(), config, runtime }
    }

    /// The addresses of a sandbox that joins.
    pub fn join(&self, sandbox: &str, netns: &Path, host_ports: Vec<HostPort>) -> Vec<IpAddr> {
        let request = AttachRequest { sandbox_id: sandbox.into(), host_ports };
        self.runtime.block_on(self.network.attach(netns, request)).unwrap().ips
    }

    /// Its address of IPv4.
    pub fn attach(&self, sandbox: &str, netns: &Path, host_ports: Vec<HostPort>) -> Ipv4Addr {
        self.join(sandbox, netns, host_ports).into_iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None }).unwrap()
    }

    pub fn detach(&self, sandbox: &str) {
        self.runtime.block_on(self.network.detach(sandbox)).unwrap();
    }

    /// A pod that answers with its name at port 8080.
    pub fn pod(&self, name: &str) -> (Space, Ipv4Addr) {
        let space = Space::new();
        let address = self.attach(name, &space.path, Vec::new());
        space.serve(8080, name);
        (space, address)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.config.run_dir);
    }
}
