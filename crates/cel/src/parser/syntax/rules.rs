//! The grammar as a table. Rules that begin with themselves are loops whose rounds have a precedence; whether the way is chosen by
//! the next token alone or by looking further ahead is ANTLR's choice, and noted where it is made.

/// A rule by its place in [`RULES`].
pub(super) type Rule = usize;

/// A part of a rule.
pub(super) enum Part {
    /// A token.
    T(&'static str),
    /// One of some tokens.
    OneOf(&'static [&'static str]),
    /// Another rule, with the precedence from which its rounds are taken.
    R(Rule, u8),
    /// Goes on only where the rule's precedence is no more than this.
    Binds(u8),
    /// Perhaps.
    Opt(&'static [Part]),
    /// One of these.
    Alt(Ahead, &'static [&'static [Part]]),
    /// Any number of times one of these.
    Star(Ahead, &'static [&'static [Part]]),
    /// At least once.
    Plus(Ahead, &'static [Part]),
}

/// How a way is chosen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ahead {
    /// By the next token.
    One,
    /// By as many tokens as it takes.
    Many,
}

use Ahead::{Many, One};
use Part::{Alt, Binds, OneOf, Opt, Plus, R, Star, T};

const START: Rule = 0;
pub(super) const EXPR: Rule = 1;
pub(super) const OR: Rule = 2;
pub(super) const AND: Rule = 3;
pub(super) const RELATION: Rule = 4;
pub(super) const CALC: Rule = 5;
pub(super) const UNARY: Rule = 6;
pub(super) const MEMBER: Rule = 7;
pub(super) const PRIMARY: Rule = 8;
pub(super) const EXPRS: Rule = 9;
const LIST: Rule = 10;
const FIELDS: Rule = 11;
pub(super) const FIELD: Rule = 12;
pub(super) const ENTRIES: Rule = 13;
pub(super) const NAME: Rule = 14;
pub(super) const OPT_EXPR: Rule = 15;
pub(super) const LITERAL: Rule = 16;

/// The rule of a whole text.
pub(super) const WHOLE: Rule = START;

pub(super) const RULES: [&[Part]; 17] = [
    &[R(EXPR, 0), T("<EOF>")],
    &[R(OR, 0), Opt(&[T("?"), R(OR, 0), T(":"), R(EXPR, 0)])],
    &[R(AND, 0), Star(One, &[&[T("||"), R(AND, 0)]])],
    &[R(RELATION, 0), Star(One, &[&[T("&&"), R(RELATION, 0)]])],
    &[R(CALC, 0), Star(Many, &[&[Binds(1), OneOf(&["==", "!=", "in", "<", "<=", ">=", ">"]), R(RELATION, 2)]])],
    &[R(UNARY, 0), Star(Many, &[&[Binds(2), OneOf(&["*", "/", "%"]), R(CALC, 3)], &[Binds(1), OneOf(&["-", "+"]), R(CALC, 2)]])],
    &[Alt(Many, &[&[R(MEMBER, 0)], &[Plus(One, &[T("!")]), R(MEMBER, 0)], &[Plus(Many, &[T("-")]), R(MEMBER, 0)]])],
    &[
        R(PRIMARY, 0),
        Star(
            Many,
            &[
                &[Binds(3), T("."), Opt(&[T("?")]), R(NAME, 0)],
                &[Binds(2), T("."), T("IDENTIFIER"), T("("), Opt(&[R(EXPRS, 0)]), T(")")],
                &[Binds(1), T("["), Opt(&[T("?")]), R(EXPR, 0), T("]")],
            ],
        ),
    ],
    &[Alt(
        Many,
        &[
            &[Opt(&[T(".")]), T("IDENTIFIER")],
            &[Opt(&[T(".")]), T("IDENTIFIER"), T("("), Opt(&[R(EXPRS, 0)]), T(")")],
            &[T("("), R(EXPR, 0), T(")")],
            &[T("["), Opt(&[R(LIST, 0)]), Opt(&[T(",")]), T("]")],
            &[T("{"), Opt(&[R(ENTRIES, 0)]), Opt(&[T(",")]), T("}")],
            &[Opt(&[T(".")]), T("IDENTIFIER"), Star(One, &[&[T("."), T("IDENTIFIER")]]), T("{"), Opt(&[R(FIELDS, 0)]), Opt(&[T(",")]), T("}")],
            &[R(LITERAL, 0)],
        ],
    )],
    &[R(EXPR, 0), Star(One, &[&[T(","), R(EXPR, 0)]])],
    &[R(OPT_EXPR, 0), Star(Many, &[&[T(","), R(OPT_EXPR, 0)]])],
    &[R(FIELD, 0), T(":"), R(EXPR, 0), Star(Many, &[&[T(","), R(FIELD, 0), T(":"), R(EXPR, 0)]])],
    &[Opt(&[T("?")]), R(NAME, 0)],
    &[R(OPT_EXPR, 0), T(":"), R(EXPR, 0), Star(Many, &[&[T(","), R(OPT_EXPR, 0), T(":"), R(EXPR, 0)]])],
    &[Alt(One, &[&[T("IDENTIFIER")], &[T("ESC_IDENTIFIER")]])],
    &[Opt(&[T("?")]), R(EXPR, 0)],
    &[Alt(
        Many,
        &[
            &[Opt(&[T("-")]), T("NUM_INT")],
            &[T("NUM_UINT")],
            &[Opt(&[T("-")]), T("NUM_FLOAT")],
            &[T("STRING")],
            &[T("BYTES")],
            &[T("true")],
            &[T("false")],
            &[T("null")],
        ],
    )],
];
