//! Whose directories are, and which addresses are free.

use super::{
    directory::{Made, claim, half_make, is_whole, owned, real, remove_known, unmark},
    plan::{CLUSTERS_MAX, Taken, choose_beside},
    *,
};
use std::{
    fs,
    net::IpAddr,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
};

/// What is chosen on a machine that uses nothing: the one of these tests may use any of their ranges.
fn choose(name: &str, data: &Path, ranges: &Ranges, others: &[Plan]) -> anyhow::Result<Plan> {
    choose_beside(&Taken::of("", "", &[]), name, data, ranges, others)
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("knarr-directory-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(fs::canonicalize(path).unwrap())
    }

    fn make(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_directory_with_others_files_is_refused_and_not_changed() {
    let folder = Folder::new("others");
    let home = folder.make("home", 0o755);
    fs::write(home.join("thesis"), "years").unwrap();
    for outcome in [claim(&home, "typo", false), owned(&home, "typo", false).map(drop)] {
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("not the data of a cluster") && error.contains("thesis"), "{error}");
    }
    assert_eq!((mode(&home), fs::read_to_string(home.join("thesis")).unwrap().as_str()), (0o755, "years"));
    // A name that knarr uses is no mark; whoever has such data is told how to take it.
    fs::rename(home.join("thesis"), home.join("store")).unwrap();
    let error = claim(&home, "typo", false).unwrap_err().to_string();
    let (_, command) = error.split_once("take it by: ").unwrap();
    assert!(std::process::Command::new("sh").args(["-c", command]).status().unwrap().success());
    assert!(owned(&home, "typo", false).unwrap() && owned(&home, "other", false).is_err());
    fs::remove_file(home.join("mark.json")).unwrap();
    // Nor is a directory that everybody may write to anybody's.
    let shared = folder.make("shared", 0o1777);
    assert!(claim(&shared, "typo", false).unwrap_err().to_string().contains("mode 1777"));
    assert_eq!(mode(&shared), 0o1777);
}

#[test]
fn one_clusters_data_is_not_anothers() {
    let folder = Folder::new("names");
    let data = folder.0.join("a/b/data");
    claim(&data, "one", false).unwrap();
    assert_eq!((mode(&data), mode(&folder.0.join("a"))), (0o700, 0o700));
    claim(&data, "one", false).unwrap();
    assert!(owned(&data, "one", false).unwrap());
    for outcome in [claim(&data, "two", false), owned(&data, "two", false).map(drop)] {
        assert!(outcome.unwrap_err().to_string().contains("the cluster \"one\", not of \"two\""));
    }
    // What a version before the mark left is known by its plan.
    fs::remove_file(data.join("mark.json")).unwrap();
    fs::write(data.join("cluster.json"), serde_json::to_vec(&Plan::nth("one", &data, 0)).unwrap()).unwrap();
    assert!(owned(&data, "one", false).unwrap() && owned(&data, "two", false).is_err());
}

#[test]
fn only_what_knarr_made_is_removed() {
    let folder = Folder::new("removal");
    let there = folder.make("disk", 0o755);
    let outside = folder.make("outside", 0o755);
    fs::write(outside.join("theirs"), "x").unwrap();
    fs::write(there.join("registries.yaml"), "mirrors: {}").unwrap();
    claim(&there, "one", false).unwrap();
    assert_eq!(mode(&there), 0o700);
    assert_eq!(serde_json::from_slice::<Made>(&fs::read(there.join("mark.json")).unwrap()).unwrap().was, Some(0o755));
    fs::create_dir_all(there.join("store/deep")).unwrap();
    std::os::unix::fs::symlink(&outside, there.join("runtime")).unwrap();
    std::os::unix::fs::symlink(&outside, there.join("store/deep/link")).unwrap();
    fs::write(there.join("notes"), "mine").unwrap();
    assert_eq!(remove_known(&there).unwrap(), ["notes", "registries.yaml"]);
    assert_eq!(mode(&there), 0o755, "a directory that was there is as it was");
    assert!(outside.join("theirs").exists(), "no link is followed");
    let made = folder.0.join("made");
    claim(&made, "one", false).unwrap();
    assert_eq!(remove_known(&made).unwrap(), Vec::<String>::new());
    assert!(!made.exists());
}

#[test]
fn a_directory_that_a_crash_left_without_its_mark_is_knarrs() {
    let folder = Folder::new("half");
    for leaves in [None, Some("mark.json.new")] {
        let half = folder.0.join("half");
        half_make(&half).unwrap();
        assert_eq!(mode(&half) & 0o5777, 0o1700);
        leaves.map_or(Ok(()), |name| fs::write(half.join(name), "{")).unwrap();
        assert!(owned(&half, "one", false).unwrap(), "`down` finds it");
        claim(&half, "one", false).unwrap();
        assert_eq!(mode(&half), 0o700);
        assert_eq!(remove_known(&half).unwrap(), Vec::<String>::new());
        assert!(!half.exists());
    }
    let theirs = folder.make("theirs", 0o700);
    claim(&theirs, "one", false).unwrap();
    remove_known(&theirs).unwrap();
    assert_eq!(mode(&theirs), 0o700, "one that was there stays");
}

#[test]
fn what_is_being_removed_is_not_whole_and_is_removed_all_the_same() {
    let folder = Folder::new("going");
    let there = folder.make("there", 0o755);
    claim(&there, "one", false).unwrap();
    is_whole(&there, "one").unwrap();
    begin_removal(&there);
    assert!(is_whole(&there, "one").unwrap_err().to_string().contains("is not whole"));
    claim(&there, "one", false).unwrap();
    assert_eq!(remove_known(&there).unwrap(), Vec::<String>::new());
    assert_eq!(mode(&there), 0o755, "it is still known how it was");
}

#[test]
fn a_removal_that_is_killed_over_the_mark_is_gone_on_from() {
    let folder = Folder::new("unmarked");
    let made = folder.0.join("made");
    claim(&made, "one", false).unwrap();
    unmark(&made, None).unwrap();
    assert!(owned(&made, "one", false).unwrap(), "the next `down` finds it");
    claim(&made, "one", false).unwrap();
    assert_eq!(remove_known(&made).unwrap(), Vec::<String>::new());
    assert!(!made.exists(), "it is still known that knarr made it");
    let theirs = folder.make("theirs", 0o755);
    claim(&theirs, "one", false).unwrap();
    unmark(&theirs, Some(0o755)).unwrap();
    assert_eq!((mode(&theirs), owned(&theirs, "one", false).unwrap()), (0o755, false), "nothing is left to do");
    let kept = folder.0.join("kept");
    claim(&kept, "one", false).unwrap();
    fs::write(kept.join("registries.yaml"), "mirrors: {}").unwrap();
    assert_eq!(remove_known(&kept).unwrap(), ["registries.yaml"]);
    assert_eq!((mode(&kept), owned(&kept, "one", false).unwrap()), (0o700, false));
}

#[test]
fn a_machine_calls_itself_the_same_until_it_has_joined() {
    let folder = Folder::new("machine");
    let data = folder.0.join("data");
    claim(&data, "b", false).unwrap();
    let cluster = Cluster { name: "b".into(), data, run: folder.0.join("run") };
    assert_eq!(cluster.machine(|| Ok("first".into())).unwrap(), "first");
    assert_eq!(cluster.machine(|| Ok("second".into())).unwrap(), "first");
    assert!(!cluster.is_agent());
    assert_eq!(remove_known(&cluster.data).unwrap(), Vec::<String>::new());
}

#[test]
fn paths_are_real_once_and_for_all() {
    let folder = Folder::new("links");
    let disk = folder.make("disk", 0o755);
    std::os::unix::fs::symlink(&disk, folder.0.join("link")).unwrap();
    assert_eq!(real(&folder.0.join("link/k/./data")).unwrap(), disk.join("k/data"));
    std::os::unix::fs::symlink(folder.0.join("nowhere"), folder.0.join("dead")).unwrap();
    assert!(real(&folder.0.join("dead")).unwrap_err().to_string().contains("leads nowhere"));
    assert!(real(&folder.0.join("dead/k")).is_err());
}

#[tokio::test]
async fn a_start_that_is_refused_leaves_what_it_found() {
    let folder = Folder::new("refused");
    let place = |name: &str| Cluster { name: "r".into(), data: folder.0.join(name).join("data"), run: folder.0.join(name).join("run") };
    let new = place("new");
    drop(new.enter().await.unwrap());
    assert!(!new.data.exists() && !new.run.exists());
    // A directory that the user has made, and what he has put there.
    let made = place("made");
    fs::create_dir_all(&made.data).unwrap();
    fs::set_permissions(&made.data, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(made.data.join("registries.yaml"), "mirrors: {}").unwrap();
    drop(made.enter().await.unwrap());
    assert_eq!((mode(&made.data), entries(&made.data), made.run.exists()), (0o755, vec!["registries.yaml".to_owned()], false));
    // A cluster that is there, up to a reboot's end.
    let there = place("there");
    let entered = there.enter().await.unwrap();
    let plan = Plan::nth("r", &there.data, 3);
    there.keep(&plan).unwrap();
    drop(entered.stay());
    drop(there.enter().await.unwrap());
    assert_eq!(
        (entries(&there.data), entries(&there.run)),
        (vec!["cluster.json".to_owned(), "mark.json".to_owned()], vec!["cluster.json".to_owned(), "lock".to_owned()])
    );
    fs::remove_dir_all(&there.run).unwrap();
    drop(there.enter().await.unwrap());
    assert!(there.kept() == Some(plan) && !there.run.exists());
    // Another's data.
    let other = Cluster { name: "o".into(), run: folder.0.join("other"), ..there.clone() };
    assert!(told(other.enter().await).contains("holds the data of the cluster \"r\""));
    assert!(!other.run.exists() && there.kept().is_some());
    // What a `down` that was cut off has left is nobody's start.
    let cut = place("cut");
    drop(cut.enter().await.unwrap().stay());
    fs::create_dir_all(cut.data.join("store")).unwrap();
    let mark = fs::read_to_string(cut.data.join("mark.json")).unwrap();
    fs::write(cut.data.join("mark.json"), mark.replace('}', ",\"going\":true}")).unwrap();
    assert!(told(cut.enter().await).contains("`knarr down --name r` again"));
    assert!(remove_known(&cut.data).unwrap().is_empty() && !cut.data.exists());
    // Who has joined keeps that, whatever follows.
    let agent = place("agent");
    let entered = agent.enter().await.unwrap();
    fs::write(agent.data.join("agent.json"), "{}").unwrap();
    drop(entered);
    assert!(agent.is_agent());
}

fn entries(path: &Path) -> Vec<String> {
    let mut all: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

#[test]
fn a_port_that_is_another_clusters_is_told_as_that() {
    let folder = Folder::new("port");
    let cluster = Cluster { name: "p".into(), data: folder.0.clone(), run: folder.0.join("run") };
    let choose = |port: Option<u16>, others: &[Plan]| {
        choose(&cluster.name, &cluster.data, &Ranges { port, ..asked(&["172.30.0.0/16"], &["172.31.0.0/16"]).unwrap() }, others)
    };
    let other = Plan { name: "o".into(), ..Plan::nth("o", &folder.0, 1) };
    let mine = choose(None, std::slice::from_ref(&other)).unwrap();
    assert_ne!(mine.port, other.port, "one is found");
    fs::create_dir_all(&cluster.run).unwrap();
    for known in [false, true] {
        let error = told(choose(Some(other.port), std::slice::from_ref(&other)));
        assert!(error.contains("port 6444 is the one of the cluster \"o\"") && error.contains("--port") && !error.contains("cidr"), "{known}: {error}");
        cluster.keep(&mine).unwrap();
    }
    let late = told(choose(None, &[Plan { port: mine.port, ..other.clone() }]));
    assert!(late.contains("--port"), "{late}");
    assert_eq!(choose(Some(7443), &[other]).unwrap().port, 7443);
}

#[test]
fn nobody_else_looks_in() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("needs root");
        return;
    }
    let folder = Folder::new("nobody");
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o755)).unwrap();
    let cluster = Cluster { name: "n".into(), data: folder.0.join("data"), run: folder.0.join("run") };
    cluster.claim().unwrap();
    super::files::private(&cluster.run).unwrap();
    let mut plan = Plan::nth("n", &cluster.data, 3);
    plan.contexts = Vec::new();
    cluster.keep(&plan).unwrap();
    for path in [cluster.data.join("cluster.json"), cluster.run.join("cluster.json"), cluster.data.join("mark.json")] {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        let seen = std::process::Command::new("cat").arg(&path).uid(65534).gid(65534).output().unwrap();
        assert!(!seen.status.success() && seen.stdout.is_empty(), "{}", path.display());
        let own = std::process::Command::new("cat").arg(&path).output().unwrap();
        assert!(own.status.success() && !own.stdout.is_empty());
    }
}

