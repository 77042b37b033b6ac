//! How devices are, as their drivers tell it (KEP 4680), and what pods' statuses say of it.
//!
//! A report tells of all devices of a driver. What it is silent of, and what nobody has told for its time, is not known; nor is anything of a
//! driver whose stream has ended. Nothing is kept over a restart: a driver tells again when it registers.

use std::collections::HashMap;
use std::time::Duration;

use ::volume::HealthReport;
use k8s_openapi::api::core::v1::{ResourceHealth, ResourceStatus};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::state::{Given, Record};

/// For which a report holds whose driver does not say it (upstream `DefaultHealthTimeout`).
const TIMEOUT: Duration = Duration::from_secs(30);
/// Devices of a driver that are remembered (upstream `maxDevicesPerDriver`).
const DEVICES_MAX: usize = 16_384;
/// Bytes of what a driver says of a device (upstream `ResourceHealthMessageMaxLength`).
const MESSAGE_BYTES_MAX: usize = 1_024;

const UNKNOWN: &str = "Unknown";

/// A pool and the name of a device in it.
type Name = (String, String);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    health: &'static str,
    message: String,
    timeout: Duration,
    told: Instant,
}

/// How the devices of all drivers are.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<HashMap<String, HashMap<Name, Known>>>);

impl Health {
    /// Takes a report in; the devices of which it tells something new.
    pub(super) fn report(&self, driver: &str, report: HealthReport) -> Vec<Name> {
        let (now, mut news) = (Instant::now(), Vec::new());
        let mut drivers = self.0.lock();
        let all = drivers.entry(driver.to_owned()).or_default();
        let mut told = std::collections::HashSet::new();
        for device in report.devices {
            let name = device.device.map(|name| (name.pool, name.device)).unwrap_or_default();
            let health = match device.health {
                1 => "Healthy",
                2 => "Unhealthy",
                _ => UNKNOWN,
            };
            let timeout = u64::try_from(device.timeout_s).ok().filter(|seconds| *seconds > 0).map_or(TIMEOUT, Duration::from_secs);
            let new = Known { health, message: cut(device.message), timeout, told: now };
            told.insert(name.clone());
            if !all.contains_key(&name) && all.len() >= DEVICES_MAX {
                continue;
            }
            let same = |old: &Known| Known { told: now, ..old.clone() } == new;
            if !all.get(&name).is_some_and(same) {
                news.push(name.clone());
            }
            all.insert(name, new);
        }
        all.retain(|name, known| {
            let over = !told.contains(name) && is_over(known, now);
            if over && known.health != UNKNOWN {
                news.push(name.clone());
            }
            !over
        });
        news
    }

    /// Nobody tells of a driver's devices any more.
    pub(super) fn forget(&self, driver: &str) {
        self.0.lock().remove(driver);
    }

    /// What a status says of a claim, or of a request of it: how each device is. Nothing if it has none.
    pub(super) fn status(&self, name: String, record: &Record, request: &str) -> Option<ResourceStatus> {
        // A request may be one of several alternatives; devices are known by that which the claim lists.
        let base = request.split('/').next().unwrap_or_default();
        let mut resources: Vec<ResourceHealth> = Vec::new();
        for (driver, devices) in &record.drivers {
            for device in devices.iter().filter(|one| base.is_empty() || one.requests.is_empty() || one.requests.iter().any(|r| r == base)) {
                let one = self.one(driver, device);
                if !resources.iter().any(|known| known.resource_id == one.resource_id) {
                    resources.push(one);
                }
            }
        }
        (!resources.is_empty()).then_some(ResourceStatus { name, resources: Some(resources) })
    }

    fn one(&self, driver: &str, given: &Given) -> ResourceHealth {
        let drivers = self.0.lock();
        let known = drivers.get(driver).and_then(|all| all.get(&(given.pool.clone(), given.device.clone())));
        let known = known.filter(|known| !is_over(known, Instant::now()));
        ResourceHealth {
            health: Some(known.map_or(UNKNOWN, |known| known.health).to_owned()),
            message: known.map(|known| known.message.clone()).filter(|message| !message.is_empty()),
            resource_id: given.cdi.first().cloned().unwrap_or_else(|| format!("{driver}/{}/{}", given.pool, given.device)),
        }
    }
}

fn is_over(known: &Known, now: Instant) -> bool {
    now.duration_since(known.told) > known.timeout
}

fn cut(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX - 3));
        message.push_str("...");
    }
    message
}
