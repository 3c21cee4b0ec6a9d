//! The cache without llama.cpp: its cells are hashes here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use super::cells::Cells;
use super::fetch::KvTransfer;
use super::policy::Source;
use super::*;
use crate::engine::plan::tests::CUTS;
use crate::engine::plan::{Cuts, GROUP_ROWS, PromptPlan};
use crate::engine::request::{PromptLogprobs, Request, Rows};
use crate::logprobs::{LogprobSpec, TokenLogprob};
use crate::model::{Adapters, LaneState, Token};
use crate::sampling::{SamplingParams, Watch};

pub(in crate::engine) fn request(
    prompt: std::ops::Range<i32>,
    prompt_logprobs: Option<usize>,
) -> Request {
    Request {
        include_stop: false,
        shows_control: false,
        prompt: prompt.map(Token).collect(),
        forced_prefix: Arc::default(),
        forced_token: None,
        adapters: Adapters::default(),
        max_tokens: 1,
        logprobs: None,
        prompt_logprobs: prompt_logprobs.map(|top| PromptLogprobs::all(LogprobSpec::top(top))),
        rows: Rows::default(),
        watch: Watch::default(),
        sampling: SamplingParams::default(),
        stop: Arc::default(),
        cache_prompt: true,
        exact: false,
        streamed: true,
        line_after: None,
        reports: false,
        deliver_end_token: false,
    }
}

/// As with a sliding window.
const MOST_EXPORTED: usize = 400;

/// Cells that are numbers: each is a hash of everything it depends on, in the upper half without the shape of decodes, in the
/// lower half with it.
#[derive(Default)]
struct Hashes {
    lanes: Vec<Vec<u64>>,
    scrubbed: Vec<usize>,
    /// What happens elsewhere while cells are cut next.
    meanwhile: Option<Box<dyn FnOnce()>>,
}

impl Hashes {
    fn new(lanes: usize) -> Self {
        Self {
            lanes: vec![Vec::new(); lanes],
            scrubbed: Vec::new(),
            meanwhile: None,
        }
    }

    fn evaluate(&mut self, lane: usize, cell: Cell) {
        let cells = &mut self.lanes[lane];
        let next = cell.after(cells.last().copied());
        cells.push(next);
    }
}

/// A cell to evaluate.
#[derive(Clone, Copy)]
struct Cell<'a> {
    token: Token,
    adapters: &'a Adapters,
    shape: Shape,
}

/// How a cell is evaluated: what low bits depend on.
#[derive(Clone, Copy, Hash)]
enum Shape {
    /// As the prompts of exact requests are.
    Exact,
    /// One row at a time, exactly.
    Single,
    /// One row at a time, as part of a wider decode of the class of invariant mode.
    Wide,
    /// Anyhow, in throughput mode.
    Inexact,
}

impl Shape {
    /// Of tokens that a request generates where no bits depend on neighbours.
    fn generated(request: &Request) -> Self {
        if request.exact {
            Self::Single
        } else {
            Self::Wide
        }
    }
}

impl Cell<'_> {
    fn after(&self, before: Option<u64>) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        (before.map(tokens_only), self.token.0).hash(&mut hasher);
        for (id, scale) in self.adapters.iter() {
            (id, scale.to_bits()).hash(&mut hasher);
        }
        let upper = hasher.finish() >> 32 << 32;
        (before, self.shape).hash(&mut hasher);
        upper | hasher.finish() >> 32
    }
}

/// The half of a cell that does not depend on the shape of decodes.
fn tokens_only(cell: u64) -> u64 {
    cell >> 32
}

impl Cells for Hashes {
    fn can_cut(&self) -> bool {
        true
    }
    fn cut(&mut self, lane: usize, from: usize) -> bool {
        if let Some(meanwhile) = self.meanwhile.take() {
            meanwhile();
        }
        self.lanes[lane].truncate(from);
        true
    }
    fn scrub(&mut self, lane: usize) {
        self.lanes[lane].clear();
        self.scrubbed.push(lane);
    }
    fn copy(&mut self, from: usize, to: usize) {
        assert_ne!(from, to);
        self.lanes[to] = self.lanes[from].clone();
    }
    fn export(&mut self, lane: usize) -> Option<LaneState> {
        let cells = &self.lanes[lane];
        let bytes = cells.iter().flat_map(|cell| cell.to_le_bytes());
        (cells.len() <= MOST_EXPORTED).then(|| LaneState(bytes.collect()))
    }
    fn import(&mut self, lane: usize, state: &LaneState) -> bool {
        let cells = state.0.chunks_exact(8);
        self.lanes[lane] = cells
            .map(|bytes| u64::from_le_bytes(bytes.try_into().expect("8 bytes")))
            .collect();
        true
    }
}

