//! What ends a text: strings, which may name control tokens.

use std::collections::BTreeMap;

use crate::model::{Added, Token, Vocab};

/// The stop strings of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stops {
    strings: Vec<String>,
    /// See [`Stops::with_least_indent`].
    least_indent: usize,
    /// The control tokens that they name, each with its name: a generated one has no text of its own.
    named: BTreeMap<Token, Box<str>>,
}

impl Stops {
    /// None of them is empty.
    pub fn new(strings: Vec<String>, vocab: &Vocab) -> Self {
        let tokens = strings
            .iter()
            .flat_map(|string| vocab.tokenize(string, Added::Nothing, true))
            .filter(|&token| vocab.is_control(token));
        let named = tokens
            .filter_map(|token| Some((token, std::str::from_utf8(vocab.literal(token)).ok()?)))
            .map(|(token, name)| (token, name.into()));
        Self {
            named: named.collect(),
            least_indent: 0,
            strings,
        }
    }

    /// Also ends the text at the first character of a line that begins with fewer spaces and tabs than this, except in its
    /// first line. 0: it does not.
    pub fn with_least_indent(self, least_indent: usize) -> Self {
        Self {
            least_indent,
            ..self
        }
    }

    pub fn least_indent(&self) -> usize {
        self.least_indent
    }

    pub fn strings(&self) -> &[String] {
        &self.strings
    }

    /// The name of a control token that one of the strings has.
    pub fn name(&self, token: Token) -> Option<&str> {
        self.named.get(&token).map(|name| &**name)
    }
}

impl From<Vec<String>> for Stops {
    /// Strings that name no control token.
    fn from(strings: Vec<String>) -> Self {
        Self {
            strings,
            least_indent: 0,
            named: BTreeMap::new(),
        }
    }
}
