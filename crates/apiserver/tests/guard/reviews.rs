use crate::support::{Cluster, admin, merged, node, pod, user};
use serde_json::{Value, json};

const ACCESS: &str = "/apis/authorization.k8s.io/v1";
const AUTHENTICATION: &str = "/apis/authentication.k8s.io/v1";

fn access(kind: &str, spec: Value) -> Value {
    json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec})
}

fn request(spec: Value) -> Value {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})
}

#[tokio::test]
async fn access_reviews_answer_as_the_path_would() {
    let cluster = Cluster::start().await;
    let list_pods = json!({"verb": "list", "resource": "pods"});
    let review = |user: &str| access("SubjectAccessReview", json!({"user": user, "resourceAttributes": list_pods}));
    let answer = cluster.post(&format!("{ACCESS}/subjectaccessreviews"), review("system:kube-scheduler")).await.expect(201);
    assert_eq!(answer["status"]["allowed"], true);
    let reason = "RBAC: allowed by ClusterRoleBinding \"system:kube-scheduler\" of ClusterRole \"system:kube-scheduler\" to User \"system:kube-scheduler\"";
    assert_eq!(answer["status"]["reason"], reason);
    let answer = cluster.post(&format!("{ACCESS}/subjectaccessreviews"), review("eve")).await.expect(201);
    assert_eq!(answer["status"], json!({"allowed": false}));

    let path = access(
        "SubjectAccessReview",
        json!({"user": "eve", "groups": ["system:unauthenticated"], "nonResourceAttributes": {"path": "/version", "verb": "get"}}),
    );
    assert_eq!(cluster.post(&format!("{ACCESS}/subjectaccessreviews"), path).await.expect(201)["status"]["allowed"], true);

    let own = access("SelfSubjectAccessReview", json!({"resourceAttributes": list_pods}));
    let eve = user("eve", &[]);
    assert_eq!(cluster.post_as(&eve, &format!("{ACCESS}/selfsubjectaccessreviews"), own.clone()).await.expect(201)["status"]["allowed"], false);
    assert_eq!(cluster.post(&format!("{ACCESS}/selfsubjectaccessreviews"), own).await.expect(201)["status"]["allowed"], true);
}

#[tokio::test]
async fn a_review_that_asks_nothing_is_invalid() {
    let cluster = Cluster::start().await;
    let uri = format!("{ACCESS}/subjectaccessreviews");
    assert_eq!(
        cluster.post(&uri, access("SubjectAccessReview", json!({"user": "eve"}))).await.refused(422),
        ".authorization.k8s.io \"\" is invalid: spec: Invalid value: null: \
         exactly one of nonResourceAttributes or resourceAttributes must be specified"
    );
    let nobody = access("SubjectAccessReview", json!({"resourceAttributes": {"verb": "get"}}));
    assert!(cluster.post(&uri, nobody).await.refused(422).ends_with("spec.user: Invalid value: \"\": at least one of user or group must be specified"));
    let local = access("LocalSubjectAccessReview", json!({"user": "eve", "resourceAttributes": {"namespace": "other", "verb": "get", "resource": "pods"}}));
    let message = cluster.post(&format!("{ACCESS}/namespaces/default/localsubjectaccessreviews"), local).await.refused(422);
    assert!(message.ends_with("spec.resourceAttributes.namespace: Invalid value: \"other\": must match metadata.namespace"), "{message}");
    let wrong = access("SelfSubjectAccessReview", json!({"resourceAttributes": {"verb": "get"}}));
    cluster.post(&uri, wrong).await.expect(400);
}

#[tokio::test]
async fn everyone_learns_what_they_may() {
    let cluster = Cluster::start().await;
    let review = access("SelfSubjectRulesReview", json!({"namespace": "default"}));
    let uri = format!("{ACCESS}/selfsubjectrulesreviews");
    let status = cluster.post_as(&user("eve", &[]), &uri, review.clone()).await.expect(201)["status"].clone();
    assert_eq!(status["incomplete"], false);
    let creates = |r: &Value| r["resources"].as_array().is_some_and(|l| l.iter().any(|x| x == "selfsubjectaccessreviews"));
    assert!(status["resourceRules"].as_array().is_some_and(|l| l.iter().any(creates)), "{status:#}");
    let version = |r: &Value| r["nonResourceURLs"].as_array().is_some_and(|l| l.iter().any(|x| x == "/version"));
    assert!(status["nonResourceRules"].as_array().is_some_and(|l| l.iter().any(version)), "{status:#}");
    let status = cluster.post_as(&node("n1"), &uri, review).await.expect(201)["status"].clone();
    assert_eq!((&status["incomplete"], &status["evaluationError"]), (&json!(true), &json!("node authorizer does not support user rule resolution")));
    let none = access("SelfSubjectRulesReview", json!({}));
    assert_eq!(cluster.post(&uri, none).await.refused(400), "no namespace on request");
    let who = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let who = cluster.post_as(&user("eve", &["team"]), &format!("{AUTHENTICATION}/selfsubjectreviews"), who).await.expect(201);
    assert_eq!(who["status"]["userInfo"], json!({"username": "eve", "groups": ["team", "system:authenticated"]}));
}

