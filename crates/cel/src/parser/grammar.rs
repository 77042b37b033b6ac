//! The rules of the grammar, one function each.

use super::lexer::{Token, TokenKind};
use super::{DEPTH_MAX, literal, whole};
use crate::ast::{Call, Expr, Field, Id, Kind, List, Literal, MapEntry, Select, Struct};
use crate::expander::{Expander, NODES_MAX};
use crate::issues::Issue;
use crate::macros::Macro;
use crate::operators as op;
use crate::source::Source;
use crate::types::Str;

/// Words that the grammar takes as names and that nothing may be called.
pub(super) const RESERVED: [&str; 17] =
    ["as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop", "package", "namespace", "return", "var", "void", "while"];

/// Why parsing ended early.
pub(super) enum Halt {
    /// The text is not in the grammar.
    Syntax,
    TooDeep,
}

/// A tree with the positions of its nodes, or what is wrong with a text that is in the grammar.
pub(super) type Outcome = Result<(Expr, Source), Vec<Issue>>;

type Parsed = Result<Expr, Halt>;

/// The rules whose nesting is counted; the others are never deeper than these.
#[derive(Clone, Copy)]
enum Rule {
    Expr,
    Relation,
    Calc,
}

pub(super) struct Parser<'a> {
    tokens: &'a [Token<'a>],
    next: usize,
    source: Source,
    last: Id,
    macros: &'a [Macro],
    errors: Vec<Issue>,
    depth: [u32; 3],
    /// How many nodes of those that the original counts stand one above the other in the node made last.
    height: u32,
    too_high: bool,
}

impl<'a> Parser<'a> {
    pub(super) fn new(tokens: &'a [Token<'a>], source: Source, macros: &'a [Macro]) -> Parser<'a> {
        Parser { tokens, next: 0, source, last: 0, macros, errors: Vec::new(), depth: [0; 3], height: 0, too_high: false }
    }

    /// The whole text.
    ///
    /// # Errors
    /// The text is not in the grammar, or too deep.
    pub(super) fn parse(mut self) -> Result<Outcome, Halt> {
        let parsed = self.expr().and_then(|expr| match self.peek().kind {
            TokenKind::End => Ok(expr),
            _ => Err(Halt::Syntax),
        });
        match parsed {
            Ok(_) if self.last > NODES_MAX => Ok(Err(vec![whole(format!("macros expand to more than {NODES_MAX} nodes"))])),
            Ok(_) if self.too_high => Ok(Err(vec![whole("max recursion depth exceeded".to_string())])),
            Ok(expr) if self.errors.is_empty() => Ok(Ok((expr, self.source))),
            Ok(_) => Ok(Err(self.errors)),
            Err(halt) => Err(halt),
        }
    }

    /// What was wrong so far.
    pub(super) fn found(self) -> Vec<Issue> {
        self.errors
    }

