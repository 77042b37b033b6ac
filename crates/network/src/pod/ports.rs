//! Ports of the host that lead into pods: opened with a pod, closed with it and given to who waits for them; UDP flows to them begin anew.

use std::net::IpAddr;

use super::{HostPort, Inner, State, holders, rules};
use crate::conntrack::{self, Flow};
use crate::nft::{Batch, Element, Family};
use crate::{Result, host};

impl Inner {
    /// Opens a pod's ports, also where somebody removed the table.
    pub(super) fn add_ports(&self, state: &mut State, address: IpAddr, ports: &[HostPort]) -> Result<()> {
        if ports.is_empty() {
            return Ok(());
        }
        match self.open_ports(state, address, ports) {
            // Somebody removed the table, and the look at his news is still to come.
            Err(e) if e.errno() == Some(libc::ENOENT) => {
                self.write_rules(state)?;
                self.open_ports(state, address, ports)
            }
            other => other,
        }
    }

    /// Gives a pod those of the ports that nobody has.
    fn open_ports(&self, state: &mut State, address: IpAddr, ports: &[HostPort]) -> Result<()> {
        let had = state.holders.of(address, ports);
        let mut new = state.holders.take(address, ports);
        new.retain(|port| !had.contains(port));
        let opened = self.change_ports(state, address, &new, "open a pod's host ports", Batch::add_elements);
        if let Err(error) = opened {
            state.holders.give_back(address, &new);
            // What one family has taken must not lead to the next pod of the address. (Without a table, all is written by who called.)
            if error.errno() != Some(libc::ENOENT)
                && let Err(error) = self.write_rules(state)
            {
                tracing::warn!(%error, "the rules could not be written without ports that were refused");
            }
            return Err(error);
        }
        self.forget_flows(state, address, &new)
    }

    /// Changes a pod's ports in the tables of its families.
    fn change_ports(
        &self,
        state: &mut State,
        address: IpAddr,
        ports: &[HostPort],
        what: &str,
        how: for<'a> fn(&'a mut Batch, &str, &[Element]) -> &'a mut Batch,
    ) -> Result<()> {
        let both = state.ipam.get(address).is_some_and(|record| record.both);
        let mut changed = Ok(());
        for ip in self.addresses_of(address, both) {
            let mut batch = Batch::new(Family::of(ip), &self.mark.table());
            rules::change(&mut batch, ip, ports, how);
            // One family's that was refused does not keep the other's.
            changed = changed.and(batch.commit(&mut state.nft, what));
        }
        changed
    }

    /// UDP flows to these ports of the host begin anew: those that this pod answers, and those that the host itself did.
    fn forget_flows(&self, state: &mut State, address: IpAddr, ports: &[HostPort]) -> Result<()> {
        let udp: Vec<&HostPort> = ports.iter().filter(|p| p.protocol == "UDP").collect();
        if udp.is_empty() {
            return Ok(());
        }
        let own = host::addresses()?;
        let concerns = |flow: &Flow| udp.iter().any(|p| p.host_port == flow.called.1 && p.host_ip.is_none_or(|ip| ip == flow.called.0));
        let both = state.ipam.get(address).is_some_and(|record| record.both);
        for pod in self.addresses_of(address, both) {
            conntrack::forget_udp(&mut state.nft, Family::of(pod), |flow| {
                concerns(flow) && (flow.answers.0 == pod || own.contains(&flow.called.0) && flow.answers == flow.called)
            })?;
        }
        Ok(())
    }

    /// Takes the ports from a pod that goes, and gives each to who waits for it.
    pub(super) fn remove_ports(&self, state: &mut State, address: IpAddr, ports: &[HostPort]) -> Result<()> {
        let held: Vec<HostPort> = state.holders.of(address, ports);
        if held.is_empty() {
            return Ok(());
        }
        match self.change_ports(state, address, &held, "close a pod's host ports", Batch::delete_elements) {
            Err(e) if e.errno() != Some(libc::ENOENT) => return Err(e),
            _ => self.forget_flows(state, address, &held)?,
        }
        state.holders.give(address);
        let waiting: Vec<(IpAddr, Vec<HostPort>)> = state
            .ipam
            .records()
            .filter(|(other, _)| *other != address)
            .map(|(other, record)| (other, record.ports.iter().filter(|p| held.iter().any(|h| holders::same(h, p))).cloned().collect::<Vec<_>>()))
            .filter(|(_, ports)| !ports.is_empty())
            .collect();
        let mut opened = Ok(());
        for (other, ports) in waiting {
            opened = opened.and(self.open_ports(state, other, &ports));
        }
        // Who waits has nobody to ask for him again, and who goes is not held up by it.
        if let Err(error) = opened.or_else(|_| self.write_rules_without(state, Some(address))) {
            tracing::warn!(%address, %error, "host ports that this pod leaves are not open for the pods that wait for them");
        }
        Ok(())
    }
}
