//! How the front proxy says who asks: whose certificate it may show, and the headers in which it names a user (upstream's
//! `RequestHeaderAuthenticationOptions`, KEP-4193 for the UID).

use crate::User;

/// The headers, by upstream's flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeaders {
    /// `--requestheader-allowed-names`: who may say who asks; whoever the authority vouches for, if empty.
    pub allowed_names: Vec<String>,
    /// `--requestheader-username-headers`.
    pub username: Vec<String>,
    /// `--requestheader-uid-headers`.
    pub uid: Vec<String>,
    /// `--requestheader-group-headers`.
    pub group: Vec<String>,
    /// `--requestheader-extra-headers-prefix`.
    pub extra_prefix: Vec<String>,
}

impl Default for RequestHeaders {
    /// Those of a cluster that makes its front proxy itself.
    fn default() -> Self {
        let one = |text: &str| vec![text.to_owned()];
        RequestHeaders {
            allowed_names: one("front-proxy-client"),
            username: one("X-Remote-User"),
            uid: one("X-Remote-Uid"),
            group: one("X-Remote-Group"),
            extra_prefix: one("X-Remote-Extra-"),
        }
    }
}

impl RequestHeaders {
    /// Those of a front proxy of which nothing was said: nobody is named by it.
    pub fn none() -> Self {
        RequestHeaders { allowed_names: Vec::new(), username: Vec::new(), uid: Vec::new(), group: Vec::new(), extra_prefix: Vec::new() }
    }

    /// What is wrong with them, and what is only warned of; in upstream's words.
    pub fn problems(&self) -> (Vec<String>, Vec<String>) {
        let lists = [
            ("username-headers", &self.username),
            ("group-headers", &self.group),
            ("extra-headers-prefix", &self.extra_prefix),
            ("allowed-names", &self.allowed_names),
            ("uid-headers", &self.uid),
        ];
        let blank = |list: &[String]| list.iter().any(|text| text.trim().is_empty());
        let mut errors: Vec<String> =
            lists.iter().filter(|(_, list)| blank(list)).map(|(flag, _)| format!("empty value in {:?}", format!("requestheader-{flag}"))).collect();
        let without = |list: &[String], standard: &str| !list.is_empty() && !list.iter().any(|text| text.eq_ignore_ascii_case(standard));
        let told = |flag: &str, what: &str| format!("--requestheader-{flag} is set without specifying the standard {what} - API aggregation will not work");
        if without(&self.uid, "X-Remote-Uid") {
            errors.push(told("uid-headers", "X-Remote-Uid header"));
        }
        let warnings = [
            (&self.username, "username-headers", "X-Remote-User", "X-Remote-User header"),
            (&self.group, "group-headers", "X-Remote-Group", "X-Remote-Group header"),
            (&self.extra_prefix, "extra-headers-prefix", "X-Remote-Extra-", "X-Remote-Extra- header prefix"),
        ];
        let warnings = warnings.iter().filter(|(list, _, standard, _)| without(list, standard)).map(|(_, flag, _, what)| told(flag, what)).collect();
        (errors, warnings)
    }

    /// Whether somebody of this name may say who asks.
    pub fn allows(&self, name: &str) -> bool {
        self.allowed_names.is_empty() || self.allowed_names.iter().any(|allowed| allowed == name)
    }

    /// Whether a header says who asks: these do, and upstream's standard ones, which this server itself writes.
    pub fn says(&self, header: &str) -> bool {
        let standard = ["x-remote-user", "x-remote-uid", "x-remote-group"];
        let lists = [&self.username, &self.uid, &self.group];
        let is = |known: &str| known.eq_ignore_ascii_case(header);
        standard.into_iter().any(is)
            || lists.into_iter().flatten().any(|known| is(known))
            || ["x-remote-extra-"].into_iter().chain(self.extra_prefix.iter().map(String::as_str)).any(|prefix| beyond(prefix, header).is_some())
    }

