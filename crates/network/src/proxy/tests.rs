//! Plans of Services, without a kernel: what leads where. What a kernel makes of them is tested in `tests/node`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::endpoints::Node;
use super::plan::{self, Shared};
use super::table::{Frame, Table};
use super::*;
use crate::nft::{Data, Family, Verdict, key};

fn node() -> Node {
    let own = |ip: Option<[u8; 4]>, port, protocol| OwnPort { ip: ip.map(Into::into), port, protocol };
    Node {
        name: "n1".into(),
        ip: [198, 51, 100, 10].into(),
        zone: "z1".into(),
        family: Family::V4,
        cluster_cidr: Some("10.244.0.0/16".parse().unwrap()),
        pod_cidr: Some("10.244.0.0/24".parse().unwrap()),
        service_ranges: ["10.96.0.0/16", "10.97.0.0/24"].map(|range| range.parse().unwrap()).into(),
        own_ports: vec![own(Some([10, 244, 0, 1]), 53, "UDP"), own(None, 6443, "TCP"), own(None, 30443, "TCP")],
        is_leaving: false,
    }
}

fn planned(spec: Value, endpoints: Value) -> Plan {
    let service = serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "s"}, "spec": spec})).unwrap();
    let slice = json!({"metadata": {"namespace": "ns", "name": "s-1"}, "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}]});
    plan::of(&service, &[Arc::new(serde_json::from_value(slice).unwrap())], &node())
}

fn leads(plan: &Plan, shared: Shared, key: Vec<u8>) -> Option<String> {
    match plan.elements.get(&(shared, key))? {
        Some(Data::Verdict(Verdict::Goto(chain))) => Some(chain.clone()),
        Some(Data::Verdict(verdict)) => Some(format!("{verdict:?}").to_lowercase()),
        _ => None,
    }
}

fn vip() -> Vec<u8> {
    key::join(&[&[10, 96, 0, 7], &[6], &80_u16.to_be_bytes()])
}

fn node_port() -> Vec<u8> {
    key::join(&[&[6], &30080_u16.to_be_bytes()])
}

fn here(ready: bool) -> Value {
    json!({"addresses": ["10.244.0.5"], "conditions": {"ready": ready}, "nodeName": "n1"})
}

fn there() -> Value {
    json!({"addresses": ["10.244.1.5"], "conditions": {}, "nodeName": "n2"})
}

#[test]
fn who_serves_node_ports_at_all_addresses_too_is_known() {
    let chain = |family: Family, table: String, name: &str, priority| {
        let (name, kind) = (name.to_owned(), "nat".to_owned());
        nft::BaseChain { family: family.number(), table, name, kind, at: nft::At::Prerouting as u32, priority, drops: false }
    };
    let services = |cluster: &str| Mark::new(cluster).proxy_table();
    let chains = [
        chain(Family::V4, services("own"), "nat-prerouting", -100),
        chain(Family::V4, services("rival"), "nat-prerouting", -100),
        chain(Family::V4, services("rival"), "nat-output", -100),
        chain(Family::V6, services("other-family"), "nat-prerouting", -100),
        chain(Family::V4, services("modest"), "nat-prerouting", -101),
        chain(Family::V4, "docker".to_owned(), "nat-prerouting", -100),
    ];
    assert_eq!(table::rivals(&chains, Family::V4, &services("own")), ["rival"]);
}

#[test]
fn another_nodes_pod_comes_from_outside() {
    let plan = planned(spec(&json!({"externalTrafficPolicy": "Local"})), json!([here(true), there()]));
    let from = |range: &str, verdict: nft::Expr| -> nft::Rule {
        let mut rule = nft::step::source_in(range.parse().unwrap(), nft::Cmp::Eq);
        rule.push(verdict);
        rule
    };
    let rules = &plan.chains["ext/ns/s/tcp/80"];
    assert_eq!(rules[0], from("10.244.0.0/24", nft::step::goto("svc/ns/s/tcp/80")), "this node's pods use every endpoint");
    assert!(!rules.contains(&from("10.244.0.0/16", nft::step::goto("svc/ns/s/tcp/80"))), "others' do not");
    assert_eq!(rules.last(), Some(&vec![nft::step::goto("local/ns/s/tcp/80")]), "and are seen under their own address");
}

/// A load balancer that some may use.
fn balancer(ranges: &[&str], endpoints: Value) -> Plan {
    let spec = json!({"type": "LoadBalancer", "clusterIP": "10.96.0.7", "ports": [{"port": 80}], "loadBalancerSourceRanges": ranges});
    let status = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}});
    let service = serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "s"}, "spec": spec, "status": status})).unwrap();
    let slice = json!({"metadata": {"namespace": "ns", "name": "s-1"}, "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}]});
    plan::of(&service, &[Arc::new(serde_json::from_value(slice).unwrap())], &node())
}

#[test]
fn sources_that_may_are_led_on_or_refused_and_all_others_dropped() {
    for (endpoints, map, through, to) in [
        (json!([here(true)]), Shared::Ips, "from/ns/s/tcp/80", "ext/ns/s/tcp/80"),
        (json!([]), Shared::NoEndpoints, "from-none/ns/s/tcp/80", plan::REJECT_CHAIN),
    ] {
        let plan = balancer(&["192.0.2.0/24"], endpoints);
        assert_eq!(leads(&plan, map, key::join(&[&[203, 0, 113, 7], &[6], &80_u16.to_be_bytes()])).as_deref(), Some(through));
        let rules = &plan.chains[through];
        assert_eq!((rules[0].last(), rules.last()), (Some(&nft::step::goto(to)), Some(&vec![nft::Expr::Verdict(Verdict::Drop)])));
        assert!(!leads(&plan, map, vip()).unwrap().starts_with("from"), "the cluster's own address is everybody's");
    }
}

#[test]
fn a_node_that_may_call_a_balancer_may_from_the_balancers_own_address() {
    let rules = |range: &str| balancer(&[range], json!([here(true)])).chains["from/ns/s/tcp/80"].clone();
    let from_itself: nft::Rule =
        nft::step::source_in(Net::one([203_u8, 0, 113, 7]), nft::Cmp::Eq).into_iter().chain([nft::step::goto("ext/ns/s/tcp/80")]).collect();
    assert!(rules("198.51.100.0/24").contains(&from_itself));
    assert!(!rules("192.0.2.0/24").contains(&from_itself));
}

#[test]
fn the_address_of_a_machine_that_has_joined_is_not_that_at_which_its_pods_know_it() {
    let of = |addresses: Value| {
        let node: v1::Node = serde_json::from_value(json!({"metadata": {"name": "n1"}, "status": {"addresses": addresses}})).unwrap();
        let ranges = ServiceRanges::new([], Informer::fixed([]));
        let memory = Memory { services: Informer::fixed([]), slices: Informer::fixed([]), ranges, nodes: Informer::fixed([node]) };
        let side =
            |node_ip: &str, range: &str| Side { node_ip: node_ip.parse().unwrap(), cluster_cidr: range.parse().unwrap(), service_cidr: range.parse().unwrap() };
        [side("10.244.0.1", "10.244.0.0/16"), side("fd00:a::1", "fd00:a::/56")].map(|side| memory.address("n1", side).to_string())
    };
    let at = |kind: &str, address: &str| json!({"type": kind, "address": address});
    let told = json!([at("Hostname", "n1"), at("ExternalIP", "203.0.113.1"), at("InternalIP", "198.51.100.10"), at("InternalIP", "fd00:b::10")]);
    assert_eq!(of(told), ["198.51.100.10", "fd00:b::10"]);
    assert_eq!(of(json!([at("InternalIP", "198.51.100.10")])), ["198.51.100.10", "fd00:a::1"], "of the other family it says nothing");
}

#[test]
fn source_ranges_are_each_familys_own() {
    let sources = |ranges: &[&str]| {
        let plan = balancer(ranges, json!([]));
        let chain = leads(&plan, Shared::NoEndpoints, key::join(&[&[203, 0, 113, 7], &[6], &80_u16.to_be_bytes()]))?;
        Some(plan.chains.get(&chain)?.len())
    };
    assert_eq!(sources(&["192.0.2.0/24"]), Some(2), "one that may, and all others may not");
    assert_eq!(sources(&["192.0.2.0/24", " 2001:db8::/32"]), Some(2), "what is of the other family is none");
    assert_eq!(sources(&["2001:db8::/32"]), None, "nothing is said of this one");
    assert_eq!(sources(&["192.0.2.0/24", "0.0.0.0/0"]), None);
}

#[test]
fn what_ends_with_the_nodes_processes_is_left_to_others() {
    let of = |endpoints: Value, is_leaving: bool| {
        let spec = json!({"clusterIP": "10.96.0.10", "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]});
        let service = serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "dns"}, "spec": spec})).unwrap();
        let slice = json!({"metadata": {"namespace": "ns", "name": "dns-1"}, "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]});
        plan::of(&service, &[Arc::new(serde_json::from_value(slice).unwrap())], &Node { is_leaving, ..node() })
    };
    let at = |ip: &str, node: &str| json!({"addresses": [ip], "conditions": {}, "nodeName": node, "hints": {"forNodes": [{"name": node}]}});
    let [own, other] = [at("10.244.0.1", "n1"), at("10.244.1.1", "n2")];
    let both = json!([own, other]);
    assert_eq!(of(both.clone(), false).chains, of(json!([own]), false).chains, "by the hint");
    assert_eq!(of(both, true).chains, of(json!([other]), false).chains);
    let alone = of(json!([own]), true);
    let dropped = leads(&alone, Shared::NoEndpoints, key::join(&[&[10, 96, 0, 10], &[17], &53_u16.to_be_bytes()]));
    assert_eq!((alone.chains.len(), dropped.as_deref()), (0, Some("drop")), "who asks will ask again");
}

const PORTS: &str = r#"[{"port": 80, "nodePort": 30080}]"#;

fn spec(extra: &Value) -> Value {
    let mut spec = json!({"type": "NodePort", "clusterIP": "10.96.0.7", "ports": serde_json::from_str::<Value>(PORTS).unwrap()});
    for (name, value) in extra.as_object().unwrap() {
        spec[name] = value.clone();
    }
    spec
}

#[test]
fn addresses_from_outside_are_not_the_nodes_own_nor_another_services() {
    let of = |ip: [u8; 4], port: u16, protocol: u8| key::join(&[&ip, &[protocol], &port.to_be_bytes()]);
    let (node, away) = ([10, 244, 0, 1], [203, 0, 113, 7]);
    for endpoints in [json!([here(true)]), json!([])] {
        let ports = json!([{"name": "a", "port": 6443}, {"name": "d", "port": 53, "protocol": "UDP"}, {"name": "t", "port": 53},
            {"name": "w", "port": 80, "nodePort": 30443}]);
        let spec = json!({"type": "LoadBalancer", "clusterIP": "10.96.0.7", "externalIPs": ["10.244.0.1", "203.0.113.7", "10.96.0.1"], "ports": ports,
            "loadBalancerSourceRanges": ["192.0.2.0/24"]});
        let status = json!({"loadBalancer": {"ingress": [{"ip": "10.244.0.1"}, {"ip": "10.96.0.10"}]}});
        let service = serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "s"}, "spec": spec, "status": status})).unwrap();
        let named = |name: &str, protocol: &str| json!({"name": name, "port": 8080, "protocol": protocol});
        let slice = json!({"metadata": {"namespace": "ns", "name": "s-1"}, "addressType": "IPv4", "endpoints": endpoints,
            "ports": [named("a", "TCP"), named("d", "UDP"), named("t", "TCP"), named("w", "TCP")]});
        let plan = plan::of(&service, &[Arc::new(serde_json::from_value(slice).unwrap())], &super::tests::node());
        // Neither a way to a pod nor a refusal: what is there answers as ever.
        let has = |key: Vec<u8>| [Shared::Ips, Shared::NoEndpoints].iter().any(|map| plan.elements.contains_key(&(*map, key.clone())));
        for (ip, port, protocol) in
            [(node, 6443, 6), (away, 6443, 6), (node, 53, 17), ([10, 96, 0, 1], 80, 6), ([10, 96, 0, 10], 53, 17), ([10, 96, 0, 10], 53, 6)]
        {
            assert!(!has(of(ip, port, protocol)), "{ip:?}:{port}");
        }
        // What is nobody's it has: the same port of another protocol, and another port of the same address.
        for (ip, port, protocol) in [(node, 80, 6), (node, 53, 6), (away, 53, 17), ([10, 96, 0, 7], 6443, 6), ([10, 96, 0, 7], 53, 17)] {
            assert!(has(of(ip, port, protocol)), "{ip:?}:{port}");
        }
        assert!(!plan.elements.keys().any(|(map, _)| matches!(map, Shared::NodePorts | Shared::NoNodePortEndpoints)), "a node port that is the API's");
        assert!(plan.withheld.contains(&(node.into(), 6443)) && plan.withheld.contains(&([10, 96, 0, 10].into(), 53)));
        assert!(!plan.udp.values().any(|front| front.addresses.contains(&(node.into(), 53))), "nor are its flows forgotten");
    }
}

