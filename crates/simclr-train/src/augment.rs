//! `simclr-train augment`: pictures and what augmentation makes of them, to look at.

use anyhow::Context as _;
use serde_json::json;

use crate::cli::AugmentArguments;
use crate::config::{Config, Given, recipe};
use crate::data_sets::Place;
use crate::output::Output;
use crate::run_folder::write_whole;
use crate::sheet::{self, Sheet};
use crate::{Ending, Usage, caption};

/// Draws a sheet of pictures with their views and the parameters that made them.
pub(crate) fn command(arguments: &AugmentArguments, output: &Output) -> anyhow::Result<Ending> {
    let base = Config::default().of_data(&arguments.data, arguments.size)?;
    let config = Config {
        seed: arguments.seed.unwrap_or(base.seed),
        augmentation: recipe(base.augmentation.clone(), &arguments.augmentation),
        ..base
    };
    config.validate()?;
    for (flag, number) in [("--pictures", arguments.pictures), ("--views", arguments.views as usize)] {
        if number == 0 || number > MOST {
            return Err(Usage(format!("{flag} is {number}, expected a number from 1 to {MOST}")).into());
        }
    }
    let opened = config.data.train(Place::of(&config, arguments.data.cache.as_deref()), config.subset, output)?;
    let config = config.fitted(Given { size: arguments.size.is_some(), ..Given::default() }, &opened)?;
    let set = opened.pictures;
    let (first, len) = (arguments.first, set.len());
    if first >= len {
        return Err(Usage(format!("--first is {first}, but {} has {len} pictures", config.data)).into());
    }
    let sheet = Sheet {
        pictures: arguments.pictures,
        first,
        epoch: arguments.epoch,
        views: arguments.views,
        columns: 1,
        // Small views are shown several times larger.
        tile: caption::WIDTH.next_multiple_of(config.size),
        captions: true,
    };
    let png = sheet::png(set.as_ref(), &config.train_transform()?, &sheet)?;
    write_whole(&arguments.out, &png).with_context(|| arguments.out.display().to_string())?;
    let shown = arguments.pictures.min(len - first);
    let object = json!({
        "out": arguments.out, "data": config.data, "pictures": shown, "views": arguments.views, "size": config.size,
        "seed": config.seed, "epoch": arguments.epoch,
    });
    let out = arguments.out.display();
    output.result(format!("{out}: {shown} pictures of {} with {} views each", config.data, arguments.views), &object);
    Ok(Ending::Done)
}

/// Most pictures and views of a sheet.
const MOST: usize = 100;
