//! The metrics of both parts against the original's, and the document that users read against both.
//!
//! `original/*.txt` hold a line for each metric of the original's sources (v1.37.2): its name, its type, and its labels in order.

use super::pages;
use crate::part;
use bytes::Bytes;
use client::{Body, Client, Informers, RequestMetrics, Transport};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use instruments::{Kind, Registry};
use std::{collections::BTreeSet, sync::Arc};
use tokio_util::sync::CancellationToken;

const DOCUMENT: &str = include_str!("../../../../docs/metrics.md");
const SCHEDULER: &str = include_str!("original/kube-scheduler.txt");
const CONTROLLERS: &str = include_str!("original/kube-controller-manager.txt");

/// How many of the original's are not here. It only ever gets less.
const ABSENT: [usize; 3] = [19, 33, 17];

/// Labels of what was built that a program in another language has not.
const NOT_OURS: [&str; 5] = ["build_date", "compiler", "git_commit", "git_tree_state", "go_version"];

type Metric = (String, Kind, Vec<String>);

fn original(list: &str) -> BTreeSet<Metric> {
    let line = |line: &str| {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let (name, kind, labels) = (word(), word(), word());
        let kind = match kind.as_str() {
            "counter" => Kind::Counter,
            "gauge" => Kind::Gauge,
            "histogram" => Kind::Histogram,
            other => panic!("{name} is a {other}"),
        };
        let ours = |label: &&str| name != "kubernetes_build_info" || !NOT_OURS.contains(label);
        let labels = labels.split(',').filter(|label| !label.is_empty()).filter(ours);
        (name.clone(), kind, labels.map(str::to_owned).collect())
    };
    list.lines().map(line).collect()
}

/// The names in the table under this heading.
fn absent(heading: &str) -> BTreeSet<&'static str> {
    let (_, section) = DOCUMENT.split_once(&format!("\n## Not here: {heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    let section = section.split("\n## ").next().unwrap_or_default();
    section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name).collect()
}

fn compare(part: &str, list: &str, registry: &Registry) {
    let shared = Registry::default();
    let _ = (RequestMetrics::new(&shared, ""), part::leads(&shared, ""));
    let declared = registry.declared().into_iter().chain(shared.declared()).chain(pages::declared());
    let mut here: BTreeSet<Metric> = declared.map(|(name, kind, labels)| (name.to_owned(), kind, labels.into_iter().map(str::to_owned).collect())).collect();
    if part == "kube-scheduler" {
        here.extend(
            scheduler::metrics::pods::DECLARED.map(|(family, labels)| (family.name.to_owned(), family.kind, labels.iter().map(|l| (*l).to_owned()).collect())),
        );
    }
    let absent: BTreeSet<&str> = absent("both").union(&absent(part)).copied().collect();
    let original = original(list);
    for metric in &original {
        let (is_here, is_absent) = (here.contains(metric), absent.contains(metric.0.as_str()));
        let other = here.iter().find(|(name, ..)| *name == metric.0);
        assert!(is_here || other.is_none(), "{part}: {metric:?} is here as {other:?}");
        assert!(is_here != is_absent, "{part}: {} is {} and docs/metrics.md says otherwise", metric.0, if is_here { "here" } else { "not here" });
    }
    let names: BTreeSet<&str> = original.iter().map(|(name, ..)| name.as_str()).collect();
    let unknown: Vec<_> = here.iter().map(|(name, ..)| name.as_str()).chain(absent).filter(|name| !names.contains(name)).collect();
    assert!(unknown.is_empty(), "{part}: not the original's: {unknown:?}");
}

#[test]
fn what_is_not_here_gets_less() {
    assert_eq!(["both", "kube-scheduler", "kube-controller-manager"].map(|section| absent(section).len()), ABSENT);
}

#[test]
fn the_scheduler_s_are_the_originals() {
    compare("kube-scheduler", SCHEDULER, scheduler::Config::default().metrics.registry());
}

/// A server that never answers.
struct Silent;

impl Transport for Silent {
    fn send(&self, _: Request<Bytes>) -> BoxFuture<'static, client::Result<Response<Body>>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn the_controllers_are_the_originals() {
    let client = Client::new(Arc::new(Silent));
    let stop = CancellationToken::new();
    let informers = Informers::new(client.clone(), stop.clone());
    let enabled = controllers::names().map(str::to_owned).collect();
    // What publishes certificates needs one to begin.
    let config = controllers::Config { enabled, root_ca: "PEM".into(), cluster_cidr: Some("10.244.0.0/16".into()), ..controllers::Config::default() };
    let registry = config.metrics.clone();
    let running = tokio::spawn(controllers::run(config, move |_| client.clone(), informers, stop.clone()));
    // Time is paused: it goes on when all of them wait for an answer.
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    compare("kube-controller-manager", CONTROLLERS, &registry);
    running.abort();
}
