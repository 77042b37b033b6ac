//! `certificates.k8s.io`: requests for certificates, bundles of trusted ones, and requests for pods. What X.509 says of those last
//! is looked at where certificates are read (`apiserver::admission`).

use super::{checks, signing_request, x509};
use crate::{Context, NameRule, Selectable, Strategy, internal, rules, tree};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
    quote::Quoted,
    time,
};
use std::collections::{HashMap, HashSet};

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
const DURATION_MIN_S: i64 = 600;
/// The conditions that only the subresource `approval` sets.
const APPROVALS: [&str; 2] = ["Approved", "Denied"];

/// The strategy of certificate signing requests. What is asked for never changes. The endpoint of their own is `approval`.
pub(super) struct SigningRequests;

impl Strategy for SigningRequests {
    fn prepare_create(&self, cx: &Context, obj: &mut Value) {
        tree::reset_status(obj);
        let Some(spec) = tree::at(obj, &["spec"]) else { return };
        for field in ["username", "uid", "groups", "extra"] {
            spec.remove(field);
        }
        cx.identify(spec);
    }

    fn prepare_update(&self, _cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep(obj, old, "spec");
        tree::keep(obj, old, "status");
    }

    fn prepare_status(&self, cx: &Context, obj: &mut Value, old: &Value) {
        tree::keep_all_but_status(obj, old);
        for kind in APPROVALS {
            keep_conditions(obj, old, kind);
        }
        stamp_conditions(obj, old, cx);
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Own
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_request(obj, &Value::Null, &mut errors);
        errors
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        check_change(obj, old, Through::Object)
    }

    fn validate_status(&self, obj: &Value, old: &Value) -> ErrorList {
        check_change(obj, old, Through::Status)
    }

    fn prepare_part(&self, cx: &Context, _part: &str, obj: &mut Value, old: &Value) {
        prepare_approval(cx, obj, old);
    }

    fn validate_part(&self, _part: &str, obj: &Value, old: &Value) -> ErrorList {
        check_change(obj, old, Through::Approval)
    }

    fn selectable_fields(&self, obj: &Value) -> Selectable {
        vec![("spec.signerName".into(), tree::text(&obj["spec"], "signerName").to_owned())]
    }

    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        match subresource {
            "" => &[&["spec"], &["status"]],
            "status" => &[&["spec"], &["status", "conditions"]],
            "approval" => &[&["spec"], &["status", "certificate"]],
            _ => &[],
        }
    }
}

fn of_kind<'v>(obj: &'v Value, kind: &str) -> Vec<&'v Value> {
    tree::list(&obj["status"], "conditions").iter().filter(|c| c["type"] == kind).collect()
}

/// Conditions of a type stay what they were, unless some came or went, which validation refuses.
fn keep_conditions(obj: &mut Value, old: &Value, kind: &str) {
    let had = of_kind(old, kind);
    if of_kind(obj, kind).len() != had.len() {
        return;
    }
    let Some(status) = obj.get_mut("status").and_then(Value::as_object_mut) else { return };
    let conditions = status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten();
    for (condition, had) in conditions.filter(|c| c["type"] == kind).zip(had) {
        condition.clone_from(had);
    }
}

/// Sets the times that writers of conditions leave out.
fn stamp_conditions(obj: &mut Value, old: &Value, cx: &Context) {
    let now = Value::from(time::rfc3339(cx.now));
    let Some(status) = obj.get_mut("status").and_then(Value::as_object_mut) else { return };
    for condition in tree::each(status, "conditions") {
        tree::fill(condition, "lastUpdateTime", now.clone());
        let same = |had: &&Value| ["type", "status"].iter().all(|f| condition.get(*f) == Some(&had[*f])) && had["lastTransitionTime"].is_string();
        let had = tree::list(&old["status"], "conditions").iter().find(same).map(|c| c["lastTransitionTime"].clone());
        tree::fill(condition, "lastTransitionTime", had.unwrap_or_else(|| now.clone()));
    }
}

