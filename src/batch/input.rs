//! The input file. It is read once to check it; after that, lines are read again when they are sent.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::failure::Failure;
use super::request::Request;
use crate::api::counted;
use crate::model::hex;

/// What identifies an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputId {
    /// Of the whole file, in lower-case hex.
    pub sha256: String,
    pub bytes: u64,
    /// Without empty ones.
    pub lines: usize,
}

/// An input whose lines are all fine.
pub struct Input {
    path: PathBuf,
    file: File,
    /// When the file was changed the last time before it was read.
    modified: SystemTime,
    pub id: InputId,
    lines: Vec<Line>,
    /// Indices of lines, by their ids.
    by_id: Vec<u32>,
    /// Each model that lines name (`None`: lines that name none), and the number of the first such line.
    pub models: BTreeMap<Option<String>, u32>,
}

/// What is kept of a line: 32 bytes.
struct Line {
    /// Of its `custom_id`.
    id: IdHash,
    offset: u64,
    length: u32,
    /// From 1, counting empty lines.
    number: u32,
}

/// Half a SHA-256: in practice, no two ids have the same.
type IdHash = [u8; 16];

impl Input {
    /// Reads a file, checks every line, and shows `each` request. If lines are wrong, the error names all of them, up to a
    /// limit. It ends early if `each` fails.
    pub fn read(
        path: &Path,
        mut each: impl FnMut(&Request) -> Result<(), Failure>,
    ) -> Result<Self, Failure> {
        let unreadable = |error: io::Error| {
            Failure::Refused(format!(
                "cannot read {}: {error}. Pass a file with a request on each line; it is read twice, so it cannot be a pipe.",
                path.display()
            ))
        };
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(unreadable(io::Error::other("it is not a regular file")));
        }
        let mut input = Self {
            path: path.to_owned(),
            file,
            modified: metadata.modified().map_err(unreadable)?,
            id: InputId {
                sha256: String::new(),
                bytes: 0,
                lines: 0,
            },
            lines: Vec::new(),
            by_id: Vec::new(),
            models: BTreeMap::new(),
        };
        let mut problems = Problems::default();
        let mut hash = Sha256::new();
        let mut reader = BufReader::with_capacity(1 << 20, &input.file);
        let mut text = Vec::new();
        for number in 1.. {
            text.clear();
            let length = reader.read_until(b'\n', &mut text).map_err(unreadable)?;
            if length == 0 {
                break;
            }
            hash.update(&text);
            let offset = input.id.bytes;
            input.id.bytes += length as u64;
            if text.trim_ascii().is_empty() {
                continue;
            }
            let line = u32::try_from(length).map_err(|_| "longer than 4 GiB".to_owned());
            match line.and_then(|length| Ok((length, Request::parse(&text)?))) {
                Ok((length, request)) => {
                    each(&request)?;
                    input.lines.push(Line {
                        id: id_hash(&request.custom_id),
                        offset,
                        length,
                        number,
                    });
                    let model = request.model().map(str::to_owned);
                    input.models.entry(model).or_insert(number);
                }
                Err(why) => problems.add(number, why),
            }
        }
        drop(reader);
        input.id.sha256 = hex(&hash.finalize());
        input.id.lines = input.lines.len();
        if problems.count == 0 {
            input.find_duplicates(&mut problems)?;
        }
        if problems.count == 0 && input.lines.is_empty() {
            let path = path.display();
            return Err(Failure::Refused(format!("{path} has no requests")));
        }
        problems.refuse(path)?;
        Ok(input)
    }

    fn find_duplicates(&mut self, problems: &mut Problems) -> Result<(), Failure> {
        self.by_id = (0..).take(self.lines.len()).collect();
        let of = |index: &u32| self.lines[*index as usize].id;
        self.by_id.sort_unstable_by_key(|index| (of(index), *index));
        let pairs = self.by_id.windows(2);
        let mut doubled: Vec<(u32, u32)> = pairs
            .filter(|pair| of(&pair[0]) == of(&pair[1]))
            .map(|pair| (pair[1], pair[0]))
            .collect();
        doubled.sort_unstable();
        for (second, first) in doubled {
            let why = if problems.are_shown() {
                let id = self.request(second)?.custom_id;
                let first = self.number(first);
                format!("`custom_id` {id:?} is that of line {first}, too")
            } else {
                String::new()
            };
            problems.add(self.number(second), why);
        }
        Ok(())
    }

    /// Reads a line again.
    pub fn request(&self, index: u32) -> Result<Request, Failure> {
        let line = &self.lines[index as usize];
        let mut text = vec![0; line.length as usize];
        let read = self.file.read_exact_at(&mut text, line.offset);
        // After the line, so that it was still the same then.
        let modified = read.and_then(|()| self.file.metadata()?.modified());
        let request = match modified {
            Ok(modified) if modified == self.modified => Request::parse(&text),
            Ok(_) => Err("another program has written the file".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let request = request.and_then(|request| {
            let is_same = id_hash(&request.custom_id) == line.id;
            is_same.then_some(request).ok_or("another id".to_owned())
        });
        request.map_err(|why| {
            Failure::Stopped(format!(
                "{} has changed since it was read: line {}, {why}. Leave it as it is while it is processed.",
                self.path.display(),
                line.number
            ))
        })
    }

    /// The index of the line with this id.
    pub fn find(&self, custom_id: &str) -> Option<u32> {
        let id = id_hash(custom_id);
        let of = |index: &u32| self.lines[*index as usize].id;
        let found = self.by_id.binary_search_by_key(&id, of).ok()?;
        Some(self.by_id[found])
    }

    /// The number of a line in the file, from 1.
    pub fn number(&self, index: u32) -> u32 {
        self.lines[index as usize].number
    }
}

fn id_hash(custom_id: &str) -> IdHash {
    let mut hash = IdHash::default();
    hash.copy_from_slice(&Sha256::digest(custom_id)[..16]);
    hash
}

/// Wrong lines.
#[derive(Default)]
struct Problems {
    shown: Vec<String>,
    count: usize,
}

impl Problems {
    /// How many are shown.
    const MOST: usize = 20;

    fn add(&mut self, number: u32, why: String) {
        if self.are_shown() {
            self.shown.push(format!("line {number}: {why}"));
        }
        self.count += 1;
    }

    fn are_shown(&self) -> bool {
        self.count < Self::MOST
    }

    fn refuse(self, path: &Path) -> Result<(), Failure> {
        if self.count == 0 {
            return Ok(());
        }
        let mut lines = vec![format!(
            "{} has {} that cannot be sent, so nothing was sent:",
            path.display(),
            counted(self.count, "line")
        )];
        let more = self.count - self.shown.len();
        lines.extend(self.shown);
        if more > 0 {
            lines.push(format!("and {more} more"));
        }
        Err(Failure::Refused(lines.join("\n")))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(text: &str) -> Result<Input, Failure> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Input::read(file.path(), |_| Ok(()))
    }

    fn line(id: &str, body: &str) -> String {
        format!(
            r#"{{"custom_id": "{id}", "method": "POST", "url": "/v1/completions", "body": {body}}}"#
        )
    }

    #[test]
    fn lines_are_found_by_their_ids_and_read_again() {
        let text = [
            line("a", "{}"),
            String::new(),
            line("b", r#"{"model": "m"}"#),
            "  ".to_owned(),
            line("c", "{}"),
        ]
        .join("\n");
        let input = read(&text).unwrap();
        assert_eq!(input.id.lines, 3);
        assert_eq!(input.id.bytes, text.len() as u64);
        assert_eq!(input.id.sha256, hex(&Sha256::digest(&text)));
        for (index, id) in ["a", "b", "c"].into_iter().enumerate() {
            let index = index as u32;
            assert_eq!(input.find(id), Some(index));
            assert_eq!(input.request(index).unwrap().custom_id, id);
            assert_eq!(input.number(index), 2 * index + 1);
        }
        assert_eq!(input.find("d"), None);
        let models: Vec<_> = input.models.into_iter().collect();
        assert_eq!(models, [(None, 1), (Some("m".to_owned()), 3)]);
    }

    #[test]
    fn wrong_lines_are_named_by_their_numbers() {
        let refused = |text: &str, parts: &[&str]| {
            let message = read(text).err().expect(text).to_string();
            for part in parts {
                assert!(message.contains(part), "{part}: {message}");
            }
        };
        refused("", &["has no requests"]);
        refused("\n\n", &["has no requests"]);
        refused(
            &[line("a", "{}"), "{".to_owned(), line("b", "[]")].join("\n"),
            &[
                "2 lines",
                "line 2: not valid JSON",
                "line 3: `body` must be",
            ],
        );
        refused(
            &[
                line("a", "{}"),
                line("b", "{}"),
                line("a", "{}"),
                line("a", "{}"),
            ]
            .join("\n"),
            &[
                "2 lines",
                "line 3: `custom_id` \"a\" is that of line 1, too",
                "line 4: `custom_id` \"a\" is that of line 3, too",
            ],
        );
        refused(
            &"x\n".repeat(100),
            &["100 lines", "line 20:", "and 80 more"],
        );
        let missing = Input::read(Path::new("/no/such/file"), |_| Ok(()))
            .err()
            .unwrap();
        assert!(missing.to_string().contains("cannot read /no/such/file"));
        assert!(Input::read(Path::new("/dev/null"), |_| Ok(())).is_err());
    }

    #[test]
    fn a_file_that_changes_is_noticed() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(line("a", "{}").as_bytes()).unwrap();
        let input = Input::read(file.path(), |_| Ok(())).unwrap();
        std::fs::write(file.path(), line("b", "{}")).unwrap();
        let why = input.request(0).unwrap_err().to_string();
        assert!(why.contains("has changed"), "{why}");
        // Also if it has the same id, and only asks for something else.
        let text = line("a", r#"{"prompt": "one"}"#);
        std::fs::write(file.path(), &text).unwrap();
        let input = Input::read(file.path(), |_| Ok(())).unwrap();
        assert!(input.request(0).is_ok());
        std::fs::write(file.path(), text.replace("one", "two")).unwrap();
        let later = SystemTime::now() + std::time::Duration::from_secs(1);
        file.as_file().set_modified(later).unwrap();
        let why = input.request(0).unwrap_err().to_string();
        assert!(why.contains("another program has written"), "{why}");
    }
}
