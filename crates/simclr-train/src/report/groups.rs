//! What the features take for alike, where nobody has named anything.

use maud::html;

use super::Section;
use crate::figure::{Figure, colour};
use crate::mosaic::Mosaic;
use crate::page;
use crate::study::Gallery;

const SIDE: u32 = 64;

/// The pictures that are nearest to the middle of every group.
pub(crate) fn groups(gallery: &Gallery) -> anyhow::Result<Section> {
    let groups = &gallery.groups;
    let mut figures = Vec::new();
    for group in groups {
        let mut mosaic = Mosaic::new(group.shown.len(), 1, SIDE);
        mosaic.fill(group.shown.iter().enumerate().map(|(i, &index)| (i, gallery.bank.as_ref(), index)).collect())?;
        figures.push((group.name.replace(' ', "-"), mosaic.png()?));
    }
    let body = html! {
        p {
            "Without labels one can still see what the encoder takes for alike: pictures by the direction of their features, in " (groups.len())
            " groups (spherical k-means, from the seed of the run). Shown are those nearest to the middle of each."
        }
        @for (i, (group, (_, png))) in groups.iter().zip(&figures).enumerate() {
            figure.group {
                figcaption {
                    span.dot style={ "background:" (colour(i as u32, groups.len())) } {}
                    (group.name) ", " (group.pictures) " pictures"
                }
                div.wide { (page::png(png, &group.name)) }
            }
        }
    };
    let figures = figures.into_iter().map(|(name, png)| (name, Figure::Png(png))).collect();
    Ok(Section { title: "Groups that it found", body, figures })
}
