//! Shapes: how many contexts, and how many sequences in one decode; and the fastest of those measured.

use serde::{Deserialize, Serialize};

use crate::config;
use crate::engine::split::Split;

/// Wider decodes are no faster on any machine that was tried, and every sequence in them waits for the others.
pub const WIDEST: usize = 64;

/// The contexts of a pool, and how its sequences share decodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrangement {
    /// llama.cpp contexts. They share the threads evenly.
    pub contexts: usize,
    /// Of the sequences of one context.
    pub split: Split,
}

impl Arrangement {
    /// For a model that does not generate.
    pub fn none() -> Self {
        Self {
            contexts: 0,
            split: Split::widest_first(vec![1], 0),
        }
    }
}

/// A number of contexts, and of rows in each decode.
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

/// A number of contexts that can be chosen, and the widths of their decodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub contexts: usize,
    /// In ascending order. The last one holds as many sequences as a context has, or as the settings allow.
    pub widths: Vec<usize>,
    /// How many sequences share a decode, if the settings say so.
    pub fixed: Option<usize>,
}

impl Choice {
    /// The widths whose speed decides. Others are interpolated.
    fn measured(&self) -> impl Iterator<Item = usize> {
        let ends = [self.widths.first().copied(), self.widths.last().copied()];
        let is_measured = move |width: &usize| match self.fixed.is_some() {
            true => ends[1] == Some(*width),
            false => width.is_power_of_two() || ends.contains(&Some(*width)),
        };
        self.widths.iter().copied().filter(is_measured)
    }

    /// As many sequences in a decode as its widths allow.
    pub fn widest_first(&self, most: usize) -> Arrangement {
        let mut split = Split::widest_first(self.widths.clone(), most.div_ceil(self.contexts));
        for group in &mut split.groups {
            *group = self.fixed.map_or(*group, |fixed| fixed.min(*group));
        }
        Arrangement {
            contexts: self.contexts,
            split,
        }
    }
}

/// What the settings allow, with decodes of these widths.
pub fn choices(
    settings: &config::Engine,
    widths: &[usize],
    threads: usize,
    on_gpu: bool,
) -> Vec<Choice> {
    let most = settings.parallel_sequences;
    let contexts = match settings.contexts {
        0 if on_gpu => vec![1],
        0 => powers(threads.min(most)),
        fixed => vec![fixed.min(most)],
    };
    let choice = |contexts: usize| {
        let each = most.div_ceil(contexts);
        let fixed = Some(settings.decode_width).filter(|&width| width > 0);
        let widest = fixed.map_or(each, |fixed| fixed.min(each));
        // The last one holds them all, with padding.
        let enough = widths.iter().position(|&width| width >= widest);
        let end = enough.map_or(widths.len(), |at| at + 1);
        Choice {
            contexts,
            widths: widths[..end].to_vec(),
            fixed,
        }
    };
    contexts.into_iter().map(choice).collect()
}

/// The shapes whose speed decides between the choices.
pub fn candidates(choices: &[Choice]) -> Vec<Shape> {
    let shapes = |choice: &Choice| {
        let contexts = choice.contexts;
        let widths = choice.measured();
        widths
            .map(move |width| Shape { contexts, width })
            .collect::<Vec<_>>()
    };
    choices.iter().flat_map(shapes).collect()
}

fn powers(most: usize) -> Vec<usize> {
    let powers = std::iter::successors(Some(1), |n| Some(n * 2));
    powers.take_while(|&n| n < most).chain([most]).collect()
}

/// The fastest of the choices when `most` sequences run; `None` unless all of their candidates were measured.
pub fn best(choices: &[Choice], figures: &[Figure], most: usize) -> Option<Arrangement> {
    let mut plans = Vec::new();
    for choice in choices {
        let contexts = choice.contexts;
        let each = most.div_ceil(contexts);
        let seconds: Option<Vec<(usize, f64)>> = choice
            .measured()
            .map(|width| {
                let shape = Shape { contexts, width };
                let figure = figures.iter().find(|figure| figure.shape == shape)?;
                let rows = (contexts * width) as f64;
                Some((width, rows / figure.tokens_per_second.max(1e-9)))
            })
            .collect();
        let (groups, round) = split(&seconds?, &choice.widths, each);
        let mut arrangement = choice.widest_first(most);
        if choice.fixed.is_none() {
            arrangement.split.groups = groups;
        }
        plans.push((arrangement, (contexts * each) as f64 / round));
    }
    plans
        .into_iter()
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(arrangement, _)| arrangement)
}

