use client::Informer;
use serde_json::{Value, json};

use super::*;

/// What the tests' world has.
#[derive(Default)]
struct Made {
    slices: Vec<Value>,
    claims: Vec<Value>,
    rules: Vec<Value>,
    class: Value,
}

fn objects<K: client::Object + serde::de::DeserializeOwned>(all: &[Value]) -> Informer<K> {
    Informer::fixed(all.iter().map(|one| client::typed(one).expect("an object")))
}

fn slice(name: &str, pool: Value, more: Value) -> Value {
    let mut spec = json!({"driver": "d.io", "nodeName": "here", "pool": pool});
    spec.as_object_mut().expect("a spec").extend(more.as_object().cloned().unwrap_or_default());
    if spec["nodeName"].is_null() {
        spec.as_object_mut().expect("a spec").remove("nodeName");
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

fn pool(generation: i64, count: i64) -> Value {
    json!({"name": "pool", "generation": generation, "resourceSliceCount": count})
}

/// A slice that is a pool of its own.
fn whole(devices: Value) -> Value {
    slice("s", pool(1, 1), json!({"devices": devices}))
}

fn claim(requests: Value, more: Value) -> Value {
    let mut devices = json!({"requests": requests});
    devices.as_object_mut().expect("devices").extend(more.as_object().cloned().unwrap_or_default());
    json!({"metadata": {"namespace": "n", "name": "c", "uid": "c"}, "spec": {"devices": devices}})
}

fn exactly(name: &str, more: Value) -> Value {
    let mut exactly = json!({"deviceClassName": "gpu"});
    exactly.as_object_mut().expect("a request").extend(more.as_object().cloned().unwrap_or_default());
    json!({"name": name, "exactly": exactly})
}

fn allocated(device: &str, more: Value) -> Value {
    let mut result = json!({"request": "r", "driver": "d.io", "pool": "pool", "device": device});
    result.as_object_mut().expect("a result").extend(more.as_object().cloned().unwrap_or_default());
    let uid = format!("of-{device}-{more}");
    json!({"metadata": {"namespace": "n", "name": uid, "uid": uid}, "spec": {}, "status": {"allocation": {"devices": {"results": [result]}}}})
}

fn run(made: &Made, node: &str, claims: &[Value]) -> Result<Vec<Value>, String> {
    let class = json!({"metadata": {"name": "gpu"}, "spec": if made.class.is_null() { json!({}) } else { made.class.clone() }});
    let world = World {
        slices: objects(&made.slices),
        resource_claims: objects(&made.claims),
        taint_rules: objects(&made.rules),
        device_classes: objects(&[class]),
        ..World::empty()
    }
    .indexed();
    let node: Node = client::typed(&json!({"metadata": {"name": node, "labels": {"zone": "a"}}})).expect("a node");
    let claims: Vec<Arc<ResourceClaim>> = claims.iter().map(|claim| Arc::new(client::typed(claim).expect("a claim"))).collect();
    let found = allocate(&Supply::new(&world), &node, &claims)?;
    Ok(found.into_iter().map(|one| serde_json::to_value(one).expect("a tree")).collect())
}

/// The devices of the first claim, with their requests.
fn devices(found: &Result<Vec<Value>, String>) -> Result<String, String> {
    let results = found.as_ref().map_err(Clone::clone)?[0]["devices"]["results"].as_array().cloned().unwrap_or_default();
    let one = |result: &Value| format!("{}={}", result["request"].as_str().unwrap_or_default(), result["device"].as_str().unwrap_or_default());
    Ok(results.iter().map(one).collect::<Vec<_>>().join(" "))
}

fn told(made: &Made, claims: &[Value]) -> Result<String, String> {
    devices(&run(made, "here", claims))
}

fn none() -> Result<String, String> {
    Err("cannot allocate all claims".to_owned())
}

fn ok(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

#[test]
fn a_claim_gets_what_is_free_on_the_node() {
    let mut made = Made { slices: vec![whole(json!([{"name": "a"}, {"name": "b"}]))], ..Made::default() };
    let one = claim(json!([exactly("r", json!({}))]), json!({}));
    let found = run(&made, "here", std::slice::from_ref(&one));
    assert_eq!(devices(&found), ok("r=a"));
    let here = json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["here"]}]}]});
    assert_eq!(found.expect("devices")[0]["nodeSelector"], here);
    assert_eq!(devices(&run(&made, "there", std::slice::from_ref(&one))), none());
    // Taken by somebody; an administrator takes nothing from anybody, and gets what is taken.
    made.claims = vec![allocated("a", json!({})), allocated("b", json!({"adminAccess": true}))];
    assert_eq!(told(&made, std::slice::from_ref(&one)), ok("r=b"));
    let admin = claim(json!([exactly("r", json!({"adminAccess": true, "allocationMode": "All"}))]), json!({}));
    assert_eq!(told(&made, &[admin]), ok("r=a r=b"));
    // Two claims of a pod never get the same.
    assert_eq!(told(&made, &[one.clone(), one.clone()]), none());
    let two = claim(json!([exactly("r", json!({"count": 2}))]), json!({}));
    assert_eq!(told(&made, &[two]), none());
    let none_of_class = claim(json!([{"name": "r", "exactly": {"deviceClassName": "x"}}]), json!({}));
    let why = r#"claim n/c, request r: could not retrieve device class x: deviceclass.resource.k8s.io "x" not found"#;
    assert_eq!(told(&made, &[none_of_class]), Err(why.to_owned()));
}

