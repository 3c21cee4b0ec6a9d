//! How many contexts, and how many sequences in one decode: measured for a model on a machine, once, and kept beside
//! the downloaded models. Which is fastest depends on both: two contexts of one thread each decode two sequences in
//! little more than the time that one context of two threads takes for one, and whether wide decodes pay depends on
//! memory, on the vocabulary and on how the weights are stored.
//!
//! In exact mode only decodes are chosen from that have the bits of single rows ([`super::exact`]). A start measures for
//! some seconds, since somebody waits for it; what is left is measured in idle moments ([`super::idle`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::cores::{self, Cores};
use super::exact::{self, Found, Search};
use super::sharing::Sharing;
use super::trial::Refused;
use super::{StartError, memory, plan};
use crate::config::{self, Config, Mode};
use crate::model::{self, Context, ContextError, Model, Row, Runner, Token};

/// How the pool is laid out, and how its sequences share decodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrangement {
    /// llama.cpp contexts, which share the threads evenly.
    pub contexts: usize,
    /// Of so many sequences in one context that each have a token to evaluate, how many share the next decode.
    /// `groups[0]` is 0.
    pub groups: Vec<usize>,
}

impl Arrangement {
    /// For a model that generates nothing.
    pub fn none() -> Self {
        Self {
            contexts: 0,
            groups: vec![0],
        }
    }
}

/// A number of contexts, each of which decodes so many sequences at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Shape {
    contexts: usize,
    width: usize,
}

/// What a shape makes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Figure {
    #[serde(flatten)]
    shape: Shape,
    /// Of all contexts together.
    tokens_per_second: f64,
}

/// What was measured for a model on a machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Measured {
    #[serde(flatten)]
    found: Found,
    /// Where prompts may be cut ([`exact::cut_rows`]); none: not measured.
    cuts: Option<Cut>,
    figures: Vec<Figure>,
}

/// What [`exact::cut_rows`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Cut {
    rows: Option<usize>,
}

/// Wider decodes are no faster on any machine that was tried, and everyone waits for them.
const WIDEST: usize = 64;

/// Time to find how wide an exact decode may be: at a start, which somebody waits for, and when it was asked for.
const AT_START: Duration = Duration::from_secs(5);
const AT_LEISURE: Duration = Duration::from_secs(60);

/// The shapes that the settings leave to choose from, with decodes of at most `widest`.
fn candidates(
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

/// The fastest arrangement of the shapes to choose from, when `most` sequences run; if all of them were measured.
fn best(candidates: &[Shape], figures: &[Figure], most: usize) -> Option<Arrangement> {
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

/// How up to `most` sequences are best split into decodes, given the seconds that decodes of some widths take
/// (ascending; what lies between is taken to lie on a line): the first group of each number of sequences, and the
/// seconds that all of `most` take.
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
        // Of equals the narrower: whoever is first gets its token sooner.
        let (group, seconds) = (1..=count)
            .filter_map(|group| Some((group, cost(group)? + least[count - group])))
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .unwrap_or((1, f64::INFINITY));
        groups.push(group);
        least.push(seconds);
    }
    (groups, least[most])
}

/// Models are measured one after the other. What was measured while something else was at work is kept here, by its path: it
/// is good enough for this process.
static MEASURING: Mutex<BTreeMap<PathBuf, Measured>> = Mutex::new(BTreeMap::new());

fn turn() -> MutexGuard<'static, BTreeMap<PathBuf, Measured>> {
    MEASURING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is measured for a model, and what is left of that.
pub struct Tuning {
    model: Arc<Model>,
    config: Config,
    mode: Mode,
    threads: usize,
    notes: Option<PathBuf>,
    measured: Measured,
    /// Whether the figures were measured while nothing else was at work.
    is_quiet: bool,
    /// Contexts that the engine has.
    contexts: usize,
    /// How often figures were measured in idle moments.
    tries: usize,
    /// Nothing is left to measure in idle moments.
    is_done: bool,
}

