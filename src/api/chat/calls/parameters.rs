//! A call that has the function's name and each argument between markers.

use std::collections::BTreeSet;

use super::held::{Begins, Found, Held, begins, find, head};
use super::part::{Functions, Parts, Rest, Step};
use crate::api::chat::arguments::{Kinds, escaped};
use crate::api::chat::forms::Parameters;

/// The longest name with what surrounds it.
const MOST_HEAD_BYTES: usize = 256;
/// The longest key.
const MOST_KEY_BYTES: usize = 1024;

#[derive(Debug)]
pub struct ParametersCall {
    form: &'static Parameters,
    /// What ends a list of calls, and the last argument if nothing else does.
    close: &'static [&'static str],
    state: State,
    name: String,
    /// Those of the arguments so far, of which the first with a key counts.
    keys: BTreeSet<String>,
    /// Whether the current argument's key was there before.
    is_repeated: bool,
}

#[derive(Debug)]
enum State {
    Name,
    /// Before an argument or the end.
    Between,
    Key,
    /// Before a value of these kinds.
    Before(Kinds),
    /// In a value, up to here of which there is no end. If it begins with a line end, another is before the marker after it.
    Value {
        kinds: Kinds,
        lined: bool,
        searched: usize,
    },
}

enum Name {
    More,
    No,
    /// The name, and its length with what surrounds it.
    Is(String, usize),
}

