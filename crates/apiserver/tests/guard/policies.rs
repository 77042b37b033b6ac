//! Policies in expressions: what they see, what they refuse and change, and what their bindings make of it.

use crate::{
    hook::{Act, Hook, configuration, entry},
    support::{Cluster, merged, pod, user},
};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const API: &str = "/apis/admissionregistration.k8s.io/v1";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"start": "yes"}})
}

fn labelled(name: &str) -> Value {
    merged(map(name), json!({"metadata": {"labels": {"asked": name}}}))
}

/// A policy about config maps whose label `asked` is its name.
fn policy(kind: &str, name: &str, spec: Value) -> Value {
    let own = json!({"matchConstraints": {
        "objectSelector": {"matchLabels": {"asked": name}},
        "resourceRules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
    }});
    let mutating = if kind == "Mutating" { json!({"reinvocationPolicy": "Never"}) } else { json!({}) };
    let spec = merged(merged(own, mutating), spec);
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}AdmissionPolicy"), "metadata": {"name": name}, "spec": spec})
}

fn binding(kind: &str, name: &str, spec: Value) -> Value {
    let actions = if kind == "Validating" { json!({"validationActions": ["Deny"]}) } else { json!({}) };
    let spec = merged(merged(json!({"policyName": name}), actions), spec);
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}AdmissionPolicyBinding"), "metadata": {"name": format!("{name}-b")}, "spec": spec})
}

impl Cluster {
    async fn rule(&self, kind: &str, name: &str, spec: Value, bound: Value) {
        let (policies, bindings) = (format!("{API}/{}admissionpolicies", kind.to_lowercase()), format!("{API}/{}admissionpolicybindings", kind.to_lowercase()));
        self.post(&policies, policy(kind, name, spec)).await.expect(201);
        self.post(&bindings, binding(kind, name, bound)).await.expect(201);
    }
}

#[tokio::test]
async fn validations_refuse_with_their_words_and_reasons() {
    let cluster = Cluster::start().await;
    let validations = |list: Value| json!({"validations": list});
    cluster.rule("Validating", "plain", validations(json!([{"expression": "'big' in object.data"}])), json!({})).await;
    cluster.rule("Validating", "said", validations(json!([{"expression": "false", "message": "not today", "reason": "Forbidden"}])), json!({})).await;
    let computed = json!([{"expression": "false", "messageExpression": "'no ' + object.metadata.name + ' for ' + request.userInfo.username"}]);
    cluster.rule("Validating", "computed", validations(computed), json!({})).await;
    cluster.rule("Validating", "failing", validations(json!([{"expression": "object.data.missing == 'x'"}])), json!({})).await;
    cluster
        .rule(
            "Validating",
            "ignored",
            merged(validations(json!([{"expression": "object.data.missing == 'x'"}])), json!({"failurePolicy": "Ignore"})),
            json!({}),
        )
        .await;
    cluster
        .rule("Validating", "warning", validations(json!([{"expression": "false", "message": "mind"}])), json!({"validationActions": ["Warn", "Audit"]}))
        .await;
    let by = |name: &str| format!("configmaps \"{name}\" is forbidden: ValidatingAdmissionPolicy '{name}' with binding '{name}-b' denied request: ");
    for (name, code, reason, why) in [
        ("plain", 422, "Invalid", "failed expression: 'big' in object.data"),
        ("said", 403, "Forbidden", "not today"),
        ("computed", 422, "Invalid", "no computed for admin"),
        ("failing", 422, "Invalid", "expression 'object.data.missing == 'x'' resulted in error: no such key: missing"),
    ] {
        let status = cluster.post(MAPS, labelled(name)).await.expect(code);
        assert_eq!((&status["message"], &status["reason"]), (&format!("{}{why}", by(name)).into(), &reason.into()), "{name}");
        assert_eq!(status["details"]["causes"][0]["message"], format!("ValidatingAdmissionPolicy '{name}' with binding '{name}-b' denied request: {why}"));
    }
    cluster.post(MAPS, labelled("ignored")).await.expect(201);
    cluster.post(MAPS, labelled("warning")).await.expect(201);
    cluster.post(MAPS, map("other")).await.expect(201);
    // Without its binding a policy is nobody's.
    cluster.delete(&format!("{API}/validatingadmissionpolicybindings/plain-b")).await.expect(200);
    cluster.post(MAPS, labelled("plain")).await.expect(201);
}