/// Readies an update through `approval`: the conditions alone change, and get the times that they lack.
fn prepare_approval(cx: &Context, obj: &mut Value, old: &Value) {
    stamp_conditions(obj, old, cx);
    let conditions = obj["status"]["conditions"].clone();
    tree::keep_all_but_status(obj, old);
    tree::keep(obj, old, "status");
    let Some(status) = tree::at(obj, &["status"]) else { return };
    match conditions {
        Value::Null => status.remove("conditions"),
        conditions => status.insert("conditions".into(), conditions),
    };
}

/// Which endpoint a change comes through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Through {
    Object,
    Status,
    Approval,
}

/// What is wrong with a request as it is sent: what its first block is, and the form of it. Whether it is signed by its key is looked at
/// where keys are read (`apiserver::admission`).
fn request_problem(request: &str) -> Option<String> {
    let pem = STANDARD.decode(request).unwrap_or_default();
    match x509::blocks(&String::from_utf8_lossy(&pem)).first() {
        Some(block) if block.kind == "CERTIFICATE REQUEST" => signing_request::problem(&block.bytes),
        _ => Some("PEM block type must be CERTIFICATE REQUEST".to_owned()),
    }
}

fn check_request(obj: &Value, old: &Value, errors: &mut ErrorList) {
    let (spec, path) = (&obj["spec"], Path::root("spec"));
    if let Some(why) = request_problem(tree::text(spec, "request")) {
        // Go's bytes are none where nothing was said.
        errors.push(Error::invalid(&path.child("request"), spec["request"].clone(), why));
    }
    let usages = tree::list(spec, "usages");
    if usages.is_empty() {
        errors.push(Error::required(&path.child("usages"), ""));
    }
    let (mut seen, mut twice) = (HashSet::new(), ErrorList::new());
    for (at, usage) in checks::texts(spec, "usages") {
        let place = path.child("usages").index(at);
        if !USAGES.contains(&usage) {
            errors.push(rules::not_supported(&place, usage, &USAGES));
        }
        if !seen.insert(usage) {
            twice.push(rules::typed(Error::duplicate(&place, usage)));
        }
    }
    errors.extend(twice);
    let signer = tree::text(spec, "signerName");
    if signer == LEGACY_SIGNER && old["spec"]["signerName"] != LEGACY_SIGNER {
        errors.push(Error::invalid(&path.child("signerName"), signer, "the legacy signerName is not allowed via this API version"));
    } else {
        checks::signer_name(signer, &path.child("signerName"), errors);
    }
    if let Some(seconds) = spec["expirationSeconds"].as_i64().filter(|s| *s < DURATION_MIN_S) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(Error::invalid(&path.child("expirationSeconds"), seconds, detail));
    }
    check_conditions(&obj["status"], errors);
    let certificate = tree::text(&obj["status"], "certificate");
    if !certificate.is_empty() && obj["status"]["certificate"] != old["status"]["certificate"] {
        check_certificate(certificate, errors);
    }
}

fn check_conditions(status: &Value, errors: &mut ErrorList) {
    let (list, path) = (tree::list(status, "conditions"), Path::root("status").child("conditions"));
    let mut seen = HashSet::new();
    for (at, condition) in list.iter().enumerate() {
        let (place, kind, value) = (path.index(at), tree::text(condition, "type"), tree::text(condition, "status"));
        if kind.is_empty() {
            errors.push(Error::required(&place.child("type"), ""));
        }
        let allowed: &[&str] = if matches!(kind, "Approved" | "Denied" | "Failed") { &["True"] } else { &["False", "True", "Unknown"] };
        rules::one_of(&value.into(), &place.child("status"), allowed, errors);
        if !seen.insert(kind) {
            errors.push(rules::typed(Error::duplicate(&place.child("type"), kind)));
        }
    }
    if APPROVALS.into_iter().all(|kind| list.iter().any(|c| c["type"] == kind)) {
        let [approved, denied] = APPROVALS.map(|kind| format!("conditions[{{\"type\": {kind:?}}}]"));
        let detail = format!("must specify at most one of: `{approved}`, `{denied}`");
        errors.push(Error::invalid(&path, format!("{{{approved}, {denied}}}"), detail));
    }
}

