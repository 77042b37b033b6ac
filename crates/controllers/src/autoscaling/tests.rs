//! The controller against a server that answers as it is told to.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::*;
use crate::fake::{Fake, refusal};

/// What the server has.
#[derive(Clone)]
struct World {
    replicas: i64,
    selector: &'static str,
    /// Thousandths of a core that each of three pods uses; none: the API is absent.
    used: Option<i64>,
    outside: Option<i64>,
    /// How often a write of the scale meets another.
    conflicts: usize,
}

const WORLD: World = World { replicas: 3, selector: "app=web", used: Some(500), outside: None, conflicts: 0 };
const SCALE: &str = "/apis/example.com/v1/namespaces/n/webs/web/scale";

fn resources() -> Value {
    let of = |group: &str, resource: &str, kind: &str| {
        let resource = json!({"resource": resource, "responseKind": {"kind": kind}, "scope": "Namespaced", "verbs": ["get"],
            "subresources": [{"subresource": "scale", "responseKind": {"kind": "Scale"}}]});
        json!({"metadata": {"name": group}, "versions": [{"version": "v1", "resources": [resource]}]})
    };
    json!({"items": [of("apps", "deployments", "Deployment"), of("example.com", "webs", "Web")]})
}

impl World {
    fn answer(&self, method: &str, path: &str, tries: &AtomicUsize) -> (u16, Value) {
        let absent = || refusal(404, "the server answered 404");
        let usage = |milli: i64| json!({"cpu": format!("{milli}m"), "memory": "64Mi"});
        match (method, path) {
            ("GET", "/api") => (200, json!({"items": []})),
            ("GET", "/apis") => (200, resources()),
            ("GET", SCALE) => {
                let status = json!({"replicas": self.replicas, "selector": self.selector});
                let meta = json!({"name": "web", "namespace": "n", "resourceVersion": "7"});
                (200, json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": meta, "spec": {"replicas": self.replicas}, "status": status}))
            }
            ("PUT", SCALE) if tries.fetch_add(1, Ordering::Relaxed) < self.conflicts => refusal(409, "Conflict"),
            ("PUT", SCALE) => (200, json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "status": {"replicas": 0}})),
            ("GET", "/apis/metrics.k8s.io/v1beta1/namespaces/n/pods") => self.used.map_or_else(absent, |milli| {
                let pod = |i: u8| {
                    let containers = json!([{"name": "c", "usage": usage(milli)}]);
                    json!({"metadata": {"name": format!("p{i}")}, "timestamp": client::now(), "window": "30s", "containers": containers})
                };
                (200, json!({"items": [pod(0), pod(1), pod(2)]}))
            }),
            ("GET", "/apis/external.metrics.k8s.io/v1beta1/namespaces/n/queue") => self.outside.map_or_else(absent, |value| {
                let one = json!({"metricName": "queue", "timestamp": client::now(), "value": value.to_string()});
                (200, json!({"items": [one]}))
            }),
            ("GET", "/apis/custom.metrics.k8s.io") if self.outside.is_some() => {
                let version = |version: &str| json!({"groupVersion": format!("custom.metrics.k8s.io/{version}"), "version": version});
                (200, json!({"kind": "APIGroup", "versions": [version("v9"), version("v1beta2")], "preferredVersion": version("v9")}))
            }
            ("GET", "/apis/custom.metrics.k8s.io/v1beta2/namespaces/n/webs.example.com/w/qps") if self.outside.is_some() => {
                let one = |value: i64| json!({"describedObject": {"kind": "Web", "name": "w"}, "metric": {"name": "qps"}, "value": value.to_string()});
                (200, json!({"items": [one(self.outside.unwrap_or_default())]}))
            }
            ("PUT", _) => (200, autoscaler(json!({}), json!({}))),
            ("POST", _) => (201, json!({"metadata": {"name": "e"}})),
            _ => absent(),
        }
    }
}

fn autoscaler(change: Value, status: Value) -> Value {
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    let mut spec = json!({"scaleTargetRef": {"apiVersion": "example.com/v1", "kind": "Web", "name": "web"}, "minReplicas": 1, "maxReplicas": 10,
        "metrics": [cpu]});
    for (key, value) in change.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    let meta = json!({"name": "a", "namespace": "n", "uid": "u", "generation": 2, "resourceVersion": "5"});
    json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": meta, "spec": spec, "status": status})
}

