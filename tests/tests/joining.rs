//! The control plane's half of a node that joins from another machine: the node itself is played by kubectl.

use client::{Client, Credentials, Endpoint, HttpTransport};
use cluster_tests::{Cluster, PATIENCE, netns::Beside, process, words};
use k8s_openapi::api::core::v1::ConfigMap;
use std::{net::Ipv4Addr, process::Command, sync::Arc};

/// The host's address toward the other machine.
const ADDRESS: &str = "198.18.77.1";
const TOKEN: &str = "abcdef.0123456789abcdef";
/// Requests for `system:node:elsewhere` of `system:nodes`, as PEM in base64; nobody has their keys. The second names `elsewhere` and 192.0.2.77.
const CLIENT: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIeU1JR1pBZ0VBTURjeEZUQVRCZ05WQkFvTURITjVjM1JsYlRwdWIyUmxjekVlTUJ3R0ExVUVBd3dWYzNsegpkR1Z0T201dlpHVTZaV3h6Wlhkb1pYSmxNRmt3RXdZSEtvWkl6ajBDQVFZSUtvWkl6ajBEQVFjRFFnQUVtWnY1CngvTU5wbUorNFFRTmQycWJzNGlIaC9IbmV2NVhJUEkydWRhSWpIazl4bDBjT2dnM0FhNWpjNDhyZEJkSlhYVHAKRUtFb01EVmx1bWwvUkYwVHhxQUFNQW9HQ0NxR1NNNDlCQU1DQTBnQU1FVUNJQ3p4MmtSYTVGUk0zOGdqcyttNAp5aEZnOTEzVUxIVHFZNnRUcEk4WXhmQm1BaUVBZ3pDSWFxcG56NnV2STIzSURacUtxZTJDajg1TEQzajhuaXdrCmRET1VWdGc9Ci0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo=";
const SERVING: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlJQklEQ0J4Z0lCQURBM01SVXdFd1lEVlFRS0RBeHplWE4wWlcwNmJtOWtaWE14SGpBY0JnTlZCQU1NRlhONQpjM1JsYlRwdWIyUmxPbVZzYzJWM2FHVnlaVEJaTUJNR0J5cUdTTTQ5QWdFR0NDcUdTTTQ5QXdFSEEwSUFCSm1iCitjZnpEYVppZnVFRURYZHFtN09JaDRmeDUzcitWeUR5TnJuV2lJeDVQY1pkSERvSU53R3VZM09QSzNRWFNWMTAKNlJDaEtEQTFaYnBwZjBSZEU4YWdMVEFyQmdrcWhraUc5dzBCQ1E0eEhqQWNNQm9HQTFVZEVRUVRNQkdDQ1dWcwpjMlYzYUdWeVpZY0V3QUFDVFRBS0JnZ3Foa2pPUFFRREFnTkpBREJHQWlFQTVaaWRHWnBodUpaM3Y3cnQ3UmNMCktBWDYrMU1BMWNsT2pFcTFjQnMzdTBZQ0lRQzNtSlhWaWlLa2ZpcitSV3pKKytMdVZ1cjRGb0tJNUM3aHRheXUKb25QOXhRPT0KLS0tLS1FTkQgQ0VSVElGSUNBVEUgUkVRVUVTVC0tLS0tCg==";
const AS_NODE: &str = "--as=system:node:elsewhere --as-group=system:nodes --as-group=system:authenticated";

const SERVER: &str = "https://198.18.77.1:16443";

/// kubectl without the cluster's kubeconfig, at the address that other machines know.
fn with_token(token: &str, line: &str) -> process::Output {
    let mut command = Command::new(cluster_tests::kubectl());
    command.env("KUBECONFIG", "/dev/null").args(["--insecure-skip-tls-verify", "--server", SERVER, "--token", token]).args(words(line));
    process::run(&mut command, &[], PATIENCE)
}

/// A ConfigMap as somebody without a name reads it there; kubectl would ask for one.
fn without_name(cluster: &Cluster, namespace: &str, name: &str) -> Result<ConfigMap, client::Error> {
    let endpoint = Endpoint { server: SERVER.into(), authorities: vec![], server_name: None, insecure: true, credentials: Credentials::default() };
    cluster.block_on("an answer", async {
        let client = Client::new(Arc::new(HttpTransport::new(endpoint).expect("a way to the server")));
        client.namespaced::<ConfigMap>(namespace).get(name).await
    })
}

