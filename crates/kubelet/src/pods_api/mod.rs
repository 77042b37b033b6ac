//! The node's pods, for programs on it that must not wait for the API server (KEP-4188, upstream `pkg/kubelet/apis/pods`): gRPC at
//! `pods-api/pods-api.sock` below the kubelet's directory, by upstream's names and bounds. Pods are the API's own messages, with the
//! status that this kubelet knows, told or not.
//!
//! Who watches hears of every pod there is, then that these were all, then of each status that changes; who does not keep up is hung up on.

pub(crate) mod wire;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use machinery::gvk::Gvk;
use machinery::{proto, schema};
use prost::Message;
use tokio::net::UnixListener;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use crate::grpc::{self, FAILED_PRECONDITION, INTERNAL, NOT_FOUND, RESOURCE_EXHAUSTED, Refusal, Reply, Service, UNKNOWN};
use crate::pod::Context;
use crate::pod::manager::Pods;
use crate::util;
use wire::{EventType, GetRequest, GetResponse, ListResponse, WatchEvent};

/// The directory, below the kubelet's, and the socket in it.
const DIRECTORY: &str = "pods-api";
const SOCKET: &str = "pods-api.sock";
const SERVICE: &str = "v1alpha1.Pods";
/// Messages that wait for who watches.
const WAITING_MAX: usize = 100;
/// Who takes none of them for so long does not keep up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Something happened to a pod of the node.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) what: EventType,
    pub(crate) pod: Arc<Pod>,
}

/// What is left to tell of a pod that is gone.
pub(crate) fn gone(pod: &Pod) -> Pod {
    let meta = &pod.metadata;
    let metadata = ObjectMeta { name: meta.name.clone(), namespace: meta.namespace.clone(), uid: meta.uid.clone(), ..ObjectMeta::default() };
    Pod { metadata, ..Pod::default() }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    List,
    Get,
    Watch,
}

/// Takes the socket's place below the kubelet's directory. Blocks on the disk.
///
/// # Errors
/// It cannot be had.
pub(crate) fn listen(root: &Path) -> io::Result<UnixListener> {
    grpc::listen(&root.join(DIRECTORY), SOCKET)
}

/// Answers at the socket until `stop`.
pub(crate) async fn serve(listener: UnixListener, cx: Arc<Context>, pods: Pods, stop: CancellationToken) {
    grpc::serve(listener, Node { cx, pods }, stop).await;
}

struct Node {
    cx: Arc<Context>,
    pods: Pods,
}

impl Service for Node {
    type Method = Method;
    const ASKED: &'static str = "the node's pods";

    fn method(&self, path: &str) -> Result<Method, String> {
        grpc::method(path, &[SERVICE], |service, name| match (service, name) {
            (SERVICE, "ListPods") => Some(Method::List),
            (SERVICE, "GetPod") => Some(Method::Get),
            (SERVICE, "WatchPods") => Some(Method::Watch),
            _ => None,
        })
    }

    fn answer(&self, method: Method, message: &[u8]) -> Result<Reply, Refusal> {
        if !*self.cx.all_known.borrow() {
            return Err((FAILED_PRECONDITION, "Kubelet is initializing".to_owned()));
        }
        match method {
            Method::List => {
                let pods = all(&self.pods).iter().map(encoded).collect::<Result<_, _>>()?;
                Ok(Reply::One(ListResponse { pods }.encode_to_vec()))
            }
            Method::Get => {
                let GetRequest { uid } = GetRequest::decode(message).map_err(|error| (UNKNOWN, format!("grpc: error unmarshalling request: {error}")))?;
                let found = self.pods.get(&crate::cri::PodUid(uid.clone()));
                let pod = found.ok_or_else(|| (NOT_FOUND, format!("pod with UID {uid} not found")))?.pod_with_status();
                Ok(Reply::One(GetResponse { pod: encoded(&pod)? }.encode_to_vec()))
            }
            Method::Watch => {
                let (sender, messages) = mpsc::channel(WAITING_MAX);
                // Heard before they are looked at: what changes from now on is told after the first, and nothing of it is missed.
                let changes = self.pods.watch();
                tokio::spawn(follow(all(&self.pods), changes, sender));
                Ok(Reply::Many(messages))
            }
        }
    }
}

/// All pods with what is known of them, in the order of their UIDs.
fn all(pods: &Pods) -> Vec<Pod> {
    let mut all: Vec<Pod> = pods.all().iter().map(|handle| handle.pod_with_status()).collect();
    all.sort_by(|a, b| util::uid(a).cmp(util::uid(b)));
    all
}

/// Tells of these pods and then of changes, until nobody listens any more.
async fn follow(first: Vec<Pod>, changes: broadcast::Receiver<Change>, sender: mpsc::Sender<Result<Vec<u8>, Refusal>>) {
    // Pods and changes are let go before the end is told: who takes nothing would hold them.
    if let Err(why) = tell(first, changes, &sender).await {
        let _ = sender.send(Err(why)).await;
    }
}

