//! Samples, and a table of results.

use std::time::Duration;

/// Samples of one measurement.
#[derive(Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds a sample.
    pub fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Adds a time in milliseconds.
    pub fn add_time(&mut self, time: Duration) {
        self.add(time.as_secs_f64() * 1e3);
    }

    /// The median.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// The minimum.
    pub fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::min)
    }
}

impl FromIterator<Duration> for Samples {
    fn from_iter<T: IntoIterator<Item = Duration>>(times: T) -> Self {
        let mut samples = Self::default();
        times.into_iter().for_each(|time| samples.add_time(time));
        samples
    }
}

/// The rows of results.
#[derive(Default)]
pub struct Table(Vec<[String; 5]>);

impl Table {
    /// Adds a row: name, result, reference, their ratio and the largest allowed ratio.
    pub fn ratio(
        &mut self,
        what: &str,
        unit: &str,
        ours: f64,
        reference: f64,
        at_most: Option<f64>,
    ) {
        let ratio = ours / reference;
        let verdict = at_most.map_or_else(String::new, |most| {
            format!(
                "≤ {most:.1} {}",
                if ratio <= most { "met" } else { "MISSED" }
            )
        });
        self.0.push([
            what.into(),
            format!("{ours:.1} {unit}"),
            format!("{reference:.1} {unit}"),
            format!("{ratio:.2}"),
            verdict,
        ]);
    }

    /// Adds a row with an absolute number and the largest allowed one.
    pub fn number(&mut self, what: &str, unit: &str, ours: f64, at_most: Option<f64>) {
        let verdict = at_most.map_or_else(String::new, |most| {
            format!(
                "≤ {most:.0} {unit} {}",
                if ours <= most { "met" } else { "MISSED" }
            )
        });
        self.0.push([
            what.into(),
            format!("{ours:.1} {unit}"),
            String::new(),
            String::new(),
            verdict,
        ]);
    }

    /// Prints all rows in columns.
    pub fn print(&self) {
        let head = ["", "rust-kata", "reference", "ratio", "target"].map(str::to_owned);
        let rows: Vec<&[String; 5]> = std::iter::once(&head).chain(&self.0).collect();
        let width = |column: usize| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let [what, ours, reference, ratio] = [0, 1, 2, 3].map(width);
        for [a, b, c, d, e] in rows {
            println!("{a:what$}  {b:>ours$}  {c:>reference$}  {d:>ratio$}  {e}");
        }
    }
}
