//! Rows as the model sees them: token by token, with the targets marked.

use std::path::Path;

use chart::markup::{Element, classed, element};
use dataset::{Split, TextTokenizer, read_rows};

use crate::context::token_file;
use crate::error::Error;
use crate::number;
use crate::parts::{Section, folded};

/// Tokens of a row that are shown.
const SHOWN_TOKENS: usize = 600;
/// Tokens that together may spell out one character.
const CHARACTER_TOKENS: usize = 8;
/// Tokens of the rows that a report shows, at most, if there are such rows.
const MODEST: usize = 320;

/// One or more tokens with their text; several if they spell out one character together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    /// Number of tokens that it holds.
    pub(crate) tokens: usize,
    /// Whether it is a target.
    pub(crate) trained: bool,
    /// Whether it is a control token.
    pub(crate) special: bool,
}

/// A row with its pieces.
#[derive(Debug, Clone)]
pub(crate) struct TokenRow {
    pub(crate) id: String,
    pub(crate) source: String,
    pub(crate) tokens: usize,
    pub(crate) targets: usize,
    pub(crate) weight: f32,
    pub(crate) pieces: Vec<Piece>,
}

/// Reads `count` rows of a split, evenly spaced over it; `None` if the artifact has no tokens.
///
/// # Errors
///
/// Fails when the tokens, the rows or the tokenizer cannot be read.
pub(crate) fn read(dataset: &Path, split: &str, count: usize) -> Result<Option<Vec<TokenRow>>, Error> {
    let tokens = token_file(dataset, split);
    let data = dataset.join("data");
    let rows = data.join(outputs::ROWS).join(format!("{split}.jsonl"));
    let tokenizer = data.join(outputs::TOKENIZER);
    if !tokens.exists() || !rows.exists() || !tokenizer.exists() {
        return Ok(None);
    }
    let split = Split::open(&tokens)?;
    let tokenizer = Texts::open(&tokenizer)?;
    let wanted = choose(&split, count);
    let mut found = Vec::new();
    for (at, row) in read_rows(&rows)?.enumerate() {
        if found.len() == wanted.len() {
            break;
        }
        if wanted.binary_search(&at).is_err() || at >= split.len() {
            continue;
        }
        let (stored, row) = (row?, split.row(at));
        found.push(TokenRow {
            id: stored.id,
            source: stored.source,
            tokens: row.tokens.len(),
            targets: row.target_count(),
            weight: row.weight,
            pieces: tokenizer.pieces(row.tokens, row.trained)?,
        });
    }
    Ok(Some(found))
}

/// Returns row numbers, evenly spaced over the rows of modest length, or over all if there are few of those.
fn choose(split: &Split, count: usize) -> Vec<usize> {
    let modest: Vec<usize> = (0..split.len()).filter(|&row| split.row_length(row) <= MODEST).collect();
    let rows = if modest.len() >= count { modest } else { (0..split.len()).collect() };
    let count = count.min(rows.len());
    (0..count).map(|at| rows[at * rows.len() / count]).collect()
}

/// Decodes tokens one by one.
struct Texts {
    tokenizer: TextTokenizer,
    /// A token that is put before those to decode, because decoders drop a space at the start of a text.
    anchor: Option<u32>,
}

impl Texts {
    fn open(folder: &Path) -> Result<Self, Error> {
        let tokenizer = TextTokenizer::open(folder)?;
        let anchor = tokenizer.encode("a", false)?.last().copied();
        Ok(Self { tokenizer, anchor })
    }

    fn pieces(&self, tokens: &[u32], trained: &[u8]) -> Result<Vec<Piece>, Error> {
        let (mut pieces, mut at) = (Vec::new(), 0);
        while at < tokens.len().min(SHOWN_TOKENS) {
            let piece = |text: String, tokens: usize, special: bool| {
                let trained = trained[at..at + tokens].contains(&1);
                Piece { text, tokens, trained, special }
            };
            let next = if let Some(text) = self.control(tokens[at]) {
                piece(text, 1, true)
            } else {
                let most = CHARACTER_TOKENS.min(tokens.len() - at);
                let mut found = (self.decode(&tokens[at..=at])?, 1);
                // Half a character becomes whole with the tokens after it, or stays what it is.
                let mut count = 2;
                while found.0.contains('\u{fffd}') && count <= most {
                    let text = self.decode(&tokens[at..at + count])?;
                    if !text.contains('\u{fffd}') {
                        found = (text, count);
                    }
                    count += 1;
                }
                piece(found.0, found.1, false)
            };
            at += next.tokens;
            pieces.push(next);
        }
        Ok(pieces)
    }

