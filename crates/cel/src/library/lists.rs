//! Lists: Kubernetes' own functions (`kubernetes.lists`) and those of `cel-go/ext` (version 3).

use std::cmp::Ordering;
use std::sync::LazyLock;

use super::{costs, global, member};
use crate::ast::Literal;
use crate::cost::{CallEstimate, Cost, EstimatedCall, LIST_CREATE, Node, Range, STRING_TRAVERSAL, Size};
use crate::decl::Run;
use crate::decl::{Binding, Function, Library, Overload};
use crate::error::EvalError;
use crate::eval::standard::counted_plain;
use crate::eval::{PER_CALL_LIMIT, standard};
use crate::macros;
use crate::types::Type;
use crate::value::{List, Value, compare, is_ordered, method_equal};
use crate::version::Version;
use crate::work;

/// The types with an order.
const ORDERED: [&str; 8] = ["int", "uint", "double", "bool", "duration", "timestamp", "string", "bytes"];
/// The types with sums.
const SUMMED: [&str; 4] = ["int", "uint", "double", "duration"];
/// The rows of the functions that have an overload for each type, by the name of the type.
static ROWS: LazyLock<Vec<Rows>> = LazyLock::new(|| ORDERED.map(Rows::of).into());

/// The rows for one type.
struct Rows {
    name: &'static str,
    is_sorted: String,
    sum: String,
    max: String,
    min: String,
    sort: String,
    sort_by: String,
}

impl Rows {
    fn of(name: &'static str) -> Rows {
        let runtime = runtime(name);
        Rows {
            name,
            is_sorted: format!("list_{name}_is_sorted_bool list({name}) -> bool"),
            sum: format!("list_{name}_sum_{name} list({name}) -> {name}"),
            max: format!("list_{name}_max_{name} list({name}) -> {name}"),
            min: format!("list_{name}_min_{name} list({name}) -> {name}"),
            sort: format!("list_{runtime}_sort list({name}) -> list({name})"),
            sort_by: format!("list_{runtime}_sortByAssociatedKeys list(T) list({name}) -> list(T)"),
        }
    }
}

/// The most elements that `lists.range` makes.
const RANGE_MAX: i64 = 10_000_000;

/// Kubernetes' own, version 0.
pub fn library() -> Library {
    let of_each = |row: fn(&'static Rows) -> &'static str, run: Run| {
        ROWS.iter().map(|rows| member(row(rows), run).costs(costs::traversed, costs::scanned)).collect::<Vec<_>>()
    };
    let sums = ROWS.iter().filter(|rows| SUMMED.contains(&rows.name)).map(|rows| member(&rows.sum, sum(rows.name)).costs(costs::traversed, costs::scanned));
    let mut library = Library::new("kubernetes.lists", Version::FIRST);
    library.functions = vec![
        Function { name: "isSorted", overloads: of_each(|rows| &rows.is_sorted, is_sorted) },
        Function { name: "sum", overloads: sums.collect() },
        Function { name: "max", overloads: of_each(|rows| &rows.max, max) },
        Function { name: "min", overloads: of_each(|rows| &rows.min, min) },
        Function {
            name: "indexOf",
            overloads: vec![member("list_a_index_of_int list(A) A -> int", |args| index_of(args, false)).costs(costs::traversed, costs::scanned)],
        },
        Function {
            name: "lastIndexOf",
            overloads: vec![member("list_a_last_index_of_int list(A) A -> int", |args| index_of(args, true)).costs(costs::traversed, costs::scanned)],
        },
    ];
    library
}

/// Kubernetes' own, what came with version 1.
pub fn includes() -> Library {
    let mut library = Library::new("kubernetes.lists.includes", Version(37));
    library.functions = vec![Function {
        name: "includes",
        overloads: vec![
            member("list_includes_dyn_dyn dyn dyn -> bool", |args| {
                let Value::List(list) = &args[0] else { return is_equal(&args[0], &args[1]).map(Value::Bool) };
                work::take(list.len() as u64)?;
                for element in list.iter() {
                    if is_equal(&element?, &args[1])? {
                        return Ok(Value::Bool(true));
                    }
                }
                Ok(Value::Bool(false))
            })
            .costs(costs::traversed, includes_estimate),
        ],
    }];
    library
}

/// The target is of any type: at worst it is a list.
fn includes_estimate(call: &EstimatedCall<'_>) -> Option<CallEstimate> {
    let target = call.target?;
    if call.element(target).is_some() { costs::scanned(call) } else { Some(CallEstimate::cost(call.size(target))) }
}

/// A list that is gone through.
fn list<'a, 'v>(args: &'a [Value<'v>], at: usize) -> Result<&'a List<'v>, EvalError> {
    match args.get(at) {
        Some(Value::List(list)) => work::take(list.len() as u64).map(|()| list),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// Whether two are equal; what cannot be compared is not.
fn is_equal<'v>(one: &Value<'v>, other: &Value<'v>) -> Result<bool, EvalError> {
    match method_equal(one, other) {
        Err(error) if error.is_final() => Err(error),
        equal => Ok(equal.unwrap_or(false)),
    }
}

/// The elements, which must have an order.
fn ordered<'l, 'v>(list: &'l List<'v>) -> impl Iterator<Item = Result<Value<'v>, EvalError>> + use<'l, 'v> {
    list.iter().map(|element| element.and_then(|element| if is_ordered(&element) { Ok(element) } else { Err(EvalError::no_such_overload()) }))
}

