//! Resource quantities (`kubernetes.quantity`).
//!
//! Whether a quantity is an integer depends in the original on how it was written (`1000m` is none): the number and its scale are kept
//! as the text had them. Values end at some 10^29.

use std::cmp::Ordering;

use super::{costs, global, member};
use crate::decl::Run;
use crate::decl::{Function, Library, Overload};
use crate::error::EvalError;
use crate::value::{Opaque, Value};
use crate::version::Version;

/// The name of the type.
const NAME: &str = "kubernetes.Quantity";
/// The largest value that is not a plain number with a scale.
const MOST: i128 = i64::MAX as i128;
/// Digits behind the point: what is finer is rounded up.
const DIGITS: i32 = 9;

/// A number times a power of ten.
#[derive(Debug, Clone, Copy)]
struct Quantity {
    number: i128,
    /// The power.
    scale: i32,
    /// Whether it is small enough for the original's fast form, of which alone it says that it is an integer.
    fast: bool,
}

impl Quantity {
    fn parse(text: &str) -> Result<Quantity, EvalError> {
        text.parse::<machinery::quantity::Quantity>().map_err(|error| EvalError::of(error.to_string()))?;
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let number_end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (digits, suffix) = unsigned.split_at(number_end);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let whole = whole.trim_start_matches('0');
        let (binary, exponent) = exponent(suffix);
        let places = fraction.len().min(64);
        let (whole_digits, fraction) = (whole.len().max(1) as i32, &fraction[..places]);
        let precision = match binary {
            false => 18 - (whole_digits + places as i32),
            true if fraction.is_empty() => 15 - whole_digits - (exponent as f32 * 3.0 / 10.0) as i32 - 1,
            true => -1,
        };
        let mut number: i128 = 0;
        for digit in whole.bytes().chain(fraction.bytes()) {
            number = number.saturating_mul(10).saturating_add(i128::from(digit - b'0'));
        }
        let factor = if binary { 1i128 << exponent.clamp(0, 62) } else { 1 };
        number = number.saturating_mul(factor);
        let mut scale = (if binary { 0 } else { exponent }).saturating_sub(places as i32);
        let fast = precision >= 0 && scale >= -DIGITS && i64::try_from(number).is_ok();
        if !fast {
            // Rounded up to a billionth, and no more than the largest int. None and one stay what they are, however fine they are.
            while scale < -DIGITS && number > 1 {
                number = number / 10 + i128::from(number % 10 != 0);
                scale += 1;
            }
            scale = scale.max(-DIGITS);
            if billionths(number, scale) > MOST * 1_000_000_000 {
                (number, scale) = (MOST, 0);
            }
        }
        Ok(Quantity { number: if negative { -number } else { number }, scale, fast })
    }

    /// A whole number.
    fn of(value: i64) -> Quantity {
        Quantity { number: value.into(), scale: 0, fast: true }
    }

    fn int(self) -> Option<i64> {
        if !self.fast || self.scale < 0 {
            return None;
        }
        10i128.checked_pow(self.scale.unsigned_abs()).and_then(|power| self.number.checked_mul(power)).and_then(|value| i64::try_from(value).ok())
    }

    fn float(self) -> f64 {
        let base = self.number as f64;
        if self.scale == 0 { base } else { base * format!("1e{}", self.scale).parse::<f64>().unwrap_or(0.0) }
    }

    fn sum(self, other: Quantity) -> Quantity {
        if self.fast && other.fast {
            if other.number == 0 {
                return self;
            }
            if self.number == 0 {
                return other;
            }
        }
        let scale = self.scale.min(other.scale);
        let raised = |one: Quantity| {
            let power = 10i128.checked_pow(one.scale.abs_diff(scale)).unwrap_or(i128::MAX);
            one.number.saturating_mul(power)
        };
        let number = raised(self).saturating_add(raised(other));
        Quantity { number, scale, fast: self.fast && other.fast && i64::try_from(number).is_ok() }
    }
}

/// A number in billionths.
fn billionths(number: i128, scale: i32) -> i128 {
    let power = scale.saturating_add(DIGITS);
    let factor = 10i128.checked_pow(power.unsigned_abs()).unwrap_or(i128::MAX);
    if power >= 0 { number.saturating_mul(factor) } else { number / factor }
}

