use std::process::Command;

use anyhow::{Context, bail};

pub(crate) fn run() -> anyhow::Result<()> {
    let script = crate::root().join(".ci/run");
    let status = Command::new(&script).status().with_context(|| format!("cannot start {}", script.display()))?;
    if !status.success() {
        bail!("{}: {status}", script.display());
    }
    Ok(())
}