/// A sequence of a worker.
struct Running {
    id: u64,
    request: Request,
    plan: PromptPlan,
    fetches: usize,
    fetching: bool,
    /// Its lane, and the evaluated tokens of its prompt.
    at: Option<(usize, usize)>,
    /// Evaluated after the prompt.
    generated: Vec<Token>,
}

impl Running {
    fn new(id: u64, request: Request, cuts: Cuts) -> Self {
        Self {
            id,
            plan: PromptPlan::new(request.prompt.len(), cuts),
            request,
            fetches: 0,
            fetching: false,
            at: None,
            generated: Vec::new(),
        }
    }

    /// What a fresh context would hold, with nothing beside it.
    fn expected(&self, evaluated: usize) -> Vec<u64> {
        let prompt = self.request.prompt[..evaluated].iter();
        let generated = self.generated.iter();
        let tokens = prompt.map(|&token| (token, Shape::Exact));
        let shape = Shape::generated(&self.request);
        let tokens = tokens.chain(generated.map(|&token| (token, shape)));
        let mut cells: Vec<u64> = Vec::new();
        for (token, shape) in tokens {
            let adapters = &self.request.adapters;
            let cell = Cell {
                token,
                adapters,
                shape,
            };
            cells.push(cell.after(cells.last().copied()));
        }
        cells
    }
}

/// A worker without a model.
struct Worker {
    cache: Cache<Hashes>,
    running: Vec<Running>,
    transfers: Receiver<(u64, Option<KvTransfer>)>,
    reply: std::sync::mpsc::Sender<(u64, Option<KvTransfer>)>,
    exact: bool,
    cuts: Cuts,
    placement: Placement,
    reused: usize,
}

impl Worker {
    fn new(number: usize, lanes: usize, pinned_prefixes: usize, directory: &Directory) -> Self {
        let (reply, transfers) = channel();
        let rules = Rules {
            lane_tokens: 1000,
            most_fetched: MOST_EXPORTED,
            pinned_prefixes,
            reuses_generated: false,
        };
        Self {
            cache: Cache::new(Hashes::new(lanes), lanes, rules, number, directory.clone()),
            running: Vec::new(),
            transfers,
            reply,
            exact: true,
            cuts: CUTS,
            placement: Placement::Anywhere,
            reused: 0,
        }
    }

    fn alone(lanes: usize, pinned_prefixes: usize) -> Self {
        Self::new(0, lanes, pinned_prefixes, &Directory::new(1, lanes))
    }

    /// Gives lanes to those that have none; fetches for other workers.
    fn start(&mut self) -> Vec<(usize, KvFetch)> {
        let mut fetches = Vec::new();
        for running in &mut self.running {
            if running.at.is_some() || running.fetching {
                continue;
            }
            let order = Order {
                sequence: running.id,
                request: &running.request,
                plan: &running.plan,
                is_exact: self.exact || running.request.exact,
                fetches: running.fetches,
                placement: self.placement,
            };
            match self.cache.acquire(&order) {
                Acquired::Lane { lane, cells } => {
                    let evaluated = cells.min(running.request.prompt.len());
                    running.generated = running.request.forced_prefix[..cells - evaluated].to_vec();
                    running.at = Some((lane, evaluated));
                    self.reused += cells;
                    if evaluated == running.request.prompt.len() {
                        check_complete(
                            &self.cache,
                            running,
                            lane,
                            self.exact || running.request.exact,
                        );
                    }
                }
                Acquired::Fetch { worker, mut fetch } => {
                    let (reply, id) = (self.reply.clone(), running.id);
                    fetch.reply_to(move |transfer| drop(reply.send((id, transfer))));
                    running.fetching = true;
                    running.fetches += 1;
                    fetches.push((worker, fetch));
                }
                Acquired::NotYet => {}
            }
        }
        fetches
    }

    /// Takes what others have answered.
    fn receive(&mut self) {
        while let Ok((id, transfer)) = self.transfers.try_recv() {
            if let Some(running) = self.running.iter_mut().find(|one| one.id == id) {
                running.fetching = false;
                self.cache.import_fetched(id, transfer);
            }
        }
    }

