//! Conversion webhooks: objects of a custom kind in another of its versions, as somebody says whom the definition names.
//!
//! A [`Webhook`] is asked in reviews; what it answers counts object by object ([`answer`]): kind, name, namespace and UID must be the
//! same, and of the metadata labels and annotations alone may differ. A [`Reader`] is one version's way to objects that lie in another:
//! it sends what its own version's schema leaves of them, without their revision, and keeps what was converted for lists, watches
//! and writes ([`known`]), as upstream's watch cache does: a webhook that changes its mind is heard when the object changes, when
//! the definition does, and by whoever reads one object without a revision. Nobody is asked about what is in the version already,
//! and nothing is locked while somebody is asked. Lists and watches wait for that cache where upstream's do: until all that there was when
//! the webhook was registered is converted, and again half a minute after something new is not (`Reader::begun`). Whose fields are whose
//! is compared in the versions of their owners ([`replay`]). Source: `apiextensions-apiserver/pkg/apiserver/conversion`. Upstream asks about
//! the objects of a list one by one; here they go together, as the protocol means it, in pieces of a bounded size.

mod answer;
#[cfg(test)]
mod fuzz;
mod known;
mod reader;
mod replay;
mod unread;
mod webhook;

pub(crate) use reader::{Memory, Reader, UNREAD_MAX};
pub(crate) use replay::replayed;
pub(crate) use unread::Unread;
pub(crate) use webhook::{Setting, UNUSABLE, Webhook, trusts};
