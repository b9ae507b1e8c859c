//! The nearest neighbours of a dozen pictures.

use maud::{Markup, html};

use super::Section;
use crate::figure::Figure;
use crate::mosaic::Mosaic;
use crate::study::{Gallery, Near};

/// Bytes that the pictures of one encoder may have in a page.
const MOST: usize = 400_000;

/// Side of a picture, in pixels.
const SIDE: u32 = 64;

/// Rows of a picture and its neighbours, by the trained encoder or, for comparison, by a random one.
pub(crate) fn neighbours(gallery: &Gallery) -> anyhow::Result<Section> {
    let Gallery { near, bank, asked, .. } = gallery;
    let width = 1 + near.iter().map(|near| near.trained.len().max(near.random.len())).max().unwrap_or(0);
    // A row of the mosaic for every picture and encoder, so that figures are parts of it.
    let by = |of: fn(&Near) -> &[(f32, usize)]| -> anyhow::Result<Mosaic> {
        let mut mosaic = Mosaic::new(width, near.len(), SIDE);
        let tiles = near.iter().enumerate().flat_map(|(row, near)| {
            let found = of(near).iter().enumerate().map(move |(i, (_, index))| (row * width + i + 1, bank, *index));
            std::iter::once((row * width, asked, near.picture)).chain(found)
        });
        mosaic.fill(tiles.map(|(place, set, index)| (place, set.as_ref(), index)).collect())?;
        Ok(mosaic)
    };
    let (trained, random) = (by(|near| &near.trained)?, by(|near| &near.random)?);
    let name = |set: &dyn simclr_data::Pictures, index: usize| -> String {
        set.label(index).and_then(|label| set.classes().get(label as usize).cloned()).unwrap_or_default()
    };
    let rows = |class: &str, of: fn(&Near) -> &[(f32, usize)]| -> Markup {
        html! {
            div class={ "near " (class) } {
                @for (row, near) in near.iter().enumerate() {
                    @let own = asked.label(near.picture);
                    div.row {
                        figure.query {
                            (tile([0, row]))
                            figcaption title=(asked.place(near.picture)) { (name(asked.as_ref(), near.picture)) }
                        }
                        @for (i, &(cosine, index)) in of(near).iter().enumerate() {
                            @let label = bank.label(index);
                            @let class = match (own, label) { (Some(a), Some(b)) => if a == b { "right" } else { "wrong" }, _ => "" };
                            figure class=(class) {
                                (tile([i + 1, row]))
                                figcaption title=(bank.place(index)) { (name(bank.as_ref(), index)) " " (format!("{cosine:.3}")) }
                            }
                        }
                    }
                }
            }
        }
    };
    let style = format!(
        ".near{{--w:{0};--h:{1}}}.near .tile{{background-size:{0}00% {1}00%}}.near.trained .tile{{background-image:url({2})}}.near.random .tile{{background-image:url({3})}}",
        width,
        near.len(),
        trained.address(MOST)?,
        random.address(MOST)?
    );
    let body = html! {
        style { (maud::PreEscaped(style)) }
        p {
            "A picture to the left, and the training pictures that are nearest to it by the "
            a.term href="#term-cosine" { "cosine" } " of their features. Nobody told the encoder what is alike."
        }
        div.choice role="radiogroup" aria-label="encoder" {
            label { input type="radio" name="near" id="near-trained" checked; " trained" }
            label { input type="radio" name="near" id="near-random"; " random encoder" }
        }
        div.wide { (rows("trained", |near| &near.trained)) (rows("random", |near| &near.random)) }
    };
    let figures = vec![
        ("neighbours-trained".to_owned(), Figure::Png(trained.png()?)),
        ("neighbours-random".to_owned(), Figure::Png(random.png()?)),
    ];
    Ok(Section { title: "Nearest neighbours", body, figures })
}

/// A part of the mosaic.
fn tile([column, row]: [usize; 2]) -> Markup {
    html! { div.tile style={ "--x:" (column) ";--y:" (row) } {} }
}
