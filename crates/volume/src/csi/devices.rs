//! Drivers of devices behind sockets (KEP 4381; `k8s.io/kubelet/pkg/apis/dra`): they register as drivers of volumes do, and prepare what a
//! claim has before its pod starts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message;

use super::channel::Channel;
use crate::driver::Failure;

/// The type of plugin.
pub(super) const KIND: &str = "DRAPlugin";
/// For one call (upstream `defaultClientCallTimeout`).
const CALL_MAX: Duration = Duration::from_secs(45);

/// The services of drivers that are known here, in upstream's order, with their full names. All of a kind have the same messages.
const SERVICES: [(&str, &str); 2] =
    [("v1.DRAPlugin", "k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin"), ("v1beta1.DRAPlugin", "k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin")];
/// Those that tell how devices are; the first that a driver has counts.
const HEALTH_SERVICES: [&str; 2] = ["v1.DRAResourceHealth", "v1alpha1.DRAResourceHealth"];

/// The first of a driver's services that is known here.
fn service_of(driver: &str, endpoint: &Path, offered: &[String]) -> Result<&'static str, String> {
    let wrong = |why: String| format!("invalid supported gRPC versions of DRA driver plugin {driver} at endpoint {}: {why}", endpoint.display());
    if offered.is_empty() {
        return Err(wrong("empty list of supported gRPC services (aka supported versions)".to_owned()));
    }
    let known = |offered: &String| SERVICES.iter().find(|(short, _)| short == offered).map(|(_, full)| *full);
    offered.iter().find_map(known).ok_or_else(|| {
        let quoted = |all: Vec<String>| all.iter().map(|service| format!("{service:?}")).collect::<Vec<_>>().join(" ");
        let ours = quoted(SERVICES.iter().map(|(short, _)| (*short).to_owned()).collect());
        wrong(format!("none of services supported by the plugin ([{}]) are supported by the kubelet ([{ours}])", quoted(offered.to_vec())))
    })
}

/// Who is told of drivers of devices that come and go.
pub trait DevicePlugins: Send + Sync {
    /// One has come. It is not told that it is registered before this is done.
    ///
    /// # Errors
    /// It is not taken in: why.
    fn come(&self, driver: &str, plugin: DevicePlugin) -> Result<(), String>;
    /// One has gone.
    fn gone(&self, driver: &str, endpoint: &Path);
}

/// A driver of devices.
#[derive(Clone, Debug)]
pub struct DevicePlugin {
    endpoint: PathBuf,
    channel: Channel,
    service: &'static str,
    health: Option<&'static str>,
}

/// A claim as drivers are told of it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeviceClaim {
    /// Its namespace.
    #[prost(string, tag = "1")]
    pub namespace: String,
    /// Its UID.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// Its name.
    #[prost(string, tag = "3")]
    pub name: String,
}

/// What a driver is asked about.
#[derive(Clone, PartialEq, Message)]
pub struct Claims {
    /// The claims.
    #[prost(message, repeated, tag = "1")]
    pub claims: Vec<DeviceClaim>,
}

/// What is prepared.
#[derive(Clone, PartialEq, Message)]
pub struct PreparedAll {
    /// By the claim's UID.
    #[prost(btree_map = "string, message", tag = "1")]
    pub claims: BTreeMap<String, PreparedClaim>,
}

/// What a driver has prepared for a claim.
#[derive(Clone, PartialEq, Message)]
pub struct PreparedClaim {
    /// The devices.
    #[prost(message, repeated, tag = "1")]
    pub devices: Vec<PreparedDevice>,
    /// Why it is not prepared; empty: it is.
    #[prost(string, tag = "2")]
    pub error: String,
}

/// A device that is prepared.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PreparedDevice {
    /// For which requests of the claim; none: for all.
    #[prost(string, repeated, tag = "1")]
    pub requests: Vec<String>,
    /// Its pool.
    #[prost(string, tag = "2")]
    pub pool: String,
    /// Its name there.
    #[prost(string, tag = "3")]
    pub device: String,
    /// What containers get (Container Device Interface).
    #[prost(string, repeated, tag = "4")]
    pub cdi: Vec<String>,
    /// Which share of it, where several claims may have one each.
    #[prost(string, optional, tag = "5")]
    pub share: Option<String>,
}

/// What is taken back.
#[derive(Clone, PartialEq, Message)]
pub struct UnpreparedAll {
    /// By the claim's UID.
    #[prost(btree_map = "string, message", tag = "1")]
    pub claims: BTreeMap<String, UnpreparedClaim>,
}

/// Of a claim.
#[derive(Clone, PartialEq, Message)]
pub struct UnpreparedClaim {
    /// Why it is not taken back; empty: it is.
    #[prost(string, tag = "1")]
    pub error: String,
}

