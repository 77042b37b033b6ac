//! From YAML's events to a tree, as go-yaml and upstream's conversion to JSON make it.
//!
//! The first document counts. Anchors are expanded where they are named, `<<` merges mappings, keys become text. What the
//! sender chooses is bounded: the depth (the scanner's work for a token grows with it), and what aliases may add.

use super::{
    libyaml,
    mend::{READ_BYTES_MAX, Refused},
    scalar,
};
use crate::{
    Map, Value,
    json::bounds::{self, PROBLEMS_LIMIT},
    printed,
    quote::Quoted,
};
use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};
use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

/// Levels of nesting that are read: as many as of JSON. The scanner itself stops at 255 in flow style; what is JSON is read as such.
const DEPTH_MAX: usize = bounds::DEPTH_MAX;

/// go-yaml's bounds on aliases: below the first number of nodes a document may consist of them nearly wholly, above the second
/// to a tenth.
const NODES_SMALL: f64 = 400_000.0;
const NODES_LARGE: f64 = 4_000_000.0;

/// Nodes that are kept for aliases at most: some hundred bytes each.
const ANCHORED_MAX: usize = 500_000;
/// Bytes of text that weigh as much as a node.
const NODE_TEXT_BYTES: usize = 64;

/// A document.
#[derive(Debug, Default)]
pub(crate) struct Document {
    pub(crate) value: Value,
    /// `line N: key "x" already set in map` for each key that a mapping has twice, up to a limit.
    pub(crate) repeats: Vec<String>,
}

/// Reads the first document of a text; nothing is null. The error is go-yaml's without its `yaml: `.
pub(crate) fn compose(text: &str) -> Result<Document, String> {
    // The parser takes some texts that are none to libyaml, within brackets above all, and has words of its own for others.
    libyaml::problem(text).map_or_else(|| compose_mended(text), Err)
}

/// Reads a text, and again where the parser refuses what can be mended.
fn compose_mended(text: &str) -> Result<Document, String> {
    let mut text = Cow::Borrowed(text);
    let mut read_bytes = 0;
    loop {
        let (outcome, refused, copied) = compose_leniently(&text);
        // What anchors and aliases copy is copied by each reading.
        read_bytes += text.len() + copied * NODE_TEXT_BYTES;
        match refused.filter(|_| outcome.is_err() && read_bytes <= READ_BYTES_MAX).and_then(|refused| refused.mend(&text)) {
            Some(mended) if mended != *text => text = Cow::Owned(mended),
            _ => return outcome,
        }
    }
}

/// The document, what the parser refuses, and how many nodes anchors and aliases have copied.
fn compose_leniently(text: &str) -> (Result<Document, String>, Option<Refused>, usize) {
    // A directive stands before all else of a document; go-yaml takes one version, and counts its line from 0.
    let before = |line: &str| line.is_empty() || line.starts_with('#');
    let mut directives = text.lines().enumerate().skip_while(|(_, line)| before(line)).take_while(|(_, line)| line.starts_with('%'));
    let is_other = |line: &str| line.strip_prefix("%YAML").is_some_and(|version| version.split_whitespace().next() != Some("1.1"));
    if let Some((at, _)) = directives.find(|(_, line)| is_other(line)) {
        return (Err(format!("{}found incompatible YAML document", if at == 0 { String::new() } else { format!("line {at}: ") })), None, 0);
    }
    // The last line, where neither a break nor blanks alone end it.
    let is_open = text.rsplit(['\n', '\r']).next().is_some_and(|line| !line.trim().is_empty());
    let open_end = is_open.then(|| text.chars().count());
    let parser = Parser::new_from_str(text);
    let mut composer = Composer { text, open_end, parser, refused: None, anchors: HashMap::new(), nodes: 0, aliased: 0, anchored: 0, repeats: Vec::new() };
    let value = composer.document();
    (value.map(|value| Document { value, repeats: composer.repeats }), composer.refused, composer.aliased + composer.anchored)
}

/// The name in the first alias on a line (counted from 1) that does not stand before a column.
fn alias_name(text: &str, line: usize, column: usize) -> String {
    let rest: String = text.lines().nth(line.saturating_sub(1)).unwrap_or_default().chars().skip(column.saturating_sub(1)).collect();
    let name = rest.split_once('*').map_or("", |(_, name)| name);
    name.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-')).collect()
}

