//! Pod network, service proxy and DNS.
