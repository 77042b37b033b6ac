//! Which way to go at a choice, by as many tokens as it takes.
//!
//! First as if nothing were known of the rules around (what follows a rule anywhere may follow it here), and where that leaves
//! several ways, again with the rules that are open. The two differ in when a token is found to be wrong: here or only where it is
//! to be matched.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::automaton::{At, Automaton, Edge, Kind};

/// The states behind the rules that are open, innermost first.
pub(super) type Stack = Option<Rc<Frame>>;

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Frame {
    follow: At,
    below: Stack,
}

/// The stack of these states, outermost first.
pub(super) fn stack(follows: impl IntoIterator<Item = At>) -> Stack {
    follows.into_iter().fold(None, |below, follow| Some(Rc::new(Frame { follow, below })))
}

/// One way that is still open.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Way {
    alternative: usize,
    at: At,
    stack: Stack,
    /// Whether it went on behind the rule in which the choice is.
    outside: bool,
    /// Whether it did so to where the rule is used from the lowest precedence.
    lowest: bool,
}

/// No way is open: the token (from the one at which the choice begins) that none takes.
pub(super) struct NoWay {
    pub(super) offending: usize,
}

/// A depth from which no rule that ends leads back to the rule of the choice: behind a token precedences do not count.
const BEHIND: i32 = i32::MAX / 2;

/// So many tokens decide most choices.
const NEAR: usize = 4;

/// What was predicted: by the choice, the precedence and the next tokens.
pub(super) type Known = HashMap<(At, u8, [u8; NEAR]), usize>;

/// The alternative, or nothing where the rules around must be known to tell; and how many tokens were looked at.
struct Found {
    alternative: Option<usize>,
    looked: usize,
}

/// The most configurations of ways that are followed; more than any text in the grammar needs.
const WAYS_MAX: usize = 4096;

pub(super) struct Choice<'a> {
    pub(super) automaton: &'a Automaton,
    pub(super) at: At,
    /// From which precedence the rule in which the choice is takes rounds.
    pub(super) precedence: u8,
    /// The rules that are open around it.
    pub(super) stack: Stack,
    /// The tokens from the choice on; the last is the end.
    pub(super) tokens: &'a [u8],
}

