//! Text ⇄ tokens.

use std::any::Any;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token_type::LlamaTokenAttr;
use unicode_normalization::{UnicodeNormalization, is_nfc};

use super::llama;
use super::marked_text::MarkedText;
use super::names::{Name, Names, Part};
use super::token::Token;
use crate::config::Normalize;

/// The vocabulary, read once: looking up a token is cheap, and no id reaches llama.cpp unchecked.
pub struct Vocab {
    /// Text of each token, without bytes that are not UTF-8.
    texts: Box<[Box<str>]>,
    /// Bytes of each token with control tokens empty; only where they differ from the text.
    broken: std::collections::HashMap<Token, Box<[u8]>>,
    /// Control tokens in full.
    control: std::collections::HashMap<Token, Box<[u8]>>,
    /// Tokens that are recognized in texts by their names.
    names: Names,
    /// Maximum bytes of a text that become one token.
    longest: usize,
    /// Tokens that end a generation, ascending.
    ends: Box<[Token]>,
    bos: Option<Token>,
    eos: Option<Token>,
    adds_bos: bool,
    /// Whether a token is added after texts.
    adds_end: bool,
    /// What stands between and after the two texts of a pair.
    pair: PairEnds,
    adds_space: bool,
    normalize: Normalize,
    pad: Option<Token>,
    unknown: Option<Token>,
    fim: Option<Fim>,
    tokenizer: llama::Tokenizer,
    /// Built on first use: takes a tenth of a second for a large vocabulary.
    sorted: OnceLock<Arc<Sorted>>,
    /// Data that another module derives from the vocabulary.
    derived: OnceLock<Arc<dyn Any + Send + Sync>>,
}

/// Which of the special tokens that a model expects around a text are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    Nothing,
    /// Those before it, such as BOS: what is continued has not ended.
    Before,
    /// EOS after it, too, if the model's file says so.
    Both,
}

/// The tokens after each text of a pair, as the model's file asks for them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct PairEnds {
    first: Vec<Token>,
    second: Vec<Token>,
}

/// Tokens that mark the parts of a fill-in-the-middle prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fim {
    pub prefix: Token,
    pub suffix: Token,
    pub middle: Token,
    /// Before the name of a repository.
    pub repository: Option<Token>,
    /// Before the name of a file.
    pub file: Option<Token>,
}

