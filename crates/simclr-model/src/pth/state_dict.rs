//! The state dict in what a pickle describes.

use super::error::PthError;
use super::object::{Unpickled, Value};
use super::view::View;

/// Where checkpoints of training programs keep it.
const NESTED: [&str; 2] = ["state_dict", "model"];

/// What `DataParallel` puts in front of every name.
const PARALLEL: &str = "module.";

/// What the FLOP counter thop leaves in every module that it has counted.
const COUNTERS: [&str; 2] = ["total_ops", "total_params"];

/// Names and tensors of the state dict, without the counters.
///
/// # Errors
/// If there is no dict, or anything but tensors in it.
pub(super) fn entries<'a, 'b>(unpickled: &'b Unpickled<'a>) -> Result<Vec<(String, &'b View<'a>)>, PthError> {
    let top = unpickled.top;
    let not = |found| PthError::NotStateDict { found };
    let items = unpickled.dict(top).ok_or_else(|| not(unpickled.kind(top)))?;
    let nested = NESTED.iter().find_map(|key| {
        let (_, value) = items.iter().find(|(name, _)| matches!(name, Value::Text(name) if name == key))?;
        unpickled.dict(*value)
    });

    let mut entries: Vec<(String, &View<'a>)> = Vec::new();
    for &(name, value) in nested.unwrap_or(items) {
        let Value::Text(name) = name else {
            return Err(PthError::Name { found: unpickled.kind(name) });
        };
        if COUNTERS.contains(&name.rsplit('.').next().unwrap_or(name)) {
            continue;
        }
        let shown = || name.escape_debug().to_string();
        let found = unpickled.kind(value);
        let view = unpickled.view(value).ok_or_else(|| PthError::NotTensor { name: shown(), found })?;
        entries.push((name.to_owned(), view));
    }
    if !entries.is_empty() && entries.iter().all(|(name, _)| name.starts_with(PARALLEL)) {
        for (name, _) in &mut entries {
            name.drain(..PARALLEL.len());
        }
    }
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    match entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(PthError::Repeated { name: pair[0].0.escape_debug().to_string() }),
        None => Ok(entries),
    }
}
