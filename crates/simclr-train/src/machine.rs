//! What the program runs on: threads, device, memory.

use anyhow::{Context as _, bail};
use candle_core::Device;

use crate::Usage;

/// Sets the number of compute threads, once, before anything computes.
///
/// # Errors
/// [`Usage`] for zero threads.
pub(crate) fn use_threads(threads: Option<usize>) -> anyhow::Result<()> {
    let mut pool = rayon::ThreadPoolBuilder::new();
    match threads {
        Some(0) => return Err(Usage("--threads is 0, expected at least 1".into()).into()),
        Some(threads) => pool = pool.num_threads(threads),
        None => {}
    }
    pool.build_global().context("the compute threads cannot be started")
}

/// The device of `--device`.
///
/// # Errors
/// [`Usage`] for a name that is none; if the device is not to be had in this build.
pub(crate) fn device(name: &str) -> anyhow::Result<Device> {
    let number = match name {
        "auto" | "cpu" => return Ok(Device::Cpu),
        "cuda" => "0",
        _ => name.strip_prefix("cuda:").unwrap_or("none"),
    };
    if number.parse::<usize>().is_err() {
        return Err(Usage(format!("--device is {name}, expected auto, cpu, cuda or cuda:N")).into());
    }
    if cfg!(feature = "cuda") {
        bail!("--device is {name}, but training on a GPU is not there yet: use --device cpu");
    }
    bail!("--device is {name}, but this build has no CUDA: build it with `cargo run -p simclr-train --features cuda`");
}

/// The most memory that this process has held, in MiB, where the system tells (Linux).
pub(crate) fn peak_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_known_refused_or_not_there() {
        assert!(device("auto").unwrap().is_cpu() && device("cpu").unwrap().is_cpu());
        for wrong in ["gpu", "cuda:", "cuda:x", ""] {
            let error = device(wrong).unwrap_err();
            assert!(error.is::<Usage>() && error.to_string().contains("expected auto, cpu, cuda or cuda:N"), "{error}");
        }
        for there in ["cuda", "cuda:1"] {
            let error = device(there).unwrap_err();
            assert!(!error.is::<Usage>() && error.to_string().starts_with(&format!("--device is {there}, but")));
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_peak_is_at_least_a_test_s() {
        assert!(peak_mib().unwrap() >= 1);
    }
}
