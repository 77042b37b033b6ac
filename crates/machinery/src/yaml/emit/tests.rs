use super::*;
use serde_json::json;

fn text(value: &Value) -> String {
    crate::yaml::encode(value)
}

/// What the original's library made of the same JSON: texts, keys, numbers and nestings of all sorts.
#[test]
fn it_is_the_text_that_the_original_writes() {
    let mut wrong = Vec::new();
    let cases: Vec<(String, String)> = include_str!("golden.jsonl").lines().map(|line| serde_json::from_str(line).expect("a case")).collect();
    assert!(cases.len() > 200);
    for (json, yaml) in &cases {
        let found = text(&serde_json::from_str(json).expect("JSON"));
        if found != *yaml {
            wrong.push(format!("{json}\nexpected\n{yaml}found\n{found}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}: {}", wrong.len(), cases.len(), wrong.iter().take(20).cloned().collect::<String>());
}

#[test]
fn windows_are_the_whole_and_an_element_is_indented_by_two() {
    let value = json!({"a": [{"b": {"c": [[1, 2], []]}}, "x\ny\n"], "d": {}, "e": "word ".repeat(40) + "x"});
    let whole = text(&value);
    for limit in [1, 7, 50] {
        let (mut emitter, mut out) = (Emitter::new(&value), String::new());
        loop {
            let mut window = Vec::new();
            let ended = emitter.window(limit, &mut window);
            out += std::str::from_utf8(&window).expect("UTF-8");
            if ended {
                break;
            }
        }
        assert_eq!(out, whole, "{limit}");
    }
    let mut element = Vec::new();
    assert!(Emitter::element(&value).window(usize::MAX, &mut element));
    assert_eq!(String::from_utf8(element).expect("UTF-8"), text(&json!([value])));
}

#[test]
fn what_is_nested_deep_leaves_in_pieces() {
    // Through the memory of its own text alone, on a small stack: it is dropped elsewhere.
    let value = std::thread::Builder::new().stack_size(crate::json::STACK_BYTES).spawn(|| {
        let deep = crate::json::read((r#"{"a":"#.repeat(9_000) + "1" + &"}".repeat(9_000)).as_bytes()).expect("JSON");
        let (mut emitter, mut bytes, mut most) = (Emitter::new(&deep), 0, 0);
        loop {
            let mut window = Vec::new();
            let ended = emitter.window(64 << 10, &mut window);
            (bytes, most) = (bytes + window.len(), most.max(window.len()));
            if ended {
                break;
            }
        }
        assert!(bytes > 80_000_000, "as long as the original's: {bytes}");
        assert!(most < 128 << 10, "{most}");
    });
    value.expect("a thread").join().expect("it holds");
}
