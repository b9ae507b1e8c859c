//! What was found, as a page to look at.

use std::cell::Cell;

use maud::{Markup, html};

use super::Group;
use super::said::Said;
use crate::features_file::FeaturesFile;
use crate::output::Output;
use crate::page;
use crate::table::Table;
use crate::thumbnails::Thumbnails;

/// Groups on a page, and pictures of each.
const GROUPS: usize = 100;
const PICTURES: usize = 12;

/// After so many pictures that are not there any more, no more are looked for.
const MISSING: usize = 5;

const STYLE: &str = ".differ { color: var(--bad); font-weight: 600 }";

/// One file that needs nothing beside it.
pub(super) struct Page<'a> {
    pub(super) said: &'a Said<'a>,
    pub(super) file: &'a FeaturesFile,
}

impl Page<'_> {
    pub(super) fn html(&self, thumbnails: &Thumbnails, output: &Output) -> String {
        let Self { said, file } = self;
        let missing = Cell::new(0);
        let thumbnail = |path: &str| {
            if missing.get() == MISSING {
                return None;
            }
            let address = thumbnails.of(path, output);
            if address.is_none() {
                missing.set(missing.get() + 1);
                if missing.get() == MISSING {
                    output.say("no more thumbnails are tried");
                }
            }
            address
        };
        let body = html! {
            p { (said.summary()) }
            @if let Some(chain) = said.chain() { p { strong { (chain) } } }
            p {
                "Two pictures are linked if the cosine of their features is at least the threshold: 1 is the same direction. "
                "A group is all pictures that are linked with one another, be it by way of others (single linkage): two of a large group "
                "may be less alike than the threshold. The cosines of a group are those of its linked pairs. What is alike for the "
                "encoder need not be the same picture: look before anything is removed."
            }
            p { (said.threshold()) }
            p { (said.compared()) }
            (table(&said.counts()))
            p { (said.of_nearest()) }
            (table(&said.quantiles()))
            p.faint { "Features: " (said.features.display()) }
            @for (i, group) in said.groups.iter().take(GROUPS).enumerate() { (section(i + 1, group, file, &thumbnail)) }
            @if let Some(more @ 1..) = said.groups.len().checked_sub(GROUPS) {
                p { (more) " groups more are not on this page; " code { "--json" } " has all." }
            }
        };
        page::document("Pictures that are nearly the same", STYLE, &body)
    }
}

fn section(
    number: usize,
    group: &Group<'_>,
    file: &FeaturesFile,
    thumbnail: &dyn Fn(&str) -> Option<String>,
) -> Markup {
    let left_out = group.of.rows.len().saturating_sub(PICTURES);
    html! {
        h2 {
            (number) ": " (group.of.rows.len()) " pictures, cosine "
            (format!("{:.4} to {:.4}", group.of.least, group.of.greatest))
        }
        @if group.labels_differ { p.differ { "The labels differ: " (group.classes()) } }
        div.tiles {
            @for (i, name) in group.names(file).take(PICTURES).enumerate() {
                figure {
                    @if let Some(address) = group.paths.as_ref().and_then(|paths| thumbnail(paths[i])) { (page::image(&address, &name)) }
                    figcaption {
                        @if let Some(label) = group.labels.as_ref().and_then(|labels| labels[i]) { b { (label) } br; }
                        @if group.paths.is_none() { "row " }
                        (name)
                    }
                }
            }
        }
        @if left_out > 0 { p.faint { "and " (left_out) " more" } }
    }
}

fn table(table: &Table) -> Markup {
    html! {
        div.wide {
            table {
                thead { tr { @for column in &table.columns { th { (column) } } } }
                tbody { @for row in &table.rows { tr { @for cell in row { td { (cell) } } } } }
            }
        }
    }
}
