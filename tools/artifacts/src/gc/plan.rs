//! Decides which artifacts stay: roots, what is young, and everything that these were made from.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use artifact::Key;

use crate::text;

/// An artifact as the plan sees it.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) key: Key,
    pub(super) last_use: SystemTime,
    /// The artifacts that it was made from, which need not be in the store.
    pub(super) inputs: Vec<Key>,
}

/// Why an artifact stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// It has a label.
    Label,
    /// `artifacts keep` was used.
    Kept,
    /// A pipeline points at it.
    Pointer,
    /// It was made or used within the grace period.
    Recent,
    /// An artifact that stays was made from it.
    Ancestor,
}

impl Reason {
    /// Returns the name in `--json`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Label => "label",
            Self::Kept => "kept",
            Self::Pointer => "pointer",
            Self::Recent => "recent",
            Self::Ancestor => "ancestor",
        }
    }

    /// Describes a number of artifacts that stay for this reason.
    pub(super) fn describe(self, grace: Duration) -> String {
        match self {
            Self::Label => "labelled".to_owned(),
            Self::Kept => "marked with `keep`".to_owned(),
            Self::Pointer => "current in a pipeline".to_owned(),
            Self::Recent => format!("used within {}", text::duration(grace)),
            Self::Ancestor => "that these were made from".to_owned(),
        }
    }
}

/// Returns why artifacts stay, and the others in the order in which to remove them: what was made from an artifact goes before
/// it, so that a killed gc leaves no artifact without its origin.
pub(super) fn plan(
    nodes: &[Node],
    roots: BTreeMap<Key, Reason>,
    now: SystemTime,
    grace: Duration,
) -> (BTreeMap<Key, Reason>, Vec<Key>) {
    let by_key: BTreeMap<Key, &Node> = nodes.iter().map(|node| (node.key, node)).collect();
    let mut kept: BTreeMap<Key, Reason> =
        roots.into_iter().filter(|(key, _)| by_key.contains_key(key)).collect();
    for node in nodes {
        // A time in the future is young as well.
        if now.duration_since(node.last_use).map_or(true, |age| age < grace) {
            kept.entry(node.key).or_insert(Reason::Recent);
        }
    }
    let mut open: Vec<Key> = kept.keys().copied().collect();
    while let Some(key) = open.pop() {
        for input in &by_key[&key].inputs {
            if by_key.contains_key(input) && !kept.contains_key(input) {
                kept.insert(*input, Reason::Ancestor);
                open.push(*input);
            }
        }
    }
    let mut order = Vec::new();
    let mut seen: BTreeSet<Key> = kept.keys().copied().collect();
    for node in nodes {
        visit(node, &by_key, &mut seen, &mut order);
    }
    order.reverse();
    (kept, order)
}

/// Appends what `node` was made from, then `node`.
fn visit(node: &Node, by_key: &BTreeMap<Key, &Node>, seen: &mut BTreeSet<Key>, order: &mut Vec<Key>) {
    if !seen.insert(node.key) {
        return;
    }
    for input in &node.inputs {
        if let Some(input) = by_key.get(input) {
            visit(input, by_key, seen, order);
        }
    }
    order.push(node.key);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(number: usize) -> Key {
        format!("{number:064x}").parse().expect("64 digits")
    }

    fn days(number: u64) -> Duration {
        Duration::from_secs(number * 86_400)
    }

    /// A store: ages in days, inputs among earlier artifacts (or unknown ones), and roots.
    fn stores() -> impl Strategy<Value = (Vec<(u64, Vec<usize>)>, Vec<usize>)> {
        let node = |at: usize| (0_u64..40, proptest::collection::vec(0..at + 3, 0..4));
        (1_usize..24).prop_flat_map(move |count| (0..count).map(node).collect::<Vec<_>>()).prop_flat_map(
            |nodes| {
                let count = nodes.len();
                (Just(nodes), proptest::collection::vec(0..count + 2, 0..4))
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn nothing_reachable_or_young_is_removed_and_everything_else_is((nodes, roots) in stores()) {
            let now = SystemTime::UNIX_EPOCH + days(1000);
            let grace = days(14);
            let nodes: Vec<Node> = nodes
                .iter()
                .enumerate()
                // An input with a later number is not in the store.
                .map(|(at, (age, inputs))| Node {
                    key: key(at),
                    last_use: now - days(*age),
                    inputs: inputs.iter().map(|&input| key(if input < at { input } else { input + 100 })).collect(),
                })
                .collect();
            let roots: BTreeMap<Key, Reason> = roots.iter().map(|&root| (key(root), Reason::Label)).collect();
            let (kept, order) = plan(&nodes, roots.clone(), now, grace);

            // Closure by its definition, computed by repetition instead of a search.
            let mut expected: BTreeSet<Key> = nodes
                .iter()
                .filter(|node| roots.contains_key(&node.key) || now.duration_since(node.last_use).unwrap() < grace)
                .map(|node| node.key)
                .collect();
            loop {
                let before = expected.len();
                for node in &nodes {
                    if expected.contains(&node.key) {
                        expected.extend(node.inputs.iter().filter(|input| nodes.iter().any(|n| n.key == **input)));
                    }
                }
                if expected.len() == before {
                    break;
                }
            }
            prop_assert_eq!(kept.keys().copied().collect::<BTreeSet<_>>(), expected.clone());
            let removed: BTreeSet<Key> = order.iter().copied().collect();
            prop_assert_eq!(removed.len(), order.len());
            prop_assert_eq!(removed.len() + expected.len(), nodes.len());
            for (at, removed) in order.iter().enumerate() {
                let node = nodes.iter().find(|node| node.key == *removed).unwrap();
                prop_assert!(node.inputs.iter().all(|input| !order[..at].contains(input)));
            }
        }
    }

    #[test]
    fn a_time_in_the_future_is_young() {
        let now = SystemTime::UNIX_EPOCH + days(10);
        let node = Node { key: key(1), last_use: now + days(1), inputs: vec![key(1)] };
        let (kept, order) = plan(&[node], BTreeMap::new(), now, Duration::ZERO);
        assert_eq!((kept.len(), order.len()), (1, 0));
    }
}
