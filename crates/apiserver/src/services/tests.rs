use super::*;
use std::sync::Arc;

fn own() -> Range {
    Range::new(IpAddr::from([10, 96, 0, 0]), 16)
}

fn allocators() -> Allocators {
    Allocators::new(vec![own()], (30_000, 30_003))
}

fn offer() -> Offer<'static> {
    Offer::fixed(&[own()])
}

fn service(name: &str, spec: Value) -> Value {
    json!({"metadata": {"namespace": "default", "name": name, "uid": format!("uid of {name}")}, "spec": spec})
}

#[test]
fn a_failed_write_gives_everything_back() {
    let all = allocators();
    let mut one = service("a", json!({"clusterIP": "10.96.0.10", "ports": [{"port": 80}]}));
    drop(all.create(&mut one, &offer()).unwrap());
    let mut two = service("b", json!({"clusterIP": "10.96.0.10", "ports": [{"port": 80}]}));
    all.create(&mut two, &offer()).unwrap().keep().free();
    let errors = all.create(&mut one, &offer()).unwrap_err();
    assert_eq!(errors[0].detail, "failed to allocate IP 10.96.0.10: provided IP is already allocated");
}

#[test]
fn what_is_taken_and_what_is_left_is_known() {
    let all = allocators();
    assert_eq!(all.room(), Room { ips: vec![("10.96.0.0/16".into(), 0, 65_534)], ports: (0, 4) });
    let mut one = service("a", json!({"type": "NodePort", "ports": [{"port": 80}]}));
    all.create(&mut one, &offer()).unwrap().keep().free();
    assert_eq!(all.room(), Room { ips: vec![("10.96.0.0/16".into(), 1, 65_533)], ports: (1, 3) });
}

#[test]
fn an_address_whose_service_no_object_can_name_is_not_given() {
    let all = allocators();
    let told = |name: &str, spec: Value| all.create(&mut service(name, spec), &offer()).unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>();
    let nameless = told("", json!({}));
    assert!(nameless[0].starts_with("spec.clusterIPs: Invalid value: [\"\"]: failed to allocate IP: IPAddress.networking.k8s.io \"10.96."), "{nameless:?}");
    assert!(nameless[0].ends_with("\" is invalid: spec.parentRef.name: Required value"), "{nameless:?}");
    assert_eq!(
        told("a/b", json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"]})),
        ["spec.clusterIPs: Invalid value: [\"10.96.0.9\"]: failed to allocate IP 10.96.0.9: IPAddress.networking.k8s.io \"10.96.0.9\" is invalid: \
          spec.parentRef.name: Invalid value: \"a/b\": may not contain '/'"]
    );
    assert!(all.taken.lock().ips.is_empty());
    assert!(all.create(&mut service("", json!({})), &offer().rehearsed(true)).is_ok(), "what is only tried is shown nowhere");
}

#[test]
fn what_is_only_tried_takes_nothing_and_shows_a_guess() {
    let all = allocators();
    let mut one = service("a", json!({"clusterIP": "10.96.0.10", "ports": [{"port": 80}]}));
    all.create(&mut one, &offer()).unwrap().keep().free();
    let rehearsed = || offer().rehearsed(true);
    let mut taken = service("b", json!({"clusterIP": "10.96.0.10", "ports": [{"port": 80}]}));
    assert!(all.create(&mut taken, &rehearsed()).is_ok(), "whether it is free is not asked");
    let mut any = service("c", json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 81}]}));
    drop(all.create(&mut any, &rehearsed()).unwrap());
    assert_eq!((&any["spec"]["clusterIP"], &any["spec"]["ports"][1]["nodePort"]), (&json!("10.96.0.0"), &json!(32_770)));
    let mut beyond = service("d", json!({"clusterIP": "1.2.3.4", "ports": [{"port": 80}]}));
    assert_eq!(
        all.create(&mut beyond, &rehearsed()).unwrap_err()[0].detail,
        "failed to allocate IP 1.2.3.4: the provided IP (1.2.3.4) is not in the valid range. The range of valid IPs is 10.96.0.0/16"
    );
}

