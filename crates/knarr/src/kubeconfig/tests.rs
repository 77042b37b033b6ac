//! What happens to a user's file.

use super::*;

const THEIRS: &str = "# my clusters, do not lose this\napiVersion: v1\nkind: Config\ncurrent-context: work # the usual one\nclusters:\n\
    - cluster: {server: 'https://work:6443'}\n  name: \"no\"\n# the user\nusers:\n  - name: me\n    user:\n      token: \"1_000\"\n      password: 'yes'\n\
    contexts:\n- name: work\n  context: {cluster: \"no\", user: me, namespace: \"on\"}\npreferences: {colors: true}\n";

fn own(name: &str, ca: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: {name}\nclusters:\n- name: {name}\n  cluster: {{server: 'https://127.0.0.1:6443', certificate-authority-data: {ca}}}\n\
        users:\n- name: {name}-admin\n  user: {{client-certificate-data: c{ca}, client-key-data: eA==}}\ncontexts:\n- name: {name}\n  context: {{cluster: {name}, user: {name}-admin}}\n"
    )
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("knarr-kubeconfig-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    fn file(&self, text: &str) -> PathBuf {
        let path = self.0.join("config");
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn read(path: &Path) -> Value {
    serde_yaml_ng::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn known(path: &Path, text: &str) -> Vec<Written> {
    let mut all = Vec::new();
    remember(&mut all, path, text).unwrap();
    all
}

#[test]
fn a_context_comes_and_goes_and_every_other_line_stays() {
    let folder = Folder::new("lines");
    let path = folder.file(THEIRS);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let text = own("knarr", "QQ==");
    let known = known(&path, &text);
    // One that was killed has left keys of its own.
    fs::write(folder.0.join("config.knarr-new"), "half").unwrap();
    merge(&path, &text, &known).unwrap();
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "nothing is left beside it");
    let once = fs::read_to_string(&path).unwrap();
    merge(&path, &text, &known).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), once, "the same again is no change");
    let (theirs, both): (Value, Value) = (serde_yaml_ng::from_str(THEIRS).unwrap(), read(&path));
    assert_eq!(both["current-context"], "knarr");
    for (list, _) in LISTS {
        assert_eq!(both[list].as_sequence().unwrap().len(), 2, "{list}");
        assert_eq!(both[list][0], theirs[list][0]);
    }
    for line in THEIRS.lines().filter(|l| !l.starts_with("current-context")) {
        assert!(once.lines().any(|l| l == line), "{line:?} is still there:\n{once}");
    }
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
    remove(&path, "knarr", &known).unwrap();
    let after = fs::read_to_string(&path).unwrap();
    assert_eq!(after, THEIRS.replace("current-context: work # the usual one", "current-context: \"\""));
    assert!(!folder.0.join("config.lock").exists());
}

