//! How many contexts, and how many sequences in one decode: measured once per model and machine, and saved next to the
//! downloaded models. Which is fastest depends on both: two contexts of one thread each decode two sequences in little more
//! than the time that one context of two threads takes for one, and whether wide decodes pay off depends on memory, on the
//! vocabulary and on the layout of the weights.
//!
//! Exact and invariant mode only use decodes of one class of widths (`engine::widths`). A start measures only for a few
//! seconds, because someone is waiting for it; the rest is measured in idle moments (`engine::idle`).

mod measure;
mod results;
mod shapes;
mod table;
mod tuning;

pub use results::kept_classes;
pub use shapes::Arrangement;
pub use table::{Table, tune};
pub use tuning::{Moment, Step, Tuning};
