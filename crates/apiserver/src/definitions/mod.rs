//! Definitions of custom resources, live: each is compiled once into rows that are served, its status says what became of
//! its names, and its instances go before it does.
//!
//! One task hears the store's changes of definitions. It is level-triggered: [`Keeper::look`] reads a definition as it is now
//! and moves the table and its status to what follows from it; it can be called twice, and at the start it is called for all.
//! What upstream spreads over five controllers is one step here, so a definition is established by the first write after its
//! creation. Rows come into the table before the status says so: nobody who has read `Established` meets a 404.
//!
//! What could not be written is tried again after [`RETRY_AFTER`], and who waits for it is remembered until then; a watch that
//! fell behind begins with all definitions again. A definition may be a megabyte: its schemas are passed over ([`outline`]), at the
//! start of all of them at once, and those who need one read it then.
//! The task that removes instances ([`cleanup`]) is begun again at every start, and after a failure.

mod cleanup;
mod compile;
mod outline;
mod registration;
mod structure;

use crate::{
    conversion,
    family::Entrance,
    offload,
    own::{self, Owns},
    rows::Row,
    storage::{self, Scope},
    world::World,
};
use compile::{Compiled, compile};
use futures_util::FutureExt;
use kinds::definitions::{self, Findings, holds};
use machinery::{Value, json, status::Status};
use outline::Outline;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, SystemTime},
};
use store::{Entry, Watch};
use structure::{CHECK_EVERY, State, Structures};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;

/// After which time what could not be written is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How often it is looked whether somebody took an APIService away.
const REGISTER_EVERY: Duration = Duration::from_secs(60);

/// What is known of a definition whether it is served or not: what the others of its group ask for.
struct Known {
    group: String,
    uid: String,
    /// The versions that it is to serve.
    served: Vec<String>,
    accepted: Value,
    /// It waits for names that others have.
    waits: bool,
}

/// The removal of a definition's instances that is under way.
struct Ending {
    uid: String,
    instances: Option<Arc<Row>>,
    task: AbortOnDropHandle<()>,
}

impl Ending {
    /// Whether it goes on, and goes by the row that the definition now has: one that asked a webhook that cannot answer is begun
    /// again when the definition names another, or none.
    fn is_of(&self, uid: &str, instances: Option<&Arc<Row>>) -> bool {
        let same = match (&self.instances, instances) {
            (Some(own), Some(now)) => Arc::ptr_eq(own, now),
            (own, now) => own.is_none() == now.is_none(),
        };
        self.uid == uid && same && !self.task.is_finished()
    }
}

/// What is to become of the rows of a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// There are to be none.
    Nothing,
    /// They stay.
    Same,
    /// The same, with what the definition's end changes.
    Ending,
    /// They are made anew.
    Compiled,
}

/// Keeps the table of rows as the definitions say.
pub(crate) struct Keeper {
    world: World,
    row: Arc<Row>,
    known: BTreeMap<String, Known>,
    compiled: HashMap<String, Compiled>,
    /// The ways in for new objects, with the UIDs of the definitions.
    entrances: HashMap<String, (String, Arc<Entrance>)>,
    structures: Structures,
    /// The removals of instances that are under way, by the definition's name.
    cleanups: HashMap<String, Ending>,
    /// The definitions that are to be looked at when the names of one of their group have been written.
    owed: BTreeSet<String>,
    /// The revision up to which everything was looked at.
    seen: u64,
}

impl Keeper {
    /// Serves what is established in the store. `None` if definitions themselves are not served.
    pub(crate) fn load(world: &World) -> Option<Keeper> {
        let row = world.row("apiextensions.k8s.io", "v1", "customresourcedefinitions")?;
        let mut keeper = Keeper {
            world: world.clone(),
            row,
            known: BTreeMap::new(),
            compiled: HashMap::new(),
            entrances: HashMap::new(),
            structures: Structures::default(),
            cleanups: HashMap::new(),
            owed: BTreeSet::new(),
            seen: 0,
        };
        let mut served = Vec::new();
        for definition in keeper.all().iter().filter_map(|entry| Outline::of(entry)) {
            keeper.know(&definition.value);
            keeper.structures.expect(definition.name());
            if keeper.next(&definition) != Next::Compiled {
                continue;
            }
            let entrance = keeper.entrance(&definition.value);
            if let Some(compiled) = compile(&definition, &keeper.world.rows(), entrance, keeper.setting()) {
                served.push((definition.group().to_owned(), definition.name().to_owned(), compiled.rows.clone()));
                keeper.compiled.insert(definition.name().to_owned(), compiled);
            }
        }
        keeper.world.replace_rows(|rows| rows.with_definitions(&served));
        Some(keeper)
    }

