//! Walks the automaton over the tokens, reports what does not fit and recovers, by the rules of ANTLR's default strategy with the
//! original's limits.

use super::automaton::{At, Automaton, Edge, Kind};
use super::predict::{Choice, Known, stack};
use super::rules::{Rule, WHOLE};
use super::tokens::{Read, Set, kind};
use crate::issues::Issue;
use crate::parser::lexer::Token;
use crate::parser::{DEPTH_MAX, whole};
use crate::source::Source;

/// How often it recovers.
const RECOVERIES_MAX: u32 = 30;
/// Tokens that one recovery passes over.
const PASSED_MAX: u32 = 256;
/// Errors that are reported.
const REPORTS_MAX: usize = 100;

/// What the parser has of one rule: as far as it went.
pub(super) struct Branch {
    pub(super) rule: Rule,
    /// The token that came when the rule began.
    pub(super) start: usize,
    pub(super) pieces: Vec<Piece>,
}

/// A part of a rule, in the order of the text. What was dropped is none.
pub(super) enum Piece {
    Token(usize),
    /// A token that is not there and was taken for there.
    Missing,
    Branch(Branch),
}

impl Branch {
    pub(super) fn tokens(&self) -> impl Iterator<Item = usize> + '_ {
        self.pieces.iter().filter_map(Piece::token)
    }

    pub(super) fn branches(&self) -> impl Iterator<Item = &Branch> {
        self.pieces.iter().filter_map(Piece::branch)
    }
}

impl Piece {
    pub(super) fn token(&self) -> Option<usize> {
        if let Piece::Token(token) = self { Some(*token) } else { None }
    }

    pub(super) fn branch(&self) -> Option<&Branch> {
        if let Piece::Branch(branch) = self { Some(branch) } else { None }
    }
}

/// The errors of these tokens, and the tree if the parser has come to its end.
pub(super) fn errors(automaton: &Automaton, read: &Read<'_>, text: &str, source: &Source) -> (Vec<Issue>, Option<Branch>) {
    let tokens = &read.tokens;
    let kinds = tokens.iter().map(kind).collect();
    let mut walk = Walk {
        automaton,
        tokens,
        kinds,
        text,
        unread: &read.unread,
        source,
        next: 0,
        state: 0,
        frames: Vec::new(),
        depth: vec![0; automaton.starts.len()],
        recovering: false,
        last_error: None,
        recoveries: 0,
        errors: Vec::new(),
        known: Known::new(),
        open: Vec::new(),
        tree: None,
    };
    // That it ended early is among the errors.
    let _ = walk.rule(WHOLE, 0, None);
    (walk.errors, walk.tree)
}

/// Nothing more is reported.
struct Enough;

/// What a rule does not get over by itself.
enum Trouble {
    /// The current token is not what is expected.
    Mismatch,
    /// No way is open from the current token to that one.
    NoWay {
        offending: usize,
    },
    Enough,
}

impl From<Enough> for Trouble {
    fn from(_: Enough) -> Trouble {
        Trouble::Enough
    }
}

struct Walk<'a> {
    automaton: &'a Automaton,
    tokens: &'a [Token<'a>],
    kinds: Vec<u8>,
    text: &'a str,
    unread: &'a [(u32, u32)],
    source: &'a Source,
    next: usize,
    state: At,
    /// The states behind the rules that are open, outermost first.
    frames: Vec<At>,
    depth: Vec<u32>,
    /// An error was reported and no token was matched since: what follows from it is not reported.
    recovering: bool,
    last_error: Option<(usize, Vec<At>)>,
    recoveries: u32,
    errors: Vec<Issue>,
    known: Known,
    /// What there is of the rules that are open, outermost first; and of all, once none is.
    open: Vec<Branch>,
    tree: Option<Branch>,
}

