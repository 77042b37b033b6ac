//! Deletecollection: every selected object is deleted as a delete of its own would.

use super::{Call, DeleteOptions, Selectors, delete, delete_named, list, meta, placed};
use crate::{listing::List, respond::Answer, storage};
use bytes::Bytes;
use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use machinery::{
    field::{self, Path},
    status::Status,
};
use std::sync::Arc;
use store::Entry;

/// Deletions that wait for the disk together: one after another each would wait for a flush of its own.
const SIDE_BY_SIDE: usize = 16;

/// Answers a DELETE of many with the list of what was found.
pub(crate) async fn delete_collection(call: &Call<'_>, body: &Bytes) -> Result<Answer, Status> {
    let selectors = Selectors::of(call.query, call.row)?;
    let options = DeleteOptions::read(call, body)?;
    if options.unreadable {
        let path = Path::root(delete::UNREADABLE);
        let error = field::Error::invalid(&path, true, "is not allowed with DELETECOLLECTION, try again after removing the option");
        return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", vec![error]));
    }
    let list: List = list::of(call, &selectors).await?;
    // Of a namespace without a name all are listed, and none can be deleted.
    if !list.entries.is_empty() {
        placed(call.row, call.namespace(), "")?;
    }
    delete::warn(call, &options);
    delete_each(call, &list, &options).await?;
    Ok(Answer::List(list))
}

/// Deletes what a list holds. Each deletion is finished; those that have not begun are left when one failed or nobody waits any more, as
/// upstream does. Where somebody may refuse, it is one after another, so that all stay that follow the refused one.
async fn delete_each(call: &Call<'_>, list: &List, options: &DeleteOptions) -> Result<(), Status> {
    let side_by_side = if call.world.gate().hears_deletions(&call.row.resource.resource).await { 1 } else { SIDE_BY_SIDE };
    let mut entries = list.entries.iter();
    let mut under_way = FuturesUnordered::new();
    let mut outcome = Ok(());
    loop {
        while outcome.is_ok()
            && under_way.len() < side_by_side
            && let Some(entry) = entries.next()
        {
            match call.cx.is_given_up() {
                true => outcome = Err(Status::timeout("the client is gone")),
                false => under_way.push(delete_entry(call, entry, options)),
            }
        }
        match under_way.next().await {
            Some(deleted) => outcome = outcome.and(deleted),
            None => return outcome,
        }
    }
}

fn delete_entry<'a>(call: &'a Call<'_>, entry: &'a Arc<Entry>, options: &'a DeleteOptions) -> BoxFuture<'a, Result<(), Status>> {
    Box::pin(async move {
        let value = storage::value(call.row, entry);
        let (namespace, name) = (meta::text(&value, "namespace"), meta::text(&value, "name"));
        match delete_named(call, call.row, namespace, name, options).await {
            // Somebody else was faster; the aim is reached.
            Err(status) if status.code != 404 => Err(status),
            _ => Ok(()),
        }
    })
}
