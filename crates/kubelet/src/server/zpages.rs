//! `/statusz` and `/flagz` (KEP-4827, KEP-4828): how long the kubelet has run and of what version it is, and what it was told at its start. Text for
//! people, and the kinds `Statusz` and `Flagz` of `config.k8s.io/v1beta1` to who asks for them. A setting is told by the name of the original's flag
//! that means the same.

use std::collections::BTreeMap;
use std::time::SystemTime;

use http::{HeaderMap, StatusCode, header};
use k8s_openapi::jiff::Timestamp;
use machinery::{
    time::go_duration,
    zpages::{self, Form},
};
use serde_json::Value;

use super::{Answer, text};
use crate::config::Config;

/// The paths that are listed: those of the original's list that are here (it has `/debug` too).
const PATHS: [&str; 4] = ["/configz", "/flagz", "/healthz", "/metrics"];

/// `/statusz`.
pub(super) fn status(config: &Config, started: SystemTime, now: SystemTime, headers: &HeaderMap) -> Answer {
    page("Statusz", headers, || {
        let began = Timestamp::try_from(started).unwrap_or_default().strftime("%a %b %e %H:%M:%S UTC %Y").to_string();
        zpages::status((started, &began), now, &config.version, &PATHS)
    })
}

/// `/flagz`.
pub(super) fn flags(config: &Config, headers: &HeaderMap) -> Answer {
    page("Flagz", headers, || zpages::flags(&all(config)))
}

fn all(config: &Config) -> BTreeMap<&'static str, String> {
    let shown = |path: &std::path::Path| path.display().to_string();
    let dns: Vec<String> = config.cluster_dns.iter().map(ToString::to_string).collect();
    BTreeMap::from([
        ("address", config.listen.ip().to_string()),
        ("cluster-dns", format!("[{}]", dns.join(","))),
        ("cluster-domain", config.cluster_domain.clone()),
        ("hostname-override", config.node_name.clone()),
        ("max-pods", config.max_pods.to_string()),
        ("node-status-update-frequency", go_duration(config.settings.heartbeat.look)),
        ("pod-manifest-path", config.settings.static_pods.as_deref().map(shown).unwrap_or_default()),
        ("port", config.listen.port().to_string()),
        ("resolv-conf", shown(&config.resolv_conf)),
        ("root-dir", shown(&config.root_dir)),
    ])
}

/// What is wanted: the text, the kind, or something that there is not.
fn page(kind: &str, headers: &HeaderMap, make: impl FnOnce() -> (String, Value)) -> Answer {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",");
    let Some(form) = Form::wanted(&accepted, kind) else {
        return text(StatusCode::NOT_ACCEPTABLE, "only the following media types are accepted: application/json, text/plain\n");
    };
    let mut answer = match form {
        Form::Text => text(StatusCode::OK, zpages::head("kubelet", &kind.to_lowercase()) + &make().0),
        Form::Kind(version) => super::json(&zpages::object("kubelet", kind, version, make().1)),
    };
    for (name, value) in [(header::CONTENT_TYPE, Some(form.media(kind))), (header::WARNING, form.warning(kind))] {
        if let Some(value) = value.and_then(|text| http::HeaderValue::from_str(&text).ok()) {
            answer.headers_mut().insert(name, value);
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use serde_json::json;

    async fn ask(kind: &str, accept: &str) -> (u16, String) {
        let config = Config::new("n", std::net::IpAddr::from([10, 0, 0, 1]), "/data");
        let headers: HeaderMap = [(header::ACCEPT, accept.parse().expect("a header"))].into_iter().filter(|_| !accept.is_empty()).collect();
        let at = SystemTime::UNIX_EPOCH;
        let answer = if kind == "Statusz" { status(&config, at, at + std::time::Duration::from_secs(61), &headers) } else { flags(&config, &headers) };
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        (code, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn pages_are_text_or_a_kind() {
        for accept in ["", "*/*", "application/xml, text/plain"] {
            let (code, text) = ask("Statusz", accept).await;
            assert!(code == 200 && text.starts_with("\nkubelet statusz\nWarning: ") && text.contains("\nUp: 0 hr 01 min 01 sec\n"), "{text}");
        }
        let (code, text) = ask("Flagz", "application/json;v=v1beta1;g=config.k8s.io;as=Flagz").await;
        let flagz: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((code, &flagz["kind"], &flagz["flags"]["hostname-override"]), (200, &json!("Flagz"), &json!("n")));
        assert_eq!(ask("Flagz", "application/json").await.0, 406);
    }
}
