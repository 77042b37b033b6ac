//! How a machine becomes a node of a cluster: once, by a token. The order makes it safe to be interrupted at any point: what is kept on
//! the machine comes last, and until then the same command begins again. Only what the machine calls itself is kept from the first, so that
//! it takes the Node that it has made before for its own.

use super::{
    access::Access,
    cluster_info,
    discovery::{self, Trust},
    server::{self, Server},
};
use crate::{
    cli::Agent,
    cluster::{Cluster, Joined},
    host,
    node::is_ready,
    preflight,
    progress::Steps,
    token::Token,
};
use anyhow::{Context as _, anyhow, bail};
use client::{Client, Credentials, Meta as _, Patch, PatchParams};
use k8s_openapi::api::core::v1::Node;
use kubelet::certificates::{self, Pair, Wanted};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Where the kubelet's certificates are, in the data directory.
pub fn file(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.data.join("pki").join(name)
}
/// The annotation of a Node by which a machine knows it as its own.
pub const MACHINE: &str = "knarr.local/machine";
/// Letters of what a machine calls itself there.
const MACHINE_LEN: usize = 16;
/// Seconds within which a node that was made becomes Ready, or nobody is it any more.
const NEW_S: i64 = 60;
/// Between others' writes to a Node, the tries to take it.
const TAKES: usize = 5;
/// Its certificate as a client.
pub const CLIENT: &str = "kubelet-client.pem";
/// That of its own API.
pub const SERVING: &str = "kubelet-serving.pem";

/// Joins the cluster of the command.
pub async fn first(command: &Agent, cluster: &Cluster, token: Option<&Token>, steps: &Steps) -> anyhow::Result<(Joined, Pair)> {
    if command.join.is_empty() {
        bail!("this machine has joined no cluster yet: `knarr token create` on the control plane's machine prints the command that does");
    }
    let token =
        token.context("this machine has joined no cluster yet, which takes a --token: `knarr token create` on the control plane's machine makes one")?;
    if command.hashes.is_empty() && !command.any_authority {
        bail!(
            "--discovery-token-ca-cert-hash says which cluster is meant (`knarr token create` prints it); without it --discovery-token-unsafe-skip-ca-verification believes whoever knows the token"
        );
    }
    // Before anybody is told of it.
    let ips = match &command.node_ip[..] {
        [] => vec![server::own_address(&command.join).await?],
        told => told.to_vec(),
    };
    server::check_all(&ips, &server::addresses()?, &[])?;
    ips.iter().try_for_each(|ip| preflight::kubelet(*ip))?;
    let (info, answers) = discovery::discover(&command.join, &Trust { token, hashes: &command.hashes }).await?;
    steps.done(&format!("the cluster at {} is known by its authority", info.server));
    let name = command.node_name.clone().unwrap_or_else(host::name);
    // The one that answers first: what is written here is not written twice.
    let mut servers: Vec<String> = command.join.iter().map(Server::to_string).collect();
    servers.rotate_left(answers);
    let machine = cluster.machine(|| Token::letters(MACHINE_LEN))?;
    let joined = Joined { node: name, machine, servers, ca: info.ca, settings: Default::default(), ranges: Vec::new() };

    let stranger = by_token(&joined, token)?;
    let was = look(&stranger, &joined).await?;
    let pair = obtain(&stranger, &joined.node, token).await?;
    steps.done(&format!("the certificate of node {} is signed", joined.node));
    announce(&Access::new(&joined, &pair)?.client(), command, cluster, &joined, was).await?;
    pair.save(&file(cluster, CLIENT))?;
    cluster.keep_joined(&joined)?;
    Ok((joined, pair))
}

/// The certificate anew for a node that has joined, whose own has ended or is gone.
pub async fn again(joined: &Joined, cluster: &Cluster, token: Option<&Token>, why: &str) -> anyhow::Result<Pair> {
    let token = token.with_context(|| format!("{why}: --token gets another (`knarr token create` on the control plane's machine makes one)"))?;
    let pair = obtain(&by_token(joined, token)?, &joined.node, token).await?;
    pair.save(&file(cluster, CLIENT))?;
    Ok(pair)
}

/// A client that is nobody but whoever has the token.
fn by_token(joined: &Joined, token: &Token) -> anyhow::Result<Client> {
    let credentials = || Ok(Credentials { token: Some(token.text()), ..Credentials::default() });
    Ok(Access::with(joined, credentials)?.client())
}