    /// The evaluated tokens of the prompts that have lanes.
    fn evaluated(&self) -> Vec<Option<usize>> {
        let running = self.running.iter();
        running.map(|one| one.at.map(|(_, cells)| cells)).collect()
    }

    /// Evaluates a chunk of a sequence's prompt, or its next token.
    fn advance(&mut self, index: usize, rows: usize, token: Token) {
        let running = &mut self.running[index];
        let Some((lane, evaluated)) = running.at else {
            return;
        };
        let request = &running.request;
        let adapters = &request.adapters;
        if evaluated < request.prompt.len() {
            let end = running.plan.chunk_end(evaluated, rows);
            let exact = self.exact || request.exact;
            let shape = if exact { Shape::Exact } else { Shape::Inexact };
            for &token in &request.prompt[evaluated..end] {
                let cell = Cell {
                    token,
                    adapters,
                    shape,
                };
                self.cache.cells.evaluate(lane, cell);
            }
            let top = self.cache.score_spec(lane).top;
            let cells = &self.cache.cells.lanes[lane];
            let first = request.first_logits_row(&running.plan).unwrap_or(end);
            let rows = first.max(evaluated)..end.min(request.prompt.len() - 1);
            let scores = rows.map(|row| score(cells[row], request.prompt[row + 1], top));
            let is_complete = end == request.prompt.len();
            let evaluated = Evaluated {
                end,
                scores: scores.collect(),
                exact,
                last_row: is_complete.then(|| row(&self.cache.cells.lanes[lane])),
            };
            self.cache.commit(lane, evaluated);
            running.at = Some((lane, end));
            if is_complete {
                check_complete(&self.cache, running, lane, exact);
            }
        } else {
            let forced = request.forced_prefix.get(running.generated.len());
            let token = forced.copied().unwrap_or(token);
            let shape = if self.exact || request.exact {
                Shape::generated(request)
            } else {
                Shape::Inexact
            };
            let cell = Cell {
                token,
                adapters,
                shape,
            };
            self.cache.cells.evaluate(lane, cell);
            self.cache.push_generated(lane, token, request.exact);
            running.generated.push(token);
        }
    }

    fn end(&mut self, index: usize) {
        let running = self.running.remove(index);
        match running.at {
            None => self.cache.cancel_fetch(running.id),
            Some((lane, evaluated)) => {
                let is_complete = evaluated == running.request.prompt.len();
                let generated = Some(&running.generated[..]).filter(|_| is_complete);
                self.cache.release(lane, generated);
            }
        }
    }

    /// Each running sequence has the cells of a fresh context, and nothing else is known of a lane than what is there.
    fn check(&self) {
        for running in &self.running {
            let Some((lane, evaluated)) = running.at else {
                continue;
            };
            let cells = &self.cache.cells.lanes[lane];
            let expected = running.expected(evaluated);
            if self.exact || running.request.exact {
                assert_eq!(*cells, expected, "{:?}", running.request);
            }
            let [cells, expected] = [cells, &expected].map(|cells| {
                cells
                    .iter()
                    .map(|&cell| tokens_only(cell))
                    .collect::<Vec<_>>()
            });
            assert_eq!(cells, expected, "{:?}", running.request);
        }
        let runs = |id| self.running.iter().any(|running| running.id == id);
        for (lane, state) in self.cache.lanes.iter().enumerate() {
            assert!(state.prefix.is_consistent());
            assert!(
                state
                    .lease
                    .as_ref()
                    .is_none_or(|lease| runs(lease.sequence))
            );
            let cells = self.cache.cells.lanes[lane].len();
            let known = state.prefix.holding().cells();
            assert!(known <= cells);
            // What is not known of a free lane is cut off.
            assert!(state.lease.is_some() || known == cells);
        }
    }

    /// Runs a request to its end; the cells that it reuses.
    fn complete(&mut self, request: Request) -> usize {
        let before = self.reused;
        self.running
            .push(Running::new(before as u64, request, self.cuts));
        assert!(self.start().is_empty());
        let last = self.running.len() - 1;
        while self.running[last].at.expect("a lane").1 < self.running[last].request.prompt.len() {
            self.advance(last, 64, Token(0));
        }
        self.end(last);
        self.reused - before
    }
}

/// What is known of a token that this cell predicts.
fn score(cell: u64, token: Token, top: usize) -> Arc<TokenLogprob> {
    Arc::new(TokenLogprob {
        token,
        logprob: (tokens_only(cell) >> 8) as f32,
        top: vec![(token, 0.0); top],
        // With the shape of decodes.
        named: vec![(cell & 0xFF_FFFF) as f32],
        detail: None,
    })
}

