//! Where and how ops run.

/// Which implementation of an op runs, where there are several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Form {
    /// Plain loops: the specification and the oracle, for f32 and f64.
    Reference,
    /// The fastest form this machine has for the element type; the reference where there is none (f64 convolutions).
    #[default]
    Fast,
}

/// Where and how ops run: passed to every op, cheap to clone, without global state behind it.
///
/// Results do not depend on the number of threads of the rayon pool the op is called in: reductions are split by shape.
#[derive(Clone, Debug, Default)]
pub struct Context {
    form: Form,
}

impl Context {
    /// The fastest forms.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forces one form, as tests do to compare them.
    pub fn with_form(form: Form) -> Self {
        Self { form }
    }

    /// The form that ops choose.
    pub fn form(&self) -> Form {
        self.form
    }
}