/// What came of an idle moment.
pub enum Step {
    /// It was too short, or nothing that matters has changed.
    Wait,
    /// How many sequences share a decode from now on ([`Arrangement::groups`]).
    Found(Vec<usize>),
    /// All is measured.
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
            notes: notes(model, config, threads),
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
        let mut disturbed = turn();
        let turns = cores::turns();
        let here = self.notes.as_ref().and_then(|path| disturbed.get(path));
        self.is_quiet = here.is_none();
        self.measured = here
            .cloned()
            .unwrap_or_else(|| self.notes.as_deref().map(load).unwrap_or_default());
        let before = self.measured.clone();
        if !self.measured.found.is_complete(self.widest_wanted()) {
            announce();
            self.search(cores, AT_START, 1)?;
        }
        self.find_cuts(cores)?;
        let candidates = self.candidates();
        let most = self.config.engine.parallel_sequences;
        let is_measured =
            |measured: &Measured| best(&candidates, &measured.figures, most).is_some();
        if candidates.len() > 1 && !is_measured(&self.measured) {
            if before == self.measured {
                announce();
            }
            let figures = measure_all(&self.model, &self.config.engine, &candidates, self.threads)?;
            self.take(figures);
            self.is_quiet =
                self.is_quiet && turns.is_some() && turns == cores::turns() && cores.are_all_free();
            if !self.is_quiet {
                tracing::info!(
                    "something else was at work meanwhile: it is measured again in an idle moment"
                );
            }
        }
        if before != self.measured {
            self.keep(&mut disturbed);
        }
        let arrangement = self.chosen(&candidates).unwrap_or(Arrangement {
            contexts: 1,
            groups: (0..=most).map(|count| count.min(1)).collect(),
        });
        self.contexts = arrangement.contexts;
        Ok(arrangement)
    }

    /// The fastest of these shapes; of one alone nothing need be measured.
    fn chosen(&self, candidates: &[Shape]) -> Option<Arrangement> {
        let most = self.config.engine.parallel_sequences;
        match candidates {
            [only] => {
                let each = most.div_ceil(only.contexts);
                Some(Arrangement {
                    contexts: only.contexts,
                    groups: (0..=each).map(|count| count.min(only.width)).collect(),
                })
            }
            _ => best(candidates, &self.measured.figures, most),
        }
    }

    /// Rows of a shared decode, at most, whatever is measured later.
    pub fn widest(&self) -> usize {
        let wanted = match self.mode {
            Mode::Throughput => WIDEST,
            _ => self.widest_wanted(),
        };
        let on_gpu = self.config.model.gpu_layers > 0;
        let shapes = candidates(&self.config.engine, wanted, self.threads, on_gpu);
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
            // A lane must be cut back to be compared again.
            _ if !self.model.can_cut() => 1,
            _ => settings
                .parallel_sequences
                .min(exact::WIDEST)
                .min(fixed)
                .min(self.model.placements().widest_equal()),
        }
    }

    /// Compares decodes for this long at most, so many times.
    fn search(&mut self, cores: &Cores, budget: Duration, rounds: usize) -> Result<(), StartError> {
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

    fn find_cuts(&mut self, cores: &Cores) -> Result<(), StartError> {
        if self.measured.cuts.is_some() || !self.model.can_cut() || self.config.model.gpu_layers > 0
        {
            return Ok(());
        }
        let rows = exact::cut_rows(&self.model, &self.config.engine, cores.share())?;
        self.measured.cuts = Some(Cut { rows });
        Ok(())
    }

    /// At multiples of how many tokens prompts may be cut.
    pub fn cut_rows(&self) -> usize {
        let found = self.measured.cuts.map(|cut| cut.rows);
        if found == Some(None) {
            tracing::warn!(
                "on this machine a prompt that is evaluated in pieces has other bits than one evaluated whole: answers \
                 may depend on the cache in their low bits"
            );
        }
        found.flatten().unwrap_or(plan::GROUP_ROWS)
    }

    /// The shapes to choose from, as far as it is known which are exact.
    fn candidates(&self) -> Vec<Shape> {
        let widest = match self.mode {
            Mode::Throughput => WIDEST,
            // What was kept may be of a time when more was wanted.
            _ => self
                .measured
                .found
                .exact_width
                .clamp(1, self.widest_wanted()),
        };
        let on_gpu = self.config.model.gpu_layers > 0;
        candidates(&self.config.engine, widest, self.threads, on_gpu)
    }

    /// The figures, in place of older ones of the same shapes.
    fn take(&mut self, figures: Vec<Figure>) {
        let is_new = |shape| figures.iter().any(|figure| figure.shape == shape);
        self.measured.figures.retain(|figure| !is_new(figure.shape));
        self.measured.figures.extend(figures);
    }

    /// For the next start. Figures that were disturbed are good for this process only; bits are what they are.
    fn keep(&self, disturbed: &mut BTreeMap<PathBuf, Measured>) {
        let Some(path) = &self.notes else { return };
        if self.is_quiet {
            disturbed.remove(path);
            save(path, &self.measured);
        } else {
            disturbed.insert(path.clone(), self.measured.clone());
            // What another start measured undisturbed stays.
            let figures = load(path).figures;
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

    /// Measures what is left for as long as nothing else is evaluated. The comparison of decodes is kept in `search`: its
    /// context stays on one thread.
    pub fn go_on(
        &mut self,
        search: &mut Option<Search>,
        shared: &Moment<'_>,
    ) -> Result<Step, StartError> {
        // Another model is measured, or loaded.
        let Ok(mut disturbed) = MEASURING.try_lock() else {
            return Ok(Step::Wait);
        };
        let before = self.measured.found.clone();
        let is_compared = self.compare(search, shared)?;
        let found = &self.measured.found;
        if *found != before {
            self.keep(&mut disturbed);
        }
        let (exact, width) = (found.exact_width.max(1), shared.sharing.width());
        if self.mode == Mode::Exact && exact < width {
            tracing::warn!(
                decode_width = exact,
                "rows of wider decodes were found to have other bits than single ones: they are not shared any more"
            );
            let each = self
                .config
                .engine
                .parallel_sequences
                .div_ceil(self.contexts.max(1));
            return Ok(Step::Found(
                (0..=each).map(|count| count.min(exact)).collect(),
            ));
        }
        if !is_compared {
            return Ok(Step::Wait);
        }
        *search = None;
        let candidates = self.candidates();
        let most = self.config.engine.parallel_sequences;
        let is_missing = best(&candidates, &self.measured.figures, most).is_none();
        if candidates.len() > 1 && (is_missing || !self.is_quiet) && self.tries < MOST_TRIES {
            if !shared.cores.are_all_free() && !is_missing {
                return Ok(Step::Wait);
            }
            let (model, settings) = (&self.model, &self.config.engine);
            let mut figures = Vec::new();
            for &shape in &candidates {
                if !(shared.undisturbed)() {
                    return Ok(Step::Wait);
                }
                figures.extend(measure_all(model, settings, &[shape], self.threads)?);
            }
            self.tries += 1;
            self.is_quiet = (shared.undisturbed)() && shared.cores.are_all_free();
            if !self.is_quiet && self.tries < MOST_TRIES {
                return Ok(Step::Wait);
            }
            self.take(figures);
            self.keep(&mut disturbed);
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

    /// Compares decodes while undisturbed. Whether all were compared, or one was found to differ.
    fn compare(
        &mut self,
        search: &mut Option<Search>,
        shared: &Moment<'_>,
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
                    tracing::debug!("too little memory to compare decodes beside the engine");
                    return Ok(true);
                }
                none.insert(Search::new(&self.model, settings, widest, found)?)
            }
        };
        loop {
            if !(shared.undisturbed)() {
                return Ok(false);
            }
            if !search.step(found, shared.cores.share())? || found.exact_width < before {
                return Ok(true);
            }
        }
    }
}

/// What an idle moment is measured in.
pub struct Moment<'a> {
    pub cores: &'a Cores,
    pub sharing: &'a Sharing,
    /// Whether it is idle still.
    pub undisturbed: &'a dyn Fn() -> bool,
}

