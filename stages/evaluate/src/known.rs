//! The scores that this stage knows by name.

use metrics::{Better, Metric};
use outputs::{Direction, MetricInfo};

/// Name of the similarity of meaning, which an encoder measures.
pub(crate) const SIMILARITY: &str = "similarity";

/// Returns what is shown about a score besides its value.
fn info(title: &str, better: Direction, signature: &str) -> MetricInfo {
    MetricInfo { title: title.to_owned(), better, signature: signature.to_owned() }
}

fn direction(better: Better) -> Direction {
    match better {
        Better::Higher => Direction::Higher,
        Better::Lower => Direction::Lower,
        Better::Neither => Direction::Neither,
    }
}

/// Returns the description of a score by its name; `None` if only another program knows it.
pub(crate) fn known_info(name: &str) -> Option<MetricInfo> {
    if let Some(metric) = Metric::by_name(name) {
        return Some(info(metric.title(), direction(metric.better()), &metric.signature()));
    }
    match name {
        "loss" => Some(info("Loss", Direction::Lower, "")),
        "perplexity" => Some(info("Perplexity", Direction::Lower, "")),
        SIMILARITY => Some(info("Similarity", Direction::Higher, "")),
        _ => None,
    }
}
