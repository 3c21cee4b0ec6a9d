//! How many contexts, and how many sequences in one decode: measured for a model on a machine, once, and kept beside
//! the downloaded models. Which is fastest depends on both: two contexts of one thread each decode two sequences in
//! little more than the time that one context of two threads takes for one, and whether wide decodes pay depends on
//! memory, on the vocabulary and on how the weights are stored.
//!
//! It is also measured up to which width a decode is *exact*: every row of logits equal, to the last bit, to that of
//! the same sequence decoded alone. Where each row has its own KV cells, that is a matter of llama.cpp's matrix
//! routines: for weights in their plain layout (Q4_1, say) a row is computed alike whatever stands beside it, at any
//! width; for weights that llama.cpp repacks (K-quants), four rows and more go through another routine.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::cores;
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
    /// Widest decode whose bits are those of single rows; 0: not measured.
    exact_width: usize,
    /// Up to which width decodes were tried. If all of them were exact, and time ran out before wider ones, a later start
    /// goes on trying.
    widest_tried: usize,
    figures: Vec<Figure>,
}

/// Wider decodes are no faster on any machine that was tried, and everyone waits for them.
const WIDEST: usize = 64;
/// In exact mode; each width costs time to verify.
const WIDEST_EXACT: usize = 16;

/// Time for single rows, and again for shared ones, to find how wide an exact decode may be: at a start, which somebody
/// waits for, and when it was asked for.
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

/// Models are measured one after the other. What was measured while another was at work stands here, by its path: it is good
/// enough for this process, and the next start measures again.
static MEASURING: Mutex<BTreeMap<PathBuf, Measured>> = Mutex::new(BTreeMap::new());

/// The arrangement for this model, machine and mode: as the settings say, else as measured before, else as measured
/// now.
pub fn arrange(
    model: &Arc<Model>,
    config: &Config,
    mode: Mode,
    threads: usize,
) -> Result<Arrangement, ContextError> {
    let mut disturbed = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
    let turns = cores::turns();
    let notes = notes(model, config, threads);
    let here = notes.as_ref().and_then(|path| disturbed.get(path));
    let was_alone = here.is_none();
    let mut measured = here
        .cloned()
        .unwrap_or_else(|| notes.as_deref().map(load).unwrap_or_default());
    let before = measured.clone();
    let settings = &config.engine;
    let widest = match mode {
        Mode::Throughput => WIDEST,
        // Nothing to verify where only single rows are wanted.
        _ if settings.decode_width == 1 || settings.parallel_sequences == 1 => 1,
        _ => {
            let wanted = settings.parallel_sequences.min(WIDEST_EXACT);
            let all_equal = measured.exact_width == measured.widest_tried;
            if all_equal && measured.widest_tried < wanted {
                announce();
                let (exact, tried) = exact_width(model, settings, threads, AT_START)?;
                // What was found before holds, though a busy machine left no time for it now.
                if tried > measured.widest_tried {
                    (measured.exact_width, measured.widest_tried) = (exact, tried);
                }
            }
            // Here and not where it is kept: what was kept before knew nothing of it.
            measured.exact_width.min(model.widest_equal())
        }
    };
    let candidates = candidates(settings, widest, threads, config.model.gpu_layers > 0);
    let most = settings.parallel_sequences;
    let mut keep = |measured: &Measured| {
        if before == *measured {
            return;
        }
        let Some(path) = &notes else { return };
        if was_alone && turns.is_some() && turns == cores::turns() {
            save(path, measured);
        } else {
            tracing::info!("another model was at work: the next start measures again");
            disturbed.insert(path.clone(), measured.clone());
        }
    };
    if let [only] = candidates[..] {
        keep(&measured);
        let each = most.div_ceil(only.contexts);
        return Ok(Arrangement {
            contexts: only.contexts,
            groups: (0..=each).map(|count| count.min(only.width)).collect(),
        });
    }
    if best(&candidates, &measured.figures, most).is_none() {
        if before == measured {
            announce();
        }
        let figures = measure_all(model, settings, &candidates, threads)?;
        measured
            .figures
            .retain(|figure| !candidates.contains(&figure.shape));
        measured.figures.extend(figures);
    }
    keep(&measured);
    Ok(
        best(&candidates, &measured.figures, most).unwrap_or(Arrangement {
            contexts: 1,
            groups: (0..=most).map(|count| count.min(1)).collect(),
        }),
    )
}

