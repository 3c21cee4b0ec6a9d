//! The numeric sampling parameters, each with its name, range, default and meaning. Settings, request fields, their
//! documents, the page at `/` and receipts all read this table, so they accept the same values under the same names.
//!
//! To add a parameter: add its row here and apply it in `sampling::stages`. A sampler of its own also needs a name in
//! `sampling::sampler_name` and, for the page to compute it, a row of `STAGES` in `playground/page/sampling.js`. Name it in
//! a title and an example of `docs/api/sampling.md`; `CANDOR_WRITE_PAGES=1 cargo test --release --test it params pages`
//! writes the rest of its documentation.
//!
//! A leaf module: `config` reads the table and comes before `sampling` in the module order.

use serde::{Deserialize, Serialize};

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Param {
    /// The name of the request field.
    pub name: &'static str,
    /// The name of the setting that holds the server's default.
    pub setting: &'static str,
    pub range: Range,
    /// What it does, for the documentation.
    pub about: &'static str,
    /// How the page shows it, if it does.
    pub slider: Option<Slider>,
    /// Whether mirostat replaces its sampler, which is on above 0. A request may not set both.
    pub mirostat_replaces: bool,
    get: fn(&ParamValues) -> Number,
    set: fn(&mut ParamValues, Number),
}

impl Param {
    /// Its value among these.
    pub fn get(&self, values: &ParamValues) -> Number {
        (self.get)(values)
    }

    /// Sets its value, which must be within its range.
    pub fn set(&self, values: &mut ParamValues, value: Number) {
        (self.set)(values, value);
    }

    /// The built-in default.
    pub fn default(&self) -> Number {
        self.get(&ParamValues::default())
    }
}

/// The values a parameter accepts, both bounds included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Range {
    Integer(i64, i64),
    Real(f64, f64),
}

/// A slider covers the values that are useful to try; a parameter accepts others, too.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slider {
    pub from: f64,
    pub to: f64,
    pub step: f64,
}

/// The value of a parameter, of whichever type it has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    Integer(i64),
    Real(f32),
}

impl From<f32> for Number {
    fn from(value: f32) -> Self {
        Self::Real(value)
    }
}

impl From<i32> for Number {
    fn from(value: i32) -> Self {
        Self::Integer(value.into())
    }
}