impl Walk<'_> {
    fn ahead(&self, by: usize) -> u8 {
        self.kinds[(self.next + by).min(self.kinds.len() - 1)]
    }

    fn consume(&mut self) {
        self.next = (self.next + 1).min(self.kinds.len() - 1);
    }

    /// Notes a part of the innermost rule that is open.
    fn note(&mut self, piece: Piece) {
        if let Some(branch) = self.open.last_mut() {
            branch.pieces.push(piece);
        }
    }

    fn matched(&mut self) {
        self.recovering = false;
        self.last_error = None;
    }

    fn rule(&mut self, rule: Rule, precedence: u8, follow: Option<At>) -> Result<(), Enough> {
        self.depth[rule] += 1;
        if self.depth[rule] > DEPTH_MAX {
            self.errors.push(whole(format!("expression recursion limit exceeded: {DEPTH_MAX}")));
            return Err(Enough);
        }
        self.frames.extend(follow);
        self.open.push(Branch { rule, start: self.next, pieces: Vec::new() });
        let walked = self.states(self.automaton.starts[rule], precedence);
        match walked {
            Ok(()) => {}
            Err(Trouble::Enough) => return Err(Enough),
            Err(trouble) => {
                self.report(&trouble)?;
                self.recover()?;
            }
        }
        if follow.is_some() {
            self.frames.pop();
        }
        self.depth[rule] -= 1;
        if let Some(branch) = self.open.pop() {
            if self.open.is_empty() {
                self.tree = Some(branch);
            } else {
                self.note(Piece::Branch(branch));
            }
        }
        Ok(())
    }

    /// From a state to the end of its rule.
    fn states(&mut self, mut at: At, precedence: u8) -> Result<(), Trouble> {
        let automaton = self.automaton;
        loop {
            self.state = at;
            let state = &automaton.states[at];
            at = match state.kind {
                Kind::Stop => return Ok(()),
                Kind::Basic => self.edge(state.edges[0])?,
                Kind::PlusStart => {
                    self.sync()?;
                    state.edges[0].to()
                }
                Kind::StarBack => {
                    self.sync()?;
                    let entry = state.edges[0].to();
                    self.choose(entry, precedence)?
                }
                Kind::Block { .. } | Kind::PlusBack { .. } | Kind::StarEntry { .. } => {
                    self.sync()?;
                    self.choose(at, precedence)?
                }
            };
        }
    }

    fn edge(&mut self, edge: Edge) -> Result<At, Trouble> {
        match edge {
            Edge::Free(to) | Edge::Binds(_, to) => Ok(to),
            Edge::Rule(rule, precedence, to) => {
                self.rule(rule, precedence, Some(to))?;
                Ok(to)
            }
            Edge::Tokens(set, to) => {
                if set.has(self.ahead(0)) {
                    self.note(Piece::Token(self.next));
                    self.matched();
                    self.consume();
                } else {
                    self.recover_inline(to)?;
                }
                Ok(to)
            }
        }
    }

    /// The state at which a choice goes on.
    fn choose(&mut self, at: At, precedence: u8) -> Result<At, Trouble> {
        let state = &self.automaton.states[at];
        let by_one = match state.kind {
            Kind::Block { by_one } | Kind::PlusBack { by_one } | Kind::StarEntry { by_one, .. } => by_one,
            _ => true,
        };
        if !by_one {
            let choice = Choice { automaton: self.automaton, at, precedence, stack: stack(self.frames.iter().copied()), tokens: &self.kinds[self.next..] };
            return match choice.predict(&mut self.known) {
                Ok(alternative) => Ok(state.edges[alternative].to()),
                Err(no_way) => Err(Trouble::NoWay { offending: self.next + no_way.offending }),
            };
        }
        let token = self.ahead(0);
        let fits = |edge: &&Edge| self.automaton.next(edge.to()).0.has(token);
        let (last, others) = state.edges.split_last().ok_or(Trouble::Mismatch)?;
        // A part that may be left out is left out if nothing fits.
        let may_skip = !matches!(state.kind, Kind::Block { .. }) || self.is_end_of_block(last.to(), &others[0]);
        match others.iter().find(fits).or_else(|| (may_skip || fits(&last)).then_some(last)) {
            Some(edge) => Ok(edge.to()),
            None => Err(Trouble::NoWay { offending: self.next }),
        }
    }

    /// Whether the last way of a block is that of nothing.
    fn is_end_of_block(&self, last: At, other: &Edge) -> bool {
        let mut at = other.to();
        let states = &self.automaton.states;
        while let [edge] = states[at].edges.as_slice() {
            at = edge.to();
            if at == last {
                return true;
            }
        }
        false
    }

    /// Before a choice: a token that fits nowhere is dropped or told at once.
    fn sync(&mut self) -> Result<(), Trouble> {
        if self.recovering {
            return Ok(());
        }
        let (next, may_end) = self.automaton.next(self.state);
        if may_end || next.has(self.ahead(0)) {
            return Ok(());
        }
        match self.automaton.states[self.state].kind {
            Kind::Block { .. } | Kind::PlusStart | Kind::StarEntry { .. } => match self.drop_one()? {
                true => Ok(()),
                false => Err(Trouble::Mismatch),
            },
            Kind::PlusBack { .. } | Kind::StarBack => {
                self.report_extraneous()?;
                let until = self.expected().with(self.recovery_set());
                while self.ahead(0) != 0 && !until.has(self.ahead(0)) {
                    self.consume();
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What may come now, with the rules that are open.
    fn expected(&self) -> Set {
        let (mut found, mut may_end) = self.automaton.next(self.state);
        for follow in self.frames.iter().rev() {
            if !may_end {
                return found;
            }
            let (next, end) = self.automaton.next(*follow);
            found = found.with(next);
            may_end = end;
        }
        if may_end { found.with(Set(1)) } else { found }
    }

    /// What may come behind any of the rules that are open.
    fn recovery_set(&self) -> Set {
        self.frames.iter().fold(Set::default(), |set, follow| set.with(self.automaton.next(*follow).0))
    }

    /// Drops the current token if the one behind it fits.
    fn drop_one(&mut self) -> Result<bool, Enough> {
        if !self.expected().has(self.ahead(1)) {
            return Ok(false);
        }
        self.report_extraneous()?;
        self.consume();
        self.matched();
        Ok(true)
    }

    fn recover_inline(&mut self, to: At) -> Result<(), Trouble> {
        self.attempt()?;
        if self.drop_one()? {
            // The token behind the dropped one is the one that was wanted.
            self.note(Piece::Token(self.next));
            self.consume();
            return Ok(());
        }
        if self.next_in_context(to).has(self.ahead(0)) {
            self.report_missing()?;
            self.note(Piece::Missing);
            return Ok(());
        }
        Err(Trouble::Mismatch)
    }

    /// What may come at a state with the rules that are open.
    fn next_in_context(&self, at: At) -> Set {
        let (mut found, mut may_end) = self.automaton.next(at);
        for follow in self.frames.iter().rev() {
            if !may_end {
                break;
            }
            let (next, end) = self.automaton.next(*follow);
            found = found.with(next);
            may_end = end;
        }
        if may_end { found.with(Set(1)) } else { found }
    }

    fn attempt(&mut self) -> Result<(), Enough> {
        if self.recoveries == RECOVERIES_MAX {
            self.tell(self.next, format!("error recovery attempt limit exceeded: {RECOVERIES_MAX}"))?;
            return Err(Enough);
        }
        self.recoveries += 1;
        Ok(())
    }

    /// Passes over what cannot follow any of the rules that are open.
    fn recover(&mut self) -> Result<(), Enough> {
        self.attempt()?;
        let mut passed = 0;
        let mut pass = |walk: &mut Self| {
            if passed >= PASSED_MAX {
                walk.errors.push(whole(format!("error recovery token lookahead limit exceeded: {PASSED_MAX}")));
                return Err(Enough);
            }
            passed += 1;
            walk.consume();
            Ok(())
        };
        let again = matches!(&self.last_error, Some((next, states)) if *next == self.next && states.contains(&self.state));
        if again {
            // Nothing was passed over since the last error here: one token, or it would never end.
            pass(self)?;
        }
        let mut states = self.last_error.take().map(|(_, states)| states).unwrap_or_default();
        states.push(self.state);
        self.last_error = Some((self.next, states));
        let until = self.recovery_set();
        while self.ahead(0) != 0 && !until.has(self.ahead(0)) {
            pass(self)?;
        }
        Ok(())
    }

    fn report(&mut self, trouble: &Trouble) -> Result<(), Enough> {
        if self.recovering {
            return Ok(());
        }
        self.recovering = true;
        match trouble {
            Trouble::Mismatch => {
                let message = format!("mismatched input {} expecting {}", self.shown(self.next), self.expected());
                self.tell(self.next, message)
            }
            Trouble::NoWay { offending } => {
                let message = format!("no viable alternative at input {}", quoted(&self.between(self.next, *offending)));
                self.tell(*offending, as_before(message))
            }
            Trouble::Enough => Err(Enough),
        }
    }

    fn report_extraneous(&mut self) -> Result<(), Enough> {
        if self.recovering {
            return Ok(());
        }
        self.recovering = true;
        self.tell(self.next, format!("extraneous input {} expecting {}", self.shown(self.next), self.expected()))
    }

    fn report_missing(&mut self) -> Result<(), Enough> {
        if self.recovering {
            return Ok(());
        }
        self.recovering = true;
        self.tell(self.next, format!("missing {} at {}", self.expected(), self.shown(self.next)))
    }

    fn shown(&self, token: usize) -> String {
        quoted(self.tokens[token].text)
    }

    /// The text from one token to another, with what is between them.
    fn between(&self, first: usize, last: usize) -> String {
        if self.kinds[first] == 0 {
            return "<EOF>".to_string();
        }
        let begin = self.tokens[first].at;
        // Up to the end of the text there is what stands before it.
        let own = if self.kinds[last] == 0 { 0 } else { self.tokens[last].text.chars().count() as u32 };
        let end = self.tokens[last].at + own;
        let is_read = |at: u32| !self.unread.iter().any(|(from, to)| (*from..*to).contains(&at));
        self.text.chars().zip(0..end).skip(begin as usize).filter(|(_, at)| is_read(*at)).map(|(char, _)| char).collect()
    }

    fn tell(&mut self, token: usize, message: String) -> Result<(), Enough> {
        let location = Some(self.source.location_at(self.tokens[token].at));
        let enough = self.errors.len() >= REPORTS_MAX;
        let message = if enough { format!("More than {REPORTS_MAX} syntax errors") } else { message };
        self.errors.push(Issue { id: 0, location, message: format!("Syntax error: {message}") });
        if enough { Err(Enough) } else { Ok(()) }
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r"))
}

/// Of a word of the grammar behind one other character the original speaks as its earlier versions did.
fn as_before(message: String) -> String {
    let inside = message.strip_prefix("no viable alternative at input '").and_then(|rest| rest.strip_suffix('\''));
    let mut characters = inside.unwrap_or_default().chars();
    characters.next();
    match characters.as_str() {
        word @ ("true" | "false" | "null") => format!("mismatched input '{word}' expecting IDENTIFIER"),
        _ => message,
    }
}
