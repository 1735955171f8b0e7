//! Merges of `SentencePiece` pieces: every way to join two pieces into another, sorted by score.
//!
//! `SentencePiece` and llama.cpp merge the pair whose piece has the highest score, and the leftmost pair among equal scores. A list of
//! merges has a fixed order instead, so pieces with equal scores are refused if that order could change the tokens of a text.

use std::collections::HashMap;

use gguf::{Error, Result, kind};
use serde_json::{Value, json};

use super::tokens::{Tokens, shortened};

/// Maximum length of a merged piece in bytes. The longest one of Gemma has 93.
const MAX_PIECE_BYTES: usize = 256;
/// Maximum work of the search for merges, in compared bytes: ten times that of Gemma, which has the most pieces.
const MAX_STEPS: usize = 1 << 28;
/// Maximum total size of the merges in bytes: more than twice that of Gemma.
const MAX_MERGE_BYTES: usize = 64 << 20;
/// Approximate memory of a merge besides its text, in bytes.
const MERGE_BYTES: usize = 48;

/// A merge: the id of the piece, and the byte offset of the second part in its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Merge {
    id: u32,
    at: u32,
}

impl Merge {
    fn id(self) -> usize {
        self.id as usize
    }
}

/// Returns the merges that make each piece from two others, those of pieces with higher scores first.
///
/// # Errors
///
/// Fails when the search would take too long, when there are too many merges, and when their order is not known.
pub(super) fn merges_of(tokens: &Tokens<'_>, scores: &[f32]) -> Result<Vec<Value>> {
    let pieces = Pieces::new(tokens, scores)?;
    let mut merges = pieces.merges()?;
    // Of equal scores, longer pieces come first: runs of one character are then made from the left, as in llama.cpp.
    merges.sort_by(|a, b| {
        let by_score = pieces.score(b.id()).total_cmp(&pieces.score(a.id()));
        by_score.then_with(|| pieces.text(b.id()).len().cmp(&pieces.text(a.id()).len())).then(a.id.cmp(&b.id))
    });
    pieces.check_ties(&merges)?;
    Ok(merges.iter().map(|&merge| json!(pieces.parts(merge))).collect())
}

/// Pieces that can be made from text: not tokens for bytes, nor control tokens.
struct Pieces<'a> {
    tokens: &'a Tokens<'a>,
    scores: &'a [f32],
    /// Ids by text.
    ids: HashMap<&'a str, usize>,
}

impl<'a> Pieces<'a> {
    fn new(tokens: &'a Tokens<'a>, scores: &'a [f32]) -> Result<Self> {
        let is_piece = |kind: i64| ![kind::BYTE, kind::CONTROL, kind::UNKNOWN, kind::UNUSED].contains(&kind);
        let pieces = || tokens.all().filter(|&(.., kind)| is_piece(kind)).map(|(id, text, _)| (id, text));
        if let Some((id, text)) = pieces().find(|(_, text)| text.len() > MAX_PIECE_BYTES) {
            return Err(Error::Unsupported(format!(
                "the token {id} has {} bytes; tokens of up to {MAX_PIECE_BYTES} bytes are supported",
                text.len()
            )));
        }
        // Each place in a piece costs its length.
        let steps: usize = pieces().map(|(_, text)| text.len() * text.len()).sum();
        if steps > MAX_STEPS {
            return Err(Error::Unsupported(format!(
                "the tokens are too long: the squares of their bytes add up to {steps}; up to {MAX_STEPS} are supported"
            )));
        }
        Ok(Self { tokens, scores, ids: pieces().map(|(id, text)| (text, id)).collect() })
    }