/// How often figures are measured again because something else ran meanwhile.
const MOST_TRIES: usize = 3;

fn announce() {
    tracing::info!(
        "measuring how this machine is fastest with this model, for some seconds; it is kept for the next start \
         (`candor tune` shows it)"
    );
}

/// Everything that was measured, with what each mode chooses of it.
pub struct Table {
    /// The routines that multiply the weights.
    placements: String,
    /// Routines that failed in the trial.
    refused: Vec<Refused>,
    threads: usize,
    measured: Measured,
    exact: Option<Arrangement>,
    throughput: Option<Arrangement>,
}

/// Measures again what either mode could choose, and keeps it.
pub fn table(
    model: &Arc<Model>,
    config: &Config,
    cores: &Cores,
    refused: Vec<Refused>,
) -> Result<Table, StartError> {
    let mut disturbed = turn();
    let mut tuning = Tuning::new(model, config, Mode::Exact, cores);
    // Bits are what they are: a width that was found to differ once is not forgotten.
    tuning.measured.found = tuning.notes.as_deref().map(load).unwrap_or_default().found;
    tuning.search(cores, AT_LEISURE, exact::ROUNDS)?;
    tuning.find_cuts(cores)?;
    let exact = tuning.candidates();
    let settings = &config.engine;
    let on_gpu = config.model.gpu_layers > 0;
    let throughput = candidates(settings, WIDEST, tuning.threads, on_gpu);
    let mut all = throughput.clone();
    all.extend(exact.iter().filter(|one| !throughput.contains(one)));
    tuning.take(measure_all(model, settings, &all, tuning.threads)?);
    tuning.keep(&mut disturbed);
    let measured = tuning.measured;
    let chosen = |shapes| best(shapes, &measured.figures, settings.parallel_sequences);
    Ok(Table {
        placements: model.placements().to_string(),
        refused,
        threads: tuning.threads,
        exact: chosen(&exact),
        throughput: chosen(&throughput),
        measured,
    })
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "| contexts | threads each | sequences in a decode | tokens/s |"
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
            self.measured.found.exact_width
        )?;
        for (mode, chosen) in [("exact", &self.exact), ("throughput", &self.throughput)] {
            if let Some(Arrangement { contexts, groups }) = chosen {
                let groups: Vec<String> = groups.iter().skip(1).map(usize::to_string).collect();
                writeln!(
                    f,
                    "{mode}: {contexts} contexts; of 1, 2, 3, ... sequences in one, this many share a decode: {}",
                    groups.join(" ")
                )?;
            }
        }
        Ok(())
    }
}

