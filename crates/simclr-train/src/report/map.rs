//! The pictures on a map: near features, near places.

use maud::html;
use serde_json::json;

use super::{Section, data};
use crate::figure::{Figure, Scatter, colour};
use crate::mosaic::Mosaic;
use crate::study::Map;

/// Side of a picture on hover, in pixels of the page's sheet of pictures.
const SIDE: u32 = 40;

/// Bytes that the sheet may have: with base64 and all the rest, a page stays under 5 MB.
const MOST: usize = 2_200_000;

/// Pictures in a row of that sheet.
const COLUMNS: usize = 50;

/// A map to point at, with the pictures under the pointer.
pub(crate) fn map(map: &Map) -> anyhow::Result<Section> {
    let count = map.pictures.len();
    let mut mosaic = Mosaic::new(COLUMNS.min(count), count.div_ceil(COLUMNS), SIDE);
    mosaic.fill((0..count).map(|index| (index, map.pictures.as_ref(), index)).collect())?;
    // A thousandth of the width is less than a pixel.
    let whole = |points: &[[f32; 2]]| -> Vec<[i32; 2]> {
        points.iter().map(|point| point.map(|x| (1000.0 * x).round() as i32)).collect()
    };
    let colours: Vec<String> = (0..map.names.len()).map(|group| colour(group as u32, map.names.len())).collect();
    let views: Vec<_> = map
        .views
        .iter()
        .map(|view| json!({ "encoder": view.encoder, "method": view.method, "points": whole(&view.points) }))
        .collect();
    let places: Vec<String> = (0..count).map(|index| map.pictures.place(index)).collect();
    let told = json!({
        "views": views, "of": map.of, "names": map.names, "colours": colours, "places": places,
        "columns": COLUMNS.min(count), "side": SIDE,
    });
    let body = html! {
        p {
            (count) " pictures, each where its features put it. Point at one to see it; choose what is coloured below. Compare the map of the "
            a.term href="#term-random-encoder" { "random encoder" } " with that of the " a.term href="#term-trained" { "trained" }
            " one: training gathers what is alike."
        }
        div #map {
            div.choices {
                div.choice role="radiogroup" aria-label="encoder" {
                    label { input type="radio" name="map-encoder" value="trained" checked; " trained" }
                    label { input type="radio" name="map-encoder" value="random encoder"; " random encoder" }
                }
                div.choice role="radiogroup" aria-label="method" {
                    label { input type="radio" name="map-method" value="t-SNE" checked; " t-SNE" }
                    label { input type="radio" name="map-method" value="PCA"; " PCA" }
                }
            }
            div.board {
                canvas #map-canvas role="img" aria-label="map of the pictures" {}
                div #map-tip hidden { canvas width="96" height="96" {} span {} }
            }
            div #map-legend {}
            noscript { p { "The map needs JavaScript." } }
        }
        img #map-pictures hidden alt="" src=(mosaic.address(MOST)?);
        (data("map-data", &told))
    };
    let figure = |view: &crate::study::View| {
        let title = format!("{} of the features, {}", view.method, view.encoder);
        let svg = Scatter { title, points: &view.points, of: &map.of, groups: &map.names }.svg();
        let name = format!("map-{}-{}", view.method, view.encoder).to_lowercase().replace(' ', "-");
        (name, Figure::Svg(svg))
    };
    Ok(Section { title: "Map", body, figures: map.views.iter().map(figure).collect() })
}