    /// The user that headers name; none if they name nobody. Whether it is the front proxy who says so is for the caller to know.
    /// `headers`: names in lower case with their values, those of one name in their order; `decode` undoes the escapes of a key.
    pub fn user(&self, headers: &[(&str, String)], decode: impl Fn(&str) -> String) -> Option<User> {
        let of = |name: &str| -> Vec<String> { headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone()).collect() };
        // Of several values of a header the first counts, and it may be empty.
        let first = |names: &[String]| names.iter().filter_map(|name| of(name).into_iter().next()).find(|value| !value.is_empty());
        let mut user = User { name: first(&self.username)?, uid: first(&self.uid).unwrap_or_default(), ..User::default() };
        user.groups = self.group.iter().flat_map(|name| of(name)).filter(|group| !group.is_empty()).collect();
        for prefix in &self.extra_prefix {
            for (name, value) in headers {
                if let Some(key) = beyond(prefix, name) {
                    user.extra.entry(decode(key)).or_default().push(value.clone());
                }
            }
        }
        Some(user)
    }
}

/// What stands behind a prefix.
fn beyond<'h>(prefix: &str, header: &'h str) -> Option<&'h str> {
    let (head, rest) = header.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn wrong_headers_are_told_as_upstream_tells_them() {
        assert_eq!(RequestHeaders::default().problems(), (vec![], vec![]));
        assert_eq!(RequestHeaders::none().problems(), (vec![], vec![]));
        let odd = RequestHeaders {
            allowed_names: list(&["a", " "]),
            username: list(&["X-User"]),
            uid: list(&["X-Uid"]),
            group: list(&["x-remote-group", ""]),
            extra_prefix: list(&["X-E-"]),
        };
        let (errors, warnings) = odd.problems();
        assert_eq!(
            errors,
            [
                r#"empty value in "requestheader-group-headers""#,
                r#"empty value in "requestheader-allowed-names""#,
                "--requestheader-uid-headers is set without specifying the standard X-Remote-Uid header - API aggregation will not work",
            ]
        );
        assert_eq!(
            warnings,
            [
                "--requestheader-username-headers is set without specifying the standard X-Remote-User header - API aggregation will not work",
                "--requestheader-extra-headers-prefix is set without specifying the standard X-Remote-Extra- header prefix - API aggregation will not work",
            ]
        );
    }

    #[test]
    fn users_are_named_by_the_headers_that_are_told() {
        let own = RequestHeaders {
            username: list(&["X-First", "X-Remote-User"]),
            group: list(&["X-G", "X-Remote-Group"]),
            extra_prefix: list(&["X-E-", "X-Remote-Extra-"]),
            ..RequestHeaders::none()
        };
        let headers =
            [("x-remote-user", "jane"), ("x-g", "a"), ("x-remote-group", "b"), ("x-g", ""), ("x-e-k", "1"), ("x-remote-extra-k", "2"), ("x-remote-uid", "u")];
        let headers: Vec<(&str, String)> = headers.map(|(name, value)| (name, value.to_owned())).to_vec();
        let user = own.user(&headers, str::to_owned).expect("somebody");
        assert_eq!((user.name.as_str(), user.uid.as_str(), &user.groups), ("jane", "", &list(&["a", "b"])));
        assert_eq!(user.extra["k"], list(&["1", "2"]));
        assert_eq!(RequestHeaders::none().user(&headers, str::to_owned), None);
        assert_eq!(RequestHeaders::default().user(&headers[1..], str::to_owned), None);

        assert!(own.allows("anybody") && RequestHeaders::default().allows("front-proxy-client") && !RequestHeaders::default().allows("anybody"));
        let said = |headers: &RequestHeaders| ["x-first", "x-e-", "x-remote-uid", "x-remote-extra-a", "x-remote"].map(|name| headers.says(name));
        assert_eq!(said(&own), [true, true, true, true, false]);
        assert_eq!(said(&RequestHeaders::default()), [false, false, true, true, false]);
    }
}