#[test]
fn selectors_and_constraints_choose() {
    let device = |name: &str, model: &str, numa: i64| json!({"name": name, "attributes": {"model": {"string": model}, "x.io/numa": {"int": numa}}});
    let made = Made {
        slices: vec![whole(json!([device("a", "old", 0), device("b", "new", 1), device("c", "new", 0), device("d", "new", 1)]))],
        class: json!({"selectors": [{"cel": {"expression": "device.attributes['d.io'].model == 'new'"}}]}),
        ..Made::default()
    };
    let two = exactly("r", json!({"count": 2}));
    let constrained = |kind: &str| claim(json!([two]), json!({"constraints": [{kind: "x.io/numa"}]}));
    assert_eq!(told(&made, &[claim(json!([two]), json!({}))]), ok("r=b r=c"));
    assert_eq!(told(&made, &[constrained("matchAttribute")]), ok("r=b r=d"));
    assert_eq!(told(&made, &[constrained("distinctAttribute")]), ok("r=b r=c"));
    let short = claim(json!([two]), json!({"constraints": [{"matchAttribute": "d.io/model"}]}));
    assert_eq!(told(&made, &[short]), ok("r=b r=c"), "the driver's own, by its whole name");
    let three = claim(json!([exactly("r", json!({"count": 3}))]), json!({"constraints": [{"matchAttribute": "x.io/numa"}]}));
    assert_eq!(told(&made, &[three]), none());
    let wrong = claim(json!([exactly("r", json!({"selectors": [{"cel": {"expression": "device.attributes['d.io'].none == 1"}}]}))]), json!({}));
    let why = "claim n/c: selector #0 on device d.io/pool/b: CEL runtime error: no such key: none. consider using CEL optional chaining \
               (.? followed by orValue()) or guarding the check with has() for optional fields";
    assert_eq!(told(&made, &[wrong]), Err(why.to_owned()));
}

#[test]
fn alternatives_are_tried_in_order_and_bring_their_settings() {
    let settings = |driver: &str| json!({"opaque": {"driver": driver, "parameters": {}}});
    let made = Made { slices: vec![whole(json!([{"name": "a"}, {"name": "b"}]))], class: json!({"config": [settings("of-class")]}), ..Made::default() };
    let sub = |name: &str, count: i64| json!({"name": name, "deviceClassName": "gpu", "count": count});
    let request = json!({"name": "r", "firstAvailable": [sub("many", 3), sub("two", 2), sub("one", 1)]});
    let config = |request: &str| json!({"requests": [request], "opaque": {"driver": format!("of-{request}"), "parameters": {}}});
    let one = claim(json!([request]), json!({"config": [config("r/two"), config("r/one"), config("r")]}));
    let found = run(&made, "here", std::slice::from_ref(&one));
    assert_eq!(devices(&found), ok("r/two=a r/two=b"));
    let config = found.expect("devices")[0]["devices"]["config"].clone();
    let drivers: Vec<_> = config.as_array().into_iter().flatten().map(|one| (one["opaque"]["driver"].as_str(), one["requests"].is_null())).collect();
    assert_eq!(drivers, [(Some("of-class"), true), (Some("of-r/two"), true), (Some("of-r"), true)]);
    // Together with another request only one is left.
    let both = claim(json!([request, exactly("x", json!({}))]), json!({}));
    assert_eq!(told(&made, &[both]), ok("r/one=a x=b"));
}