/// What predicts the token after these cells.
fn row(cells: &[u64]) -> Arc<[f32]> {
    let bits = cells.last().map_or(0, |&cell| tokens_only(cell) >> 8);
    [bits as f32].into()
}

/// The prompt's scores and row are its own.
fn check_complete(cache: &Cache<Hashes>, running: &Running, lane: usize, exact: bool) {
    let request = &running.request;
    let output = cache.output(lane).expect("complete");
    let expected = running.expected(request.prompt.len());
    assert_eq!(output.last_row, row(&expected[..request.prompt.len()]));
    if let Some(PromptLogprobs { spec, from }) = &request.prompt_logprobs {
        let len = request.prompt.len();
        let first = len - output.scores.len();
        assert!(first <= *from, "{request:?}");
        for (token, known) in (first..len).zip(&output.scores) {
            assert!(known.top.len() >= spec.top);
            let expect = score(expected[token - 1], request.prompt[token], known.top.len());
            assert_eq!(known.token, expect.token, "{token} of {request:?}");
            assert_eq!(known.logprob, expect.logprob, "{token} of {request:?}");
            assert!(!exact || *known == expect, "{token} of {request:?}");
        }
    }
}

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % most
    }

    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn tokens(&mut self, most: usize) -> Vec<Token> {
        let len = self.below(most + 1);
        (0..len).map(|_| Token(self.below(2) as i32)).collect()
    }

    /// One of few stems with a tail, so that prompts share much.
    fn request(&mut self, is_exact_mode: bool) -> Request {
        let stem = [0, 40, 100, 140][self.below(4)];
        let mut request = request(0..0, None);
        let tail = self.tokens(3);
        request.prompt = (1000..1000 + stem)
            .map(Token)
            .chain([Token(7)])
            .chain(tail)
            .collect();
        request.exact = self.once_in(2);
        if self.once_in(3) {
            request.prompt_logprobs = Some(PromptLogprobs {
                spec: LogprobSpec::top(self.below(3)),
                from: match self.below(3) {
                    0 => 1,
                    1 => 1 + self.below(request.prompt.len()),
                    // The tail, as of choices after a stem.
                    _ => stem as usize + 1,
                },
            });
            if self.once_in(3) {
                request.rows = Rows::From(self.below(request.prompt.len()));
            }
        }
        if self.once_in(4) {
            request.adapters = Adapters::new([(0, 1.0)]);
        }
        if is_exact_mode && self.once_in(3) {
            request.forced_prefix = [Token(1); 40][..1 + self.below(40)].into();
        }
        request
    }
}

/// Two workers take in random requests, which end, leave, fail and are fetched from each other at random. Each cell that one
/// of them runs on must be the one that a fresh context would hold.
fn simulate(seed: u64, exact: bool, pinned_prefixes: usize, cuts: Cuts) -> usize {
    let mut dice = Dice(seed);
    let directory = Directory::new(2, 4);
    let mut workers: Vec<Worker> = (0..2)
        .map(|number| {
            let mut worker = Worker::new(number, 4, pinned_prefixes, &directory);
            worker.cache.rules.reuses_generated = !exact;
            worker.exact = exact;
            worker.cuts = cuts;
            worker
        })
        .collect();
    for step in 0..600 {
        let number = dice.below(2);
        let worker = &mut workers[number];
        if worker.running.len() < 3 && dice.once_in(2) {
            let request = dice.request(exact);
            worker.running.push(Running::new(step, request, cuts));
        }
        worker.receive();
        worker.cache.serve_fetches();
        let fetches = worker.start();
        for index in (0..worker.running.len()).rev() {
            if dice.once_in(30) {
                if let Some((lane, _)) = worker.running[index].at {
                    worker.cache.abandon(lane);
                    worker.running[index].at = Some((lane, 0));
                    worker.running[index].generated.clear();
                }
                worker.end(index);
            } else if dice.once_in(8) {
                worker.end(index);
            } else {
                let (rows, token) = (16 + dice.below(60), Token(dice.below(2) as i32));
                worker.advance(index, rows, token);
            }
        }
        worker.check();
        for (to, fetch) in fetches {
            workers[to].cache.enqueue(fetch);
        }
    }
    workers.iter().map(|worker| worker.reused).sum()
}

