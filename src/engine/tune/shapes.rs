//! Shapes: how many contexts, and how many sequences in one decode; and the fastest of those measured.

use serde::{Deserialize, Serialize};

use crate::config;

/// Wider decodes are no faster on any machine that was tried, and every sequence in them waits for the others.
pub const WIDEST: usize = 64;

/// The contexts of a pool, and how its sequences share decodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrangement {
    /// llama.cpp contexts. They share the threads evenly.
    pub contexts: usize,
    /// `groups[n]`: when `n` sequences of a context each have a token to evaluate, how many of them share the next decode.
    pub groups: Vec<usize>,
}

impl Arrangement {
    /// For a model that does not generate.
    pub fn none() -> Self {
        Self {
            contexts: 0,
            groups: vec![0],
        }
    }
}

/// A number of contexts, and of sequences in each decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    pub contexts: usize,
    pub width: usize,
}

/// The measured speed of a shape.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    #[serde(flatten)]
    pub shape: Shape,
    /// Of all contexts together.
    pub tokens_per_second: f64,
}

/// The shapes that the settings allow, with decodes of at most `widest` sequences.
pub fn candidates(
    settings: &config::Engine,
    widest: usize,
    threads: usize,
    on_gpu: bool,
) -> Vec<Shape> {
    let most = settings.parallel_sequences;
    let powers = |most: usize| {
        let mut powers: Vec<usize> = std::iter::successors(Some(1), |n| Some(n * 2))
            .take_while(|&n| n < most)
            .collect();
        powers.push(most);
        powers
    };
    let contexts = match settings.contexts {
        0 if on_gpu => vec![1],
        0 => powers(threads.min(most)),
        fixed => vec![fixed.min(most)],
    };
    contexts
        .into_iter()
        .flat_map(|contexts| {
            let widest = widest.min(most.div_ceil(contexts));
            let widths = match settings.decode_width {
                0 => powers(widest),
                fixed => vec![fixed.min(widest)],
            };
            widths
                .into_iter()
                .map(move |width| Shape { contexts, width })
        })
        .collect()
}

/// The fastest arrangement of the candidates when `most` sequences run; `None` unless all of them were measured.
pub fn best(candidates: &[Shape], figures: &[Figure], most: usize) -> Option<Arrangement> {
    let mut numbers: Vec<usize> = candidates.iter().map(|shape| shape.contexts).collect();
    numbers.dedup();
    let mut plans = Vec::new();
    for contexts in numbers {
        let each = most.div_ceil(contexts);
        let seconds: Option<Vec<(usize, f64)>> = candidates
            .iter()
            .filter(|shape| shape.contexts == contexts)
            .map(|shape| {
                let figure = figures.iter().find(|figure| figure.shape == *shape)?;
                let rows = (shape.contexts * shape.width) as f64;
                Some((shape.width, rows / figure.tokens_per_second.max(1e-9)))
            })
            .collect();
        let (groups, round) = split(&seconds?, each);
        plans.push((
            Arrangement { contexts, groups },
            (contexts * each) as f64 / round,
        ));
    }
    plans
        .into_iter()
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(arrangement, _)| arrangement)
}

