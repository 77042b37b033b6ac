//! What of a PodCertificateRequest can only be said by reading X.509: whether the request is signed by its key, whether the answer
//! is a certificate of that key and says what its status says; and who may answer. The rest is checked by the kind (upstream does
//! all of it there, with the same words).

use super::{Plugin, World, certificates::may, creates, is, text};
use crate::{Operation, Write, errors};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use identity::pki;
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    status::Status,
    time,
};
use std::time::{Duration, SystemTime};

/// Bytes of a request, of a key and of a proof at most.
const PART_BYTES_MAX: usize = 10 * 1024;
const REQUEST: &str = "stubPKCS10Request";
const KEY: &str = "pkixPublicKey";
const PROOF: &str = "proofOfPossession";
/// How far from now a certificate may begin.
const BEGINS_WITHIN: Duration = Duration::from_secs(5 * 60);
/// The shortest life of a certificate.
const LIFE_MIN: Duration = Duration::from_secs(60 * 60);
/// How far from both ends of its life it is renewed.
const REFRESH_MARGIN: Duration = Duration::from_secs(10 * 60);

pub(super) struct PodCertificateRequests;

impl Plugin for PodCertificateRequests {
    fn name(&self) -> &'static str {
        "PodCertificateRequests"
    }

    fn validate(&self, world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
        if !is(write, "certificates.k8s.io", "podcertificaterequests") {
            return Ok(());
        }
        let mut found = ErrorList::new();
        if creates(write, "certificates.k8s.io", "podcertificaterequests") {
            request(&object["spec"], &mut found);
        } else if let Some(old) =
            write.old.filter(|old| write.operation == Operation::Update && write.subresource == "status" && object["status"] != old["status"])
        {
            if issues(&object["status"])
                && let Err(error) = answer(object, old, write.cx.now)
            {
                found.push(error);
            }
            let signer = text(&old["spec"], "signerName");
            if found.is_empty() && !may(world, write, "sign", signer) {
                let why = format!("User {:?} is not permitted to \"sign\" for signer {signer:?}", write.cx.user.name);
                found.push(Error::forbidden(&Path::root("spec").child("signerName"), why));
            }
        }
        if found.is_empty() { Ok(()) } else { Err(errors::invalid(write.row, text(&object["metadata"], "name"), found)) }
    }
}

fn request(spec: &Value, found: &mut ErrorList) {
    let path = Path::root("spec");
    let bytes = |field: &str| STANDARD.decode(text(spec, field)).ok().filter(|b| !b.is_empty());
    if let Some(request) = bytes(REQUEST) {
        let place = path.child(REQUEST);
        if request.len() > PART_BYTES_MAX {
            found.push(Error::too_long(&place, PART_BYTES_MAX));
        } else if let Err(unfit) = pki::request_key(&request) {
            found.push(unfit.shown.map_or_else(|| Error::invalid_unshown(&place, unfit.why), |shown| Error::invalid(&place, shown, unfit.why)));
        }
        return;
    }
    // The older form, which the first beta has alone: a key and a proof of its possession.
    let (Some(key), Some(proof)) = (bytes(KEY), bytes(PROOF)) else { return };
    for (field, part) in [(KEY, &key), (PROOF, &proof)] {
        if part.len() > PART_BYTES_MAX {
            return found.push(Error::too_long(&path.child(field), PART_BYTES_MAX));
        }
    }
    if let Err(unfit) = pki::proven_key(&key, text(spec, "podUID"), &proof) {
        found.push(match unfit.shown {
            Some(shown) => Error::invalid(&path.child(KEY), shown, unfit.why),
            None if unfit.unproven => Error::invalid_unshown(&path.child(PROOF), unfit.why),
            None => Error::invalid(&path.child(KEY), text(spec, KEY), unfit.why),
        });
    }
}

/// The key that was asked about, of a request that was looked at when it came.
fn asked_key(spec: &Value) -> Option<Vec<u8>> {
    let bytes = |field: &str| STANDARD.decode(text(spec, field)).ok().filter(|b| !b.is_empty());
    match bytes(REQUEST) {
        Some(request) => pki::request_key(&request).ok(),
        None => pki::proven_key(&bytes(KEY)?, text(spec, "podUID"), &bytes(PROOF)?).ok(),
    }
}

fn issues(status: &Value) -> bool {
    status["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == "Issued" && c["status"] == "True")
}

/// Whether a certificate is the answer to what was asked.
fn answer(object: &Value, old: &Value, now: SystemTime) -> Result<(), Error> {
    let (status, path) = (&object["status"], Path::root("status"));
    let chain = |why: &str| Error::invalid(&path.child("certificateChain"), text(status, "certificateChain"), why);
    let leaf = pki::leaf(text(status, "certificateChain")).map_err(|why| chain(&why))?;
    if asked_key(&old["spec"]).is_none_or(|key| key != leaf.key) {
        return Err(chain("leaf certificate was not issued to the requested public key"));
    }
    let wrong = |field: &str, why: &str| Error::invalid(&path.child(field), text(status, field), why);
    let told = |field: &str| time::parse(text(status, field)).map_err(|_| wrong(field, "must be a time"));
    let (begins, ends, refresh) = (told("notBefore")?, told("notAfter")?, told("beginRefreshAt")?);
    if begins != leaf.not_before {
        return Err(wrong("notBefore", "must be set to the NotBefore time encoded in the leaf certificate"));
    }
    let apart = begins.duration_since(now).unwrap_or_else(|earlier| earlier.duration());
    if apart > BEGINS_WITHIN {
        return Err(wrong("notBefore", "must be set to within 5 minutes of kube-apiserver's current time"));
    }
    if ends != leaf.not_after {
        return Err(wrong("notAfter", "must be set to the NotAfter time encoded in the leaf certificate"));
    }
    let life = ends.duration_since(begins).unwrap_or_default();
    let asked_s = old["spec"]["maxExpirationSeconds"].as_u64().unwrap_or_default();
    if life < LIFE_MIN {
        return Err(chain("leaf certificate lifetime must be >= 1 hour"));
    }
    if life > Duration::from_secs(asked_s) {
        return Err(chain(&format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({asked_s})")));
    }
    if refresh < begins + REFRESH_MARGIN {
        return Err(wrong("beginRefreshAt", "must be at least 10 minutes after status.notBefore"));
    }
    if refresh + REFRESH_MARGIN > ends {
        return Err(wrong("beginRefreshAt", "must be at least 10 minutes before status.notAfter"));
    }
    Ok(())
}
