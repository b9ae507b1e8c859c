//! Update rules and their settings.

use simclr_ops::update::{self, Adam, Lars, Sgd};

/// An update rule; [`Rule::ADAM`] and the others have the defaults of where they come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// `torch.optim.Adam`: weight decay is an L2 penalty in the gradient. Kingma and Ba 2014, arXiv:1412.6980.
    Adam(Betas),
    /// `torch.optim.AdamW`: weight decay goes past the running means. Loshchilov and Hutter 2017, arXiv:1711.05101.
    AdamW(Betas),
    /// `torch.optim.SGD` without dampening.
    Sgd(Momentum),
    /// The LARS of SimCLR's code. You et al. 2017, arXiv:1708.03888.
    Lars {
        /// Its velocity, which the learning rate is in.
        momentum: Momentum,
        /// The learning rate of a parameter is multiplied by this times its norm over its gradient's.
        trust_coefficient: f64,
    },
}

/// How long Adam remembers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Betas {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the mean of squares.
    pub eps: f64,
}

impl Default for Betas {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8 }
    }
}

/// What is kept of the steps before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Momentum {
    /// Share of the velocity that a step keeps; 0 for none.
    pub momentum: f64,
    /// Whether a step looks ahead along its velocity.
    pub nesterov: bool,
}

impl Default for Momentum {
    fn default() -> Self {
        Self { momentum: 0.9, nesterov: false }
    }
}

/// What a step is for one group of parameters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) learning_rate: f64,
    pub(crate) weight_decay: f64,
    /// Whether LARS adapts the learning rate to the norms.
    pub(crate) is_adapted: bool,
    /// Which it is, from 1.
    pub(crate) number: u64,
}

impl Rule {
    /// Adam as in PyTorch, and in the course.
    pub const ADAM: Self = Self::Adam(Betas { beta1: 0.9, beta2: 0.999, eps: 1e-8 });

    /// Names of what is remembered beside every parameter, as in PyTorch's state dicts.
    pub fn moments(&self) -> &'static [&'static str] {
        match self {
            Self::Adam(_) | Self::AdamW(_) => &["exp_avg", "exp_avg_sq"],
            Self::Sgd(_) | Self::Lars { .. } => &["momentum_buffer"],
        }
    }

    pub(crate) fn at(&self, step: Step) -> update::Rule {
        let Step { learning_rate, weight_decay, is_adapted, number } = step;
        let adam = |Betas { beta1, beta2, eps }: Betas, decoupled| {
            update::Rule::Adam(Adam { learning_rate, beta1, beta2, eps, weight_decay, decoupled, number })
        };
        match *self {
            Self::Adam(betas) => adam(betas, false),
            Self::AdamW(betas) => adam(betas, true),
            Self::Sgd(Momentum { momentum, nesterov }) => {
                update::Rule::Sgd(Sgd { learning_rate, momentum, nesterov, weight_decay })
            }
            Self::Lars { momentum: Momentum { momentum, nesterov }, trust_coefficient } => {
                let trust_coefficient = is_adapted.then_some(trust_coefficient);
                update::Rule::Lars(Lars { learning_rate, momentum, nesterov, weight_decay, trust_coefficient })
            }
        }
    }
}
