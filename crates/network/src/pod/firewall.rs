//! Other people's firewalls: a chain that refuses whatever it does not know would refuse what pods send each other, and what
//! they ask of the node (its DNS, the API, the kubelet are processes of the host).
//!
//! No rule of our own table can undo another table's drop, so rules go to the head of such a chain, in the form that
//! `iptables` itself writes, with the mark as their comment: chains whose policy drops (Docker's and ufw's), and those that
//! end with a rule which refuses all (firewalld's), of families `ip`, `ip6` and `inet`. Chains that accept by default are left alone.
//! What is there is compared with what is to be, so that looking again changes nothing. iptables' older tables are another
//! matter (`legacy`), and whether packets get through after all is tried (`probe`).

use std::collections::BTreeMap;

use crate::Result;
use crate::cidr::Net;
use crate::mark::{ALIAS, Mark};
use crate::netlink::Socket;
use crate::nft::{self, At, BaseChain, Batch, Cmp, Commented, Expr, Rule, Verdict, commented_rules, step};

/// In a rule's comment, after the mark.
pub(super) const PODS: &str = "/pods";

pub(super) fn comment(mark: &Mark) -> String {
    format!("{}{PODS}", mark.alias().trim_end_matches('/'))
}

/// What the pods' packets of one family are known by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pods {
    /// Their range.
    pub(super) range: Net,
    /// The node, as they call it.
    pub(super) gateway: std::net::IpAddr,
}

impl Pods {
    /// The rules for a chain, the last first; none if it has other packets.
    fn rules(self, chain: &BaseChain) -> Vec<Rule> {
        let family = self.range.family();
        if chain.family != nft::INET && chain.family != family.number() {
            return Vec::new();
        }
        let mut rules = if chain.at == At::Input as u32 {
            let mut rule = step::source_in(self.range, Cmp::Eq);
            rule.extend(step::destination_is(self.gateway));
            vec![rule]
        } else {
            vec![step::source_in(self.range, Cmp::Eq), step::destination_in(self.range, Cmp::Eq)]
        };
        for rule in &mut rules {
            if chain.family == nft::INET {
                rule.splice(0..0, step::is(family));
            }
            rule.extend([Expr::Counter, Expr::Verdict(Verdict::Accept)]);
        }
        rules
    }
}

/// Rules of others' tables by the chain that they stand in.
fn by_chain(rules: &[Commented]) -> BTreeMap<(u8, &str, &str), Vec<&Commented>> {
    let mut chains: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for rule in rules {
        chains.entry((rule.family, rule.table.as_str(), rule.chain.as_str())).or_default().push(rule);
    }
    chains
}

/// How many of the rules with this comment stand before all but other clusters' such rules. Clusters side by side accept each
/// their own pods, so none needs to be the first: each would go before the other again and again.
fn heads(there: &[&Commented], comment: &str) -> usize {
    let of_clusters = |rule: &&&Commented| rule.comment.starts_with(ALIAS) && rule.comment.ends_with(PODS);
    there.iter().take_while(of_clusters).filter(|rule| rule.comment == comment).count()
}

/// Which chains are written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// All: what is there may be of other ranges than these, which is not told by looking.
    Anew,
    /// Those that lack a rule of ours.
    WhereMissing,
}

/// Lets the pods' packets through others' chains. Whether one of those that had not done so refuses what others send to this host.
pub(super) fn open(socket: &mut Socket, mark: &Mark, pods: &[Pods], chains: &[BaseChain], how: How) -> Result<bool> {
    let mut filters = chains.iter().filter(|c| c.filters(At::Forward) || c.filters(At::Input)).peekable();
    let mut refuses_others = false;
    if filters.peek().is_none() {
        return Ok(refuses_others);
    }
    let comment = comment(mark);
    let rules = commented_rules(socket)?;
    let by_chain = by_chain(&rules);
    for chain in filters {
        let there = by_chain.get(&(chain.family, chain.table.as_str(), chain.name.as_str())).map_or(&[][..], Vec::as_slice);
        let refuses = chain.drops || there.last().is_some_and(|r| r.refuses);
        let ours: Vec<&&Commented> = there.iter().filter(|r| r.comment == comment).collect();
        let rules: Vec<Rule> = if refuses { pods.iter().flat_map(|pods| pods.rules(chain)).collect() } else { Vec::new() };
        let wanted = rules.len();
        let whole = ours.len() == wanted && heads(there, &comment) == wanted;
        if whole && (how == How::WhereMissing || wanted == 0) {
            continue;
        }
        let mut batch = Batch::of_family(chain.family, &chain.table);
        for rule in ours {
            batch.delete_rule(&chain.name, rule.handle);
        }
        if wanted > 0 {
            for rule in &rules {
                batch.insert_rule(&chain.name, rule, &comment);
            }
            if !whole {
                refuses_others |= chain.filters(At::Input);
                tracing::info!(table = chain.table, chain = chain.name, "this host's firewall refuses what it does not know; letting pods through");
            }
        }
        batch.commit(socket, "let pods through this host's firewall")?;
    }
    Ok(refuses_others)
}

/// Takes the rules away again; how many there were.
pub(super) fn close(socket: &mut Socket, mark: &Mark) -> Result<usize> {
    let comment = comment(mark);
    let mut removed = 0;
    for rule in commented_rules(socket)?.iter().filter(|r| r.comment == comment) {
        let mut batch = Batch::of_family(rule.family, &rule.table);
        batch.delete_rule(&rule.chain, rule.handle);
        batch.commit(socket, "remove a rule from this host's firewall")?;
        removed += 1;
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_side_by_side_let_each_other_be() {
        let rule = |comment: &str| Commented {
            family: nft::INET,
            table: "filter".into(),
            chain: "FORWARD".into(),
            handle: 1,
            comment: comment.into(),
            refuses: false,
        };
        let (one, two) = (comment(&Mark::new("one")), comment(&Mark::new("two")));
        assert_eq!(one, "knarr:one/pods", "as versions before wrote it");
        let rules = [&two, &two, &one, &one, "", "knarr:x/other"].map(|comment: &str| rule(comment));
        let there: Vec<&Commented> = rules.iter().collect();
        assert_eq!((heads(&there, &one), heads(&there, &two)), (2, 2), "both are at the head");
        assert_eq!((heads(&there[2..], &one), heads(&there[2..], &two)), (2, 0));
        let behind: Vec<&Commented> = [4, 2, 3].map(|n: usize| &rules[n]).to_vec();
        assert_eq!(heads(&behind, &one), 0, "somebody else's rule decides first");
    }
}
