//! Small pictures of the rows of a features file, for pages.

use std::path::Path;
use std::sync::Arc;

use simclr_data::{Picture, Pictures, read_picture};

use crate::config::Config;
use crate::data_sets::{DataSet, Place};
use crate::features_file::FeaturesFile;
use crate::output::Output;
use crate::{mosaic, page, sheet};

/// Side of a thumbnail, in pixels.
const SIDE: u32 = 128;

/// Bytes of a thumbnail: pages have thousands of them.
const MOST: usize = 8_000;

/// Small pictures of rows: of files, or of the pictures of a set that has a name.
pub(crate) struct Thumbnails {
    set: Option<Arc<dyn Pictures>>,
}

impl Thumbnails {
    /// Of the rows of a file. A set that cannot be opened any more costs the thumbnails, not what was asked for.
    pub(crate) fn new(file: &FeaturesFile, data_dir: Option<&Path>, output: &Output) -> Self {
        let set = match (file.data.as_deref().map(str::parse), file.split.as_deref()) {
            (Some(Ok(data)), Some(split)) => open(&data, split, data_dir, output).unwrap_or_else(|error| {
                output.say(format!("no thumbnails: {error}"));
                None
            }),
            _ => None,
        };
        Self { set }
    }

    /// The picture at a place, as the address of an image; none, and a word about it, if there is no such picture any more.
    pub(crate) fn of(&self, place: &str, output: &Output) -> Option<String> {
        let picture = match &self.set {
            // The name of the set, and the number of the picture.
            Some(set) => set.picture(place.rsplit_once('/')?.1.parse().ok()?),
            None => read_picture(Path::new(place), Some(2 * SIDE)),
        };
        let address = picture.map_err(anyhow::Error::from).and_then(|picture| thumbnail(&picture));
        address.inspect_err(|error| output.say(format!("no thumbnail: {error}"))).ok()
    }
}

/// A small picture as the address of an image: to the pixel where that takes few bytes, else as a JPEG that does.
///
/// # Errors
/// If it cannot be encoded.
pub(crate) fn thumbnail(picture: &Picture) -> anyhow::Result<String> {
    let tile = sheet::tile(picture, SIDE)?;
    let png = sheet::encoded(&tile)?;
    if png.len() <= MOST { Ok(page::png_address(&png)) } else { mosaic::jpeg(&tile, MOST) }
}

/// A named set; the pictures of a folder are files, which need no set.
fn open(
    data: &DataSet,
    split: &str,
    data_dir: Option<&Path>,
    output: &Output,
) -> anyhow::Result<Option<Arc<dyn Pictures>>> {
    if let DataSet::Folder(_) = data {
        return Ok(None);
    }
    let mut config = Config::default();
    if let Some(data_dir) = data_dir {
        config.data_dir = data_dir.to_owned();
    }
    let place = Place::of(&config, None);
    if split == "test" { data.test(place, None, output) } else { Ok(Some(data.train(place, None, output)?.pictures)) }
}