#[test]
fn dynamic_addresses_come_from_the_upper_band_and_differ() {
    let all = allocators();
    let mut seen = Vec::new();
    for name in ["a", "b", "c"] {
        let mut one = service(name, json!({}));
        all.create(&mut one, &offer()).unwrap().keep().free();
        let ip: IpAddr = one["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
        assert!(own().offset(ip).unwrap() > 256);
        assert_eq!(one["spec"]["ipFamilies"], json!(["IPv4"]));
        assert!(!seen.contains(&ip));
        seen.push(ip);
    }
}

#[test]
fn node_ports_are_shared_by_protocols_and_run_out() {
    let all = allocators();
    let mut dns = service("dns", json!({"type": "NodePort", "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}));
    all.create(&mut dns, &offer()).unwrap().keep().free();
    assert_eq!(dns["spec"]["ports"][0]["nodePort"], dns["spec"]["ports"][1]["nodePort"]);
    for name in ["a", "b", "c"] {
        all.create(&mut service(name, json!({"type": "NodePort", "ports": [{"port": 1}]})), &offer()).unwrap().keep().free();
    }
    assert!(all.create(&mut service("d", json!({"type": "NodePort", "ports": [{"port": 1}]})), &offer()).is_err());
    all.removed(&dns);
    all.create(&mut service("d", json!({"type": "NodePort", "ports": [{"port": 1}]})), &offer()).unwrap().keep().free();
}

#[test]
fn an_update_keeps_what_it_leaves_out_and_frees_what_it_drops() {
    let all = allocators();
    let mut old = service("a", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30_001}]}));
    all.create(&mut old, &offer()).unwrap().keep().free();
    let mut same = service("a", json!({"type": "NodePort", "ports": [{"port": 80}]}));
    all.update(&mut same, &old, &offer()).unwrap().keep().free();
    assert_eq!(same["spec"], old["spec"]);
    let mut plain = same.clone();
    plain["spec"]["type"] = "ClusterIP".into();
    // What the type has no use for is taken from it before.
    kinds::strategy("", "services").prepare_update(&kinds::Context::new(std::time::SystemTime::UNIX_EPOCH, ""), &mut plain, &same);
    all.update(&mut plain, &same, &offer()).unwrap().keep().free();
    assert!(plain["spec"]["ports"][0].get("nodePort").is_none());
    let mut other = service("b", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30_001}]}));
    all.create(&mut other, &offer()).unwrap();
}

#[test]
fn a_port_keeps_its_node_port_by_its_name() {
    let all = allocators();
    let ports = json!([{"name": "http", "port": 80, "nodePort": 30_001}, {"name": "dns", "port": 53, "nodePort": 30_002}]);
    let mut old = service("a", json!({"type": "NodePort", "ports": ports}));
    all.create(&mut old, &offer()).unwrap().keep().free();
    let ports = json!([{"name": "dns", "port": 54, "protocol": "UDP"}, {"name": "http", "port": 80, "nodePort": 30_001}]);
    let mut moved = service("a", json!({"type": "NodePort", "ports": ports}));
    all.update(&mut moved, &old, &offer()).unwrap().keep().free();
    assert_eq!(moved["spec"]["ports"][0]["nodePort"], 30_002);
}

#[test]
fn what_is_no_port_is_not_taken_for_none() {
    let all = allocators();
    let lost = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30_002, "ports": [{"port": 80, "nodePort": 30_001}]});
    let mut old = service("a", lost);
    all.create(&mut old, &offer()).unwrap().keep().free();
    let mut new = old.clone();
    new["spec"]["healthCheckNodePort"] = 70_000.into();
    all.update(&mut new, &old, &offer()).unwrap().keep().free();
    assert_eq!(new["spec"]["healthCheckNodePort"], 70_000, "validation looks at it");
    new["spec"]["ports"][0]["nodePort"] = 70_000.into();
    let why = |result: Result<Hold<'_>, field::ErrorList>| result.map(drop).map_err(|errors| errors[0].to_string());
    let refused = why(all.update(&mut new.clone(), &old, &offer())).unwrap_err();
    assert!(refused.starts_with("spec.ports[0].nodePort: Invalid value: 70000: provided port is not in the valid range."), "{refused}");
    assert_eq!(why(all.update(&mut new.clone(), &old, &offer().rehearsed(true))), Ok(()), "a rehearsal");
    let asked = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 70_000, "ports": [{"port": 80}]});
    let mut fresh = service("b", asked);
    let refused = why(all.create(&mut fresh.clone(), &offer())).unwrap_err();
    assert!(refused.contains("failed to allocate requested HealthCheck NodePort 70000: provided port is not in the valid range."), "{refused}");
    assert_eq!(why(all.create(&mut fresh, &offer().rehearsed(true))), Ok(()), "a rehearsal");
    assert_eq!(fresh["spec"]["healthCheckNodePort"], 70_000, "validation looks at it");
}