fn is_sorted<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    let mut last: Option<Value<'v>> = None;
    for element in ordered(list(args, 0)?) {
        let element = element?;
        if last.is_some_and(|last| compare(&last, &element) == Ok(Ordering::Greater)) {
            return Ok(Value::Bool(false));
        }
        last = Some(element);
    }
    Ok(Value::Bool(true))
}

fn sum(name: &str) -> Run {
    fn from<'v>(args: &[Value<'v>], zero: Value<'v>) -> Result<Value<'v>, EvalError> {
        let mut total = zero;
        for element in list(args, 0)?.iter() {
            total = standard::add(&[total, element?])?;
        }
        Ok(total)
    }
    match name {
        "int" => |args| from(args, Value::Int(0)),
        "uint" => |args| from(args, Value::Uint(0)),
        "double" => |args| from(args, Value::Double(0.0)),
        _ => |args| from(args, Value::Duration(0)),
    }
}

fn max<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    extreme(args, "max", Ordering::Less)
}

fn min<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    extreme(args, "min", Ordering::Greater)
}

/// The element against which all before it are so.
fn extreme<'v>(args: &[Value<'v>], name: &str, replaced: Ordering) -> Result<Value<'v>, EvalError> {
    let mut found: Option<Value<'v>> = None;
    for element in ordered(list(args, 0)?) {
        let element = element?;
        if found.as_ref().is_none_or(|found| compare(found, &element) == Ok(replaced)) {
            found = Some(element);
        }
    }
    found.ok_or_else(|| EvalError::of(format!("{name} called on empty list")))
}

fn index_of<'v>(args: &[Value<'v>], last: bool) -> Result<Value<'v>, EvalError> {
    let (list, element) = (list(args, 0)?, &args[1]);
    for turn in 0..list.len() {
        let at = if last { list.len() - 1 - turn } else { turn };
        if is_equal(&list.at(at)?, element)? {
            return Ok(Value::Int(at as i64));
        }
    }
    Ok(Value::Int(-1))
}