#[test]
fn policies_decide_between_serving_refusing_and_dropping() {
    let outer = json!({"externalTrafficPolicy": "Local"});
    let inner = json!({"internalTrafficPolicy": "Local"});
    let plain = json!({});
    // policy, endpoints → cluster address, cluster address without endpoint, node port, node port without endpoint
    for (policy, endpoints, wanted) in [
        (&plain, json!([there()]), [Some("svc/ns/s/tcp/80"), None, Some("ext/ns/s/tcp/80"), None]),
        (&plain, json!([]), [None, Some("reject-chain"), None, Some("reject-chain")]),
        (&plain, json!([here(false)]), [None, Some("reject-chain"), None, Some("reject-chain")]),
        (&outer, json!([there()]), [Some("svc/ns/s/tcp/80"), None, Some("ext/ns/s/tcp/80"), Some("drop")]),
        (&outer, json!([here(true)]), [Some("svc/ns/s/tcp/80"), None, Some("ext/ns/s/tcp/80"), None]),
        (&inner, json!([there()]), [None, Some("drop"), Some("ext/ns/s/tcp/80"), None]),
        (&inner, json!([here(true), there()]), [Some("local/ns/s/tcp/80"), None, Some("ext/ns/s/tcp/80"), None]),
    ] {
        let plan = planned(spec(policy), endpoints.clone());
        let found = [
            leads(&plan, Shared::Ips, vip()),
            leads(&plan, Shared::NoEndpoints, vip()),
            leads(&plan, Shared::NodePorts, node_port()),
            leads(&plan, Shared::NoNodePortEndpoints, node_port()),
        ];
        assert_eq!(found, wanted.map(|w| w.map(str::to_owned)), "{policy} {endpoints}");
        for chain in found.iter().flatten().filter(|c| c.contains('/')) {
            assert!(plan.chains.contains_key(chain), "{chain} exists");
        }
    }
}

