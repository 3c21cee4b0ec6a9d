//! Counts, and what the person at the terminal sees of them.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::FormattedDuration;
use serde::Deserialize;

use super::server::Reply;

/// What has been done.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    /// Lines of this shard.
    pub lines: usize,
    /// Lines that earlier runs finished.
    pub earlier: usize,
    /// Lines that this run finished.
    pub finished: usize,
    /// Finished lines that are errors, of all runs.
    pub errors: usize,
    /// Requests that had to be sent again.
    pub repeated: usize,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub completion_tokens: u64,
}

/// An answer's `usage`; what a route does not count is 0.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    prompt_tokens_details: Option<PromptTokensDetails>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PromptTokensDetails {
    cached_tokens: u64,
}

impl Usage {
    /// That of an answer; `None` if it is an error.
    pub fn of(reply: &Reply) -> Option<Self> {
        #[derive(Deserialize)]
        struct Answer {
            usage: Option<Usage>,
        }
        if !reply.is_ok() {
            return None;
        }
        let answer: Option<Answer> = serde_json::from_slice(&reply.body).ok();
        Some(answer.and_then(|it| it.usage).unwrap_or_default())
    }
}

impl Tally {
    /// Counts a finished line with the usage of its answer; `None` if it is an error.
    pub fn finish(&mut self, usage: Option<Usage>) {
        self.finished += 1;
        let Some(usage) = usage else {
            self.errors += 1;
            return;
        };
        self.prompt_tokens += usage.prompt_tokens;
        self.completion_tokens += usage.completion_tokens;
        let details = usage.prompt_tokens_details.unwrap_or_default();
        self.cached_tokens += details.cached_tokens;
    }

    fn done(&self) -> usize {
        self.earlier + self.finished
    }
}

/// What a run or a merge leaves behind.
#[derive(Debug)]
pub struct Summary {
    pub tally: Tally,
    /// How long it took.
    pub took: Duration,
}

impl Summary {
    /// Whether every line has an answer that is no error.
    pub fn is_complete(&self) -> bool {
        self.tally.errors == 0
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally {
            lines,
            earlier,
            finished,
            errors,
            repeated,
            prompt_tokens,
            cached_tokens,
            completion_tokens,
        } = &self.tally;
        let per_second = |count: u64| count as f64 / self.took.as_secs_f64().max(0.001);
        writeln!(f, "lines: {lines}, with an error: {errors}")?;
        writeln!(
            f,
            "this run: {finished} lines in {} ({:.1} lines/s), {repeated} requests repeated; earlier runs: {earlier}",
            FormattedDuration(self.took),
            per_second(*finished as u64)
        )?;
        let evaluated = prompt_tokens.saturating_sub(*cached_tokens);
        writeln!(
            f,
            "tokens: {prompt_tokens} in prompts ({cached_tokens} from the cache, {evaluated} evaluated), {completion_tokens} \
             generated; {:.1} tokens/s",
            per_second(prompt_tokens + completion_tokens)
        )
    }
}

/// Shows progress on standard error: every second on a terminal, else now and then.
pub struct Progress {
    is_terminal: bool,
    shown: Option<Instant>,
    /// The lines finished at some moments of the last minute, for the rate.
    recent: VecDeque<(Instant, usize)>,
}

impl Progress {
    pub fn new(now: Instant) -> Self {
        Self {
            is_terminal: io::stderr().is_terminal(),
            shown: None,
            recent: VecDeque::from([(now, 0)]),
        }
    }