#[tokio::test]
async fn expressions_see_request_namespace_authorizer_and_variables() {
    let cluster = Cluster::start().await;
    cluster.patch("/api/v1/namespaces/default", json!({"metadata": {"labels": {"tier": "gold"}}})).await.expect(200);
    let spec = json!({
        "variables": [
            {"name": "size", "expression": "size(object.data)"},
            {"name": "twice", "expression": "variables.size * 2"},
        ],
        "matchConditions": [{"name": "not-mine", "expression": "request.userInfo.username != 'exempt'"}],
        "validations": [
            {"expression": "variables.twice == 2", "messageExpression": "'twice is ' + string(variables.twice)"},
            {"expression": "namespaceObject.metadata.labels['tier'] == 'gold'"},
            {"expression": "request.operation == 'UPDATE' ? oldObject.data.start == 'yes' : oldObject == null"},
            {"expression": "request.kind.kind == 'ConfigMap' && request.resource.resource == 'configmaps' && request.namespace == 'default'"},
            {"expression": "authorizer.group('').resource('secrets').namespace('default').check('get').allowed()", "message": "must be able to get secrets"},
            {"expression": "authorizer.requestResource.check('create').allowed()"},
        ],
    });
    cluster.rule("Validating", "sees", spec, json!({})).await;
    cluster.post(MAPS, labelled("sees")).await.expect(201);
    cluster.patch(&format!("{MAPS}/sees"), json!({"metadata": {"annotations": {"a": "b"}}})).await.expect(200);
    let refused = cluster.patch(&format!("{MAPS}/sees"), json!({"data": {"more": "x"}})).await.refused(422);
    assert!(refused.ends_with("denied request: twice is 4"), "{refused}");
    let exempt = user("exempt", &["system:masters"]);
    cluster.patch_as(&exempt, &format!("{MAPS}/sees"), json!({"data": {"more": "x"}})).await.expect(200);
}

#[tokio::test]
async fn parameters_come_by_name_and_selector() {
    let cluster = Cluster::start().await;
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "size(object.data) <= int(params.data.max)", "messageExpression": "'at most ' + params.data.max"}],
    });
    cluster.rule("Validating", "named", spec.clone(), json!({"paramRef": {"name": "limit", "parameterNotFoundAction": "Deny"}})).await;
    cluster
        .rule("Validating", "selected", spec.clone(), json!({"paramRef": {"selector": {"matchLabels": {"limits": "yes"}}, "parameterNotFoundAction": "Allow"}}))
        .await;
    let none = cluster.post(MAPS, labelled("named")).await.refused(422);
    assert!(none.ends_with("denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"), "{none}");
    cluster.post(MAPS, labelled("selected")).await.expect(201);
    let limit =
        |name: &str, max: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"limits": "yes"}}, "data": {"max": max}});
    cluster.post(MAPS, limit("limit", "1")).await.expect(201);
    cluster.post(MAPS, labelled("named")).await.expect(201);
    cluster.post(MAPS, limit("tight", "0")).await.expect(201);
    let refused = cluster.patch(&format!("{MAPS}/selected"), json!({"metadata": {"annotations": {"a": "b"}}})).await.refused(422);
    assert!(refused.ends_with("denied request: at most 0"), "{refused}");
    // Everybody's parameters are in the namespace of what is written.
    cluster.namespace("other").await;
    let elsewhere = cluster.post("/api/v1/namespaces/other/configmaps", labelled("named")).await.refused(422);
    assert!(elsewhere.ends_with("parameterNotFoundAction"), "{elsewhere}");
    let unknown = json!({"paramKind": {"apiVersion": "example.com/v1", "kind": "Nothing"}, "validations": [{"expression": "true"}]});
    cluster.rule("Validating", "unknown", unknown, json!({"paramRef": {"name": "x", "parameterNotFoundAction": "Allow"}})).await;
    let refused = cluster.post(MAPS, labelled("unknown")).await.refused(422);
    let why = "ValidatingAdmissionPolicy 'unknown' denied request: failed to configure policy: failed to find resource referenced by paramKind: 'example.com/v1, Kind=Nothing'";
    assert!(refused.ends_with(why), "{refused}");
}

