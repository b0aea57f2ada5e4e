//! Progress for people, on standard error: each step as it happens, with its time. Standard output is left for the
//! last line and for the prompt.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often the running step's clock moves.
const TICK: Duration = Duration::from_millis(100);

pub struct Report {
    started: Instant,
    bar: Option<ProgressBar>,
    step: String,
}

impl Report {
    pub fn new() -> Self {
        Self { started: Instant::now(), bar: None, step: String::new() }
    }

    pub fn step(&mut self, what: &str) {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}  {elapsed_precise}") {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(TICK);
        what.clone_into(&mut self.step);
        self.started = Instant::now();
        eprintln!("{what}");
        self.bar = Some(bar);
    }

    pub fn detail(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("  {what}")),
            None => eprintln!("  {what}"),
        }
    }

    pub fn done(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        eprintln!("  {}: {:.1} s", self.step, self.started.elapsed().as_secs_f64());
    }
}
