//! The Python behaviour that chat templates rely on: `str`, `json.dumps` and `strftime`.

use std::fmt::Write;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

/// Returns `value` as Python's `str` prints it: `True`, `None`, `[1, 'a']`.
pub(crate) fn str_of(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None => repr(value),
    }
}

/// Implements the `trim` filter: Python's `strip` on the `str` of `value`.
pub(crate) fn strip(value: &Value, letters: Option<&str>) -> String {
    let text = str_of(value);
    match letters {
        None => text.trim().to_owned(),
        Some(letters) => text.trim_matches(|letter| letters.contains(letter)).to_owned(),
    }
}

/// Implements Python's methods of strings, maps and lists; positions count characters, not bytes.
pub(crate) fn method(
    state: &State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let result = unknown_method_callback(state, value, name, args)?;
    let bytes = i64::try_from(result.clone()).ok().and_then(|bytes| usize::try_from(bytes).ok());
    match (value.as_str(), name, bytes) {
        (Some(text), "find" | "rfind", Some(bytes)) => Ok(Value::from(text[..bytes].chars().count())),
        _ => Ok(result),
    }
}

fn repr(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::None => "None".into(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.into(),
        ValueKind::Number => number(value),
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => format!("[{}]", joined(value, |item| repr(&item))),
        ValueKind::Map => {
            let entry =
                |key: Value| format!("{}: {}", repr(&key), repr(&value.get_item(&key).unwrap_or_default()));
            format!("{{{}}}", joined(value, entry))
        }
        _ => value.to_string(),
    }
}

fn joined(value: &Value, each: impl Fn(Value) -> String) -> String {
    value.try_iter().map(|items| items.map(each).collect::<Vec<_>>().join(", ")).unwrap_or_default()
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for letter in text.chars() {
        match letter {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            _ if letter == quote => out.extend(['\\', letter]),
            _ if letter < ' ' || letter == '\x7F' => {
                write!(out, "\\x{:02x}", letter as u32).expect("a string grows");
            }
            _ => out.push(letter),
        }
    }
    out.push(quote);
    out
}

fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float)
}

/// Returns a float as Python prints it, with the fewest digits that read back as the same number.
fn float(number: f64) -> String {
    if !number.is_finite() {
        return if number.is_nan() {
            "nan"
        } else if number > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .into();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').expect("`{:e}` writes an exponent");
    let exponent: i32 = exponent.parse().expect("`{:e}` writes a whole exponent");
    if (-4..16).contains(&exponent) {
        let plain = format!("{number}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// Implements the `tojson` filter of transformers: `json.dumps` that keeps non-ASCII characters and escapes no HTML.
pub(crate) fn tojson(value: &Value, options: &Kwargs) -> Result<Value, Error> {
    let separators: Option<Vec<String>> = options.get("separators")?;
    let indent: Option<Value> = options.get("indent")?;
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_owned),
        Some(width) => Some(" ".repeat(usize::try_from(width)?.min(64))),
    };
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson needs two separators")),
        None if indent.is_some() => (",".into(), ": ".into()),
        None => (", ".into(), ": ".into()),
    };
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let sorted: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let style = Dumps { item, key, indent, ascii: ascii == Some(true), sorted: sorted == Some(true) };
    let mut out = String::new();
    style.write(&mut out, value, 0)?;
    Ok(Value::from(out))
}

struct Dumps {
    item: String,
    key: String,
    indent: Option<String>,
    ascii: bool,
    sorted: bool,
}

impl Dumps {
    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)),
            ValueKind::String => self.string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.block(out, '[', ']', depth, items, |out, item| self.write(out, &item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort();
                }
                self.block(out, '{', '}', depth, keys, |out, key| {
                    match key.as_str() {
                        Some(text) => self.string(out, text),
                        None => self.string(out, &json_key(&key)),
                    }
                    out.push_str(&self.key);
                    self.write(out, &value.get_item(&key)?, depth + 1)
                })?;
            }
            kind => {
                let reason = format!("a value of kind {kind} is not JSON serializable");
                return Err(Error::new(ErrorKind::InvalidOperation, reason));
            }
        }
        Ok(())
    }

    fn block(
        &self,
        out: &mut String,
        open: char,
        close: char,
        depth: usize,
        items: Vec<Value>,
        mut each: impl FnMut(&mut String, Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let empty = items.is_empty();
        out.push(open);
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                out.push_str(&self.item);
            }
            self.newline(out, depth + 1);
            each(out, item)?;
        }
        if !empty {
            self.newline(out, depth);
        }
        out.push(close);
        Ok(())
    }

    fn newline(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    }

    fn string(&self, out: &mut String, text: &str) {
        out.push('"');
        for letter in text.chars() {
            match letter {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                _ if letter < ' ' || (self.ascii && letter > '~') => {
                    for unit in letter.encode_utf16(&mut [0; 2]) {
                        write!(out, "\\u{unit:04x}").expect("a string grows");
                    }
                }
                _ => out.push(letter),
            }
        }
        out.push('"');
    }
}