impl ParametersCall {
    pub fn new(form: &'static Parameters, close: &'static [&'static str]) -> Self {
        Self {
            form,
            close,
            state: State::Name,
            name: String::new(),
            keys: BTreeSet::new(),
            is_repeated: false,
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
            // A repeated argument is read, and left out.
            let mut unused = Parts::default();
            let is_unused =
                self.is_repeated && matches!(self.state, State::Before(_) | State::Value { .. });
            let shown = if is_unused { &mut unused } else { &mut *parts };
            let outcome = match self.state {
                State::Name => self.name(held, functions, shown, rest.is_none()),
                State::Between => self.between(held, shown, rest),
                State::Key => self.key(held, functions, shown, rest),
                State::Before(kinds) => self.before(held, shown, kinds, rest),
                State::Value {
                    kinds,
                    lined,
                    searched,
                } => self.value(held, shown, (kinds, lined, searched), rest),
            };
            if let Some(step) = outcome {
                // The end of the text ends the call as well.
                if is_unused && step == Step::Over && rest != Rest::Cut {
                    parts.arguments("}");
                }
                return step;
            }
        }
    }

    fn name(
        &mut self,
        held: &mut Held,
        functions: &Functions,
        parts: &mut Parts,
        last: bool,
    ) -> Option<Step> {
        match self.find_name(held.as_str(), last) {
            Name::More => Some(Step::More),
            Name::Is(name, length) if functions.contains(&name) => {
                held.skip(length);
                parts.call(&name, None);
                parts.arguments("{");
                self.name = name;
                self.state = State::Between;
                None
            }
            _ => Some(Step::Text(String::new())),
        }
    }

    fn find_name(&self, text: &str, last: bool) -> Name {
        let length = head(text, MOST_HEAD_BYTES).len();
        let last = last || length < text.len();
        let text = &text[..length];
        let (before, after) = self.form.name;
        let inside = text.trim_start();
        match begins(inside, before, last) {
            Begins::Yes => {}
            Begins::Maybe => return Name::More,
            Begins::No => return Name::No,
        }
        let start = text.len() - inside.len() + before.len();
        // Without a marker of its own, the name ends where something else begins.
        let others = if before.is_empty() {
            Some(self.form.key.0)
                .into_iter()
                .chain(self.close.iter().copied())
        } else {
            None.into_iter().chain([].iter().copied())
        };
        match find(text, start, [after].into_iter().chain(others), last) {
            Found::At(index, position) => {
                let end = if index == 0 {
                    position + after.len()
                } else {
                    position
                };
                let name = text[start..position].trim().trim_matches('"');
                Name::Is(name.to_owned(), end)
            }
            _ if last => Name::No,
            _ => Name::More,
        }
    }

    fn between(&mut self, held: &mut Held, parts: &mut Parts, rest: Rest) -> Option<Step> {
        held.skip(held.blank());
        let text = held.as_str();
        let last = rest.is_none();
        let markers = || [self.form.key.0, self.form.end].into_iter();
        let maybe =
            |marker: &&str| !marker.is_empty() && begins(text, marker, last) == Begins::Maybe;
        if begins(text, self.form.key.0, last) == Begins::Yes {
            held.skip(self.form.key.0.len());
            self.state = State::Key;
            return None;
        }
        let ends = !self.form.end.is_empty() && text.starts_with(self.form.end);
        let begun = |marker: &str| !marker.is_empty() && marker.starts_with(text);
        if last && !ends && (begun(self.form.key.0) || begun(self.form.end)) {
            return Some(self.stop(held, parts, rest));
        }
        if !ends && !last && (text.is_empty() || markers().any(|marker| maybe(&marker))) {
            return Some(Step::More);
        }
        // Whatever else follows is no argument.
        if ends {
            held.skip(self.form.end.len());
        }
        parts.arguments("}");
        Some(Step::Over)
    }

    fn key(
        &mut self,
        held: &mut Held,
        functions: &Functions,
        parts: &mut Parts,
        rest: Rest,
    ) -> Option<Step> {
        let text = held.as_str();
        let end = self.form.key.1;
        let found = find(text, 0, [end].into_iter(), rest.is_none());
        let Found::At(_, position) = found else {
            if rest == Rest::More && text.len() <= MOST_KEY_BYTES {
                return Some(Step::More);
            }
            return Some(self.stop(held, parts, rest));
        };
        let raw = &text[..position];
        let (key, attributes) = raw.split_once('"').unwrap_or((raw, ""));
        let key = key.trim();
        let kinds = match functions.parameters(&self.name) {
            _ if attributes.contains("string=\"true\"") => Kinds::STRING,
            _ if attributes.contains("string=\"false\"") => Kinds::NO_STRING,
            Some(parameters) => Kinds::of_argument(parameters, key),
            None => Kinds::ANY,
        };
        let comma = if self.keys.is_empty() { "" } else { ", " };
        self.is_repeated = !self.keys.insert(key.to_owned());
        if !self.is_repeated {
            parts.arguments(format!("{comma}\"{}\": ", escaped(key)));
        }
        held.skip(position + end.len());
        self.state = State::Before(kinds);
        None
    }

    fn before(
        &mut self,
        held: &mut Held,
        parts: &mut Parts,
        kinds: Kinds,
        rest: Rest,
    ) -> Option<Step> {
        let open = self.form.value.0;
        if !open.is_empty() {
            let blank = held.blank();
            match begins(&held.as_str()[blank..], open, rest.is_none()) {
                Begins::Yes => held.skip(blank + open.len()),
                Begins::Maybe => return Some(Step::More),
                // A value without its marker.
                Begins::No => {}
            }
        }
        let lined = match held.as_str() {
            "" if rest == Rest::More => return Some(Step::More),
            "\r" if rest == Rest::More => return Some(Step::More),
            text => ["\r\n", "\n"]
                .into_iter()
                .find(|line| text.starts_with(line)),
        };
        held.skip(lined.map_or(0, str::len));
        if kinds.is_string_alone() {
            parts.arguments("\"");
        }
        self.state = State::Value {
            kinds,
            lined: lined.is_some(),
            searched: 0,
        };
        None
    }

    fn value(
        &mut self,
        held: &mut Held,
        parts: &mut Parts,
        (kinds, lined, searched): (Kinds, bool, usize),
        rest: Rest,
    ) -> Option<Step> {
        let text = held.as_str();
        let close = self.form.value.1;
        // What may begin the marker is no part of the value where the text ends, either.
        let found = find(text, searched, [close].into_iter(), false);
        let sure = match found {
            Found::At(_, position) | Found::Maybe(position) => position,
            Found::No => text.len(),
        };
        // The line end before the marker.
        let shown = |text: &str| {
            let inner = &text[..sure];
            if !lined {
                return sure;
            }
            let inner = inner.strip_suffix('\n').unwrap_or(inner);
            inner.strip_suffix('\r').unwrap_or(inner).len()
        };
        let is_at_end = matches!(found, Found::At(..));
        if kinds.is_string_alone() {
            let shown = if is_at_end || rest == Rest::More {
                shown(text)
            } else {
                sure
            };
            let value = held.take(shown);
            parts.arguments(escaped(&value));
            if is_at_end {
                held.skip(sure - shown + close.len());
                parts.arguments("\"");
                self.state = State::Between;
                return None;
            }
            if rest == Rest::Ended {
                parts.arguments("\"");
            }
        } else if is_at_end || rest == Rest::Ended {
            let shown = shown(text);
            let value = held.take(shown);
            parts.arguments(kinds.to_json(&value));
            held.skip(sure - shown + if is_at_end { close.len() } else { 0 });
            if is_at_end {
                self.state = State::Between;
                return None;
            }
        }
        if rest == Rest::More {
            self.state = State::Value {
                kinds,
                lined,
                searched: if kinds.is_string_alone() { 0 } else { sure },
            };
            return Some(Step::More);
        }
        Some(self.stop(held, parts, rest))
    }

    /// The end of the text within the call. What is left of it is neither a value nor content.
    fn stop(&self, held: &mut Held, parts: &mut Parts, rest: Rest) -> Step {
        if rest.is_none() {
            held.skip(held.as_str().len());
        }
        if rest != Rest::Cut {
            parts.arguments("}");
        }
        Step::Over
    }
}
