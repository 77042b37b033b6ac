//! `examples/autoscale.yaml`: what pods use is known without an add-on, and their number follows it up and down.

use client::{Api, Event, ListParams};
use cluster_tests::{Cluster, PATIENCE, example};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use std::time::{Duration, Instant};

/// Up takes a period of the autoscaler (15 s) after one of the measures; down one of each more. This is for how long they are awaited.
const SCALED: Duration = Duration::from_secs(300);

fn scaled(cluster: &Cluster, deployments: &Api<Deployment>, what: &str, wanted: impl Fn(i32) -> bool) -> Duration {
    let began = Instant::now();
    let only = ListParams::fields("metadata.name=web");
    cluster.until_within(SCALED, deployments, &only, what, |event| match event {
        Event::Added(web) | Event::Modified(web) => web.spec.replicas.is_some_and(&wanted),
        _ => false,
    });
    began.elapsed()
}

fn seen<T>(event: &Event<T>, is: impl Fn(&T) -> bool) -> bool {
    matches!(event, Event::Added(object) | Event::Modified(object) if is(object))
}

#[test]
fn pods_follow_the_work() {
    let cluster = Cluster::up("scale", &[example("autoscale.yaml")]);
    // At once, so that all that is waited for passes in the same periods: the autoscaler's first question began the measures.
    cluster.kubectl("-n autoscale scale deployment/load --replicas=1");
    // Of each container; the autoscaler asked before there was one, so it is measured with the next round or the one after.
    let began = Instant::now();
    let top = loop {
        // Until then kubectl ends with an error of its own.
        let top = cluster.try_kubectl(&["top", "pod", "-n", "autoscale", "-l", "app=web", "--containers", "--no-headers"]);
        if top.ok() && !top.stdout.is_empty() {
            break top.stdout;
        }
        assert!(began.elapsed() < PATIENCE, "the pod is not measured");
        std::thread::sleep(Duration::from_millis(500));
    };
    for line in top.lines() {
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert!(cells.len() == 4 && cells[1] == "web" && cells[2].ends_with('m') && cells[3].ends_with("Mi"), "{top}");
    }
    let node = cluster.kubectl("top node --no-headers");
    assert!(node.split_whitespace().nth(1).is_some_and(|cpu| cpu.ends_with('m') && cpu != "0m"), "{node}");

    let deployments = cluster.client().namespaced::<Deployment>("autoscale");
    let up = scaled(&cluster, &deployments, "more pods for more work", |replicas| replicas == 3);
    // Status and Events are written after the scale.
    let told = |hpa: &HorizontalPodAutoscaler| {
        let metrics = hpa.status.iter().flat_map(|status| status.current_metrics.iter().flatten());
        { metrics }.any(|metric| metric.resource.as_ref().is_some_and(|cpu| cpu.current.average_utilization.is_some_and(|percent| percent > 0)))
    };
    let autoscalers = cluster.client().namespaced::<HorizontalPodAutoscaler>("autoscale");
    cluster.until(&autoscalers, &ListParams::default(), "the use is told", |event| seen(event, told));
    cluster.kubectl("-n autoscale scale deployment/load --replicas=0");
    let down = scaled(&cluster, &deployments, "fewer pods for less", |replicas| replicas == 1);
    println!("three pods after {up:?}, one again after {down:?}");
    let events = cluster.client().namespaced::<k8s_openapi::api::core::v1::Event>("autoscale");
    for reason in ["cpu resource utilization (percentage of request) above target", "All metrics below target"] {
        let told = |event: &k8s_openapi::api::core::v1::Event| event.message.as_deref().is_some_and(|message| message.contains(reason));
        cluster.until(&events, &ListParams::fields("reason=SuccessfulRescale"), reason, |event| seen(event, told));
    }
}
