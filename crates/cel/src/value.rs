//! What an expression reads and gives.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::types::{Str, Type};

/// A value.
#[derive(Debug, Clone)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Str),
    Bytes(Arc<[u8]>),
    /// Seconds and nanoseconds since 1970.
    Timestamp(i64, u32),
    /// Nanoseconds.
    Duration(i64),
    List(Arc<Vec<Value>>),
    Map(Arc<Vec<(Value, Value)>>),
    Optional(Option<Arc<Value>>),
    Type(Type),
    Opaque(Arc<dyn Opaque>),
}

/// A value of a library's own type.
pub trait Opaque: Any + Send + Sync + fmt::Debug {
    /// Its type.
    fn cel_type(&self) -> Type;
}
