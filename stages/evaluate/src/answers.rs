//! Answers and the texts in them that are scored.

use failure::Result;
use metrics::Extraction;

use crate::config::{Config, Otherwise};

/// Answer of a subject to one prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The answer, or why there is none.
    pub(crate) text: Result<String, String>,
    /// Whether the limit of tokens cut it off.
    pub(crate) is_unfinished: bool,
}

impl Answer {
    /// Makes a complete answer.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: Ok(text.into()), is_unfinished: false }
    }

    /// Makes the record of a failure.
    pub(crate) fn failed(reason: impl Into<String>) -> Self {
        Self { text: Err(reason.into()), is_unfinished: false }
    }
}

impl From<tuner::Answer> for Answer {
    fn from(answer: tuner::Answer) -> Self {
        Self { text: Ok(answer.text), is_unfinished: answer.is_unfinished }
    }
}

/// The text of an answer that is scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scored {
    /// The text; `None` counts as 0.
    pub(crate) text: Option<String>,
    /// Why there is none.
    pub(crate) failure: Option<String>,
    /// Whether the rule found nothing.
    pub(crate) not_extracted: bool,
}

/// Applies the rule of the settings to answers.
pub(crate) struct Scorer {
    rule: Option<Extraction>,
    otherwise: Otherwise,
}

impl Scorer {
    /// Makes the scorer of checked settings.
    pub(crate) fn new(config: &Config) -> Self {
        let rule = config.extract.as_ref().map(|extract| extract.rule().expect("the settings are checked"));
        let otherwise = config.extract.as_ref().map_or_else(Otherwise::default, |extract| extract.otherwise);
        Self { rule, otherwise }
    }

    /// Finds the text to score.
    pub(crate) fn apply(&self, answer: &Answer) -> Scored {
        let text = match &answer.text {
            Ok(text) => text,
            Err(reason) => {
                return Scored { text: None, failure: Some(reason.clone()), not_extracted: false };
            }
        };
        let Some(rule) = &self.rule else {
            return Scored { text: Some(text.clone()), failure: None, not_extracted: false };
        };
        match (rule.find(text), self.otherwise) {
            (Some(found), _) => Scored { text: Some(found), failure: None, not_extracted: false },
            (None, Otherwise::Whole) => {
                Scored { text: Some(text.trim().to_owned()), failure: None, not_extracted: true }
            }
            (None, Otherwise::Fail) => {
                let failure = Some("the answer does not have the text that `extract` looks for".to_owned());
                Scored { text: None, failure, not_extracted: true }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Extract;

    #[test]
    fn an_answer_without_the_text_counts_whole_or_fails() {
        let scored = |otherwise, answer: Answer| {
            let extract = Extract { tag: "t".to_owned(), otherwise, ..Extract::default() };
            Scorer::new(&Config { extract: Some(extract), ..Config::default() }).apply(&answer)
        };
        let found = scored(Otherwise::Fail, Answer::new("<t> a </t>"));
        assert_eq!((found.text.as_deref(), found.not_extracted), (Some("a"), false));
        let whole = scored(Otherwise::Whole, Answer::new(" a "));
        assert_eq!((whole.text.as_deref(), whole.not_extracted), (Some("a"), true));
        let failed = scored(Otherwise::Fail, Answer::new("a"));
        assert!(failed.text.is_none() && failed.failure.is_some() && failed.not_extracted);
        let refused = scored(Otherwise::Whole, Answer::failed("no route"));
        assert_eq!((refused.text, refused.failure.as_deref()), (None, Some("no route")));
    }
}
