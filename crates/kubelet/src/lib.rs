//! Pods on a node: sync, probes, volumes, resources, status, and the kubelet's own API.
