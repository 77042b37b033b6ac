//! Content types: what a request's body is, and what its sender accepts.
//!
//! Upstream serves JSON, YAML and protobuf, and on request a Table or the metadata alone instead of the object
//! (`application/json;as=Table;g=meta.k8s.io;v=v1`). Clauses of `Accept` are tried in goautoneg's order; a clause that asks for
//! what an endpoint has not is passed over; 406 if none is left. The header is read once a request ([`Accept`]), and its most
//! usual texts not at all.

use crate::media_type;
use http::{HeaderMap, HeaderValue, header};
use machinery::status::Status;
use std::sync::OnceLock;

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
    /// Of errors: nothing that is accepted can tell one, so it is told as upstream tells it then, which is indented JSON.
    pub raw: bool,
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

    /// That of the first of our media types which a clause means.
    fn of(clause: &Clause<'_>) -> Option<Encoding> {
        match (clause.kind, clause.form) {
            ("*" | "application", "*") | ("application", "json") => Some(Encoding::Json),
            ("application", "yaml") => Some(Encoding::Yaml),
            ("application", "vnd.kubernetes.protobuf") => Some(Encoding::Protobuf),
            _ => None,
        }
    }
}

/// Clauses of an `Accept` that are looked at: the longest that a client of Kubernetes sends has six.
const CLAUSES_MAX: usize = 128;
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
pub(crate) fn only(media: &[&str]) -> Status {
    Status::new(406, "NotAcceptable", format!("only the following media types are accepted: {}", media.join(", ")))
}

/// What an endpoint has besides objects as JSON and YAML.
#[derive(Debug, Clone, Copy)]
pub struct Offered {
    /// Tables and partial metadata.
    pub forms: bool,
    /// Partial metadata, even without tables.
    pub metadata: bool,
    /// Watches.
    pub streams: bool,
    /// Objects as protobuf: custom resources have none, their metadata has.
    pub protobuf: bool,
}

impl Default for Offered {
    fn default() -> Self {
        Offered { forms: false, metadata: false, streams: false, protobuf: true }
    }
}

/// The header `Accept`, whose clauses are told apart when somebody first looks at them.
#[derive(Debug)]
pub struct Accept<'a> {
    text: &'a str,
    clauses: OnceLock<Vec<Clause<'a>>>,
}

impl<'a> Accept<'a> {
    /// Of a header's value, if there is one.
    pub fn of(value: Option<&'a HeaderValue>) -> Self {
        Accept { text: value.and_then(|value| value.to_str().ok()).unwrap_or_default(), clauses: OnceLock::new() }
    }

    /// The header of a request.
    pub fn read(headers: &'a HeaderMap) -> Self {
        Self::of(headers.get(header::ACCEPT))
    }

    /// The clauses in the order in which they are tried.
    fn clauses(&self) -> &[Clause<'a>] {
        self.clauses.get_or_init(|| {
            let mut clauses: Vec<Clause<'a>> = self.text.split(',').filter_map(Clause::parse).collect();
            // Nobody has so many to say; and one by one they would cost their number's square, before anybody has said who asks.
            clauses.truncate(CLAUSES_MAX);
            // goautoneg's order is none that a sort could be trusted with: it is what comes of going forward one by one.
            for next in 1..clauses.len() {
                let mut at = next;
                while at > 0 && clauses[at].is_before(&clauses[at - 1]) {
                    clauses.swap(at, at - 1);
                    at -= 1;
                }
            }
            clauses
        })
    }

    /// What it asks for.
    pub fn accepted(&self, offered: Offered) -> Result<Accepted, Status> {
        match self.text {
            "" | JSON | "*/*" => return Ok(Accepted::default()),
            PROTOBUF if offered.protobuf => return Ok(Accepted { encoding: Encoding::Protobuf, ..Accepted::default() }),
            _ => {}
        }
        // Where upstream has routes, they look first at what is named at all.
        if offered.protobuf {
            let watches: &[&str] = if offered.streams { &STREAMS } else { &[] };
            self.produces(&[&ALL, watches].concat())?;
        }
        self.clauses().iter().find_map(|clause| clause.resolve(offered)).ok_or_else(|| only(&ALL))
    }

    /// Whether a stream may be asked for so: it is announced as an object is, and has no rows. In what it comes is not looked at.
    pub fn streamed(&self) -> Result<(), Status> {
        if matches!(self.text, "" | JSON | "*/*" | "application/json, */*") {
            return Ok(());
        }
        let offered = Offered { forms: true, ..Offered::default() };
        let found = self.clauses().iter().filter_map(|clause| clause.resolve(offered)).any(|accepted| !matches!(accepted.form, Form::Table(_)));
        if found { Ok(()) } else { Err(only(&ALL)) }
    }