async fn obtain(client: &Client, node: &str, token: &Token) -> anyhow::Result<Pair> {
    certificates::obtain(client, &Wanted::client(node)).await.map_err(|error| match error {
        certificates::Error::Api(error) if error.status().is_some_and(|s| matches!(s.code, 401 | 403)) => {
            anyhow!("the cluster does not let the token {} ask for a node's certificate ({error}): `knarr token create` makes one that may", token.id)
        }
        error => anyhow!(error).context("the node's certificate"),
    })
}

/// Whether there is a node of this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Was {
    /// There was none.
    Absent,
    /// There was one, which was not ready: this machine's, from before, or one that is gone.
    There,
    /// The token may not look.
    Unknown,
}

/// Whether the name is free. One that is a node's which is ready is not (as kubeadm decides it).
async fn look(client: &Client, joined: &Joined) -> anyhow::Result<Was> {
    let name = &joined.node;
    match client.all::<Node>().get_opt(name).await {
        Ok(None) => Ok(Was::Absent),
        Ok(Some(node)) if is_ready(&node) => Err(taken(name)),
        Ok(Some(node)) if joins(&node, &joined.machine) => Err(joining(name)),
        Ok(Some(_)) => Ok(Was::There),
        Err(error) if error.is_forbidden() => Ok(Was::Unknown),
        Err(error) => Err(error).context("whether the node's name is free"),
    }
}

fn taken(name: &str) -> anyhow::Error {
    anyhow!(
        "the cluster has a node {name:?} already, and it is Ready: choose another --node-name. If it is this machine, from before, wait until it is not Ready any more, or remove it by `kubectl delete node {name}`"
    )
}

/// Whether another machine joins as this node at the moment: it is new, and not Ready yet.
fn joins(node: &Node, own: &str) -> bool {
    let age = node.metadata.creation_timestamp.as_ref().map_or(i64::MAX, |made| client::now().0.as_second() - made.0.as_second());
    node.annotation(MACHINE) != Some(own) && !is_ready(node) && age < NEW_S
}

fn joining(name: &str) -> anyhow::Error {
    anyhow!(
        "another machine joins as {name:?} at this moment: choose another --node-name. If it is this one, whose joining was interrupted, try again in a minute"
    )
}

/// Makes the Node object, so that it gets its ranges of pods, or takes one that nobody is any more.
async fn announce(client: &Client, command: &Agent, cluster: &Cluster, joined: &Joined, was: Was) -> anyhow::Result<()> {
    let name = &joined.node;
    match client.all::<Node>().create(&fresh(command, &cluster.data, joined, &[])).await {
        // Somebody has taken the name since.
        Err(error) if error.is_already_exists() && was == Was::Absent => Err(taken(name)),
        Err(error) if error.is_already_exists() => take(client, joined).await,
        made => made.map(drop).with_context(|| format!("the node {name} cannot be made")),
    }
}

/// Takes the Node of a machine that is gone, which may be this one. Of two that take it together the first has it.
async fn take(client: &Client, joined: &Joined) -> anyhow::Result<()> {
    let (nodes, name) = (client.all::<Node>(), &joined.node);
    let mut former = None;
    for _ in 0..TAKES {
        let node = nodes.get(name).await?;
        let owner = node.annotation(MACHINE).map(str::to_owned);
        if is_ready(&node) {
            return Err(taken(name));
        }
        if owner.as_ref() == Some(&joined.machine) {
            // By a try that was cut off.
            return Ok(());
        }
        if joins(&node, &joined.machine) || *former.get_or_insert_with(|| owner.clone()) != owner {
            return Err(joining(name));
        }
        let metadata = json!({"resourceVersion": node.metadata.resource_version, "annotations": {MACHINE: joined.machine}});
        match nodes.patch(name, &Patch::Merge(json!({"metadata": metadata})), &PatchParams::default()).await {
            // Who watches over nodes writes into it, too.
            Err(error) if error.is_conflict() => {}
            done => return done.map(drop).with_context(|| format!("the node {name} cannot be taken")),
        }
    }
    bail!("the Node {name:?} is written by others all the time: try again")
}

impl Joined {
    /// Whether another machine has become this node since.
    pub fn is_of_another(&self, node: &Node) -> bool {
        !self.machine.is_empty() && node.annotation(MACHINE).is_some_and(|owner| owner != self.machine)
    }
}

