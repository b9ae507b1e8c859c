//! What was found, as a page to look at.

use std::path::Path;

use maud::html;
use simclr_data::Picture;

use super::Found;
use crate::output::Output;
use crate::page;
use crate::thumbnails::{Thumbnails, thumbnail};

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

impl Page<'_> {
    pub(super) fn html(&self, thumbnails: &Thumbnails, output: &Output) -> String {
        let own = match &self.of {
            Some(picture) => thumbnail(picture).ok(),
            None => thumbnails.of(self.like, output),
        };
        let body = html! {
            @if let Some(address) = own { (page::image(&address, self.like)) }
            p {
                "The nearest of " (self.rows) " pictures of " (self.features.display()) ", by the cosine of their features: 1 is the \
                 same direction, 0 is no likeness."
            }
            div.tiles {
                @for found in self.found {
                    figure {
                        @if let Some(address) = found.path.as_deref().and_then(|path| thumbnails.of(path, output)) {
                            (page::image(&address, &found.name()))
                        }
                        figcaption {
                            b { (format!("{:.4}", found.cosine)) }
                            @if let Some(label) = &found.label { " · " (label) }
                            br;
                            (found.name())
                        }
                    }
                }
            }
        };
        page::document(&format!("Pictures like {}", self.like), "", &body)
    }
}
