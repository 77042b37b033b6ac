//! Lifecycle hooks: a command, a request, a connection, or a pause.
//!
//! None has a time limit of its own: a postStart hook may take as long as its pod lives, a preStop hook has the grace period.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container as Spec, LifecycleHandler};

use crate::cri::{ContainerId, SharedRuntime};
use crate::probes::http::{self, Request};
use crate::util;

/// Most bytes of a command's output in an Event.
const MAX_OUTPUT: usize = 1024;
/// Time to connect to a TCP hook.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs a hook to its end. The caller bounds its time.
pub async fn run(runtime: &SharedRuntime, spec: &Spec, id: &ContainerId, ips: &[IpAddr], handler: &LifecycleHandler) -> Result<(), String> {
    if let Some(e) = &handler.exec {
        let command = e.command.clone().unwrap_or_default();
        let shown = command.join(" ");
        let out = runtime.exec_sync(id, command, None).await.map_err(|e| e.to_string())?;
        if out.exit_code != 0 {
            let text = [out.stdout, out.stderr].concat();
            let text = String::from_utf8_lossy(&text).into_owned();
            return Err(format!("command '{shown}' exited with {}: {}", out.exit_code, util::truncate(&text, MAX_OUTPUT)));
        }
        return Ok(());
    }
    if let Some(h) = &handler.http_get {
        // Whatever is answered is an answer (upstream's `runHTTPHandler`); plain HTTP where TLS was expected is asked again.
        let mut request = Request::from_action(h, spec, ips.first().copied())?;
        let asked = http::get(&request).await;
        if request.tls && asked.as_ref().is_err_and(|e| e.contains(http::NOT_TLS)) {
            request.tls = false;
            return http::get(&request).await.map(|_| ());
        }
        return asked.map(|_| ());
    }
    if let Some(t) = &handler.tcp_socket {
        let port = util::port(&t.port, spec)?;
        let host = http::host(t.host.as_deref(), ips.first().copied())?;
        return match tokio::time::timeout(CONNECT_TIMEOUT, util::connect(&host, port)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => Err(format!("dial tcp {host}:{port}: i/o timeout")),
        };
    }
    if let Some(s) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(s.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("invalid handler: no action given".into())
}