    /// The definitions as they are now.
    fn all(&mut self) -> Vec<Arc<Entry>> {
        let Some(snapshot) = storage::snapshot(self.world.store(), &self.row, None) else { return Vec::new() };
        self.seen = snapshot.revision();
        snapshot.range(&self.row.root_key, "").cloned().collect()
    }

    /// A definition as it lies in the store.
    fn entry(&self, name: &str) -> Option<Arc<Entry>> {
        storage::get(self.world.store(), &self.row, &self.row.resource.key("", name))
    }

    /// Follows the definitions until the server ends.
    pub(crate) async fn run(mut self) {
        let ending = self.world.ending().clone();
        ending.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&mut self) {
        // All are looked at first: what a former process left half-way is finished.
        let mut due: BTreeSet<String> = self.known.keys().cloned().collect();
        let (mut register, mut check) = (every(REGISTER_EVERY), every(CHECK_EVERY));
        loop {
            let changes = storage::watch(self.world.store(), &self.row, self.seen, Scope::Bucket);
            let Ok(mut changes) = changes else {
                due.extend(self.begin_again());
                continue;
            };
            // What happened to APIServices before is seen by the first look at all groups.
            let mut services = registration::changes(&self.world, self.seen);
            loop {
                due = self.look_at(due).await;
                let again = async { if due.is_empty() { std::future::pending().await } else { tokio::time::sleep(RETRY_AFTER).await } };
                let event = tokio::select! {
                    event = changes.next() => event,
                    () = again => continue,
                    group = next_group(&mut services) => {
                        let Some(group) = group else { break };
                        self.register(BTreeSet::from([group])).await;
                        continue;
                    }
                    _ = register.tick() => {
                        let groups = self.known.values().map(|known| known.group.clone()).chain(registration::groups(&self.world)).collect();
                        self.register(groups).await;
                        continue;
                    }
                    _ = check.tick(), if self.structures.owed().is_some() => {
                        due.extend(self.check_structure().await);
                        continue;
                    }
                };
                let Ok(event) = event else { break };
                self.seen = event.revision;
                due.extend(event.new.as_ref().or(event.old.as_ref()).map(|entry| name_of(entry).to_owned()));
            }
            due.extend(self.begin_again());
        }
    }

    /// Looks at the APIServices of these groups, those of definitions that are gone among them.
    async fn register(&self, groups: BTreeSet<String>) {
        for group in groups {
            if let Err(error) = registration::follow(&self.world, &group, &self.served(&group)).await {
                tracing::warn!(group, %error, "the APIServices of a group could not be written");
            }
        }
    }

    /// The names of all that is there or was.
    fn begin_again(&mut self) -> Vec<String> {
        let names: Vec<String> = self.all().iter().map(|entry| name_of(entry).to_owned()).collect();
        self.known.keys().cloned().chain(names).collect()
    }

    /// Looks at these and at whom that concerns; returns those that are to be looked at again.
    async fn look_at(&mut self, mut due: BTreeSet<String>) -> BTreeSet<String> {
        let mut failed = BTreeSet::new();
        while let Some(name) = due.pop_first() {
            let looked = AssertUnwindSafe(self.look(&name)).catch_unwind().await;
            match looked {
                Ok(Ok(concerned)) => due.extend(concerned),
                Ok(Err(error)) => {
                    tracing::warn!(definition = name, %error, "what is said of a definition could not be written");
                    failed.insert(name);
                }
                Err(_) => tracing::error!(definition = name, "a definition could not be looked at"),
            }
            // There may be hundreds, and none need wait for anything.
            tokio::task::yield_now().await;
        }
        failed
    }

