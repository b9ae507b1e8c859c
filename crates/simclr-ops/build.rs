//! Compiles the CUDA kernels to PTX, where the feature `cuda` is on: every `.cu` file under `src`, for the compute capability in
//! `CUDA_COMPUTE_CAP`, or else that of the GPU of this machine.
//!
//! PTX runs on that capability and on all later ones: the driver makes machine code of it when the program starts, and keeps it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    for variable in ["CUDA_COMPUTE_CAP", "CUDA_HOME", "CUDA_PATH", "NVCC_CCBIN", "PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rerun-if-changed=src");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let nvcc = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(env::var_os)
        .map(|home| Path::new(&home).join("bin/nvcc"))
        .find(|nvcc| nvcc.exists())
        .unwrap_or_else(|| "nvcc".into());
    let capability = capability();
    println!("cargo::rustc-env=SIMCLR_CUDA_COMPUTE_CAP={capability}");
    for source in sources(Path::new("src")) {
        let ptx = out.join(name(&source)).with_extension("ptx");
        let mut command = Command::new(&nvcc);
        command.arg("-ptx").arg("-O3").arg("-std=c++17").arg(format!("-arch=compute_{capability}"));
        // Pixels must be those of the CPU, to the bit: a fused multiply-add rounds once where there are two roundings.
        if source.starts_with("src/augment") {
            command.arg("-fmad=false");
        }
        command.arg("-o").arg(&ptx).arg(&source);
        let output = command.output().unwrap_or_else(|error| {
            panic!(
                "{} cannot be started ({error}): --features cuda needs the CUDA toolkit; set CUDA_HOME to its folder",
                nvcc.display()
            )
        });
        assert!(output.status.success(), "{}: {}", source.display(), String::from_utf8_lossy(&output.stderr));
    }
}

/// `90` for 9.0.
fn capability() -> String {
    let given = env::var("CUDA_COMPUTE_CAP").ok().map(|given| given.replace('.', ""));
    let found = || {
        let output =
            Command::new("nvidia-smi").args(["--query-gpu=compute_cap", "--format=csv,noheader"]).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        // Of several GPUs the oldest: what it runs, all run.
        text.lines()
            .filter_map(|line| line.trim().replace('.', "").parse::<u32>().ok())
            .min()
            .map(|found| found.to_string())
    };
    let capability = given.or_else(found).unwrap_or_else(|| {
        panic!("this machine has no GPU to ask for its compute capability: set CUDA_COMPUTE_CAP, for example to 90 for an H100")
    });
    let number = capability.trim_end_matches(char::is_alphabetic).parse::<u32>();
    assert!(number.is_ok_and(|number| number >= 70), "CUDA_COMPUTE_CAP is {capability}, expected 70 or more");
    capability
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "cu") {
            found.push(path);
        }
    }
    found
}

/// `batch_norm` for `src/batch_norm/cuda.cu`, `max_pool2d` for `src/max_pool2d.cu`.
fn name(source: &Path) -> String {
    let inside = source.strip_prefix("src").unwrap_or(source).with_extension("");
    let inside = if inside.ends_with("cuda") { inside.parent().unwrap_or(&inside) } else { &inside };
    inside.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("_")
}
