//! What the kernel has: tables, chains, rules, sets, and the news that somebody changed them.

use std::time::Duration;

use tokio::time::Instant;

use super::numbers::*;
use super::{At, Batch, Family, header};
use crate::Result;
use crate::netlink::{DUMP, Messages, NETFILTER, News, Socket, attribute, attributes, text};

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;
/// Before the kernel's news is listened to again after an error.
const AGAIN: Duration = Duration::from_secs(60);
/// Of a generation: the thread that made it.
const GEN_PROC_PID: u16 = 2;

/// All of a family (0: of any) that is asked for by `kind`, as far as `parse` makes something of its family and attributes.
fn list<T>(socket: &mut Socket, what: &'static str, kind: u16, (family, of): (u8, Option<&str>), parse: impl Fn(u8, &[u8]) -> Option<T>) -> Result<Vec<T>> {
    let mut m = Messages::new();
    m.begin(kind, DUMP, &header(family, 0));
    if let Some(table) = of {
        m.text(TABLE, table);
    }
    let answers = socket.call(what, &m)?;
    Ok(answers.iter().filter_map(|(_, body)| parse(*body.first()?, body.get(4..)?)).collect())
}

/// The names of all tables of a family.
pub fn tables(socket: &mut Socket, family: Family) -> Result<Vec<String>> {
    list(socket, "list nf_tables tables", GETTABLE, (family.number(), None), |_, table| attribute(table, TABLE).map(text))
}

/// The names of a table's chains.
pub fn chains(socket: &mut Socket, family: Family, of: &str) -> Result<Vec<String>> {
    list(socket, "list nf_tables chains", GETCHAIN, (family.number(), None), |_, chain| {
        (attribute(chain, TABLE).map(text)? == of).then_some(())?;
        attribute(chain, CHAIN_NAME).map(text)
    })
}

/// The names of a table's sets and maps that have one.
pub fn sets(socket: &mut Socket, family: Family, of: &str) -> Result<Vec<String>> {
    let names = list(socket, "list nf_tables sets", GETSET, (family.number(), Some(of)), |_, set| attribute(set, SET_NAME).map(text))?;
    Ok(names.into_iter().filter(|name| !name.starts_with("__")).collect())
}

/// Of each rule of a table: its chain.
pub fn rules(socket: &mut Socket, family: Family, of: &str) -> Result<Vec<String>> {
    list(socket, "list nf_tables rules", GETRULE, (family.number(), Some(of)), |_, rule| attribute(rule, RULE_CHAIN).map(text))
}

/// A chain that the kernel enters by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// The family of its table.
    pub family: u8,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// Where it is entered ([`At`]).
    pub at: u32,
    /// When, among others there: the lowest first.
    pub priority: i32,
    /// What no rule decides is dropped.
    pub drops: bool,
}

impl BaseChain {
    /// Whether it is entered at this place, to filter.
    pub fn filters(&self, at: At) -> bool {
        self.kind == "filter" && self.at == at as u32
    }
}

/// All chains of IP packets that the kernel enters by itself.
pub fn base_chains(socket: &mut Socket) -> Result<Vec<BaseChain>> {
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_be_bytes);
    list(socket, "list nf_tables chains", GETCHAIN, (0, None), |family, chain| {
        let hook = attribute(chain, CHAIN_HOOK)?;
        let at = attribute(hook, HOOK_NUMBER).and_then(number)?;
        let priority = attribute(hook, HOOK_PRIORITY).and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes)?;
        let drops = attribute(chain, CHAIN_POLICY).and_then(number) == Some(0);
        let told = |what| attribute(chain, what).map(text);
        let (table, name, kind) = (told(TABLE)?, told(CHAIN_NAME)?, told(CHAIN_TYPE)?);
        is_ip(family).then_some(BaseChain { family, table, name, kind, at, priority, drops })
    })
}

/// A rule of somebody's table, as far as it can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commented {
    /// The family of its table.
    pub family: u8,
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// Its number in the table.
    pub handle: u64,
    /// The comment, or empty.
    pub comment: String,
    /// It refuses whatever comes to it.
    pub refuses: bool,
}

