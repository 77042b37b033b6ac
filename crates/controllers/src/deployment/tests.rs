//! Rolling, scaling and telling, without a server.

use std::sync::Arc;

use client::Meta;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::sets::{self, Set, available, size, sum};
use super::{new_set, plan, rollback, status};

fn deployment(replicas: i32, surge: &str, unavailable: &str) -> Deployment {
    let part = |text: &str| text.parse::<i32>().map_or_else(|_| json!(text), |n| json!(n));
    serde_json::from_value(json!({
        "metadata": {"name": "d", "namespace": "n", "uid": "u", "generation": 1},
        "spec": {
            "replicas": replicas, "progressDeadlineSeconds": 600, "selector": {"matchLabels": {"app": "a"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": part(surge), "maxUnavailable": part(unavailable)}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}},
        },
    }))
    .unwrap_or_else(|e| panic!("{e}"))
}

/// A set of this size, all of whose pods are available.
fn set(name: &str, replicas: i32, age: i64) -> Set {
    let mut rs: ReplicaSet = serde_json::from_value(json!({
        "metadata": {"name": name, "uid": name},
        "spec": {"replicas": replicas, "selector": {}},
        "status": {"replicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas, "terminatingReplicas": 0},
    }))
    .unwrap_or_else(|e| panic!("{e}"));
    rs.metadata.creation_timestamp = Some(crate::meta::seconds(Timestamp::from_second(1_000_000 - age).unwrap_or_default()));
    Arc::new(rs)
}

fn with(rs: &Set, replicas: i32, ready: i32) -> Set {
    let mut rs = (**rs).clone();
    rs.spec.replicas = Some(replicas);
    let status = rs.status.get_or_insert_default();
    status.replicas = replicas;
    status.available_replicas = Some(ready.min(replicas));
    Arc::new(rs)
}

#[test]
fn fence_posts_round_as_upstream() {
    for (replicas, surge, unavailable, want) in [
        (10, "25%", "25%", (3, 2)),
        (1, "25%", "25%", (1, 0)),
        (3, "25%", "25%", (1, 0)),
        (2, "0", "0%", (0, 1)),
        (5, "100%", "0", (5, 0)),
        (0, "25%", "25%", (0, 1)),
    ] {
        assert_eq!(sets::fence_posts(&deployment(replicas, surge, unavailable)), want, "{replicas} {surge} {unavailable}");
    }
}

/// Rolls from one set to another while pods become available one by one, in any order that the seed gives; the bounds
/// must hold at every step and the roll must end.
#[test]
fn a_rolling_update_keeps_its_bounds_and_ends() {
    for seed in 0u32..200 {
        let mut random = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
        let mut next = |n: i32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            i32::try_from((random >> 8) % u32::try_from(n.max(1)).unwrap_or(1)).unwrap_or(0)
        };
        let replicas = 1 + next(12);
        let (surge, unavailable) = (next(4), next(4));
        let d = deployment(replicas, &surge.to_string(), &unavailable.to_string());
        let (surge, unavailable) = sets::fence_posts(&d);
        let (mut new, mut old) = (set("new", 0, 0), set("old", replicas, 10));
        let mut steps = 0;
        while size(&new) != replicas || size(&old) != 0 || available(&new) != replicas {
            steps += 1;
            assert!(steps < 200, "seed {seed}: new {} old {}", size(&new), size(&old));
            let all = [old.clone(), new.clone()];
            if let Some((_, to)) = plan::roll_new(&d, &all, &new) {
                new = with(&new, to, available(&new));
            } else {
                for (_, to) in plan::roll_old(&d, &all, &new, std::slice::from_ref(&old)) {
                    old = with(&old, to, available(&old));
                }
            }
            if next(2) == 0 && available(&new) < size(&new) {
                new = with(&new, size(&new), available(&new) + 1);
            }
            let all = [old.clone(), new.clone()];
            assert!(sum(&all, size) <= replicas + surge, "seed {seed}: too many");
            assert!(sum(&all, available) >= replicas - unavailable.min(replicas), "seed {seed}: too few available");
        }
    }
}

#[test]
fn pods_that_do_not_serve_are_replaced_first() {
    let d = deployment(10, "2", "2");
    let (sick, well) = (with(&set("sick", 0, 20), 4, 0), set("well", 6, 10));
    let new = with(&set("new", 0, 0), 2, 0);
    let all = [sick.clone(), well.clone(), new.clone()];
    let step = plan::roll_old(&d, &all, &new, &[sick, well]);
    let told: Vec<_> = step.iter().map(|(rs, to)| (rs.name().to_owned(), *to)).collect();
    assert_eq!(told, [("sick".to_owned(), 2)], "of twelve two are new and not up yet, eight must be left");
}

/// An old set was made smaller and has not said so yet when the new one serves already.
#[test]
fn a_status_that_is_behind_takes_nobody_who_serves() {
    let d = deployment(3, "1", "0");
    let (told, new) = (set("old", 3, 100), set("new", 2, 1));
    let mut behind = (*told).clone();
    behind.spec.replicas = Some(2);
    let behind = Arc::new(behind);
    assert_eq!((size(&behind), available(&behind)), (2, 3));
    let step = plan::roll_old(&d, &[behind.clone(), new.clone()], &new, &[behind]);
    assert_eq!(step.iter().map(|(_, to)| *to).collect::<Vec<_>>(), [1], "two new ones and one old one serve");
}

#[test]
fn scaling_is_in_proportion_and_the_rest_goes_to_the_largest() {
    let noted = |rs: &Set, desired, max| {
        let mut rs = (**rs).clone();
        sets::set_sizes(&mut rs, desired, max);
        Arc::new(rs)
    };
    let sizes = |d: &Deployment, new: &Set, old: &[Set]| {
        let mut told: Vec<_> = plan::scale(d, Some(new), old).into_iter().map(|(rs, to)| (rs.name().to_owned(), to)).collect();
        told.sort();
        told
    };
    let (new, old) = (noted(&set("new", 5, 0), 10, 10), noted(&set("old", 5, 10), 10, 10));
    let d = deployment(20, "0", "1");
    assert_eq!(sizes(&d, &new, std::slice::from_ref(&old)), [("new".to_owned(), 10), ("old".to_owned(), 10)]);
    let (new, old) = (noted(&set("new", 2, 0), 10, 12), noted(&set("old", 8, 10), 10, 12));
    let d = deployment(5, "2", "0");
    assert_eq!(
        sizes(&d, &new, std::slice::from_ref(&old)),
        [("new".to_owned(), 2), ("old".to_owned(), 5)],
        "7 in all: the share of the old set takes all three"
    );
    assert_eq!(sizes(&deployment(0, "2", "0"), &new, std::slice::from_ref(&old)), [("new".to_owned(), 0), ("old".to_owned(), 0)]);
    let alone = plan::scale(&deployment(7, "2", "0"), Some(&set("new", 3, 0)), &[set("old", 0, 10)]);
    assert_eq!(alone.iter().map(|(rs, to)| (rs.name(), *to)).collect::<Vec<_>>(), [("new", 7)]);
}

#[test]
fn the_history_keeps_the_newest_idle_sets() {
    let mut d = deployment(3, "1", "0");
    d.spec.revision_history_limit = Some(2);
    let idle = |name: &str, revision: &str| {
        let mut rs = (*set(name, 0, 5)).clone();
        crate::meta::annotations_mut(&mut rs).insert(sets::REVISION.to_owned(), revision.to_owned());
        Arc::new(rs)
    };
    let old = [idle("c", "3"), idle("a", "1"), idle("d", "10"), set("busy", 1, 5)];
    let gone: Vec<_> = plan::surplus(&d, &old).iter().map(|rs| rs.name().to_owned()).collect();
    assert_eq!(gone, ["a"], "the busy one, without a revision, is first and stays");
    d.spec.paused = Some(true);
    assert!(plan::cleans_up_paused(&d));
    crate::meta::annotations_mut(&mut d).insert(sets::ROLLBACK.to_owned(), "1".to_owned());
    assert!(!plan::cleans_up_paused(&d), "what it is to go back to stays");
}

#[test]
fn a_template_has_one_hash_and_one_set() {
    let mut d = deployment(3, "1", "0");
    let rs = new_set(&d);
    let hash = rs.label(sets::HASH_LABEL).unwrap_or_default().to_owned();
    assert_eq!(rs.name(), format!("d-{hash}"));
    assert!(hash.len() >= 8 && hash.chars().all(|c| "bcdfghjklmnpqrstvwxz2456789".contains(c)), "{hash}");
    let rs = Arc::new(rs);
    assert!(sets::find_new(&d, std::slice::from_ref(&rs)).is_some());
    d.status.get_or_insert_default().collision_count = Some(1);
    assert_ne!(new_set(&d).name(), rs.name(), "a collision gives another name");
    d.spec.template.spec.get_or_insert_default().containers[0].image = Some("v2".to_owned());
    assert!(sets::find_new(&d, &[rs]).is_none());
}

#[test]
fn of_a_long_name_the_hash_stays() {
    let mut d = deployment(3, "1", "0");
    for length in [240, 253] {
        d.metadata.name = Some("d".repeat(length));
        let rs = new_set(&d);
        assert!(rs.name().len() <= 253, "{}", rs.name());
        assert!(rs.label(sets::HASH_LABEL).is_some_and(|hash| rs.name().ends_with(&format!("d-{hash}"))), "{}", rs.name());
    }
}

#[test]
fn revisions_are_noted_with_their_history() {
    let d = deployment(3, "1", "0");
    let mut rs = new_set(&d);
    assert!(sets::annotate(&d, &mut rs, 1, false));
    assert!(!sets::annotate(&d, &mut rs, 1, true));
    assert!(sets::annotate(&d, &mut rs, 3, true));
    assert!(sets::annotate(&d, &mut rs, 5, true));
    assert_eq!(rs.annotation("deployment.kubernetes.io/revision-history"), Some("1,3"));
    assert_eq!(rs.annotation("deployment.kubernetes.io/max-replicas"), Some("4"));
}

#[test]
fn progress_is_told_as_upstream_tells_it() {
    let mut d = deployment(2, "1", "0");
    let at = |second: i64| Timestamp::from_second(1_000_000 + second).unwrap_or_default();
    let told = |s: &DeploymentStatus| {
        let c = status::condition(s, "Progressing").cloned().unwrap_or_default();
        format!("{} {} {}", c.status.unwrap_or_default(), c.reason.unwrap_or_default(), c.message.unwrap_or_default())
    };
    let up = with(&set("new", 0, 0), 2, 1);
    let first = status::rolled(&d, std::slice::from_ref(&up), Some(&up), at(0));
    assert_eq!(told(&first), r#"True ReplicaSetUpdated ReplicaSet "new" is progressing."#);
    d.status = Some(first.clone());
    assert!(status::look_again(&d, &first, at(10)).is_some_and(|a| a.as_secs() == 591));
    let late = status::rolled(&d, std::slice::from_ref(&up), Some(&up), at(601));
    assert_eq!(told(&late), r#"False ProgressDeadlineExceeded ReplicaSet "new" has timed out progressing."#);
    assert!(status::look_again(&d, &late, at(601)).is_none());
    let done = status::rolled(&d, &[set("new", 2, 0)], Some(&set("new", 2, 0)), at(20));
    assert_eq!(told(&done), r#"True NewReplicaSetAvailable ReplicaSet "new" has successfully progressed."#);
    let available = status::condition(&done, "Available").cloned().unwrap_or_default();
    assert_eq!((available.status.as_deref(), available.reason.as_deref()), (Some("True"), Some("MinimumReplicasAvailable")));
    assert_eq!(done.terminating_replicas, Some(0));
}

#[test]
fn the_way_back_takes_template_and_notes_of_the_revision() {
    let mut d = deployment(3, "1", "1");
    d.metadata.annotations = Some(
        [("deprecated.deployment.rollback.to", "0"), ("cause", "edit"), ("deployment.kubernetes.io/revision", "2")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
    );
    let of = |name: &str, revision: &str, image: &str, cause: &str| {
        let mut rs = (*set(name, 1, 0)).clone();
        let notes = [("deployment.kubernetes.io/revision", revision), ("cause", cause), ("deployment.kubernetes.io/desired-replicas", "3")];
        rs.metadata.annotations = Some(notes.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        let labels = json!({"app": "a", "pod-template-hash": "x"});
        rs.spec.template = serde_json::from_value(json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": image}]}})).ok();
        Arc::new(rs)
    };
    let all = [of("old", "1", "v0", "create"), of("new", "2", "v1", "edit")];
    assert_eq!(rollback::wished(&d), Some(0));
    let (back, told) = rollback::back(&d, &all, 0);
    assert_eq!((told.warning, told.reason, told.message.as_str()), (false, "DeploymentRollback", "Rolled back deployment \"d\" to revision 1"));
    let image = back.spec.template.spec.as_ref().and_then(|s| s.containers[0].image.clone());
    let labels = back.spec.template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    assert_eq!((image.as_deref(), labels.len()), (Some("v0"), 1), "without the hash");
    let notes: Vec<_> = back.metadata.annotations.iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(notes, ["cause=create", "deployment.kubernetes.io/revision=2"]);
    for (revision, sets, reason) in [
        (7, &all[..], "DeploymentRollbackRevisionNotFound"),
        (0, &all[1..], "DeploymentRollbackRevisionNotFound"),
        (2, &all[..], "DeploymentRollbackTemplateUnchanged"),
    ] {
        let (kept, told) = rollback::back(&d, sets, revision);
        assert_eq!((told.reason, rollback::wished(&kept), kept.spec == d.spec), (reason, None, true), "the wish is taken away");
    }
}

#[test]
fn a_complete_roll_out_that_lost_a_pod_waits_for_no_deadline() {
    let (d, now) = (deployment(3, "1", "1"), client::timestamp());
    let mut lame =
        DeploymentStatus { replicas: Some(3), updated_replicas: Some(3), available_replicas: Some(2), observed_generation: Some(1), ..Default::default() };
    status::set(&mut lame, status::PROGRESSING, "True", status::COMPLETE, String::new(), now);
    assert_eq!(status::look_again(&d, &lame, now), None);
    status::set(&mut lame, status::PROGRESSING, "True", "ReplicaSetUpdated", String::new(), now);
    assert!(status::look_again(&d, &lame, now).is_some());
}
