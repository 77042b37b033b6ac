//! Images, snapshots, sandboxes, containers and the shim. Knows OCI; knows nothing of the API.
