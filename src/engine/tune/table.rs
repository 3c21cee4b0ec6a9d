//! `candor tune`: measures everything that either mode could choose, and shows it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::measure::measure_all;
use super::results::Measured;
use super::shapes::{Arrangement, Shape, WIDEST, best, candidates};
use super::tuning::{Tuning, lock_measuring};
use crate::config::{Config, Mode};
use crate::engine::cores::Cores;
use crate::engine::error::StartError;
use crate::engine::exact;
use crate::engine::trial::{self, Refused};
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
    exact: Option<Arrangement>,
    throughput: Option<Arrangement>,
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
    tuning.search(cores, SEARCH, exact::ROUNDS)?;
    tuning.find_cuts(cores)?;
    let exact = tuning.candidates();
    let (settings, threads) = (&config.engine, cores.most());
    let on_gpu = config.model.gpu_layers > 0;
    let throughput = candidates(settings, WIDEST, threads, on_gpu);
    let mut all = throughput.clone();
    all.extend(exact.iter().filter(|one| !throughput.contains(one)));
    tuning.add_figures(measure_all(model, settings, &all, threads)?);
    tuning.save(&mut disturbed);
    let measured = tuning.into_measured();
    let chosen = |shapes| best(shapes, &measured.figures, settings.parallel_sequences);
    Ok(Table {
        placements: model.placements().to_string(),
        refused,
        threads,
        exact: chosen(&exact),
        throughput: chosen(&throughput),
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
        writeln!(
            f,
            "Decodes of up to {} sequences have the bits of single ones.",
            self.measured.found.exact_width.max(1)
        )?;
        for (mode, chosen) in [("exact", &self.exact), ("throughput", &self.throughput)] {
            if let Some(Arrangement { contexts, groups }) = chosen {
                let groups: Vec<String> = groups.iter().skip(1).map(usize::to_string).collect();
                writeln!(
                    f,
                    "{mode}: {contexts} contexts; of 1, 2, 3, ... sequences in a context, this many share a decode: {}",
                    groups.join(" ")
                )?;
            }
        }
        Ok(())
    }
}