#[test]
fn a_file_in_another_form_keeps_its_texts_as_texts() {
    let folder = Folder::new("json");
    let path = folder.file(r#"{"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "no", "cluster": {"server": "x"}}], "users": [{"name": "y", "user": {"token": "1_000", "password": "on"}}]}"#);
    let theirs = read(&path);
    let text = own("knarr", "QQ==");
    merge(&path, &text, &known(&path, &text)).unwrap();
    let written = fs::read_to_string(&path).unwrap();
    for quoted in ["\"no\"", "\"y\"", "\"1_000\"", "\"on\""] {
        assert!(written.contains(quoted), "{quoted} in {written}");
    }
    assert_eq!((&read(&path)["users"][0], &read(&path)["clusters"][0]), (&theirs["users"][0], &theirs["clusters"][0]));
    assert_eq!(read(&path)["contexts"][0]["name"], "knarr");
}

#[test]
fn what_is_anothers_is_neither_overwritten_nor_removed() {
    let folder = Folder::new("theirs");
    // Another cluster of this name, kept by another file or machine.
    let path = folder.file(&own("prod", "THEIRS=="));
    let before = fs::read_to_string(&path).unwrap();
    let text = own("prod", "OURS==");
    let known_ours = known(&folder.0.join("elsewhere"), &text);
    for known in [&[][..], &known_ours] {
        let error = format!("{:#}", check(&path, "prod", known).unwrap_err());
        assert!(error.contains("cluster \"prod\" is not this cluster's") && error.contains("kubectl config delete-cluster prod"), "{error}");
        assert!(merge(&path, &text, known).is_err());
        remove(&path, "prod", known).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
    }
    // Once it is ours, it is found by what it holds, also by the certificates of the time before the last.
    let mut known = known(&path, &own("prod", "THEIRS=="));
    remember(&mut known, &path, &text).unwrap();
    merge(&path, &text, &known).unwrap();
    remember(&mut known, &path, &own("prod", "NEWER==")).unwrap();
    remove(&path, "prod", &known).unwrap();
    for (list, _) in LISTS {
        assert_eq!(read(&path)[list].as_sequence().unwrap().len(), 0, "{list}");
    }
}

#[test]
fn what_a_user_set_in_the_context_stays() {
    let folder = Folder::new("namespace");
    let path = folder.0.join("new/config");
    let text = own("knarr", "QQ==");
    let known = known(&path, &text);
    check(&path, "knarr", &[]).unwrap();
    merge(&path, &text, &known).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let with = fs::read_to_string(&path).unwrap().replace("cluster: \"knarr\"\n", "cluster: \"knarr\"\n    namespace: shop\n");
    fs::write(&path, &with).unwrap();
    assert_eq!(read(&path)["contexts"][0]["context"]["namespace"], "shop");
    merge(&path, &text, &known).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), with);
}

#[test]
fn a_file_that_cannot_be_used_is_told_before_the_start() {
    let folder = Folder::new("broken");
    let error = |text: &str| format!("{:#}", check(&folder.file(text), "knarr", &[]).unwrap_err());
    assert!(error("- not\n- this").contains("not a kubeconfig"));
    assert!(error("clusters: {a: b}").contains("clusters are not a list"));
    assert!(error("a: [").contains("cannot be used"));
    // What the editing refuses at the end of a start is known at its beginning.
    let lossy = "{apiVersion: v1, kind: Config, clusters: [], extra: !mine {a: 1}}";
    assert!(error(lossy).contains("cannot be written as it is"));
    assert_eq!(fs::read_to_string(folder.0.join("config")).unwrap(), lossy, "nothing is changed by looking");
    check(&folder.file(THEIRS), "knarr", &[]).unwrap();
    assert_eq!(fs::read_to_string(folder.0.join("config")).unwrap(), THEIRS);
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "and nothing is left");
    check(&folder.0.join("not/there/config"), "knarr", &[]).unwrap();
    assert!(!folder.0.join("not").exists());
}

#[test]
fn a_file_whose_place_cannot_be_taken_is_told_before_the_start() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let folder = Folder::new("held");
    let (path, other) = (folder.file(THEIRS), folder.0.join("with space"));
    fs::write(&other, THEIRS).unwrap();
    let nothing: Option<&str> = None;
    let text = own("knarr", "QQ==");
    for held in [&path, &other] {
        mount(Some(held), held, nothing, MsFlags::MS_BIND, nothing).unwrap();
        let (early, late) = (check(held, "knarr", &[]), merge(held, &text, &[]));
        umount2(held, MntFlags::MNT_DETACH).unwrap();
        assert!(format!("{:#}", early.unwrap_err()).contains("mounted upon it"));
        assert!(late.is_err(), "and so it is");
    }
    let read_only = folder.0.join("ro");
    fs::create_dir(&read_only).unwrap();
    mount(Some("tmpfs"), &read_only, Some("tmpfs"), MsFlags::MS_RDONLY, nothing).unwrap();
    let (early, late) = (check(&read_only.join("config"), "knarr", &[]), check(&read_only.join("sub/config"), "knarr", &[]));
    umount2(&read_only, MntFlags::MNT_DETACH).unwrap();
    for refused in [early, late] {
        assert!(format!("{:#}", refused.unwrap_err()).contains("cannot be written"));
    }
    check(&path, "knarr", &[]).unwrap();
}

