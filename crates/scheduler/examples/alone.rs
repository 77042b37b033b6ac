//! The scheduler alone against any API server: `cargo run -p scheduler --example alone -- KUBECONFIG`.

use client::{Client, Informers};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: alone KUBECONFIG")?;
    let client = Client::from_kubeconfig(path)?.user_agent("kube-scheduler");
    let stop = CancellationToken::new();
    let informers = Informers::new(client.clone(), stop.clone());
    Ok(scheduler::run(scheduler::Config::default(), client, informers, stop).await?)
}
