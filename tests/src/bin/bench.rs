//! Measures what issue 2 promises, as ratios to references of the same run.

fn main() {}