    /// Shows it if it is time. `state`: what the servers do.
    pub fn show(&mut self, now: Instant, tally: &Tally, state: &str) {
        const PAUSE_ON_TERMINAL: Duration = Duration::from_secs(1);
        const PAUSE: Duration = Duration::from_secs(20);
        let pause = match self.is_terminal {
            true => PAUSE_ON_TERMINAL,
            false => PAUSE,
        };
        if self.shown.is_some_and(|shown| now < shown + pause) {
            return;
        }
        let is_first = self.shown.replace(now).is_none();
        if is_first && !self.is_terminal {
            return;
        }
        let line = self.line(now, tally, state);
        let mut stderr = io::stderr().lock();
        // A terminal that is gone ends nothing.
        let _ = match self.is_terminal {
            // The cursor goes back, so that the next line replaces this one.
            true => write!(stderr, "{line}\x1b[K\r"),
            false => writeln!(stderr, "{line}"),
        };
    }

    /// Removes the line from the terminal.
    pub fn clear(&self) {
        if self.is_terminal {
            let _ = write!(io::stderr(), "\x1b[K");
        }
    }

    fn line(&mut self, now: Instant, tally: &Tally, state: &str) -> String {
        const WINDOW: Duration = Duration::from_secs(60);
        let is_old = |&(at, _): &(Instant, usize)| now.duration_since(at) > WINDOW;
        while self.recent.len() > 1 && self.recent.front().is_some_and(is_old) {
            self.recent.pop_front();
        }
        let (since, before) = self.recent.front().copied().unwrap_or((now, 0));
        self.recent.push_back((now, tally.finished));
        let seconds = now.duration_since(since).as_secs_f64();
        let rate = (tally.finished - before) as f64 / seconds.max(0.001);
        let done = tally.done();
        let percent = 100.0 * done as f64 / tally.lines.max(1) as f64;
        let mut line = format!("{done} of {} lines ({percent:.1}%)", tally.lines);
        if rate > 0.0 {
            let left = (tally.lines - done) as f64 / rate;
            let left = FormattedDuration(Duration::from_secs_f64(left));
            line += &format!(", {rate:.1} lines/s, {left} left");
        }
        if tally.errors > 0 {
            line += &format!(", {} with an error", tally.errors);
        }
        if !state.is_empty() {
            line += &format!("; {state}");
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted() {
        let reply = |status: u16, body: &str| Reply {
            status,
            request_id: String::new(),
            bits_class: None,
            retry_after: None,
            body: body.into(),
        };
        let mut tally = Tally::default();
        tally.finish(Usage::of(&reply(
            200,
            r#"{"usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11, "prompt_tokens_details": {"cached_tokens": 4}}}"#,
        )));
        tally.finish(Usage::of(&reply(200, r#"{"usage": {"prompt_tokens": 3}}"#)));
        tally.finish(Usage::of(&reply(400, r#"{"error": {}}"#)));
        tally.finish(None);
        let expect = Tally {
            finished: 4,
            errors: 2,
            prompt_tokens: 12,
            cached_tokens: 4,
            completion_tokens: 2,
            ..Tally::default()
        };
        assert_eq!(tally, expect);
        let summary = Summary {
            tally,
            took: Duration::from_secs(2),
        };
        assert!(!summary.is_complete());
        let shown = summary.to_string();
        assert!(shown.contains("(4 from the cache, 8 evaluated)"), "{shown}");
        assert!(shown.contains("(2.0 lines/s)"), "{shown}");
    }

    #[test]
    fn the_time_left_is_that_of_the_last_minute() {
        let start = Instant::now();
        let mut progress = Progress::new(start);
        let mut line = |seconds: u64, finished: usize| {
            let tally = Tally {
                lines: 1000,
                earlier: 100,
                finished,
                ..Tally::default()
            };
            progress.line(start + Duration::from_secs(seconds), &tally, "")
        };
        assert_eq!(line(0, 0), "100 of 1000 lines (10.0%)");
        assert_eq!(
            line(50, 100),
            "200 of 1000 lines (20.0%), 2.0 lines/s, 00:06:40 left"
        );
        assert_eq!(
            line(100, 600),
            "700 of 1000 lines (70.0%), 10.0 lines/s, 00:00:30 left"
        );
    }
}