#[test]
fn reused_cells_are_those_of_a_fresh_context() {
    let pairs = Cuts { rows: 2, ..CUTS };
    let short = Cuts {
        batch_tokens: 48,
        rows: GROUP_ROWS,
    };
    let mut reused = 0;
    for seed in 1..20 {
        for exact in [true, false] {
            for (pinned, cuts) in [(0, CUTS), (1, pairs), (2, short)] {
                reused += simulate(seed * 0x9E37_79B9, exact, pinned, cuts);
            }
        }
    }
    assert!(reused > 50_000, "{reused}");
}

#[test]
fn known_scores_are_those_of_consecutive_tokens() {
    let mut worker = Worker::alone(1, 0);
    let mut check = |tail: i32, top, from, expect| {
        let mut ask = request(0..200, None);
        ask.prompt = (0..200).chain(tail..tail + 6).map(Token).collect();
        let spec = LogprobSpec::top(top);
        ask.prompt_logprobs = Some(PromptLogprobs { spec, from });
        assert_eq!(worker.complete(ask), expect, "{tail} {top} {from}");
    };
    // Evaluated whole; scored is the group of the row before the tail, and what follows.
    check(1000, 2, 200, 0);
    check(1000, 2, 200, 206);
    check(1000, 2, 193, 206);
    check(1000, 2, 192, 184);
    // Other tails need no scores before them, but the whole prompt's echo does.
    check(2000, 2, 200, 192);
    check(2000, 2, 1, 0);
    // Scores that follow known ones are added to these.
    check(3000, 2, 200, 192);
    check(3000, 2, 1, 206);
    // Others replace them.
    check(4000, 3, 200, 192);
    check(4000, 2, 1, 0);
    check(4000, 2, 206, 206);
    check(5000, 2, 206, 192);
    check(5000, 2, 1, 206);
    check(6000, 2, 1, 192);
}

#[test]
fn a_neighbour_that_evaluates_the_prompt_is_waited_for() {
    let mut worker = Worker::alone(3, 0);
    let ask = |tail: i32| {
        let mut ask = request(0..100, None);
        ask.prompt = (0..100).chain([tail; 4]).map(Token).collect();
        ask
    };
    for id in 0..3 {
        // The third one asks for the very prompt of the second.
        worker
            .running
            .push(Running::new(id, ask(500 + id.min(1) as i32), CUTS));
    }
    worker.start();
    let has_lane = |worker: &Worker| [0, 1, 2].map(|index| worker.running[index].at.is_some());
    assert_eq!(has_lane(&worker), [true, false, false]);
    worker.advance(0, 72, Token(0));
    worker.start();
    // The rest is evaluated sooner than awaited; but not all of it twice.
    assert_eq!(has_lane(&worker), [true, true, false]);
    worker.advance(1, 200, Token(0));
    worker.start();
    assert_eq!(has_lane(&worker), [true, true, true]);
    assert_eq!(
        worker.running[2].at.map(|(_, evaluated)| evaluated),
        Some(104)
    );
    // A neighbour that fails is not waited for.
    let mut worker = Worker::alone(3, 0);
    worker.running.push(Running::new(0, ask(500), CUTS));
    worker.start();
    worker.running.push(Running::new(1, ask(501), CUTS));
    worker
        .cache
        .abandon(worker.running[0].at.expect("a lane").0);
    worker.start();
    assert!(worker.running[1].at.is_some());
}

#[test]
fn the_forced_prefix_of_a_neighbour_is_waited_for() {
    let mut worker = Worker::alone(3, 0);
    let mut fork = request(0..50, None);
    fork.forced_prefix = (100..200).map(Token).collect();
    worker.running.push(Running::new(0, fork.clone(), CUTS));
    worker.start();
    worker.advance(0, 64, Token(0));
    worker.running.push(Running::new(1, fork, CUTS));
    for evaluated in 0..100 {
        worker.start();
        let waits = worker.running[1].at.is_none();
        // 99 of its tokens can be reused.
        assert_eq!(waits, evaluated + 32 <= 99, "{evaluated}");
        worker.advance(0, 64, Token(0));
    }
    assert_eq!(worker.running[1].generated.len(), 68);
}

