//! What a token costs beside the model's own arithmetic: `cargo bench`. Rows are random, of the sizes of SmolLM2's
//! vocabulary (49,152) and Gemma 3's (262,144).

use std::sync::Arc;

use candor::engine::{Completion, Ending, TokenDetails, Utf8Decoder};
use candor::logprobs::{Likeliest, LogprobSpec, score};
use candor::model::Token;
use candor::params::ParamValues;
use candor::sampling::{Sampler, SamplingParams};
use divan::{Bencher, black_box};

const VOCABULARIES: [usize; 2] = [49_152, 262_144];

fn main() {
    divan::main();
}

/// Numbers in the range of logits: a few large, most of them small; xorshift.
fn row(count: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let number = (state >> 40) as f32 / 16_777_216.0;
            number * number * 30.0 - 12.0
        })
        .collect()
}

mod logprobs {
    use super::*;

    /// The likeliest 5 and the sum over all: a generated token with `logprobs: 5`.
    #[divan::bench(args = VOCABULARIES)]
    fn five(bencher: Bencher, vocabulary: usize) {
        let row = row(vocabulary);
        let mut likeliest = Likeliest::default();
        bencher.bench_local(|| {
            likeliest.find(black_box(&row), 5);
            score(&row, &likeliest, Token(77), &LogprobSpec::top(5))
        });
    }

    /// The one pass of these two that a sampler needs too.
    #[divan::bench(args = VOCABULARIES)]
    fn likeliest_41(bencher: Bencher, vocabulary: usize) {
        let row = row(vocabulary);
        let mut likeliest = Likeliest::default();
        bencher.bench_local(|| likeliest.find(black_box(&row), 41));
    }

    /// What a full sort costs, as a peer does it.
    #[divan::bench(args = VOCABULARIES)]
    fn full_sort(bencher: Bencher, vocabulary: usize) {
        let row = row(vocabulary);
        bencher.bench_local(|| {
            let mut pairs: Vec<(f32, usize)> = black_box(&row).iter().copied().zip(0..).collect();
            pairs.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
            pairs
        });
    }
}

mod sampling {
    use super::*;

    fn draw(bencher: Bencher, vocabulary: usize, params: &SamplingParams) {
        let row = row(vocabulary);
        let mut sampler = Sampler::over(vocabulary, &[Token(2)], params, &[]);
        let mut likeliest = Likeliest::default();
        bencher.bench_local(|| {
            likeliest.find(black_box(&row), sampler.wants());
            sampler.sample(&row, &likeliest)
        });
    }

    #[divan::bench(args = VOCABULARIES)]
    fn defaults(bencher: Bencher, vocabulary: usize) {
        draw(bencher, vocabulary, &SamplingParams::default());
    }

    #[divan::bench(args = VOCABULARIES)]
    fn greedy(bencher: Bencher, vocabulary: usize) {
        let params = SamplingParams::from(ParamValues {
            temperature: 0.0,
            ..ParamValues::default()
        });
        draw(bencher, vocabulary, &params);
    }

    #[divan::bench(args = VOCABULARIES)]
    fn penalties(bencher: Bencher, vocabulary: usize) {
        let params = SamplingParams::from(ParamValues {
            repeat_penalty: 1.1,
            ..ParamValues::default()
        });
        draw(bencher, vocabulary, &params);
    }

    /// Without top-k the whole vocabulary goes through llama.cpp's samplers.
    #[divan::bench(args = VOCABULARIES)]
    fn whole_vocabulary(bencher: Bencher, vocabulary: usize) {
        let params = SamplingParams::from(ParamValues {
            top_k: 0,
            ..ParamValues::default()
        });
        draw(bencher, vocabulary, &params);
    }
}

mod text {
    use super::*;

    const PIECES: [&[u8]; 6] = [
        b" river",
        b" stone",
        "é".as_bytes(),
        &[0xf0, 0x9f],
        &[0x9a, 0x80],
        b".",
    ];

    #[divan::bench]
    fn decode_128_tokens(bencher: Bencher) {
        bencher.bench_local(|| {
            let mut decoder = Utf8Decoder::new();
            (0..128)
                .map(|i| decoder.push(black_box(PIECES[i % 6])).len())
                .sum::<usize>()
        });
    }

    #[divan::bench(args = [0, 1, 16])]
    fn complete_128_tokens_with_stops(bencher: Bencher, stops: usize) {
        let stops: Vec<String> = (0..stops).map(|i| format!("\n\nUser {i}:")).collect();
        let stops = Arc::new(stops.into());
        bencher.bench_local(|| {
            let mut completion = Completion::new(Arc::clone(&stops), Ending::BeforeStop);
            let mut released = 0;
            for i in 0..128 {
                completion.push(Token(0), black_box(PIECES[i % 6]), TokenDetails::default());
                while completion.release().is_some() {
                    released += 1;
                }
            }
            released
        });
    }
}
