//! What must be known about GGUF files before llama.cpp opens them.

use std::io::Read;
use std::path::Path;

/// Whether the file begins like a GGUF file.
pub(super) fn has_magic(path: &Path) -> std::io::Result<bool> {
    let mut head = [0; 4];
    match std::fs::File::open(path)?.read_exact(&mut head) {
        Ok(()) => Ok(&head == b"GGUF"),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// The name of one part of a split model: `STEM-00001-of-00003.gguf`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Split {
    stem: String,
    count: u32,
}

impl Split {
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let five = |text: &str| {
            (text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit()))
                .then(|| text.parse::<u32>().ok())
                .flatten()
        };
        let (number, count) = (five(number)?, five(count)?);
        // No model has more parts, and the list of their names must stay short.
        (1..=count).contains(&number).then_some(())?;
        (count <= 1000).then(|| Self {
            stem: stem.to_owned(),
            count,
        })
    }

    pub(super) fn part(&self, number: u32) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.stem, self.count)
    }

    pub(super) fn parts(&self) -> impl Iterator<Item = String> {
        (1..=self.count).map(|number| self.part(number))
    }
}
