//! What was found, as a page to look at.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use simclr_data::{Picture, Pictures, read_picture};

use super::Found;
use crate::config::Config;
use crate::data_sets::{DataSet, Place};
use crate::features_file::FeaturesFile;
use crate::output::Output;
use crate::plot::escape;
use crate::report::STYLE;
use crate::sheet;

/// Side of a thumbnail, in pixels.
const SIDE: u32 = 128;

/// One file that needs nothing beside it.
pub(super) struct Page<'a> {
    pub(super) like: &'a str,
    /// The picture that was looked for, if it is none of the rows.
    pub(super) of: Option<Picture>,
    pub(super) found: &'a [Found],
    pub(super) features: &'a Path,
    /// Rows that were looked at.
    pub(super) rows: usize,
}

const GRID: &str = ".found{display:grid;grid-template-columns:repeat(auto-fill,minmax(8.5rem,1fr));gap:1rem}\
.found figure{min-width:0}.found img{width:128px;height:128px}.found figcaption{overflow-wrap:anywhere}";

impl Page<'_> {
    pub(super) fn html(&self, thumbnails: &Thumbnails, output: &Output) -> String {
        let title = escape(&format!("Pictures like {}", self.like));
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{title}</title>\
             <style>{STYLE}{GRID}</style></head>\n<body><h1>{title}</h1>\n"
        );
        let own = match &self.of {
            Some(picture) => sheet::thumbnail(picture, SIDE).ok(),
            None => thumbnails.of(self.like, output),
        };
        if let Some(png) = own {
            let _ = writeln!(page, "{}", image(&png, self.like));
        }
        let _ = write!(
            page,
            "<p>The nearest of {} pictures of {}, by the cosine of their features: 1 is the same direction, 0 is no likeness.</p>\n\
             <div class=\"found\">\n",
            self.rows,
            escape(&self.features.display().to_string())
        );
        for found in self.found {
            let name = found.name();
            let png = found.path.as_deref().and_then(|path| thumbnails.of(path, output));
            let shown = png.map(|png| image(&png, &name)).unwrap_or_default();
            let label = found.label.as_deref().map(|label| format!(" · {}", escape(label))).unwrap_or_default();
            let _ = writeln!(
                page,
                "<figure>{shown}<figcaption><b>{:.4}</b>{label}<br>{}</figcaption></figure>",
                found.cosine,
                escape(&name)
            );
        }
        page.push_str("</div></body></html>\n");
        page
    }
}

fn image(png: &[u8], name: &str) -> String {
    format!("<img alt=\"{}\" src=\"data:image/png;base64,{}\">", escape(name), STANDARD.encode(png))
}

/// Small pictures of rows: of files, or of the pictures of a set that has a name.
pub(super) struct Thumbnails {
    set: Option<Arc<dyn Pictures>>,
}

impl Thumbnails {
    /// Of the rows of a file. A set that cannot be opened any more costs the thumbnails, not the search.
    pub(super) fn new(file: &FeaturesFile, data_dir: Option<&Path>, output: &Output) -> Self {
        let set = match (file.data.as_deref().map(str::parse), file.split.as_deref()) {
            (Some(Ok(data)), Some(split)) => open(&data, split, data_dir, output).unwrap_or_else(|error| {
                output.say(format!("no thumbnails: {error}"));
                None
            }),
            _ => None,
        };
        Self { set }
    }

    fn of(&self, place: &str, output: &Output) -> Option<Vec<u8>> {
        let picture = match &self.set {
            // The name of the set, and the number of the picture.
            Some(set) => set.picture(place.rsplit_once('/')?.1.parse().ok()?),
            None => read_picture(Path::new(place), Some(2 * SIDE)),
        };
        let png = picture.map_err(anyhow::Error::from).and_then(|picture| sheet::thumbnail(&picture, SIDE));
        png.inspect_err(|error| output.say(format!("no thumbnail: {error}"))).ok()
    }
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
