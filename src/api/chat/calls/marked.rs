//! Texts in which markers surround reasoning and calls.

use std::sync::Arc;

use super::gemma::GemmaCall;
use super::held::{Begins, Found, Held, begins, find};
use super::named::NamedCall;
use super::object::ObjectCall;
use super::parameters::ParametersCall;
use super::part::{Functions, Part, Parts, Rest, Step};
use super::python::PythonCall;
use crate::api::chat::forms::{Body, Form, Keys, Thinking};

/// What a code block begins and ends with.
const FENCE: &str = "```";
const FENCE_JSON: &str = "```json";
/// The keys of an object in a form that has none.
const KEYS: &Keys = &Keys::Two("name", "arguments");

/// How a text is read.
#[derive(Debug, Clone)]
pub struct Reads {
    /// The form of calls, if they are looked for.
    pub form: Option<&'static Form>,
    pub functions: Arc<Functions>,
    /// Whether there can be more than one.
    pub several: bool,
    pub thinking: Option<&'static Thinking>,
    /// Whether reasoning is shown apart from content. Otherwise it is content with its markers.
    pub splits: bool,
}

/// Reads a text while it is generated. Text that may begin a call is held back until that is known.
#[derive(Debug)]
pub struct MarkedReader {
    reads: Reads,
    held: Held,
    state: State,
    /// Whether there was a call.
    calls: bool,
    /// Whether white space is dropped before what follows.
    trims: bool,
    /// Whether anything but reasoning was shown.
    began: bool,
    /// Whether a marker that begins an answer was text, so that what ends one is, too.
    tells: bool,
}

#[derive(Debug)]
enum State {
    /// The beginning, or after reasoning or a call: where an object may be a call that lacks its marker.
    Start,
    /// Text outside of calls.
    Content,
    Reasoning(Reasoning),
    /// After a marker or where there should be one: the text before the call that is text if none follows.
    Candidate(Candidate),
    /// Within a call.
    Call(Candidate, Call),
    /// After a call; in a list of calls.
    After(bool),
    /// Text until the end.
    Text,
}

/// Where in reasoning the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reasoning {
    /// At its beginning, before any text.
    Blank,
    Text,
    /// After a marker that begins a call: if the reasoning does not end, it is one. How far its end was looked for.
    Call(usize),
}

#[derive(Debug, Default)]
struct Candidate {
    /// The text before it.
    lead: String,
    marked: bool,
    listed: bool,
    /// Bytes of the marker that are part of the call.
    unread: usize,
}

#[derive(Debug)]
enum Call {
    Object(ObjectCall),
    Named(NamedCall),
    Parameters(ParametersCall),
    Python(PythonCall),
    Gemma(GemmaCall),
}

impl Call {
    fn step(
        &mut self,
        held: &mut Held,
        functions: &Functions,
        parts: &mut Parts,
        rest: Rest,
    ) -> Step {
        match self {
            Self::Object(call) => call.step(held, functions, parts, rest),
            Self::Named(call) => call.step(held, functions, parts, rest),
            Self::Parameters(call) => call.step(held, functions, parts, rest),
            Self::Python(call) => call.step(held, functions, parts, rest),
            Self::Gemma(call) => call.step(held, functions, parts, rest),
        }
    }
}

/// What text a candidate is.
enum Shape {
    More,
    /// Another marker, of this length with white space before it.
    Marker(usize),
    /// An object after this many bytes; in a list.
    Object(usize, bool),
    /// What the form has.
    Own,
}

impl MarkedReader {
    /// `inside`: the prompt began reasoning.
    pub fn new(reads: Reads, inside: bool) -> Self {
        let state = if inside {
            State::Reasoning(Reasoning::Blank)
        } else {
            State::Start
        };
        Self {
            reads,
            held: Held::default(),
            state,
            calls: false,
            trims: false,
            began: false,
            tells: false,
        }
    }

    pub fn held(&mut self) -> &mut Held {
        &mut self.held
    }

    pub fn is_reasoning(&self) -> bool {
        self.reads.splits && matches!(self.state, State::Reasoning(_))
    }

