//! A runtime whose operations are counted, as the original's `instrumentedRuntimeService` counts them. What is read from memory is none.

use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::counts::Counts;
use crate::cri::{
    CgroupLimits, Container, ContainerId, ContainerRuntime, ContainerSpec, Credentials, CriError, Duplex, ExecResult, Image, Measure, Origin, PodUid, Reading,
    RuntimeEvent, Sandbox, SandboxId, SandboxSpec, SharedRuntime, Stats, Streams,
};

/// The runtime, and where it is counted.
pub struct Counted {
    runtime: SharedRuntime,
    counts: Counts,
}

impl Counted {
    /// Over this runtime.
    #[must_use]
    pub fn new(runtime: SharedRuntime, counts: Counts) -> Self {
        Self { runtime, counts }
    }

    async fn count<T>(&self, what: &'static str, work: impl Future<Output = Result<T, CriError>> + Send) -> Result<T, CriError> {
        let begun = Instant::now();
        let done = work.await;
        self.counts.operation(what, begun.elapsed(), done.is_ok());
        done
    }
}

#[async_trait]
impl ContainerRuntime for Counted {
    fn version(&self) -> String {
        self.runtime.version()
    }
    fn user_namespaces(&self) -> Result<(), CriError> {
        self.runtime.user_namespaces()
    }
    fn sandboxes(&self) -> Vec<Sandbox> {
        self.runtime.sandboxes()
    }
    fn containers(&self) -> Vec<Container> {
        self.runtime.containers()
    }
    fn pod_sandboxes(&self, uid: &PodUid) -> Vec<Sandbox> {
        self.runtime.pod_sandboxes(uid)
    }
    fn pod_containers(&self, uid: &PodUid) -> Vec<Container> {
        self.runtime.pod_containers(uid)
    }
    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.runtime.events()
    }
    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox, CriError> {
        let begun = Instant::now();
        let made = self.count("run_podsandbox", self.runtime.create_sandbox(spec)).await;
        self.counts.sandbox(begun.elapsed(), made.is_ok());
        made
    }
    async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), CriError> {
        self.count("stop_podsandbox", self.runtime.stop_sandbox(id)).await
    }
    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), CriError> {
        self.count("remove_podsandbox", self.runtime.remove_sandbox(id)).await
    }
    async fn create_container(&self, sandbox: &SandboxId, spec: ContainerSpec) -> Result<ContainerId, CriError> {
        self.count("create_container", self.runtime.create_container(sandbox, spec)).await
    }
    async fn start_container(&self, id: &ContainerId) -> Result<(), CriError> {
        self.count("start_container", self.runtime.start_container(id)).await
    }
    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), CriError> {
        self.count("stop_container", self.runtime.stop_container(id, grace)).await
    }
    async fn remove_container(&self, id: &ContainerId) -> Result<(), CriError> {
        self.count("remove_container", self.runtime.remove_container(id)).await
    }
    async fn exec_sync(&self, id: &ContainerId, command: Vec<String>, timeout: Option<Duration>) -> Result<ExecResult, CriError> {
        self.count("exec_sync", self.runtime.exec_sync(id, command, timeout)).await
    }
    async fn exec(&self, id: &ContainerId, command: Vec<String>, streams: Streams) -> Result<i32, CriError> {
        self.count("exec", self.runtime.exec(id, command, streams)).await
    }
    async fn attach(&self, id: &ContainerId, streams: Streams) -> Result<(), CriError> {
        self.count("attach", self.runtime.attach(id, streams)).await
    }
    async fn port_forward(&self, sandbox: &SandboxId, port: u16) -> Result<Box<dyn Duplex>, CriError> {
        self.count("port_forward", self.runtime.port_forward(sandbox, port)).await
    }
    async fn update_resources(&self, id: &ContainerId, limits: CgroupLimits) -> Result<(), CriError> {
        self.count("update_container", self.runtime.update_resources(id, limits)).await
    }
    async fn reopen_log(&self, id: &ContainerId) -> Result<(), CriError> {
        self.count("reopen_container_log", self.runtime.reopen_log(id)).await
    }
    async fn disk_usage(&self, id: &ContainerId) -> Result<runtime::DiskUsage, CriError> {
        self.runtime.disk_usage(id).await
    }
    async fn stats(&self, id: &ContainerId) -> Result<Stats, CriError> {
        self.runtime.stats(id).await
    }
    async fn readings(&self, of: Vec<Measure>, whole: bool) -> Vec<Option<Reading>> {
        self.runtime.readings(of, whole).await
    }
    fn image(&self, reference: &str) -> Option<Image> {
        self.runtime.image(reference)
    }
    fn images(&self) -> Vec<Image> {
        self.runtime.images()
    }
    async fn pull(&self, reference: &str, credentials: Option<Credentials>) -> Result<Image, CriError> {
        let begun = Instant::now();
        let pulled = self.count("pull_image", self.runtime.pull(reference, credentials)).await;
        if let Ok(image) = &pulled {
            self.counts.pulled(image.size_bytes, begun.elapsed());
        }
        pulled
    }
    fn settle_origins(&self, origin: &dyn Fn(&str) -> Origin) -> Result<(), CriError> {
        self.runtime.settle_origins(origin)
    }
    async fn remove_image(&self, reference: &str) -> Result<(), CriError> {
        self.count("remove_image", self.runtime.remove_image(reference)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::testing::{FakeRuntime, clock};
    use instruments::Registry;

    #[tokio::test(start_paused = true)]
    async fn what_the_runtime_does_is_counted_by_what_came_of_it() {
        let registry = Registry::default();
        let runtime = Counted::new(Arc::new(FakeRuntime::new(clock())), Counts::new(&registry));
        runtime.remove_image("img:1").await.expect("removed");
        assert!(runtime.pull("missing:1", None).await.is_err());
        assert!(runtime.containers().is_empty(), "which is no operation");
        let text = registry.text();
        for line in [
            r#"kubelet_runtime_operations_total{operation_type="pull_image"} 1"#,
            r#"kubelet_runtime_operations_total{operation_type="remove_image"} 1"#,
            r#"kubelet_runtime_operations_errors_total{operation_type="pull_image"} 1"#,
            r#"kubelet_runtime_operations_duration_seconds_count{operation_type="pull_image"} 1"#,
            "kubelet_started_pods_total 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        assert_eq!(text.matches("kubelet_runtime_operations_errors_total{").count(), 1);
    }
}
