//! Texts that are made to be costly: each is answered at once.

use std::time::Instant;

use kubecel::{Env, Type, Version};

/// Far longer than any of them takes on a busy machine, far shorter than what grows by doubling.
const SECONDS_MAX: u64 = 60;

#[test]
fn costly_texts_are_answered_at_once() {
    let tried = std::thread::Builder::new().stack_size(machinery::json::STACK_BYTES).spawn(|| {
        let env = Env::new(Version::STORED).with_variable("x", Type::Dyn);
        for (name, text) in costly() {
            let before = Instant::now();
            let answer = env.compile(&text).map(|program| program.estimate(&kubecel::cost::Unsized)).map_err(|issues| issues.to_string());
            let seconds = before.elapsed().as_secs();
            assert!(seconds < SECONDS_MAX, "{name}: {seconds} s");
            assert!(answer.is_ok() || answer.is_err_and(|told| told.len() < 2 << 20), "{name}: a long error");
        }
    });
    assert!(tried.expect("a thread").join().is_ok(), "see above");
}

fn costly() -> Vec<(&'static str, String)> {
    let many = |part: &str, count: usize| part.repeat(count);
    let chain = |step: &dyn Fn(usize) -> String, count: usize| (0..count).map(step).collect::<String>();
    vec![
        ("parentheses", many("(", 15_000)),
        ("parentheses, closed", format!("{}1{}", many("(", 8_000), many(")", 8_000))),
        ("closing parentheses", many(")", 15_000)),
        ("brackets", many("[", 15_000)),
        ("braces", many("{", 15_000)),
        ("minus", many("-", 15_000)),
        ("not", many("!", 15_000)),
        ("numbers", many("1 ", 8_000)),
        ("names", many("a ", 8_000)),
        ("dots", many(".", 15_000)),
        ("fields", format!("x{}", many(".a", 8_000))),
        ("fields of an object", format!("x{}{{", many(".a", 8_000))),
        ("indices", format!("x{}", many("[0]", 5_000))),
        ("sums", format!("1{}", many("+1", 8_000))),
        ("alternatives", format!("true{}", many("||true", 8_000))),
        ("conditions", format!("{}1", many("true?1:", 3_000))),
        ("commas", format!("[{}", many(",", 15_000))),
        ("elements", format!("[{}1]", many("1,", 8_000))),
        ("elements of two types", format!("[{}1]", many("1,'a',", 15_000))),
        ("no tokens", many("#", 15_000)),
        ("quotes", many("'\\", 8_000)),
        ("no names", format!("[{}z]", many("z,", 8_000))),
        ("nothing that follows", many("a ? b ", 15_000)),
        ("optional values of optional values", format!("optional.of(1){}", chain(&|at| format!(".optMap(v{at}, v{at})"), 240))),
        ("maps of maps", format!("[1]{}", chain(&|at| format!(".map(v{at}, {{v{at}: v{at}}})"), 110))),
        ("loops in loops", format!("{}true{}", chain(&|at| format!("[1].all(v{at}, "), 120), many(")", 120))),
        ("lists in lists", format!("{}1{}", many("[", 8_000), many("]", 8_000))),
        ("a long string", format!("'{}'", many("a", 99_000))),
        ("too long", many("a", 1 << 20)),
    ]
}
