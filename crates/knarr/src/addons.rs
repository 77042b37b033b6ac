//! What a cluster of knarr has besides the original's own objects: the rights of its DNS.
//!
//! The original leaves DNS to an add-on that an administrator applies; here the part has an identity of its own, which
//! may read what it answers from and keep the one Service that leads to it.

use crate::{local, manifest};
use client::Client;
use identity::User;

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

/// DNS as a user.
pub fn dns_user() -> User {
    local::user(DNS_USER, &[])
}

/// Makes what is not there.
pub async fn apply(admin: &Client) -> anyhow::Result<()> {
    let objects = manifest::parse(DNS_RIGHTS)?;
    let all = objects.iter().map(|object| async move {
        if manifest::read_now(admin, object).await.is_err() {
            manifest::apply(admin, object).await?;
        }
        anyhow::Ok(())
    });
    futures_util::future::try_join_all(all).await?;
    Ok(())
}
