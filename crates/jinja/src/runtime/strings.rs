//! The methods of Python's strings; positions count characters.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::runtime::arguments::Arguments;
use crate::runtime::budget::{Budget, Builder};
use crate::runtime::format;
use crate::runtime::machine::Machine;
use crate::runtime::memory::Text;
use crate::runtime::numerals;
use crate::runtime::print::is_printable;
use crate::runtime::value::{Item, Value};
use crate::syntax::lexer::is_space;

pub(crate) const METHODS: [&str; 44] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];

/// Calls a method of `text`.
pub(crate) fn call(
    machine: &mut Machine<'_>,
    text: &str,
    name: &str,
    arguments: &mut Arguments,
) -> Result<Value> {
    let budget = machine.budget;
    budget.copies(text.len())?;
    if changes_case(name) {
        allow_case_change(text, budget)?;
    }
    Ok(match name {
        "capitalize" => capitalize(text).into(),
        "lower" => text.to_lowercase().into(),
        "casefold" => text.to_lowercase().replace('ß', "ss").replace('ς', "σ").into(),
        "zfill" => zero_filled(text, arguments.integer("width")?.unwrap_or(0), budget)?.into(),
        "upper" => text.to_uppercase().into(),
        "swapcase" => text.chars().map(swap_case).collect::<String>().into(),
        "title" => title(text).into(),
        "center" | "ljust" | "rjust" => justify(text, name, arguments, budget)?,
        "strip" | "lstrip" | "rstrip" => {
            let letters = arguments.text("chars")?;
            strip(text, letters.as_deref(), name != "rstrip", name != "lstrip", budget)?.into()
        }
        "startswith" | "endswith" => affix(text, name == "startswith", arguments, budget)?,
        "removeprefix" => {
            let prefix = required(arguments, "prefix")?;
            budget.text(text.len())?;
            text.strip_prefix(&*prefix).unwrap_or(text).into()
        }
        "removesuffix" => {
            let suffix = required(arguments, "suffix")?;
            budget.text(text.len())?;
            text.strip_suffix(&*suffix).filter(|_| !suffix.is_empty()).unwrap_or(text).into()
        }
        "find" | "rfind" | "index" | "rindex" | "count" => search(text, name, arguments, budget)?,
        "replace" => {
            let (old, new) = (required(arguments, "old")?, required(arguments, "new")?);
            let count = arguments.integer("count")?.filter(|count| *count >= 0);
            replace(text, &old, &new, count, budget)?.into()
        }
        "split" | "rsplit" => {
            let separator = arguments.text("sep")?;
            let limit = arguments.integer("maxsplit")?.filter(|limit| *limit >= 0);
            let limit = limit.map_or(usize::MAX, |limit| limit as usize);
            texts(split(text, separator.as_deref(), limit, name == "rsplit", budget)?)
        }
        "splitlines" => texts(split_lines(text, arguments.flag("keepends"), budget)?),
        "partition" | "rpartition" => {
            budget.text(2 * text.len())?;
            partition(text, &required(arguments, "sep")?, name == "rpartition", budget)?
        }
        "join" => join(machine, text, &arguments.require("iterable")?)?,
        "expandtabs" => expand_tabs(text, arguments.integer("tabsize")?.unwrap_or(8), budget)?.into(),
        "format" => {
            let out = format::format(machine, text, arguments)?;
            arguments.rest();
            arguments.named.clear();
            out.into()
        }
        "format_map" => {
            let map = arguments.require("mapping")?;
            budget.list(2 * map.length(budget)?)?;
            let mut fields = Arguments::default();
            if let Value::Dict(dict) = &map {
                for Item { key, value } in dict.items() {
                    if let Value::Str(name) = key {
                        fields.push(name.clone(), value.clone());
                    }
                }
            }
            format::format(machine, text, &fields)?.into()
        }
        _ => {
            budget.visits(text.len())?;
            budget.text(text.len().saturating_mul(3))?;
            predicate(text, name).into()
        }
    })
}

fn changes_case(name: &str) -> bool {
    matches!(name, "capitalize" | "lower" | "casefold" | "upper" | "swapcase" | "title")
}

/// Asks for the text with its case changed, which may be three times as long.
pub(crate) fn allow_case_change(text: &str, budget: &Budget) -> Result<()> {
    budget.visits(text.len())?;
    budget.text(text.len().saturating_mul(3))
}