impl From<usize> for Number {
    fn from(value: usize) -> Self {
        Self::Integer(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<Number> for i64 {
    fn from(number: Number) -> Self {
        match number {
            Number::Integer(value) => value,
            Number::Real(value) => value as Self,
        }
    }
}

impl From<Number> for f32 {
    fn from(number: Number) -> Self {
        match number {
            Number::Integer(value) => value as Self,
            Number::Real(value) => value,
        }
    }
}

impl From<Number> for i32 {
    fn from(number: Number) -> Self {
        i64::from(number).try_into().unwrap_or_default()
    }
}

impl From<Number> for usize {
    fn from(number: Number) -> Self {
        i64::from(number).try_into().unwrap_or_default()
    }
}

/// Makes [`PARAMS`] and [`ParamValues`] of the rows: meaning, name, type, default, range, the slider's ends and step,
/// and whether mirostat replaces it.
macro_rules! params {
    ($($(#[doc = $about:literal])+
       $name:ident: $type:ty = $default:expr, $range:expr $(, slider $from:literal to $to:literal by $step:literal)?
       $(, replaced by $other:ident)?;)+) => {
        /// The value of each parameter.
        #[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
        pub struct ParamValues {
            $($(#[doc = $about])+ pub $name: $type,)+
        }

        /// The defaults of llama-cpp-python's `create_completion`, and llama-server's for what that lacks.
        impl Default for ParamValues {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        /// The parameters, in the order of the documents.
        pub const PARAMS: &[Param] = &[$(Param {
            name: stringify!($name),
            setting: concat!("sampling.", stringify!($name)),
            range: $range,
            about: concat!($($about),+).trim_ascii_start(),
            slider: slider(&[$($from, $to, $step)?]),
            mirostat_replaces: is_any(&[$(stringify!($other))?]),
            get: |values| values.$name.into(),
            set: |values, value| values.$name = value.into(),
        },)+];
    };
}

const fn is_any(words: &[&str]) -> bool {
    !words.is_empty()
}

const fn slider(numbers: &[f64]) -> Option<Slider> {
    match *numbers {
        [from, to, step] => Some(Slider { from, to, step }),
        _ => None,
    }
}

use Range::{Integer, Real};

/// What fits into the types that llama.cpp and the engine use.
const MOST_I32: i64 = i32::MAX as i64;
const MOST_U32: i64 = u32::MAX as i64;

params! {
    /// Divides the logits before the draw: the higher, the more varied the text. 0: always the most likely token.
    temperature: f32 = 0.8, Real(0.0, 100.0), slider 0.0 to 3.0 by 0.05;

    /// Keeps only this many of the most likely tokens. 0 or -1: all.
    top_k: i32 = 40, Integer(-1, MOST_I32), slider 0.0 to 100.0 by 1.0;

    /// Keeps the smallest set of most likely tokens whose probabilities add up to at least this. 1: all.
    top_p: f32 = 0.95, Real(0.0, 1.0), slider 0.0 to 1.0 by 0.01;

    /// Keeps the tokens with at least this share of the most likely token's probability. 0: all.
    min_p: f32 = 0.05, Real(0.0, 1.0), slider 0.0 to 1.0 by 0.01;

    /// Keeps the smallest set of most typical tokens whose probabilities add up to at least this (arXiv:2202.00666). 1:
    /// all.
    typical_p: f32 = 1.0, Real(0.0, 1.0), slider 0.0 to 1.0 by 0.01;

    /// Keeps the tokens whose logits lie within this many standard deviations of the largest (arXiv:2411.07641). 0 or
    /// less: all.
    top_n_sigma: f32 = -1.0, Real(-1.0, 100.0), slider 0.0 to 5.0 by 0.05, replaced by mirostat;

    /// XTC: the probability, at each token, that the most likely candidates are removed. 0: never.
    xtc_probability: f32 = 0.0, Real(0.0, 1.0), slider 0.0 to 1.0 by 0.05, replaced by mirostat;

    /// XTC: removes the tokens with at least this probability, except the least likely of them. Above 0.5: none.
    xtc_threshold: f32 = 0.1, Real(0.0, 1.0), slider 0.0 to 0.5 by 0.01;

    /// How far dynamic temperature moves: down where the model is certain, up where it is not, never below 0
    /// (arXiv:2309.02772). 0: it does not move.
    dynatemp_range: f32 = 0.0, Real(0.0, 100.0), slider 0.0 to 3.0 by 0.05, replaced by mirostat;

    /// Dynamic temperature: the power to which the normalized entropy is raised to place the temperature within
    /// `dynatemp_range`.
    dynatemp_exponent: f32 = 1.0, Real(0.0, 100.0);

    /// Divides the positive logits of the last 64 generated tokens and multiplies the negative ones (arXiv:1909.05858).
    /// 1: no effect.
    repeat_penalty: f32 = 1.0, Real(0.01, 100.0), slider 0.5 to 2.0 by 0.05;

    /// The same for all tokens of prompt and completion, once each, as in vLLM and transformers; not together with
    /// `repeat_penalty`. 1: no effect.
    repetition_penalty: f32 = 1.0, Real(0.01, 100.0), slider 0.5 to 2.0 by 0.05;

    /// Subtracted from a token's logit for each time the token occurs among the last 64 generated.
    frequency_penalty: f32 = 0.0, Real(-2.0, 2.0), slider -2.0 to 2.0 by 0.1;

    /// Subtracted once from the logit of each token that occurs among the last 64 generated.
    presence_penalty: f32 = 0.0, Real(-2.0, 2.0), slider -2.0 to 2.0 by 0.1;

    /// DRY: a token that would extend a repetition of n tokens, from the prompt or the generated text, loses
    /// dry_multiplier · dry_base^(n − dry_allowed_length) of its logit. 0: off.
    dry_multiplier: f32 = 0.0, Real(0.0, 100.0), slider 0.0 to 5.0 by 0.1;

    /// DRY: how fast the penalty grows with the length of the repetition.
    dry_base: f32 = 1.75, Real(1.0, 100.0);

    /// DRY: repetitions of fewer tokens are not penalized.
    dry_allowed_length: usize = 2, Integer(0, MOST_U32);

    /// DRY: how many of the last tokens are searched for repetitions. -1: the whole prompt and completion. 0: none.
    dry_penalty_last_n: i32 = -1, Integer(-1, MOST_I32);

    /// Mirostat 1 or 2 replaces all samplers after the penalties and the constraint (arXiv:2007.14966). 0: off.
    mirostat_mode: i32 = 0, Integer(0, 2), slider 0.0 to 2.0 by 1.0;

    /// Mirostat's target surprise, in bits.
    mirostat_tau: f32 = 5.0, Real(0.0, 100.0);

    /// Mirostat's learning rate.
    mirostat_eta: f32 = 0.1, Real(0.0, 1.0);

    /// Generation does not end before this many tokens.
    min_tokens: usize = 0, Integer(0, MOST_U32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_default_is_in_range_and_each_value_is_set_and_read() {
        for param in PARAMS {
            let (default, bounds) = match (param.range, param.default()) {
                (Integer(least, most), Number::Integer(default)) => {
                    let within = (least..=most).contains(&default);
                    (within, [Number::Integer(least), Number::Integer(most)])
                }
                (Real(least, most), Number::Real(default)) => {
                    let within = (least..=most).contains(&f64::from(default));
                    (
                        within,
                        [least, most].map(|bound| Number::Real(bound as f32)),
                    )
                }
                other => panic!("{}: {other:?}", param.name),
            };
            assert!(default, "{}", param.name);
            for bound in bounds {
                let mut values = ParamValues::default();
                param.set(&mut values, bound);
                assert_eq!(param.get(&values), bound, "{}", param.name);
                // No other has changed.
                param.set(&mut values, param.default());
                assert_eq!(values, ParamValues::default(), "{}", param.name);
            }
        }
    }

    #[test]
    fn a_meaning_is_one_line_of_whole_sentences() {
        for Param { name, about, .. } in PARAMS {
            assert!(
                about.ends_with('.') && !about.contains("  "),
                "{name}: {about:?}"
            );
        }
        assert_eq!(PARAMS[0].name, "temperature");
        assert_eq!(PARAMS[0].setting, "sampling.temperature");
    }
}