    /// Takes what is known now; all of it if nothing follows.
    pub fn run(&mut self, parts: &mut Parts, rest: Rest) {
        while self.step(parts, rest) {}
        if rest.is_none() {
            self.finish(parts);
        }
    }

    /// The end of the text.
    fn finish(&mut self, parts: &mut Parts) {
        let length = self.held.as_str().len();
        match &mut self.state {
            State::Reasoning(_) => {
                let text = self.held.take(length);
                self.reason(text, parts);
            }
            // White space between and after calls.
            State::Start | State::Content if self.calls && self.held.as_str().trim().is_empty() => {
            }
            State::Candidate(candidate) => {
                let lead = std::mem::take(&mut candidate.lead);
                let text = self.held.take(length);
                parts.content(lead + &text);
            }
            State::After(_) | State::Call(..) => {}
            State::Start | State::Content | State::Text => self.show(length, parts),
        }
    }

    /// Takes one step through the held text; returns whether another may be possible.
    fn step(&mut self, parts: &mut Parts, rest: Rest) -> bool {
        let last = rest.is_none();
        match &mut self.state {
            State::Start => self.start(parts, rest),
            State::Content => self.content(parts, last),
            &mut State::Reasoning(reasoning) => self.reasoning(reasoning, parts, rest),
            State::Candidate(_) => self.candidate(parts, rest),
            State::Call(candidate, call) => {
                match call.step(&mut self.held, &self.reads.functions, parts, rest) {
                    Step::More => return false,
                    Step::Over => {
                        self.calls = true;
                        self.state = State::After(candidate.listed);
                    }
                    Step::Text(text) => {
                        let candidate = std::mem::take(candidate);
                        self.reject(candidate, &text, parts, rest);
                    }
                }
                true
            }
            &mut State::After(listed) => self.after(listed, last),
            State::Text => {
                let length = self.held.as_str().len();
                self.show(length, parts);
                false
            }
        }
    }

    /// Emits text that is no call.
    fn show(&mut self, length: usize, parts: &mut Parts) {
        let mut text = self.held.take(length);
        if self.trims {
            text = text.trim_start().to_owned();
        }
        if !text.is_empty() {
            self.trims = false;
            self.began |= !text.trim().is_empty();
        }
        parts.content(text);
    }

    /// Emits text of reasoning.
    fn reason(&mut self, text: String, parts: &mut Parts) {
        if self.reads.splits {
            parts.reasoning(text);
        } else {
            parts.content(text);
        }
    }

    fn start(&mut self, parts: &mut Parts, rest: Rest) -> bool {
        let last = rest.is_none();
        let blank = self.held.blank();
        let text = &self.held.as_str()[blank..];
        if text.is_empty() {
            return false;
        }
        if let Some(thinking) = self.reads.thinking.filter(|_| !self.began) {
            match begins(text, thinking.open, last) {
                Begins::Yes => {
                    self.held.skip(blank);
                    self.begin_reasoning(thinking, parts);
                    return true;
                }
                Begins::Maybe => return false,
                Begins::No => {}
            }
            // The end of reasoning that was none.
            match begins(text, thinking.close, last) {
                Begins::Yes if self.reads.splits => {
                    self.held.skip(blank + thinking.close.len());
                    self.trims = true;
                    return true;
                }
                Begins::Maybe => return false,
                Begins::Yes | Begins::No => {}
            }
        }
        if self.calls && rest != Rest::Ended {
            let open = self.reads.form.map_or(&[][..], |form| form.open);
            let mut open = open.iter();
            // The marker of another call, which may be cut off.
            if open.any(|marker| begins(text, marker, false) == Begins::Maybe) {
                if last {
                    self.held.skip(self.held.as_str().len());
                }
                return false;
            }
        }
        let takes_objects = self
            .reads
            .form
            .is_some_and(|form| form.bare || (self.calls && matches!(form.body, Body::Object(_))));
        if takes_objects {
            match Self::shape(text, &[], last) {
                Shape::More => return false,
                Shape::Object(length, listed) => {
                    let mut candidate = Candidate {
                        listed,
                        ..Candidate::default()
                    };
                    candidate.lead = self.held.take(blank + length);
                    self.begin_object(candidate);
                    return true;
                }
                Shape::Own | Shape::Marker(_) => {}
            }
        }
        self.state = State::Content;
        true
    }