    /// In what an error is told: of the clauses the first that asks for no other form than the object's own (upstream's
    /// `ErrorNegotiated`, which looks at the header anew).
    pub fn told(&self) -> Accepted {
        match self.text {
            "" | JSON | "*/*" => return Accepted::default(),
            PROTOBUF => return Accepted { encoding: Encoding::Protobuf, ..Accepted::default() },
            _ => {}
        }
        let found = self.clauses().iter().find_map(|clause| clause.resolve(Offered::default()));
        found.unwrap_or(Accepted { raw: true, ..Accepted::default() })
    }

    /// What it asks of discovery; `aggregated`: of a path that has it in this form too.
    pub fn discovery(&self, aggregated: bool) -> Result<Discovery, Status> {
        if self.text.is_empty() {
            return Ok(Discovery::Plain(Encoding::Json));
        }
        let found = self.clauses().iter().find_map(|clause| {
            let encoding = Encoding::of(clause)?;
            match (clause.group, clause.version, clause.as_kind) {
                ("", "", "") => Some(Discovery::Plain(encoding)),
                ("apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList") if aggregated => Some(Discovery::Aggregated(encoding)),
                _ => None,
            }
        });
        found.ok_or_else(|| only(&ALL))
    }

    /// In which form a document of OpenAPI is asked for, of which there is JSON, and a message under these names.
    pub fn document(&self, packed: &[&str; 2]) -> Written {
        if self.text.is_empty() {
            return Written::Json;
        }
        let found = self.clauses().iter().find_map(|clause| {
            let is = |form: &str| matches!(clause.kind, "application" | "*") && (clause.form == form || clause.form == "*");
            match () {
                () if is("json") => Some(Written::Json),
                () if packed.iter().any(|form| is(form)) => Some(Written::Packed),
                () => None,
            }
        });
        found.unwrap_or(if self.clauses().is_empty() { Written::NoClause } else { Written::NotAcceptable })
    }

    /// How a page of the server about itself is wanted, which is text, or this kind of `config.k8s.io`.
    pub fn page(&self, kind: &str) -> Page {
        if self.text.trim().is_empty() {
            return Page::Text;
        }
        let told = |clause: &Clause<'_>| {
            let encoding = Encoding::of(clause).filter(|encoding| *encoding != Encoding::Protobuf)?;
            Some(PageEncoding { encoding, pretty: clause.pretty })
        };
        let still = || self.clauses().iter().filter(|clause| !clause.streams && !clause.other_stream);
        let found = still().find_map(|clause| match (clause.group, clause.version, clause.as_kind) {
            ("", "", "") => matches!((clause.kind, clause.form), ("text", "plain" | "*") | ("*", "*")).then_some(Page::Text),
            ("config.k8s.io", "v1beta1", named) if named == kind => Some(Page::Kind(told(clause)?, "v1beta1")),
            ("config.k8s.io", "v1alpha1", named) if named == kind => Some(Page::Kind(told(clause)?, "v1alpha1")),
            _ => None,
        });
        let plain = || still().filter(|clause| [clause.group, clause.version, clause.as_kind].iter().all(|part| part.is_empty()));
        found.unwrap_or_else(|| Page::NotAcceptable(plain().find_map(told)))
    }

    /// 406 of a route that produces these alone, whatever else is asked of them: of a clause its media type alone is looked at.
    pub fn produces(&self, media: &[&str]) -> Result<(), Status> {
        let named = |clause: &str| {
            let named = clause.split(';').next().unwrap_or_default().trim_matches(' ');
            named == "*/*" || media.contains(&named)
        };
        if self.text.is_empty() || self.text.split(',').any(named) { Ok(()) } else { Err(Status::not_acceptable(media)) }
    }
}

/// How a page of the server about itself leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// As text.
    Text,
    /// As its kind, of this version.
    Kind(PageEncoding, &'static str),
    /// In none of the forms that are asked for; that is told in this encoding, if there is one.
    NotAcceptable(Option<PageEncoding>),
}

/// The encoding of such a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageEncoding {
    /// JSON or YAML.
    pub encoding: Encoding,
    /// Indented JSON.
    pub pretty: bool,
}

/// In which form a document of OpenAPI leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// As JSON.
    Json,
    /// As a message.
    Packed,
    /// In none of those that are asked for.
    NotAcceptable,
    /// The header has nothing that is a clause.
    NoClause,
}

/// How a document of discovery is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discovery {
    /// As it has ever been.
    Plain(Encoding),
    /// All groups with all they have.
    Aggregated(Encoding),
}

