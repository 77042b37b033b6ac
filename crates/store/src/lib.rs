//! Revisions, transactions, history and watches behind one trait.
