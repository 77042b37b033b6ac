//! A request to an object and back.
