//! `candor tune`: measures everything that either mode could choose, and shows it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::measure::measure_all;
use super::results::Measured;
use super::shapes::{Arrangement, Shape, best, candidates};
use super::tuning::{Tuning, lock_measuring};
use crate::config::{Config, Mode};
use crate::engine::cores::Cores;
use crate::engine::error::StartError;
use crate::engine::trial::{self, Refused};
use crate::engine::widths::ROUNDS;
use crate::model::{self, Heads, Model};

/// Time to find how wide exact decodes can be.
const SEARCH: Duration = Duration::from_secs(60);

/// Everything that was measured, and what each mode chooses.
pub struct Table {
    /// The routines that multiply the weights.
    placements: String,
    /// Routines that failed their trial.
    refused: Vec<Refused>,
    threads: usize,
    measured: Measured,
    /// By mode; none for invariant mode where it is the same as exact mode.
    chosen: Vec<(Mode, Arrangement)>,
}

/// Measures which setup is fastest for the configured model on this machine, and saves the result for later starts.
pub fn tune(config: &Config) -> Result<Table, StartError> {
    let path = model::source::resolve(&config.model)?;
    let heads = Heads::read(&path)?;
    let verdict = trial::verdict(&heads.kinds(), config, &trial::trials())?;
    let model = Arc::new(Model::load_with(&heads, &config.model, verdict.routines)?);
    if !model.generates() {
        return Err(StartError::OnlyEmbeddings);
    }
    let cores = Cores::new(config.engine.threads);
    measure(&model, config, &cores, verdict.refused)
}

fn measure(
    model: &Arc<Model>,
    config: &Config,
    cores: &Cores,
    refused: Vec<Refused>,
) -> Result<Table, StartError> {
    let mut disturbed = lock_measuring();
    let mut tuning = Tuning::new(model, config, Mode::Exact, cores);
    // A width that differed once stays known.
    tuning.forget_speeds();
    let mut all = Vec::new();
    let mut modes = Vec::new();
    for mode in [Mode::Exact, Mode::Invariant, Mode::Throughput] {
        tuning.set_mode(mode);
        tuning.search(cores, SEARCH, ROUNDS)?;
        tuning.settle_mode(cores)?;
        if tuning.mode() != mode {
            continue;
        }
        let choices = tuning.choices();
        for shape in candidates(&choices) {
            if !all.contains(&shape) {
                all.push(shape);
            }
        }
        modes.push((mode, choices));
    }
    tuning.find_cuts(cores)?;
    tuning.add_figures(measure_all(
        model,
        &config.engine,
        &all,
        cores.most(),
        &|| true,
    )?);
    tuning.save(&mut disturbed);
    let measured = tuning.into_measured();
    let most = config.engine.parallel_sequences;
    let chosen = modes
        .into_iter()
        .filter_map(|(mode, choices)| Some((mode, best(&choices, &measured.figures, most)?)));
    Ok(Table {
        placements: model.placements().to_string(),
        refused,
        threads: cores.most(),
        chosen: chosen.collect(),
        measured,
    })
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| contexts | threads each | sequences per decode | tokens/s |"
        )?;
        writeln!(f, "|---:|---:|---:|---:|")?;
        for figure in &self.measured.figures {
            let Shape { contexts, width } = figure.shape;
            let threads = (self.threads / contexts).max(1);
            let speed = figure.tokens_per_second;
            writeln!(f, "| {contexts} | {threads} | {width} | {speed:.1} |")?;
        }
        writeln!(f, "\nWeights: {}.", self.placements)?;
        for Refused { routine, why } in &self.refused {
            writeln!(
                f,
                "The routine `{routine}` {why} on this CPU, and is not used."
            )?;
        }
        for class in self.measured.found.classes() {
            if class.equal.contains(&class.least) || class.least == 1 {
                writeln!(f, "Decodes of {class} sequences give a row the same bits.")?;
            }
        }
        for (mode, Arrangement { contexts, split }) in &self.chosen {
            let groups: Vec<String> = split.groups.iter().skip(1).map(usize::to_string).collect();
            let padding = match split.least() {
                1 => String::new(),
                least => format!(", padded to {least} rows or more"),
            };
            writeln!(
                f,
                "{}: {contexts} contexts; of 1, 2, 3, ... sequences in a context, this many share a decode{padding}: {}",
                mode.as_str(),
                groups.join(" ")
            )?;
        }
        Ok(())
    }
}