#[tokio::test]
async fn mutations_apply_and_patch() {
    let cluster = Cluster::start().await;
    let apply = |expression: &str| json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}});
    let patch = |expression: &str| json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}});
    let both = json!({"mutations": [
        apply("Object{metadata: Object.metadata{annotations: {'applied': object.metadata.name}}}"),
        patch("[JSONPatch{op: 'add', path: '/data/patched', value: object.metadata.annotations.applied}]"),
    ]});
    cluster.rule("Mutating", "both", both, json!({})).await;
    let made = cluster.post(MAPS, labelled("both")).await.expect(201);
    assert_eq!((&made["metadata"]["annotations"]["applied"], &made["data"]), (&"both".into(), &json!({"start": "yes", "patched": "both"})));
    let tested = json!({"mutations": [patch("[JSONPatch{op: 'test', path: '/data/start', value: 'no'}, JSONPatch{op: 'remove', path: '/data/start'}]")]});
    cluster.rule("Mutating", "tested", tested, json!({})).await;
    assert_eq!(cluster.post(MAPS, labelled("tested")).await.expect(201)["data"]["start"], "yes");
    for (name, mutation, why) in [
        (
            "gone",
            patch("[JSONPatch{op: 'remove', path: '/data/nothing'}]"),
            "JSON Patch: error in remove for path: '/data/nothing': Unable to remove nonexistent key: nothing: missing value",
        ),
        (
            "names",
            apply("Object{metadata: Object.wrong{name: 'x'}}"),
            "type mismatch: unexpected type name \"Object.wrong\", expected \"Object.metadata\", which matches field name path from root Object type",
        ),
        ("field", apply("Object{nothing: 1}"), "error applying patch: failed to convert patch object to typed object: .nothing: field not declared in schema"),
        (
            "fails",
            apply("Object{data: {'a': object.data.missing}}"),
            "expression 'Object{data: {'a': object.data.missing}}' resulted in error: no such key: missing",
        ),
    ] {
        cluster.rule("Mutating", name, json!({"mutations": [mutation]}), json!({})).await;
        let status = cluster.post(MAPS, labelled(name)).await.expect(403);
        let expected = format!("policy '{name}' with binding '{name}-b' denied request: {why}");
        assert_eq!((&status["message"], &status["reason"]), (&expected.into(), &"Invalid".into()), "{name}");
    }
    // A list that is replaced as a whole may not be applied to by accident.
    let atomic = json!({
        "matchConstraints": {"objectSelector": {}, "resourceRules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]},
        "mutations": [apply("Object{spec: Object.spec{containers: [Object.spec.containers{name: 'c', command: ['x']}]}}")],
    });
    cluster.rule("Mutating", "atomic", atomic, json!({})).await;
    let refused = cluster.post("/api/v1/namespaces/default/pods", merged(pod("p"), json!({"metadata": {"labels": {"asked": "atomic"}}}))).await.refused(403);
    assert!(
        refused.ends_with("error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.containers[0].command"),
        "{refused}"
    );
}

