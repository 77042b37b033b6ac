//! Queue, cache, framework, and one module a plugin.
