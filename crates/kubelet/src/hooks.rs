//! Lifecycle hooks: a command, a request, or a pause.
//!
//! None has a time limit of its own: a postStart hook may take as long as its pod lives, a preStop hook has the grace period.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container as Spec, HTTPGetAction, LifecycleHandler, Pod};

use crate::cri::{ContainerId, SharedRuntime};
use crate::probes::http::{self, Request};
use crate::util;

/// Most bytes of a command's output in an Event.
const MAX_OUTPUT: usize = 1024;

/// Runs a hook to its end. The caller bounds its time. A text beside the success is the message of the Event
/// `LifecycleHTTPFallback`.
pub async fn run(
    runtime: &SharedRuntime,
    pod: &Pod,
    spec: &Spec,
    id: &ContainerId,
    ips: &[IpAddr],
    handler: &LifecycleHandler,
) -> Result<Option<String>, String> {
    let of = || format!("for Container {:?} in Pod {:?} failed - error:", spec.name, util::describe(pod));
    if let Some(e) = &handler.exec {
        let command = e.command.clone().unwrap_or_default();
        let failed = |error: &str, output: &str| format!("Exec lifecycle hook ([{}]) {} {error}, message: {output:?}", command.join(" "), of());
        let out = runtime.exec_sync(id, command.clone(), None).await.map_err(|e| failed(&e.to_string(), ""))?;
        if out.exit_code != 0 {
            let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
            let error = format!("command '{}' exited with {}: {}", command.join(" "), out.exit_code, util::truncate(&stderr, MAX_OUTPUT));
            let text = [out.stdout, out.stderr].concat();
            return Err(failed(&error, util::truncate(&String::from_utf8_lossy(&text), MAX_OUTPUT)));
        }
        return Ok(None);
    }
    if let Some(h) = &handler.http_get {
        return get(h, spec, ips).await.map_err(|e| format!("HTTP lifecycle hook ({}) {} {e}", h.path.as_deref().unwrap_or_default(), of()));
    }
    if let Some(s) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(s.seconds).unwrap_or(0))).await;
        return Ok(None);
    }
    // A connection is no hook, though the API takes one (upstream's `handlerRunner.Run`).
    let what = if handler.tcp_socket.is_some() { "tcpSocket is not supported for hooks" } else { "no action given" };
    Err(format!("Cannot run handler: invalid handler: {what}"))
}

/// Whatever is answered is an answer (upstream's `runHTTPHandler`); plain HTTP where TLS was expected is asked again, without
/// what is meant for the owner of a certificate alone.
async fn get(h: &HTTPGetAction, spec: &Spec, ips: &[IpAddr]) -> Result<Option<String>, String> {
    let mut request = Request { agent: "kube-lifecycle/1.37", ..Request::from_action(h, spec, ips.first().copied())? };
    match http::get(&request).await {
        Err(e) if request.tls && e.contains(http::NOT_TLS) => {}
        asked => return asked.map(|_| None),
    }
    request.tls = false;
    request.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("authorization"));
    http::get(&request).await?;
    let at = http::authority(&request.host, request.port);
    Ok(Some(format!("request to HTTPS lifecycle hook {at} got HTTP response, retry with HTTP succeeded")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    use crate::testing::{FakeRuntime, clock};

    async fn ran(handler: serde_json::Value) -> Result<Option<String>, String> {
        let runtime: SharedRuntime = Arc::new(FakeRuntime::new(clock()));
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}})).unwrap();
        let spec: Spec = serde_json::from_value(json!({"name": "c"})).unwrap();
        let handler: LifecycleHandler = serde_json::from_value(handler).unwrap();
        run(&runtime, &pod, &spec, &ContainerId("id".into()), &["127.0.0.1".parse().unwrap()], &handler).await
    }

    #[tokio::test]
    async fn a_connection_is_no_hook_and_one_that_fails_says_whose_it_is() {
        assert_eq!(ran(json!({"tcpSocket": {"port": 1}})).await.unwrap_err(), "Cannot run handler: invalid handler: tcpSocket is not supported for hooks");
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let e = ran(json!({"httpGet": {"path": "/x", "port": closed}})).await.unwrap_err();
        assert!(e.starts_with("HTTP lifecycle hook (/x) for Container \"c\" in Pod \"p_n(u)\" failed - error: Get "), "{e}");
    }

    #[tokio::test]
    async fn plain_http_where_tls_was_expected_is_asked_again_without_the_credentials() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let mut asked = String::new();
            for _ in 0..2 {
                let (mut s, _) = listener.accept().await.unwrap();
                let mut buf = [0; 2048];
                let n = s.read(&mut buf).await.unwrap();
                asked = String::from_utf8_lossy(&buf[..n]).into_owned();
                s.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.unwrap();
            }
            asked
        });
        let headers = json!([{"name": "Authorization", "value": "Basic abc"}, {"name": "X-A", "value": "1"}]);
        let told = ran(json!({"httpGet": {"path": "/", "port": port, "scheme": "HTTPS", "httpHeaders": headers}})).await.unwrap();
        assert_eq!(told, Some(format!("request to HTTPS lifecycle hook 127.0.0.1:{port} got HTTP response, retry with HTTP succeeded")));
        let asked = served.await.unwrap().to_lowercase();
        assert!(!asked.contains("authorization") && asked.contains("x-a: 1") && asked.contains("user-agent: kube-lifecycle/1.37"), "{asked}");
    }
}