#[test]
fn a_port_of_a_node_is_one_service_s_port_once() {
    let all = allocators();
    let told = |result: Result<Hold<'_>, field::ErrorList>| result.map(drop).map_err(|errors| errors[0].to_string());
    let twice = json!([{"name": "a", "port": 80, "nodePort": 30_001}, {"name": "b", "port": 81, "protocol": "UDP", "nodePort": 30_001}]);
    let allocated = "spec.ports[1].nodePort: Invalid value: 30001: provided port is already allocated".to_owned();
    assert_eq!(told(all.create(&mut service("a", json!({"type": "NodePort", "ports": twice})), &offer())), Err(allocated.clone()));
    assert_eq!(told(all.create(&mut service("a", json!({"type": "NodePort", "ports": twice})), &offer().rehearsed(true))), Err(allocated));
    let low = json!([{"port": 80, "nodePort": 80}]);
    assert_eq!(told(all.create(&mut service("a", json!({"type": "NodePort", "ports": low})), &offer().rehearsed(true))), Ok(()), "a rehearsal");
    let mut old = service("a", json!({"type": "NodePort", "ports": [{"port": 53, "nodePort": 30_001}, {"port": 53, "protocol": "UDP", "nodePort": 30_001}]}));
    all.create(&mut old, &offer()).unwrap().keep().free();
    let mut one = service("a", json!({"type": "NodePort", "ports": [{"port": 53, "nodePort": 30_001}, {"port": 54, "nodePort": 30_001}]}));
    assert_eq!(told(all.update(&mut one, &old, &offer())), Err("spec.ports: Internal error: duplicate nodePort: {TCP 30001}".to_owned()));
    all.removed(&old);
    all.create(&mut service("b", json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30_001}]})), &offer()).expect("it is free");
}

#[test]
fn of_each_number_the_first_port_that_is_asked_for_counts() {
    let all = allocators();
    let ports = json!([
        {"port": 80},
        {"port": 80, "protocol": "UDP", "nodePort": 30_002},
        {"port": 80, "protocol": "SCTP", "nodePort": 30_003},
        {"port": 81, "nodePort": 30_001},
    ]);
    let mut one = service("a", json!({"type": "NodePort", "ports": ports}));
    all.create(&mut one, &offer()).unwrap().keep().free();
    assert_eq!([0, 1, 2, 3].map(|at: usize| one["spec"]["ports"][at]["nodePort"].as_u64()), [30_002, 30_002, 30_003, 30_001].map(Some));
}

#[test]
fn a_protocol_that_there_is_not_is_not_noted() {
    let all = allocators();
    let protocols = ["TCP", "UDP", "tcp", "A", "B"].map(|protocol| json!({"port": 80, "nodePort": 30_001, "protocol": protocol}));
    let mut one = service("a", json!({"type": "NodePort", "ports": protocols}));
    let hold = all.create(&mut one, &offer()).expect("that is for validation to tell");
    assert_eq!(all.taken.lock().ports[&30_001].1, ["TCP", "UDP"]);
    drop(hold);
    assert!(all.taken.lock().ports.is_empty());
}

