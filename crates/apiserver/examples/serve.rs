//! Serves the API alone, over TLS, on `127.0.0.1:PORT`, and writes a kubeconfig for its administrator: for kubectl,
//! client libraries and load generators.
//!
//! ```text
//! cargo run --release -p apiserver --example serve -- 16443 /tmp/serve
//! KUBECONFIG=/tmp/serve/kubeconfig kubectl get ns
//! ```

mod alone;

use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), alone::Error> {
    alone::Alone::from_args("serve").await?.serve(CancellationToken::new()).await
}
