//! What a part tells of itself: `/configz` (its configuration, as tools read it), and `/statusz` and `/flagz` (KEP-4827, KEP-4828): how long
//! it has run and what it was told. A setting is told by the name of the original's flag that means the same; what means nothing here is
//! not told, as its value would be a lie.

use std::{collections::BTreeMap, net::SocketAddr, time::SystemTime};

use http::{HeaderValue, StatusCode, header};
use k8s_openapi::jiff::Timestamp;
use machinery::zpages::{self, Form};
use serde_json::{Value, json};

use super::pages::{Answer, TEXT, VERSION, failure, page};

/// What stands for JSON.
const JSON: &str = "application/json";

/// Settings by the original's flags.
pub type Flags = BTreeMap<&'static str, String>;

/// The flags that say where a part is served.
pub fn served(address: SocketAddr) -> Flags {
    Flags::from([("bind-address", address.ip().to_string()), ("secure-port", address.port().to_string())])
}

/// What a part knows of itself.
pub struct About {
    /// The original's name.
    pub component: &'static str,
    /// Its first listed paths that are here, as the original lists them.
    pub paths: &'static [&'static str],
    /// Its configuration, by the name under which it is shown.
    pub config: (&'static str, Value),
    pub flags: Flags,
    pub started: SystemTime,
}

impl About {
    /// The answer to a GET, if the path is one of the three.
    pub(super) fn answer(&self, path: &str, accept: &str, now: SystemTime) -> Option<Answer> {
        let (name, config) = &self.config;
        Some(match path {
            "configz" => page(JSON, json!({(*name): config}).to_string()),
            "statusz" => self.page("Statusz", accept, || self.status(now)),
            "flagz" => self.page("Flagz", accept, || zpages::flags(&self.flags)),
            _ => return None,
        })
    }

    fn page(&self, kind: &str, accept: &str, make: impl FnOnce() -> (String, Value)) -> Answer {
        let Some(form) = Form::wanted(accept, kind) else {
            return failure(StatusCode::NOT_ACCEPTABLE, "only the following media types are accepted: application/json, text/plain\n".to_owned());
        };
        let mut answer = match form {
            Form::Text => page(TEXT, zpages::head(self.component, &kind.to_lowercase()) + &make().0),
            Form::Kind(version) => page(JSON, zpages::object(self.component, kind, version, make().1).to_string()),
        };
        for (name, value) in [(header::CONTENT_TYPE, Some(form.media(kind))), (header::WARNING, form.warning(kind))] {
            if let Some(value) = value.and_then(|text| HeaderValue::from_str(&text).ok()) {
                answer.headers_mut().insert(name, value);
            }
        }
        answer
    }

    fn status(&self, now: SystemTime) -> (String, Value) {
        let began = Timestamp::try_from(self.started).unwrap_or_default().strftime("%a %b %e %H:%M:%S UTC %Y").to_string();
        zpages::status((self.started, &began), now, VERSION, self.paths)
    }
}