fn required(arguments: &mut Arguments, name: &str) -> Result<Text> {
    arguments.text(name)?.ok_or_else(|| Error::of_type(format!("'{name}' must be str, not NoneType")))
}

fn texts(parts: Vec<String>) -> Value {
    Value::list(parts.into_iter().map(Value::from).collect())
}

pub(crate) fn capitalize(text: &str) -> String {
    let mut letters = text.chars();
    let first: String = letters.next().map(title_case).unwrap_or_default();
    first + &letters.as_str().to_lowercase()
}

/// Returns a letter as it begins a word.
fn title_case(letter: char) -> String {
    if matches!(letter, 'ǆ' | 'ǅ' | 'Ǆ') {
        return "ǅ".to_owned();
    }
    // A letter that becomes several, such as `ﬁ`, has one large letter.
    let mut upper = letter.to_uppercase();
    let first = upper.next().map(String::from).unwrap_or_default();
    first + &upper.collect::<String>().to_lowercase()
}

fn swap_case(letter: char) -> String {
    if letter.is_lowercase() { letter.to_uppercase().collect() } else { letter.to_lowercase().collect() }
}

fn title(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for letter in text.chars() {
        if inside {
            out.extend(letter.to_lowercase());
        } else {
            out.push_str(&title_case(letter));
        }
        inside = letter.is_lowercase() || letter.is_uppercase() || letter == 'ǅ';
    }
    out
}

fn justify(text: &str, name: &str, arguments: &mut Arguments, budget: &Budget) -> Result<Value> {
    let width = arguments.integer("width")?.unwrap_or(0).max(0) as usize;
    let fill = arguments.text("fillchar")?.unwrap_or_else(|| " ".into());
    if fill.chars().count() != 1 {
        return Err(Error::of_type("The fill character must be exactly one character long"));
    }
    let missing = width.saturating_sub(text.chars().count());
    budget.text(text.len().saturating_add(missing.saturating_mul(fill.len())))?;
    let left = match name {
        "ljust" => 0,
        "rjust" => missing,
        // Python puts the odd space to the left if the width is odd.
        _ => missing / 2 + (missing & width & 1),
    };
    Ok(format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left)).into())
}

/// Puts zeros between the sign and the text.
fn zero_filled(text: &str, width: i64, budget: &Budget) -> Result<String> {
    let missing = (width.max(0) as usize).saturating_sub(text.chars().count());
    budget.text(text.len().saturating_add(missing.saturating_mul(2)))?;
    let (sign, rest) = text.split_at(usize::from(text.starts_with(['+', '-'])));
    Ok(format!("{sign}{}{rest}", "0".repeat(missing)))
}

/// Removes letters, or white space, from the ends of `text`.
pub(crate) fn strip(
    text: &str,
    letters: Option<&str>,
    start: bool,
    end: bool,
    budget: &Budget,
) -> Result<String> {
    budget.visits(text.len())?;
    budget.text(text.len())?;
    let set = letters.map(|letters| letter_set(letters, budget)).transpose()?;
    let removes = |letter: char| set.as_ref().map_or_else(|| is_space(letter), |set| set.contains(&letter));
    let kept = if start { text.trim_start_matches(removes) } else { text };
    let kept = if end { kept.trim_end_matches(removes) } else { kept };
    Ok(kept.to_owned())
}

/// Returns the set of characters in a text.
fn letter_set(letters: &str, budget: &Budget) -> Result<HashSet<char>> {
    budget.visits(letters.len().saturating_mul(4))?;
    budget.fits(letters.len().min(char::MAX as usize).saturating_mul(4 * size_of::<char>()))?;
    // Collecting them would make room for each letter of the text.
    let mut set = HashSet::new();
    for letter in letters.chars() {
        set.insert(letter);
    }
    Ok(set)
}

fn affix(text: &str, at_start: bool, arguments: &mut Arguments, budget: &Budget) -> Result<Value> {
    let wanted = arguments.require("prefix")?;
    let text = part(text, arguments, budget)?;
    let is_affix = |affix: &Value| match affix {
        Value::Str(affix) if at_start => Ok(text.starts_with(&**affix)),
        Value::Str(affix) => Ok(text.ends_with(&**affix)),
        other => {
            let name = if at_start { "startswith" } else { "endswith" };
            let kind = other.type_name();
            Err(Error::of_type(format!("{name} first arg must be str or a tuple of str, not {kind}")))
        }
    };
    if let Value::Tuple(affixes) = &wanted {
        for affix in affixes.iter() {
            budget.copies(64 + affix.as_str().map_or(0, str::len))?;
            if is_affix(affix)? {
                return Ok(true.into());
            }
        }
        return Ok(false.into());
    }
    Ok(is_affix(&wanted)?.into())
}