#[test]
fn lanes_go_from_one_worker_to_another() {
    let directory = Directory::new(2, 2);
    let mut workers = [0, 1].map(|number| Worker::new(number, 2, 0, &directory));
    let mut ask = request(0..200, Some(2));
    workers[0].running.push(Running::new(0, ask.clone(), CUTS));
    workers[0].start();
    // What is about to be evaluated is fetched when it is.
    ask.prompt = (0..190).chain([999; 10]).map(Token).collect();
    for id in [1, 2] {
        workers[1].running.push(Running::new(id, ask.clone(), CUTS));
    }
    let mut fetches: VecDeque<_> = workers[1].start().into();
    assert_eq!(fetches.len(), 1, "the second waits for the first one's");
    let (to, fetch) = fetches.pop_front().expect("one fetch");
    assert_eq!(to, 0);
    workers[0].cache.enqueue(fetch);
    workers[0].cache.serve_fetches();
    assert!(workers[1].transfers.try_recv().is_err());
    workers[0].advance(0, 512, Token(0));
    workers[0].cache.serve_fetches();
    let (id, transfer) = workers[1].transfers.try_recv().expect("an answer");
    assert!(id == 1 && transfer.is_some());
    workers[1].cache.import_fetched(id, transfer);
    workers[1].running[0].fetching = false;
    assert!(workers[1].start().is_empty());
    assert_eq!(workers[1].running[0].at.map(|(_, cells)| cells), Some(184));
    // A worker that is gone answers, too.
    let mut fetch = KvFetch::new(
        Source { lane: 0, cells: 64 },
        64,
        &ask.prompt,
        &ask.adapters,
    );
    let reply = workers[1].reply.clone();
    fetch.reply_to(move |transfer| drop(reply.send((7, transfer))));
    drop(fetch);
    assert!(matches!(workers[1].transfers.try_recv(), Ok((7, None))));
}

/// A stem of 200 tokens, and a tail of its own.
fn behind_a_stem(tail: i32) -> Request {
    let mut ask = request(0..0, None);
    ask.prompt = (0..200).chain(tail..tail + 10).map(Token).collect();
    ask
}

#[test]
fn of_workers_that_begin_with_a_stem_at_once_one_evaluates_it() {
    for scored in [false, true] {
        let directory = Directory::new(2, 2);
        let [mut first, mut second] = [0, 1].map(|number| {
            let mut worker = Worker::new(number, 2, 0, &directory);
            let mut ask = behind_a_stem(1000 * (number as i32 + 1));
            ask.prompt_logprobs = scored.then(|| PromptLogprobs::all(LogprobSpec::top(1)));
            worker.running.push(Running::new(0, ask, CUTS));
            worker
        });
        // The first one has looked at what others hold, and has not leased its lane yet.
        let (done, began) = channel();
        first.cache.cells.meanwhile = Some(Box::new(move || {
            let fetches = second.start();
            done.send((second, fetches)).expect("the test waits");
        }));
        assert!(first.start().is_empty());
        let (mut second, mut fetches) = began.try_recv().expect("the second one has begun");
        assert_eq!(second.evaluated(), [None]);
        let (to, fetch) = fetches.pop().expect("a fetch");
        assert_eq!(to, 0);
        first.cache.enqueue(fetch);
        first.advance(0, 512, Token(0));
        first.cache.serve_fetches();
        second.receive();
        assert!(second.start().is_empty());
        // The score of the tail's first token is its own.
        let reused = if scored { 192 } else { 200 };
        assert_eq!(second.evaluated(), [Some(reused)]);
        second.advance(0, 512, Token(0));
        second.check();
    }
}

#[test]
fn who_waits_for_cells_that_do_not_come_asks_again() {
    let directory = Directory::new(2, 3);
    let mut workers = [0, 1].map(|number| Worker::new(number, 3, 0, &directory));
    let push = |worker: &mut Worker, id: u64| {
        let ask = behind_a_stem(1000 * (id as i32 + 1));
        worker.running.push(Running::new(id, ask, CUTS));
    };
    let [first, second] = &mut workers;
    for id in 0..2 {
        push(first, id);
        push(second, 2 + id);
    }
    assert!(first.start().is_empty());
    assert_eq!(first.evaluated(), [Some(0), None]);
    let mut fetches = second.start();
    assert_eq!(fetches.len(), 1);
    // The request that evaluates the stem leaves midway. Others go on: first its neighbour, if that begins earlier.
    first.cache.enqueue(fetches.remove(0).1);
    first.advance(0, 100, Token(0));
    first.end(0);
    first.cache.serve_fetches();
    assert!(first.start().is_empty());
    assert_eq!(first.evaluated(), [Some(96)]);
    second.receive();
    let mut fetches = second.start();
    assert_eq!(second.evaluated(), [None, None]);
    assert_eq!(fetches.len(), 1);
    // The request that was waiting for cells leaves: another one asks.
    second.end(0);
    let mut others = second.start();
    assert_eq!(others.len(), 1);
    for fetch in [fetches.remove(0).1, others.remove(0).1] {
        first.cache.enqueue(fetch);
    }
    first.advance(0, 512, Token(0));
    first.cache.serve_fetches();
    second.receive();
    assert!(second.start().is_empty());
    assert_eq!(second.evaluated(), [Some(200)]);
    second.advance(0, 512, Token(0));
    second.check();
}

