//! Content types: what a request's body is, and what its sender accepts.
//!
//! Upstream serves JSON, YAML and protobuf, and on request a Table or the metadata alone instead of the object
//! (`application/json;as=Table;g=meta.k8s.io;v=v1`). Clauses of `Accept` are tried by quality, then in order; a clause
//! that asks for what an endpoint has not is passed over; 406 if none is left.

use http::{HeaderMap, header};
use machinery::status::Status;

/// An encoding of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Encoding {
    /// `application/json`.
    #[default]
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

/// In which form an object is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Form {
    /// As itself.
    #[default]
    Object,
    /// As a table of this version of `meta.k8s.io`.
    Table(&'static str),
    /// Its metadata only, of this version.
    Partial(&'static str),
}

/// What the sender wants to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accepted {
    /// Encoding.
    pub encoding: Encoding,
    /// Form.
    pub form: Form,
    /// Indented JSON.
    pub pretty: bool,
    /// The sender takes gzip.
    pub gzip: bool,
    /// Metadata is asked for as that of many.
    pub many: bool,
}

/// The media type of JSON.
pub const JSON: &str = "application/json";
/// The media type of YAML.
pub const YAML: &str = "application/yaml";
/// The media type of Kubernetes' protobuf envelope.
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// The media types of objects.
pub(crate) const ALL: [&str; 3] = [JSON, YAML, PROTOBUF];

impl Encoding {
    /// The media type of a stream of watch events.
    pub fn watch_media_type(self) -> &'static str {
        match self {
            Encoding::Json | Encoding::Yaml => JSON,
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        }
    }

    fn of(media: &str) -> Option<Encoding> {
        match media {
            "*/*" | "*" | "application/*" | JSON => Some(Encoding::Json),
            YAML => Some(Encoding::Yaml),
            PROTOBUF => Some(Encoding::Protobuf),
            _ => None,
        }
    }
}

/// The media types of streams of watch events.
const STREAMS: [&str; 2] = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

impl Accepted {
    /// Whether a watch can be answered so: YAML has no way to tell where an event ends.
    pub fn for_watch(&self) -> Result<(), Status> {
        match self.encoding {
            Encoding::Yaml => Err(only(&STREAMS)),
            Encoding::Json | Encoding::Protobuf => Ok(()),
        }
    }
}

/// 406 of handlers that look once more at what is accepted.
fn only(media: &[&str]) -> Status {
    Status::new(406, "NotAcceptable", format!("only the following media types are accepted: {}", media.join(", ")))
}

/// What an endpoint has besides objects as JSON and YAML.
#[derive(Debug, Clone, Copy)]
pub struct Offered {
    /// Tables and partial metadata.
    pub forms: bool,
    /// Watches.
    pub streams: bool,
    /// Objects as protobuf: custom resources have none, their metadata has.
    pub protobuf: bool,
}

impl Default for Offered {
    fn default() -> Self {
        Offered { forms: false, streams: false, protobuf: true }
    }
}

/// What `Accept` asks for.
pub fn accepted(headers: &HeaderMap, offered: Offered) -> Result<Accepted, Status> {
    let Some(accept) = headers.get(header::ACCEPT) else { return Ok(Accepted::default()) };
    let accept = accept.to_str().unwrap_or_default();
    match accept {
        "" | JSON | "*/*" => return Ok(Accepted::default()),
        PROTOBUF if offered.protobuf => return Ok(Accepted { encoding: Encoding::Protobuf, ..Accepted::default() }),
        _ => {}
    }
    // Where upstream has routes, they look first at what is named at all.
    if offered.protobuf {
        let watches: &[&str] = if offered.streams { &STREAMS } else { &[] };
        produces(headers, &[&ALL, watches].concat())?;
    }
    clauses(accept).iter().find_map(|clause| clause.resolve(offered)).ok_or_else(|| only(&ALL))
}

/// The clauses of `Accept`, the dearest first.
fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<Clause<'_>> = accept.split(',').map(Clause::parse).collect();
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    clauses
}

/// How a document of discovery is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discovery {
    /// As it has ever been.
    Plain(Encoding),
    /// All groups with all they have.
    Aggregated(Encoding),
}

/// What `Accept` asks of discovery; `aggregated`: of a path that has it in this form too.
pub fn discovery(headers: &HeaderMap, aggregated: bool) -> Result<Discovery, Status> {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accept.is_empty() {
        return Ok(Discovery::Plain(Encoding::Json));
    }
    let found = clauses(accept).into_iter().find_map(|clause| {
        let encoding = Encoding::of(clause.media)?;
        match (clause.group, clause.version, clause.kind) {
            ("", "", "") => Some(Discovery::Plain(encoding)),
            ("apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList") if aggregated => Some(Discovery::Aggregated(encoding)),
            _ => None,
        }
    });
    found.ok_or_else(|| only(&ALL))
}