impl Choice<'_> {
    /// The alternative to take, by what was predicted before where the next tokens were the same.
    pub(super) fn predict(&self, known: &mut Known) -> Result<usize, NoWay> {
        let mut near = [0; NEAR];
        near.iter_mut().zip(self.tokens).for_each(|(near, token)| *near = *token);
        let key = (self.at, self.precedence, near);
        if let Some(alternative) = known.get(&key) {
            return Ok(*alternative);
        }
        match self.follow(false)? {
            Found { alternative: Some(alternative), looked } => {
                // Without the rules around nothing else decides.
                if looked <= NEAR {
                    known.insert(key, alternative);
                }
                Ok(alternative)
            }
            _ => Ok(self.follow(true)?.alternative.unwrap_or(0)),
        }
    }

    fn follow(&self, full: bool) -> Result<Found, NoWay> {
        let begin = if full { self.stack.clone() } else { None };
        let mut ways = Vec::new();
        let mut seen = HashSet::new();
        for (alternative, edge) in self.automaton.states[self.at].edges.iter().enumerate() {
            self.close(Way { alternative, at: edge.to(), stack: begin.clone(), outside: false, lowest: false }, 0, full, &mut seen, &mut ways);
        }
        if !full && matches!(self.automaton.states[self.at].kind, Kind::StarEntry { precedence: true, .. }) {
            // What a round can take, no rule around takes in its place: the round binds more tightly.
            let rounds: Vec<(At, Stack)> = ways.iter().filter(|way| way.alternative == 0).map(|way| (way.at, way.stack.clone())).collect();
            ways.retain(|way| way.alternative == 0 || way.lowest || !rounds.contains(&(way.at, way.stack.clone())));
        }
        let mut ahead = 0;
        loop {
            let token = self.tokens[ahead.min(self.tokens.len() - 1)];
            let next = self.step(&ways, token, full);
            let found = |alternative| Ok(Found { alternative, looked: ahead + 1 });
            if next.is_empty() {
                return match self.finished(&ways) {
                    Some(alternative) => found(Some(alternative)),
                    None => Err(NoWay { offending: ahead.min(self.tokens.len() - 1) }),
                };
            }
            if let Some(alternative) = only(&next) {
                return found(Some(alternative));
            }
            if full {
                if let Some(alternative) = resolved(&next) {
                    return found(Some(alternative));
                }
            } else if conflict(&next) {
                return found(None);
            }
            if token == 0 || next.len() > WAYS_MAX {
                return found(next.iter().map(|way| way.alternative).min());
            }
            ways = next;
            ahead += 1;
        }
    }

    /// The ways that a token leaves open.
    fn step(&self, ways: &[Way], token: u8, full: bool) -> Vec<Way> {
        let (mut next, mut seen) = (Vec::new(), HashSet::new());
        for way in ways {
            if self.automaton.states[way.at].kind == Kind::Stop {
                // Behind everything: the end of the text is still to come.
                if token == 0 {
                    next.push(way.clone());
                }
                continue;
            }
            for edge in &self.automaton.states[way.at].edges {
                if let Edge::Tokens(set, to) = edge
                    && set.has(token)
                {
                    self.close(Way { at: *to, ..way.clone() }, BEHIND, full, &mut seen, &mut next);
                }
            }
        }
        next
    }

    /// All states that are reached without a token. `depth` is 0 in the rule of the choice as long as no token was taken.
    fn close(&self, way: Way, depth: i32, full: bool, seen: &mut HashSet<Way>, ways: &mut Vec<Way>) {
        if !seen.insert(way.clone()) {
            return;
        }
        let state = &self.automaton.states[way.at];
        if state.kind == Kind::Stop {
            return match &way.stack {
                Some(frame) => self.close(Way { at: frame.follow, stack: frame.below.clone(), ..way }, depth - 1, full, seen, ways),
                None if full || self.automaton.follows[state.rule].is_empty() => ways.push(way),
                None => {
                    ways.push(Way { outside: true, ..way.clone() });
                    let own = state.rule == self.automaton.states[self.at].rule;
                    for (follow, precedence) in &self.automaton.follows[state.rule] {
                        let lowest = way.lowest || (own && *precedence == 0);
                        self.close(Way { at: *follow, outside: true, lowest, ..way.clone() }, -1, full, seen, ways);
                    }
                }
            };
        }
        if state.edges.iter().any(|edge| matches!(edge, Edge::Tokens(..))) {
            ways.push(way.clone());
        }
        for edge in &state.edges {
            match edge {
                Edge::Tokens(..) => {}
                Edge::Free(to) => self.close(Way { at: *to, ..way.clone() }, depth, full, seen, ways),
                Edge::Binds(level, to) => {
                    if depth != 0 || *level >= self.precedence {
                        self.close(Way { at: *to, ..way.clone() }, depth, full, seen, ways);
                    }
                }
                Edge::Rule(rule, _, to) => {
                    let stack = Some(Rc::new(Frame { follow: *to, below: way.stack.clone() }));
                    self.close(Way { at: self.automaton.starts[*rule], stack, ..way.clone() }, depth + 1, full, seen, ways);
                }
            }
        }
    }

    /// The first alternative by which the rule of the choice could end before the token that no way takes.
    fn finished(&self, ways: &[Way]) -> Option<usize> {
        let ended = |way: &&Way| way.outside || (self.automaton.states[way.at].kind == Kind::Stop && way.stack.is_none());
        ways.iter().filter(ended).map(|way| way.alternative).min()
    }
}

/// The one alternative that all ways belong to.
fn only(ways: &[Way]) -> Option<usize> {
    let first = ways.first()?.alternative;
    ways.iter().all(|way| way.alternative == first).then_some(first)
}

/// The alternatives of the ways that are at one place.
fn places(ways: &[Way]) -> Vec<(&Way, u64)> {
    let mut places: Vec<(&Way, u64)> = Vec::new();
    for way in ways {
        match places.iter_mut().find(|(known, _)| known.at == way.at && known.stack == way.stack) {
            Some((_, alternatives)) => *alternatives |= 1 << way.alternative,
            None => places.push((way, 1 << way.alternative)),
        }
    }
    places
}

/// Whether more tokens will not tell: some place is reached by several alternatives, and no state by one alone.
fn conflict(ways: &[Way]) -> bool {
    let places = places(ways);
    let several = places.iter().any(|(_, alternatives)| alternatives.count_ones() > 1);
    let alone = places.iter().any(|(way, _)| {
        let all = places.iter().filter(|(other, _)| other.at == way.at).fold(0, |all, (_, alternatives)| all | alternatives);
        all.count_ones() == 1
    });
    several && !alone
}

/// The alternative that wins at every place, the first where several are there.
fn resolved(ways: &[Way]) -> Option<usize> {
    let mut winners = places(ways).into_iter().map(|(_, alternatives)| alternatives.trailing_zeros() as usize);
    let first = winners.next()?;
    winners.all(|winner| winner == first).then_some(first)
}
