//! Informers against an in-memory transport: what the server answers is scripted, the clock is paused.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use super::*;
use crate::error::Result;
use crate::object::Meta;
use crate::transport::{Body, Transport};

/// Answers requests in order from a script; `None` ends the script with a watch that stays open.
struct Script {
    answers: Mutex<VecDeque<(u16, Vec<Value>)>>,
    asked: Mutex<Vec<String>>,
}

impl Transport for Script {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>>> {
        self.asked.lock().push(request.uri().to_string());
        let next = self.answers.lock().pop_front();
        Box::pin(async move {
            let Some((code, lines)) = next else { return std::future::pending().await };
            let watch = request.uri().query().unwrap_or_default().contains("watch=true") && code == 200;
            let body: Body = if watch {
                let frames: Vec<_> = lines.iter().map(|l| Ok(Frame::data(Bytes::from(format!("{l}\n"))))).collect();
                StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
            } else {
                Full::new(Bytes::from(lines[0].to_string())).map_err(|never| match never {}).boxed_unsync()
            };
            let mut response = Response::new(body);
            *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
            Ok(response)
        })
    }
}

fn map(name: &str, version: u32) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "n", "name": name, "uid": name, "resourceVersion": version.to_string()}})
}

fn list(version: u32, items: &[Value]) -> (u16, Vec<Value>) {
    (200, vec![json!({"kind": "ConfigMapList", "metadata": {"resourceVersion": version.to_string()}, "items": items})])
}

fn event(kind: &str, object: &Value) -> Value {
    json!({"type": kind, "object": object})
}

fn start(answers: Vec<(u16, Vec<Value>)>) -> (Arc<Script>, Informers) {
    let script = Arc::new(Script { answers: Mutex::new(answers.into()), asked: Mutex::default() });
    (script.clone(), Informers::new(Client::new(script), CancellationToken::new()))
}

fn told(delta: &Delta<ConfigMap>) -> String {
    let (kind, object) = match delta {
        Delta::Added(o) => ("+", o),
        Delta::Updated { new, .. } => ("~", new),
        Delta::Deleted(o) => ("-", o),
    };
    format!("{kind}{}@{}", object.name(), object.resource_version())
}

async fn take(receiver: &mut mpsc::UnboundedReceiver<Delta<ConfigMap>>, count: usize) -> Vec<String> {
    let mut out = Vec::new();
    while out.len() < count {
        match receiver.recv().await {
            Some(delta) => out.push(told(&delta)),
            None => break,
        }
    }
    out
}