/// Makes the Node object of a node that has joined, if somebody has deleted it: with the ranges that it had, or where another node has one
/// of them by now without any.
pub async fn announced(client: &Client, command: &Agent, cluster: &Cluster, joined: &Joined) -> client::Result<()> {
    let nodes = client.all::<Node>();
    let of = |ranges| fresh(command, &cluster.data, joined, ranges);
    let made = match nodes.create(&of(&joined.ranges)).await {
        Err(error) if error.is_forbidden() && !joined.ranges.is_empty() => nodes.create(&of(&[])).await,
        made => made,
    };
    match made {
        Err(error) if !error.is_already_exists() => Err(error),
        _ => Ok(()),
    }
}

fn fresh(command: &Agent, data: &Path, joined: &Joined, ranges: &[String]) -> Node {
    // Its address is told with its status.
    let mut config = kubelet::Config::new(&joined.node, std::net::Ipv4Addr::UNSPECIFIED.into(), data.join("kubelet"));
    config.labels = command.node.labels(command.labels.iter().cloned());
    config.taints = command.taints.clone();
    config.pod_cidrs = ranges.to_vec();
    let mut node = kubelet::node::fresh(&config);
    if !joined.machine.is_empty() {
        node.metadata.annotations.get_or_insert_default().insert(MACHINE.to_owned(), joined.machine.clone());
    }
    node
}

