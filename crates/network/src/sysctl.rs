//! What the kernel is told of links and of itself, below `/proc/sys/net`, in the network namespace of the calling thread.

use std::fs;

use crate::{Error, Result};

/// Sets a parameter, unless it is so already.
pub(crate) fn set(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{name}");
    if fs::read_to_string(&path).is_ok_and(|v| v.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|e| Error::io(format!("set net/{name} to {value}"), e))
}

/// What is taken of IPv6 from a link: nothing, or no advice.
pub(crate) fn quiet(link: &str, ipv6: bool) -> Result<()> {
    let set = |name: &str, value: &str| set(&format!("ipv6/conf/{link}/{name}"), value);
    if !ipv6 {
        return set("disable_ipv6", "1");
    }
    set("accept_ra", "0")?;
    set("accept_redirects", "0")?;
    set("disable_ipv6", "0")
}