/// Each shape twice, in turn, so that a busy moment does not hit one of them alone; the better figure counts.
fn measure_all(
    model: &Arc<Model>,
    settings: &config::Engine,
    shapes: &[Shape],
    threads: usize,
) -> Result<Vec<Figure>, ContextError> {
    let mut figures: Vec<Figure> = shapes
        .iter()
        .map(|&shape| Figure {
            shape,
            tokens_per_second: 0.0,
        })
        .collect();
    for _ in 0..2 {
        for figure in &mut figures {
            let speed = measure(model, settings, figure.shape, threads)?;
            figure.tokens_per_second = figure.tokens_per_second.max(speed);
        }
    }
    for figure in &figures {
        tracing::debug!(?figure, "measured");
    }
    Ok(figures)
}

/// Tokens per second of all contexts together, while each decodes as many sequences at once as the shape says.
fn measure(
    model: &Arc<Model>,
    settings: &config::Engine,
    shape: Shape,
    threads: usize,
) -> Result<f64, ContextError> {
    /// Long enough for dozens of tokens of a small model; a large one gets at least `DECODES`.
    const TRIAL: Duration = Duration::from_millis(200);
    const DECODES: usize = 3;
    const LANE_TOKENS: usize = 256;
    let Shape { contexts, width } = shape;
    let shape = settings.shape(width, LANE_TOKENS, width, width);
    let vocabulary = model.vocab().len();
    let decode = |context: &mut Context, rows: &mut [Row], position: usize| {
        for row in &mut *rows {
            row.position = position;
            // Any will do, as long as they are not all one.
            row.token = Token(((position * 31 + row.lane * 17) % vocabulary) as i32);
        }
        context
            .decode(rows, (threads / contexts).max(1))
            .is_ok_and(|()| context.logits(0).is_some())
    };
    let prepare = || {
        let mut context = Context::new(model, shape.clone())?;
        let mut rows: Vec<Row> = (0..width)
            .map(|lane| Row {
                token: Token(0),
                position: 0,
                lane,
                logits: true,
            })
            .collect();
        decode(&mut context, &mut rows, 0);
        Ok((context, rows))
    };
    let run = |(mut context, mut rows): (Context, Vec<Row>)| {
        let (begun, mut done) = (Instant::now(), 0);
        while (begun.elapsed() < TRIAL || done < DECODES)
            && done + 1 < LANE_TOKENS
            && decode(&mut context, &mut rows, done + 1)
        {
            done += 1;
        }
        (done * width) as f64 / begun.elapsed().as_secs_f64()
    };
    let speeds = side_by_side(contexts, prepare, run)?;
    Ok(speeds.into_iter().sum())
}

