//! Acting as somebody else: the headers that ask for it, and whether the real user may.
//!
//! Upstream tries modes in an order (KEP-5284, on by default since v1.36): each of the constrained ones asks for the right to act as
//! such a user (`impersonate:MODE`) and for the right to do so for this very request (`impersonate-on:MODE:VERB`); the old one asks
//! for `impersonate` on each thing that is asked for. The first that allows decides what the user is; where none does, the first
//! refusal is told. The one in which the real user has last succeeded goes before all. Upstream remembers what it decided for some seconds; here decisions come from memory as it is.

use crate::{access::authorize_verb, path::RequestInfo, query, world::World};
use http::{HeaderMap, HeaderValue};
use identity::User;
use machinery::{names, quote::Quoted, status::Status};
use std::{collections::BTreeMap, sync::Arc};

const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const NODE_KEYS: &str = "authentication.kubernetes.io/associated-node-keys";
const REVIEWS: &str = "authentication.k8s.io";
const MASTERS: &str = "system:masters";
/// From so many on, the right to all is asked for first.
const MANY: usize = 4;

/// Acts as another user if the headers ask for it and the real one may.
pub(crate) fn impersonate(world: &World, user: Arc<User>, info: &RequestInfo, headers: &HeaderMap) -> Result<Arc<User>, Status> {
    let Some(wanted) = wanted(headers)? else { return Ok(user) };
    let known = world.impersonators().last(&user.name);
    let others = (0..MODES.len()).filter(|at| Some(*at) != known);
    let mut first = None;
    for at in known.into_iter().chain(others) {
        let Some(mode) = MODES.get(at).copied().filter(|mode| mode.suits(&wanted, &user)) else { continue };
        match (Attempt { world, user: &user, info, mode, wanted: &wanted }).outcome() {
            Ok(actual) => {
                if Some(at) != known {
                    world.impersonators().succeeded(&user.name, at);
                }
                return Ok(Arc::new(actual));
            }
            Err(refusal) => first = first.or(Some(refusal)),
        }
    }
    Err(first.unwrap_or_else(|| Status::internal("all impersonation modes failed")))
}

/// Whom the headers ask for; none if they do not.
fn wanted(headers: &HeaderMap) -> Result<Option<User>, Status> {
    // A name that is not ASCII comes as it is; one that were dropped would leave the caller what he is.
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let texts = |name: &str| headers.get_all(name).iter().map(text).collect::<Vec<_>>();
    let first = |name: &str| texts(name).into_iter().next().unwrap_or_default();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in headers {
        if let Some(name) = key.as_str().strip_prefix("impersonate-extra-") {
            extra.entry(query::percent_decode(name).into_owned()).or_default().push(text(value));
        }
    }
    let user = User { name: first("impersonate-user"), uid: first("impersonate-uid"), groups: texts("impersonate-group"), extra };
    if !user.name.is_empty() {
        return Ok(Some(user));
    }
    if user.uid.is_empty() && user.groups.is_empty() && user.extra.is_empty() {
        return Ok(None);
    }
    Err(Status::bad_request(format!("requested {} without impersonating a user name", told(&user))))
}

/// A user without a name, as Go prints it.
fn told(user: &User) -> String {
    let strings = |values: &[String]| format!("[]string{{{}}}", values.iter().map(|text| Quoted(text).to_string()).collect::<Vec<_>>().join(", "));
    let groups = if user.groups.is_empty() { "[]string(nil)".to_owned() } else { strings(&user.groups) };
    let extra: Vec<String> = user.extra.iter().map(|(key, values)| format!("{}:{}", Quoted(key), strings(values))).collect();
    let extra = if extra.is_empty() { "map[string][]string(nil)".to_owned() } else { format!("map[string][]string{{{}}}", extra.join(", ")) };
    format!("&user.DefaultInfo{{Name:\"\", UID:{}, Groups:{groups}, Extra:{extra}}}", Quoted(&user.uid))
}

/// How somebody acts as another.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// A service account as the node that its pod runs on.
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    /// As a user who is neither.
    UserInfo,
    /// As before there were modes.
    Legacy,
}

/// In the order in which they are tried.
const MODES: [Mode; 5] = [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo, Mode::Legacy];

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::AssociatedNode => "associated-node",
            Mode::ArbitraryNode => "arbitrary-node",
            Mode::ServiceAccount => "serviceaccount",
            Mode::UserInfo => "user-info",
            Mode::Legacy => "",
        }
    }

    fn suits(self, wanted: &User, user: &User) -> bool {
        let name_alone = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let (node, account) = (node_of(&wanted.name), account_of(&wanted.name));
        match self {
            Mode::AssociatedNode => {
                let own = user.extra.get(NODE_NAME).map(Vec::as_slice);
                name_alone && account_of(&user.name).is_some() && node.is_some_and(|node| matches!(own, Some([own]) if own == node))
            }
            Mode::ArbitraryNode => name_alone && node.is_some(),
            Mode::ServiceAccount => name_alone && account.is_some(),
            Mode::UserInfo => node.is_none() && account.is_none(),
            Mode::Legacy => true,
        }
    }
}

fn node_of(name: &str) -> Option<&str> {
    name.strip_prefix("system:node:").filter(|node| names::dns1123_subdomain(node).is_empty())
}

fn account_of(name: &str) -> Option<(&str, &str)> {
    let (namespace, account) = name.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (names::dns1123_label(namespace).is_empty() && names::dns1123_subdomain(account).is_empty()).then_some((namespace, account))
}

/// One mode's try.
struct Attempt<'a> {
    world: &'a World,
    user: &'a Arc<User>,
    info: &'a RequestInfo,
    mode: Mode,
    wanted: &'a User,
}

