mod compare;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Make them in a temporary folder and compare; change nothing
    #[arg(long)]
    check: bool,
    /// A Python with PyTorch, torchvision, NumPy, Pillow and safetensors
    #[arg(long, value_name = "P", default_value = "python3")]
    python: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let committed = crate::root().join("tests/golden");
    if !arguments.check {
        return make(&arguments.python, &committed);
    }
    let made = tempfile::tempdir()?;
    make(&arguments.python, made.path())?;
    let differences = differences(&committed, made.path())?;
    if differences.is_empty() {
        println!("golden: the fixtures come out as they are committed");
        return Ok(());
    }
    for difference in &differences {
        println!("golden: {difference}");
    }
    bail!("{} golden fixtures differ", differences.len())
}

fn make(python: &Path, out: &Path) -> anyhow::Result<()> {
    let script = crate::root().join("tests/golden/make_golden.py");
    let status = Command::new(python)
        .arg(&script)
        .arg(out)
        .status()
        .with_context(|| format!("cannot start {}: choose a Python with --python", python.display()))?;
    if !status.success() {
        bail!("{}: {status}", script.display());
    }
    Ok(())
}

/// One line for each fixture that differs, is made no more or is not committed.
fn differences(committed: &Path, made: &Path) -> anyhow::Result<Vec<String>> {
    let (old, new) = (fixtures(committed)?, fixtures(made)?);
    let mut lines = Vec::new();
    for name in old.union(&new) {
        let shown = Path::new(name).display();
        if !new.contains(name) {
            lines.push(format!("{shown}: committed, but no script makes it"));
        } else if !old.contains(name) {
            lines.push(format!("{shown}: made, but not committed"));
        } else {
            let read = |folder: &Path| {
                let path = folder.join(name);
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
            };
            let (expected, found) = (read(committed)?, read(made)?);
            let difference = match Path::new(name).extension().and_then(|extension| extension.to_str()) {
                Some("safetensors") => compare::tensors(&expected, &found).with_context(|| shown.to_string())?,
                Some("txt") => compare::text(&expected, &found),
                _ => compare::bytes(&expected, &found),
            };
            lines.extend(difference.map(|difference| format!("{shown}: {difference}")));
        }
    }
    Ok(lines)
}

/// All files but the scripts, and the Rust beside them that reads what they make.
fn fixtures(folder: &Path) -> anyhow::Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let source = entry.path().extension().is_some_and(|extension| extension == "py" || extension == "rs");
        if entry.file_type()?.is_file() && !source {
            names.insert(entry.file_name());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::differences;

    #[test]
    fn each_kind_of_difference_has_its_line() {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (name, left, right) in [("same.txt", "a\nb\n", "a\nb\n"), ("other.txt", "a\nb\n", "a\nc\n")] {
            fs::write(old.path().join(name), left).unwrap();
            fs::write(new.path().join(name), right).unwrap();
        }
        fs::write(old.path().join("gone.txt"), "").unwrap();
        fs::write(old.path().join("script.py"), "").unwrap();
        fs::write(old.path().join("reader.rs"), "").unwrap();
        fs::write(new.path().join("fresh.txt"), "").unwrap();
        let expected = [
            "fresh.txt: made, but not committed",
            "gone.txt: committed, but no script makes it",
            "other.txt: line 2 is \"c\", committed \"b\"",
        ];
        assert_eq!(differences(old.path(), new.path()).unwrap(), expected);
    }
}