#[test]
fn who_waits_in_vain_evaluates_the_cells_itself() {
    let directory = Directory::new(2, 2);
    let mut workers = [0, 1].map(|number| Worker::new(number, 2, 0, &directory));
    let [first, second] = &mut workers;
    for (worker, tail) in [(&mut *first, 1000), (&mut *second, 2000)] {
        worker
            .running
            .push(Running::new(0, behind_a_stem(tail), CUTS));
    }
    assert!(first.start().is_empty());
    for _ in 0..policy::MOST_FETCHES {
        // A fetch that is dropped is answered with nothing.
        assert_eq!(second.start().len(), 1);
        second.receive();
    }
    assert!(second.start().is_empty());
    assert_eq!(second.evaluated(), [Some(0)]);
}

#[test]
fn who_would_wait_behind_a_long_queue_evaluates_the_cells_itself() {
    for begun in [0, 96] {
        let directory = Directory::new(3, 2);
        let mut workers = [0, 1, 2].map(|number| Worker::new(number, 2, 0, &directory));
        let [first, second, third] = &mut workers;
        let long = request(0..300, None);
        for (id, ask) in [(0, long.clone()), (1, request(5000..5990, None))] {
            first.running.push(Running::new(id, ask, CUTS));
        }
        assert!(first.start().is_empty());
        second
            .running
            .push(Running::new(0, behind_a_stem(2000), CUTS));
        let (to, fetch) = second.start().pop().expect("a fetch");
        assert_eq!(to, 0);
        first.cache.enqueue(fetch);
        if begun > 0 {
            first.advance(0, begun, Token(0));
        }
        // The other prompt goes before, up to four times what can be saved.
        first.advance(1, 800, Token(0));
        first.cache.serve_fetches();
        second.receive();
        assert!(second.start().is_empty());
        assert_eq!(second.evaluated(), [None]);
        first.advance(1, 8, Token(0));
        first.cache.serve_fetches();
        second.receive();
        assert!(second.start().is_empty());
        assert_eq!(second.evaluated(), [Some(begun)]);
        // A prompt that gets on is waited for again.
        first.advance(0, 64, Token(0));
        third.running.push(Running::new(0, long, CUTS));
        let fetches = third.start();
        assert!(matches!(&fetches[..], [(0, fetch)] if fetch.cells == 300));
        for worker in [first, second] {
            worker.check();
        }
    }
}

#[test]
fn a_neighbour_behind_a_long_queue_is_not_waited_for() {
    let mut worker = Worker::alone(3, 0);
    let asks = [
        request(0..300, None),
        request(5000..5990, None),
        behind_a_stem(2000),
    ];
    for (id, ask) in (0..).zip(asks) {
        worker.running.push(Running::new(id, ask, CUTS));
    }
    assert!(worker.start().is_empty());
    worker.advance(1, 800, Token(0));
    assert!(worker.start().is_empty());
    assert_eq!(worker.evaluated(), [Some(0), Some(800), None]);
    worker.advance(1, 8, Token(0));
    assert!(worker.start().is_empty());
    assert_eq!(worker.evaluated(), [Some(0), Some(808), Some(0)]);
}

#[test]
fn a_lane_that_has_left_the_sliding_window_is_asked_once() {
    for reuses_generated in [false, true] {
        let directory = Directory::new(2, 2);
        let mut workers = [0, 1].map(|number| Worker::new(number, 2, 0, &directory));
        let [first, second] = &mut workers;
        first.cache.rules.reuses_generated = reuses_generated;
        let ask = |worker: &mut Worker, tail| {
            let ask = behind_a_stem(tail);
            worker.running.push(Running::new(0, ask, CUTS));
        };
        ask(first, 1000);
        assert!(first.start().is_empty());
        // Its prompt, and as many tokens as the window has.
        for _ in 0..=MOST_EXPORTED {
            first.advance(0, 512, Token(7));
        }
        ask(second, 2000);
        let mut fetches = second.start();
        first.cache.enqueue(fetches.pop().expect("a fetch").1);
        first.cache.serve_fetches();
        second.receive();
        assert!(second.start().is_empty());
        assert_eq!(second.evaluated(), [Some(0)]);
        second.end(0);
        // Nor does another request ask.
        ask(second, 3000);
        assert!(second.start().is_empty());
    }
}

