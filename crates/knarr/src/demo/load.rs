//! `knarr demo load`: requests at a steady rate, on new and on kept-alive connections, and an honest count.
//!
//! The rate is kept whatever the answers do (an open loop), and a latency counts from the moment at which the request was
//! due, so that a stall shows in every request that it held up. A request that a server took on a kept connection and
//! closed without an answer is sent once more, as RFC 9110 (9.2.2) lets clients do with a GET, but is counted: a clean
//! roll-out has none of these either.

mod arguments;
mod report;

use std::cell::RefCell;
use std::fs::File;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::address;
use arguments::Arguments;
use report::{Answered, Report, Whom};

/// Requests that may be under way at once; beyond it the servers are not keeping up, and a request counts as failed.
const IN_FLIGHT_MAX: usize = 4096;
/// Bytes of an answer at most.
const BODY_MAX: usize = 1 << 20;

/// How a request gets to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// On a connection of its own.
    New,
    /// On one that was used before, if there is one.
    KeepAlive,
}

impl Mode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::KeepAlive => "keepalive",
        }
    }
}

struct Target {
    url: String,
    address: SocketAddr,
    host: HeaderValue,
    path: String,
    idle: RefCell<Vec<Kept>>,
}

/// A connection that was used before, and the pod that answered.
struct Kept {
    sender: Sender,
    pod: String,
}

impl Target {
    /// A connection that was used before.
    fn idle(&self) -> Option<Kept> {
        self.idle.borrow_mut().pop()
    }
}

type Sender = SendRequest<Empty<Bytes>>;

/// Runs the command; an error if a request failed and `--strict` was said.
pub fn main(words: &[String]) -> Result<(), String> {
    if words.iter().any(|w| w == "--help" || w == "-h") {
        print!("{}", arguments::USAGE);
        return Ok(());
    }
    let arguments = Arguments::parse(words)?;
    if let Some(path) = &arguments.netns {
        let file = File::open(path).map_err(|e| format!("{path}: {e}"))?;
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).map_err(|e| format!("{path}: {e}"))?;
    }
    let strict = arguments.strict;
    let report = super::block_on(async { tokio::task::LocalSet::new().run_until(Box::pin(run(arguments))).await })?;
    println!("{}", report.json());
    let failed = report.failed();
    if strict && failed > 0 { Err(format!("{failed} requests failed")) } else { Ok(()) }
}

async fn target(url: &str) -> Result<Rc<Target>, String> {
    let uri: http::Uri = url.parse().map_err(|e| format!("{url}: {e}"))?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(|| format!("{url} is not http://HOST…"))?;
    let address = SocketAddr::new(address(authority.host()).await?, authority.port_u16().unwrap_or(80));
    Ok(Rc::new(Target {
        url: url.to_owned(),
        address,
        host: HeaderValue::from_str(authority.as_str()).map_err(|e| e.to_string())?,
        path: uri.path_and_query().map_or_else(|| "/".into(), ToString::to_string),
        idle: RefCell::default(),
    }))
}

