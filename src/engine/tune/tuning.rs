//! Measures a model: for a few seconds at a start, and the rest in idle moments.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::measure::measure_all;
use super::results::{Cut, Measured, measured_path};
use super::shapes::{Arrangement, Figure, Shape, WIDEST, best, candidates};
use crate::config::{Config, Mode};
use crate::engine::cores::{self, Cores};
use crate::engine::error::StartError;
use crate::engine::exact::{self, Found, Search};
use crate::engine::memory;
use crate::engine::persist::save;
use crate::engine::plan;
use crate::engine::sharing::Sharing;
use crate::model::Model;

/// Time that a start, for which someone is waiting, may take to find how wide exact decodes can be.
const SEARCH_AT_START: Duration = Duration::from_secs(5);

/// How often figures are measured again because something else was running.
const MOST_TRIES: usize = 3;

/// Measurements that were disturbed by other work, by their path: good enough for this process, but not saved.
type Disturbed = BTreeMap<PathBuf, Measured>;

/// Held while a model is measured: one at a time.
static MEASURING: Mutex<Disturbed> = Mutex::new(BTreeMap::new());

pub fn lock_measuring() -> MutexGuard<'static, Disturbed> {
    MEASURING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is measured for a model, and what is left to measure.
pub struct Tuning {
    model: Arc<Model>,
    config: Config,
    mode: Mode,
    threads: usize,
    /// Where the measurements are saved.
    path: Option<PathBuf>,
    measured: Measured,
    /// Whether nothing else was running while the figures were measured.
    is_quiet: bool,
    /// Contexts of the engine.
    contexts: usize,
    /// How often figures were measured in idle moments.
    tries: usize,
    /// Nothing is left to measure in idle moments.
    is_done: bool,
}

/// An idle moment, and what it may change.
pub struct Moment<'a> {
    pub cores: &'a Cores,
    pub sharing: &'a Sharing,
    /// Whether it is still idle.
    pub undisturbed: &'a dyn Fn() -> bool,
}

/// The result of an idle moment.
pub enum Step {
    /// It was too short, or found nothing that matters.
    Wait,
    /// How many sequences share a decode from now on ([`Arrangement::groups`]).
    Found(Vec<usize>),
    /// Everything is measured.
    Done,
}

impl Tuning {
    pub fn new(model: &Arc<Model>, config: &Config, mode: Mode, cores: &Cores) -> Self {
        let threads = cores.most();
        Self {
            model: Arc::clone(model),
            config: config.clone(),
            mode,
            threads,
            path: measured_path(model, config, threads),
            measured: Measured::default(),
            is_quiet: true,
            contexts: 0,
            tries: 0,
            is_done: false,
        }
    }

    /// The arrangement for this model, machine and mode: as the settings say, else as measured before, else as measured
    /// now.
    pub fn arrange(&mut self, cores: &Cores) -> Result<Arrangement, StartError> {
        let mut disturbed = lock_measuring();
        let turns = cores::turns();
        let in_process = self.path.as_ref().and_then(|path| disturbed.get(path));
        self.is_quiet = in_process.is_none();
        self.measured = in_process.cloned().unwrap_or_else(|| self.saved());
        let before = self.measured.clone();
        if !self.measured.found.is_complete(self.widest_wanted()) {
            announce();
            self.search(cores, SEARCH_AT_START, 1)?;
        }
        self.find_cuts(cores)?;
        let candidates = self.candidates();
        if candidates.len() > 1 && !self.is_measured(&candidates) {
            if before == self.measured {
                announce();
            }
            let figures = measure_all(&self.model, &self.config.engine, &candidates, self.threads)?;
            self.add_figures(figures);
            self.is_quiet =
                self.is_quiet && turns.is_some() && turns == cores::turns() && cores.are_all_free();
            if !self.is_quiet {
                tracing::info!(
                    "other work disturbed the measurement; it will be repeated in an idle moment"
                );
            }
        }
        if before != self.measured {
            self.save(&mut disturbed);
        }
        let most = self.config.engine.parallel_sequences;
        let arrangement = self.chosen(&candidates).unwrap_or(Arrangement {
            contexts: 1,
            groups: narrow_groups(most, 1),
        });
        self.contexts = arrangement.contexts;
        Ok(arrangement)
    }

