//! Sizes and costs as ranges, and what a row of a library says about the cost of a call before it is made.
//!
//! All sums and products saturate: a cost that cannot be counted is the largest number.

mod estimator;
mod paths;

use std::sync::Arc;

use crate::ast::Literal;
use crate::types::{Str, Type};

pub(crate) use estimator::estimate;

/// The cost of reading one character of a string.
pub const STRING_TRAVERSAL: f64 = 0.1;
/// The cost of one character of a regular expression.
pub const REGEX_LENGTH: f64 = 0.25;
/// The cost of making a list.
pub const LIST_CREATE: u64 = 10;
/// The cost of making a map.
pub const MAP_CREATE: u64 = 30;
/// The cost of making an object.
pub const STRUCT_CREATE: u64 = 40;

/// A range of sizes (characters, bytes, elements, entries) or of costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Range {
    pub min: u64,
    pub max: u64,
}

/// How large something may be.
pub type Size = Range;
/// What something may cost.
pub type Cost = Range;

impl Range {
    /// Nothing is known.
    pub const UNKNOWN: Range = Range { min: 0, max: u64::MAX };

    /// From the one to the other.
    pub const fn new(min: u64, max: u64) -> Range {
        Range { min, max }
    }

    /// Exactly this.
    pub const fn fixed(of: u64) -> Range {
        Range { min: of, max: of }
    }

    /// The sum.
    pub fn plus(self, other: Range) -> Range {
        Range { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    /// The product.
    pub fn times(self, other: Range) -> Range {
        Range { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    /// Each end times a factor, rounded up.
    pub fn by_factor(self, factor: f64) -> Range {
        Range { min: by_factor(self.min, factor), max: by_factor(self.max, factor) }
    }

    /// What holds both.
    pub fn union(self, other: Range) -> Range {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// A number times a factor, rounded up.
pub fn by_factor(number: u64, factor: f64) -> u64 {
    // A conversion from a float saturates.
    (number as f64 * factor).ceil() as u64
}

/// What the caller knows about the sizes of his variables.
pub trait Sizes {
    /// The size of what lies at this path (a variable, then fields, `@items`, `@keys`, `@values`), or of any value of this type.
    fn size(&self, path: &[Str], ty: &Type) -> Option<Size>;
}

/// Nothing is known about sizes.
pub struct Unsized;

impl Sizes for Unsized {
    fn size(&self, _path: &[Str], _ty: &Type) -> Option<Size> {
        None
    }
}

/// The target or an argument of a call whose cost is estimated.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where it lies, if below a variable.
    pub path: Option<Vec<Str>>,
    pub ty: Type,
    /// What is known of its size from the expression, the caller and its type.
    pub size: Option<Size>,
    /// The constant that it is.
    pub literal: Option<Literal>,
}

/// What a call costs beyond its arguments, and how large its result is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallEstimate {
    pub cost: Cost,
    pub size: Option<Size>,
}

impl CallEstimate {
    /// A cost alone.
    pub fn cost(cost: Cost) -> CallEstimate {
        CallEstimate { cost, size: None }
    }

    /// With the result's size.
    pub fn sized(cost: Cost, size: Size) -> CallEstimate {
        CallEstimate { cost, size: Some(size) }
    }
}

/// A call whose cost is estimated.
pub struct EstimatedCall<'a> {
    pub sizes: &'a dyn Sizes,
    pub target: Option<&'a Node>,
    pub args: &'a [Node],
}

impl EstimatedCall<'_> {
    /// The size of a node: what is computed, else what the caller says, else unknown.
    pub fn size(&self, node: &Node) -> Size {
        node.size.or_else(|| self.sizes.size(node.path.as_deref().unwrap_or_default(), &node.ty)).unwrap_or(Range::UNKNOWN)
    }

    /// The elements of a list as a node; none where the type has no parameter. (Of a map, by the original's rule, its keys.)
    pub fn element(&self, list: &Node) -> Option<Node> {
        let ty = (*list.ty.parameters().first()?).clone();
        let path = list.path.as_ref().map(|path| path.iter().cloned().chain([Arc::from("@items")]).collect());
        Some(Node { path, ty, size: None, literal: None })
    }
}

/// How the cost of a call is estimated: `None` for the usual cost of one.
pub type Estimate = fn(&EstimatedCall<'_>) -> Option<CallEstimate>;