fn pods() -> Informer<Pod> {
    let pod = |i: u8| -> Pod {
        let containers = json!([{"name": "c", "resources": {"requests": {"cpu": "500m", "memory": "128Mi"}}}]);
        let condition = json!({"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"});
        let status = json!({"phase": "Running", "startTime": "2020-01-01T00:00:00Z", "conditions": [condition]});
        let meta = json!({"name": format!("p{i}"), "namespace": "n", "labels": {"app": "web"}});
        serde_json::from_value(json!({"metadata": meta, "spec": {"containers": containers}, "status": status})).expect("a pod")
    };
    Informer::fixed((0..3).map(pod))
}

/// What a step made: the replicas that were written, the status that was, all Events, how often metrics were asked for.
#[derive(Debug, Default)]
struct Made {
    replicas: Vec<Value>,
    status: Value,
    events: Vec<String>,
    asked: usize,
}

impl Made {
    /// `AbleToScale=SucceededRescale …`; `!` before what does not hold.
    fn conditions(&self) -> String {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let one = |c: &Value| format!("{}{}={}", if c["status"] == "True" { "" } else { "!" }, text(&c["type"]), text(&c["reason"]));
        self.status["conditions"].as_array().into_iter().flatten().map(one).collect::<Vec<_>>().join(" ")
    }

    fn message(&self, kind: &str) -> String {
        let found = self.status["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == kind);
        found.and_then(|c| c["message"].as_str()).unwrap_or_default().to_owned()
    }
}

/// Whether it is looked at again at the end of a period.
fn is_a_period(step: Step) -> bool {
    step.is_ok_and(|wait| wait.is_some_and(|wait| wait <= PERIOD && wait > PERIOD - BEAT))
}

async fn step(world: World, change: Value, status: Value) -> Made {
    steps(world, &[change], status).await.pop().expect("one")
}

/// One step of each of these autoscalers of one target.
async fn steps(world: World, changes: &[Value], status: Value) -> Vec<Made> {
    let (asked, tries) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    let count = asked.clone();
    let server = Fake::new(move |method, path| {
        if path.contains("metrics.k8s.io") {
            count.fetch_add(1, Ordering::Relaxed);
        }
        world.answer(method, path, &tries)
    });
    let objects = changes.iter().enumerate().map(|(i, change)| {
        let mut object = autoscaler(change.clone(), status.clone());
        object["metadata"]["name"] = json!(char::from(b'a' + u8::try_from(i).expect("few")).to_string());
        serde_json::from_value::<HorizontalPodAutoscaler>(object).expect("an autoscaler")
    });
    let informer = Informer::fixed(objects);
    let client = server.client();
    let controller = Autoscalers::new(&client, Recorder::new(client.clone(), "test", ""), informer.clone(), &pods(), Workloads::none());
    let mut all = Vec::new();
    for object in informer.list() {
        let (before, asked_before) = (server.written().len(), asked.load(Ordering::Relaxed));
        assert!(is_a_period(controller.reconcile(&object.key()).await));
        let mut made = Made { asked: asked.load(Ordering::Relaxed) - asked_before, ..Made::default() };
        // Events are written behind the step's back.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        for line in &server.written()[before..] {
            let mut words = line.splitn(3, ' ');
            let (Some(_), Some(path), Some(body)) = (words.next(), words.next(), words.next()) else { continue };
            let body: Value = serde_json::from_str(body).unwrap_or_default();
            if path == SCALE {
                made.replicas.push(body["spec"]["replicas"].clone());
            } else if path.ends_with("/status") {
                made.status = body["status"].clone();
            } else if path.ends_with("/events") {
                made.events.push(format!("{}: {}", body["reason"].as_str().unwrap_or_default(), body["message"].as_str().unwrap_or_default()));
            }
        }
        all.push(made);
    }
    all
}

