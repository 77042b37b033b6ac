use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use ::volume::{DevicePlugin, DevicePlugins};
use serde_json::{Value, json};

use super::driven::Driven;
use super::*;
use crate::cri::{DeviceOwner, Hook, HookMoment};
use crate::testing::{FakeApi, TempDir};

/// A claim with a device of its own name, for these pods.
pub(crate) fn claim(name: &str, pods: &[&str]) -> ResourceClaim {
    let reserved: Vec<Value> = pods.iter().map(|uid| json!({"resource": "pods", "name": uid, "uid": uid})).collect();
    let result = json!({"request": "r", "driver": "d.io", "pool": "p", "device": name});
    let status = json!({"allocation": {"devices": {"results": [result]}}, "reservedFor": reserved});
    let meta = json!({"namespace": "n", "name": name, "uid": format!("uid-{name}")});
    client::typed(&json!({"metadata": meta, "spec": {}, "status": status})).expect("a claim")
}

fn pod(uid: &str, claims: &[&str]) -> Pod {
    let all: Vec<Value> = claims.iter().map(|name| json!({"name": format!("my-{name}"), "resourceClaimName": name})).collect();
    let wanted: Vec<Value> = claims.iter().map(|name| json!({"name": format!("my-{name}"), "request": "r"})).collect();
    let containers = json!([{"name": "c", "resources": {"claims": wanted}}, {"name": "plain"}]);
    client::typed(&json!({"metadata": {"namespace": "n", "name": uid, "uid": uid}, "spec": {"containers": containers, "resourceClaims": all}})).expect("a pod")
}

fn nobody() -> Arc<dyn Fn(&PodUid) + Send + Sync> {
    Arc::new(|_| ())
}

fn made(root: &Path, claims: Vec<ResourceClaim>) -> Devices {
    let api = Arc::new(FakeApi::default());
    *api.device_claims.lock() = claims;
    Devices::new(root, "node", api, nobody(), CancellationToken::new()).expect("a state")
}

fn plugin(socket: &Path) -> DevicePlugin {
    let services = ["v1.DRAPlugin", "v1.DRAResourceHealth"].map(str::to_owned);
    DevicePlugin::offered("d.io", socket, &services).expect("a plugin")
}

fn come(devices: &Devices, socket: &Path) {
    devices.plugins().come("d.io", plugin(socket)).expect("it is taken in");
}

fn uid(uid: &str) -> PodUid {
    PodUid(uid.to_owned())
}

const UNREGISTERED: &str = "DRA driver d.io is not registered";

#[tokio::test]
async fn a_claim_is_prepared_once_and_taken_back_after_its_last_pod() {
    let dir = TempDir::new("devices");
    let socket = dir.path().join("d.sock");
    let driver = Driven::new(&socket);
    let claims = || vec![claim("a", &["P", "Q"]), claim("b", &["Q"])];
    let devices = made(dir.path(), claims());
    let (p, q) = (pod("P", &["a"]), pod("Q", &["a", "b"]));
    assert_eq!(devices.prepare(&p, &CancellationToken::new()).await, Err(format!("prepare dynamic resources: {UNREGISTERED}")));
    assert!(!devices.holds(&uid("P")), "nothing has to be taken back");
    come(&devices, &socket);
    devices.prepare(&p, &CancellationToken::new()).await.expect("prepared");
    devices.prepare(&p, &CancellationToken::new()).await.expect("it is");
    devices.prepare(&q, &CancellationToken::new()).await.expect("the other, too");
    assert_eq!(driver.asked(), ["NodePrepareResources uid-a", "NodePrepareResources uid-b"]);
    assert_eq!(devices.in_use(), ([("d.io".to_owned(), 2)].into(), 2));
    devices.unprepare(&uid("P")).await.expect("nothing to do");
    assert_eq!(driver.asked().len(), 2, "another has it still");
    // A new process knows what the former has done, but not whether what drivers wrote is there still.
    let devices = made(dir.path(), claims());
    assert_eq!(devices.users(), ["Q".to_owned()].into());
    let names = |devices: &Devices, at: usize| devices.names(&q, &q.spec.as_ref().expect("a spec").containers[at]);
    assert_eq!(names(&devices, 0), Ok(vec!["d.io/gpu=uid-a".to_owned(), "d.io/gpu=uid-b".to_owned()]));
    assert_eq!(names(&devices, 1), Ok(Vec::new()), "who names no claim gets nothing");
    let missing = devices.unprepare(&uid("Q")).await;
    assert_eq!(missing, Err(format!("unprepare dynamic resources: {UNREGISTERED}")));
    come(&devices, &socket);
    let told = devices.prepare(&p, &CancellationToken::new()).await;
    assert_eq!(told, Err("prepare dynamic resources: ResourceClaim a is being unprepared".to_owned()));
    *driver.refuses.lock() = "not now";
    let told = devices.unprepare(&uid("Q")).await.expect_err("it refuses");
    assert_eq!(told, "unprepare dynamic resources: NodeUnprepareResources failed for ResourceClaim a: not now");
    assert!(devices.holds(&uid("Q")));
    *driver.refuses.lock() = "";
    devices.unprepare(&uid("Q")).await.expect("taken back");
    assert_eq!(driver.asked()[3..], ["NodeUnprepareResources uid-a,uid-b"]);
    assert!(devices.users().is_empty());
    devices.unprepare(&uid("Q")).await.expect("nothing is left");
    let failed = devices.counts().operations().iter().find(|(of, _)| *of == ("UnprepareResources", true)).map(|(_, spread)| spread.buckets.iter().sum::<u64>());
    assert_eq!(failed, Some(2));
    let calls: Vec<_> = devices.counts().calls().into_iter().map(|(call, _)| call).collect();
    let method = "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodeUnprepareResources";
    assert_eq!(calls, [("d.io".to_owned(), method.to_owned(), "OK".to_owned())]);
}

