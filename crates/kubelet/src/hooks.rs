//! Lifecycle hooks: a command, a request, a connection, or a pause.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container as Spec, LifecycleHandler};

use crate::cri::ContainerId;
use crate::pod::Context;
use crate::probes::http::{self, Request};
use crate::util;

/// Most bytes of a command's output in an Event.
const MAX_OUTPUT: usize = 1024;
/// Time to connect to a TCP hook.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs a hook to its end. The caller bounds its time.
pub async fn run(cx: &Arc<Context>, spec: &Spec, id: &ContainerId, ips: &[IpAddr], handler: &LifecycleHandler) -> Result<(), String> {
    if let Some(e) = &handler.exec {
        let command = e.command.clone().unwrap_or_default();
        let shown = command.join(" ");
        let out = cx.runtime.exec_sync(id, command, None).await.map_err(|e| e.to_string())?;
        if out.exit_code != 0 {
            let text = [out.stdout, out.stderr].concat();
            let text = String::from_utf8_lossy(&text).into_owned();
            return Err(format!("command '{shown}' exited with {}: {}", out.exit_code, util::truncate(&text, MAX_OUTPUT)));
        }
        return Ok(());
    }
    if let Some(h) = &handler.http_get {
        let request = Request::from_action(h, spec, ips.first().copied())?;
        let answer = http::get(&request, Duration::from_secs(30)).await.map_err(|e| e.to_string())?;
        if answer.status >= 400 {
            return Err(format!("HTTP probe failed with statuscode: {}", answer.status));
        }
        return Ok(());
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