/// Those of `cel-go/ext`.
pub fn extended() -> Library {
    let mut library = Library::new("cel.lib.ext.lists", Version(34));
    let sized = |overload: Overload, estimate| overload.overload_costs(|_, result| made(1.0, counted_plain(result)), estimate);
    let flattened = |overload: Overload| overload.bound(Binding::Unguarded).overload_costs(flatten_cost, flatten_estimate);
    let sorts = ROWS.iter().map(|rows| {
        let overload = member(&rows.sort, sort).bound(Binding::Singleton);
        overload.overload_costs(|args, _| self_compared(&args[0]), |call| sort_estimate(call, call.target?))
    });
    let sorts_by = ROWS.iter().map(|rows| {
        let overload = member(&rows.sort_by, sort_by).bound(Binding::Singleton);
        overload.overload_costs(|args, _| self_compared(&args[1]), |call| sort_estimate(call, call.args.first()?))
    });
    library.functions = vec![
        Function { name: "slice", overloads: vec![sized(member("list_slice list(T) int int -> list(T)", slice), slice_estimate)] },
        Function {
            name: "flatten",
            overloads: vec![
                flattened(member("list_flatten list(list(T)) -> list(T)", |args| flatten(args, 1))),
                flattened(member("list_flatten_int list(dyn) int -> list(dyn)", |args| match args.get(1) {
                    Some(Value::Int(depth)) => flatten(args, *depth),
                    _ => Err(EvalError::no_such_overload()),
                })),
            ],
        },
        Function { name: "sort", overloads: sorts.collect() },
        Function { name: "@sortByAssociatedKeys", overloads: sorts_by.collect() },
        Function {
            name: "lists.range",
            overloads: vec![sized(global("lists_range int -> list(int)", range), |call| {
                Some(allocating(1.0, Range::fixed(constant(call.args.first()?, u64::MAX))))
            })],
        },
        Function {
            name: "reverse",
            overloads: vec![sized(member("list_reverse list(T) -> list(T)", reverse), |call| Some(allocating(1.0, call.size(call.target?))))],
        },
        Function {
            name: "distinct",
            overloads: vec![member("list_distinct list(T) -> list(T)", distinct).overload_costs(
                |args, _| self_compared(&args[0]),
                |call| {
                    let size = call.size(call.target?);
                    Some(allocating(2.0, size.times(size)))
                },
            )],
        },
    ];
    library.macros = macros::sort_by();
    library
}

/// The name of a type at run time.
fn runtime(name: &str) -> &str {
    match name {
        "duration" => "google.protobuf.Duration",
        "timestamp" => "google.protobuf.Timestamp",
        other => other,
    }
}

fn slice<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    let [Value::List(list), Value::Int(start), Value::Int(end)] = args else { return Err(EvalError::no_such_overload()) };
    let cannot = |why: String| Err(EvalError::of(format!("cannot slice({start}, {end}), {why}")));
    if *start < 0 || *end < 0 {
        return cannot("negative indexes not supported".to_owned());
    }
    if start > end {
        return cannot("start index must be less than or equal to end index".to_owned());
    }
    if (list.len() as i64) < *end {
        return cannot(format!("list is length {}", list.len()));
    }
    work::take_kept((*end - *start) as u64)?;
    (*start as usize..*end as usize).map(|at| list.at(at)).collect::<Result<_, _>>().map(Value::list)
}

fn flatten<'v>(args: &[Value<'v>], depth: i64) -> Result<Value<'v>, EvalError> {
    fn into<'v>(list: &List<'v>, depth: i64, out: &mut Vec<Value<'v>>) -> Result<(), EvalError> {
        work::take(list.len() as u64)?;
        for element in list.iter() {
            match element? {
                Value::List(inner) if depth > 0 => into(&inner, depth - 1, out)?,
                other => {
                    work::take_kept(1)?;
                    out.push(other);
                }
            }
        }
        Ok(())
    }
    let list = match args.first() {
        Some(Value::List(list)) => list,
        Some(other) => return Err(EvalError::of(format!("no such overload: {}.flatten()", other.type_name()))),
        None => return Err(EvalError::no_such_overload()),
    };
    if depth < 0 {
        return Err(EvalError::of("level must be non-negative"));
    }
    let mut out = Vec::new();
    into(list, depth, &mut out)?;
    Ok(Value::list(out))
}

fn range<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    let [Value::Int(size)] = args else { return Err(EvalError::no_such_overload()) };
    if *size < 0 {
        return Err(EvalError::of(format!("lists.range: size must be non-negative, got {size}")));
    }
    if *size > RANGE_MAX {
        return Err(EvalError::of(format!("lists.range: size {size} exceeds maximum allowed ({RANGE_MAX})")));
    }
    // What costs more than all that there is needs not be made.
    if *size as u64 > PER_CALL_LIMIT {
        return Err(EvalError::cost_limit());
    }
    Ok(Value::list((0..*size).map(Value::Int).collect()))
}

fn reverse<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    let list = list(args, 0)?;
    work::take_kept(list.len() as u64)?;
    (0..list.len()).rev().map(|at| list.at(at)).collect::<Result<_, _>>().map(Value::list)
}

