//! `/logs/`: files below the node's `/var/log`, as upstream serves them to whoever may read `nodes/log`.

use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::Path;

use http::StatusCode;

use super::{Answer, text};
use crate::volumes::subpath;

/// Where the node's logs are.
const ROOT: &str = "/var/log";
/// Most bytes of a file that are shown.
const MAX_BYTES: u64 = 16 << 20;

/// A directory as a list of links, or a file.
pub(super) fn logs(relative: &str) -> Answer {
    let Ok(path) = subpath::check(relative) else { return text(StatusCode::BAD_REQUEST, "invalid path\n") };
    let path = if path.as_os_str().is_empty() { Path::new(".").to_owned() } else { path };
    let Ok(opened) = subpath::open_beneath(Path::new(ROOT), &path) else { return text(StatusCode::NOT_FOUND, "404 page not found\n") };
    if opened.metadata().is_ok_and(|m| m.is_dir()) {
        // By what was opened: the name may lead elsewhere by now.
        let mut names: Vec<String> = fs::read_dir(format!("/proc/self/fd/{}", opened.as_raw_fd()))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| {
                let slash = if e.file_type().ok()?.is_dir() { "/" } else { "" };
                Some(format!("{}{slash}", e.file_name().to_str()?))
            })
            .collect();
        names.sort();
        let list: String = names.iter().map(|n| format!("<a href=\"{n}\">{n}</a>\n")).collect();
        let mut answer = text(StatusCode::OK, format!("<pre>\n{list}</pre>\n"));
        answer.headers_mut().insert("content-type", http::HeaderValue::from_static("text/html; charset=utf-8"));
        return answer;
    }
    let mut bytes = Vec::new();
    match opened.take(MAX_BYTES).read_to_end(&mut bytes).map(|_| bytes) {
        Ok(bytes) => text(StatusCode::OK, bytes),
        Err(_) => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}