#[test]
fn a_service_that_has_no_address_is_given_none_by_an_update() {
    let all = allocators();
    let mut old = service("a", json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": {"a": "b"}}));
    all.create(&mut old, &offer()).unwrap().keep().free();
    let mut changed = service("a", json!({"clusterIP": "192.0.2.1", "clusterIPs": ["192.0.2.1"], "selector": {"a": "b"}}));
    all.update(&mut changed, &old, &offer()).expect("that is for validation to tell");
    let mut odd = service("a", json!({"type": "of its own"}));
    all.update(&mut odd, &old, &offer()).unwrap();
    assert_eq!(odd["spec"]["clusterIPs"], json!(["None"]));
}

#[test]
fn a_port_out_of_range_is_told_as_upstream_does() {
    let errors = allocators().create(&mut service("a", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]})), &offer()).unwrap_err();
    assert_eq!(errors[0].detail, "provided port is not in the valid range. The range of valid ports is 30000-30003");
}

#[test]
fn an_address_that_stands_is_refused_by_validation_and_takes_nothing() {
    let all = allocators();
    let mut old = service("a", json!({}));
    all.create(&mut old, &offer()).unwrap().keep().free();
    let mut changed = service("a", json!({"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"]}));
    drop(all.update(&mut changed, &old, &offer()).unwrap());
    let mut outside = service("a", json!({"clusterIP": "192.0.2.1", "clusterIPs": ["192.0.2.1"]}));
    all.update(&mut outside, &old, &offer()).expect("that is for validation to tell");
    all.create(&mut service("b", json!({"clusterIP": "10.96.0.10"})), &offer()).expect("nobody has it");
}

#[test]
fn what_a_write_leaves_in_doubt_stays_taken() {
    let all = allocators();
    all.create(&mut service("a", json!({"clusterIP": "10.96.0.10"})), &offer()).unwrap().leave();
    assert!(all.create(&mut service("b", json!({"clusterIP": "10.96.0.10"})), &offer()).is_err());
    // The same name is another Service, and frees nothing that was not its own.
    let mut again = service("a", json!({"clusterIP": "10.96.0.10"}));
    again["metadata"]["uid"] = "another".into();
    all.removed(&again);
    assert!(all.create(&mut service("b", json!({"clusterIP": "10.96.0.10"})), &offer()).is_err());
}

#[test]
fn what_a_write_under_way_has_taken_is_not_freed_at_the_start() {
    let all = allocators();
    let mut under_way = service("a", json!({"clusterIP": "10.96.0.10", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30_001}]}));
    let _hold = all.create(&mut under_way, &offer()).unwrap();
    let first = all.unused(&[]);
    assert_eq!(all.free_again(&mut all.unused(&[]), &Suspects::default()), 0);
    assert_eq!(all.free_again(&mut all.unused(&[]), &first.of_a_crash()), 0);
    assert!(all.create(&mut service("b", json!({"clusterIP": "10.96.0.10"})), &offer()).is_err());
    // Two rounds of minutes find what nobody has.
    let long_ago = all.unused(&[]);
    assert_eq!(all.free_again(&mut all.unused(&[]), &long_ago), 2);
}

#[test]
fn addresses_come_from_each_range_that_is_offered() {
    let (all, narrow) = (allocators(), Range::new(IpAddr::from([10, 1, 0, 0]), 29));
    let one = |name: &str, spec: Value, ranges: &[Range]| {
        let mut one = service(name, spec);
        all.create(&mut one, &Offer::fixed(ranges)).map(|hold| hold.keep().free())?;
        Ok::<_, field::ErrorList>(one["spec"]["clusterIP"].as_str().unwrap().to_owned())
    };
    for name in ["a", "b", "c", "d", "e", "f"] {
        let ip = one(name, json!({}), &[narrow, own()]).unwrap();
        assert!(ip.starts_with("10.1.0."), "{ip}");
    }
    let errors = one("g", json!({}), &[narrow]).unwrap_err();
    assert_eq!(errors[0].detail, "failed to allocate a serviceIP for Service \"g\": range is full");
    assert!(one("g", json!({}), &[narrow, own()]).unwrap().starts_with("10.96."), "the next range has room");
    assert_eq!(one("h", json!({"clusterIP": "10.96.0.77"}), &[narrow, own()]).unwrap(), "10.96.0.77");
    for (ip, ranges) in [("10.96.0.78", &[narrow][..]), ("10.1.0.0", &[narrow]), ("10.1.0.7", &[narrow]), ("192.0.2.1", &[narrow, own()])] {
        let errors = one("i", json!({"clusterIP": ip}), ranges).unwrap_err();
        assert_eq!(errors[0].detail, format!("failed to allocate IP {ip}: the provided network does not match the current range"));
    }
}

