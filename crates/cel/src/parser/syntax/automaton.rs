//! The grammar as states and edges, and which tokens may follow a state.

use super::rules::{Ahead, Part, RULES, Rule};
use super::tokens::Set;

/// A state by its number.
pub(super) type At = usize;

/// What happens at a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The one edge is taken.
    Basic,
    /// A choice among parts, the last perhaps of nothing.
    Block { by_one: bool },
    /// The beginning of a loop that runs at least once.
    PlusStart,
    /// Its end: once more, or on.
    PlusBack { by_one: bool },
    /// The beginning of a loop: a round, or on.
    StarEntry { by_one: bool, precedence: bool },
    /// The end of a round: back to the beginning, which is the one edge.
    StarBack,
    /// The end of the rule.
    Stop,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Edge {
    Free(At),
    Tokens(Set, At),
    Rule(Rule, u8, At),
    Binds(u8, At),
}

impl Edge {
    pub(super) fn to(&self) -> At {
        match *self {
            Edge::Free(to) | Edge::Tokens(_, to) | Edge::Rule(_, _, to) | Edge::Binds(_, to) => to,
        }
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) kind: Kind,
    pub(super) rule: Rule,
    pub(super) edges: Vec<Edge>,
}

#[derive(Debug)]
pub(super) struct Automaton {
    pub(super) states: Vec<State>,
    /// Where each rule begins.
    pub(super) starts: Vec<At>,
    /// Where each rule is followed, wherever it is used, and from which precedence it is used there.
    pub(super) follows: Vec<Vec<(At, u8)>>,
    /// What may come next at a state inside its rule, and whether the rule may end there.
    next: Vec<(Set, bool)>,
}

impl Automaton {
    pub(super) fn new() -> Automaton {
        let mut automaton = Automaton { states: Vec::new(), starts: Vec::new(), follows: vec![Vec::new(); RULES.len()], next: Vec::new() };
        for (rule, parts) in RULES.iter().enumerate() {
            let start = automaton.state(rule, Kind::Basic);
            automaton.starts.push(start);
            let end = automaton.sequence(rule, parts, start);
            automaton.states[end].kind = Kind::Stop;
        }
        automaton.shorten();
        for state in 0..automaton.states.len() {
            if let Some(Edge::Rule(rule, precedence, to)) = automaton.states[state].edges.first().copied() {
                automaton.follows[rule].push((to, precedence));
            }
        }
        automaton.next = (0..automaton.states.len()).map(|state| automaton.look(state)).collect();
        automaton
    }

    /// Lets edges lead past states at which nothing happens: what is behind two alternatives is then one place, as it is in ANTLR's
    /// automata.
    fn shorten(&mut self) {
        let behind = |states: &[State], mut at: At| {
            while let (Kind::Basic, [Edge::Free(to)]) = (states[at].kind, states[at].edges.as_slice()) {
                at = *to;
            }
            at
        };
        for state in 0..self.states.len() {
            let edges = std::mem::take(&mut self.states[state].edges);
            let shorter = edges.iter().map(|edge| {
                let to = behind(&self.states, edge.to());
                match *edge {
                    Edge::Free(_) => Edge::Free(to),
                    Edge::Tokens(set, _) => Edge::Tokens(set, to),
                    Edge::Rule(rule, precedence, _) => Edge::Rule(rule, precedence, to),
                    Edge::Binds(level, _) => Edge::Binds(level, to),
                }
            });
            self.states[state].edges = shorter.collect();
        }
    }

    fn state(&mut self, rule: Rule, kind: Kind) -> At {
        self.states.push(State { kind, rule, edges: Vec::new() });
        self.states.len() - 1
    }

    fn edge(&mut self, from: At, edge: Edge) {
        self.states[from].edges.push(edge);
    }

    /// The parts one behind the other; gives the state behind the last.
    fn sequence(&mut self, rule: Rule, parts: &[Part], mut from: At) -> At {
        for part in parts {
            from = self.part(rule, part, from);
        }
        from
    }

