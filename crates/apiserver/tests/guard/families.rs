//! Services of both families, as clients see them: from a cluster of one, over its next start with two, and back.

use crate::support::Cluster;
use apiserver::Config;
use serde_json::{Value, json};
use std::net::IpAddr;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

fn both() -> Config {
    Config { service_cidrs: vec![(IpAddr::from([10, 96, 0, 0]), 16), ("fd00:10:96::".parse().unwrap(), 112)], ..Config::default() }
}

fn service(name: &str, spec: Value) -> Value {
    let mut all = json!({"ports": [{"port": 80}], "selector": {"app": "a"}});
    machinery::patch::merge(&mut all, &spec);
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": all})
}

fn ips(service: &Value) -> Vec<IpAddr> {
    service["spec"]["clusterIPs"].as_array().into_iter().flatten().map(|ip| ip.as_str().unwrap().parse().unwrap()).collect()
}

#[tokio::test]
async fn a_cluster_of_one_family_becomes_one_of_two() {
    let cluster = Cluster::start().await;
    let told = cluster.post(SERVICES, service("two", json!({"ipFamilyPolicy": "RequireDualStack"}))).await.refused(422);
    assert_eq!(
        told,
        "Service \"two\" is invalid: spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services"
    );
    let one = cluster.post(SERVICES, service("one", json!({}))).await.expect(201);
    let prefers = cluster.post(SERVICES, service("prefers", json!({"ipFamilyPolicy": "PreferDualStack"}))).await.expect(201);
    assert_eq!((&prefers["spec"]["ipFamilies"], ips(&prefers).len()), (&json!(["IPv4"]), 1));

    let cluster = Cluster::over(cluster.store.clone(), both(), Default::default());
    cluster.api.bootstrap().await.expect("bootstrap");
    let range = cluster.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes").await.expect(200);
    assert_eq!(range["spec"]["cidrs"], json!(["10.96.0.0/16", "fd00:10:96::/112"]));
    let own = cluster.get(&format!("{SERVICES}/kubernetes")).await.expect(200);
    assert_eq!((&own["spec"]["ipFamilies"], &own["spec"]["ipFamilyPolicy"]), (&json!(["IPv4"]), &json!("SingleStack")), "as upstream's");

    // What is there stays until its user says otherwise.
    let same = cluster.patch(&format!("{SERVICES}/prefers"), json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    assert_eq!(same["spec"]["ipFamilies"], json!(["IPv4"]));
    let upgraded = cluster.patch(&format!("{SERVICES}/one"), json!({"spec": {"ipFamilyPolicy": "PreferDualStack"}})).await.expect(200);
    let [first, second] = ips(&upgraded)[..] else { panic!("{upgraded}") };
    assert_eq!((vec![first], &upgraded["spec"]["ipFamilies"]), (ips(&one), &json!(["IPv4", "IPv6"])));
    let shown = cluster.get(&format!("{ADDRESSES}/{second}")).await.expect(200);
    assert_eq!((&shown["spec"]["parentRef"]["name"], &shown["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"]), (&json!("one"), &json!("IPv6")));

    // Two may not become one without a word, and the second goes with it.
    let told = cluster.patch(&format!("{SERVICES}/one"), json!({"spec": {"clusterIPs": [first.to_string()]}})).await.refused(422);
    assert!(told.contains("spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be 'SingleStack' to release the secondary cluster IP"), "{told}");
    let told = cluster.patch(&format!("{SERVICES}/one"), json!({"spec": {"ipFamilies": ["IPv6", "IPv4"]}})).await.refused(422);
    assert!(told.contains("expected an IPv6 value as indicated by `ipFamilies[0]`") || told.contains("may not change once set"), "{told}");
    let single = cluster.patch(&format!("{SERVICES}/one"), json!({"spec": {"ipFamilyPolicy": "SingleStack"}})).await.expect(200);
    assert_eq!((ips(&single), &single["spec"]["ipFamilies"]), (vec![first], &json!(["IPv4"])));
    cluster.get(&format!("{ADDRESSES}/{second}")).await.expect(404);

    let six = cluster.post(SERVICES, service("six", json!({"ipFamilies": ["IPv6"]}))).await.expect(201);
    assert!(ips(&six)[0].is_ipv6() && six["spec"]["ipFamilyPolicy"] == "SingleStack");
    let mixed = service("mixed", json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"], "clusterIP": second.to_string()}));
    let mixed = cluster.post(SERVICES, mixed).await.expect(201);
    assert_eq!((ips(&mixed)[0], ips(&mixed)[1].is_ipv4()), (second, true), "what was given back is another's to choose");
    cluster.delete(&format!("{SERVICES}/mixed")).await.expect(200);
    for ip in ips(&mixed) {
        cluster.get(&format!("{ADDRESSES}/{ip}")).await.expect(404);
    }
    let external = cluster.patch(&format!("{SERVICES}/six"), json!({"spec": {"type": "ExternalName", "externalName": "example.com"}})).await.expect(200);
    assert!(external["spec"].get("clusterIPs").is_none() && external["spec"].get("ipFamilies").is_none());
    let back = json!({"spec": {"type": "ClusterIP", "externalName": null, "ipFamilyPolicy": "PreferDualStack"}});
    let back = cluster.patch(&format!("{SERVICES}/six"), back).await.expect(200);
    assert_eq!(back["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
}

#[tokio::test]
async fn the_first_range_says_which_family_is_the_usual() {
    let config = Config { service_cidrs: both().service_cidrs.into_iter().rev().collect(), ..Config::default() };
    let cluster = Cluster::with(config, Default::default()).await;
    let own = cluster.get(&format!("{SERVICES}/kubernetes")).await.expect(200);
    assert_eq!((ips(&own), &own["spec"]["ipFamilies"]), (vec!["fd00:10:96::1".parse().unwrap()], &json!(["IPv6"])));
    let usual = cluster.post(SERVICES, service("usual", json!({}))).await.expect(201);
    assert!(ips(&usual)[0].is_ipv6() && usual["spec"]["ipFamilies"] == json!(["IPv6"]));
    let two = cluster.post(SERVICES, service("two", json!({"ipFamilyPolicy": "PreferDualStack"}))).await.expect(201);
    assert_eq!(two["spec"]["ipFamilies"], json!(["IPv6", "IPv4"]));
}