fn distinct<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    let mut seen: Vec<Value<'v>> = Vec::new();
    for element in list(args, 0)?.iter() {
        let element = element?;
        work::take(seen.len() as u64)?;
        let mut known = false;
        for other in &seen {
            known = is_equal(&element, other)?;
            if known {
                break;
            }
        }
        if !known {
            seen.push(element);
        }
    }
    Ok(Value::list(seen))
}

fn sort<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    match args.first() {
        Some(Value::List(list)) => sorted(list, list),
        Some(Value::String(_) | Value::Timestamp(_) | Value::Duration(_)) => Err(EvalError::no_such_overload()),
        _ => Err(EvalError::of("no such overload: sort")),
    }
}

fn sort_by<'v>(args: &[Value<'v>]) -> Result<Value<'v>, EvalError> {
    sorted(list(args, 0)?, list(args, 1)?)
}

/// A list in the order of its keys.
fn sorted<'v>(list: &List<'v>, keys: &List<'v>) -> Result<Value<'v>, EvalError> {
    if list.len() != keys.len() {
        return Err(EvalError::of(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} elements respectively",
            list.len(),
            keys.len()
        )));
    }
    work::take_kept(list.len() as u64)?;
    let keys: Vec<Value<'v>> = keys.iter().collect::<Result<_, _>>()?;
    let Some(first) = keys.first() else { return Ok(Value::List(list.clone())) };
    if !is_ordered(first) {
        return Err(EvalError::of("list elements must be comparable"));
    }
    if keys.iter().any(|key| key.type_name() != first.type_name()) {
        return Err(EvalError::of("list elements must have the same type"));
    }
    let mut order: Vec<usize> = (0..list.len()).collect();
    // A double that is no number has no place: it stays where it is.
    order.sort_by(|a, b| compare(&keys[*a], &keys[*b]).unwrap_or(Ordering::Equal));
    order.into_iter().map(|at| list.at(at)).collect::<Result<_, _>>().map(Value::list)
}

/// A call that makes a list.
fn made(factor: f64, size: u64) -> u64 {
    let factor = if factor < 0.0 { 1.0 } else { factor };
    ((size as f64 * factor) as u64).saturating_add(1 + LIST_CREATE)
}

fn flatten_cost(args: &[Value<'_>], _result: &Value<'_>) -> u64 {
    let depth = match args.get(1) {
        Some(Value::Int(depth)) => *depth as f64,
        _ => 1.0,
    };
    made(depth, counted_plain(&args[0]))
}

/// Every element compared with every other.
fn self_compared(value: &Value<'_>) -> u64 {
    let size = counted_plain(value);
    let first = match value {
        Value::List(list) if !list.is_empty() => list.at(0).ok(),
        _ => None,
    };
    let factor = if matches!(first, Some(Value::String(_) | Value::Bytes(_))) { 2.0 + STRING_TRAVERSAL } else { 2.0 };
    made(factor, size.saturating_mul(size))
}

/// A constant number; else another.
fn constant(node: &Node, otherwise: u64) -> u64 {
    match &node.literal {
        Some(Literal::Int(value)) => u64::try_from(*value).unwrap_or(0),
        _ => otherwise,
    }
}

fn allocating(factor: f64, size: Size) -> CallEstimate {
    CallEstimate::sized(size.by_factor(factor).plus(Cost::fixed(1)).plus(Cost::fixed(LIST_CREATE)), size)
}

fn slice_estimate(call: &EstimatedCall<'_>) -> Option<CallEstimate> {
    let size = call.size(call.target?);
    let [start, end] = call.args else { return None };
    Some(allocating(1.0, Range::fixed(constant(end, size.max).wrapping_sub(constant(start, 0)))))
}

fn flatten_estimate(call: &EstimatedCall<'_>) -> Option<CallEstimate> {
    let depth = call.args.first().map_or(1, |depth| constant(depth, u64::MAX));
    Some(allocating(depth as f64, call.size(call.target?)))
}

fn sort_estimate(call: &EstimatedCall<'_>, keys: &Node) -> Option<CallEstimate> {
    let size = call.size(keys);
    let texts = matches!(call.element(keys).map(|element| element.ty), Some(Type::String | Type::Bytes));
    Some(allocating(if texts { 2.0 + STRING_TRAVERSAL } else { 2.0 }, size.times(size)))
}
