//! Logins by the registries that they are for, and the images that they open (upstream's `BasicDockerKeyring` and `URLsMatch`).

use std::collections::BTreeMap;

/// Logins by the host, and perhaps the beginning of the path, that they are for.
pub struct Keyring<T>(BTreeMap<String, Vec<T>>);

impl<T> Default for Keyring<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Clone> Keyring<T> {
    /// A login more, for a place as a `.dockerconfigjson` names it: `https://reg.io/v1/`, `*.reg.io:5000/team`.
    pub fn add(&mut self, place: &str, login: T) {
        let bare = place.strip_prefix("https://").or_else(|| place.strip_prefix("http://")).unwrap_or(place);
        let (host, path) = parts(bare);
        let path = path.strip_prefix("/v1").or_else(|| path.strip_prefix("/v2")).filter(|rest| rest.starts_with('/')).unwrap_or(path);
        let key = if path == "/" { host.to_owned() } else { format!("{host}{path}") };
        self.0.entry(key).or_default().push(login);
    }

    /// The logins for a repository (`docker.io/library/nginx`): of the longest path first.
    #[must_use]
    pub fn look_up(&self, repository: &str) -> Vec<T> {
        let found: Vec<T> = self.0.iter().rev().filter(|(place, _)| matches(place, repository)).flat_map(|(_, logins)| logins.iter().cloned()).collect();
        if found.is_empty() && is_default_registry(repository) {
            return self.0.get("index.docker.io").cloned().unwrap_or_default();
        }
        found
    }
}

fn is_default_registry(repository: &str) -> bool {
    match repository.split_once('/') {
        None => !repository.is_empty(),
        Some(("docker.io" | "index.docker.io", _)) => true,
        Some((host, _)) => !host.is_empty() && !host.contains(['.', ':']),
    }
}

/// The host and the path of an URL without its scheme.
fn parts(url: &str) -> (&str, &str) {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    url.find('/').map_or((url, ""), |at| url.split_at(at))
}

/// The host's name and its port, which may be missing.
fn port(host: &str) -> (&str, &str) {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') => (name, port),
        Some((name, port)) if name.starts_with('[') && name.ends_with(']') => (name.trim_start_matches('[').trim_end_matches(']'), port),
        _ => (host, ""),
    }
}

/// Whether a place, whose host may have patterns in each of its parts, means an image: the port is the same, and the path begins so.
#[must_use]
pub fn matches(place: &str, image: &str) -> bool {
    let ((place, path), (image, image_path)) = (parts(place), parts(image));
    let ((place, place_port), (image, image_port)) = (port(place), port(image));
    let (globs, names): (Vec<&str>, Vec<&str>) = (place.split('.').collect(), image.split('.').collect());
    place_port == image_port && globs.len() == names.len() && image_path.starts_with(path) && globs.iter().zip(&names).all(|(glob, name)| fits(glob, name))
}

/// Go's `filepath.Match` of what a host may be in an URL: it knows no other pattern than the star. Users write them, as many as they like.
fn fits(glob: &str, name: &str) -> bool {
    let Some((first, rest)) = glob.split_once('*') else { return glob == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let (parts, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    // Each part stands as early as it can, the last one at the end.
    for part in parts.split('*') {
        let Some((_, after)) = name.split_once(part) else { return false };
        name = after;
    }
    name.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_ports_and_paths_are_compared_as_upstream_does() {
        for (place, image) in [
            ("123456789.dkr.ecr.us-east-1.amazonaws.com", "123456789.dkr.ecr.us-east-1.amazonaws.com/team/app"),
            ("*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.eu.amazonaws.com/x"),
            ("reg-*.io:5000/team", "reg-1.io:5000/team/app"),
            ("reg.io/te", "reg.io/team/app"),
            ("localhost:5000", "localhost:5000/x"),
            ("[::1]:5000", "[::1]:5000/x"),
        ] {
            assert!(matches(place, image), "{place} {image}");
        }
        for (place, image) in [
            ("*.example.com", "example.com/x"),
            ("*.example.com", "a.b.example.com/x"),
            ("reg.io", "reg.io:5000/x"),
            ("reg.io:5000", "reg.io/x"),
            ("reg.io/team", "reg.io/other"),
            // No URL.
            ("reg[0-9].io", "reg1.io/x"),
            ("reg.io", "reg.io.evil.com/x"),
        ] {
            assert!(!matches(place, image), "{place} {image}");
        }
    }

    #[test]
    fn stars_take_what_is_left_to_them_and_many_of_them_no_time() {
        for (place, image) in [("*a*b", "aabcb/x"), ("a**", "a/x"), ("r*1*-b", "r1-a1-b/x"), ("*", "a/x"), ("*ab*", "aab/x")] {
            assert!(matches(place, image), "{place} {image}");
        }
        for (place, image) in [("*a*b", "aabc/x"), ("*ab*ab", "ab/x"), ("ab*b", "ab/x"), ("*ba*", "ab/x")] {
            assert!(!matches(place, image), "{place} {image}");
        }
        assert!(!matches(&"*a".repeat(60), &format!("{}b/x", "a".repeat(200))));
    }

    #[test]
    fn the_longest_path_is_first_whoever_has_it() {
        let mut keyring = Keyring::default();
        keyring.add("reg.io", 1);
        keyring.add("https://reg.io/v2/team", 2);
        keyring.add("http://reg.io/v1/", 3);
        keyring.add("https://index.docker.io/v1/", 4);
        assert_eq!(keyring.look_up("reg.io/team/app"), [2, 1, 3]);
        assert_eq!(keyring.look_up("reg.io/app"), [1, 3]);
        assert_eq!(keyring.look_up("docker.io/library/nginx"), [4]);
        assert!(keyring.look_up("other.io/x").is_empty());
        keyring.add("docker.io", 5);
        assert_eq!(keyring.look_up("docker.io/library/nginx"), [5], "the old name of the default registry is for those that have no other");
    }
}
