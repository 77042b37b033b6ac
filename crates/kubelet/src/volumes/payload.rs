//! What the volumes made from API objects show: configMap, secret, downwardAPI and projected.

use std::sync::Arc;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ClusterTrustBundleProjection, DownwardAPIVolumeFile, KeyToPath, Node, Pod, PodCertificateProjection, ServiceAccountTokenProjection, Volume,
};

use super::anchors;
use super::atomic::{File, Payload};
use super::looks::Looks;
use super::persistent::Persistent;
use super::tokens::Proofs;
use super::watches::Watches;
use crate::api::{ApiError, RefKind, RefObject, SharedApi};
use crate::cri::PodUid;
use crate::env::downward::{self, Facts};
use crate::util;

/// Mode of files where nothing is said.
const DEFAULT_MODE: i32 = 0o644;
/// Life of a token where nothing is said, in seconds.
const TOKEN_LIFE_S: i64 = 3600;
/// How many troubles of a volume's sources are told: an Event has no room for more.
const WRONG_MAX: usize = 64;

/// Reads what the payloads are made of; one call's worth.
pub struct Source<'a> {
    /// The API server.
    pub api: &'a SharedApi,
    /// Where objects read are watched from then on.
    pub watches: &'a Watches,
    /// Looks at the host's own places.
    pub looks: &'a Looks,
    /// Volumes that drivers bring.
    pub persistent: &'a Persistent,
    /// The pod, for what outlives this call.
    pub pod: &'a Arc<Pod>,
    /// The node, as last seen.
    pub node: Option<&'a Node>,
    /// The pod's tokens and certificates.
    pub proofs: &'a Proofs,
    /// What the downward API tells.
    pub facts: Facts<'a>,
}

struct Defaults {
    mode: i32,
    user: Option<i64>,
}

fn bits(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or(0o644) & 0o777
}

fn owner(user: Option<i64>) -> Option<u32> {
    user.and_then(|u| u32::try_from(u).ok())
}

