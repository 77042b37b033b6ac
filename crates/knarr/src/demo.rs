//! `knarr demo`: the application inside the image `knarr.local/shop`, and the load that is put on it.
//!
//! Small on purpose, but a real one: it shows its configuration, asks another service by its DNS name and the API server
//! by its ServiceAccount, answers probes, and ends without losing a request. It runs on one thread and knows nothing of
//! the cluster but what a container is given.

mod backend;
mod cluster;
mod database;
mod fetch;
mod load;
mod me;
mod operator;
mod server;
mod web;

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "\
Usage: knarr demo COMMAND

Commands:
  web              the shop's web pages, on $PORT (8080)
  backend          the shop's stock, on $PORT (8080)
  database         rows in a log that loses nothing (examples/database.yaml), on $PORT (8080)
  operator         makes a Deployment and a Service for each Stall (examples/operator.yaml)
  drain [SECONDS]  as a preStop hook: the server beside asks its clients to go; returns after SECONDS (3)
  sleep SECONDS    waits
  pause            waits for SIGTERM
  load             puts load on URLs; see `knarr demo load --help`
";

/// Seconds that a drain takes if it is not said: until every proxy of the cluster has surely heard that the pod is leaving.
const DRAIN_S: f64 = 3.0;
/// A container's name server is near: what it has not said by then is lost and better asked again.
const NAME_MAX: Duration = Duration::from_secs(2);

/// Runs `knarr demo` with the arguments after it.
pub fn main(args: Vec<String>) -> ExitCode {
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("", &[][..]),
    };
    let result = match command {
        "web" => block_on(server::run(|me| server::Site::Web(web::Web::new(me)))),
        "backend" => block_on(server::run(|me| server::Site::Backend(backend::Backend::new(me)))),
        "database" => block_on(database::run()),
        "operator" => block_on(operator::run()),
        "drain" => seconds(rest.first(), Some(DRAIN_S)).and_then(|time| block_on(drain(time))),
        "sleep" => seconds(rest.first(), None).map(std::thread::sleep),
        "pause" => pause(),
        "load" => load::main(rest),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("knarr demo {command}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn seconds(text: Option<&String>, default: Option<f64>) -> Result<Duration, String> {
    let number = match text {
        Some(text) => text.parse::<f64>().map_err(|_| format!("{text:?} is no number of seconds"))?,
        None => default.ok_or("SECONDS is missing")?,
    };
    Duration::try_from_secs_f64(number).map_err(|e| e.to_string())
}

/// Runs on this thread alone.
fn block_on<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(work)
}

/// The address of a host.
async fn address(host: &str) -> Result<IpAddr, String> {
    // As a URL has an address of IPv6.
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let found = dial::addresses(host, NAME_MAX).await.map_err(|e| e.to_string())?;
    found.first().copied().ok_or_else(|| format!("{host} has no address"))
}

/// Waits for SIGTERM, which the first process of a container only gets if it asks for it.
fn pause() -> Result<(), String> {
    use nix::sys::signal::{SigSet, Signal};
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    let waited = signals.thread_block().and_then(|()| signals.wait());
    waited.map(drop).map_err(|e| e.to_string())
}

/// Tells the server beside that the end is near, and gives its clients time to go.
async fn drain(time: Duration) -> Result<(), String> {
    let url = format!("http://127.0.0.1:{}{}", me::port(), server::DRAIN);
    fetch::request(http::Method::POST, &url, Duration::from_secs(1)).await?;
    tokio::time::sleep(time).await;
    Ok(())
}
