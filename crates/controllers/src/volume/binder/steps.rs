//! Steps against a server that answers as it is told to.

use serde_json::{Value, json};

use super::tests::{claim, merge, owner, volume};
use super::*;
use crate::fake::Fake;

fn told(object: &impl serde::Serialize, kind: &str) -> Value {
    let mut value = serde_json::to_value(object).expect("JSON");
    merge(&mut value, json!({"kind": kind, "apiVersion": "v1"}));
    value
}

/// What one step about `key` writes, Events aside, when memory holds these and a read of the server gives `live`.
async fn written(key: Key, volumes: &[Arc<PersistentVolume>], claims: &[Arc<PersistentVolumeClaim>], live: Option<Value>) -> Vec<String> {
    let live_volume = live.clone().filter(|l| l["kind"] == "PersistentVolume");
    let kept = [volumes.first().map(|v| told(&**v, "PersistentVolume")).or(live_volume), claims.first().map(|c| told(&**c, "PersistentVolumeClaim"))];
    let [volume, claim] = kept.map(Option::unwrap_or_default);
    let fake = Fake::new(move |method, path: &str| match (method, &live) {
        ("GET", None) => crate::fake::refusal(404, "NotFound"),
        ("GET", Some(live)) => (200, live.clone()),
        _ if path.contains("/persistentvolumes/") => (200, volume.clone()),
        _ => (200, claim.clone()),
    });
    let (client, queue) = (fake.client(), WorkQueue::default());
    let recorder = Recorder::new(client.clone(), "persistentvolume-controller", "");
    let binder = Binder::new(&client, recorder, queue, &Informer::fixed([]), &Informer::fixed([]));
    for volume in volumes {
        binder.heard_volume(&Delta::Added(volume.clone()));
    }
    claims.iter().for_each(|claim| binder.heard_claim(&Delta::Added(claim.clone())));
    binder.reconcile(&key).await.expect("a step");
    let short = |line: String| {
        let mut words = line.splitn(3, ' ');
        let (method, path, body) = (words.next()?.to_owned(), words.next()?.to_owned(), words.next()?.to_owned());
        let phase = serde_json::from_str::<Value>(&body).ok()?["status"]["phase"].as_str().unwrap_or_default().to_owned();
        (!path.contains("/events")).then(|| format!("{method} {} {phase}", path.trim_start_matches("/api/v1/")))
    };
    fake.written().into_iter().filter_map(short).collect()
}

#[tokio::test]
async fn a_volume_is_released_only_when_the_server_says_that_its_claim_is_gone() {
    let bound = {
        let mut with = owner("c", "U-c");
        merge(&mut with, json!({"status": {"phase": "Bound"}}));
        [volume("v", "1Gi", with)]
    };
    let key = || Key::Volume("v".to_owned());
    let has = claim("c", json!({"spec": {"volumeName": "v"}}));
    let live = told(&*has, "PersistentVolumeClaim");
    assert_eq!(written(key(), &bound, &[], Some(live.clone())).await, [""; 0], "the claim has not been heard of yet");
    assert_eq!(written(key(), &bound, &[], None).await, ["PUT persistentvolumes/v/status Released"]);
    let former = claim("c", json!({"metadata": {"uid": "other"}}));
    let other = told(&*former, "PersistentVolumeClaim");
    assert_eq!(written(key(), &bound, std::slice::from_ref(&former), Some(live)).await, [""; 0], "memory has a former one of the name");
    assert_eq!(written(key(), &bound, &[former], Some(other)).await, ["PUT persistentvolumes/v/status Released"]);
}