/// Has `count` threads prepare, and then work at the same time: none begins before all have prepared. If one of them cannot,
/// by an error or a panic, none works, and none waits for it.
fn side_by_side<P, T: Send, E: Send>(
    count: usize,
    prepare: impl Fn() -> Result<P, E> + Sync,
    work: impl Fn(P) -> T + Sync,
) -> Result<Vec<T>, E> {
    let (sender, prepared) = mpsc::channel();
    let start: OnceLock<bool> = OnceLock::new();
    let run = |prepared: mpsc::Sender<bool>| {
        // If this panics, the sender is dropped.
        let ready = prepare();
        let _ = prepared.send(ready.is_ok());
        drop(prepared);
        let ready = ready?;
        Ok(start.wait().then(|| work(ready)))
    };
    std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = (0..count)
            .map(|_| {
                let sender = sender.clone();
                std::thread::Builder::new().spawn_scoped(scope, move || run(sender))
            })
            .collect();
        drop(sender);
        // Ends when each has prepared or is gone.
        let ready = prepared.iter().filter(|&fine| fine).count();
        let _ = start.set(ready == count);
        let mut outcomes = Vec::new();
        for thread in threads {
            match thread.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(outcome)) => outcomes.push(outcome),
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                Err(error) => panic!("a thread could not be started: {error}"),
            }
        }
        let outcomes: Result<Vec<Option<T>>, E> = outcomes.into_iter().collect();
        Ok(outcomes?.into_iter().flatten().collect())
    })
}

/// Where figures are kept: for these weights, this machine, and what else moves them.
fn notes(model: &Model, config: &Config, threads: usize) -> Option<PathBuf> {
    let cpu = cores::described(&["model name"]);
    let engine = &config.engine;
    let machine = format!(
        "{cpu} {threads} {} {} {} {} {:?} {:?} {}",
        model::llama_cpp_version(),
        model.system_info(),
        model.placements(),
        engine.flash_attention,
        engine.kv_type_k,
        engine.kv_type_v,
        config.model.gpu_layers,
    );
    let key = model::hex(&Sha256::digest(machine)[..4]);
    let directory = model::source::cache_directory(&config.model).ok()?;
    Some(directory.join(format!("{}-{key}.tune.json", model.fingerprint())))
}

/// The exact widths that are kept for weights of this fingerprint, in ascending order. There may be several: figures are
/// for one machine and one set of settings.
pub fn kept_widths(fingerprint: &str, settings: &config::Model) -> Vec<usize> {
    let directory = model::source::cache_directory(settings).ok();
    let entries = directory.and_then(|directory| std::fs::read_dir(directory).ok());
    let paths = entries.into_iter().flatten().flatten().map(|it| it.path());
    let is_kept = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&format!("{fingerprint}-")) && name.ends_with(".tune.json")
    };
    let measured = paths.filter(is_kept).map(|path| load(&path));
    let mut widths: Vec<usize> = measured.map(|it| it.found.exact_width).collect();
    widths.sort_unstable();
    widths.dedup();
    widths
}

