//! From a certificate or a token to a user.

use crate::{
    Error, RequestHeaders, Review, Tokens, User, bootstrap,
    pki::{Credential, Kubelets},
};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime, pem::PemObject};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter, KeyUsage, RequiredEkuNotFoundContext};
use x509_parser::{
    prelude::{FromDer, X509Certificate},
    time::ASN1Time,
    x509::X509Name,
};

/// `id-kp-clientAuth` and `anyExtendedKeyUsage` (RFC 5280, 4.2.1.12).
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
const ANY_USE: &[u8] = &[0x55, 0x1d, 0x25, 0];

/// The part of a subject that is its UID: the CNCF's number for it.
const UID: &str = "1.3.6.1.4.1.57683.2";

/// What the API server shows to others, and what it lets others know of those it trusts.
#[derive(Clone, Default)]
pub struct Trust {
    /// The authority of client certificates, as PEM: `extension-apiserver-authentication`, and `ca.crt` of token Secrets.
    pub client_ca_pem: String,
    /// The authority of the front proxy, as PEM: `extension-apiserver-authentication`. Empty for none.
    pub front_proxy_ca_pem: String,
    /// How kubelets are spoken to. Without it nothing that needs a kubelet works (logs, exec, …).
    pub kubelets: Option<Arc<Kubelets>>,
    /// What is shown to aggregated API servers.
    pub front_proxy_client: Option<Credential>,
    /// How the front proxy says who asks.
    pub request_headers: RequestHeaders,
}

/// The authorities that vouch for a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Vouchers {
    /// The cluster's: its owner is a user.
    cluster: bool,
    /// The front proxy's: its owner says who asks, if it may by its name.
    front_proxy: bool,
}

/// Whose a client's certificate is, for some time.
#[derive(Debug)]
pub struct Owner {
    /// Whom it names, if the cluster's authority vouches for it.
    pub user: Option<Arc<User>>,
    /// It is the front proxy's, who says who asks.
    pub is_front_proxy: bool,
    /// Somebody who knows certificates does not know this one. Who shows nothing else is refused, and not anonymous.
    pub is_refused: bool,
    /// When it ends, if it can be read.
    pub ends: Option<SystemTime>,
    /// Since when this is known, and until when it cannot change.
    known: (SystemTime, Option<SystemTime>),
}

impl Owner {
    /// Of a certificate that cannot be read, or is shown beside one.
    fn unreadable(now: SystemTime) -> Self {
        Owner { user: None, is_front_proxy: false, is_refused: true, ends: None, known: (now, None) }
    }

    /// Whether it is still so: none of the certificates that were shown has begun or ended since.
    pub fn holds(&self, now: SystemTime) -> bool {
        let (since, until) = self.known;
        since <= now && until.is_none_or(|until| now < until)
    }
}

/// Knows who somebody is by what they show.
pub struct Authenticator {
    tokens: Arc<Tokens>,
    trust: Trust,
    cluster: Vec<TrustAnchor<'static>>,
    front_proxy: Vec<TrustAnchor<'static>>,
}

impl Authenticator {
    /// With the tokens of service accounts.
    pub fn new(tokens: Arc<Tokens>, trust: Trust) -> Self {
        let (cluster, front_proxy) = (anchors(&trust.client_ca_pem), anchors(&trust.front_proxy_ca_pem));
        Authenticator { tokens, trust, cluster, front_proxy }
    }