#[test]
fn a_service_of_two_families_has_an_address_of_each_and_gives_the_second_back() {
    let second = Range::new("fd00:96::".parse().unwrap(), 112);
    let (all, both) = (Allocators::new(vec![own(), second], (30_000, 30_003)), || Offer::fixed(&[own(), second]));
    let ips = |service: &Value| addresses(service);
    let mut one = service("a", json!({"type": "ClusterIP", "ipFamilyPolicy": "RequireDualStack"}));
    all.create(&mut one, &both()).unwrap().keep().free();
    let [first, other] = ips(&one)[..] else { panic!("{one}") };
    assert!(own().offset(first).is_some() && second.offset(other).is_some());
    assert_eq!((one["spec"]["clusterIP"].as_str(), &one["spec"]["ipFamilies"]), (Some(first.to_string().as_str()), &json!(["IPv4", "IPv6"])));
    // The second goes at its user's word, and is another's to have then.
    let mut single = one.clone();
    single["spec"]["ipFamilyPolicy"] = "SingleStack".into();
    all.update(&mut single, &one, &both()).unwrap().keep().free();
    assert_eq!((ips(&single), &single["spec"]["ipFamilies"]), (vec![first], &json!(["IPv4"])));
    let chosen = json!({"ipFamilyPolicy": "PreferDualStack", "clusterIP": other.to_string(), "clusterIPs": [other.to_string()]});
    let mut next = service("b", chosen);
    all.create(&mut next, &both()).unwrap().keep().free();
    assert_eq!((ips(&next)[0], &next["spec"]["ipFamilies"]), (other, &json!(["IPv6", "IPv4"])), "what is chosen is the first");
    // And comes again, as it is chosen or as there is one.
    let mut again = single.clone();
    again["spec"]["ipFamilyPolicy"] = "PreferDualStack".into();
    let hold = all.update(&mut again, &single, &both()).unwrap();
    assert_eq!(ips(&again).len(), 2);
    drop(hold);
    let named = second.at(5);
    let mut named_again = single.clone();
    named_again["spec"]["ipFamilyPolicy"] = "RequireDualStack".into();
    named_again["spec"]["clusterIPs"] = json!([first.to_string(), named.to_string()]);
    all.update(&mut named_again, &single, &both()).unwrap().keep().free();
    assert_eq!(ips(&named_again), [first, named]);
    let mut thief = service("c", json!({"clusterIP": named.to_string()}));
    assert_eq!(all.create(&mut thief, &both()).unwrap_err()[0].detail, format!("failed to allocate IP {named}: provided IP is already allocated"));
    // Where the second range is full, nothing of the first stays taken.
    let narrow = Range::new("fd00:97::".parse().unwrap(), 128);
    let full = all.create(&mut service("d", json!({"ipFamilyPolicy": "RequireDualStack"})), &Offer::fixed(&[own(), narrow]));
    assert_eq!(full.unwrap_err()[0].detail, "failed to allocate a serviceIP for Service \"d\": range is full");
    assert_eq!(all.unused(&[Arc::new(named_again), Arc::new(next)]).count_ips(), 0);
}

#[test]
fn what_is_named_wrongly_takes_nothing_and_is_for_validation_to_tell() {
    let all = allocators();
    let mut old = service("a", json!({}));
    all.create(&mut old, &offer()).unwrap().keep().free();
    let mut wrong = old.clone();
    wrong["spec"]["ipFamilies"] = json!(["IPv5"]);
    wrong["spec"]["clusterIPs"] = json!([old["spec"]["clusterIP"], "x"]);
    drop(all.update(&mut wrong, &old, &offer()).unwrap());
    assert_eq!(wrong["spec"]["ipFamilies"], json!(["IPv5"]));
}
