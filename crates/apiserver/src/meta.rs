//! What the server itself writes into `metadata`, and how it reads it.

use machinery::{Map, Value, names};
use std::{cell::RefCell, time::SystemTime};

/// Characters of generated names: no vowels and no look-alikes, so that no words come out, as upstream's.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// Generated characters behind a prefix.
const SUFFIX_LEN: usize = 5;
/// A name's length at most when it is generated.
const GENERATED_MAX: usize = 63;

/// A text of `metadata`, empty if absent.
pub(crate) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// A number of `metadata`.
pub(crate) fn int(object: &Value, field: &str) -> Option<i64> {
    object["metadata"][field].as_i64()
}

/// The finalizers.
pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"].as_array().map_or(&[][..], Vec::as_slice).iter().filter_map(Value::as_str).collect()
}

/// `metadata`, made if absent or no object.
pub(crate) fn of(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let metadata = &mut object["metadata"];
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    match metadata {
        Value::Object(map) => map,
        _ => unreachable!("was just made an object"),
    }
}

/// Sets a field, or removes it for an empty value.
pub(crate) fn set(object: &mut Value, field: &str, value: Value) {
    let metadata = of(object);
    match value {
        Value::Null => {
            metadata.remove(field);
        }
        value => {
            metadata.insert(field.to_owned(), value);
        }
    }
}

/// A name of a prefix and random characters.
pub(crate) fn generate_name(base: &str) -> String {
    let keep = base.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= GENERATED_MAX - SUFFIX_LEN).last().unwrap_or(0);
    let mut name = base[..keep].to_owned();
    let bytes = random::<SUFFIX_LEN>();
    name.extend(bytes.iter().map(|b| ALPHABET[usize::from(*b) % ALPHABET.len()] as char));
    name
}

/// A random UUID (version 4).
pub(crate) fn uuid() -> String {
    names::uuid(random())
}

/// Random bytes that are asked of the system at once: a write makes several UIDs. No secret is made of them.
struct Stock {
    bytes: [u8; 512],
    used: usize,
}

thread_local! {
    static STOCK: RefCell<Stock> = const { RefCell::new(Stock { bytes: [0; 512], used: 512 }) };
}

/// Random bytes of the system.
fn random<const N: usize>() -> [u8; N] {
    STOCK.with_borrow_mut(|stock| {
        if stock.used + N > stock.bytes.len() {
            if getrandom::fill(&mut stock.bytes).is_err() {
                return by_time();
            }
            stock.used = 0;
        }
        let mut taken = [0; N];
        if let Some(bytes) = stock.bytes.get(stock.used..stock.used + N) {
            taken.copy_from_slice(bytes);
        }
        stock.used += N;
        taken
    })
}

/// Bytes where there is no randomness: uniqueness still holds by time and address.
fn by_time<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = (nanos >> ((at % 16) * 8)) as u8;
    }
    bytes
}

/// Whether two objects are the same but for what every write changes.
pub(crate) fn same(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return new == old };
    if new.len() != old.len() {
        return false;
    }
    new.iter().all(|(key, value)| match old.get(key) {
        None => false,
        Some(other) if key == "metadata" => same_metadata(value, other),
        Some(other) => value == other,
    })
}

fn same_metadata(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return new == old };
    let relevant = |(key, _): &(&String, &Value)| key.as_str() != "resourceVersion";
    new.iter().filter(relevant).count() == old.iter().filter(relevant).count()
        && new.iter().filter(relevant).all(|(key, value)| match old.get(key) {
            Some(other) if key == "managedFields" => same_managers(value, other),
            other => other == Some(value),
        })
}

/// Managers are the same if only their times differ: a write that changes nothing does not count as one.
fn same_managers(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_array(), old.as_array()) else { return new == old };
    new.len() == old.len()
        && new.iter().zip(old).all(|(a, b)| ["manager", "operation", "apiVersion", "fieldsType", "fieldsV1", "subresource"].iter().all(|f| a[*f] == b[*f]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn generated_names_fit_and_differ() {
        let long = "é".repeat(60);
        let name = generate_name(&long);
        assert!(name.len() <= 63 && name.starts_with('é'));
        assert_ne!(generate_name("a-"), generate_name("a-"));
        assert_eq!(uuid().len(), 36);
        assert_eq!(&uuid()[14..15], "4");
    }

    #[test]
    fn times_of_managers_and_versions_do_not_count() {
        let old = json!({"metadata": {"resourceVersion": "1", "managedFields": [{"manager": "a", "time": "1"}]}, "data": {}});
        let new = json!({"metadata": {"resourceVersion": "2", "managedFields": [{"manager": "a", "time": "2"}]}, "data": {}});
        assert!(same(&new, &old));
        let other = json!({"metadata": {"managedFields": [{"manager": "b"}]}, "data": {}});
        assert!(!same(&other, &old));
    }
}
