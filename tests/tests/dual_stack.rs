//! Clusters of IPv6: beside IPv4, which a running cluster gains it by its next start, before it, and alone.

use cluster_tests::{
    Cluster, IMAGE, PATIENCE, host,
    http::{self, at},
    web, words,
};
use std::net::Ipv6Addr;

/// A pod that answers with its name, and says what it is told of its addresses.
fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: web}}}}\nspec:\n  containers:\n  - {{name: web, image: '{IMAGE}', args: [web],\n    \
        env: [{{name: IPS, valueFrom: {{fieldRef: {{fieldPath: status.podIPs}}}}}}],\n    readinessProbe: {{httpGet: {{port: 8080, path: /healthz}}, periodSeconds: 1}}}}\n"
    )
}

fn service(name: &str, more: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]{more}}}\n")
}

/// Who answers at an address: the last word of `VERSION POD`.
fn who(address: &str) -> std::io::Result<String> {
    let answer = http::get(address, "/whoami")?;
    Ok(answer.body.split_whitespace().last().unwrap_or_default().to_owned())
}

fn list(cluster: &Cluster, line: &str, path: &str) -> Vec<String> {
    cluster.value(line, path).split_whitespace().map(str::to_owned).collect()
}

/// Whether this kernel has IPv6 at all.
fn has_ipv6() -> bool {
    let has = std::path::Path::new("/proc/self/net/if_inet6").exists();
    if !has {
        eprintln!("needs a kernel with IPv6");
    }
    has
}

/// Waits until one of these pods answers at an address.
fn until(address: &str, wanted: &[&str]) {
    let begun = std::time::Instant::now();
    loop {
        match who(address) {
            Ok(pod) => return assert!(wanted.contains(&pod.as_str()), "{address}: {pod}"),
            Err(e) => assert!(begun.elapsed() < PATIENCE, "{address}: {e}"),
        }
    }
}

#[test]
fn a_cluster_of_ipv6_alone_is_a_whole_one_on_each_of_its_nodes() {
    if !has_ipv6() {
        return;
    }
    let mut cluster = Cluster::new("six").with(&["--cluster-cidr", "fd00:d:b1::/56", "--service-cidr", "fd00:d:b2::/112", "--nodes", "2"]);
    cluster.start(&[]).assert_ok();
    let nodes = list(&cluster, "get nodes", "{.items[*].status.addresses[?(@.type=='InternalIP')].address}");
    assert_eq!(nodes, ["fd00:d:b1::1", "fd00:d:b1:1::1"]);
    assert_eq!(list(&cluster, "get nodes", "{.items[*].spec.podCIDRs[*]}"), ["fd00:d:b1::/64", "fd00:d:b1:1::/64"]);
    assert_eq!(list(&cluster, "get service kubernetes", "{.spec.clusterIPs[*]}{' '}{.spec.ipFamilies[*]}"), ["fd00:d:b2::1", "IPv6"]);
    assert_eq!(list(&cluster, "get endpointslice kubernetes", "{.addressType}{' '}{.endpoints[*].addresses[*]}"), ["IPv6", "fd00:d:b1::1"]);

    // Each pod reaches every pod, the Service by its name (of which its own node's DNS knows) and the port of each node.
    cluster.apply(&web::manifest("type: NodePort, ports: [{port: 80, targetPort: 8080, nodePort: 30180}]"));
    cluster.kubectl("rollout status daemonset/web --timeout=55s");
    let pods = web::pods(&cluster);
    assert_eq!(pods.len(), 2);
    let others = nodes.iter().map(|ip| at(ip, 30180)).chain(["web.default.svc.cluster.local:80".to_owned()]).collect::<Vec<_>>();
    web::reach(&cluster, &pods, &others);
    for (pod, ip, _) in pods.values() {
        assert!(ip.parse::<Ipv6Addr>().is_ok(), "{ip}");
        assert_eq!(who(&at(ip, 8080)).expect("an answer"), *pod);
        // The API server reaches the kubelet of each, and by it the pod's own loopback.
        cluster.kubectl(&format!("logs {pod}"));
        cluster.kubectl(&format!("exec {pod} -- /knarr --version"));
        assert!(cluster.kubectl(&format!("get --raw /api/v1/namespaces/default/pods/{pod}:8080/proxy/whoami")).contains(pod.as_str()));
        let mut forward = cluster.kubectl_running(&format!("port-forward pod/{pod} :8080"));
        let line = forward.line(PATIENCE, |line| line.contains("127.0.0.1:"));
        let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("a port").to_owned();
        assert_eq!(who(&format!("127.0.0.1:{port}")).expect("an answer"), *pod);
    }

    // A port of the node, and what a pod is told of addresses.
    // Under a label of its own: the DaemonSet would take it for one of its pods.
    let port = pod("host").replace("app: web", "app: host").replace("args: [web],", "args: [web], ports: [{containerPort: 8080, hostPort: 30181}],");
    cluster.apply(&port);
    cluster.ready("default", "host");
    let host_ip = cluster.value("get pod host", "{.status.hostIP}");
    assert!(nodes.contains(&host_ip), "{host_ip}");
    until(&at(&host_ip, 30181), &["host"]);
    assert_eq!(list(&cluster, "get pod host", "{.status.podIPs[*].ip}"), [cluster.value("get pod host", "{.status.podIP}")]);

    // IPv4 is no family of this cluster.
    let refused = cluster.kubectl_with("apply -f -", &service("both", ", ipFamilyPolicy: RequireDualStack")).assert_fails();
    assert!(refused.contains("this cluster is not configured for dual-stack services"), "{refused}");
    let refused = cluster.kubectl_with("apply -f -", &service("four", ", ipFamilies: [IPv4]")).assert_fails();
    assert!(refused.contains("not configured on this cluster"), "{refused}");
    cluster.down();
}

