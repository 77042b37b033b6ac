//! What happens to nodes of other machines over time: another machine of their name, certificates that end, API servers that go.

use cluster_tests::{
    Cluster, IMAGE, PATIENCE, host, leftovers,
    machines::{Agent, Machines, invitation, strs},
    process::Running,
};
use nix::sys::signal::Signal;
use std::{process::Stdio, thread, time::Duration};

/// Of certificates: with as much time before they end as they wait before they are renewed.
const LIFE: &str = "64s";
/// For a certificate to be renewed twice, each 32 seconds after the last.
const RENEWED: Duration = Duration::from_secs(150);

fn pod(name: &str, node: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{nodeName: {node}, containers: [{{name: c, image: '{IMAGE}', args: [web]}}]}}\n")
}

/// Starts it, and waits until its node is Ready, or it ends; which of them.
fn tried(agent: &Agent, words: &[&str]) -> (Running, bool) {
    let mut running = Running::start(agent.command(words).stdin(Stdio::null()));
    let is_ready = running.line_or_end(PATIENCE, |line| line.contains(&format!("node {} Ready", agent.node))).is_some();
    (running, is_ready)
}

#[test]
fn two_machines_of_one_name_do_not_become_one_node() {
    let machines = Machines::new("twins", 3);
    let mut cluster = Cluster::new("twins").inside(&machines.path(0)).with(&["--advertise-address", &machines.ip(0)]);
    cluster.start(&[]).assert_ok();
    let invited = invitation(&cluster);
    let twins = [("one", 1), ("other", 2)].map(|(folder, at)| Agent {
        name: format!("{}-{folder}", cluster.name),
        node: "twin",
        folder: cluster.folder.join(folder),
        space: machines.path(at),
    });
    // At the same time.
    let both = thread::scope(|scope| {
        let both: Vec<_> = twins.iter().map(|twin| scope.spawn(|| tried(twin, &strs(&invited)))).collect();
        both.into_iter().map(|one| one.join().expect("it was tried")).collect::<Vec<_>>()
    });
    let are_ready: Vec<bool> = both.iter().map(|(_, is_ready)| *is_ready).collect();
    assert!(are_ready == [true, false] || are_ready == [false, true], "{are_ready:?}");
    let first = usize::from(are_ready[1]);
    assert!(twins[1 - first].refused(&strs(&invited)).contains("choose another --node-name"));
    assert_eq!(cluster.value("get nodes", "{.items[*].metadata.name}").split(' ').count(), 2);

    // One that has joined and is another machine's since ends with its pods, and does not come back.
    cluster.apply(&pod("own", "twin"));
    cluster.ready("default", "own");
    assert_eq!(host::containers(&twins[first].name).len(), 1);
    cluster.kubectl("annotate --overwrite node twin knarr.local/machine=another");
    let running = both.into_iter().nth(first).expect("it runs").0;
    assert!(!running.end(PATIENCE).1.success());
    assert!(host::containers(&twins[first].name).is_empty());
    let why = twins[first].refused(&[]);
    assert!(why.contains("another machine has joined as \"twin\"") && why.contains("--reset"), "{why}");
    cluster.kubectl("annotate node twin knarr.local/machine-");
    let running = twins[first].start(&[]);

    // One that hears of it only at its start ends the pods that it left.
    cluster.apply(&pod("left", "twin"));
    cluster.ready("default", "left");
    running.signal(Signal::SIGTERM);
    running.end(PATIENCE);
    assert!(!host::containers(&twins[first].name).is_empty());
    cluster.kubectl("annotate --overwrite node twin knarr.local/machine=another");
    let why = twins[first].refused(&[]);
    assert!(why.contains("another machine has joined as \"twin\""), "{why}");
    assert!(host::containers(&twins[first].name).is_empty());
    cluster.kubectl("annotate node twin knarr.local/machine-");
    let running = twins[first].start(&[]);
    twins[first].reset(&machines, first + 1);
    running.end(PATIENCE);
    // Whoever was refused before it had joined has left nothing.
    if twins[1 - first].folder.join("twin").exists() {
        twins[1 - first].reset(&machines, 2 - first);
    }
    assert_eq!(leftovers::of(&twins[1 - first].name, &twins[1 - first].folder), [""; 0]);
    cluster.down();
}

