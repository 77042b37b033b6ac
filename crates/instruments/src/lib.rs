//! What a part counts about itself, and the text in which Prometheus reads it.
//!
//! A part has one [`Registry`]. From it it gets its instruments ([`Counter`], [`Gauge`], [`Histogram`], each alone or [`Labelled`]) and
//! counts on them with an atomic; what is known anyway is worked out only when somebody asks (`Registry::collect`). Nothing here
//! has a thread, a timer or a clock, and two parts in one process share nothing.
//!
//! The names are the original's: a [`Family`] says its stability at the beginning of its help, as there. A family of which nothing
//! was counted yet is not told, unless it has no labels; labels that come from users (namespaces, names) are bounded in number.

mod exposition;
mod instrument;
mod labelled;
pub mod process;
mod registry;

pub use exposition::{Families, Family, Kind};
pub use instrument::{Counter, Gauge, Held, Histogram, Instrument, exponential};
pub use labelled::{Labelled, SERIES_MAX};
pub use registry::{Collect, Declared, Registry};