/// 406 of a route that produces these alone, whatever else is asked of them.
pub fn produces(headers: &HeaderMap, media: &[&str]) -> Result<(), Status> {
    let Some(accept) = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).filter(|accept| !accept.is_empty()) else { return Ok(()) };
    let named = |clause: &Clause<'_>| clause.media == "*/*" || media.contains(&clause.media);
    if clauses(accept).iter().any(named) { Ok(()) } else { Err(Status::not_acceptable(media)) }
}

/// Whether an answer may be compressed: `gzip` is named, and not with a quality of nothing.
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    let named = |encoding: &str| {
        let mut parts = encoding.split(';').map(str::trim);
        parts.next() == Some("gzip") && !parts.filter_map(|p| p.strip_prefix("q=")).any(|q| q.parse::<f32>().is_ok_and(|q| q <= 0.0))
    };
    headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok()).any(|v| v.split(',').any(named))
}

/// The encoding of a request's body; JSON if none is named.
pub fn content(headers: &HeaderMap) -> Result<Encoding, Status> {
    match media(headers, header::CONTENT_TYPE) {
        None | Some("") => Ok(Encoding::Json),
        Some(media) => match media.to_ascii_lowercase().as_str() {
            JSON => Ok(Encoding::Json),
            YAML => Ok(Encoding::Yaml),
            PROTOBUF => Ok(Encoding::Protobuf),
            _ => Err(Status::unsupported_media_type(&ALL)),
        },
    }
}

/// A header's media type without its parameters.
pub fn media(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let text = headers.get(name)?.to_str().unwrap_or_default();
    Some(text.split(';').next().unwrap_or_default().trim())
}

struct Clause<'a> {
    media: &'a str,
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    pretty: bool,
    /// A stream of something else than watch events is asked for.
    other_stream: bool,
    quality: f32,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Clause<'a> {
        let mut parts = text.split(';');
        let media = parts.next().unwrap_or_default().trim();
        let mut clause = Clause { media, group: "", version: "", kind: "", pretty: false, other_stream: false, quality: 1.0 };
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let value = value.trim();
            match key.trim() {
                "g" => clause.group = value,
                "v" => clause.version = value,
                "as" => clause.kind = value,
                "pretty" => clause.pretty = value == "1",
                "stream" => clause.other_stream = !matches!(value, "" | "watch"),
                "q" => clause.quality = value.parse().unwrap_or(0.0),
                _ => {}
            }
        }
        clause
    }

    fn resolve(&self, Offered { forms, protobuf, .. }: Offered) -> Option<Accepted> {
        let encoding = Encoding::of(self.media).filter(|_| !self.other_stream)?;
        let meta = match (self.group, self.version) {
            ("meta.k8s.io", "v1") => Some("meta.k8s.io/v1"),
            ("meta.k8s.io", "v1beta1") => Some("meta.k8s.io/v1beta1"),
            _ => None,
        };
        let form = match self.kind {
            "" if !self.group.is_empty() || !self.version.is_empty() => return None,
            "" if encoding != Encoding::Protobuf || protobuf => Form::Object,
            "Table" if forms && encoding != Encoding::Protobuf => Form::Table(meta?),
            "PartialObjectMetadata" | "PartialObjectMetadataList" if forms => Form::Partial(meta?),
            _ => return None,
        };
        Some(Accepted { encoding, form, pretty: self.pretty, gzip: false, many: self.kind == "PartialObjectMetadataList" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(text: &str) -> Result<Accepted, Status> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, text.parse().unwrap());
        accepted(&headers, Offered { forms: true, ..Offered::default() })
    }

    #[test]
    fn kubectl_gets_a_table() {
        let got = accept("application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json");
        assert_eq!(got.unwrap().form, Form::Table("meta.k8s.io/v1"));
        let got = accept("application/json;as=PartialObjectMetadata;v=v1beta1;g=meta.k8s.io");
        assert_eq!(got.unwrap().form, Form::Partial("meta.k8s.io/v1beta1"));
        assert!(accept("application/json;as=Table;v=v2;g=meta.k8s.io").is_err());
    }

    #[test]
    fn gzip_is_taken_unless_its_quality_is_nothing() {
        let takes = |text: &str| takes_gzip(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, text.parse().unwrap())]));
        assert!(takes("gzip") && takes("deflate, gzip") && takes("br;q=1.0, gzip; q=0.8"));
        assert!(!takes("gzip;q=0") && !takes("gzip; q=0.0, br") && !takes("x-gzip") && !takes("identity"));
    }

    #[test]
    fn clauses_are_tried_by_quality_and_unknown_ones_passed_over() {
        let got = accept("application/cbor,application/json;q=0.5,application/vnd.kubernetes.protobuf;q=0.8").unwrap();
        assert_eq!(got.encoding, Encoding::Protobuf);
        assert_eq!(accept("text/html,*/*;q=0.1").unwrap().encoding, Encoding::Json);
        assert_eq!(accept("text/html").unwrap_err().code, 406);
    }
}