/// An error that libyaml does not tell, as near to go-yaml's words as can be.
fn worded(text: &str, (line, column): (usize, usize), info: &str) -> String {
    if info == "while parsing node, found unknown anchor" {
        return format!("unknown anchor '{}' referenced", alias_name(text, line, column));
    }
    if info == "recursion limit exceeded" {
        return bounds::too_deep();
    }
    format!("line {line}: {info}")
}

type Spanned<'t> = (Event<'t>, Span);

struct Composer<'t> {
    text: &'t str,
    /// Where a text ends that ends within a line, in characters.
    open_end: Option<usize>,
    parser: Parser<'t, StrInput<'t>>,
    /// What the parser refuses and libyaml does not.
    refused: Option<Refused>,
    /// The values of anchors, with how many nodes they are; none while they are still open.
    anchors: HashMap<usize, Option<(Value, usize)>>,
    /// Nodes made so far, those of aliases among them.
    nodes: usize,
    aliased: usize,
    /// Nodes that are kept for aliases.
    anchored: usize,
    repeats: Vec<String>,
}

/// A value with the line on which it begins.
struct Node {
    value: Value,
    line: usize,
    /// A plain `<<`.
    merges: bool,
}

impl<'t> Composer<'t> {
    /// The first document; null if there is none.
    fn document(&mut self) -> Result<Value, String> {
        loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart(_) | Event::Nothing, _) => {}
                (Event::StreamEnd | Event::DocumentEnd, _) => return Ok(Value::Null),
                event => return Ok(self.node(event, 0)?.value),
            }
        }
    }

    fn next(&mut self) -> Result<Spanned<'t>, String> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                self.refused = Refused::of(error.info(), error.marker().index());
                Err(worded(self.text, (error.marker().line(), error.marker().col()), error.info()))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, (event, span): Spanned<'t>, depth: usize) -> Result<Node, String> {
        let holds = matches!(event, Event::SequenceStart(..) | Event::MappingStart(..));
        if depth + usize::from(holds) > DEPTH_MAX {
            return Err(bounds::too_deep());
        }
        self.count(1)?;
        let before = self.nodes;
        let line = span.start.line();
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                // A long text weighs more, since aliases copy it.
                self.count(text.len() / NODE_TEXT_BYTES)?;
                let merges = text == "<<" && style == ScalarStyle::Plain && tag.is_none();
                let value = scalar_value(self.unended(text, style, span), style, tag.as_deref())?;
                self.anchor(anchor, &value, self.nodes - before + 1)?;
                return Ok(Node { value, line, merges });
            }
            Event::Alias(id) => (0, self.alias(id, depth, &span)?),
            Event::SequenceStart(anchor, _) => {
                self.open(anchor);
                (anchor, self.sequence(depth)?)
            }
            Event::MappingStart(anchor, _) => {
                self.open(anchor);
                (anchor, self.mapping(depth)?)
            }
            _ => (0, Value::Null),
        };
        self.anchor(anchor, &value, self.nodes - before + 1)?;
        Ok(Node { value, line, merges: false })
    }

    /// A block of text without the break that the parser adds to a last line that has none: libyaml keeps it as it is.
    fn unended<'v>(&self, mut text: Cow<'v, str>, style: ScalarStyle, span: Span) -> Cow<'v, str> {
        let is_block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
        if is_block && self.open_end == Some(span.end.index()) && text.ends_with('\n') {
            match &mut text {
                Cow::Borrowed(text) => *text = &text[..text.len() - 1],
                Cow::Owned(text) => {
                    text.pop();
                }
            }
        }
        text
    }

    /// Counts nodes, and refuses documents that mostly repeat themselves.
    fn count(&mut self, nodes: usize) -> Result<(), String> {
        self.nodes += nodes;
        let (made, aliased) = (self.nodes as f64, self.aliased as f64);
        let share = (0.99 - 0.89 * (made - NODES_SMALL) / (NODES_LARGE - NODES_SMALL)).clamp(0.10, 0.99);
        if self.aliased > 100 && self.nodes > 1000 && aliased / made > share {
            return Err("document contains excessive aliasing".to_owned());
        }
        Ok(())
    }

    fn open(&mut self, anchor: usize) {
        if anchor > 0 {
            self.anchors.insert(anchor, None);
        }
    }

    fn anchor(&mut self, anchor: usize, value: &Value, nodes: usize) -> Result<(), String> {
        if anchor > 0 {
            // Each is a copy, and anchors may stand in each other.
            self.anchored += nodes;
            if self.anchored > ANCHORED_MAX {
                return Err("document contains excessive aliasing".to_owned());
            }
            self.anchors.insert(anchor, Some((value.clone(), nodes)));
        }
        Ok(())
    }

    fn alias(&mut self, id: usize, depth: usize, span: &Span) -> Result<Value, String> {
        let nodes = match self.anchors.get(&id) {
            Some(Some((_, nodes))) => *nodes,
            Some(None) => return Err(format!("anchor '{}' value contains itself", alias_name(self.text, span.start.line(), span.start.col()))),
            None => return Err("unknown anchor referenced".to_owned()),
        };
        // Counted before it is copied.
        self.aliased += nodes;
        self.count(nodes)?;
        let value = self.anchors.get(&id).and_then(Option::as_ref).map(|(value, _)| value);
        // An anchor's value may hold aliases itself: what is put together so is as deep as what is written out.
        if value.is_some_and(|value| !bounds::fits(value, DEPTH_MAX - depth)) {
            return Err(bounds::too_deep());
        }
        Ok(value.cloned().unwrap_or_default())
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, String> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd | Event::StreamEnd, _) => return Ok(Value::Array(items)),
                event => items.push(self.node(event, depth + 1)?.value),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, String> {
        let mut map = Map::new();
        // Keys as Go writes them, so that `1` and `"1"` are two.
        let mut seen = HashSet::new();
        loop {
            let key = match self.next()? {
                (Event::MappingEnd | Event::StreamEnd, _) => return Ok(Value::Object(map)),
                event => self.node(event, depth + 1)?,
            };
            let event = self.next()?;
            let value = self.node(event, depth + 1)?;
            if key.merges {
                merge(value.value, &mut map, &mut seen)?;
                continue;
            }
            let (name, shown) = key_name(key.value, &value.value)?;
            if !seen.insert(shown.clone()) && self.repeats.len() < PROBLEMS_LIMIT {
                self.repeats.push(format!("line {}: key {shown} already set in map", value.line));
            }
            map.insert(name, value.value);
        }
    }
}

