//! Tells a person why a part that runs by itself gets nothing done: its server cannot be reached, or refuses.
//!
//! Every part tries again for ever, which is right and says nothing. So what fails is told in the log: the first time at
//! once, then ever more rarely, and once when it works again. Told is what was asked (method and path), what the server
//! said, and what to do; never a header or an object, so no token and no Secret.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::kubeconfig::Endpoint;
use crate::transport::{Body, Transport};

/// From the first telling of a problem to the second; it doubles each time.
const GAP_MIN: Duration = Duration::from_secs(60);
/// The longest silence about what still fails.
const GAP_MAX: Duration = Duration::from_secs(3600);
/// Problems that are kept apart; what fails beyond them is like them.
const PROBLEMS_MAX: usize = 32;
/// Bytes of a refusal that are read; a `Status` has some hundred.
const REFUSAL_MAX: usize = 64 * 1024;
/// Characters of a server's words that are told.
const WORDS_MAX: usize = 600;
/// Names of problems that are no request's own.
const UNREACHABLE: &str = "connect";
const UNKNOWN: &str = "authenticate";

/// What fails at one server, told in the log. Cheap to clone: all clones keep one book, so a server that is away is told
/// once, however many ask.
#[derive(Clone)]
pub struct Reports {
    inner: Arc<Inner>,
}

struct Inner {
    server: String,
    kubeconfig: PathBuf,
    problems: Mutex<HashMap<String, Problem>>,
}

struct Problem {
    /// It was told and has not ended.
    open: bool,
    /// Not told again before.
    silent_until: Instant,
    gap: Duration,
}

/// What came of a request.
enum Outcome<'a> {
    /// No answer.
    Failed(&'a str),
    /// An answer's code and, if that is an error, the server's words.
    Answered(u16, &'a str),
}

impl Reports {
    /// For the server that this file names.
    #[must_use]
    pub fn new(kubeconfig: &Path, endpoint: &Endpoint) -> Self {
        // Without a name and password that may stand in an address.
        let address = endpoint.server.parse::<Uri>().ok().and_then(|uri| {
            let port = uri.port().map(|p| format!(":{p}")).unwrap_or_default();
            Some(format!("{}://{}{port}", uri.scheme_str()?, uri.host()?))
        });
        let server = address.unwrap_or_else(|| "its address".to_owned());
        Self { inner: Arc::new(Inner { server, kubeconfig: kubeconfig.to_owned(), problems: Mutex::default() }) }
    }

    /// The same transport with its failures told.
    #[must_use]
    pub fn over(&self, transport: impl Transport) -> Arc<dyn Transport> {
        Arc::new(Reporting { transport: Arc::new(transport), book: self.inner.clone() })
    }
}

struct Reporting<T> {
    transport: Arc<T>,
    book: Arc<Inner>,
}

impl<T: Transport> Transport for Reporting<T> {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>>> {
        let (transport, book) = (self.transport.clone(), self.book.clone());
        let read = request.method() == Method::GET;
        let watch = request.uri().query().is_some_and(|q| q.split('&').any(|p| p == "watch=true"));
        let verb = if watch { "watch" } else { request.method().as_str() };
        let asked = format!("{verb} {}", request.uri().path());
        Box::pin(async move {
            let (result, said) = match transport.send(request).await {
                Ok(answer) if answer.status().as_u16() >= 400 => match read_refusal(answer).await {
                    Ok((answer, said)) => (Ok(answer), said),
                    Err(error) => (Err(error), String::new()),
                },
                other => (other, String::new()),
            };
            let error = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
            let outcome = match &result {
                Ok(answer) => Outcome::Answered(answer.status().as_u16(), &said),
                // What a transport asks for by itself, a token for one, is refused like a request.
                Err(Error::Api(status)) => Outcome::Answered(status.code, &status.message),
                Err(_) => Outcome::Failed(&error),
            };
            for line in book.note(&asked, read, &outcome, Instant::now()) {
                tracing::warn!("{line}");
            }
            result
        })
    }
}

/// A refusal, and the server's words in it.
async fn read_refusal(answer: Response<Body>) -> Result<(Response<Body>, String)> {
    let (parts, mut body) = answer.into_parts();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let data = frame.map_err(|e| Error::Transport(e.to_string()))?.into_data().unwrap_or_default();
        if bytes.len() + data.len() > REFUSAL_MAX {
            return Err(Error::Transport(format!("a refusal ({}) is larger than {REFUSAL_MAX} bytes", parts.status)));
        }
        bytes.extend_from_slice(&data);
    }
    let status = serde_json::from_slice::<Value>(&bytes).unwrap_or_default();
    let said = status["message"].as_str().map_or_else(|| String::from_utf8_lossy(&bytes).trim().to_owned(), str::to_owned);
    Ok((Response::from_parts(parts, Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync()), said))
}