#[test]
fn a_machine_that_is_killed_while_it_joins_joins_by_the_same_command() {
    let machines = Machines::new("cutoff", 2);
    let mut cluster = Cluster::new("cutoff").inside(&machines.path(0)).with(&["--advertise-address", &machines.ip(0)]);
    cluster.start(&[]).assert_ok();
    let (b, invited) = (Agent::new(&cluster, &machines, 1, "b"), invitation(&cluster));
    let mut nodes = cluster.kubectl_running("get nodes --watch -o name");
    let joins = Running::start(b.command(&strs(&invited)).stdin(Stdio::null()));
    nodes.line(PATIENCE, |line| line == "node/b");
    joins.signal(Signal::SIGKILL);
    joins.end(PATIENCE);
    // It may have come further in the meantime: its Node is there, and nothing else that it keeps at the end.
    let _ = std::fs::remove_file(b.folder.join("b/agent.json"));
    cluster.kubectl(r#"patch node b --subresource=status -p {"status":{"conditions":[{"type":"Ready","status":"False"}]}}"#);
    let uid = cluster.value("get node b", "{.metadata.uid}");
    let running = b.start(&strs(&invited));
    assert_eq!(cluster.value("get node b", "{.metadata.uid}"), uid);
    drop(nodes);
    b.reset(&machines, 1);
    running.end(PATIENCE);
    cluster.down();
}

#[test]
fn a_machine_that_loses_its_power_has_its_pods_again_when_it_is_back() {
    let machines = Machines::new("power", 2);
    let mut cluster = Cluster::new("power").inside(&machines.path(0)).with(&["--advertise-address", &machines.ip(0)]);
    cluster.start(&[]).assert_ok();
    let agent = Agent::new(&cluster, &machines, 1, "b");
    let running = agent.boot(&strs(&invitation(&cluster)));
    cluster.apply(&pod("own", "b"));
    cluster.ready("default", "own");
    let uid = cluster.value("get pod own", "{.metadata.uid}");
    agent.power_off(running);
    assert!(host::containers(&agent.name).is_empty());
    machines.plug_anew(1);

    // Without a token, by what it has kept on its disk.
    let running = agent.boot(&[]);
    cluster.kubectl("wait --for=jsonpath={.status.containerStatuses[0].restartCount}=1 pod/own --timeout=50s");
    cluster.ready("default", "own");
    assert_eq!(
        cluster.value("get pod own", "{.metadata.uid} {.status.containerStatuses[0].lastState.terminated.reason}"),
        format!("{uid} ContainerStatusUnknown")
    );
    assert_eq!(host::containers(&agent.name).len(), 1);
    cluster.kubectl("logs own");
    agent.power_off(running);
    agent.reset(&machines, 1);
    cluster.down();
}

#[test]
fn certificates_are_renewed_and_an_api_server_that_goes_is_not_waited_for() {
    let machines = Machines::new("renewed", 2);
    // The same API server by two addresses.
    let second = "198.18.78.101";
    machines.also(0, second);
    let options = ["--advertise-address", &machines.ip(0), "--listen", second, "--tls-san", second, "--cluster-signing-duration", LIFE];
    let mut cluster = Cluster::new("renewed").inside(&machines.path(0)).with(&options);
    cluster.start(&[]).assert_ok();
    let b = Agent::new(&cluster, &machines, 1, "b");
    let mut requests = cluster.kubectl_running(
        "get csr --watch --no-headers -o custom-columns=NAME:.metadata.name,WHO:.spec.username,SIGNER:.spec.signerName,CERTIFICATE:.status.certificate",
    );
    let mut invited = invitation(&cluster);
    let at = invited.iter().position(|word| word == "--join").expect("where to") + 1;
    invited.extend(["--join".to_owned(), invited[at].replace(&machines.ip(0), second)]);
    let running = b.start(&strs(&invited));
    cluster.apply(&pod("stays", "b"));
    cluster.ready("default", "stays");
    let before = cluster.value("get pod stays", "{.status.containerStatuses[0].containerID}");

    // The one that it talks to goes without a word.
    machines.loses(1, &machines.ip(0), true);
    cluster.apply(&pod("comes", "b"));
    // A connection that nobody ends is given up after half a minute or so.
    cluster.try_kubectl(&["wait", "pod/comes", "--for=condition=Ready", "--timeout=50s"]);
    cluster.ready("default", "comes");
    machines.loses(1, &machines.ip(0), false);

    // By the node itself: the first certificate was asked for by who had the token.
    let signed = |purpose: &str, times: usize| {
        let (mut names, signer) = (std::collections::BTreeSet::new(), format!("kubernetes.io/{purpose}"));
        move |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words[1..3] == ["system:node:b", signer.as_str()] && words[3] != "<none>" {
                names.insert(words[0].to_owned());
            }
            names.len() == times
        }
    };
    let (mut client, mut serving) = (signed("kube-apiserver-client-kubelet", 2), signed("kubelet-serving", 3));
    let (mut by_client, mut by_serving) = (false, false);
    requests.line(RENEWED, |line| {
        by_client |= client(line);
        by_serving |= serving(line);
        by_client && by_serving
    });
    // Both first ones have ended by now.
    assert_eq!(cluster.value("get node b", "{.status.conditions[?(@.type=='Ready')].status}"), "True");
    cluster.kubectl("exec stays -- /knarr demo sleep 0");
    assert_eq!(cluster.value("get pod stays", "{.status.containerStatuses[0].containerID}"), before);
    drop(requests);
    b.reset(&machines, 1);
    running.end(PATIENCE);
    cluster.down();
}
