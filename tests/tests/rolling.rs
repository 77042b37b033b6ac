//! The founding note's promise: a rolling update loses no request.

use cluster_tests::{Cluster, PATIENCE, example, knarr, netns::Beside, process::Running};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::{
    process::Command,
    time::{Duration, Instant},
};

/// Requests a second, of all streams together.
const RATE_MIN: f64 = 500.0;
/// What each of the two generators is told to hold; together more than the minimum, so that a slow start does not matter.
const RATE_EACH: u64 = 350;
/// Requests, of all streams together.
const REQUESTS_MIN: u64 = 20_000;

/// A load on one address, on new and on kept-alive connections in equal parts.
fn load(beside: &Beside, url: &str) -> Running {
    let mut command = Command::new(knarr());
    command.args(["demo", "load", "--quiet", "--seconds", "0", "--connections", "new,keepalive", "--url", url]);
    command.arg("--rate").arg(RATE_EACH.to_string()).arg("--netns").arg(beside.path());
    Running::start(&mut command)
}

fn roll(cluster: &Cluster, version: &str) {
    cluster.kubectl(&format!("-n shop set image deployment/web web=knarr.local/shop:{version}"));
    cluster.kubectl("-n shop rollout status deployment/web --timeout=55s");
}

#[test]
fn a_rolling_update_and_its_way_back_lose_no_request() {
    let cluster = Cluster::up("roll", &[example("shop.yaml")]);
    let beside = Beside::new();
    let cluster_ip = cluster.value("-n shop get service web", "{.spec.clusterIP}");
    let node_port = cluster.value("-n shop get service web-public", "{.spec.ports[0].nodePort}");
    let urls = [format!("http://{cluster_ip}/whoami"), format!("http://{}:{node_port}/whoami", cluster.node_ip())];

    let began = Instant::now();
    let mut loads: Vec<Running> = urls.iter().map(|url| load(&beside, url)).collect();
    // The number of requests is a matter of time alone. Those who are replaced go on draining after a roll-out is complete,
    // so each time is longer than a drain.
    let wanted = Duration::from_secs_f64(REQUESTS_MIN as f64 * 1.05 / (2 * RATE_EACH) as f64);
    std::thread::sleep(wanted / 6);
    roll(&cluster, "v2");
    std::thread::sleep((wanted / 2).saturating_sub(began.elapsed()));
    roll(&cluster, "v1");
    std::thread::sleep(wanted.saturating_sub(began.elapsed()));
    let reports: Vec<Value> = loads
        .drain(..)
        .map(|load| {
            load.signal(Signal::SIGTERM);
            let (lines, _) = load.end(PATIENCE);
            serde_json::from_str(lines.last().expect("a report")).expect("the report is JSON")
        })
        .collect();

    let sum = |key: &str| reports.iter().map(|r| r[key].as_f64().expect(key)).sum::<f64>();
    for (report, url) in reports.iter().zip(&urls) {
        eprintln!("{url}: {report}");
    }
    for (report, url) in reports.iter().zip(&urls) {
        assert_eq!(report["failed"], 0, "{url}: {report}");
        assert_eq!(report["retried"], 0, "{url}: a kept connection was closed under a request: {report}");
        for mode in ["new", "keepalive"] {
            assert!(report["connections"][mode]["ok"].as_u64() > Some(0), "{url}: {mode}: {report}");
        }
        for version in ["v1", "v2"] {
            assert!(report["versions"][version].as_u64() > Some(0), "{url}: {version}: {report}");
        }
    }
    assert!(sum("requests") >= REQUESTS_MIN as f64, "{} requests", sum("requests"));
    assert!(sum("rate") >= RATE_MIN, "{} requests a second", sum("rate"));
}