    fn is_measured(&self, candidates: &[Shape]) -> bool {
        let most = self.config.engine.parallel_sequences;
        best(candidates, &self.measured.figures, most).is_some()
    }

    /// The fastest of these shapes. A single one need not be measured.
    fn chosen(&self, candidates: &[Shape]) -> Option<Arrangement> {
        let most = self.config.engine.parallel_sequences;
        match candidates {
            [only] => Some(Arrangement {
                contexts: only.contexts,
                groups: narrow_groups(most.div_ceil(only.contexts), only.width),
            }),
            _ => best(candidates, &self.measured.figures, most),
        }
    }

    /// Maximum number of sequences of a shared decode, whatever is measured later.
    pub fn widest(&self) -> usize {
        let wanted = match self.mode {
            Mode::Throughput => WIDEST,
            _ => self.widest_wanted(),
        };
        let shapes = self.candidates_up_to(wanted);
        shapes.iter().map(|shape| shape.width).max().unwrap_or(1)
    }

    /// Decodes are compared up to this width.
    fn widest_wanted(&self) -> usize {
        let settings = &self.config.engine;
        let fixed = match settings.decode_width {
            0 => usize::MAX,
            fixed => fixed,
        };
        match self.mode {
            Mode::Throughput => 1,
            // To compare again, a lane must be cut back.
            _ if !self.model.can_cut() => 1,
            _ => settings
                .parallel_sequences
                .min(exact::WIDEST)
                .min(fixed)
                .min(self.model.placements().widest_equal()),
        }
    }

    /// Compares decodes for at most `budget`, and at most `rounds` times each.
    pub fn search(
        &mut self,
        cores: &Cores,
        budget: Duration,
        rounds: usize,
    ) -> Result<(), StartError> {
        let widest = self.widest_wanted();
        if widest == 1 {
            return Ok(());
        }
        let found = &mut self.measured.found;
        let mut search = Search::new(&self.model, &self.config.engine, widest, found)?;
        let begun = Instant::now();
        let is_enough = |found: &Found| found.is_complete(widest) && found.rounds >= rounds;
        while !is_enough(found) && begun.elapsed() < budget && search.step(found, cores.share())? {}
        Ok(())
    }

    pub fn find_cuts(&mut self, cores: &Cores) -> Result<(), StartError> {
        // On a GPU, throughput mode has no requests that are exact.
        let is_unneeded = self.config.model.gpu_layers > 0 && self.mode == Mode::Throughput;
        if self.measured.cuts.is_some() || !self.model.can_cut() || is_unneeded {
            return Ok(());
        }
        let rows = exact::cut_rows(&self.model, &self.config.engine, cores.share())?;
        self.measured.cuts = Some(Cut { rows });
        Ok(())
    }

    /// Prompts may be cut at multiples of this many tokens.
    pub fn cut_rows(&self) -> usize {
        let found = self.measured.cuts.map(|cut| cut.rows);
        if found == Some(None) {
            tracing::warn!(
                "on this machine a prompt evaluated in pieces gets different bits than one evaluated whole: the low bits of answers may depend on the cache"
            );
        }
        found.flatten().unwrap_or(plan::GROUP_ROWS)
    }

    /// The shapes to choose from, as far as they are known to be exact.
    pub fn candidates(&self) -> Vec<Shape> {
        self.candidates_up_to(match self.mode {
            Mode::Throughput => WIDEST,
            // Wider decodes may have been measured for other settings.
            _ => self
                .measured
                .found
                .exact_width
                .clamp(1, self.widest_wanted()),
        })
    }

    fn candidates_up_to(&self, widest: usize) -> Vec<Shape> {
        let on_gpu = self.config.model.gpu_layers > 0;
        candidates(&self.config.engine, widest, self.threads, on_gpu)
    }

    /// Replaces older figures of the same shapes.
    pub fn add_figures(&mut self, figures: Vec<Figure>) {
        let is_new = |shape| figures.iter().any(|figure| figure.shape == shape);
        self.measured.figures.retain(|figure| !is_new(figure.shape));
        self.measured.figures.extend(figures);
    }

