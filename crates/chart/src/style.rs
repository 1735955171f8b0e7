//! Style sheets of charts.

/// Colours for light, dark and print, as CSS variables.
pub const PALETTE: &str = include_str!("style/palette.css");
/// Styles of the elements in a chart; needs [`PALETTE`].
pub const SHEET: &str = include_str!("style/chart.css");