const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
    eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
    eth0\t0000F40A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
    vpn\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n";

const ROUTES6: &str = "\
    fd000010024400010000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0\n\
    fd000000000000000000000000000000 10 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     vpn0\n\
    fd000010009600000000000000000001 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000000 00000002 00000000 80200001       lo\n\
    00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n";

#[test]
fn routes_of_others_are_respected_and_wide_ones_are_in_nobodys_way() {
    let taken = Taken::of(ROUTES, ROUTES6, &[("lan", [10, 131, 0, 7].into())]);
    let by = |range: &str| taken.by(range.parse().unwrap());
    assert!(by("fd00:10:244::/56").unwrap().contains("fd00:10:244:1::/64 by eth0"));
    assert_eq!(by("fd00:10:96::/112"), None, "an address of this host is no route, and what holds it is wide");
    assert!(by("10.244.0.0/16").unwrap().contains("10.244.0.0/24 by eth0"));
    assert_eq!(by("10.129.0.0/16"), None, "a VPN's 10.0.0.0/8 is less specific than a cluster's routes");
    assert!(by("10.131.0.0/16").unwrap().contains("lan has the address 10.131.0.7"));
}

#[test]
fn what_the_cluster_itself_has_left_is_in_nobodys_way() {
    let routes = format!("{ROUTES}*\t0001810A\t00000000\t0201\t0\t0\t0\t00FFFFFF\t0\t0\t0\nknarr-one\t0000210A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n");
    let aliases = || [("knarr-one", "knarr:one/bridge 10.129.1.0/24 forward\n"), ("eth0", "")].map(|(l, a)| (l.to_owned(), a.to_owned())).into_iter();
    let by = |mark: &str, range: &str| {
        let taken = Taken::of(&routes, "", &[("knarr-one", [10, 129, 1, 1].into())]).without(mark, aliases());
        taken.by(range.parse().unwrap())
    };
    for range in ["10.129.0.0/16", "10.33.0.0/16"] {
        assert_eq!(by("knarr:one/", range), None, "its own {range}");
        assert!(by("knarr:on/", range).is_some(), "another's {range}");
    }
    assert!(by("knarr:one/", "10.244.0.0/16").is_some());
}