fn json_key(key: &Value) -> String {
    match key.kind() {
        ValueKind::None => "null".into(),
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.into(),
        _ => number(key),
    }
}

/// A date, for templates that print today's date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTH_DAYS: [u16; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

impl Date {
    /// Parses `YYYY-MM-DD`; the year is at least 1900.
    ///
    /// ```
    /// assert!(dataset::Date::parse("2024-07-26").is_some());
    /// assert!(dataset::Date::parse("2023-02-29").is_none());
    /// ```
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let date = Self {
            year: parts.next().filter(|year| year.len() == 4)?.parse().ok()?,
            month: parts.next().filter(|month| month.len() == 2)?.parse().ok()?,
            day: parts.next().filter(|day| day.len() == 2)?.parse().ok()?,
        };
        let days = MONTH_DAYS.get(usize::from(date.month).checked_sub(1)?)?
            + u16::from(date.month == 2 && date.leap());
        (parts.next().is_none() && date.year >= 1900 && (1..=days).contains(&u16::from(date.day)))
            .then_some(date)
    }

    fn leap(self) -> bool {
        self.year.is_multiple_of(4) && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400))
    }

    fn day_of_year(self) -> u16 {
        let month = usize::from(self.month) - 1;
        MONTH_DAYS[..month].iter().sum::<u16>() + u16::from(month > 1 && self.leap()) + u16::from(self.day)
    }

    fn weekday(self) -> &'static str {
        let years = u32::from(self.year) - 1;
        let days = years * 365 + years / 4 - years / 100 + years / 400 + u32::from(self.day_of_year());
        WEEKDAYS[(days % 7) as usize]
    }

    /// Formats midnight of this date as C's `strftime` does.
    pub(crate) fn strftime(self, format: &str) -> Result<String, Error> {
        let mut out = String::new();
        let mut letters = format.chars();
        while let Some(letter) = letters.next() {
            if letter != '%' {
                out.push(letter);
                continue;
            }
            let mut code = letters.next().unwrap_or('%');
            let bare = code == '-';
            if bare {
                code = letters.next().unwrap_or('%');
            }
            let month = MONTHS[usize::from(self.month) - 1];
            match code {
                'd' if bare => write!(out, "{}", self.day),
                'm' if bare => write!(out, "{}", self.month),
                'd' => write!(out, "{:02}", self.day),
                'e' => write!(out, "{:2}", self.day),
                'm' => write!(out, "{:02}", self.month),
                'j' => write!(out, "{:03}", self.day_of_year()),
                'y' => write!(out, "{:02}", self.year % 100),
                'Y' => write!(out, "{}", self.year),
                'B' => write!(out, "{month}"),
                'b' | 'h' => write!(out, "{}", &month[..3]),
                'A' => write!(out, "{}", self.weekday()),
                'a' => write!(out, "{}", &self.weekday()[..3]),
                'F' => write!(out, "{}-{:02}-{:02}", self.year, self.month, self.day),
                'H' | 'M' | 'S' => write!(out, "{}", if bare { "0" } else { "00" }),
                'I' => write!(out, "12"),
                'p' => write!(out, "AM"),
                'T' => write!(out, "00:00:00"),
                '%' => write!(out, "%"),
                _ => {
                    let reason = format!("strftime_now does not know `%{code}`");
                    return Err(Error::new(ErrorKind::InvalidOperation, reason));
                }
            }
            .expect("a string grows");
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_in_python() {
        let cases = [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (1e16, "1e+16"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (1e15, "1000000000000000.0"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (0.0, "0.0"),
        ];
        for (value, expected) in cases {
            assert_eq!(float(value), expected);
        }
    }

    #[test]
    fn values_print_as_in_python() {
        let value = Value::from_serialize(serde_json::json!({"a": [true, null, 1, 2.0], "it's": "ʻ\n\"x'"}));
        assert_eq!(str_of(&value), r#"{'a': [True, None, 1, 2.0], "it's": 'ʻ\n"x\''}"#);
        assert_eq!(str_of(&Value::UNDEFINED), "");
    }

    #[test]
    fn dates_print_as_in_c() {
        let date = Date::parse("2024-07-06").unwrap();
        assert_eq!(
            date.strftime("%d %b %Y, %A %-d %B %y (%j) 100%%").unwrap(),
            "06 Jul 2024, Saturday 6 July 24 (188) 100%"
        );
        assert_eq!(
            Date::parse("2000-02-29").unwrap().strftime("%a %F %H:%M").unwrap(),
            "Tue 2000-02-29 00:00"
        );
        assert!(date.strftime("%Q").is_err());
        for bad in ["2024-13-01", "2024-00-01", "2024-1-1", "24-01-01", "2024-04-31", "x"] {
            assert_eq!(Date::parse(bad), None, "{bad}");
        }
    }
}