#[tokio::test]
async fn what_was_prepared_before_a_restart_is_prepared_again_for_the_next_pod() {
    let dir = TempDir::new("devices-again");
    let socket = dir.path().join("d.sock");
    let driver = Driven::new(&socket);
    let claims = || vec![claim("a", &["P", "Q"])];
    let devices = made(dir.path(), claims());
    come(&devices, &socket);
    // It dies between the driver's work and the note of it: the driver is asked again.
    *driver.refuses.lock() = "no";
    let told = devices.prepare(&pod("P", &["a"]), &CancellationToken::new()).await.expect_err("it refuses");
    assert_eq!(told, "prepare dynamic resources: NodePrepareResources failed for ResourceClaim a: no");
    assert!(devices.holds(&uid("P")), "it may have done a part of it");
    *driver.refuses.lock() = "";
    let devices = made(dir.path(), claims());
    assert!(devices.holds(&uid("P")));
    come(&devices, &socket);
    devices.prepare(&pod("Q", &["a"]), &CancellationToken::new()).await.expect("prepared");
    devices.prepare(&pod("P", &["a"]), &CancellationToken::new()).await.expect("it is");
    assert_eq!(driver.asked(), ["NodePrepareResources uid-a", "NodePrepareResources uid-a"]);
    assert_eq!(devices.users(), ["P".to_owned(), "Q".to_owned()].into());
    // Another claim of the name: the old one has to go first.
    let devices = made(dir.path(), vec![]);
    assert_eq!(devices.users().len(), 2);
    fs::write(dir.path().join("dra_manager_state"), "{").expect("written");
    assert!(made(dir.path(), vec![]).users().is_empty(), "what cannot be read is set aside");
    assert!(dir.path().join("dra_manager_state.broken").exists());
    // A disk that gives nothing does not say that there was nothing.
    fs::create_dir(dir.path().join("dra_manager_state")).expect("a directory");
    let unread = Devices::new(dir.path(), "node", Arc::new(FakeApi::default()), nobody(), CancellationToken::new());
    assert!(unread.is_err());
}

#[tokio::test]
async fn who_may_not_have_a_claim_is_told() {
    let dir = TempDir::new("devices-not");
    let mut open = claim("b", &["P"]);
    open.status.as_mut().expect("a status").allocation = None;
    let devices = made(dir.path(), vec![claim("a", &["Q"]), open]);
    let told = async |claim: &str| devices.prepare(&pod("P", &[claim]), &CancellationToken::new()).await.expect_err("a refusal");
    let words = |words: &str| format!("prepare dynamic resources: {words}");
    assert_eq!(told("a").await, words("pod P (P) is not allowed to use ResourceClaim a (uid-a)"));
    assert_eq!(told("b").await, words("ResourceClaim b: not allocated"));
    assert!(told("c").await.starts_with(&words("fetch ResourceClaim c: ")));
    let unknown = devices.names(&pod("P", &["a"]), &pod("P", &["a"]).spec.expect("a spec").containers[0]);
    assert_eq!(unknown.expect_err("a refusal"), "internal error: unable to get claim info for ResourceClaim a in namespace n");
}