    fn peek(&self) -> Token<'a> {
        self.ahead(0)
    }

    fn ahead(&self, by: usize) -> Token<'a> {
        // The last token is the end, and never passed.
        self.tokens[(self.next + by).min(self.tokens.len() - 1)]
    }

    fn is(&self, mark: &str) -> bool {
        self.ahead_is(0, mark)
    }

    fn ahead_is(&self, by: usize, mark: &str) -> bool {
        let token = self.ahead(by);
        token.kind == TokenKind::Mark && token.text == mark
    }

    fn take(&mut self) -> Token<'a> {
        let token = self.peek();
        self.next += 1;
        token
    }

    /// The token, if it is this one.
    fn take_if(&mut self, mark: &str) -> Option<Token<'a>> {
        self.is(mark).then(|| self.take())
    }

    fn expect(&mut self, mark: &str) -> Result<Token<'a>, Halt> {
        self.take_if(mark).ok_or(Halt::Syntax)
    }

    /// Whether a comma follows that is not the last before the closing mark; it is taken.
    fn has_more(&mut self, close: &str) -> bool {
        !self.ahead_is(1, close) && self.take_if(",").is_some()
    }

    pub(super) fn id(&mut self, at: u32) -> Id {
        self.last += 1;
        self.source.positions.insert(self.last, at);
        self.last
    }

    pub(super) fn node(&mut self, at: u32, kind: Kind) -> Expr {
        Expr { id: self.id(at), kind }
    }

    pub(super) fn error(&mut self, at: u32, message: impl Into<String>) -> Expr {
        let expr = self.node(at, Kind::Unspecified);
        self.errors.push(Issue { id: expr.id, location: Some(self.source.location_at(at)), message: message.into() });
        expr
    }

    /// Notes that the node made now stands above those of this height. A tree that is too high grows no further.
    fn above(&mut self, below: u32) {
        self.height = below + 1;
        self.too_high |= self.height > DEPTH_MAX;
    }

    fn within<T>(&mut self, rule: Rule, parse: impl FnOnce(&mut Self) -> Result<T, Halt>) -> Result<T, Halt> {
        self.depth[rule as usize] += 1;
        if self.depth[rule as usize] > DEPTH_MAX {
            return Err(Halt::TooDeep);
        }
        let parsed = parse(self);
        self.depth[rule as usize] -= 1;
        parsed
    }

    fn expr(&mut self) -> Parsed {
        self.within(Rule::Expr, |parser| {
            let condition = parser.logical(op::LOGICAL_OR)?;
            let Some(mark) = parser.take_if("?") else { return Ok(condition) };
            let mut height = parser.height;
            let id = parser.id(mark.at);
            let then = parser.logical(op::LOGICAL_OR)?;
            height = height.max(parser.height);
            parser.expect(":")?;
            let otherwise = parser.expr()?;
            parser.above(height.max(parser.height));
            Ok(parser.call(id, op::CONDITIONAL, None, vec![condition, then, otherwise]))
        })
    }

    /// `a || b || c` and `a && b && c`: their trees are balanced.
    fn logical(&mut self, function: &str) -> Parsed {
        let (mark, inner) = if function == op::LOGICAL_OR { ("||", op::LOGICAL_AND) } else { ("&&", "") };
        let below = |parser: &mut Self| if inner.is_empty() { parser.relation(0) } else { parser.logical(inner) };
        let first = below(self)?;
        if !self.is(mark) {
            return Ok(first);
        }
        let mut height = self.height;
        let (mut terms, mut ids) = (vec![first], Vec::new());
        while let Some(token) = self.take_if(mark) {
            terms.push(below(self)?);
            height = height.max(self.height);
            ids.push(self.id(token.at));
        }
        self.height = height;
        let mut terms = terms.into_iter();
        Ok(balanced(function, &ids, &mut terms))
    }

    /// Comparisons, from the left.
    fn relation(&mut self, level: u8) -> Parsed {
        self.within(Rule::Relation, |parser| {
            let mut left = parser.calc(0)?;
            while level < 1
                && let Some(function) = relation(parser.peek())
            {
                let (height, token) = (parser.height, parser.take());
                let id = parser.id(token.at);
                let right = parser.relation(1)?;
                parser.above(height.max(parser.height));
                left = parser.binary(id, function, left, right);
            }
            Ok(left)
        })
    }

    /// Sums and products, from the left: what binds no tighter than the level ends it.
    fn calc(&mut self, level: u8) -> Parsed {
        self.within(Rule::Calc, |parser| {
            let mut left = parser.unary()?;
            while let Some((function, binds)) = calculation(parser.peek())
                && binds > level
            {
                let (height, token) = (parser.height, parser.take());
                let id = parser.id(token.at);
                let right = parser.calc(binds)?;
                parser.above(height.max(parser.height));
                left = parser.binary(id, function, left, right);
            }
            Ok(left)
        })
    }

    fn binary(&mut self, id: Id, function: &str, left: Expr, right: Expr) -> Expr {
        // A tree that is too high is thrown away as it grows, or its end would be as deep.
        if self.too_high {
            return Expr { id, kind: Kind::Unspecified };
        }
        self.call(id, function, None, vec![left, right])
    }

    fn unary(&mut self) -> Parsed {
        let number = matches!(self.ahead(1).kind, TokenKind::Int | TokenKind::Float);
        let (mark, function) = match self.peek() {
            Token { kind: TokenKind::Mark, text: "!", .. } => ("!", op::LOGICAL_NOT),
            Token { kind: TokenKind::Mark, text: "-", .. } if !number => ("-", op::NEGATE),
            _ => return self.member(),
        };
        let at = self.peek().at;
        let mut count = 0;
        while self.take_if(mark).is_some() {
            count += 1;
        }
        if count % 2 == 0 {
            return self.member();
        }
        let id = self.id(at);
        let operand = self.member()?;
        Ok(self.call(id, function, None, vec![operand]))
    }

    fn member(&mut self) -> Parsed {
        self.height = 0;
        let mut operand = self.primary()?;
        loop {
            let height = self.height;
            if let Some(dot) = self.take_if(".") {
                operand = self.dotted(operand, dot)?;
                self.above(height.max(self.height));
            } else if let Some(bracket) = self.take_if("[") {
                let function = if self.take_if("?").is_some() { op::OPT_INDEX } else { op::INDEX };
                let id = self.id(bracket.at);
                let index = self.expr()?;
                self.expect("]")?;
                self.above(height.max(self.height));
                operand = self.call(id, function, None, vec![operand, index]);
            } else {
                return Ok(operand);
            }
            if self.too_high {
                operand = Expr { id: 0, kind: Kind::Unspecified };
            }
        }
    }

    /// `.field`, `.?field`, `.method(…)`.
    fn dotted(&mut self, operand: Expr, dot: Token<'a>) -> Parsed {
        let optional = self.take_if("?").is_some();
        let name = self.take();
        let field: Str = match name.kind {
            TokenKind::Ident => name.text.into(),
            TokenKind::Escaped => name.text.trim_matches('`').into(),
            _ => return Err(Halt::Syntax),
        };
        if optional {
            let field = self.node(name.at, Kind::Literal(Literal::String(field)));
            let id = self.id(dot.at);
            return Ok(Expr { id, kind: Kind::Call(Call { function: op::OPT_SELECT.into(), target: None, args: vec![operand, field] }) });
        }
        if name.kind == TokenKind::Ident
            && let Some(open) = self.take_if("(")
        {
            let id = self.id(open.at);
            let height = self.height;
            let args = self.arguments()?;
            self.height = height.max(self.height);
            return Ok(self.call(id, name.text, Some(operand), args));
        }
        Ok(self.node(dot.at, Kind::Select(Select { operand: Box::new(operand), field, test_only: false })))
    }

    /// What stands in the parentheses of a call, with the closing one.
    fn arguments(&mut self) -> Result<Vec<Expr>, Halt> {
        let (mut args, mut height) = (Vec::new(), 0);
        if self.take_if(")").is_none() {
            loop {
                args.push(self.expr()?);
                height = height.max(self.height);
                if self.take_if(",").is_none() {
                    break;
                }
            }
            self.expect(")")?;
        }
        self.height = height;
        Ok(args)
    }

    fn primary(&mut self) -> Parsed {
        let token = self.peek();
        match (token.kind, token.text) {
            (TokenKind::Ident, _) => self.named(),
            (TokenKind::Mark, ".") => self.named(),
            (TokenKind::Mark, "(") => {
                self.take();
                let inner = self.expr()?;
                self.expect(")")?;
                Ok(inner)
            }
            (TokenKind::Mark, "[") => self.list(),
            (TokenKind::Mark, "{") => self.map(),
            _ => self.literal(),
        }
    }

    /// A name, a call or an object.
    fn named(&mut self) -> Parsed {
        let start = self.peek().at;
        let dot = self.take_if(".").is_some();
        let name = self.take();
        if name.kind != TokenKind::Ident {
            return Err(Halt::Syntax);
        }
        let prefix = if dot { "." } else { "" };
        if let Some(parts) = self.object_parts() {
            let full = (0..parts).fold(format!("{prefix}{}", name.text), |full, at| format!("{full}.{}", self.ahead(2 * at + 1).text));
            self.next += 2 * parts;
            return self.object(&full);
        }
        let reserved = RESERVED.contains(&name.text);
        if let Some(open) = self.take_if("(") {
            let (id, errors) = (self.id(open.at), self.errors.len());
            let args = self.arguments()?;
            if reserved {
                // What is wrong inside is not looked at.
                self.errors.truncate(errors);
                return Ok(self.error(start, format!("reserved identifier: {}", name.text)));
            }
            return Ok(self.call(id, &format!("{prefix}{}", name.text), None, args));
        }
        if reserved {
            return Ok(self.error(start, format!("reserved identifier: {}", name.text)));
        }
        Ok(self.node(name.at, Kind::Ident(format!("{prefix}{}", name.text).into())))
    }

    /// How many `.name` follow before a `{`, if one does.
    fn object_parts(&self) -> Option<usize> {
        let mut parts = 0;
        while self.ahead_is(2 * parts, ".") && self.ahead(2 * parts + 1).kind == TokenKind::Ident {
            parts += 1;
        }
        self.ahead_is(2 * parts, "{").then_some(parts)
    }

    fn object(&mut self, name: &str) -> Parsed {
        let open = self.expect("{")?;
        let id = self.id(open.at);
        let (mut fields, mut height) = (Vec::new(), 0);
        let mut more = !self.is("}") && !self.is(",");
        while more {
            let optional = self.take_if("?").is_some();
            let name = self.take();
            let text = match name.kind {
                TokenKind::Ident => name.text,
                TokenKind::Escaped => name.text.trim_matches('`'),
                _ => return Err(Halt::Syntax),
            };
            let colon = self.expect(":")?;
            let id = self.id(colon.at);
            let value = self.expr()?;
            height = height.max(self.height);
            fields.push(Field { id, name: text.into(), value, optional });
            more = self.has_more("}");
        }
        self.take_if(",");
        self.expect("}")?;
        self.height = height;
        Ok(Expr { id, kind: Kind::Struct(Struct { name: name.into(), fields }) })
    }

    fn list(&mut self) -> Parsed {
        let open = self.take();
        let id = self.id(open.at);
        let (mut list, mut height) = (List::default(), 0);
        let mut more = !self.is("]") && !self.is(",");
        while more {
            if self.take_if("?").is_some() {
                list.optional.push(list.elements.len());
            }
            list.elements.push(self.expr()?);
            height = height.max(self.height);
            more = self.has_more("]");
        }
        self.take_if(",");
        self.expect("]")?;
        self.height = height;
        Ok(Expr { id, kind: Kind::List(list) })
    }

    fn map(&mut self) -> Parsed {
        let open = self.take();
        let id = self.id(open.at);
        let (mut entries, mut height) = (Vec::new(), 0);
        let mut more = !self.is("}") && !self.is(",");
        while more {
            let optional = self.take_if("?").is_some();
            let key = self.expr()?;
            height = height.max(self.height);
            let colon = self.expect(":")?;
            let id = self.id(colon.at);
            let value = self.expr()?;
            height = height.max(self.height);
            entries.push(MapEntry { id, key, value, optional });
            more = self.has_more("}");
        }
        self.take_if(",");
        self.expect("}")?;
        self.height = height;
        Ok(Expr { id, kind: Kind::Map(entries) })
    }

    fn literal(&mut self) -> Parsed {
        let start = self.peek().at;
        let negative = self.take_if("-").is_some();
        let token = self.take();
        Ok(match constant(token, negative).ok_or(Halt::Syntax)? {
            Ok(literal) => self.node(start, Kind::Literal(literal)),
            Err(message) => self.error(start, message),
        })
    }

    /// A call, or what its macro makes of it.
    pub(super) fn call(&mut self, id: Id, function: &str, target: Option<Expr>, args: Vec<Expr>) -> Expr {
        let found = self.macros.iter().rfind(|m| m.receiver == target.is_some() && m.args == args.len() && m.name == function);
        let Some(found) = found.copied() else {
            return Expr { id, kind: Kind::Call(Call { function: function.into(), target: target.map(Box::new), args }) };
        };
        let at = self.source.positions.get(&id).copied().unwrap_or_default();
        let mut expander = Expander { source: &mut self.source, last: &mut self.last, at };
        match (found.expand)(&mut expander, target, args) {
            Ok(expr) => expr,
            Err(error) => match self.source.positions.get(&error.id).copied() {
                Some(at) => self.error(at, error.message),
                None => {
                    self.errors.push(whole(error.message));
                    Expr { id: 0, kind: Kind::Unspecified }
                }
            },
        }
    }
}