/// Returns the part of `text` between the optional arguments `start` and `end`.
fn part<'t>(text: &'t str, arguments: &mut Arguments, budget: &Budget) -> Result<&'t str> {
    Ok(bounds(text, arguments, budget)?.part)
}

/// A part of a text.
struct Part<'t> {
    /// Characters before it.
    start: usize,
    part: &'t str,
}

fn bounds<'t>(text: &'t str, arguments: &mut Arguments, budget: &Budget) -> Result<Part<'t>> {
    let (from, to) = (arguments.integer("start")?, arguments.integer("end")?);
    if from.is_none() && to.is_none() {
        return Ok(Part { start: 0, part: text });
    }
    budget.copies(4 * text.len())?;
    let length = text.chars().count() as i64;
    let place = |bound: i64| {
        let bound = if bound < 0 { bound.saturating_add(length) } else { bound };
        bound.clamp(0, length) as usize
    };
    let start = from.map_or(0, place);
    let end = to.map_or(length as usize, place).max(start);
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    Ok(Part { start, part: &text[byte(start)..byte(end)] })
}

fn search(text: &str, name: &str, arguments: &mut Arguments, budget: &Budget) -> Result<Value> {
    let wanted = required(arguments, "sub")?;
    let Part { start, part } = bounds(text, arguments, budget)?;
    let fits = budget.search(part, &wanted)?;
    if name == "count" {
        let count = if wanted.is_empty() {
            part.chars().count() + 1
        } else if fits {
            part.matches(&*wanted).count()
        } else {
            0
        };
        return Ok(count.into());
    }
    let found = if !fits {
        None
    } else if name.starts_with('r') {
        part.rfind(&*wanted)
    } else {
        part.find(&*wanted)
    };
    match found {
        Some(bytes) => Ok((start + part[..bytes].chars().count()).into()),
        None if name.ends_with("find") => Ok(Value::Int(-1)),
        None => Err(Error::of_type("substring not found")),
    }
}

/// Replaces at most `count` occurrences.
pub(crate) fn replace(
    text: &str,
    old: &str,
    new: &str,
    count: Option<i64>,
    budget: &Budget,
) -> Result<String> {
    budget.visits(text.len())?;
    // The text is searched twice.
    if !(budget.search(text, old)? && budget.search(text, old)?) {
        budget.text(text.len())?;
        return Ok(text.to_owned());
    }
    let occurrences = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    let count = count.map_or(occurrences, |count| (count as usize).min(occurrences));
    // The text grows as it is written, up to twice its length.
    budget.text(text.len().saturating_add(count.saturating_mul(new.len())).saturating_mul(2))?;
    budget.visits(count)?;
    Ok(text.replacen(old, new, count))
}

fn split(
    text: &str,
    separator: Option<&str>,
    limit: usize,
    from_right: bool,
    budget: &Budget,
) -> Result<Vec<String>> {
    budget.visits(text.len())?;
    let Some(separator) = separator else {
        let spaces = text.chars().filter(|letter| is_space(*letter)).count();
        budget.texts(2 * spaces.min(limit).saturating_add(1), text.len())?;
        return Ok(split_words(text, limit, from_right));
    };
    if separator.is_empty() {
        return Err(Error::of_type("empty separator"));
    }
    // The text is searched twice.
    if !(budget.search(text, separator)? && budget.search(text, separator)?) {
        budget.texts(1, text.len())?;
        return Ok(vec![text.to_owned()]);
    }
    budget.texts(2 * text.matches(separator).count().min(limit).saturating_add(1), text.len())?;
    let limit = limit.saturating_add(1);
    if !from_right {
        return Ok(text.splitn(limit, separator).map(str::to_owned).collect());
    }
    let mut parts: Vec<String> = text.rsplitn(limit, separator).map(str::to_owned).collect();
    parts.reverse();
    Ok(parts)
}