#[test]
fn node_ports_are_served_where_they_are_asked_for() {
    use crate::node::node_ports;
    use network::proxy::NodePortAddresses::{All, Only, Shared};
    let (first, further) = (Plan::nth("c", Path::new("/d"), 0), Plan::nth("c", Path::new("/d"), 3));
    let lan = IpAddr::from([192, 168, 1, 2]);
    let ports = |plan: &Plan, asked: &[IpAddr]| node_ports(&plan.node_ips(), plan.shared(), asked);
    assert_eq!(["0.0.0.0", "::"].map(|any| ports(&further, &[any.parse().unwrap()])), [All, All]);
    assert_eq!([ports(&first, &[]), ports(&further, &[])], [All, Only(vec![further.node_ip()])]);
    assert_eq!(ports(&first, &[lan]), Only(vec![first.node_ip(), lan]));
    let reached = |plan: Plan| Plan { advertise: vec![lan], ..plan };
    assert_eq!(ports(&reached(first), &[]), All);
    let further = reached(further);
    assert_eq!(ports(&further, &[]), Shared { own: vec![further.node_ip()], with_others: vec![lan] });
    assert_eq!(ports(&further, &[lan]), Only(vec![further.node_ip(), lan]), "asked for, it comes before the others there");
    // Where pods of other machines are reached by routes, the machine's link lets calls from the loopback out for these alone.
    let opened = |ports| crate::machines::lan(network::mesh::Kind::Routes, &[lan], Some(ports).as_ref());
    assert_eq!([All, ports(&further, &[]), ports(&further, &[[127, 0, 0, 1].into()])].map(|ports| opened(ports).is_some()), [true, false, true]);
    assert!(opened(ports(&further, &[std::net::Ipv6Addr::LOCALHOST.into()])).is_none(), "from IPv6's nothing leaves");
    let six = Plan { pods: "fd00:1::".parse().unwrap(), pods_prefix: 56, ..Plan::nth("knarr", Path::new("/d"), 0) };
    assert_eq!(ports(&six, &[]), All, "the default cluster, whatever its addresses");
}

