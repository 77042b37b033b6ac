//! Numbers as Go treats them.

use crate::{Value, quote::Quoted};
use std::num::IntErrorKind;

/// The largest number below which floats are exact.
const EXACT_MAX: f64 = 9_007_199_254_740_991.0;
/// How far from a whole number a float may be, in proportion (`go-openapi/swag/conv`).
const EPSILON: f64 = 1e-9;
/// 2^63, the first float that is too large for an `i64`.
const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;

/// Whether a float stands for a whole number.
pub(crate) fn is_whole(float: f64) -> bool {
    if !(-EXACT_MAX..=EXACT_MAX).contains(&float) {
        return false;
    }
    let rounded = float.round();
    float == rounded || (rounded != 0.0 && (float - rounded).abs() < EPSILON * rounded.abs())
}

/// A float as Go cuts it on amd64: what is no `i64` is the least of them.
pub fn go_int(float: f64) -> i64 {
    if (-TWO_TO_63..TWO_TO_63).contains(&float) { float as i64 } else { i64::MIN }
}

/// A float without a fraction as the whole number that it is once it has been written and read again.
pub fn reread(float: f64) -> Option<i64> {
    (float.fract() == 0.0 && float.abs() < TWO_TO_63).then_some(float as i64)
}

/// Makes whole numbers of the floats in a value that come back as such once the value has been written and read again.
pub fn reread_all(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            if let Some(whole) = number.as_f64().and_then(reread) {
                *value = whole.into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(reread_all),
        Value::Object(map) => map.values_mut().for_each(reread_all),
        _ => {}
    }
}

/// A whole number as a function of Go's `strconv` reads it (`ParseInt`, `Atoi`).
///
/// # Errors
/// What that function says.
pub fn whole(function: &str, text: &str) -> Result<i64, String> {
    text.parse::<i64>().map_err(|error| {
        let why = match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("strconv.{function}: parsing {}: {why}", Quoted(text))
    })
}

/// A float as `%v` prints it: the shortest digits, with an exponent below -4 and from 6 on.
pub fn float(float: f64) -> String {
    let text = format!("{float:e}");
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..6).contains(&exponent) => format!("{digits}e{exponent:+03}"),
        _ => float.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_prints_floats() {
        assert_eq!([0.5, 5.0, 1e20, 1e21, 1e-4, 1e-5, -2.5e-7].map(float), ["0.5", "5", "1e+20", "1e+21", "0.0001", "1e-05", "-2.5e-07"]);
        assert_eq!([100_000.0, 999_999.0, 1e6, 2_147_483_648.0].map(float), ["100000", "999999", "1e+06", "2.147483648e+09"]);
        assert_eq!([1.0, 1.5, 0.0, 1e-12, 3.000_000_000_1, 1e16].map(is_whole), [true, false, true, false, true, false]);
    }

    #[test]
    fn as_go_reads_whole_numbers() {
        assert_eq!([whole("Atoi", "-1"), whole("Atoi", "+1")], [Ok(-1), Ok(1)]);
        for (text, why) in [("", "invalid syntax"), ("1.0", "invalid syntax"), ("-9999999999999999999", "value out of range")] {
            assert_eq!(whole("Atoi", text), Err(format!("strconv.Atoi: parsing \"{text}\": {why}")));
        }
    }

    #[test]
    fn as_go_cuts_and_rereads_floats() {
        assert_eq!([1.5, -1.5, -TWO_TO_63, TWO_TO_63, f64::NAN].map(go_int), [1, -1, i64::MIN, i64::MIN, i64::MIN]);
        assert_eq!([3.0, -0.0, 1.5, TWO_TO_63, -TWO_TO_63, f64::NAN].map(reread), [Some(3), Some(0), None, None, None, None]);
        let mut value = serde_json::json!({"a": [1.0, 1.5], "b": {"c": 2.0, "d": "3.0"}});
        reread_all(&mut value);
        assert_eq!(value, serde_json::json!({"a": [1, 1.5], "b": {"c": 2, "d": "3.0"}}));
    }
}