    /// Looks at a definition; returns those of its group that wait for names which it may have given back.
    async fn look(&mut self, name: &str) -> Result<Vec<String>, Status> {
        let Some(entry) = self.entry(name) else {
            self.cleanups.remove(name);
            self.structures.forget(name);
            if let Some((_, entrance)) = self.entrances.remove(name) {
                entrance.shut();
            }
            self.forget(name);
            let Some(known) = self.known.get(name) else { return Ok(Vec::new()) };
            let group = known.group.clone();
            let others = self.known.iter().filter(|(other, known)| *other != name && known.group == group);
            let served = others.flat_map(|(_, known)| known.served.iter().cloned()).collect();
            registration::follow(&self.world, &group, &served).await?;
            self.known.remove(name);
            return Ok(self.waiting(&group, name));
        };
        // What cannot be decoded stays as it is until somebody writes it anew.
        let Some(definition) = Outline::of(&entry) else { return Ok(Vec::new()) };
        let group = definition.group();
        let structure = self.structures.known(name, &definition.value);
        let found = Findings { structure, trusts: conversion::trusts(&definition.value["spec"]["conversion"]) };
        let others = self.known.iter().filter(|(other, known)| *other != name && known.group == group).map(|(_, known)| &known.accepted);
        let settled = definition.with(definitions::settled(&definition.value, others, found, SystemTime::now()));
        if self.know(&settled.value) {
            let waiting = self.waiting(group, name);
            self.owed.extend(waiting);
        }
        self.serve(&settled);
        if settled.value != definition.value {
            self.write(name, &settled.value).await?;
        }
        self.clean_up(name, &settled.value);
        registration::follow(&self.world, group, &self.served(group)).await?;
        Ok(std::mem::take(&mut self.owed).into_iter().collect())
    }

    /// Checks the structure of a definition that is owed that; its name, if it is to be looked at by what was found.
    async fn check_structure(&mut self) -> Option<String> {
        let name = self.structures.owed()?.to_owned();
        let Some(entry) = self.entry(&name) else {
            self.structures.forget(&name);
            return None;
        };
        // Nobody else wants this tree: it is read here, and not kept with the entry.
        let check = offload::call(move || {
            let definition = json::read(&entry.json).unwrap_or_default();
            (State::of(&definition), definitions::structure(&definition))
        });
        if let Ok((state, found)) = AssertUnwindSafe(check).catch_unwind().await {
            self.structures.note(&name, state, found);
        } else {
            tracing::error!(definition = name, "the structure of a definition's schemas could not be looked at");
            self.structures.forget(&name);
        }
        Some(name)
    }

    /// Writes the status that follows from a state of a definition, if that is still its state; otherwise the change is heard of.
    async fn write(&self, name: &str, settled: &Value) -> Result<(), Status> {
        let written = own::amend(self.world.store(), &self.row, ("", name), Owns::By("status"), SystemTime::now(), |present| {
            let same = present["metadata"]["resourceVersion"] == settled["metadata"]["resourceVersion"];
            Ok(same.then(|| {
                let mut next = present.clone();
                next["status"] = settled["status"].clone();
                next
            }))
        });
        match written.await {
            Err(error) if error.code != 404 => Err(error),
            _ => Ok(()),
        }
    }

    /// Remembers what the others of the group must know; `true` if that is news.
    fn know(&mut self, definition: &Value) -> bool {
        let (spec, accepted) = (&definition["spec"], &definition["status"]["acceptedNames"]);
        let versions = spec["versions"].as_array().into_iter().flatten();
        let known = Known {
            group: text(spec, "group").to_owned(),
            uid: text(&definition["metadata"], "uid").to_owned(),
            served: versions.filter(|version| version["served"] == true).map(|version| text(version, "name").to_owned()).collect(),
            accepted: accepted.clone(),
            waits: !holds(definition, "NamesAccepted"),
        };
        let name = text(&definition["metadata"], "name").to_owned();
        let before = self.known.insert(name, known);
        before.is_some_and(|before| before.accepted != *accepted || before.uid != text(&definition["metadata"], "uid"))
    }

    /// The versions of a group that definitions are to serve.
    fn served(&self, group: &str) -> BTreeSet<String> {
        let known = self.known.values().filter(|known| known.group == group);
        known.flat_map(|known| known.served.iter().cloned()).collect()
    }

    fn waiting(&self, group: &str, name: &str) -> Vec<String> {
        let waiting = self.known.iter().filter(|(other, known)| known.waits && known.group == group && *other != name);
        waiting.map(|(other, _)| other.clone()).collect()
    }

    /// Has the table serve a definition as it says, if it is accepted.
    fn serve(&mut self, definition: &Outline) {
        let next = self.next(definition);
        let compiled = if next == Next::Compiled {
            let entrance = self.entrance(&definition.value);
            compile(definition, &self.world.rows(), entrance, self.setting())
        } else {
            None
        };
        self.put(definition, next, compiled);
    }