    /// What the server itself shows and trusts.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Whose a certificate is that a client has shown, with those between it and its authority. The handshake has only seen that the
    /// client has its key: whether anybody vouches for it is found out here.
    pub fn owner(&self, der: &CertificateDer<'_>, between: &[CertificateDer<'_>], now: SystemTime) -> Owner {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Owner::unreadable(now) };
        let Ok(until) = next_change(std::iter::once(der).chain(between), now) else { return Owner::unreadable(now) };
        let ends = moment(certificate.validity().not_after);
        // The verifier counts whole seconds.
        let has_ended = ends.is_none_or(|ends| now > ends);
        let vouchers = if has_ended { Vouchers::default() } else { self.vouchers(der, between, now) };
        let (user, uid) = (user(&certificate, der), uid(certificate.subject()));
        let is_front_proxy = vouchers.front_proxy && self.trust.request_headers.allows(&user.name);
        let in_cluster = vouchers.cluster && (user.name.is_empty() || uid.is_some());
        // The front proxy's and the cluster's authority are both asked, where there is one; each no counts (upstream's `union`).
        let asked = [(&self.front_proxy, is_front_proxy), (&self.cluster, in_cluster)];
        let nobody_knows = asked.iter().all(|(_, knows)| !knows);
        let is_refused = nobody_knows || asked.iter().any(|(anchors, knows)| !anchors.is_empty() && !knows);
        // Without a common name it names nobody.
        let user = (in_cluster && !user.name.is_empty()).then(|| Arc::new(User { uid: uid.unwrap_or_default(), ..user }));
        Owner { user, is_front_proxy, is_refused, ends, known: (now, until) }
    }

    /// Whose authority vouches for a certificate.
    fn vouchers(&self, der: &CertificateDer<'_>, between: &[CertificateDer<'_>], now: SystemTime) -> Vouchers {
        let Ok(certificate) = EndEntityCert::try_from(der) else { return Vouchers::default() };
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
        let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        let vouches = |anchors: &[TrustAnchor<'static>]| certificate.verify_for_usage(algorithms, anchors, between, now, ForClients, None, None).is_ok();
        Vouchers { cluster: vouches(&self.cluster), front_proxy: vouches(&self.front_proxy) }
    }

    /// What a bearer token says that is meant for the API server.
    ///
    /// # Errors
    /// It is not good, or not for us.
    #[allow(clippy::unused_async, reason = "token webhooks will wait")]
    pub async fn bearer(&self, token: &str) -> Result<Review, Error> {
        self.review(token, &[], SystemTime::now())
    }

    /// What a bearer token says, of a bootstrapper's or a service account's, that is meant for one of these audiences (none: the
    /// API server's own).
    ///
    /// # Errors
    /// It is not good, or not for them.
    pub fn review(&self, token: &str, audiences: &[String], now: SystemTime) -> Result<Review, Error> {
        match bootstrap::user(self.tokens.objects(), token, now) {
            Some(user) => Ok(Review { user, audiences: self.tokens.own_audiences(audiences)?, used: None }),
            None => self.tokens.verify(token, audiences, now),
        }
    }
}

/// The authorities of a PEM text that can be read.
fn anchors(authorities: &str) -> Vec<TrustAnchor<'static>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(authorities.as_bytes()).filter_map(Result::ok));
    roots.roots
}

/// What a certificate that tells its uses must be for: for clients, or for anything, as Go's verifier has it.
struct ForClients;

impl ExtendedKeyUsageValidator for ForClients {
    fn validate(&self, uses: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let good = [CLIENT_AUTH, ANY_USE].map(KeyPurposeId::new);
        let mut present = Vec::new();
        for purpose in uses {
            let purpose = purpose?;
            if good.contains(&purpose) {
                return Ok(());
            }
            present.push(purpose.to_decoded_oid());
        }
        if present.is_empty() {
            return Ok(());
        }
        Err(webpki::Error::RequiredEkuNotFoundContext(RequiredEkuNotFoundContext { required: KeyUsage::client_auth(), present }))
    }
}