#[test]
fn pools_must_be_whole_and_of_the_newest_generation() {
    let of = |name: &str, generation: i64, count: i64, device: &str| slice(name, pool(generation, count), json!({"devices": [{"name": device}]}));
    let one = claim(json!([exactly("r", json!({}))]), json!({}));
    let all = claim(json!([exactly("r", json!({"allocationMode": "All"}))]), json!({}));
    let with = |slices: Vec<Value>| Made { slices, ..Made::default() };
    assert_eq!(told(&with(vec![of("x", 1, 2, "a"), of("y", 1, 2, "b")]), std::slice::from_ref(&all)), ok("r=a r=b"));
    let missing = with(vec![of("x", 1, 2, "a")]);
    assert_eq!(told(&missing, std::slice::from_ref(&one)), none());
    let why = "claim n/c, request r: asks for all devices, but resource pool d.io/pool is currently being updated";
    assert_eq!(told(&missing, std::slice::from_ref(&all)), Err(why.to_owned()));
    assert_eq!(told(&with(vec![of("x", 1, 1, "a"), of("y", 2, 1, "b")]), std::slice::from_ref(&one)), ok("r=b"));
    let twice = with(vec![of("x", 1, 2, "a"), of("y", 1, 2, "a")]);
    assert_eq!(told(&twice, std::slice::from_ref(&one)), Err("invalid resource pools were encountered".to_owned()));
    // The newer generation has nothing for this node: what it had is no more.
    let moved = slice("y", pool(2, 1), json!({"nodeName": "there", "devices": [{"name": "b"}]}));
    assert_eq!(told(&with(vec![of("x", 1, 2, "a"), moved]), std::slice::from_ref(&one)), none());
    // A pool of a zone; each device for itself.
    let zone = json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]});
    let shared = with(vec![slice("x", pool(1, 1), json!({"nodeName": null, "nodeSelector": zone, "devices": [{"name": "a"}]}))]);
    let found = run(&shared, "anywhere", std::slice::from_ref(&one));
    assert_eq!(found.expect("devices")[0]["nodeSelector"], zone);
    let each = json!([{"name": "a", "nodeName": "there"}, {"name": "b", "allNodes": true}]);
    let each = with(vec![slice("x", pool(1, 1), json!({"nodeName": null, "perDeviceNodeSelection": true, "devices": each}))]);
    let found = run(&each, "here", std::slice::from_ref(&one));
    assert_eq!((devices(&found), found.expect("devices")[0].get("nodeSelector")), (ok("r=b"), None));
}

#[test]
fn taints_keep_claims_away_that_do_not_bear_them() {
    let taint = |effect: &str| json!({"key": "sick", "effect": effect});
    let plain = claim(json!([exactly("r", json!({}))]), json!({}));
    let bears = claim(json!([exactly("r", json!({"tolerations": [{"key": "sick", "operator": "Exists"}]}))]), json!({}));
    for (effect, kept_away) in [("NoSchedule", true), ("NoExecute", true), ("None", false)] {
        let own = Made { slices: vec![whole(json!([{"name": "a", "taints": [taint(effect)]}]))], ..Made::default() };
        let rule = json!({"metadata": {"name": "r"}, "spec": {"deviceSelector": {"pool": "pool"}, "taint": taint(effect)}});
        let ruled = Made { slices: vec![whole(json!([{"name": "a"}]))], rules: vec![rule], ..Made::default() };
        for made in [own, ruled] {
            assert_eq!(told(&made, std::slice::from_ref(&plain)), if kept_away { none() } else { ok("r=a") }, "{effect}");
            assert_eq!(told(&made, std::slice::from_ref(&bears)), ok("r=a"), "{effect}");
        }
    }
}

#[test]
fn partitions_share_the_counters_of_their_pool() {
    let counters = slice("c", pool(1, 2), json!({"sharedCounters": [{"name": "set", "counters": {"memory": {"value": "40Gi"}}}]}));
    let part = |name: &str, memory: &str| json!({"name": name, "consumesCounters": [{"counterSet": "set", "counters": {"memory": {"value": memory}}}]});
    let parts = |devices: Value| slice("d", pool(1, 2), json!({"devices": devices}));
    let mut made =
        Made { slices: vec![counters.clone(), parts(json!([part("whole", "40Gi"), part("half", "20Gi"), part("rest", "20Gi")]))], ..Made::default() };
    let two = claim(json!([exactly("r", json!({"count": 2}))]), json!({}));
    assert_eq!(told(&made, std::slice::from_ref(&two)), ok("r=half r=rest"));
    made.claims = vec![allocated("half", json!({}))];
    assert_eq!(told(&made, std::slice::from_ref(&two)), none());
    assert_eq!(told(&made, &[claim(json!([exactly("r", json!({}))]), json!({}))]), ok("r=rest"));
    let unknown = json!({"name": "x", "consumesCounters": [{"counterSet": "none", "counters": {"memory": {"value": "1"}}}]});
    let made = Made { slices: vec![counters, parts(json!([unknown]))], ..Made::default() };
    assert_eq!(told(&made, &[claim(json!([exactly("r", json!({}))]), json!({}))]), Err("invalid resource pools were encountered".to_owned()));
}

