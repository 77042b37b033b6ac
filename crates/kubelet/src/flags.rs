//! Flags that say several things at once, as the original's `MapStringString` reads them.

use std::collections::BTreeMap;

/// `KEY=VALUE,…` of one flag.
pub type Pairs = BTreeMap<String, String>;

/// The pairs of a flag that was given so often. Each time adds to the time before.
pub fn pairs(texts: &[String], by: char) -> Result<Pairs, String> {
    let mut out = Pairs::new();
    for pair in texts.iter().flat_map(|t| t.split(',')).filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once(by).ok_or_else(|| format!("malformed pair, expect string{by}string"))?;
        out.insert(key.trim().to_owned(), value.trim().to_owned());
    }
    Ok(out)
}
