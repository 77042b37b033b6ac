//! Expressions and what the original makes of them: `golden/answers.jsonl` was recorded by `golden/main.go`, which says what the
//! lines of `golden/cases.txt` mean. Types, errors with their places and estimated costs must be the original's to the letter.

use std::fmt::Write;

use kubecel::cost::Unsized;
use kubecel::declared::{DeclaredSizes, admission};
use kubecel::{Declared, Env, Type, Version};
use serde_json::Value as Json;

const CASES: &str = include_str!("golden/cases.txt");
const ANSWERS: &str = include_str!("golden/answers.jsonl");

struct State {
    stored: bool,
    variables: Vec<(String, Type)>,
    schema: Option<Json>,
    root: bool,
    admission: Option<admission::Optional>,
}

#[test]
fn the_originals_answers() {
    // What the API server's threads have.
    let checked = std::thread::Builder::new().stack_size(machinery::json::STACK_BYTES).spawn(compare).expect("a thread").join();
    assert!(checked.is_ok(), "see above");
}

fn compare() {
    let mut answers = ANSWERS.lines();
    let mut state = State { stored: false, variables: Vec::new(), schema: None, root: false, admission: None };
    let (mut asked, mut wrong, mut told) = (0, 0, String::new());
    for line in CASES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(directive) = line.strip_prefix('@') {
            obey(&mut state, directive);
            continue;
        }
        let answer: Json = serde_json::from_str(answers.next().expect("an answer")).expect("JSON");
        assert_eq!(answer["expr"], line, "the answers are of other cases");
        asked += 1;
        let (theirs, ours) = (expected(&answer), ours(&state, &line.replace('⏎', "\n")));
        if theirs != ours {
            wrong += 1;
            writeln!(told, "== {}\n-- theirs: {theirs}\n-- ours:   {ours}", line.chars().take(300).collect::<String>()).expect("text");
        }
    }
    assert!(wrong == 0, "{wrong} of {asked} differ:\n{told}");
}

fn obey(state: &mut State, directive: &str) {
    let (word, rest) = directive.split_once(' ').unwrap_or((directive, ""));
    match word {
        "reset" => *state = State { stored: false, variables: Vec::new(), schema: None, root: false, admission: None },
        "env" => state.stored = rest == "stored",
        "root" => state.root = true,
        "admission" => {
            let has = |word| rest.split(' ').any(|given| given == word);
            state.admission = Some(admission::Optional { params: has("params"), authorizer: has("authorizer"), patches: has("patches") });
        }
        "var" => {
            let mut words = rest.splitn(3, ' ');
            let (name, ty) = (words.next().expect("a name"), words.next().expect("a type"));
            state.variables.push((name.to_string(), kubecel::library::signature(ty)));
        }
        "schema" => state.schema = Some(serde_json::from_str(rest).expect("JSON")),
        _ => {}
    }
}

fn expected(answer: &Json) -> String {
    match answer["error"].as_str() {
        Some(error) => error.to_string(),
        None => format!("{} {}..{}", text(&answer["type"]), text(&answer["min"]), text(&answer["max"])),
    }
}

fn text(json: &Json) -> &str {
    json.as_str().unwrap_or_default()
}

fn ours(state: &State, expression: &str) -> String {
    let version = if state.stored { Version::STORED } else { Version::NEW };
    let mut env = state.admission.map_or_else(|| Env::new(version), |optional| Env::admission(version, optional));
    for (name, ty) in &state.variables {
        env = env.with_variable(name, ty.clone());
    }
    let declared = state.schema.as_ref().map(|schema| Declared::of_schema(schema, state.root).expect("a type"));
    if let Some(declared) = &declared {
        let named = declared.named("selfType");
        env = env.with_declared(&[&named]).with_variable("self", named.cel_type()).with_variable("oldSelf", named.cel_type());
    }
    match env.compile(expression) {
        // Of these there is no estimate: nothing limits it.
        Ok(program) if state.admission.is_some() => match program.instantiate() {
            Ok(()) => format!("{} ..", program.output),
            Err(error) => format!("program instantiation failed: {error}"),
        },
        Ok(program) => {
            let cost = match &declared {
                Some(declared) => program.estimate(&DeclaredSizes(declared)),
                None => program.estimate(&Unsized),
            };
            format!("{} {}..{}", program.output, cost.min, cost.max)
        }
        Err(issues) => issues.to_string(),
    }
}
