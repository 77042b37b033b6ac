//! A registry for tests.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::{Built, digest};

/// A registry on loopback that answers from memory, and can be told to misbehave.
#[derive(Default)]
pub struct Registry {
    /// Path to content type and body.
    pub documents: HashMap<String, (String, Vec<u8>)>,
    /// Wants this user and password by the token flow.
    pub login: Option<(String, String)>,
    /// How often a blob breaks off in the middle.
    pub breaks: u32,
    /// Refused once each, in their order: path, status, headers.
    pub refusals: Vec<(String, String, String)>,
    /// Where a path is instead.
    pub redirects: HashMap<String, String>,
    /// Answers everything with a challenge that leads to itself.
    pub challenge_all: bool,
    pub requests: Vec<String>,
    pub authorizations: Vec<String>,
    pub proxy_authorizations: Vec<String>,
    pub connections: u32,
}

impl Registry {
    pub fn add(&mut self, repository: &str, tag: &str, built: &Built) {
        for (digest, blob) in &built.blobs {
            let kind = "application/octet-stream".to_owned();
            self.documents.insert(format!("/v2/{repository}/blobs/{digest}"), (kind, blob.clone()));
        }
        let manifest = built.blobs.iter().find(|(d, _)| *d == built.manifest).unwrap().1.clone();
        let kind = "application/vnd.oci.image.manifest.v1+json".to_owned();
        self.documents.insert(format!("/v2/{repository}/manifests/{}", built.manifest), (kind, manifest.clone()));
        let foreign = json!({"digest": digest(b"x"), "size": 1, "platform": {"os": "linux", "architecture": "s390x"}});
        let own = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": built.manifest, "size": manifest.len(),
            "platform": {"os": "linux", "architecture": "amd64"}});
        let index = json!({"schemaVersion": 2, "manifests": [foreign, own]}).to_string().into_bytes();
        let kind = "application/vnd.docker.distribution.manifest.list.v2+json".to_owned();
        self.documents.insert(format!("/v2/{repository}/manifests/{tag}"), (kind, index));
    }

    /// Serves until the test ends; answers `host:port`.
    pub fn serve(self) -> (String, Arc<Mutex<Registry>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Mutex::new(self));
        let (own, host) = (Arc::clone(&shared), address.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (own, host) = (Arc::clone(&own), host.clone());
                own.lock().unwrap().connections += 1;
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    while answer(&own, &host, &mut reader, &stream) {}
                });
            }
        });
        (address, shared)
    }
}

/// Answers one request; whether another one may follow on the connection.
fn answer(registry: &Mutex<Registry>, host: &str, reader: &mut impl BufRead, mut stream: &TcpStream) -> bool {
    let mut lines = reader.lines().map_while(|l| l.ok()).take_while(|l| !l.is_empty());
    let Some(first) = lines.next() else { return false };
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let headers: HashMap<String, String> = lines.filter_map(|l| l.split_once(": ").map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned()))).collect();
    let length: usize = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let mut posted = vec![0; length];
    reader.read_exact(&mut posted).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    let path = path.strip_prefix("http://mirror.invalid").unwrap_or(path).to_owned();
    let mut registry = registry.lock().unwrap();
    let from: usize = headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()).unwrap_or(0);
    let shown = if method == "GET" || method == "POST" { target.clone() } else { format!("{method} {target}") };
    registry.requests.push(if from > 0 { format!("{shown} from {from}") } else { shown });
    registry.authorizations.extend(headers.get("authorization").cloned());
    registry.proxy_authorizations.extend(headers.get("proxy-authorization").cloned());
    let head = method == "HEAD";
    let mut say = |status: &str, extra: &str, body: &[u8], length: usize| {
        let _ = stream.write_all(format!("HTTP/1.1 {status}\r\n{extra}Content-Length: {length}\r\n\r\n").as_bytes());
        head || (stream.write_all(body).is_ok() && body.len() == length)
    };
    if registry.challenge_all {
        return say("401 Unauthorized", &format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"evil\"\r\n"), b"", 0);
    }
    if let Some(url) = registry.redirects.get(&path) {
        return say("307 Temporary Redirect", &format!("Location: {url}\r\n"), b"", 0);
    }
    if let Some(at) = registry.refusals.iter().position(|(refused, ..)| !head && *refused == path) {
        let (_, status, extra) = registry.refusals.remove(at);
        return say(&status, &extra, b"{}", 2);
    }
    if let Some((user, password)) = &registry.login {
        use base64::Engine;
        let basic = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")));
        let given = headers.get("authorization").map(String::as_str).unwrap_or_default();
        if path.starts_with("/token") {
            let token = if given == basic { "good" } else { "anonymous" };
            let body = json!({"token": token}).to_string();
            return say("200 OK", "", body.as_bytes(), body.len());
        }
        if given == "Bearer anonymous" {
            let body = br#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#;
            return say("403 Forbidden", "", body, body.len());
        }
        if given != "Bearer good" {
            let challenge = format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"test\",scope=\"repository:a:pull\"\r\n");
            return say("401 Unauthorized", &challenge, b"", 0);
        }
    }
    let Some((kind, body)) = registry.documents.get(&path).cloned() else {
        return say("404 Not Found", "", b"{}", 2);
    };
    if path.contains("/blobs/") && body.len() > 1000 && registry.breaks > 0 {
        registry.breaks -= 1;
        let whole = body.len() - from;
        return say(if from > 0 { "206 Partial Content" } else { "200 OK" }, "", &body[from..from + whole / 2], whole);
    }
    let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
    let extra = format!("Content-Type: {kind}\r\nDocker-Content-Digest: {}\r\n", digest(&body));
    say(status, &extra, &body[from..], body.len() - from)
}

pub fn noise(bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut data).unwrap();
    data
}
