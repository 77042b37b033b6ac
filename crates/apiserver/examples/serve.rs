//! Serves the API alone, over TLS, on `127.0.0.1:PORT`, and writes a kubeconfig for its administrator: for kubectl,
//! client libraries and load generators.
//!
//! ```text
//! cargo run --release -p apiserver --example serve -- 16443 /tmp/serve
//! KUBECONFIG=/tmp/serve/kubeconfig kubectl get ns
//! ```

mod alone;

use machinery::json::STACK_BYTES;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

fn main() -> Result<(), alone::Error> {
    // As in the program: every thread may hold the deepest value that is read.
    let runtime = Builder::new_multi_thread().enable_all().thread_stack_size(STACK_BYTES).build()?;
    runtime.block_on(async { alone::Alone::from_args("serve").await?.serve(CancellationToken::new()).await })
}