#[tokio::test]
async fn a_target_of_any_kind_grows_with_what_its_pods_use() {
    let made = step(WORLD, json!({}), json!({})).await;
    assert_eq!(made.replicas, [json!(6)], "twice what is aimed at");
    assert_eq!(
        made.conditions(),
        "AbleToScale=SucceededRescale ScalingActive=ValidMetricFound !ScalingLimited=DesiredWithinRange !ScaledToZero=NotScaledToZero"
    );
    assert_eq!(made.message(ABLE), "the HPA controller was able to update the target scale to 6");
    let named = "the HPA was able to successfully calculate a replica count from cpu resource utilization (percentage of request)";
    assert_eq!(made.message(ACTIVE), named);
    assert_eq!(made.events, ["SuccessfulRescale: New size: 6; reason: cpu resource utilization (percentage of request) above target"]);
    let current = json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 100, "averageValue": "500m"}}}]);
    let status = &made.status;
    assert_eq!((&status["currentMetrics"], &status["currentReplicas"], &status["desiredReplicas"]), (&current, &json!(3), &json!(6)));
    assert_eq!((&status["observedGeneration"], status["lastScaleTime"].is_string()), (&json!(2), true));
}

#[tokio::test]
async fn what_pods_use_is_asked_for_once_and_a_status_that_is_told_is_not_told_again() {
    let target = json!({"type": "AverageValue", "averageValue": "64Mi"});
    let metrics = json!([{"type": "Resource", "resource": {"name": "memory", "target": target}},
        {"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c", "target": {"type": "Utilization", "averageUtilization": 95}}}]);
    let made = step(WORLD, json!({"metrics": metrics}), json!({})).await;
    assert_eq!((made.replicas.len(), made.asked), (0, 1));
    assert_eq!(made.conditions(), "AbleToScale=ReadyForNewScale ScalingActive=ValidMetricFound !ScalingLimited=DesiredWithinRange");
    assert_eq!(made.status["currentMetrics"][0]["resource"]["current"], json!({"averageValue": "64Mi"}));
    let again = step(WORLD, json!({"metrics": metrics}), made.status).await;
    assert_eq!((again.status, again.events.len()), (json!(null), 0));
}

#[tokio::test]
async fn limits_need_no_metrics() {
    let made = step(WORLD, json!({"maxReplicas": 2}), json!({})).await;
    assert_eq!((made.replicas.clone(), made.asked), (vec![json!(2)], 0));
    assert_eq!(made.events, ["SuccessfulRescale: New size: 2; reason: Current number of replicas above Spec.MaxReplicas"]);
    let made = step(WORLD, json!({"minReplicas": 5}), json!({})).await;
    assert_eq!(made.events, ["SuccessfulRescale: New size: 5; reason: Current number of replicas below Spec.MinReplicas"]);
}

#[tokio::test]
async fn apis_that_are_absent_are_told() {
    let outside = json!({"type": "External", "external": {"metric": {"name": "queue", "selector": {"matchLabels": {"a": "b"}}},
        "target": {"type": "Value", "value": "5"}}});
    let each = json!({"type": "Pods", "pods": {"metric": {"name": "qps"}, "target": {"type": "AverageValue", "averageValue": "5"}}});
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    let world = World { used: None, ..WORLD };
    let made = step(world, json!({"metrics": [cpu, each, outside]}), json!({})).await;
    let why = "failed to get cpu utilization: unable to get metrics for resource cpu: unable to fetch metrics from resource metrics API: the server could not \
               find the requested resource (get pods.metrics.k8s.io)";
    assert_eq!(made.conditions(), "AbleToScale=SucceededGetScale !ScalingActive=FailedGetResourceMetric");
    assert_eq!(made.message(ACTIVE), format!("the HPA was unable to compute the replica count: {why}"));
    let custom = "unable to get metric qps: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered";
    let external = "unable to get external metric n/queue/&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{},}: \
                    unable to fetch metrics from external metrics API: the server could not find the requested resource (get queue.external.metrics.k8s.io)";
    let all = format!("invalid metrics (3 invalid out of 3), first error is: failed to get cpu resource metric value: {why}");
    assert_eq!(
        made.events,
        [
            format!("FailedGetResourceMetric: {why}"),
            format!("FailedGetPodsMetric: {custom}"),
            format!("FailedGetExternalMetric: {external}"),
            format!("FailedComputeMetricsReplicas: {all}")
        ]
    );
    assert_eq!(made.status["currentMetrics"], json!([{"type": ""}, {"type": ""}, {"type": ""}]));
}

