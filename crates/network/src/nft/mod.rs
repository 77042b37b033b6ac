//! The kernel's packet filter, nf_tables, as it is spoken to over netlink.
//!
//! A [`Batch`] collects changes to one table and gives them to the kernel as one transaction: packets see the state before
//! or the state after, nothing between, and a refusal leaves all as it was. What a rule does is written with [`Expr`]; values
//! are compared in the registers' own form, see [`key`].

mod expr;
mod family;
pub mod key;
mod look;
mod numbers;

pub use expr::{Base, Cmp, Expr, Fib, Rule, Verdict, reg, step};
pub use family::{Family, octets};
pub use look::{BaseChain, Commented, Foreign, base_chains, chains, commented_rules, delete_table, keys, rules, sets, tables};

use std::net::IpAddr;

use crate::netlink::{ACK, APPEND, BATCH_BEGIN, CREATE, Messages, Nest, Socket};
use crate::{Error, Result};
use numbers::*;

/// A nested attribute is at most 65,535 bytes; an element is far below the rest.
const NEST_BYTES: usize = 60_000;
const VERDICT_TYPE: u32 = 0xffff_ff00;

const SET_MAP: u32 = 8;
const SET_TIMEOUT: u32 = 0x10;
const SET_EVAL: u32 = 0x20;

/// IPv4 and IPv6 in one table, as many firewalls have it.
pub const INET: u8 = libc::NFPROTO_INET as u8;

/// Where a chain is entered by the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// The place on a packet's way.
    pub at: At,
    /// Lower is earlier.
    pub priority: i32,
}

/// A place on a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum At {
    /// Come in, not yet routed.
    Prerouting = 0,
    /// For this host.
    Input = 1,
    /// Through this host.
    Forward = 2,
    /// From this host.
    Output = 3,
    /// About to leave.
    Postrouting = 4,
}

/// What a map holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Data {
    /// What happens to the packet.
    Verdict(Verdict),
    /// Bytes for a register.
    Value(Vec<u8>),
}

/// What kind of data a map holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataKind {
    /// It is a set.
    None,
    /// Verdicts.
    Verdict,
    /// Values of a type.
    Value(key::Type),
}

/// A named set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set<'a> {
    /// Its name.
    pub name: &'a str,
    /// What its keys are.
    pub key: key::Type,
    /// What it maps to.
    pub data: DataKind,
    /// Elements are added by rules and vanish this many seconds after the last refresh.
    pub timeout_s: Option<u32>,
    /// No more elements than these will be in it: the kernel chooses a quicker form.
    pub size: Option<u32>,
}

/// A key with its data.
pub type Element = (Vec<u8>, Option<Data>);

/// Changes to one table, made at once.
#[derive(Debug)]
pub struct Batch {
    m: Messages,
    family: u8,
    table: String,
    sets: u32,
    rules: usize,
    changes: usize,
}

pub(crate) fn header(family: u8, resource: u16) -> [u8; 4] {
    let [a, b] = resource.to_be_bytes();
    [family, 0, a, b]
}

impl Batch {
    /// No changes yet.
    pub fn new(family: Family, table: &str) -> Self {
        Self::of_family(family.number(), table)
    }

    /// The same for a table of any kernel's family, such as one of both.
    pub fn of_family(family: u8, table: &str) -> Self {
        let mut m = Messages::new();
        m.begin(BATCH_BEGIN, 0, &header(0, SUBSYSTEM >> 8));
        Self { m, family, table: table.to_owned(), sets: 0, rules: 0, changes: 0 }
    }

    /// How many rules it adds.
    pub fn rules(&self) -> usize {
        self.rules
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes == 0
    }

    fn begin(&mut self, kind: u16, flags: u16) -> &mut Messages {
        self.changes += 1;
        self.m.begin(kind, flags, &header(self.family, 0)).text(TABLE, &self.table)
    }

    /// Makes the table if it is not there.
    pub fn add_table(&mut self) -> &mut Self {
        self.begin(NEWTABLE, CREATE);
        self
    }

    /// Removes the table with all that is in it.
    pub fn delete_table(&mut self) -> &mut Self {
        self.begin(DELTABLE, 0);
        self
    }

    /// Begins with an empty table, whatever was there.
    pub fn fresh_table(&mut self) -> &mut Self {
        self.add_table().delete_table().add_table()
    }

    /// Makes a chain if it is not there.
    pub fn add_chain(&mut self, name: &str, hook: Option<Hook>) -> &mut Self {
        let m = self.begin(NEWCHAIN, CREATE).text(CHAIN_NAME, name);
        if let Some(hook) = hook {
            let nest = m.nest(CHAIN_HOOK);
            m.be32(HOOK_NUMBER, hook.at as u32).be32(HOOK_PRIORITY, hook.priority as u32);
            m.end(nest).text(CHAIN_TYPE, hook.kind);
        }
        self
    }

    /// What becomes of packets that no rule of a chain with a hook decides about.
    pub fn set_policy(&mut self, chain: &str, drop: bool) -> &mut Self {
        self.begin(NEWCHAIN, CREATE).text(CHAIN_NAME, chain).be32(CHAIN_POLICY, u32::from(!drop));
        self
    }

    /// Removes all rules of a chain.
    pub fn flush_chain(&mut self, name: &str) -> &mut Self {
        self.begin(DELRULE, 0).text(RULE_CHAIN, name);
        self
    }

    /// Removes the rules of all chains.
    pub fn flush_table(&mut self) -> &mut Self {
        self.begin(DELRULE, 0);
        self
    }

    /// Removes all elements of a set.
    pub fn flush_set(&mut self, set: &str) -> &mut Self {
        self.begin(DELSETELEM, 0).text(ELEMENTS_SET, set);
        self
    }

