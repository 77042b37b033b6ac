//! What is done about a migration, by what the server answers.

use std::sync::Arc;

use client::Informer;
use serde_json::{Value, json};

use super::kind::{FAILED, Migration, RUNNING, SUCCEEDED, Target};
use super::migrator::{Migrator, compare, running};
use super::runner::{Runner, plan};
use crate::fake::{Fake, refusal};
use crate::work::{Controller, Step};

const MIGRATIONS: &str = "/apis/storagemigration.k8s.io/v1/storageversionmigrations";
const DEFINITION: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.com";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/n/widgets";

fn migration(name: &str, created: &str, conditions: &[&str]) -> Migration {
    let conditions: Vec<Value> = conditions
        .iter()
        .map(|kind| json!({"type": kind, "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}))
        .collect();
    serde_json::from_value(json!({
        "metadata": {"name": name, "creationTimestamp": created, "resourceVersion": "9"},
        "spec": {"resource": {"group": "example.com", "resource": "widgets"}},
        "status": {"conditions": conditions},
    }))
    .expect("a migration")
}

fn target() -> Target {
    Target { group: "example.com".to_owned(), resource: "widgets".to_owned() }
}

const OLD: &str = "2026-01-01T00:00:00Z";

#[test]
fn the_oldest_is_next_unless_one_runs() {
    let names = |all: Vec<Migration>| {
        let plan = plan(all);
        let name = |m: Migration| m.metadata.name.unwrap_or_default();
        (plan.ended.into_iter().map(name).collect::<Vec<_>>(), plan.next.map(name))
    };
    let young = || migration("a", "2026-01-02T00:00:00Z", &[]);
    assert_eq!(names(vec![young(), migration("c", OLD, &[]), migration("b", OLD, &[])]), (vec![], Some("b".to_owned())));
    assert_eq!(names(vec![young(), migration("b", OLD, &[RUNNING])]), (vec![], None));
    assert_eq!(names(vec![young(), migration("b", OLD, &[RUNNING, FAILED])]), (vec!["b".to_owned()], Some("a".to_owned())));
    assert_eq!(names(vec![migration("b", OLD, &[SUCCEEDED])]), (vec![], None), "its end was told");
}

#[test]
fn a_condition_keeps_its_time_while_it_holds() {
    let mut one = migration("a", OLD, &[RUNNING]);
    let since = one.status.conditions[0].last_transition_time.clone();
    assert!(one.set(RUNNING, true, "R", "other".to_owned(), None));
    assert!(!one.set(RUNNING, true, "R", "other".to_owned(), None), "nothing changed");
    assert_eq!(one.status.conditions[0].last_transition_time, since);
    assert!(one.set(RUNNING, false, "R", "other".to_owned(), Some(0)));
    assert!(one.status.conditions[0].last_transition_time != since && !one.is(RUNNING));
    assert_eq!(one.status.conditions[0].observed_generation, None);
}

#[test]
fn revisions_are_numbers_of_any_length() {
    use std::cmp::Ordering::{Equal, Greater, Less};
    assert_eq!((compare("9", "10"), compare("11", "10"), compare("7", "7")), (Ok(Less), Ok(Greater), Ok(Equal)));
    assert_eq!(compare("100000000000000000000000000000001", "100000000000000000000000000000000"), Ok(Greater));
    for malformed in ["", "0", "01", "1x", "-1"] {
        assert_eq!(compare("1", malformed), Err(format!("resource version is not well formed: {malformed}")));
    }
}

#[test]
fn what_is_said_of_one_that_runs() {
    assert_eq!(running(0, 0, None), "The migration is running");
    assert_eq!(running(2, 3, None), "The migration is running, 2/3 objects not yet migrated");
    assert_eq!(running(0, 3, Some("busy")), "The migration is running, 3 objects verified migrated; transient error: busy");
}

fn definition(generation: i64, told: &Value) -> Value {
    json!({"kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com", "resourceVersion": "5", "generation": generation},
        "spec": {"versions": [{"name": "v1", "storage": false}, {"name": "v2", "storage": true}]},
        "status": {"conditions": [told], "storedVersions": ["v1", "v2"]}})
}

/// What the runner writes for one migration and the definition of its resource: the definition's status, the migration's condition.
async fn run(one: Migration, definition: Option<Value>) -> (Option<Value>, Option<Value>) {
    let list = json!({"kind": "List", "metadata": {}, "items": [&one]});
    let fake = Fake::new(move |method, path| match (method, path, &definition) {
        ("GET", MIGRATIONS, _) => (200, list.clone()),
        ("GET", DEFINITION, Some(definition)) => (200, definition.clone()),
        ("PATCH" | "PUT", ..) => (200, json!({"metadata": {"name": "x"}})),
        _ => refusal(404, "NotFound"),
    });
    let runner = Runner { client: fake.client() };
    assert_eq!(runner.reconcile(&target()).await.expect("a step"), None);
    let body = |method: &str| {
        let written = fake.written();
        let line = written.iter().find(|line| line.starts_with(method))?;
        serde_json::from_str::<Value>(&line[line.find('{')?..]).ok()
    };
    (body("PATCH"), body("PUT").map(|put| put["status"]["conditions"].as_array().and_then(|all| all.last()).cloned().unwrap_or_default()))
}

#[tokio::test]
async fn one_that_begins_is_told_to_its_definition() {
    let (told, running) = run(migration("a", OLD, &[]), Some(definition(3, &Value::Null))).await;
    let told = told.expect("a definition is told");
    assert_eq!(told["metadata"], json!({"name": "widgets.example.com", "resourceVersion": "5"}));
    let shown = |told: &Value| ["status", "reason", "message"].map(|key| told["status"]["conditions"][0][key].as_str().unwrap_or_default().to_owned());
    assert_eq!(shown(&told), ["True", "MigrationRunning", "Migration a is running"]);
    assert_eq!((&told["status"]["conditions"][0]["observedGeneration"], &told["status"]["storedVersions"]), (&json!(3), &json!(["v1", "v2"])));
    let running = running.expect("the migration is told");
    assert_eq!((&running["type"], &running["message"]), (&json!("Running"), &json!("The migration is running")));
    let (told, running) = run(migration("a", OLD, &[]), None).await;
    assert!(told.is_none() && running.is_some(), "a resource of the server's own");
}

#[tokio::test]
async fn stored_versions_are_reduced_when_nothing_changed() {
    let told_at = |generation: i64, status: &str| json!({"type": "StorageMigrating", "status": status, "observedGeneration": generation});
    let wanted = [
        (SUCCEEDED, told_at(3, "True"), "MigrationSucceeded", "The migration has succeeded and the stored versions have been updated", json!(["v2"])),
        (
            SUCCEEDED,
            told_at(2, "True"),
            "MigrationSucceeded",
            "The migration has succeeded but the stored versions have not been updated due to a generation mismatch",
            json!(["v1", "v2"]),
        ),
        (FAILED, told_at(3, "True"), "MigrationFailed", "The migration has failed", json!(["v1", "v2"])),
    ];
    for (end, before, reason, message, stored) in wanted {
        let (told, running) = run(migration("a", OLD, &[end, RUNNING]), Some(definition(3, &before))).await;
        let told = told.expect("a definition is told");
        let condition = &told["status"]["conditions"][0];
        assert_eq!((&condition["status"], &condition["reason"], &condition["message"]), (&json!("False"), &json!(reason), &json!(message)));
        assert_eq!(told["status"]["storedVersions"], stored);
        let running = running.expect("the migration is told");
        assert_eq!(
            (&running["status"], &running["reason"], &running["message"]),
            (&json!("False"), &json!("MigrationCompleted"), &json!("Migration completed"))
        );
    }
    let (told, running) = run(migration("a", OLD, &[SUCCEEDED, RUNNING]), Some(definition(3, &told_at(3, "False")))).await;
    assert!(told.is_none(), "it was told before the step broke off");
    assert!(running.is_some());
}

/// The server of widgets: the answer to the patch of each is told by its name.
async fn migrate(one: Migration, verbs: &[&str]) -> (Step, Vec<String>) {
    let verbs: Vec<String> = verbs.iter().map(|verb| (*verb).to_owned()).collect();
    let fake = Fake::new(move |method, path| match (method, path) {
        ("GET", "/api") => (200, json!({"items": []})),
        ("GET", "/apis") => {
            let served = json!({"resource": "widgets", "responseKind": {"kind": "Widget"}, "scope": "Namespaced", "verbs": verbs});
            (200, json!({"items": [{"metadata": {"name": "example.com"}, "versions": [{"version": "v1", "resources": [served]}]}]}))
        }
        ("GET", "/apis/example.com/v1/widgets") => {
            let items = [("fine", "10"), ("changed", "11"), ("gone", "20"), ("young", "21")];
            let items = items.map(|(name, revision)| json!({"metadata": {"namespace": "n", "name": name, "resourceVersion": revision}}));
            (200, json!({"metadata": {"resourceVersion": "40"}, "items": items}))
        }
        ("PATCH", path) if path.ends_with("/changed") => refusal(409, "Conflict"),
        ("PATCH", path) if path.ends_with("/gone") => refusal(404, "NotFound"),
        _ => (200, json!({"metadata": {"name": "x"}})),
    });
    let migrator = Migrator { client: fake.client(), migrations: Informer::fixed([one]) };
    let step = migrator.reconcile(&"a".to_owned()).await;
    (step, fake.written())
}

const ALL: [&str; 4] = ["update", "patch", "list", "watch"];

fn at(revision: &str, conditions: &[&str]) -> Migration {
    let mut one = migration("a", OLD, conditions);
    one.status.resource_version = revision.to_owned();
    one
}

/// The status in what was written.
fn status(line: &str) -> Value {
    let body = line.find('{').and_then(|from| serde_json::from_str::<Value>(&line[from..]).ok());
    body.map(|body| body["status"].clone()).unwrap_or_default()
}

#[tokio::test]
async fn the_revision_is_noted_once_it_runs() {
    for idle in [at("", &[]), at("", &[RUNNING, FAILED]), at("20", &[RUNNING, SUCCEEDED])] {
        let (step, written) = migrate(idle, &ALL).await;
        assert!(matches!(step, Ok(None)) && written.is_empty(), "{written:?}");
    }
    let (_, written) = migrate(at("", &[RUNNING]), &ALL).await;
    assert_eq!((written.len(), &status(&written[0])["resourceVersion"]), (1, &json!("40")));
    assert!(written[0].starts_with(&format!("PUT {MIGRATIONS}/a/status ")));

    let (_, written) = migrate(at("", &[RUNNING]), &["list", "patch"]).await;
    let failed = &status(&written[0])["conditions"][1];
    assert_eq!((&failed["type"], &failed["reason"]), (&json!("Failed"), &json!("StorageVersionMigrationFailed")));
    assert_eq!(failed["message"], "resource \"example.com/v1, Resource=widgets\" does not support discovery operations: [update patch list]");
}

#[tokio::test]
async fn a_resource_that_is_not_served_is_waited_for_a_minute() {
    let mut other = at("", &[RUNNING]);
    other.spec.resource.resource = "others".to_owned();
    let (_, written) = migrate(other.clone(), &ALL).await;
    assert_eq!(status(&written[0])["conditions"][1]["message"], "resource does not exist in discovery");
    other.status.resource_version = "20".to_owned();
    let (_, written) = migrate(other.clone(), &ALL).await;
    assert_eq!(status(&written[0])["conditions"][1]["message"], "migration encountered unhandled error: unable to obtain GVR from discovery");
    other.metadata.creation_timestamp = Some(client::now());
    let (step, written) = migrate(other, &ALL).await;
    assert!(matches!(step, Ok(Some(_))) && written.is_empty());
}

#[tokio::test]
async fn what_is_not_younger_is_written() {
    let (step, written) = migrate(at("20", &[RUNNING]), &ALL).await;
    assert!(matches!(step, Ok(None)));
    let patched = |name: &str, revision: &str| {
        let body = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"resourceVersion": revision}});
        format!("PATCH {WIDGETS}/{name} {body}")
    };
    assert_eq!(written[..3], [patched("fine", "10"), patched("changed", "11"), patched("gone", "20")]);
    assert_eq!(written.len(), 4);
    let conditions = &status(&written[3])["conditions"];
    assert_eq!(conditions[0]["message"], "The migration is running, 4 objects verified migrated");
    let done = ["type", "reason", "message"].map(|key| conditions[1][key].as_str().unwrap_or_default().to_owned());
    assert_eq!(done, ["Succeeded", "StorageVersionMigrationSucceeded", "Migration completed"]);
}