fn load(path: &Path) -> Measured {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Best effort: without it the next start measures again.
pub fn save(path: &Path, found: &impl Serialize) {
    let write = || -> std::io::Result<()> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        // Two servers may start at once: whole or not at all.
        let part = path.with_extension(format!("part{:x}", super::trial::unique()));
        std::fs::write(&part, serde_json::to_string_pretty(found)?)?;
        std::fs::rename(part, path)
    };
    if let Err(error) = write() {
        tracing::warn!(path = %path.display(), %error, "what was measured could not be kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(contexts: usize, decode_width: usize, parallel_sequences: usize) -> config::Engine {
        let config: Config = toml::from_str(include_str!("../../config/default.toml"))
            .expect("the defaults are valid");
        config::Engine {
            contexts,
            decode_width,
            parallel_sequences,
            ..config.engine
        }
    }

    #[test]
    fn settings_leave_less_to_choose_from() {
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
    fn sequences_are_split_so_that_all_are_done_soonest() {
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
    fn the_fastest_is_chosen_when_all_are_measured() {
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
        let disturbed = tuning.go_on(&mut search, &moment(&|| false));
        assert!(matches!(disturbed, Ok(Step::Wait)));
        assert_eq!(tuning.measured.found.exact_width, 0);
        let mut found = None;
        loop {
            match tuning
                .go_on(&mut search, &moment(&|| true))
                .expect("contexts")
            {
                Step::Wait => {}
                Step::Found(groups) => found = Some(groups),
                Step::Done => break,
            }
        }
        let groups = found.expect("something new");
        assert_eq!(groups.len(), config.engine.parallel_sequences + 1);
        // It is complete for the next start.
        let kept = load(tuning.notes.as_deref().expect("a directory"));
        assert_eq!(kept.found.exact_width, exact::WIDEST);
        let most = config.engine.parallel_sequences;
        assert!(best(&tuning.candidates(), &kept.figures, most).is_some());
    }

    #[test]
    fn a_width_that_is_found_to_differ_is_shared_no_more_and_stays_known() {
        let model = exact::tests::specimen(exact::tests::Q4_1);
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = Config::default();
        config.model.cache_dir = directory.path().display().to_string();
        // Also where there is nothing to choose from.
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
            let Ok(Step::Found(groups)) = tuning.go_on(&mut search, &moment) else {
                panic!("it is found at once");
            };
            sharing.change(groups);
            assert_eq!((sharing.width(), sharing.group(2)), (3, 2));
            while !matches!(tuning.go_on(&mut search, &moment), Ok(Step::Done)) {}
            assert!(tuning.candidates().iter().all(|shape| shape.width <= 3));
        }
    }

    #[test]
    fn figures_are_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("new/figures.json");
        assert_eq!(load(&path), Measured::default());
        let measured = Measured {
            found: Found {
                exact_width: 3,
                differs_at: Some(4),
                widest_wanted: 16,
                rounds: 1,
            },
            cuts: Some(Cut { rows: Some(8) }),
            figures: vec![Figure {
                shape: Shape {
                    contexts: 2,
                    width: 8,
                },
                tokens_per_second: 123.5,
            }],
        };
        save(&path, &measured);
        assert_eq!(load(&path), measured);
        std::fs::write(&path, "[{").expect("writes");
        assert_eq!(load(&path), Measured::default());
        let settings = config::Model {
            cache_dir: directory.path().display().to_string(),
            ..Config::default().model
        };
        let kept = || kept_widths("0123", &settings);
        assert_eq!(kept(), Vec::<usize>::new());
        for name in ["0123-a.tune.json", "0123-b.tune.json", "01234-c.tune.json"] {
            save(&directory.path().join(name), &measured);
        }
        assert_eq!(kept(), [3]);
    }

    /// How `side_by_side` ends for threads of which the second prepares like this, and how many worked. It must end.
    fn ends(second: fn() -> Result<(), u8>) -> (std::thread::Result<Result<usize, u8>>, usize) {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let (sender, outcome) = mpsc::channel();
        std::thread::spawn(move || {
            let (prepared, worked) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let prepare = || match prepared.fetch_add(1, Ordering::SeqCst) {
                1 => second(),
                _ => Ok(()),
            };
            let work = |()| {
                assert_eq!(prepared.load(Ordering::SeqCst), 3, "it began too early");
                worked.fetch_add(1, Ordering::SeqCst);
            };
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                side_by_side(3, prepare, work).map(|done| done.len())
            }));
            let _ = sender.send((ended, worked.into_inner()));
        });
        outcome
            .recv_timeout(Duration::from_secs(60))
            .expect("it ends, whatever one of its threads does")
    }

    #[test]
    fn contexts_are_measured_together_or_not_at_all() {
        let (ended, worked) = ends(|| Ok(()));
        assert_eq!((ended.expect("no panic"), worked), (Ok(3), 3));
        let (ended, worked) = ends(|| Err(7));
        assert_eq!((ended.expect("no panic"), worked), (Err(7), 0));
        let (ended, worked) = ends(|| panic!("on command"));
        assert!(ended.is_err());
        assert_eq!(worked, 0);
    }
}