#[test]
fn hints_prefer_the_node_if_they_are_whole() {
    let hinted = |ip: &str, node: &str| json!({"addresses": [ip], "conditions": {}, "nodeName": node, "hints": {"forNodes": [{"name": node}]}});
    let backends = |endpoints: Value| format!("{:?}", planned(spec(&json!({})), endpoints).chains["svc/ns/s/tcp/80"]);
    let both = backends(json!([hinted("10.244.0.5", "n1"), hinted("10.244.1.5", "n2")]));
    assert_eq!(both, backends(json!([hinted("10.244.0.5", "n1")])));
    let partly = backends(json!([hinted("10.244.0.5", "n1"), there()]));
    assert_eq!(partly, backends(json!([here(true), there()])));
    let others = backends(json!([hinted("10.244.1.5", "n2")]));
    assert_eq!(others, backends(json!([there()])), "nobody is left without an endpoint");
    let zoned = |ip: &str, zones: &[&str], nodes: &[&str]| {
        let names = |all: &[&str]| all.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
        json!({"addresses": [ip], "conditions": {}, "nodeName": "n2", "hints": {"forZones": names(zones), "forNodes": names(nodes)}})
    };
    let [near, far] = [("10.244.1.5", "z1"), ("10.244.1.6", "z2")].map(|(ip, zone)| zoned(ip, &[zone], &[]));
    assert_eq!(backends(json!([near, far])), backends(json!([near])));
    let bare = json!({"addresses": ["10.244.1.6"], "conditions": {}, "nodeName": "n2"});
    assert_eq!(backends(json!([near, bare])), backends(json!([zoned("10.244.1.5", &[], &[]), bare])), "one has none");
    assert_eq!(backends(json!([far])), backends(json!([bare])));
    assert_eq!(backends(json!([zoned("10.244.1.5", &["z1"], &["n2"]), zoned("10.244.1.6", &["z2"], &["n1"])])), backends(json!([bare])), "the node first");
}

