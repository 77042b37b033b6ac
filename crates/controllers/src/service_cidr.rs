//! Ranges of Services' addresses: each has a finalizer, and goes only when no address of a Service is left without a range
//! (upstream `pkg/controller/servicecidrs`, KEP 1880).
//!
//! An address blocks the end of a range if that alone contains it. When none does, the finalizer stays for another while, so that
//! who gives addresses hears of the end before the range is gone; it is judged once more then.
//!
//! Each range is told ready: the API server gives addresses from all.
//!
//! What holds it: a range that is made has those that overlap it judged anew; an address that comes or goes has those that are
//! ending and contain it judged anew; a finalizer or a status that somebody takes away is heard and comes back.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::{Client, Delta, EventType, Informer, Meta, Patch, PatchParams, Recorder, WorkQueue, object_reference};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use serde_json::json;

use crate::meta::{between, labels, plus, time};
use crate::range::{Range, number};
use crate::work::{Controller, Cx, Step};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// Who writes the status, and who tells the events.
const MANAGER: &str = "service-cidr-controller";
/// How long a range that nobody needs keeps its finalizer (upstream's `deletionGracePeriod`).
const GRACE: Duration = Duration::from_secs(10);
/// Whose addresses count: those that are given to Services.
const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");

/// Runs the controller until the end.
pub(crate) async fn run(cx: Cx) {
    let client = cx.client("service-cidrs-controller");
    let recorder = cx.recorder(&client, MANAGER);
    let controller = Arc::new(Ranges { client, recorder, ranges: cx.informers.informer(), addresses: cx.informers.informer() });
    cx.setup(&controller).on(&controller.ranges, Ranges::heard).on(&controller.addresses, Ranges::heard_address).work(5).await;
}

/// Whether a Service may have an address of this block: neither its first nor, of IPv4, its last is ever given.
fn block_gives(block: Range, ip: IpAddr) -> bool {
    let ((first, last), at) = (block.bounds(), number(ip));
    block.contains(ip) && at != first && !(block.is_ipv4() && at == last)
}

/// The blocks of addresses that a range is of.
pub(crate) fn blocks(range: &ServiceCIDR) -> impl Iterator<Item = Range> {
    range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten()).filter_map(|text| Range::parse(text))
}

fn gives(range: &ServiceCIDR, ip: IpAddr) -> bool {
    blocks(range).any(|block| block_gives(block, ip))
}

/// The address that an object stands for, if it is a Service's.
fn service_address(object: &IPAddress) -> Option<IpAddr> {
    labels(object).get(MANAGED_BY.0).filter(|by| *by == MANAGED_BY.1)?;
    object.name().parse().ok()
}

struct Ranges {
    client: Client,
    recorder: Recorder,
    ranges: Informer<ServiceCIDR>,
    addresses: Informer<IPAddress>,
}

impl Ranges {
    fn heard(&self, queue: &WorkQueue<String>, change: &Delta<ServiceCIDR>) {
        let range = change.object();
        queue.add(range.name().to_owned());
        if let Delta::Added(_) = change {
            let overlap = |other: &ServiceCIDR| blocks(range).any(|block| blocks(other).any(|b| b.overlaps(block)));
            self.ranges.list().iter().filter(|other| overlap(other)).for_each(|other| queue.add(other.name().to_owned()));
        }
    }

    fn heard_address(&self, queue: &WorkQueue<String>, change: &Delta<IPAddress>) {
        let ip = match change {
            Delta::Added(object) | Delta::Deleted(object) => service_address(object),
            Delta::Updated { .. } => None,
        };
        let Some(ip) = ip else { return };
        self.ranges.list().iter().filter(|range| range.is_deleting() && gives(range, ip)).for_each(|range| queue.add(range.name().to_owned()));
    }

    /// Whether no address is left without a range if this one goes.
    fn is_free(&self, range: &ServiceCIDR) -> bool {
        let mut others = self.ranges.list();
        others.retain(|other| other.name() != range.name());
        if blocks(range).all(|block| others.iter().any(|other| blocks(other).any(|b| b.holds(block)))) {
            return true;
        }
        let needs = |ip: IpAddr| gives(range, ip) && !others.iter().any(|other| gives(other, ip));
        !self.addresses.list().iter().filter_map(|object| service_address(object)).any(needs)
    }

    async fn patch(&self, range: &ServiceCIDR, mut metadata: serde_json::Value) -> client::Result<()> {
        metadata["uid"] = range.uid().into();
        let patch = Patch::Strategic(json!({"metadata": metadata}));
        settled(self.client.all::<ServiceCIDR>().patch(range.name(), &patch, &PatchParams::default()).await)
    }