/// The fastest split of up to `most` sequences into decodes of some widths, given the seconds that decodes of some of these
/// take (in ascending order; others are interpolated): the first group for each number of sequences, and the seconds for all
/// of `most`.
fn split(seconds: &[(usize, f64)], widths: &[usize], most: usize) -> (Vec<usize>, f64) {
    let cost = |sequences: usize| {
        let width = widths.iter().copied().find(|&width| width >= sequences)?;
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
        let check =
            |settings: config::Engine, widths: &[usize], on_gpu, expect: &[(usize, usize)]| {
                let found: Vec<(usize, usize)> = candidates(&choices(&settings, widths, 4, on_gpu))
                    .into_iter()
                    .map(|one| (one.contexts, one.width))
                    .collect();
                assert_eq!(found, expect, "{widths:?} {settings:?}");
            };
        let all: Vec<usize> = (1..=64).collect();
        check(settings(0, 0, 16), &[1], false, &[(1, 1), (2, 1), (4, 1)]);
        check(settings(0, 8, 3), &[1], false, &[(1, 1), (2, 1), (3, 1)]);
        check(settings(0, 0, 16), &[1], true, &[(1, 1)]);
        check(settings(3, 0, 16), &[1], false, &[(3, 1)]);
        check(
            settings(3, 0, 16),
            &[1, 2, 3],
            false,
            &[(3, 1), (3, 2), (3, 3)],
        );
        check(settings(0, 8, 16), &all, false, &[(1, 8), (2, 8), (4, 4)]);
        check(
            settings(1, 0, 6),
            &all,
            true,
            &[(1, 1), (1, 2), (1, 4), (1, 6)],
        );
        check(settings(0, 0, 1), &all, false, &[(1, 1)]);
        // Classes that begin later are padded.
        let class = [8, 10, 12, 14, 16];
        check(settings(2, 0, 16), &class, false, &[(2, 8)]);
        check(settings(1, 0, 16), &class, false, &[(1, 8), (1, 16)]);
        check(settings(2, 0, 17), &class, false, &[(2, 8), (2, 10)]);
        check(settings(0, 0, 1), &class, false, &[(1, 8)]);
        check(settings(1, 4, 16), &class, false, &[(1, 8)]);
        let four = choices(&settings(1, 4, 16), &class, 4, false);
        assert_eq!(four[0].widest_first(16).split.width(), 4);
    }

    #[test]
    fn sequences_are_split_into_the_fastest_decodes() {
        let check = |seconds: &[(usize, f64)], widths: &[usize], groups: &[usize], least: f64| {
            let (found, seconds) = split(seconds, widths, groups.len());
            assert_eq!(found[1..], *groups);
            assert!((seconds - least).abs() < 1e-9, "{seconds}");
        };
        check(&[(1, 1.0)], &[1], &[1, 1, 1], 3.0);
        // Two together are slower than one by one; four are not, and three lie between.
        let four = [1, 2, 3, 4];
        check(
            &[(1, 1.0), (2, 2.5), (4, 3.0)],
            &four,
            &[1, 1, 3, 4, 1],
            4.0,
        );
        check(&[(1, 1.0), (4, 1.9)], &four, &[1, 2, 3, 4, 1, 2, 3, 4], 3.8);
        check(&[(2, 1.0)], &[1, 2], &[1, 1, 1], 1.5);
        // Padded: three cost as much as four.
        check(
            &[(4, 2.0), (8, 3.0)],
            &[4, 8],
            &[1, 2, 3, 4, 5, 6, 7, 8, 1],
            5.0,
        );
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
        let check = |all: &[(usize, Vec<usize>)], most, expect: Option<(usize, &[usize])>| {
            let choice = |(contexts, widths): &(usize, Vec<usize>)| Choice {
                contexts: *contexts,
                widths: widths.clone(),
                fixed: None,
            };
            let choices: Vec<Choice> = all.iter().map(choice).collect();
            let found = best(&choices, &figures, most);
            let found = found.as_ref().map(|it| (it.contexts, &it.split.groups[..]));
            assert_eq!(found, expect);
        };
        check(&[(1, vec![1]), (2, vec![1])], 4, Some((2, &[0, 1, 1])));
        check(
            &[(1, vec![1, 3, 4]), (2, vec![1, 2])],
            4,
            Some((1, &[0, 1, 2, 3, 4])),
        );
        check(&[(1, vec![1]), (4, vec![1])], 4, None);
    }
}