/// Whether an answer of the API is compressed if it is large: upstream looks for `gzip` alone, and at the first header (`negotiateContentEncoding`).
pub fn names_gzip(headers: &HeaderMap) -> bool {
    let named = headers.get(header::ACCEPT_ENCODING).and_then(|text| text.to_str().ok()).unwrap_or_default();
    named.split(',').any(|encoding| encoding.trim() == "gzip")
}

/// Whether a document or the metrics may be compressed: `gzip` is named, and not with a quality of nothing.
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    takes(headers, |name| name == "gzip")
}

/// The same in whatever letters, as upstream's handler of OpenAPI's version 2 reads them.
pub fn takes_gzip_in_any_letters(headers: &HeaderMap) -> bool {
    takes(headers, |name| name.eq_ignore_ascii_case("gzip"))
}

fn takes(headers: &HeaderMap, is_it: impl Fn(&str) -> bool) -> bool {
    let named = |encoding: &str| {
        let mut parts = encoding.split(';').map(str::trim);
        parts.next().is_some_and(&is_it) && !parts.filter_map(|p| p.strip_prefix("q=")).any(|q| q.parse::<f32>().is_ok_and(|q| q <= 0.0))
    };
    headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok()).any(|v| v.split(',').any(named))
}

/// The encoding of a request's body; JSON if none is named.
pub fn content(headers: &HeaderMap) -> Result<Encoding, Status> {
    let text = headers.get(header::CONTENT_TYPE).map_or(Ok(""), |text| text.to_str()).unwrap_or("?");
    if text.is_empty() {
        return Ok(Encoding::Json);
    }
    match media_type::parse(text).as_deref() {
        Some(JSON) => Ok(Encoding::Json),
        Some(YAML) => Ok(Encoding::Yaml),
        Some(PROTOBUF) => Ok(Encoding::Protobuf),
        _ => Err(Status::unsupported_media_type(&ALL)),
    }
}

/// A header's media type without its parameters.
pub fn media(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let text = headers.get(name)?.to_str().unwrap_or_default();
    Some(text.split(';').next().unwrap_or_default().trim())
}

