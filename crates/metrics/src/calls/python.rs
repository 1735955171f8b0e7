//! Calls written as Python: `[f(x=1), g(y="a")]`.

use serde_json::{Map, Number, Value};

/// Lists and dictionaries within each other at most.
const MAX_DEPTH: usize = 64;

/// Reads calls with named arguments that are literals, in a list or with semicolons between them; `None` for anything else.
pub(super) fn calls(text: &str) -> Option<Vec<(&str, Map<String, Value>)>> {
    let text = text.trim();
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let (mut reader, separator) = match inner {
        Some(inner) => (Reader { rest: inner }, ','),
        None => (Reader { rest: text }, ';'),
    };
    let mut calls = Vec::new();
    loop {
        calls.push(reader.call()?);
        if reader.is_at_end() {
            return Some(calls);
        }
        reader.expect(separator)?;
    }
}

/// Reads a text from its start.
struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn is_at_end(&mut self) -> bool {
        self.rest = self.rest.trim_start();
        self.rest.is_empty()
    }

    /// Passes over a character if it is the next one.
    fn takes(&mut self, character: char) -> bool {
        self.rest = self.rest.trim_start();
        let rest = self.rest.strip_prefix(character);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, character: char) -> Option<()> {
        self.takes(character).then_some(())
    }

    /// Takes the characters that fit; `None` if there are none.
    fn take_while(&mut self, fits: impl Fn(char) -> bool) -> Option<&'a str> {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|character| !fits(character)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!taken.is_empty()).then_some(taken)
    }

    fn call(&mut self) -> Option<(&'a str, Map<String, Value>)> {
        let name = self.take_while(|character| character.is_alphanumeric() || "_.".contains(character))?;
        self.expect('(')?;
        let mut arguments = Map::new();
        while !self.takes(')') {
            let argument = self.take_while(|character| character.is_alphanumeric() || character == '_')?;
            self.expect('=')?;
            arguments.insert(argument.to_owned(), self.value(0)?);
            if !self.takes(',') {
                self.expect(')')?;
                break;
            }
        }
        Some((name, arguments))
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.rest = self.rest.trim_start();
        match self.rest.chars().next()? {
            '"' | '\'' => self.string().map(Value::String),
            '[' => self.items('[', ']', |reader| reader.value(depth + 1)).map(Value::Array),
            '{' => {
                let pairs = self.items('{', '}', |reader| {
                    let name = reader.string()?;
                    reader.expect(':')?;
                    Some((name, reader.value(depth + 1)?))
                })?;
                Some(Value::Object(pairs.into_iter().collect()))
            }
            _ => self.word(),
        }
    }

    /// Reads items between brackets, with commas between them.
    fn items<T>(
        &mut self,
        open: char,
        close: char,
        mut item: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.expect(open)?;
        let mut items = Vec::new();
        while !self.takes(close) {
            items.push(item(self)?);
            if !self.takes(',') {
                self.expect(close)?;
                break;
            }
        }
        Some(items)
    }

    /// Reads a number or a constant.
    fn word(&mut self) -> Option<Value> {
        let word =
            self.take_while(|character| character.is_ascii_alphanumeric() || "+-.".contains(character))?;
        match word {
            "True" | "true" => Some(Value::Bool(true)),
            "False" | "false" => Some(Value::Bool(false)),
            "None" | "null" => Some(Value::Null),
            number => match number.parse::<i64>() {
                Ok(whole) => Some(Value::from(whole)),
                Err(_) => number.parse().ok().and_then(Number::from_f64).map(Value::Number),
            },
        }
    }

    fn string(&mut self) -> Option<String> {
        self.rest = self.rest.trim_start();
        let quote = self.rest.chars().next().filter(|character| matches!(character, '"' | '\''))?;
        let mut text = String::new();
        let mut characters = self.rest[1..].char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => text.push_str(&escaped(characters.next()?.1, &mut characters)?),
                end if end == quote => {
                    self.rest = &self.rest[1 + at + 1..];
                    return Some(text);
                }
                other => text.push(other),
            }
        }
        None
    }
}

/// Returns the text that a backslash and a letter stand for; codes take further characters.
fn escaped(letter: char, rest: &mut std::str::CharIndices<'_>) -> Option<String> {
    let mut code = |digits: usize| {
        let hex: String = rest.by_ref().take(digits).map(|(_, digit)| digit).collect();
        u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32)
    };
    Some(match letter {
        'n' => "\n".to_owned(),
        't' => "\t".to_owned(),
        'r' => "\r".to_owned(),
        'x' => code(2)?.to_string(),
        'u' => code(4)?.to_string(),
        '\\' | '\'' | '"' => letter.to_string(),
        other => format!("\\{other}"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn literals_become_the_values_of_json() {
        let text =
            r#"[a.b(x=-1, y=2.5e3, z='it\'s "so"\n', flag=True, none=None, all=["ʻō\u0101", {'k': []},], )]"#;
        let expected = json!({
            "x": -1, "y": 2500.0, "z": "it's \"so\"\n", "flag": true, "none": null, "all": ["ʻōā", {"k": []}],
        });
        let calls = calls(text).expect("a call");
        assert_eq!((calls.len(), calls[0].0), (1, "a.b"));
        assert_eq!(Value::Object(calls[0].1.clone()), expected);
    }

    #[test]
    fn anything_else_is_no_call() {
        let deep = format!("[f(x={}{})]", "[".repeat(10_000), "]".repeat(10_000));
        for text in [
            "",
            "[]",
            "f",
            "f(",
            "[f(1)]",
            "[f(x=y)]",
            "f(x=1) g",
            "[f(x='a)]",
            "[f(x=nan)]",
            "[f(x='\\u12')]",
            &deep,
        ] {
            assert!(calls(text).is_none(), "{text:.40}");
        }
    }
}
