//! Splits a template into text and tokens, with the white space rules of `trim_blocks` and `lstrip_blocks`.

use crate::error::{Error, Result};

/// A token, with the line it begins on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub(crate) line: usize,
    pub(crate) kind: TokenKind,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TokenKind {
    /// Text outside tags.
    Text(String),
    /// `{{`
    BeginVariable,
    /// `}}`
    EndVariable,
    /// `{%`
    BeginBlock,
    /// `%}`
    EndBlock,
    Name(String),
    Str(String),
    Int(i128),
    Float(f64),
    /// An operator or bracket.
    Op(&'static str),
    End,
}

const OPERATORS: [&str; 28] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<",
    "=", ".", ":", "|", ",", ";", "!", "&",
];

/// Splits `source` into tokens.
pub(crate) fn tokens(source: &str) -> Result<Vec<Token>> {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer = Lexer { source: &source, at: 0, line: 1, line_starting: true, tokens: Vec::new() };
    lexer.run()?;
    lexer.push(TokenKind::End);
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: usize,
    /// Whether the last tag ended with the end of a line.
    line_starting: bool,
    tokens: Vec<Token>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn push(&mut self, kind: TokenKind) {
        self.tokens.push(Token { line: self.line, kind });
    }

    fn advance(&mut self, bytes: usize) {
        let passed = &self.source[self.at..self.at + bytes];
        self.line += passed.matches('\n').count();
        self.at += bytes;
    }

    fn error(&self, message: impl Into<String>) -> Error {
        Error::syntax(self.line, message)
    }

    fn run(&mut self) -> Result<()> {
        loop {
            let rest = self.rest();
            let opens = rest.match_indices('{').map(|(at, _)| at);
            let next =
                opens.into_iter().find(|at| matches!(rest.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#')));
            let Some(start) = next else {
                self.text(rest);
                self.advance(rest.len());
                return Ok(());
            };
            let open = &rest[start..start + 2];
            let sign = rest[start + 2..].chars().next().filter(|sign| matches!(sign, '-' | '+'));
            let text = self.before_tag(&rest[..start], open == "{{", sign);
            self.text(text);
            let raw = if open == "{%" { raw_tag(&rest[start..], "raw") } else { None };
            self.advance(start);
            match (open, raw) {
                ("{#", _) => self.comment()?,
                (_, Some(length)) => self.raw(length)?,
                ("{%", None) => {
                    self.advance(2 + usize::from(sign.is_some()));
                    self.push(TokenKind::BeginBlock);
                    self.tag(false)?;
                }
                _ => {
                    self.advance(2 + usize::from(sign == Some('-')));
                    self.push(TokenKind::BeginVariable);
                    self.tag(true)?;
                }
            }
        }
    }

    /// Returns the text before a tag without the white space that the tag strips.
    fn before_tag(&self, text: &'a str, variable: bool, sign: Option<char>) -> &'a str {
        if sign == Some('-') {
            return text.trim_end_matches(is_space);
        }
        if variable || sign == Some('+') {
            return text;
        }
        let line = text.rfind('\n').map_or(0, |end| end + 1);
        let blank = text[line..].chars().all(is_space) && !text[line..].is_empty();
        if blank && (line > 0 || self.line_starting) { &text[..line] } else { text }
    }

    fn text(&mut self, text: &str) {
        if !text.is_empty() {
            self.push(TokenKind::Text(text.to_owned()));
        }
    }

    fn comment(&mut self) -> Result<()> {
        let rest = self.rest();
        let close = rest[2..].find("#}").ok_or_else(|| self.error("missing end of comment tag"))? + 2;
        let sign = rest[2..close].chars().next_back();
        self.advance(close);
        self.close(2, sign, true);
        Ok(())
    }

    /// Passes the end of a tag, `bytes` long, and the white space after it that the tag strips.
    fn close(&mut self, bytes: usize, sign: Option<char>, trims_newline: bool) {
        let rest = &self.rest()[bytes..];
        let stripped = match sign {
            Some('-') => rest.len() - rest.trim_start_matches(is_space).len(),
            Some('+') => 0,
            _ => usize::from(trims_newline && rest.starts_with('\n')),
        };
        let end = self.at + bytes + stripped;
        self.advance(bytes + stripped);
        self.line_starting = self.source[..end].ends_with('\n');
    }

    /// Reads a raw block, whose opening tag is `opening` bytes long.
    fn raw(&mut self, opening: usize) -> Result<()> {
        let strips = self.rest()[..opening].ends_with("-%}");
        self.advance(opening);
        if strips {
            let rest = self.rest();
            self.advance(rest.len() - rest.trim_start_matches(is_space).len());
        }
        self.line_starting = self.source[..self.at].ends_with('\n');
        let rest = self.rest();
        let mut from = 0;
        while let Some(start) = rest[from..].find("{%").map(|start| from + start) {
            if let Some(length) = raw_tag(&rest[start..], "endraw") {
                let sign = rest[start + 2..].chars().next().filter(|sign| matches!(sign, '-' | '+'));
                let text = self.before_tag(&rest[..start], false, sign);
                self.text(text);
                self.advance(start);
                let inner = rest[start..start + length - 2].chars().next_back();
                self.close(length, inner.filter(|sign| matches!(sign, '-' | '+')), true);
                return Ok(());
            }
            from = start + 2;
        }
        Err(self.error("missing end of raw directive"))
    }

    /// Reads the tokens of a tag up to and including its end.
    fn tag(&mut self, variable: bool) -> Result<()> {
        let mut open = Vec::new();
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start_matches(is_space).len();
            if blank > 0 {
                self.advance(blank);
                continue;
            }
            if open.is_empty() {
                let end = if variable { "}}" } else { "%}" };
                let signed = rest.starts_with('-') || (rest.starts_with('+') && !variable);
                if rest[usize::from(signed)..].starts_with(end) {
                    self.push(if variable { TokenKind::EndVariable } else { TokenKind::EndBlock });
                    let sign = rest.chars().next().filter(|_| signed);
                    self.close(2 + usize::from(signed), sign, !variable);
                    return Ok(());
                }
            }
            let Some(letter) = rest.chars().next() else {
                return Err(self.error("unexpected end of template"));
            };
            match letter {
                '"' | '\'' => self.string(letter)?,
                _ if letter.is_ascii_digit() => self.number()?,
                _ if letter == '_' || letter.is_alphabetic() => {
                    let end = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
                    self.push(TokenKind::Name(rest[..end].to_owned()));
                    self.advance(end);
                }
                _ => self.operator(&mut open)?,
            }
        }
    }

    fn operator(&mut self, open: &mut Vec<&'static str>) -> Result<()> {
        let rest = self.rest();
        let found = OPERATORS.iter().find(|operator| rest.starts_with(**operator));
        let Some(&operator) = found.filter(|found| !matches!(**found, "!" | "&" | ";")) else {
            let letter = rest.chars().next().unwrap_or(' ');
            return Err(self.error(format!("unexpected char '{letter}'")));
        };
        match operator {
            "(" => open.push(")"),
            "[" => open.push("]"),
            "{" => open.push("}"),
            ")" | "]" | "}" => match open.pop() {
                Some(expected) if expected == operator => {}
                Some(expected) => {
                    return Err(self.error(format!("unexpected '{operator}', expected '{expected}'")));
                }
                None => return Err(self.error(format!("unexpected '{operator}'"))),
            },
            _ => {}
        }
        self.push(TokenKind::Op(operator));
        self.advance(operator.len());
        Ok(())
    }

    fn number(&mut self) -> Result<()> {
        let rest = self.rest();
        let lower = rest.get(..2).unwrap_or_default().to_ascii_lowercase();
        let radix = match lower.as_str() {
            "0x" => 16,
            "0o" => 8,
            "0b" => 2,
            _ => 10,
        };
        let is_digit = |c: char| c.is_digit(radix) || c == '_';
        let from = if radix == 10 { 0 } else { 2 };
        let digits = |text: &str| text.find(|c| !is_digit(c)).unwrap_or(text.len());
        let mut end = from + digits(&rest[from..]);
        let mut float = false;
        if radix == 10 {
            let fraction =
                rest[end..].strip_prefix('.').filter(|t| t.starts_with(|c: char| c.is_ascii_digit()));
            if let Some(fraction) = fraction {
                float = true;
                end += 1 + digits(fraction);
            }
            if rest[end..].starts_with(['e', 'E']) {
                let signs = usize::from(rest[end + 1..].starts_with(['+', '-']));
                let exponent = digits(&rest[end + 1 + signs..]);
                if exponent > 0 {
                    float = true;
                    end += 1 + signs + exponent;
                }
            }
        }
        let text = rest[from..end].replace('_', "");
        let kind = if float {
            TokenKind::Float(text.parse().map_err(|_| self.error("not a number"))?)
        } else {
            let number = i128::from_str_radix(&text, radix);
            TokenKind::Int(number.map_err(|_| self.error("the number is too large"))?)
        };
        self.push(kind);
        self.advance(end);
        Ok(())
    }

    fn string(&mut self, quote: char) -> Result<()> {
        let rest = self.rest();
        let mut text = String::new();
        let mut letters = rest.char_indices().skip(1);
        while let Some((index, letter)) = letters.next() {
            if letter == quote {
                self.push(TokenKind::Str(text));
                self.advance(index + 1);
                return Ok(());
            }
            if letter != '\\' {
                text.push(letter);
                continue;
            }
            let Some((_, escape)) = letters.next() else { break };
            let digits = match escape {
                'x' => 2,
                'u' => 4,
                'U' => 8,
                _ => 0,
            };
            if digits > 0 {
                let code: String = letters.by_ref().take(digits).map(|(_, digit)| digit).collect();
                let letter = u32::from_str_radix(&code, 16).ok().filter(|_| code.len() == digits);
                let letter = letter.and_then(char::from_u32);
                text.push(letter.ok_or_else(|| self.error("invalid escape in a string"))?);
                continue;
            }
            match escape {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                'r' => text.push('\r'),
                'a' => text.push('\x07'),
                'b' => text.push('\x08'),
                'f' => text.push('\x0c'),
                'v' => text.push('\x0b'),
                '0' => text.push('\0'),
                '\\' | '\'' | '"' => text.push(escape),
                '\n' => {}
                _ => text.extend(['\\', escape]),
            }
        }
        Err(self.error("unexpected char: a string has no end"))
    }
}

/// Returns the length of the tag `{% name %}` at the start of `text`.
fn raw_tag(text: &str, name: &str) -> Option<usize> {
    let rest = text.strip_prefix("{%")?;
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest).trim_start_matches(is_space);
    let rest = rest.strip_prefix(name)?.trim_start_matches(is_space);
    let rest = rest
        .strip_prefix("%}")
        .or_else(|| rest.strip_prefix("-%}"))
        .or_else(|| rest.strip_prefix("+%}").filter(|_| name == "endraw"))?;
    Some(text.len() - rest.len())
}

/// Returns whether Python counts `letter` as white space.
pub(crate) fn is_space(letter: char) -> bool {
    letter.is_whitespace() || ('\x1c'..='\x1f').contains(&letter)
}
