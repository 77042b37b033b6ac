//! The two embedded engines under the store's own load: writers that wait for their write to be durable, one thread that
//! takes all that wait into one batch with one fsync. 2 KiB values under keys like the API's, each written again and again.

use crate::{Options, process, stats::Samples};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::{
    fs,
    path::Path,
    sync::mpsc::{Receiver, SyncSender, channel, sync_channel},
    time::{Duration, Instant},
};

const VALUE_BYTES: usize = 2048;
const BATCH_MAX: usize = 512;
/// Keys that are written in turn: objects that change, as statuses and leases do.
const KEYS: u64 = 10_000;

type Item = (String, Vec<u8>);

/// Something that makes a batch durable.
trait Engine: Send {
    fn commit(&mut self, batch: &[Item]) -> anyhow::Result<()>;
}

struct Fjall(Database, Keyspace);

impl Fjall {
    /// With the store's own settings.
    fn open(folder: &Path) -> anyhow::Result<Self> {
        let database = Database::builder(folder).cache_size(1 << 20).max_journaling_size(64 << 20).worker_threads(1).open()?;
        let keyspace = database.keyspace("objects", || KeyspaceCreateOptions::default().max_memtable_size(4 << 20))?;
        Ok(Self(database, keyspace))
    }
}

impl Engine for Fjall {
    fn commit(&mut self, batch: &[Item]) -> anyhow::Result<()> {
        let mut all = self.0.batch().durability(Some(PersistMode::SyncData));
        for (key, value) in batch {
            all.insert(&self.1, key.as_str(), value.as_slice());
        }
        Ok(all.commit()?)
    }
}

const TABLE: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("objects");

struct Redb(redb::Database);

impl Redb {
    fn open(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self(redb::Builder::new().set_cache_size(4 << 20).create(folder.join("objects"))?))
    }
}

impl Engine for Redb {
    fn commit(&mut self, batch: &[Item]) -> anyhow::Result<()> {
        let transaction = self.0.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for (key, value) in batch {
                table.insert(key.as_str(), value.as_slice())?;
            }
        }
        Ok(transaction.commit()?)
    }
}

/// Runs the program.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let time = Duration::from_secs(options.number("seconds", 3)?);
    println!(
        "{:<8} {:>8} {:>12} {:>10} {:>10} {:>14} {:>14} {:>14}",
        "engine", "writers", "writes/s", "p50 ms", "p99 ms", "CPU µs/write", "disk B/write", "bytes at rest"
    );
    for writers in [1, 8, 32, 128] {
        for name in ["fjall", "redb"] {
            let folder = std::env::temp_dir().join(format!("knarr-bench-engine-{}", std::process::id()));
            let engine: Box<dyn Engine> = if name == "fjall" { Box::new(Fjall::open(&folder)?) } else { Box::new(Redb::open(&folder)?) };
            let outcome = load(engine, writers, time);
            let size = size(&folder);
            fs::remove_dir_all(&folder)?;
            let (samples, used, written) = outcome?;
            let count = samples.count();
            println!(
                "{name:<8} {writers:>8} {:>12.0} {:>10.2} {:>10.2} {:>14.0} {:>14.0} {size:>14}",
                count / time.as_secs_f64(),
                samples.at(0.5),
                samples.at(0.99),
                used.as_secs_f64() * 1e6 / count,
                written as f64 / count,
            );
        }
    }
    Ok(())
}

type Request = (Item, SyncSender<()>);

/// Writers that each wait for their write, for a time. CPU and disk writes are the whole process's, the writers included.
fn load(mut engine: Box<dyn Engine>, writers: usize, time: Duration) -> anyhow::Result<(Samples, Duration, u64)> {
    let own = i32::try_from(std::process::id())?;
    let (queue, requests) = channel::<Request>();
    let (cpu, written) = (process::cpu(own), process::written(own));
    let end = Instant::now() + time;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|writer| {
                let queue = queue.clone();
                scope.spawn(move || write(writer as u64, &queue, end))
            })
            .collect();
        drop(queue);
        commit(engine.as_mut(), &requests)?;
        let used = process::cpu(own) - cpu;
        let mut all = Samples::default();
        for thread in threads {
            all.join(thread.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?);
        }
        Ok((all, used, process::written(own) - written))
    })
}

fn write(writer: u64, queue: &std::sync::mpsc::Sender<Request>, end: Instant) -> Samples {
    let mut samples = Samples::default();
    let mut turn = writer.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    while Instant::now() < end {
        turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let key = format!("/registry/pods/default/pod-{}", (turn >> 33) % KEYS);
        // Text that does not repeat, so that no engine gains by compressing it.
        let value = (0..VALUE_BYTES as u64).map(|i| (turn.rotate_left((i % 61) as u32).wrapping_mul(i | 1) >> 56) as u8).collect();
        let (told, answer) = sync_channel(1);
        let started = Instant::now();
        if queue.send(((key, value), told)).is_err() || answer.recv().is_err() {
            break;
        }
        samples.add(started.elapsed());
    }
    samples
}

fn commit(engine: &mut dyn Engine, requests: &Receiver<Request>) -> anyhow::Result<()> {
    while let Ok(first) = requests.recv() {
        let (items, waiting): (Vec<Item>, Vec<_>) = std::iter::once(first).chain(requests.try_iter().take(BATCH_MAX - 1)).unzip();
        engine.commit(&items)?;
        for writer in waiting {
            let _ = writer.send(());
        }
    }
    Ok(())
}

/// Bytes of the files as they lie on the disk (a journal may be sparse).
fn size(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|e| match e.metadata() {
            Ok(m) if m.is_dir() => size(&e.path()),
            Ok(m) => m.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}