/// Asks how devices are.
#[derive(Clone, PartialEq, Eq, Message)]
struct HealthRequest {}

/// How all devices of a driver are.
#[derive(Clone, PartialEq, Message)]
pub struct HealthReport {
    /// The devices.
    #[prost(message, repeated, tag = "1")]
    pub devices: Vec<DeviceHealth>,
}

/// How a device is.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeviceHealth {
    /// Which it is.
    #[prost(message, optional, tag = "1")]
    pub device: Option<DeviceName>,
    /// 1: well, 2: not well; any other: nobody knows.
    #[prost(int32, tag = "2")]
    pub health: i32,
    /// After how many seconds nobody knows any more; none if not positive.
    #[prost(int64, tag = "4")]
    pub timeout_s: i64,
    /// The driver's words.
    #[prost(string, tag = "5")]
    pub message: String,
}

/// A device of a driver.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeviceName {
    /// Its pool.
    #[prost(string, tag = "1")]
    pub pool: String,
    /// Its name there.
    #[prost(string, tag = "2")]
    pub device: String,
}

impl DevicePlugin {
    /// The driver at a socket, by the services that it offers.
    ///
    /// # Errors
    /// None of them is known here: why, in upstream's words.
    pub fn offered(driver: &str, endpoint: &Path, services: &[String]) -> Result<Self, String> {
        let service = service_of(driver, endpoint, services)?;
        let health = HEALTH_SERVICES.into_iter().find(|known| services.iter().any(|service| service == known));
        Ok(Self { endpoint: endpoint.to_owned(), channel: Channel::new(endpoint), service, health })
    }

    /// Its socket.
    #[must_use]
    pub fn endpoint(&self) -> &Path {
        &self.endpoint
    }

    /// The way to it.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Whether it tells how its devices are.
    #[must_use]
    pub fn tells_health(&self) -> bool {
        self.health.is_some()
    }

    /// The full name of a method of its service.
    #[must_use]
    pub fn method(&self, name: &str) -> String {
        format!("{}/{name}", self.service)
    }

    /// Has claims prepared; what it says of each, by the claim's UID.
    ///
    /// # Errors
    /// It gave no answer.
    pub async fn prepare(&self, claims: &[DeviceClaim]) -> Result<BTreeMap<String, PreparedClaim>, Failure> {
        let all: PreparedAll = self.call("NodePrepareResources", claims).await?;
        Ok(all.claims)
    }

    /// Has taken back what was prepared for claims; what it says of each, by the claim's UID.
    ///
    /// # Errors
    /// It gave no answer.
    pub async fn unprepare(&self, claims: &[DeviceClaim]) -> Result<BTreeMap<String, UnpreparedClaim>, Failure> {
        let all: UnpreparedAll = self.call("NodeUnprepareResources", claims).await?;
        Ok(all.claims)
    }

    async fn call<A: Message + Default>(&self, method: &str, claims: &[DeviceClaim]) -> Result<A, Failure> {
        self.channel.call(&self.method(method), &Claims { claims: claims.to_vec() }, CALL_MAX).await
    }

    /// Hears how its devices are, as long as it tells.
    ///
    /// # Errors
    /// It ended otherwise than well.
    pub async fn follow_health(&self, each: impl FnMut(HealthReport) + Send) -> Result<(), Failure> {
        let Some(service) = self.health else { return Ok(()) };
        self.channel.follow(&format!("{service}/NodeWatchResources"), &HealthRequest {}, each).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_chosen() {
        let of = |all: &[&str]| DevicePlugin::offered("d.io", Path::new("/s"), &all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let plugin = of(&["v2.DRAPlugin", "v1beta1.DRAPlugin", "v1.DRAPlugin", "v1alpha1.DRAResourceHealth"]).expect("the first that is known");
        assert_eq!((plugin.method("M").as_str(), plugin.health), ("k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/M", Some("v1alpha1.DRAResourceHealth")));
        let plugin = of(&["v1.DRAPlugin"]).expect("a plugin");
        assert_eq!((plugin.method("M").as_str(), plugin.health), ("k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/M", None));
        let wrong = "invalid supported gRPC versions of DRA driver plugin d.io at endpoint /s: ";
        let told = |all: &[&str]| of(all).expect_err("a refusal");
        assert_eq!(told(&[]), format!("{wrong}empty list of supported gRPC services (aka supported versions)"));
        let none = r#"none of services supported by the plugin (["x"]) are supported by the kubelet (["v1.DRAPlugin" "v1beta1.DRAPlugin"])"#;
        assert_eq!(told(&["x"]), format!("{wrong}{none}"));
    }
}
