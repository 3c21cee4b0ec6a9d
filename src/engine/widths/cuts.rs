//! Where a prompt may be cut.

use std::sync::Arc;

use super::search::bits;
use crate::config;
use crate::engine::error::StartError;
use crate::engine::plan;
use crate::engine::shape::context_shape;
use crate::model::Runner;
use crate::model::{Context, DecodeError, Model, Row, Token};

/// The smallest tried number of rows such that a prompt cut at its multiples, into decodes of at least that many rows, has
/// the bits of the prompt evaluated whole; `None` if all of them failed.
///
/// AMX computes rows alike in every decode of two rows and more. Other kernels take rows four or eight at a time, and
/// smaller decodes sometimes have different bits, so fewer than [`plan::GROUP_ROWS`] are not tried there.
pub fn cut_rows(
    model: &Arc<Model>,
    settings: &config::Engine,
    threads: usize,
) -> Result<Option<usize>, StartError> {
    // Not a multiple of any cut: the last piece is longer than the others.
    let prompt = if settings.flash_attention {
        plan::FLASH_ROWS - 5
    } else {
        75
    };
    let by_amx_alone = model.placements().all_amx();
    let tried = if by_amx_alone { 2 } else { plan::GROUP_ROWS };
    let vocabulary = model.vocab().len();
    let mut context = Context::new(model, context_shape(settings, 1, prompt, prompt, prompt))?;
    let mut evaluate = |cut: usize| -> Result<Vec<u64>, DecodeError> {
        let mut hashes = Vec::new();
        let mut begin = 0;
        while begin < prompt {
            let end = if prompt - begin < 2 * cut {
                prompt
            } else {
                begin + cut
            };
            let rows: Vec<Row> = (begin..end)
                .map(|position| Row {
                    token: Token(
                        ((position * position * 37 + position * 911 + 7) % vocabulary) as i32,
                    ),
                    position,
                    lane: 0,
                    logits: true,
                })
                .collect();
            context.decode(&rows, threads)?;
            hashes.extend((0..rows.len()).map(|row| bits(&context, row)));
            begin = end;
        }
        context.cut(0, 0);
        Ok(hashes)
    };
    let whole = evaluate(prompt)?;
    for cut in [tried, plan::GROUP_ROWS] {
        if evaluate(cut)? == whole {
            return Ok(Some(cut));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::specimen::{F16, Q4_1, specimen};
    use super::*;
    use crate::config::Config;

    #[test]
    fn prompts_can_be_cut_at_groups() {
        let settings = Config::default().engine;
        for kind in [Q4_1, F16] {
            let rows = cut_rows(&specimen(kind), &settings, 2).expect("a context");
            assert_eq!(rows, Some(plan::GROUP_ROWS), "{kind}");
        }
    }
}