#[tokio::test]
async fn policies_and_webhooks_see_what_the_others_changed() {
    let cluster = Cluster::start().await;
    let again = json!({"reinvocationPolicy": "IfNeeded", "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {
        "expression": "Object{data: {'seen': 'hook' in object.data ? 'hook' : 'nothing'}}"}}]});
    cluster.rule("Mutating", "again", again, json!({})).await;
    let hook = Hook::start(|_, request| match request["object"]["data"]["hook"].is_null() {
        false => Act::Respond(json!({"allowed": true})),
        true => {
            use base64::Engine as _;
            let patch = json!([{"op": "add", "path": "/data/hook", "value": "yes"}]).to_string();
            Act::Respond(json!({"allowed": true, "patchType": "JSONPatch", "patch": base64::engine::general_purpose::STANDARD.encode(patch)}))
        }
    })
    .await;
    let conditions = json!({"matchConditions": [{"name": "asked", "expression": "has(object.metadata.labels) && !object.metadata.name.startsWith('skip')"}]});
    let hooks = vec![merged(entry("m.example.com", hook.by_url("/m")), conditions)];
    cluster.post(&format!("{API}/mutatingwebhookconfigurations"), configuration("Mutating", "m", hooks)).await.expect(201);
    let made = cluster.post(MAPS, labelled("again")).await.expect(201);
    assert_eq!(made["data"], json!({"start": "yes", "hook": "yes", "seen": "hook"}));
    assert_eq!(hook.on("/m").len(), 1);
    for name in ["skip-me", "unlabelled"] {
        let object = if name == "unlabelled" { map(name) } else { labelled(name) };
        cluster.post(MAPS, object).await.expect(201);
    }
    assert_eq!(hook.on("/m").len(), 1, "conditions keep a webhook from what does not concern it");
    let failing = json!({"matchConditions": [{"name": "fails", "expression": "object.data.missing == 'x'"}, {"name": "no", "expression": "object.metadata.name != 'other'"}]});
    let hooks = vec![merged(entry("v.example.com", hook.by_url("/v")), failing)];
    cluster.post(&format!("{API}/validatingwebhookconfigurations"), configuration("Validating", "v", hooks)).await.expect(201);
    let refused = cluster.post(MAPS, map("failing")).await.refused(403);
    assert_eq!(refused, "configmaps \"failing\" is forbidden: expression 'object.data.missing == 'x'' resulted in error: no such key: missing");
    cluster.post(MAPS, map("other")).await.expect(201);
}

