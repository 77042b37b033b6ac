//! managedFields: who owns what, read from an object and written back.

use super::{Manager, set::FieldSet};
use crate::{
    Map, Value,
    field::{Error, ErrorList, Path},
    quote::{Quoted, is_print},
};
use std::collections::HashSet;

/// More update managers than this are folded into one, the oldest first (KEP-555; upstream's `DefaultMaxUpdateManagers`).
const UPDATE_MANAGERS_LIMIT: usize = 10;

/// More entries than this are sorted before equal owners are found among them.
const READ_UNSORTED_MAX: usize = 64;

/// The name under which upstream folds them.
const ANCIENT: &str = "ancient-changes";

/// One owner and what it owns.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) name: String,
    /// By apply rather than by update.
    pub(super) applies: bool,
    pub(super) api_version: String,
    pub(super) subresource: String,
    /// RFC 3339; empty if unknown.
    pub(super) time: String,
    pub(super) set: FieldSet,
}

impl Entry {
    pub(super) fn new(manager: &Manager<'_>, applies: bool) -> Self {
        Self {
            name: manager.name.to_owned(),
            applies,
            api_version: manager.api_version.to_owned(),
            subresource: manager.subresource.to_owned(),
            time: manager.now.to_owned(),
            set: FieldSet::new(),
        }
    }

    /// Whether both are the same owner: an applier is one whatever version it uses.
    pub(super) fn is_same_owner(&self, other: &Self) -> bool {
        self.owner() == other.owner()
    }

    /// What two entries of one owner have in common, in an order.
    fn owner(&self) -> (&str, bool, &str, &str) {
        (&self.name, self.applies, &self.subresource, if self.applies { "" } else { &self.api_version })
    }

    /// By what entries are sorted: appliers first, then by age and name, as upstream sorts them.
    fn rank(&self) -> (bool, &str, &str, &str, &str) {
        (!self.applies, &self.time, &self.name, &self.api_version, &self.subresource)
    }

    fn read(entry: &Value) -> Option<Self> {
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
        let applies = match text("operation") {
            "Apply" => true,
            "Update" => false,
            _ => return None,
        };
        if text("apiVersion").is_empty() || text("fieldsType") != "FieldsV1" {
            return None;
        }
        Some(Entry {
            name: text("manager").to_owned(),
            applies,
            api_version: text("apiVersion").to_owned(),
            subresource: text("subresource").to_owned(),
            time: text("time").to_owned(),
            set: match entry.get("fieldsV1") {
                None | Some(Value::Null) => FieldSet::new(),
                Some(fields) => FieldSet::parse(fields)?,
            },
        })
    }

    /// As conflicts name it: `"kubectl" using apps/v1`.
    pub(super) fn display(&self) -> String {
        let mut out = Quoted(&self.name).to_string();
        if !self.subresource.is_empty() {
            out.push_str(&format!(" with subresource {}", Quoted(&self.subresource)));
        }
        if !self.applies {
            out.push_str(&format!(" using {}", self.api_version));
        }
        out
    }
}

/// Bytes of a field manager's name at most, as upstream's.
pub const MANAGER_MAX_BYTES: usize = 128;
/// How many characters of a name that is too long are told of.
const TOO_LONG_TOLD_MAX: usize = 16;

/// What is wrong with the name of a field manager (`ValidateFieldManager`).
#[must_use]
pub fn manager_errors(name: &str, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if name.len() > MANAGER_MAX_BYTES {
        errors.push(Error::too_long(path, MANAGER_MAX_BYTES));
    }
    // Each shows the whole name: one that is too long is shown a few times, and not once for each of its characters.
    let told_max = if name.len() > MANAGER_MAX_BYTES { TOO_LONG_TOLD_MAX } else { MANAGER_MAX_BYTES };
    for (at, c) in name.char_indices().filter(|(_, c)| !is_print(*c)).take(told_max) {
        errors.push(Error::invalid(path, name, format!("invalid character U+{:04X} (at position {at})", u32::from(c))));
    }
    errors
}

/// What is wrong with one entry.
pub(super) fn unfit(at: usize, entry: &Value) -> Option<String> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
    match text("operation") {
        "Apply" | "Update" => {}
        _ => return Some("operation must be `Apply` or `Update`".into()),
    }
    if text("apiVersion").is_empty() {
        return Some("apiVersion must not be empty".into());
    }
    match text("fieldsType") {
        "FieldsV1" => Entry::read(entry).is_none().then(|| format!("error decoding versioned set from {entry}: error decoding set")),
        "" => Some(format!("missing fieldsType in managed fields entry {at}")),
        other => Some(format!("invalid fieldsType {} in managed fields entry {at}", Quoted(other))),
    }
}

