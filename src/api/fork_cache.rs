//! Recent answers, kept so that other requests can fork them: their tokens alone, within the bounds of two settings.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::Limits;
use crate::model::{Adapters, Token};

/// An answer that can be forked.
#[derive(Debug, Clone)]
pub struct StoredAnswer {
    /// The only client that may fork it; `None`: any client that knows its id.
    pub client: Option<Arc<str>>,
    /// The model that generated it: its index, its name for messages, and the answer's fingerprint.
    pub model_index: usize,
    pub model_name: String,
    pub fingerprint: String,
    pub adapters: Adapters,
    pub choices: Vec<ForkPoint>,
}

/// A choice, with everything that its next token depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct ForkPoint {
    pub prompt: Arc<[Token]>,
    /// Whether the prompt was scored: with some weights that changes the bits of the row after it.
    pub scored: bool,
    /// Characters before the completion.
    pub base: usize,
    /// The completion.
    pub tokens: Vec<Token>,
}

impl StoredAnswer {
    /// Its tokens; adjacent choices share their prompt, which counts once.
    fn tokens(&self) -> usize {
        let prompts = self
            .choices
            .chunk_by(|one, next| Arc::ptr_eq(&one.prompt, &next.prompt));
        let prompts: usize = prompts.map(|choices| choices[0].prompt.len()).sum();
        let completions: usize = self.choices.iter().map(|choice| choice.tokens.len()).sum();
        prompts + completions
    }
}

/// The answers that are kept. The oldest are dropped first.
#[derive(Debug, Clone)]
pub struct ForkCache(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    most_answers: usize,
    most_tokens: usize,
    /// Of all answers.
    tokens: usize,
    /// By their ids.
    answers: HashMap<Arc<str>, StoredAnswer>,
    /// The ids, oldest first.
    order: VecDeque<Arc<str>>,
}

impl ForkCache {
    pub fn new(limits: &Limits) -> Self {
        Self(Arc::new(Mutex::new(State {
            most_answers: limits.fork_answers,
            most_tokens: limits.fork_tokens,
            tokens: 0,
            answers: HashMap::new(),
            order: VecDeque::new(),
        })))
    }

    /// Keeps an answer, which may still be generated.
    pub fn keep(&self, id: &str, answer: StoredAnswer) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id: Arc<str> = id.into();
        state.tokens += answer.tokens();
        state.order.push_back(Arc::clone(&id));
        state.answers.insert(id, answer);
        state.make_room();
    }

    /// Adds a token to a choice of an answer, if that is still kept.
    pub fn extend(&self, id: &str, choice: usize, token: Token) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = state.answers.get_mut(id)
            && let Some(choice) = answer.choices.get_mut(choice)
        {
            choice.tokens.push(token);
            state.tokens += 1;
            state.make_room();
        }
    }

    /// Passes an answer to `look`, if this client may fork it.
    pub fn look<T>(
        &self,
        id: &str,
        client: &str,
        look: impl FnOnce(&StoredAnswer) -> T,
    ) -> Option<T> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = state.answers.get(id)?;
        let owner = answer.client.as_deref();
        owner
            .is_none_or(|owner| owner == client)
            .then(|| look(answer))
    }
}

impl State {
    fn make_room(&mut self) {
        while self.order.len() > self.most_answers || self.tokens > self.most_tokens {
            let Some(id) = self.order.pop_front() else {
                return;
            };
            if let Some(answer) = self.answers.remove(&id) {
                self.tokens -= answer.tokens();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(answers: usize, tokens: usize) -> ForkCache {
        let mut limits = crate::config::Config::default().limits;
        (limits.fork_answers, limits.fork_tokens) = (answers, tokens);
        ForkCache::new(&limits)
    }

    /// An answer of two choices, with prompts and completions of these lengths.
    fn answer(prompt: usize, completion: usize, client: Option<&str>) -> StoredAnswer {
        let point = ForkPoint {
            prompt: vec![Token(7); prompt].into(),
            scored: false,
            base: 0,
            tokens: vec![Token(8); completion],
        };
        StoredAnswer {
            client: client.map(Arc::from),
            model_index: 0,
            model_name: String::new(),
            fingerprint: String::new(),
            adapters: Adapters::default(),
            choices: vec![point.clone(), point],
        }
    }

    fn kept(cache: &ForkCache, ids: &[&str]) -> Vec<bool> {
        let is_kept = |id: &&str| cache.look(id, "anyone", |_| ()).is_some();
        ids.iter().map(is_kept).collect()
    }

    #[test]
    fn the_oldest_goes_first() {
        let cache = cache(2, 1000);
        for id in ["a", "b", "c"] {
            cache.keep(id, answer(3, 1, None));
        }
        assert_eq!(kept(&cache, &["a", "b", "c"]), [false, true, true]);
        cache.extend("a", 0, Token(1));
        cache.extend("c", 1, Token(9));
        cache.extend("c", 2, Token(9));
        let tokens = cache.look("c", "anyone", |answer| {
            let tokens = answer.choices.iter().map(|choice| choice.tokens.len());
            (tokens.collect::<Vec<_>>(), answer.tokens())
        });
        assert_eq!(tokens, Some((vec![1, 2], 6)));
    }

    #[test]
    fn tokens_are_bounded_as_answers_grow() {
        let cache = cache(9, 20);
        // A prompt that choices share counts once: 8 each.
        cache.keep("a", answer(4, 2, None));
        cache.keep("b", answer(4, 2, None));
        assert_eq!(kept(&cache, &["a", "b"]), [true, true]);
        for _ in 0..4 {
            cache.extend("b", 0, Token(1));
        }
        assert_eq!(kept(&cache, &["a", "b"]), [true, true]);
        cache.extend("b", 1, Token(1));
        assert_eq!(kept(&cache, &["a", "b"]), [false, true]);
        for _ in 0..7 {
            cache.extend("b", 1, Token(1));
        }
        assert_eq!(kept(&cache, &["b"]), [true]);
        // An answer that is too large by itself is neither kept nor counted.
        cache.extend("b", 1, Token(1));
        cache.keep("c", answer(21, 0, None));
        cache.keep("d", answer(20, 0, None));
        assert_eq!(kept(&cache, &["b", "c", "d"]), [false, false, true]);
    }

    #[test]
    fn without_room_nothing_is_kept() {
        for cache in [cache(0, 1000), cache(9, 0)] {
            cache.keep("a", answer(3, 1, None));
            cache.extend("a", 0, Token(1));
            assert_eq!(kept(&cache, &["a"]), [false]);
        }
    }

    #[test]
    fn an_answer_of_a_client_is_not_for_others() {
        let cache = cache(9, 1000);
        cache.keep("a", answer(3, 1, Some("key 0")));
        assert_eq!(cache.look("a", "key 1", |_| ()), None);
        assert_eq!(cache.look("b", "key 0", |_| ()), None);
        assert_eq!(cache.look("a", "key 0", |_| ()), Some(()));
    }
}
