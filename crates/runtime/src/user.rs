//! Who a container's process is: the image's `User`, the pod's wishes, and the image's `/etc/passwd` and `/etc/group`.
//!
//! The image is hostile, and somebody has checked its user before (`runAsNonRoot`): a number is that number and never a name,
//! whatever `/etc/passwd` says, and nothing outside 0 to 2^31-1 is an identity, as with the other runtimes. To the kernel
//! 2^32-1 means "leave it as it is", which is root.

use crate::error::{Error, Result};
use crate::types::{ResolvedUser, SupplementalGroupsPolicy, User};

/// The largest number of a user or group.
const ID_MAX: u32 = i32::MAX as u32;

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
    // A number in the image counts as if the pod had asked for it.
    let number = wanted.uid.or_else(|| if user_text.is_empty() { Some(0) } else { id(user_text) });
    let account = match number {
        Some(uid) => accounts(passwd).find(|a| a.uid == uid),
        None => accounts(passwd).find(|a| a.name == user_text),
    };
    let uid = number.or_else(|| account.as_ref().map(|a| a.uid));
    let uid = uid.ok_or_else(|| Error::Invalid(format!("unable to find user {user_text}: no matching entries in passwd file")))?;
    let gid = match wanted.gid {
        Some(gid) => gid,
        None if wanted.uid.is_none() && !group_text.is_empty() => id(group_text)
            .or_else(|| groups(group).find(|(name, ..)| *name == group_text).map(|(_, gid, _)| gid))
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
    if uid > ID_MAX || all.iter().any(|g| *g > ID_MAX) {
        return Err(Error::Invalid(format!("uids and gids must be in range 0-{ID_MAX}")));
    }
    let home = account.map_or("", |a| a.home);
    Ok((ResolvedUser { uid, gid, groups: all }, if home.is_empty() { "/" } else { home }.to_owned()))
}

/// A text that is a user's or group's number.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id <= ID_MAX)
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
    fn a_number_is_that_number_and_no_name() {
        let passwd = "1000:x:0:0::/:/bin/sh\nroot:x:0:0:root:/root:/bin/sh\nhuge:x:4294967295:0::/:/bin/sh\nodd:x:7:4294967295::/:/bin/sh\n";
        let group = "3000:x:0:\n";
        let of = |image: &str, wanted: &User| resolve(image, wanted, passwd, group);
        let (user, home) = of("1000:3000", &User::default()).unwrap();
        assert_eq!((user, home.as_str()), (ResolvedUser { uid: 1000, gid: 3000, groups: vec![3000] }, "/"));
        for image in ["4294967295", "2147483648", "-1", "+"] {
            let error = of(image, &User::default()).unwrap_err().to_string();
            assert_eq!(error, format!("unable to find user {image}: no matching entries in passwd file"));
        }
        assert_eq!(of("2147483647", &User::default()).unwrap().0.uid, 2_147_483_647);
        for image in ["huge", "odd"] {
            assert_eq!(of(image, &User::default()).unwrap_err().to_string(), "uids and gids must be in range 0-2147483647");
        }
        assert!(of("1000:4294967295", &User::default()).is_err());
        assert!(of("", &User { uid: Some(u32::MAX), ..User::default() }).is_err());
        assert!(of("", &User { supplemental: vec![u32::MAX], ..User::default() }).is_err());
    }

    #[test]
    fn the_pod_overrules_and_strict_leaves_the_images_groups_out() {
        let merge = User { uid: Some(1000), gid: Some(3000), supplemental: vec![4000], ..User::default() };
        assert_eq!(who("root", &merge).groups, [3000, 10, 50000, 4000]);
        let strict = User { policy: SupplementalGroupsPolicy::Strict, ..merge };
        assert_eq!(who("root", &strict).groups, [3000, 4000]);
    }
}
