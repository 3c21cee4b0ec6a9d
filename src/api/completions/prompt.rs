//! A prompt, as the engine evaluates it and as the answer shows it.

use std::sync::Arc;

use crate::api::error::ApiError;
use crate::api::input::{Input, Tokenising};
use crate::engine::Utf8Decoder;
use crate::model::{Token, Vocab};

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
}

impl Prompt {
    pub fn new(input: Input, tokenising: Tokenising, vocab: &Vocab) -> Self {
        let Tokenising {
            adds_special,
            keeps,
        } = tokenising;
        let keeps = keeps.unwrap_or(usize::MAX);
        match input {
            Input::Text(text) => {
                let mut tokens = vocab.tokenize(&text, adds_special, true);
                if tokens.len() > keeps {
                    // The rest of a truncated text is tokens, not a text.
                    return Self::new(Input::Tokens(tokens), tokenising, vocab);
                }
                if tokens.is_empty() {
                    // Something must be evaluated: BOS, even if the model does not ask for it.
                    tokens.extend(vocab.bos().or(vocab.eos()).or(Some(Token(0))));
                }
                let has_bos =
                    adds_special && vocab.adds_bos() && tokens.first().copied() == vocab.bos();
                let added = usize::from(text.is_empty() || has_bos);
                let leading = tokens
                    .iter()
                    .take_while(|&&token| Some(token) == vocab.bos())
                    .count();
                Self {
                    first_entry: leading.max(added),
                    first_text: added,
                    tokens: tokens.into(),
                    text,
                }
            }
            Input::Tokens(mut tokens) => {
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
                    tokens: tokens.into(),
                }
            }
        }
    }

    /// The tokens before a fork, whose text is not shown.
    pub fn forked(tokens: Vec<Token>) -> Self {
        Self {
            text: String::new(),
            first_entry: tokens.len(),
            first_text: tokens.len(),
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
                .filter(|_| tokenising.adds_special && vocab.adds_bos()),
        );
        tokens.push(fim.prefix);
        tokens.extend(vocab.tokenize(prefix, false, false));
        tokens.push(fim.suffix);
        tokens.extend(vocab.tokenize(suffix, false, false));
        tokens.push(fim.middle);
        Ok(Self {
            first_entry: tokens.len(),
            first_text: tokens.len(),
            tokens: tokens.into(),
            text: prefix.to_owned(),
        })
    }

    /// For each token the number of characters before it, and last the number of all characters. The tokens' text counts,
    /// with the names of control tokens and, as in the reference, a SentencePiece model's leading space.
    pub fn offsets(&self, vocab: &Vocab) -> Vec<usize> {
        let mut decoder = Utf8Decoder::new();
        let mut characters = 0;
        let mut offsets = Vec::with_capacity(self.tokens.len() + 1);
        for (place, &token) in self.tokens.iter().enumerate() {
            offsets.push(characters);
            if place >= self.first_text {
                characters += decoder.push(vocab.literal(token)).chars().count();
            }
        }
        offsets.push(characters);
        offsets
    }
}