/// The owners of an object.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Managers(pub(super) Vec<Entry>);

impl Managers {
    /// Reads `metadata.managedFields`. One entry that makes no sense makes all of them nothing, as in upstream: what cannot be
    /// read must not be kept, since clients would fail on it. Of several entries of one owner the last counts, which upstream's map
    /// of them keeps.
    pub(super) fn of(object: Option<&Value>) -> Self {
        let entries = object.and_then(|o| o.get("metadata")?.get("managedFields")?.as_array());
        let Some(mut entries) = entries.into_iter().flatten().map(Entry::read).collect::<Option<Vec<Entry>>>() else { return Self::default() };
        // Equal owners beside each other: a client may send some ten thousand, which are not all compared with each other.
        if entries.len() > READ_UNSORTED_MAX {
            entries.sort_by(|a, b| a.owner().cmp(&b.owner()));
            entries.dedup_by(|later, kept| {
                let same = kept.is_same_owner(later);
                if same {
                    std::mem::swap(kept, later);
                }
                same
            });
            return Self(entries);
        }
        let mut owners: Vec<Entry> = Vec::with_capacity(entries.len());
        for entry in entries {
            match owners.iter_mut().find(|known| known.is_same_owner(&entry)) {
                Some(known) => *known = entry,
                None => owners.push(entry),
            }
        }
        Self(owners)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The versions in which they wrote, each once: a client may send some ten thousand owners.
    pub(super) fn versions(&self) -> impl Iterator<Item = &str> {
        let mut seen = HashSet::new();
        self.0.iter().map(|entry| entry.api_version.as_str()).filter(move |version| seen.insert(*version))
    }

    /// Adds an owner, or what it owns to what it owned before.
    pub(super) fn add(&mut self, entry: Entry) {
        match self.0.iter_mut().find(|e| e.is_same_owner(&entry)) {
            Some(known) => {
                known.set.union(&entry.set);
                known.time = entry.time;
            }
            None => self.0.push(entry),
        }
    }

    /// Writes `metadata.managedFields`; removes the field if nobody owns anything.
    pub(super) fn write(mut self, object: &mut Value) {
        self.0.retain(|e| !e.set.is_empty());
        self.fold_oldest();
        self.0.sort_by(|a, b| a.rank().cmp(&b.rank()));
        let Some(object) = object.as_object_mut() else { return };
        let Some(metadata) = object.entry("metadata").or_insert_with(|| Value::Object(Map::new())).as_object_mut() else { return };
        if self.0.is_empty() {
            metadata.remove("managedFields");
            return;
        }
        let entries = self.0.into_iter().map(|e| {
            let operation = if e.applies { "Apply" } else { "Update" };
            let mut out = Map::new();
            for (key, value) in [("manager", e.name), ("apiVersion", e.api_version), ("time", e.time), ("subresource", e.subresource)] {
                if !value.is_empty() {
                    out.insert(key.to_owned(), Value::String(value));
                }
            }
            out.insert("operation".into(), operation.into());
            out.insert("fieldsType".into(), "FieldsV1".into());
            out.insert("fieldsV1".into(), e.set.into_value());
            Value::Object(out)
        });
        metadata.insert("managedFields".into(), entries.collect());
    }

    fn fold_oldest(&mut self) {
        let updates = self.0.iter().filter(|e| !e.applies).count();
        if updates <= UPDATE_MANAGERS_LIMIT {
            return;
        }
        self.0.sort_by(|a, b| a.rank().cmp(&b.rank()));
        // One more than the surplus goes, since the fold is an update manager itself.
        let mut surplus = updates - UPDATE_MANAGERS_LIMIT + 1;
        let (old, kept): (Vec<Entry>, Vec<Entry>) = std::mem::take(&mut self.0).into_iter().partition(|e| {
            let folds = !e.applies && surplus > 0;
            surplus -= usize::from(folds);
            folds
        });
        self.0 = kept;
        // By themselves first, of each version one: of those that stay there may be some ten thousand, too, and each fold is looked for among them.
        let mut folds = Self::default();
        for entry in old {
            folds.add(Entry { name: ANCIENT.into(), subresource: String::new(), ..entry });
        }
        for fold in folds.0 {
            self.add(fold);
        }
    }
}
