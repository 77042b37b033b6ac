//! What the original's builder finds in the tree that its parser has made of a text in spite of what is wrong with it.
//!
//! The builder goes through all that was recovered. Macros tell there what is wrong with their arguments, constants what they are no
//! values of, words that nothing may be called that they are that: behind the syntax errors, or in their place by the order of the
//! text. A part that is missing is a node without a place. Source: `cel-go/parser/parser.go`, the `Visit` functions.

use super::rules::{AND, CALC, ENTRIES, EXPR, EXPRS, FIELD, LITERAL, MEMBER, NAME, OPT_EXPR, OR, PRIMARY, RELATION, UNARY};
use super::walk::{Branch, Piece};
use crate::ast::{Call, Expr, Field, Id, Kind, List, Literal, MapEntry, Select, Struct};
use crate::issues::Issue;
use crate::macros::Macro;
use crate::operators as op;
use crate::parser::grammar::{Parser, RESERVED, balanced, calculation, constant, relation};
use crate::parser::lexer::{Token, TokenKind};
use crate::parser::{DEPTH_MAX, whole};
use crate::source::Source;
use crate::types::Str;

/// What the builder tells of a tree.
pub(super) fn errors(tokens: &[Token<'_>], source: Source, macros: &[Macro], tree: &Branch) -> Vec<Issue> {
    let mut builder = Builder { tokens, parser: Parser::new(tokens, source, macros), depth: 0, too_deep: false };
    builder.expr(tree.branches().next());
    let mut found = builder.parser.found();
    if builder.too_deep {
        found.push(whole("max recursion depth exceeded".to_owned()));
    }
    found
}

struct Builder<'a> {
    tokens: &'a [Token<'a>],
    parser: Parser<'a>,
    /// How many nodes of those that the original counts stand around the one that is made.
    depth: u32,
    /// Too many: nothing more is looked at.
    too_deep: bool,
}

/// What is missing.
fn nothing() -> Expr {
    Expr { id: 0, kind: Kind::Unspecified }
}

