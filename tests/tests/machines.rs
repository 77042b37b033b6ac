//! A cluster of several machines: one with the control plane, and others that join it by one command.

use cluster_tests::{
    Cluster, PATIENCE, host, knarr, leftovers,
    machines::{Agent, Machines, invitation, strs},
    process, web, words,
};
use nix::sys::signal::Signal;
use std::process::Command;

const SERVICE: &str = "ports: [{port: 80, targetPort: 8080}]";

/// Each pod reaches every pod, and the Service by its name, which its own node's DNS answers.
fn all_reach_all(cluster: &Cluster, pods: &web::Pods) {
    web::reach(cluster, pods, &["web.default.svc.cluster.local:80".to_owned()]);
    for (pod, ..) in pods.values() {
        cluster.kubectl(&format!("logs {pod}"));
    }
}

#[test]
fn machines_join_by_one_command_and_leave_without_a_trace() {
    let machines = Machines::new("vxlan", 4);
    let mut cluster = Cluster::new("machines").inside(&machines.path(0)).with(&["--advertise-address", &machines.ip(0)]);
    cluster.start(&[]).assert_ok();
    let invited = invitation(&cluster);
    let (b, c) = (Agent::new(&cluster, &machines, 1, "b"), Agent::new(&cluster, &machines, 2, "c"));

    // Another secret, and another cluster.
    let with = |option: &str, change: &dyn Fn(&str) -> String| {
        let mut words = invited.clone();
        let at = words.iter().position(|w| w == option).expect("the option") + 1;
        words[at] = change(&words[at]);
        words
    };
    let other = |text: &str| {
        let (rest, last) = text.split_at(text.len() - 1);
        format!("{rest}{}", if last == "0" { "1" } else { "0" })
    };
    assert!(b.refused(&strs(&with("--token", &other))).contains("secret of the token"));
    assert!(b.refused(&strs(&with("--discovery-token-ca-cert-hash", &other))).contains("not the cluster of this token"));
    assert!(b.refused(&[]).contains("has joined no cluster"));

    let mut running_b = b.start(&strs(&invited));
    // Of its API servers the first is away.
    let running_c = c.start(&[&["--join", &format!("https://{}:1", machines.ip(0))], &strs(&invited)[..]].concat());
    assert!(b.refused(&strs(&invited)).contains("is running already"));
    let addresses = cluster.value("get nodes", "{range .items[*]}{.metadata.name} {.status.addresses[?(@.type=='InternalIP')].address}{'\\n'}{end}");
    for (node, at) in [("b", 1), ("c", 2)] {
        assert!(addresses.lines().any(|l| l == format!("{node} {}", machines.ip(at))), "{addresses}");
    }

    cluster.apply(&web::manifest(SERVICE));
    cluster.kubectl("rollout status daemonset/web --timeout=55s");
    let before = web::pods(&cluster);
    assert_eq!(before.len(), 3);
    all_reach_all(&cluster, &before);
    let own_dns = cluster.value("-n kube-system get endpointslice kube-dns-b", "{.endpoints[0].addresses[0]} {.endpoints[0].hints.forNodes[0].name}");
    let range = cluster.value("get node b", "{.spec.podCIDR}");
    assert_eq!(format!("{own_dns} of {range}"), format!("{0}.1 b of {0}.0/24", range.trim_end_matches(".0/24")));

    // Killed and started again, without a token: nobody has noticed.
    let processes = host::containers(&b.name);
    running_b.signal(Signal::SIGKILL);
    running_b.end(PATIENCE);
    running_b = b.start(&[]);
    assert_eq!((web::pods(&cluster), host::containers(&b.name)), (before.clone(), processes));
    web::still_reach(&cluster, &before, &[]);
    all_reach_all(&cluster, &before);

    // A name that is a node's is nobody else's, and so is a machine on which there is a node.
    for (machine, why) in [(3, "choose another --node-name"), (2, "this machine is a node already")] {
        let thief = Agent { name: format!("{}-x", cluster.name), node: "b", folder: cluster.folder.join("x"), space: machines.path(machine) };
        let told = thief.refused(&strs(&invited));
        assert!(told.contains(why), "{told}");
        assert_eq!(leftovers::of(&thief.name, &thief.folder), [""; 0]);
        assert!(!thief.folder.join("b").exists(), "who is refused leaves nothing");
    }

    running_b.signal(Signal::SIGTERM);
    running_b.end(PATIENCE);
    // Its pods run on, and others' DNS answers them.
    let processes = host::containers(&b.name);
    let (web, _) = processes.iter().find(|(_, line)| line.contains("demo web")).expect("its pod");
    let mut asks = Command::new("nsenter");
    asks.args(["-t", &web.pid.to_string(), "--net", "--mount", "--root", "--", "/knarr", "demo", "load", "--strict", "--quiet"]);
    asks.args(["--rate=20", "--seconds=0.3", "--connections=new", "--url=http://web.default.svc.cluster.local:80/whoami"]);
    process::run(&mut asks, &[], PATIENCE).assert_ok();
    let told = b.reset(&machines, 1);
    assert!(told.contains("The cluster has the Node object still: `kubectl delete node b`"), "{told}");
    // One that runs is ended first.
    c.reset(&machines, 2);
    running_c.end(PATIENCE);
    cluster.down();
    assert_eq!(machines.left(0), [""; 0]);
}