#[test]
fn services_without_an_address_need_nothing() {
    for extra in [json!({"clusterIP": "None"}), json!({"type": "ExternalName"}), json!({"clusterIP": ""})] {
        assert_eq!(planned(spec(&extra), json!([here(true)])), Plan::default(), "{extra}");
    }
}

#[test]
fn services_of_another_proxy_or_of_none_are_left_alone() {
    let service =
        |labels: Value| serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "s", "labels": labels}, "spec": spec(&json!({}))})).unwrap();
    let slice = |labels: Value| {
        let slice = json!({"metadata": {"namespace": "ns", "name": "s-1", "labels": labels}, "addressType": "IPv4", "endpoints": [here(true)],
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}]});
        Arc::new(serde_json::from_value(slice).unwrap())
    };
    let leads = |of_service: Value, of_slice: Value| leads(&plan::of(&service(of_service), &[slice(of_slice)], &node()), Shared::Ips, vip());
    assert!(leads(json!({"app": "a"}), json!({"app": "a"})).is_some());
    for label in ["service.kubernetes.io/headless", "service.kubernetes.io/service-proxy-name"] {
        // The value says nothing.
        let labelled = json!({label: ""});
        assert_eq!((leads(labelled.clone(), json!({})), leads(json!({}), labelled)), (None, None), "{label}");
    }
}

