//! The pod network and the service proxy on a real kernel, each test on a machine of its own (a network namespace).
//!
//! Needs root and a kernel with nf_tables; nothing of it touches the host's own network.

mod api;
mod dual;
mod machines;
mod names;
mod pods;
mod services;
mod world;