#[test]
fn capacity_is_shared_and_rounded() {
    let policy = json!({"default": "1Gi", "validRange": {"min": "1Gi", "step": "2Gi", "max": "9Gi"}});
    let device = json!({"name": "a", "allowMultipleAllocations": true, "capacity": {"memory": {"value": "10Gi", "requestPolicy": policy}}});
    let mut made = Made { slices: vec![whole(json!([device]))], ..Made::default() };
    let asks = |amount: &str| claim(json!([exactly("r", json!({"capacity": {"requests": {"memory": amount}}}))]), json!({}));
    let used = |made: &Made, claims: &[Value]| -> Result<Vec<String>, String> {
        let found = run(made, "here", claims)?;
        let results = found.iter().map(|one| one["devices"]["results"][0].clone());
        Ok(results
            .map(|result| {
                assert!(result["shareID"].as_str().is_some_and(|id| id.len() == 36));
                result["consumedCapacity"]["memory"].as_str().unwrap_or_default().to_owned()
            })
            .collect())
    };
    assert_eq!(
        used(&made, &[asks("2Gi"), asks("1Gi"), claim(json!([exactly("r", json!({}))]), json!({}))]),
        Ok(vec!["3Gi".to_owned(), "1Gi".to_owned(), "1Gi".to_owned()])
    );
    assert_eq!(used(&made, &[asks("5Gi"), asks("6Gi")]), Err("cannot allocate all claims".to_owned()));
    assert_eq!(used(&made, &[asks("10Gi")]), Err("cannot allocate all claims".to_owned()), "more than the policy allows");
    made.claims = vec![allocated("a", json!({"shareID": "s", "consumedCapacity": {"memory": "9Gi"}}))];
    assert_eq!(used(&made, &[asks("1Gi")]), Ok(vec!["1Gi".to_owned()]));
    assert_eq!(used(&made, &[asks("2Gi")]), Err("cannot allocate all claims".to_owned()));
    let unknown = claim(json!([exactly("r", json!({"capacity": {"requests": {"bandwidth": "1"}}}))]), json!({}));
    assert_eq!(used(&made, &[unknown]), Err("cannot allocate all claims".to_owned()));
}

#[test]
fn a_search_without_end_ends() {
    // Forty devices, of which no twenty have the same place: there are more combinations than anybody tries.
    let devices: Vec<Value> = (0..40).map(|n| json!({"name": format!("d{n:02}"), "attributes": {"x.io/a": {"int": n % 2}, "x.io/b": {"int": n}}})).collect();
    let made = Made { slices: vec![whole(json!(devices))], ..Made::default() };
    let constraints = json!({"constraints": [{"matchAttribute": "x.io/a"}, {"distinctAttribute": "x.io/b"}]});
    let asks = claim(json!([exactly("r", json!({"count": 15})), exactly("s", json!({"count": 15}))]), constraints);
    assert_eq!(told(&made, &[asks]), Err("node here: timed out trying to allocate devices".to_owned()));
    // Alternatives that each take the one device that there is, and a request that nothing suits.
    let shared = Made { slices: vec![whole(json!([{"name": "a", "allowMultipleAllocations": true}]))], ..Made::default() };
    let all = |n: usize| json!({"name": format!("x{n}"), "deviceClassName": "gpu", "allocationMode": "All"});
    let mut requests: Vec<Value> = (0..20).map(|r| json!({"name": format!("r{r}"), "firstAvailable": (0..8).map(all).collect::<Vec<_>>()})).collect();
    requests.push(exactly("none", json!({"allocationMode": "All", "selectors": [{"cel": {"expression": "false"}}]})));
    assert_eq!(told(&shared, &[claim(json!(requests), json!({}))]), Err("node here: timed out trying to allocate devices".to_owned()));
    let many = claim(json!([exactly("r", json!({"count": 33}))]), json!({}));
    let why = "claim n/c, request r: adding 33 devices exceeds the claim limit of 32, with 0 already accounted for";
    assert_eq!(told(&made, &[many]), Err(why.to_owned()));
}