async fn tell(first: Vec<Pod>, mut changes: broadcast::Receiver<Change>, sender: &mpsc::Sender<Result<Vec<u8>, Refusal>>) -> Result<(), Refusal> {
    for pod in &first {
        if !give(sender, event(EventType::Added, pod)?).await? {
            return Ok(());
        }
    }
    let synced = WatchEvent { what: EventType::InitialSyncComplete as i32, pod: Vec::new() };
    if !give(sender, synced.encode_to_vec()).await? {
        return Ok(());
    }
    loop {
        let change = tokio::select! {
            change = changes.recv() => change,
            () = sender.closed() => return Ok(()),
        };
        let message = match change {
            Ok(Change { what, pod }) => event(what, &pod)?,
            Err(broadcast::error::RecvError::Lagged(_)) => return Err(too_slow()),
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
        };
        if !give(sender, message).await? {
            return Ok(());
        }
    }
}

/// Whether somebody listens still.
async fn give(sender: &mpsc::Sender<Result<Vec<u8>, Refusal>>, message: Vec<u8>) -> Result<bool, Refusal> {
    match sender.send_timeout(Ok(message), PATIENCE).await {
        Ok(()) => Ok(true),
        Err(SendTimeoutError::Closed(_)) => Ok(false),
        Err(SendTimeoutError::Timeout(_)) => Err(too_slow()),
    }
}

fn too_slow() -> Refusal {
    (RESOURCE_EXHAUSTED, "watch client channel closed".to_owned())
}

fn event(what: EventType, pod: &Pod) -> Result<Vec<u8>, Refusal> {
    Ok(WatchEvent { what: what as i32, pod: encoded(pod)? }.encode_to_vec())
}

/// A pod as the API's own message.
fn encoded(pod: &Pod) -> Result<Vec<u8>, Refusal> {
    let tree = serde_json::to_value(pod).map_err(|error| (INTERNAL, format!("failed to marshal pod: {error}")))?;
    let kind = Gvk { group: String::new(), version: "v1".to_owned(), kind: "Pod".to_owned() };
    let ty = schema::builtin().kind(&kind).ok_or_else(|| (INTERNAL, "failed to marshal pod: its kind is not known".to_owned()))?;
    Ok(proto::encode_raw(ty, &tree))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, uid: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "uid": uid}, "spec": {"containers": []}, "status": {"phase": "Running"}}))
            .unwrap()
    }

    fn read(message: Result<Vec<u8>, Refusal>) -> (i32, serde_json::Value) {
        let told = WatchEvent::decode(&message.unwrap()[..]).unwrap();
        let kind = Gvk { group: String::new(), version: "v1".to_owned(), kind: "Pod".to_owned() };
        (told.what, proto::decode_raw(schema::builtin().kind(&kind).unwrap(), &told.pod).unwrap())
    }

    #[tokio::test]
    async fn who_watches_hears_of_all_pods_and_then_of_changes() {
        let (told, changes) = broadcast::channel(2);
        let (sender, mut messages) = mpsc::channel(9);
        tokio::spawn(follow(vec![pod("a", "1")], changes, sender));
        let (what, first) = read(messages.recv().await.unwrap());
        assert_eq!((what, &first["metadata"]["uid"], &first["status"]["phase"]), (1, &json!("1"), &json!("Running")));
        assert_eq!(read(messages.recv().await.unwrap()).0, 4, "these were all");
        told.send(Change { what: EventType::Deleted, pod: Arc::new(gone(&pod("a", "1"))) }).unwrap();
        let (what, last) = read(messages.recv().await.unwrap());
        assert_eq!((what, &last["metadata"]["name"], last["status"].get("phase")), (3, &json!("a"), None));
        drop(told);
        assert!(messages.recv().await.is_none());
    }

    #[tokio::test]
    async fn who_does_not_keep_up_is_told_so() {
        let (told, changes) = broadcast::channel(2);
        for n in 0..4 {
            told.send(Change { what: EventType::Modified, pod: Arc::new(pod("a", &n.to_string())) }).unwrap();
        }
        let (sender, mut messages) = mpsc::channel(9);
        tokio::spawn(follow(Vec::new(), changes, sender));
        assert_eq!(read(messages.recv().await.unwrap()).0, 4);
        assert_eq!(messages.recv().await.unwrap(), Err((RESOURCE_EXHAUSTED, "watch client channel closed".to_owned())));
        assert!(messages.recv().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_holds_no_changes() {
        let (told, changes) = broadcast::channel(2);
        let (sender, mut messages) = mpsc::channel(1);
        tokio::spawn(follow(Vec::new(), changes, sender));
        told.send(Change { what: EventType::Modified, pod: Arc::new(pod("a", "1")) }).unwrap();
        tokio::time::sleep(PATIENCE * 2).await;
        assert_eq!(told.receiver_count(), 0);
        assert_eq!(read(messages.recv().await.unwrap()).0, 4);
        assert_eq!(messages.recv().await.unwrap(), Err((RESOURCE_EXHAUSTED, "watch client channel closed".to_owned())));
        assert!(messages.recv().await.is_none());
    }
}
