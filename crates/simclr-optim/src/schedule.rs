//! Learning rates that change from step to step.

/// How the learning rate goes on after its warm-up.
#[derive(Clone, Debug, PartialEq)]
pub enum Decay {
    /// It stays.
    Constant,
    /// Half a cosine down to a last value, as SimCLR. Loshchilov and Hutter 2016, arXiv:1608.03983.
    Cosine {
        /// What the rate would be at the step after the last.
        last: f64,
    },
    /// Multiplied by `factor` at each of some steps.
    Steps {
        /// Those steps, from 0, counted from the start of training.
        at: Vec<u64>,
        /// What it is multiplied by at each.
        factor: f64,
    },
}

/// The learning rate of every step of a training.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// The rate at the end of the warm-up.
    pub peak: f64,
    /// Steps in which it rises from 0 in a straight line, as in SimCLR's code: the first of them has a rate of 0.
    pub warmup: u64,
    /// All steps of the training, warm-up included.
    pub steps: u64,
    /// What comes after the warm-up.
    pub decay: Decay,
}

impl Schedule {
    /// The rate of step `step`, from 0. It depends on nothing else: a resumed training asks the same.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step as f64 / self.warmup as f64);
        }
        match &self.decay {
            Decay::Constant => self.peak,
            Decay::Cosine { last } => {
                let whole = self.steps.saturating_sub(self.warmup).max(1);
                let done = ((step - self.warmup) as f64 / whole as f64).min(1.0);
                last + (self.peak - last) * (1.0 + (std::f64::consts::PI * done).cos()) / 2.0
            }
            Decay::Steps { at, factor } => {
                let passed = at.iter().filter(|&&at| at <= step).count();
                self.peak * factor.powi(i32::try_from(passed).unwrap_or(i32::MAX))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(warmup: u64, decay: Decay) -> Schedule {
        Schedule { peak: 0.8, warmup, steps: 100, decay }
    }

    fn close(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-15, "{got} {want}");
    }

    #[test]
    fn warm_up_is_a_straight_line_from_zero() {
        let s = schedule(4, Decay::Constant);
        for (step, want) in [(0, 0.0), (1, 0.2), (2, 0.4), (3, 0.6), (4, 0.8), (99, 0.8)] {
            close(s.at(step), want);
        }
        close(schedule(0, Decay::Constant).at(0), 0.8);
    }

    /// `torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)`: 0.5 · lr · (1 + cos(π · t / T)).
    #[test]
    fn cosine_begins_at_the_peak_and_passes_its_middle_half_way() {
        let s = schedule(0, Decay::Cosine { last: 0.0 });
        for (step, want) in [(0, 0.8), (25, 0.4 * (1.0 + 0.5f64.sqrt())), (50, 0.4), (100, 0.0), (200, 0.0)] {
            close(s.at(step), want);
        }
        let s = schedule(20, Decay::Cosine { last: 0.1 });
        for (step, want) in [(10, 0.4), (20, 0.8), (60, 0.45), (100, 0.1)] {
            close(s.at(step), want);
        }
    }

    /// `torch.optim.lr_scheduler.MultiStepLR(optimizer, [30, 60], gamma=0.1)`.
    #[test]
    fn steps_multiply_at_their_places() {
        let s = schedule(0, Decay::Steps { at: vec![30, 60], factor: 0.1 });
        for (step, want) in [(0, 0.8), (29, 0.8), (30, 0.08), (59, 0.08), (60, 0.008), (99, 0.008)] {
            close(s.at(step), want);
        }
    }
}
