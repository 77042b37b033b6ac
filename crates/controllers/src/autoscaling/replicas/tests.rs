//! Figures of the original's own tables (`replica_calculator_test.go`): the same in, the same out. Pods have two containers.

use serde_json::{Value, json};

use super::*;

const NOW_S: i64 = 1_800_000_000;

fn at(ago_s: i64) -> Timestamp {
    Timestamp::from_second(NOW_S - ago_s).expect("a time")
}

/// How a pod is: `r` ready, `u` never ready, `h` ready and started right now, `f` failed, `d` being deleted, `p` pending.
fn pod(name: usize, how: char, request: &str) -> Arc<Pod> {
    let phase = match how {
        'f' => "Failed",
        'p' => "Pending",
        _ => "Running",
    };
    let started = at(if how == 'h' { 0 } else { 7200 }).to_string();
    let ready = if "rh".contains(how) { "True" } else { "False" };
    let resources = if request.is_empty() { json!({}) } else { json!({"requests": {"cpu": request}}) };
    let containers: Vec<Value> = ["c1", "c2"].iter().map(|name| json!({"name": name, "resources": resources})).collect();
    let deleted = (how == 'd').then(|| at(1).to_string());
    let condition = json!({"type": "Ready", "status": ready, "lastTransitionTime": started});
    let value = json!({"metadata": {"name": name.to_string(), "deletionTimestamp": deleted}, "spec": {"containers": containers},
        "status": {"phase": phase, "startTime": started, "conditions": [condition]}});
    Arc::new(serde_json::from_value(value).expect("a pod"))
}

fn pods(how: &str, requests: &[&str]) -> Vec<Arc<Pod>> {
    how.chars().enumerate().map(|(i, how)| pod(i, how, requests.get(i % requests.len().max(1)).unwrap_or(&""))).collect()
}

fn samples(levels: &[i64]) -> Samples {
    let sample = |milli: &i64| Sample { milli: *milli, at: at(0), window: Duration::from_secs(60) };
    levels.iter().enumerate().map(|(i, milli)| (i.to_string(), sample(milli))).collect()
}

fn scene(pods: &[Arc<Pod>], replicas: i32) -> Scene<'_> {
    let tolerances = Tolerances { down: TOLERANCE, up: TOLERANCE };
    Scene { pods, replicas, status_replicas: replicas, tolerances, now: at(0) }
}

#[test]
fn a_share_of_the_requests() {
    // Levels are of one container and both use the same.
    for (how, levels, replicas, target, want, percent, average) in [
        ("rrr", &[300, 500, 700][..], 3, 30, 5, 50, 500),
        ("urr", &[300, 500, 700], 3, 30, 4, 60, 600),
        ("hrr", &[300, 500, 700], 3, 30, 4, 60, 600),
        ("ruu", &[400, 500, 700], 3, 30, 3, 40, 400),
        ("rhh", &[400, 500, 700], 3, 30, 3, 40, 400),
        ("rrff", &[500, 700], 2, 30, 4, 60, 600),
        ("rrdd", &[500, 700], 2, 30, 4, 60, 600),
        ("rrrrr", &[100, 300, 500, 250, 250], 5, 50, 3, 28, 280),
        ("rrruu", &[100, 300, 500, 250, 250], 5, 50, 2, 30, 300),
        ("rpppp", &[100], 5, 50, 1, 10, 100),
        ("rrrhh", &[100, 300, 500, 250, 250], 5, 50, 2, 30, 300),
        ("rrrrrff", &[100, 300, 500, 250, 250], 5, 50, 3, 28, 280),
        ("rrrrrdd", &[100, 300, 500, 250, 250], 5, 50, 3, 28, 280),
        // More was measured than there is.
        ("rrrr", &[4000, 9500, 3000, 7000, 3200, 2000], 4, 100, 24, 587, 5875),
        // Less.
        ("rr", &[1000], 2, 100, 2, 100, 1000),
        ("rr", &[1900], 2, 100, 2, 190, 1900),
        ("rr", &[600], 2, 100, 2, 60, 600),
        ("urr", &[100, 450], 3, 50, 3, 45, 450),
        ("hrr", &[100, 450], 3, 50, 3, 45, 450),
        ("urr", &[100, 2000], 3, 50, 4, 200, 2000),
        ("hrr", &[100, 2000], 3, 50, 4, 200, 2000),
        ("urrr", &[100, 100, 100], 4, 50, 3, 10, 100),
        ("rrr", &[100, 100], 2, 50, 2, 10, 100),
    ] {
        let all = pods(how, &["1"]);
        let both: Vec<i64> = levels.iter().map(|l| l * 2).collect();
        let found = for_utilization(&scene(&all, replicas), samples(&both), "cpu", "", target);
        assert_eq!(found, Ok(Utilization { replicas: want, percent, average_milli: average * 2 }), "{how} {levels:?}");
        if levels.len() <= how.len() {
            let found = for_utilization(&scene(&all, replicas), samples(levels), "cpu", "c2", target);
            assert_eq!(found, Ok(Utilization { replicas: want, percent, average_milli: average }), "one container: {how} {levels:?}");
        }
    }
    let all = pods("rrrr", &["1"]);
    let found = for_utilization(&scene(&all, 4), samples(&[800, 190]), "cpu", "", 100);
    assert_eq!(found, Ok(Utilization { replicas: 3, percent: 24, average_milli: 495 }), "what is missing uses all of its request");
    let all = pods("urrr", &["1", "1", "2", "2"]);
    let found = for_utilization(&scene(&all, 4), samples(&[400, 200, 200]), "cpu", "", 300);
    assert_eq!(found, Ok(Utilization { replicas: 2, percent: 6, average_milli: 200 }), "or of the aim, if that is more");
}