fn token() -> String {
    let (id, secret) = TOKEN.split_once('.').expect("two parts");
    format!(
        "apiVersion: v1\nkind: Secret\ntype: bootstrap.kubernetes.io/token\nmetadata: {{name: bootstrap-token-{id}, namespace: kube-system}}\n\
        stringData: {{token-id: {id}, token-secret: {secret}, usage-bootstrap-signing: 'true', usage-bootstrap-authentication: 'true',\
        auth-extra-groups: 'system:bootstrappers:kubeadm:default-node-token'}}\n"
    )
}

fn request(name: &str, signer: &str, usage: &str, pem: &str) -> String {
    format!(
        "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\n\
        spec: {{signerName: kubernetes.io/{signer}, usages: [digital signature, {usage}], request: {pem}}}\n"
    )
}

fn node(range: &str) -> String {
    format!("apiVersion: v1\nkind: Node\nmetadata: {{name: elsewhere}}\nspec: {{{range}}}\n")
}

#[test]
fn a_node_from_elsewhere_gets_its_certificates_its_range_and_no_more() {
    let _other = Beside::at(Ipv4Addr::new(198, 18, 77, 0));
    let mut cluster = Cluster::new("joining").with(&["--port=16443", "--advertise-address", ADDRESS]);
    cluster.start(&[]).assert_ok();
    let first = cluster.value("get nodes", "{.items[0].metadata.name}");
    let wait = |line: &str| cluster.kubectl(&format!("{line} --timeout=50s"));
    wait(&format!("wait node/{first} --for=jsonpath={{.metadata.annotations.knarr\\.local/machine-address}}={ADDRESS}"));
    assert_eq!(cluster.value("get endpointslice kubernetes", "{.endpoints[0].addresses[0]}:{.ports[0].port}"), format!("{ADDRESS}:16443"));

    // Who knows nothing reads one object, signed for each token; who has a token asks for a certificate, and what is not his he does not get.
    cluster.apply(&token());
    wait("-n kube-public wait configmap/cluster-info --for=jsonpath={.data.jws-kubeconfig-abcdef}");
    let info = without_name(&cluster, "kube-public", "cluster-info").expect("one object").data.unwrap_or_default();
    assert!(info["kubeconfig"].contains(SERVER) && info["kubeconfig"].contains("certificate-authority-data"), "{info:?}");
    for (namespace, name) in [("kube-public", "kube-root-ca.crt"), ("kube-system", "knarr-node")] {
        let refused = without_name(&cluster, namespace, name).expect_err("no more");
        assert!(refused.to_string().contains("system:anonymous"), "{name}: {refused}");
    }
    let settings = with_token(TOKEN, "-n kube-system get configmap knarr-node -o jsonpath={.data}").assert_ok().stdout;
    assert!(settings.contains(&format!("\"apiServers\":\"{SERVER}\"")) && settings.contains("\"podNetwork\":\"vxlan\""), "{settings}");
    assert!(with_token("abcdef.0123456789abcdeg", "get node elsewhere").assert_fails().contains("Unauthorized"));
    assert!(with_token(TOKEN, "get secrets -A").assert_fails().contains("system:bootstrap:abcdef"));
    let bootstrapper = "--as=system:bootstrap:abcdef --as-group=system:bootstrappers --as-group=system:bootstrappers:kubeadm:default-node-token";
    cluster.kubectl_with(&format!("create -f - {bootstrapper}"), &request("joins", "kube-apiserver-client-kubelet", "client auth", CLIENT)).assert_ok();
    wait("wait csr/joins --for=jsonpath={.status.certificate}");

    // Its range is given, not taken; what it serves under is its own once its Node says so.
    let first_range = cluster.value(&format!("get node {first}"), "{.spec.podCIDR}");
    let taken = cluster.kubectl_with(&format!("create -f - {AS_NODE}"), &node(&format!("podCIDR: {first_range}, podCIDRs: [{first_range}]"))).assert_fails();
    assert!(taken.contains(&format!("that of the node \"{first}\"")), "{taken}");
    cluster.kubectl_with(&format!("create -f - {AS_NODE}"), &node("")).assert_ok();
    // Ranges of the machine's own nodes are from the beginning, those of others from the end.
    let range = first_range.replace(".0.0/24", ".255.0/24");
    let dns = range.replace(".0/24", ".1");
    wait(&format!("wait node/elsewhere --for=jsonpath={{.spec.podCIDR}}={range}"));
    let serving = request("serves", "kubelet-serving", "server auth", SERVING);
    cluster.kubectl_with(&format!("create -f - {AS_NODE}"), &serving).assert_ok();
    let status = |addresses: &str, port: u16| {
        let status = format!("{{\"status\":{{\"addresses\":[{addresses}],\"daemonEndpoints\":{{\"kubeletEndpoint\":{{\"Port\":{port}}}}}}}}}");
        // By an administrator: kubectl reads the status first, which a node does not.
        let mut all = words("patch node elsewhere --subresource=status --type=merge");
        all.extend(["-p", &status]);
        cluster.try_kubectl(&all).assert_ok();
    };
    assert_eq!(cluster.value("get csr serves", "{.status.conditions}"), "", "nobody knows its address yet");
    status(r#"{"type":"InternalIP","address":"192.0.2.77"},{"type":"Hostname","address":"elsewhere"}"#, 10_250);
    wait("wait csr/serves --for=jsonpath={.status.certificate}");

    // Its DNS is known when it says where it is, and only there.
    cluster.kubectl(&format!("annotate node elsewhere knarr.local/dns-address={dns} {AS_NODE}"));
    wait("-n kube-system wait endpointslice/kube-dns-elsewhere --for=create");
    assert_eq!(cluster.value("-n kube-system get endpointslice kube-dns-elsewhere", "{.endpoints[0].addresses[0]}"), dns);
    cluster.kubectl(&format!("annotate --overwrite node elsewhere knarr.local/dns-address={ADDRESS} {AS_NODE}"));
    wait("-n kube-system wait endpointslice/kube-dns-elsewhere --for=delete");
    cluster.kubectl(&format!("get services,endpointslices,namespaces -A {AS_NODE}"));
    for line in ["get pods -A", "get secrets -A", "-n kube-system delete endpointslice --all"] {
        assert!(cluster.try_kubectl(&words(&format!("{line} {AS_NODE}"))).assert_fails().contains("Forbidden"), "{line}");
    }

    // Whatever it tells of itself, the API server shows its certificate to nobody who is not this node.
    let asked = || cluster.try_kubectl(&["get", "--raw", "/api/v1/nodes/elsewhere/proxy/healthz"]).assert_fails();
    let node_ip = cluster.value(&format!("get node {first}"), "{.status.addresses[?(@.type=='InternalIP')].address}");
    for (port, who) in [(16_443, "kube-apiserver"), (10_250, &format!("system:node:{first}"))] {
        status(&format!(r#"{{"type":"InternalIP","address":"{node_ip}"}}"#), port);
        let told = asked();
        assert!(told.contains(&format!("certificate is valid for {who}, not system:node:elsewhere of system:nodes")), "{port}: {told}");
    }
    // Nor does it ask there at all where no node can be.
    status(r#"{"type":"InternalIP","address":"127.0.0.1"}"#, 16_443);
    let told = asked();
    assert!(told.contains("address not allowed"), "{told}");
    assert_eq!(cluster.kubectl(&format!("get --raw /api/v1/nodes/{first}/proxy/healthz")), "ok");

    // The settings are kept for the next start. A further node of this machine takes neither a name nor a range that another has.
    cluster.kubectl_with("create -f -", &node("").replace("elsewhere", &format!("{first}-2"))).assert_ok();
    let third = first_range.replace(".0.0/24", ".2.0/24");
    cluster.kubectl_with("create -f -", &node(&format!("podCIDR: {third}, podCIDRs: [{third}]")).replace("elsewhere", "third")).assert_ok();
    cluster.down_keeping_data();
    cluster = cluster.with(&["--port=16443", "--nodes=2"]);
    cluster.start(&[]).assert_ok();
    cluster.kubectl(&format!("wait node/{first}-4 --for=condition=Ready --timeout=50s"));
    without_name(&cluster, "kube-public", "cluster-info").expect("it is there");
    cluster.kubectl("delete node elsewhere");
}
