//! kube-rs against a cluster: a definition from a Rust type, each kind of patch, watches, a controller, exec, attach, port-forward. Lines as
//! `checks.py` writes them. The cluster is KUBECONFIG's; the image of `shell/` is on its node.

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace, Pod},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, CustomResource, CustomResourceExt as _, ResourceExt as _,
    api::{AttachParams, DeleteParams, ListParams, Patch, PatchParams, PostParams, TerminalSize},
    runtime::{
        Controller, WatchStreamExt as _,
        controller::Action,
        wait::{await_condition, conditions},
        watcher,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const NS: &str = "kube-rs";
/// Of everything that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(CustomResource, Deserialize, Serialize, Clone, Debug, schemars::JsonSchema)]
#[kube(group = "kube-rs.example.com", version = "v1", kind = "Jar", namespaced, status = "JarStatus", shortname = "jr")]
#[kube(scale(spec_replicas_path = ".spec.size", status_replicas_path = ".status.seen"))]
#[kube(validation = "self.metadata.name != 'none'")]
struct JarSpec {
    size: i32,
    #[serde(default)]
    label: Option<String>,
}

#[derive(Deserialize, Serialize, Clone, Debug, Default, schemars::JsonSchema)]
struct JarStatus {
    seen: i32,
}

fn told(what: &str, good: bool) {
    println!("{} {what}", if good { "ok" } else { "WRONG" });
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, is: T, wanted: T) {
    told(what, is == wanted);
    if is != wanted {
        println!("    is     {is:?}\n    wanted {wanted:?}");
    }
}

/// Whether a request failed with this code and text.
fn refused<T>(what: &str, result: kube::Result<T>, code: u16, text: &str) {
    match result {
        Err(kube::Error::Api(status)) if status.code == code && status.message.contains(text) => told(what, true),
        Err(error) => println!("WRONG {what}\n    {error:?}"),
        Ok(_) => println!("WRONG {what}\n    it was taken"),
    }
}

async fn in_time<T>(future: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(PATIENCE, future).await.context("not in time")
}

#[tokio::main]
async fn main() -> Result<()> {
    let client = Client::try_default().await?;
    Api::<Namespace>::all(client.clone())
        .patch(NS, &PatchParams::apply("check"), &Patch::Apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NS}})))
        .await?;
    built_in(&client).await.context("built-in kinds")?;
    custom(&client).await.context("custom kinds")?;
    pods(&client).await.context("pods")
}

async fn built_in(client: &Client) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NS);
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "a"}, "data": {"one": "1"}}))?;
    let made = maps.create(&PostParams::default(), &map).await?;
    refused("a name twice", maps.create(&PostParams::default(), &map).await, 409, "configmaps \"a\" already exists");
    let data = |map: &ConfigMap| serde_json::to_value(&map.data).unwrap_or_default();
    let merged = maps.patch("a", &PatchParams::default(), &Patch::Merge(json!({"data": {"one": null, "two": "2"}}))).await?;
    same("merge patch", data(&merged), json!({"two": "2"}));
    let strategic = maps.patch("a", &PatchParams::default(), &Patch::Strategic(json!({"data": {"three": "3"}}))).await?;
    same("strategic patch", data(&strategic), json!({"two": "2", "three": "3"}));
    let operations = serde_json::from_value(json!([{"op": "test", "path": "/data/two", "value": "2"}, {"op": "remove", "path": "/data/two"}]))?;
    same("JSON patch", data(&maps.patch("a", &PatchParams::default(), &Patch::Json::<()>(operations)).await?), json!({"three": "3"}));
    let mut stale = made.clone();
    stale.data = None;
    refused("an update of an old revision", maps.replace("a", &PostParams::default(), &stale).await, 409, "the object has been modified");
    let apply = Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"three": "4"}}));
    refused("apply of another's field", maps.patch("a", &PatchParams::apply("check"), &apply).await, 409, "conflict with \"unknown\"");
    same("apply by force", data(&maps.patch("a", &PatchParams::apply("check").force(), &apply).await?), json!({"three": "4"}));

    let mut seen = watcher(maps.clone(), watcher::Config::default().streaming_lists().fields("metadata.name=b")).touched_objects().boxed();
    let look = async { seen.try_next().await };
    let write = async {
        let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "b"}})).unwrap_or_default();
        maps.create(&PostParams::default(), &map).await
    };
    let (found, written) = in_time(async { tokio::join!(look, write) }).await?;
    written?;
    same("a watch that begins with the state", found?.map(|m| m.name_any()), Some("b".into()));
    let page = maps.list(&ListParams::default().limit(1)).await?;
    told("a page", page.items.len() == 1 && page.metadata.continue_.is_some());
    let metadata = maps.get_metadata("a").await?;
    same("metadata alone", (metadata.name_any(), metadata.types.map(|t| t.kind)), ("a".into(), Some("PartialObjectMetadata".into())));
    Ok(())
}

