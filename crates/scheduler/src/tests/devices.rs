//! Pods with claims of devices, from the claim to the binding.

use super::*;

const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/shop/resourceclaims";

fn claim(fake: &Fake, name: &str, status: Value) {
    let requests = json!([{"name": "r", "exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1}}]);
    let meta = json!({"namespace": "shop", "name": name, "uid": name});
    fake.put(&format!("{CLAIMS}/{name}"), json!({"metadata": meta, "spec": {"devices": {"requests": requests}}, "status": status}));
}

fn slice(fake: &Fake, devices: Value) {
    let pool = json!({"name": "n1", "generation": 1, "resourceSliceCount": 1});
    let spec = json!({"driver": "d.io", "nodeName": "n1", "pool": pool, "devices": devices});
    fake.put("/apis/resource.k8s.io/v1/resourceslices/s", json!({"metadata": {"name": "s"}, "spec": spec}));
}

fn class(fake: &Fake) {
    fake.put("/apis/resource.k8s.io/v1/deviceclasses/gpu", json!({"metadata": {"name": "gpu"}, "spec": {}}));
}

fn user(name: &str, claim: Value) -> Value {
    let mut it = pod(name, "1", 0);
    let mut named = json!({"name": "c"});
    merge(&mut named, &claim);
    it["spec"]["resourceClaims"] = json!([named]);
    it
}

/// Waits until a claim's status is so.
async fn status(fake: &Fake, name: &str, is: impl Fn(&Value) -> bool) -> Value {
    let path = format!("{CLAIMS}/{name}");
    fake.until(|s| s.objects.get(&path).filter(|claim| is(&claim["status"])).cloned()).await
}

#[tokio::test(start_paused = true)]
async fn a_claim_gets_its_device_before_its_pod_is_bound() {
    let (fake, _token) = start();
    fake.put("/api/v1/nodes/n1", node("4"));
    claim(&fake, "one", json!({}));
    claim(&fake, "two", json!({}));
    fake.put(&path_of("web"), user("web", json!({"resourceClaimName": "one"})));
    let told = "0/1 nodes are available: request r: device class gpu does not exist. preemption: 0/1 nodes are available: 1 Preemption is not helpful \
                for scheduling.";
    assert_eq!(fake.event("web", "FailedScheduling").await, told);
    class(&fake);
    slice(&fake, json!([{"name": "a"}]));
    assert_eq!(fake.on_node("web").await, "n1");
    let one = fake.get(&format!("{CLAIMS}/one"));
    assert_eq!(one["metadata"]["finalizers"], json!(["resource.kubernetes.io/delete-protection"]));
    assert_eq!(one["status"]["allocation"]["devices"]["results"], json!([{"request": "r", "driver": "d.io", "pool": "n1", "device": "a"}]));
    assert_eq!(one["status"]["reservedFor"], json!([{"resource": "pods", "name": "web", "uid": "web"}]));
    assert!(one["status"]["allocation"]["allocationTimestamp"].is_string());
    // Another pod shares the claim; one with a claim of its own finds nothing, until that is given back.
    fake.put(&path_of("beside"), user("beside", json!({"resourceClaimName": "one"})));
    fake.on_node("beside").await;
    assert_eq!(fake.get(&format!("{CLAIMS}/one"))["status"]["reservedFor"].as_array().map(Vec::len), Some(2));
    fake.put(&path_of("late"), user("late", json!({"resourceClaimName": "two"})));
    let told = fake.event("late", "FailedScheduling").await;
    assert!(told.starts_with("0/1 nodes are available: 1 cannot allocate all claims. preemption: "), "{told}");
    claim(&fake, "one", json!({}));
    assert_eq!(fake.on_node("late").await, "n1");
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_claim_is_not_made_yet_is_held_back() {
    let (fake, _token) = start();
    fake.put("/api/v1/nodes/n1", node("4"));
    class(&fake);
    slice(&fake, json!([{"name": "a"}]));
    let mut web = user("web", json!({"resourceClaimTemplateName": "t"}));
    fake.put(&path_of("web"), web.clone());
    fake.put(&path_of("other"), pod("other", "1", 0));
    fake.on_node("other").await;
    assert!(fake.get(&path_of("web"))["spec"]["nodeName"].is_null());
    web["status"]["resourceClaimStatuses"] = json!([{"name": "c", "resourceClaimName": "made"}]);
    fake.put(&path_of("web"), web);
    // Somebody else's of that name, and then its own.
    claim(&fake, "made", json!({}));
    fake.remove(&format!("{CLAIMS}/made"));
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "web", "controller": true});
    let requests = json!([{"name": "r", "exactly": {"deviceClassName": "gpu"}}]);
    let meta = json!({"namespace": "shop", "name": "made", "uid": "made-2", "ownerReferences": [owner]});
    fake.put(&format!("{CLAIMS}/made"), json!({"metadata": meta, "spec": {"devices": {"requests": requests}}}));
    assert_eq!(fake.on_node("web").await, "n1");
    let told = |e: &Value| e["regarding"]["name"] == "web" && e["reason"] == "FailedScheduling";
    assert!(!fake.state.lock().objects.values().any(told), "it was not tried before");
}

#[tokio::test(start_paused = true)]
async fn what_is_of_no_use_is_given_back_and_found_anew() {
    let (fake, _token) = start();
    fake.put("/api/v1/nodes/n1", node("4"));
    class(&fake);
    slice(&fake, json!([{"name": "a"}]));
    let elsewhere = json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["gone"]}]}]});
    let result = json!({"request": "r", "driver": "d.io", "pool": "gone", "device": "x"});
    claim(&fake, "one", json!({"allocation": {"devices": {"results": [result]}, "nodeSelector": elsewhere}}));
    // Whatever its maker says of it: it is the pod's by name alone.
    let mut one = fake.get(&format!("{CLAIMS}/one"));
    one["metadata"]["annotations"] = json!({"resource.kubernetes.io/extended-resource-claim": "true"});
    fake.put(&format!("{CLAIMS}/one"), one);
    fake.put(&path_of("web"), user("web", json!({"resourceClaimName": "one"})));
    let told = fake.event("web", "FailedScheduling").await;
    let why = "0/1 nodes are available: 1 resourceclaim not available on the node. deallocation of ResourceClaim completed, preemption: ";
    assert!(told.starts_with(why), "{told}");
    assert_eq!(fake.on_node("web").await, "n1");
    assert_eq!(fake.get(&format!("{CLAIMS}/one"))["status"]["allocation"]["devices"]["results"][0]["device"], "a");
}