#[tokio::test]
async fn a_claim_is_lost_only_when_the_server_says_that_its_volume_is_gone() {
    let complete = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "v"}});
    let claims = [claim("c", complete)];
    let key = || Key::Claim(ObjectKey::new("n", "c"));
    assert_eq!(written(key(), &[], &claims, None).await, ["PUT namespaces/n/persistentvolumeclaims/c/status Lost"]);
    let mut with = owner("c", "U-c");
    merge(&mut with, json!({"status": {"phase": "Bound"}}));
    let live = told(&*volume("v", "1Gi", with), "PersistentVolume");
    assert_eq!(written(key(), &[], &claims, Some(live)).await, ["PUT namespaces/n/persistentvolumeclaims/c/status Bound"]);
    let unbound = told(&*volume("v", "1Gi", json!({})), "PersistentVolume");
    let again = ["PUT persistentvolumes/v Available", "PUT persistentvolumes/v/status Bound", "PUT namespaces/n/persistentvolumeclaims/c/status Bound"];
    assert_eq!(written(key(), &[], &claims, Some(unbound)).await, again, "it has come unbound");
    let of_another = told(&*volume("v", "1Gi", owner("other", "U-other")), "PersistentVolume");
    assert_eq!(written(key(), &[], &claims, Some(of_another)).await, ["PUT namespaces/n/persistentvolumeclaims/c/status Lost"]);
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_was_not_given_after_all_is_matched_again() {
    for (code, reason) in [(200, ""), (409, "Conflict")] {
        let kept = told(&*volume("v", "1Gi", json!({})), "PersistentVolume");
        let kept_claim = told(&*claim("c", json!({})), "PersistentVolumeClaim");
        let fake = Fake::new(move |_, path: &str| match code {
            200 if path.contains("/persistentvolumes/") => (200, kept.clone()),
            200 => (200, kept_claim.clone()),
            _ => crate::fake::refusal(code, reason),
        });
        let (client, queue) = (fake.client(), WorkQueue::default());
        let recorder = Recorder::new(client.clone(), "persistentvolume-controller", "");
        let binder = Binder::new(&client, recorder, queue.clone(), &Informer::fixed([]), &Informer::fixed([]));
        binder.heard_volume(&Delta::Added(volume("v", "1Gi", json!({}))));
        binder.heard_claim(&Delta::Added(claim("c", json!({}))));
        let next = async |within: Duration| {
            let key = tokio::time::timeout(within, queue.get()).await.ok().flatten();
            key.iter().for_each(|key| queue.done(key));
            key
        };
        while next(GATHER * 2).await.is_some() {}
        let done = binder.reconcile(&Key::Claim(ObjectKey::new("n", "c"))).await;
        assert_eq!(done.is_ok(), code == 200);
        // Not at once: the claim that failed would be tried without a rest.
        while let Some(key) = next(LOOK / 2).await {
            assert!(code == 200, "{key:?}");
        }
        assert_eq!(next(LOOK).await, (code != 200).then(|| Key::Class(String::new())));
    }
}

#[tokio::test]
async fn both_sides_are_written_in_order_and_what_is_written_is_not_written_again() {
    let (claims, volumes) = ([claim("c", json!({}))], [volume("v", "1Gi", json!({}))]);
    let all = written(Key::Claim(ObjectKey::new("n", "c")), &volumes, &claims, None).await;
    let paths: Vec<&str> = all.iter().map(|line| line.split(' ').nth(1).unwrap_or_default()).collect();
    assert_eq!(paths[0], "persistentvolumes/v");
    assert_eq!(paths.last(), Some(&"namespaces/n/persistentvolumeclaims/c/status"));
    assert!(all[1].ends_with("persistentvolumes/v/status Bound") && all.last().is_some_and(|l| l.ends_with("Bound")), "{all:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_still_true_is_told_again_before_its_event_expires() {
    let claims = [claim("c", json!({}))];
    let fake = Fake::new(|_, _: &str| (201, json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": "e"}})));
    let client = fake.client();
    let recorder = Recorder::new(client.clone(), "persistentvolume-controller", "");
    let binder = Binder::new(&client, recorder, WorkQueue::default(), &Informer::fixed([]), &Informer::fixed([]));
    binder.heard_claim(&Delta::Added(claims[0].clone()));
    let key = Key::Claim(ObjectKey::new("n", "c"));
    let events = async || {
        // Events are written in the background.
        tokio::time::sleep(Duration::from_millis(1)).await;
        fake.written().len()
    };
    assert_eq!((binder.reconcile(&key).await.expect("a step"), events().await), (Some(TELL_AGAIN), 1));
    tokio::time::advance(TELL_AGAIN / 2).await;
    assert!(binder.reconcile(&key).await.expect("a step").is_some_and(|left| left <= TELL_AGAIN / 2));
    assert_eq!(events().await, 1, "it was said");
    tokio::time::advance(TELL_AGAIN).await;
    assert_eq!((binder.reconcile(&key).await.expect("a step"), events().await), (Some(TELL_AGAIN), 2));
    binder.heard_claim(&Delta::Deleted(claims[0].clone()));
    assert_eq!((binder.reconcile(&key).await.expect("a step"), binder.told.lock().len()), (None, 0));
}
