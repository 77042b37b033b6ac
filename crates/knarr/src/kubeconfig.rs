//! The user's kubeconfig: one context, cluster and user of the cluster's name come and go; everything else stays as it was
//! written, comments too.
//!
//! An entry is the cluster's if it holds the cluster's authority or certificate, now or when knarr wrote it ([`Written`], kept
//! with the cluster's data); one of the same name that is another's is never changed or removed. The file is locked as
//! kubectl locks it (`FILE.lock`), edited as text (`text.rs`) and replaced in one step.

mod emit;
#[cfg(test)]
mod tests;
mod text;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use serde_yaml_ng::{Mapping, Value};
use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// The lists of a kubeconfig that a cluster has an entry in, with what is in an entry beside its name.
const LISTS: [(&str, &str); 3] = [("clusters", "cluster"), ("users", "user"), ("contexts", "context")];
/// Of the cluster: its authority.
const AUTHORITY: &str = "certificate-authority-data";
/// Of the user: its certificate.
const CERTIFICATE: &str = "client-certificate-data";
/// Authorities and certificates that are remembered for a file: the last, and the one that a crash may have left there.
const REMEMBERED: usize = 2;
/// Somebody else's lock is waited for so long; kubectl holds it for moments.
const LOCK_MAX: Duration = Duration::from_secs(5);
/// Between two tries: a file that must not be there cannot be awaited.
const LOCK_LOOK: Duration = Duration::from_millis(10);

/// A file that has a cluster's context, and by what its entries are known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// Authorities of the cluster that were written there, the newest last.
    pub authorities: Vec<String>,
    /// Certificates of its administrator, likewise.
    pub certificates: Vec<String>,
}

impl Written {
    fn add(&mut self, own: &Mapping) {
        for (list, entry, field, known) in [("clusters", "cluster", AUTHORITY, &mut self.authorities), ("users", "user", CERTIFICATE, &mut self.certificates)] {
            let value = own.get(list).and_then(|l| l.get(0)?.get(entry)?.get(field)?.as_str());
            known.extend(value.filter(|v| !known.iter().any(|k| k == v)).map(str::to_owned).into_iter().collect::<Vec<_>>());
            let old = known.len().saturating_sub(REMEMBERED);
            known.drain(..old);
        }
    }
}

/// Remembers, before it is done, that `own` will be written to a file.
pub fn remember(all: &mut Vec<Written>, path: &Path, own: &str) -> anyhow::Result<()> {
    let path = std::path::absolute(path)?;
    let own = serde_yaml_ng::from_str(own)?;
    if !all.iter().any(|w| w.path == path) {
        all.push(Written { path: path.clone(), authorities: Vec::new(), certificates: Vec::new() });
    }
    all.iter_mut().filter(|w| w.path == path).for_each(|w| w.add(&own));
    Ok(())
}

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

/// Before anything is made: whether the file can take the context of a cluster of this name. All that [`merge`] does is tried, but for
/// the last step. What is not known yet of the cluster (`known`: from former starts) cannot be in the file.
pub fn check(path: &Path, name: &str, known: &[Written]) -> anyhow::Result<()> {
    let try_it = || {
        let mut file = File::read(path)?;
        let before = file.text.clone();
        file.take_in(&sample(name)?, name, known)?;
        if file.text == before { Ok(()) } else { can_replace(&file.target) }
    };
    try_it().with_context(|| format!("the kubeconfig {} cannot be used", path.display()))
}

/// Entries as a cluster of this name has them, with other keys.
fn sample(name: &str) -> anyhow::Result<Mapping> {
    let user = format!("{name}-admin");
    Ok(serde_yaml_ng::from_str(&format!(
        "{{clusters: [{{name: {name:?}, cluster: {{server: 'https://127.0.0.1:6443', {AUTHORITY}: QQ==}}}}], \
         users: [{{name: {user:?}, user: {{{CERTIFICATE}: QQ==, client-key-data: QQ==}}}}], \
         contexts: [{{name: {name:?}, context: {{cluster: {name:?}, user: {user:?}}}}}]}}"
    ))?)
}