#[test]
fn clusters_side_by_side_share_nothing() {
    let plans: Vec<Plan> = (0..CLUSTERS_MAX).map(|i| Plan::nth("c", Path::new("/d"), i)).collect();
    for (at, plan) in plans.iter().enumerate() {
        assert!(plans.iter().skip(at + 1).all(|p| p.port != plan.port && p.pods != plan.pods && p.services != plan.services));
        assert!(plans.iter().all(|p| plan.pods != p.services && plan.services != p.pods));
    }
    assert_eq!((plans[0].pod_cidr().to_string().as_str(), plans[0].dns_ip().to_string().as_str()), ("10.244.0.0/16", "10.96.0.10"));
}

fn net(text: &str) -> network::Net {
    text.parse().unwrap()
}

/// What flags with these ranges ask for.
fn asked(pods: &[&str], services: &[&str]) -> anyhow::Result<Ranges> {
    let nets = |all: &[&str]| all.iter().map(|text| net(text)).collect::<Vec<_>>();
    Ranges::of(&nets(pods), &nets(services))
}

fn told<T: std::fmt::Debug>(outcome: anyhow::Result<T>) -> String {
    format!("{:#}", outcome.unwrap_err())
}

fn ranges_of(plan: &Plan, number: u32) -> Vec<String> {
    plan.parts(number).unwrap().iter().map(|part| part.pod_cidr.to_string()).collect()
}

