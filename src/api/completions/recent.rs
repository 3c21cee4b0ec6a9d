//! Recent answers, as far as another request may go on from within them: tokens alone, and no more of them than two
//! settings allow.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::Limits;
use crate::model::{Adapters, Token};

/// An answer whose choices may be gone on from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Whose it is; `None`: whoever knows its id may go on from it.
    pub client: Option<Arc<str>>,
    /// The model that made it: its number, its name for messages, and the answer's fingerprint.
    pub model: usize,
    pub model_name: String,
    pub fingerprint: String,
    pub adapters: Adapters,
    pub choices: Vec<Past>,
}

/// A choice: all that its next token depended on.
#[derive(Debug, Clone, PartialEq)]
pub struct Past {
    pub prompt: Arc<[Token]>,
    /// Whether the prompt was scored: with some weights that moves the row that follows it.
    pub scored: bool,
    /// Characters that stand before the completion.
    pub base: usize,
    /// The completion, from the prompt's end on.
    pub tokens: Vec<Token>,
}

impl Origin {
    /// What it counts: each prompt once, as choices that stand beside each other share it.
    fn tokens(&self) -> usize {
        let prompts = self
            .choices
            .chunk_by(|one, next| Arc::ptr_eq(&one.prompt, &next.prompt));
        let prompts: usize = prompts.map(|choices| choices[0].prompt.len()).sum();
        let completions: usize = self.choices.iter().map(|choice| choice.tokens.len()).sum();
        prompts + completions
    }
}

/// Those that are kept; the oldest go first.
#[derive(Debug, Clone)]
pub struct Recent(Arc<Mutex<Shelf>>);

#[derive(Debug)]
struct Shelf {
    most_answers: usize,
    most_tokens: usize,
    /// Of all answers.
    tokens: usize,
    /// By their ids.
    answers: HashMap<Arc<str>, Origin>,
    /// The ids, oldest first.
    order: VecDeque<Arc<str>>,
}

impl Recent {
    pub fn new(limits: &Limits) -> Self {
        Self(Arc::new(Mutex::new(Shelf {
            most_answers: limits.fork_answers,
            most_tokens: limits.fork_tokens,
            tokens: 0,
            answers: HashMap::new(),
            order: VecDeque::new(),
        })))
    }

    /// Keeps an answer, one that is still to come as well.
    pub fn keep(&self, id: &str, origin: Origin) {
        let mut shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id: Arc<str> = id.into();
        shelf.tokens += origin.tokens();
        shelf.order.push_back(Arc::clone(&id));
        shelf.answers.insert(id, origin);
        shelf.make_room();
    }

    /// A choice of an answer that is kept went on with this token.
    pub fn extend(&self, id: &str, choice: usize, token: Token) {
        let mut shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(origin) = shelf.answers.get_mut(id)
            && let Some(choice) = origin.choices.get_mut(choice)
        {
            choice.tokens.push(token);
            shelf.tokens += 1;
            shelf.make_room();
        }
    }

    /// Looks at an answer that this client may go on from.
    pub fn look<T>(&self, id: &str, client: &str, look: impl FnOnce(&Origin) -> T) -> Option<T> {
        let shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let origin = shelf.answers.get(id)?;
        let owner = origin.client.as_deref();
        owner
            .is_none_or(|owner| owner == client)
            .then(|| look(origin))
    }
}

impl Shelf {
    fn make_room(&mut self) {
        while self.order.len() > self.most_answers || self.tokens > self.most_tokens {
            let Some(id) = self.order.pop_front() else {
                return;
            };
            if let Some(origin) = self.answers.remove(&id) {
                self.tokens -= origin.tokens();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recent(answers: usize, tokens: usize) -> Recent {
        let mut limits = crate::config::Config::default().limits;
        (limits.fork_answers, limits.fork_tokens) = (answers, tokens);
        Recent::new(&limits)
    }

    /// An answer of two choices, with prompts and completions of so many tokens.
    fn origin(prompt: usize, completion: usize, client: Option<&str>) -> Origin {
        let past = Past {
            prompt: vec![Token(7); prompt].into(),
            scored: false,
            base: 0,
            tokens: vec![Token(8); completion],
        };
        Origin {
            client: client.map(Arc::from),
            model: 0,
            model_name: String::new(),
            fingerprint: String::new(),
            adapters: Adapters::default(),
            choices: vec![past.clone(), past],
        }
    }

    fn kept(recent: &Recent, ids: &[&str]) -> Vec<bool> {
        let is_kept = |id: &&str| recent.look(id, "anyone", |_| ()).is_some();
        ids.iter().map(is_kept).collect()
    }

    #[test]
    fn the_oldest_goes_first() {
        let recent = recent(2, 1000);
        for id in ["a", "b", "c"] {
            recent.keep(id, origin(3, 1, None));
        }
        assert_eq!(kept(&recent, &["a", "b", "c"]), [false, true, true]);
        recent.extend("a", 0, Token(1));
        recent.extend("c", 1, Token(9));
        recent.extend("c", 2, Token(9));
        let tokens = recent.look("c", "anyone", |origin| {
            let tokens = origin.choices.iter().map(|choice| choice.tokens.len());
            (tokens.collect::<Vec<_>>(), origin.tokens())
        });
        assert_eq!(tokens, Some((vec![1, 2], 6)));
    }

    #[test]
    fn tokens_are_bounded_as_answers_grow() {
        let recent = recent(9, 20);
        // A prompt that choices share counts once: 8 each.
        recent.keep("a", origin(4, 2, None));
        recent.keep("b", origin(4, 2, None));
        assert_eq!(kept(&recent, &["a", "b"]), [true, true]);
        for _ in 0..4 {
            recent.extend("b", 0, Token(1));
        }
        assert_eq!(kept(&recent, &["a", "b"]), [true, true]);
        recent.extend("b", 1, Token(1));
        assert_eq!(kept(&recent, &["a", "b"]), [false, true]);
        for _ in 0..7 {
            recent.extend("b", 1, Token(1));
        }
        assert_eq!(kept(&recent, &["b"]), [true]);
        // What is too large by itself is not kept, nor counted for ever.
        recent.extend("b", 1, Token(1));
        recent.keep("c", origin(21, 0, None));
        recent.keep("d", origin(20, 0, None));
        assert_eq!(kept(&recent, &["b", "c", "d"]), [false, false, true]);
    }

    #[test]
    fn without_room_nothing_is_kept() {
        for recent in [recent(0, 1000), recent(9, 0)] {
            recent.keep("a", origin(3, 1, None));
            recent.extend("a", 0, Token(1));
            assert_eq!(kept(&recent, &["a"]), [false]);
        }
    }

    #[test]
    fn what_is_a_client_s_own_is_for_nobody_else() {
        let recent = recent(9, 1000);
        recent.keep("a", origin(3, 1, Some("key 0")));
        assert_eq!(recent.look("a", "key 1", |_| ()), None);
        assert_eq!(recent.look("b", "key 0", |_| ()), None);
        assert_eq!(recent.look("a", "key 0", |_| ()), Some(()));
    }
}
