//! Values of settings: as words of `SET`, and as Nix expressions.

use toml::Value;

/// Returns a value as `--set` reads it: a text as it is, everything else as TOML without spaces.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => inline(other),
    }
}

/// Reads a value that was written as a word of `SET`. A fraction stays in quotes, because Nix would round it.
pub(crate) fn parse(text: &str) -> Value {
    let parsed = format!("value = {text}").parse::<toml::Table>().ok().filter(|table| table.len() == 1);
    let parsed = parsed.and_then(|mut table| table.remove("value")).filter(|value| !value.is_float());
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

fn inline(value: &Value) -> String {
    match value {
        // The escapes of JSON are those of TOML.
        Value::String(text) => serde_json::Value::from(text.as_str()).to_string(),
        Value::Float(number) => format!("{number:?}"),
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(",")),
        Value::Table(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|(name, value)| format!("{}={}", key(name), inline(value))).collect();
            format!("{{{}}}", fields.join(","))
        }
        other => other.to_string(),
    }
}

fn key(name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(is_bare) {
        name.to_owned()
    } else {
        serde_json::Value::from(name).to_string()
    }
}

/// Returns a number, which may be written in quotes; `None` for other values.
pub(crate) fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Integer(number) => *number as f64,
        Value::Float(number) => *number,
        Value::String(text) => text.parse().ok()?,
        _ => return None,
    };
    number.is_finite().then_some(number)
}

/// Returns a value as a Nix expression. A fraction is in quotes, because Nix would round it.
pub(crate) fn nix(value: &Value) -> String {
    match value {
        Value::String(text) => nix_text(text),
        Value::Float(number) => nix_text(&format!("{number:?}")),
        Value::Integer(number) if *number < 0 => format!("({number})"),
        Value::Array(items) => format!("[ {} ]", items.iter().map(nix).collect::<Vec<_>>().join(" ")),
        Value::Table(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|(name, value)| format!("{} = {};", nix_text(name), nix(value))).collect();
            format!("{{ {} }}", fields.join(" "))
        }
        Value::Datetime(time) => nix_text(&time.to_string()),
        other => other.to_string(),
    }
}

/// Returns a text as a Nix string.
pub(crate) fn nix_text(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace("${", "\\${");
    format!("\"{}\"", escaped.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Value {
        let table: toml::Table = format!("value = {text}").parse().expect("TOML");
        table["value"].clone()
    }

    #[test]
    fn values_are_written_so_that_set_reads_them_back() {
        for value in ["4", "true", "1e-5", "0.25", "[\"a b\",2]", "[{at_least=0.5,field=\"x\"}]"] {
            assert_eq!(text(&parsed(value)), value);
            assert_eq!(parsed(&text(&parsed(value))), parsed(value));
        }
        assert_eq!(text(&parsed("\"2e-3\"")), "2e-3");
        assert_eq!(text(&parsed("\"cosine\"")), "cosine");
    }

    #[test]
    fn numbers_may_be_in_quotes() {
        assert_eq!(
            ["3", "2e-3", "\"2e-3\""].map(|text| number(&parsed(text))),
            [Some(3.0), Some(2e-3), Some(2e-3)]
        );
        assert_eq!(["true", "\"lora\"", "nan"].map(|text| number(&parsed(text))), [None; 3]);
    }

    #[test]
    fn nix_reads_no_fraction_and_no_antiquotation() {
        assert_eq!(nix(&parsed("2e-3")), "\"0.002\"");
        assert_eq!(nix(&parsed("\"a ${b} \\\"c\\\"\"")), "\"a \\${b} \\\"c\\\"\"");
        assert_eq!(nix(&parsed("[-1, true, {a = 1}]")), "[ (-1) true { \"a\" = 1; } ]");
    }
}
