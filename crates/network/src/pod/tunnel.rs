//! What the pod network's table does with the datagrams in which packets of pods travel between machines ([`crate::mesh`], VXLAN).
//!
//! - Connection tracking has no part in them: they have no answers (each way chooses its source port by what it carries), and each would be
//!   looked up twice on its way.
//! - The kernel's device believes whoever sends it one, and takes what is in it for a packet of the pod that it says. So the cluster's pods
//!   send none to its machines, be it by a Service that leads there; who is on the machines' own network, or has the host's, is trusted as much
//!   as they are. It listens at all addresses of the machine, of which the others know but one: at the rest nothing of this cluster's is taken.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Inner, State};
use crate::Result;
use crate::cidr::Net;
use crate::mesh::{self, VXLAN_PORT};
use crate::netlink::Socket;
use crate::nft::{self, At, Base, Batch, Cmp, DataKind, Element, Expr, Family, Fib, Hook, Set, Verdict, key, octets, reg, step};

/// Before connection tracking: its own priority is -200.
pub(super) const UNTRACKED: i32 = -300;
/// The nodes' machines.
const MACHINES: &str = "machines";
const CHAIN: &str = "tunnel";
const OUTPUT: &str = "tunnel-output";
const INPUT: &str = "tunnel-input";
/// Where the number of a VXLAN is in a datagram, after UDP's header and the flags.
const NUMBER_AT: u32 = 12;

/// The way to other machines by VXLAN, as far as it is of the table's family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tunnel<'a> {
    /// This machine's address, by which it goes.
    pub(super) own: IpAddr,
    /// The number of the cluster's VXLAN.
    pub(super) number: u32,
    /// Those of all nodes' machines, as far as they are known.
    pub(super) machines: &'a BTreeSet<IpAddr>,
}

/// The machines that a former start knew: pods that run on send them nothing before the Nodes are known again.
pub(super) fn former(socket: &mut Socket, own: Option<IpAddr>, table: &str) -> BTreeSet<IpAddr> {
    let Some(family) = own.map(Family::of) else { return BTreeSet::new() };
    let address = |key: &Vec<u8>| match family {
        Family::V4 => <[u8; 4]>::try_from(key.as_slice()).ok().map(IpAddr::from),
        Family::V6 => <[u8; 16]>::try_from(key.as_slice()).ok().map(IpAddr::from),
    };
    // The first start finds no table.
    nft::keys(socket, family, table, MACHINES).unwrap_or_default().iter().filter_map(address).collect()
}

impl Tunnel<'_> {
    /// Writes its rules. `guard` is the table's chain for what has just come in, `leaving` the one that translates the sources of what leaves.
    pub(super) fn write(self, batch: &mut Batch, (guard, leaving): (&str, &str), pods: Net) {
        let family = pods.family();
        batch.add_set(&Set { name: MACHINES, key: key::ip(family), data: DataKind::None, timeout_s: None, size: None });
        batch.add_chain(CHAIN, None);
        batch.add_chain(OUTPUT, Some(Hook { kind: "filter", at: At::Output, priority: UNTRACKED }));
        let datagrams = |then: &[Expr]| [&step::datagrams_to(VXLAN_PORT)[..], then].concat();
        batch.add_rule(guard, &datagrams(&[step::jump(CHAIN)]));
        let to_machines = [step::destination(family, 0), Expr::In { set: MACHINES.into(), from: reg(0), not: false }];
        let none_of_pods = |to: &[Expr]| [&step::source_in(pods, Cmp::Eq)[..], to, &[Expr::Verdict(Verdict::Drop)]].concat();
        batch.add_rule(CHAIN, &none_of_pods(&step::is_local(Fib::Destination))).add_rule(CHAIN, &none_of_pods(&to_machines));
        // Nor what is led there by a translation. Chains of this kind are entered by the first packet of a connection alone, which none then is.
        batch.add_chain(INPUT, Some(Hook { kind: "nat", at: At::Input, priority: 100 }));
        batch.add_rule(INPUT, &datagrams(&none_of_pods(&[])));
        batch.add_rule(leaving, &datagrams(&none_of_pods(&to_machines)));
        // Nor at an address of this machine that no other machine sends to.
        let [_, number @ ..] = self.number.to_be_bytes();
        let has_number = Expr::Payload { to: reg(0), base: Base::Transport, offset: NUMBER_AT, length: 3 };
        let is_ours = [has_number, Expr::Cmp { from: reg(0), op: Cmp::Eq, value: number.to_vec() }];
        let elsewhere = [step::destination(family, 0), Expr::Cmp { from: reg(0), op: Cmp::Ne, value: octets(self.own) }];
        let none_elsewhere = |local: &[Expr]| [&elsewhere[..], local, &is_ours[..], &[Expr::Verdict(Verdict::Drop)]].concat();
        batch.add_rule(CHAIN, &[&step::destination_is(self.own)[..], &[Expr::Notrack]].concat());
        batch.add_rule(CHAIN, &none_elsewhere(&step::is_local(Fib::Destination)));
        batch.add_rule(INPUT, &datagrams(&none_elsewhere(&[])));
        batch.add_rule(OUTPUT, &[&step::source_is(self.own)[..], &datagrams(&[Expr::Notrack])[..]].concat());
        batch.add_elements(MACHINES, &self.elements(family));
    }

    /// The machines anew, in a table that has the rules.
    pub(super) fn change(self, family: Family, table: &str) -> Batch {
        let mut batch = Batch::new(family, table);
        batch.flush_set(MACHINES).add_elements(MACHINES, &self.elements(family));
        batch
    }

    fn elements(self, family: Family) -> Vec<Element> {
        self.machines.iter().filter(|ip| Family::of(**ip) == family).map(|ip| (octets(*ip), None)).collect()
    }
}

impl Inner {
    /// The way to other machines, as far as a family's table has to do with it.
    pub(super) fn tunnel<'a>(&self, family: Family, machines: &'a BTreeSet<IpAddr>) -> Option<Tunnel<'a>> {
        let own = self.config.tunnel.filter(|own| Family::of(*own) == family && self.has(family))?;
        let cluster: Vec<Net> = self.config.parts.iter().map(|part| part.cluster_cidr).collect();
        Some(Tunnel { own, number: mesh::vni(&cluster), machines })
    }

    /// These are the addresses of the nodes' machines.
    pub(super) fn know(&self, state: &mut State, machines: BTreeSet<IpAddr>) -> Result<()> {
        if state.machines == machines {
            return Ok(());
        }
        let before = std::mem::replace(&mut state.machines, machines);
        let table = self.mark.table();
        let changes = Family::ALL.into_iter().filter_map(|family| Some(self.tunnel(family, &state.machines)?.change(family, &table)));
        let changed = changes.collect::<Vec<_>>().into_iter().try_for_each(|batch| batch.commit(&mut state.nft, "write the nodes' machines"));
        // Somebody may have taken the table away.
        changed.or_else(|_| self.write_rules(state)).inspect_err(|_| state.machines = before)
    }
}