async fn run(arguments: Arguments) -> Result<Report, String> {
    let mut targets = Vec::new();
    for url in &arguments.urls {
        targets.push(target(url).await?);
    }
    let began = Instant::now();
    let report = Rc::new(RefCell::new(Report::new(began)));
    let (mut terminate, mut interrupt) = signals()?;
    tokio::select! {
        () = fire(&arguments, &targets, &report, began) => {}
        () = progress(&arguments, &report) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    report.borrow_mut().fired = began.elapsed();
    // Those under way still count; each has its own time limit.
    while Rc::strong_count(&report) > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Rc::try_unwrap(report).map(RefCell::into_inner).map_err(|_| "a request never ended".into())
}

fn signals() -> Result<(tokio::signal::unix::Signal, tokio::signal::unix::Signal), String> {
    let of = |kind| signal(kind).map_err(|e| e.to_string());
    Ok((of(SignalKind::terminate())?, of(SignalKind::interrupt())?))
}

/// Starts every request when it is due, until the time is over.
async fn fire(arguments: &Arguments, targets: &[Rc<Target>], report: &Rc<RefCell<Report>>, began: Instant) {
    let mut number: usize = 0;
    loop {
        let due = began + Duration::from_secs_f64(number as f64 / arguments.rate);
        if arguments.seconds > 0.0 && (due - began).as_secs_f64() >= arguments.seconds {
            return;
        }
        tokio::time::sleep_until(due).await;
        let mode = arguments.modes[number % arguments.modes.len()];
        let target = targets[number / arguments.modes.len() % targets.len()].clone();
        number += 1;
        if Rc::strong_count(report) > IN_FLIGHT_MAX {
            report.borrow_mut().fail(mode, Whom::Url(&target.url), due, "too many requests are under way");
            continue;
        }
        let (report, patience) = (report.clone(), arguments.patience);
        tokio::task::spawn_local(async move {
            // Whose connection it is on, as far as that is known.
            let pod = RefCell::default();
            let work = Box::pin(one(&target, mode, &report, &pod));
            let result = tokio::time::timeout_at(due + patience, work).await.unwrap_or_else(|_| Err("timeout".into()));
            let mut report = report.borrow_mut();
            match result {
                Ok(answered) => report.succeed(mode, due, answered),
                Err(reason) => {
                    let pod = pod.borrow();
                    let whom = if pod.is_empty() { Whom::Url(&target.url) } else { Whom::Pod(&pod) };
                    report.fail(mode, whom, due, &reason);
                }
            }
        });
    }
}

/// A line every second, for people; ends never.
async fn progress(arguments: &Arguments, report: &RefCell<Report>) {
    if arguments.quiet {
        std::future::pending::<()>().await;
    }
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        eprintln!("{}", report.borrow().line());
    }
}

/// One request to its end.
async fn one(target: &Target, mode: Mode, report: &RefCell<Report>, whose: &RefCell<String>) -> Result<Answered, String> {
    if mode == Mode::KeepAlive {
        while let Some(Kept { mut sender, pod }) = target.idle() {
            *whose.borrow_mut() = pod;
            // One that was closed meanwhile was closed before this request: nothing is lost.
            if sender.ready().await.is_err() {
                continue;
            }
            match send(target, &mut sender, mode).await {
                Ok(response) => return Ok(keep(target, sender, response)),
                // Not a byte of it was sent.
                Err(error) if error.is_canceled() => {}
                Err(error) if error.is_incomplete_message() || error.is_closed() || is_reset(&error) => {
                    report.borrow_mut().retried += 1;
                    break;
                }
                Err(error) => return Err(text(&error)),
            }
        }
    }
    whose.borrow_mut().clear();
    let stream = TcpStream::connect(target.address).await.map_err(|e| format!("connect: {}", e.kind()))?;
    // Small requests, sent at once; if that cannot be set they are only later.
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| text(&e))?;
    tokio::task::spawn_local(async move {
        // The request's own end tells what happened.
        let _ = connection.await;
    });
    let response = send(target, &mut sender, mode).await.map_err(|e| text(&e))?;
    Ok(if mode == Mode::KeepAlive { keep(target, sender, response) } else { response.0 })
}

fn keep(target: &Target, sender: Sender, (answered, closes): (Answered, bool)) -> Answered {
    if !closes {
        target.idle.borrow_mut().push(Kept { sender, pod: answered.pod.clone() });
    }
    answered
}

/// Sends and reads all of the answer; whether the server closes the connection then.
async fn send(target: &Target, sender: &mut Sender, mode: Mode) -> Result<(Answered, bool), hyper::Error> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = target.path.parse().unwrap_or_default();
    request.headers_mut().insert(header::HOST, target.host.clone());
    if mode == Mode::New {
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let response = sender.send_request(request).await?;
    let head = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let mut answered = Answered { code: response.status().as_u16(), version: head("x-shop-version"), pod: head("x-shop-pod"), whole: true };
    let closes = head("connection").eq_ignore_ascii_case("close");
    if let Err(error) = Limited::new(response.into_body(), BODY_MAX).collect().await {
        match error.downcast::<hyper::Error>() {
            Ok(error) => return Err(*error),
            Err(_) => answered.whole = false,
        }
    }
    Ok((answered, closes))
}

fn is_reset(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|e| e.downcast_ref::<std::io::Error>());
    cause.is_some_and(|e| matches!(e.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe))
}

/// An error with its cause, without what differs from request to request.
fn text(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
