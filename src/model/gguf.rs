//! The header of a GGUF file, read before llama.cpp opens it: llama.cpp aborts the process on some contents.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

/// The metadata and the list of tensors.
#[derive(Debug)]
pub(super) struct Head {
    values: HashMap<String, Value>,
    pub(super) tensors: Vec<Tensor>,
}

/// A value of the metadata. Types that are not needed here are not read.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Float(f32),
    Whole(u64),
    Other,
}

/// The entry of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tensor {
    pub(super) name: String,
    /// In llama.cpp's order: rows are contiguous along the first.
    pub(super) sizes: [u64; 4],
    /// ggml's number of the tensor type.
    pub(super) kind: u32,
}

/// Why a header could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeadError {
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("is not a GGUF file")]
    NotGguf,
    #[error("is damaged or incomplete: {0}")]
    Damaged(&'static str),
}

/// Maximum number of entries: more than any model has, and few enough to be kept.
const MOST_ENTRIES: u64 = 1 << 20;

impl Head {
    pub(super) fn read(path: &Path) -> Result<Self, HeadError> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut reader = Reader {
            from: BufReader::new(file),
            size,
        };
        reader.head().map_err(|error| match error {
            HeadError::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                HeadError::Damaged("it is cut off")
            }
            error => error,
        })
    }

    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// The text with this key.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self.value(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The whole number with this key.
    pub(super) fn whole(&self, key: &str) -> Option<u64> {
        match self.value(key) {
            Some(Value::Whole(number)) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

struct Reader {
    from: BufReader<File>,
    /// Size of the file: nothing in it is longer.
    size: u64,
}

impl Reader {
    fn head(&mut self) -> Result<Head, HeadError> {
        let mut magic = [0; 4];
        match self.from.read_exact(&mut magic) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(HeadError::NotGguf);
            }
            read => read?,
        }
        // Version 1 had shorter lengths; llama.cpp does not read it any more.
        if &magic != b"GGUF" || !(2..=3).contains(&self.u32()?) {
            return Err(HeadError::NotGguf);
        }
        let (tensors, values) = (self.u64()?, self.u64()?);
        if tensors.max(values) > MOST_ENTRIES {
            return Err(HeadError::Damaged("it claims to have millions of entries"));
        }
        let mut head = Head {
            values: HashMap::new(),
            tensors: Vec::new(),
        };
        for _ in 0..values {
            let key = self.text()?;
            let kind = self.u32()?;
            let value = self.value(kind)?;
            head.values.insert(key, value);
        }
        let mut farthest = None;
        for _ in 0..tensors {
            let name = self.text()?;
            let count = self.u32()? as usize;
            let mut sizes = [1; 4];
            for size in sizes.get_mut(..count).ok_or(HeadError::Damaged(
                "it has a tensor of more than four dimensions",
            ))? {
                *size = self.u64()?;
            }
            let kind = self.u32()?;
            farthest = farthest.max(Some(self.u64()?));
            head.tensors.push(Tensor { name, sizes, kind });
        }
        // Offsets count from the end of the header; its padding does not matter here.
        let head_bytes = self.from.stream_position()?;
        if farthest.is_some_and(|offset| head_bytes.saturating_add(offset) >= self.size) {
            return Err(HeadError::Damaged("its weights are cut off"));
        }
        Ok(head)
    }

    fn value(&mut self, kind: u32) -> Result<Value, HeadError> {
        const U32: u32 = 4;
        const FLOAT: u32 = 6;
        const TEXT: u32 = 8;
        const ARRAY: u32 = 9;
        const U64: u32 = 10;
        match kind {
            U32 => Ok(Value::Whole(self.u32()?.into())),
            U64 => Ok(Value::Whole(self.u64()?)),
            FLOAT => Ok(Value::Float(f32::from_bits(self.u32()?))),
            TEXT => Ok(Value::Text(self.text()?)),
            ARRAY => {
                let (kind, count) = (self.u32()?, self.u64()?);
                if kind == TEXT {
                    for _ in 0..count {
                        let length = self.u64()?;
                        self.skip(length)?;
                    }
                } else {
                    self.skip(count.saturating_mul(width(kind)?))?;
                }
                Ok(Value::Other)
            }
            kind => {
                self.skip(width(kind)?)?;
                Ok(Value::Other)
            }
        }
    }

    fn u32(&mut self) -> Result<u32, HeadError> {
        let mut bytes = [0; 4];
        self.from.read_exact(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn u64(&mut self) -> Result<u64, HeadError> {
        let mut bytes = [0; 8];
        self.from.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn text(&mut self) -> Result<String, HeadError> {
        let length = self.u64()?;
        if length > self.size {
            return Err(HeadError::Damaged("it has a text longer than the file"));
        }
        let mut bytes = Vec::new();
        self.from.by_ref().take(length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != length {
            return Err(HeadError::Damaged("it is cut off"));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn skip(&mut self, bytes: u64) -> Result<(), HeadError> {
        let bytes = i64::try_from(bytes)
            .ok()
            .filter(|_| bytes <= self.size)
            .ok_or(HeadError::Damaged("it has a list longer than the file"))?;
        Ok(self.from.seek_relative(bytes)?)
    }
}

/// Bytes of a number, by GGUF's number of its type.
fn width(kind: u32) -> Result<u64, HeadError> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => Err(HeadError::Damaged("it has a value of an unknown type")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A GGUF file with these tensors, whose weights are zeros.
    pub(in crate::model) fn written(
        values: &[(&str, Value)],
        tensors: &[(&str, [u64; 4], u32)],
    ) -> Vec<u8> {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        let text = |file: &mut Vec<u8>, text: &str| {
            file.extend((text.len() as u64).to_le_bytes());
            file.extend(text.as_bytes());
        };
        file.extend((tensors.len() as u64).to_le_bytes());
        file.extend((values.len() as u64).to_le_bytes());
        for (key, value) in values {
            text(&mut file, key);
            match value {
                Value::Text(value) => {
                    file.extend(8_u32.to_le_bytes());
                    text(&mut file, value);
                }
                Value::Float(value) => {
                    file.extend(6_u32.to_le_bytes());
                    file.extend(value.to_le_bytes());
                }
                Value::Whole(value) => {
                    file.extend(10_u32.to_le_bytes());
                    file.extend(value.to_le_bytes());
                }
                // A list of two u32.
                Value::Other => {
                    file.extend(9_u32.to_le_bytes());
                    file.extend(4_u32.to_le_bytes());
                    file.extend(2_u64.to_le_bytes());
                    file.extend([1, 0, 0, 0, 2, 0, 0, 0]);
                }
            }
        }
        let mut offset = 0_u64;
        for (name, sizes, kind) in tensors {
            text(&mut file, name);
            file.extend(4_u32.to_le_bytes());
            for size in sizes {
                file.extend(size.to_le_bytes());
            }
            file.extend(kind.to_le_bytes());
            file.extend(offset.to_le_bytes());
            let width = if *kind == 0 { 4 } else { 2 };
            offset += (sizes.iter().product::<u64>() * width).next_multiple_of(32);
        }
        file.resize(file.len().next_multiple_of(32) + offset as usize, 0);
        file
    }

    fn read(bytes: &[u8]) -> Result<Head, HeadError> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bytes).expect("written");
        Head::read(file.path())
    }

    #[test]
    fn values_and_tensors_are_found() {
        let bytes = written(
            &[
                ("a.list", Value::Other),
                ("a.text", Value::Text("words".to_owned())),
                ("a.float", Value::Float(0.5)),
                ("a.whole", Value::Whole(7)),
            ],
            &[("one", [2, 3, 1, 1], 0), ("two", [4, 1, 1, 1], 1)],
        );
        let head = read(&bytes).expect("read");
        assert_eq!(head.text("a.text"), Some("words"));
        assert_eq!(head.value("a.float"), Some(&Value::Float(0.5)));
        assert_eq!(head.value("a.list"), Some(&Value::Other));
        assert_eq!((head.value("b"), head.text("a.float")), (None, None));
        assert_eq!(
            (head.whole("a.whole"), head.whole("a.text")),
            (Some(7), None)
        );
        assert_eq!(head.tensors.len(), 2);
        assert_eq!(head.tensor("two").expect("there").sizes, [4, 1, 1, 1]);
        assert_eq!(head.tensor("two").expect("there").kind, 1);
    }

    #[test]
    fn a_file_that_is_cut_off_anywhere_is_refused() {
        let bytes = written(
            &[
                ("a.list", Value::Other),
                ("a.text", Value::Text("words".to_owned())),
            ],
            &[("one", [1, 1, 1, 1], 0)],
        );
        let end = bytes.len() - 32;
        for length in 0..end {
            let error = read(&bytes[..length]).err();
            match error {
                Some(HeadError::NotGguf) => assert!(length < 4, "{length}"),
                Some(HeadError::Damaged(_)) => assert!(length >= 4, "{length}"),
                // What follows the last entry is padding.
                None => assert!(bytes[length..end].iter().all(|byte| *byte == 0), "{length}"),
                Some(HeadError::Read(error)) => panic!("{length}: {error}"),
            }
        }
    }

    #[test]
    fn weights_that_are_cut_off_are_noticed() {
        let bytes = written(&[], &[("one", [64, 1, 1, 1], 0), ("two", [64, 1, 1, 1], 0)]);
        assert!(read(&bytes).is_ok());
        // Where the second tensor would begin.
        let error = read(&bytes[..bytes.len() - 256 - 31]).err();
        assert!(matches!(error, Some(HeadError::Damaged(_))), "{error:?}");
    }

    #[test]
    fn lengths_are_not_believed() {
        let bytes = written(&[("a.text", Value::Text("words".to_owned()))], &[]);
        for place in [8, 16, 24, 24 + 8 + 6 + 4] {
            let mut bytes = bytes.clone();
            bytes[place..place + 8].copy_from_slice(&(u64::MAX / 3).to_le_bytes());
            assert!(
                matches!(read(&bytes), Err(HeadError::Damaged(_))),
                "{place}"
            );
        }
    }
}
