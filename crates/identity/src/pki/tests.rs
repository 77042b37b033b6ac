use super::*;

fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("identity-pki-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

#[test]
fn an_authority_and_its_certificates_outlive_the_process() {
    let path = directory("keep");
    let ca = Ca::load_or_create(&path).expect("an authority");
    let names = vec!["kubernetes".to_owned()];
    let first = ca.server_cert("apiserver", "kube-apiserver", &names, &[IpAddr::from([127, 0, 0, 1])]).expect("a certificate");
    let again = Ca::load_or_create(&path).expect("the same authority");
    assert_eq!(ca.cert_pem(), again.cert_pem());
    let second = again.server_cert("apiserver", "kube-apiserver", &names, &[IpAddr::from([127, 0, 0, 1])]).expect("a certificate");
    assert_eq!(first.cert_pem, second.cert_pem, "nothing has changed");
    let third = again.server_cert("apiserver", "kube-apiserver", &names, &[IpAddr::from([10, 96, 0, 1])]).expect("a certificate");
    assert_ne!(second.cert_pem, third.cert_pem, "another address needs another certificate");
    let admin = again.client_cert("admin", "admin", &["a", "b"]).expect("a certificate");
    assert_eq!(admin.cert_pem, again.client_cert("admin", "admin", &["a", "b"]).expect("a certificate").cert_pem, "two organisations compare");
    let later = SystemTime::now() + LIFE - RENEW_BEFORE + DAY;
    let subject = Subject { common_name: "admin".into(), organizations: vec!["a".into(), "b".into()], names: vec![], ips: vec![], usage: Usage::Client };
    assert!(again.still_good(&admin, &subject, SystemTime::now()));
    assert!(!again.still_good(&admin, &subject, later), "its end is near");
    std::fs::remove_dir_all(&path).expect("clean");
}

#[test]
fn another_authority_s_certificates_are_not_kept() {
    let (one, two) = (directory("one"), directory("two"));
    let first = Ca::load_or_create(&one).expect("an authority");
    let second = Ca::load_or_create(&two).expect("an authority");
    let subject = Subject { common_name: "x".into(), organizations: vec![], names: vec![], ips: vec![], usage: Usage::Both };
    let credential = first.issue(&subject, SystemTime::now()).expect("a certificate");
    assert!(first.still_good(&credential, &subject, SystemTime::now()));
    assert!(!second.still_good(&credential, &subject, SystemTime::now()));
    for path in [one, two] {
        std::fs::remove_dir_all(path).expect("clean");
    }
}

#[test]
fn keys_are_their_owner_s_alone() {
    use std::os::unix::fs::PermissionsExt;
    let path = directory("mode");
    Ca::load_or_create(&path).expect("an authority");
    let mode = std::fs::metadata(path.join("ca.key")).expect("a key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    std::fs::remove_dir_all(path).expect("clean");
}

#[test]
fn a_kubeconfig_s_key_tells_its_kind() {
    let path = directory("kind");
    let ca = Ca::load_or_create(&path).expect("an authority");
    let admin = ca.client_cert("admin", "admin", &[]).expect("a certificate");
    let text = kubeconfig("k", "https://a", ca.cert_pem(), "admin", &admin);
    let (_, data) = text.rsplit_once("client-key-data: ").expect("a key");
    let key = PrivateKeyDer::from_pem_slice(&STANDARD.decode(data.trim()).expect("base64")).expect("a key");
    assert!(matches!(key, PrivateKeyDer::Sec1(_)), "clients take what tells no kind for RSA");
    let key = rustls::crypto::ring::sign::any_supported_type(&key).expect("a key that signs");
    let pair = rustls::sign::CertifiedKey::new(admin.chain().expect("a chain"), key);
    pair.keys_match().expect("the certificate's");
    std::fs::remove_dir_all(path).expect("clean");
}

fn cluster_names() -> ClusterNames {
    ClusterNames { domain: "cluster.local".into(), service_ip: [10, 96, 0, 1].into(), ips: vec![[192, 168, 7, 1].into()], names: vec![] }
}

fn names_of(credential: &Credential) -> (Vec<String>, usize) {
    let der = credential.cert().expect("a certificate");
    let (_, cert) = X509Certificate::from_der(&der).expect("a certificate");
    let san = cert.subject_alternative_name().expect("names").expect("names");
    let dns = san.value.general_names.iter().filter_map(|n| match n {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    let dns: Vec<String> = dns.collect();
    let ips = san.value.general_names.len() - dns.len();
    (dns, ips)
}

#[test]
fn a_cluster_s_keys_are_made_once() {
    use std::os::unix::fs::PermissionsExt;
    let path = directory("cluster");
    let first = ClusterPki::load_or_create(&path, &cluster_names()).expect("a cluster's keys");
    let node = first.node("n1", &[[192, 168, 7, 1].into()]).expect("a node's");
    let (dns, ips) = names_of(&first.apiserver);
    for name in ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"] {
        assert!(dns.iter().any(|d| d == name), "{name}");
    }
    assert_eq!(ips, 3, "the service's, the loopback's, the node's");
    for file in std::fs::read_dir(&path).expect("files") {
        let file = file.expect("a file");
        assert_eq!(file.metadata().expect("metadata").permissions().mode() & 0o777, 0o600, "{:?}", file.path());
    }
    let again = ClusterPki::load_or_create(&path, &cluster_names()).expect("the same keys");
    assert_eq!(first.ca.cert_pem(), again.ca.cert_pem());
    assert_eq!(first.front_proxy_ca.cert_pem(), again.front_proxy_ca.cert_pem());
    assert_ne!(first.ca.cert_pem(), again.front_proxy_ca.cert_pem());
    for (one, other) in [(&first.apiserver, &again.apiserver), (&first.admin, &again.admin), (&first.kubelet_client, &again.kubelet_client)] {
        assert_eq!(one.cert_pem, other.cert_pem);
    }
    assert_eq!(node.serving.cert_pem, again.node("n1", &[[192, 168, 7, 1].into()]).expect("a node's").serving.cert_pem);
    assert_ne!(node.serving.cert_pem, again.node("n1", &[[192, 168, 7, 2].into()]).expect("a node's").serving.cert_pem, "the node has moved");
    assert!(again.trust().expect("trust").kubelets.is_some());
    assert!(!again.ends_soon(SystemTime::now()) && again.ends_soon(SystemTime::now() + LIFE - DAY));
    std::fs::remove_dir_all(path).expect("clean");
}

#[test]
fn an_authority_near_its_end_keeps_its_key() {
    let path = directory("renew");
    let first = ClusterPki::load_or_create(&path, &cluster_names()).expect("a cluster's keys");
    let key = KeyPair::from_pem(&std::fs::read_to_string(path.join("ca.key")).expect("a key")).expect("a key");
    let mut params = base_params(SystemTime::now(), DAY).expect("params");
    params.distinguished_name.push(DnType::CommonName, "kubernetes");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(path.join("ca.crt"), params.self_signed(&key).expect("a certificate").pem()).expect("written");
    let again = ClusterPki::load_or_create(&path, &cluster_names()).expect("renewed");
    assert!(!pem_ends_soon(again.ca.cert_pem(), SystemTime::now()), "renewed");
    assert_eq!(first.admin.cert_pem, again.admin.cert_pem, "what the key has signed stays good");
    std::fs::remove_dir_all(path).expect("clean");
}

#[test]
fn a_broken_certificate_is_made_anew() {
    let path = directory("broken");
    let first = ClusterPki::load_or_create(&path, &cluster_names()).expect("a cluster's keys");
    std::fs::write(path.join("admin.crt"), "").expect("written");
    let again = ClusterPki::load_or_create(&path, &cluster_names()).expect("made anew");
    assert!(again.admin.cert().is_ok());
    assert_ne!(first.admin.cert_pem, again.admin.cert_pem);
    std::fs::remove_dir_all(path).expect("clean");
}

#[test]
fn a_request_names_who_it_is_for() {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "eve");
    params.distinguished_name.push(DnType::OrganizationName, "system:masters");
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let pem = params.serialize_request(&key).expect("a request").pem().expect("text");
    assert_eq!(request_subject(pem.as_bytes()).expect("a subject"), ("eve".to_owned(), vec!["system:masters".to_owned()]));
    assert!(request_subject(b"nonsense").is_err());
    // An organization that cannot be read is not left out.
    params.distinguished_name.push(DnType::OrganizationName, rcgen::DnValue::TeletexString("system:masters".try_into().expect("a text")));
    let pem = params.serialize_request(&key).expect("a request").pem().expect("text");
    assert!(request_subject(pem.as_bytes()).is_err());
}

/// Everything that one side has to say, told to the other.
fn tell(from: &mut rustls::Connection, to: &mut rustls::Connection) {
    let mut said = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut said).expect("memory");
    }
    let mut rest = said.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).expect("memory");
        to.process_new_packets().expect("TLS");
    }
}