/// The fastest split of up to `most` sequences into decodes, given the seconds that decodes of some widths take (in
/// ascending order; other widths are interpolated): the first group for each number of sequences, and the seconds for
/// all of `most`.
fn split(seconds: &[(usize, f64)], most: usize) -> (Vec<usize>, f64) {
    let cost = |width: usize| {
        let above = seconds.iter().position(|&(other, _)| other >= width)?;
        let (w1, s1) = seconds[above];
        match above.checked_sub(1).map(|below| seconds[below]) {
            Some((w0, s0)) => Some(s0 + (s1 - s0) * (width - w0) as f64 / (w1 - w0) as f64),
            None => Some(s1 * width as f64 / w1 as f64),
        }
    };
    let (mut groups, mut least) = (vec![0], vec![0.0]);
    for count in 1..=most {
        // Between equals the narrower one: the first sequences get their tokens sooner.
        let (group, seconds) = (1..=count)
            .filter_map(|group| Some((group, cost(group)? + least[count - group])))
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .unwrap_or((1, f64::INFINITY));
        groups.push(group);
        least.push(seconds);
    }
    (groups, least[most])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn settings(contexts: usize, decode_width: usize, parallel_sequences: usize) -> config::Engine {
        let config: Config = toml::from_str(include_str!("../../../config/default.toml"))
            .expect("the defaults are valid");
        config::Engine {
            contexts,
            decode_width,
            parallel_sequences,
            ..config.engine
        }
    }

    #[test]
    fn settings_narrow_the_candidates() {
        let check = |settings: config::Engine, widest, on_gpu, expect: &[(usize, usize)]| {
            let found: Vec<(usize, usize)> = candidates(&settings, widest, 4, on_gpu)
                .into_iter()
                .map(|one| (one.contexts, one.width))
                .collect();
            assert_eq!(found, expect, "{widest} {settings:?}");
        };
        check(settings(0, 0, 16), 1, false, &[(1, 1), (2, 1), (4, 1)]);
        check(settings(0, 8, 3), 1, false, &[(1, 1), (2, 1), (3, 1)]);
        check(settings(0, 0, 16), 1, true, &[(1, 1)]);
        check(settings(3, 0, 16), 1, false, &[(3, 1)]);
        check(settings(3, 0, 16), 3, false, &[(3, 1), (3, 2), (3, 3)]);
        check(settings(0, 8, 16), 64, false, &[(1, 8), (2, 8), (4, 4)]);
        check(
            settings(1, 0, 6),
            64,
            true,
            &[(1, 1), (1, 2), (1, 4), (1, 6)],
        );
        check(settings(0, 0, 1), 64, false, &[(1, 1)]);
    }

    #[test]
    fn sequences_are_split_into_the_fastest_decodes() {
        let check = |seconds: &[(usize, f64)], groups: &[usize], least: f64| {
            let (found, seconds) = split(seconds, groups.len());
            assert_eq!(found[1..], *groups);
            assert!((seconds - least).abs() < 1e-9, "{seconds}");
        };
        check(&[(1, 1.0)], &[1, 1, 1], 3.0);
        // Two together are slower than one by one; four are not, and three lie between.
        check(&[(1, 1.0), (2, 2.5), (4, 3.0)], &[1, 1, 3, 4, 1], 4.0);
        check(&[(1, 1.0), (4, 1.9)], &[1, 2, 3, 4, 1, 2, 3, 4], 3.8);
        check(&[(2, 1.0)], &[1, 1, 1], 1.5);
    }

    #[test]
    fn the_fastest_is_chosen_once_all_are_measured() {
        let shape = |contexts, width| Shape { contexts, width };
        let figure = |contexts, width, tokens_per_second| Figure {
            shape: shape(contexts, width),
            tokens_per_second,
        };
        let figures = [
            figure(1, 1, 165.0),
            figure(2, 1, 297.0),
            figure(1, 4, 320.0),
            figure(2, 2, 200.0),
        ];
        let check = |candidates: &[Shape], most, expect: Option<(usize, &[usize])>| {
            let expect = expect.map(|(contexts, groups)| Arrangement {
                contexts,
                groups: groups.to_vec(),
            });
            assert_eq!(best(candidates, &figures, most), expect);
        };
        check(&[shape(1, 1), shape(2, 1)], 4, Some((2, &[0, 1, 1])));
        check(
            &[shape(1, 1), shape(1, 4), shape(2, 1), shape(2, 2)],
            4,
            Some((1, &[0, 1, 2, 3, 4])),
        );
        check(&[shape(1, 1), shape(4, 1)], 4, None);
    }
}
