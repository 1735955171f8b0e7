//! `lineage`: what an artifact was made from, and what was made from it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use artifact::{InputRecord, Key};
use serde_json::{Value, json};
use stage::json_path;

use crate::args::{Direction, GraphFormat};
use crate::catalog::{Catalog, Item, read_manifest};
use crate::error::Result;
use crate::locate::locate;
use crate::text::{self, escape};

/// A node of the graph: an artifact, or files that no stage made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    /// Plain files, by the first digits of their tree hash.
    Files(String),
    /// An artifact by its key, and by its stage in case it is not in the store.
    Artifact(Key, String),
}

/// An input: `from` is read by `to` as `role`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    from: Node,
    to: Node,
    role: String,
}

/// The artifacts of a store by key, with the edges between them.
struct Graph {
    items: BTreeMap<Key, Item>,
    edges: BTreeSet<Edge>,
}

impl Graph {
    fn new(items: Vec<Item>) -> Self {
        let items: BTreeMap<Key, Item> = items.into_iter().map(|item| (item.summary.key, item)).collect();
        let mut edges = BTreeSet::new();
        for item in items.values() {
            for (role, record) in &item.summary.inputs {
                let to = Node::Artifact(item.summary.key, item.entry.stage.clone());
                edges.insert(Edge { from: source(record), to, role: role.clone() });
            }
        }
        Self { items, edges }
    }

    fn inputs(&self, node: &Node) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(move |edge| edge.to == *node)
    }

    fn users(&self, node: &Node) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(move |edge| edge.from == *node)
    }

    fn label(&self, node: &Node) -> String {
        match node {
            Node::Files(tree) => format!("plain files, tree {tree}"),
            Node::Artifact(key, stage) => match self.items.get(key) {
                Some(item) => item.entry.name(),
                None => format!("{stage}/{} (not in the store)", key.short()),
            },
        }
    }

    /// Returns the part of the graph that is reached from `start`.
    fn reached(&self, start: &Node, direction: Direction) -> BTreeSet<Edge> {
        let mut found = BTreeSet::new();
        if direction != Direction::Down {
            let mut open = vec![start.clone()];
            while let Some(node) = open.pop() {
                for edge in self.inputs(&node) {
                    if found.insert(edge.clone()) {
                        open.push(edge.from.clone());
                    }
                }
            }
        }
        if direction != Direction::Up {
            let mut open = vec![start.clone()];
            while let Some(node) = open.pop() {
                for edge in self.users(&node) {
                    if found.insert(edge.clone()) {
                        open.push(edge.to.clone());
                    }
                }
            }
        }
        found
    }
}

fn source(record: &InputRecord) -> Node {
    match (&record.stage, record.key) {
        (Some(stage), Some(key)) => Node::Artifact(key, stage.clone()),
        _ => Node::Files(record.tree.short()),
    }
}

/// Prints the lineage of an artifact; of the whole store if none is named.
pub(crate) fn run(
    catalog: &Catalog,
    name: Option<&str>,
    format: GraphFormat,
    direction: Direction,
) -> Result<()> {
    let graph = Graph::new(catalog.readable_items());
    let start = match name {
        Some(name) => {
            let manifest = read_manifest(&locate(catalog, name)?)?;
            Some(Node::Artifact(manifest.key, manifest.stage))
        }
        None => None,
    };
    let edges = match &start {
        Some(start) => graph.reached(start, direction),
        None => graph.edges.clone(),
    };
    let mut nodes: BTreeSet<Node> =
        edges.iter().flat_map(|edge| [edge.from.clone(), edge.to.clone()]).collect();
    match &start {
        Some(start) => nodes.extend([start.clone()]),
        None => nodes.extend(
            graph.items.values().map(|item| Node::Artifact(item.summary.key, item.entry.stage.clone())),
        ),
    }
    let output = match format {
        GraphFormat::Text => tree(&graph, start.as_ref(), direction),
        GraphFormat::Dot => dot(&graph, &nodes, &edges),
        GraphFormat::Mermaid => mermaid(&graph, &nodes, &edges),
        GraphFormat::Json => format!("{:#}\n", to_json(&graph, &nodes, &edges)),
    };
    Ok(text::print(&output)?)
}

