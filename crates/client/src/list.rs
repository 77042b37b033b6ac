//! A page of objects.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A page of objects.
#[derive(Clone, Debug, Deserialize)]
#[serde(bound = "K: DeserializeOwned")]
pub struct List<K> {
    /// Revision, continue token, how many remain.
    #[serde(default)]
    pub metadata: ListMeta,
    /// The objects.
    #[serde(default)]
    pub(crate) items: Option<Vec<K>>,
}

impl<K> List<K> {
    /// The objects.
    pub fn into_items(self) -> Vec<K> {
        self.items.unwrap_or_default()
    }

    /// The objects.
    pub fn items(&self) -> &[K] {
        self.items.as_deref().unwrap_or_default()
    }

    /// The revision at which the list was taken.
    pub fn resource_version(&self) -> &str {
        self.metadata.resource_version.as_deref().unwrap_or_default()
    }
}
