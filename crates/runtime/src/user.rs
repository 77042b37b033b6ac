//! Who a container's process is: the image's `User`, the pod's wishes, and the image's `/etc/passwd` and `/etc/group`.

use crate::error::{Error, Result};
use crate::types::{ResolvedUser, SupplementalGroupsPolicy, User};

/// A line of `/etc/passwd`.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut f = line.split(':');
        let (name, _, uid, gid, _, home) = (f.next()?, f.next()?, f.next()?, f.next()?, f.next()?, f.next()?);
        Some(Account { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
    })
}

fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut f = line.split(':');
        let (name, _, gid) = (f.next()?, f.next()?, f.next()?);
        Some((name, gid.parse().ok()?, f.next().unwrap_or("")))
    })
}

/// The identity, and the home directory for `HOME`. `image_user` is the image's `USER[:GROUP]`.
///
/// As the CRI says: `run_as_user` replaces the image's user; the primary group is `run_as_group`, else the image's group
/// (when its user counts), else the account's, else 0; groups of which the account is a member are added under `Merge`.
pub(crate) fn resolve(image_user: &str, wanted: &User, passwd: &str, group: &str) -> Result<(ResolvedUser, String)> {
    let (user_text, group_text) = image_user.split_once(':').unwrap_or((image_user, ""));
    let account = match wanted.uid {
        Some(uid) => accounts(passwd).find(|a| a.uid == uid),
        None if user_text.is_empty() => accounts(passwd).find(|a| a.uid == 0),
        None => accounts(passwd).find(|a| a.name == user_text).or_else(|| accounts(passwd).find(|a| user_text.parse() == Ok(a.uid))),
    };
    let uid = match (wanted.uid, &account) {
        (Some(uid), _) => uid,
        (None, Some(account)) => account.uid,
        (None, None) if user_text.is_empty() => 0,
        (None, None) => user_text.parse().map_err(|_| Error::Invalid(format!("unable to find user {user_text}: no matching entries in passwd file")))?,
    };
    let gid = match wanted.gid {
        Some(gid) => gid,
        None if wanted.uid.is_none() && !group_text.is_empty() => groups(group)
            .find(|(name, ..)| *name == group_text)
            .map(|(_, gid, _)| gid)
            .or_else(|| group_text.parse().ok())
            .ok_or_else(|| Error::Invalid(format!("unable to find group {group_text}: no matching entries in group file")))?,
        None => account.as_ref().map_or(0, |a| a.gid),
    };
    let mut all = vec![gid];
    if wanted.policy == SupplementalGroupsPolicy::Merge
        && let Some(account) = &account
    {
        let member = |(_, gid, members): (&str, u32, &str)| members.split(',').any(|m| m == account.name).then_some(gid);
        all.extend(groups(group).filter_map(member));
    }
    all.extend(&wanted.supplemental);
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|g| seen.insert(*g));
    let home = account.map_or("", |a| a.home);
    Ok((ResolvedUser { uid, gid, groups: all }, if home.is_empty() { "/" } else { home }.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:50000::/home/alice:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:bob,alice\nextra:x:50000:alice\n";

    fn who(image: &str, wanted: &User) -> ResolvedUser {
        resolve(image, wanted, PASSWD, GROUP).unwrap().0
    }

    #[test]
    fn the_image_names_its_user() {
        assert_eq!(who("alice", &User::default()), ResolvedUser { uid: 1000, gid: 50000, groups: vec![50000, 10] });
        assert_eq!(who("alice:wheel", &User::default()).gid, 10);
        assert_eq!(who("", &User::default()).uid, 0);
        assert_eq!(who("4711", &User::default()), ResolvedUser { uid: 4711, gid: 0, groups: vec![0] });
        assert!(resolve("nobody", &User::default(), PASSWD, GROUP).is_err());
    }

    #[test]
    fn the_pod_overrules_and_strict_leaves_the_images_groups_out() {
        let merge = User { uid: Some(1000), gid: Some(3000), supplemental: vec![4000], ..User::default() };
        assert_eq!(who("root", &merge).groups, [3000, 10, 50000, 4000]);
        let strict = User { policy: SupplementalGroupsPolicy::Strict, ..merge };
        assert_eq!(who("root", &strict).groups, [3000, 4000]);
    }
}
