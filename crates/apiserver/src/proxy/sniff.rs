//! What a body is whose sender does not say so: the original's server tells it by the first bytes (Go's `http.DetectContentType`, here without the
//! kinds whose marks have gaps: RIFF, AIFF, MP4 and embedded OpenType).

use crate::Body;
use bytes::Bytes;
use futures_util::{StreamExt, future, stream};
use http::{HeaderValue, Response, header};
use http_body_util::{BodyExt, BodyStream, StreamBody};
use std::time::Duration;

/// Bytes that are looked at.
const LOOKED_AT: usize = 512;
/// How long the head of an answer waits for them, as Go's proxies do before they send what there is.
const WAIT: Duration = Duration::from_millis(200);
const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
/// Tags with which pages begin.
const TAGS: [&str; 17] =
    ["<!doctype html", "<html", "<head", "<script", "<iframe", "<h1", "<div", "<font", "<table", "<a", "<style", "<title", "<b", "<body", "<br", "<p", "<!--"];
/// How other kinds of files begin.
const MARKS: [(&[u8], &str); 26] = [
    (b"%PDF-", "application/pdf"),
    (b"%!PS-Adobe-", "application/postscript"),
    (b"\xfe\xff", "text/plain; charset=utf-16be"),
    (b"\xff\xfe", "text/plain; charset=utf-16le"),
    (b"\xef\xbb\xbf", TEXT),
    (b"\x00\x00\x01\x00", "image/x-icon"),
    (b"\x00\x00\x02\x00", "image/x-icon"),
    (b"BM", "image/bmp"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"ID3", "audio/mpeg"),
    (b"OggS\x00", "application/ogg"),
    (b"MThd\x00\x00\x00\x06", "audio/midi"),
    (b"\x1a\x45\xdf\xa3", "video/webm"),
    (b"\x00\x01\x00\x00", "font/ttf"),
    (b"OTTO", "font/otf"),
    (b"ttcf", "font/collection"),
    (b"wOFF", "font/woff"),
    (b"wOF2", "font/woff2"),
    (b"Rar!\x1a\x07\x00", "application/x-rar-compressed"),
    (b"Rar!\x1a\x07\x01\x00", "application/x-rar-compressed"),
    (b"PK\x03\x04", "application/zip"),
    (b"\x1f\x8b\x08", "application/x-gzip"),
    (b"\x00asm", "application/wasm"),
];

/// The answer with the type of its body, if nobody has told it.
pub(crate) async fn named(response: Response<Body>) -> Response<Body> {
    let (mut parts, mut body) = response.into_parts();
    if [header::CONTENT_TYPE, header::CONTENT_ENCODING].iter().any(|name| parts.headers.contains_key(name)) {
        return Response::from_parts(parts, body);
    }
    let Ok(Some(first)) = tokio::time::timeout(WAIT, body.frame()).await else { return Response::from_parts(parts, body) };
    if let Some(data) = first.as_ref().ok().and_then(|frame| frame.data_ref()).filter(|data: &&Bytes| !data.is_empty()) {
        parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(detected(data)));
    }
    let all = stream::once(future::ready(first)).chain(BodyStream::new(body));
    Response::from_parts(parts, StreamBody::new(all).boxed_unsync())
}

/// What begins so.
fn detected(bytes: &[u8]) -> &'static str {
    let bytes = bytes.get(..LOOKED_AT).unwrap_or(bytes);
    let shown = bytes.trim_ascii_start();
    let is_tag = |tag: &&str| {
        let begins = shown.get(..tag.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(tag.as_bytes()));
        begins && matches!(shown.get(tag.len()), Some(b' ' | b'>'))
    };
    if TAGS.iter().any(is_tag) {
        return HTML;
    }
    if shown.starts_with(b"<?xml") {
        return "text/xml; charset=utf-8";
    }
    let marked = MARKS.iter().find(|(mark, _)| bytes.starts_with(mark)).map(|(_, kind)| *kind);
    if let Some(kind) = marked {
        return kind;
    }
    let is_binary = |byte: &u8| matches!(byte, 0..=8 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f);
    if shown.iter().any(is_binary) { "application/octet-stream" } else { TEXT }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_told_by_its_first_bytes() {
        assert_eq!([detected(b"{}"), detected(b"tea"), detected("é".as_bytes())], [TEXT; 3]);
        assert_eq!([detected(b" \n<HTML>"), detected(b"<!DOCTYPE html>"), detected(b"<p >x")], [HTML; 3]);
        assert_eq!([detected(b"<htmlx>"), detected(b"<p")], [TEXT; 2]);
        assert_eq!([detected(b"a\x00b"), detected(b"\x1f\x8b\x08")], ["application/octet-stream", "application/x-gzip"]);
        assert_eq!([detected(b"\x00\x00\x01\x00\x01"), detected(b"wOF2\x00"), detected(b"GIF8x")], ["image/x-icon", "font/woff2", TEXT]);
    }

    #[tokio::test]
    async fn what_is_told_stays_and_nothing_is_lost() {
        let answer = |kind: Option<&str>| {
            let mut response = Response::new(crate::body::full("abc"));
            if let Some(kind) = kind {
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_str(kind).expect("a type"));
            }
            response
        };
        let told = named(answer(Some("a/b"))).await;
        assert_eq!(told.headers()[header::CONTENT_TYPE], "a/b");
        let found = named(answer(None)).await;
        assert_eq!(found.headers()[header::CONTENT_TYPE], TEXT);
        assert_eq!(found.into_body().collect().await.expect("a body").to_bytes(), "abc");
        assert!(!named(Response::new(crate::body::empty())).await.headers().contains_key(header::CONTENT_TYPE));
    }
}