/// What a machine that has joined goes on with; the command may say it otherwise as far as it is the same node of the same cluster.
pub fn resumed(command: &Agent, mut joined: Joined) -> anyhow::Result<Joined> {
    let name = &joined.node;
    if let Some(other) = command.node_name.as_ref().filter(|other| *other != name) {
        bail!("this machine has joined as node {name:?}, not {other:?}: `knarr agent --reset` comes before another name");
    }
    if !command.hashes.is_empty() {
        let info = cluster_info::ClusterInfo { server: joined.servers.join(", "), ca: joined.ca.clone() };
        info.pinned(&command.hashes).context("this machine has joined another cluster (`knarr agent --reset` leaves it)")?;
    }
    if !command.join.is_empty() {
        joined.servers = command.join.iter().map(Server::to_string).collect();
    }
    Ok(joined)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;

    fn command(words: &[&str]) -> Agent {
        let Command::Agent(agent) = Cli::try_parse_from(["knarr", "agent"].iter().chain(words)).unwrap().command else { unreachable!() };
        *agent
    }

    fn joined() -> Joined {
        let servers = vec!["https://192.0.2.1:6443".into()];
        Joined { node: "b".into(), machine: "own".into(), servers, ca: String::new(), settings: Default::default(), ranges: Vec::new() }
    }

    #[test]
    fn what_is_known_is_gone_on_with_and_another_node_is_not_made_by_the_way() {
        assert_eq!(resumed(&command(&[]), joined()).unwrap(), joined());
        let moved = resumed(&command(&["--join", "c:7443", "--join", "d", "--node-name", "B"]), joined()).unwrap();
        assert_eq!(moved.servers, ["https://c:7443", "https://d:6443"]);
        assert!(resumed(&command(&["--node-name", "c"]), joined()).unwrap_err().to_string().contains("--reset"));
        let hash = format!("--discovery-token-ca-cert-hash=sha256:{}", "0".repeat(64));
        assert!(resumed(&command(&[&hash]), joined()).is_err());
    }

    #[tokio::test]
    async fn a_node_asks_for_the_range_that_it_had_and_takes_another_where_that_is_anothers() {
        use bytes::Bytes;
        use http_body_util::{BodyExt as _, Full};
        use std::sync::{Arc, Mutex};
        let asked = Arc::new(Mutex::new(Vec::new()));
        let client = |taken: &'static str| {
            let asked = Arc::clone(&asked);
            Client::new(Arc::new(
                move |request: http::Request<Bytes>| -> futures_util::future::BoxFuture<'static, client::Result<http::Response<client::Body>>> {
                    let node: serde_json::Value = serde_json::from_slice(request.body()).unwrap();
                    let range = node["spec"]["podCIDR"].as_str().unwrap_or_default().to_owned();
                    let refused = serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403});
                    let (code, answer) = if range == taken { (403, refused) } else { (201, node) };
                    asked.lock().unwrap().push(range);
                    let body = Full::new(Bytes::from(answer.to_string())).map_err(|never| match never {}).boxed_unsync();
                    let answer = http::Response::builder().status(code).header("content-type", "application/json").body(body).unwrap();
                    Box::pin(async move { Ok(answer) })
                },
            ))
        };
        let cluster = Cluster { name: "n".into(), data: "/d".into(), run: "/r".into() };
        let joined = Joined { ranges: vec!["10.244.7.0/24".into()], ..joined() };
        let now = async |taken| announced(&client(taken), &command(&[]), &cluster, &joined).await.map(|()| std::mem::take(&mut *asked.lock().unwrap()));
        assert_eq!(now("another").await.unwrap(), ["10.244.7.0/24"]);
        assert_eq!(now("10.244.7.0/24").await.unwrap(), ["10.244.7.0/24", ""]);
    }

    #[test]
    fn a_node_that_was_made_just_now_is_somebodys() {
        let node = |age: i64, status: serde_json::Value| -> Node {
            let made = machinery::time::rfc3339(std::time::SystemTime::now() - std::time::Duration::from_secs(age as u64));
            serde_json::from_value(serde_json::json!({"metadata": {"name": "b", "creationTimestamp": made}, "status": status})).unwrap()
        };
        let ready = |status: &str| serde_json::json!({"conditions": [{"type": "Ready", "status": status, "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]});
        let silent = || serde_json::json!({});
        let joins = |node: &Node| super::joins(node, "own");
        assert!(joins(&node(1, silent())) && joins(&node(1, ready("False"))) && !joins(&node(90, silent())) && !joins(&node(90, ready("Unknown"))));
        assert!(!joins(&node(1, ready("True"))));
        let called = |machine: &str| {
            let mut node = node(1, silent());
            node.metadata.annotations = Some([(MACHINE.to_owned(), machine.to_owned())].into());
            node
        };
        assert!(joins(&called("another")) && !joins(&called("own")), "one whose joining was cut off goes on");
        assert!(is_ready(&node(1, ready("True"))) && !is_ready(&node(1, ready("Unknown"))));
    }

    #[tokio::test]
    async fn what_is_missing_is_told_before_anybody_is_asked() {
        let folder = std::env::temp_dir();
        let cluster = Cluster { name: "n".into(), data: folder.clone(), run: folder };
        let token: Token = "abcdef.0123456789abcdef".parse().unwrap();
        for (words, token, why) in
            [(&[][..], None, "has joined no cluster"), (&["--join", "a"], None, "--token"), (&["--join", "a"], Some(&token), "--discovery-token-ca-cert-hash")]
        {
            let told = first(&command(words), &cluster, token, &Steps::new()).await.unwrap_err().to_string();
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn a_node_is_made_with_its_labels_and_taints_and_without_a_range() {
        let node = fresh(&command(&["--labels=topology.kubernetes.io/zone=z", "--taints=a=b:NoSchedule,c:NoExecute"]), Path::new("/d"), &joined(), &[]);
        assert!(node.annotation(MACHINE) == Some("own") && !joined().is_of_another(&node) && !joined().is_of_another(&Node::default()));
        assert!(Joined { machine: "other".into(), ..joined() }.is_of_another(&node) && !Joined { machine: String::new(), ..joined() }.is_of_another(&node));
        let spec = node.spec.unwrap();
        assert_eq!(
            spec.taints.unwrap().iter().map(|t| format!("{}={:?}:{}", t.key, t.value, t.effect)).collect::<Vec<_>>(),
            ["a=Some(\"b\"):NoSchedule", "c=None:NoExecute"]
        );
        assert!(spec.pod_cidr.is_none() && spec.pod_cidrs.is_none() && node.status.is_none());
        assert_eq!(node.metadata.labels.unwrap()["topology.kubernetes.io/zone"], "z");
        let again = fresh(&command(&[]), Path::new("/d"), &joined(), &["10.244.7.0/24".to_owned()]).spec.unwrap();
        assert_eq!((again.pod_cidr.as_deref(), again.pod_cidrs), (Some("10.244.7.0/24"), Some(vec!["10.244.7.0/24".to_owned()])));
        for wrong in [
            &["--taints=a:Sometimes"][..],
            &["--labels=kubernetes.io/x=y"],
            &["--token=abc"],
            &["--discovery-token-ca-cert-hash=md5:0"],
            &["--join=http://a"],
            &["--node-name=A_b"],
            &["--cluster-domain=A_b"],
            &["--pod-network=flannel"],
            &["--print-manifest", "--reset"],
        ] {
            assert!(Cli::try_parse_from(["knarr", "agent"].iter().chain(wrong)).is_err(), "{wrong:?}");
        }
    }
}
