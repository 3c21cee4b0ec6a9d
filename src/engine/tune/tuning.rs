//! Measures a model: for a few seconds at a start, and the rest in idle moments.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::measure::measure_all;
use super::results::{Cut, Measured, measured_path};
use super::shapes::{Arrangement, Choice, Figure, Shape, WIDEST, best, candidates, choices};
use crate::config::{Config, Mode};
use crate::engine::cores::{self, Cores};
use crate::engine::error::StartError;
use crate::engine::memory;
use crate::engine::persist::save;
use crate::engine::plan;
use crate::engine::split::{Sharing, Split};
use crate::engine::widths::{self, Aim, Search};
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
    /// The least width of the class, once it is chosen. It stays: answers must not change while the engine runs.
    least: Option<usize>,
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
    /// How sequences share decodes from now on.
    Found(Split),
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
            least: None,
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
        if !self.is_compared(1) {
            announce();
            self.search(cores, SEARCH_AT_START, 1)?;
        }
        self.settle_mode(cores)?;
        self.find_cuts(cores)?;
        let choices = self.choices();
        let candidates = candidates(&choices);
        if candidates.len() > 1 && !self.is_measured(&choices) {
            if before == self.measured {
                announce();
            }
            let figures = measure_all(
                &self.model,
                &self.config.engine,
                &candidates,
                self.threads,
                &|| true,
            )?;
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
        let arrangement = self.chosen(&choices).unwrap_or_else(|| {
            let most = self.config.engine.parallel_sequences;
            Arrangement {
                contexts: 1,
                split: Split::widest_first(vec![self.least()], most),
            }
        });
        self.contexts = arrangement.contexts;
        Ok(arrangement)
    }

    /// Invariant mode in the first class is exact mode.
    pub fn settle_mode(&mut self, cores: &Cores) -> Result<(), StartError> {
        if self.mode != Mode::Invariant {
            return Ok(());
        }
        let chosen = self.aim().map(|aim| self.measured.found.chosen(aim));
        if chosen == Some(None) {
            tracing::warn!(
                "on this machine the bits of wider decodes of this model depend on neighbours: the mode is exact instead of \
                 invariant"
            );
        }
        if chosen.flatten().is_none_or(|least| least == 1) {
            self.mode = Mode::Exact;
            self.search(cores, SEARCH_AT_START, 1)?;
        } else {
            self.least = chosen.flatten();
        }
        Ok(())
    }

    pub fn set_mode(&mut self, mode: Mode) {
        (self.mode, self.least) = (mode, None);
    }

    /// The mode: exact instead of invariant where that is the same.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The least width of the class in which generated tokens are evaluated.
    pub fn least(&self) -> usize {
        self.least.unwrap_or(1)
    }

    fn is_measured(&self, choices: &[Choice]) -> bool {
        let most = self.config.engine.parallel_sequences;
        best(choices, &self.measured.figures, most).is_some()
    }

    /// The fastest of these. A single shape need not be measured.
    fn chosen(&self, choices: &[Choice]) -> Option<Arrangement> {
        let most = self.config.engine.parallel_sequences;
        match choices {
            [only] if candidates(choices).len() == 1 => Some(only.widest_first(most)),
            _ => best(choices, &self.measured.figures, most),
        }
    }

    /// Maximum number of rows of a shared decode, whatever is measured later.
    pub fn widest(&self) -> usize {
        let widest = match self.mode {
            Mode::Throughput => WIDEST.min(self.config.engine.parallel_sequences),
            _ => self.aim().map_or(1, |aim| aim.widest),
        };
        widest.max(self.least())
    }

    /// The class of widths to search for; `None`: none is needed.
    fn aim(&self) -> Option<Aim> {
        let settings = &self.config.engine;
        let (most, border) = (
            settings.parallel_sequences,
            self.model.placements().border(),
        );
        match self.mode {
            Mode::Throughput => None,
            // To compare again, a lane must be cut back.
            _ if !self.model.can_cut() => None,
            // Nothing is known about the routines of GPUs, which the driver compiles.
            _ if self.model.placements().on_gpu() => None,
            Mode::Invariant => {
                let set = Some(settings.invariant_width).filter(|&width| width > 0);
                Some(Aim::invariant(self.least.or(set), most, border))
            }
            Mode::Auto | Mode::Exact => {
                let fixed = Some(settings.decode_width).filter(|&width| width > 0);
                Some(Aim::exact(
                    fixed.map_or(most, |fixed| fixed.min(most)),
                    border,
                ))
            }
        }
    }

    /// Whether all widths were compared this often.
    fn is_compared(&self, rounds: usize) -> bool {
        self.aim()
            .is_none_or(|aim| self.measured.found.rounds(aim) >= rounds)
    }

    /// Compares decodes for at most `budget`, and at most `rounds` times each; longer if the class is not known otherwise.
    pub fn search(
        &mut self,
        cores: &Cores,
        budget: Duration,
        rounds: usize,
    ) -> Result<(), StartError> {
        let Some(aim) = self.aim() else { return Ok(()) };
        let found = &mut self.measured.found;
        if found.rounds(aim) >= rounds {
            return Ok(());
        }
        let mut search = Search::new(&self.model, &self.config.engine, aim, found)?;
        let begun = Instant::now();
        while (begun.elapsed() < budget || !found.is_decided(aim))
            && found.rounds(aim) < rounds
            && search.step(found, cores.share())?
        {}
        Ok(())
    }

    pub fn find_cuts(&mut self, cores: &Cores) -> Result<(), StartError> {
        // On a GPU, throughput mode has no requests that are exact.
        let is_unneeded = self.config.model.gpu_layers > 0 && self.mode == Mode::Throughput;
        if self.measured.cuts.is_some() || !self.model.can_cut() || is_unneeded {
            return Ok(());
        }
        let rows = widths::cut_rows(&self.model, &self.config.engine, cores.share())?;
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

    /// What to choose from, as far as it is known to be of the class.
    pub fn choices(&self) -> Vec<Choice> {
        let on_gpu = self.config.model.gpu_layers > 0;
        choices(&self.config.engine, &self.widths(), self.threads, on_gpu)
    }

    /// The widths that decodes may have.
    fn widths(&self) -> Vec<usize> {
        match (self.mode, self.aim()) {
            (Mode::Throughput, _) => (1..=WIDEST).collect(),
            (_, Some(aim)) => self.measured.found.widths(self.least(), aim),
            (_, None) => vec![1],
        }
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
        if let Some(split) = self.narrower(&moment.sharing.now()) {
            return Ok(Step::Found(split));
        }
        if !is_compared {
            return Ok(Step::Wait);
        }
        *search = None;
        let choices = self.choices();
        let is_missing = !self.is_measured(&choices);
        if candidates(&choices).len() > 1
            && (is_missing || !self.is_quiet)
            && self.tries < MOST_TRIES
        {
            if !self.remeasure(&candidates(&choices), is_missing, moment)? {
                return Ok(Step::Wait);
            }
            self.save(&mut disturbed);
        } else if self.is_done {
            return Ok(Step::Done);
        }
        self.is_done = true;
        let mut mine = choices;
        mine.retain(|choice| choice.contexts == self.contexts);
        Ok(self
            .chosen(&mine)
            .map_or(Step::Done, |arrangement| Step::Found(arrangement.split)))
    }

    /// Compares decodes while undisturbed. Returns whether all were compared, or one was found to differ.
    fn compare(
        &mut self,
        search: &mut Option<Search>,
        moment: &Moment<'_>,
    ) -> Result<bool, StartError> {
        let Some(aim) = self.aim() else {
            return Ok(true);
        };
        if self.is_compared(widths::ROUNDS) {
            return Ok(true);
        }
        let (before, least) = (self.widths().len(), self.least());
        let found = &mut self.measured.found;
        let search = match search {
            Some(search) => search,
            none => {
                let settings = &self.config.engine;
                if !memory::holds_twice(&self.model, &widths::shape(settings, aim.widest)) {
                    tracing::debug!(
                        "too little memory to compare decodes while the engine is loaded"
                    );
                    return Ok(true);
                }
                none.insert(Search::new(&self.model, settings, aim, found)?)
            }
        };
        loop {
            if !(moment.undisturbed)() {
                return Ok(false);
            }
            let continues = search.step(found, moment.cores.share())?;
            if !continues || found.widths(least, aim).len() < before {
                return Ok(true);
            }
        }
    }

    /// A split without the widths that turned out not to be of the class.
    fn narrower(&self, now: &Split) -> Option<Split> {
        let widths = self.widths();
        let mut left = now.widths.clone();
        left.retain(|width| widths.contains(width) || *width == now.least());
        if self.mode == Mode::Throughput || left == now.widths {
            return None;
        }
        tracing::warn!(
            decode_widths = ?left,
            "decodes of some widths turned out to give different bits, and are no longer used"
        );
        Some(Split::widest_first(left, now.groups.len() - 1))
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
        let turns = cores::turns();
        // A request that arrives waits for no more than a decode.
        let continues = || cores::turns() == turns;
        let mut figures = Vec::new();
        for &shape in candidates {
            let (settings, threads) = (&self.config.engine, self.threads);
            figures.extend(measure_all(
                &self.model,
                settings,
                &[shape],
                threads,
                &continues,
            )?);
            if !(moment.undisturbed)() {
                return Ok(false);
            }
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

fn announce() {
    tracing::info!(
        "measuring for a few seconds which setup is fastest for this model on this machine; the result is saved for the next start \
         (`candor tune` shows it)"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::widths::{Found, Q4_1, ROUNDS, WIDEST, specimen};

    fn tuning(directory: &tempfile::TempDir, engine: impl Fn(&mut Config), mode: Mode) -> Tuning {
        let mut config = Config::default();
        config.model.cache_dir = directory.path().display().to_string();
        engine(&mut config);
        Tuning::new(&specimen(Q4_1), &config, mode, &Cores::new(2))
    }

    #[test]
    fn an_idle_moment_measures_what_a_start_left() {
        let directory = tempfile::tempdir().expect("a directory");
        let cores = Cores::new(2);
        let mut tuning = tuning(&directory, |_| {}, Mode::Exact);
        // As after a start on a machine that was too busy to compare anything.
        (tuning.contexts, tuning.is_quiet) = (1, false);
        let mut search = None;
        let most = tuning.config.engine.parallel_sequences;
        let sharing = Sharing::new(Split::widest_first(vec![1], most));
        let moment = |undisturbed| Moment {
            cores: &cores,
            sharing: &sharing,
            undisturbed,
        };
        let disturbed = tuning.step(&mut search, &moment(&|| false));
        assert!(matches!(disturbed, Ok(Step::Wait)));
        assert_eq!(tuning.measured.found, Found::default());
        let mut found = None;
        loop {
            match tuning
                .step(&mut search, &moment(&|| true))
                .expect("contexts")
            {
                Step::Wait => {}
                Step::Found(split) => found = Some(split),
                Step::Done => break,
            }
        }
        let split = found.expect("something new");
        assert_eq!(split.groups.len(), most + 1);
        assert_eq!(split.widths.last(), Some(&WIDEST));
        // The next start finds it complete.
        let saved = tuning.saved();
        assert_eq!(saved.found.rounds(tuning.aim().expect("one")), ROUNDS);
        assert!(best(&tuning.choices(), &saved.figures, most).is_some());
    }

    #[test]
    fn a_width_that_turns_out_to_differ_is_no_longer_used_and_stays_known() {
        let directory = tempfile::tempdir().expect("a directory");
        // Also with a single candidate.
        for (contexts, decode_width) in [(0, 0), (1, 8)] {
            let fixed = |config: &mut Config| {
                (config.engine.contexts, config.engine.decode_width) = (contexts, decode_width);
            };
            let cores = Cores::new(2);
            let mut tuning = tuning(&directory, fixed, Mode::Exact);
            tuning.contexts = 1;
            for width in 2..=WIDEST {
                tuning.measured.found.record(1, width, width < 4);
            }
            let aim = tuning.aim().expect("one");
            tuning.measured.found.finish_round(aim, ROUNDS - 1);
            let sharing = Sharing::new(Split::widest_first((1..=8).collect(), 16));
            let moment = Moment {
                cores: &cores,
                sharing: &sharing,
                undisturbed: &|| true,
            };
            let mut search = None;
            let Ok(Step::Found(split)) = tuning.step(&mut search, &moment) else {
                panic!("it is found at once");
            };
            sharing.change(split);
            let now = sharing.now();
            assert_eq!((now.width(), now.group(2)), (3, 2));
            while !matches!(tuning.step(&mut search, &moment), Ok(Step::Done)) {}
            let choices = tuning.choices();
            assert!(
                choices
                    .iter()
                    .all(|one| one.widths.iter().all(|&width| width <= 3))
            );
        }
    }

    #[test]
    fn invariant_mode_in_the_first_class_is_exact_mode() {
        let directory = tempfile::tempdir().expect("a directory");
        let cores = Cores::new(2);
        for (width, mode, least) in [(0, Mode::Exact, 1), (4, Mode::Invariant, 4)] {
            let one = |config: &mut Config| {
                config.engine.invariant_width = width;
                config.engine.parallel_sequences = 4;
                config.engine.contexts = 1;
                config.engine.decode_width = 4;
            };
            let mut tuning = tuning(&directory, one, Mode::Invariant);
            let arrangement = tuning.arrange(&cores).expect("contexts");
            assert_eq!((tuning.mode(), tuning.least()), (mode, least));
            assert_eq!(arrangement.split.least(), least, "{arrangement:?}");
            assert_eq!(arrangement.split.fit(1), Some(least));
        }
    }
}