impl Vocab {
    pub(super) fn new(weights: &LlamaModel, normalize: Normalize) -> Self {
        let vocab = weights.vocab();
        let count = vocab.n_tokens().max(0);
        let mut texts = Vec::with_capacity(count as usize);
        let mut broken = std::collections::HashMap::new();
        let mut control = std::collections::HashMap::new();
        let mut ends = Vec::new();
        let mut names = Vec::new();
        let mut bytes = Vec::new();
        // An unknown character of four bytes may be one token.
        let mut longest = 4;
        for id in 0..count {
            let (token, raw) = (Token(id), LlamaToken::new(id));
            bytes.clear();
            vocab.token_to_piece_into(raw, &mut bytes, false, None);
            let text = lossless(&bytes);
            if text.len() != bytes.len() {
                broken.insert(token, bytes.clone().into_boxed_slice());
            }
            texts.push(text);
            if bytes.is_empty() {
                vocab.token_to_piece_into(raw, &mut bytes, true, None);
                if !bytes.is_empty() {
                    control.insert(token, bytes.clone().into_boxed_slice());
                }
            }
            longest = longest.max(bytes.len());
            let kind = vocab.attr(raw);
            if kind.intersects(
                LlamaTokenAttr::Control | LlamaTokenAttr::Unknown | LlamaTokenAttr::UserDefined,
            ) && let Some(text) = vocab.text(raw)
            {
                names.push(Name {
                    token,
                    text: text.to_bytes().into(),
                    is_control: !kind.contains(LlamaTokenAttr::UserDefined),
                    strips_left: kind.contains(LlamaTokenAttr::LStrip),
                    strips_right: kind.contains(LlamaTokenAttr::RStrip),
                });
            }
            if vocab.is_eog(raw) {
                ends.push(token);
            }
        }
        // These fold whitespace, and turn an unknown word into one token.
        let kind = weights.meta_val_str("tokenizer.ggml.model");
        if matches!(kind.as_deref(), Ok("bert" | "t5")) {
            longest = usize::MAX;
        }
        if normalize == Normalize::Nfc {
            // Composed, three bytes may become one: three Hangul jamo one syllable.
            longest = longest.saturating_mul(3);
        }
        let known = |token: LlamaToken| (0..count).contains(&token.0).then_some(Token(token.0));
        let fim = match (
            known(vocab.fim_pre()),
            known(vocab.fim_suf()),
            known(vocab.fim_mid()),
        ) {
            (Some(prefix), Some(suffix), Some(middle)) => Some(Fim {
                prefix,
                suffix,
                middle,
                repository: known(vocab.fim_rep()),
                file: known(vocab.fim_sep()),
            }),
            _ => None,
        };
        let separator = known(vocab.sep());
        let end = known(vocab.eos()).or(separator);
        let end = end.filter(|_| vocab.should_add_eos());
        let separator = separator.filter(|_| vocab.should_add_sep());
        let pair = PairEnds {
            first: end.into_iter().chain(separator).collect(),
            second: end.into_iter().collect(),
        };
        let tokenizer = llama::Tokenizer::new(weights);
        let adds_space = tokenizer
            .tokenize("a", false, false)
            .first()
            .and_then(|token| texts.get(token.index()))
            .map(AsRef::<str>::as_ref)
            .is_some_and(|text| text.starts_with(' '));
        let unknown = weights.meta_val_str("tokenizer.ggml.unknown_token_id");
        Self {
            texts: texts.into_boxed_slice(),
            broken,
            control,
            names: Names::new(names),
            longest,
            ends: ends.into_boxed_slice(),
            bos: known(vocab.bos()),
            eos: known(vocab.eos()),
            adds_bos: vocab.should_add_bos(),
            adds_end: vocab.should_add_eos() || matches!(kind.as_deref(), Ok("bert")),
            adds_space,
            pair,
            normalize,
            pad: known(vocab.pad()),
            unknown: unknown.ok().and_then(|id| id.parse().ok()).map(Token),
            fim,
            tokenizer,
            sorted: OnceLock::new(),
            derived: OnceLock::new(),
        }
    }

    /// Number of tokens: ids run from 0 to one less, and a row of logits has as many numbers.
    #[expect(clippy::len_without_is_empty, reason = "a vocabulary is never empty")]
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// A lower bound on the tokens of a text, without tokenizing it: cheap however long it is.
    pub fn least_tokens(&self, text: &str) -> usize {
        text.len() / self.longest
    }