fn check_certificate(certificate: &str, errors: &mut ErrorList) {
    let path = Path::root("status").child("certificate");
    let pem = STANDARD.decode(certificate).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let blocks = x509::blocks(&pem);
    let wrong = |block: &x509::Block<'_>| match block.kind {
        "CERTIFICATE" if block.has_headers => Some("no PEM block headers are permitted".to_owned()),
        "CERTIFICATE" if block.bytes.is_empty() => Some("found CERTIFICATE PEM block containing 0 certificates".to_owned()),
        "CERTIFICATE" => x509::is_authority(&block.bytes).is_none().then(|| "x509: malformed certificate".to_owned()),
        other => Some(format!("only CERTIFICATE PEM blocks are allowed, found {}", Quoted(other))),
    };
    let problem = match blocks.iter().find_map(wrong) {
        Some(problem) => problem,
        None if blocks.is_empty() => "must contain at least one CERTIFICATE PEM block".to_owned(),
        None => return,
    };
    errors.push(Error::invalid(&path, "<certificate data>", problem));
}

fn check_change(obj: &Value, old: &Value, through: Through) -> ErrorList {
    let mut errors = ErrorList::new();
    check_request(obj, old, &mut errors);
    let place = Path::root("status").child("conditions");
    for kind in ["Approved", "Denied", "Failed"] {
        if of_kind(obj, kind).len() < of_kind(old, kind).len() {
            errors.push(Error::forbidden(&place, format!("updates may not remove a condition of type {kind:?}")));
        }
    }
    for kind in APPROVALS.into_iter().filter(|_| through != Through::Approval) {
        let (new, had) = (of_kind(obj, kind), of_kind(old, kind));
        if new.len() > had.len() {
            errors.push(Error::forbidden(&place, format!("updates may not add a condition of type {kind:?}")));
        } else if new.len() == had.len() && new != had {
            let [had, new] = [had, new].map(|list| list.into_iter().cloned().collect::<Value>());
            let changed = internal::difference("[]certificates.CertificateSigningRequestCondition", &had, &new);
            errors.push(Error::forbidden(&place, format!("updates may not modify a condition of type {kind:?}\n{changed}")));
        }
    }
    let (new, had) = (tree::text(&obj["status"], "certificate"), tree::text(&old["status"], "certificate"));
    if new != had {
        let place = Path::root("status").child("certificate");
        if through != Through::Status {
            errors.push(Error::forbidden(&place, "updates may not set certificate content"));
        } else if !had.is_empty() {
            errors.push(Error::forbidden(&place, "updates may not modify existing certificate content"));
        }
    }
    errors
}

fn check_anchors(bundle: &str, errors: &mut ErrorList) {
    let mut known = HashMap::<Vec<u8>, Vec<String>>::new();
    let mut bad = |why: String| errors.push(Error::invalid(&Path::root("spec").child("trustBundle"), "<value omitted>", why));
    let mut is_sound = true;
    for (at, block) in x509::blocks(bundle).into_iter().enumerate() {
        let why = if block.kind != "CERTIFICATE" {
            format!("has bad block type: {}", block.kind)
        } else if block.has_headers {
            "has PEM block headers".to_owned()
        } else {
            match x509::is_authority(&block.bytes) {
                None => "does not parse as X.509".to_owned(),
                Some(false) => "does not have the CA bit set".to_owned(),
                Some(true) => {
                    known.entry(block.bytes).or_default().push(at.to_string());
                    continue;
                }
            }
        };
        is_sound = false;
        bad(format!("entry {at} {why}"));
    }
    if !is_sound {
        return;
    }
    if known.is_empty() {
        bad("at least one trust anchor must be provided".to_owned());
    }
    for places in known.values().filter(|places| places.len() > 1) {
        bad(format!("duplicate trust anchor (indices [{}])", places.join(" ")));
    }
}

/// The strategy of bundles of trusted certificates.
pub(super) struct TrustBundles;

impl Strategy for TrustBundles {
    fn name_rule(&self) -> NameRule {
        NameRule::Own
    }