#[tokio::test]
async fn what_does_not_compile_is_refused_with_its_place() {
    let cluster = Cluster::start().await;
    let wrong = policy(
        "Validating",
        "w",
        json!({"validations": [
            {"expression": "object.metadata.name == unknown"},
            {"expression": "'text'"},
            {"expression": "true", "messageExpression": "1"},
        ]}),
    );
    let status = cluster.post(&format!("{API}/validatingadmissionpolicies"), wrong).await.expect(422);
    let causes: Vec<(&str, &str)> = { status["details"]["causes"].as_array().unwrap().iter() }
        .map(|cause| (cause["field"].as_str().unwrap(), cause["message"].as_str().unwrap()))
        .collect();
    let expected = [
        (
            "spec.validations[0].expression",
            "Invalid value: \"object.metadata.name == unknown\": compilation failed: ERROR: <input>:1:25: undeclared reference to 'unknown' (in container '')\n | object.metadata.name == unknown\n | ........................^",
        ),
        ("spec.validations[1].expression", "Invalid value: \"'text'\": must evaluate to bool but got string"),
        ("spec.validations[2].messageExpression", "Invalid value: \"1\": must evaluate to string but got int"),
    ];
    assert_eq!(causes, expected);
    let hooks =
        vec![merged(entry("m.example.com", json!({"url": "https://127.0.0.1/"})), json!({"matchConditions": [{"name": "w", "expression": "object.x ="}]}))];
    let refused = cluster.post(&format!("{API}/validatingwebhookconfigurations"), configuration("Validating", "w", hooks)).await.refused(422);
    assert!(refused.contains("webhooks[0].matchConditions[0].expression: Invalid value: \"object.x =\": compilation failed: ERROR: <input>:1:"), "{refused}");
    let mutation = json!({"mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "Object{}"}}]});
    let refused = cluster.post(&format!("{API}/mutatingadmissionpolicies"), policy("Mutating", "m", mutation)).await.refused(422);
    assert!(
        refused.ends_with("spec.mutations[0].jsonPatch.expression: Invalid value: \"Object{}\": must evaluate to list(JSONPatch) but got Object"),
        "{refused}"
    );
}

#[tokio::test]
async fn what_costs_too_much_fails_by_its_policy() {
    let cluster = Cluster::start().await;
    let list = "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]";
    let costly = format!("{list}.all(a, {list}.all(b, {list}.all(c, {list}.all(d, {list}.all(e, a + b + c + d + e > 0)))))");
    cluster.rule("Validating", "costly", json!({"validations": [{"expression": costly}]}), json!({})).await;
    let refused = cluster.post(MAPS, labelled("costly")).await.refused(422);
    assert!(refused.contains("with binding 'costly-b' denied request: "), "{refused}");
    assert!(
        refused.ends_with("operation cancelled: actual cost limit exceeded")
            || refused.ends_with("running out of cost budget, no further validation rules will be run"),
        "{refused}"
    );
    cluster.post(MAPS, map("cheap")).await.expect(201);
}

/// What the validations said is forgotten where audit annotations spend their budget.
#[tokio::test]
async fn audits_that_cost_too_much_are_all_that_is_told() {
    let cluster = Cluster::start().await;
    let list = "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]";
    let costly = format!("string({list}.all(a, {list}.all(b, {list}.all(c, [1,2,3,4,5,6,7,8].all(d, a + b + c + d > 0)))))");
    let audits: Vec<Value> = (0..20).map(|at| json!({"key": format!("a{at}"), "valueExpression": costly})).collect();
    let spec = json!({"validations": [{"expression": "false", "message": "never"}], "auditAnnotations": audits});
    cluster.rule("Validating", "audited", spec.clone(), json!({})).await;
    let refused = cluster.post(MAPS, labelled("audited")).await.refused(422);
    assert!(refused.ends_with("denied request: validation failed due to running out of cost budget, no further validation rules will be run"), "{refused}");
    cluster.rule("Validating", "ignored", merged(spec, json!({"failurePolicy": "Ignore"})), json!({})).await;
    cluster.post(MAPS, labelled("ignored")).await.expect(201);
}

/// What conditions cost is looked at before what they say.
#[tokio::test]
async fn conditions_that_cost_too_much_count_for_more_than_a_false_one() {
    let cluster = Cluster::start().await;
    let list = "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]";
    let costly = format!("{list}.all(a, {list}.all(b, {list}.all(c, [1,2,3,4,5,6,7,8].all(d, a + b + c + d > 0))))");
    let mut conditions = vec![json!({"name": "no", "expression": "false"})];
    conditions.extend((0..6).map(|at| json!({"name": format!("c{at}"), "expression": costly})));
    let spec = json!({"matchConditions": conditions, "validations": [{"expression": "false", "message": "never"}]});
    cluster.rule("Validating", "costly", spec.clone(), json!({})).await;
    let refused = cluster.post(MAPS, labelled("costly")).await.refused(422);
    assert!(refused.ends_with("denied request: validation failed due to running out of cost budget, no further validation rules will be run"), "{refused}");
    cluster.rule("Validating", "ignored", merged(spec, json!({"failurePolicy": "Ignore"})), json!({})).await;
    cluster.post(MAPS, labelled("ignored")).await.expect(201);
}
