//! What a person sees of long work: a bar on a terminal, else a line when it begins and one when it ends.

use std::time::Instant;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// One piece of long work over bytes.
pub(super) struct Progress {
    bar: ProgressBar,
    done: &'static str,
    name: String,
    begun: Instant,
}

impl Progress {
    /// `doing` and `done` are the verb: "downloading", "downloaded".
    pub(super) fn begin(
        doing: &'static str,
        done: &'static str,
        name: &str,
        total: Option<u64>,
        from: u64,
    ) -> Self {
        // indicatif draws to standard error, and hides the bar by itself if that is not a terminal.
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::no_length(),
        };
        if let Ok(style) = ProgressStyle::with_template(
            "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        ) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(format!("{doing} {name}"));
        // The part that was there before must not count as speed.
        bar.set_position(from);
        bar.reset_eta();
        if bar.is_hidden() {
            let size = total.map_or_else(
                || "size unknown".to_owned(),
                |total| HumanBytes(total).to_string(),
            );
            if from > 0 {
                tracing::info!(
                    "{doing} {name} ({size}, {} of it there already)",
                    HumanBytes(from)
                );
            } else {
                tracing::info!("{doing} {name} ({size})");
            }
        }
        Self {
            bar,
            done,
            name: name.to_owned(),
            begun: Instant::now(),
        }
    }

    pub(super) fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    pub(super) fn finish(self) {
        if self.bar.is_hidden() {
            tracing::info!(
                "{} {} in {:.1} s",
                self.done,
                self.name,
                self.begun.elapsed().as_secs_f64()
            );
        }
        self.bar.finish();
    }
}

/// The hub's client reports through a trait of its own, and begins anew on a retry.
pub(super) struct HubProgress {
    name: String,
    total: u64,
    running: Option<Progress>,
}

impl HubProgress {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            total: 0,
            running: None,
        }
    }
}

impl hf_hub::api::Progress for HubProgress {
    fn init(&mut self, size: usize, _filename: &str) {
        self.total = size as u64;
    }

    fn update(&mut self, size: usize) {
        match &self.running {
            // The first report is what an earlier try left.
            None => {
                let running = Progress::begin(
                    "downloading",
                    "downloaded",
                    &self.name,
                    Some(self.total),
                    size as u64,
                );
                self.running = Some(running);
            }
            Some(running) => running.add(size as u64),
        }
    }

    fn finish(&mut self) {
        if let Some(running) = self.running.take() {
            running.finish();
        }
    }
}
