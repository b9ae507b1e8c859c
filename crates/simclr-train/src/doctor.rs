//! `doctor`: what this machine has, and what this build can use of it.

use serde_json::{Value, json};
use simclr_ops::product::Instructions;

use crate::Ending;
use crate::cli::DoctorArguments;
use crate::output::Output;

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
    let precisions = ["f32", "bf16"];
    lines.push(format!("--precision: {}", precisions.join(", ")));
    let object = json!({
        "version": env!("CARGO_PKG_VERSION"), "threads": threads, "cores": cores, "instructions": instructions, "cuda": cuda,
        "auto": crate::machine::name(&chosen), "precisions": precisions,
    });
    output.result(lines.join("\n"), &object);
    Ok(Ending::Done)
}

#[cfg(feature = "cuda")]
mod gpu {
    use super::*;
    use simclr_ops::cuda;

    /// What the driver says, as JSON and as lines for people.
    pub(super) fn examine() -> (Value, Vec<String>) {
        let built_for = cuda::COMPUTE_CAPABILITY;
        let (major, minor, patch) = cuda::cudnn_version();
        let cudnn = format!("{major}.{minor}.{patch}");
        let (whole, tenths) =
            built_for.split_at(built_for.trim_end_matches(char::is_alphabetic).len().saturating_sub(1));
        let mut lines = vec![format!(
            "CUDA: this build has kernels for compute capability {whole}.{tenths} and later; cuDNN {cudnn}"
        )];
        let driver = cuda::driver_version().map(|(major, minor)| format!("{major}.{minor}"));
        let gpus = cuda::gpus();
        lines.push(match &driver {
            Ok(version) => format!("driver: knows CUDA {version}"),
            Err(error) => format!("driver: {error}"),
        });
        let mib = |bytes: usize| bytes >> 20;
        for gpu in gpus.iter().flatten() {
            let (major, minor) = gpu.capability;
            let usable = match cuda::open(gpu.number) {
                Ok(_) => "ready".to_owned(),
                Err(error) => error.to_string(),
            };
            let (number, name, free, all) = (gpu.number, &gpu.name, mib(gpu.free), mib(gpu.memory));
            lines.push(format!(
                "cuda:{number}: {name}, compute capability {major}.{minor}, {free} of {all} MiB free, {usable}"
            ));
        }
        let devices: Vec<Value> = gpus
            .iter()
            .flatten()
            .map(|gpu| {
                let (major, minor) = gpu.capability;
                json!({
                    "device": format!("cuda:{}", gpu.number), "name": gpu.name, "compute_capability": format!("{major}.{minor}"),
                    "memory_mib": mib(gpu.memory), "free_mib": mib(gpu.free), "ready": cuda::open(gpu.number).is_ok(),
                })
            })
            .collect();
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
