//! The shop's stock, which the web pages ask for.

use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;
use serde_json::json;

use super::me::{Answer, Me};

const GOODS: [(&str, u32); 4] = [("anchors", 12), ("compasses", 40), ("lanterns", 7), ("rope, by the fathom", 600)];

pub struct Backend {
    me: Me,
    asked: AtomicU64,
}

impl Backend {
    pub fn new(me: Me) -> Self {
        Self { me, asked: AtomicU64::new(0) }
    }

    pub fn page(&self, path: &str) -> Option<Answer> {
        if path != "/" && path != "/stock" {
            return None;
        }
        let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let goods: Vec<_> = GOODS.iter().map(|(name, count)| json!({"name": name, "count": count})).collect();
        let body = json!({"pod": self.me.pod, "version": self.me.version, "asked": asked, "goods": goods});
        Some((StatusCode::OK, "application/json", body.to_string()))
    }
}