/// The value of a token, or what is wrong with it; none for a token that is no constant.
pub(super) fn constant(token: Token<'_>, negative: bool) -> Option<Result<Literal, &'static str>> {
    Some(match (token.kind, token.text) {
        (TokenKind::Int, text) => literal::int(text, negative),
        (TokenKind::Float, text) => literal::double(text, negative),
        _ if negative => return None,
        (TokenKind::Uint, text) => literal::uint(text),
        (TokenKind::String, text) => literal::string(text),
        (TokenKind::Bytes, text) => literal::bytes(text),
        (TokenKind::Mark, "true") => Ok(Literal::Bool(true)),
        (TokenKind::Mark, "false") => Ok(Literal::Bool(false)),
        (TokenKind::Mark, "null") => Ok(Literal::Null),
        _ => return None,
    })
}

/// The terms as a tree whose branches are as equal as can be.
pub(super) fn balanced(function: &str, ids: &[Id], terms: &mut impl Iterator<Item = Expr>) -> Expr {
    let Some(middle) = ids.len().checked_sub(1).map(|last| last.div_ceil(2)) else {
        return terms.next().unwrap_or(Expr { id: 0, kind: Kind::Unspecified });
    };
    let left = balanced(function, &ids[..middle], terms);
    let right = balanced(function, &ids[middle + 1..], terms);
    Expr { id: ids[middle], kind: Kind::Call(Call { function: function.into(), target: None, args: vec![left, right] }) }
}

pub(super) fn relation(token: Token<'_>) -> Option<&'static str> {
    if token.kind != TokenKind::Mark {
        return None;
    }
    Some(match token.text {
        "<" => op::LESS,
        "<=" => op::LESS_EQUALS,
        ">" => op::GREATER,
        ">=" => op::GREATER_EQUALS,
        "==" => op::EQUALS,
        "!=" => op::NOT_EQUALS,
        "in" => op::IN,
        _ => return None,
    })
}

/// An operator and how tightly it binds.
pub(super) fn calculation(token: Token<'_>) -> Option<(&'static str, u8)> {
    if token.kind != TokenKind::Mark {
        return None;
    }
    Some(match token.text {
        "*" => (op::MULTIPLY, 2),
        "/" => (op::DIVIDE, 2),
        "%" => (op::MODULO, 2),
        "+" => (op::ADD, 1),
        "-" => (op::SUBTRACT, 1),
        _ => return None,
    })
}
