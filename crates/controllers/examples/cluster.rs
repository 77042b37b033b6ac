//! A cluster without containers, for kubectl: the API server, all controllers, and nodes that only say that their pods run.
//!
//! ```text
//! cargo run -p controllers --example cluster -- 16444 /tmp/hollow
//! KUBECONFIG=/tmp/hollow/kubeconfig kubectl create deployment web --image=web --replicas=3
//! ```

#[path = "../../apiserver/examples/alone/mod.rs"]
mod alone;
#[allow(dead_code)]
#[path = "../tests/cluster/support.rs"]
mod support;

use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), alone::Error> {
    support::log();
    let alone = alone::Alone::from_args("cluster").await?;
    let stop = CancellationToken::new();
    // The nodes have no kubelet that would renew their leases.
    let config = controllers::Config {
        node_monitor_grace: std::time::Duration::from_secs(u32::MAX.into()),
        root_ca: "the authority".into(),
        cluster_cidr: Some("10.244.0.0/16".into()),
        ..Default::default()
    };
    let informers = support::controllers(&alone.server, config, &stop);
    support::hollow(&support::local(&alone.server, "admin", &["system:masters"]), &informers, &["a", "b"]).await?;
    alone.serve(stop).await
}
