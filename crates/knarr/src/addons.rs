//! What a cluster of knarr has besides the original's own objects: the rights of its DNS, and a class of storage with its driver.
//!
//! The original leaves both to add-ons that an administrator applies; here the parts have identities of their own. DNS may read
//! what it answers from and keep the one Service that leads to it; the provisioner of volumes may do what CSI's sidecars may. What is
//! there is left as it is, whoever changed it.

use crate::{local, manifest};
use client::{Client, Informers, ListParams, Meta as _};
use identity::User;
use k8s_openapi::api::{core::v1::Service, storage::v1::StorageClass};
use machinery::Value;

/// The identity of DNS.
pub const DNS_USER: &str = "system:knarr-dns";

/// Its rights.
const DNS_RIGHTS: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "system:knarr-dns"}
rules:
- {apiGroups: [""], resources: [services, namespaces, pods], verbs: [get, list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}
- {apiGroups: [networking.k8s.io], resources: [servicecidrs], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "system:knarr-dns"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:knarr-dns"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "system:knarr-dns"}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: "system:knarr-dns", namespace: kube-system}
rules:
- {apiGroups: [""], resources: [services], verbs: [create]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [create, update]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: "system:knarr-dns", namespace: kube-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: "system:knarr-dns"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "system:knarr-dns"}]
"#;

/// The rights of the provisioner of volumes, and how others know its driver.
const STORAGE: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "system:knarr-volume-provisioner"}
rules:
- {apiGroups: [""], resources: [persistentvolumes], verbs: [get, list, watch, create, patch, delete]}
- {apiGroups: [""], resources: [persistentvolumeclaims], verbs: [get, list, watch, update]}
- {apiGroups: [""], resources: [persistentvolumeclaims/status], verbs: [patch]}
- {apiGroups: [""], resources: [events], verbs: [create, patch, update]}
- {apiGroups: [""], resources: [nodes], verbs: [get, list, watch]}
- {apiGroups: [storage.k8s.io], resources: [storageclasses], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "system:knarr-volume-provisioner"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:knarr-volume-provisioner"}
subjects: [{kind: ServiceAccount, name: knarr-volume-provisioner, namespace: kube-system}]
---
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: disk.knarr.local}
spec: {attachRequired: false, podInfoOnMount: false, fsGroupPolicy: File, storageCapacity: false, volumeLifecycleModes: [Persistent], preventPodSchedulingIfMissing: true}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: standard}
provisioner: disk.knarr.local
reclaimPolicy: Delete
volumeBindingMode: WaitForFirstConsumer
allowVolumeExpansion: true
"#;

/// Marks the class of claims that name none.
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const BETA_DEFAULT_CLASS: &str = "storageclass.beta.kubernetes.io/is-default-class";

/// DNS as a user.
pub fn dns_user() -> User {
    local::user(DNS_USER, &[])
}

/// Makes what is not there.
pub async fn apply(admin: &Client, storage: bool) -> anyhow::Result<()> {
    let mut objects = manifest::parse(DNS_RIGHTS)?;
    if storage {
        objects.extend(manifest::parse(STORAGE)?);
    }
    let all = objects.into_iter().map(|mut object| async move {
        if object.value["kind"] == "StorageClass" && !has_default(admin).await? {
            object.value["metadata"]["annotations"] = Value::Object([(DEFAULT_CLASS.to_owned(), "true".into())].into_iter().collect());
        }
        // What the scheduler is told of the driver is knarr's own, whichever version made it.
        if object.value["kind"] == "CSIDriver" { manifest::apply(admin, &object).await.map(drop) } else { manifest::make(admin, &object).await }
    });
    futures_util::future::try_join_all(all).await?;
    Ok(())
}

/// Waits until the Service of the cluster's DNS is known to be somebody else's, who selects pods by it.
pub async fn dns_is_anothers(informers: &Informers) {
    let mut changes = informers.informer::<Service>().subscribe();
    while let Some(change) = changes.recv().await {
        if network::dns::is_anothers(change.object()) {
            return;
        }
    }
    std::future::pending().await
}

/// Whether somebody has chosen a default already.
async fn has_default(admin: &Client) -> anyhow::Result<bool> {
    let classes = admin.all::<StorageClass>().list(&ListParams::default()).await?;
    Ok(classes.items().iter().any(|class| [DEFAULT_CLASS, BETA_DEFAULT_CLASS].iter().any(|key| class.annotation(key) == Some("true"))))
}
