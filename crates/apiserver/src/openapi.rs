//! `/openapi/v2` and `/openapi/v3`: the published documents, made once from the schema and the rows.

use crate::{ApiServer, Body, query::Query};
use http::{HeaderMap, Response};

/// Answers an OpenAPI path; `None` if it is none.
pub(crate) fn answer(_server: &ApiServer, _path: &str, _headers: &HeaderMap, _query: &Query<'_>) -> Option<Response<Body>> {
    None
}