#[tokio::test]
async fn a_status_tells_how_devices_are() {
    let dir = TempDir::new("devices-health");
    let socket = dir.path().join("d.sock");
    let driver = Driven::new(&socket);
    let api = Arc::new(FakeApi::default());
    *api.device_claims.lock() = vec![claim("a", &["P"])];
    let (woken, mut wakes) = tokio::sync::mpsc::unbounded_channel();
    let wake = Arc::new(move |uid: &PodUid| drop(woken.send(uid.0.clone())));
    let devices = Devices::new(dir.path(), "node", api, wake, CancellationToken::new()).expect("a state");
    come(&devices, &socket);
    let p = pod("P", &["a"]);
    devices.prepare(&p, &CancellationToken::new()).await.expect("prepared");
    let told = || {
        let statuses = json!([{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0}]);
        let mut status: PodStatus = serde_json::from_value(json!({"containerStatuses": statuses})).expect("a status");
        devices.tell(&p, &mut status);
        serde_json::to_value(&status.container_statuses.expect("statuses")[0].allocated_resources_status).expect("JSON")
    };
    let is = |resource: Value| json!([{"name": "claim:my-a/r", "resources": [resource]}]);
    // The first report may have come before the claim was prepared.
    driver.health.send_replace(1);
    while told() != is(json!({"resourceID": "d.io/gpu=uid-a", "health": "Healthy", "message": "hot"})) {
        assert_eq!(wakes.recv().await.as_deref(), Some("P"));
    }
    driver.health.send_replace(2);
    while told() != is(json!({"resourceID": "d.io/gpu=uid-a", "health": "Unhealthy", "message": "hot"})) {
        assert_eq!(wakes.recv().await.as_deref(), Some("P"));
    }
    devices.plugins().gone("d.io", &socket);
    assert_eq!(told(), is(json!({"resourceID": "d.io/gpu=uid-a", "health": "Unknown"})));
}

#[tokio::test(start_paused = true)]
async fn slices_of_a_driver_that_nobody_reaches_are_deleted() {
    let dir = TempDir::new("devices-gone");
    let api = Arc::new(FakeApi::default());
    api.peopled.store(true, Ordering::Relaxed);
    let mut wiped = api.wiped.subscribe();
    let devices = Devices::new(dir.path(), "node", api, nobody(), CancellationToken::new()).expect("a state");
    wiped.wait_for(|wiped| *wiped == [""]).await.expect("all, at the start");
    let (begun, socket) = (tokio::time::Instant::now(), dir.path().join("nobody.sock"));
    come(&devices, &socket);
    let again = devices.plugins().come("d.io", plugin(&socket)).expect_err("it is there");
    assert!(again.ends_with("already registered for DRA driver plugin d.io"), "{again}");
    wiped.wait_for(|wiped| *wiped == ["", "d.io"]).await.expect("the driver's");
    assert!(begun.elapsed().as_secs() >= 30, "{:?}", begun.elapsed());
    devices.plugins().gone("d.io", &socket);
    assert!(devices.plugins().get("d.io").is_err());
}

/// Writes specifications: directory, file and text of each.
fn specs(root: &Path, all: &[(&str, &str, &str)]) -> [PathBuf; 2] {
    let dirs = [root.join("etc"), root.join("run")];
    let by_name: HashMap<&str, &PathBuf> = ["etc", "run"].into_iter().zip(&dirs).collect();
    for (dir, file, text) in all {
        fs::create_dir_all(by_name[dir]).expect("a directory");
        fs::write(by_name[dir].join(file), text).expect("a file");
    }
    dirs
}

