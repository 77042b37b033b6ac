//! The client: requests as paths, objects as types.

use std::any::TypeId;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::BodyExt;
use k8s_openapi::Resource;
use machinery::{json, status::Status};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::codec::Coded;
use crate::error::{Error, Result};
use crate::http_transport::HttpTransport;
use crate::kubeconfig::Endpoint;
use crate::lenient;
use crate::list::List;
use crate::object::{Object, Plural};
use crate::params::{DeleteParams, ListParams, Patch, PatchParams};
use crate::partial::PartialObject;
use crate::request_metrics::RequestMetrics;
use crate::transport::{Body, Transport};
use crate::watch::{self, Event, Frames};

/// Bytes of an answer (not a watch) at most: the full list of a large cluster fits, an endless answer does not.
const ANSWER_MAX: usize = 1 << 30;

/// Who asks, and how a request gets to the server. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    user_agent: HeaderValue,
    impersonate: Option<HeaderValue>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("user_agent", &self.user_agent).finish_non_exhaustive()
    }
}

impl Client {
    /// A client over this transport.
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, user_agent: HeaderValue::from_static("knarr"), impersonate: None }
    }

    /// A client of the cluster that a kubeconfig's current context names.
    ///
    /// # Errors
    /// The file, or something that it refers to, cannot be read or used.
    pub fn from_kubeconfig(path: impl AsRef<Path>) -> Result<Self> {
        let endpoint = Endpoint::from_kubeconfig(path.as_ref())?;
        Ok(Self::new(Arc::new(HttpTransport::new(endpoint)?)))
    }

    /// The same under another name; the part before the first `/` becomes the field manager of what it writes.
    #[must_use]
    pub fn user_agent(mut self, name: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(name) {
            self.user_agent = value;
        }
        self
    }

    /// The same, with its requests counted.
    #[must_use]
    pub fn counted(mut self, metrics: &RequestMetrics) -> Self {
        self.transport = metrics.over(self.transport);
        self
    }

    /// The same, acting as this user (`Impersonate-User`): the credentials must be allowed to.
    #[must_use]
    pub fn impersonate(mut self, user: &str) -> Self {
        self.impersonate = HeaderValue::from_str(user).ok();
        self
    }

    /// A kind, cluster-wide: everything of a cluster-wide kind, or a namespaced kind over all namespaces.
    pub fn all<K: Object + Resource>(&self) -> Api<K> {
        self.at(format!("{}/{}", K::root(), K::URL_PATH_SEGMENT))
    }

    /// A kind in one namespace.
    pub fn namespaced<K: Object + Resource>(&self, namespace: &str) -> Api<K> {
        self.at(format!("{}/namespaces/{}/{}", K::root(), escape(namespace), K::URL_PATH_SEGMENT))
    }

    /// A kind in this namespace, or cluster-wide if that is empty.
    pub fn scoped<K: Object + Resource>(&self, namespace: &str) -> Api<K> {
        if namespace.is_empty() { self.all() } else { self.namespaced(namespace) }
    }

    /// The collection at this path (`/apis/GROUP/VERSION/RESOURCE`), whatever the type makes of it.
    pub fn at<K: 'static>(&self, path: String) -> Api<K> {
        Api { of: Collection { client: self.clone(), path, accept: Accept::of::<K>() }, kind: PhantomData }
    }

    /// Sends a request as it is, with the client's identity; an answer that is an error becomes one.
    ///
    /// # Errors
    /// The transport's, or the server's `Status`.
    pub async fn raw(&self, mut request: Request<Bytes>) -> Result<Response<Body>> {
        let headers = request.headers_mut();
        headers.entry(header::USER_AGENT).or_insert_with(|| self.user_agent.clone());
        headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static("application/json"));
        if let Some(user) = &self.impersonate {
            headers.insert("impersonate-user", user.clone());
        }
        let response = self.transport.send(request).await?;
        if response.status().is_success() || response.status().is_informational() {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let bytes = read(response.into_body()).await?;
        Err(failure(code, &bytes).into())
    }

    /// Sends and decodes the answer.
    async fn request<T>(&self, method: Method, uri: &str, content_type: &'static str, body: Vec<u8>, read: fn(&[u8]) -> serde_json::Result<T>) -> Result<T> {
        decode(uri, &self.bytes(method, uri, content_type, body).await?, read)
    }

    async fn bytes(&self, method: Method, uri: &str, content_type: &'static str, body: Vec<u8>) -> Result<Bytes> {
        let mut request = Request::builder().method(method).uri(uri);
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let request = request.body(Bytes::from(body)).map_err(|e| Error::Config(format!("{uri}: {e}")))?;
        read(self.raw(request).await?.into_body()).await
    }

    async fn fetch(&self, uri: &str, accept: &str) -> Result<Bytes> {
        read(self.raw(get(uri, accept)?).await?.into_body()).await
    }

    /// GET of any JSON in one of these media types.
    ///
    /// # Errors
    /// As [`Self::get_json`].
    pub async fn get_as<T: DeserializeOwned>(&self, uri: &str, accept: &str) -> Result<T> {
        decode(uri, &self.fetch(uri, accept).await?, from_json)
    }

    /// GET of any JSON (discovery, `/version`).
    ///
    /// # Errors
    /// The transport's, the server's `Status`, or JSON that is not a `T`.
    pub async fn get_json<T: DeserializeOwned>(&self, uri: &str) -> Result<T> {
        self.request(Method::GET, uri, "", Vec::new(), from_json).await
    }
}

