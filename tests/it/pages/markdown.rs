//! What of a page a test looks at: examples, and tables that are written by it.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::curl::Command;
use super::tables::is_title;

/// What is asked, under which settings, and the answer as it is written.
#[derive(Debug)]
pub struct Example {
    /// `docs/api/chat.md:12`.
    pub place: String,
    pub command: Command,
    /// The settings that the section gives in a block of TOML; empty: the defaults.
    pub settings: String,
    pub meanwhile: Meanwhile,
    pub answer: String,
    /// The answer's lines, counted from 0.
    pub lines: Range<usize>,
}

/// What a comment before an example says of the time at which it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meanwhile {
    Nothing,
    /// `<!-- while another request runs -->`
    AnotherRuns,
    /// `<!-- while the model cannot be evaluated -->`
    EvaluationFails,
    /// `<!-- while the worker ends -->`
    WorkerEnds,
    /// `<!-- where a routine of the CPU fails -->`
    RoutineFails,
}

/// Lines between `<!-- TITLE -->` and `<!-- end -->`.
#[derive(Debug)]
pub struct Table {
    pub place: String,
    pub title: String,
    /// The heading it is under, with its `#`s.
    pub heading: String,
    pub written: String,
    pub lines: Range<usize>,
}

/// A page as it is written.
#[derive(Debug)]
pub struct Page {
    pub path: PathBuf,
    pub text: String,
    pub examples: Vec<Example>,
    pub tables: Vec<Table>,
    /// Of every level.
    pub headings: Vec<String>,
}

struct Block {
    language: String,
    body: String,
    /// The first line of the body.
    from: usize,
    to: usize,
}

impl Page {
    /// Reads a page; `name` is how it is told of. Every example of a page `must_answer` has an answer.
    pub fn read(path: &Path, name: &str, must_answer: bool) -> Self {
        let text = std::fs::read_to_string(path).expect("a page is text");
        let lines: Vec<&str> = text.lines().collect();
        let mut page = Self {
            path: path.to_owned(),
            text: text.clone(),
            examples: Vec::new(),
            tables: Vec::new(),
            headings: Vec::new(),
        };
        let (mut settings, mut meanwhile) = (String::new(), Meanwhile::Nothing);
        // A request that waits for its answer.
        let mut asked: Option<(usize, Command)> = None;
        let mut at = 0;
        while at < lines.len() {
            let (line, place) = (lines[at], format!("{name}:{}", at + 1));
            at += 1;
            if let Some(language) = line.strip_prefix("```") {
                let to = (at..lines.len())
                    .find(|&end| lines[end] == "```")
                    .unwrap_or_else(|| panic!("{place}: the block has no end"));
                let block = Block {
                    language: language.to_owned(),
                    body: lines[at..to]
                        .iter()
                        .map(|line| format!("{line}\n"))
                        .collect(),
                    from: at,
                    to,
                };
                at = to + 1;
                if let Some((place, command)) = asked.take() {
                    let place = format!("{name}:{place}");
                    if ["json", "http", "text"].contains(&&*block.language) {
                        page.examples.push(Example {
                            place,
                            command,
                            settings: settings.clone(),
                            meanwhile: std::mem::replace(&mut meanwhile, Meanwhile::Nothing),
                            answer: block.body,
                            lines: block.from..block.to,
                        });
                        continue;
                    }
                    assert!(!must_answer, "{place}: no answer follows");
                }
                if block.language == "toml" {
                    settings = block.body;
                } else if block.language == "sh" {
                    asked = Command::read(&block.body, &place).map(|command| (block.from, command));
                }
                continue;
            }
            if line.trim().is_empty() {
                continue;
            }
            if let Some((place, _)) = asked.take() {
                assert!(!must_answer, "{name}:{place}: no answer follows");
            }
            if line.starts_with('#') {
                page.headings.push(line.to_owned());
                settings.clear();
            } else if let Some(title) = comment(line) {
                match title {
                    "while another request runs" => meanwhile = Meanwhile::AnotherRuns,
                    "while the model cannot be evaluated" => meanwhile = Meanwhile::EvaluationFails,
                    "while the worker ends" => meanwhile = Meanwhile::WorkerEnds,
                    "where a routine of the CPU fails" => meanwhile = Meanwhile::RoutineFails,
                    "end" => panic!("{place}: nothing ends here"),
                    title if is_title(title) => {
                        let to = (at..lines.len())
                            .find(|&end| comment(lines[end]) == Some("end"))
                            .unwrap_or_else(|| panic!("{place}: the table has no end"));
                        page.tables.push(Table {
                            place,
                            title: title.to_owned(),
                            heading: page.headings.last().cloned().unwrap_or_default(),
                            written: lines[at..to]
                                .iter()
                                .map(|line| format!("{line}\n"))
                                .collect(),
                            lines: at..to,
                        });
                        at = to + 1;
                    }
                    // What is for other tools.
                    _ => {}
                }
            }
        }
        if let Some((place, _)) = asked {
            assert!(!must_answer, "{name}:{place}: no answer follows");
        }
        page
    }

    /// The text with other lines in some places.
    pub fn with(&self, mut changes: Vec<(Range<usize>, String)>) -> String {
        changes.sort_by_key(|(lines, _)| lines.start);
        let mut lines: Vec<String> = self.text.lines().map(str::to_owned).collect();
        for (range, text) in changes.into_iter().rev() {
            lines.splice(range, text.lines().map(str::to_owned));
        }
        lines.join("\n") + "\n"
    }
}

fn comment(line: &str) -> Option<&str> {
    Some(line.strip_prefix("<!-- ")?.strip_suffix(" -->")?.trim())
}
