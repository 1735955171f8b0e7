//! Comparing whole prompts and whole answers, for texts that are too short to have shingles.
//!
//! The prompt of a row is all its messages that ask (neither the model's nor system messages), and its answer all messages
//! of the model. Three things are compared as hashes: the prompt, the answer, and the answer together with the first or last
//! words of the prompt, which finds a short pair behind a prefix such as `Translate:`.

use crate::hash::Hash;

/// Fewest words of a prompt that is compared on its own; `thank you` is asked often.
const PROMPT_WORDS: usize = 3;
/// Fewest words of an answer that is compared on its own; labels and `I don't know` are answered often.
const ANSWER_WORDS: usize = 4;
/// Fewest words of a prompt and its answer together that are compared as a pair.
const PAIR_WORDS: usize = 3;
/// Most words of a prompt that is looked for inside another; longer ones have shingles.
const EDGE_WORDS: usize = 7;

/// Words of one side of a row.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// Whether the model wrote them.
    pub(super) of_model: bool,
    pub(super) hashes: Vec<u64>,
}

/// Meaning of a key for a row; keys with different meanings never match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Meaning {
    Prompt = 1,
    Answer,
    /// A whole short prompt with its answer.
    Pair,
    /// The first or last words of a prompt, with its answer.
    Edge,
}

/// Keys of a row: hashes of whole texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) prompt: Option<u64>,
    pub(super) answer: Option<u64>,
    /// The pair, if the prompt is short.
    pub(super) pair: Option<u64>,
    pub(super) edges: Vec<u64>,
}

impl Keys {
    /// Returns the keys of a row with these sides; none for plain text.
    pub(super) fn of(sides: &[Words]) -> Self {
        let join = |of_model: bool| -> Vec<u64> {
            sides
                .iter()
                .filter(|side| side.of_model == of_model)
                .flat_map(|side| side.hashes.clone())
                .collect()
        };
        let (prompt, answer) = (join(false), join(true));
        if prompt.is_empty() || answer.is_empty() {
            return Self::default();
        }
        let whole = |words: &[u64], least: usize| (words.len() >= least).then(|| hash(words));
        let answer_hash = hash(&answer);
        let pair = |words: &[u64]| hash(&[hash(words), answer_hash]);
        let long_enough = |words: &[u64]| words.len() + answer.len() >= PAIR_WORDS;
        let mut edges: Vec<u64> = (1..=EDGE_WORDS.min(prompt.len()))
            .flat_map(|count| [&prompt[..count], &prompt[prompt.len() - count..]])
            .filter(|words| long_enough(words))
            .map(pair)
            .collect();
        edges.sort_unstable();
        edges.dedup();
        Self {
            prompt: whole(&prompt, PROMPT_WORDS),
            answer: whole(&answer, ANSWER_WORDS),
            pair: (prompt.len() <= EDGE_WORDS && long_enough(&prompt)).then(|| pair(&prompt)),
            edges,
        }
    }

    /// Returns the keys under which a checked row is found.
    pub(super) fn offered(&self) -> impl Iterator<Item = u64> {
        self.keys([Meaning::Prompt, Meaning::Answer, Meaning::Pair, Meaning::Edge]).map(|(_, key)| key)
    }

    /// Returns the keys that a training row looks for: a whole pair among the edges of others, and the other way round.
    pub(super) fn wanted(&self) -> impl Iterator<Item = (Meaning, u64)> {
        self.keys([Meaning::Prompt, Meaning::Answer, Meaning::Edge, Meaning::Pair])
    }

    fn keys(&self, [prompt, answer, pair, edge]: [Meaning; 4]) -> impl Iterator<Item = (Meaning, u64)> {
        let single = [(prompt, self.prompt), (answer, self.answer), (pair, self.pair)];
        let single = single.into_iter().filter_map(|(meaning, key)| Some((meaning, key?)));
        let edges = self.edges.iter().map(move |&key| (edge, key));
        single.chain(edges).map(|(meaning, key)| (meaning, hash(&[meaning as u64, key])))
    }
}

fn hash(numbers: &[u64]) -> u64 {
    let mut hash = Hash::default();
    for &number in numbers {
        hash.number(number);
    }
    hash.value()
}