#[test]
fn a_device_is_what_its_specification_says() {
    let dir = TempDir::new("cdi");
    let spec = json!({"cdiVersion": "0.6.0", "kind": "d.io/gpu", "containerEdits": {"env": ["ALL=1"]}, "devices": [
        {"name": "a", "containerEdits": {"env": ["GPU=a", "X=y=z"], "deviceNodes": [{"path": "/dev/gpu", "hostPath": "/dev/null", "permissions": "rw", "fileMode": 0o640, "gid": 44}],
            "mounts": [{"hostPath": "/tmp", "containerPath": "/gpu", "options": ["ro", "bind", "nosuid", "nodev", "noexec"]}], "additionalGids": [44]}},
        {"name": "b", "containerEdits": {"env": ["GPU=b"]}},
        {"name": "hook", "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/x", "args": ["x", "link"], "env": ["A=b"], "timeout": 5}]}},
        {"name": "late", "containerEdits": {"hooks": [{"hookName": "poststop", "path": "/x"}]}},
        {"name": "shown", "containerEdits": {"deviceNodes": [{"path": "/dev/null", "permissions": "none"}], "additionalGids": [0]}},
        {"name": "file", "containerEdits": {"deviceNodes": [{"path": "/dev/x", "hostPath": "/proc/version"}]}},
        {"name": "block", "containerEdits": {"deviceNodes": [{"path": "/dev/null", "type": "b"}]}},
        {"name": "other", "containerEdits": {"deviceNodes": [{"path": "/dev/null", "type": "c", "major": 1, "minor": 5}]}},
        {"name": "deep", "containerEdits": {"mounts": [{"hostPath": "/tmp", "containerPath": "/deep", "options": ["rro"]}]}},
        {"name": "lost", "containerEdits": {"deviceNodes": [{"path": "/dev/does-not-exist"}]}},
    ]})
    .to_string();
    let heavier = "cdiVersion: 0.6.0\nkind: d.io/gpu\ndevices:\n- name: b\n  containerEdits:\n    env: [GPU=heavier]\n";
    let all = [("etc", "d.json", spec.as_str()), ("run", "e.yaml", heavier), ("run", "broken.json", "{"), ("run", "x.txt", "no")];
    let dirs = specs(dir.path(), &all);
    let dirs = [dirs[0].as_path(), dirs[1].as_path()];
    let of = |ids: &[&str]| cdi::resolve(&dirs, &ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>());
    let edits = of(&["d.io/gpu=a"]).expect("edits");
    let env: Vec<(&str, &str)> = edits.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!((env, edits.groups.as_slice()), (vec![("ALL", "1"), ("GPU", "a"), ("X", "y=z")], &[44][..]));
    let device = &edits.devices[0];
    assert_eq!((device.host.to_str(), device.container.to_str(), device.permissions.as_str()), (Some("/dev/null"), Some("/dev/gpu"), "rw"));
    assert_eq!((device.mode, device.owner), (Some(0o640), DeviceOwner::Given { uid: None, gid: Some(44) }));
    let mount = &edits.mounts[0];
    assert_eq!((mount.container.to_str(), mount.readonly), (Some("/gpu"), true));
    assert_eq!((mount.noexec, mount.nosuid, mount.nodev), (true, true, true));
    assert_eq!(of(&["d.io/gpu=b"]).expect("edits").env, [("GPU".to_owned(), "heavier".to_owned())]);
    let shown = of(&["d.io/gpu=shown"]).expect("edits");
    assert_eq!((shown.devices[0].permissions.as_str(), shown.groups.len()), ("none", 0));
    let deep = of(&["d.io/gpu=deep"]).expect("edits");
    assert!(deep.mounts[0].readonly && deep.mounts[0].recursive_readonly);
    let told = |id: &str| of(&[id]).expect_err("a refusal");
    assert!(told("d.io/gpu=file").ends_with("failed to stat CDI host device \"/proc/version\": not a device node"));
    assert!(told("d.io/gpu=block").ends_with("CDI device (\"/dev/null\", \"/dev/null\"), host type mismatch (b, c)"));
    assert!(told("d.io/gpu=other").ends_with("/dev/null: other numbers than the host's are not supported by this runtime"));
    assert_eq!(told("d.io/gpu=none"), "CDI device injection failed: unresolvable CDI devices d.io/gpu=none");
    let hook = Hook {
        moment: HookMoment::CreateContainer,
        path: "/x".into(),
        args: vec!["x".to_owned(), "link".to_owned()],
        env: vec!["A=b".to_owned()],
        timeout_s: Some(5),
    };
    assert_eq!(of(&["d.io/gpu=hook"]).expect("edits").hooks, [hook]);
    let late = of(&["d.io/gpu=late"]).expect("edits").hooks;
    assert_eq!((late[0].moment, late[0].path.to_str()), (HookMoment::Poststop, Some("/x")));
    assert!(told("d.io/gpu=lost").ends_with("failed to stat CDI host device \"/dev/does-not-exist\": no such file or directory"));
    // Of what is wrong in any part nothing counts.
    let of_texts = [
        ("0.6.0", "0.9.9"),
        ("GPU=b", "=b"),
        ("/dev/gpu", ""),
        ("\"rw\"", "\"x\""),
        ("createContainer", "createContainer"),
        ("createContainer", "createAnything"),
    ];
    // A misspelt field, a number for a text, a text for a list: none of them is taken for what is left out.
    let of_form = [
        ("\"permissions\":\"rw\"", "\"permission\":\"rw\""),
        ("\"permissions\":\"rw\"", "\"permissions\":5"),
        ("\"gid\":44", "\"gid\":-1"),
        ("[\"ro\",\"bind\",\"nosuid\",\"nodev\",\"noexec\"]", "\"ro\""),
        ("\"timeout\":5", "\"timeout\":\"5\""),
        ("[\"A=b\"]", "[\"A\"]"),
        ("[44]", "[-1]"),
    ];
    for (wrong, right) in of_texts.into_iter().chain(of_form) {
        let dirs = specs(&dir.path().join("wrong"), &[("run", "d.json", &spec.replace(wrong, right))]);
        let told = cdi::resolve(&[dirs[0].as_path(), dirs[1].as_path()], &["d.io/gpu=a".to_owned()]);
        assert_eq!(told.is_ok(), wrong == right, "{wrong}: {told:?}");
    }
    // What two say is nobody's.
    let dirs = specs(dir.path(), &[("run", "f.yaml", heavier)]);
    assert!(cdi::resolve(&[dirs[0].as_path(), dirs[1].as_path()], &["d.io/gpu=b".to_owned()]).is_err());
}