#[tokio::test]
async fn metrics_of_an_object_are_of_its_resource_in_a_version_that_is_known() {
    let of = |kind: &str, target: Value| {
        let about = json!({"apiVersion": "example.com/v1", "kind": kind, "name": "w"});
        json!({"type": "Object", "object": {"describedObject": about, "metric": {"name": "qps"}, "target": target}})
    };
    let (whole, part) = (json!({"type": "Value", "value": "10"}), json!({"type": "AverageValue", "averageValue": "4"}));
    let world = World { outside: Some(20), ..WORLD };
    let made = step(world.clone(), json!({"metrics": [of("Web", whole.clone()), of("Web", part)]}), json!({})).await;
    assert_eq!((made.replicas, made.asked), (vec![json!(6)], 3), "the version is asked for once");
    assert_eq!(made.events, ["SuccessfulRescale: New size: 6; reason: Web metric qps above target"]);
    let current = |i: usize| made.status["currentMetrics"][i]["object"]["current"].clone();
    assert_eq!((current(0), current(1)), (json!({"value": "20"}), json!({"averageValue": "6667m"})));
    let made = step(world, json!({"metrics": [of("Other", whole)]}), json!({})).await;
    let why = "unable to get metric qps on Other n/w: unable to fetch metrics from custom metrics API: unable to map kind Other.example.com to resource: no \
               matches for kind \"Other\" in group \"example.com\"";
    assert_eq!(made.events[0], format!("FailedGetObjectMetric: {why}"));
}

#[tokio::test]
async fn with_some_metrics_it_grows_and_does_not_shrink() {
    let outside =
        |value: &str| json!({"type": "External", "external": {"metric": {"name": "queue"}, "target": {"type": "AverageValue", "averageValue": value}}});
    let absent = json!({"type": "Pods", "pods": {"metric": {"name": "qps"}, "target": {"type": "AverageValue", "averageValue": "5"}}});
    let world = World { outside: Some(20), ..WORLD };
    let made = step(world.clone(), json!({"metrics": [absent, outside("4")]}), json!({})).await;
    assert_eq!(made.replicas, [json!(5)]);
    assert!(made.events.contains(&"SuccessfulRescale: New size: 5; reason: external metric queue(nil) above target".to_owned()), "{:?}", made.events);
    let made = step(world, json!({"metrics": [absent, outside("10")]}), json!({})).await;
    assert_eq!((made.replicas.len(), made.conditions().as_str()), (0, "AbleToScale=SucceededGetScale !ScalingActive=FailedGetPodsMetric"));
}

#[tokio::test]
async fn what_it_brought_to_zero_it_brings_back() {
    let outside = json!({"type": "External", "external": {"metric": {"name": "queue"}, "target": {"type": "Value", "value": "10"}}});
    let down = json!({"stabilizationWindowSeconds": 0});
    let spec = json!({"metrics": [outside], "minReplicas": 0, "behavior": {"scaleDown": down}});
    let idle = World { outside: Some(0), ..WORLD };
    let made = step(idle.clone(), spec.clone(), json!({})).await;
    assert_eq!(made.replicas, [json!(0)]);
    assert!(made.conditions().ends_with(" ScaledToZero=ScaledToZero"), "{}", made.conditions());
    let busy = World { replicas: 0, outside: Some(25), ..WORLD };
    let back = step(busy.clone(), spec.clone(), made.status.clone()).await;
    assert_eq!(back.replicas, [json!(3)]);
    assert!(back.conditions().contains("!ScaledToZero=NotScaledToZero"), "{}", back.conditions());
    let by_hand = step(busy, spec.clone(), json!({})).await;
    assert_eq!((by_hand.replicas.len(), by_hand.conditions().as_str()), (0, "AbleToScale=SucceededGetScale !ScalingActive=ScalingDisabled"));
    let mut raised = spec;
    raised["minReplicas"] = json!(2);
    let raised = step(World { replicas: 0, ..idle }, raised, made.status).await;
    assert_eq!(raised.replicas, [json!(2)]);
    assert_eq!(raised.events, ["SuccessfulRescale: New size: 2; reason: Current number of replicas below Spec.MinReplicas"]);
}

