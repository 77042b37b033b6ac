//! The threads of the process, in three rooms that do not starve each other: the API (the runtime that `main` makes), the
//! components of the control plane, and the node.
//!
//! A component that computes for long, or a node with a hundred pods in trouble, holds its own threads alone; a client of the
//! API does not notice. A request from one room to the API is handled by the API's threads (`local.rs`).

use tokio::runtime::{Builder, Handle, Runtime};

/// Threads of a room: two, so that one that is held does not hold the rest of its room. Each costs memory.
const THREADS: usize = 2;

/// A room's runtime.
pub fn runtime(name: &str) -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_stack_size(machinery::json::STACK_BYTES)
        .thread_name(format!("knarr-{name}"))
        .enable_all()
        .build()
}

/// A room beside that of the API. Its tasks end with it; nobody waits for them.
#[derive(Debug)]
pub struct Room {
    /// Where its tasks are started.
    pub handle: Handle,
    runtime: Option<Runtime>,
}

impl Room {
    /// Opens it.
    pub fn open(name: &str) -> std::io::Result<Room> {
        let runtime = runtime(name)?;
        Ok(Room { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // A plain drop would wait, which no task may.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::{Door, user};
    use apiserver::{ApiServer, Config, Identity};
    use bytes::Bytes;
    use std::{sync::mpsc, time::Duration};

    /// What a machine that is busy with others keeps easily; who waits for a held thread waits for ever.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Holds all threads of a room, as work does that computes for long, until what is returned is dropped.
    fn hold(room: &Handle) -> Vec<mpsc::Sender<()>> {
        let (held, all) = mpsc::channel();
        let holders: Vec<_> = (0..THREADS)
            .map(|_| {
                let (release, released) = mpsc::channel::<()>();
                let held = held.clone();
                room.spawn(async move {
                    let _ = held.send(());
                    let _ = released.recv();
                });
                release
            })
            .collect();
        (0..THREADS).for_each(|_| all.recv_timeout(PATIENCE).expect("a thread of the room"));
        holders
    }

    /// Whether somebody in a room is answered by the API, and whether his clock runs.
    struct Asked {
        answer: mpsc::Receiver<u16>,
        clock: mpsc::Receiver<()>,
    }

    fn ask(room: &Handle, door: &Door) -> Asked {
        let (answered, answer) = mpsc::channel();
        let (ticked, clock) = mpsc::channel();
        let client = door.client(user("admin", &["system:masters"]));
        room.spawn(async move {
            let request = http::Request::get("/api/v1/namespaces").body(Bytes::new()).expect("a request");
            let _ = answered.send(client.raw(request).await.map_or(0, |response| response.status().as_u16()));
        });
        room.spawn(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let _ = ticked.send(());
        });
        Asked { answer, clock }
    }

    #[test]
    fn who_holds_his_threads_holds_nobody_else() {
        let api = runtime("api").expect("a runtime");
        let (control, node) = (Room::open("control").expect("a room"), Room::open("node").expect("a room"));
        let store = store::Store::in_memory(&store::Options::default()).expect("a store");
        let identity = Identity::new(&store, None, "https://kubernetes.default.svc", Default::default()).expect("keys");
        let server = ApiServer::new(Config::default(), store, identity).expect("a server");
        let door = api.block_on(async { Door::new(&server) });
        for (busy, other) in [(&control, &node), (&node, &control)] {
            let held = hold(&busy.handle);
            let asked = ask(&other.handle, &door);
            assert_eq!(asked.answer.recv_timeout(PATIENCE), Ok(200), "the API and the other room go on");
            asked.clock.recv_timeout(PATIENCE).expect("its clock runs");
            // The room that is held asks as well: it has its answer as soon as it can take it.
            let own = ask(&busy.handle, &door);
            assert!(own.answer.try_recv().is_err());
            drop(held);
            assert_eq!(own.answer.recv_timeout(PATIENCE), Ok(200));
        }
        let held = hold(api.handle());
        for room in [&control, &node] {
            let asked = ask(&room.handle, &door);
            asked.clock.recv_timeout(PATIENCE).expect("whoever waits for the API has his threads for himself");
            assert!(asked.answer.try_recv().is_err(), "requests are handled by the API's threads alone");
        }
        drop(held);
        let asked = ask(&node.handle, &door);
        assert_eq!(asked.answer.recv_timeout(PATIENCE), Ok(200));
    }
}