    fn setting(&self) -> conversion::Setting<'_> {
        let now = storage::revision(self.world.store());
        conversion::Setting { itself: self.world.itself(), now, counts: self.world.metrics().conversions() }
    }

    /// The way in for a definition's objects. That of one which had its name before is shut.
    fn entrance(&mut self, definition: &Value) -> Arc<Entrance> {
        let (name, uid) = (text(&definition["metadata"], "name"), text(&definition["metadata"], "uid"));
        if let Some((of, entrance)) = self.entrances.get(name) {
            if of == uid {
                return Arc::clone(entrance);
            }
            entrance.shut();
        }
        let entrance = Entrance::new();
        self.entrances.insert(name.to_owned(), (uid.to_owned(), Arc::clone(&entrance)));
        entrance
    }

    /// What is to become of the rows of a definition.
    fn next(&self, definition: &Outline) -> Next {
        let value = &definition.value;
        let accepted = &value["status"]["acceptedNames"];
        let named = ["plural", "singular", "kind", "listKind"].iter().all(|key| !text(accepted, key).is_empty());
        if !named || !(holds(value, "NamesAccepted") || holds(value, "Established")) {
            return Next::Nothing;
        }
        match self.compiled.get(definition.name()).filter(|present| present.is_of(definition)) {
            Some(present) if present.is_as_final(value) => Next::Same,
            Some(_) => Next::Ending,
            None => Next::Compiled,
        }
    }

    /// Puts the rows of a definition in their place. `compiled` are those that it is to have, if they are new.
    fn put(&mut self, definition: &Outline, next: Next, compiled: Option<Compiled>) {
        let name = definition.name();
        let is_new = next == Next::Compiled;
        let rows = match next {
            Next::Same => return,
            Next::Nothing => None,
            Next::Ending => self.compiled.get(name).map(|present| present.ending(&definition.value)),
            Next::Compiled => compiled,
        };
        let Some(next) = rows else { return self.forget(name) };
        let group = definition.group();
        self.world.replace_rows(|rows| rows.with_definition(group, name, next.rows.clone()));
        let before = self.compiled.insert(name.to_owned(), next);
        if let Some(before) = before.filter(|_| is_new) {
            before.end();
        }
    }

    /// Serves a definition no more.
    fn forget(&mut self, name: &str) {
        let Some(before) = self.compiled.remove(name) else { return };
        self.world.replace_rows(|rows| rows.without_definition(before.group(), name));
        before.end();
    }

    /// Begins to remove the instances of a definition that is to go, unless that is under way.
    fn clean_up(&mut self, name: &str, definition: &Value) {
        let metadata = &definition["metadata"];
        let uid = text(metadata, "uid");
        let held = metadata["finalizers"].as_array().into_iter().flatten().any(|finalizer| finalizer == definitions::FINALIZER);
        if metadata["deletionTimestamp"].is_null() || !held {
            self.cleanups.remove(name);
            return;
        }
        let instances = self.compiled.get(name).map(|compiled| Arc::clone(&compiled.instances));
        if self.cleanups.get(name).is_some_and(|ending| ending.is_of(uid, instances.as_ref())) {
            return;
        }
        let (world, row, entrance) = (self.world.clone(), Arc::clone(&self.row), self.entrance(definition));
        let task = cleanup::Cleanup { world, row, name: name.to_owned(), uid: uid.to_owned(), instances: instances.clone(), entrance };
        let task = AbortOnDropHandle::new(tokio::spawn(task.run()));
        self.cleanups.insert(name.to_owned(), Ending { uid: uid.to_owned(), instances, task });
    }
}

/// The next group of which an APIService changes; none if what happened is no longer known.
async fn next_group(services: &mut Option<Watch>) -> Option<String> {
    let Some(changes) = services else { std::future::pending().await };
    loop {
        let event = changes.next().await.ok()?;
        if let Some(group) = registration::concerned(&event) {
            return Some(group);
        }
    }
}

/// Ticks with a pause in between, also after one that came late.
fn every(pause: Duration) -> Interval {
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The name of the definition in an entry.
fn name_of(entry: &Entry) -> &str {
    entry.key.rsplit('/').next().unwrap_or_default()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}
