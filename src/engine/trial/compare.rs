//! What the child process of a trial does: it evaluates a small model by the routines in question and by the plain ones.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::order::{Order, Outcome};
use crate::config::{self, Config};
use crate::engine::cores::Cores;
use crate::model::{
    self, Context, ContextShape, Heads, Model, Output, Routines, Row, Runner, Token,
};

/// Takes an [`Order`] and returns an [`Outcome`], both as JSON.
pub fn run(order: &str) -> String {
    let _ = rlimit::Resource::CORE.set(0, 0);
    let outcome = match serde_json::from_str::<Order>(order) {
        Ok(order) => compare(&order).unwrap_or_else(|error| Outcome::Untried(error.to_string())),
        Err(error) => Outcome::Untried(error.to_string()),
    };
    serde_json::to_string(&outcome).unwrap_or_default()
}

type Failure = Box<dyn std::error::Error>;

/// Evaluates the small model by the order's routines and by the plain ones.
fn compare(order: &Order) -> Result<Outcome, Failure> {
    const PLAIN: Routines = Routines {
        amx: false,
        repack: false,
    };
    let (rows, threaded) = evaluate(order, order.routines)?;
    let is_finite = |rows: &Rows| rows.iter().flatten().all(|logit| logit.is_finite());
    if !is_finite(&rows) || !is_finite(&threaded) {
        return Ok(Outcome::Bad(
            "computes numbers that are not finite".to_owned(),
        ));
    }
    if order.routines != PLAIN {
        let (plain, plain_threaded) = evaluate(order, PLAIN)?;
        let mut pairs = rows
            .iter()
            .zip(&plain)
            .chain(threaded.iter().zip(&plain_threaded));
        if !pairs.all(|(one, other)| are_close(one, other)) {
            return Ok(Outcome::Bad(
                "computes something else than the plain routines".to_owned(),
            ));
        }
    }
    let mut hash = Sha256::new();
    for logit in rows.iter().flatten() {
        hash.update(logit.to_le_bytes());
    }
    Ok(Outcome::Fine(model::hex(&hash.finalize()[..8])))
}

/// Whether two rows of logits may be of one model. Routines round differently, by at most some hundredths of the distance
/// between the lowest and the highest logit; a wrong one is far off.
fn are_close(one: &[f32], other: &[f32]) -> bool {
    const SHARE: f32 = 0.1;
    let least = other.iter().copied().fold(f32::INFINITY, f32::min);
    let most = other.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let apart = one.iter().zip(other).map(|(a, b)| (a - b).abs());
    apart.fold(0.0, f32::max) <= SHARE * (most - least)
}

/// Sequences that share the widest decode.
const WIDTH: usize = 16;
/// Tokens of the long prompt, all of one decode.
const PROMPT: usize = 64;
/// Tokens of the others.
const SHORT: usize = 8;

/// Rows of logits.
type Rows = Vec<Vec<f32>>;

/// Evaluates, with one thread, a prompt, single rows after it, and decodes of two and of [`WIDTH`] sequences; and with all
/// threads, whose number may change bits, another decode of [`WIDTH`]. Returns the logits with one thread and with all.
fn evaluate(order: &Order, routines: Routines) -> Result<(Rows, Rows), Failure> {
    let settings: config::Model = Config::default().model;
    let heads = Heads::read(&order.specimen)?;
    let model = Arc::new(Model::load_with(&heads, &settings, routines)?);
    let shape = ContextShape {
        lanes: WIDTH + 1,
        lane_tokens: 256,
        batch_rows: PROMPT,
        logits_rows: PROMPT,
        output: Output::Logits,
        flash_attention: order.flash_attention,
        kv_type_k: order.kv_type_k,
        kv_type_v: order.kv_type_v,
    };
    let mut context = Context::new(&model, shape)?;
    let row = |lane: usize, position: usize, logits| Row {
        token: Token(((lane * 31 + position * 7 + 3) % model.vocab().len()) as i32),
        position,
        lane,
        logits,
    };
    let mut all = Vec::new();
    let mut decode = |rows: &[Row], threads: usize| -> Result<(), Failure> {
        context.decode(rows, threads)?;
        for (index, _) in rows.iter().enumerate().filter(|(_, row)| row.logits) {
            let logits = context.logits(index).ok_or("a row of logits is missing")?;
            all.push(logits.to_vec());
        }
        Ok(())
    };
    let prompt: Vec<Row> = (0..PROMPT).map(|at| row(0, at, true)).collect();
    decode(&prompt, 1)?;
    for at in PROMPT..PROMPT + 2 {
        decode(&[row(0, at, true)], 1)?;
    }
    for lane in 1..=WIDTH {
        let prompt: Vec<Row> = (0..SHORT).map(|at| row(lane, at, false)).collect();
        decode(&prompt, 1)?;
    }
    for (step, width) in [2, WIDTH].into_iter().enumerate() {
        let rows: Vec<Row> = (1..=width)
            .map(|lane| row(lane, SHORT + if lane <= 2 { step } else { 0 }, true))
            .collect();
        decode(&rows, 1)?;
    }
    // Each thread that multiplies by AMX loads its own configuration.
    let threads = Cores::new(0).most();
    let rows: Vec<Row> = (1..=WIDTH)
        .map(|lane| row(lane, SHORT + if lane <= 2 { 2 } else { 1 }, true))
        .collect();
    decode(&rows, threads)?;
    let threaded = all.split_off(all.len() - WIDTH);
    Ok((all, threaded))
}

#[cfg(test)]
mod tests {
    use super::super::specimen::Specimen;
    use super::*;
    use crate::config::KvType;

    fn outcome(specimen: &Specimen) -> Outcome {
        let order = Order {
            routines: Routines::ALL,
            flash_attention: false,
            kv_type_k: KvType::f16,
            kv_type_v: KvType::f16,
            specimen: specimen.path().to_path_buf(),
        };
        compare(&order).expect("it can be tried")
    }

    #[test]
    fn distant_rows_are_not_close() {
        let row = [0.0, 1.0, -3.0, 2.0];
        assert!(are_close(&[0.01, 1.1, -3.2, 1.9], &row));
        assert!(!are_close(&[0.0, 1.0, 2.0, -3.0], &row));
    }

    #[test]
    fn kinds_that_models_mix_are_evaluated_together() {
        let folder = tempfile::tempdir().expect("a folder");
        let check = |kinds: &[u32]| {
            let specimen = Specimen::write_in(folder.path(), kinds).expect("written");
            let outcome = outcome(&specimen);
            assert!(
                matches!(outcome, Outcome::Fine(_)),
                "{kinds:?}: {outcome:?}"
            );
        };
        // Q4_1 with Q6_K and Q8_0; F16 with Q4_K and Q6_K; Q4_K_M; all kinds, and all in the opposite order.
        check(&[3, 8, 14]);
        check(&[1, 12, 14]);
        check(&[6, 8, 12, 14]);
        let all: Vec<u32> = (0..model::kinds()).collect();
        check(&all);
        check(&all.into_iter().rev().collect::<Vec<_>>());
    }

    #[test]
    fn every_kind_of_weights_is_evaluated_to_the_same_bits_again() {
        let folder = tempfile::tempdir().expect("a folder");
        for kind in 0..model::kinds() {
            let specimen = Specimen::write_in(folder.path(), &[kind]).expect("written");
            let first = outcome(&specimen);
            assert!(matches!(first, Outcome::Fine(_)), "{kind}: {first:?}");
            assert_eq!(first, outcome(&specimen), "{kind}");
        }
    }
}