    /// Tells whether the range is ready, unless it says so already.
    async fn tell(&self, range: &ServiceCIDR, status: &str, reason: &str, message: &str) -> client::Result<()> {
        let told = range.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == "Ready");
        if told.is_some_and(|c| (c.status.as_str(), c.reason.as_str(), c.message.as_str()) == (status, reason, message)) {
            return Ok(());
        }
        let applied = json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "ServiceCIDR",
            "metadata": {"name": range.name(), "uid": range.uid()},
            "status": {"conditions": [{
                "type": "Ready", "status": status, "reason": reason, "message": message, "lastTransitionTime": client::now(),
            }]},
        });
        let params = PatchParams { field_manager: MANAGER.to_owned(), force: true, ..PatchParams::default() };
        settled(self.client.all::<ServiceCIDR>().patch_status(range.name(), &Patch::Apply(applied), &params).await)
    }
}

/// What is gone needs nothing more.
fn settled<T>(written: client::Result<T>) -> client::Result<()> {
    match written {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

impl Controller for Ranges {
    const QUEUE: &'static str = "ipaddresses";
    type Key = String;

    async fn reconcile(&self, name: &String) -> Step {
        let Some(range) = self.ranges.get("", name) else { return Ok(None) };
        if range.is_deleting() {
            if !self.is_free(&range) {
                let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
                return self.tell(&range, "False", "Terminating", message).await.map(|()| None);
            }
            let left = between(client::timestamp(), plus(time(range.metadata.deletion_timestamp.as_ref()), GRACE));
            if !left.is_zero() {
                return Ok(Some(left));
            }
            if range.has_finalizer(FINALIZER) {
                self.patch(&range, json!({"$deleteFromPrimitiveList/finalizers": [FINALIZER]})).await?;
            }
            return Ok(None);
        }
        if !range.has_finalizer(FINALIZER) {
            self.patch(&range, json!({"finalizers": [FINALIZER]})).await?;
        }
        let told = self.tell(&range, "True", "", "Kubernetes Service CIDR is ready").await;
        if told.is_err() {
            let message = "The ServiceCIDR Status can not be set to Ready=True";
            self.recorder.event(&object_reference(&*range), EventType::Warning, "KubernetesServiceCIDRError", message);
        }
        told.map(|()| None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, refusal};
    use k8s_openapi::api::networking::v1::ServiceCIDRSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    /// The API server's own range.
    const OWN: &str = "kubernetes";

    fn range(name: &str, cidrs: &[&str]) -> ServiceCIDR {
        let mut range = ServiceCIDR { metadata: crate::meta::new_meta("", name), ..ServiceCIDR::default() };
        (range.metadata.uid, range.metadata.finalizers) = (Some(format!("uid-{name}")), Some(vec![FINALIZER.to_owned()]));
        range.spec = Some(ServiceCIDRSpec { cidrs: Some(cidrs.iter().map(|c| (*c).to_owned()).collect()) });
        range
    }

    /// One that is to go, since so many seconds.
    fn ending(name: &str, cidrs: &[&str], since_s: u64) -> ServiceCIDR {
        let mut range = range(name, cidrs);
        range.metadata.deletion_timestamp = Some(Time(crate::meta::minus(client::timestamp(), Duration::from_secs(since_s))));
        range
    }

    fn address(ip: &str, by: &str) -> IPAddress {
        let mut object = IPAddress { metadata: crate::meta::new_meta("", ip), ..IPAddress::default() };
        object.metadata.labels = Some([(MANAGED_BY.0.to_owned(), by.to_owned())].into());
        object
    }

    fn services(ips: &[&str]) -> Vec<IPAddress> {
        ips.iter().map(|ip| address(ip, MANAGED_BY.1)).collect()
    }

    fn controller(client: Client, ranges: Vec<ServiceCIDR>, addresses: Vec<IPAddress>) -> Ranges {
        let recorder = Recorder::new(client.clone(), MANAGER, "");
        Ranges { client, recorder, ranges: Informer::fixed(ranges), addresses: Informer::fixed(addresses) }
    }

    /// What a step for the first range writes, and whether it wants another.
    async fn step(ranges: Vec<ServiceCIDR>, addresses: Vec<IPAddress>) -> (Vec<String>, Option<Duration>) {
        let fake = Fake::new(|_, _: &str| (200, json!({"kind": "ServiceCIDR", "apiVersion": "networking.k8s.io/v1", "metadata": {}})));
        let name = ranges[0].name().to_owned();
        let again = controller(fake.client(), ranges, addresses).reconcile(&name).await.expect("a step");
        (fake.written(), again)
    }

    #[test]
    fn blocks_are_what_their_text_says() {
        let block = |text| Range::parse(text).expect(text);
        let ip = |text: &str| text.parse::<IpAddr>().expect(text);
        for text in ["", "10.0.0.0", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/-1", "x/8"] {
            assert_eq!(Range::parse(text), None, "{text}");
        }
        let (wide, narrow, all, one) = (block("10.96.0.0/16"), block("10.96.4.0/24"), block("0.0.0.0/0"), block("10.96.4.7/32"));
        assert!(wide.holds(narrow) && wide.holds(wide) && all.holds(wide) && narrow.holds(one) && !narrow.holds(wide));
        assert!(narrow.overlaps(wide) && wide.overlaps(narrow) && !narrow.overlaps(block("10.96.5.0/24")));
        assert!(!block("::/0").holds(all) && !block("::/0").overlaps(all) && block("::/0").holds(block("fd00::/108")));
        for (text, gives) in [("10.96.4.0", false), ("10.96.4.1", true), ("10.96.4.254", true), ("10.96.4.255", false), ("10.96.5.1", false), ("::1", false)] {
            assert_eq!(block_gives(narrow, ip(text)), gives, "{text}");
        }
        let six = |text: &str| block_gives(block("fd00::/120"), ip(text));
        assert!(!six("fd00::") && six("fd00::1") && six("fd00::ff") && !six("fd00::100"));
    }

    #[test]
    fn a_range_is_free_when_every_address_has_another() {
        let free = |ranges: &[ServiceCIDR], ips: &[&str]| {
            let client = Fake::new(|_, _: &str| refusal(500, "")).client();
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let _inside = runtime.enter();
            controller(client, ranges.to_vec(), services(ips)).is_free(&ranges[0])
        };
        let extra = ending("extra", &["10.1.0.0/24"], 0);
        assert!(free(std::slice::from_ref(&extra), &[]) && free(std::slice::from_ref(&extra), &["10.2.0.1", "10.1.0.0", "10.1.0.255"]));
        assert!(!free(std::slice::from_ref(&extra), &["10.1.0.9"]));
        assert!(free(&[extra.clone(), range("same", &["10.1.0.0/24"])], &["10.1.0.9"]), "another of the same block");
        assert!(free(&[extra.clone(), range("wide", &["10.1.0.0/16"])], &["10.1.0.9"]), "a wider one");
        let part = range("part", &["10.1.0.0/28"]);
        assert!(free(&[extra.clone(), part.clone()], &["10.1.0.9"]) && !free(&[extra, part], &["10.1.0.9", "10.1.0.99"]));
        let dual = [ending("dual", &["10.1.0.0/24", "fd00::/112"], 0), range("four", &["10.1.0.0/16"])];
        assert!(free(&dual, &["10.1.0.9"]) && !free(&dual, &["10.1.0.9", "fd00::9"]));
    }

    #[tokio::test]
    async fn a_range_is_told_ready_and_has_its_finalizer() {
        let path = "/apis/networking.k8s.io/v1/servicecidrs";
        let own = range(OWN, &["10.96.0.0/16"]);
        let (mut written, again) = step(vec![own.clone()], vec![]).await;
        let status = written.pop().unwrap_or_default();
        assert!(written.is_empty() && again.is_none() && status.starts_with(&format!("PATCH {path}/kubernetes/status ")), "{status}");
        for part in
            [r#""status":"True""#, r#""reason":"""#, r#""message":"Kubernetes Service CIDR is ready""#, r#""uid":"uid-kubernetes""#, "lastTransitionTime"]
        {
            assert!(status.contains(part), "{part}: {status}");
        }
        let mut ready = own.clone();
        let sent: serde_json::Value = serde_json::from_str(status.split(' ').skip(2).collect::<Vec<_>>().join(" ").as_str()).expect("JSON");
        ready.status = serde_json::from_value(sent["status"].clone()).expect("a status");
        assert_eq!(step(vec![ready.clone()], vec![]).await, (vec![], None), "it is told once");

        let bare = |mut range: ServiceCIDR| {
            range.metadata.finalizers = None;
            range
        };
        let (written, _) = step(vec![bare(ready)], vec![]).await;
        assert_eq!(written, [format!(r#"PATCH {path}/kubernetes {{"metadata":{{"finalizers":["{FINALIZER}"],"uid":"uid-kubernetes"}}}}"#)]);
        let (written, _) = step(vec![range("part", &["10.96.7.0/24"]), own.clone()], vec![]).await;
        assert!(written.len() == 1 && written[0].contains(r#""status":"True""#), "{written:?}");
        let (written, _) = step(vec![bare(range("other", &["10.1.0.0/24"])), own], vec![]).await;
        assert!(written.len() == 2 && written[0].contains("finalizers") && written[1].contains(r#""status":"True""#), "{written:?}");
    }

    #[tokio::test]
    async fn a_range_that_is_to_go_waits_for_its_addresses_and_a_while() {
        let (written, again) = step(vec![ending("extra", &["10.1.0.0/24"], 60)], services(&["10.1.0.9"])).await;
        assert!(written.len() == 1 && again.is_none(), "{written:?}");
        let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
        for part in ["/extra/status ", r#""status":"False""#, r#""reason":"Terminating""#, message] {
            assert!(written[0].contains(part), "{part}: {written:?}");
        }
        let (written, again) = step(vec![ending("extra", &["10.1.0.0/24"], 1)], vec![address("10.1.0.9", "somebody")]).await;
        assert!(written.is_empty() && again.is_some_and(|left| left > Duration::from_secs(1) && left <= GRACE), "{again:?}");
        let gone = ending("extra", &["10.1.0.0/24"], 11);
        let taken = format!(r#"{{"metadata":{{"$deleteFromPrimitiveList/finalizers":["{FINALIZER}"],"uid":"uid-extra"}}}}"#);
        let (written, again) = step(vec![gone.clone()], vec![]).await;
        assert_eq!((written, again), (vec![format!("PATCH /apis/networking.k8s.io/v1/servicecidrs/extra {taken}")], None));
        let mut others = gone;
        others.metadata.finalizers = Some(vec!["example.com/own".to_owned()]);
        assert_eq!(step(vec![others], vec![]).await, (vec![], None));
    }

    #[tokio::test]
    async fn a_change_has_those_judged_that_it_concerns() {
        let ranges = vec![range(OWN, &["10.96.0.0/16"]), ending("going", &["10.1.0.0/24"], 0), range("far", &["10.2.0.0/24"])];
        let ranges = controller(Fake::new(|_, _: &str| refusal(500, "")).client(), ranges, vec![]);
        let queue = WorkQueue::default();
        let keys = async |queue: &WorkQueue<String>| {
            let mut keys = Vec::new();
            while !queue.is_empty() {
                let key = queue.get().await.expect("a key");
                queue.done(&key);
                keys.push(key);
            }
            keys.sort();
            keys
        };
        let wide = Arc::new(range("wide", &["10.0.0.0/15"]));
        ranges.heard(&queue, &Delta::Added(wide.clone()));
        assert_eq!(keys(&queue).await, ["going", "wide"]);
        ranges.heard(&queue, &Delta::Updated { old: wide.clone(), new: wide });
        assert_eq!(keys(&queue).await, ["wide"]);
        for (ip, by, judged) in
            [("10.1.0.9", MANAGED_BY.1, &["going"][..]), ("10.1.0.9", "somebody", &[]), ("10.96.0.9", MANAGED_BY.1, &[]), ("10.1.0.0", MANAGED_BY.1, &[])]
        {
            let object = Arc::new(address(ip, by));
            ranges.heard_address(&queue, &Delta::Added(object.clone()));
            assert_eq!(keys(&queue).await, judged, "{ip} {by}");
            ranges.heard_address(&queue, &Delta::Deleted(object.clone()));
            assert_eq!(keys(&queue).await, judged, "{ip} {by}");
            ranges.heard_address(&queue, &Delta::Updated { old: object.clone(), new: object });
            assert!(queue.is_empty());
        }
    }

    #[tokio::test]
    async fn what_fails_is_tried_again_and_what_is_gone_is_not() {
        for (code, reason, fails) in [(409, "Conflict", true), (500, "InternalError", true), (404, "NotFound", false)] {
            let fake = Fake::new(move |_, _: &str| refusal(code, reason));
            for range in [range(OWN, &["10.96.0.0/16"]), ending(OWN, &["10.96.0.0/16"], 11)] {
                let failed = controller(fake.client(), vec![range], vec![]).reconcile(&OWN.to_owned()).await.is_err();
                assert_eq!(failed, fails, "{reason}");
            }
        }
    }
}