/// All rules for IP packets, in their chains' order.
pub fn commented_rules(socket: &mut Socket) -> Result<Vec<Commented>> {
    list(socket, "list nf_tables rules", GETRULE, (0, None), |family, rule| {
        is_ip(family).then_some(())?;
        let comment = match attribute(rule, RULE_USERDATA) {
            Some([COMMENT, length, rest @ ..]) => text(rest.get(..usize::from(*length))?),
            _ => String::new(),
        };
        let handle = attribute(rule, RULE_HANDLE)?.try_into().ok().map(u64::from_be_bytes)?;
        let refuses = attribute(rule, RULE_EXPRESSIONS).is_some_and(refuses_all);
        Some(Commented { family, table: attribute(rule, TABLE).map(text)?, chain: attribute(rule, RULE_CHAIN).map(text)?, handle, comment, refuses })
    })
}

/// Whether a table of the kernel's family has packets of IPv4 or IPv6.
fn is_ip(family: u8) -> bool {
    family == super::INET || Family::ALL.iter().any(|one| one.number() == family)
}

/// Whether a rule's expressions look at nothing and refuse: how firewalls end that accept by policy.
fn refuses_all(expressions: &[u8]) -> bool {
    let mut refuses = false;
    for (_, expression) in attributes(expressions) {
        let name = attribute(expression, EXPR_NAME).map(text).unwrap_or_default();
        match name.as_str() {
            "counter" | "log" => {}
            "reject" => refuses = true,
            // A verdict: its code is 0 for a drop.
            "immediate" => {
                let verdict = [EXPR_DATA, IMMEDIATE_DATA, DATA_VERDICT, VERDICT_CODE].into_iter().try_fold(expression, attribute);
                refuses = verdict == Some(&[0; 4]);
            }
            _ => return false,
        }
    }
    refuses
}

/// Removes a table; one that is gone already is no error.
pub fn delete_table(socket: &mut Socket, family: Family, table: &str) -> Result<()> {
    let mut batch = Batch::new(family, table);
    batch.add_table().delete_table();
    batch.commit(socket, "remove the nf_tables table")
}

/// The keys that are in a set now.
pub fn keys(socket: &mut Socket, family: Family, table: &str, set: &str) -> Result<Vec<Vec<u8>>> {
    let mut m = Messages::new();
    m.begin(GETSETELEM, DUMP, &header(family.number(), 0)).text(TABLE, table).text(ELEMENTS_SET, set);
    let answers = socket.call("list a set", &m)?;
    let mut out = Vec::new();
    for (_, body) in &answers {
        let Some(list) = body.get(4..).and_then(|b| attribute(b, ELEMENTS_LIST)) else { continue };
        for (_, element) in attributes(list) {
            out.extend(attribute(element, ELEMENT_KEY).and_then(|k| attribute(k, DATA_VALUE)).map(<[u8]>::to_vec));
        }
    }
    Ok(out)
}

/// News that somebody else changed tables: the kernel tells each new generation of its rules with the thread that made it.
#[derive(Debug)]
pub struct Foreign {
    news: Option<News>,
    again: Instant,
}

impl Foreign {
    /// Listens in the network namespace of the calling thread, within a runtime. Nothing is sent, and nothing costs, while
    /// nobody changes anything.
    #[must_use]
    pub fn listen() -> Self {
        let mut this = Self { news: None, again: Instant::now() };
        this.join();
        this
    }

    fn join(&mut self) {
        self.again = Instant::now() + AGAIN;
        self.news = News::join(NETFILTER, GROUP, NEWGEN).inspect_err(|error| tracing::warn!(%error, "others' changes of rules are not heard")).ok();
    }

    /// Forgets the news that is there already: whoever looks now sees all that it tells of. Else many changes would be as many
    /// looks.
    pub fn heard(&mut self) {
        if let Some(news) = &mut self.news {
            news.drain();
        }
    }

    /// Waits until another process has changed something, or may have.
    pub async fn changed(&mut self) {
        match &mut self.news {
            Some(news) => {
                if let Err(error) = news.next(is_foreign).await {
                    tracing::warn!(%error, "others' changes of rules are not heard for a while");
                    (self.news, self.again) = (None, Instant::now() + AGAIN);
                }
            }
            None => {
                tokio::time::sleep_until(self.again).await;
                self.join();
            }
        }
    }
}

/// Whether a generation was made by a thread of another process. In a process namespace of its own the numbers are another's:
/// then each change is looked after.
fn is_foreign(body: &[u8]) -> bool {
    let thread = body.get(4..).and_then(|b| attribute(b, GEN_PROC_PID)).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    thread.is_none_or(|thread| !std::path::Path::new("/proc/self/task").join(thread.to_string()).exists())
}