#[test]
fn ipv6_may_be_the_first_family_of_two() {
    if !has_ipv6() {
        return;
    }
    let ranges = ["--cluster-cidr", "fd00:d:c1::/56,10.199.0.0/16", "--service-cidr", "fd00:d:c2::/112,10.198.0.0/16"];
    let mut cluster = Cluster::new("sixfour").with(&ranges);
    cluster.start(&[]).assert_ok();
    let nodes = list(&cluster, "get nodes", "{.items[0].status.addresses[?(@.type=='InternalIP')].address}");
    assert_eq!(nodes, ["fd00:d:c1::1", "10.199.0.1"]);
    cluster.apply(&format!("{}---\n{}", pod("a"), service("plain", ", type: NodePort")));
    cluster.ready("default", "a");
    let ips = list(&cluster, "get pod a", "{.status.podIPs[*].ip}");
    assert!(ips.len() == 2 && ips[0].starts_with("fd00:d:c1::") && ips[1].starts_with("10.199.0."), "{ips:?}");
    assert_eq!(cluster.value("get pod a", "{.status.podIP}"), ips[0]);

    // Who does not say otherwise has the first family; who does, the other, or both.
    assert_eq!(list(&cluster, "get service plain", "{.spec.ipFamilies[*]}{' '}{.spec.ipFamilyPolicy}"), ["IPv6", "SingleStack"]);
    cluster.apply(&[service("four", ", ipFamilies: [IPv4]"), service("both", ", ipFamilyPolicy: PreferDualStack")].join("---\n"));
    let addresses = |service: &str| list(&cluster, &format!("get service {service}"), "{.spec.clusterIPs[*]}");
    let (plain, four, both) = (addresses("plain"), addresses("four"), addresses("both"));
    assert!(both.len() == 2 && both[0].starts_with("fd00:d:c2::") && both[1].starts_with("10.198."), "{both:?}");
    assert!(four.len() == 1 && four[0].starts_with("10.198."), "{four:?}");
    for ip in plain.iter().chain(&four).chain(&both) {
        until(&at(ip, 80), &["a"]);
    }
    let port: u16 = cluster.value("get service plain", "{.spec.ports[0].nodePort}").parse().expect("a port");
    until(&at(&nodes[0], port), &["a"]);
    assert!(who(&at(&nodes[1], port)).is_err(), "a Service of one family has its node port there alone");
    let names = ["plain", "four", "both"].map(|name| format!("--url=http://{name}.default.svc.cluster.local:80/whoami"));
    let mut load = words("exec a -- /knarr demo load --strict --quiet --rate=50 --seconds=0.3 --connections=new");
    load.extend(names.iter().map(String::as_str));
    cluster.try_kubectl(&load).assert_ok();
    // The next start keeps both, and their order.
    cluster.kill();
    cluster.start(&[]).assert_ok();
    assert_eq!(list(&cluster, "get pod a", "{.status.podIPs[*].ip}"), ips);
    until(&at(&both[1], 80), &["a"]);
    cluster.down();
}