/// What each side of a handshake sees of the other.
fn seen(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> (CertificateDer<'static>, CertificateDer<'static>) {
    let name = "localhost".try_into().expect("a name");
    let mut client: rustls::Connection = rustls::ClientConnection::new(client.clone(), name).expect("a client").into();
    let mut server: rustls::Connection = rustls::ServerConnection::new(server.clone()).expect("a server").into();
    while client.is_handshaking() || server.is_handshaking() {
        tell(&mut client, &mut server);
        tell(&mut server, &mut client);
    }
    let first = |c: &rustls::Connection| c.peer_certificates().expect("a certificate")[0].clone().into_owned();
    (first(&client), first(&server))
}

#[test]
fn a_running_server_and_its_clients_show_the_new_certificate() {
    let path = directory("renewable");
    let mut pki = ClusterPki::load_or_create(&path, &cluster_names()).expect("a cluster's keys");
    let server = pki.server_config().expect("TLS");
    // A resumed session would show the certificate that it began with.
    let mut admin = pki.ca.client_config(Some(&pki.admin)).expect("TLS");
    admin.resumption = rustls::client::Resumption::disabled();
    let (admin, client) = (Arc::new(admin), pki.trust().expect("trust").kubelets.expect("kubelets").of("localhost").expect("TLS"));
    let mut node = pki.node("localhost", &[]).expect("a node's");
    let kubelet = pki.kubelet_server_config(&node).expect("TLS");
    let before = (pki.apiserver.cert().expect("one"), pki.kubelet_client.cert().expect("one"), node.serving.cert().expect("one"));
    assert_eq!(seen(&server, &admin).0, before.0);
    assert_eq!(seen(&kubelet, &client), (before.2.clone(), before.1.clone()));
    pki.renew(&cluster_names()).expect("nothing to do");
    assert_eq!(seen(&server, &admin).0, before.0, "what has time left stays");
    // As near its end: what cannot be used is made anew likewise.
    for file in ["apiserver.crt", "apiserver-kubelet-client.crt", "kubelet-localhost.crt"] {
        std::fs::write(path.join(file), "").expect("written");
    }
    pki.renew(&cluster_names()).expect("renewed");
    pki.renew_node(&mut node, "localhost", &[]).expect("renewed");
    let shown = seen(&server, &admin).0;
    assert!(shown != before.0 && shown == pki.apiserver.cert().expect("one"));
    let (shown, known) = seen(&kubelet, &client);
    assert!(known != before.1 && known == pki.kubelet_client.cert().expect("one"));
    assert!(shown != before.2 && shown == node.serving.cert().expect("one"));
    std::fs::remove_dir_all(path).expect("clean");
}

/// Whether a server lets in who shows this certificate with this key.
fn lets_in(server: &Arc<ServerConfig>, ca: &Ca, cert: &Credential, key: &Credential) -> Result<(), rustls::Error> {
    let key = rustls::crypto::ring::sign::any_supported_type(&key.key().expect("a key")).expect("a key");
    let shown = rustls::sign::CertifiedKey::new(vec![cert.cert().expect("a certificate")], key);
    let client = ca.client_builder().expect("TLS").with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)));
    let mut client: rustls::Connection = rustls::ClientConnection::new(Arc::new(client), "localhost".try_into().expect("a name")).expect("a client").into();
    let mut server: rustls::Connection = rustls::ServerConnection::new(server.clone()).expect("a server").into();
    while client.is_handshaking() || server.is_handshaking() {
        let mut said = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut said).expect("memory");
        }
        let mut rest = said.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).expect("memory");
            server.process_new_packets()?;
        }
        tell(&mut server, &mut client);
    }
    Ok(())
}