#[test]
fn of_clusters_that_share_an_address_always_the_same_comes_first() {
    let late = |mark: &str| {
        let (own, with_others) = (vec![[10, 245, 0, 1].into()], vec![[192, 168, 1, 2].into()]);
        let frame = Frame {
            table: Mark::new(mark).proxy_table(),
            node_ip: own[0],
            cluster_cidr: None,
            service_ranges: BTreeSet::new(),
            node_ports: NodePortAddresses::Shared { own, with_others },
        };
        let all = frame.entered().into_iter().filter(|(name, _)| name.ends_with("-late")).map(|(_, hook)| hook.priority);
        all.collect::<Vec<_>>()
    };
    let one = late("one");
    assert!(one.len() == 2 && one[0] == one[1] && one[0] > -100, "{one:?}");
    assert_eq!(one, late("one"));
    let many: BTreeSet<i32> = (0..200).flat_map(|number| late(&format!("cluster-{number}"))).collect();
    assert_eq!(many.len(), 200, "each has a place of its own");
}

fn empty_table() -> Table {
    Table::new(Frame {
        table: "t".into(),
        node_ip: [10, 244, 0, 1].into(),
        cluster_cidr: None,
        service_ranges: BTreeSet::new(),
        node_ports: NodePortAddresses::All,
    })
}