impl Inner {
    /// What is to be told of a request's outcome.
    fn note(&self, asked: &str, read: bool, outcome: &Outcome<'_>, now: Instant) -> Vec<String> {
        let (server, file) = (&self.server, self.kubeconfig.display());
        let mut lines = Vec::new();
        let (code, said) = match outcome {
            Outcome::Failed(why) => {
                let todo = if why.contains("certificate") {
                    format!(
                        "the kubeconfig {file} trusts another authority than that of the server's certificate, or the server does not trust its client certificate"
                    )
                } else {
                    format!("is the server running, and is it the one that the kubeconfig {file} should name?")
                };
                lines.extend(self.fails(UNREACHABLE, now, || format!("the API server at {server} cannot be reached: {}; {todo}", words(why))));
                return lines;
            }
            Outcome::Answered(code, said) => (*code, *said),
        };
        lines.extend(self.works(UNREACHABLE, || format!("the API server at {server} is reached again")));
        if code == 401 {
            let why = || {
                format!(
                    "the API server at {server} does not know who asks (401): the credentials in the kubeconfig {file} are not of its cluster, or have ended"
                )
            };
            lines.extend(self.fails(UNKNOWN, now, why));
            return lines;
        }
        lines.extend(self.works(UNKNOWN, || format!("the API server at {server} knows again who asks")));
        let problem = match code {
            // Admission's refusals are about an object, and its writer's to tell.
            403 if said.contains("User \"system:anonymous\" cannot ") => Some(format!("the kubeconfig {file} has no credentials that the server takes")),
            403 if said.contains("\" cannot ") => Some(format!("give the user that right, or start with another's kubeconfig than {file}")),
            404 if read && said.starts_with("404 page") => {
                Some("this server has no such resource; is its version older, or the resource turned off?".to_owned())
            }
            500.. if read => Some("see the server's log".to_owned()),
            _ => None,
        };
        lines.extend(match problem {
            Some(todo) => self.fails(asked, now, || format!("the API server at {server} answers {asked:?} with {code}: {}; {todo}", words(said))),
            None if code < 400 => self.works(asked, || format!("the API server at {server} answers {asked:?} again")),
            None => None,
        });
        lines
    }

    fn fails(&self, name: &str, now: Instant, line: impl FnOnce() -> String) -> Option<String> {
        let mut problems = self.problems.lock();
        if problems.len() >= PROBLEMS_MAX && !problems.contains_key(name) {
            problems.retain(|_, problem| problem.open || now < problem.silent_until);
            if problems.len() >= PROBLEMS_MAX {
                return None;
            }
        }
        let problem = problems.entry(name.to_owned()).or_insert(Problem { open: false, silent_until: now, gap: GAP_MIN });
        if now < problem.silent_until {
            return None;
        }
        problem.open = true;
        problem.silent_until = now + problem.gap;
        problem.gap = (problem.gap * 2).min(GAP_MAX);
        Some(line())
    }

    /// What comes and goes is not told each time: the silence outlives the problem's end.
    fn works(&self, name: &str, line: impl FnOnce() -> String) -> Option<String> {
        let mut problems = self.problems.lock();
        let problem = problems.get_mut(name).filter(|p| p.open)?;
        problem.open = false;
        Some(line())
    }
}