/// Adds the entries of what `<<` names. Of several mappings the first counts.
fn merge(value: Value, map: &mut Map<String, Value>, seen: &mut HashSet<String>) -> Result<(), String> {
    let sources = match value {
        Value::Object(source) => vec![Value::Object(source)],
        Value::Array(sources) => sources,
        _ => Vec::new(),
    };
    if sources.is_empty() || sources.iter().any(|s| !s.is_object()) {
        return Err("map merge requires map or sequence of maps as the value".to_owned());
    }
    for source in sources.into_iter().rev() {
        let Value::Object(source) = source else { continue };
        for (name, value) in source {
            seen.insert(Quoted(&name).to_string());
            map.insert(name, value);
        }
    }
    Ok(())
}

/// A key as JSON has it, and as Go's `%#v` writes it.
fn key_name(key: Value, value: &Value) -> Result<(String, String), String> {
    match key {
        Value::String(text) => {
            let shown = Quoted(&text).to_string();
            Ok((text, shown))
        }
        Value::Bool(_) | Value::Number(_) => Ok((key.to_string(), key.to_string())),
        Value::Null => {
            let shown = match value {
                Value::Null => "<nil>".to_owned(),
                value => go_syntax(value),
            };
            Err(format!("unsupported map key of type: %!s(<nil>), key: <nil>, value: {shown}"))
        }
        Value::Array(_) | Value::Object(_) => Err(format!("invalid map key: {}", go_syntax(&key))),
    }
}

/// A value as Go's `%#v` writes it, to whose YAML the keys of maps are anything.
fn go_syntax(value: &Value) -> String {
    printed::syntax(value).replace("map[string]interface {}", "map[interface {}]interface {}")
}