/// Whether something is made, and whether something is led elsewhere or cleared.
fn changed(table: &mut Table, at: Instant, new: Vec<(ObjectKey, Plan)>) -> (bool, bool) {
    let change = table.change(new, at);
    (!change.make.is_empty(), !change.lead.is_empty())
}

#[test]
fn a_change_touches_only_its_own_service() {
    let (mut table, now) = (empty_table(), Instant::now());
    let (one, two) = (ObjectKey::new("ns", "one"), ObjectKey::new("ns", "two"));
    let first = planned(spec(&json!({})), json!([here(true)]));
    assert_eq!(changed(&mut table, now, vec![(one.clone(), first.clone())]), (true, true));
    assert_eq!(changed(&mut table, now, vec![(one.clone(), first.clone())]), (false, false), "the same again is no change");
    let more = planned(spec(&json!({})), json!([here(true), there()]));
    assert_eq!(changed(&mut table, now, vec![(one.clone(), more)]), (true, true), "another map, and who looks into it");
    assert_eq!(changed(&mut table, now, vec![(one.clone(), first.clone())]), (false, true), "the rule alone");
    assert_eq!(changed(&mut table, now, vec![(one.clone(), Plan::default()), (two, first)]), (true, true));
    assert!(table.plan(&one).is_none());
    assert_eq!(changed(&mut table, now, vec![(one, Plan::default())]), (false, false), "what is not there need not be removed");
}

#[test]
fn what_nothing_leads_to_stays_a_while_then_is_emptied_then_goes() {
    let (mut table, begun) = (empty_table(), Instant::now());
    let one = ObjectKey::new("ns", "one");
    let first = planned(spec(&json!({"sessionAffinity": "ClientIP"})), json!([here(true), there()]));
    assert!(first.chains.contains_key("ep/ns/s/tcp/80/10.244.1.5/8080") && first.affinity.contains_key("aff-10800/ns/s/tcp/80/10.244.1.5/8080"));
    table.change(vec![(one.clone(), first.clone())], begun);
    assert!(!table.has_stale());
    let (rules, own) = (table.rules(), first.chains.values().map(Vec::len).sum::<usize>());
    assert_eq!(changed(&mut table, begun, vec![(one.clone(), Plan::default())]), (false, true));
    assert!(table.has_stale() && table.rules() == rules, "a packet under way may still come to the rules");
    let early = begun + STALE - Duration::from_millis(1);
    assert_eq!(changed(&mut table, early, Vec::new()), (false, false), "however many changes come meanwhile");
    // Wanted again before they went: they stay, and their rules are written as they are to be.
    assert_eq!(changed(&mut table, early, vec![(one.clone(), first)]), (true, true));
    assert!(!table.has_stale());

    table.change(vec![(one, Plan::default())], begun);
    assert_eq!(changed(&mut table, begun + STALE, Vec::new()), (false, true), "emptied");
    assert_eq!(rules - table.rules(), own);
    assert_eq!(changed(&mut table, begun + STALE, Vec::new()), (false, false), "one step at a time");
    assert_eq!(changed(&mut table, begun + 2 * STALE, Vec::new()), (false, true), "the maps go, with their ways to chains");
    assert!(table.has_stale());
    assert_eq!(changed(&mut table, begun + 3 * STALE, Vec::new()), (false, true), "the chains go");
    assert!(!table.has_stale());
}

