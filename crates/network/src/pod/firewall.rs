//! Other people's firewalls: a chain that drops whatever it does not know would drop what pods send each other.
//!
//! No rule of our own table can undo another table's drop, so two rules go to the head of such a chain (Docker's and ufw's
//! `FORWARD` are of this kind), in the form that `iptables` itself writes, with the mark as their comment. Chains that accept by
//! default are left alone.

use crate::Result;
use crate::cidr::Cidr;
use crate::mark::Mark;
use crate::netlink::Socket;
use crate::nft::{At, Batch, Cmp, Expr, Verdict, base_chains, commented_rules, step};

fn comment(mark: &Mark) -> String {
    format!("{}pods", mark.alias())
}

/// Lets the pods' packets through.
pub(super) fn open(socket: &mut Socket, mark: &Mark, range: Cidr) -> Result<()> {
    close(socket, mark)?;
    let comment = comment(mark);
    for chain in base_chains(socket)?.iter().filter(|c| c.drops && c.at == At::Forward as u32) {
        let mut batch = Batch::new(&chain.table);
        for mut rule in [step::source_in(range, Cmp::Eq), step::destination_in(range, Cmp::Eq)] {
            rule.extend([Expr::Counter, Expr::Verdict(Verdict::Accept)]);
            batch.insert_rule(&chain.name, &rule, &comment);
        }
        tracing::info!(table = chain.table, chain = chain.name, "this host's firewall forwards nothing by default; letting pods through");
        batch.commit(socket, "let pods through this host's firewall")?;
    }
    Ok(())
}

/// Takes the rules away again.
pub(super) fn close(socket: &mut Socket, mark: &Mark) -> Result<()> {
    let comment = comment(mark);
    for rule in commented_rules(socket)?.iter().filter(|r| r.comment == comment) {
        let mut batch = Batch::new(&rule.table);
        batch.delete_rule(&rule.chain, rule.handle);
        batch.commit(socket, "remove a rule from this host's firewall")?;
    }
    Ok(())
}
