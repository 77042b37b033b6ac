//! Who asks and what they may do: certificates, tokens, RBAC and the node authoriser.
