//! What the features take for alike, where nobody has named anything.

use maud::html;

use super::Section;
use crate::figure::{Figure, colour};
use crate::mosaic::Mosaic;
use crate::study::Gallery;

const SIDE: u32 = 64;

/// Bytes that the pictures of a group may have in a page.
const MOST: usize = 40_000;

/// The pictures that are nearest to the middle of every group.
pub(crate) fn groups(gallery: &Gallery) -> anyhow::Result<Section> {
    let groups = &gallery.groups;
    let mut figures = Vec::new();
    for group in groups {
        let mut mosaic = Mosaic::new(group.shown.len(), 1, SIDE);
        mosaic.fill(group.shown.iter().enumerate().map(|(i, &index)| (i, gallery.bank.as_ref(), index)).collect())?;
        figures.push((group.name.replace(' ', "-"), mosaic));
    }
    let body = html! {
        p {
            "Without labels one can still see what the encoder takes for alike: pictures by the direction of their features, in " (groups.len())
            " groups (spherical k-means, from the seed of the run). Shown are those nearest to the middle of each."
        }
        @for (i, (group, (_, mosaic))) in groups.iter().zip(&figures).enumerate() {
            figure.group {
                figcaption {
                    span.dot style={ "background:" (colour(i as u32, groups.len())) } {}
                    (group.name) ", " (group.pictures) " pictures"
                }
                div.wide { img alt=(group.name) src=(mosaic.address(MOST)?); }
            }
        }
    };
    let figures = figures
        .into_iter()
        .map(|(name, mosaic)| Ok((name, Figure::Png(mosaic.png()?))))
        .collect::<anyhow::Result<_>>()?;
    Ok(Section { title: "Groups that it found", body, figures })
}
