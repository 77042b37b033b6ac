//! One volume, its places and the next steps; and the whole controller before a server that only notes.

use serde_json::json;
use tokio::time::Instant;

use super::names::Volume;
use super::plan::{ANSWER_MAX, Found, Link, Place, UNMOUNT_MAX, plan};
use super::*;
use crate::fake::Fake;
use client::Informer;
use k8s_openapi::api::core::v1::PersistentVolume;
use serde::de::DeserializeOwned;
use std::time::Duration;

fn place(node: &str, wanted: bool, found: Found) -> Place {
    let reported = found == Found::Attached;
    Place { node: node.to_owned(), wanted, found, reported, mounted: false, healthy: true, out_of_service: false, link: Link::default() }
}

/// The steps as `NODE: STEP`, and how long until the next look.
fn told(places: &[Place], exclusive: bool, now: Instant) -> (Vec<String>, Option<u64>) {
    let plan = plan(places, exclusive, now);
    (plan.steps.iter().map(|(node, step)| format!("{node}: {step:?}")).collect(), plan.again.map(|d| d.as_secs()))
}

#[test]
fn what_nobody_wants_goes_first() {
    let now = Instant::now();
    let places = [place("a", true, Found::Nothing), place("b", false, Found::Attached)];
    assert_eq!(told(&places, true, now).0, ["b: Detach { forced: None }"], "one node at a time");
    assert_eq!(told(&places, false, now).0, ["b: Detach { forced: None }", "a: Attach"]);
    let places = [place("a", true, Found::Nothing), place("b", true, Found::Nothing)];
    assert_eq!(told(&places, true, now).0, ["a: Attach"], "the other waits for it");
    let mut places = [place("a", true, Found::Nothing), place("b", true, Found::Coming(None))];
    places[1].link.attaching = Some(now);
    assert_eq!(told(&places, true, now), (vec![], Some(120)));
    let places = [place("a", true, Found::Nothing), place("b", true, Found::Attached)];
    assert_eq!(told(&places, true, now).0, [r#"a: Rivals(["b"])"#, "b: Given"]);
}

#[test]
fn a_mounted_volume_stays_until_its_node_is_not_to_be_asked_any_more() {
    let now = Instant::now();
    let mut mounted = place("a", false, Found::Attached);
    mounted.mounted = true;
    mounted.link.unwanted_since = Some(now);
    let at = |place: &Place, waited| told(std::slice::from_ref(place), true, now + waited);
    assert_eq!(at(&mounted, Duration::ZERO), (vec!["a: Unwanted".to_owned()], Some(360)));
    assert_eq!(at(&mounted, UNMOUNT_MAX * 2), (vec!["a: Unwanted".to_owned()], None), "a node that is ready lets go by itself");
    let sick = Place { healthy: false, ..mounted.clone() };
    assert_eq!(at(&sick, UNMOUNT_MAX).0, ["a: Unwanted"]);
    assert_eq!(at(&sick, UNMOUNT_MAX + Duration::from_millis(1)).0, ["a: Detach { forced: Some(Timeout) }"]);
    let dead = Place { out_of_service: true, ..mounted };
    assert_eq!(at(&dead, Duration::ZERO).0, ["a: Detach { forced: Some(OutOfService) }"]);
}

#[test]
fn an_attacher_is_waited_for_and_its_word_is_told() {
    let now = Instant::now();
    let mut asked = place("a", true, Found::Nothing);
    asked.link.attaching = Some(now);
    let one = |place: &Place, waited| told(std::slice::from_ref(place), true, now + waited);
    assert_eq!(one(&asked, Duration::ZERO), (vec![], Some(120)), "the informer may be behind");
    assert_eq!(one(&asked, ANSWER_MAX).0, ["a: Failed(Silent)"]);
    assert_eq!(one(&place("a", true, Found::Coming(None)), Duration::ZERO).0, ["a: Await"], "a former process asked");
    let mut refused = place("a", true, Found::Coming(Some("no room".to_owned())));
    assert_eq!(one(&refused, Duration::ZERO).0, [r#"a: Failed(Refused("no room"))"#]);
    let rests: Vec<u128> = (0..10).map(|_| refused.link.fail(now).as_millis()).collect();
    assert_eq!(rests, [500, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 122_000, 122_000]);
    assert_eq!(one(&refused, Duration::ZERO), (vec![], Some(122)));
    assert_eq!(one(&refused, Duration::from_secs(122)).0, [r#"a: Failed(Refused("no room"))"#]);
}

#[test]
fn a_detachment_is_waited_for_and_then_asked_for_again() {
    let now = Instant::now();
    let mut leaving = place("a", false, Found::Leaving(None));
    let one = |place: &Place, waited| told(std::slice::from_ref(place), true, now + waited);
    assert_eq!(one(&leaving, Duration::ZERO).0, ["a: Detach { forced: None }"], "a former process, or somebody else, began");
    leaving.link.detaching = Some(now);
    assert_eq!(one(&leaving, Duration::ZERO), (vec![], Some(120)));
    assert_eq!(one(&leaving, ANSWER_MAX).0, ["a: Stuck"]);
    let broken = Place { found: Found::Leaving(Some("busy".to_owned())), ..leaving.clone() };
    assert_eq!(one(&broken, Duration::ZERO).0, ["a: Stuck"]);
    // Wanted again meanwhile: only what was asked for is waited for in silence.
    assert_eq!(one(&Place { wanted: true, ..leaving.clone() }, Duration::ZERO), (vec![], Some(120)));
    leaving.link.detaching = None;
    assert_eq!(one(&Place { wanted: true, ..leaving }, Duration::ZERO).0, ["a: Failed(BeingDeleted)"]);
}

#[test]
fn a_volume_whose_detachment_failed_is_given_to_no_other_node() {
    let now = Instant::now();
    let mut places = [place("a", true, Found::Nothing), place("b", false, Found::Leaving(Some("busy".to_owned())))];
    places[1].link.detaching = Some(now);
    assert_eq!(told(&places, true, now).0, ["b: Stuck"], "it is still waited for");
    places[1].link.fail(now);
    assert_eq!(told(&places, true, now), (vec![r#"a: Rivals(["b"])"#.to_owned()], Some(0)), "the driver has not let go");
    assert_eq!(told(&places, false, now).0, ["a: Attach"], "one that serves many nodes need not wait");
    places[1].wanted = true;
    assert_eq!(told(&places, true, now).0, [r#"a: Rivals(["b"])"#]);
    places[1].found = Found::Nothing;
    assert_eq!(told(&places, true, now).0, ["a: Attach"]);
}

fn objects<T: DeserializeOwned>(values: &[serde_json::Value]) -> Vec<T> {
    values.iter().map(|v| serde_json::from_value(v.clone()).unwrap_or_else(|e| panic!("{e}: {v}"))).collect()
}

/// A controller that knows of these pods (name, node), nodes and attachments (node, attached) of one volume.
fn controller(client: Client, pods: &[(&str, &str)], nodes: &[serde_json::Value], attachments: &[(&str, bool)]) -> Attaching {
    let volume = volume();
    let pods: Vec<_> = pods
        .iter()
        .map(|(name, node)| {
            json!({"metadata": {"namespace": "n", "name": name, "uid": name},
            "spec": {"nodeName": node, "containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}})
        })
        .collect();
    let attachments: Vec<_> = attachments
        .iter()
        .map(|(node, attached)| {
            json!({"metadata": {"name": volume.attachment(node)}, "status": {"attached": attached},
            "spec": {"attacher": "d", "nodeName": node, "source": {"persistentVolumeName": "pv"}}})
        })
        .collect();
    let claim = json!({"metadata": {"namespace": "n", "name": "c", "uid": "cu"}, "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}});
    let persistent = json!({"metadata": {"name": "pv"}, "spec": {"accessModes": ["ReadWriteOnce"], "csi": {"driver": "d", "volumeHandle": "h"},
        "claimRef": {"namespace": "n", "name": "c", "uid": "cu"}}});
    let facts = Facts {
        pods: Informer::fixed(objects::<Pod>(&pods)),
        nodes: Informer::fixed(objects::<Node>(nodes)),
        claims: Informer::fixed(objects(&[claim])),
        volumes: Informer::fixed(objects::<PersistentVolume>(&[persistent])),
        drivers: Informer::fixed([]),
        attachments: Informer::fixed(objects::<VolumeAttachment>(&attachments)),
    };
    facts.index();
    Attaching::new(client.clone(), Recorder::new(client, "attachdetach-controller", ""), facts, WorkQueue::default())
}

fn volume() -> Volume {
    Volume { driver: "d".to_owned(), handle: "h".to_owned() }
}

fn node(name: &str, attached: bool, used: bool) -> serde_json::Value {
    let name_of = volume().name();
    let attached = if attached { json!([{"name": name_of, "devicePath": ""}, {"name": "kubernetes.io/iscsi/x", "devicePath": "p"}]) } else { json!([]) };
    json!({"metadata": {"name": name, "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
        "status": {"volumesAttached": attached, "volumesInUse": if used { json!([name_of]) } else { json!([]) }, "conditions": [{"type": "Ready", "status": "True"}]}})
}

#[tokio::test]
async fn a_node_is_told_and_asked_before_a_volume_goes() {
    for (used, deleted) in [(false, true), (true, false)] {
        // What the informer knows is older than what the server says.
        let live = node("a", true, used);
        let fake = Fake::new(move |_, path| {
            (200, if path.contains("/nodes/") { live.clone() } else { json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}) })
        });
        let attaching = controller(fake.client(), &[], &[node("a", true, false)], &[("a", true)]);
        let again = attaching.settle(&volume()).await;
        let written = fake.written();
        assert_eq!(
            written[0], r#"PATCH /api/v1/nodes/a/status {"status":{"volumesAttached":[{"devicePath":"p","name":"kubernetes.io/iscsi/x"}]}}"#,
            "{written:?}"
        );
        let gone = format!("DELETE /apis/storage.k8s.io/v1/volumeattachments/{}", volume().attachment("a"));
        assert_eq!(written.iter().any(|w| w.starts_with(&gone)), deleted, "{written:?}");
        assert_eq!(again, Some(if deleted { ANSWER_MAX } else { Duration::from_millis(500) }));
    }
}

#[tokio::test]
async fn a_node_that_nobody_knows_counts_as_using_its_volumes() {
    let fake = Fake::new(|_, _| crate::fake::refusal(404, "NotFound"));
    let attaching = controller(fake.client(), &[], &[], &[("a", true)]);
    let wait = attaching.settle(&volume()).await.unwrap_or_default();
    assert!(wait > UNMOUNT_MAX - Duration::from_secs(60), "{wait:?}");
    assert_eq!(fake.written(), Vec::<String>::new());
    // It was seen to go, and had nothing in use.
    attaching.gone.lock().insert("a".to_owned(), HashSet::new());
    attaching.settle(&volume()).await;
    assert!(fake.written()[0].starts_with("DELETE "), "{:?}", fake.written());
    assert!(attaching.links.lock().is_empty() && attaching.gone.lock().is_empty(), "nothing is remembered of it");
}

#[tokio::test]
async fn an_attachment_is_made_for_managed_nodes_alone() {
    let mut unmanaged = node("b", false, false);
    unmanaged["metadata"]["annotations"] = json!({});
    let fake = Fake::new(|_, _| (201, json!({"metadata": {"name": "x"}, "spec": {"attacher": "d", "nodeName": "a", "source": {}}})));
    let attaching = controller(fake.client(), &[("p", "a"), ("q", "b")], &[node("a", false, false), unmanaged], &[]);
    assert_eq!(attaching.settle(&volume()).await, Some(ANSWER_MAX));
    let written = fake.written();
    assert_eq!(written.len(), 1, "{written:?}");
    assert!(written[0].starts_with("POST /apis/storage.k8s.io/v1/volumeattachments "), "{written:?}");
    assert!(written[0].contains(r#""spec":{"attacher":"d","nodeName":"a","source":{"persistentVolumeName":"pv"}}"#), "{written:?}");
}