#[tokio::test(start_paused = true)]
async fn lists_then_watches_and_takes_up_at_the_last_revision() {
    let bookmark = json!({"type": "BOOKMARK", "object": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"resourceVersion": "9"}}});
    let (script, informers) = start(vec![
        list(5, &[map("a", 3)]),
        (200, vec![event("ADDED", &map("b", 6)), event("MODIFIED", &map("a", 7)), bookmark]),
        (200, vec![event("DELETED", &map("b", 10))]),
    ]);
    let informer = informers.informer::<ConfigMap>();
    let mut changes = informer.subscribe();
    assert_eq!(take(&mut changes, 4).await, ["+a@3", "+b@6", "~a@7", "-b@10"]);
    let late = take(&mut informer.subscribe(), 1).await;
    assert_eq!(late, ["+a@7"], "who comes late gets the present state");
    let asked = script.asked.lock().clone();
    assert!(asked[1].contains("resourceVersion=5"), "{asked:?}");
    assert!(asked[2].contains("resourceVersion=9"), "a bookmark moves the revision: {asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_410_lists_again_and_tells_only_what_differs() {
    let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410});
    let (_, informers) = start(vec![
        list(5, &[map("a", 3), map("b", 4), map("c", 5)]),
        (200, vec![event("ERROR", &gone)]),
        list(20, &[map("a", 3), map("b", 18), map("d", 19)]),
    ]);
    let informer = informers.informer::<ConfigMap>();
    let mut changes = informer.subscribe();
    assert_eq!(take(&mut changes, 6).await, ["+a@3", "+b@4", "+c@5", "-c@5", "~b@18", "+d@19"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_fails_otherwise_lists_again_and_does_not_hurry() {
    let other_life =
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Timeout", "code": 504, "message": "Too large resource version"});
    let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410});
    let mut answers = vec![list(500, &[map("a", 300)]), (504, vec![other_life]), list(7, &[map("b", 6)])];
    // And a server for which every revision is too old is not asked without a pause.
    for _ in 0..6 {
        answers.extend([(410, vec![gone.clone()]), list(7, &[map("b", 6)])]);
    }
    answers.push((200, vec![event("ADDED", &map("c", 8))]));
    let (_, informers) = start(answers);
    let informer = informers.informer::<ConfigMap>();
    let (began, mut changes) = (tokio::time::Instant::now(), informer.subscribe());
    assert_eq!(take(&mut changes, 4).await, ["+a@300", "-a@300", "+b@6", "+c@8"]);
    assert!(began.elapsed() >= std::time::Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn connections_that_break_are_taken_up_a_few_times_and_then_listed() {
    struct Broken(Script);
    impl Transport for Broken {
        fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>>> {
            if (1..6).contains(&self.0.asked.lock().len()) {
                self.0.asked.lock().push(request.uri().to_string());
                return Box::pin(async { Err(crate::error::Error::Transport("refused".to_owned())) });
            }
            self.0.send(request)
        }
    }
    let script = Script { answers: Mutex::new(vec![list(5, &[map("a", 3)]), list(9, &[map("b", 8)])].into()), asked: Mutex::default() };
    let server = Arc::new(Broken(script));
    let informers = Informers::new(Client::new(server.clone()), CancellationToken::new());
    let mut changes = informers.informer::<ConfigMap>().subscribe();
    assert_eq!(take(&mut changes, 3).await, ["+a@3", "-a@3", "+b@8"]);
    let asked = server.0.asked.lock().clone();
    assert_eq!(asked.iter().filter(|u| u.contains("watch=true") && u.contains("resourceVersion=5")).count(), 5, "{asked:?}");
}

/// Refusals of a server that is not ready yet, one after the other for half a minute.
#[tokio::test(start_paused = true)]
async fn the_first_list_is_there_a_second_after_the_server_is() {
    let unready = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403});
    let mut answers = vec![(403, vec![unready]); 30];
    answers.push(list(5, &[map("a", 3)]));
    let (_, informers) = start(answers);
    let began = tokio::time::Instant::now();
    assert_eq!(take(&mut informers.informer::<ConfigMap>().subscribe(), 1).await, ["+a@3"]);
    let waited = began.elapsed();
    assert!((20..30).contains(&waited.as_secs()), "a second between two, and the first ones sooner: {waited:?}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_no_ghost() {
    let unreadable = |kind: &str, name: &str, version: u32| {
        let mut object = map(name, version);
        object["data"] = 5.into();
        event(kind, &object)
    };
    let (script, informers) = start(vec![list(5, &[map("a", 3), map("b", 4)]), (200, vec![unreadable("MODIFIED", "b", 6), unreadable("DELETED", "a", 7)])]);
    let informer = informers.informer::<ConfigMap>();
    assert_eq!(take(&mut informer.subscribe(), 3).await, ["+a@3", "+b@4", "-a@3"]);
    assert_eq!(informer.list().len(), 1, "what changed is kept as it was");
    while script.asked.lock().len() < 3 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(script.asked.lock()[2].contains("resourceVersion=7"), "and the watch goes on behind it");
}

#[tokio::test(start_paused = true)]
async fn failures_are_tried_again_and_one_watch_serves_all() {
    let down = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "ServiceUnavailable", "code": 503});
    let (script, informers) = start(vec![(503, vec![down.clone()]), (503, vec![down]), list(5, &[map("a", 3)])]);
    let informer = informers.informer::<ConfigMap>();
    let again = informers.informer::<ConfigMap>();
    again.synced().await;
    assert_eq!(informer.list().len(), 1);
    tokio::task::yield_now().await;
    assert_eq!(script.asked.lock().iter().filter(|u| !u.contains("watch=true")).count(), 3);
}

#[test]
fn an_index_follows_the_objects() {
    let mut cache = Cache::<ConfigMap>::default();
    let object = |name: &str, version: u32, color: &str| -> ConfigMap {
        let mut value = map(name, version);
        value["metadata"]["labels"] = json!({"color": color});
        serde_json::from_value(value).unwrap_or_default()
    };
    cache.upsert(object("a", 1, "red"));
    cache.add_index("color", |c| c.label("color").map(str::to_owned).into_iter().collect());
    cache.upsert(object("b", 2, "red"));
    assert_eq!(cache.by_index("color", "red").len(), 2);
    cache.upsert(object("a", 3, "blue"));
    assert_eq!(cache.by_index("color", "red").len(), 1);
    cache.remove(&ObjectKey::new("n", "b"), None);
    assert!(cache.by_index("color", "red").is_empty());
}