#[test]
fn machines_of_ipv6_join_a_cluster_whose_first_family_is_ipv6() {
    let machines = Machines::new("six", 2);
    let (own, own4) = (machines.ip6(0), machines.ip(0));
    let ranges = ["--cluster-cidr=fd00:d:d1::/56,10.199.0.0/16", "--service-cidr=fd00:d:d2::/112,10.198.0.0/16"];
    let mut cluster = Cluster::new("machines6").inside(&machines.path(0)).with(&[&ranges[..], &["--advertise-address", &own]].concat());
    cluster.start(&[]).assert_ok();
    let b = Agent::new(&cluster, &machines, 1, "b");
    let invited = invitation(&cluster);
    assert!(invited.iter().any(|word| word.starts_with(&format!("https://[{own}]:"))), "{invited:?}");
    let running = b.start(&strs(&invited));
    let facts = |path: &str| words(&cluster.value("get node b", path)).into_iter().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(facts("{.status.addresses[?(@.type=='InternalIP')].address}"), [machines.ip6(1)]);
    let nodes = facts("{.spec.podCIDRs[*]}");
    assert!(nodes.len() == 2 && nodes[0].starts_with("fd00:d:d1:") && nodes[1].starts_with("10.199."), "{nodes:?}");
    cluster.apply(&web::manifest("ipFamilyPolicy: RequireDualStack, ports: [{port: 80, targetPort: 8080}]"));
    cluster.kubectl("rollout status daemonset/web --timeout=55s");
    let pods = web::pods(&cluster);
    assert_eq!(pods.len(), 2);
    all_reach_all(&cluster, &pods);
    // By either family, from either machine: IPv4 is carried by IPv6.
    let second = cluster.value("get pods -l app=web", "{range .items[*]}{.status.podIPs[1].ip} {end}");
    let others: Vec<String> = words(&second).into_iter().map(|ip| format!("{ip}:8080")).collect();
    assert!(others.len() == 2 && others.iter().all(|at| at.starts_with("10.199.")), "{others:?}");
    let services = cluster.value("get service web", "{.spec.clusterIPs[1]}");
    web::reach(&cluster, &pods, &[&others[..], &[format!("{services}:80")]].concat());

    // Started again with addresses of both families, its node tells both; nothing else changes.
    drop(running);
    let both = format!("--node-ip={},{}", machines.ip6(1), machines.ip(1));
    let running = b.start(&[&both]);
    cluster.kubectl(&format!("wait --for=jsonpath={{.status.addresses[1].address}}={} node/b --timeout=30s", machines.ip(1)));
    web::reach(&cluster, &pods, &others);
    drop(running);
    assert!(b.refused(&[&format!("--node-ip={own4},{}", machines.ip(1))]).contains("one of each family"));
    b.reset(&machines, 1);
    cluster.down();
    assert_eq!(machines.left(0), [""; 0]);
}

#[test]
fn machines_on_one_link_need_no_more_than_routes() {
    let machines = Machines::new("routes", 2);
    let mut cluster = Cluster::new("routes").inside(&machines.path(0)).with(&["--advertise-address", &machines.ip(0), "--pod-network=routes"]);
    cluster.start(&[]).assert_ok();
    let b = Agent::new(&cluster, &machines, 1, "b");
    let running = b.start(&strs(&invitation(&cluster)));
    cluster.apply(&web::manifest("type: NodePort, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]"));
    cluster.kubectl("rollout status daemonset/web --timeout=55s");
    all_reach_all(&cluster, &web::pods(&cluster));
    // Whichever pod is chosen, on each machine from its loopback, and from either at the address of either.
    for at in 0..2 {
        let mut load = Command::new("nsenter");
        load.arg(format!("--net={}", machines.path(at).display())).arg(knarr());
        load.args(["demo", "load", "--strict", "--quiet", "--rate=100", "--seconds=0.3", "--connections=new"]);
        // The loopback of the first one is the default cluster's.
        let own = (at == 1).then(|| "127.0.0.1".to_owned());
        load.args(own.into_iter().chain([0, 1].map(|of| machines.ip(of))).map(|ip| format!("--url=http://{ip}:30080/whoami")));
        process::run(&mut load, &[], PATIENCE).assert_ok();
    }
    drop(running);
    b.reset(&machines, 1);
    cluster.down();
    assert_eq!(machines.left(0), [""; 0]);
}
