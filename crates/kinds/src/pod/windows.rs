//! What a pod and its containers ask of Windows (`validateWindowsSecurityContextOptions`, `validateWindowsHostProcessPod`).

use crate::{rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};

/// Below this many bytes a credential's description stays.
const SPEC_KIB_MAX: usize = 64;
/// A domain's name is shorter than this, a user's no longer.
const DOMAIN_BYTES_MAX: usize = 256;
const USER_BYTES_MAX: usize = 104;
/// Most characters of a NetBIOS name.
const NETBIOS_MAX: usize = 15;

/// Checks the options of a security context.
pub(super) fn options(options: &Value, path: &Path, errors: &mut ErrorList) {
    if let Some(name) = options["gmsaCredentialSpecName"].as_str() {
        rules::name(name, &path.child("gmsaCredentialSpecName"), names::dns1123_subdomain(name), errors);
    }
    if let Some(spec) = options["gmsaCredentialSpec"].as_str() {
        let place = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            errors.push(Error::invalid(&place, spec, "gmsaCredentialSpec cannot be an empty string"));
        } else if spec.len() > SPEC_KIB_MAX * 1024 {
            errors.push(Error::invalid(&place, spec, format!("gmsaCredentialSpec size must be under {SPEC_KIB_MAX} KiB")));
        }
    }
    if let Some(name) = options["runAsUserName"].as_str() {
        user_name(name, &path.child("runAsUserName"), errors);
    }
}

fn user_name(name: &str, path: &Path, errors: &mut ErrorList) {
    let mut bad = |detail: &str| errors.push(Error::invalid(path, name, detail));
    if name.is_empty() {
        return bad("runAsUserName cannot be an empty string");
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return bad("runAsUserName cannot contain control characters");
    }
    let (domain, user) = name.split_once('\\').map_or((None, name), |(domain, user)| (Some(domain), user));
    if user.contains('\\') {
        return bad("runAsUserName cannot contain more than one backslash");
    }
    if domain.is_some_and(|domain| domain.len() >= DOMAIN_BYTES_MAX) {
        bad(&format!("runAsUserName's Domain length must be under {DOMAIN_BYTES_MAX} characters"));
    }
    if domain.is_some_and(|domain| !is_netbios(domain) && !is_domain(domain)) {
        bad("runAsUserName's Domain doesn't match the NetBios nor the DNS format");
    }
    if user.is_empty() {
        bad("runAsUserName's User cannot be empty");
    } else if user.len() > USER_BYTES_MAX {
        bad(&format!("runAsUserName's User length must not be longer than {USER_BYTES_MAX} characters"));
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        bad("runAsUserName's User cannot contain only periods or spaces");
    }
    if user.contains(['"', '/', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        bad("runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]");
    }
}

/// Whether a domain is a name of NetBIOS, which does not begin with a period.
fn is_netbios(domain: &str) -> bool {
    let forbidden = ['\\', '/', ':', '*', '?', '"', '<', '>', '|'];
    (1..=NETBIOS_MAX).contains(&domain.chars().count()) && !domain.starts_with('.') && !domain.contains(forbidden)
}

/// Whether a domain is one of DNS, in which a part has at most 63 characters.
fn is_domain(domain: &str) -> bool {
    domain.split('.').all(|part| {
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = part.as_bytes();
        bytes.len() <= names::LABEL_MAX_BYTES && edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    })
}

/// Either all containers are processes of the host or none is, and those that are need its network.
pub(super) fn host_process(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let flag = |owner: &Value| owner["securityContext"]["windowsOptions"]["hostProcess"].as_bool();
    let own = flag(spec);
    let (mut all, mut on_host) = (0, 0);
    // In the order in which upstream visits them.
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (at, container) in tree::list(spec, list).iter().enumerate() {
            let said = flag(container);
            if let (Some(own), Some(said)) = (own, said)
                && own != said
            {
                let place = path.child(list).index(at).child("securityContext").child("windowsOptions").child("hostProcess");
                errors.push(Error::invalid(&place, said, format!("pod hostProcess value must be identical if both are specified, was {own}")));
            }
            all += 1;
            on_host += usize::from(said.or(own) == Some(true));
        }
    }
    if on_host == 0 {
        return;
    }
    if on_host != all {
        let detail = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.push(Error::invalid(path, "", detail));
    }
    if spec["hostNetwork"] != true {
        errors.push(Error::invalid(&path.child("hostNetwork"), false, "hostNetwork must be true if pod contains any hostProcess containers"));
    }
}