#[test]
fn ranges_are_asked_for_once() {
    let folder = Folder::new("ranges");
    let cluster = Cluster { name: "r".into(), data: folder.0.clone(), run: folder.0.join("run") };
    let choose = |ranges: anyhow::Result<Ranges>, others: &[Plan]| choose(&cluster.name, &cluster.data, &ranges?, others);
    let mut plan = choose(asked(&["172.30.0.0/17"], &["172.31.0.0/20"]), &[]).unwrap();
    assert_eq!((plan.pod_cidr(), ranges_of(&plan, 1), plan.dns_ip()), (net("172.30.0.0/17"), vec!["172.30.0.0/24".to_owned()], [172, 31, 0, 10].into()));
    assert_eq!(plan.first(), plan.parts(1).unwrap());
    assert!(told(choose(asked(&["172.30.0.0/16"], &["172.30.8.0/24"]), &[])).contains("addresses in common"));
    assert!(told(choose(asked(&["172.0.0.0/8"], &["10.1.0.0/16"]), &[])).contains("prefix of 8 bits"));
    let other = Plan { name: "o".into(), ..plan.clone() };
    assert!(told(choose(asked(&["172.30.64.0/18"], &[]), &[other])).contains("the cluster \"o\""));
    fs::create_dir_all(&cluster.run).unwrap();
    plan.node = "as-the-host-was-called".into();
    cluster.keep(&plan).unwrap();
    assert_eq!(choose(Ok(Ranges::default()), &[]).unwrap(), plan, "what was chosen is kept");
    assert!(told(choose(asked(&["172.29.0.0/16"], &[]), &[])).contains("chosen at its first start"));
}