/// One collection of objects, whatever their type: all that is asked and answered, in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Collection {
    client: Client,
    path: String,
    accept: Accept,
}

impl Collection {
    fn named(&self, name: &str, subresource: &str, query: &[(&'static str, String)]) -> String {
        let slash = if subresource.is_empty() { "" } else { "/" };
        with_query(&format!("{}/{}{slash}{subresource}", self.path, escape(name)), query)
    }

    /// A page of objects; before it where it is from.
    pub(crate) async fn list(&self, params: &ListParams) -> Result<(String, Bytes)> {
        let uri = with_query(&self.path, &params.query());
        let bytes = self.client.fetch(&uri, self.accept.list).await?;
        Ok((uri, bytes))
    }

    /// A watch that the server is to end after a while.
    pub(crate) async fn watch(&self, params: &ListParams, resource_version: &str, timeout_s: Option<u32>) -> Result<Frames> {
        let mut query = params.selectors();
        query.push(("watch", "true".to_owned()));
        query.push(("allowWatchBookmarks", "true".to_owned()));
        if !resource_version.is_empty() {
            query.push(("resourceVersion", resource_version.to_owned()));
        }
        if let Some(seconds) = timeout_s {
            query.push(("timeoutSeconds", seconds.to_string()));
        }
        let response = self.client.raw(get(&with_query(&self.path, &query), self.accept.object)?).await?;
        Ok(Frames::new(response.into_body()))
    }

    async fn delete(&self, uri: &str, params: &DeleteParams) -> Result<()> {
        self.client.bytes(Method::DELETE, uri, JSON, encode(&params.body())?).await.map(drop)
    }
}

/// One collection of objects of a kind.
#[derive(Clone, Debug)]
pub struct Api<K> {
    of: Collection,
    kind: PhantomData<fn() -> K>,
}

impl<K: Object> Api<K> {
    /// The client beneath.
    pub fn client(&self) -> &Client {
        &self.of.client
    }

    /// The same without the type.
    pub(crate) fn untyped(self) -> Collection {
        self.of
    }

    /// One object.
    ///
    /// # Errors
    /// As every request; 404 if it does not exist.
    pub async fn get(&self, name: &str) -> Result<K> {
        let uri = self.of.named(name, "", &[]);
        decode(&uri, &self.of.client.fetch(&uri, self.of.accept.object).await?, K::decode)
    }

    /// One object, or none if it does not exist.
    ///
    /// # Errors
    /// As every request.
    pub async fn get_opt(&self, name: &str) -> Result<Option<K>> {
        match self.get(name).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A page of objects.
    ///
    /// # Errors
    /// As every request.
    pub async fn list(&self, params: &ListParams) -> Result<List<K>> {
        let (uri, bytes) = self.of.list(params).await?;
        decode_list(&uri, &bytes)
    }

    /// Creates an object; its answer is the object as stored.
    ///
    /// # Errors
    /// As every request; 409 `AlreadyExists`.
    pub async fn create(&self, object: &K) -> Result<K> {
        self.of.client.request(Method::POST, &self.of.path, JSON, bytes_of(object)?, K::decode).await
    }

    /// Replaces an object; with its resource version set, only if it has not changed since.
    ///
    /// # Errors
    /// As every request; 409 `Conflict`.
    pub async fn replace(&self, name: &str, object: &K) -> Result<K> {
        self.replace_subresource(name, "", object).await
    }

    /// Replaces an object's status.
    ///
    /// # Errors
    /// As [`Self::replace`].
    pub async fn replace_status(&self, name: &str, object: &K) -> Result<K> {
        self.replace_subresource(name, "status", object).await
    }

    /// One object's subresource (`scale`).
    ///
    /// # Errors
    /// As every request.
    pub async fn get_subresource(&self, name: &str, subresource: &str) -> Result<K> {
        self.of.client.request(Method::GET, &self.of.named(name, subresource, &[]), "", Vec::new(), K::decode).await
    }

    /// Replaces what a subresource (`finalize`, `approval`, …) stands for.
    ///
    /// # Errors
    /// As [`Self::replace`].
    pub async fn replace_subresource(&self, name: &str, subresource: &str, object: &K) -> Result<K> {
        self.of.client.request(Method::PUT, &self.of.named(name, subresource, &[]), JSON, bytes_of(object)?, K::decode).await
    }

    /// Patches an object.
    ///
    /// # Errors
    /// As every request.
    pub async fn patch(&self, name: &str, patch: &Patch, params: &PatchParams) -> Result<K> {
        self.patch_subresource(name, "", patch, params).await
    }

    /// Patches an object's status.
    ///
    /// # Errors
    /// As every request.
    pub async fn patch_status(&self, name: &str, patch: &Patch, params: &PatchParams) -> Result<K> {
        self.patch_subresource(name, "status", patch, params).await
    }

    /// Patches through a subresource.
    ///
    /// # Errors
    /// As every request.
    pub async fn patch_subresource(&self, name: &str, subresource: &str, patch: &Patch, params: &PatchParams) -> Result<K> {
        let uri = self.of.named(name, subresource, &params.query());
        self.of.client.request(Method::PATCH, &uri, patch.content_type(), encode(patch.document())?, K::decode).await
    }

    /// Deletes an object, or marks it for deletion if it has a grace period or finalizers.
    ///
    /// # Errors
    /// As every request; 409 if a precondition does not hold.
    pub async fn delete(&self, name: &str, params: &DeleteParams) -> Result<()> {
        self.of.delete(&self.of.named(name, "", &[]), params).await
    }

    /// Deletes every object that is selected.
    ///
    /// # Errors
    /// As every request.
    pub async fn delete_collection(&self, params: &DeleteParams, which: &ListParams) -> Result<()> {
        self.of.delete(&with_query(&self.of.path, &which.query()), params).await
    }

    /// Watches from just after a revision (empty: from the present state, told as additions), with bookmarks. The stream
    /// ends when the server ends the watch, and after the first error.
    ///
    /// # Errors
    /// As every request; 410 if the revision is no longer kept (also within the stream).
    pub async fn watch(&self, params: &ListParams, resource_version: &str) -> Result<BoxStream<'static, Result<Event<K>>>> {
        Ok(watch::events(self.of.watch(params, resource_version, None).await?).boxed())
    }

    /// Posts to a subresource: `binding`, `eviction`, `token`.
    ///
    /// # Errors
    /// As every request.
    pub async fn create_subresource<T: Serialize, R: DeserializeOwned>(&self, name: &str, subresource: &str, body: &T) -> Result<R> {
        self.of.client.request(Method::POST, &self.of.named(name, subresource, &[]), JSON, encode(body)?, from_json).await
    }
}

const JSON: &str = "application/json";

/// The media types asked for: of [`PartialObject`] the metadata alone, where the server can (the full object has it too).
#[derive(Clone, Debug)]
struct Accept {
    object: &'static str,
    list: &'static str,
}

impl Accept {
    fn of<K: 'static>() -> Self {
        if TypeId::of::<K>() == TypeId::of::<PartialObject>() {
            Self {
                object: "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json",
                list: "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
            }
        } else {
            Self { object: JSON, list: JSON }
        }
    }
}

fn get(uri: &str, accept: &str) -> Result<Request<Bytes>> {
    let request = Request::get(uri).header(header::ACCEPT, accept);
    request.body(Bytes::new()).map_err(|e| Error::Config(format!("{uri}: {e}")))
}

/// Reads what came from `uri`.
fn decode<T>(uri: &str, bytes: &[u8], read: fn(&[u8]) -> serde_json::Result<T>) -> Result<T> {
    lenient::decode(bytes, read).map_err(|e| Error::Decode(format!("{uri}: {e}")))
}

/// Reads a page that came from `uri`; objects that cannot be read are left out.
pub(crate) fn decode_list<K: Coded>(uri: &str, bytes: &[u8]) -> Result<List<K>> {
    K::decode_list(bytes).or_else(|_| {
        let mut value = decode(uri, bytes, json::read)?;
        let items = lenient::items(&mut value);
        let metadata = serde_json::from_value(value["metadata"].take()).map_err(|e| Error::Decode(format!("{uri}: {e}")))?;
        Ok(List { metadata, items: Some(items) })
    })
}

fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(bytes)
}