/// One of the things that are accepted, as goautoneg reads it.
#[derive(Debug)]
struct Clause<'a> {
    kind: &'a str,
    form: &'a str,
    group: &'a str,
    version: &'a str,
    as_kind: &'a str,
    pretty: bool,
    /// A stream of something else than watch events is asked for.
    other_stream: bool,
    /// A stream of watch events is asked for.
    streams: bool,
    quality: f32,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Clause<'a>> {
        let trim = |text: &'a str| text.trim_matches(' ');
        let mut parts = trim(text).split(';');
        let media = parts.next().unwrap_or_default();
        let (kind, form) = match media.split_once('/') {
            Some((kind, form)) if !form.is_empty() => (trim(kind), form),
            _ => (trim(media.trim_end_matches('/')), ""),
        };
        let form = match form.trim_end_matches('/') {
            "" if kind == "*" => "*",
            "" => return None,
            form if form.contains('/') => return None,
            form => trim(form),
        };
        let mut clause = Clause { kind, form, group: "", version: "", as_kind: "", pretty: false, other_stream: false, streams: false, quality: 1.0 };
        for part in parts {
            let Some((key, value)) = part.split_once('=').filter(|(_, value)| !value.is_empty() && !value.trim_end_matches('=').contains('=')) else {
                continue;
            };
            let value = value.trim_end_matches('=');
            match trim(key) {
                "q" => clause.quality = value.parse().unwrap_or(0.0),
                "g" => clause.group = trim(value),
                "v" => clause.version = trim(value),
                "as" => clause.as_kind = trim(value),
                "pretty" => clause.pretty = trim(value) == "1",
                "stream" => (clause.other_stream, clause.streams) = (!matches!(trim(value), "" | "watch"), trim(value) == "watch"),
                // A version of the server's own group is never another.
                "sv" => return None,
                _ => {}
            }
        }
        Some(clause)
    }

    /// Whether goautoneg puts it before another: who names a type goes before who takes any, whatever its quality.
    fn is_before(&self, other: &Clause<'_>) -> bool {
        self.quality > other.quality || (self.kind != "*" && other.kind == "*") || (self.form != "*" && other.form == "*")
    }

    fn resolve(&self, Offered { forms, metadata, protobuf, .. }: Offered) -> Option<Accepted> {
        let encoding = Encoding::of(self).filter(|_| !self.other_stream)?;
        // YAML is never streamed.
        if self.streams && encoding == Encoding::Yaml {
            return None;
        }
        let meta = match (self.group, self.version) {
            ("meta.k8s.io", "v1") => Some("meta.k8s.io/v1"),
            ("meta.k8s.io", "v1beta1") => Some("meta.k8s.io/v1beta1"),
            _ => None,
        };
        let form = match self.as_kind {
            "" if !self.group.is_empty() || !self.version.is_empty() => return None,
            "" if encoding != Encoding::Protobuf || protobuf => Form::Object,
            "Table" if forms && encoding != Encoding::Protobuf => Form::Table(meta?),
            "PartialObjectMetadata" | "PartialObjectMetadataList" if forms || metadata => Form::Partial(meta?),
            _ => return None,
        };
        Some(Accepted { encoding, form, pretty: self.pretty, gzip: false, many: self.as_kind == "PartialObjectMetadataList", raw: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(text: &str) -> Result<Accepted, Status> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, text.parse().unwrap());
        Accept::read(&headers).accepted(Offered { forms: true, ..Offered::default() })
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
    fn errors_are_told_in_what_is_no_other_form() {
        let told = |text: &str| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, text.parse().unwrap())]);
            let told = Accept::read(&headers).told();
            (told.encoding, told.form, told.raw)
        };
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(told(&format!("{table},application/yaml")), (Encoding::Yaml, Form::Object, false));
        assert_eq!(told("application/*"), (Encoding::Json, Form::Object, false));
        assert_eq!(told(PROTOBUF), (Encoding::Protobuf, Form::Object, false));
        for none in [table, "text/html", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"] {
            assert_eq!(told(none), (Encoding::Json, Form::Object, true), "{none}");
        }
    }

    #[test]
    fn gzip_is_taken_unless_its_quality_is_nothing() {
        let takes = |text: &str| takes_gzip(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, text.parse().unwrap())]));
        assert!(takes("gzip") && takes("deflate, gzip") && takes("br;q=1.0, gzip; q=0.8"));
        assert!(!takes("gzip;q=0") && !takes("gzip; q=0.0, br") && !takes("x-gzip") && !takes("identity"));
        assert!(!takes("GZIP") && takes_gzip_in_any_letters(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, "br, Gzip;q=1".parse().unwrap())])));
        let names = |text: &str| names_gzip(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, text.parse().unwrap())]));
        assert!(names("gzip") && names("deflate, gzip ,br") && !names("gzip;q=0.5") && !names("*"));
    }

    #[test]
    fn documents_are_json_or_a_message_by_the_first_clause_that_is_one() {
        let forms = ["com.github.proto-openapi.spec.v3.v1.0+protobuf", "com.github.proto-openapi.spec.v3@v1.0+protobuf"];
        let written = |text: &str| Accept::read(&HeaderMap::from_iter([(header::ACCEPT, text.parse().unwrap())])).document(&forms);
        let packed = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";
        assert_eq!(written(packed), Written::Packed);
        assert_eq!(written(&format!("application/json;q=0.5, {packed}")), Written::Packed);
        assert_eq!(written(&format!("application/json, {packed};q=0.5")), Written::Json);
        assert_eq!((written("*/*"), written("application/*"), written("")), (Written::Json, Written::Json, Written::Json));
        assert_eq!(written(&packed.replace("v3", "v2")), Written::NotAcceptable);
        assert_eq!((written("text/plain"), written("nope")), (Written::NotAcceptable, Written::NoClause));
        assert_eq!(written("application/json;q=0"), Written::Json, "a quality of nothing is the last, and no refusal");
    }

    #[test]
    fn a_body_is_json_where_nothing_is_said_and_nothing_where_it_is_said_wrongly() {
        let content = |text: &str| content(&HeaderMap::from_iter([(header::CONTENT_TYPE, text.parse().unwrap())])).ok();
        assert_eq!((content(""), content("Application/JSON; charset=utf-8")), (Some(Encoding::Json), Some(Encoding::Json)));
        assert_eq!((content("application/yaml;"), content(";")), (Some(Encoding::Yaml), None));
    }

    #[test]
    fn who_names_a_type_goes_before_who_takes_any() {
        assert_eq!(accept("*/*;q=0.9, application/yaml;q=0.1").unwrap().encoding, Encoding::Yaml);
        assert_eq!(accept("application/yaml;sv=v1, */*").unwrap().encoding, Encoding::Json);
        assert!(accept("application/json/x").is_err() && accept("application").is_err());
    }

    #[test]
    fn clauses_are_tried_by_quality_and_unknown_ones_passed_over() {
        let got = accept("application/cbor,application/json;q=0.5,application/vnd.kubernetes.protobuf;q=0.8").unwrap();
        assert_eq!(got.encoding, Encoding::Protobuf);
        assert_eq!(accept("text/html,*/*;q=0.1").unwrap().encoding, Encoding::Json);
        assert_eq!(accept("text/html").unwrap_err().code, 406);
    }
}