#[test]
fn tolerances_of_each_direction() {
    let all = pods("rrr", &["900m", "1", "1100m"]);
    for (down, up, levels, want, percent) in [
        (TOLERANCE, TOLERANCE, [1010, 1030, 1020], 3, 102),
        (0.0, 0.0, [909, 1010, 1111], 4, 101),
        (TOLERANCE, 2.0, [1890, 1910, 1900], 3, 190),
        (2.0, 0.08, [1100, 1080, 1090], 4, 109),
        (0.36, TOLERANCE, [660, 640, 650], 3, 65),
        (0.34, TOLERANCE, [660, 640, 650], 2, 65),
    ] {
        let scene = Scene { tolerances: Tolerances { down, up }, ..scene(&all, 3) };
        let found = for_utilization(&scene, samples(&levels.map(|l| l * 2)), "cpu", "", 100).expect("a proposal");
        assert_eq!((found.replicas, found.percent), (want, percent), "{down} {up}");
    }
    // Ten pods that ask for twice what they use, unevenly: just beyond the tolerance, and just within.
    let all = pods("rrrrrrrrrr", &["400m", "200m", "310m", "290m", "302m", "298m", "301m", "299m", "300m", "300m"]);
    for (target, want) in [(56, 9), (55, 10)] {
        let found = for_utilization(&scene(&all, 10), samples(&[300; 10]), "cpu", "", target).expect("a proposal");
        assert_eq!((found.replicas, found.percent, found.average_milli), (want, 50, 300), "{target}");
    }
}

#[test]
fn what_cannot_be_reckoned_is_told() {
    let error = |pods: &[Arc<Pod>], levels: Samples, container: &str| for_utilization(&scene(pods, 1), levels, "cpu", container, 100).err().unwrap_or_default();
    let one = pods("r", &["1"]);
    assert_eq!(error(&[], samples(&[1]), ""), "no pods returned by selector while calculating replica count");
    assert_eq!(error(&one, Samples::from([("older".to_owned(), Sample::default())]), ""), "no metrics returned matched known pods");
    assert_eq!(error(&pods("u", &["1"]), samples(&[1]), ""), "did not receive metrics for targeted pods (pods might be unready)");
    assert_eq!(error(&pods("r", &[]), samples(&[1]), ""), "missing request for cpu in container c1 of Pod 0");
    assert_eq!(error(&one, samples(&[1]), "c3"), "container c3 not found in Pod 0");
    let mut own = (*one[0]).clone();
    own.spec.get_or_insert_default().resources = serde_json::from_value(json!({"requests": {"memory": "1Gi"}})).ok();
    assert_eq!(request(&own, "cpu", ""), Ok(2000), "its containers' for what the pod does not say");
    own.spec.get_or_insert_default().resources = serde_json::from_value(json!({"requests": {"cpu": "3"}})).ok();
    assert_eq!((request(&own, "cpu", ""), request(&own, "cpu", "c1")), (Ok(3000), Ok(1000)));
    assert_eq!(request(&own, "hugepages-2Mi", ""), Err("missing pod-level request for hugepages-2Mi in Pod 0".to_owned()));
}

