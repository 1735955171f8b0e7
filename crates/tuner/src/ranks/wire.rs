//! Messages between ranks, one per line.

use std::fmt;

/// A message between rank 0 and another rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// The first message of a rank: its number, and the token that rank 0 gave out.
    Hello { rank: usize, token: u64 },
    /// Answer of rank 0 to a valid greeting.
    Welcome,
    /// Sent every second.
    Alive,
    /// This rank is ready for an exchange, described in a few words.
    At { exchange: u64, what: String },
    /// All ranks are ready for an exchange.
    Go(u64),
    /// Rank 0 has work, and the others take part.
    Begin,
    /// The run has ended with this exit code.
    End(u8),
    /// Answer to [`Message::End`].
    Bye,
    /// All ranks must stop now with this exit code; an empty reason means that there is nothing to say.
    Stop { code: u8, reason: String },
}

impl Message {
    /// Reads a line; `None` if it is not a message.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
        Some(match word {
            "hello" => {
                let (rank, token) = rest.split_once(' ')?;
                Self::Hello { rank: rank.parse().ok()?, token: token.parse().ok()? }
            }
            "welcome" => Self::Welcome,
            "alive" => Self::Alive,
            "at" => {
                let (exchange, what) = rest.split_once(' ')?;
                Self::At { exchange: exchange.parse().ok()?, what: what.to_owned() }
            }
            "go" => Self::Go(rest.parse().ok()?),
            "begin" => Self::Begin,
            "bye" => Self::Bye,
            "end" => Self::End(rest.parse().ok()?),
            "stop" => {
                let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
                Self::Stop { code: code.parse().ok()?, reason: reason.to_owned() }
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello { rank, token } => write!(f, "hello {rank} {token}"),
            Self::Welcome => f.write_str("welcome"),
            Self::Alive => f.write_str("alive"),
            Self::At { exchange, what } => write!(f, "at {exchange} {what}"),
            Self::Go(exchange) => write!(f, "go {exchange}"),
            Self::Begin => f.write_str("begin"),
            Self::Bye => f.write_str("bye"),
            Self::End(code) => write!(f, "end {code}"),
            Self::Stop { code, reason } => write!(f, "stop {code} {}", reason.replace('\n', " ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_are_written() {
        let all = [
            Message::Hello { rank: 3, token: u64::MAX },
            Message::Welcome,
            Message::Alive,
            Message::At { exchange: 7, what: "sum [3]".to_owned() },
            Message::Go(7),
            Message::Begin,
            Message::End(75),
            Message::Bye,
            Message::Stop { code: 1, reason: "rank 2 of 4 is lost".to_owned() },
            Message::Stop { code: 10, reason: String::new() },
        ];
        for message in all {
            assert_eq!(Message::parse(&format!("{message}\n")), Some(message));
        }
        for line in ["", "GET / HTTP/1.1", "at", "at x y", "hello 1", "stop", "end 256"] {
            assert_eq!(Message::parse(line), None, "{line}");
        }
    }
}
