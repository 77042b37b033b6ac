//! HEAD over HTTP/2, for servers of hyper's: over HTTP/1 it leaves the body out, over HTTP/2 it does not, and clients take what follows for an
//! error.

use http::{Method, Request, Response, Version, header};
use http_body::Body;

/// Whether a request's answer is to be sent without its body, and hyper does not see to that.
pub fn is_alone<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_2 && request.method() == Method::HEAD
}

/// An answer with the length of what it leaves out.
pub fn alone<B: Body>(response: Response<B>, empty: B) -> Response<B> {
    let length = response.body().size_hint().exact().filter(|length| *length > 0);
    let mut response = response.map(|_| empty);
    if let Some(length) = length {
        response.headers_mut().entry(header::CONTENT_LENGTH).or_insert(length.into());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_the_length_of_what_it_leaves_out() {
        let told = alone(Response::new("ok".to_owned()), String::new());
        assert_eq!(told.headers().get(header::CONTENT_LENGTH), Some(&"2".parse().unwrap()));
        assert!(told.body().is_empty());
        assert!(alone(Response::new(String::new()), String::new()).headers().is_empty());
    }

    #[test]
    fn hyper_sees_to_it_where_it_can() {
        let is_alone = |method: &str, version| is_alone(&Request::builder().method(method).version(version).body(()).unwrap());
        assert!(is_alone("HEAD", Version::HTTP_2));
        assert!(!is_alone("HEAD", Version::HTTP_11) && !is_alone("GET", Version::HTTP_2));
    }
}
