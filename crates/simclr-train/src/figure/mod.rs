//! Figures as SVG, each a document of its own that can also stand inside an HTML page.

mod bars;
mod heatmap;
pub(crate) mod plot;
mod scatter;

use maud::{Markup, PreEscaped, html};

pub(crate) use bars::{Bar, Bars};
pub(crate) use heatmap::Heatmap;
pub(crate) use scatter::{Scatter, colour};

/// Colours for light and dark grounds.
const STYLE: &str = include_str!("figure.css");

/// Something to look at, outside a page.
pub(crate) enum Figure {
    Svg(String),
    Png(Vec<u8>),
}

/// A document of a size in units that are CSS pixels at its natural size.
fn svg([width, height]: [f64; 2], title: &str, body: &Markup) -> String {
    let page = html! {
        svg xmlns="http://www.w3.org/2000/svg" class="figure" viewBox={ "0 0 " (width) " " (height) } width=(width) height=(height)
            role="img" aria-label=(title) {
            style { (PreEscaped(STYLE)) }
            rect class="ground" width="100%" height="100%" {}
            (body)
        }
    };
    page.into_string() + "\n"
}

/// Text as XML and HTML take it, between tags and in quotes.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A name that has room beside a figure.
fn shortened(name: &str) -> String {
    const ROOM: usize = 15;
    if name.chars().count() <= ROOM {
        return name.to_owned();
    }
    name.chars().take(ROOM - 1).chain(['…']).collect()
}

/// A number with so many decimals at most: what stands in many attributes should be short.
fn short(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}
