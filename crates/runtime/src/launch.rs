//! How a container's program begins, and the hooks that run beside it in this process's namespaces ([`crate::hooks`]).

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::hooks;
use crate::proto::{Record, Reply, Request, Spec};
use crate::runtime::{ContainerEntry, LAUNCH_MAX, Runtime, State, blocking};
use crate::shimclient::Connection;
use crate::types::{ContainerState, HookMoment};

/// The moments that the shim of a container leaves to this process, or did not know from the beginning.
const MOMENTS: [HookMoment; 5] = [HookMoment::Prestart, HookMoment::CreateRuntime, HookMoment::StartContainer, HookMoment::Poststart, HookMoment::Poststop];
/// Within this it is heard that a program has ended.
const END_HEARD_MAX: Duration = Duration::from_millis(100);

impl Runtime {
    /// Starts a prepared container: when this returns its program runs.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        self.begin(id, false, &[]).await
    }

    /// Makes a prepared container's process and all that it will see, and stops it before its program: the OCI's `create`. Its
    /// standard input, output and error are these, and not its log.
    pub async fn hold_container(&self, id: &str, streams: [OwnedFd; 3]) -> Result<()> {
        self.begin(id, true, &streams).await
    }

    /// Lets a held container's program begin: the OCI's `start`.
    pub async fn release_container(&self, id: &str) -> Result<()> {
        let connection = self.connect_container(id)?;
        let record = self.step(&connection, id, &Request::Release { container: id.to_owned() }, &[]).await?;
        self.begun(id, &self.spec_of(id)?, &record).await
    }

    async fn begin(&self, id: &str, hold: bool, streams: &[OwnedFd]) -> Result<()> {
        self.settle(&self.sandbox_of(id)?).await?;
        let (spec, connection) = (self.spec_of(id)?, self.connect_container(id)?);
        let hooks = hooks::has(&spec, &MOMENTS);
        let request = Request::Start { container: id.to_owned(), hold, streams: !streams.is_empty(), hooks };
        let mut record = self.step(&connection, id, &request, streams).await?;
        if hooks {
            if record.state != ContainerState::Created {
                self.signal(id, libc::SIGKILL, true).await?;
                return Err(Error::Start("the shim of this pod is older than its hooks: delete the pod, so that it is made anew".to_owned()));
            }
            let (hooked, pid) = (Arc::clone(&spec), record.pid);
            let container = id.to_owned();
            let next = match blocking(move || Ok(hooks::made(&hooked, pid))).await? {
                Ok(()) => Request::Release { container },
                Err(message) => Request::Refuse { container, message },
            };
            record = self.step(&connection, id, &next, &[]).await?;
        }
        self.begun(id, &spec, &record).await
    }

    /// One step of a container's process; its state then.
    async fn step(&self, connection: &Connection, id: &str, request: &Request, fds: &[OwnedFd]) -> Result<Record> {
        match connection.call(request, fds, LAUNCH_MAX).await {
            Ok((Reply::Changed { container }, _)) => {
                self.0.record(container.clone());
                Ok(container)
            }
            Ok((other, _)) => Err(connection.unexpected(&other)),
            Err(e @ Error::Timeout { .. }) => {
                // What hangs on its way to the program will not be waited for any more.
                self.signal(id, libc::SIGKILL, true).await?;
                Err(e)
            }
            Err(e) => Err(e),
        }
    }

    /// What follows when a container's program runs.
    async fn begun(&self, id: &str, spec: &Arc<Spec>, record: &Record) -> Result<()> {
        if record.state != ContainerState::Running || !hooks::has(spec, &[HookMoment::Poststart]) {
            return Ok(());
        }
        let (spec, pid) = (Arc::clone(spec), record.pid);
        let ran = blocking(move || Ok(hooks::started(&spec, pid))).await?;
        let Err(why) = ran else { return Ok(()) };
        // Of a program that has ended there is no root to be found. Its end may be heard of a moment later.
        let ended = |state: &State| state.containers.get(id).is_none_or(|c| c.record.state == ContainerState::Exited);
        if self.wait_until(END_HEARD_MAX, ended).await {
            tracing::warn!(container = id, "{why}");
            return Ok(());
        }
        self.stop_container(id, Duration::ZERO).await?;
        Err(Error::Start(why))
    }

    /// Runs what follows the end of a sandbox's containers: nothing of them is to come when others use what they had.
    pub(crate) async fn settle(&self, sandbox: &str) -> Result<()> {
        let due = |c: &&ContainerEntry| c.sandbox == sandbox && c.record.state == ContainerState::Exited && hooks::has(&c.spec, &[HookMoment::Poststop]);
        let ended: Vec<Arc<Spec>> = self.0.state.lock().containers.values().filter(due).map(|c| Arc::clone(&c.spec)).collect();
        if ended.is_empty() {
            return Ok(());
        }
        blocking(move || {
            ended.iter().for_each(|spec| hooks::stopped(spec));
            Ok(())
        })
        .await
    }

    fn spec_of(&self, id: &str) -> Result<Arc<Spec>> {
        let found = self.0.state.lock().containers.get(id).map(|entry| Arc::clone(&entry.spec));
        found.ok_or_else(|| Error::container(id))
    }
}
