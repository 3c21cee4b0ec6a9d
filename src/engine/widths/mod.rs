//! Which decodes give each row the same bits, and where a prompt may be cut: found by comparison, per model and machine.
//!
//! Where each sequence has its own KV cells, this depends on llama.cpp's matrix routines: for weights in a plain layout
//! (such as Q4_1) or in AMX's, each row is computed in the same way, whatever its neighbours; for K-quants elsewhere, other
//! routines compute four rows and more, and eight and more. So the numbers of sequences in a decode (its width) fall into
//! classes: within a class a row has the same bits whatever its neighbours ([`Class`]). The first class has the bits of
//! single rows, which are those of the reference.

mod class;
mod cuts;
mod search;

pub use class::{Aim, Class, Found, ROUNDS};
pub use cuts::cut_rows;
pub use search::{Search, shape};

#[cfg(test)]
mod specimen;
#[cfg(test)]
pub use {
    class::WIDEST,
    specimen::{Q4_1, specimen},
};
