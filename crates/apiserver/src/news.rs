//! What changes, for those who keep something in order within the server. News that nobody has read may be dropped, never the
//! fact that there were some: whoever is told none looks at everything.

use crate::{
    rows::Row,
    storage,
    world::{Gvr, World},
};
use futures_util::FutureExt;
use std::{sync::Arc, time::Duration};
use store::{Event, Scope, Watch};
use tokio::time::sleep;

/// How long a read that came too late waits before it begins anew.
const REOPEN: Duration = Duration::from_millis(100);

/// The news of some objects. Where they come too fast, that there are some is news enough.
pub(crate) struct News {
    world: World,
    resource: Gvr<'static>,
    scope: Scope,
    watch: Option<Watch>,
}

impl News {
    /// From now on.
    pub(crate) fn new(world: &World, resource: Gvr<'static>, scope: Scope) -> News {
        let mut news = News { world: world.clone(), resource, scope, watch: None };
        news.open();
        news
    }

    /// Whose objects they are.
    pub(crate) fn row(&self) -> Option<Arc<Row>> {
        let (group, version, resource) = self.resource;
        self.world.row(group, version, resource)
    }

    fn open(&mut self) {
        self.watch = self.row().and_then(|row| storage::watch(self.world.store(), &row, storage::revision(self.world.store()), self.scope.clone()).ok());
    }

    /// The next change; none if some may have been missed.
    pub(crate) async fn next(&mut self) -> Option<Arc<Event>> {
        let Some(watch) = &mut self.watch else {
            sleep(REOPEN).await;
            self.open();
            return None;
        };
        match watch.next().await {
            Ok(event) => Some(event),
            Err(_) => {
                self.watch = None;
                None
            }
        }
    }

    /// A change that has come already.
    pub(crate) fn waiting(&mut self) -> Option<Option<Arc<Event>>> {
        self.watch.as_ref()?;
        self.next().now_or_never()
    }

    /// Takes what has come, since all of it is about to be looked at.
    pub(crate) fn drain(&mut self) {
        while self.waiting().is_some() {}
    }
}