/// Whether another file can take this one's place: its directory takes one, and nothing holds it where it is.
fn can_replace(target: &Path) -> anyhow::Result<()> {
    let folder = existing(target);
    let writable = |place: &Path| nix::unistd::access(place, nix::unistd::AccessFlags::W_OK).with_context(|| format!("{} cannot be written", place.display()));
    writable(folder)?;
    if target.parent() != Some(folder) {
        return Ok(());
    }
    let _lock = Lock::take(target)?;
    // There is room for a file, and the file system takes one.
    let new = draft(target)?;
    let tried = fresh(&new).and_then(|mut file| {
        file.write_all(&fs::read(target).unwrap_or_default())?;
        file.sync_all()
    });
    let _ = fs::remove_file(&new);
    tried.with_context(|| format!("{} cannot be written", new.display()))?;
    if !target.exists() {
        return Ok(());
    }
    writable(target)?;
    if is_mount(target) {
        bail!("a file system is mounted upon it, so that another file cannot take its place: mount its directory instead");
    }
    Ok(())
}

/// Whether something is mounted upon a path.
fn is_mount(path: &Path) -> bool {
    runtime::mounts::all().unwrap_or_default().iter().any(|mounted| mounted.at == path)
}

/// The nearest directory above a path that is there.
fn existing(path: &Path) -> &Path {
    path.ancestors().skip(1).find(|p| p.is_dir()).unwrap_or(Path::new("."))
}

/// Puts the entries of `own` (a kubeconfig with one context) into the file and makes its context the current one.
pub fn merge(path: &Path, own: &str, known: &[Written]) -> anyhow::Result<()> {
    let own: Mapping = serde_yaml_ng::from_str(own)?;
    let name = own.get("current-context").and_then(Value::as_str).context("a kubeconfig without a context")?.to_owned();
    change(path, |file| file.take_in(&own, &name, known))
}

/// Takes a cluster's entries out of the file, if it is there; whatever is another's stays.
pub fn remove(path: &Path, name: &str, known: &[Written]) -> anyhow::Result<()> {
    // One that was killed over the first of all has left a draft alone.
    if !path.exists() && !draft(path)?.exists() {
        return Ok(());
    }
    change(path, |file| {
        let ours = Ours { name, known }.entries(&file.value);
        for (list, own) in &ours {
            file.take(list, own)?;
        }
        if ours.iter().any(|(list, _)| *list == "contexts") && file.value.get("current-context").and_then(Value::as_str) == Some(name) {
            file.set_current("")?;
        }
        Ok(())
    })
}

/// Which entries of a file are a cluster's.
struct Ours<'a> {
    name: &'a str,
    known: &'a [Written],
}

impl Ours<'_> {
    fn user(&self) -> String {
        format!("{}-admin", self.name)
    }

    fn knows(&self, entry: &Value, field: &str, of: impl Fn(&Written) -> &Vec<String>) -> bool {
        entry.get(field).and_then(Value::as_str).is_some_and(|value| self.known.iter().any(|w| of(w).iter().any(|k| k == value)))
    }

    /// The entries that are there and the cluster's: list and name.
    fn entries(&self, file: &Mapping) -> Vec<(&'static str, String)> {
        self.look(file).into_iter().filter(|(_, _, ours)| *ours).map(|(list, name, _)| (list, name)).collect()
    }

    /// The entries of the cluster's names that are there, and whether they are its.
    fn look(&self, file: &Mapping) -> Vec<(&'static str, String, bool)> {
        let mut out = Vec::new();
        let user = self.user();
        if let Some(entry) = find(file, "clusters", self.name) {
            out.push(("clusters", self.name.to_owned(), self.knows(&entry["cluster"], AUTHORITY, |w| &w.authorities)));
        }
        if let Some(entry) = find(file, "users", &user) {
            out.push(("users", user.clone(), self.knows(&entry["user"], CERTIFICATE, |w| &w.certificates)));
        }
        if let Some(entry) = find(file, "contexts", self.name) {
            // A context holds nothing of its own: it is whose cluster and user it joins.
            let joins = entry["context"]["cluster"] == self.name && entry["context"]["user"] == user.as_str();
            let ours = joins && out.iter().all(|(_, _, ours)| *ours) && !self.known.is_empty();
            out.push(("contexts", self.name.to_owned(), ours));
        }
        out
    }

    /// Another's entry of one of the names is told, with what to do.
    fn refuse(&self, file: &Mapping) -> anyhow::Result<()> {
        let Some((list, name, _)) = self.look(file).into_iter().find(|(_, _, ours)| !ours) else { return Ok(()) };
        let kind = list.trim_end_matches('s');
        bail!("its {kind} {name:?} is not this cluster's: choose another --name or --kubeconfig, or take it out with `kubectl config delete-{kind} {name}`")
    }
}