    fn begin_reasoning(&mut self, thinking: &'static Thinking, parts: &mut Parts) {
        self.held.skip(thinking.open.len());
        if !self.reads.splits {
            parts.content(thinking.open.to_owned());
        }
        self.state = State::Reasoning(Reasoning::Blank);
    }

    fn begin_object(&mut self, candidate: Candidate) {
        let keys = match self.reads.form.map(|form| &form.body) {
            Some(Body::Object(keys)) => keys,
            _ => KEYS,
        };
        let call = ObjectCall::new(keys, candidate.marked);
        self.state = State::Call(candidate, Call::Object(call));
    }

    /// What text after a marker is. `markers` may follow it.
    fn shape(text: &str, markers: &[&str], last: bool) -> Shape {
        let inside = text.trim_start();
        if inside.is_empty() {
            return if last { Shape::Own } else { Shape::More };
        }
        for marker in markers {
            match begins(inside, marker, last) {
                Begins::Yes => return Shape::Marker(text.len() - inside.len() + marker.len()),
                Begins::Maybe => return Shape::More,
                Begins::No => {}
            }
        }
        let fenced = inside.strip_prefix(FENCE);
        let fenced = fenced.map(|inside| inside.strip_prefix("json").unwrap_or(inside));
        if !last && FENCE_JSON.starts_with(inside) {
            return Shape::More;
        }
        let object = fenced.unwrap_or(inside).trim_start();
        let start = text.len() - object.len();
        if object.is_empty() {
            return if last { Shape::Own } else { Shape::More };
        }
        if object.starts_with('{') {
            return Shape::Object(start, false);
        }
        match object.strip_prefix('[').map(str::trim_start) {
            Some("") if !last => Shape::More,
            Some(item) if item.starts_with('{') => Shape::Object(text.len() - item.len(), true),
            _ => Shape::Own,
        }
    }

    /// Looks for the marker that begins a call, and emits the text before it.
    fn content(&mut self, parts: &mut Parts, last: bool) -> bool {
        let calls = self
            .reads
            .form
            .filter(|_| self.reads.several || !self.calls);
        let open = calls.map_or(&[][..], |form| form.open);
        let named = calls.and_then(|form| match &form.body {
            Body::Parameters(form) if !form.name.0.is_empty() => Some(form.name.0),
            _ => None,
        });
        let thinking = self.reads.thinking.filter(|_| self.reads.splits);
        let answer = thinking.map_or(&[][..], |thinking| thinking.answer);
        let anywhere = thinking.filter(|thinking| thinking.anywhere);
        let calls = open.len() + usize::from(named.is_some());
        let markers = open.iter().copied().chain(named);
        let markers = markers.chain(anywhere.map(|thinking| thinking.open));
        let closes = calls + usize::from(anywhere.is_some());
        let markers = markers.chain(answer.iter().map(|(_, close)| *close));
        let opens = closes + answer.len();
        let begun = answer.iter().map(|(open, _)| *open);
        let markers = markers.chain(begun.filter(|open| !open.is_empty()));
        let text = self.held.as_str();
        let (end, found) = match find(text, 0, markers.clone(), last) {
            Found::At(index, position) => (position, Some(index)),
            Found::Maybe(position) => (position, None),
            Found::No => (text.len(), None),
        };
        // White space before a marker belongs to it.
        let shown = if last && found.is_none() && !self.calls {
            end
        } else {
            text[..end].trim_end().len()
        };
        self.show(shown, parts);
        let Some(index) = found else {
            return false;
        };
        let blank = end - shown;
        let marker = markers.clone().nth(index).map_or(0, str::len);
        if index < calls {
            let length = open.get(index).map_or(0, |marker| marker.len());
            let unread = match length {
                0 => named.map_or(0, str::len),
                _ => 0,
            };
            let lead = self.held.take(blank + length);
            self.state = State::Candidate(Candidate {
                lead,
                marked: true,
                listed: false,
                unread,
            });
        } else if let Some(thinking) = anywhere.filter(|_| index < closes) {
            self.held.skip(blank);
            self.begin_reasoning(thinking, parts);
        } else if index >= opens {
            // An answer may be about the marker.
            if self.began {
                self.tells = true;
                self.show(blank + marker, parts);
            } else {
                self.held.skip(blank + marker);
            }
        } else {
            let rest = &self.held.as_str()[blank + marker..];
            let after = rest.trim_start();
            let space = rest.len() - after.len();
            let ends = if self.tells {
                Some(false)
            } else {
                ends_before(after, markers.take(opens), last)
            };
            match ends {
                None => return false,
                Some(true) => self.held.skip(blank + marker + space),
                Some(false) => self.show(blank + marker, parts),
            }
        }
        true
    }