#[tokio::test]
async fn what_passes_is_tried_again_and_what_does_not_fails() {
    for (code, reason) in [(503, "ServiceUnavailable"), (429, "TooManyRequests"), (500, "InternalError"), (422, "Invalid"), (403, "Forbidden")] {
        let fake = Fake::new(move |method, path| match (method, path) {
            ("GET", "/api") => (200, json!({"items": []})),
            ("GET", "/apis") => {
                let served = json!({"resource": "widgets", "responseKind": {"kind": "Widget"}, "scope": "Namespaced", "verbs": ALL});
                (200, json!({"items": [{"metadata": {"name": "example.com"}, "versions": [{"version": "v1", "resources": [served]}]}]}))
            }
            ("GET", _) => {
                let item = |name: &str| json!({"metadata": {"namespace": "n", "name": name, "resourceVersion": "5"}});
                (200, json!({"metadata": {}, "items": [item("one"), item("two"), item("three")]}))
            }
            ("PATCH", path) if path.ends_with("/two") && reason == "TooManyRequests" => {
                let (code, mut body) = refusal(code, reason);
                body["details"]["retryAfterSeconds"] = 7.into();
                (code, body)
            }
            ("PATCH", path) if path.ends_with("/two") => refusal(code, reason),
            _ => (200, json!({"metadata": {"name": "x"}})),
        });
        let migrator = Migrator { client: fake.client(), migrations: Informer::fixed([at("20", &[RUNNING])]) };
        let step = migrator.reconcile(&"a".to_owned()).await;
        let written = fake.written();
        assert_eq!(written.len(), 3, "one, two, the status: {written:?}");
        let conditions = status(&written[2])["conditions"].clone();
        if code == 422 || code == 403 {
            assert!(matches!(step, Ok(None)));
            assert_eq!(conditions[0]["message"], "The migration is running, 2/3 objects not yet migrated");
            assert_eq!(conditions[1]["type"], "Failed");
            assert_eq!(conditions[1]["message"], format!("2/3 not yet migrated. migration encountered unhandled error: {reason}"));
            continue;
        }
        assert_eq!(conditions.as_array().map(Vec::len), Some(1));
        assert_eq!(conditions[0]["message"], format!("The migration is running, 2/3 objects not yet migrated; transient error: {reason}"));
        match step {
            Ok(Some(after)) => assert_eq!((code, after.as_secs()), (429, 7)),
            Ok(None) => panic!("{code} is tried again"),
            Err(_) => assert_ne!(code, 429),
        }
    }
}

#[tokio::test]
async fn one_that_is_written_by_another_meanwhile_is_looked_at_again() {
    let fake: Arc<_> = Fake::new(|method, path| match (method, path) {
        ("GET", "/api") => (200, json!({"items": []})),
        ("GET", _) => (200, json!({"items": []})),
        _ => refusal(409, "Conflict"),
    });
    let migrator = Migrator { client: fake.client(), migrations: Informer::fixed([at("", &[RUNNING])]) };
    assert!(migrator.reconcile(&"a".to_owned()).await.is_err());
}