fn find<'a>(file: &'a Mapping, list: &str, name: &str) -> Option<&'a Value> {
    file.get(list)?.as_sequence()?.iter().find(|e| e.get("name").and_then(Value::as_str) == Some(name))
}

/// A kubeconfig as it is written and as it is understood.
struct File {
    target: PathBuf,
    text: String,
    value: Mapping,
}

impl File {
    fn read(path: &Path) -> anyhow::Result<File> {
        // A link stays a link.
        let target = fs::canonicalize(path).or_else(|_| std::path::absolute(path))?;
        let text = match fs::read_to_string(&target) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error.into()),
        };
        let value = match serde_yaml_ng::from_str(&text)? {
            Value::Null => Mapping::new(),
            Value::Mapping(mapping) => mapping,
            _ => bail!("it is not a kubeconfig"),
        };
        for (list, _) in LISTS {
            if value.get(list).is_some_and(|l| !l.is_sequence() && !l.is_null()) {
                bail!("its {list} are not a list");
            }
        }
        let text = if value.is_empty() { "apiVersion: v1\nkind: Config\n".to_owned() } else { text };
        let value = serde_yaml_ng::from_str(&text)?;
        Ok(File { target, text, value })
    }

    /// Takes in a cluster's entries, unless those of their names are another's, and makes its context the current one.
    fn take_in(&mut self, own: &Mapping, name: &str, known: &[Written]) -> anyhow::Result<()> {
        Ours { name, known }.refuse(&self.value)?;
        for (list, _) in LISTS {
            let Some(entry) = own.get(list).and_then(|l| l.get(0)) else { continue };
            // What a user set in the context (a namespace) stays.
            if list != "contexts" || find(&self.value, list, name).is_none() {
                self.put(list, entry)?;
            }
        }
        self.set_current(name)
    }

    /// Puts an entry in the place of the one of its name, or behind the others.
    fn put(&mut self, list: &str, entry: &Value) -> anyhow::Result<()> {
        let entries = self.entries(list);
        let at = entries.iter().position(|e| e.get("name") == entry.get("name")).unwrap_or(entries.len());
        let mut wanted = self.value.clone();
        let mut all = entries.to_vec();
        all.splice(at..(at + 1).min(all.len()), [entry.clone()]);
        wanted.insert(list.into(), Value::Sequence(all));
        self.become_(wanted, text::put(&self.text, list, entries.len(), at, entry))
    }

    /// Removes the entry of a name.
    fn take(&mut self, list: &str, name: &str) -> anyhow::Result<()> {
        let entries = self.entries(list);
        let Some(at) = entries.iter().position(|e| e.get("name").and_then(Value::as_str) == Some(name)) else { return Ok(()) };
        let mut wanted = self.value.clone();
        let mut all = entries.to_vec();
        all.remove(at);
        wanted.insert(list.into(), Value::Sequence(all));
        self.become_(wanted, text::take(&self.text, list, entries.len(), at))
    }

    fn set_current(&mut self, name: &str) -> anyhow::Result<()> {
        let mut wanted = self.value.clone();
        wanted.insert("current-context".into(), name.into());
        self.become_(wanted, text::set(&self.text, "current-context", name))
    }

    fn entries(&self, list: &str) -> &[Value] {
        self.value.get(list).and_then(Value::as_sequence).map_or(&[], Vec::as_slice)
    }

    /// Takes the edited text if it means what is wanted; a file in another form than people and kubectl write is written anew, if that
    /// means the same.
    fn become_(&mut self, wanted: Mapping, edited: Option<String>) -> anyhow::Result<()> {
        let means = |text: &String| serde_yaml_ng::from_str::<Mapping>(text).is_ok_and(|m| m == wanted);
        let anew = || Some(emit::document(&wanted)).filter(means);
        self.text = edited.filter(means).or_else(anew).context("something in it cannot be written as it is")?;
        self.value = wanted;
        Ok(())
    }
}

