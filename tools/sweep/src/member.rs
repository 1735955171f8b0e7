//! Members of a sweep and their runs.

use artifact::FileHash;
use rand::SeedableRng as _;
use rand::rngs::ChaCha8Rng;
use toml::Value;

use crate::error::{Error, Result};
use crate::space::{Dimension, product, words};
use crate::spec::{Draws, Search, Sweep};
use crate::value;

/// Longest name of a member, before the hash that makes it unique.
const LONGEST_NAME: usize = 80;
/// Draws for each member that is wanted, before a space counts as exhausted.
const ATTEMPTS: usize = 100;

/// One combination of the settings that vary.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Member {
    /// Name made from the settings, which is also the name of its folder.
    pub(crate) name: String,
    /// Settings that vary, by name.
    pub(crate) values: Vec<(String, Value)>,
}

/// One run of the pipeline: a member with a seed, trained to some length.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Run {
    /// Name of the member, with the seed.
    pub(crate) name: String,
    /// All settings of the sweep.
    pub(crate) settings: Vec<(String, Value)>,
    /// The seed, if the sweep sets it.
    pub(crate) seed: Option<i64>,
}

impl Member {
    pub(crate) fn new(values: Vec<(String, Value)>) -> Self {
        Self { name: named(&values), values }
    }

    /// Returns its runs, one for each seed; `steps` is their length, if the sweep decides it.
    pub(crate) fn runs(&self, sweep: &Sweep, steps: Option<u64>) -> Vec<Run> {
        let seeds: Vec<Option<i64>> =
            if sweep.seeds.is_empty() { vec![None] } else { sweep.seeds.iter().copied().map(Some).collect() };
        let run = |seed: Option<i64>| {
            let mut settings = sweep.fixed.clone();
            settings.extend(self.values.iter().cloned());
            settings.extend(steps.map(|steps| ("train.steps".to_owned(), Value::Integer(steps as i64))));
            settings.extend(seed.map(|seed| (sweep.seed_setting.clone(), Value::Integer(seed))));
            let name = seed.map_or(self.name.clone(), |seed| format!("{}_seed-{seed}", self.name));
            Run { name, settings, seed }
        };
        seeds.into_iter().map(run).collect()
    }
}

impl Run {
    /// Returns the value of `SET` with which make runs it, after `common` settings.
    ///
    /// # Errors
    ///
    /// Fails if make would split a value into other words.
    pub(crate) fn set(&self, common: &[String]) -> Result<String> {
        let words: Vec<String> = common.iter().cloned().chain(words(&self.settings)).collect();
        let set = words.join(" ");
        // As the Makefile reads it: a word without `=` continues the value before it.
        let mut read: Vec<String> = Vec::new();
        for word in set.split_ascii_whitespace() {
            match read.last_mut() {
                Some(last) if !word.contains('=') => last.extend([" ", word]),
                _ => read.push(word.to_owned()),
            }
        }
        // A stage trims values.
        let begins_with_space =
            |word: &str| word.split_once('=').is_some_and(|(_, value)| value.starts_with(' '));
        match (0..words.len()).find(|at| read.get(*at) != words.get(*at) || begins_with_space(&words[*at])) {
            Some(at) => Err(Error::Word { set: words[at].clone() }),
            None if read.len() > words.len() => Err(Error::Word { set }),
            None => Ok(set),
        }
    }
}

/// Names a member after its settings, such as `learning-rate-1e-3_rank-8`.
fn named(values: &[(String, Value)]) -> String {
    let parts: Vec<String> = values
        .iter()
        .map(|(setting, value)| {
            let short = setting.rsplit('.').next().unwrap_or(setting).replace('_', "-");
            format!("{short}-{}", value::text(value))
        })
        .collect();
    let wanted = parts.join("_");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if wanted.len() <= LONGEST_NAME && wanted.chars().all(is_plain) {
        return wanted;
    }
    let plain: String =
        wanted.chars().map(|c| if is_plain(c) { c } else { '-' }).take(LONGEST_NAME).collect();
    let hash = FileHash::of(words(values).join("\n").as_bytes()).to_string();
    let digits = hash.rsplit(':').next().unwrap_or(&hash);
    format!("{plain}-{}", &digits[..8])
}

/// Returns the members that are known before any has run.
///
/// # Errors
///
/// Fails for a search that chooses its members by results.
pub(crate) fn known(sweep: &Sweep) -> Result<Vec<Member>> {
    match &sweep.search {
        Search::Grid | Search::Halving { draws: None, .. } => Ok(grid(&sweep.space)),
        Search::Random(draws) | Search::Halving { draws: Some(draws), .. } => Ok(drawn(&sweep.space, *draws)),
        Search::Tpe { .. } => Err(Error::NotKnown { search: sweep.search.name() }),
    }
}

fn grid(space: &[Dimension]) -> Vec<Member> {
    let dimensions: Vec<(String, Vec<Value>)> = space
        .iter()
        .map(|dimension| (dimension.setting.clone(), dimension.domain.grid().unwrap_or_default()))
        .collect();
    product(&dimensions).into_iter().map(Member::new).collect()
}

/// Draws members; fewer than wanted if there are not as many different ones.
fn drawn(space: &[Dimension], draws: Draws) -> Vec<Member> {
    let mut random = ChaCha8Rng::seed_from_u64(draws.seed);
    let mut members: Vec<Member> = Vec::new();
    for _ in 0..draws.members.saturating_mul(ATTEMPTS) {
        if members.len() == draws.members {
            break;
        }
        let values =
            space.iter().map(|dimension| (dimension.setting.clone(), dimension.domain.draw(&mut random)));
        let member = Member::new(values.collect());
        if !members.contains(&member) {
            members.push(member);
        }
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        Value::String(text.to_owned())
    }

    #[test]
    fn names_are_plain_and_different() {
        let of = |text: &str| named(&[("train.learning_rate".to_owned(), value(text))]);
        assert_eq!(of("1e-3"), "learning-rate-1e-3");
        let (a, b) = (of("a/b"), of("a:b"));
        assert!(a.starts_with("learning-rate-a-b-") && a != b, "{a} {b}");
        assert!(of(&"x".repeat(300)).len() < 100);
    }

    #[test]
    fn values_that_make_would_split_are_refused() {
        let run = |text: &str| Run {
            name: String::new(),
            settings: vec![
                ("train.rank".to_owned(), Value::Integer(4)),
                ("prepare-data.prompt".to_owned(), value(text)),
            ],
            seed: None,
        };
        let common = ["train.steps=3".to_owned()];
        let set = run("Translate: {haw}").set(&common).expect("one word");
        assert_eq!(set, "train.steps=3 train.rank=4 prepare-data.prompt=Translate: {haw}");
        for text in ["two  spaces", "line\nbreak", "a b=c", " begins", "ends "] {
            assert!(matches!(run(text).set(&common), Err(Error::Word { .. })), "{text:?}");
        }
    }
}
