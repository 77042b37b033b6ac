//! What is said of flow schemas follows their priority levels as they come and go.

use crate::support::{Server, Watch};
use serde_json::{Value, json};

const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";

/// Waits until a schema says this of its level.
async fn says(watch: &mut Watch, status: &str, reason: &str) -> Value {
    loop {
        let (_, schema) = watch.next().await;
        let said = &schema["status"]["conditions"][0];
        if (&said["type"], &said["status"], &said["reason"]) == (&json!("Dangling"), &json!(status), &json!(reason)) {
            return said["message"].clone();
        }
    }
}

#[tokio::test]
async fn a_flow_schema_dangles_while_its_level_is_not_there() {
    let server = Server::start().await;
    let schema = |name: &str, level: &str| {
        json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": name},
            "spec": {"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": 500}})
    };
    let level = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration", "metadata": {"name": "lane"},
        "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}}}});
    let mut watch = server.watch(&format!("{SCHEMAS}?watch=true&fieldSelector=metadata.name=one")).await;
    let mut other = server.watch(&format!("{SCHEMAS}?watch=true&fieldSelector=metadata.name=other")).await;
    server.post(SCHEMAS, &schema("one", "lane")).await.expect(201);
    server.post(SCHEMAS, &schema("other", "exempt")).await.expect(201);
    let missing = "This FlowSchema references the PriorityLevelConfiguration object named \"lane\" but there is no such object";
    assert_eq!(says(&mut watch, "True", "NotFound").await, missing);
    says(&mut other, "False", "Found").await;
    server.post(LEVELS, &level).await.expect(201);
    says(&mut watch, "False", "Found").await;
    server.delete(&format!("{LEVELS}/lane"), None).await.expect(200);
    says(&mut watch, "True", "NotFound").await;
    // What was said of another is not said again.
    let before = server.get(&format!("{SCHEMAS}/other")).await.expect(200);
    server.post(LEVELS, &level).await.expect(201);
    says(&mut watch, "False", "Found").await;
    assert_eq!(server.get(&format!("{SCHEMAS}/other")).await.expect(200)["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
}
