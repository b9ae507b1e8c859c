//! How far a run is: a moving bar on a terminal, a line now and then elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Output;

/// How often a line is printed where no bar can move.
const LINE_EVERY: Duration = Duration::from_secs(15);

/// Progress of one activity.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    output: Output,
    title: String,
    total: u64,
    done: u64,
    /// What was done before this part of a resumed run: it says nothing about speed.
    start: u64,
    began: Instant,
    last_line: Instant,
}

impl Progress {
    /// Of `total` things, `done` of which are done already.
    pub(crate) fn new(output: &Output, title: &str, total: u64, done: u64) -> Self {
        let target = if output.is_live() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template("{prefix:>12} {bar:24} {pos}/{len} {msg}");
        let bar = ProgressBar::with_draw_target(Some(total), target)
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            .with_prefix(title.to_owned())
            .with_position(done);
        let now = Instant::now();
        Self {
            bar,
            output: output.clone(),
            title: title.to_owned(),
            total,
            done,
            start: done,
            began: now,
            last_line: now,
        }
    }

    /// `by` more are done; `fields` are what there is to say about them, under their names.
    ///
    /// On a terminal a person reads them; elsewhere a line has `name=value`, so that a program can, too.
    pub(crate) fn advance(&mut self, by: u64, fields: &[(&str, String)]) {
        self.done += by;
        self.bar.set_position(self.done);
        let left = self.left();
        if self.output.is_live() {
            let said = fields.iter().map(|(name, value)| format!("{} {value}", name.replace('_', " ")));
            let said: Vec<String> = said.chain(left.map(|left| format!("{} left", human(left)))).collect();
            self.bar.set_message(said.join(", "));
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let said = fields.iter().map(|(name, value)| format!(" {name}={value}"));
            let left = left.map(|left| format!(" left_s={:.0}", left.as_secs_f64()));
            let said: String = said.chain(left).collect();
            self.output.say(format!("{}: done={} of={}{said}", self.title, self.done, self.total));
        }
    }

    /// A remark that does not disturb the bar.
    pub(crate) fn say(&self, text: &str) {
        self.bar.suspend(|| self.output.say(text));
    }

    /// Time left at the mean speed so far.
    fn left(&self) -> Option<Duration> {
        let (own, left) = (self.done.checked_sub(self.start)?, self.total.saturating_sub(self.done));
        (own > 0).then(|| self.began.elapsed().mul_f64(left as f64 / own as f64))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A duration as people say it: `7 s`, `3 min 20 s`, `2 h 05 min`.
pub(crate) fn human(duration: Duration) -> String {
    let seconds = duration.as_secs_f64().round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3_600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let said = |seconds| human(Duration::from_secs_f64(seconds));
        assert_eq!([said(0.4), said(59.4), said(200.0), said(7_500.0)], ["0 s", "59 s", "3 min 20 s", "2 h 05 min"]);
    }
}
