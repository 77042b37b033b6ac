//! A node that has a pod's images is better, the larger they are; scaled by how many nodes have them, so that one node
//! does not draw everything.

use std::collections::HashMap;

use crate::framework::{Change, Cycle, Plugin, SCORE_MAX, Score};
use crate::node::NodeInfo;
use crate::pod::PodInfo;

/// Smaller images are fetched so fast that they do not count (upstream's 23 MB).
const SMALL: i64 = 23 * 1024 * 1024;
/// The size an image, from which it counts fully (upstream's 1000 MB).
const LARGE: i64 = 1000 * 1024 * 1024;

pub struct ImageLocality;

struct Present {
    /// The pod's images, each with the share of nodes that have it.
    images: Vec<(String, f64)>,
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn prepare_score<'a>(&self, cycle: &Cycle<'a>, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        let spec = cycle.pod.spec();
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers).filter_map(|c| c.image.as_deref());
        let volumes = spec.volumes.iter().flatten().filter_map(|v| v.image.as_ref()?.reference.as_deref());
        let names: Vec<String> = containers.chain(volumes).map(normalized).collect();
        let nodes = cycle.snapshot.nodes;
        let mut shares: HashMap<String, f64> = HashMap::new();
        for name in &names {
            shares.entry(name.clone()).or_insert_with(|| {
                let having = nodes.iter().filter(|n| n.images.contains_key(name)).count();
                having as f64 / nodes.len().max(1) as f64
            });
        }
        let images = names
            .into_iter()
            .map(|name| {
                let share = shares[&name];
                (name, share)
            })
            .collect();
        Some(Box::new(Present { images }))
    }

    fn wakes(&self, _: &Change<'_>, _: &PodInfo) -> bool {
        false
    }
}

/// With its tag, as nodes report it.
fn normalized(name: &str) -> String {
    let tagged = name.rfind(':').is_some_and(|colon| name.rfind('/').is_none_or(|slash| colon > slash));
    if tagged { name.to_owned() } else { format!("{name}:latest") }
}

impl Score for Present {
    fn score(&self, node: &NodeInfo) -> i64 {
        let sizes = self.images.iter().filter_map(|(name, share)| node.images.get(name).map(|size| (*size as f64 * share) as i64));
        let most = LARGE * self.images.len().max(1) as i64;
        SCORE_MAX * (sizes.sum::<i64>().clamp(SMALL, most) - SMALL) / (most - SMALL)
    }
}
