//! A call that is a function's name, a separator, and the arguments as JSON.

use super::held::{Begins, Found, Held, begins, find, head};
use super::part::{Functions, Parts, Rest, Step};

/// What is before the name in some forms, and is not part of it.
const NAMESPACE: &str = "functions.";
/// The longest text before the arguments.
const MOST_HEAD_BYTES: usize = 256;
/// What may stand around the arguments.
const FENCES: [&str; 2] = ["```json", "```"];

#[derive(Debug)]
pub struct NamedCall {
    separators: &'static [&'static str],
    state: State,
}

#[derive(Debug)]
enum State {
    Head,
    /// Before the arguments.
    Before,
    /// Within them.
    Arguments {
        depth: usize,
        in_string: bool,
        escaped: bool,
    },
}

/// What stands before the arguments.
enum Head {
    More,
    No,
    /// The name, the id if there is one, and the length.
    Is(String, Option<String>, usize),
}

impl NamedCall {
    pub fn new(separators: &'static [&'static str]) -> Self {
        Self {
            separators,
            state: State::Head,
        }
    }

    pub fn step(
        &mut self,
        held: &mut Held,
        functions: &Functions,
        parts: &mut Parts,
        rest: Rest,
    ) -> Step {
        loop {
            match &mut self.state {
                State::Head => match self.read_head(held.as_str(), functions, rest.is_none()) {
                    Head::More => return Step::More,
                    Head::No => return Step::Text(String::new()),
                    Head::Is(name, id, length) => {
                        held.skip(length);
                        parts.call(&name, id);
                        self.state = State::Before;
                    }
                },
                State::Before => {
                    held.skip(held.blank());
                    let text = held.as_str();
                    if rest.is_none() && FENCES[0].starts_with(text) {
                        // It was cut off.
                        held.skip(held.as_str().len());
                        if rest == Rest::Ended {
                            parts.arguments("{}");
                        }
                        return Step::Over;
                    }
                    if text.starts_with('{') {
                        self.state = State::Arguments {
                            depth: 0,
                            in_string: false,
                            escaped: false,
                        };
                        continue;
                    }
                    let fence = FENCES
                        .iter()
                        .find(|fence| begins(text, fence, rest.is_none()) != Begins::No);
                    match fence {
                        Some(fence) if text.starts_with(fence) => held.skip(fence.len()),
                        Some(_) if rest == Rest::More => return Step::More,
                        // A call without arguments.
                        _ => {
                            parts.arguments("{}");
                            return Step::Over;
                        }
                    }
                }
                State::Arguments {
                    depth,
                    in_string,
                    escaped,
                } => {
                    let text = held.as_str();
                    let mut end = None;
                    for (position, byte) in text.bytes().enumerate() {
                        match byte {
                            _ if *escaped => *escaped = false,
                            b'\\' if *in_string => *escaped = true,
                            b'"' => *in_string = !*in_string,
                            _ if *in_string => {}
                            b'{' | b'[' => *depth += 1,
                            b'}' | b']' => {
                                *depth = depth.saturating_sub(1);
                                if *depth == 0 {
                                    end = Some(position + 1);
                                    break;
                                }
                            }
                            _ => {}
                        }
                    }
                    let length = end.unwrap_or(text.len());
                    parts.arguments(held.take(length));
                    return match end {
                        None if rest == Rest::More => Step::More,
                        _ => Step::Over,
                    };
                }
            }
        }
    }

    fn read_head(&self, text: &str, functions: &Functions, last: bool) -> Head {
        // However much of the text has come, the same of it counts.
        let length = head(text, MOST_HEAD_BYTES).len();
        let last = last || length < text.len();
        let text = &text[..length];
        let undecided = || if last { Head::No } else { Head::More };
        // Some models leave the separator out.
        let separators = || self.separators.iter().copied().chain(["{"]);
        let after = |start: usize| match find(text, start, separators(), last) {
            Found::At(index, position) => {
                let separator = self.separators.get(index).map_or(0, |it| it.len());
                Some((position, position + separator))
            }
            Found::Maybe(_) | Found::No => None,
        };
        let Some((name_end, mut end)) = after(0) else {
            return undecided();
        };
        let raw = text[..name_end].trim();
        let known = |raw: &str| {
            let bare = raw.strip_prefix(NAMESPACE).unwrap_or(raw);
            let numbered = bare.rsplit_once(':').filter(|(_, number)| {
                !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
            });
            let names = [Some(raw), Some(bare), numbered.map(|(name, _)| name)];
            let name = names.into_iter().flatten();
            let mut name = name.filter(|name| functions.contains(name));
            name.next().map(str::to_owned)
        };
        let rest = text[end..].trim_start();
        if rest.is_empty() && !last {
            return undecided();
        }
        // With an id: another separator follows.
        let mut id = None;
        if rest.is_empty() || rest.starts_with('{') {
            // The arguments.
        } else if self.separators.len() > 1 && end > name_end {
            let Some((id_end, arguments)) = after(end) else {
                return undecided();
            };
            if id_end > end {
                id = Some(text[end..id_end].trim().to_owned());
                end = arguments;
            }
        } else {
            // What came was the kind of the call, and the name follows on the same line.
            let start = text.len() - rest.len();
            let line = ["\n", "```", "{"];
            match find(text, start, line.into_iter(), last) {
                Found::At(_, position) => {
                    if let Some(name) = known(text[start..position].trim()) {
                        return Head::Is(name, None, position);
                    }
                }
                Found::Maybe(_) | Found::No if !last => return Head::More,
                Found::Maybe(_) | Found::No => {}
            }
        }
        match known(raw) {
            None => Head::No,
            Some(name) => {
                // An id that has the name must come back as it is.
                let id = id.or_else(|| raw.contains(':').then(|| raw.to_owned()));
                Head::Is(name, id, end)
            }
        }
    }
}