#[test]
fn what_is_written_already_needs_no_room() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let folder = Folder::new("full");
    let (path, small, text) = (folder.file(THEIRS), folder.0.join("small"), own("knarr", "QQ=="));
    merge(&path, &text, &known(&path, &text)).unwrap();
    fs::create_dir(&small).unwrap();
    // One page, which the file takes.
    mount(Some("tmpfs"), &small, Some("tmpfs"), MsFlags::empty(), Some("size=4k")).unwrap();
    let there = small.join("config");
    let copied = fs::copy(&path, &there);
    let again = merge(&there, &text, &known(&there, &text));
    let is_full = fs::write(small.join("other"), "x").is_err();
    umount2(&small, MntFlags::MNT_DETACH).unwrap();
    copied.unwrap();
    again.unwrap();
    assert!(is_full);
}

#[test]
fn a_draft_of_one_that_was_killed_goes_where_nothing_is_to_be_changed() {
    let folder = Folder::new("draft");
    let (path, draft) = (folder.0.join("config"), folder.0.join("config.knarr-new"));
    fs::write(&draft, "half").unwrap();
    remove(&path, "knarr", &[]).unwrap();
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0, "there is no file, nor a reason to make one");
    let text = own("knarr", "QQ==");
    let known = known(&path, &text);
    merge(&path, &text, &known).unwrap();
    fs::write(&draft, "half").unwrap();
    merge(&path, &text, &known).unwrap();
    assert!(!draft.exists());
}

#[test]
fn a_lock_of_others_is_waited_for_and_one_of_the_dead_is_not() {
    let folder = Folder::new("lock");
    let path = folder.file(THEIRS);
    let lock = folder.0.join("config.lock");
    // Beyond any process number (PID_MAX_LIMIT).
    fs::write(&lock, "knarr 4194305").unwrap();
    let text = own("knarr", "QQ==");
    merge(&path, &text, &known(&path, &text)).unwrap();
    fs::write(&lock, "").unwrap();
    let waits = thread::spawn({
        let path = path.clone();
        move || remove(&path, "knarr", &known(&path, &own("knarr", "QQ==")))
    });
    // Nothing is written while it is there.
    thread::sleep(LOCK_LOOK * 3);
    assert_eq!(read(&path)["contexts"].as_sequence().unwrap().len(), 2);
    fs::remove_file(&lock).unwrap();
    waits.join().unwrap().unwrap();
    assert_eq!(read(&path)["contexts"].as_sequence().unwrap().len(), 1);
}

/// One that is killed leaves what can be told from kubectl's, which is empty.
#[test]
fn a_lock_is_never_there_without_its_makers_number() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let folder = Folder::new("number");
    let (path, done) = (folder.file(THEIRS), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if let Ok(text) = fs::read_to_string(folder.0.join("config.lock")) {
                    assert_eq!(text, format!("knarr {}", std::process::id()));
                }
            }
        });
        let taken = (0..500).try_for_each(|_| Lock::take(&path).map(drop));
        done.store(true, Ordering::Relaxed);
        taken.unwrap();
    });
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn what_cannot_be_written_anew_is_left_as_it_is() {
    let folder = Folder::new("lossy");
    let text = own("knarr", "QQ==");
    // In a form that is not edited line by line: written anew where that means the same.
    let path = folder.file("{apiVersion: v1, kind: Config, clusters: [], extra: {a: 1}}");
    merge(&path, &text, &[]).unwrap();
    assert_eq!((read(&path)["extra"]["a"].as_i64(), read(&path)["current-context"].as_str()), (Some(1), Some("knarr")));
    // And where it would not: refused, and nothing is lost.
    let theirs = "{apiVersion: v1, kind: Config, clusters: [], extra: !mine {a: 1}}";
    let path = folder.file(theirs);
    let refused = format!("{:#}", merge(&path, &text, &[]).unwrap_err());
    assert!(refused.contains("cannot be written as it is"), "{refused}");
    assert_eq!(fs::read_to_string(&path).unwrap(), theirs);
}
