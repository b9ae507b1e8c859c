//! A matrix of counts, each row of which is a whole.

use maud::html;

use super::{short, shortened, svg};

/// Counts of pictures: a row is the class, a column what it was taken for.
#[derive(Clone, Debug)]
pub(crate) struct Heatmap<'a> {
    pub(crate) title: String,
    pub(crate) names: &'a [String],
    pub(crate) counts: &'a [Vec<u64>],
}

/// Classes whose cells have room for a number.
const MOST_NUMBERS: usize = 20;
/// Classes whose names have room at the sides.
const MOST_NAMES: usize = 50;
const TOP: f64 = 40.0;

impl Heatmap<'_> {
    pub(crate) fn svg(&self) -> String {
        let classes = self.names.len();
        let has_names = classes <= MOST_NAMES;
        let left = if has_names { 100.0 } else { 12.0 };
        let cell = (560.0 / classes as f64).clamp(4.0, 44.0);
        let side = short(cell * classes as f64);
        let below = if has_names { 96.0 } else { 16.0 };
        let at = |i: usize| short(i as f64 * cell);
        let body = html! {
            text.title x="8" y="20" { (self.title) }
            rect.track x=(left) y=(TOP) width=(side) height=(side) {}
            @for (i, row) in self.counts.iter().enumerate() {
                @let total = row.iter().sum::<u64>().max(1) as f64;
                @if has_names {
                    @let y = short(TOP + at(i) + cell / 2.0 + 4.0);
                    @let x = short(left + at(i) + cell / 2.0);
                    text x=(left - 8.0) y=(y) text-anchor="end" { title { (self.names[i]) } (shortened(&self.names[i])) }
                    text x=(x) y=(TOP + side + 14.0) text-anchor="end" transform=(format!("rotate(-45 {x} {})", TOP + side + 14.0)) {
                        title { (self.names[i]) }
                        (shortened(&self.names[i]))
                    }
                }
                @for (j, &count) in row.iter().enumerate().filter(|(_, count)| **count > 0) {
                    @let share = count as f64 / total;
                    g {
                        title { (self.names[i]) " taken for " (self.names[j]) ": " (count) " of " (total) ", " (format!("{:.1} %", 100.0 * share)) }
                        rect.cell x=(short(left + at(j))) y=(TOP + at(i)) width=(short(cell)) height=(short(cell))
                            style=(format!("opacity:{share:.2}")) {}
                        @if classes <= MOST_NUMBERS && share >= 0.01 {
                            text class=(if share > 0.5 { "strong" } else { "legend" }) x=(short(left + at(j) + cell / 2.0))
                                y=(short(TOP + at(i) + cell / 2.0 + 4.0)) text-anchor="middle" { (format!("{:.0}", 100.0 * share)) }
                        }
                    }
                }
            }
        };
        svg([left + side + 12.0, TOP + side + below], &self.title, &body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_say_what_was_taken_for_what() {
        let names = ["cat".to_owned(), "<dog>".to_owned()];
        let svg = Heatmap { title: "Confusion".into(), names: &names, counts: &[vec![3, 1], vec![0, 0]] }.svg();
        assert!(svg.contains("cat taken for &lt;dog&gt;: 1 of 4, 25.0 %") && svg.contains(">75<"), "{svg}");
        assert_eq!(svg.matches("class=\"cell\"").count(), 2);
        let names: Vec<String> = (0..100).map(|i| i.to_string()).collect();
        let counts: Vec<Vec<u64>> = (0..100).map(|i| (0..100).map(|j| u64::from(i == j)).collect()).collect();
        assert!(Heatmap { title: "Confusion".into(), names: &names, counts: &counts }.svg().len() < 40_000);
    }
}
