//! A running cluster of one family becomes one of both by its next start, and what is there stays.

use cluster_tests::{Cluster, IMAGE, host, http, words};

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

fn at(ip: &str, port: u16) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

fn list(cluster: &Cluster, line: &str, path: &str) -> Vec<String> {
    cluster.value(line, path).split_whitespace().map(str::to_owned).collect()
}

#[test]
fn a_cluster_of_one_family_becomes_one_of_both_and_what_is_there_stays() {
    if !std::path::Path::new("/proc/self/net/if_inet6").exists() {
        return eprintln!("needs a kernel with IPv6");
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
    let until = |address: String, wanted: &[&str]| {
        let begun = std::time::Instant::now();
        loop {
            match who(&address) {
                Ok(pod) => return assert!(wanted.contains(&pod.as_str()), "{address}: {pod}"),
                Err(e) => assert!(begun.elapsed() < cluster_tests::PATIENCE, "{address}: {e}"),
            }
        }
    };
    until(at(&addresses[1], 80), &["new"]);
    until(at(&nodes[1], port), &["new"]);
    until(at(&addresses[0], 80), &["old", "new"]);
    until(at(&nodes[0], port), &["old", "new"]);
    cluster.apply(&service("six", ", ipFamilies: [IPv6]"));
    let six = list(&cluster, "get service six", "{.spec.clusterIPs[*]}");
    assert!(six.len() == 1 && six[0].starts_with("fd00:d:a2::"), "{six:?}");
    until(at(&six[0], 80), &["new"]);
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