    fn part(&mut self, rule: Rule, part: &Part, from: At) -> At {
        match part {
            Part::T(name) => self.step(rule, from, |to| Edge::Tokens(Set::of(&[name]), to)),
            Part::OneOf(names) => self.step(rule, from, |to| Edge::Tokens(Set::of(names), to)),
            Part::R(other, precedence) => self.step(rule, from, |to| Edge::Rule(*other, *precedence, to)),
            Part::Binds(level) => self.step(rule, from, |to| Edge::Binds(*level, to)),
            Part::Opt(body) => {
                let block = self.free(rule, from, Kind::Block { by_one: true });
                let begin = self.free(rule, block, Kind::Basic);
                let end = self.sequence(rule, body, begin);
                let on = self.free(rule, block, Kind::Basic);
                self.edge(end, Edge::Free(on));
                on
            }
            Part::Alt(ahead, alternatives) => {
                let block = self.free(rule, from, Kind::Block { by_one: *ahead == Ahead::One });
                self.alternatives(rule, alternatives, block)
            }
            Part::Star(ahead, alternatives) => {
                let precedence = matches!(alternatives[0].first(), Some(Part::Binds(_)));
                let entry = self.free(rule, from, Kind::StarEntry { by_one: *ahead == Ahead::One, precedence });
                let round = if alternatives.len() > 1 { Kind::Block { by_one: *ahead == Ahead::One } } else { Kind::Basic };
                let block = self.free(rule, entry, round);
                let end = self.alternatives(rule, alternatives, block);
                let back = self.free(rule, end, Kind::StarBack);
                self.edge(back, Edge::Free(entry));
                self.free(rule, entry, Kind::Basic)
            }
            Part::Plus(ahead, body) => {
                let start = self.free(rule, from, Kind::PlusStart);
                let begin = self.free(rule, start, Kind::Basic);
                let end = self.sequence(rule, body, begin);
                let back = self.free(rule, end, Kind::PlusBack { by_one: *ahead == Ahead::One });
                self.edge(back, Edge::Free(begin));
                self.free(rule, back, Kind::Basic)
            }
        }
    }

    fn alternatives(&mut self, rule: Rule, alternatives: &[&[Part]], block: At) -> At {
        let end = self.state(rule, Kind::Basic);
        for parts in alternatives {
            let begin = self.free(rule, block, Kind::Basic);
            let last = self.sequence(rule, parts, begin);
            self.edge(last, Edge::Free(end));
        }
        end
    }

    fn step(&mut self, rule: Rule, from: At, edge: impl FnOnce(At) -> Edge) -> At {
        let to = self.state(rule, Kind::Basic);
        self.edge(from, edge(to));
        to
    }

    /// A new state that is reached from another without a token.
    fn free(&mut self, rule: Rule, from: At, kind: Kind) -> At {
        let to = self.state(rule, kind);
        self.edge(from, Edge::Free(to));
        to
    }

    /// What may come next at a state, and whether its rule may end there.
    pub(super) fn next(&self, at: At) -> (Set, bool) {
        self.next[at]
    }

    fn look(&self, at: At) -> (Set, bool) {
        let mut seen = vec![false; self.states.len()];
        let mut found = (Set::default(), false);
        self.look_from(at, &mut seen, &mut found);
        found
    }

    fn look_from(&self, at: At, seen: &mut [bool], found: &mut (Set, bool)) {
        if std::mem::replace(&mut seen[at], true) {
            return;
        }
        if self.states[at].kind == Kind::Stop {
            found.1 = true;
            return;
        }
        for edge in &self.states[at].edges {
            match edge {
                Edge::Tokens(set, _) => found.0 = found.0.with(*set),
                // No rule of the grammar may be of nothing.
                Edge::Rule(rule, ..) => {
                    let (first, _) = self.look(self.starts[*rule]);
                    found.0 = found.0.with(first);
                }
                Edge::Free(to) | Edge::Binds(_, to) => self.look_from(*to, seen, found),
            }
        }
    }
}
