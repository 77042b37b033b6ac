//! What was found, as a claim's status says it: the devices, the settings of class and claim that are for them, and the nodes from which
//! they can be used.

use std::hash::{BuildHasher, RandomState};

use client::Meta;
use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::api::resource::v1::{AllocationResult, DeviceAllocationConfiguration, DeviceAllocationResult, DeviceRequestAllocationResult};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::search::{Given, Request, Search};

impl<'a> Search<'a> {
    /// The result for each claim.
    pub(super) fn outcome(&self) -> Result<Vec<AllocationResult>, String> {
        (0..self.claims.len()).map(|c| self.of_claim(c)).collect()
    }

    fn of_claim(&self, c: usize) -> Result<AllocationResult, String> {
        let results: Vec<_> = self.given[c].iter().map(|given| self.result(c, given)).collect();
        let config = self.config(c);
        let selector = self.node_selector(c).map_err(|why| format!("create NodeSelector for claim {}: {why}", self.claims[c].name()))?;
        Ok(AllocationResult {
            devices: Some(DeviceAllocationResult {
                config: Some(config).filter(|config| !config.is_empty()),
                results: Some(results).filter(|results| !results.is_empty()),
            }),
            node_selector: selector,
            allocation_timestamp: None,
        })
    }

    fn result(&self, c: usize, given: &Given) -> DeviceRequestAllocationResult {
        let entry = &self.pools[given.at.0].devices[given.at.1];
        let request = &self.requests[c][given.request.0][given.request.1];
        let used = given.share.as_ref().map(|share| share.iter().map(|(name, amount)| (name.clone(), Text(amount.to_string()))).collect());
        DeviceRequestAllocationResult {
            request: request.whole_name(),
            driver: entry.id.driver.clone(),
            pool: entry.id.pool.clone(),
            device: entry.id.device.clone(),
            admin_access: given.admin.then_some(true),
            tolerations: Some(request.tolerations.to_vec()).filter(|all| !all.is_empty()),
            share_id: given.share.is_some().then(share_id),
            consumed_capacity: used.filter(|used: &std::collections::BTreeMap<_, _>| !used.is_empty()),
            binding_conditions: entry.device.binding_conditions.clone(),
            binding_failure_conditions: entry.device.binding_failure_conditions.clone(),
            skip_node_operations: None,
        }
    }

    /// The request that counts: of one with alternatives that which was chosen.
    fn chosen(&self, c: usize, r: usize) -> &Request<'a> {
        &self.requests[c][r][self.chosen[c][r]]
    }

    /// The settings: first each class's, then the claim's that are for a request that counts. What is for all requests names none.
    fn config(&self, c: usize) -> Vec<DeviceAllocationConfiguration> {
        let mut config: Vec<DeviceAllocationConfiguration> = Vec::new();
        let mut classes: Vec<(&str, std::ops::Range<usize>)> = Vec::new();
        let chosen: Vec<&Request<'_>> = (0..self.requests[c].len()).map(|r| self.chosen(c, r)).collect();
        for request in &chosen {
            let (class, name) = (request.class.name(), request.whole_name());
            if let Some((_, range)) = classes.iter().find(|(known, _)| *known == class) {
                config[range.clone()].iter_mut().for_each(|one| one.requests.get_or_insert_default().push(name.clone()));
                continue;
            }
            let start = config.len();
            let own = request.class.spec.iter().flat_map(|s| s.config.iter().flatten()).map(|one| DeviceAllocationConfiguration {
                source: "FromClass".to_owned(),
                requests: Some(vec![name.clone()]),
                opaque: one.opaque.clone(),
            });
            config.extend(own);
            classes.push((class, start..config.len()));
        }
        // Each counting request by its name and, of an alternative, that of its request.
        let named: Vec<(String, String)> = chosen.iter().map(|request| (request.whole_name(), base(&request.whole_name()).to_owned())).collect();
        let about = |requests: &[String], (whole, parent): &(String, String)| requests.iter().any(|name| name == whole || name == parent);
        for one in client::devices::asked(&self.claims[c]).into_iter().flat_map(|d| d.config.iter().flatten()) {
            let requests = one.requests.as_deref().unwrap_or_default();
            if requests.is_empty() || named.iter().any(|name| about(requests, name)) {
                let source = "FromClaim".to_owned();
                config.push(DeviceAllocationConfiguration { source, requests: one.requests.clone(), opaque: one.opaque.clone() });
            }
        }
        for one in &mut config {
            let requests = one.requests.as_deref().unwrap_or_default();
            if named.iter().all(|name| about(requests, name)) {
                one.requests = None;
            }
        }
        config
    }

    /// Where the devices of a claim can be used; none: everywhere.
    fn node_selector(&self, c: usize) -> Result<Option<NodeSelector>, String> {
        let (mut fields, mut labels) = (Vec::new(), Vec::new());
        for given in &self.given[c] {
            let entry = &self.pools[given.at.0].devices[given.at.1];
            let spec = &entry.slice.spec;
            let (name, selector) = match spec.per_device_node_selection {
                Some(true) => (&entry.device.node_name, &entry.device.node_selector),
                _ => (&spec.node_name, &spec.node_selector),
            };
            if name.is_some() || entry.device.binds_to_node == Some(true) {
                let here =
                    NodeSelectorRequirement { key: "metadata.name".to_owned(), operator: "In".to_owned(), values: Some(vec![self.node.name().to_owned()]) };
                return Ok(Some(selector_of(vec![here], Vec::new())));
            }
            match selector.as_ref().map(|selector| selector.node_selector_terms.as_slice()).unwrap_or_default() {
                [] => {}
                [term] => {
                    add(term.match_fields.as_deref(), &mut fields);
                    add(term.match_expressions.as_deref(), &mut labels);
                }
                terms => return Err(format!("unsupported ResourceSlice.NodeSelector with {} terms", terms.len())),
            }
        }
        Ok((!fields.is_empty() || !labels.is_empty()).then(|| selector_of(fields, labels)))
    }
}

/// The request of which something is an alternative; else itself.
pub(super) fn base(name: &str) -> &str {
    name.split('/').next().unwrap_or_default()
}

fn selector_of(fields: Vec<NodeSelectorRequirement>, labels: Vec<NodeSelectorRequirement>) -> NodeSelector {
    let some = |all: Vec<NodeSelectorRequirement>| Some(all).filter(|all| !all.is_empty());
    NodeSelector { node_selector_terms: vec![NodeSelectorTerm { match_expressions: some(labels), match_fields: some(fields) }] }
}

/// Adds what is not there yet.
fn add(from: Option<&[NodeSelectorRequirement]>, to: &mut Vec<NodeSelectorRequirement>) {
    let values = |one: &NodeSelectorRequirement| one.values.iter().flatten().cloned().collect::<std::collections::BTreeSet<_>>();
    for one in from.unwrap_or_default() {
        if !to.iter().any(|known| known.key == one.key && known.operator == one.operator && values(known) == values(one)) {
            to.push(one.clone());
        }
    }
}

/// A name for a share of a device: a random UUID.
fn share_id() -> String {
    // Every state of hashing is seeded anew; these names need to differ, not to be secret.
    let high = RandomState::new().hash_one(client::timestamp().as_nanosecond());
    let low = RandomState::new().hash_one(high);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&high.to_be_bytes());
    bytes[8..].copy_from_slice(&low.to_be_bytes());
    machinery::names::uuid(bytes)
}