fn change(path: &Path, make: impl FnOnce(&mut File) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let what = || format!("the kubeconfig {} cannot be changed", path.display());
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if let Some(folder) = target.parent().filter(|p| !p.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(what)?;
    }
    let _lock = Lock::take(&target).with_context(what)?;
    let _ = fs::remove_file(draft(&target).with_context(what)?);
    let mut file = File::read(path).with_context(what)?;
    let before = file.text.clone();
    make(&mut file).with_context(what)?;
    if file.text != before { replace(&file.target, &file.text).with_context(what) } else { Ok(()) }
}

/// kubectl's lock: a file that is there while somebody writes.
struct Lock(PathBuf);

impl Lock {
    fn take(path: &Path) -> anyhow::Result<Lock> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let lock = PathBuf::from(name);
        let begun = Instant::now();
        loop {
            match make(&lock) {
                Ok(()) => return Ok(Lock(lock)),
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error).with_context(|| lock.display().to_string()),
                Err(_) if abandoned(&lock) => drop(fs::remove_file(&lock)),
                Err(_) if begun.elapsed() > LOCK_MAX => bail!("{} is there: somebody is changing it; if nobody is, remove that file", lock.display()),
                Err(_) => thread::sleep(LOCK_LOOK),
            }
        }
    }
}

/// Makes the lock with its maker's number in it, in one step: an empty one that a killed knarr left could not be told from kubectl's.
fn make(lock: &Path) -> std::io::Result<()> {
    if fs::symlink_metadata(lock).is_ok() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    let text = format!("knarr {}", std::process::id());
    let new = beside(lock, &std::process::id().to_string()).map_err(std::io::Error::other)?;
    // On a full disk it is as empty as kubectl's: a start that changes nothing needs no room.
    let written = fresh(&new).map(|mut file| drop(file.write_all(text.as_bytes())));
    let made = written.and_then(|()| fs::hard_link(&new, lock));
    let _ = fs::remove_file(&new);
    match made {
        // Not every file system has links.
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported) => {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(lock)?;
            let _ = file.write_all(text.as_bytes());
            Ok(())
        }
        made => made,
    }
}

/// A knarr that was killed left it.
fn abandoned(lock: &Path) -> bool {
    let text = fs::read_to_string(lock).unwrap_or_default();
    text.strip_prefix("knarr ").is_some_and(|pid| !pid.is_empty() && !Path::new("/proc").join(pid).exists())
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A file's name with an ending.
fn beside(path: &Path, ending: &str) -> anyhow::Result<PathBuf> {
    let mut name = path.file_name().context("it has no name")?.to_owned();
    name.push(format!(".{ending}"));
    Ok(path.with_file_name(name))
}

/// Where a kubeconfig is written that is to take another's place. Its lock is held: what is there was left by one that was killed, with keys in
/// it, and goes with the next one that looks into the file, be it to change nothing.
fn draft(path: &Path) -> anyhow::Result<PathBuf> {
    beside(path, "knarr-new")
}

/// A new file for its owner alone; what is there by this name, be it a link, is not written to.
fn fresh(path: &Path) -> std::io::Result<fs::File> {
    let _ = fs::remove_file(path);
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Writes beside the file and renames, so that no reader sees half of it; its owner and mode stay.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = draft(path)?;
    let written = || -> std::io::Result<()> {
        let mut file = fresh(&new)?;
        file.write_all(text.as_bytes())?;
        if let Ok(old) = fs::metadata(path) {
            // Not by its name, which whoever has the directory could give to a link meanwhile.
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
            file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o777))?;
        }
        file.sync_all()?;
        fs::rename(&new, path)
    };
    written().inspect_err(|_| drop(fs::remove_file(&new)))?;
    Ok(())
}

/// By what a cluster's entries are known: what was remembered, and what its keys in this directory say now.
pub fn known(remembered: Vec<Written>, pki: &Path) -> Vec<Written> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let mut all = remembered;
    let read = |file: &str| fs::read(pki.join(file)).ok().map(|pem| STANDARD.encode(pem));
    let (authorities, certificates): (Vec<_>, Vec<_>) = (read("ca.crt").into_iter().collect(), read("admin.crt").into_iter().collect());
    if !authorities.is_empty() && !all.iter().any(|w| authorities.iter().all(|a| w.authorities.contains(a))) {
        // As a version before they were remembered left it.
        all.extend(path(None).and_then(|p| Ok(std::path::absolute(p)?)).ok().map(|path| Written { path, authorities, certificates }));
    }
    all
}
