//! Several ways to one cluster: the API servers of a control plane, by one's own choice in the place of a load balancer.
//!
//! One way is used until it fails; then the next is, for all requests that follow. A request that only reads is sent again at once; any
//! other is not, since it may have been done, and its sender knows what that means and asks again, as for any failure of a connection.
//! The ways can be replaced while requests are under way, when credentials were renewed: what was begun ends as it began.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response};
use parking_lot::RwLock;

use crate::error::{Error, Result};
use crate::transport::{Body, Transport};

/// A transport over several others.
#[derive(Clone)]
pub struct Failover {
    ways: Arc<RwLock<Ways>>,
}

struct Ways {
    all: Vec<Arc<dyn Transport>>,
    /// Which is used.
    at: usize,
    /// Grows with each change of either.
    turn: u64,
    /// When a change was told last.
    told: Option<Instant>,
}

/// Where all servers are away, each request has its turn after turn: so long nothing is told again.
const QUIET: Duration = Duration::from_secs(30);

impl Failover {
    /// Over these, the first before the others.
    ///
    /// # Errors
    /// There is none.
    pub fn new(all: Vec<Arc<dyn Transport>>) -> Result<Self> {
        let ways = Ways { all, at: 0, turn: 0, told: None };
        ways.check()?;
        Ok(Self { ways: Arc::new(RwLock::new(ways)) })
    }

    /// Uses others from now on, which lead to the same places in the same order.
    ///
    /// # Errors
    /// There is none; the former stay.
    pub fn replace(&self, all: Vec<Arc<dyn Transport>>) -> Result<()> {
        let mut ways = self.ways.write();
        let new = Ways { at: ways.at % all.len().max(1), turn: ways.turn + 1, all, told: ways.told };
        new.check()?;
        *ways = new;
        Ok(())
    }

    /// The way that is used, whose turn it is, and how many there are.
    fn now(&self) -> (Arc<dyn Transport>, u64, usize) {
        let ways = self.ways.read();
        (Arc::clone(&ways.all[ways.at]), ways.turn, ways.all.len())
    }

    /// The one that was used has failed, and why; only the first of many requests that see it makes the next one's turn.
    fn failed(&self, turn: u64, why: &str) {
        let mut ways = self.ways.write();
        if ways.turn == turn && ways.all.len() > 1 {
            ways.at = (ways.at + 1) % ways.all.len();
            ways.turn += 1;
            if ways.is_news(Instant::now()) {
                tracing::warn!(server = ways.at + 1, of = ways.all.len(), error = why, "an API server is not reached; asking the next");
            }
        }
    }
}

impl Ways {
    fn check(&self) -> Result<()> {
        if self.all.is_empty() { Err(Error::Config("no API server is named".to_owned())) } else { Ok(()) }
    }

    /// Whether a change is to be told.
    fn is_news(&mut self, now: Instant) -> bool {
        let is_news = self.told.is_none_or(|told| now.duration_since(told) >= QUIET);
        if is_news {
            self.told = Some(now);
        }
        is_news
    }
}

impl Transport for Failover {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>>> {
        let own = self.clone();
        Box::pin(async move {
            let reads = matches!(*request.method(), Method::GET | Method::HEAD);
            let mut tries = 0;
            loop {
                let (way, turn, all) = own.now();
                tries += 1;
                match way.send(request.clone()).await {
                    Err(Error::Transport(why)) => {
                        own.failed(turn, &why);
                        if !reads || tries >= all {
                            return Err(Error::Transport(why));
                        }
                    }
                    answer => return answer,
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt as _, Full};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A server that answers its number, or is away.
    fn server(number: u16, asked: &Arc<AtomicUsize>, away: bool) -> Arc<dyn Transport> {
        let asked = Arc::clone(asked);
        Arc::new(move |_: Request<Bytes>| -> BoxFuture<'static, Result<Response<Body>>> {
            asked.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                if away {
                    return Err(Error::Transport("away".to_owned()));
                }
                let body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
                Ok(Response::builder().status(200 + number).body(body).unwrap())
            })
        })
    }

    async fn ask(ways: &Failover, method: Method) -> Option<u16> {
        let request = Request::builder().method(method).uri("/api").body(Bytes::new()).unwrap();
        ways.send(request).await.ok().map(|answer| answer.status().as_u16() - 200)
    }

    #[test]
    fn servers_that_are_all_away_are_told_of_now_and_then() {
        let mut ways = Ways { all: Vec::new(), at: 0, turn: 0, told: None };
        let begun = Instant::now();
        let told = (0..100).filter(|second| ways.is_news(begun + Duration::from_secs(*second))).collect::<Vec<_>>();
        assert_eq!(told, [0, 30, 60, 90]);
    }

    #[tokio::test]
    async fn the_next_server_is_asked_when_one_is_away_and_stays_the_one_that_is() {
        let asked = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
        let times = || asked.each_ref().map(|a| a.load(Ordering::Relaxed));
        let of = |away: [bool; 3]| (0..3).map(|n| server(n as u16, &asked[n], away[n])).collect::<Vec<_>>();
        let ways = Failover::new(of([true, false, false])).unwrap();
        assert_eq!(ask(&ways, Method::GET).await, Some(1));
        assert_eq!(ask(&ways, Method::GET).await, Some(1));
        assert_eq!(times(), [1, 2, 0]);
        // The same places with new credentials: the second one's turn is not over.
        ways.replace(of([false, true, false])).unwrap();
        assert_eq!(ask(&ways, Method::POST).await, None, "what may have been done is not done again");
        assert_eq!(ask(&ways, Method::POST).await, Some(2));
        assert_eq!(times(), [1, 3, 1]);
        ways.replace(of([true; 3])).unwrap();
        assert_eq!(ask(&ways, Method::GET).await, None);
        assert_eq!(times(), [2, 4, 2], "each once");
        assert!(ways.replace(Vec::new()).is_err() && Failover::new(Vec::new()).is_err());
    }
}
