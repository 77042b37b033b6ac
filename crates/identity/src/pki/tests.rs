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
