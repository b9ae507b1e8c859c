//! Where and how ops run.

use std::fmt::Debug;
use std::sync::Arc;

use candle_core::DType;

use crate::error::OpsError;
use crate::product::Instructions;
use crate::profile::{Profile, Work};

/// Which implementation of an op runs, where there are several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Form {
    /// Plain loops on one thread: the specification and the oracle.
    Reference,
    /// The fastest form this machine has.
    #[default]
    Fast,
}

/// How the maps between layers are kept, and with what products multiply. Parameters, statistics and sums are never less than f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Precision {
    /// As the parameters: f32, or f64 to check against.
    #[default]
    Full,
    /// bf16: half the memory, eight bits of precision.
    Bf16,
    /// f16, on GPUs alone: eleven bits of precision, from 6e-8 to 65,504. What is smaller is lost: gradients need a scale.
    F16,
}

impl Precision {
    /// The type of maps where the parameters are of this one.
    pub fn map_dtype(self, parameters: DType) -> DType {
        match self {
            Self::Full => parameters,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }
}

/// Where a sum over the batch goes: nowhere for one process, over all of them in data-parallel training.
pub trait Reduction: Debug + Send + Sync {
    /// Replaces each of `values` by its sum over all processes.
    ///
    /// # Errors
    /// If the other processes cannot be reached.
    fn sum(&self, values: &mut [f64]) -> Result<(), OpsError>;

    /// Whether there are no other processes, so that sums need not leave the device they are on.
    fn is_alone(&self) -> bool {
        false
    }
}

/// The reduction of a process that is alone: each sum is already complete.
#[derive(Clone, Copy, Debug, Default)]
pub struct OneProcess;

impl Reduction for OneProcess {
    fn sum(&self, _: &mut [f64]) -> Result<(), OpsError> {
        Ok(())
    }

    fn is_alone(&self) -> bool {
        true
    }
}

/// Where and how ops run: passed to every op, cheap to clone, without global state behind it.
///
/// Results do not depend on the number of threads of the rayon pool the op is called in: reductions are split by shape.
#[derive(Clone, Debug)]
pub struct Context {
    form: Form,
    instructions: Instructions,
    precision: Precision,
    reduction: Arc<dyn Reduction>,
    profile: Option<Arc<Profile>>,
    /// What clones of this context have made ready on GPUs.
    #[cfg(feature = "cuda")]
    gpus: Arc<crate::cuda::Gpus>,
}

impl Default for Context {
    fn default() -> Self {
        Self {
            form: Form::default(),
            instructions: Instructions::best(),
            precision: Precision::default(),
            reduction: Arc::new(OneProcess),
            profile: None,
            #[cfg(feature = "cuda")]
            gpus: Arc::default(),
        }
    }
}

impl Context {
    /// The fastest forms, one process.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forces one form, as tests do to compare them.
    pub fn with_form(form: Form) -> Self {
        Self { form, ..Self::default() }
    }

    /// The same with other instructions in its products than the best, as tests and measurements ask.
    ///
    /// # Panics
    /// If this CPU has them not.
    #[must_use]
    pub fn with_instructions(self, instructions: Instructions) -> Self {
        assert!(instructions.is_available(), "this CPU has no {instructions} instructions");
        Self { instructions, ..self }
    }

    /// The same with maps of another precision.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The same with sums over the batch taken by `reduction`.
    #[must_use]
    pub fn with_reduction(self, reduction: Arc<dyn Reduction>) -> Self {
        Self { reduction, ..self }
    }

    /// The same, with the algorithms of convolutions on a GPU measured, each on the first numbers that come: the fastest is taken, even
    /// if it does not give the same bits every time. It shares nothing with the context that it was made of; a CPU knows no difference.
    #[must_use]
    pub fn with_measured_convolutions(self) -> Self {
        Self {
            #[cfg(feature = "cuda")]
            gpus: Arc::new(crate::cuda::Gpus::measuring()),
            ..self
        }
    }

    /// The same, with the time of every op recorded.
    #[must_use]
    pub fn with_profile(self, profile: Arc<Profile>) -> Self {
        Self { profile: Some(profile), ..self }
    }

    /// Runs a part of an op, and records its time if this context keeps a record.
    pub(crate) fn timed<R>(&self, op: &'static str, phase: &'static str, work: Work, run: impl FnOnce() -> R) -> R {
        match &self.profile {
            Some(profile) => profile.timed(op, phase, work, run),
            None => run(),
        }
    }

    /// The form that ops choose.
    pub fn form(&self) -> Form {
        self.form
    }

    /// The instructions of its products.
    pub fn instructions(&self) -> Instructions {
        self.instructions
    }

    /// How whoever makes maps should make them; an op follows the maps that it is given.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Where sums over the batch go.
    pub fn reduction(&self) -> &dyn Reduction {
        self.reduction.as_ref()
    }

    /// Which algorithms the convolutions on GPUs were given, in this context and its clones, a line for every problem, in order: runs with
    /// the same lines give the same bits, unless one says that it is not deterministic. What was measured has its time. Nothing where
    /// none has run.
    pub fn algorithms(&self) -> Vec<String> {
        #[cfg(feature = "cuda")]
        return self.gpus.choices();
        #[cfg(not(feature = "cuda"))]
        Vec::new()
    }

    /// What ops have made ready on GPUs.
    #[cfg(feature = "cuda")]
    pub(crate) fn gpus(&self) -> &crate::cuda::Gpus {
        &self.gpus
    }
}
