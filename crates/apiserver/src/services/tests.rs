use super::*;

fn allocators() -> Allocators {
    Allocators::new(IpAddr::from([10, 96, 0, 0]), 16, (30_000, 30_003))
}

fn service(name: &str, spec: Value) -> Value {
    json!({"metadata": {"namespace": "default", "name": name, "uid": format!("uid of {name}")}, "spec": spec})
}

#[test]
fn a_failed_write_gives_everything_back() {
    let all = allocators();
    let mut one = service("a", json!({"clusterIP": "10.96.0.10", "ports": [{"port": 80}]}));
    drop(all.create(&mut one).unwrap());
    let mut two = service("b", json!({"clusterIP": "10.96.0.10", "ports": [{"port": 80}]}));
    all.create(&mut two).unwrap().keep().free();
    let errors = all.create(&mut one).unwrap_err();
    assert_eq!(errors[0].detail, "failed to allocate IP 10.96.0.10: provided IP is already allocated");
}

#[test]
fn dynamic_addresses_come_from_the_upper_band_and_differ() {
    let all = allocators();
    let mut seen = Vec::new();
    for name in ["a", "b", "c"] {
        let mut one = service(name, json!({}));
        all.create(&mut one).unwrap().keep().free();
        let ip: IpAddr = one["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
        assert!(all.offset(ip).unwrap() > 256);
        assert_eq!(one["spec"]["ipFamilies"], json!(["IPv4"]));
        assert!(!seen.contains(&ip));
        seen.push(ip);
    }
}

#[test]
fn node_ports_are_shared_by_protocols_and_run_out() {
    let all = allocators();
    let mut dns = service("dns", json!({"type": "NodePort", "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}));
    all.create(&mut dns).unwrap().keep().free();
    assert_eq!(dns["spec"]["ports"][0]["nodePort"], dns["spec"]["ports"][1]["nodePort"]);
    for name in ["a", "b", "c"] {
        all.create(&mut service(name, json!({"type": "NodePort", "ports": [{"port": 1}]}))).unwrap().keep().free();
    }
    assert!(all.create(&mut service("d", json!({"type": "NodePort", "ports": [{"port": 1}]}))).is_err());
    all.removed(&dns);
    all.create(&mut service("d", json!({"type": "NodePort", "ports": [{"port": 1}]}))).unwrap().keep().free();
}

#[test]
fn an_update_keeps_what_it_leaves_out_and_frees_what_it_drops() {
    let all = allocators();
    let mut old = service("a", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30_001}]}));
    all.create(&mut old).unwrap().keep().free();
    let mut same = service("a", json!({"type": "NodePort", "ports": [{"port": 80}]}));
    all.update(&mut same, &old).unwrap().keep().free();
    assert_eq!(same["spec"], old["spec"]);
    let mut plain = same.clone();
    plain["spec"]["type"] = "ClusterIP".into();
    all.update(&mut plain, &same).unwrap().keep().free();
    assert!(plain["spec"]["ports"][0].get("nodePort").is_none());
    let mut other = service("b", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30_001}]}));
    all.create(&mut other).unwrap();
}

#[test]
fn a_port_out_of_range_is_told_as_upstream_does() {
    let errors = allocators().create(&mut service("a", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}))).unwrap_err();
    assert_eq!(errors[0].detail, "provided port is not in the valid range. The range of valid ports is 30000-30003");
}

#[test]
fn an_address_that_stands_is_refused_by_validation_and_takes_nothing() {
    let all = allocators();
    let mut old = service("a", json!({}));
    all.create(&mut old).unwrap().keep().free();
    let mut changed = service("a", json!({"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"]}));
    drop(all.update(&mut changed, &old).unwrap());
    let mut outside = service("a", json!({"clusterIP": "192.0.2.1", "clusterIPs": ["192.0.2.1"]}));
    all.update(&mut outside, &old).expect("that is for validation to tell");
    all.create(&mut service("b", json!({"clusterIP": "10.96.0.10"}))).expect("nobody has it");
}

#[test]
fn what_a_write_leaves_in_doubt_stays_taken() {
    let all = allocators();
    all.create(&mut service("a", json!({"clusterIP": "10.96.0.10"}))).unwrap().leave();
    assert!(all.create(&mut service("b", json!({"clusterIP": "10.96.0.10"}))).is_err());
    // The same name is another Service, and frees nothing that was not its own.
    let mut again = service("a", json!({"clusterIP": "10.96.0.10"}));
    again["metadata"]["uid"] = "another".into();
    all.removed(&again);
    assert!(all.create(&mut service("b", json!({"clusterIP": "10.96.0.10"}))).is_err());
}

#[test]
fn what_a_write_under_way_has_taken_is_not_freed_at_the_start() {
    let all = allocators();
    let mut under_way = service("a", json!({"clusterIP": "10.96.0.10", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30_001}]}));
    let _hold = all.create(&mut under_way).unwrap();
    let first = all.unused(&[]);
    assert_eq!(all.free_again(&mut all.unused(&[]), &Suspects::default()), 0);
    assert_eq!(all.free_again(&mut all.unused(&[]), &first.of_a_crash()), 0);
    assert!(all.create(&mut service("b", json!({"clusterIP": "10.96.0.10"}))).is_err());
    // Two rounds of minutes find what nobody has.
    let long_ago = all.unused(&[]);
    assert_eq!(all.free_again(&mut all.unused(&[]), &long_ago), 2);
}