#[tokio::test(start_paused = true)]
async fn what_is_allocated_stays_where_another_claim_is_the_hindrance() {
    let (fake, _token) = start();
    fake.put("/api/v1/nodes/n1", node("4"));
    class(&fake);
    let elsewhere = json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["gone"]}]}]});
    let result = json!({"request": "r", "driver": "d.io", "pool": "gone", "device": "x"});
    claim(&fake, "one", json!({"allocation": {"devices": {"results": [result]}, "nodeSelector": elsewhere}}));
    claim(&fake, "two", json!({}));
    let mut web = user("web", json!({"resourceClaimName": "one"}));
    web["spec"]["resourceClaims"] = json!([{"name": "c", "resourceClaimName": "one"}, {"name": "d", "resourceClaimName": "two"}]);
    fake.put(&path_of("web"), web);
    let told = fake.event("web", "FailedScheduling").await;
    assert!(told.starts_with("0/1 nodes are available: 1 cannot allocate all claims. preemption: "), "{told}");
    assert!(fake.get(&format!("{CLAIMS}/one"))["status"]["allocation"].is_object());
}

#[tokio::test(start_paused = true)]
async fn a_claim_for_extended_resources_that_another_decision_left_goes_first() {
    let (fake, _token) = start();
    fake.put("/api/v1/nodes/n1", node("4"));
    let class = json!({"metadata": {"name": "gpu"}, "spec": {"extendedResourceName": "d.io/gpu"}});
    fake.put("/apis/resource.k8s.io/v1/deviceclasses/gpu", class);
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "web", "controller": true});
    let meta = json!({"namespace": "shop", "name": "left", "uid": "left", "ownerReferences": [owner],
        "annotations": {"resource.kubernetes.io/extended-resource-claim": "true"}});
    let left = format!("{CLAIMS}/left");
    fake.put(&left, json!({"metadata": meta, "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}}));
    let mut web = pod("web", "1", 0);
    web["spec"]["containers"][0]["resources"]["requests"]["d.io/gpu"] = "1".into();
    fake.put(&path_of("web"), web);
    let told = "0/1 nodes are available: 1 cannot schedule extended resource claim. deletion of ResourceClaim completed, preemption: 0/1 nodes are \
                available: 1 Preemption is not helpful for scheduling.";
    assert_eq!(fake.event("web", "FailedScheduling").await, told);
    fake.until(|s| (!s.objects.contains_key(&left)).then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_has_all_the_users_it_may_is_waited_for() {
    let (fake, _token) = start();
    fake.put("/api/v1/nodes/n1", node("4"));
    let result = json!({"request": "r", "driver": "d.io", "pool": "n1", "device": "a"});
    let used = |by: usize| {
        let users: Vec<Value> = (0..by).map(|at| json!({"resource": "pods", "name": format!("p{at}"), "uid": format!("p{at}")})).collect();
        json!({"allocation": {"devices": {"results": [result.clone()]}}, "reservedFor": users})
    };
    claim(&fake, "one", used(256));
    fake.put(&path_of("web"), user("web", json!({"resourceClaimName": "one"})));
    let told = fake.event("web", "FailedScheduling").await;
    assert!(told.starts_with("0/1 nodes are available: resourceclaim in use. preemption: "), "{told}");
    claim(&fake, "one", used(255));
    assert_eq!(fake.on_node("web").await, "n1");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_its_driver_must_bind_is_waited_for() {
    let (fake, _token) = start();
    fake.put("/api/v1/nodes/n1", node("4"));
    class(&fake);
    slice(&fake, json!([{"name": "a", "bindingConditions": ["ready"], "bindingFailureConditions": ["broken"], "bindsToNode": true}]));
    claim(&fake, "one", json!({}));
    fake.put(&path_of("web"), user("web", json!({"resourceClaimName": "one"})));
    assert_eq!(fake.event("web", "BindingConditionsPending").await, "waiting for binding conditions for device on node n1");
    let mut one = status(&fake, "one", |status| status["allocation"].is_object()).await;
    assert!(fake.get(&path_of("web"))["spec"]["nodeName"].is_null());
    let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let device = |kind: &str| json!([{"driver": "d.io", "pool": "n1", "device": "a", "conditions": [condition(kind)]}]);
    one["status"]["devices"] = device("broken");
    fake.put(&format!("{CLAIMS}/one"), one.clone());
    let path = path_of("web");
    let failed = |s: &State| s.objects[&path]["status"]["conditions"][0]["message"].as_str().filter(|m| m.contains("PreBind")).map(str::to_owned);
    let told = fake.until(failed).await;
    assert_eq!(told, "running PreBind plugin \"DynamicResources\": device binding failed: claim=one, reason=R, message=\"m\"");
    // It is given back, and found anew; this time the driver can.
    let mut one = status(&fake, "one", |status| status["allocation"].is_object() && status.get("devices").is_none()).await;
    one["status"]["devices"] = device("ready");
    fake.put(&format!("{CLAIMS}/one"), one);
    assert_eq!(fake.on_node("web").await, "n1");
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_class_ends_the_decision_which_is_tried_again() {
    let (fake, _token) = start();
    fake.put("/api/v1/nodes/n1", node("4"));
    let selector = json!({"cel": {"expression": "device.attributes['d.io'].none == 1"}});
    fake.put("/apis/resource.k8s.io/v1/deviceclasses/gpu", json!({"metadata": {"name": "gpu"}, "spec": {"selectors": [selector]}}));
    slice(&fake, json!([{"name": "a", "attributes": {"model": {"string": "old"}}}]));
    claim(&fake, "one", json!({}));
    fake.put(&path_of("web"), user("web", json!({"resourceClaimName": "one"})));
    let (path, why) = (path_of("web"), "running \"DynamicResources\" filter plugin: class gpu: selector #0 on device d.io/n1/a: CEL runtime error: ");
    let condition = |s: &State| Some(s.objects[&path]["status"]["conditions"][0].clone()).filter(|c| c["message"].as_str().is_some_and(|m| m.starts_with(why)));
    assert_eq!(fake.until(condition).await["reason"], "SchedulerError");
    class(&fake);
    assert_eq!(fake.on_node("web").await, "n1");
}
