//! Settings that go together, each set with its source.

use std::path::Path;

use serde_json::{Value, json};

use crate::cli::PresetsArguments;
use crate::config::Config;
use crate::data_sets::DataSet;
use crate::output::Output;
use crate::settings::{Draft, nearest};
use crate::{Ending, Usage};

/// The presets and their files.
const PRESETS: [(&str, &str); 4] = [
    (QUICK, include_str!("../presets/quick.toml")),
    ("cs231n", include_str!("../presets/cs231n.toml")),
    ("cifar", include_str!("../presets/cifar.toml")),
    ("imagenet", include_str!("../presets/imagenet.toml")),
];

/// What a fresh clone runs.
pub(crate) const QUICK: &str = "quick";

/// `simclr-train presets [NAME]`.
pub(crate) fn command(arguments: &PresetsArguments, output: &Output) -> anyhow::Result<Ending> {
    match &arguments.name {
        Some(name) => {
            let text = text(name)?;
            output.result(text.trim_end(), &json!({ "preset": name, "file": text }));
        }
        None => {
            let lines: Vec<String> = list().map(|(name, what)| format!("{name:<10} {what}")).collect();
            let all: Value = list().map(|(name, what)| json!({ "preset": name, "what": what })).collect();
            output.result(lines.join("\n"), &json!({ "presets": all }));
        }
    }
    Ok(Ending::Done)
}

/// The settings of a preset over the defaults. What `quick` is trained on depends on what `data_dir` has.
///
/// # Errors
/// [`Usage`] for an unknown one.
pub(crate) fn draft(name: &str, data_dir: &Path) -> anyhow::Result<Draft> {
    let draft = Draft::new(&Config::default())?.with_text(text(name)?, &format!("the preset {name}"))?;
    match (name, DataSet::Cifar10.is_present(data_dir)) {
        (QUICK, true) => draft.with_text("data = \"cifar10\"\nsubset = 10000", name),
        (QUICK, false) => draft.with_text("data = \"shapes\"\nsubset = 4000", name),
        _ => Ok(draft),
    }
}

/// The file of a preset, with its source, command, time and expected accuracy.
///
/// # Errors
/// [`Usage`] for an unknown one.
pub(crate) fn text(name: &str) -> Result<&'static str, Usage> {
    let found = PRESETS.iter().find(|(preset, _)| *preset == name).map(|(_, text)| *text);
    found.ok_or_else(|| {
        let names = PRESETS.map(|(name, _)| name);
        let near = nearest(name, names.into_iter()).map_or_else(String::new, |near| format!(": did you mean {near}?"));
        Usage(format!("--preset is {name}, expected {}{near}", names.join(", ")))
    })
}

/// The names of the presets and the first sentence of each.
pub(crate) fn list() -> impl Iterator<Item = (&'static str, &'static str)> {
    PRESETS.iter().map(|(name, text)| {
        let line = text.lines().next().unwrap_or_default().trim_start_matches("# ");
        (*name, line.split_once(": ").map_or(line, |(_, what)| what))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_holds_and_says_where_it_comes_from() {
        let dir = tempfile::tempdir().unwrap();
        for (name, what) in list() {
            let config = draft(name, dir.path()).unwrap().config().unwrap().resolved();
            config.validate().unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(what.ends_with('.') && !what.contains('#'), "{name}: {what}");
            let text = text(name).unwrap();
            assert!(text.starts_with(&format!("# {name}: ")), "{name}");
            for entry in ["# Source: ", "# Command: ", "# Time: ", "# Expected: "] {
                assert!(text.contains(entry), "{name} has no {entry}");
            }
        }
        assert!(text("imagenet").unwrap().contains("Not run by us"));
        let message = text("imagnet").unwrap_err().to_string();
        assert!(
            message.contains("--preset is imagnet, expected quick, cs231n, cifar, imagenet: did you mean imagenet?")
        );
    }
}