    /// The text that is tokenized in place of this one: composed Unicode, if the settings say so.
    pub fn normalized<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.normalize {
            Normalize::Nfc if !is_nfc(text) => text.nfc().collect::<String>().into(),
            _ => text.into(),
        }
    }

    /// How texts are normalized before they are tokenized.
    pub fn normalization(&self) -> Normalize {
        self.normalize
    }

    /// Tokenizes a text. `parse_special` reads `<|im_start|>` and the like as control tokens rather than text.
    pub fn tokenize(&self, text: &str, added: Added, parse_special: bool) -> Vec<Token> {
        let adds = added != Added::Nothing;
        let text = self.normalized(text);
        let mut tokens = self.tokenizer.tokenize(&text, adds, parse_special);
        if added == Added::Before && self.adds_end {
            tokens.pop();
        }
        tokens
    }

    /// Tokenizes a text in which the names of control tokens are recognized unless they are marked.
    pub fn tokenize_marked(&self, text: &MarkedText, added: Added) -> Vec<Token> {
        if text.marks().is_empty() {
            return self.tokenize(text.as_str(), added, true);
        }
        // llama.cpp tokenizes the text between recognized names piece by piece, as it is done here.
        let around = self.tokenize("", added, false);
        let (before, after) = around.split_at(usize::from(self.adds_bos).min(around.len()));
        let mut tokens = before.to_vec();
        for part in self.names.parts(text) {
            match part {
                Part::Name(token) => tokens.push(token),
                Part::Text(text) => tokens.extend(self.tokenize(text, Added::Nothing, false)),
            }
        }
        tokens.extend(after);
        tokens
    }

    /// Tokenizes a text without the space that the tokenizer would put before it.
    pub fn tokenize_without_space(&self, text: &str, parse_special: bool) -> Vec<Token> {
        /// No token has more than this character, so it merges with nothing.
        const ALONE: &str = "\u{e000}";
        let tokenize = |text: &str| self.tokenize(text, Added::Nothing, parse_special);
        if !self.adds_space {
            return tokenize(text);
        }
        let alone = tokenize(ALONE);
        let mut tokens = tokenize(&[ALONE, text].concat());
        if !tokens.starts_with(&alone) {
            return tokenize(text);
        }
        tokens.drain(..alone.len());
        tokens
    }

    /// Tokenizes two texts as one, with the special tokens that the model expects before, between and after them, as
    /// llama-server does it for a reranker. Names of control tokens stay text.
    pub fn tokenize_pair(&self, first: &str, second: &str) -> Vec<Token> {
        let plain = |text: &str| self.tokenize(text, Added::Nothing, false);
        let mut tokens: Vec<Token> = self.bos.filter(|_| self.adds_bos).into_iter().collect();
        tokens.extend(plain(first));
        tokens.extend(&self.pair.first);
        tokens.extend(plain(second));
        tokens.extend(&self.pair.second);
        tokens
    }

    /// Marks the names of control tokens in a text, and what may become a part of one where the text is inserted into
    /// another, with a character that it does not have. `None`: there are none.
    pub fn marked(&self, text: &str, mark: char) -> Option<String> {
        self.names.marked(text, mark)
    }

    /// Whether texts name this token: a control token, or one that the model's makers defined.
    pub fn is_named(&self, token: Token) -> bool {
        self.names.contains(token)
    }

    /// Whether it is a control token, which has no text.
    pub fn is_control(&self, token: Token) -> bool {
        self.control.contains_key(&token)
    }

    /// The token's text without bytes that are not UTF-8: `""` for control tokens and for a piece of a character.
    pub fn text(&self, token: Token) -> &str {
        self.texts.get(token.index()).map_or("", |text| text)
    }

    /// The token's bytes; none for control tokens.
    pub fn bytes(&self, token: Token) -> &[u8] {
        match self.broken.get(&token) {
            Some(bytes) => bytes,
            None => self.text(token).as_bytes(),
        }
    }

    /// The token's bytes, with control tokens in full, as in `<|im_start|>`.
    pub fn literal(&self, token: Token) -> &[u8] {
        match self.control.get(&token) {
            Some(bytes) => bytes,
            None => self.bytes(token),
        }
    }

    /// The tokens of text, sorted by their bytes: without control tokens, those that end a generation, and those that begin
    /// with NUL, which llama.cpp treats as empty.
    pub fn sorted(&self) -> Arc<Sorted> {
        let sorted = self.sorted.get_or_init(|| {
            let tokens = (0..).map(Token).take(self.len()).map(|token| {
                let bytes = self.bytes(token);
                let is_text = !self.is_end(token) && bytes.first() != Some(&0);
                if is_text { bytes } else { &[] }
            });
            Arc::new(Sorted::new(tokens))
        });
        Arc::clone(sorted)
    }

    /// Data that `make` derives from the vocabulary, once. For one type only: a second one would be derived each time.
    pub fn derived<T: Any + Send + Sync>(&self, make: impl Fn(&Self) -> T) -> Arc<T> {
        let derived = self.derived.get_or_init(|| Arc::new(make(self)));
        match Arc::clone(derived).downcast() {
            Ok(derived) => derived,
            Err(_) => Arc::new(make(self)),
        }
    }

    /// Whether the token ends a generation.
    pub fn is_end(&self, token: Token) -> bool {
        self.ends.binary_search(&token).is_ok()
    }

    /// All tokens that end a generation, ascending.
    pub fn ends(&self) -> &[Token] {
        &self.ends
    }

    /// The beginning-of-sequence token.
    pub fn bos(&self) -> Option<Token> {
        self.bos
    }

    /// The end-of-sequence token.
    pub fn eos(&self) -> Option<Token> {
        self.eos
    }

    /// Whether the BOS token is prepended to texts.
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// Whether a space is prepended to texts.
    pub fn adds_space(&self) -> bool {
        self.adds_space
    }

    /// The padding token.
    pub fn pad(&self) -> Option<Token> {
        self.pad
    }

    /// The token for unknown text.
    pub fn unknown(&self) -> Option<Token> {
        self.unknown
    }

    /// The fill-in-the-middle tokens, if the model has them.
    pub fn fim(&self) -> Option<Fim> {
        self.fim
    }
}

