//! An error and its causes.

use std::error::Error as StdError;

/// Returns an error and its causes, outermost first.
pub(crate) fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&cause| cause.source())
}

/// Returns the messages of an error and its causes, outermost first; one that repeats the end of the message before it is left
/// out.
pub(crate) fn messages(error: &(dyn StdError + 'static)) -> Vec<String> {
    let mut messages = Vec::<String>::new();
    for cause in causes(error) {
        let message = cause.to_string();
        if !message.is_empty() && !messages.last().is_some_and(|last| last.ends_with(&message)) {
            messages.push(message);
        }
    }
    messages
}

/// Describes an error and its causes in one line, for a warning.
pub fn describe(error: &(dyn StdError + 'static)) -> String {
    messages(error).join(": ")
}
