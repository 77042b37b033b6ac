//! A watch: a body of newline-delimited frames, each one event. Frames may be split over, or share, the body's chunks.

use bytes::{Buf, BytesMut};
use futures_util::stream::{self, Stream};
use http_body_util::BodyExt;
use machinery::status::Status;
use serde_json::Value;

use crate::codec::{self, Coded, Told};
use crate::error::{Error, Result};
use crate::lenient;
use crate::object::ObjectKey;
use crate::transport::Body;

/// Bytes of a frame at most: an object may have 1.5 MiB in etcd's default, and JSON is wider than protobuf.
const FRAME_MAX: usize = 16 * 1024 * 1024;

/// What a watch says.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<K> {
    /// It exists now (or exists at the start of a watch).
    Added(K),
    /// It changed.
    Modified(K),
    /// It is gone; the last state.
    Deleted(K),
    /// It changed, or is gone, but its type cannot be read from what the server sent.
    Unread {
        /// Which.
        key: ObjectKey,
        /// The revision.
        resource_version: String,
        /// Whether it is gone.
        is_gone: bool,
    },
    /// Everything up to this revision has been told. `initial_end`: the initial events of a streamed list are complete.
    Bookmark {
        /// The revision.
        resource_version: String,
        /// Whether the initial events end here.
        initial_end: bool,
    },
}

/// Splits a body into lines.
pub(crate) struct Frames {
    body: Body,
    buffer: BytesMut,
    /// Bytes of `buffer` known to hold no line end.
    searched: usize,
}

impl Frames {
    pub(crate) fn new(body: Body) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0 }
    }

    /// The next frame; none at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<BytesMut>> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|b| *b == b'\n') {
                let frame = self.buffer.split_to(self.searched + at);
                self.buffer.advance(1);
                self.searched = 0;
                if frame.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return Ok(Some(frame));
            }
            self.searched = self.buffer.len();
            if self.searched > FRAME_MAX {
                return Err(Error::Decode(format!("a watch frame is larger than {FRAME_MAX} bytes")));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(Error::Transport(error.to_string())),
                // A last frame without its line end was cut off: the server always ends its frames.
                None => return Ok(None),
            }
        }
    }
}

/// The events of a watch's body. Ends after the first error.
pub(crate) fn events<K: Coded + Send>(frames: Frames) -> impl Stream<Item = Result<Event<K>>> + Send {
    stream::unfold(Some(frames), |state| async move {
        let mut frames = state?;
        match frames.next().await {
            Ok(None) => None,
            Ok(Some(frame)) => {
                let event = decode(&frame);
                let next = event.is_ok().then_some(frames);
                Some((event, next))
            }
            Err(error) => Some((Err(error), None)),
        }
    })
}

/// One frame; an `ERROR` event is an error.
pub(crate) fn decode<K: Coded>(frame: &[u8]) -> Result<Event<K>> {
    let told = lenient::decode(frame, K::decode_frame).and_then(|told| match told.object {
        Told::Other(value) if codec::holds_object(&told.change) => {
            let object = serde_json::to_vec(&value).map_err(|e| Error::Decode(e.to_string()))?;
            Ok((told.change, Told::Object(lenient::decode(&object, K::decode)?)))
        }
        object => Ok((told.change, object)),
    });
    let (change, object) = match told {
        Ok((change, Told::Object(object))) => (change, object),
        Ok((change, Told::Other(value))) => return other(&change, &value),
        Err(error) => {
            // An object that cannot be read must not hold up the ones after it: the watch goes on behind it.
            let Some(lenient::Unread { key, resource_version, is_gone }) = lenient::unread(frame) else { return Err(error) };
            tracing::warn!(kind = std::any::type_name::<K>(), %key, resource_version, %error, "an object cannot be read");
            return Ok(Event::Unread { key, resource_version, is_gone });
        }
    };
    Ok(match change.as_str() {
        "ADDED" => Event::Added(object),
        "MODIFIED" => Event::Modified(object),
        _ => Event::Deleted(object),
    })
}

/// A frame that holds no object of the kind.
fn other<K>(change: &str, value: &Value) -> Result<Event<K>> {
    match change {
        "BOOKMARK" => {
            let metadata = &value["metadata"];
            let resource_version = metadata["resourceVersion"].as_str().ok_or_else(|| Error::Decode("a bookmark without a revision".to_owned()))?.to_owned();
            Ok(Event::Bookmark { resource_version, initial_end: metadata["annotations"]["k8s.io/initial-events-end"] == "true" })
        }
        "ERROR" if value["kind"] == "Status" => Err(Status::from_value(value).into()),
        "ERROR" => Err(Error::Decode(format!("a watch error that is not a Status: {value}"))),
        _ => Err(Error::Decode(format!("a watch frame of an unknown type {change:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::StreamExt;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;
    use crate::object::Meta;

    fn body(chunks: &[&str]) -> Body {
        let chunks: Vec<_> = chunks.iter().map(|c| Ok(Frame::data(Bytes::from((*c).to_owned())))).collect();
        StreamBody::new(stream::iter(chunks)).boxed_unsync()
    }

    #[tokio::test]
    async fn frames_may_be_split_anywhere_and_share_a_chunk() {
        let text = concat!(
            r#"{"type":"ADDED","object":{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}}"#,
            "\n",
            r#"{"type":"DELETED","object":{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"}}}"#,
            "\n",
            r#"{"type":"BOOKMARK","object":{"apiVersion":"v1","kind":"ConfigMap","metadata":{"resourceVersion":"7"}}}"#,
            "\n",
        );
        for cut in 1..text.len() {
            let got: Vec<_> = events::<ConfigMap>(Frames::new(body(&[&text[..cut], &text[cut..]]))).collect().await;
            assert_eq!(got.len(), 3, "cut at {cut}");
            assert!(matches!(&got[0], Ok(Event::Added(c)) if c.name() == "a"));
            assert!(matches!(&got[1], Ok(Event::Deleted(c)) if c.name() == "b"));
            assert!(matches!(&got[2], Ok(Event::Bookmark { resource_version, .. }) if resource_version == "7"));
        }
    }

    #[tokio::test]
    async fn an_error_event_is_a_status_and_ends_the_watch() {
        let text = concat!(
            r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410,"message":"too old"}}"#,
            "\n{}\n"
        );
        let got: Vec<_> = events::<ConfigMap>(Frames::new(body(&[text]))).collect().await;
        assert_eq!(got.len(), 1);
        assert!(got[0].as_ref().is_err_and(Error::is_expired));
    }
    #[test]
    fn an_object_may_stand_before_its_type() {
        let frame = br#"{"object":{"metadata":{"name":"a"}},"type":"MODIFIED"}"#;
        assert!(matches!(decode::<ConfigMap>(frame), Ok(Event::Modified(c)) if c.name() == "a"));
        assert!(decode::<ConfigMap>(br#"{"object":{"metadata":{"name":"a"}},"type":"NEW"}"#).is_err());
    }
}