/// Tokens sorted by their bytes, so that those with a common prefix are adjacent.
#[derive(Debug, PartialEq, Eq)]
pub struct Sorted {
    bytes: Vec<u8>,
    /// The range of each token in `bytes`, by id.
    places: Vec<Range<usize>>,
    /// Tokens with bytes, in order, each with the length of the prefix it shares with the previous one.
    order: Vec<(Token, usize)>,
}

impl Sorted {
    /// From the bytes of each token, by id; no bytes leave it out.
    pub fn new<'a>(tokens: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut sorted = Self {
            bytes: Vec::new(),
            places: Vec::new(),
            order: Vec::new(),
        };
        for (token, bytes) in (0..).map(Token).zip(tokens) {
            let start = sorted.bytes.len();
            sorted.bytes.extend_from_slice(bytes);
            sorted.places.push(start..sorted.bytes.len());
            if !bytes.is_empty() {
                sorted.order.push((token, 0));
            }
        }
        let mut order = std::mem::take(&mut sorted.order);
        order.sort_unstable_by_key(|&(token, _)| sorted.bytes(token));
        let mut before: &[u8] = &[];
        for (token, shared) in &mut order {
            let bytes = sorted.bytes(*token);
            *shared = before.iter().zip(bytes).take_while(|(a, b)| a == b).count();
            before = bytes;
        }
        sorted.order = order;
        sorted
    }

    /// The number of tokens, including those without bytes.
    #[expect(clippy::len_without_is_empty, reason = "a vocabulary is never empty")]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn bytes(&self, token: Token) -> &[u8] {
        match self.places.get(token.index()) {
            Some(place) => &self.bytes[place.clone()],
            None => &[],
        }
    }

    /// The tokens that begin with these bytes, with all of their own.
    pub fn beginning_with(&self, prefix: &[u8]) -> impl Iterator<Item = (Token, &[u8])> {
        let from = self
            .order
            .partition_point(|&(token, _)| self.bytes(token) < prefix);
        self.order[from..]
            .iter()
            .map(|&(token, _)| (token, self.bytes(token)))
            .take_while(move |(_, bytes)| bytes.starts_with(prefix))
    }

    /// The tokens in order, each with the length of the prefix it shares with the previous one, and its bytes.
    pub fn iter(&self) -> impl Iterator<Item = (Token, usize, &[u8])> {
        self.order
            .iter()
            .map(|&(token, shared)| (token, shared, self.bytes(token)))
    }
}

/// Bytes as text, without what is not UTF-8.
fn lossless(bytes: &[u8]) -> Box<str> {
    bytes
        .utf8_chunks()
        .map(|chunk| chunk.valid())
        .collect::<String>()
        .into_boxed_str()
}