#[test]
fn a_cluster_of_one_family_becomes_one_of_both_and_what_is_there_stays() {
    if !has_ipv6() {
        return;
    }
    let mut cluster = Cluster::new("dual");
    cluster.start(&[]).assert_ok();
    cluster.apply(&format!("{}---\n{}", pod("old"), service("web", ", type: NodePort")));
    cluster.ready("default", "old");
    let ips = |pod: &str| list(&cluster, &format!("get pod {pod}"), "{.status.podIPs[*].ip}");
    let (before, processes) = (ips("old"), host::containers(&cluster.name));
    assert_eq!(before.len(), 1);
    let range = cluster.value("get servicecidr kubernetes", "{.spec.cidrs[0]}");
    let pods = cluster.value("get nodes", "{.items[0].spec.podCIDR}").replace("/24", "/16");
    cluster.kill();

    let mut cluster = cluster.with(&["--cluster-cidr", &format!("{pods},fd00:d:a1::/56"), "--service-cidr", &format!("{range},fd00:d:a2::/112")]);
    cluster.start(&[]).assert_ok();
    let ips = |pod: &str| list(&cluster, &format!("get pod {pod}"), "{.status.podIPs[*].ip}");
    assert_eq!((ips("old"), host::containers(&cluster.name)), (before.clone(), processes), "it runs on as it was");
    let nodes = list(&cluster, "get nodes", "{.items[0].status.addresses[?(@.type=='InternalIP')].address}");
    assert_eq!((nodes.len(), nodes[1].as_str()), (2, "fd00:d:a1::1"));
    assert_eq!(list(&cluster, "get nodes", "{.items[0].spec.podCIDRs[*]}")[1], "fd00:d:a1::/64");
    assert_eq!(list(&cluster, "get servicecidr kubernetes", "{.spec.cidrs[*]}"), [range.as_str(), "fd00:d:a2::/112"]);

    // A new pod has both, and is told so.
    cluster.apply(&pod("new"));
    cluster.ready("default", "new");
    let both = ips("new");
    assert!(both.len() == 2 && both[1].starts_with("fd00:d:a1::"), "{both:?}");
    assert!(cluster.kubectl("get pod new -o jsonpath={.status.hostIPs[*].ip}").contains("fd00:d:a1::1"));
    for ip in &both {
        assert_eq!(who(&at(ip, 8080)).expect("an answer"), "new");
    }

    // A Service is upgraded at its user's word, and answers by each address, by its names and at the node's ports.
    cluster.kubectl("patch service web --type=merge -p {\"spec\":{\"ipFamilyPolicy\":\"RequireDualStack\"}}");
    let addresses = list(&cluster, "get service web", "{.spec.clusterIPs[*]}");
    assert!(addresses.len() == 2 && addresses[1].starts_with("fd00:d:a2::"), "{addresses:?}");
    cluster.kubectl("wait --for=jsonpath={.endpoints[0].conditions.ready}=true endpointslice -l kubernetes.io/service-name=web --timeout=30s");
    let port: u16 = cluster.value("get service web", "{.spec.ports[0].nodePort}").parse().expect("a port");
    until(&at(&addresses[1], 80), &["new"]);
    until(&at(&nodes[1], port), &["new"]);
    until(&at(&addresses[0], 80), &["old", "new"]);
    until(&at(&nodes[0], port), &["old", "new"]);
    cluster.apply(&service("six", ", ipFamilies: [IPv6]"));
    let six = list(&cluster, "get service six", "{.spec.clusterIPs[*]}");
    assert!(six.len() == 1 && six[0].starts_with("fd00:d:a2::"), "{six:?}");
    until(&at(&six[0], 80), &["new"]);
    // The name has an address of IPv6 alone.
    let mut load = words("exec new -- /knarr demo load --strict --quiet --rate=50 --seconds=0.3 --connections=new");
    load.push("--url=http://six.default.svc.cluster.local:80/whoami");
    cluster.try_kubectl(&load).assert_ok();

    // Downgraded, the second address is gone; and the cluster with all of it.
    cluster.kubectl("patch service web --type=merge -p {\"spec\":{\"ipFamilyPolicy\":\"SingleStack\"}}");
    assert_eq!(list(&cluster, "get service web", "{.spec.clusterIPs[*]}"), addresses[..1]);
    cluster.down();
    assert_eq!(cluster_tests::leftovers::of(&cluster.name, &cluster.folder), Vec::<String>::new());
}