    fn control(&self, token: u32) -> Option<String> {
        self.tokenizer
            .is_special(token)
            .then(|| self.tokenizer.control_text(token).map_or_else(|| format!("[{token}]"), str::to_owned))
    }

    fn decode(&self, tokens: &[u32]) -> Result<String, Error> {
        let Some(anchor) = self.anchor else { return Ok(self.tokenizer.decode(tokens, false)?) };
        let before = self.tokenizer.decode(&[anchor], false)?;
        let text = self.tokenizer.decode(&[&[anchor], tokens].concat(), false)?;
        match text.strip_prefix(&before) {
            Some(text) => Ok(text.to_owned()),
            None => Ok(self.tokenizer.decode(tokens, false)?),
        }
    }
}

/// Returns the section of a report with some training rows; `None` without tokens.
pub(crate) fn section(dataset: &Path, count: usize) -> Result<Option<Section>, Error> {
    let Some(rows) = read(dataset, "train", count)?.filter(|rows| !rows.is_empty()) else { return Ok(None) };
    let section = Section::new("tokens", "What is trained")
        .about(
            "Some training rows, token by token. The model learns to predict the underlined tokens; the others are context \
             that it only reads.",
        )
        .add(legend());
    Ok(Some(section.extend(rows.iter().map(row))))
}

/// Explains the marks.
pub(crate) fn legend() -> Element {
    let sample = |class: &str, text: &str| classed("span", class).text(text);
    classed("p", "legend")
        .child(element("mark").child(sample("t", "trained")))
        .child(sample("t", "context"))
        .child(sample("t special", "control token"))
}

/// Returns a row with its tokens.
pub(crate) fn row(row: &TokenRow) -> Element {
    let share = 100.0 * row.targets as f64 / row.tokens.max(1) as f64;
    let mut detail = format!(
        "{}, {} trained ({}%)",
        number::counted(row.tokens as u64, "token"),
        number::count(row.targets as u64),
        number::fixed(share, 0)
    );
    if row.weight.to_bits() != 1f32.to_bits() {
        detail.extend([", weight ", &number::three_digits(row.weight.into())]);
    }
    classed("article", "token-row")
        .child(
            classed("header", "sample-head").child(element("h3").child(element("bdi").text(&row.id))).child(
                classed("span", "rank").child(element("bdi").text(&row.source)).text(format!(" · {detail}")),
            ),
        )
        .children(body(row))
}

fn body(row: &TokenRow) -> Vec<Element> {
    let mut paragraph = classed("p", "tokens").attribute("dir", "auto");
    let mut at = 0;
    while at < row.pieces.len() {
        let trained = row.pieces[at].trained;
        let end = row.pieces[at..].iter().position(|piece| piece.trained != trained);
        let end = end.map_or(row.pieces.len(), |end| at + end);
        let spans = row.pieces[at..end].iter().map(span);
        if trained {
            paragraph = paragraph.child(element("mark").children(spans));
        } else {
            paragraph = paragraph.children(spans);
        }
        at = end;
    }
    let shown: usize = row.pieces.iter().map(|piece| piece.tokens).sum();
    let mut body = vec![paragraph];
    if shown < row.tokens {
        body.push(
            classed("p", "none")
                .text(format!("and {}", number::counted((row.tokens - shown) as u64, "more token"))),
        );
    }
    body
}

fn span(piece: &Piece) -> Element {
    let class = if piece.special { "t special" } else { "t" };
    let span = classed("span", class);
    let span =
        if piece.tokens > 1 { span.attribute("title", format!("{} tokens", piece.tokens)) } else { span };
    // A line break is shown where it is, and keeps its effect.
    span.text(piece.text.replace('\n', "↵\n").replace('\t', "⇥\t"))
}

/// Returns a row folded under its id.
pub(crate) fn folded_row(token_row: &TokenRow) -> Element {
    folded(
        &format!("{}: {}", token_row.id, number::counted(token_row.tokens as u64, "token")),
        row(token_row),
    )
}