#[test]
fn a_second_family_may_come_later_and_stays() {
    let folder = Folder::new("families");
    let cluster = Cluster { name: "f".into(), data: folder.0.clone(), run: folder.0.join("run") };
    let choose = |ranges: &Ranges, others: &[Plan]| choose(&cluster.name, &cluster.data, ranges, others);
    let one = asked(&["172.30.0.0/16"], &["172.31.0.0/16"]).unwrap();
    let plan = choose(&one, &[]).unwrap();
    assert_eq!(plan.first().len(), 1);
    fs::create_dir_all(&cluster.run).unwrap();
    cluster.keep(&plan).unwrap();
    let two = asked(&["172.30.0.0/16", "fd00:f:a::/56"], &["172.31.0.0/16", "fd00:f:b::/112"]).unwrap();
    let plan = choose(&two, &[]).unwrap();
    cluster.keep(&plan).unwrap();
    assert_eq!(ranges_of(&plan, 3), ["172.30.2.0/24", "fd00:f:a:2::/64"]);
    let third = plan.parts(3).unwrap()[1];
    assert_eq!((third.node_ip().to_string().as_str(), third.cluster_cidr, third.service_cidr), ("fd00:f:a:2::1", net("fd00:f:a::/56"), net("fd00:f:b::/112")));
    let small = Plan { second: Some((net("fd00:f:a::/64"), net("fd00:f:b::/112"))), ..plan.clone() };
    assert_eq!(small.parts(1).unwrap().len(), 2);
    assert_eq!(told(small.parts(2)), "the range fd00:f:a::/64 has no part for node 2: a node has a /64");
    for ranges in [Ranges::default(), one, two.clone()] {
        assert_eq!(choose(&ranges, &[]).unwrap(), plan, "what was chosen is kept");
    }
    let other = asked(&["172.30.0.0/16", "fd00:f:c::/56"], &["172.31.0.0/16", "fd00:f:b::/112"]).unwrap();
    assert!(told(choose(&other, &[])).contains("172.30.0.0/16,fd00:f:a::/56 for pods, /24,/64 for each node's"));
    let beside = Plan { name: "o".into(), port: 1, ..Plan::nth("o", &folder.0, 7) };
    assert!(choose(&two, std::slice::from_ref(&beside)).is_ok());
    assert!(told(choose(&two, &[Plan { second: plan.second, ..beside }])).contains("the cluster \"o\""));
}