    /// Removes a chain that nothing leads to.
    pub fn delete_chain(&mut self, name: &str) -> &mut Self {
        self.begin(DELCHAIN, 0).text(CHAIN_NAME, name);
        self
    }

    /// Puts a rule before all others of a chain, with a comment by which it is found again.
    pub fn insert_rule(&mut self, chain: &str, rule: &Rule, comment: &str) -> &mut Self {
        self.rule(chain, rule, CREATE);
        let mut note = vec![COMMENT, u8::try_from(comment.len() + 1).unwrap_or(u8::MAX)];
        note.extend_from_slice(comment.as_bytes());
        note.push(0);
        self.m.attr(RULE_USERDATA, &note);
        self
    }

    /// Removes one rule.
    pub fn delete_rule(&mut self, chain: &str, handle: u64) -> &mut Self {
        self.begin(DELRULE, 0).text(RULE_CHAIN, chain).be64(RULE_HANDLE, handle);
        self
    }

    /// Appends a rule to a chain.
    pub fn add_rule(&mut self, chain: &str, rule: &Rule) -> &mut Self {
        self.rule(chain, rule, CREATE | APPEND);
        self
    }

    fn rule(&mut self, chain: &str, rule: &Rule, flags: u16) {
        self.rules += 1;
        let m = self.begin(NEWRULE, flags).text(RULE_CHAIN, chain);
        let nest = m.nest(RULE_EXPRESSIONS);
        for expr in rule {
            expr.write(m);
        }
        m.end(nest);
    }

    /// Makes a named set or map if it is not there.
    pub fn add_set(&mut self, set: &Set) -> &mut Self {
        self.sets += 1;
        let id = self.sets;
        // The bound only guards the kernel's memory against many clients: beyond it new ones are not remembered.
        const MAX_TIMED: u32 = 65_535;
        let (flags, size) = if set.timeout_s.is_some() { (SET_TIMEOUT | SET_EVAL, Some(MAX_TIMED)) } else { (0, set.size) };
        let flags = flags | if set.data == DataKind::None { 0 } else { SET_MAP };
        let m = self.begin(NEWSET, CREATE).text(SET_NAME, set.name).be32(3, flags);
        m.be32(4, set.key.id).be32(5, set.key.length).be32(10, id);
        match set.data {
            DataKind::None => {}
            DataKind::Verdict => {
                m.be32(6, VERDICT_TYPE).be32(7, 16);
            }
            DataKind::Value(t) => {
                m.be32(6, t.id).be32(7, t.length);
            }
        }
        if let Some(size) = size {
            let nest = m.nest(9);
            m.be32(1, size);
            m.end(nest);
        }
        if let Some(seconds) = set.timeout_s {
            m.be64(11, u64::from(seconds) * 1000);
        }
        self
    }

    /// Removes a set that no rule uses.
    pub fn delete_set(&mut self, name: &str) -> &mut Self {
        self.begin(DELSET, 0).text(SET_NAME, name);
        self
    }

    /// Adds elements; one that is there with other data is refused.
    pub fn add_elements(&mut self, set: &str, elements: &[Element]) -> &mut Self {
        self.elements(NEWSETELEM, set, elements);
        self
    }

    /// Removes elements; one that is not there is refused.
    pub fn delete_elements(&mut self, set: &str, elements: &[Element]) -> &mut Self {
        self.elements(DELSETELEM, set, elements);
        self
    }

    fn elements(&mut self, kind: u16, set: &str, elements: &[Element]) {
        let mut rest = elements.iter().peekable();
        while rest.peek().is_some() {
            let m = self.begin(kind, if kind == NEWSETELEM { CREATE } else { 0 }).text(ELEMENTS_SET, set);
            let list = m.nest(ELEMENTS_LIST);
            while m.nested_bytes(&list) < NEST_BYTES {
                let Some((key, data)) = rest.next() else { break };
                let element = m.nest(LIST_ELEM);
                value(m, ELEMENT_KEY, key);
                // A deletion by key alone is enough, and the kernel compares no data there.
                if let Some(data) = data.as_ref().filter(|_| kind == NEWSETELEM) {
                    write_data(m, ELEMENT_DATA, data);
                }
                m.end(element);
            }
            m.end(list);
        }
    }

    /// Gives the changes to the kernel, all or none.
    pub fn commit(mut self, socket: &mut Socket, what: &str) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        // The acknowledgement of the last change stands for all: the kernel sends it after the whole batch.
        self.m.flag(ACK);
        self.m.begin(BATCH_END, 0, &header(0, SUBSYSTEM >> 8));
        match socket.call(what, &self.m) {
            Err(e) if matches!(e.errno(), Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT)) => {
                Err(Error::Config(format!("{what}: this kernel has no nf_tables, or a part of it is missing ({e})")))
            }
            other => other.map(drop),
        }
    }
}

/// A nested attribute with bytes for a register.
fn value(m: &mut Messages, kind: u16, bytes: &[u8]) {
    let nest = m.nest(kind);
    m.attr(DATA_VALUE, bytes);
    m.end(nest);
}

fn write_data(m: &mut Messages, kind: u16, data: &Data) {
    match data {
        Data::Value(bytes) => value(m, kind, bytes),
        Data::Verdict(verdict) => {
            let nest: Nest = m.nest(kind);
            let inner = m.nest(DATA_VERDICT);
            m.be32(VERDICT_CODE, verdict.code() as u32);
            if let Some(chain) = verdict.chain() {
                m.text(VERDICT_CHAIN, chain);
            }
            m.end(inner).end(nest);
        }
    }
}

/// Data of a map: an address and a port.
pub fn endpoint_data(address: IpAddr, port: u16) -> Vec<u8> {
    key::join(&[&octets(address), &port.to_be_bytes()])
}
