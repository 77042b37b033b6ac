//! Deletecollection: every selected object is deleted as a delete of its own would.

use super::{Call, DeleteOptions, delete, delete_named, list, meta};
use crate::{listing::List, respond::Answer, storage};
use bytes::Bytes;
use machinery::{
    field::{self, Path},
    status::Status,
};

/// Answers a DELETE of many with the list of what was found.
pub(crate) async fn delete_collection(call: &Call<'_>, body: &Bytes) -> Result<Answer, Status> {
    let wanted = list::Wanted::of(call);
    // Where a list goes on is read when it is made, behind the options of the deletion.
    let later = wanted.as_ref().is_err_and(|status| status.code == 400 && status.message.contains("continue"));
    let wanted = if later { Err(wanted) } else { Ok(wanted?) };
    let options = DeleteOptions::read(call, body)?;
    if options.unreadable {
        let path = Path::root(delete::UNREADABLE);
        let error = field::Error::invalid(&path, true, "is not allowed with DELETECOLLECTION, try again after removing the option");
        return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", vec![error]));
    }
    let wanted = wanted.or_else(|unread| unread)?;
    let list: List = wanted.list(call).await?;
    delete::warn(call, &options);
    for entry in &list.entries {
        // Each deletion is finished; those that have not begun are left when nobody waits any more, as upstream does.
        if call.cx.is_given_up() {
            return Err(Status::timeout("the client is gone"));
        }
        let value = storage::value(call.row, entry);
        let (namespace, name) = (meta::text(&value, "namespace"), meta::text(&value, "name"));
        match delete_named(call, call.row, namespace, name, &options).await {
            Ok(_) => {}
            // Somebody else was faster; the aim is reached.
            Err(status) if status.code == 404 => {}
            Err(status) => return Err(status),
        }
    }
    Ok(Answer::List(list))
}