#[test]
fn a_map_that_rules_choose_by_is_never_changed() {
    let of = |extra: Value, endpoints: Value| planned(spec(&extra), endpoints);
    let two = json!([here(true), there()]);
    let third = json!({"addresses": ["10.244.1.6"], "conditions": {}, "nodeName": "n2"});
    for extra in [json!({}), json!({"sessionAffinity": "ClientIP"})] {
        let (before, same) = (of(extra.clone(), two.clone()), of(extra.clone(), json!([there(), here(true)])));
        assert!(!before.maps.is_empty());
        assert_eq!(before.maps, same.maps, "the order of endpoints is nothing");
        for other in [json!([here(true), third.clone()]), json!([here(true), there(), third.clone()])] {
            let after = of(extra.clone(), other);
            assert!(after.maps.keys().all(|name| !before.maps.contains_key(name)), "{:?} {:?}", before.maps.keys(), after.maps.keys());
        }
        // Rules look into maps of the plan alone.
        let looked: Vec<&String> =
            before.chains.values().flatten().flatten().filter_map(|e| if let crate::nft::Expr::Map { set, .. } = e { Some(set) } else { None }).collect();
        assert!(!looked.is_empty() && looked.iter().all(|set| before.has_set(set)), "{looked:?}");
    }
}

#[test]
fn no_rule_looks_for_what_another_look_gave() {
    use crate::nft::Expr;
    let plan = planned(spec(&json!({"sessionAffinity": "ClientIP"})), json!([here(true), there()]));
    assert_eq!(plan.affinity.len(), 2, "each endpoint's clients");
    for rule in plan.chains.values().flatten() {
        let mut given = Vec::new();
        for expr in rule {
            let by = match expr {
                Expr::Map { from, .. } | Expr::In { from, .. } => Some(from),
                Expr::Remember { key, .. } => Some(key),
                _ => None,
            };
            assert!(by.is_none_or(|by| !given.contains(by)), "`nft list ruleset` 1.0.6 aborts by {rule:?}");
            if let Expr::Map { to, .. } = expr {
                given.push(*to);
            }
        }
    }
}

#[test]
fn what_does_not_say_whether_it_serves_does() {
    let ends = json!([{"addresses": ["10.244.0.5"], "conditions": {"ready": false, "terminating": true}, "nodeName": "n1"}]);
    let plan = planned(spec(&json!({})), ends);
    assert_eq!(leads(&plan, Shared::Ips, vip()).as_deref(), Some("svc/ns/s/tcp/80"), "there is no other");
}

#[test]
fn flows_without_an_end_stay_with_whoever_still_serves() {
    let ends = json!({"addresses": ["10.244.0.5"], "conditions": {"ready": false, "serving": true, "terminating": true}, "nodeName": "n1"});
    let gone = json!({"addresses": ["10.244.0.5"], "conditions": {"ready": false, "serving": false, "terminating": true}, "nodeName": "n1"});
    let of = |endpoints: Value, node_port: u16| {
        let ports = json!([{"port": 80, "nodePort": node_port, "protocol": "UDP"}]);
        let service = serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "s"}, "spec": spec(&json!({"ports": ports}))})).unwrap();
        let slice = json!({"metadata": {"namespace": "ns", "name": "s-1"}, "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "", "port": 8080, "protocol": "UDP"}]});
        plan::of(&service, &[Arc::new(serde_json::from_value(slice).unwrap())], &node())
    };
    let before = of(json!([here(true), there()]), 30080);
    assert!(stale_fronts(Some(&before), &of(json!([ends, there()]), 30080)).is_empty(), "it finishes what it has");
    assert_eq!(stale_fronts(Some(&before), &of(json!([gone, there()]), 30080)).len(), 1);
    let moved = stale_fronts(Some(&before), &of(json!([here(true), there()]), 30081));
    assert!(moved.iter().any(|front| front.node_port == Some(30080) && front.backends.is_empty()), "{moved:?}");
}

#[test]
fn a_balancer_is_told_of_ready_endpoints_alone() {
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32100});
    let ends = json!({"addresses": ["10.244.0.5"], "conditions": {"ready": false, "serving": true, "terminating": true}, "nodeName": "n1"});
    assert_eq!(planned(spec(&local), json!([here(true), there()])).health, Some((32100, 1)));
    assert_eq!(planned(spec(&local), json!([ends, there()])).health, Some((32100, 0)), "it serves on, uncounted");
}
