//! This machine's own link, where pods of other machines are reached by plain routes ([`crate::mesh::Kind::Routes`]).
//!
//! What the host calls at its loopback (a node port at `127.0.0.1`) may leave by a link, and its answer come back by it, if the link has
//! `route_localnet` (kube-proxy gives it to all links of a host, with iptables). With it the kernel takes what others on the link send to
//! the loopback, too, and as if they were there. So the rules that drop that come first and go last. Which link was told stands in the
//! bridge's alias: one that was so before stays so.

use std::fs;
use std::path::Path;

use super::{Inner, LOOPBACK_INDEX, State, bridge};
use crate::link::{self, Link};
use crate::mark::{ALIAS, Mark};
use crate::netlink::Socket;
use crate::nft::Family;
use crate::{Result, mesh, sysctl};

/// The link that leads to other machines' pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lan {
    /// Its number. Its name may be another link's a moment later, of which the rules know nothing.
    pub(super) index: u32,
    /// The rules that are there keep others on it off the loopback.
    pub(super) is_guarded: bool,
}

impl Lan {
    /// Whether what is called at the loopback may leave by it.
    pub(super) fn is_open(&self, links: &[Link]) -> bool {
        let parameter = links.iter().find(|link| link.index == self.index).map(|link| parameter(&link.name));
        parameter.is_some_and(|name| fs::read_to_string(format!("/proc/sys/net/{name}")).is_ok_and(|v| v.trim() == "1"))
    }

    /// Lets it leave, once the rules are there.
    pub(super) fn open(&self, route: &mut Socket) -> Result<()> {
        if self.is_guarded { set(&link::list(route)?, self.index, "1") } else { Ok(()) }
    }

    /// The rules are not there and cannot be written: it is closed if this network has opened it (`told`), and opened when they are.
    pub(super) fn leave_unguarded(&mut self, route: &mut Socket, told: Option<u32>) -> Result<()> {
        self.is_guarded = false;
        if told == Some(self.index) { close(&link::list(route)?, self.index) } else { Ok(()) }
    }
}

fn parameter(link: &str) -> String {
    format!("ipv4/conf/{link}/route_localnet")
}

/// Takes it back from the link of this number, if it is there.
pub(super) fn close(links: &[Link], index: u32) -> Result<()> {
    set(links, index, "0")
}

/// One that went since needs nothing.
fn set(links: &[Link], index: u32, value: &str) -> Result<()> {
    let Some(Link { name, .. }) = links.iter().find(|link| link.index == index) else { return Ok(()) };
    match sysctl::set(&parameter(name), value) {
        Err(_) if !Path::new("/proc/sys/net/ipv4/conf").join(name).exists() => Ok(()),
        other => other,
    }
}

/// Takes back what a network of this mark has told a link, unless another's has, too. To be done as long as its rules are there.
pub(super) fn take_back(route: &mut Socket, mark: &Mark) -> Result<()> {
    let links = link::list(route)?;
    let (own, others): (Vec<&Link>, Vec<&Link>) =
        links.iter().filter(|link| link.alias.starts_with(ALIAS)).partition(|link| link.alias.starts_with(&mark.alias()));
    let told = |links: Vec<&Link>| links.into_iter().filter_map(bridge::told).filter_map(|told| told.localnet).collect::<Vec<_>>();
    let others = told(others);
    told(own).into_iter().filter(|index| !others.contains(index)).try_for_each(|index| close(&links, index))
}

impl Inner {
    /// Looks which link has this machine's address among the others. An address that is away for a moment changes nothing. The loopback's own
    /// link leads to nobody, and is not to be kept from itself.
    pub(super) fn find_lan(&self, state: &mut State) {
        let Some(own) = self.config.lan.filter(|_| self.has(Family::V4)) else { return };
        let Ok(Link { index, .. }) = mesh::link_of(&mut state.route, own.into()) else { return };
        if index != LOOPBACK_INDEX && state.lan.as_ref().is_none_or(|lan| lan.index != index) {
            state.lan = Some(Lan { index, is_guarded: false });
        }
    }
}