fn announce() {
    tracing::info!(
        "measuring how this machine is fastest with this model, for some seconds; it is kept for the next start \
         (`candor tune` shows it)"
    );
}

/// Everything that was measured, with what each mode chooses of it.
pub struct Table {
    threads: usize,
    measured: Measured,
    exact: Option<Arrangement>,
    throughput: Option<Arrangement>,
}

/// Measures, anew, what either mode could choose, and keeps it.
pub fn table(model: &Arc<Model>, config: &Config, threads: usize) -> Result<Table, ContextError> {
    let settings = &config.engine;
    let of = |widest| candidates(settings, widest, threads, config.model.gpu_layers > 0);
    let (exact_width, widest_tried) = exact_width(model, settings, threads, AT_LEISURE)?;
    let exact_width = exact_width.min(model.widest_equal());
    let (exact, throughput) = (of(exact_width), of(WIDEST));
    let mut all = throughput.clone();
    all.extend(exact.iter().filter(|one| !throughput.contains(one)));
    let measured = Measured {
        exact_width,
        widest_tried,
        figures: measure_all(model, settings, &all, threads)?,
    };
    if let Some(path) = notes(model, config, threads) {
        save(&path, &measured);
    }
    let chosen = |shapes| best(shapes, &measured.figures, settings.parallel_sequences);
    Ok(Table {
        threads,
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
        writeln!(
            f,
            "\nDecodes of up to {} sequences have the bits of single ones.",
            self.measured.exact_width
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
    const LANE_TOKENS: usize = 512;
    let Shape { contexts, width } = shape;
    let shape = settings.shape(width, LANE_TOKENS, width, width);
    let start = Barrier::new(contexts);
    let vocabulary = model.vocab().len();
    let run = || {
        let context = Context::new(model, shape.clone());
        let mut rows: Vec<Row> = (0..width)
            .map(|lane| Row {
                token: Token(0),
                position: 0,
                lane,
                logits: true,
            })
            .collect();
        let mut decode = |context: &mut Context, position: usize| {
            for row in &mut rows {
                row.position = position;
                // Any will do, as long as they are not all one.
                row.token = Token(((position * 31 + row.lane * 17) % vocabulary) as i32);
            }
            context
                .decode(&rows, (threads / contexts).max(1))
                .is_ok_and(|()| context.logits(0).is_some())
        };
        let mut context = context.map(|mut context| {
            decode(&mut context, 0);
            context
        });
        start.wait();
        let context = context.as_mut().map_err(|error| error.clone())?;
        let (begun, mut done) = (Instant::now(), 0);
        while (begun.elapsed() < TRIAL || done < DECODES)
            && done + 1 < LANE_TOKENS
            && decode(context, done + 1)
        {
            done += 1;
        }
        Ok((done * width) as f64 / begun.elapsed().as_secs_f64())
    };
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..contexts).map(|_| scope.spawn(run)).collect();
        handles
            .into_iter()
            .map(|handle| match handle.join() {
                Ok(speed) => speed,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .sum()
    })
}

/// Up to how many sequences a decode has the very bits that each of them has alone, and up to how many it was tried: the
/// same number if time ran out before a wider decode could be tried, or if the widest is exact.
///
/// A lane of more than 256 tokens is among them, for llama.cpp rounds the length of a decode's attention up to that
/// of its longest lane; both numbers of threads are; and there are two steps, of which the second reads what the first
/// wrote into the cells. What would take too long is not tried, and so not used.
fn exact_width(
    model: &Arc<Model>,
    settings: &config::Engine,
    threads: usize,
    budget: Duration,
) -> Result<(usize, usize), ContextError> {
    const STEPS: usize = 2;
    const LONG: usize = 264;
    let lanes = settings.parallel_sequences.clamp(1, WIDEST_EXACT);
    let vocabulary = model.vocab().len();
    let length = |lane: usize| if lane == 1 { LONG } else { 8 + lane };
    let row = |lane: usize, position: usize| Row {
        token: Token(
            ((lane * 7919 + position * position * 31 + position * 613 + 5) % vocabulary) as i32,
        ),
        position,
        lane,
        logits: position >= length(lane),
    };
    let mut context = Context::new(model, settings.shape(lanes, 2 * LONG, LONG, lanes))?;
    let bits = |context: &Context, row: usize| {
        let mut hash = std::hash::DefaultHasher::new();
        for logit in context.logits(row).unwrap_or_default() {
            hash.write_u32(logit.to_bits());
        }
        hash.finish()
    };
    let begun = Instant::now();
    let mut alone = [const { Vec::new() }; STEPS];
    for lane in 0..lanes {
        let prompt: Vec<Row> = (0..length(lane))
            .map(|position| row(lane, position))
            .collect();
        let mut fine = context.decode(&prompt, threads).is_ok();
        for (step, alone) in alone.iter_mut().enumerate() {
            fine &= context
                .decode(&[row(lane, length(lane) + step)], threads)
                .is_ok();
            alone.push(bits(&context, 0));
        }
        if !fine || !context.cut(lane, length(lane)) {
            return Ok((1, lanes));
        }
        if begun.elapsed() > budget {
            break;
        }
    }
    let tried = alone[0].len();
    let begun = Instant::now();
    for width in 2..=tried {
        for (step, alone) in alone.iter().enumerate() {
            let rows: Vec<Row> = (0..width)
                .map(|lane| row(lane, length(lane) + step))
                .collect();
            let threads = if step == 0 { threads } else { 1 };
            let same = context.decode(&rows, threads).is_ok()
                && (0..width).all(|lane| bits(&context, lane) == alone[lane]);
            if !same {
                return Ok((width - 1, lanes));
            }
        }
        if begun.elapsed() > budget {
            return Ok((width, width));
        }
        for lane in 0..width {
            context.cut(lane, length(lane));
        }
    }
    Ok((tried, tried))
}

/// Where figures are kept: for these weights, this machine, and what else moves them.
fn notes(model: &Model, config: &Config, threads: usize) -> Option<PathBuf> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find(|line| line.starts_with("model name"))
        .unwrap_or("");
    let engine = &config.engine;
    let machine = format!(
        "{cpu} {threads} {} {} {} {:?} {:?} {}",
        model::llama_cpp_version(),
        model::system_info(),
        engine.flash_attention,
        engine.kv_type_k,
        engine.kv_type_v,
        config.model.gpu_layers,
    );
    let digest = Sha256::digest(machine);
    let key: String = digest
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let directory = model::source::cache_directory(&config.model).ok()?;
    Some(directory.join(format!("{}-{key}.tune.json", model.fingerprint())))
}

fn load(path: &Path) -> Measured {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Best effort: without it the next start measures again.
fn save(path: &Path, measured: &Measured) {
    let write = || -> std::io::Result<()> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        // Two servers may start at once: whole or not at all.
        let part = path.with_extension(format!("part{}", std::process::id()));
        std::fs::write(&part, serde_json::to_string_pretty(measured)?)?;
        std::fs::rename(part, path)
    };
    if let Err(error) = write() {
        tracing::warn!(path = %path.display(), %error, "figures could not be kept");
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
    fn figures_are_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("new/figures.json");
        assert_eq!(load(&path), Measured::default());
        let measured = Measured {
            exact_width: 3,
            widest_tried: 16,
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
    }
}
