//! What the program runs on: threads, device, memory.

use anyhow::{Context as _, bail};
use candle_core::{Device, DeviceLocation};

use crate::Usage;
use crate::config::Precision;

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

/// The device of `--device`; `auto` is the first GPU that this build can use, or else the CPU.
///
/// # Errors
/// [`Usage`] for a name that is none; if the device is not to be had here, or in this build.
pub(crate) fn device(name: &str) -> anyhow::Result<Device> {
    let number = match name {
        "cpu" => return Ok(Device::Cpu),
        "auto" => return Ok(gpu::open(0).unwrap_or(Device::Cpu)),
        "cuda" => "0",
        _ => name.strip_prefix("cuda:").unwrap_or("none"),
    };
    let Ok(number) = number.parse() else {
        return Err(Usage(format!("--device is {name}, expected auto, cpu, cuda or cuda:N")).into());
    };
    gpu::open(number).with_context(|| format!("--device is {name}"))
}

/// [`device`] of a step that several processes may have a share in: these compute on the CPU.
///
/// # Errors
/// As [`device`], and if several processes are to compute on GPUs.
pub(crate) fn training_device(name: &str, alone: bool) -> anyhow::Result<Device> {
    if alone {
        return device(name);
    }
    match name {
        "auto" => Ok(Device::Cpu),
        _ => match device(name)? {
            Device::Cpu => Ok(Device::Cpu),
            _ => {
                bail!("--device is {name}, but several processes compute on the CPU: use --device cpu, or one process")
            }
        },
    }
}

/// # Errors
/// [`Usage`] if `device` does not compute in `precision`; if its driver does not answer.
pub(crate) fn must_compute_in(precision: Precision, device: &Device) -> anyhow::Result<()> {
    Ok(precision.must_be_of(&describe(device), capability(device)?)?)
}

/// The compute capability of a GPU, as `(9, 0)`; none for the CPU.
///
/// # Errors
/// If its driver does not answer.
pub(crate) fn capability(device: &Device) -> anyhow::Result<Option<(u32, u32)>> {
    match device.location() {
        DeviceLocation::Cuda { gpu_id } => gpu::capability(gpu_id).map(Some),
        _ => Ok(None),
    }
}

/// The name of a device in figures and messages: `cpu`, or `cuda:N`.
pub(crate) fn name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        _ => "cpu".into(),
    }
}

/// What a device is, for people.
pub(crate) fn describe(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cuda { gpu_id } => gpu::describe(gpu_id),
        _ => format!("the CPU, {} threads", rayon::current_num_threads()),
    }
}

/// Waits until a device has done all that it was asked, for those who measure.
pub(crate) fn wait_for(device: &Device) -> candle_core::Result<()> {
    device.synchronize()
}

/// Bytes of memory of a GPU that nobody has taken; none for the CPU.
pub(crate) fn free_memory(device: &Device) -> Option<usize> {
    match device.location() {
        DeviceLocation::Cuda { gpu_id } => gpu::free_memory(gpu_id),
        _ => None,
    }
}

/// The most memory of a device that this process has held, in MiB, where that is known.
pub(crate) fn peak_mib_of(device: &Device) -> Option<u64> {
    match device.location() {
        DeviceLocation::Cuda { gpu_id } => gpu::peak_memory(gpu_id).map(|bytes| bytes as u64 >> 20),
        _ => peak_mib(),
    }
}

/// GPUs, in a build that has them.
#[cfg(feature = "cuda")]
mod gpu {
    use candle_core::Device;
    use simclr_ops::cuda;

    pub(super) fn open(number: usize) -> anyhow::Result<Device> {
        Ok(cuda::open(number)?)
    }

    pub(super) fn capability(number: usize) -> anyhow::Result<(u32, u32)> {
        Ok(cuda::gpu(number)?.capability)
    }

    pub(super) fn describe(number: usize) -> String {
        cuda::gpu(number).map_or_else(|_| format!("GPU {number}"), |gpu| format!("{} (GPU {number})", gpu.name))
    }

    pub(super) fn free_memory(number: usize) -> Option<usize> {
        cuda::gpu(number).ok().map(|gpu| gpu.free)
    }

    pub(super) fn peak_memory(number: usize) -> Option<usize> {
        cuda::peak_memory(number)
    }
}

#[cfg(not(feature = "cuda"))]
mod gpu {
    use super::{Device, bail};

    const MISSING: &str = "this build has no CUDA: build it with `cargo run -p simclr-train --features cuda`";

    pub(super) fn open(_: usize) -> anyhow::Result<Device> {
        bail!(MISSING);
    }

    pub(super) fn capability(_: usize) -> anyhow::Result<(u32, u32)> {
        bail!(MISSING);
    }

    pub(super) fn describe(number: usize) -> String {
        format!("GPU {number}")
    }

    pub(super) fn free_memory(_: usize) -> Option<usize> {
        None
    }

    pub(super) fn peak_memory(_: usize) -> Option<usize> {
        None
    }
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
        assert!(device("cpu").unwrap().is_cpu());
        for wrong in ["gpu", "cuda:", "cuda:x", ""] {
            let error = device(wrong).unwrap_err();
            assert!(error.is::<Usage>() && error.to_string().contains("expected auto, cpu, cuda or cuda:N"), "{error}");
        }
        // No machine has so many.
        let error = device("cuda:1000").unwrap_err();
        let why = format!("{error:#}");
        assert!(!error.is::<Usage>() && why.starts_with("--device is cuda:1000: "), "{why}");
        let no_build = "this build has no CUDA: build it with";
        assert!(if cfg!(feature = "cuda") { why.contains("no CUDA device") } else { why.contains(no_build) }, "{why}");
    }

    #[test]
    fn auto_is_the_cpu_where_there_is_no_gpu() {
        let auto = device("auto").unwrap();
        assert_eq!(auto.is_cpu(), device("cuda").is_err());
        assert_eq!(name(&auto), if auto.is_cpu() { "cpu" } else { "cuda:0" });
        assert!(!describe(&auto).is_empty());
        assert!(training_device("auto", false).unwrap().is_cpu() && training_device("cpu", false).unwrap().is_cpu());
        assert_eq!(training_device("auto", true).unwrap().is_cpu(), auto.is_cpu());
        assert!(training_device("cuda", false).is_err() && training_device("gpu", false).unwrap_err().is::<Usage>());
        wait_for(&auto).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_peak_is_at_least_a_test_s() {
        assert!(peak_mib().unwrap() >= 1);
    }
}
