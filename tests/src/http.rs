//! HTTP/1.1 as plain as it gets: a connection that the test holds in its own hands.

use crate::PATIENCE;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    thread,
    time::{Duration, Instant},
};

/// For an answer, the slow ones included.
const LIMIT: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its code.
    pub code: u16,
    /// Its head, in lower case.
    pub head: String,
    /// Its body.
    pub body: String,
}

/// A connection that is kept.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// To `ADDRESS:PORT`.
    ///
    /// # Errors
    /// Nobody is there.
    pub fn open(address: &str) -> std::io::Result<Self> {
        let address: SocketAddr = address.parse().map_err(std::io::Error::other)?;
        let stream = TcpStream::connect_timeout(&address, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends a GET; the answer is read by [`Self::answer`].
    ///
    /// # Errors
    /// The connection is gone.
    pub fn ask(&mut self, path: &str) -> std::io::Result<()> {
        self.stream.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nhost: pod\r\n\r\n").as_bytes())
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// It does not come, or not whole.
    pub fn answer(&mut self) -> std::io::Result<Answer> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head)? == 0 {
                return Err(std::io::Error::other(format!("the connection ended after {head:?}")));
            }
        }
        let head = head.to_ascii_lowercase();
        let code = head.split(' ').nth(1).and_then(|c| c.parse().ok()).ok_or_else(|| std::io::Error::other(head.clone()))?;
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.trim().parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(Answer { code, head, body: String::from_utf8_lossy(&body).into_owned() })
    }

    /// A POST and its answer.
    ///
    /// # Errors
    /// As both.
    pub fn post(&mut self, path: &str, body: &str) -> std::io::Result<Answer> {
        let request = format!("POST {path} HTTP/1.1\r\nhost: pod\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        self.stream.get_mut().write_all(request.as_bytes())?;
        self.answer()
    }

    /// A GET and its answer.
    ///
    /// # Errors
    /// As both.
    pub fn get(&mut self, path: &str) -> std::io::Result<Answer> {
        self.ask(path)?;
        self.answer()
    }
}

/// An address and a port, as in a URL.
#[must_use]
pub fn at(ip: &str, port: u16) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

/// A GET on a connection of its own.
///
/// # Errors
/// As [`Connection`]'s.
pub fn get(address: &str, path: &str) -> std::io::Result<Answer> {
    Connection::open(address)?.get(path)
}

/// A GET of what may be a moment late: a Service leads to a pod only after the pod is ready, and a pod that nobody probes is ready before it
/// listens.
#[track_caller]
pub fn answered(address: &str, path: &str) -> Answer {
    let began = Instant::now();
    loop {
        match get(address, path) {
            Ok(answer) => return answer,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{address}{path}: {error}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A server that takes one request at a time, and answers when the test says so.
pub struct Listener {
    listener: TcpListener,
}

/// A request that waits for its answer.
pub struct Asked {
    stream: TcpStream,
    /// Its first line.
    pub line: String,
}

impl Listener {
    /// On a free port of loopback.
    #[must_use]
    pub fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").expect("a free port") }
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.listener.local_addr().expect("it listens").port()
    }

    /// Waits for a request.
    #[must_use]
    #[track_caller]
    pub fn asked(&self) -> Asked {
        let mut ready = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(LIMIT).expect("it fits");
        assert!(poll(&mut ready, limit).expect("poll") > 0, "nobody asked within {LIMIT:?}");
        let (stream, _) = self.listener.accept().expect("a connection");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit can be set");
        let mut reader = BufReader::new(stream);
        let (mut line, mut rest) = (String::new(), String::new());
        reader.read_line(&mut line).expect("a request");
        while rest != "\r\n" {
            rest.clear();
            reader.read_line(&mut rest).expect("a request's head");
        }
        Asked { stream: reader.into_inner(), line: line.trim_end().to_owned() }
    }
}

impl Default for Listener {
    fn default() -> Self {
        Self::new()
    }
}

impl Asked {
    /// Answers 200.
    pub fn answer(mut self) {
        let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
        self.stream.write_all(answer).expect("whoever asked is there");
    }
}
