//! Charts as SVG: lines with round ticks, a level to compare with and markers; bars with intervals; histograms; parallel
//! coordinates.
//!
//! A [`Chart`] is drawn into a page with [`Chart::draw`] or into a file with [`Chart::draw_alone`]. [`markup`] builds the
//! elements, for pages as well. Equal charts give equal bytes. Which curves to show, and where they come from, is up to
//! the caller.
//!
//! ```
//! use chart::{Chart, Horizontal, Look, Point, Range, Series, Size};
//!
//! let points = vec![Point::new(1e-5, 4.2), Point::new(1e-4, 3.1), Point::new(1e-3, 3.6)];
//! let chart = Chart {
//!     name: "rates",
//!     title: "Loss over learning rate".into(),
//!     description: "The loss is lowest at 1e-4.".into(),
//!     horizontal: Horizontal::Logarithmic,
//!     x_label: "learning rate".into(),
//!     y_label: "nats per token".into(),
//!     y_range: Range::of_values(&points).unwrap_or_default(),
//!     series: vec![Series { name: "loss".into(), look: Look::Strong, points }],
//!     level: None,
//!     markers: Vec::new(),
//! };
//! let svg = chart.draw_alone(Size { name: "wide", width: 760.0, height: 420.0 }).to_string();
//! assert!(svg.starts_with("<svg xmlns="));
//! ```

mod bars;
mod drawing;
pub mod histogram;
pub mod markup;
pub mod number;
mod parallel;
mod scale;
mod series;
mod shapes;
mod style;

pub use bars::{Bar, Bars};
pub use drawing::{Chart, HUES, Horizontal, Level, Look, Marker, Series};
pub use histogram::Histogram;
pub use parallel::{Parallel, ParallelAxis, ParallelLine};
pub use series::{Point, Range, middle_range, outline, trailing_mean};
pub use shapes::Size;
pub use style::{PALETTE, SHEET};