    fn text(&self, id: usize) -> &'a str {
        &self.tokens.texts[id]
    }

    /// Returns the score of a piece, with one zero.
    fn score(&self, id: usize) -> f32 {
        self.scores[id] + 0.0
    }

    fn parts(&self, merge: Merge) -> [&'a str; 2] {
        let (left, right) = self.text(merge.id()).split_at(merge.at as usize);
        [left, right]
    }

    /// Finds all merges, those for one piece in the order of the ids of its parts.
    fn merges(&self) -> Result<Vec<Merge>> {
        let mut pieces: Vec<usize> = self.ids.values().copied().collect();
        pieces.sort_unstable();
        let (mut merges, mut bytes) = (Vec::new(), 0);
        for id in pieces {
            let text = self.text(id);
            let mut found: Vec<(usize, usize, usize)> = Vec::new();
            for (at, _) in text.char_indices().skip(1) {
                if let (Some(&left), Some(&right)) = (self.ids.get(&text[..at]), self.ids.get(&text[at..])) {
                    found.push((left, right, at));
                }
            }
            bytes += found.len() * (text.len() + MERGE_BYTES);
            if bytes > MAX_MERGE_BYTES {
                return Err(Error::Unsupported(format!(
                    "the tokens can be made from each other in too many ways: their merges have more than {} MiB",
                    MAX_MERGE_BYTES >> 20
                )));
            }
            found.sort_unstable();
            merges.extend(found.into_iter().map(|(.., at)| Merge { id: id as u32, at: at as u32 }));
        }
        Ok(merges)
    }

    /// Checks that the order of pieces with equal scores cannot change the tokens of a text; `merges` are sorted by score.
    ///
    /// It could if two of them can share a part, or if one of them is part of a piece that is not merged later. User-defined tokens are
    /// matched before anything is merged.
    fn check_ties(&self, merges: &[Merge]) -> Result<()> {
        let is_competing = |merge: &&Merge| self.tokens.kinds[merge.id()] != kind::USER_DEFINED;
        let runs = self.first_runs(merges);
        // Another piece with the same score for each piece that has one.
        let mut rivals: HashMap<usize, usize> = HashMap::new();
        for group in merges.chunk_by(|a, b| self.score(a.id()).total_cmp(&self.score(b.id())).is_eq()) {
            let group: Vec<Merge> = group.iter().filter(is_competing).copied().collect();
            let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
            if first.id == last.id {
                continue;
            }
            self.check_shared_parts(&group, &runs)?;
            rivals.extend(
                group
                    .iter()
                    .map(|merge| (merge.id(), if merge.id == first.id { last.id() } else { first.id() })),
            );
        }
        for merge in merges {
            for part in self.parts(*merge).map(|part| self.ids[part]) {
                let Some(&rival) = rivals.get(&part) else { continue };
                let is_later = self.score(merge.id()) < self.score(part);
                if !is_later && !self.is_run_of_both(part, merge.id(), &runs) {
                    return Err(self.tie(part, rival));
                }
            }
        }
        Ok(())
    }

    /// Checks that no two pieces of a group with equal scores can use the same part of a text.
    fn check_shared_parts(&self, group: &[Merge], runs: &HashMap<char, f32>) -> Result<()> {
        let mut starting: HashMap<&str, Vec<usize>> = HashMap::new();
        for &merge in group {
            starting.entry(self.parts(merge)[0]).or_default().push(merge.id());
        }
        for &merge in group {
            let others = starting.get(self.parts(merge)[1]).map_or(&[][..], Vec::as_slice);
            let rival = others
                .iter()
                .find(|&&other| other != merge.id() && !self.is_run_of_both(other, merge.id(), runs));
            if let Some(&rival) = rival {
                return Err(self.tie(merge.id(), rival));
            }
        }
        Ok(())
    }

    /// Returns the highest score of the runs of each character.
    fn first_runs(&self, merges: &[Merge]) -> HashMap<char, f32> {
        let mut runs = HashMap::new();
        for merge in merges {
            if let Some(character) = run_of(self.text(merge.id())) {
                runs.entry(character).or_insert(self.score(merge.id()));
            }
        }
        runs
    }

    /// Returns whether both pieces repeat the same character and no such piece has a higher score. Longer runs come first and all are
    /// merged from the left, so their order is known. Llama 2 has such runs of spaces.
    fn is_run_of_both(&self, a: usize, b: usize, runs: &HashMap<char, f32>) -> bool {
        let run = run_of(self.text(a));
        let is_first = |character| runs.get(&character).is_some_and(|&score| score <= self.score(a));
        run == run_of(self.text(b)) && run.is_some_and(is_first)
    }

    fn tie(&self, a: usize, b: usize) -> Error {
        let (a, b) = (a.min(b), a.max(b));
        Error::Unsupported(format!(
            "the tokens {a} ({:?}) and {b} ({:?}) have the same score, {}, so the order of their merges is not known",
            shortened(self.text(a)),
            shortened(self.text(b)),
            self.score(a)
        ))
    }
}

