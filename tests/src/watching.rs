//! Reading through our own client: watches, which miss nothing between two looks.

use crate::{Cluster, PATIENCE};
use client::{Api, Client, Event, ListParams, Object};
use futures_util::StreamExt as _;
use std::{collections::BTreeMap, time::Duration};

/// Before a server that is gone for the moment is asked again.
const AGAIN: Duration = Duration::from_millis(50);

impl Cluster {
    /// A client with the administrator's rights.
    #[must_use]
    pub fn client(&self) -> Client {
        // Connections are made within the runtime that will drive them.
        let _inside = self.runtime.enter();
        Client::from_kubeconfig(self.kubeconfig()).expect("the cluster's kubeconfig")
    }

    /// Runs something that awaits, with the usual limit.
    #[track_caller]
    pub fn block_on<T>(&self, what: &str, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await }).unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
    }

    /// Runs something in the background, as long as the cluster's value lives.
    pub fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> tokio::task::JoinHandle<T> {
        self.runtime.spawn(work)
    }

    /// Watches from the present state on until an event is the one that is waited for.
    #[track_caller]
    pub fn until<K: Object>(&self, api: &Api<K>, params: &ListParams, what: &str, seen: impl FnMut(&Event<K>) -> bool) {
        self.until_within(PATIENCE, api, params, what, seen);
    }

    /// The same for what takes its time.
    #[track_caller]
    pub fn until_within<K: Object>(&self, limit: Duration, api: &Api<K>, params: &ListParams, what: &str, seen: impl FnMut(&Event<K>) -> bool) {
        let work = async { tokio::time::timeout(limit, until(api, params, seen)).await };
        self.runtime.block_on(work).unwrap_or_else(|_| panic!("{what}: not within {limit:?}"));
    }

    /// Waits until all objects that `params` name, by name, are as wanted: what is looked at was all there was at some moment.
    #[track_caller]
    pub fn until_all<K: Object>(&self, limit: Duration, api: &Api<K>, params: &ListParams, what: &str, wanted: impl Fn(&BTreeMap<String, K>) -> bool) {
        let work = async { tokio::time::timeout(limit, until_all(api, params, wanted)).await };
        self.runtime.block_on(work).unwrap_or_else(|_| panic!("{what}: not within {limit:?}"));
    }
}

async fn until_all<K: Object>(api: &Api<K>, params: &ListParams, wanted: impl Fn(&BTreeMap<String, K>) -> bool) {
    loop {
        if let Ok(list) = api.list(params).await {
            let revision = list.resource_version().to_owned();
            let mut all: BTreeMap<String, K> = list.into_items().into_iter().map(|object| (object.name().to_owned(), object)).collect();
            if wanted(&all) {
                return;
            }
            if let Ok(mut events) = api.watch(params, &revision).await {
                while let Some(Ok(event)) = events.next().await {
                    match event {
                        Event::Added(object) | Event::Modified(object) => drop(all.insert(object.name().to_owned(), object)),
                        Event::Deleted(object) => drop(all.remove(object.name())),
                        Event::Unread { .. } | Event::Bookmark { .. } => {}
                    }
                    if wanted(&all) {
                        return;
                    }
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The same, awaited. A watch that the server ends is begun again.
pub async fn until<K: Object>(api: &Api<K>, params: &ListParams, mut seen: impl FnMut(&Event<K>) -> bool) {
    loop {
        if let Ok(mut events) = api.watch(params, "").await {
            while let Some(Ok(event)) = events.next().await {
                if seen(&event) {
                    return;
                }
            }
        }
        // The server is gone for the moment: it is what some tests do to it.
        tokio::time::sleep(AGAIN).await;
    }
}
