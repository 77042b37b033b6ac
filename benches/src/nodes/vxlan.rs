//! From a pod to a pod of another machine by VXLAN, beside a bare VXLAN device between two such machines.

use super::path::{a_pod, compare, one_on_each};
use cluster_tests::{
    Cluster,
    machines::{Agent, Machines, invitation, strs},
    netns::ip,
};

/// Measures both.
pub fn run(seconds: f64) -> anyhow::Result<()> {
    let machines = Machines::new("bench-vxlan", 2);
    let mut cluster = Cluster::new("bench-vxlan").inside(&machines.path(0)).with(&["--advertise-address", &machines.ip(0)]);
    cluster.start(&[]).assert_ok();
    let other = Agent::new(&cluster, &machines, 1, "other");
    let running = other.start(&strs(&invitation(&cluster)));
    one_on_each(&cluster);
    let pods = [a_pod(&cluster.name, 1)?, a_pod(&other.name, 1)?];
    let bare = bare();
    compare(&[("bare VXLAN devices of two machines", [bare.path(0), bare.path(1)]), ("pods of two machines", pods)], seconds)?;
    drop(running);
    other.reset(&machines, 1);
    cluster.down();
    Ok(())
}

/// Two machines with nothing but a VXLAN between them: the device's own overhead is in its MTU, as it is in pods'.
fn bare() -> Machines {
    let machines = Machines::new("bench-bare", 2);
    for (at, far) in [(0, 1), (1, 0)] {
        let path = machines.path(at);
        let space = path.file_name().unwrap_or_default().to_string_lossy();
        for line in [
            format!("-n {space} link add vx0 type vxlan id 77 dstport 8472 local {} remote {} dev eth0 nolearning", machines.ip(at), machines.ip(far)),
            format!("-n {space} addr add 198.19.0.{}/16 dev vx0", at + 1),
            format!("-n {space} link set vx0 up"),
        ] {
            ip(&line).assert_ok();
        }
    }
    machines
}