    fn own_name(&self, obj: &Value, name: &str, prefix: bool) -> Vec<String> {
        let signer = tree::text(&obj["spec"], "signerName");
        if signer.is_empty() {
            return match name.contains(':') {
                true => vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()],
                false => NameRule::Subdomain.check(name, prefix),
            };
        }
        let required = format!("{}:", signer.replace('/', ":"));
        match name.strip_prefix(&required) {
            Some(rest) => NameRule::Subdomain.check(rest, prefix),
            None => vec![format!("ClusterTrustBundle for signerName {signer} must be named with prefix {required}")],
        }
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let signer = tree::text(&obj["spec"], "signerName");
        if !signer.is_empty() {
            checks::signer_name(signer, &Path::root("spec").child("signerName"), errors);
        }
        check_anchors(tree::text(&obj["spec"], "trustBundle"), errors);
    }

    /// What does not change is not read again.
    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let (mut errors, signer) = (ErrorList::new(), tree::text(&obj["spec"], "signerName"));
        // Its name is another's that signs.
        if signer != tree::text(&old["spec"], "signerName") {
            let (name, place) = (tree::text(&obj["metadata"], "name"), Path::root("metadata").child("name"));
            errors.extend(self.own_name(obj, name, false).into_iter().map(|m| Error::invalid(&place, name, m)));
        }
        if !signer.is_empty() {
            checks::signer_name(signer, &Path::root("spec").child("signerName"), &mut errors);
        }
        if obj["spec"]["trustBundle"] != old["spec"]["trustBundle"] {
            check_anchors(tree::text(&obj["spec"], "trustBundle"), &mut errors);
        }
        self.check_update(obj, old, &mut errors);
        errors
    }

    fn check_update(&self, obj: &Value, old: &Value, errors: &mut ErrorList) {
        let place = Path::root("spec").child("signerName");
        rules::immutable(&obj["spec"]["signerName"], &old["spec"]["signerName"], &place, errors);
    }

    fn selectable_fields(&self, obj: &Value) -> Selectable {
        vec![("spec.signerName".into(), tree::text(&obj["spec"], "signerName").to_owned())]
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// How a pod's request is answered, once.
const ANSWERS: [&str; 3] = ["Issued", "Denied", "Failed"];
const UID_BYTES_MAX: usize = 128;
/// Bytes of a request that are read.
const PART_BYTES_MAX: usize = 10 * 1024;
const CHAIN_BYTES_MAX: usize = 100 * 1024;

/// The strategy of pods' requests for certificates: asked once, answered once.
pub(super) struct PodRequests;

impl Strategy for PodRequests {
    fn status_keeps_metadata(&self) -> bool {
        true
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let (spec, path) = (&obj["spec"], Path::root("spec"));
        let signer = tree::text(spec, "signerName");
        checks::signer_name(signer, &path.child("signerName"), errors);
        checks::user_annotations(&spec["unverifiedUserAnnotations"], &path.child("unverifiedUserAnnotations"), errors);
        for who in ["pod", "serviceAccount", "node"] {
            let (name, uid) = (format!("{who}Name"), format!("{who}UID"));
            let (text, place) = (tree::text(spec, &name), path.child(&name));
            let problems = names::dns1123_subdomain(text).into_iter().map(|m| Error::invalid(&place, text, m));
            // A node's name is of a type of its own.
            errors.extend(problems.map(|error| if who == "node" { rules::typed(error) } else { error }));
            let (text, place) = (tree::text(spec, &uid), path.child(&uid));
            if text.is_empty() {
                errors.push(Error::invalid(&place, text, "must not be empty"));
            } else if text.len() > UID_BYTES_MAX {
                errors.push(Error::too_long(&place, UID_BYTES_MAX));
            }
        }
        let place = path.child("maxExpirationSeconds");
        let Some(seconds) = spec["maxExpirationSeconds"].as_i64() else {
            errors.push(Error::required(&place, "must be set"));
            return;
        };
        let (least, most) = (checks::CERTIFICATE_MIN_S, checks::certificate_max_s(signer));
        if !(least..=most).contains(&seconds) {
            errors.push(Error::invalid(&place, seconds, format!("must be in the range [{least}, {most}]")));
        }
        let [request, key, proof] = ["stubPKCS10Request", "pkixPublicKey", "proofOfPossession"].map(|field| !tree::empty(&spec[field]));
        if !matches!((request, key, proof), (true, false, false) | (false, true, true)) {
            let detail = "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set";
            errors.push(Error::invalid_unshown(&path, detail));
        }
        // Whose the key is and whether it signed is looked at where certificates are read.
        let wanted = STANDARD.decode(tree::text(spec, "stubPKCS10Request")).unwrap_or_default();
        if !wanted.is_empty() && wanted.len() <= PART_BYTES_MAX && !x509::is_request(&wanted) {
            errors.push(Error::invalid_unshown(&path.child("stubPKCS10Request"), "must be a valid PKCS#10 CSR"));
        }
    }

    fn check_update(&self, obj: &Value, old: &Value, errors: &mut ErrorList) {
        rules::immutable_part("certificates.PodCertificateRequestSpec", &obj["spec"], &old["spec"], &Path::root("spec"), errors);
    }

    /// Only metadata may change: what was asked for was looked at when it was asked.
    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        self.check_update(obj, old, &mut errors);
        errors
    }

    fn validate_status(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (status, path) = (&obj["status"], Path::root("status"));
        let mut answers = 0;
        for (at, condition) in tree::list(status, "conditions").iter().enumerate() {
            let (place, kind) = (path.child("conditions").index(at), tree::text(condition, "type"));
            if !ANSWERS.contains(&kind) {
                errors.push(Error::not_supported(&place.child("type"), kind, &ANSWERS));
                continue;
            }
            answers += 1;
            if answers > 1 {
                let detail = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
                errors.push(Error::invalid(&place.child("type"), kind, detail));
            }
            if condition["status"] != "True" {
                errors.push(rules::not_supported(&place.child("status"), tree::text(condition, "status"), &["True"]));
            }
        }
        checks::conditions(status, &path, &mut errors);
        if !errors.is_empty() {
            return errors;
        }
        const FORM: &str = "certificates.PodCertificateRequestStatus";
        let answered = |status: &Value| tree::list(status, "conditions").first().map(|c| tree::text(c, "type").to_owned());
        if answered(&old["status"]).is_some() {
            if *status != old["status"] {
                let detail = "immutable after PodCertificateRequest is issued, denied, or failed";
                errors.push(Error::invalid(&path, status.clone(), detail).shown_as(internal::text(FORM, status)));
            }
            return errors;
        }
        let others = ["certificateChain", "notBefore", "notAfter", "beginRefreshAt"];
        match answered(status).as_deref() {
            Some("Issued") => {
                if tree::text(status, "certificateChain").len() > CHAIN_BYTES_MAX {
                    errors.push(Error::too_long(&path.child("certificateChain"), CHAIN_BYTES_MAX));
                    return errors;
                }
                for field in ["notBefore", "notAfter"] {
                    if tree::empty(&status[field]) {
                        errors.push(Error::required(&path.child(field), "must be present and consistent with the issued certificate"));
                    }
                }
                if tree::empty(&status["beginRefreshAt"]) {
                    errors.push(Error::required(&path.child("beginRefreshAt"), "must be present and in the range [notbefore+10min, notafter-10min]"));
                }
            }
            Some(_) if others.iter().any(|field| !tree::empty(&status[*field])) => {
                let detail = "non-condition status fields must be empty when denying or failing the PodCertificateRequest";
                errors.push(Error::invalid(&path, status.clone(), detail).shown_as(internal::text(FORM, status)));
            }
            None if *status != old["status"] => {
                let detail = "status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"";
                errors.push(Error::invalid(&path, status.clone(), detail).shown_as(internal::text(FORM, status)));
            }
            _ => {}
        }
        errors
    }

    fn selectable_fields(&self, obj: &Value) -> Selectable {
        ["spec.signerName", "spec.podName", "spec.nodeName"]
            .map(|field| (field.into(), tree::text(&obj["spec"], field.trim_start_matches("spec.")).to_owned()))
            .into()
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}
