//! What the graph asks for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::graph::{Graph, Kind, Owner, Place, Seen, Work};
use crate::discovery::Served;
use crate::fake::{Fake, refusal};

fn kind(name: &str) -> Arc<Kind> {
    Arc::new(Kind { group: String::new(), kind: name.to_owned() })
}

fn owner(uid: &str, blocks: bool) -> Owner {
    Owner { uid: uid.into(), kind: kind("K"), api_version: "v1".into(), name: uid.into(), blocks }
}

fn seen(uid: &str, owners: &[Owner]) -> Seen {
    let place = Place { kind: kind("K"), namespace: "n".into(), name: uid.into() };
    Seen { uid: uid.into(), place, owners: owners.to_vec(), deleting: false, foreground: false, orphan: false }
}

/// A graph and what its changes asked for.
#[derive(Default)]
struct World(Graph);

impl World {
    fn see(&mut self, seen: Seen) -> String {
        let (mut work, mut invalid) = (Vec::new(), Vec::new());
        self.0.see(seen, &mut work, &mut invalid);
        let mut told: Vec<String> = work.iter().map(tell).collect();
        told.extend(invalid.iter().map(|i| format!("invalid {}<-{}", i.owner.uid, i.dependent)));
        told.join(" ")
    }

    fn gone(&mut self, uid: &str) -> String {
        let mut work = Vec::new();
        self.0.gone(&uid.into(), &mut work);
        let mut told: Vec<String> = work.iter().map(tell).collect();
        told.sort();
        told.join(" ")
    }
}

fn tell(work: &Work) -> String {
    match work {
        Work::Delete(uid) => format!("delete {uid}"),
        Work::Orphan(uid) => format!("orphan {uid}"),
    }
}

#[test]
fn dependents_are_looked_at_when_their_owner_goes() {
    let mut world = World::default();
    assert_eq!(world.see(seen("o", &[])), "");
    assert_eq!(world.see(seen("a", &[owner("o", true)])), "");
    assert_eq!(world.see(seen("b", &[owner("o", false)])), "");
    assert!(world.0.node("a").is_some_and(|n| world.0.is_settled(n)));
    assert_eq!(world.gone("o"), "delete a delete b");
    assert!(world.0.is_absent(&owner("o", true), "n"));
    assert!(world.0.node("a").is_some_and(|n| !world.0.is_settled(n)));
}

#[test]
fn an_owner_that_nobody_has_seen_is_looked_for() {
    let mut world = World::default();
    assert_eq!(world.see(seen("a", &[owner("o", true)])), "delete o");
    assert!(world.0.node("o").is_some_and(|n| n.virtual_));
    assert_eq!(world.see(seen("o", &[])), "", "it only came later");
    assert!(world.0.node("o").is_some_and(|n| !n.virtual_ && n.dependents.len() == 1));
    let mut world = World::default();
    world.see(seen("a", &[owner("o", true)]));
    assert_eq!(world.gone("o"), "delete a", "it was not there");
    let mut world = World::default();
    world.see(seen("a", &[owner("o", true)]));
    world.gone("a");
    assert!(world.0.node("o").is_none(), "nobody refers to it any more");
}

#[test]
fn foreground_deletion_waits_for_those_that_block() {
    let mut world = World::default();
    world.see(seen("o", &[]));
    world.see(seen("a", &[owner("o", true)]));
    world.see(seen("b", &[owner("o", false)]));
    let deleting = Seen { deleting: true, foreground: true, ..seen("o", &[]) };
    let mut told: Vec<String> = world.see(deleting.clone()).split(" delete ").map(|s| s.trim_start_matches("delete ").to_owned()).collect();
    told.sort();
    assert_eq!(told, ["a", "b", "o"]);
    assert_eq!(world.see(deleting), "", "only the start of it");
    assert_eq!(world.0.blocking(&"o".into()), ["a".into()]);
    assert_eq!(world.gone("a"), "delete o", "its deletion can go on");
    assert!(world.0.blocking(&"o".into()).is_empty());
}

#[test]
fn an_owner_is_looked_at_when_a_dependent_no_longer_blocks() {
    let mut world = World::default();
    world.see(seen("o", &[]));
    world.see(seen("a", &[owner("o", true)]));
    assert_eq!(world.see(seen("a", &[owner("o", false)])), "delete o");
    assert_eq!(world.see(seen("a", &[])), "");
    assert!(world.0.node("o").is_some_and(|n| n.dependents.is_empty()));
}