#[test]
fn the_api_server_s_handshake_takes_any_certificate_with_its_key_and_a_kubelet_s_its_authority_s_alone() {
    let path = directory("any");
    let pki = ClusterPki::load_or_create(&path, &cluster_names()).expect("a cluster's keys");
    let node = pki.node("localhost", &[]).expect("a node's");
    let other = Ca::load_or_create(&path.join("other")).expect("another authority");
    let strange = other.client_cert("eve", "eve", &[]).expect("a certificate");
    let (server, kubelet) = (pki.server_config().expect("TLS"), pki.kubelet_server_config(&node).expect("TLS"));
    assert_eq!(lets_in(&server, &pki.ca, &pki.admin, &pki.admin), Ok(()));
    assert_eq!(lets_in(&server, &pki.ca, &strange, &strange), Ok(()));
    for cert in [&pki.admin, &strange] {
        let key = other.client_cert("mallory", "mallory", &[]).expect("a certificate");
        assert!(lets_in(&server, &pki.ca, cert, &key).is_err(), "a certificate is no secret");
    }
    assert_eq!(lets_in(&kubelet, &pki.ca, &pki.admin, &pki.admin), Ok(()));
    assert!(lets_in(&kubelet, &pki.ca, &strange, &strange).is_err(), "it believes what the certificate says");
    std::fs::remove_dir_all(path).expect("clean");
}

#[test]
fn a_server_takes_the_cipher_that_go_s_servers_take() {
    let path = directory("ciphers");
    let pki = ClusterPki::load_or_create(&path, &cluster_names()).expect("a cluster's keys");
    let server = pki.server_config().expect("TLS");
    for (version, wanted) in [
        (&rustls::version::TLS13, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256),
        (&rustls::version::TLS12, rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ] {
        let mut roots = RootCertStore::empty();
        roots.add(pki.ca.cert().clone()).expect("an authority");
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        // It would have the longer key.
        let client = builder.with_protocol_versions(&[version]).expect("TLS").with_root_certificates(roots).with_no_client_auth();
        let mut client: rustls::Connection = rustls::ClientConnection::new(Arc::new(client), "localhost".try_into().expect("a name")).expect("a client").into();
        let mut server: rustls::Connection = rustls::ServerConnection::new(server.clone()).expect("a server").into();
        while client.is_handshaking() || server.is_handshaking() {
            tell(&mut client, &mut server);
            tell(&mut server, &mut client);
        }
        assert_eq!(server.negotiated_cipher_suite().map(|suite| suite.suite()), Some(wanted));
    }
    std::fs::remove_dir_all(path).expect("clean");
}
