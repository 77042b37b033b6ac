//! A certificate is asked for anew when between 70 and 90 hundredths of its life are over (so that nodes that were made together do not
//! ask together), and again until it succeeds, also when the former has ended by then.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use client::Client;

use super::{Pair, Wanted, obtain};
use crate::config::Clock;
use crate::util;

/// The longest sleep: the clock may be set meanwhile, and a machine may have slept.
const LOOK: Duration = Duration::from_secs(60 * 60);
/// After a failure: the first pause, and the longest, which also stands after each certificate.
const AGAIN_MIN: Duration = Duration::from_secs(2);
const AGAIN_MAX: Duration = Duration::from_secs(32);
/// The part of a certificate's life, in hundredths, before which it is never renewed, and the length of the part in which it is.
const EARLIEST: u32 = 70;
const SPREAD: u32 = 20;

/// A certificate that is kept from ending.
pub struct Rotation {
    /// What it is to say.
    pub wanted: Wanted,
    /// Where it is kept.
    pub file: PathBuf,
    /// Who asks for it.
    pub client: Client,
    /// What the time is.
    pub clock: Clock,
}

impl Rotation {
    /// Has a certificate at all times from now on, and gives each new one to `show`. `have`: the one that is there.
    pub async fn keep(&self, mut have: Option<Pair>, show: impl Fn(&Pair)) -> std::convert::Infallible {
        let mut pause = AGAIN_MIN;
        loop {
            if let Some(pair) = have.as_ref().filter(|pair| self.wanted.is(pair)) {
                let due = due(pair);
                while let Ok(left) = due.duration_since(self.clock.now()) {
                    tokio::time::sleep(left.clamp(Duration::from_secs(1), LOOK)).await;
                }
            }
            match obtain(&self.client, &self.wanted).await {
                Ok(new) => {
                    show(&new);
                    // It is used all the same: a start finds the former, which is good for a while, and asks again.
                    if let Err(error) = new.save(&self.file) {
                        tracing::error!(%error, "a new certificate is not kept");
                    }
                    tracing::info!(purpose = ?self.wanted.purpose, "a certificate was renewed");
                    (have, pause) = (Some(new), AGAIN_MIN);
                    // By a clock that is ahead, or from a signer that gives little time, it may be due as it comes.
                    tokio::time::sleep(AGAIN_MAX).await;
                }
                Err(error) => {
                    let ended = have.as_ref().is_some_and(|pair| pair.ends() <= self.clock.now());
                    tracing::warn!(%error, ended, purpose = ?self.wanted.purpose, "a certificate is not renewed; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(AGAIN_MAX);
                }
            }
        }
    }
}

/// When a pair is to be renewed; drawn anew each time.
fn due(pair: &Pair) -> SystemTime {
    let life = pair.ends().duration_since(pair.begins()).unwrap_or_default();
    let spread = life * SPREAD / 100;
    pair.begins() + life * EARLIEST / 100 + util::jittered(spread).saturating_sub(spread / 2)
}

#[cfg(test)]
mod tests {
    use super::super::pair::tests::made;
    use super::*;
    use crate::testing::TempDir;
    use bytes::Bytes;
    use client::{Body, Error, Transport};
    use futures_util::future::BoxFuture;
    use http::{Method, Request, Response};
    use http_body_util::{BodyExt as _, Full};
    use parking_lot::Mutex;
    use serde_json::{Value, json};
    use std::sync::Arc;
    use std::time::UNIX_EPOCH;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn day(n: u32) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_900_000_000) + DAY * n
    }

    #[test]
    fn it_is_time_between_seven_and_nine_tenths_of_its_life() {
        let (cert, key) = made("n", &[], day(0), day(100));
        let pair = Pair::new(&cert, &key).unwrap();
        let times: Vec<SystemTime> = (0..200).map(|_| due(&pair)).collect();
        assert!(times.iter().all(|t| (day(70)..=day(90)).contains(t)));
        assert!(times.iter().any(|t| *t < day(75)) && times.iter().any(|t| *t > day(85)), "nodes do not ask together");
    }

    /// An API server that signs what it is asked for: at first it denies.
    struct Signer {
        authority: rcgen::Issuer<'static, rcgen::KeyPair>,
        asked: Mutex<Vec<String>>,
        started: tokio::time::Instant,
    }

    impl Signer {
        fn now(&self) -> SystemTime {
            day(0) + self.started.elapsed()
        }

        fn answer(&self, request: &Request<Bytes>) -> Value {
            let mut asked = self.asked.lock();
            if *request.method() == Method::POST {
                let object: Value = serde_json::from_slice(request.body()).unwrap();
                asked.push(object["spec"]["request"].as_str().unwrap().to_owned());
                let mut made = object;
                made["metadata"] = json!({"name": format!("csr-{}", asked.len()), "uid": "u", "resourceVersion": "1"});
                return made;
            }
            let mut item = json!({"metadata": {"name": format!("csr-{}", asked.len()), "uid": "u", "resourceVersion": "1"},
                "spec": {"request": asked.last().unwrap(), "signerName": "kubernetes.io/kubelet-serving"}});
            item["status"] = if asked.len() == 1 {
                json!({"conditions": [{"type": "Denied", "status": "True", "reason": "No", "message": "not you"}]})
            } else {
                use base64::Engine as _;
                let standard = base64::engine::general_purpose::STANDARD;
                let pem = String::from_utf8(standard.decode(asked.last().unwrap()).unwrap()).unwrap();
                let mut request = rcgen::CertificateSigningRequestParams::from_pem(&pem).unwrap();
                (request.params.not_before, request.params.not_after) = (self.now().into(), (self.now() + DAY * 100).into());
                json!({"certificate": standard.encode(request.signed_by(&self.authority).unwrap().pem())})
            };
            json!({"kind": "CertificateSigningRequestList", "apiVersion": "certificates.k8s.io/v1", "metadata": {"resourceVersion": "1"}, "items": [item]})
        }
    }

    struct Api(Arc<Signer>);

    impl Transport for Api {
        fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, Error>> {
            let signer = Arc::clone(&self.0);
            Box::pin(async move {
                if request.uri().query().is_some_and(|q| q.contains("watch=true")) {
                    return std::future::pending().await;
                }
                let body = Full::new(Bytes::from(signer.answer(&request).to_string())).map_err(|never| match never {}).boxed_unsync();
                Ok(Response::builder().status(200).header("content-type", "application/json").body(body).unwrap())
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_never_ends() {
        let folder = TempDir::new("rotation");
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let signer = Arc::new(Signer { authority: rcgen::Issuer::new(params, key), asked: Mutex::default(), started: tokio::time::Instant::now() });
        let time = Arc::clone(&signer);
        let rotation = Rotation {
            wanted: Wanted::serving("n", &["192.0.2.1".parse().unwrap()]),
            file: folder.path().join("serving.pem"),
            client: Client::new(Arc::new(Api(Arc::clone(&signer)))),
            clock: Clock::new(move || time.now()),
        };
        let shown = Mutex::new(Vec::new());
        let (cert, key) = made("system:node:n", &["n", "192.0.2.9"], day(0), day(100));
        let former = Pair::new(&cert, &key).unwrap();
        let keep = rotation.keep(Some(former), |pair: &Pair| shown.lock().push((signer.now(), pair.ends())));
        let _ = tokio::time::timeout(DAY * 250, keep).await;
        let shown = shown.into_inner();
        // The first says another address than the node has: it is asked for at once, denied, and asked for again.
        assert!(shown[0].0 < day(1) && shown.len() >= 3, "{shown:?}");
        assert_eq!(signer.asked.lock().len(), shown.len() + 1);
        for (before, after) in shown.iter().zip(&shown[1..]) {
            let part = after.0.duration_since(before.0).unwrap();
            assert!(part >= DAY * 69 && part <= DAY * 91 && after.0 < before.1, "{shown:?}");
        }
        assert_eq!(Pair::load(&rotation.file).unwrap().unwrap().ends().duration_since(shown.last().unwrap().1).unwrap_or_default().as_secs(), 0);
    }
}