#[test]
fn orphans_are_set_free_and_wrong_references_told() {
    let mut world = World::default();
    world.see(seen("o", &[]));
    world.see(seen("a", &[owner("o", true)]));
    assert_eq!(world.see(Seen { deleting: true, orphan: true, ..seen("o", &[]) }), "orphan o");
    let mut elsewhere = seen("x", &[owner("o", true)]);
    elsewhere.place.namespace = "other".into();
    assert_eq!(world.see(elsewhere), "delete x invalid o<-x");
}

/// A reference to `uid` as an object of this kind.
fn owner_as(uid: &str, of: &str) -> Owner {
    Owner { kind: kind(of), ..owner(uid, false) }
}

#[test]
fn who_meant_another_is_looked_at_when_the_owner_turns_real() {
    let mut world = World::default();
    world.see(seen("a", &[owner_as("o", "Other")]));
    world.see(seen("b", &[owner("o", false)]));
    let mut elsewhere = seen("c", &[owner("o", false)]);
    elsewhere.place.namespace = "m".into();
    world.see(elsewhere);
    let mut told: Vec<String> = world.see(seen("o", &[])).split(" delete ").map(|s| s.trim_start_matches("delete ").to_owned()).collect();
    told.sort();
    assert_eq!(told, ["a", "c"], "b meant it");
}

#[test]
fn an_owner_is_looked_for_wherever_its_dependents_say() {
    let mut world = World::default();
    world.see(seen("a", &[owner_as("o", "Other")]));
    world.see(seen("b", &[owner("o", false)]));
    let first = world.gone("o");
    assert_eq!(first, "delete a delete o", "there is none of the first kind; b may have meant another");
    assert!(world.0.node("o").is_some_and(|n| n.place.kind == kind("K") && n.dependents.len() == 2));
    assert_eq!(world.see(seen("o", &[])), "delete a", "there is");
    assert_eq!(world.gone("o"), "delete a delete b", "and its dependents go with it");
    let mut world = World::default();
    world.see(seen("a", &[owner_as("o", "Other")]));
    world.see(seen("b", &[owner("o", false)]));
    world.gone("o");
    assert_eq!(world.gone("o"), "delete a delete b");
    assert!(world.0.node("o").is_none(), "it was nowhere");
}

#[test]
fn what_lives_on_is_linked_to_its_owner_again() {
    let mut world = World::default();
    world.see(seen("a", &[owner("o", false)]));
    world.gone("o");
    let mut work = Vec::new();
    world.0.relink(&"a".into(), &[], &mut work);
    assert!(work.is_empty() && world.0.node("o").is_none(), "what it lost is not looked for again and again");
    world.0.relink(&"a".into(), &["o".into()], &mut work);
    assert_eq!(work, [Work::Delete("o".into())], "it is looked for once more");
    world.see(seen("o", &[]));
    assert_eq!(world.gone("o"), "delete a");
}

fn served(resource: &str, kind: &str) -> (Kind, Arc<Served>) {
    let served = Served {
        group: String::new(),
        version: "v1".into(),
        resource: resource.into(),
        kind: kind.into(),
        namespaced: true,
        verbs: ["get", "list", "watch", "delete", "patch"].map(str::to_owned).into(),
        scales: false,
    };
    (Kind { group: String::new(), kind: kind.to_owned() }, Arc::new(served))
}