    fn saved(&self) -> Measured {
        let path = self.path.as_deref();
        path.map(Measured::load).unwrap_or_default()
    }

    /// Starts from what is saved about bits, and nothing else.
    pub fn forget_speeds(&mut self) {
        self.measured.found = self.saved().found;
    }

    pub fn into_measured(self) -> Measured {
        self.measured
    }

    /// Saves the measurements for the next start. Disturbed figures are kept for this process only; bits cannot be
    /// disturbed.
    pub fn save(&self, disturbed: &mut Disturbed) {
        let Some(path) = &self.path else { return };
        if self.is_quiet {
            disturbed.remove(path);
            save(path, &self.measured);
        } else {
            disturbed.insert(path.clone(), self.measured.clone());
            // Figures that another start measured undisturbed stay.
            let figures = self.saved().figures;
            let measured = self.measured.clone();
            save(
                path,
                &Measured {
                    figures,
                    ..measured
                },
            );
        }
    }

    /// Measures what is left, as long as nothing else is evaluated. The comparison of decodes stays in `search`, because its
    /// context must stay on one thread.
    pub fn step(
        &mut self,
        search: &mut Option<Search>,
        moment: &Moment<'_>,
    ) -> Result<Step, StartError> {
        // Another model is being measured or loaded.
        let Ok(mut disturbed) = MEASURING.try_lock() else {
            return Ok(Step::Wait);
        };
        let before = self.measured.found.clone();
        let is_compared = self.compare(search, moment)?;
        let found = &self.measured.found;
        if *found != before {
            self.save(&mut disturbed);
        }
        if let Some(groups) = self.narrower(moment.sharing.width()) {
            return Ok(Step::Found(groups));
        }
        if !is_compared {
            return Ok(Step::Wait);
        }
        *search = None;
        let candidates = self.candidates();
        let is_missing = !self.is_measured(&candidates);
        if candidates.len() > 1 && (is_missing || !self.is_quiet) && self.tries < MOST_TRIES {
            if !self.remeasure(&candidates, is_missing, moment)? {
                return Ok(Step::Wait);
            }
            self.save(&mut disturbed);
        } else if self.is_done {
            return Ok(Step::Done);
        }
        self.is_done = true;
        let mine: Vec<Shape> = candidates
            .into_iter()
            .filter(|shape| shape.contexts == self.contexts)
            .collect();
        Ok(self
            .chosen(&mine)
            .map_or(Step::Done, |arrangement| Step::Found(arrangement.groups)))
    }

    /// Compares decodes while undisturbed. Returns whether all were compared, or one was found to differ.
    fn compare(
        &mut self,
        search: &mut Option<Search>,
        moment: &Moment<'_>,
    ) -> Result<bool, StartError> {
        let widest = self.widest_wanted();
        let found = &mut self.measured.found;
        // Single rows need no further rounds.
        let is_enough = found.rounds >= exact::ROUNDS || found.exact_width <= 1;
        if widest == 1 || found.is_complete(widest) && is_enough {
            return Ok(true);
        }
        let before = found.exact_width;
        let search = match search {
            Some(search) => search,
            none => {
                let settings = &self.config.engine;
                if !memory::holds_twice(&self.model, &exact::shape(settings, widest)) {
                    tracing::debug!(
                        "too little memory to compare decodes while the engine is loaded"
                    );
                    return Ok(true);
                }
                none.insert(Search::new(&self.model, settings, widest, found)?)
            }
        };
        loop {
            if !(moment.undisturbed)() {
                return Ok(false);
            }
            if !search.step(found, moment.cores.share())? || found.exact_width < before {
                return Ok(true);
            }
        }
    }

    /// Narrower groups, if decodes of the current width turned out not to be exact.
    fn narrower(&self, width: usize) -> Option<Vec<usize>> {
        let exact = self.measured.found.exact_width.max(1);
        if self.mode != Mode::Exact || exact >= width {
            return None;
        }
        tracing::warn!(
            decode_width = exact,
            "wider decodes turned out to give different bits than single rows and are no longer used"
        );
        let most = self.config.engine.parallel_sequences;
        Some(narrow_groups(most.div_ceil(self.contexts.max(1)), exact))
    }