fn calculated(token: Token<'_>) -> Option<&'static str> {
    calculation(token).map(|(function, _)| function)
}

impl<'a> Builder<'a> {
    fn text(&self, token: usize) -> &'a str {
        self.tokens.get(token).map_or("", |token| token.text)
    }

    /// Where a token begins.
    fn place(&self, token: usize) -> u32 {
        self.tokens.get(token).map_or(0, |token| token.at)
    }

    fn id(&mut self, token: usize) -> Id {
        let at = self.place(token);
        self.parser.id(at)
    }

    fn node(&mut self, token: usize, kind: Kind) -> Expr {
        let at = self.place(token);
        self.parser.node(at, kind)
    }

    fn error(&mut self, token: usize, message: impl Into<String>) -> Expr {
        let at = self.place(token);
        self.parser.error(at, message)
    }

    fn is(&self, piece: &Piece, mark: &str) -> bool {
        matches!(piece, Piece::Token(token) if self.text(*token) == mark)
    }

    /// Enters so many nodes, one within the other; whoever may must leave them one by one.
    fn enters(&mut self, nodes: usize) -> bool {
        let depth = u32::try_from(nodes).ok().and_then(|nodes| self.depth.checked_add(nodes)).filter(|depth| *depth <= DEPTH_MAX);
        self.too_deep |= depth.is_none();
        self.depth = depth.unwrap_or(self.depth);
        !self.too_deep
    }

    /// A call, or what its macro makes of it.
    fn call(&mut self, id: Id, function: &str, target: Option<Expr>, args: Vec<Expr>) -> Expr {
        if self.too_deep { nothing() } else { self.parser.call(id, function, target, args) }
    }

    fn leave(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    fn expr(&mut self, branch: Option<&Branch>) -> Expr {
        let Some(mut at) = branch.filter(|_| !self.too_deep) else { return nothing() };
        loop {
            // Rules that hold nothing but another are passed through.
            let plain = at.tokens().next().is_none();
            match at.rule {
                UNARY if at.pieces.is_empty() => return self.node(at.start, Kind::Literal(Literal::String("<<error>>".into()))),
                EXPR | OR | AND | RELATION | CALC | UNARY | MEMBER if plain => {}
                PRIMARY if at.pieces.first().is_some_and(|first| self.is(first, "(") || matches!(first, Piece::Branch(_))) => {}
                EXPR => return self.condition(at),
                OR => return self.logical(at, op::LOGICAL_OR, "||"),
                AND => return self.logical(at, op::LOGICAL_AND, "&&"),
                RELATION => return self.chain(at, relation),
                CALC => return self.chain(at, calculated),
                UNARY => return self.signed(at),
                MEMBER => return self.member(at),
                PRIMARY => return self.primary(at),
                LITERAL => return self.literal(at),
                _ => return nothing(),
            }
            match at.branches().next() {
                Some(inner) => at = inner,
                None => return nothing(),
            }
        }
    }

    fn condition(&mut self, at: &Branch) -> Expr {
        if !self.enters(1) {
            return nothing();
        }
        let mut parts = at.branches();
        let condition = self.expr(parts.next());
        let id = at.tokens().next().map_or(0, |mark| self.id(mark));
        let then = self.expr(parts.next());
        let otherwise = self.expr(parts.next());
        self.leave();
        self.call(id, op::CONDITIONAL, None, vec![condition, then, otherwise])
    }

    fn logical(&mut self, at: &Branch, function: &str, mark: &str) -> Expr {
        let mut parts = at.branches();
        let (mut terms, mut ids) = (vec![self.expr(parts.next())], Vec::new());
        for token in at.tokens() {
            let Some(term) = parts.next() else { return self.error(at.start, format!("unexpected character, wanted '{mark}'")) };
            terms.push(self.expr(Some(term)));
            ids.push(self.id(token));
        }
        balanced(function, &ids, &mut terms.into_iter())
    }

    fn chain(&mut self, at: &Branch, function: fn(Token<'_>) -> Option<&'static str>) -> Expr {
        if !self.enters(at.tokens().count()) {
            return nothing();
        }
        let mut parts = at.branches();
        let mut left = self.expr(parts.next());
        for mark in at.tokens() {
            let id = self.id(mark);
            let right = self.expr(parts.next());
            self.leave();
            if let Some(name) = self.tokens.get(mark).and_then(|token| function(*token)) {
                left = self.call(id, name, None, vec![left, right]);
            }
        }
        left
    }

    fn signed(&mut self, at: &Branch) -> Expr {
        let operand = at.branches().next();
        let Some(first) = at.tokens().next().filter(|_| at.tokens().count() % 2 == 1) else { return self.expr(operand) };
        let id = self.id(first);
        let operand = self.expr(operand);
        let function = if self.text(first) == "!" { op::LOGICAL_NOT } else { op::NEGATE };
        self.call(id, function, None, vec![operand])
    }

    fn member(&mut self, at: &Branch) -> Expr {
        if !self.enters(at.tokens().filter(|token| matches!(self.text(*token), "." | "[")).count()) {
            return nothing();
        }
        let mut pieces = at.pieces.iter().peekable();
        let mut operand = match pieces.next() {
            Some(Piece::Branch(primary)) => self.expr(Some(primary)),
            _ => nothing(),
        };
        while let Some(piece) = pieces.next() {
            let Piece::Token(mark) = piece else { continue };
            let (is_dot, is_bracket) = (self.text(*mark) == ".", self.text(*mark) == "[");
            if !is_dot && !is_bracket {
                continue;
            }
            let optional = pieces.next_if(|piece| self.is(piece, "?")).is_some();
            let inside = pieces.next_if(|piece| is_dot || matches!(piece, Piece::Branch(_)));
            operand = match inside {
                inside if is_bracket => {
                    let id = self.id(*mark);
                    let index = self.expr(inside.and_then(Piece::branch));
                    let function = if optional { op::OPT_INDEX } else { op::INDEX };
                    self.call(id, function, None, vec![operand, index])
                }
                Some(Piece::Branch(name)) => self.field(operand, *mark, optional, name),
                Some(Piece::Token(name)) => {
                    let open = pieces.next().and_then(Piece::token);
                    let id = open.map_or(0, |open| self.id(open));
                    let args = pieces.next_if(|piece| matches!(piece, Piece::Branch(_)));
                    let args = self.arguments(args.and_then(Piece::branch));
                    let name = self.text(*name).to_owned();
                    self.call(id, &name, Some(operand), args)
                }
                _ => self.node(at.start, Kind::Unspecified),
            };
            self.leave();
        }
        operand
    }

    /// `.field`, `.?field`.
    fn field(&mut self, operand: Expr, dot: usize, optional: bool, name: &Branch) -> Expr {
        let field = self.name(name);
        if field.is_none() {
            self.error(name.start, "unsupported ident kind");
        }
        let field = field.unwrap_or_else(|| "".into());
        if !optional {
            return self.node(dot, Kind::Select(Select { operand: Box::new(operand), field, test_only: false }));
        }
        let field = self.node(name.start, Kind::Literal(Literal::String(field)));
        let id = self.id(dot);
        Expr { id, kind: Kind::Call(Call { function: op::OPT_SELECT.into(), target: None, args: vec![operand, field] }) }
    }

    fn name(&self, name: &Branch) -> Option<Str> {
        name.tokens().next().map(|token| self.text(token).trim_matches('`').into())
    }

    fn arguments(&mut self, list: Option<&Branch>) -> Vec<Expr> {
        list.into_iter().flat_map(Branch::branches).map(|argument| self.expr(Some(argument))).collect()
    }

    fn primary(&mut self, at: &Branch) -> Expr {
        let mut pieces = at.pieces.iter().peekable();
        let dot = pieces.next_if(|piece| self.is(piece, ".")).is_some();
        let Some(first) = pieces.next().and_then(Piece::token) else { return if dot { self.node(at.start, Kind::Unspecified) } else { nothing() } };
        match self.text(first) {
            "[" => self.list(first, at),
            "{" => {
                let id = self.id(first);
                let entries = at.branches().find(|part| part.rule == ENTRIES).map(|entries| self.entries(entries));
                Expr { id, kind: Kind::Map(entries.unwrap_or_default()) }
            }
            name => {
                let (reserved, name) = (RESERVED.contains(&name), format!("{}{name}", if dot { "." } else { "" }));
                self.named(at, name, first, reserved, pieces.peek().copied())
            }
        }
    }

    /// A name, a call or an object, by what follows the name.
    fn named(&mut self, at: &Branch, name: String, first: usize, reserved: bool, next: Option<&Piece>) -> Expr {
        let next = next.and_then(Piece::token);
        match next.map(|next| (next, self.text(next))) {
            Some((_, "." | "{")) => {
                let open = at.tokens().find(|token| self.text(*token) == "{");
                let id = open.map_or(0, |open| self.id(open));
                let fields = at.branches().next().map(|fields| self.fields(fields)).unwrap_or_default();
                Expr { id, kind: Kind::Struct(Struct { name: name.into(), fields }) }
            }
            // What is wrong inside is not looked at.
            _ if reserved => self.error(at.start, format!("reserved identifier: {}", name.trim_start_matches('.'))),
            Some((open, "(")) => {
                let id = self.id(open);
                let args = self.arguments(at.branches().find(|part| part.rule == EXPRS));
                self.call(id, &name, None, args)
            }
            _ => self.node(first, Kind::Ident(name.into())),
        }
    }

    fn list(&mut self, open: usize, at: &Branch) -> Expr {
        let id = self.id(open);
        let mut list = List::default();
        for element in at.branches().flat_map(Branch::branches).filter(|element| element.rule == OPT_EXPR) {
            if element.tokens().next().is_some() {
                list.optional.push(list.elements.len());
            }
            let element = self.expr(element.branches().next());
            list.elements.push(element);
        }
        Expr { id, kind: Kind::List(list) }
    }

    /// The colons of entries or fields with what stands before and behind each; nothing where one of them lacks a side.
    fn pairs<'t>(&mut self, at: &'t Branch, key: usize) -> Vec<(Id, Option<(&'t Branch, &'t Branch)>)> {
        let mut keys = at.branches().filter(|part| part.rule == key);
        let mut values = at.branches().filter(|part| part.rule == EXPR);
        let mut pairs = Vec::new();
        for piece in &at.pieces {
            let id = match piece {
                Piece::Token(token) if self.text(*token) == ":" => self.id(*token),
                Piece::Missing => 0,
                _ => continue,
            };
            pairs.push((id, keys.next().zip(values.next())));
        }
        pairs
    }

    fn entries(&mut self, at: &Branch) -> Vec<MapEntry> {
        let mut entries = Vec::new();
        for (id, pair) in self.pairs(at, OPT_EXPR) {
            let Some((key, value)) = pair else { return Vec::new() };
            let optional = key.tokens().next().is_some();
            let key = self.expr(key.branches().next());
            let value = self.expr(Some(value));
            entries.push(MapEntry { id, key, value, optional });
        }
        entries
    }

    fn fields(&mut self, at: &Branch) -> Vec<Field> {
        let mut fields = Vec::new();
        for (id, pair) in self.pairs(at, FIELD) {
            let Some((field, value)) = pair else { return Vec::new() };
            let optional = field.tokens().next().is_some();
            let Some(name) = field.branches().find(|part| part.rule == NAME).and_then(|name| self.name(name)) else {
                self.error(at.start, "unsupported ident kind");
                continue;
            };
            let value = self.expr(Some(value));
            fields.push(Field { id, name, value, optional });
        }
        fields
    }

    fn literal(&mut self, at: &Branch) -> Expr {
        let known = self.tokens;
        let mut tokens = at.tokens().filter_map(|token| known.get(token)).peekable();
        let negative = tokens.next_if(|token| token.kind == TokenKind::Mark && token.text == "-").is_some();
        match tokens.next().and_then(|token| constant(*token, negative)) {
            Some(Ok(literal)) => self.node(at.start, Kind::Literal(literal)),
            Some(Err(why)) => self.error(at.start, why),
            None => nothing(),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Env, Version};

    /// Recorded of the original: where and what of each error.
    #[test]
    fn macros_tell_what_is_wrong_with_what_was_recovered() {
        let told = |text: &str| -> Vec<String> {
            let issues = Env::new(Version::NEW).compile(text).err().expect("errors").to_string();
            issues.lines().filter_map(|line| line.strip_prefix("ERROR: <input>:")).map(str::to_owned).collect()
        };
        let first = |text: &str| told(text).into_iter().next().unwrap_or_default();
        for text in ["has(self.in.x)", "has(self.`)", "has(self..o)", "has(self.1)", "has([self.o)", "has({self.o})", "has(1.)"] {
            assert_eq!(first(text), "1:5: invalid argument to has() macro", "{text}");
        }
        for (text, error) in [
            ("has(self[)", "1:9: invalid argument to has() macro"),
            ("has(self.m[\"a\"].)", "1:11: invalid argument to has() macro"),
            ("has(self.o &&)", "1:12: invalid argument to has() macro"),
            ("has(self.o.p) && has(self.in.x)", "1:22: invalid argument to has() macro"),
            ("self.l.all(1., true)", "1:12: argument must be a simple name"),
            ("self.l.all(x, true,)", "1:15: argument must be a simple name"),
            ("self.l.all(x, has(x.in))", "1:19: invalid argument to has() macro"),
            ("self.l.filter(x.y, x.in)", "1:16: argument is not an identifier"),
            ("self.m.transformMap(k, k, v.in)", "1:24: duplicate variable name: k"),
            ("self.?s.optMap(x.y, x.in)", "1:17: optMap() variable name must be a simple identifier"),
            ("self.l.map(x.y, x", "1:13: argument is not an identifier"),
        ] {
            assert_eq!(first(text), error, "{text}");
        }
        let several = told("has(self.?in)");
        assert_eq!(several[1..3], ["1:11: unsupported ident kind", "1:11: invalid argument to has() macro"]);
        assert_eq!(told("has(in.x)")[1..], ["1:8: invalid argument to has() macro"]);
        assert_eq!(told("has(self.s.in.x)").len(), 2);
        assert_eq!(told("self.l.all(").len(), 1);
        // Neither a long chain nor what stands in it is more than the stack holds.
        let long = told(&format!("has(self{}) &&", ".a".repeat(40_000)));
        assert!(long.len() <= 2, "{} errors", long.len());
        assert_eq!(told("{'a': 1,,}"), ["1:9: Syntax error: extraneous input ',' expecting '}'"]);
    }
}
