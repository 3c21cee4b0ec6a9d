//! The candidates for the next token, in llama.cpp's form.

use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;

use crate::model::Token;

/// A candidate.
fn candidate(token: Token, logit: f32) -> LlamaTokenData {
    LlamaTokenData::new(LlamaToken::new(token.0), logit, 0.0)
}

/// Fills the candidates with the whole row, each at its own id.
pub fn fill(candidates: &mut LlamaTokenDataArray, logits: &[f32]) {
    candidates.data.clear();
    candidates.data.extend(
        (0..)
            .map(Token)
            .zip(logits)
            .map(|(token, &logit)| candidate(token, logit)),
    );
    candidates.sorted = false;
    candidates.selected = None;
}

/// Fills the candidates with the likeliest of a row, and with the tokens of `more`, which may repeat.
pub fn fill_few(
    candidates: &mut LlamaTokenDataArray,
    likeliest: &[(f32, Token)],
    more: &[Token],
    logits: &[f32],
) {
    let data = &mut candidates.data;
    data.clear();
    data.extend(
        likeliest
            .iter()
            .map(|&(logit, token)| candidate(token, logit)),
    );
    for &token in more {
        let id = LlamaToken::new(token.0);
        if let Some(&logit) = logits.get(token.index())
            && !data.iter().any(|other| other.id() == id)
        {
            data.push(candidate(token, logit));
        }
    }
}

/// Sorts the candidates and keeps the `keeps` likeliest. `false`: others may belong to these, because two logits are
/// equal or the last one is not above `outside`, the largest logit that any other token can have.
pub fn cut(candidates: &mut LlamaTokenDataArray, keeps: usize, outside: Option<f32>) -> bool {
    let data = &mut candidates.data;
    data.sort_unstable_by(|a, b| b.logit().total_cmp(&a.logit()));
    let keeps = keeps.min(data.len());
    let clear = data[..data.len().min(keeps + 1)]
        .windows(2)
        .all(|pair| pair[0].logit() > pair[1].logit());
    let above = outside.is_none_or(|outside| data[keeps - 1].logit() > outside);
    if !(clear && above) {
        return false;
    }
    data.truncate(keeps);
    candidates.sorted = true;
    candidates.selected = None;
    true
}

/// Adds to the logit of one token, if it is a candidate.
pub fn add(candidates: &mut LlamaTokenDataArray, token: Token, bias: f32) {
    let id = LlamaToken::new(token.0);
    let data = &mut candidates.data;
    // In the whole row each candidate is at its own id.
    let place = match data.get(token.index()) {
        Some(candidate) if candidate.id() == id => Some(token.index()),
        _ => data.iter().position(|candidate| candidate.id() == id),
    };
    if let Some(place) = place {
        data[place] = candidate(token, data[place].logit() + bias);
    }
}

/// Whether no candidate is left that can be drawn. llama.cpp's samplers then compute NaN or end the process.
pub fn are_all_banned(candidates: &LlamaTokenDataArray) -> bool {
    candidates.data.iter().all(is_banned)
}

/// The first of the largest, as llama.cpp's greedy sampler picks it; `None` if all are banned.
pub fn greedy(candidates: &LlamaTokenDataArray) -> Option<Token> {
    let mut best = candidates.data.first()?;
    for candidate in &candidates.data {
        if candidate.logit() > best.logit() {
            best = candidate;
        }
    }
    (!is_banned(best)).then_some(Token(best.id().0))
}

/// The candidate that a sampler has drawn; `None` if it is banned.
pub fn selected(candidates: &LlamaTokenDataArray) -> Option<Token> {
    let chosen = candidates.data.get(candidates.selected?)?;
    (!is_banned(chosen)).then_some(Token(chosen.id().0))
}

fn is_banned(candidate: &LlamaTokenData) -> bool {
    candidate.logit() == f32::NEG_INFINITY
}
