//! Trials of llama.cpp's routines on this CPU, before the first decode, in a child process that may crash.
//!
//! Some routines have crashed on CPUs that they were not tested on, or when a compiler miscompiled them. So for
//! each build, CPU and set of weight types, a child process runs a small model with such weights
//! ([`write_specimen`](crate::model::write_specimen)) once. If it is killed by a signal, or its results differ from those
//! of llama.cpp's plain routines, the server does without that routine and runs more slowly. The verdict is saved next to
//! the measurements of `engine::tune`.
//!
//! The bits of the results are part of the verdict: machines whose routines round alike give equal bits
//! (`engine::bits_class`).

mod compare;
mod order;
mod process;
mod specimen;
mod verdict;

pub use compare::run;
pub use order::{Order, Outcome};
pub use process::by_process;
pub use verdict::{Refused, Trials, Verdict, trials, verdict};