#[test]
fn what_cannot_be_fetched_is_not_waited_for() {
    for (length, waits) in [(400, true), (401, false)] {
        let directory = Directory::new(2, 2);
        let mut workers = [0, 1].map(|number| Worker::new(number, 2, 0, &directory));
        for worker in &mut workers {
            let ask = request(0..length, None);
            worker.running.push(Running::new(0, ask, CUTS));
        }
        assert!(workers[0].start().is_empty());
        assert_eq!(workers[1].start().len(), usize::from(waits), "{length}");
    }
}

#[test]
fn a_lane_that_may_hold_nan_is_scrubbed_before_it_is_used_again() {
    let mut worker = Worker::alone(1, 0);
    let mut adapted = request(0..50, None);
    adapted.adapters = Adapters::new([(0, 9.0)]);
    worker.running.push(Running::new(0, adapted.clone(), CUTS));
    worker.start();
    worker.cache.abandon(0);
    worker.end(0);
    assert!(worker.cache.cells.scrubbed.is_empty());
    worker.complete(adapted.clone());
    assert_eq!(worker.cache.cells.scrubbed, [0]);
    // All rows were looked at.
    worker.complete(request(0..50, None));
    worker.complete(adapted);
    assert_eq!(worker.cache.cells.scrubbed, [0]);
}

#[test]
fn a_pinned_stem_survives_one_off_prompts() {
    let ask = |stem: i32, tail: i32| {
        let mut ask = request(0..0, None);
        let tail = 10_000 + 10 * tail..10_010 + 10 * tail;
        ask.prompt = (stem..stem + 200).chain(tail).map(Token).collect();
        ask
    };
    for (pinned_prefixes, expect) in [(0, 0), (1, 200)] {
        let mut worker = Worker::alone(4, pinned_prefixes);
        for user in 0..3 {
            worker.complete(ask(0, user));
        }
        // Each one is new, and they are many more than there are lanes.
        for one_off in 1..20 {
            assert_eq!(worker.complete(ask(300 * one_off, 0)), 0);
        }
        assert_eq!(worker.complete(ask(0, 7)), expect, "{pinned_prefixes}");
        // A prompt that shares less of it leaves it whole.
        let mut half = ask(0, 8);
        half.prompt = (0..120).chain(20_000..20_100).map(Token).collect();
        worker.complete(half);
        for one_off in 20..30 {
            worker.complete(ask(300 * one_off, 0));
        }
        assert_eq!(worker.complete(ask(0, 9)), expect, "{pinned_prefixes}");
    }
}

#[test]
fn cells_that_are_in_the_way_are_moved_and_not_lost() {
    let ask = |from: i32| request(from..from + 100, None);
    let mut worker = Worker::alone(3, 0);
    for from in [0, 1000, 2000] {
        worker.complete(ask(from));
    }
    // The second lane was used last. The first one runs on.
    assert_eq!(worker.complete(ask(1000)), 100);
    worker.running.push(Running::new(90, ask(3000), CUTS));
    worker.start();
    worker.placement = Placement::Together;
    assert_eq!(worker.complete(ask(4000)), 0);
    assert_eq!(worker.complete(ask(1000)), 100);
    assert_eq!(worker.complete(ask(2000)), 0);
}

#[test]
fn a_pin_protects_one_lane() {
    let ask = |tail: i32| {
        let mut ask = request(0..0, None);
        ask.prompt = (0..200).chain(tail..tail + 10).map(Token).collect();
        ask
    };
    let mut worker = Worker::alone(3, 1);
    for user in 1..5 {
        worker.complete(ask(1000 * user));
    }
    // Two lanes hold the stem. While one of them is busy, the other one may go.
    worker.running.push(Running::new(90, ask(9000), CUTS));
    worker.start();
    worker.complete(ask(9500));
    let one_off = |number: i32| request(10_000 * number..10_000 * number + 100, None);
    worker.complete(one_off(1));
    worker.complete(one_off(2));
    assert_eq!(worker.complete(one_off(1)), 100);
    worker.end(0);
    for number in 3..9 {
        worker.complete(one_off(number));
    }
    assert_eq!(worker.complete(ask(9900)), 200);
}