/// The exponent of a suffix, and whether it is one of two.
fn exponent(suffix: &str) -> (bool, i32) {
    let place = |letters: &str, letter: char| letters.find(letter).map_or(0, |at| at as i32);
    match suffix.as_bytes() {
        [] => (false, 0),
        [letter, b'i'] => (true, 10 * (1 + place("KMGTPE", char::from(*letter)))),
        [b'n'] => (false, -9),
        [b'u'] => (false, -6),
        [b'm'] => (false, -3),
        [letter] => (false, 3 * (1 + place("kMGTPE", char::from(*letter)))),
        // What a quantity may be written with (`1e-3`).
        [_, ..] => (false, suffix[1..].parse().unwrap_or(0)),
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        billionths(self.number, self.scale).cmp(&billionths(other.number, other.scale))
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Quantity {}

impl Opaque for Quantity {
    fn type_name(&self) -> &'static str {
        NAME
    }

    fn equals(&self, other: &Value<'_>) -> Result<bool, EvalError> {
        other.as_opaque::<Quantity>().map(|other| self == other).ok_or_else(EvalError::no_such_overload)
    }
}

pub fn library() -> Library {
    let one = |overload: Overload| overload.costs(costs::nominal, costs::nominal_estimate);
    let of = |name, row: &'static str, run: Run| Function { name, overloads: vec![one(member(row, run))] };
    let read = |name, row: &'static str, run: Run| Function { name, overloads: vec![global(row, run).costs(costs::read_first, costs::read_first_estimate)] };
    let mut library = Library::new("kubernetes.quantity", Version(28));
    library.functions = vec![
        read("quantity", "string_to_quantity string -> kubernetes.Quantity", |args| Quantity::parse(args[0].as_str().unwrap_or_default()).map(Value::opaque)),
        read("isQuantity", "is_quantity_string string -> bool", |args| Ok(Value::Bool(Quantity::parse(args[0].as_str().unwrap_or_default()).is_ok()))),
        Function {
            name: "sign",
            overloads: vec![one(global("quantity_sign kubernetes.Quantity -> int", |args| Ok(Value::Int(get(args, 0)?.number.signum() as i64))))],
        },
        of("isGreaterThan", "quantity_is_greater_than kubernetes.Quantity kubernetes.Quantity -> bool", |args| Ok(Value::Bool(get(args, 0)? > get(args, 1)?))),
        of("isLessThan", "quantity_is_less_than kubernetes.Quantity kubernetes.Quantity -> bool", |args| Ok(Value::Bool(get(args, 0)? < get(args, 1)?))),
        of("compareTo", "quantity_compare_to kubernetes.Quantity kubernetes.Quantity -> int", |args| Ok(Value::Int(get(args, 0)?.cmp(&get(args, 1)?) as i64))),
        of("asApproximateFloat", "quantity_get_float kubernetes.Quantity -> double", |args| Ok(Value::Double(get(args, 0)?.float()))),
        of("asInteger", "quantity_get_int kubernetes.Quantity -> int", |args| {
            get(args, 0)?.int().map(Value::Int).ok_or_else(|| EvalError::of("cannot convert value to integer"))
        }),
        of("isInteger", "quantity_is_integer kubernetes.Quantity -> bool", |args| Ok(Value::Bool(get(args, 0)?.int().is_some()))),
        Function {
            name: "add",
            overloads: vec![
                one(member("quantity_add kubernetes.Quantity kubernetes.Quantity -> kubernetes.Quantity", |args| sum(args, false))),
                one(member("quantity_add_int kubernetes.Quantity int -> kubernetes.Quantity", |args| sum(args, false))),
            ],
        },
        Function {
            name: "sub",
            overloads: vec![
                one(member("quantity_sub kubernetes.Quantity kubernetes.Quantity -> kubernetes.Quantity", |args| sum(args, true))),
                one(member("quantity_sub_int kubernetes.Quantity int -> kubernetes.Quantity", |args| sum(args, true))),
            ],
        },
    ];
    library
}

/// A quantity as a value.
pub(crate) fn value<'v>(text: &str) -> Result<Value<'v>, EvalError> {
    Quantity::parse(text).map(Value::opaque)
}

fn get(args: &[Value<'_>], at: usize) -> Result<Quantity, EvalError> {
    match args.get(at) {
        Some(Value::Int(value)) => Ok(Quantity::of(*value)),
        other => other.and_then(|arg| arg.as_opaque::<Quantity>()).copied().ok_or_else(EvalError::no_such_overload),
    }
}

fn sum<'v>(args: &[Value<'v>], negative: bool) -> Result<Value<'v>, EvalError> {
    let mut other = get(args, 1)?;
    if negative {
        other.number = other.number.saturating_neg();
    }
    Ok(Value::opaque(get(args, 0)?.sum(other)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_those_that_were_written_so() {
        let int = |text: &str| Quantity::parse(text).unwrap().int();
        assert_eq!(["1", "50k", "1Gi", "10E", "2Mi"].map(int), [Some(1), Some(50_000), Some(1 << 30), None, Some(2 << 20)]);
        assert_eq!(["1000m", "1.0", "1.5Gi", "0.5"].map(int), [None; 4]);
        assert_eq!(Quantity::parse("50k").unwrap().sum(Quantity::of(20)).int(), Some(50_020));
        assert!(Quantity::parse("200M").unwrap() == Quantity::parse("0.2G").unwrap());
        assert!(Quantity::parse("-1Ki").unwrap() < Quantity::parse("1n").unwrap());
        assert_eq!(Quantity::parse("1.5Gi").unwrap().float(), 1_610_612_736.0);
        assert!(Quantity::parse("1Kx").is_err());
    }

    #[test]
    fn any_exponent_is_read_at_once() {
        let read = |text: &str| Quantity::parse(text).unwrap();
        let started = std::time::Instant::now();
        assert!(read("1e-2147483648") == read("1n") && read("-999e-2147483648") == read("-1n") && read("1.5e-2147483648") == read("1n"));
        assert!(read("0e-2147483648") == read("0"));
        assert!(read("1e2147483647") > read("1E") && read("1e2147483647").cmp(&read("1e2147483646")).is_eq());
        let least = read("-1e2147483647").sum(read("-1"));
        assert!(sum(&[Value::opaque(read("0")), Value::opaque(least)], true).is_ok());
        assert!(started.elapsed().as_secs() < 60);
    }
}