#[tokio::test]
async fn a_token_is_asked_for_used_and_reviewed() {
    let cluster = Cluster::start().await;
    let uri = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let answer = cluster.post(uri, request(json!({}))).await.expect(201);
    assert_eq!(answer["spec"]["expirationSeconds"], 3600);
    assert_eq!(answer["spec"]["audiences"], json!(["https://kubernetes.default.svc"]));
    let token = answer["status"]["token"].as_str().expect("a token").to_owned();
    let review = |spec: Value| json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec});
    let said = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "x"},
        "status": {"authenticated": true, "audiences": ["a"], "user": {"username": "boss"}}});
    let status = cluster.post(&format!("{AUTHENTICATION}/tokenreviews"), said).await.expect(201)["status"].clone();
    assert_eq!(status, json!({"audiences": ["a"], "user": {"username": "boss"}, "error": "invalid bearer token"}), "only what is found out is written");
    let reviews = format!("{AUTHENTICATION}/tokenreviews");
    let status = cluster.post(&reviews, review(json!({"token": token}))).await.expect(201)["status"].clone();
    assert_eq!((&status["authenticated"], &status["user"]["username"]), (&json!(true), &json!("system:serviceaccount:default:default")));
    let status = cluster.post(&reviews, review(json!({"token": token, "audiences": ["vault"]}))).await.expect(201)["status"].clone();
    assert!(status["authenticated"] != true && status["error"].as_str().is_some_and(|e| e.starts_with("[invalid bearer token, ")), "{status}");
    assert_eq!(cluster.post(&reviews, review(json!({}))).await.refused(400), "token is required for TokenReview in authentication");

    assert_eq!(
        cluster.post(uri, request(json!({"expirationSeconds": 599}))).await.refused(422),
        "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes"
    );
    let named = merged(request(json!({})), json!({"metadata": {"name": "other"}}));
    assert!(cluster.post(uri, named).await.refused(422).ends_with("metadata.name: Invalid value: \"other\": must match the service account name if specified"));
    let missing = "/api/v1/namespaces/default/serviceaccounts/none/token";
    assert_eq!(cluster.post(missing, request(json!({}))).await.refused(404), "serviceaccounts \"none\" not found");
    let odd = request(json!({"boundObjectRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}));
    assert_eq!(cluster.post(uri, odd).await.refused(400), "cannot bind token to object of type apps/v1, Kind=Deployment");
    for (name, why) in [
        ("", "Name parameter required."),
        ("a/b", "Name parameter invalid: \"a/b\": may not contain '/'"),
        ("a\u{1}/", "Name parameter invalid: \"a\\x01/\": may not contain '/'"),
    ] {
        let unnamed = request(json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": name}}));
        assert_eq!(cluster.post(uri, unnamed).await.refused(400), why);
    }
}

#[tokio::test]
async fn a_token_of_a_pod_dies_with_it() {
    let cluster = Cluster::start().await;
    let made = cluster.post("/api/v1/namespaces/default/pods", merged(pod("p"), json!({"spec": {"nodeName": "n1"}}))).await.expect(201);
    let bound = |uid: &Value| request(json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid}}));
    let uri = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let conflict = cluster.post(uri, bound(&json!("else"))).await.refused(409);
    assert!(conflict.contains("the UID in the bound object reference (else) does not match the UID in record"), "{conflict}");

    let uid = &made["metadata"]["uid"];
    let other = cluster.post_as(&node("n2"), uri, bound(uid)).await.refused(403);
    assert!(other.contains("no relationship found between node 'n2' and this object"), "{other}");
    let unbound = cluster.post_as(&node("n1"), uri, request(json!({}))).await.refused(403);
    assert_eq!(unbound, "serviceaccounts \"default\" is forbidden: node requested token not bound to a pod");
    let audience = merged(bound(uid), json!({"spec": {"audiences": ["vault"]}}));
    let refused = cluster.post_as(&node("n1"), uri, audience).await.refused(403);
    assert!(refused.ends_with("system:node:n1 is not authorized to request tokens for audience \"vault\""), "{refused}");
    let answer = cluster.post_as(&node("n1"), uri, bound(uid)).await.expect(201);

    let token = answer["status"]["token"].as_str().expect("a token");
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let reviews = format!("{AUTHENTICATION}/tokenreviews");
    let status = cluster.post(&reviews, review.clone()).await.expect(201)["status"].clone();
    assert_eq!(status["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    assert_eq!(status["user"]["extra"]["authentication.kubernetes.io/node-name"], json!(["n1"]));
    cluster.delete("/api/v1/namespaces/default/pods/p?gracePeriodSeconds=0").await.expect(200);
    let status = cluster.post(&reviews, review).await.expect(201)["status"].clone();
    assert!(status["authenticated"] != true && status["error"].is_string(), "{status}");
}

#[tokio::test]
async fn impersonation_needs_leave() {
    let cluster = Cluster::start().await;
    let whoami = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let uri = format!("{AUTHENTICATION}/selfsubjectreviews");
    let ask = |who: identity::User, headers: Vec<(&'static str, &'static str)>| {
        let (cluster, uri, whoami) = (&cluster, uri.clone(), whoami.clone());
        async move { cluster.call(&who, http::Method::POST, &uri, &headers, whoami).await }
    };
    let as_ann = vec![("impersonate-user", "ann"), ("impersonate-group", "team"), ("impersonate-extra-scopes", "view")];
    let info = ask(admin(), as_ann.clone()).await.expect(201)["status"]["userInfo"].clone();
    assert_eq!(info, json!({"username": "ann", "groups": ["team", "system:authenticated"], "extra": {"scopes": ["view"]}}));
    let refused = ask(user("eve", &[]), as_ann).await.refused(403);
    // The first of the modes is asked, and tells first.
    let verb = "impersonate-on:user-info:create";
    let told = format!(
        "selfsubjectreviews.authentication.k8s.io is forbidden: User \"eve\" cannot {verb} resource \"selfsubjectreviews\" in API group \"authentication.k8s.io\" at the cluster scope"
    );
    assert_eq!(refused, told);
    ask(admin(), vec![("impersonate-group", "team")]).await.expect(400);
    // A name beyond ASCII is one like any other, and never nobody's.
    ask(user("eve", &[]), vec![("impersonate-user", "jörg")]).await.refused(403);
    let info = ask(admin(), vec![("impersonate-user", "jörg"), ("impersonate-group", "größe")]).await.expect(201)["status"]["userInfo"].clone();
    assert_eq!(info, json!({"username": "jörg", "groups": ["größe", "system:authenticated"]}));
    let account = vec![("impersonate-user", "system:serviceaccount:default:web")];
    let info = ask(admin(), account).await.expect(201)["status"]["userInfo"].clone();
    assert_eq!(info["groups"], json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]));
    // Whoever has a constrained right has that one alone.
    let (rbac, group) = ("/apis/rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io");
    let rule = |resource: &str, verb: &str| json!({"apiGroups": ["authentication.k8s.io"], "resources": [resource], "verbs": [verb]});
    let rules = [rule("users", "impersonate:user-info"), rule("groups", "impersonate:user-info"), rule("selfsubjectreviews", verb)];
    let role = json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": {"name": "poses"}, "rules": rules});
    cluster.post(&format!("{rbac}/clusterroles"), role).await.expect(201);
    let bind = json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": "bob"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "poses"}, "subjects": [{"apiGroup": group, "kind": "User", "name": "bob"}]});
    cluster.post(&format!("{rbac}/clusterrolebindings"), bind).await.expect(201);
    let info = ask(user("bob", &[]), vec![("impersonate-user", "ann"), ("impersonate-group", "team")]).await.expect(201)["status"]["userInfo"].clone();
    assert_eq!(info, json!({"username": "ann", "groups": ["team", "system:authenticated"]}));
    let refused = ask(user("bob", &[]), vec![("impersonate-user", "ann"), ("impersonate-group", "system:masters")]).await.refused(403);
    assert!(refused.contains("impersonating the system:masters group is not allowed"), "{refused}");
    ask(user("bob", &[]), vec![("impersonate-user", "system:serviceaccount:default:web")]).await.refused(403);
}