/// Whom a certificate names: the common name, and an organisation for each group.
fn user(certificate: &X509Certificate<'_>, der: &CertificateDer<'_>) -> User {
    let subject = certificate.subject();
    // Of several the last counts, as for Go.
    let name = subject.iter_common_name().last().and_then(|cn| cn.as_str().ok()).unwrap_or_default();
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    let hash = ring::digest::digest(&ring::digest::SHA256, der);
    let hex: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let extra = BTreeMap::from([("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("X509SHA256={hex}")])]);
    User { name: name.to_owned(), uid: String::new(), groups, extra }.proved()
}

/// The UID that a subject tells, which may be none; `None` if it tells several, or one that is no text or empty.
fn uid(subject: &X509Name<'_>) -> Option<String> {
    let mut told = subject.iter_attributes().filter(|part| part.attr_type().to_id_string() == UID);
    let Some(first) = told.next() else { return Some(String::new()) };
    let uid = first.as_str().ok().filter(|uid| !uid.is_empty())?;
    told.next().is_none().then(|| uid.to_owned())
}

/// The next moment at which one of these certificates begins or ends, if there is one.
fn next_change<'c, 'd: 'c>(shown: impl Iterator<Item = &'c CertificateDer<'d>>, now: SystemTime) -> Result<Option<SystemTime>, Error> {
    let mut next: Option<SystemTime> = None;
    for der in shown {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|e| Error::Key(e.to_string()))?;
        let (begin, end) = (moment(certificate.validity().not_before), moment(certificate.validity().not_after));
        // It is good in the moment of its end, and to the verifier for the whole second.
        let ended = [Duration::from_nanos(1), Duration::from_secs(1)].map(|after| end.and_then(|end| end.checked_add(after)));
        let later = ended.into_iter().chain([begin]).flatten().filter(|moment| *moment > now);
        next = later.chain(next).min();
    }
    Ok(next)
}

fn moment(time: ASN1Time) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pki::{Ca, Subject, Usage},
        testing::Memory,
    };
    use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Use, IsCa, Issuer, KeyPair};

    /// Whether it names a user, whether it is the front proxy's, and whether it is refused.
    fn told(owner: &Owner) -> (bool, bool, bool) {
        (owner.user.is_some(), owner.is_front_proxy, owner.is_refused)
    }

    #[test]
    fn an_authority_vouches_for_its_own_alone() {
        let root = std::env::temp_dir().join(format!("identity-voucher-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        let [cluster, front, other] = ["cluster", "front", "other"].map(|name| Ca::load_or_create(&root.join(name)).expect("an authority"));
        let tokens = Arc::new(Tokens::ephemeral("https://issuer", Memory::of([])).expect("keys"));
        let of = |cluster: &str, front: &str| {
            let trust = Trust { client_ca_pem: cluster.to_owned(), front_proxy_ca_pem: front.to_owned(), ..Trust::default() };
            Authenticator::new(Arc::clone(&tokens), trust)
        };
        let now = SystemTime::now();
        let shown = |authenticator: &Authenticator, ca: &Ca, name: &str| {
            let subject = Subject { common_name: name.to_owned(), organizations: vec![], names: vec![], ips: vec![], usage: Usage::Client };
            told(&authenticator.owner(&ca.issue(&subject, now).expect("a certificate").cert().expect("DER"), &[], now))
        };
        let both = of(cluster.cert_pem(), front.cert_pem());
        let proxy = "front-proxy-client";
        assert_eq!(shown(&both, &cluster, "jane"), (true, false, true), "the front proxy's authority does not know it, which a user need not care for");
        assert_eq!(shown(&both, &cluster, proxy), (true, false, true), "the name alone is not enough");
        assert_eq!(shown(&both, &cluster, ""), (false, false, true));
        assert_eq!(shown(&both, &front, proxy), (false, true, true));
        assert_eq!(shown(&both, &front, "jane"), (false, false, true), "another name");
        assert_eq!(shown(&both, &front, ""), (false, false, true));
        assert_eq!(shown(&both, &other, "jane"), (false, false, true));
        // Without a verifier for the front proxy's its certificates are nobody's, not users'.
        let alone = of(cluster.cert_pem(), "");
        assert_eq!((shown(&alone, &front, proxy), shown(&alone, &cluster, "jane")), ((false, false, true), (true, false, false)));
        assert_eq!(shown(&alone, &cluster, ""), (false, false, false), "vouched for, but nobody");
        // One authority may be both; without any nobody is known.
        assert_eq!(shown(&of(cluster.cert_pem(), cluster.cert_pem()), &cluster, proxy), (true, true, false));
        assert_eq!(shown(&of("", ""), &cluster, "jane"), (false, false, true));
        std::fs::remove_dir_all(&root).expect("clean");
    }

    #[test]
    fn a_certificate_is_good_for_its_use_and_in_its_time() {
        let root = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
        };
        let key = || KeyPair::generate().expect("a key");
        let (ca, between) = (root("ca"), root("between"));
        let (ca_key, between_key, own) = (key(), key(), key());
        let pem = ca.self_signed(&ca_key).expect("an authority").pem();
        let now = UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let after = |s: u64| now + Duration::from_secs(s);
        let leaf = |uses: &[Use], (begin, end): (SystemTime, SystemTime)| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, "jane");
            params.extended_key_usages = uses.to_vec();
            (params.not_before, params.not_after) = (begin.into(), end.into());
            params
        };
        let signed = |params: &CertificateParams| params.signed_by(&own, &Issuer::from_params(&ca, &ca_key)).expect("a certificate").der().clone();
        let tokens = Arc::new(Tokens::ephemeral("https://issuer", Memory::of([])).expect("keys"));
        let authenticator = Authenticator::new(tokens, Trust { client_ca_pem: pem, ..Trust::default() });
        let (user, refused) = ((true, false, false), (false, false, true));
        let long = (now, after(100));
        for (uses, wanted) in [
            (vec![], user),
            (vec![Use::ClientAuth], user),
            (vec![Use::ServerAuth, Use::ClientAuth], user),
            (vec![Use::Any], user),
            (vec![Use::CodeSigning, Use::Any], user),
            (vec![Use::ServerAuth], refused),
            (vec![Use::CodeSigning], refused),
        ] {
            assert_eq!(told(&authenticator.owner(&signed(&leaf(&uses, long)), &[], now)), wanted, "{uses:?}");
        }
        let itself = leaf(&[], long).self_signed(&own).expect("a certificate").der().clone();
        assert_eq!(told(&authenticator.owner(&itself, &[], now)), refused);
        assert_eq!(told(&authenticator.owner(&CertificateDer::from(vec![0x30, 0]), &[], now)), refused);

        let of_uid = |uid: &str| {
            let mut params = leaf(&[], long);
            params.distinguished_name.push(DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]), uid);
            authenticator.owner(&signed(&params), &[], now)
        };
        assert_eq!(of_uid("7").user.map(|user| user.uid.clone()).as_deref(), Some("7"));
        assert_eq!(told(&of_uid("")), refused);

        // It is looked at anew when it begins, and when it has ended.
        let der = signed(&leaf(&[Use::ClientAuth], (after(10), after(20))));
        let early = authenticator.owner(&der, &[], now);
        assert_eq!((told(&early), early.holds(after(9)), early.holds(after(10))), (refused, true, false));
        let good = authenticator.owner(&der, &[], after(10));
        let late = after(20) + Duration::from_millis(1);
        assert_eq!((told(&good), good.holds(after(20)), good.holds(late), good.holds(after(9))), (user, true, false, false));
        assert_eq!(told(&authenticator.owner(&der, &[], late)), refused);

        // And so it is when one between it and its authority ends.
        let mut short = between.clone();
        (short.not_before, short.not_after) = (now.into(), after(5).into());
        let short = short.signed_by(&between_key, &Issuer::from_params(&ca, &ca_key)).expect("one between").der().clone();
        let der = leaf(&[], long).signed_by(&own, &Issuer::from_params(&between, &between_key)).expect("a certificate").der().clone();
        let chained = authenticator.owner(&der, std::slice::from_ref(&short), now);
        let ended = after(5) + Duration::from_millis(1);
        assert_eq!((told(&chained), chained.holds(after(5)), chained.holds(ended)), (user, true, false));
        // The verifier counts whole seconds.
        let again = authenticator.owner(&der, std::slice::from_ref(&short), ended);
        assert_eq!((told(&again), again.holds(after(6))), (user, false));
        assert_eq!(told(&authenticator.owner(&der, &[short], after(6))), refused);
        assert_eq!(told(&authenticator.owner(&der, &[], now)), refused, "without it");
    }

    #[test]
    fn nobody_s_name_is_in_no_group_of_those_who_are_known() {
        let groups = |name: &str, groups: &[&str]| {
            let groups = groups.iter().map(|group| (*group).to_owned()).collect();
            User { name: name.to_owned(), groups, ..User::default() }.proved().groups.join(" ")
        };
        assert_eq!(groups("jane", &["a"]), "a system:authenticated");
        assert_eq!(groups("jane", &["system:authenticated"]), "system:authenticated");
        assert_eq!(groups("jane", &["system:unauthenticated"]), "system:unauthenticated");
        assert_eq!(groups("system:anonymous", &[]), "");
        assert_eq!(groups("system:anonymous", &["system:unauthenticated"]), "system:unauthenticated");
    }
}
