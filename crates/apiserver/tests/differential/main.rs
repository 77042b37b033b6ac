//! Requests to which the answers of the original kube-apiserver are known: ours must be the same, field by field, warnings
//! included.
//!
//! `requests/AREA/NAME.yaml` describes them ([`description`]), `answers/AREA/NAME.jsonl` has what the original answered, a line
//! a case (`cargo run -p apiserver --example record` asks it anew). `differs.yaml` lists the cases that differ, with the reason;
//! one that no longer differs must leave the list. `ONLY=AREA/NAME,…` asks some of them; `TELL=1` shows the listed ones as well.

mod description;
mod drive;

use apiserver::{AdmissionOptions, ApiServer, Config, Identity, full};
use bytes::Bytes;
use client::Transport;
use description::Description;
use futures_util::future::BoxFuture;
use identity::User;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The server in this process, asked by its administrator.
struct Local(ApiServer);

impl Transport for Local {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, client::Result<http::Response<client::Body>>> {
        let server = self.0.clone();
        let groups = vec!["system:masters".into(), "system:authenticated".into()];
        // As by a certificate, whose hash is no matter.
        let extra = [("authentication.kubernetes.io/credential-id".to_owned(), vec!["*".to_owned()])].into_iter().collect();
        let user = User { name: "admin".into(), uid: String::new(), groups, extra };
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(Arc::new(user));
        Box::pin(async move { Ok(server.handle(http::Request::from_parts(parts, full(body))).await) })
    }
}

async fn server(description: &Description) -> Local {
    let store = store::Store::in_memory(&store::Options::default()).expect("a store");
    let admission = AdmissionOptions { enable: description.plugins.clone(), ..AdmissionOptions::default() };
    let config = Config { admission: admission.check().expect("known plug-ins"), ..Config::default() };
    let identity = Identity::new(&store, None, "https://kubernetes.default.svc.cluster.local", Default::default()).expect("keys");
    let api = ApiServer::new(config, store, identity).expect("a server");
    api.bootstrap().await.expect("bootstrap");
    Local(api)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential")
}

/// `AREA/NAME` of each description.
fn names() -> Vec<String> {
    let mut names = Vec::new();
    for area in fs::read_dir(folder().join("requests")).expect("the requests") {
        let area = area.expect("an area").path();
        for file in fs::read_dir(&area).expect("an area") {
            let path = file.expect("a file").path().with_extension("");
            names.push(format!("{}/{}", name_of(&area), name_of(&path)));
        }
    }
    names.sort();
    names
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The reasons for which cases differ: `AREA/NAME` → case (or `*`) → reason.
fn reasons() -> BTreeMap<String, BTreeMap<String, String>> {
    let text = fs::read(folder().join("differs.yaml")).expect("differs.yaml");
    let tree = machinery::yaml::decode(&text, None, machinery::json::Validation::Strict).expect("YAML").value;
    serde_json::from_value(tree).expect("file: {case: reason}")
}

/// What the original answered, by case.
fn recorded(name: &str) -> BTreeMap<String, Value> {
    let path = folder().join(format!("answers/{name}.jsonl"));
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}: record it", path.display()));
    let answers = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    answers.map(|a| (a["case"].as_str().unwrap_or_default().to_owned(), a)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_the_originals() {
    let only = std::env::var("ONLY").unwrap_or_default();
    let tell = std::env::var_os("TELL").is_some();
    let (mut told, mut asked, mut differ, mut wrong) = (String::new(), 0, 0, 0);
    let reasons = reasons();
    for name in names().into_iter().filter(|name| only.split(',').any(|only| name.contains(only))) {
        let description = Description::read(&folder().join(format!("requests/{name}.yaml"))).unwrap_or_else(|e| panic!("{e}"));
        // A server for each: what one leaves behind is not what another finds.
        let server = server(&description).await;
        let ours = drive::answers(&server, &description).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut theirs = recorded(&name);
        let none = BTreeMap::new();
        let reasons = reasons.get(&name).unwrap_or(&none);
        let mut listed: BTreeSet<String> = reasons.keys().cloned().collect();
        for ours in ours {
            asked += 1;
            let case = ours["case"].as_str().unwrap_or_default();
            let theirs = theirs.remove(case).unwrap_or_else(|| panic!("{name}: {case:?} is not recorded"));
            let excused = reasons.contains_key(case);
            listed.remove(case);
            let same = if theirs["unsteady"] == true { ours["status"] == theirs["status"] } else { ours == theirs };
            match (same, excused) {
                (false, false) => {
                    wrong += 1;
                    let _ = writeln!(told, "{name}: {case}\n  original {theirs}\n  knarr    {ours}");
                }
                (false, true) => {
                    differ += 1;
                    if tell {
                        println!("{name}: {case}\n  original {theirs}\n  knarr    {ours}");
                    }
                }
                // What is not steady may differ one time and not another.
                (true, true) if theirs["unsteady"] != true => {
                    wrong += 1;
                    let _ = writeln!(told, "{name}: {case}: no longer differs; take it from differs.yaml");
                }
                (true, _) => {}
            }
        }
        assert!(theirs.is_empty(), "{name}: recorded, but no longer asked: {:?}", theirs.keys());
        assert!(listed.is_empty(), "{name}: in differs.yaml, but no longer asked: {listed:?}");
    }
    assert!(asked > 0, "ONLY names no file of requests");
    println!("{asked} requests, {differ} differ for a reason");
    assert_eq!(wrong, 0, "{told}");
}

#[test]
fn the_second_of_a_write_does_not_matter_and_a_wrong_order_does() {
    let told = |owners: &[(&str, &str, &str)]| {
        let entry = |(manager, operation, second): &(&str, &str, &str)| serde_json::json!({"manager": manager, "operation": operation, "time": second});
        let mut entries: Vec<Value> = owners.iter().map(entry).collect();
        drive::in_one_order(&mut entries);
        entries.iter().map(|entry| entry["manager"].as_str().unwrap_or("wrong").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(told(&[("a", "Update", "1"), ("b", "Update", "1")]), ["a", "b"]);
    assert_eq!(told(&[("b", "Update", "1"), ("a", "Update", "2")]), ["a", "b"]);
    assert_eq!(told(&[("c", "Apply", "2"), ("a", "Update", "1")]), ["a", "c"]);
    assert_eq!(told(&[("b", "Update", "1"), ("a", "Update", "1")]), ["b", "a", "wrong"], "of one second the names decide");
    assert_eq!(told(&[("a", "Update", "2"), ("b", "Update", "1")]), ["a", "b", "wrong"], "the older comes first");
    assert_eq!(told(&[("a", "Update", "1"), ("b", "Apply", "1")]), ["a", "b", "wrong"], "who applies comes first");
}
