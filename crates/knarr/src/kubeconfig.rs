//! The user's kubeconfig: one context, cluster and user of the cluster's name come and go; everything else stays.

use anyhow::{Context as _, bail};
use serde_yaml_ng::{Mapping, Value};
use std::{
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    os::unix::fs::{OpenOptionsExt as _, chown},
    path::{Path, PathBuf},
};

/// The lists of a kubeconfig that a cluster has an entry in.
const LISTS: [&str; 3] = ["clusters", "users", "contexts"];

/// The file that kubectl would write to: `--kubeconfig`, the first of `$KUBECONFIG`, `~/.kube/config`.
pub fn path(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let variable = std::env::var_os("KUBECONFIG").unwrap_or_default();
    if let Some(first) = std::env::split_paths(&variable).find(|p| !p.as_os_str().is_empty()) {
        return Ok(first);
    }
    let home = std::env::var_os("HOME").filter(|h| !h.is_empty()).context("neither --kubeconfig nor $KUBECONFIG nor $HOME says where the kubeconfig is")?;
    Ok(Path::new(&home).join(".kube/config"))
}

/// Puts the entries of `own` (a kubeconfig with one context) into the file and makes its context the current one.
pub fn merge(path: &Path, own: &str) -> anyhow::Result<()> {
    let own: Mapping = serde_yaml_ng::from_str(own)?;
    change(path, |file| {
        for list in LISTS {
            for entry in own.get(list).and_then(Value::as_sequence).into_iter().flatten() {
                put(file, list, entry)?;
            }
        }
        if let Some(current) = own.get("current-context") {
            file.insert("current-context".into(), current.clone());
        }
        Ok(true)
    })
}

/// Takes a cluster's entries out of the file, if it is there.
pub fn remove(path: &Path, name: &str) -> anyhow::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    change(path, |file| {
        let mut changed = false;
        for list in LISTS {
            let own = if list == "users" { format!("{name}-admin") } else { name.to_owned() };
            if let Some(entries) = file.get_mut(list).and_then(Value::as_sequence_mut) {
                let before = entries.len();
                entries.retain(|e| e.get("name").and_then(Value::as_str) != Some(&own));
                changed |= entries.len() != before;
            }
        }
        if file.get("current-context").and_then(Value::as_str) == Some(name) {
            file.insert("current-context".into(), "".into());
            changed = true;
        }
        Ok(changed)
    })
}

fn put(file: &mut Mapping, list: &str, entry: &Value) -> anyhow::Result<()> {
    let entries = file.entry(list.into()).or_insert(Value::Null);
    if entries.is_null() {
        *entries = Value::Sequence(Vec::new());
    }
    let Some(entries) = entries.as_sequence_mut() else { bail!("{list} is not a list") };
    match entries.iter_mut().find(|e| e.get("name") == entry.get("name")) {
        Some(old) => *old = entry.clone(),
        None => entries.push(entry.clone()),
    }
    Ok(())
}

fn change(path: &Path, make: impl FnOnce(&mut Mapping) -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let what = || format!("the kubeconfig {} cannot be changed", path.display());
    // A link stays a link.
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let text = match std::fs::read_to_string(&target) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(what),
    };
    let parsed: Value = serde_yaml_ng::from_str(&text).with_context(what)?;
    let mut file = match parsed {
        Value::Null => Mapping::from_iter([("apiVersion".into(), "v1".into()), ("kind".into(), "Config".into())]),
        Value::Mapping(mapping) => mapping,
        _ => bail!("{}: it is not a kubeconfig", what()),
    };
    if make(&mut file).with_context(what)? {
        replace(&target, &serde_yaml_ng::to_string(&file)?).with_context(what)?;
    }
    Ok(())
}

/// Writes beside the file and renames, so that no reader sees half of it; its owner stays its owner.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    let mut name = path.file_name().context("it has no name")?.to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = path.with_file_name(name);
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    if let Ok(old) = std::fs::metadata(path) {
        chown(&new, Some(old.uid()), Some(old.gid()))?;
    }
    std::fs::rename(&new, path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEIRS: &str = "apiVersion: v1\nkind: Config\ncurrent-context: work\nclusters:\n- name: work\n  cluster: {server: 'https://work:6443'}\n\
        users:\n- name: me\n  user: {token: secret}\ncontexts:\n- name: work\n  context: {cluster: work, user: me, namespace: team}\n";
    const OURS: &str = "apiVersion: v1\nkind: Config\ncurrent-context: knarr\nclusters:\n- name: knarr\n  cluster: {server: 'https://127.0.0.1:6443'}\n\
        users:\n- name: knarr-admin\n  user: {client-key-data: eA==}\ncontexts:\n- name: knarr\n  context: {cluster: knarr, user: knarr-admin}\n";

    fn read(path: &Path) -> Value {
        serde_yaml_ng::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    #[test]
    fn a_context_comes_and_goes_and_the_others_stay() {
        let folder = std::env::temp_dir().join(format!("knarr-kubeconfig-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("config");
        std::fs::write(&path, THEIRS).unwrap();
        let theirs = read(&path);
        merge(&path, OURS).unwrap();
        merge(&path, OURS).unwrap();
        let both = read(&path);
        assert_eq!(both["current-context"], "knarr");
        for list in LISTS {
            assert_eq!(both[list].as_sequence().unwrap().len(), 2, "{list}");
            assert_eq!(both[list][0], theirs[list][0]);
        }
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        remove(&path, "knarr").unwrap();
        let after = read(&path);
        assert!(LISTS.iter().all(|list| after[*list] == theirs[*list]));
        let fresh = folder.join("none/config");
        remove(&fresh, "knarr").unwrap();
        merge(&fresh, OURS).unwrap();
        assert_eq!(read(&fresh)["contexts"][0]["name"], "knarr");
        std::fs::write(&path, "- not\n- this").unwrap();
        assert!(merge(&path, OURS).unwrap_err().to_string().contains("not a kubeconfig"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