/// The controller: tells in the status what it saw in the spec.
async fn reconcile(jar: Arc<Jar>, client: Arc<Client>) -> kube::Result<Action> {
    let jars: Api<Jar> = Api::namespaced(client.as_ref().clone(), NS);
    let status = json!({"apiVersion": "kube-rs.example.com/v1", "kind": "Jar", "metadata": {"name": jar.name_any()}, "status": {"seen": jar.spec.size}});
    jars.patch_status(&jar.name_any(), &PatchParams::apply("controller").force(), &Patch::Apply(status)).await?;
    Ok(Action::await_change())
}

async fn custom(client: &Client) -> Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions.patch(Jar::crd_name(), &PatchParams::apply("check"), &Patch::Apply(Jar::crd())).await?;
    in_time(await_condition(definitions.clone(), Jar::crd_name(), conditions::is_crd_established())).await??;
    told("a definition from a type", true);
    let jars: Api<Jar> = Api::namespaced(client.clone(), NS);
    let new = |name: &str| Jar::new(name, JarSpec { size: 1, label: None });
    jars.create(&PostParams::default(), &new("one")).await?;
    refused("its rule", jars.create(&PostParams::default(), &new("none")).await, 422, "failed rule: self.metadata.name != 'none'");
    let controller = Controller::new(jars.clone(), watcher::Config::default());
    let running = tokio::spawn(controller.run(reconcile, |_, _, _| Action::requeue(Duration::from_secs(1)), Arc::new(client.clone())).for_each(|_| async {}));
    let has = |size: i32| move |jar: Option<&Jar>| jar.and_then(|j| j.status.as_ref()).is_some_and(|s| s.seen == size);
    in_time(await_condition(jars.clone(), "one", has(1))).await??;
    told("a controller reconciles", true);
    same(
        "scale",
        jars.patch_scale("one", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 3}}))).await?.spec.and_then(|s| s.replicas),
        Some(3),
    );
    in_time(await_condition(jars.clone(), "one", has(3))).await??;
    told("and once more", true);
    running.abort();
    definitions.delete(Jar::crd_name(), &DeleteParams::default()).await?;
    Ok(())
}

async fn pods(client: &Client) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NS);
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "shell"}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "c", "image": "knarr.local/shell:v1", "imagePullPolicy": "IfNotPresent", "args": ["serve", "8080"]}]}}))?;
    pods.create(&PostParams::default(), &pod).await?;
    in_time(await_condition(pods.clone(), "shell", conditions::is_pod_running())).await??;

    let mut process = pods.exec("shell", ["/shell", "both"], &AttachParams::default()).await?;
    let (mut out, mut error) = (String::new(), String::new());
    let (mut stdout, mut stderr) = (process.stdout().context("stdout")?, process.stderr().context("stderr")?);
    in_time(async { tokio::try_join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut error)) }).await??;
    same("exec", (out.as_str(), error.as_str()), ("to stdout\n", "to stderr\n"));

    let mut process = pods.exec("shell", ["/shell", "exit", "3"], &AttachParams::default()).await?;
    let status = in_time(process.take_status().context("a status")?).await?.context("no status")?;
    let code = status.details.and_then(|d| d.causes).and_then(|c| c.into_iter().find(|c| c.reason.as_deref() == Some("ExitCode"))).and_then(|c| c.message);
    same("how it ended", (status.reason.as_deref(), code.as_deref()), (Some("NonZeroExitCode"), Some("3")));

    let mut process = pods.exec("shell", ["/shell", "cat"], &AttachParams::default().stdin(true).stderr(false)).await?;
    let text = "a line of some length\n".repeat(20_000);
    let (mut stdin, mut stdout) = (process.stdin().context("stdin")?, process.stdout().context("stdout")?);
    let mut back = vec![0; text.len()];
    let both = async { tokio::try_join!(stdin.write_all(text.as_bytes()), stdout.read_exact(&mut back)) };
    in_time(both).await??;
    told("what is given comes back", back == text.as_bytes());
    process.abort();

    let mut process = pods.exec("shell", ["/shell", "size"], &AttachParams::interactive_tty()).await?;
    let mut sizes = process.terminal_size().context("a terminal")?;
    futures::SinkExt::send(&mut sizes, TerminalSize { height: 33, width: 44 }).await?;
    let mut stdout = process.stdout().context("stdout")?;
    let seen = async {
        let mut text = String::new();
        let mut piece = [0; 64];
        while !text.contains("33 44") {
            match stdout.read(&mut piece).await? {
                0 => bail!("it ended: {text}"),
                n => text.push_str(&String::from_utf8_lossy(&piece[..n])),
            }
        }
        Ok(())
    };
    told("a terminal's size", in_time(seen).await?.is_ok());
    process.abort();

    let mut forward = pods.portforward("shell", &[8080]).await?;
    let mut stream = forward.take_stream(8080).context("a stream")?;
    stream.write_all(b"GET /forwarded HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    in_time(stream.read_to_string(&mut answer)).await??;
    told("port-forward", answer.ends_with("GET /forwarded\n"));
    Api::<Namespace>::all(client.clone()).delete(NS, &DeleteParams::default()).await?;
    in_time(await_condition(pods, "shell", conditions::is_deleted(""))).await?.ok();
    Ok(())
}
