//! What the server itself asks an aggregated one: a GET as one of its own users, within a time and a number of bytes.

use super::{connect::Place, headers, remote::Remote};
use crate::{Body, body, hooks::Services};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use identity::{RequestHeaders, User};
use std::{sync::Arc, time::Duration};

/// Bytes of an answer that are taken: what the largest servers say they serve is a small part of it. Upstream has no bound.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
const AGENT: HeaderValue = HeaderValue::from_static("kube-aggregator");

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) path: &'a str,
    pub(super) user: &'a str,
    pub(super) groups: &'a [&'a str],
    /// Empty for whatever is given.
    pub(super) accept: &'a str,
    /// What is known already, by its tag.
    pub(super) known: Option<&'a str>,
}

/// What was answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// The head of an answer, from a place.
///
/// # Errors
/// There is none; in Go's words.
pub(super) async fn head(remote: &Arc<Remote>, place: &Place, question: Question<'_>) -> Result<Response<Body>, String> {
    let mut request = Request::new(body::empty());
    *request.uri_mut() = question.path.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
    let user = User { name: question.user.to_owned(), groups: question.groups.iter().map(|group| (*group).to_owned()).collect(), ..User::default() };
    headers::tell(request.headers_mut(), &RequestHeaders::default(), &user);
    let mut set = |name, text: &str| HeaderValue::from_str(text).map(|value| request.headers_mut().insert(name, value)).map_err(|error| error.to_string());
    set(header::HOST, &headers::joined(place))?;
    if !question.accept.is_empty() {
        set(header::ACCEPT, question.accept)?;
    }
    if let Some(tag) = question.known {
        set(header::IF_NONE_MATCH, tag)?;
    }
    request.headers_mut().insert(header::USER_AGENT, AGENT);
    remote.backend.send(place, request, None).await
}

/// A whole answer.
///
/// # Errors
/// There is none within the time, or it is too large.
pub(super) async fn get(services: &dyn Services, remote: &Arc<Remote>, question: Question<'_>, within: Duration) -> Result<Answer, String> {
    let work = async {
        let place = remote.backend.place(services)?;
        let (parts, mut body) = head(remote, &place, question).await?.into_parts();
        let mut all = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|error| error.to_string())?.into_data() else { continue };
            if all.len() + data.len() > ANSWER_BYTES_MAX {
                return Err("http: response body too large".to_owned());
            }
            all.extend_from_slice(&data);
        }
        Ok(Answer { code: parts.status.as_u16(), headers: parts.headers, body: all.freeze() })
    };
    tokio::time::timeout(within, work).await.unwrap_or_else(|_| Err("request timed out".into()))
}
