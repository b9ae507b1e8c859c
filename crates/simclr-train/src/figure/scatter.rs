//! Points of a plane, coloured by group.

use maud::html;

use super::{short, shortened, svg};

/// Points and the groups that they belong to.
#[derive(Clone, Debug)]
pub(crate) struct Scatter<'a> {
    pub(crate) title: String,
    /// x and y of every point, from 0 to 1.
    pub(crate) points: &'a [[f32; 2]],
    pub(crate) of: &'a [u32],
    pub(crate) groups: &'a [String],
}

const SIDE: f64 = 440.0;
const TOP: f64 = 36.0;
/// Groups that a legend has room for.
const MOST_NAMES: usize = 30;

/// Ten that are told apart on light and dark grounds, in the order of Tableau's.
const COLOURS: [&str; 10] =
    ["#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#9c755f", "#edc948", "#76b7b2", "#ff9da7", "#8a8f98"];

/// The colour of a group; of more than ten, hues that are far apart for neighbouring ones.
pub(crate) fn colour(group: u32, groups: usize) -> String {
    match COLOURS.get(group as usize) {
        Some(colour) if groups <= COLOURS.len() => (*colour).to_owned(),
        _ => format!("hsl({:.0} 60% 55%)", (f64::from(group) * 137.508) % 360.0),
    }
}

impl Scatter<'_> {
    pub(crate) fn svg(&self) -> String {
        let names = if self.groups.len() <= MOST_NAMES { self.groups } else { &[] };
        let rows = names.len().div_ceil(3);
        let place = |[x, y]: [f32; 2]| {
            let at = |share: f32| short(10.0 + f64::from(share) * (SIDE - 20.0));
            (at(x), TOP + at(1.0 - y))
        };
        let body = html! {
            text.title x="8" y="20" { (self.title) }
            @for (&point, &group) in self.points.iter().zip(self.of) {
                @let (x, y) = place(point);
                circle cx=(x) cy=(y) r="2.5" style={ "fill:" (colour(group, self.groups.len())) ";fill-opacity:.8" } {}
            }
            @for (i, name) in names.iter().enumerate() {
                @let (x, y) = (16.0 + (i % 3) as f64 * 140.0, TOP + SIDE + 16.0 + (i / 3) as f64 * 18.0);
                circle cx=(x) cy=(y - 4.0) r="4" style={ "fill:" (colour(i as u32, self.groups.len())) } {}
                text.legend x=(x + 10.0) y=(y) { title { (name) } (shortened(name)) }
            }
        };
        svg([SIDE, TOP + SIDE + 12.0 + 18.0 * rows as f64], &self.title, &body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corners_are_where_they_belong_and_colours_differ() {
        let groups: Vec<String> = (0..12).map(|i| format!("group {i}")).collect();
        let scatter = Scatter { title: "Map".into(), points: &[[0.0, 0.0], [1.0, 1.0]], of: &[0, 11], groups: &groups };
        let svg = scatter.svg();
        assert!(svg.contains("cx=\"10\" cy=\"466\"") && svg.contains("cx=\"430\" cy=\"46\""), "{svg}");
        assert_eq!(svg.matches("class=\"legend\"").count(), 12);
        let colours: std::collections::HashSet<String> = (0..12).map(|group| colour(group, 12)).collect();
        assert_eq!(colours.len(), 12);
    }
}
