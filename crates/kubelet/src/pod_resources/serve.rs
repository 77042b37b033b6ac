//! The socket at which it is told, and what is counted of that.

use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::{Method, answer};
use crate::grpc::{self, Refusal, Reply, Service, UNKNOWN};
use crate::pod::Context;
use crate::pod::manager::Pods;

/// The directory, below the kubelet's, and the socket in it.
const DIRECTORY: &str = "pod-resources";
const SOCKET: &str = "kubelet.sock";

/// What was asked, by method, and how much of it had no answer.
#[derive(Debug, Default)]
pub struct Counts(Mutex<[(u64, u64); 4]>);

impl Counts {
    fn add(&self, method: Method, failed: bool) {
        let (asked, errors) = &mut self.0.lock()[method as usize];
        *asked += 1;
        *errors += u64::from(failed);
    }

    /// Each counter that there is: its name, the version of the service, its value. Those that nobody has asked for are not there.
    #[must_use]
    pub fn all(&self) -> Vec<(&'static str, &'static str, u64)> {
        let counts = *self.0.lock();
        let of = |method: Method| counts[method as usize];
        let v1 = of(Method::List).0 + of(Method::Get).0 + of(Method::GetAllocatable).0;
        let mut all = vec![("requests_total", "v1", v1), ("requests_total", "v1alpha1", of(Method::ListAlpha).0)];
        all.extend([("requests_list", "v1", of(Method::List).0), ("requests_get", "v1", of(Method::Get).0)]);
        all.extend([("errors_get", "v1", of(Method::Get).1), ("requests_get_allocatable", "v1", of(Method::GetAllocatable).0)]);
        all.retain(|(_, _, value)| *value > 0);
        all
    }
}

/// Takes the socket's place below the kubelet's directory. Blocks on the disk.
///
/// # Errors
/// It cannot be had.
pub fn listen(root: &Path) -> io::Result<UnixListener> {
    grpc::listen(&root.join(DIRECTORY), SOCKET)
}

struct Resources {
    cx: Arc<Context>,
    pods: Pods,
}

/// Answers at the socket until `stop`.
pub async fn serve(listener: UnixListener, cx: Arc<Context>, pods: Pods, stop: CancellationToken) {
    grpc::serve(listener, Resources { cx, pods }, stop).await;
}

impl Service for Resources {
    type Method = Method;
    const ASKED: &'static str = "pods' devices";

    fn method(&self, path: &str) -> Result<Method, String> {
        Method::named(path)
    }

    fn answer(&self, method: Method, message: &[u8]) -> Result<Reply, Refusal> {
        let told = answer(&self.cx, &self.pods, method, message);
        self.cx.pod_resources.add(method, told.is_err());
        told.map(Reply::One).map_err(|why| (UNKNOWN, why))
    }
}