impl Attempt<'_> {
    fn outcome(&self) -> Result<User, Status> {
        if self.mode != Mode::Legacy {
            let verb = format!("impersonate-on:{}:{}", self.mode.name(), self.info.verb);
            authorize_verb(self.world, &self.asking(), self.info, &verb)?;
        }
        let mut actual = self.wanted.clone();
        self.check_name(&mut actual)?;
        if !self.wanted.uid.is_empty() {
            self.ask("uids", "", "", &self.wanted.uid, REVIEWS)?;
        }
        self.check_groups()?;
        self.check_extra()?;
        let has = |group: &str| actual.groups.iter().any(|known| known == group);
        let general = if actual.name == "system:anonymous" { "system:unauthenticated" } else { "system:authenticated" };
        if !has("system:unauthenticated") && !has(general) {
            actual.groups.push(general.to_owned());
        }
        Ok(actual)
    }

    /// Who asks. Of an account that acts as its own node, what it is told to be is of no matter, but for what it is told.
    fn asking(&self) -> Arc<User> {
        if self.mode != Mode::AssociatedNode {
            return Arc::clone(self.user);
        }
        let mut user = (**self.user).clone();
        user.extra = BTreeMap::from([(NODE_KEYS.to_owned(), user.extra.keys().cloned().collect())]);
        Arc::new(user)
    }

    fn check_name(&self, actual: &mut User) -> Result<(), Status> {
        let (name, group) = (self.wanted.name.as_str(), self.users_group());
        if let Some(node) = node_of(name).filter(|_| self.mode != Mode::Legacy) {
            actual.groups = vec!["system:nodes".to_owned()];
            let node = if self.mode == Mode::AssociatedNode { "*" } else { node };
            return self.ask("nodes", "", "", node, group);
        }
        let Some((namespace, account)) = account_of(name) else { return self.ask("users", "", "", name, group) };
        // An account's groups are known; whoever names groups means those.
        if self.wanted.groups.is_empty() {
            actual.groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
        }
        self.ask("serviceaccounts", "", namespace, account, group)
    }

    fn check_groups(&self) -> Result<(), Status> {
        let groups = &self.wanted.groups;
        let ask = |name: &str| self.ask("groups", "", "", name, self.users_group());
        if self.mode != Mode::Legacy {
            if groups.iter().any(String::is_empty) {
                return Err(self.refused("groups", "", "", "impersonating the empty string group is not allowed"));
            }
            if groups.iter().any(|group| group == MASTERS) {
                return Err(self.refused("groups", "", MASTERS, "impersonating the system:masters group is not allowed"));
            }
            if groups.len() >= MANY && ask("*").is_ok() {
                return Ok(());
            }
        }
        groups.iter().try_for_each(|group| ask(group))
    }

    fn check_extra(&self) -> Result<(), Status> {
        let extra = &self.wanted.extra;
        let ask = |key: &str, name: &str| self.ask("userextras", key, "", name, REVIEWS);
        if self.mode != Mode::Legacy {
            if let Some(why) = extra.iter().find_map(|(key, values)| unfit(key, values)) {
                return Err(self.refused("userextras", "", "", &why));
            }
            let many = extra.len() >= MANY || extra.values().map(Vec::len).sum::<usize>() >= MANY;
            if many && ask("*", "*").is_ok() {
                return Ok(());
            }
        }
        extra.iter().flat_map(|(key, values)| values.iter().map(move |value| (key, value))).try_for_each(|(key, value)| ask(key, value))
    }

    /// The group in which users and groups are asked for.
    fn users_group(&self) -> &'static str {
        if self.mode == Mode::Legacy { "" } else { REVIEWS }
    }

    fn verb(&self) -> String {
        if self.mode == Mode::Legacy { "impersonate".to_owned() } else { format!("impersonate:{}", self.mode.name()) }
    }

    fn ask(&self, resource: &str, subresource: &str, namespace: &str, name: &str, group: &str) -> Result<(), Status> {
        authorize_verb(self.world, &self.asking(), &asked(resource, subresource, namespace, name, group), &self.verb())
    }

    /// What no right allows.
    fn refused(&self, resource: &str, subresource: &str, name: &str, why: &str) -> Status {
        let group = if resource == "userextras" { REVIEWS } else { self.users_group() };
        let shown = if subresource.is_empty() { resource.to_owned() } else { format!("{resource}/{subresource}") };
        let message = format!("User {} cannot {} resource {shown:?} in API group {group:?} at the cluster scope: {why}", Quoted(&self.user.name), self.verb());
        Status::forbidden(group, resource, name, &message)
    }
}

fn asked(resource: &str, subresource: &str, namespace: &str, name: &str, group: &str) -> RequestInfo {
    RequestInfo {
        is_resource: true,
        group: group.to_owned(),
        version: "v1".into(),
        namespace: namespace.to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        name: name.to_owned(),
        ..RequestInfo::default()
    }
}

/// Why an attribute may not be had in the constrained modes.
fn unfit(key: &str, values: &[String]) -> Option<String> {
    if key.is_empty() {
        return Some("impersonating the empty string key in extra is not allowed".to_owned());
    }
    let (domain, path) = key.split_once('/').unwrap_or((key, ""));
    let is_path = !domain.is_empty() && !path.is_empty() && names::dns1123_subdomain(domain).is_empty();
    if !is_path {
        let why = format!("extra.key: Invalid value: {}: must be a domain-prefixed path (such as \"acme.io/foo\")", Quoted(key));
        return Some(format!("impersonating an invalid key in extra is not allowed: {why}"));
    }
    if key.chars().any(char::is_uppercase) {
        return Some(format!("impersonating a non-lowercase key in extra is not allowed: {}", Quoted(key)));
    }
    values.iter().any(String::is_empty).then(|| "impersonating the empty string value in extra is not allowed".to_owned())
}
