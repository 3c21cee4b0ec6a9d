//! A prompt, as the engine evaluates it and as the answer shows it.

use std::sync::Arc;

use crate::api::error::ApiError;
use crate::api::input::{Input, Tokenising};
use crate::engine::Utf8Decoder;
use crate::model::{Added, MarkedText, Token, Vocab};

/// The tokens of a prompt, and how they relate to its text.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    pub tokens: Arc<[Token]>,
    /// What `echo` returns.
    pub text: String,
    /// The first token with an entry in echoed arrays. A BOS before a text has none; of ids, each has one.
    pub first_entry: usize,
    /// The first token whose text is in `text`: a BOS that was added is not.
    first_text: usize,
    /// Whether the text was tokenized; otherwise it is that of the tokens.
    is_tokenized: bool,
}

impl Prompt {
    pub fn new(input: Input, tokenising: Tokenising, vocab: &Vocab) -> Self {
        match input {
            Input::Text(text) => {
                let text = vocab.normalized(&text).into_owned();
                Self::of_text(&text.into(), tokenising, vocab)
            }
            Input::Tokens(tokens) => Self::of_tokens(tokens, tokenising.keeps, vocab),
        }
    }

    /// A text that is normalized.
    pub fn of_text(text: &MarkedText, tokenising: Tokenising, vocab: &Vocab) -> Self {
        let Tokenising { added, keeps } = tokenising;
        let mut tokens = vocab.tokenize_marked(text, added);
        if keeps.is_some_and(|keeps| tokens.len() > keeps) {
            // The rest of a truncated text is tokens, not a text.
            return Self::of_tokens(tokens, keeps, vocab);
        }
        let text = text.as_str();
        if tokens.is_empty() {
            // Something must be evaluated: BOS, even if the model does not ask for it.
            tokens.extend(vocab.bos().or(vocab.eos()).or(Some(Token(0))));
        }
        let has_bos =
            added != Added::Nothing && vocab.adds_bos() && tokens.first().copied() == vocab.bos();
        let first_text = usize::from(text.is_empty() || has_bos);
        let leading = tokens
            .iter()
            .take_while(|&&token| Some(token) == vocab.bos())
            .count();
        Self {
            first_entry: leading.max(first_text),
            first_text,
            is_tokenized: true,
            tokens: tokens.into(),
            text: text.to_owned(),
        }
    }

    fn of_tokens(mut tokens: Vec<Token>, keeps: Option<usize>, vocab: &Vocab) -> Self {
        let keeps = keeps.unwrap_or(usize::MAX);
        tokens.drain(..tokens.len().saturating_sub(keeps));
        let first_text = usize::from(tokens.first().copied() == vocab.bos());
        let mut decoder = Utf8Decoder::new();
        Self {
            text: tokens[first_text..]
                .iter()
                .map(|&token| decoder.push(vocab.literal(token)))
                .collect(),
            first_entry: 0,
            first_text,
            is_tokenized: false,
            tokens: tokens.into(),
        }
    }

    /// The tokens before a fork, whose text is not shown.
    pub fn forked(tokens: Vec<Token>) -> Self {
        Self {
            text: String::new(),
            first_entry: tokens.len(),
            first_text: tokens.len(),
            is_tokenized: false,
            tokens: tokens.into(),
        }
    }

    /// A fill-in-the-middle prompt, in the order prefix, suffix, middle.
    pub fn infill(
        prefix: &str,
        suffix: &str,
        tokenising: Tokenising,
        vocab: &Vocab,
    ) -> Result<Self, ApiError> {
        let fim = vocab.fim().ok_or_else(|| {
            ApiError::field(
                "suffix",
                "`suffix` needs a model with fill-in-the-middle tokens, and this one has none. Leave it out.",
            )
        })?;
        let mut tokens: Vec<Token> = Vec::new();
        tokens.extend(
            vocab
                .bos()
                .filter(|_| tokenising.added != Added::Nothing && vocab.adds_bos()),
        );
        tokens.push(fim.prefix);
        tokens.extend(vocab.tokenize(prefix, Added::Nothing, false));
        tokens.push(fim.suffix);
        // It follows what is to be filled in, so it does not begin a text.
        tokens.extend(vocab.tokenize_without_space(suffix, false));
        tokens.push(fim.middle);
        Ok(Self {
            first_entry: tokens.len(),
            first_text: tokens.len(),
            is_tokenized: false,
            tokens: tokens.into(),
            text: prefix.to_owned(),
        })
    }

    /// For each token the number of the text's characters before it, and last the number of all characters. The names of
    /// control tokens in the text count.
    pub fn offsets(&self, vocab: &Vocab) -> Vec<usize> {
        let mut decoder = Utf8Decoder::new();
        let mut rest = self.text.as_str();
        let mut characters = 0;
        let mut offsets = Vec::with_capacity(self.tokens.len() + 1);
        for (place, &token) in self.tokens.iter().enumerate() {
            if place < self.first_text {
                offsets.push(characters);
                continue;
            }
            let text = decoder.push(vocab.literal(token));
            let mut text = text.as_str();
            let begins = place == self.first_text || vocab.is_named(self.tokens[place - 1]);
            if self.is_tokenized && vocab.adds_space() && begins && !vocab.is_named(token) {
                // The tokenizer put a space before the text, and before what follows a control token.
                text = text.strip_prefix(' ').unwrap_or(text);
            }
            if !rest.starts_with(text) {
                let trimmed = rest.trim_start();
                if trimmed.starts_with(text) {
                    // Some control tokens drop the white space beside them.
                    characters += rest[..rest.len() - trimmed.len()].chars().count();
                    rest = trimmed;
                }
            }
            offsets.push(characters);
            let length = text.chars().count();
            let taken = rest
                .char_indices()
                .nth(length)
                .map_or(rest.len(), |(end, _)| end);
            characters += rest[..taken].chars().count();
            rest = &rest[taken..];
        }
        offsets.push(characters + rest.chars().count());
        offsets
    }
}
