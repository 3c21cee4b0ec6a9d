//! Whole rows of logits, in an answer or as an `.npy` file.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use half::f16;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::api::token_options::Number;

/// The content type of `.npy` files.
pub const NPY: &str = "application/x-npy";

/// Rows of raw logits, one for each of the tokens at `positions`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Logits {
    /// "float32" or "float16", little-endian.
    dtype: &'static str,
    /// The number of rows, and of tokens in the vocabulary.
    shape: [usize; 2],
    /// The tokens that the rows predict: their indices in prompt and completion, from 0.
    positions: Vec<usize>,
    /// The numbers, row by row, in base64.
    #[serde(serialize_with = "base64")]
    #[schema(value_type = String)]
    pub data: Vec<u8>,
}

fn base64<S: Serializer>(data: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64_STANDARD.encode(data))
}

impl Logits {
    pub fn new<'a>(
        number: Number,
        vocabulary: usize,
        rows: impl Iterator<Item = (usize, &'a Arc<[f32]>)>,
    ) -> Self {
        let mut positions = Vec::new();
        let mut data = Vec::new();
        for (position, row) in rows {
            positions.push(position);
            match number {
                Number::Float32 => data.extend(row.iter().flat_map(|logit| logit.to_le_bytes())),
                Number::Float16 => {
                    let row = row.iter().map(|&logit| f16::from_f32(logit));
                    data.extend(row.flat_map(f16::to_le_bytes));
                }
            }
        }
        Self {
            dtype: number.as_str(),
            shape: [positions.len(), vocabulary],
            positions,
            data,
        }
    }
}

/// All rows as one matrix that `numpy.load` reads. `numpy.lib.format` documents the format (version 1.0).
pub fn npy<'a>(
    number: Number,
    vocabulary: usize,
    all: impl Iterator<Item = &'a Logits>,
) -> Vec<u8> {
    /// The length of the header, with all before it, is a multiple of this.
    const ALIGNMENT: usize = 64;
    const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";
    let (mut count, mut data) = (0, Vec::new());
    for logits in all {
        count += logits.positions.len();
        data.extend_from_slice(&logits.data);
    }
    let mut header = format!(
        "{{'descr': '<f{}', 'fortran_order': False, 'shape': ({count}, {vocabulary}), }}",
        number.bytes()
    );
    let length = (MAGIC.len() + 2 + header.len() + 1).next_multiple_of(ALIGNMENT) - MAGIC.len() - 2;
    header.extend(std::iter::repeat_n(' ', length - 1 - header.len()));
    header.push('\n');
    let mut file = MAGIC.to_vec();
    // Such a header has about a hundred bytes.
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.bytes());
    file.append(&mut data);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn npy_files() {
        let rows: [Arc<[f32]>; 2] = [[1.0, -2.5].into(), [0.0, f32::NEG_INFINITY].into()];
        let places = || [3, 7].into_iter().zip(&rows);
        let logits = Logits::new(Number::Float32, 2, places());
        assert_eq!((logits.shape, &logits.positions[..]), ([2, 2], &[3, 7][..]));
        let file = npy(Number::Float32, 2, [&logits, &logits].into_iter());
        assert_eq!(file.len(), 128 + 2 * 16);
        let head = String::from_utf8_lossy(&file[10..128]);
        assert!(head.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 2), }"));
        assert!(head.ends_with('\n'));
        assert_eq!(u16::from_le_bytes([file[8], file[9]]), 118);
        assert_eq!(file[128..132], 1.0_f32.to_le_bytes());
        let halves = Logits::new(Number::Float16, 2, places());
        assert_eq!(halves.data, [0, 0x3c, 0, 0xc1, 0, 0, 0, 0xfc]);
    }
}
