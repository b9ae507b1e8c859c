//! HTML pages that need nothing beside them: one file, no network.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// What pages of this program look like.
const STYLE: &str = include_str!("page.css");

/// A whole page of a title, which is its heading too, style beyond that of all pages, and what follows the heading.
pub(crate) fn document(title: &str, style: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) (PreEscaped(style)) }
            }
            body { h1 { (title) } (body) }
        }
    };
    page.into_string()
}

/// A PNG that stands in the page itself.
pub(crate) fn png(bytes: &[u8], description: &str) -> Markup {
    image(&png_address(bytes), description)
}

/// The picture at an address.
pub(crate) fn image(address: &str, description: &str) -> Markup {
    html! { img alt=(description) src=(address); }
}

/// A PNG as the address of an image.
pub(crate) fn png_address(bytes: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(bytes))
}