/// A server's words on one line of bounded length.
fn words(text: &str) -> String {
    text.chars().take(WORDS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> Arc<Inner> {
        let text =
            "{clusters: [{name: c, cluster: {server: 'https://u:secret@10.0.0.1:6443/x'}}], contexts: [{name: c, context: {cluster: c}}], current-context: c}";
        let endpoint = Endpoint::parse(text, Path::new(".")).unwrap();
        Reports::new(Path::new("/etc/kc"), &endpoint).inner
    }

    #[test]
    fn a_problem_is_told_at_once_then_rarely_and_once_when_it_is_over() {
        let (book, start) = (book(), Instant::now());
        let refused = Outcome::Failed("10.0.0.1:6443: Connection refused");
        let at = |seconds: u64, outcome: &Outcome<'_>| book.note("GET /api/v1/nodes", true, outcome, start + Duration::from_secs(seconds));
        let first = "the API server at https://10.0.0.1:6443 cannot be reached: 10.0.0.1:6443: Connection refused; is the server running, \
            and is it the one that the kubeconfig /etc/kc should name?";
        assert_eq!(at(0, &refused), [first]);
        let told: Vec<u64> = (1..7300).filter(|s| !at(*s, &refused).is_empty()).collect();
        assert_eq!(told, [60, 180, 420, 900, 1860, 3780, 7380].into_iter().filter(|s| *s < 7300).collect::<Vec<_>>());
        assert_eq!(at(7300, &Outcome::Answered(200, "")), ["the API server at https://10.0.0.1:6443 is reached again"]);
        assert_eq!(at(7301, &Outcome::Answered(200, "")), [""; 0]);
        assert_eq!(at(7302, &refused), [""; 0], "what comes and goes is not told each time");
    }

    #[test]
    fn refusals_say_whose_and_what_to_do() {
        let (book, now) = (book(), Instant::now());
        let note = |asked: &str, code, said: &str| book.note(asked, asked.starts_with("GET"), &Outcome::Answered(code, said), now).join("|");
        let rbac = "nodes is forbidden: User \"eve\" cannot list resource \"nodes\" in API group \"\" at the cluster scope";
        assert_eq!(
            note("GET /api/v1/nodes", 403, rbac),
            format!(
                "the API server at https://10.0.0.1:6443 answers \"GET /api/v1/nodes\" with 403: {rbac}; give the user that right, or start with another's kubeconfig than /etc/kc"
            )
        );
        assert_eq!(note("GET /api/v1/nodes", 403, rbac), "");
        assert_eq!(note("GET /api/v1/pods", 200, ""), "", "another request says nothing of this one");
        assert_eq!(note("GET /api/v1/nodes", 200, ""), "the API server at https://10.0.0.1:6443 answers \"GET /api/v1/nodes\" again");
        assert!(note("GET /api/v1/x", 403, "User \"system:anonymous\" cannot list").contains("no credentials that the server takes"));
        assert!(note("GET /api/v1/x", 401, "Unauthorized").contains("the credentials in the kubeconfig /etc/kc"));
        assert!(note("GET /api/v1/x", 200, "").contains("knows again who asks"));
        assert!(note("GET /apis/x/v1/y", 404, "404 page not found").contains("no such resource"));
        assert!(note("GET /apis/x/v1/z", 503, "down\nnow").contains("down now"));
        for (asked, code, said) in [
            ("GET /api/v1/namespaces/a/pods/b", 404, "pods \"b\" not found"),
            ("POST /api/v1/namespaces/a/pods", 403, "pods \"b\" is forbidden: exceeded quota"),
            ("POST /api/v1/namespaces/a/pods", 500, "a webhook"),
            ("GET /api/v1/pods", 410, "too old"),
        ] {
            assert_eq!(note(asked, code, said), "", "{asked} {code}: an answer like any other");
        }
    }

    #[test]
    fn the_book_is_bounded() {
        let (book, now) = (book(), Instant::now());
        let told = (0..100).filter(|i| !book.note(&format!("GET /{i}"), true, &Outcome::Answered(500, "x"), now).is_empty()).count();
        assert_eq!(told, PROBLEMS_MAX);
    }

    /// Refuses with a `Status`.
    struct Refuses;

    impl Transport for Refuses {
        fn send(&self, _: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>>> {
            let body = Full::new(Bytes::from_static(br#"{"kind":"Status","message":"no"}"#)).map_err(|never| match never {}).boxed_unsync();
            Box::pin(async move { Ok(Response::builder().status(500).body(body).unwrap()) })
        }
    }

    #[tokio::test]
    async fn the_answer_reaches_the_caller_whole() {
        let reports = Reports { inner: book() };
        let client = crate::Client::new(reports.over(Refuses));
        let error = client.raw(Request::get("/api/v1/nodes?limit=1").body(Bytes::new()).unwrap()).await.err().unwrap();
        assert_eq!(error.status().map(|s| (s.code, s.message.as_str())), Some((500, "no")));
        assert!(reports.inner.problems.lock().contains_key("GET /api/v1/nodes"));
    }
}