impl Source<'_> {
    /// The payload of a volume; none if the volume is of another kind.
    pub async fn payload(&self, volume: &Volume) -> Option<Result<Payload, String>> {
        let mut out = Payload::new();
        let done = if let Some(v) = &volume.config_map {
            let d = Defaults { mode: v.default_mode.unwrap_or(DEFAULT_MODE), user: v.default_user };
            self.object(&mut out, RefKind::ConfigMap, &v.name, v.items.as_deref(), v.optional, &d).await
        } else if let Some(v) = &volume.secret {
            let d = Defaults { mode: v.default_mode.unwrap_or(DEFAULT_MODE), user: v.default_user };
            self.object(&mut out, RefKind::Secret, v.secret_name.as_deref().unwrap_or_default(), v.items.as_deref(), v.optional, &d).await
        } else if let Some(v) = &volume.downward_api {
            let d = Defaults { mode: v.default_mode.unwrap_or(DEFAULT_MODE), user: v.default_user };
            self.downward(&mut out, v.items.as_deref(), &d)
        } else if let Some(v) = &volume.projected {
            let d = Defaults { mode: v.default_mode.unwrap_or(DEFAULT_MODE), user: v.default_user };
            self.projected(&mut out, volume, v.sources.as_deref().unwrap_or_default(), &d).await
        } else {
            return None;
        };
        Some(done.map(|()| out))
    }

    async fn projected(
        &self,
        out: &mut Payload,
        volume: &Volume,
        sources: &[k8s_openapi::api::core::v1::VolumeProjection],
        d: &Defaults,
    ) -> Result<(), String> {
        // All that is wrong is told at once (upstream's `collectData`).
        let mut wrong: Vec<String> = Vec::new();
        for (index, s) in sources.iter().enumerate() {
            let shown = if let Some(m) = &s.config_map {
                self.object(out, RefKind::ConfigMap, &m.name, m.items.as_deref(), m.optional, d).await
            } else if let Some(m) = &s.secret {
                self.object(out, RefKind::Secret, &m.name, m.items.as_deref(), m.optional, d).await
            } else if let Some(m) = &s.downward_api {
                self.downward(out, m.items.as_deref(), d)
            } else if let Some(t) = &s.service_account_token {
                self.token(out, &volume.name, t, d).await
            } else if let Some(b) = &s.cluster_trust_bundle {
                self.trust_anchors(out, b, d).await
            } else if let Some(c) = &s.pod_certificate {
                self.certificate(out, (volume.name.clone(), index), c, d).await
            } else {
                Ok(())
            };
            if let Err(why) = shown
                && wrong.len() < WRONG_MAX
                && !wrong.contains(&why)
            {
                wrong.push(why);
            }
        }
        match wrong.as_slice() {
            [] => Ok(()),
            [one] => Err(one.clone()),
            all => Err(format!("[{}]", all.join(", "))),
        }
    }

    async fn object(
        &self,
        out: &mut Payload,
        kind: RefKind,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        d: &Defaults,
    ) -> Result<(), String> {
        let pod = self.facts.pod;
        let ns = util::namespace(pod);
        let optional = optional.unwrap_or(false);
        let uid = PodUid(util::uid(pod).to_owned());
        // Before it is read, where somebody watches it already: what changes in between is told then.
        let joined = self.watches.join(&uid, kind, ns, name);
        let (found, revision) = match self.api.get_ref(kind, ns, name).await {
            Ok(got) => got,
            Err(ApiError::NotFound(_)) => (None, String::new()),
            Err(e) => return Err(e.to_string()),
        };
        if !joined && !found.as_ref().is_some_and(immutable) {
            self.watches.watch(uid, kind, ns, name, &revision);
        }
        let Some(object) = found else {
            if optional {
                return Ok(());
            }
            let what = if kind == RefKind::ConfigMap { "configmap" } else { "secret" };
            return Err(format!("{what} {name:?} not found"));
        };
        let data = bytes(&object);
        match items.filter(|i| !i.is_empty()) {
            None => {
                for (key, value) in data {
                    out.insert(key, File { data: value, mode: bits(d.mode), user: owner(d.user) });
                }
            }
            Some(items) => {
                for item in items {
                    match data.get(&item.key) {
                        Some(value) => {
                            let mode = bits(item.mode.unwrap_or(d.mode));
                            out.insert(item.path.clone(), File { data: value.clone(), mode, user: owner(item.user.or(d.user)) });
                        }
                        None if optional => {}
                        None if kind == RefKind::ConfigMap => return Err(format!("configmap references non-existent config key: {}", item.key)),
                        None => return Err(format!("references non-existent secret key: {}", item.key)),
                    }
                }
            }
        }
        Ok(())
    }

    fn downward(&self, out: &mut Payload, items: Option<&[DownwardAPIVolumeFile]>, d: &Defaults) -> Result<(), String> {
        for item in items.unwrap_or_default() {
            let text = if let Some(f) = &item.field_ref {
                downward::field(&self.facts, &f.field_path)?
            } else if let Some(r) = &item.resource_field_ref {
                let name = r.container_name.as_deref().unwrap_or_default();
                let c = downward::container(self.facts.pod, name).ok_or_else(|| format!("container {name} not found"))?;
                downward::resource(&self.facts, c, &r.resource, r.divisor.as_ref())?
            } else {
                continue;
            };
            out.insert(item.path.clone(), File { data: text.into_bytes(), mode: bits(item.mode.unwrap_or(d.mode)), user: owner(item.user.or(d.user)) });
        }
        Ok(())
    }

    async fn token(&self, out: &mut Payload, volume: &str, t: &ServiceAccountTokenProjection, d: &Defaults) -> Result<(), String> {
        let pod = self.facts.pod;
        let spec = pod.spec.as_ref().ok_or("pod has no spec")?;
        let account = spec.service_account_name.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
        let life = t.expiration_seconds.unwrap_or(TOKEN_LIFE_S);
        let audience = t.audience.clone().filter(|a| !a.is_empty());
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: audience.map(|a| vec![a]),
                expiration_seconds: Some(life),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(util::name(pod).to_owned()),
                    uid: Some(util::uid(pod).to_owned()),
                }),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let token = self
            .proofs
            .tokens
            .get(self.api, util::namespace(pod), account, volume, &t.path, request)
            .await
            .map_err(|e| format!("failed to fetch token: {e}"))?;
        out.insert(t.path.clone(), self.own_file(token.into_bytes(), t.user, d));
        Ok(())
    }

    async fn certificate(&self, out: &mut Payload, place: (String, usize), c: &PodCertificateProjection, d: &Defaults) -> Result<(), String> {
        let pod = self.facts.pod;
        // Before it is asked for, so that the answer is not missed.
        self.watches.watch_certificate_requests(PodUid(util::uid(pod).to_owned()));
        let bundle = self.proofs.certificates.get(self.api, pod, place, c).await?;
        let both = format!("{}{}", bundle.key, bundle.chain);
        for (path, text) in [(&c.credential_bundle_path, both), (&c.key_path, bundle.key), (&c.certificate_chain_path, bundle.chain)] {
            if let Some(path) = path.as_ref().filter(|p| !p.is_empty()) {
                out.insert(path.clone(), self.own_file(text.into_bytes(), c.user, d));
            }
        }
        Ok(())
    }

    async fn trust_anchors(&self, out: &mut Payload, b: &ClusterTrustBundleProjection, d: &Defaults) -> Result<(), String> {
        // Before they are read, so that no change is missed in between.
        self.watches.watch_trust_bundles(PodUid(util::uid(self.facts.pod).to_owned()));
        let bundles = self.api.trust_bundles().await.map_err(|e| e.to_string())?;
        let found = anchors::select(&bundles, b)?;
        out.insert(b.path.clone(), self.own_file(anchors::pem(&found)?, b.user, d));
        Ok(())
    }

    /// Readable for the pod alone where its user or group is known, as upstream's projected plugin decides.
    fn own_file(&self, data: Vec<u8>, item_user: Option<i64>, d: &Defaults) -> File {
        let pod = self.facts.pod;
        let user = item_user.or(d.user).or_else(|| common_user(pod));
        let group = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).and_then(|s| s.fs_group);
        let mode = if user.is_some() || group.is_some() { 0o600 } else { bits(d.mode) };
        File { data, mode, user: owner(user) }
    }
}

fn immutable(object: &RefObject) -> bool {
    match object {
        RefObject::ConfigMap(m) => m.immutable,
        RefObject::Secret(s) => s.immutable,
    }
    .unwrap_or(false)
}

fn bytes(object: &RefObject) -> std::collections::BTreeMap<String, Vec<u8>> {
    match object {
        RefObject::ConfigMap(m) => {
            let text = m.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
            text.chain(m.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()))).collect()
        }
        RefObject::Secret(s) => s.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect(),
    }
}

/// The user that all containers run as, if it is one (upstream's `FsUserFrom`).
fn common_user(pod: &Pod) -> Option<i64> {
    let spec = pod.spec.as_ref()?;
    let level = spec.security_context.as_ref().and_then(|s| s.run_as_user);
    let mut common = None;
    for c in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let user = c.security_context.as_ref().and_then(|s| s.run_as_user).or(level)?;
        if *common.get_or_insert(user) != user {
            return None;
        }
    }
    common
}