#[tokio::test]
async fn targets_that_cannot_be_found_or_read() {
    let target = |api_version: &str, kind: &str, name: &str| json!({"scaleTargetRef": {"apiVersion": api_version, "kind": kind, "name": name}});
    for (spec, why) in [
        (target("apps/v1", "Nothing", "x"), "no matches for kind \"Nothing\" in group \"apps\""),
        (target("a/b/c", "Web", "x"), "unexpected GroupVersion string: a/b/c"),
        (target("example.com/v1", "Web", "other"), "the server answered 404"),
    ] {
        let made = step(WORLD, spec, json!({})).await;
        assert_eq!(made.conditions(), "!AbleToScale=FailedGetScale");
        assert_eq!(made.message(ABLE), format!("the HPA controller was unable to get the target's current scale: {why}"));
        assert_eq!(made.events, [format!("FailedGetScale: {why}")]);
        assert_eq!(made.status["observedGeneration"], json!(null), "nothing was observed");
    }
}

#[tokio::test]
async fn selectors_that_are_missing_wrong_or_another_ones_too() {
    let made = step(World { selector: "", ..WORLD }, json!({}), json!({})).await;
    assert_eq!(made.message(ACTIVE), "the HPA target's scale is missing a selector");
    assert_eq!(made.events, ["SelectorRequired: selector is required", "FailedComputeMetricsReplicas: selector is required"]);
    let made = step(World { selector: "a==b==c", ..WORLD }, json!({}), json!({})).await;
    let why = "received an object from a /scale endpoint which was not convertible to autoscaling Scale: failed to parse target selector: \
               couldn't parse the selector string \"a==b==c\": ";
    assert!(made.events.len() == 1 && made.events[0].starts_with(&format!("FailedGetScale: {why}")), "{made:?}");
    assert_eq!(made.conditions(), "!AbleToScale=FailedGetScale");
    let both = steps(WORLD, &[json!({}), json!({})], json!({})).await;
    assert_eq!(both[0].replicas, [json!(6)], "nobody else has them yet");
    assert_eq!(both[1].message(ACTIVE), "pods by selector app=web are controlled by more than one HPA (e.g. [n/a n/b])");
    assert_eq!((both[1].replicas.len(), both[1].conditions().as_str()), (0, "AbleToScale=SucceededGetScale !ScalingActive=AmbiguousSelector"));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_meets_another_is_tried_again_a_few_times() {
    let made = step(World { conflicts: 2, ..WORLD }, json!({}), json!({})).await;
    assert_eq!((made.replicas.len(), made.status["desiredReplicas"].clone()), (3, json!(6)));
    let made = step(World { conflicts: 9, ..WORLD }, json!({}), json!({})).await;
    assert_eq!(made.replicas.len(), 5);
    assert_eq!(made.conditions().split(' ').next(), Some("!AbleToScale=FailedUpdateScale"));
    let reason = "cpu resource utilization (percentage of request) above target";
    assert_eq!(made.events, [format!("FailedRescale: New size: 6; reason: {reason}; error: Conflict")]);
}

#[tokio::test(start_paused = true)]
async fn its_own_status_is_seen_before_the_next_step() {
    let server = Fake::new(move |method, path| match (method, path) {
        ("PUT", path) if path.ends_with("/status") => {
            let mut stored = autoscaler(json!({}), json!({}));
            stored["metadata"]["resourceVersion"] = json!("9");
            (200, stored)
        }
        _ => WORLD.answer(method, path, &AtomicUsize::new(0)),
    });
    let informer = Informer::fixed([serde_json::from_value::<HorizontalPodAutoscaler>(autoscaler(json!({}), json!({}))).expect("an autoscaler")]);
    let client = server.client();
    let controller = Autoscalers::new(&client, Recorder::new(client.clone(), "test", ""), informer, &pods(), Workloads::none());
    let key = ObjectKey::new("n", "a");
    assert!(is_a_period(controller.reconcile(&key).await));
    assert!(matches!(controller.reconcile(&key).await, Ok(Some(UNSEEN))), "its revision is 5 and not 9");
    tokio::time::advance(UNSEEN_MAX).await;
    assert!(is_a_period(controller.reconcile(&key).await));
}

#[tokio::test]
async fn a_scale_is_read_from_memory_unless_a_later_one_was_written() {
    const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/n/deployments/web/scale";
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let server = Fake::new(move |method, path| match (method, path) {
        ("GET", DEPLOYMENT) => {
            count.fetch_add(1, Ordering::Relaxed);
            WORLD.answer("GET", SCALE, &AtomicUsize::new(0))
        }
        ("PUT", DEPLOYMENT) => (200, json!({"metadata": {"name": "web", "resourceVersion": "9"}, "spec": {"replicas": 6}, "status": {"replicas": 3}})),
        _ => WORLD.answer(method, path, &AtomicUsize::new(0)),
    });
    let target = json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}});
    let informer = Informer::fixed([serde_json::from_value::<HorizontalPodAutoscaler>(autoscaler(target, json!({}))).expect("an autoscaler")]);
    let spec = json!({"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": {}});
    let meta = json!({"name": "web", "namespace": "n", "resourceVersion": "7"});
    let deployment = client::typed(&json!({"metadata": meta, "spec": spec, "status": {"replicas": 3}})).expect("a Deployment");
    let client = server.client();
    let workloads = Workloads::deployments([deployment]);
    let controller = Autoscalers::new(&client, Recorder::new(client.clone(), "test", ""), informer, &pods(), workloads);
    let key = ObjectKey::new("n", "a");
    assert!(is_a_period(controller.reconcile(&key).await));
    let scales = || server.written().iter().filter(|line| line.contains(DEPLOYMENT)).count();
    assert_eq!((asked.load(Ordering::Relaxed), scales()), (0, 1), "twice what is aimed at, of what memory says");
    assert!(is_a_period(controller.reconcile(&key).await));
    assert_eq!(asked.load(Ordering::Relaxed), 1, "memory is at 7, and 9 was written");
}