fn tree(graph: &Graph, start: Option<&Node>, direction: Direction) -> String {
    let mut output = String::new();
    let starts: Vec<Node> = match start {
        Some(start) => vec![start.clone()],
        // Whatever nothing else was made from.
        None => graph
            .items
            .values()
            .map(|item| Node::Artifact(item.summary.key, item.entry.stage.clone()))
            .filter(|node| graph.users(node).next().is_none())
            .collect(),
    };
    let mut seen = BTreeSet::new();
    for node in starts {
        writeln!(output, "{}", escape(&graph.label(&node))).expect("writing to a string succeeds");
        if direction != Direction::Down {
            seen.insert(node.clone());
            branch(&mut output, graph, &node, "", &mut seen, true);
        }
        if direction != Direction::Up {
            if direction == Direction::Both && graph.users(&node).next().is_some() {
                output.push_str("used by\n");
            }
            branch(&mut output, graph, &node, "", &mut BTreeSet::from([node.clone()]), false);
        }
    }
    output
}

/// Writes the inputs (`up`) or users of a node; a node whose branch was written already has `…`.
fn branch(
    output: &mut String,
    graph: &Graph,
    node: &Node,
    indent: &str,
    seen: &mut BTreeSet<Node>,
    up: bool,
) {
    // Several outputs of one artifact are one line.
    let mut neighbours = Vec::<(Node, Vec<&str>)>::new();
    let edges: Vec<&Edge> = if up { graph.inputs(node).collect() } else { graph.users(node).collect() };
    for edge in edges {
        let other = if up { &edge.from } else { &edge.to };
        match neighbours.iter_mut().find(|(found, _)| found == other) {
            Some((_, roles)) => roles.push(&edge.role),
            None => neighbours.push((other.clone(), vec![&edge.role])),
        }
    }
    let last = neighbours.len().saturating_sub(1);
    for (index, (other, roles)) in neighbours.iter().enumerate() {
        let (corner, deeper) = if index == last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        let is_new = seen.insert(other.clone());
        let has_more =
            if up { graph.inputs(other).next().is_some() } else { graph.users(other).next().is_some() };
        let mark = if !is_new && has_more { " …" } else { "" };
        let line = escape(&format!("{} ({}){mark}", graph.label(other), roles.join(", ")));
        writeln!(output, "{indent}{corner}{line}").expect("writing to a string succeeds");
        if is_new {
            branch(output, graph, other, &format!("{indent}{deeper}"), seen, up);
        }
    }
}

/// Returns an identifier for DOT and Mermaid.
fn id(node: &Node) -> String {
    match node {
        Node::Files(tree) => format!("files_{tree}"),
        Node::Artifact(key, _) => format!("a_{}", key.short()),
    }
}

fn quoted(text: &str) -> String {
    escape(text).replace('\\', "\\\\").replace('"', "\\\"")
}

fn dot(graph: &Graph, nodes: &BTreeSet<Node>, edges: &BTreeSet<Edge>) -> String {
    let mut output = String::from("digraph lineage {\n  rankdir=LR;\n  node [shape=box];\n");
    for node in nodes {
        let shape = if matches!(node, Node::Files(_)) { ", shape=note" } else { "" };
        writeln!(output, "  {} [label=\"{}\"{shape}];", id(node), quoted(&graph.label(node)))
            .expect("writing to a string succeeds");
    }
    for edge in edges {
        writeln!(output, "  {} -> {} [label=\"{}\"];", id(&edge.from), id(&edge.to), quoted(&edge.role))
            .expect("writing to a string succeeds");
    }
    output.push_str("}\n");
    output
}

fn mermaid(graph: &Graph, nodes: &BTreeSet<Node>, edges: &BTreeSet<Edge>) -> String {
    let safe = |text: &str| escape(text).replace('"', "#quot;");
    let mut output = String::from("flowchart LR\n");
    for node in nodes {
        writeln!(output, "  {}[\"{}\"]", id(node), safe(&graph.label(node))).expect("writing succeeds");
    }
    for edge in edges {
        writeln!(output, "  {} -->|\"{}\"| {}", id(&edge.from), safe(&edge.role), id(&edge.to))
            .expect("writing to a string succeeds");
    }
    output
}

fn to_json(graph: &Graph, nodes: &BTreeSet<Node>, edges: &BTreeSet<Edge>) -> Value {
    let describe = |node: &Node| match node {
        Node::Files(tree) => json!({"id": id(node), "type": "files", "tree": tree}),
        Node::Artifact(key, stage) => {
            let item = graph.items.get(key);
            json!({
                "id": id(node), "type": "artifact", "stage": stage, "key": key,
                "path": item.map(|item| json_path(&item.entry.path)), "tree": item.map(|item| item.summary.tree),
            })
        }
    };
    let edges: Vec<Value> = edges
        .iter()
        .map(|edge| json!({"from": id(&edge.from), "to": id(&edge.to), "role": edge.role}))
        .collect();
    json!({"nodes": nodes.iter().map(describe).collect::<Vec<_>>(), "edges": edges})
}
