//! Groups of bars: the same measure of several things, one below the other.

use maud::html;

use super::{short, svg};

/// Bars in groups.
#[derive(Clone, Debug)]
pub(crate) struct Bars {
    pub(crate) title: String,
    /// What ends a value, like ` %`.
    pub(crate) unit: &'static str,
    /// Where the longest possible bar ends.
    pub(crate) most: f64,
    /// Decimals of a value.
    pub(crate) decimals: usize,
    /// Names of the bars of a group; the last is the one that it is about.
    pub(crate) series: Vec<String>,
    pub(crate) groups: Vec<Bar>,
}

/// A group: its name, and a value of each series where there is one.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) values: Vec<Option<f64>>,
    /// What guessing gives, as a mark.
    pub(crate) chance: Option<f64>,
}

const WIDTH: f64 = 440.0;
const LEFT: f64 = 110.0;
const RIGHT: f64 = 66.0;
const BAR: f64 = 15.0;
const GAP: f64 = 3.0;

impl Bars {
    fn told(&self, value: f64) -> String {
        // No "-0".
        let value = if value.abs() < 0.5 * 10f64.powi(-(self.decimals as i32)) { 0.0 } else { value };
        format!("{value:.0$}{1}", self.decimals, self.unit)
    }

    pub(crate) fn svg(&self) -> String {
        let group = self.series.len() as f64 * (BAR + GAP);
        let height = 44.0 + self.groups.len() as f64 * (group + 28.0);
        let area = WIDTH - LEFT - RIGHT;
        let length = |value: f64| short((value / self.most).clamp(0.0, 1.0) * area);
        let body = html! {
            text.title x="8" y="20" { (self.title) }
            @for (i, bar) in self.groups.iter().enumerate() {
                @let top = 36.0 + i as f64 * (group + 28.0);
                text.legend x="8" y=(top + 12.0) { (bar.name) }
                @for (j, (name, value)) in self.series.iter().zip(&bar.values).enumerate() {
                    @let y = top + 20.0 + j as f64 * (BAR + GAP);
                    @let colour = if j + 1 == self.series.len() { "s0" } else { "s1" };
                    text x=(LEFT - 8.0) y=(y + 12.0) text-anchor="end" { (name) }
                    rect.track x=(LEFT) y=(y) width=(area) height=(BAR) {}
                    @if let Some(value) = value {
                        rect x=(LEFT) y=(y) width=(length(*value)) height=(BAR) style={ "fill:var(--" (colour) ")" } {}
                        text.legend x=(WIDTH - RIGHT + 6.0) y=(y + 12.0) { (self.told(*value)) }
                    } @else {
                        text x=(WIDTH - RIGHT + 6.0) y=(y + 12.0) { "–" }
                    }
                }
                @if let Some(chance) = bar.chance {
                    @let x = LEFT + length(chance);
                    line.base x1=(x) x2=(x) y1=(top + 18.0) y2=(top + 19.0 + group) style="stroke:var(--b0)" {
                        title { "guessing: " (self.told(chance)) }
                    }
                }
            }
        };
        svg([WIDTH, height], &self.title, &body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values() {
        let bars = Bars {
            title: "<b>".into(),
            unit: " %",
            most: 100.0,
            decimals: 2,
            series: vec!["random".into(), "trained".into()],
            groups: vec![Bar { name: "kNN".into(), values: vec![None, Some(50.0)], chance: Some(-0.001) }],
        };
        let svg = bars.svg();
        let area = WIDTH - LEFT - RIGHT;
        assert!(svg.contains(&format!("width=\"{}\" height=\"15\" style=\"fill:var(--s0)\"", area / 2.0)), "{svg}");
        assert!(svg.contains("50.00 %") && svg.contains("–") && svg.contains("guessing: 0.00 %"));
        assert!(!svg.contains("<b>") && !svg.contains("NaN"));
    }
}
