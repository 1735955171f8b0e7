//! Writing systems in a dataset, and characters that often come from damage.

use std::collections::BTreeMap;
use std::path::Path;

use dataset::{StoredRow, read_rows};
use outputs::SPLITS;
use unicode_script::{Script, UnicodeScript as _};

use super::rows::counted_row;
use crate::error::Error;
use crate::number;
use crate::parts::{Section, number_column, table, words_column};

/// Whether a character is of a kind.
type Test = fn(char) -> bool;

/// Characters that are worth a look, by what they are.
const SUSPECT: [(&str, Test); 4] = [
    ("replacement characters (U+FFFD), left by a wrong encoding", |c| c == '\u{fffd}'),
    ("control characters other than tabs and line breaks", |c| {
        c.is_control() && !['\t', '\n', '\r'].contains(&c)
    }),
    (
        "characters that set the direction of text",
        |c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'),
    ),
    ("characters for private use", |c| matches!(c, '\u{e000}'..='\u{f8ff}')),
];

/// Counts of one writing system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Count {
    characters: u64,
    rows: u64,
}

/// Characters of a dataset.
#[derive(Debug, Clone, Default)]
struct Characters {
    scripts: BTreeMap<&'static str, Count>,
    /// Rows with each kind of suspect characters.
    suspect: [u64; SUSPECT.len()],
    rows: u64,
    /// Rows that are not in Unicode's composed form.
    decomposed: u64,
}

impl Characters {
    fn add(&mut self, text: &str) {
        self.rows += 1;
        let mut found: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut has = [false; SUSPECT.len()];
        let mut marks = false;
        for character in text.chars() {
            match character.script() {
                // Spaces, digits and punctuation are used by all; combining marks by the letter before them.
                Script::Common | Script::Inherited | Script::Unknown => {
                    marks |= matches!(character, '\u{300}'..='\u{36f}');
                }
                script => *found.entry(script.full_name()).or_default() += 1,
            }
            for (has, (_, is)) in has.iter_mut().zip(SUSPECT) {
                *has |= is(character);
            }
        }
        for (script, characters) in found {
            let count = self.scripts.entry(script).or_default();
            count.characters += characters;
            count.rows += 1;
        }
        self.decomposed += u64::from(marks);
        for (rows, has) in self.suspect.iter_mut().zip(has) {
            *rows += u64::from(has);
        }
    }
}

/// Returns the section; `None` without rows.
///
/// # Errors
///
/// Fails when a file of rows is damaged.
pub(crate) fn section(folder: &Path) -> Result<Option<Section>, Error> {
    let mut characters = Characters::default();
    for split in SPLITS {
        let file = folder.join("data").join(outputs::ROWS).join(format!("{split}.jsonl"));
        if file.exists() {
            for row in read_rows(&file)? {
                characters.add(&text(&row?));
            }
        }
    }
    if characters.rows == 0 {
        return Ok(None);
    }
    let all: u64 = characters.scripts.values().map(|count| count.characters).sum();
    let mut scripts: Vec<(&str, &Count)> =
        characters.scripts.iter().map(|(name, count)| (*name, count)).collect();
    scripts.sort_by_key(|(name, count)| (std::cmp::Reverse(count.characters), *name));
    let rows = scripts.iter().map(|(name, count)| {
        let share = 100.0 * count.characters as f64 / all.max(1) as f64;
        let share = if share < 0.1 { number::three_digits(share) } else { number::fixed(share, 1) };
        counted_row(
            &name.replace('_', " "),
            [number::count(count.characters), format!("{share}%"), number::count(count.rows)],
        )
    });
    let columns = [
        words_column("Writing system"),
        number_column("Letters"),
        number_column("Of all"),
        number_column("Rows"),
    ];
    let mut section = Section::new("scripts", "Writing systems")
        .about("Letters in prompts and answers of all splits; spaces, digits and punctuation belong to no writing system.")
        .add(table("Writing systems", &columns, rows));
    let suspect = SUSPECT.iter().zip(characters.suspect).filter(|(_, rows)| *rows > 0);
    let mut notes: Vec<String> =
        suspect.map(|((what, _), rows)| format!("{} with {what}.", number::counted(rows, "row"))).collect();
    if characters.decomposed > 0 {
        notes.push(format!(
            "{} with combining accents; `normalize` composes them, so that equal words have equal tokens.",
            number::counted(characters.decomposed, "row")
        ));
    }
    if !notes.is_empty() {
        section = section.add(crate::parts::notes(notes));
    }
    Ok(Some(section))
}

/// Returns the text of a row: its messages, or its plain text.
fn text(row: &StoredRow) -> String {
    let mut text = row.text.clone().unwrap_or_default();
    for message in row.messages.iter().flatten() {
        match message.get("content") {
            Some(serde_json::Value::String(content)) => text.push_str(content),
            Some(serde_json::Value::Array(parts)) => {
                for part in parts.iter().filter_map(|part| part.get("text")?.as_str()) {
                    text.push_str(part);
                }
            }
            _ => {}
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_counted_by_writing_system_and_damage_is_seen() {
        let mut characters = Characters::default();
        characters.add("Aloha 東京! 123");
        characters.add("ʻōlelo \u{fffd} \u{202e}x a\u{304}");
        let count = |name| characters.scripts.get(name).cloned().unwrap_or_default();
        assert_eq!(count("Latin").rows, 2);
        assert_eq!(count("Han"), Count { characters: 2, rows: 1 });
        assert_eq!((characters.suspect, characters.decomposed), ([1, 0, 1, 0], 1));
    }
}
