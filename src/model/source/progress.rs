//! Progress of long work: a bar on a terminal, else a log line at the beginning and at the end.

use std::time::Instant;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// The progress of work over a number of bytes.
pub(super) struct Progress {
    bar: ProgressBar,
    done: &'static str,
    name: String,
    begun: Instant,
}

impl Progress {
    /// `doing` and `done` are forms of the verb: "downloading", "downloaded".
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
        // Bytes from an earlier run must not count towards the speed.
        bar.set_position(from);
        bar.reset_eta();
        if bar.is_hidden() {
            let size = total.map_or_else(
                || "size unknown".to_owned(),
                |total| HumanBytes(total).to_string(),
            );
            if from > 0 {
                tracing::info!(
                    "{doing} {name} ({size}, {} already there)",
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