#[tokio::test(start_paused = true)]
async fn what_was_set_free_while_a_kind_could_not_be_listed_is_not_deleted_when_it_is_seen() {
    // A server where the owner is gone and its dependent is still there.
    let server = Fake::new(|method, path| {
        let owner = json!({"uid": "O", "apiVersion": "v1", "kind": "K", "name": "o"});
        let dependent = json!({"apiVersion": "v1", "kind": "Late", "metadata":
            {"namespace": "n", "name": "d", "uid": "D", "resourceVersion": "7", "ownerReferences": [owner]}});
        let is_there = method != "GET" || path == "/api/v1/namespaces/n/lates/d";
        if is_there { (200, dependent) } else { refusal(404, "NotFound") }
    });
    let client = server.client();
    let (never, unheard) = crate::work::Heard::fake();
    let first = super::monitors::First { of: Default::default(), heard: unheard, since: tokio::time::Instant::now() };
    let collector = super::Collector {
        recorder: client::Recorder::new(client.clone(), "garbage-collector-controller", ""),
        client,
        graph: Default::default(),
        kinds: parking_lot::RwLock::new([served("ks", "K"), served("lates", "Late")].into()),
        first_lists: parking_lot::Mutex::new(vec![first]),
        freed: Default::default(),
        queue: Default::default(),
    };
    collector.see(Seen { uid: "O".into(), deleting: true, orphan: true, ..seen("o", &[]) });
    assert!(collector.orphan(&"O".into()).await.expect("a step").is_some(), "its dependents may be on their way");
    tokio::time::advance(super::monitors::SYNC_MAX).await;
    collector.freed.lock().extend((0..super::FREED_MAX).map(|n| n.to_string().into()));
    assert!(collector.orphan(&"O".into()).await.expect("a step").is_some(), "it stays where it could not be remembered");
    assert!(server.written().is_empty() && collector.is_freed(&"0".into()), "and none is forgotten for it");
    collector.freed.lock().remove("0");
    assert!(collector.orphan(&"O".into()).await.expect("a step").is_none(), "but it does not wait for ever");
    collector.gone(&"O".into());
    never.send_replace(true);
    let owner = Owner { uid: "O".into(), name: "o".into(), ..owner("O", false) };
    let place = Place { kind: kind("Late"), namespace: "n".into(), name: "d".into() };
    collector.see(Seen { uid: "D".into(), place, ..seen("d", &[owner]) });
    // The owner is looked for in vain, and who meant it is looked at.
    collector.attempt_delete(&"O".into()).await.expect("a step");
    collector.attempt_delete(&"D".into()).await.expect("a step");
    let written = server.written().join("\n");
    assert!(written.starts_with("PATCH /api/v1/namespaces/n/lates/d") && written.contains(r#""ownerReferences":[]"#), "{written}");
    assert!(!written.contains("DELETE"), "{written}");
}

#[tokio::test]
async fn what_is_written_all_the_time_goes_if_its_owners_stay_the_same() {
    for (adopted, deletes) in [(false, 2), (true, 1)] {
        let reads = AtomicUsize::new(0);
        // Each read is of another revision, and the first deletion comes too late for its own.
        let server = Fake::new(move |method, path| {
            let read = reads.fetch_add(usize::from(method == "GET" && path.ends_with("/lates/d")), Ordering::Relaxed);
            let owners = if adopted && read > 0 { json!([]) } else { json!([{"uid": "O", "apiVersion": "v1", "kind": "K", "name": "o"}]) };
            let metadata = json!({"namespace": "n", "name": "d", "uid": "D", "resourceVersion": (7 + read).to_string(), "ownerReferences": owners});
            match method {
                "GET" if path.ends_with("/ks/o") => refusal(404, "NotFound"),
                "DELETE" if read == 1 => refusal(409, "Conflict"),
                _ => (200, json!({"apiVersion": "v1", "kind": "Late", "metadata": metadata})),
            }
        });
        let client = server.client();
        let collector = super::Collector {
            recorder: client::Recorder::new(client.clone(), "garbage-collector-controller", ""),
            client,
            graph: Default::default(),
            kinds: parking_lot::RwLock::new([served("ks", "K"), served("lates", "Late")].into()),
            first_lists: Default::default(),
            freed: Default::default(),
            queue: Default::default(),
        };
        let owner = Owner { uid: "O".into(), name: "o".into(), ..owner("O", false) };
        let place = Place { kind: kind("Late"), namespace: "n".into(), name: "d".into() };
        collector.see(Seen { uid: "D".into(), place, ..seen("d", &[owner]) });
        let step = collector.attempt_delete(&"D".into()).await;
        assert_eq!(step.is_err(), adopted, "who has another owner by now is looked at again");
        let written = server.written();
        assert_eq!(written.len(), deletes, "{written:?}");
        assert!(written[0].contains("resourceVersion") && !written.last().is_some_and(|w| deletes == 2 && w.contains("resourceVersion")), "{written:?}");
    }
}
