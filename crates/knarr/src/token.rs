//! `knarr token`: bootstrap tokens, by which nodes of other machines join (kubeadm's `token`).

mod text;

pub use text::Token;

use crate::{
    agent::cluster_info::{self, ClusterInfo},
    cli::{TokenCommand, Which},
    cluster::Cluster,
    log::log,
};
use anyhow::{Context as _, anyhow, bail};
use client::{Client, DeleteParams, ListParams};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use std::time::{Duration, SystemTime};

/// The administrator's kubeconfig in a cluster's data.
const ADMIN: &str = "kubeconfig/admin.conf";

/// Runs the command.
pub async fn run(command: TokenCommand) -> anyhow::Result<()> {
    log();
    match command {
        TokenCommand::Create { token, ttl, description, groups, which, .. } => {
            let client = administrator(&which)?;
            let info = published(&client).await?;
            let token = token.map_or_else(Token::random, Ok)?;
            let ends = (!ttl.is_zero()).then(|| SystemTime::now() + ttl);
            let made = client.namespaced::<Secret>(text::NAMESPACE).create(&text::secret(&token, ends, &description, &groups)).await;
            if made.as_ref().is_err_and(client::Error::is_already_exists) {
                bail!("there is a token with the ID {} already: `knarr token delete {}` removes it", token.id, token.id);
            }
            made.context("the token cannot be made")?;
            println!("{}", command_line(&info, &token)?);
            Ok(())
        }
        TokenCommand::List { which } => {
            let secrets = administrator(&which)?.namespaced::<Secret>(text::NAMESPACE);
            let all = secrets.list(&ListParams::fields(format!("type={}", text::TYPE))).await?;
            let now = SystemTime::now();
            print!("{}", table(all.items().iter().filter_map(|secret| text::line(secret, now))));
            Ok(())
        }
        TokenCommand::Delete { tokens, which } => {
            let secrets = administrator(&which)?.namespaced::<Secret>(text::NAMESPACE);
            for token in &tokens {
                let name = text::secret_name(token).map_err(|why| anyhow!(why))?;
                match secrets.delete(&name, &DeleteParams::default()).await {
                    Err(error) if error.is_not_found() => bail!("there is no such token: {name}"),
                    done => done.with_context(|| format!("{name} cannot be deleted"))?,
                };
                println!("{name} deleted");
            }
            Ok(())
        }
    }
}

/// As a cluster's administrator: of the one of this machine, or of the one that a kubeconfig names.
fn administrator(which: &Which) -> anyhow::Result<Client> {
    if let Some(file) = &which.kubeconfig {
        return Ok(Client::from_kubeconfig(file)?);
    }
    // Its directories are root's alone.
    if !nix::unistd::geteuid().is_root() {
        bail!("clusters of this machine are seen by root alone: run it with sudo, or choose one by --kubeconfig");
    }
    let own = Cluster::find(&which.name, which.data_dir.as_deref())?.data.join(ADMIN);
    if !own.try_exists().with_context(|| format!("cannot look for {}", own.display()))? {
        bail!(
            "no cluster {:?} has its control plane on this machine ({} is not there): choose by --name, --data-dir or --kubeconfig",
            which.name,
            own.display()
        );
    }
    Ok(Client::from_kubeconfig(own)?)
}

/// What those who join will read without trust in anybody.
async fn published(client: &Client) -> anyhow::Result<ClusterInfo> {
    let maps = client.namespaced::<ConfigMap>(cluster_info::NAMESPACE);
    match maps.get_opt(cluster_info::NAME).await.context("the cluster cannot be asked where it is reached")? {
        Some(map) => ClusterInfo::read(cluster_info::content(&map)?),
        None => bail!(
            "the cluster tells nobody where it is reached (ConfigMap {}/{}): start it with `knarr up --advertise-address ADDRESS`, an address of this machine that others reach",
            cluster_info::NAMESPACE,
            cluster_info::NAME
        ),
    }
}

/// What is to be run on the other machine.
fn command_line(info: &ClusterInfo, token: &Token) -> anyhow::Result<String> {
    let pins = info.pins()?.into_iter().map(|pin| format!(" --discovery-token-ca-cert-hash {pin}")).collect::<String>();
    Ok(format!("knarr agent --join {} --token {}{pins}", info.server, token.text()))
}

fn table(lines: impl Iterator<Item = [String; 6]>) -> String {
    let head = ["TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION", "EXTRA GROUPS"].map(str::to_owned);
    let mut text = String::new();
    for [token, left, ends, uses, description, groups] in std::iter::once(head).chain(lines) {
        text.push_str(&format!("{token:<23}   {left:<10}  {ends:<20}   {uses:<22}   {description:<30}   {groups}\n"));
    }
    text
}

/// A life as Go writes durations; `0`: it never ends.
pub fn life(text: &str) -> Result<Duration, String> {
    let nanos = machinery::time::parse_go_duration(text)?;
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| "a life is not negative".to_owned())
}

/// The group that nodes which join have, unless others are given.
pub const GROUP: &str = text::GROUP;

/// Groups of tokens are such alone (upstream's rule).
pub fn group(text: &str) -> Result<String, String> {
    if identity::is_bootstrap_group(text) {
        Ok(text.to_owned())
    } else {
        Err("a token's group is system:bootstrappers: and lower-case letters, digits, colons and hyphens".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_and_groups_are_checked() {
        assert_eq!((life("24h"), life("0"), life("1h30m")), (Ok(Duration::from_secs(86_400)), Ok(Duration::ZERO), Ok(Duration::from_secs(5_400))));
        assert!(life("-1h").is_err() && life("soon").is_err());
        assert!(group(GROUP).is_ok() && group("system:bootstrappers:a").is_ok());
        assert!(group("system:masters").is_err() && group("system:bootstrappers:").is_err() && group("system:bootstrappers:A").is_err());
        assert!(group(&format!("system:bootstrappers:{}", "a".repeat(257))).is_err(), "a token of which the server would take nothing");
    }
}