    fn reasoning(&mut self, reasoning: Reasoning, parts: &mut Parts, rest: Rest) -> bool {
        let last = rest.is_none();
        let Some(thinking) = self.reads.thinking else {
            return false;
        };
        let splits = self.reads.splits;
        if reasoning == Reasoning::Blank && splits {
            self.held.skip(self.held.blank());
            if self.held.as_str().is_empty() {
                return false;
            }
        }
        let close = [thinking.close];
        if let Reasoning::Call(searched) = reasoning {
            // Calls that it only thinks about are followed by its end.
            match find(self.held.as_str(), searched, close.into_iter(), last) {
                Found::At(_, position) => {
                    let text = self.held.take(position);
                    let blank = text.len() - text.trim_end().len();
                    self.reason(text[..text.len() - blank].to_owned(), parts);
                    self.state = State::Reasoning(Reasoning::Text);
                    return true;
                }
                Found::Maybe(position) => {
                    self.state = State::Reasoning(Reasoning::Call(position));
                    return false;
                }
                Found::No if !last => {
                    let length = self.held.as_str().len();
                    self.state = State::Reasoning(Reasoning::Call(length));
                    return false;
                }
                Found::No => return self.calls_in_reasoning(parts, rest),
            }
        }
        let open = self
            .reads
            .form
            .filter(|_| splits)
            .map_or(&[][..], |form| form.open);
        let markers = close.into_iter().chain(open.iter().copied());
        let text = self.held.as_str();
        let (end, found) = match find(text, 0, markers, last) {
            Found::At(index, position) => (position, Some(index)),
            Found::Maybe(position) => (position, None),
            Found::No => (text.len(), None),
        };
        let shown = match found {
            _ if !splits => end,
            None if last => end,
            _ => text[..end].trim_end().len(),
        };
        if shown > 0 {
            let text = self.held.take(shown);
            self.reason(text, parts);
        }
        match found {
            Some(0) => {
                if splits {
                    self.trims = true;
                } else {
                    self.began = true;
                    parts.content(thinking.close.to_owned());
                }
                self.held.skip(end - shown + thinking.close.len());
                self.state = State::Start;
                true
            }
            Some(_) => {
                self.state = State::Reasoning(Reasoning::Call(end - shown));
                true
            }
            None => {
                if shown > 0 {
                    self.state = State::Reasoning(Reasoning::Text);
                }
                false
            }
        }
    }

    /// The text ends within reasoning, and after a marker that begins a call.
    fn calls_in_reasoning(&mut self, parts: &mut Parts, rest: Rest) -> bool {
        let reads = Reads {
            thinking: None,
            ..self.reads.clone()
        };
        let mut inner = Self::new(reads, false);
        inner.held = self.held.clone();
        inner.state = State::Content;
        let mut found = Parts::default();
        inner.run(&mut found, rest);
        if !inner.calls {
            // As `finish` leaves it.
            return false;
        }
        self.held.skip(self.held.as_str().len());
        let mut called = false;
        for part in found.0 {
            called |= matches!(part, Part::Call { .. });
            match part {
                Part::Content(text) if !called => parts.reasoning(text),
                part => parts.0.push(part),
            }
        }
        self.calls = true;
        self.state = State::After(false);
        false
    }