#[test]
fn ipv6_may_be_the_first_family_or_the_only_one() {
    let folder = Folder::new("six");
    let cluster = Cluster { name: "s".into(), data: folder.0.clone(), run: folder.0.join("run") };
    let choose = |ranges: &Ranges| choose(&cluster.name, &cluster.data, ranges, &[]);
    let six = asked(&["fd00:f:a::/56"], &["fd00:f:b::/112"]).unwrap();
    let plan = choose(&six).unwrap();
    let ips = [plan.node_ip(), plan.api_ip(), plan.dns_ip()].map(|ip| ip.to_string());
    assert_eq!(ips, ["fd00:f:a::1", "fd00:f:b::1", "fd00:f:b::a"]);
    assert_eq!(ranges_of(&plan, 2), ["fd00:f:a:1::/64"]);
    assert!(told(plan.parts(257)).contains("no part for node 257"));
    fs::create_dir_all(&cluster.run).unwrap();
    cluster.keep(&plan).unwrap();
    // IPv4 comes behind it, and nothing before what was first.
    let both = choose(&asked(&["fd00:f:a::/56", "172.30.0.0/16"], &["fd00:f:b::/112", "172.31.0.0/16"]).unwrap()).unwrap();
    assert_eq!(both.node_ips(), ["fd00:f:a::1", "172.30.0.1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    assert_eq!(both.node_parts(), [("fd00:f:a::/56".to_owned(), 64), ("172.30.0.0/16".to_owned(), 24)]);
    cluster.keep(&both).unwrap();
    assert_eq!(choose(&Ranges::default()).unwrap(), both);
    assert_eq!(
        both.parts_of(&[net("172.30.255.0/24"), net("fd00:f:a:fe::/64")]).unwrap().iter().map(|part| part.pod_cidr).collect::<Vec<_>>(),
        [net("fd00:f:a:fe::/64"), net("172.30.255.0/24")]
    );
    assert_eq!(both.parts_of(&[net("fd00:f:a:fe::/64")]).unwrap().len(), 1, "a node that has no range of the second yet");
    assert!(told(both.parts_of(&[net("172.30.255.0/24")])).contains("no part of the cluster's fd00:f:a::/56"));
    let turned = asked(&["172.30.0.0/16", "fd00:f:a::/56"], &["172.31.0.0/16", "fd00:f:b::/112"]).unwrap();
    assert!(told(choose(&turned)).contains("chosen at its first start"));
    // As versions before wrote it.
    let older = r#"{"name": "s", "data": "/", "pods": "10.244.0.0", "services": "10.96.0.0", "ipv6": ["fd00:f:a::/56", "fd00:f:b::/112"], "port": 6443, "advertise": "192.0.2.7"}"#;
    let older: Plan = serde_json::from_str(older).unwrap();
    assert_eq!((older.second, older.advertise, older.node_prefix6), (Some((net("fd00:f:a::/56"), net("fd00:f:b::/112"))), vec![[192, 0, 2, 7].into()], 64));
    let null = r#"{"name": "s", "data": "/", "pods": "10.244.0.0", "services": "10.96.0.0", "port": 6443, "advertise": null}"#;
    assert!(serde_json::from_str::<Plan>(null).unwrap().advertise.is_empty());
}

#[test]
fn ranges_that_fit_no_cluster_are_refused_in_words() {
    for (pods, services, why) in [
        (&["fd00::/56"][..], &[][..], "told both its ranges"),
        (&[], &["fd00::/112"], "told both its ranges"),
        (&["172.30.0.0/16", "172.29.0.0/16"], &[], "one range, or one of each family"),
        (&["172.30.0.0/16", "fd00::/56"], &["172.31.0.0/16"], "give two to --cluster-cidr and two to --service-cidr"),
        (&["172.30.0.0/16"], &["fd01::/112"], "the same, in the same order"),
        (&["172.30.0.0/16", "fd00::/56"], &["fd01::/112", "172.31.0.0/16"], "the same, in the same order"),
        (&["172.30.0.0/16", "fd00::/40"], &["172.31.0.0/16", "fd01::/112"], "has 48 to 112"),
        (&["172.30.0.0/16", "fd00::/56"], &["172.31.0.0/16", "fd01::/48"], "has 64 to 120"),
        (&["fd00::/56"], &["fd00::/112"], "addresses in common"),
        (&["172.30.0.0/16", "fd00::/56"], &["172.31.0.0/16", "fd00::/112"], "addresses in common"),
    ] {
        let error = told(asked(pods, services));
        assert!(error.contains(why), "{error}");
    }
    let folder = Folder::new("prefixes");
    let of = |pods: &[&str], services: &[&str], node_prefixes: NodePrefixes| {
        choose("p", &folder.0, &Ranges { node_prefixes, ..asked(pods, services).unwrap() }, &[])
    };
    let (only, ipv4, ipv6) = (|bits| NodePrefixes { only: Some(bits), ..NodePrefixes::default() }, Some(26), Some(72));
    let (four, six) = ((&["172.30.0.0/16"][..], &["172.31.0.0/16"][..]), (&["fd00:f:60::/60"][..], &["fd00:f:61::/112"][..]));
    let both = (&["172.30.0.0/16", "fd00:f:60::/60"][..], &["172.31.0.0/16", "fd00:f:61::/112"][..]);
    assert_eq!(of(four.0, four.1, only(25)).unwrap().node_parts()[0].1, 25);
    assert_eq!(of(six.0, six.1, only(68)).unwrap().node_parts()[0].1, 68);
    let parts = of(both.0, both.1, NodePrefixes { only: None, ipv4, ipv6 }).unwrap().node_parts();
    assert_eq!(parts.iter().map(|(_, bits)| *bits).collect::<Vec<_>>(), [26, 72]);
    for (outcome, why) in [
        (of(both.0, both.1, only(25)), "not for a cluster of both families"),
        (of(four.0, four.1, NodePrefixes { only: Some(25), ipv4, ipv6: None }), "give the one or the others"),
        (of(four.0, four.1, NodePrefixes { only: None, ipv4: None, ipv6 }), "its pods have no IPv6"),
        (of(six.0, six.1, NodePrefixes { only: None, ipv4, ipv6: None }), "its pods have no IPv4"),
        (of(four.0, four.1, only(29)), "it has 16 to 28"),
        (of(six.0, six.1, only(56)), "no room for a node's range of /56"),
        (of(six.0, six.1, only(80)), "at most 16 bits"),
    ] {
        let error = told(outcome);
        assert!(error.contains(why), "{error}");
    }
}