    /// Measures the speed of these shapes. Returns whether the figures are to be used: not while a further attempt may be
    /// less disturbed.
    fn remeasure(
        &mut self,
        candidates: &[Shape],
        is_missing: bool,
        moment: &Moment<'_>,
    ) -> Result<bool, StartError> {
        if !moment.cores.are_all_free() && !is_missing {
            return Ok(false);
        }
        let mut figures = Vec::new();
        for &shape in candidates {
            if !(moment.undisturbed)() {
                return Ok(false);
            }
            let settings = &self.config.engine;
            figures.extend(measure_all(&self.model, settings, &[shape], self.threads)?);
        }
        self.tries += 1;
        self.is_quiet = (moment.undisturbed)() && moment.cores.are_all_free();
        if !self.is_quiet && self.tries < MOST_TRIES {
            return Ok(false);
        }
        self.add_figures(figures);
        Ok(true)
    }
}

/// Groups of at most `width`, for up to `most` sequences.
fn narrow_groups(most: usize, width: usize) -> Vec<usize> {
    (0..=most).map(|count| count.min(width)).collect()
}

fn announce() {
    tracing::info!(
        "measuring for a few seconds which setup is fastest for this model on this machine; the result is saved for the next start \
         (`candor tune` shows it)"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_moment_measures_what_a_start_left() {
        let model = exact::tests::specimen(exact::tests::Q4_1);
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = Config::default();
        config.model.cache_dir = directory.path().display().to_string();
        let cores = Cores::new(2);
        let mut tuning = Tuning::new(&model, &config, Mode::Exact, &cores);
        // As after a start on a machine that was too busy to compare anything.
        (tuning.contexts, tuning.is_quiet) = (1, false);
        let mut search = None;
        let sharing = Sharing::new(vec![0, 1]);
        let moment = |undisturbed| Moment {
            cores: &cores,
            sharing: &sharing,
            undisturbed,
        };
        let disturbed = tuning.step(&mut search, &moment(&|| false));
        assert!(matches!(disturbed, Ok(Step::Wait)));
        assert_eq!(tuning.measured.found.exact_width, 0);
        let mut found = None;
        loop {
            match tuning
                .step(&mut search, &moment(&|| true))
                .expect("contexts")
            {
                Step::Wait => {}
                Step::Found(groups) => found = Some(groups),
                Step::Done => break,
            }
        }
        let groups = found.expect("something new");
        assert_eq!(groups.len(), config.engine.parallel_sequences + 1);
        // The next start finds it complete.
        let saved = tuning.saved();
        assert_eq!(saved.found.exact_width, exact::WIDEST);
        let most = config.engine.parallel_sequences;
        assert!(best(&tuning.candidates(), &saved.figures, most).is_some());
    }

    #[test]
    fn a_width_that_turns_out_to_differ_is_no_longer_used_and_stays_known() {
        let model = exact::tests::specimen(exact::tests::Q4_1);
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = Config::default();
        config.model.cache_dir = directory.path().display().to_string();
        // Also with a single candidate.
        for (contexts, decode_width) in [(0, 0), (1, 8)] {
            (config.engine.contexts, config.engine.decode_width) = (contexts, decode_width);
            let cores = Cores::new(2);
            let mut tuning = Tuning::new(&model, &config, Mode::Exact, &cores);
            tuning.contexts = 1;
            tuning.measured.found = Found {
                exact_width: 3,
                differs_at: Some(4),
                widest_wanted: exact::WIDEST,
                rounds: exact::ROUNDS,
            };
            let sharing = Sharing::new((0..=16).map(|count: usize| count.min(8)).collect());
            let moment = Moment {
                cores: &cores,
                sharing: &sharing,
                undisturbed: &|| true,
            };
            let mut search = None;
            let Ok(Step::Found(groups)) = tuning.step(&mut search, &moment) else {
                panic!("it is found at once");
            };
            sharing.change(groups);
            assert_eq!((sharing.width(), sharing.group(2)), (3, 2));
            while !matches!(tuning.step(&mut search, &moment), Ok(Step::Done)) {}
            assert!(tuning.candidates().iter().all(|shape| shape.width <= 3));
        }
    }
}