/// Splits at white space, and drops it at the ends.
fn split_words(text: &str, limit: usize, from_right: bool) -> Vec<String> {
    let mut parts = Vec::new();
    if from_right {
        let mut rest = text.trim_end_matches(is_space);
        while !rest.is_empty() && parts.len() < limit {
            let start =
                rest.rfind(is_space).map_or(0, |at| at + rest[at..].chars().next().map_or(1, char::len_utf8));
            parts.push(rest[start..].to_owned());
            rest = rest[..start].trim_end_matches(is_space);
        }
        if !rest.is_empty() {
            parts.push(rest.to_owned());
        }
        parts.reverse();
        return parts;
    }
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() && parts.len() < limit {
        let end = rest.find(is_space).unwrap_or(rest.len());
        parts.push(rest[..end].to_owned());
        rest = rest[end..].trim_start_matches(is_space);
    }
    if !rest.is_empty() {
        parts.push(rest.to_owned());
    }
    parts
}

fn is_line_end(letter: char) -> bool {
    matches!(letter, '\n'..='\r' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Splits a text as `splitlines` does: also at line ends other than a newline, and without an empty line at the end.
pub(crate) fn split_lines(text: &str, keep_ends: bool, budget: &Budget) -> Result<Vec<String>> {
    let ends = text.chars().filter(|letter| is_line_end(*letter)).count();
    budget.texts(2 * ends + 1, text.len())?;
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(is_line_end).unwrap_or(rest.len());
        let mark = if rest[end..].starts_with("\r\n") {
            2
        } else {
            rest[end..].chars().next().map_or(0, char::len_utf8)
        };
        lines.push(rest[..if keep_ends { end + mark } else { end }].to_owned());
        rest = &rest[end + mark..];
    }
    Ok(lines)
}

fn partition(text: &str, separator: &str, from_right: bool, budget: &Budget) -> Result<Value> {
    if separator.is_empty() {
        return Err(Error::of_type("empty separator"));
    }
    let found = if !budget.search(text, separator)? {
        None
    } else if from_right {
        text.rsplit_once(separator)
    } else {
        text.split_once(separator)
    };
    let parts = match (found, from_right) {
        (Some((before, after)), _) => [before, separator, after],
        (None, false) => [text, "", ""],
        (None, true) => ["", "", text],
    };
    Ok(Value::tuple(parts.map(Value::from).to_vec()))
}

fn join(machine: &mut Machine<'_>, separator: &str, items: &Value) -> Result<Value> {
    let mut out = Builder::new(machine.budget);
    for (index, item) in items.iterate(machine.budget)?.iter().enumerate() {
        machine.budget.steps(1)?;
        let Value::Str(text) = item else {
            let kind = item.type_name();
            return Err(Error::of_type(format!(
                "sequence item {index}: expected str instance, {kind} found"
            )));
        };
        if index > 0 {
            out.push_str(separator)?;
        }
        out.push_str(text)?;
    }
    Ok(out.finish().into())
}

fn expand_tabs(text: &str, size: i64, budget: &Budget) -> Result<String> {
    let size = size.max(0) as usize;
    let (mut out, mut column) = (Builder::new(budget), 0);
    for letter in text.chars() {
        match letter {
            '\t' if size > 0 => {
                let spaces = size - column % size;
                out.repeat(" ", spaces)?;
                column += spaces;
            }
            '\t' => {}
            '\n' | '\r' => {
                out.push(letter)?;
                column = 0;
            }
            _ => {
                out.push(letter)?;
                column += 1;
            }
        }
    }
    Ok(out.finish())
}

fn predicate(text: &str, name: &str) -> bool {
    let all = |holds: fn(char) -> bool| !text.is_empty() && text.chars().all(holds);
    let cased = |letter: char| letter.is_lowercase() || letter.is_uppercase();
    match name {
        "isalnum" => all(char::is_alphanumeric),
        "isalpha" => all(char::is_alphabetic),
        "isascii" => text.is_ascii(),
        "isdecimal" => all(numerals::is_decimal),
        "isdigit" => all(numerals::is_digit),
        "isnumeric" => all(numerals::is_numeric),
        "isidentifier" => {
            let starts = text.starts_with(|letter: char| letter == '_' || letter.is_alphabetic());
            starts && text.chars().all(|letter| letter == '_' || letter.is_alphanumeric())
        }
        "islower" => text.chars().any(cased) && !text.chars().any(char::is_uppercase),
        "isupper" => text.chars().any(cased) && !text.chars().any(char::is_lowercase),
        "isprintable" => text.chars().all(is_printable),
        "isspace" => all(is_space),
        _ => text.chars().any(cased) && title(text) == text,
    }
}
