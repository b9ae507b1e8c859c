//! `doctor`: what this machine has, and what this build can use of it.

use serde_json::{Value, json};
use simclr_ops::product::Instructions;

use crate::Ending;
use crate::cli::DoctorArguments;
use crate::config::Precision;
use crate::output::Output;
use crate::settings::flat_name;

/// `simclr-train doctor`.
pub(crate) fn command(arguments: &DoctorArguments, output: &Output) -> anyhow::Result<Ending> {
    crate::machine::use_threads(arguments.threads)?;
    let instructions: Vec<String> = Instructions::available().map(|instructions| instructions.to_string()).collect();
    let (threads, cores) = (rayon::current_num_threads(), std::thread::available_parallelism().map_or(1, usize::from));
    let mut lines = vec![
        format!("simclr-train {}", env!("CARGO_PKG_VERSION")),
        format!(
            "CPU: {threads} threads on {cores} cores; products with {} (has {})",
            Instructions::best(),
            instructions.join(", ")
        ),
    ];
    let (cuda, found) = gpu::examine();
    lines.extend(found);
    let chosen = crate::machine::device("auto")?;
    lines.push(format!("--device auto is {}", crate::machine::describe(&chosen)));
    let precisions = Precision::of(crate::machine::capability(&chosen)?);
    lines.push(format!("--precision there: {}", names(precisions)));
    let object = json!({
        "version": env!("CARGO_PKG_VERSION"), "threads": threads, "cores": cores, "instructions": instructions, "cuda": cuda,
        "auto": crate::machine::name(&chosen), "precisions": precisions,
    });
    output.result(lines.join("\n"), &object);
    Ok(Ending::Done)
}

fn names(precisions: &[Precision]) -> String {
    precisions.iter().map(flat_name).collect::<Vec<_>>().join(", ")
}

#[cfg(feature = "cuda")]
mod gpu {
    use super::*;
    use simclr_ops::cuda;

    /// What the driver says, as JSON and as lines for people.
    pub(super) fn examine() -> (Value, Vec<String>) {
        let (whole, tenths) = cuda::built_for();
        let (major, minor, patch) = cuda::cudnn_version();
        let cudnn = format!("{major}.{minor}.{patch}");
        let mut lines = vec![format!(
            "CUDA: this build has kernels for compute capability {whole}.{tenths} and later; cuDNN {cudnn}"
        )];
        let driver = cuda::driver_version().map(|(major, minor)| format!("{major}.{minor}"));
        lines.push(match &driver {
            Ok(version) => format!("driver: knows CUDA {version}"),
            Err(error) => format!("driver: {error}"),
        });
        let mut devices = Vec::new();
        for gpu in cuda::gpus().unwrap_or_default() {
            let opened = cuda::open(gpu.number);
            let (major, minor) = gpu.capability;
            let capability = format!("{major}.{minor}");
            let precisions = Precision::of(Some(gpu.capability));
            let (device, free, all) = (format!("cuda:{}", gpu.number), gpu.free >> 20, gpu.memory >> 20);
            devices.push(json!({
                "device": device, "name": gpu.name, "compute_capability": capability, "memory_mib": all, "free_mib": free,
                "precisions": precisions, "ready": opened.is_ok(),
            }));
            let usable = opened.map_or_else(|error| error.to_string(), |_| "ready".to_owned());
            let (name, precisions) = (gpu.name, names(precisions));
            lines.push(format!(
                "{device}: {name}, compute capability {capability} ({precisions}), {free} of {all} MiB free, {usable}"
            ));
        }
        let built_for = format!("{whole}{tenths}");
        let object = json!({ "built_for": built_for, "cudnn": cudnn, "driver": driver.ok(), "devices": devices });
        (object, lines)
    }
}

#[cfg(not(feature = "cuda"))]
mod gpu {
    use super::*;

    pub(super) fn examine() -> (Value, Vec<String>) {
        (Value::Null, vec!["CUDA: not in this build; `cargo run -p simclr-train --features cuda` has it".into()])
    }
}
