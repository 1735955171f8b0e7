//! The modules of a crate and their imports, read from source text.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;
use regex::Regex;

/// Lists the files below `folder` whose names end in `.rs`, sorted.
pub(crate) fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if folder.is_dir() {
        for entry in fs_err::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                found.extend(sources(&path)?);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Returns the code of a source file without comments and without items under `#[cfg(test)]`.
pub(crate) fn code(path: &Path) -> Result<String> {
    let text = fs_err::read_to_string(path)?;
    let (mut code, mut lines) = (String::new(), text.lines());
    while let Some(line) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        if line.trim_start().starts_with("#[cfg(test)]") {
            // The item ends at the first line with its own indent that closes it.
            for line in lines.by_ref() {
                let is_level = line.len() - line.trim_start().len() == indent;
                if is_level && (line.ends_with('}') || line.ends_with(';')) {
                    break;
                }
            }
        } else if !line.trim_start().starts_with("//") {
            code += line.split_once(" // ").map_or(line, |(code, _)| code);
            code.push('\n');
        }
    }
    Ok(code)
}

/// Imports between the modules of one crate, by name; a module includes its submodules, and the crate root is `crate`.
#[derive(Debug)]
pub(crate) struct Modules {
    imports: BTreeMap<String, BTreeSet<String>>,
}

impl Modules {
    /// Reads the library in the folder `src`.
    pub(crate) fn read(src: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        for path in sources(src)? {
            let relative = path.strip_prefix(src)?.with_extension("");
            let mut names: Vec<String> =
                relative.iter().map(|name| name.to_string_lossy().into_owned()).collect();
            if names == ["main"] {
                continue;
            }
            if names.last().is_some_and(|name| name == "mod" || name == "lib") {
                names.pop();
            }
            files.insert(names.join("::"), code(&path)?);
        }
        let names: BTreeSet<String> = files.keys().cloned().collect();
        let mut imports = BTreeMap::<String, BTreeSet<String>>::new();
        for (module, code) in &files {
            let from = top_level(module);
            let found = paths(module, code).into_iter().map(|path| top_level(&nearest(&names, &path)));
            imports.entry(from.clone()).or_default().extend(found.filter(|found| *found != from));
        }
        Ok(Self { imports })
    }

    /// Returns a shortest cycle as a list of modules, each of which imports the next, if there is one.
    pub(crate) fn cycle(&self) -> Option<Vec<String>> {
        let cycles = self.imports.keys().filter_map(|start| self.cycle_from(start));
        cycles.min_by_key(Vec::len)
    }

    fn cycle_from(&self, start: &str) -> Option<Vec<String>> {
        let mut paths = std::collections::VecDeque::from([vec![start.to_owned()]]);
        let mut seen = BTreeSet::new();
        while let Some(path) = paths.pop_front() {
            for next in self.imports.get(path.last()?).into_iter().flatten() {
                let longer = [&path[..], std::slice::from_ref(next)].concat();
                if next == start {
                    return Some(longer);
                }
                if seen.insert(next) {
                    paths.push_back(longer);
                }
            }
        }
        None
    }
}

/// Returns the first name of a module path, `crate` for the root.
fn top_level(module: &str) -> String {
    module.split("::").next().filter(|name| !name.is_empty()).unwrap_or("crate").to_owned()
}

/// Returns the longest prefix of `path` that is a module.
fn nearest(modules: &BTreeSet<String>, path: &str) -> String {
    let mut path = path;
    while !modules.contains(path) {
        path = path.rsplit_once("::").map_or("", |(before, _)| before);
    }
    path.to_owned()
}

/// Returns the paths in `code` that begin with `crate`, `self`, `super` or a child module, relative to the crate root.
fn paths(module: &str, code: &str) -> Vec<String> {
    let declaration =
        Regex::new(r"(?m)^\s*(?:pub(?:\([a-z]+\))? )?mod ([a-z0-9_]+);").expect("a valid pattern");
    let children: BTreeSet<&str> =
        declaration.captures_iter(code).filter_map(|found| Some(found.get(1)?.as_str())).collect();
    let first_segment = Regex::new(r"\b[a-z_][a-z0-9_]*::").expect("a valid pattern");
    let mut found = Vec::new();
    for first in first_segment.find_iter(code) {
        let before = &code[..first.start()];
        if before.ends_with("::") || before.ends_with('$') {
            continue;
        }
        let head = first.as_str().trim_end_matches("::");
        let base = match head {
            "crate" => String::new(),
            "self" => module.to_owned(),
            "super" => parent(module),
            _ if children.contains(head) => join(module, head),
            _ => continue,
        };
        expand(&base, &code[first.end()..], &mut found);
    }
    found
}

fn parent(module: &str) -> String {
    module.rsplit_once("::").map_or(String::new(), |(parent, _)| parent.to_owned())
}

fn join(base: &str, name: &str) -> String {
    if base.is_empty() { name.to_owned() } else { format!("{base}::{name}") }
}

/// Adds the paths that the text after `base::` names, one for each item in braces.
fn expand(base: &str, rest: &str, found: &mut Vec<String>) {
    if let Some(inner) = rest.strip_prefix('{') {
        let (mut depth, mut begin) = (1, 0);
        for (at, c) in inner.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if (depth == 1 && c == ',') || depth == 0 {
                let item = inner[begin..at].trim();
                if !item.is_empty() {
                    expand(base, item, found);
                }
                begin = at + 1;
            }
            if depth == 0 {
                return;
            }
        }
        return;
    }
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    if let Some(after) = after.strip_prefix("::") {
        let base = if name == "super" { parent(base) } else { join(base, name) };
        expand(&base, after, found);
    } else if name == "self" || name.is_empty() {
        found.push(base.to_owned());
    } else if !after.starts_with('!') {
        // A macro is exported at the root from any module.
        found.push(join(base, name));
    }
}

/// Returns the first import that is outside the three groups std, external crates and this crate, in this order.
pub(crate) fn misplaced_import(text: &str) -> Option<&str> {
    let local: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';')).collect();
    let group_of = |line: &str| {
        let root =
            line.strip_prefix("use ")?.split([':', ';', ' ']).next().filter(|root| !local.contains(root))?;
        Some(match root {
            "std" | "core" | "alloc" => 0,
            "crate" | "super" | "self" => 2,
            _ => 1,
        })
    };
    let (mut last, mut after_blank) = (None, true);
    for line in text.lines() {
        if let Some(group) = group_of(line) {
            let fits = last.is_none_or(|last| if after_blank { group > last } else { group == last });
            if !fits {
                return Some(line);
            }
            (last, after_blank) = (Some(group), false);
        } else if line.is_empty() {
            after_blank = true;
        } else if last.is_some() && !line.starts_with([' ', '}']) {
            break;
        }
    }
    None
}

/// Returns the matches of the prose thermometer in a text: phrases that are not plain English.
pub(crate) fn phrases(text: &str) -> Vec<String> {
    let pattern = r"\bso many\b|\bgoes on\b|\b(is|are) no\b|\bof its own\b|\btells?\b|nats a \w+|/// What ";
    let pattern = Regex::new(pattern).expect("a valid pattern");
    let mut phrases = Vec::new();
    for line in text.lines() {
        for found in pattern.find_iter(line) {
            // "There is no" is fine.
            if !(found.as_str().ends_with(" no") && line[..found.start()].ends_with("there ")) {
                phrases.push(format!("`{}` in: {}", found.as_str(), line.trim()));
            }
        }
    }
    phrases
}
