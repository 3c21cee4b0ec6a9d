//! The sampling parameters of a request.

use std::collections::HashSet;
use std::sync::Arc;

use super::bad_texts::BadTexts;
use super::breakers::Breakers;
use super::constraint::Constraint;
use super::infill::Infill;
use super::sampler_name::SamplerName;
use crate::model::{Token, Vocab};
use crate::params::ParamValues;

/// How tokens are drawn. The steps come in llama-cpp-python's order, with llama.cpp's newer samplers where llama-server
/// has them: bias and bans, penalties, DRY, constraint, top-n-sigma, top-k, typical, top-p, min-p, XTC, temperature,
/// draw; [`SamplingParams::samplers`] may reorder them. A temperature of 0 is greedy after the constraint, unless XTC or
/// a dynamic temperature is on; mirostat replaces everything after the constraint.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    pub values: ParamValues,
    /// Repetitions do not extend across these; see [`ParamValues::dry_multiplier`].
    pub dry_breakers: Breakers,
    /// The samplers in the order in which they are applied; those not named are not applied.
    pub samplers: Vec<SamplerName>,
    /// What [`SamplerName::Infill`] knows of the vocabulary; without it that sampler is off.
    pub infill: Option<Arc<Infill>>,
    /// Whether the tokens that end a generation are banned.
    pub ignore_eos: bool,
    /// Tokens that end the generation as the model's own end does; `min_tokens` bans them, `ignore_eos` does not.
    pub stop_tokens: Vec<Token>,
    /// All others are banned. Ascending; each id is within the vocabulary.
    pub allowed_tokens: Option<Arc<[Token]>>,
    /// Sequences of tokens that are not generated, each of at least one token, as from [`super::bad_word`].
    pub bad_words: Arc<[Vec<Token>]>,
    /// Texts that are not generated in any spelling.
    pub bad_texts: Option<Arc<BadTexts>>,
    /// Added to the logits of these tokens. Each id is within the vocabulary.
    pub logit_bias: Vec<(Token, f32)>,
    /// What the text must follow.
    pub constraint: Option<Constraint>,
    /// State of the random numbers, those of XTC too. The same seed draws the same tokens as in llama-cpp-python.
    pub seed: u32,
}

impl From<ParamValues> for SamplingParams {
    fn from(values: ParamValues) -> Self {
        Self {
            values,
            dry_breakers: Breakers::default(),
            samplers: SamplerName::default_order().collect(),
            infill: None,
            ignore_eos: false,
            stop_tokens: Vec::new(),
            allowed_tokens: None,
            bad_words: Arc::new([]),
            bad_texts: None,
            logit_bias: Vec::new(),
            constraint: None,
            seed: 0,
        }
    }
}

impl Default for SamplingParams {
    fn default() -> Self {
        ParamValues::default().into()
    }
}

impl SamplingParams {
    /// Whether DRY changes anything: only then are its breakers worth preparing. Below a base of 1 it is off, as in
    /// llama.cpp.
    pub fn uses_dry(&self) -> bool {
        let values = &self.values;
        values.dry_multiplier != 0.0 && values.dry_base >= 1.0 && values.dry_penalty_last_n != 0
    }

    /// Those texts that the allowed tokens spell and in which no bad text is.
    pub fn possible<'a>(&self, texts: &'a [String], vocab: &Vocab) -> Vec<&'a str> {
        let allowed = self.allowed_tokens.as_ref();
        let pieces: Option<HashSet<&[u8]>> =
            allowed.map(|allowed| allowed.iter().map(|&token| vocab.bytes(token)).collect());
        let lengths = pieces.iter().flatten().map(|piece| piece.len());
        let longest = lengths.max().unwrap_or(0);
        let has_bad = |text: &str| self.bad_texts.as_ref().is_some_and(|bad| bad.are_in(text));
        let texts = texts.iter().map(String::as_str);
        texts
            .filter(|text| !has_bad(text))
            .filter(|text| {
                pieces
                    .as_ref()
                    .is_none_or(|pieces| spell(pieces, longest, text))
            })
            .collect()
    }

    /// Whether nothing keeps a text from ending at any token.
    pub(super) fn may_end(&self) -> bool {
        self.constraint.is_none()
            && self.allowed_tokens.is_none()
            && !self.ignore_eos
            && self.values.min_tokens == 0
    }

    /// Whether mirostat replaces the samplers after the constraint.
    pub fn uses_mirostat(&self) -> bool {
        self.values.mirostat_mode != 0
    }
}

/// Whether these pieces spell a text.
fn spell(pieces: &HashSet<&[u8]>, longest: usize, text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut reached = vec![false; bytes.len() + 1];
    reached[0] = true;
    for start in 0..bytes.len() {
        if reached[start] {
            for end in start + 1..=bytes.len().min(start + longest) {
                reached[end] |= pieces.contains(&bytes[start..end]);
            }
        }
    }
    reached[bytes.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_spelled_with_pieces() {
        let pieces: HashSet<&[u8]> = [&b"y"[..], b"es", b"yes!", b"n"].into();
        for (text, expect) in [
            ("yes", true),
            ("yesn", true),
            ("ye", false),
            ("no", false),
            ("", true),
        ] {
            assert_eq!(spell(&pieces, 4, text), expect, "{text}");
        }
    }
}
