//! Which precisions a device computes in.

use crate::config::Precision;
use crate::{Usage, settings};

impl Precision {
    /// Those of a GPU of this compute capability, or of the CPU.
    pub(crate) fn of(capability: Option<(u32, u32)>) -> &'static [Self] {
        match capability {
            None => &[Self::F32, Self::Bf16],
            // The matrix units of Volta and Turing multiply f16 alone.
            Some(older) if older < (8, 0) => &[Self::F32, Self::F16],
            Some(_) => &[Self::F32, Self::Bf16, Self::F16],
        }
    }

    /// # Errors
    /// [`Usage`] if `device`, a GPU of this compute capability or the CPU, does not compute in it.
    pub(crate) fn must_be_of(self, device: &str, capability: Option<(u32, u32)>) -> Result<(), Usage> {
        if Self::of(capability).contains(&self) {
            return Ok(());
        }
        let name = settings::flat_name(&self);
        Err(Usage(match capability {
            None => format!(
                "--precision is {name}, which GPUs alone compute in, but this runs on {device}: expected f32 or bf16"
            ),
            Some((major, minor)) => format!(
                "--precision is {name}, which {device} has not: its compute capability is {major}.{minor}, {name} begins with 8.0; \
                 use --precision f16"
            ),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::Precision::{Bf16, F16, F32};

    #[test]
    fn f16_is_for_gpus_and_bf16_begins_with_8_0() {
        let (old, new) = ([true, false, true], [true; 3]);
        for (capability, expected) in [
            (None, [true, true, false]),
            (Some((7, 0)), old),
            (Some((7, 5)), old),
            (Some((8, 0)), new),
            (Some((9, 0)), new),
            (Some((12, 0)), new),
        ] {
            let found = [F32, Bf16, F16].map(|precision| precision.must_be_of("it", capability).is_ok());
            assert_eq!(found, expected, "{capability:?}");
        }
        assert_eq!(
            F16.must_be_of("the CPU", None).unwrap_err().to_string(),
            "--precision is f16, which GPUs alone compute in, but this runs on the CPU: expected f32 or bf16"
        );
        assert_eq!(
            Bf16.must_be_of("Tesla T4 (GPU 1)", Some((7, 5))).unwrap_err().to_string(),
            "--precision is bf16, which Tesla T4 (GPU 1) has not: its compute capability is 7.5, bf16 begins with 8.0; use --precision f16"
        );
    }
}
