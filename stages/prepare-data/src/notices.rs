//! Notices for the user about a dataset that was made without an error.

use outputs::{Stats, TurnEnd};

/// Share of the trained turns that a token must end to count as an end of answers, in percent.
const COMMON_PERCENT: u64 = 5;

/// Returns the tokens that end trained turns, but not the model's answers.
///
/// A token that ends hardly any turn is not among them: it may be the last token of a few answers.
pub(crate) fn new_end_tokens(stats: &Stats) -> Vec<u32> {
    let turns: u64 = stats.turn_ends.values().map(|end| end.turns).sum();
    let is_new = |end: &&TurnEnd| !end.is_end_token && end.turns * 100 >= turns * COMMON_PERCENT;
    let mut tokens: Vec<u32> = stats.turn_ends.values().filter(is_new).filter_map(|end| end.token).collect();
    tokens.sort_unstable();
    tokens
}

/// Returns the notices, one sentence each.
pub fn notices(stats: &Stats) -> Vec<String> {
    let mut notices = Vec::new();
    let new = new_end_tokens(stats);
    for (text, end) in &stats.turn_ends {
        match end.token {
            Some(token) if new.contains(&token) => notices.push(format!(
                "{} trained turns end with `{text}` ({token}), which is not an end token of the model: generate, evaluate \
                 and the fused model will stop at it too",
                end.turns
            )),
            Some(_) => {}
            None => notices.push(format!(
                "{} trained turns end without an end token, so the model does not learn to stop there; a chat template \
                 ends turns with a token such as `{{{{ eos_token }}}}`",
                end.turns
            )),
        }
    }
    let rewritten: u64 = stats.splits.values().map(|split| split.rewritten_turns.count).sum();
    if rewritten > 0 {
        let rows: Vec<&str> = stats
            .splits
            .values()
            .flat_map(|split| &split.rewritten_turns.examples)
            .take(3)
            .map(String::as_str)
            .collect();
        notices.push(format!(
            "{rewritten} assistant turns are not targets, because the chat template renders them differently from what the \
             model must generate, for example without their reasoning: {}; `on_rewritten_turn = \"train\"` trains on them",
            rows.join(", ")
        ));
    }
    for (role, rows) in &stats.unwritten_roles {
        notices.push(format!(
            "the chat template leaves out the text of messages with the role `{role}` in {rows} rows; give it a role that the \
             template writes"
        ));
    }
    for (key, rows) in &stats.unread_keys {
        notices.push(format!("the chat template does not read `{key}`, which has a value in {rows} rows"));
    }
    notices
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn end(token: Option<u32>, is_end_token: bool, turns: u64) -> TurnEnd {
        TurnEnd { token, is_end_token, turns }
    }

    #[test]
    fn a_common_end_is_new_and_a_rare_one_is_not() {
        let turn_ends = BTreeMap::from([
            ("<a>".to_owned(), end(Some(7), false, 90)),
            ("<b>".to_owned(), end(Some(8), true, 7)),
            ("<c>".to_owned(), end(Some(9), false, 3)),
        ]);
        let stats = Stats { turn_ends, ..Stats::default() };
        assert_eq!(new_end_tokens(&stats), [7]);
        let notices = notices(&stats);
        assert_eq!(notices.len(), 1);
        assert!(notices[0].starts_with("90 trained turns end with `<a>` (7)"), "{}", notices[0]);
    }

    #[test]
    fn nothing_is_said_about_a_usual_dataset() {
        let turn_ends = BTreeMap::from([("<a>".to_owned(), end(Some(7), true, 90))]);
        assert!(notices(&Stats { turn_ends, ..Stats::default() }).is_empty());
    }
}