/// A scalar's value. Quoted ones are text; a tag of YAML's own says what the others are.
fn scalar_value(text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    let core = tag.filter(|tag| tag.is_yaml_core_schema()).map(|tag| tag.suffix.as_str());
    match (tag, core, style) {
        (Some(_), Some("bool" | "int" | "float" | "null"), _) => match scalar::plain(&text)? {
            Value::String(_) => Err(format!("cannot decode !!str `{text}` as a !!{}", core.unwrap_or_default())),
            value => Ok(value),
        },
        (Some(_), Some("binary"), _) => scalar::binary(&text).map(Value::String),
        (None, _, ScalarStyle::Plain) => scalar::plain(&text),
        _ => Ok(Value::String(text.into_owned())),
    }
}

/// go-yaml's error of keys that are there twice.
pub(crate) fn repeats(lines: &[String]) -> String {
    format!("yaml: unmarshal errors:\n  {}", lines.join("\n  "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(text: &str) -> Value {
        compose(text).unwrap().value
    }

    #[test]
    fn what_stands_in_brackets_may_begin_at_any_column() {
        assert_eq!(read("a:\n  b: {\nc: [1,\n2\n], d: x\n y}\ne: f\n"), json!({"a": {"b": {"c": [1, 2], "d": "x y"}}, "e": "f"}));
    }

    #[test]
    fn a_block_whose_last_line_is_open_has_no_break() {
        for (text, value) in [
            ("a: |\n  x", "x"),
            ("a: >\n  x\n  y", "x y"),
            ("a: |+\n  ü", "ü"),
            ("a: |-\n  x", "x"),
            ("a: |\n  x\n", "x\n"),
            ("a: |\n  x\n# told", "x\n"),
            ("b:\n- |\n  x\na: |\n  y\nc: d", "y\n"),
        ] {
            assert_eq!(read(text)["a"], value, "{text:?}");
        }
        assert_eq!(read("|\n x"), "x");
    }

    #[test]
    fn a_duplicate_is_told_with_the_line_of_its_value() {
        let text = "kind: A\nkind: B\nspec:\n  a: 1\n  b: [{c: 1, c: 2}]\n  a:\n    x: 1\n    1: y\n    \"1\": y\n    1: z\nspec: ~\n";
        let lines = [
            "line 2: key \"kind\" already set in map",
            "line 5: key \"c\" already set in map",
            "line 7: key \"a\" already set in map",
            "line 10: key 1 already set in map",
            "line 11: key \"spec\" already set in map",
        ];
        let mut told = compose(text).unwrap().repeats;
        told.sort_by_key(|line| line.split([' ', ':']).nth(1).and_then(|n| n.parse::<usize>().ok()));
        assert_eq!(told, lines);
        for other in ["", "- a", "a: &x {b: 1}\nc: *x\n", "{\"a\": 1, \"b\": {\"a\": 2}}"] {
            assert_eq!(compose(other).unwrap().repeats, [""; 0], "{other}");
        }
        assert_eq!(compose("a: &x {b: 1, b: 2}\nc: *x\n").unwrap().repeats.len(), 1);
        assert_eq!(compose("\"\\a\": 1\n\"\\x07\": 2\n").unwrap().repeats, [r#"line 2: key "\a" already set in map"#]);
        assert_eq!(compose(&"a: 1\n".repeat(500)).unwrap().repeats.len(), PROBLEMS_LIMIT);
    }

    #[test]
    fn what_go_yaml_reads() {
        assert_eq!(read("a: yes\nb: \"yes\"\ny: off\n1: ~\n0.5: x\n"), json!({"a": true, "b": "yes", "true": false, "1": null, "0.5": "x"}));
        assert_eq!(
            read("a: 0440\nb: 0x1F\nc: 1_000\nd: .5\ne: 1e3\nf: 2001-12-14\ng: 0b11\nh: 08\n"),
            json!({
                "a": 288, "b": 31, "c": 1000, "d": 0.5, "e": 1000, "f": "2001-12-14", "g": 3, "h": 8
            })
        );
        assert_eq!(read("a: !!str 1\nb: !!int \"3\"\nc: !mine x\nd: !!binary aGk=\n"), json!({"a": "1", "b": 3, "c": "x", "d": "hi"}));
        let merged = "base: &b {p: \"1\", q: \"1\"}\nmore: &m {q: \"2\"}\nout:\n  <<: [*m, *b]\n  r: \"3\"\n";
        assert_eq!(read(merged)["out"], json!({"p": "1", "q": "2", "r": "3"}));
        assert_eq!(read("a: 1\n---\nb: [\n"), json!({"a": 1}), "the first document counts");
        assert_eq!(read("# nothing\n"), Value::Null);
        let refused = |text: &str| compose(text).unwrap_err();
        assert_eq!(refused("{a: -1,1.\n  b: [1]}"), "line 1: did not find expected ',' or '}'", "what the parser takes and libyaml does not");
        assert_eq!(refused("~: x\n"), r#"unsupported map key of type: %!s(<nil>), key: <nil>, value: "x""#);
        assert_eq!(refused("a: &a [1, *a]\n"), "anchor 'a' value contains itself");
        assert_eq!(refused("x: &x 1\na: &b-1 {c: *x, d: *b-1}\n"), "anchor 'b-1' value contains itself");
        assert_eq!(refused("a: {b: &b 1, c: *b, d: *e}\n"), "unknown anchor 'e' referenced");
        assert_eq!(refused("name: {{ .Values.name }}\n"), r#"invalid map key: map[interface {}]interface {}{".Values.name":interface {}(nil)}"#);
        for bad in ["a: [", "? [a]\n: b\n", "<<: 1\n", "a: *b\n", "a: &a [*a]\n", "~: 1\n"] {
            assert!(compose(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_libyaml_lets_pass_is_read_as_it_reads_it() {
        assert_eq!(read("a:\tx\nb:\n- c:\t\t80\n  d:\t-1\n"), json!({"a": "x", "b": [{"c": 80, "d": -1}]}));
        assert_eq!(read("a:\n  b: 'x\n\ny'\n  c: \"d\ne\\\n f\"\nz: 1\n"), json!({"a": {"b": "x\ny", "c": "d ef"}, "z": 1}));
        assert_eq!(read("a: |\n  b:\tc\nd:\te\n"), json!({"a": "b:\tc\n", "d": "e"}), "no text is changed");
        assert_eq!(read("a:\r  b: 'x\ry'\r"), json!({"a": {"b": "x y"}}), "a carriage return ends a line, too");
        let aliases = |count: usize| format!("a: &a [{}]\nb: [{}]\nc:\tx\nd:\tx\n", "0,".repeat(60), "*a,".repeat(count));
        assert!(compose(&aliases(10)).is_ok());
        assert!(compose(&aliases(1200)).is_err_and(|why| why.contains("YAML whitespace")), "what aliases copy is not copied for each place");
    }

    #[test]
    fn the_work_is_bounded() {
        std::thread::Builder::new().stack_size(crate::json::STACK_BYTES).spawn(the_worst).expect("a thread").join().expect("it holds");
    }

    fn the_worst() {
        let start = std::time::Instant::now();
        for open in ["[", "{a: ", "{\"a\":", "- ", "? "] {
            assert!(compose(&open.repeat(500_000)).is_err(), "{open}");
        }
        let mut laughs = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for n in 1..9 {
            laughs += &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(","));
        }
        assert_eq!(compose(&laughs).unwrap_err(), "document contains excessive aliasing");
        // Each anchor adds to the depth of the one before, and a tree that deep could not be dropped.
        let mut deep = format!("a0: &a0\n  {}x\n", "- ".repeat(DEPTH_MAX - 10));
        for n in 1..20 {
            deep += &format!("a{n}: &a{n} [*a{}]\n", n - 1);
        }
        assert_eq!(compose(&deep).unwrap_err(), "exceeded max depth of 10000");
        // What stands within a hundred anchors is not kept a hundred times.
        let within: String = (0..100).map(|n| format!("&b{n} [")).collect();
        let whole = format!("a: {within}{}x{}\n", "x, ".repeat(50_000), "]".repeat(100));
        assert_eq!(compose(&whole).unwrap_err(), "document contains excessive aliasing");
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 1000].join(", "));
        assert_eq!(compose(&long).unwrap_err(), "document contains excessive aliasing");
        let _ = compose(&(0..100_000).map(|n| format!("%TAG !a{n}! x\n")).collect::<String>());
        assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
    }
}