/// Returns the character that a text repeats.
fn run_of(text: &str) -> Option<char> {
    let first = text.chars().next()?;
    text.chars().all(|character| character == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merges_with(texts: &[&str], kinds: &[i64], scores: &[f32]) -> Result<Vec<Value>> {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        merges_of(&Tokens { texts: &texts, kinds: kinds.to_vec() }, scores)
    }

    fn merges(texts: &[&str], scores: &[f32]) -> Result<Vec<Value>> {
        merges_with(texts, &vec![kind::NORMAL; texts.len()], scores)
    }

    fn refusal(result: Result<Vec<Value>>) -> String {
        result.expect_err("it is refused").to_string()
    }

    #[test]
    fn merges_are_the_pairs_that_make_a_piece() {
        assert_eq!(merges(&["a", "b", "ab"], &[0.0; 3]).unwrap(), [json!(["a", "b"])]);
        let found = merges(&["a", "b", "ab", "c", "bc", "abc"], &[0.0, 0.0, -1.0, 0.0, -2.0, -3.0]).unwrap();
        assert_eq!(found, [json!(["a", "b"]), json!(["b", "c"]), json!(["a", "bc"]), json!(["ab", "c"])]);
    }

    #[test]
    fn a_piece_of_any_length_does_not_take_forever() {
        let (longest, longer) = ("a".repeat(MAX_PIECE_BYTES), "a".repeat(MAX_PIECE_BYTES + 1));
        merges(&["a", &longest], &[0.0; 2]).unwrap();
        let error = refusal(merges(&["a", &longer], &[0.0; 2]));
        assert!(error.contains("the token 1 has 257 bytes; tokens of up to 256 bytes"), "{error}");
        // It is matched as a whole.
        merges_with(&["a", &longer], &[1, kind::CONTROL], &[0.0; 2]).unwrap();
    }

    #[test]
    fn pieces_of_any_number_do_not_take_forever() {
        let texts: Vec<String> = (0..5000).map(|id| format!("{id:0256}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        merges(&texts[..4096], &vec![0.0; 4096]).unwrap();
        let error = refusal(merges(&texts, &vec![0.0; 5000]));
        assert!(error.contains("add up to 327680000; up to 268435456"), "{error}");
    }

    #[test]
    fn merges_of_any_number_do_not_take_all_memory() {
        // 16 runs of each of some characters, made in 120 ways.
        let runs = |characters: u32| -> Vec<String> {
            let all = (0x4e00..0x4e00 + characters).filter_map(char::from_u32);
            all.flat_map(|character| (1..=16).map(move |length| character.to_string().repeat(length)))
                .collect()
        };
        let found = |texts: &[String]| {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let scores: Vec<f32> = (0..texts.len()).map(|id| -(id as f32)).collect();
            merges(&texts, &scores)
        };
        assert_eq!(found(&runs(50)).unwrap().len(), 6000);
        let error = refusal(found(&runs(7000)));
        assert!(error.contains("more than 64 MiB"), "{error}");
    }

    #[test]
    fn pieces_with_one_score_that_share_a_part_are_refused() {
        let texts = ["a", "b", "c", "ab", "bc"];
        assert_eq!(merges(&texts, &[0.0, 0.0, 0.0, -1.0, -2.0]).unwrap().len(), 2);
        let error = refusal(merges(&texts, &[-1.0; 5]));
        let expected = r#"the tokens 3 ("ab") and 4 ("bc") have the same score, -1, so the order of their merges is not"#;
        assert!(error.contains(expected), "{error}");
        // Both zeros are equal.
        assert!(refusal(merges(&texts, &[0.0, 0.0, 0.0, 0.0, -0.0])).contains("the same score, 0"));
        // A token that is matched as a whole does not compete.
        merges_with(&texts, &[1, 1, 1, 1, kind::USER_DEFINED], &[-1.0; 5]).unwrap();
    }

    #[test]
    fn pieces_with_one_score_are_refused_where_one_of_them_goes_on() {
        let texts = ["a", "b", "c", "d", "ab", "cd", "abc"];
        // After `ab`, `abc` takes the `c` that `cd` needs.
        let error = refusal(merges(&texts, &[0.0, 0.0, 0.0, 0.0, -5.0, -5.0, -1.0]));
        assert!(error.contains(r#"4 ("ab") and 5 ("cd")"#), "{error}");
        // Here `cd` is made before.
        assert_eq!(merges(&texts, &[0.0, 0.0, 0.0, 0.0, -5.0, -5.0, -9.0]).unwrap().len(), 3);
    }

    #[test]
    fn pieces_with_one_score_that_never_meet_are_accepted() {
        // Pieces without merges have whatever score; so have two that share no part.
        assert_eq!(merges(&["a", "b", "c", "d", "ab", "cd", "xyz"], &[-1e9; 7]).unwrap().len(), 2);
    }

    /// Returns the lengths in characters of the tokens of a run of `count` marks.
    fn lengths(texts: &[&str], merges: &[Value], count: usize) -> Vec<usize> {
        let vocabulary: serde_json::Map<String, Value> =
            texts.iter().enumerate().map(|(id, &text)| (text.to_owned(), id.into())).collect();
        let model = json!({ "type": "BPE", "vocab": vocabulary, "merges": merges });
        let tokenizer = json!({ "version": "1.0", "added_tokens": [], "model": model }).to_string();
        let tokenizer: tokenizers::Tokenizer = tokenizer.parse().unwrap();
        let encoding = tokenizer.encode("▁".repeat(count), false).unwrap();
        encoding.get_tokens().iter().map(|token| token.chars().count()).collect()
    }

    #[test]
    fn runs_with_one_score_are_made_from_the_left() {
        let runs: Vec<String> = (1..=16).map(|length| "▁".repeat(length)).collect();
        let mut texts: Vec<&str> = runs.iter().map(String::as_str).collect();
        texts.extend(["\n", "\n\n", "\n\n\n"]);
        let mut scores = [-1e9; 19];
        let found = merges(&texts, &scores).unwrap();
        for (count, expected) in [(5, &[5][..]), (17, &[16, 1]), (21, &[16, 5]), (47, &[16, 16, 15])] {
            assert_eq!(lengths(&texts, &found, count), expected);
        }
        // A run that comes before them leaves other starts.
        scores[1] = -1.0;
        assert!(refusal(merges(&texts, &scores)).contains("have the same score"));
    }
}
