//! `knarr up`: a cluster on this machine, and manifests on it.
//!
//! What can be refused is refused before anything is made. Once the cluster is there, nothing that is only beside it (a
//! kubeconfig that cannot be written, a roll-out that does not finish) takes it down: it is told, the cluster stays, and the
//! exit code is 1.
//!
//! A signal is obeyed at any time. What a start has begun is ended in order, so one that comes in the midst of it waits until there is
//! something that can be ended, which is a matter of milliseconds; a second one does not wait.

use crate::{
    cli::{Component, Up},
    cluster::{
        Cluster, Plan, Ranges,
        nodes::{self, Wish},
    },
    detach, farewell, image, kubeconfig,
    log::log,
    machines,
    manifest::{self, Object},
    node_flags::NodeFlags,
    part, preflight,
    progress::Steps,
    rollout,
    serve::{self, Running, Setup},
    signals::{End, Signals},
};
use anyhow::{Context as _, anyhow};
use identity::Trust;
use std::{net::Ipv4Addr, time::Duration};

/// Runs until a signal.
pub async fn run(up: Up) -> anyhow::Result<()> {
    let steps = Steps::new();
    let detached = detach::is_child();
    log();
    if up.disable.contains(&Component::Kubelet) {
        preflight::root()?
    } else {
        preflight::node()?
    }
    if !up.node_port_addresses.is_empty() && up.disable.contains(&Component::Proxy) {
        return Err(anyhow!("--node-port-addresses is the proxy's, which is disabled: give it to `knarr proxy`"));
    }
    if up.node != NodeFlags::default() && up.disable.contains(&Component::Kubelet) {
        return Err(anyhow!("flags of the node are the kubelet's, which is disabled: give them to `knarr kubelet`"));
    }
    if up.nodes.is_some_and(|nodes| nodes > nodes::FIRST) && up.disable.contains(&Component::Kubelet) {
        return Err(anyhow!("further nodes of this machine are reached by the first one, which is disabled (--disable kubelet)"));
    }
    serve::admission(&up)?;
    up.front_proxy.apply(&mut Trust::default())?;
    machines::authorities(&up)?;
    part::scheduler_config(up.scheduler_config.as_deref())?;
    let settings = up.node.settings()?;
    let objects = up.manifests.iter().map(|m| manifest::read(m)).collect::<Result<Vec<_>, _>>()?.concat();
    let file = kubeconfig::path(up.which.kubeconfig.as_deref())?;
    let cluster = Cluster::find(&up.which.name, up.which.data_dir.as_deref())?;
    cluster.exists()?;
    if cluster.is_agent() {
        return Err(anyhow!("{} is the place of a node of another cluster (`knarr agent`): choose another --name, or --data-dir", cluster.data.display()));
    }
    let known = cluster.contexts();
    kubeconfig::check(&file, &cluster.name, &known)?;
    // Before there is anything that must not be left alone.
    let mut signals = Signals::listen()?;
    let entered = cluster.enter().await?;
    let ranges = Ranges {
        port: up.port,
        node_prefixes: up.machines.node_prefixes(),
        advertise: up.machines.advertise_address.clone(),
        pod_network: up.machines.pod_network,
        ..Ranges::of(&up.cluster_cidr, &up.service_cidr)?
    };
    let mut plan = tokio::task::spawn_blocking({
        let (cluster, nodes, alone) = (cluster.clone(), up.nodes, up.disable.contains(&Component::Kubelet));
        move || choose(&cluster, &ranges, nodes, alone)
    })
    .await??;
    plan.contexts = known;
    let mtu = machines::mtu(&plan)?;
    let _lock = entered.stay();

    let setup = Setup { cluster: &cluster, plan: &plan, up: &up, node_name: plan.node.clone(), mtu, settings, kubeconfig: &file };
    let Some((mut running, told)) = start(&setup, &steps, &mut signals).await? else { return Ok(()) };
    let mut unfinished = false;
    let end = match told {
        Some(told) => Ok(told),
        None => tokio::select! {
            told = signals.ended() => Ok(told),
            error = ready(&setup, &mut running, &objects, &steps, detached, &mut unfinished) => Err(error),
        },
    };
    let how = *end.as_ref().unwrap_or(&End::Terminate);
    tokio::select! {
        () = running.end(how, &steps) => {}
        // Who asks again does not want to wait.
        _ = signals.ended() => {}
    }
    match end {
        Ok(_) if unfinished => Err(anyhow!("not everything that was asked for is there")),
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Starts the cluster, and what it was told meanwhile; none: it was told twice.
async fn start(setup: &Setup<'_>, steps: &Steps, signals: &mut Signals) -> anyhow::Result<Option<(Running, Option<End>)>> {
    let start = serve::start(setup, steps);
    tokio::pin!(start);
    let told = tokio::select! {
        running = &mut start => return Ok(Some((running?, None))),
        told = signals.ended() => told,
    };
    tokio::select! {
        running = start => Ok(Some((running?, Some(told)))),
        _ = signals.ended() => Ok(None),
    }
}

/// The cluster's addresses, kept before anybody else looks for some. `alone`: without the first node.
fn choose(cluster: &Cluster, ranges: &Ranges, nodes: Option<u32>, alone: bool) -> anyhow::Result<Plan> {
    let _alone = Plan::alone()?;
    if alone {
        let further: Vec<String> = cluster.wishes()?.into_iter().map(|wish| wish.name).collect();
        if !further.is_empty() {
            return Err(anyhow!(
                "the cluster has further nodes on this machine ({}), which are reached by the first one, which is disabled (--disable kubelet): \
                start it without that, remove them by `knarr node rm`, and start it again",
                further.join(", ")
            ));
        }
    }
    let plan = cluster.plan(ranges)?;
    machines::check(&plan)?;
    machines::mtu(&plan)?;
    have_places(&plan, &cluster.wishes()?)?;
    // When it is served a network stands already, and this start's port and nodes would be kept for the next.
    drop(preflight::free(Ipv4Addr::LOCALHOST.into(), plan.port)?);
    if let Some(nodes) = nodes {
        let at_least = |wishes: &mut Vec<Wish>| nodes::at_least(wishes, nodes, &plan.node, |number| plan.parts(number).is_ok());
        if cluster.has_control_plane() {
            // Nodes of other machines may have names and ranges of the same: that is known when the API is there. What cannot be is told now.
            at_least(&mut cluster.wishes()?)?;
        } else {
            cluster.change_wishes(at_least)?;
        }
    }
    cluster.keep(&plan)?;
    Ok(plan)
}

/// Refuses ranges in which a node that is there has no place.
fn have_places(plan: &Plan, wishes: &[Wish]) -> anyhow::Result<()> {
    wishes.iter().filter(|wish| !wish.leaving).try_for_each(|wish| {
        let parts = plan.parts(wish.number).map(drop);
        parts.with_context(|| format!("the node {} has no place in these ranges", wish.name))
    })
}

/// Does what is left to do when the cluster is there, and then waits for a failure.
async fn ready(setup: &Setup<'_>, running: &mut Running, objects: &[Object], steps: &Steps, detached: bool, unfinished: &mut bool) -> anyhow::Error {
    let outcome = async {
        if let Some(nodes) = setup.up.nodes
            && let Err(error) = crate::nodes::at_least(setup.cluster, setup.plan, &running.admin, nodes).await
        {
            *unfinished = true;
            steps.say(&format!("\nknarr: {error:#}\n\nThe cluster runs on with the nodes that it has."));
        }
        running.ready(setup, steps).await?;
        if let Some(runtime) = &running.runtime {
            image::demo(runtime, steps).await?;
        }
        running.write_contexts(setup.kubeconfig, steps);
        let applied = rollout::apply(&running.admin, objects, steps, Duration::from_secs(setup.up.timeout)).await;
        if let Err(error) = &applied {
            *unfinished = true;
            steps.say(&format!("\nknarr: {error:#}\n\nThe cluster runs on."));
        }
        steps.say(&farewell::text(setup.plan, objects, &farewell::services(&running.admin, objects).await, detached));
        if detached { detach::started(&setup.cluster.data.join("knarr.log"), !*unfinished) } else { Ok(()) }
    };
    match outcome.await {
        Ok(()) => running.failed().await,
        Err(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_a_place_is_told_before_anything_changes() {
        let plan = |second: &str| -> Plan {
            let plan = format!(
                r#"{{"name": "m", "data": "/", "pods": "10.244.0.0", "services": "10.96.0.0", "port": 6443, "second": ["{second}", "fd00:96::/112"]}}"#
            );
            serde_json::from_str(&plan).unwrap()
        };
        let wish = |number: u32, leaving: bool| Wish { number, name: format!("host-{number}"), labels: Default::default(), leaving };
        let wishes = [wish(2, false), wish(17, false)];
        have_places(&plan("fd00:244::/56"), &wishes).unwrap();
        // Sixteen nodes have a /64 each in the second family's range.
        let why = format!("{:#}", have_places(&plan("fd00:244::/60"), &wishes).unwrap_err());
        assert!(why.contains("the node host-17 has no place in these ranges: the range fd00:244::/60 has no part for node 17: a node has a /64"), "{why}");
        have_places(&plan("fd00:244::/60"), &[wish(2, false), wish(17, true)]).unwrap();
    }
}
