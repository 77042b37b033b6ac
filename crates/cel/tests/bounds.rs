//! Texts that are made to be costly: each is answered at once.

use std::time::Instant;

use kubecel::{Env, Type, Version};

/// Longer than any of them takes on a busy machine, shorter than what grows by doubling or by squares.
const SECONDS_MAX: u64 = 20;

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
        ("parentheses", many("(", 90_000)),
        ("parentheses, closed", format!("{}1{}", many("(", 45_000), many(")", 45_000))),
        ("closing parentheses", many(")", 90_000)),
        ("brackets", many("[", 90_000)),
        ("braces", many("{", 90_000)),
        ("minus", many("-", 90_000)),
        ("not", many("!", 90_000)),
        ("numbers", many("1 ", 45_000)),
        ("names", many("a ", 45_000)),
        ("dots", many(".", 90_000)),
        ("fields", format!("x{}", many(".a", 45_000))),
        ("fields of an object", format!("x{}{{", many(".a", 45_000))),
        ("indices", format!("x{}", many("[0]", 30_000))),
        ("sums", format!("1{}", many("+1", 45_000))),
        ("alternatives", format!("true{}", many("||true", 15_000))),
        ("conditions", format!("{}1", many("true?1:", 12_000))),
        ("commas", format!("[{}", many(",", 90_000))),
        ("elements", format!("[{}1]", many("1,", 45_000))),
        ("elements of two types", format!("[{}1]", many("1,'a',", 15_000))),
        ("no tokens", many("#", 90_000)),
        ("quotes", many("'\\", 45_000)),
        ("no names", format!("[{}z]", many("z,", 45_000))),
        ("nothing that follows", many("a ? b ", 15_000)),
        ("optional values of optional values", format!("optional.of(1){}", chain(&|at| format!(".optMap(v{at}, v{at})"), 240))),
        ("maps of maps", format!("[1]{}", chain(&|at| format!(".map(v{at}, {{v{at}: v{at}}})"), 110))),
        ("loops in loops", format!("{}true{}", chain(&|at| format!("[1].all(v{at}, "), 120), many(")", 120))),
        ("a long string", format!("'{}'", many("a", 99_000))),
        ("too long", many("a", 1 << 20)),
    ]
}