    fn candidate(&mut self, parts: &mut Parts, rest: Rest) -> bool {
        let last = rest.is_none();
        let State::Candidate(candidate) = &mut self.state else {
            return false;
        };
        let mut candidate = std::mem::take(candidate);
        let Some(form) = self.reads.form else {
            return false;
        };
        match Self::shape(self.held.as_str(), form.open, last) {
            Shape::More => {
                self.state = State::Candidate(candidate);
                return false;
            }
            Shape::Marker(length) => {
                candidate.lead += &self.held.take(length);
                self.state = State::Candidate(candidate);
            }
            Shape::Object(length, listed) => {
                candidate.lead += &self.held.take(length);
                candidate.listed |= listed;
                self.begin_object(candidate);
            }
            Shape::Own => {
                let call = match &form.body {
                    Body::Named(separators) => Call::Named(NamedCall::new(separators)),
                    Body::Parameters(parameters) => {
                        Call::Parameters(ParametersCall::new(parameters, form.close))
                    }
                    Body::Gemma => Call::Gemma(GemmaCall::default()),
                    Body::Python => {
                        if !candidate.listed {
                            let blank = self.held.blank();
                            if !self.held.as_str()[blank..].starts_with('[') {
                                return self.reject(candidate, "", parts, rest);
                            }
                            candidate.lead += &self.held.take(blank + 1);
                            candidate.listed = true;
                        }
                        Call::Python(PythonCall::default())
                    }
                    Body::Object(_) | Body::Channels(_) => {
                        return self.reject(candidate, "", parts, rest);
                    }
                };
                self.state = State::Call(candidate, call);
            }
        }
        true
    }

    /// What was a candidate is text, and so is what was read of the call.
    fn reject(&mut self, candidate: Candidate, read: &str, parts: &mut Parts, rest: Rest) -> bool {
        // After a call it is one that was cut off. A marker alone may be what an answer is about.
        if self.calls && candidate.marked && rest == Rest::Cut {
            self.held.skip(self.held.as_str().len());
            self.state = State::After(false);
            return true;
        }
        self.began = true;
        parts.content(candidate.lead);
        parts.content(read.to_owned());
        let unread = self.held.take(candidate.unread);
        parts.content(unread);
        self.state = State::Content;
        true
    }

    /// After a call come markers that end it, others, or text.
    fn after(&mut self, listed: bool, last: bool) -> bool {
        let blank = self.held.blank();
        let text = &self.held.as_str()[blank..];
        if text.is_empty() {
            return false;
        }
        let close = self.reads.form.map_or(&[][..], |form| form.close);
        for marker in close.iter().copied().chain([FENCE]) {
            match begins(text, marker, last) {
                Begins::Yes => {
                    self.held.skip(blank + marker.len());
                    return true;
                }
                Begins::Maybe => return false,
                // It was cut off.
                Begins::No if last && marker.starts_with(text) => {
                    self.held.skip(self.held.as_str().len());
                    return false;
                }
                Begins::No => {}
            }
        }
        if listed && text.starts_with(']') {
            self.held.skip(blank + 1);
            self.state = State::After(false);
            return true;
        }
        if listed && self.reads.several && text.starts_with(',') {
            let lead = self.held.take(blank + 1);
            self.state = State::Candidate(Candidate {
                lead,
                marked: true,
                listed,
                unread: 0,
            });
            return true;
        }
        self.state = if self.reads.several {
            State::Start
        } else {
            State::Text
        };
        true
    }
}

/// Whether an answer ends before this text: there is none, or another marker. `None`: that is not known yet.
fn ends_before<'m>(text: &str, markers: impl Iterator<Item = &'m str>, last: bool) -> Option<bool> {
    if text.is_empty() {
        return last.then_some(true);
    }
    let mut markers = markers.map(|marker| begins(text, marker, last));
    match markers.find(|marker| *marker != Begins::No) {
        Some(Begins::Maybe) => None,
        marker => Some(marker.is_some()),
    }
}