#[test]
fn an_average_of_each_pod() {
    for (how, levels, replicas, up, target, want, average) in [
        ("rrr", &[20000, 10000, 30000][..], 3, TOLERANCE, 15000, 4, 20000),
        // Readiness counts for CPU alone.
        ("rru", &[50000, 10000, 30000], 3, TOLERANCE, 15000, 6, 30000),
        ("uru", &[50000, 15000, 30000], 3, TOLERANCE, 15000, 7, 31666),
        ("rrrrr", &[12000; 5], 5, TOLERANCE, 20000, 3, 12000),
        ("rrr", &[20000, 21000, 21000], 3, TOLERANCE, 20000, 3, 20666),
        ("rrr", &[20000, 21000, 21000], 3, 0.01, 20000, 4, 20666),
        ("rrrrr", &[20000, 19000, 21000], 5, TOLERANCE, 20000, 5, 20000),
        ("rrr", &[10000, 10000], 2, TOLERANCE, 17000, 2, 10000),
    ] {
        let all = pods(how, &["1"]);
        let scene = Scene { tolerances: Tolerances { down: TOLERANCE, up }, ..scene(&all, replicas) };
        assert_eq!(for_average(&scene, samples(levels), "", target), Ok((want, average)), "{how} {levels:?}");
    }
}

#[test]
fn one_amount_of_the_whole() {
    for (how, usage, up, target, want) in [
        ("rrr", 20000, TOLERANCE, 15000, 4),
        ("rrr", i64::MAX, TOLERANCE, 1, i32::MAX),
        ("uru", 50000, TOLERANCE, 10000, 5),
        ("rrrrr", 12000, TOLERANCE, 20000, 3),
        ("rrr", 20666, TOLERANCE, 20000, 3),
        ("rrr", 20666, 0.01, 20000, 4),
        ("uru", 8600, TOLERANCE, 4400, 2),
        ("rrrrr", 8600, TOLERANCE, 14334, 3),
        ("rrr", 8600, TOLERANCE, 8888, 3),
        ("rrr", sum_of_values(&[i64::MAX / 2 + 1, i64::MAX / 2 + 1]), TOLERANCE, i64::MAX, 3),
    ] {
        let all = pods(how, &["1"]);
        let scene = Scene { tolerances: Tolerances { down: TOLERANCE, up }, ..scene(&all, i32::try_from(how.len()).expect("few")) };
        assert_eq!(for_value(&scene, usage, target), Ok(want), "{how} {usage}");
    }
    assert_eq!(for_value(&scene(&[], 0), 15000, 10000), Ok(2), "from none as many as there is work for");
    assert_eq!(for_value(&scene(&[], 0), 0, 10000), Ok(0));
    let none = "unable to calculate ready pods: no pods returned by selector while calculating replica count";
    assert_eq!(for_value(&scene(&[], 1), 20000, 10000), Err(none.to_owned()));
}

#[test]
fn each_ones_part_of_an_amount() {
    for (replicas, usage, up, target, want, part) in [
        (3, 20000, TOLERANCE, 5000, 4, 6667),
        (5, 6000, TOLERANCE, 2000, 3, 1200),
        (4, 20166, TOLERANCE, 5000, 4, 5042),
        (4, 20208, 0.01, 5000, 5, 5052),
        (1, i64::MAX, TOLERANCE, 1, i32::MAX, i64::MAX),
        (1, i64::MAX, TOLERANCE, i64::MAX, 1, i64::MAX),
        (3, 8600, TOLERANCE, 2150, 4, 2867),
        (5, 8600, TOLERANCE, 2867, 3, 1720),
        (3, 8600, TOLERANCE, 2900, 3, 2867),
        (3, 8600, 0.01, 2800, 4, 2867),
        (0, 8600, TOLERANCE, 4300, 2, i64::MAX),
    ] {
        let scene = Scene { tolerances: Tolerances { down: TOLERANCE, up }, ..scene(&[], replicas) };
        assert_eq!(for_part(&scene, usage, target), (want, part), "{replicas} {usage} {target}");
    }
    assert_eq!((sum_of_parts(&[1, 2]), sum_of_parts(&[i64::MAX, 1])), (3, i64::MAX));
}

#[test]
fn a_pod_that_begins_is_no_measure() {
    let warming = |started_s: i64, turned_s: i64, ready: &str, window_s: u64, measured_s: i64| {
        let condition = json!({"type": "Ready", "status": ready, "lastTransitionTime": at(turned_s).to_string()});
        let status = json!({"startTime": at(started_s).to_string(), "conditions": [condition]});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).expect("a pod");
        is_warming_up(&pod, &Sample { milli: 1, at: at(measured_s), window: Duration::from_secs(window_s) }, at(0))
    };
    assert!(!warming(60, 30, "True", 30, 0), "a whole window since it was ready");
    assert!(warming(60, 30, "True", 60, 0));
    assert!(warming(60, 30, "False", 30, 0));
    assert!(warming(600, 594, "False", 60, 0), "never ready since it began");
    assert!(!warming(600, 540, "False", 60, 0), "it was, before");
    assert!(!warming(400, 400, "True", 60, 300), "old measures will do when it has begun");
    assert!(is_warming_up(&Pod::default(), &Sample::default(), at(0)), "nothing is known of it");
}
