//! AlwaysAdmit and AlwaysDeny: for those who try out what admission is.

use super::{Plugin, World, forbidden};
use crate::Write;
use machinery::{Value, status::Status};

const WHY: &str = "admission control is denying all modifications";

pub(super) struct AlwaysAdmit;

impl Plugin for AlwaysAdmit {
    fn name(&self) -> &'static str {
        "AlwaysAdmit"
    }
}

pub(super) struct AlwaysDeny;

impl Plugin for AlwaysDeny {
    fn name(&self) -> &'static str {
        "AlwaysDeny"
    }

    fn mutate(&self, _world: &World, write: &Write<'_>, object: &mut Value) -> Result<(), Status> {
        Err(forbidden(write, object, WHY))
    }

    fn validate(&self, _world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
        Err(forbidden(write, object, WHY))
    }
}