#[test]
fn a_change_of_the_spec_is_looked_at_at_once() {
    let of = |generation: i64| {
        let mut object = autoscaler(json!({}), json!({}));
        object["metadata"]["generation"] = json!(generation);
        Arc::new(serde_json::from_value::<HorizontalPodAutoscaler>(object).expect("an autoscaler"))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let server = Fake::new(|_, _: &str| (404, json!(null)));
        let client = server.client();
        let controller = Autoscalers::new(&client, Recorder::new(client.clone(), "test", ""), Informer::fixed([]), &pods(), Workloads::none());
        let queue = WorkQueue::default();
        controller.heard(&queue, &Delta::Updated { old: of(1), new: of(1) });
        assert!(queue.is_empty(), "a period later");
        controller.heard(&queue, &Delta::Updated { old: of(1), new: of(2) });
        assert_eq!(queue.len(), 1);
    });
}

#[tokio::test(start_paused = true)]
async fn all_are_looked_at_on_one_beat() {
    let client = Fake::new(|_, _| refusal(404, "none")).client();
    let controller = Autoscalers::new(&client, Recorder::new(client.clone(), "test", ""), Informer::fixed([]), &pods(), Workloads::none());
    assert_eq!(controller.period(), PERIOD);
    tokio::time::advance(BEAT + Duration::from_secs(2)).await;
    assert_eq!(controller.period(), PERIOD - Duration::from_secs(2), "the first period is shorter");
    tokio::time::advance(controller.period()).await;
    assert_eq!(controller.period(), PERIOD, "and ends on the beat");
}

/// A look takes its time: what it did is of its beat, so that the look of the next period does not count it on its own.
#[tokio::test(start_paused = true)]
async fn what_a_look_did_is_of_its_beat() {
    let client = Fake::new(|_, _| refusal(404, "none")).client();
    let controller = Autoscalers::new(&client, Recorder::new(client.clone(), "test", ""), Informer::fixed([]), &pods(), Workloads::none());
    tokio::time::advance(Duration::from_millis(40)).await;
    let first = controller.beat();
    assert_eq!(first, controller.begun);
    let behavior = HorizontalPodAutoscalerBehavior::default();
    let mut memory = Memory::default();
    memory.scaled(1, 5, first);
    let bounds = Bounds { min: 1, max: 100 };
    let held = memory.normalize(Some(&behavior), bounds, 5, 50, controller.beat()).replicas;
    assert_eq!(held, 5, "a look of the same beat is held by it");
    tokio::time::advance(controller.period()).await;
    assert_eq!(controller.beat(), first + PERIOD);
    let grown = memory.normalize(Some(&behavior), bounds, 5, 50, controller.beat()).replicas;
    assert_eq!(grown, 10, "four more or twice as many as there were");
}
