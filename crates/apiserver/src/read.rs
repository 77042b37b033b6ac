//! How objects are read where they are trees: what is absent is empty.

pub(crate) use machinery::tree::{items, text, texts};
