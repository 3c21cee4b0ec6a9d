//! Pooling: one vector of a text from the vectors of its tokens.

use crate::config;
use crate::engine::error::EngineError;
use crate::model::{NamedPooling, Pooling};

/// The pooling that settings and metadata call for, or why the model makes no embeddings.
pub fn choose(wanted: config::Pooling, named: NamedPooling) -> Result<Pooling, EngineError> {
    match (wanted, named) {
        (config::Pooling::Mean, _) => Ok(Pooling::Mean),
        (config::Pooling::Cls, _) => Ok(Pooling::Cls),
        (config::Pooling::Last, _) => Ok(Pooling::Last),
        (config::Pooling::Auto, NamedPooling::Pools(pooling)) => Ok(pooling),
        (config::Pooling::Auto, NamedPooling::Ranks) => Err(EngineError::NoEmbeddings(
            "This model ranks texts (a reranker, POST /v1/rerank); it makes no embeddings.",
        )),
        (config::Pooling::Auto, NamedPooling::Nothing) => Err(EngineError::NoEmbeddings(
            "This model's metadata does not specify a pooling type, so it was not made for embeddings. To get embeddings \
             anyway, set embeddings.pooling (CANDOR_EMBEDDINGS__POOLING) to mean, cls or last.",
        )),
    }
}

/// Whether settings and metadata call for ranking instead.
pub fn ranks(wanted: config::Pooling, named: NamedPooling) -> bool {
    wanted == config::Pooling::Auto && named == NamedPooling::Ranks
}

/// Pools the vectors of a text's tokens.
pub struct Pooler {
    /// The first and last row that count.
    rows: (usize, usize),
    /// Summed in f64.
    sum: Vec<f64>,
}

impl Pooler {
    pub fn new(pooling: Pooling, length: usize) -> Self {
        let last = length.saturating_sub(1);
        Self {
            rows: match pooling {
                Pooling::Mean => (0, last),
                Pooling::Cls => (0, 0),
                Pooling::Last => (last, last),
            },
            sum: Vec::new(),
        }
    }

    pub fn wants(&self, row: usize) -> bool {
        (self.rows.0..=self.rows.1).contains(&row)
    }

    pub fn add(&mut self, row: &[f32]) {
        self.sum.resize(row.len(), 0.0);
        for (sum, &number) in self.sum.iter_mut().zip(row) {
            *sum += f64::from(number);
        }
    }

    /// `None` if some are not finite.
    pub fn vector(self) -> Option<Vec<f64>> {
        let count = (self.rows.1 - self.rows.0 + 1) as f64;
        let numbers = self.sum.into_iter().map(|sum| sum / count);
        numbers
            .map(|number| number.is_finite().then_some(number))
            .collect()
    }
}

/// The first `dimensions` numbers, scaled to length 1; a vector of zeros stays as it is. `None` if some are not finite.
pub fn unit(mut vector: Vec<f64>, dimensions: usize) -> Option<Vec<f32>> {
    vector.truncate(dimensions);
    let length = vector
        .iter()
        .map(|number| number * number)
        .sum::<f64>()
        .sqrt();
    if !length.is_finite() {
        return None;
    }
    let length = if length > 0.0 { length } else { 1.0 };
    Some(
        vector
            .into_iter()
            .map(|number| (number / length) as f32)
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pooling_makes_one_vector_of_many() {
        let check = |pooling, last: f32, expect: Option<[f64; 2]>| {
            let rows = [[1.0, -2.0], [3.0, 4.0], [5.0, last]];
            let mut pooler = Pooler::new(pooling, rows.len());
            for (position, row) in rows.iter().enumerate() {
                if pooler.wants(position) {
                    pooler.add(row);
                }
            }
            assert_eq!(pooler.vector(), expect.map(Vec::from), "{pooling:?} {last}");
        };
        check(Pooling::Mean, 1.0, Some([3.0, 1.0]));
        check(Pooling::Cls, 1.0, Some([1.0, -2.0]));
        check(Pooling::Last, 1.0, Some([5.0, 1.0]));
        check(Pooling::Mean, f32::NAN, None);
        check(Pooling::Last, f32::INFINITY, None);
    }

    #[test]
    fn vectors_are_cut_and_then_have_length_one() {
        let check = |vector: &[f64], dimensions, expect: Option<&[f32]>| {
            let unit = unit(vector.to_vec(), dimensions);
            assert_eq!(unit.as_deref(), expect, "{vector:?} {dimensions}");
        };
        check(&[3.0, -4.0], 2, Some(&[0.6, -0.8]));
        check(&[3.0, -4.0, 12.0], 2, Some(&[0.6, -0.8]));
        check(&[3.0, -4.0], 1, Some(&[1.0]));
        check(&[0.0, 0.0], 2, Some(&[0.0, 0.0]));
        check(&[1.0, f64::NAN], 2, None);
        check(&[1.0, f64::INFINITY], 2, None);
        check(&[1.0, f64::NAN], 1, Some(&[1.0]));
    }

    #[test]
    fn the_settings_win_over_the_metadata() {
        use config::Pooling as Wanted;
        let check = |wanted, named, expect: Option<Pooling>| {
            assert_eq!(choose(wanted, named).ok(), expect, "{wanted:?} {named:?}");
        };
        let cls = NamedPooling::Pools(Pooling::Cls);
        check(Wanted::Auto, cls, Some(Pooling::Cls));
        check(Wanted::Last, cls, Some(Pooling::Last));
        check(Wanted::Mean, NamedPooling::Ranks, Some(Pooling::Mean));
        check(Wanted::Cls, NamedPooling::Nothing, Some(Pooling::Cls));
        check(Wanted::Auto, NamedPooling::Nothing, None);
        check(Wanted::Auto, NamedPooling::Ranks, None);
        assert!(ranks(Wanted::Auto, NamedPooling::Ranks));
        assert!(!ranks(Wanted::Mean, NamedPooling::Ranks));
        assert!(!ranks(Wanted::Auto, cls));
    }
}
