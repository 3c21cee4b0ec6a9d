//! The repetition penalty of vLLM and transformers (CTRL, arXiv:1909.05858): a token that occurs anywhere in the prompt or the
//! completion is penalized, and once, however often it occurs. llama.cpp's own looks back on a window.

use llama_cpp_2::token::data_array::LlamaTokenDataArray;

use crate::model::Token;

/// The tokens that have occurred, and what their logits are divided or multiplied by.
#[derive(Debug)]
pub struct Repetition {
    penalty: f32,
    /// Whether a token has occurred, by its id.
    has_occurred: Vec<bool>,
    /// Those that have, each once.
    tokens: Vec<Token>,
}

impl Repetition {
    /// For a completion of this prompt.
    pub fn new(penalty: f32, vocabulary: usize, prompt: &[Token]) -> Self {
        let mut repetition = Self {
            penalty,
            has_occurred: vec![false; vocabulary],
            tokens: Vec::new(),
        };
        for &token in prompt {
            repetition.accept(token);
        }
        repetition
    }

    /// Appends a token.
    pub fn accept(&mut self, token: Token) {
        if let Some(occurred @ false) = self.has_occurred.get_mut(token.index()) {
            *occurred = true;
            self.tokens.push(token);
        }
    }

    /// The tokens that are penalized.
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Penalizes candidates, which may be in any order.
    pub fn apply(&self, candidates: &mut LlamaTokenDataArray) {
        for candidate in &mut candidates.data {
            let place = Token(candidate.id().0).index();
            if self.has_occurred.get(place) == Some(&true) {
                candidate.set_logit(penalized(candidate.logit(), self.penalty));
            }
        }
        candidates.sorted = false;
    }
}

/// A logit, less likely by a penalty above 1: positive logits are divided by it, others multiplied.
fn penalized(logit: f32, penalty: f32) -> f32 {
    if logit > 0.0 {
        logit / penalty
    } else {
        logit * penalty
    }
}

#[cfg(test)]
mod tests {
    use llama_cpp_2::token::LlamaToken;
    use llama_cpp_2::token::data::LlamaTokenData;

    use super::*;

    #[test]
    fn each_token_that_occurred_is_penalized_once() {
        let check = |penalty: f32, prompt: &[i32], completion: &[i32], expect: [f32; 6]| {
            let prompt: Vec<Token> = prompt.iter().copied().map(Token).collect();
            let mut repetition = Repetition::new(penalty, 6, &prompt);
            for &token in completion {
                repetition.accept(Token(token));
            }
            let row = [3.0, -2.0, 0.0, 4.5, -1.0, f32::NEG_INFINITY];
            // Sorted in another way than by id.
            let mut data: Vec<LlamaTokenData> = (0..)
                .zip(row)
                .map(|(id, logit)| LlamaTokenData::new(LlamaToken::new(id), logit, 0.0))
                .collect();
            data.reverse();
            let mut candidates = LlamaTokenDataArray::new(data, true);
            repetition.apply(&mut candidates);
            assert!(!candidates.sorted);
            candidates.data.reverse();
            let logits: Vec<f32> = candidates.data.iter().map(LlamaTokenData::logit).collect();
            assert_eq!(logits, expect, "{prompt:?} {completion:?}");
        };
        let none = f32::NEG_INFINITY;
        check(1.5, &[], &[], [3.0, -2.0, 0.0, 4.5, -1.0, none]);
        check(1.5, &[0, 0, 1], &[], [2.0, -3.0, 0.0, 4.5, -1.0, none]);
        check(1.5, &[0], &[3, 0, 3, 5], [2.0, -2.0, 0.0, 3.0, -1.0, none]);
        check(2.0, &[2], &[1, 4], [3.0, -4.0, 0.0, 4.5, -2.0, none]);
        // Below 1 it makes them likelier.
        check(0.5, &[0, 1], &[], [6.0, -1.0, 0.0, 4.5, -1.0, none]);
        // Ids outside of the vocabulary are none of its tokens.
        check(2.0, &[77], &[-1], [3.0, -2.0, 0.0, 4.5, -1.0, none]);
    }
}