fn bytes_of<K: Coded>(object: &K) -> Result<Vec<u8>> {
    object.encode().map_err(|e| Error::Decode(e.to_string()))
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::Decode(e.to_string()))
}

/// Reads an answer; one that came in one piece is not copied.
async fn read(mut body: Body) -> Result<Bytes> {
    let mut first = Bytes::new();
    let mut more: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Error::Transport(e.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.is_empty() && more.is_empty() {
            first = data;
            continue;
        }
        if more.is_empty() {
            more.extend_from_slice(&first);
        }
        more.extend_from_slice(&data);
        if more.len() > ANSWER_MAX {
            return Err(Error::Decode(format!("the answer is larger than {ANSWER_MAX} bytes")));
        }
    }
    Ok(if more.is_empty() { first } else { more.into() })
}

/// The `Status` of a failed request; one made up if the answer holds none (a proxy's page, for example).
fn failure(code: u16, body: &[u8]) -> Status {
    match serde_json::from_slice::<Value>(body) {
        Ok(value) if value["kind"] == "Status" => {
            let mut status = Status::from_value(&value);
            if status.code == 0 {
                status.code = code;
            }
            status
        }
        _ => {
            let text: String = String::from_utf8_lossy(body).trim().chars().take(500).collect();
            let reason = match code {
                401 => "Unauthorized",
                403 => "Forbidden",
                404 => "NotFound",
                429 => "TooManyRequests",
                _ => "Unknown",
            };
            Status::new(code, reason, if text.is_empty() { format!("the server answered {code}") } else { text })
        }
    }
}

/// A path and its query.
fn with_query(path: &str, query: &[(&'static str, String)]) -> String {
    let mut uri = path.to_owned();
    for (at, (key, value)) in query.iter().enumerate() {
        uri.push(if at == 0 { '?' } else { '&' });
        uri.push_str(key);
        uri.push('=');
        uri.push_str(&escape(value));
    }
    uri
}

/// Percent-encodes all but RFC 3986's unreserved characters: a part of a path or of a query.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for digit in [byte >> 4, byte & 15] {
                out.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
            }
        }
    }
    out
}
