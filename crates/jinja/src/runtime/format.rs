//! Python's two ways to format: `%` and `str.format`.

use std::iter::Peekable;
use std::str::Chars;

use crate::error::{Error, Result};
use crate::runtime::arguments::Arguments;
use crate::runtime::budget::{Budget, Builder};
use crate::runtime::evaluate;
use crate::runtime::machine::Machine;
use crate::runtime::operators::{too_long, whole_part};
use crate::runtime::print::{float, repr};
use crate::runtime::value::{Number, Value};

/// Most digits after the point of a number.
const MAX_PRECISION: usize = 4096;
/// Levels of fields inside the specifications of fields.
const MAX_NESTED: usize = 1;

/// Alignment and padding of a value in its field.
#[derive(Clone, Debug, Default)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    width: usize,
    /// Separator between groups of digits.
    separator: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

/// Returns `format % values`.
pub(crate) fn percent(machine: &mut Machine<'_>, format: &str, values: &Value) -> Result<String> {
    let budget = machine.budget;
    // Flags and digits are read one by one as well.
    budget.visits(format.len())?;
    let mut positional = match values {
        Value::Tuple(items) => {
            budget.list(items.len())?;
            items.to_vec()
        }
        other => vec![other.clone()],
    }
    .into_iter();
    let mut out = Builder::new(budget);
    let mut letters = format.chars().peekable();
    let mut used = false;
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter)?;
            continue;
        }
        if letters.next_if_eq(&'%').is_some() {
            out.push('%')?;
            continue;
        }
        budget.steps(1)?;
        let mut next =
            || positional.next().ok_or_else(|| Error::of_type("not enough arguments for format string"));
        let mut named = None;
        if letters.next_if_eq(&'(').is_some() {
            let key: String = letters.by_ref().take_while(|letter| *letter != ')').collect();
            let Value::Dict(dict) = values else { return Err(Error::of_type("format requires a mapping")) };
            budget.copies(key.len())?;
            let value = dict.named(&key, budget)?.cloned();
            named = Some(value.ok_or_else(|| Error::of_type(format!("KeyError: '{key}'")))?);
        }
        let mut spec = Spec { align: Some('>'), ..Spec::default() };
        while let Some(flag) = letters.next_if(|letter| "-+ 0#".contains(*letter)) {
            match flag {
                '-' => (spec.align, spec.fill) = (Some('<'), None),
                '0' if spec.align == Some('>') => spec.fill = Some('0'),
                '#' => spec.alternate = true,
                '0' => {}
                sign => spec.sign = Some(sign),
            }
        }
        spec.width = if letters.next_if_eq(&'*').is_some() {
            star(&next()?)?
        } else {
            digits(&mut letters).unwrap_or(0)
        };
        if letters.next_if_eq(&'.').is_some() {
            let starred = letters.next_if_eq(&'*').is_some();
            spec.precision = Some(if starred { star(&next()?)? } else { digits(&mut letters).unwrap_or(0) });
        }
        while letters.next_if(|letter| "hlL".contains(*letter)).is_some() {}
        let kind = letters.next().ok_or_else(|| Error::of_type("incomplete format"))?;
        let value = match named {
            Some(value) => value,
            None => next()?,
        };
        used = true;
        out.push_str(&percent_value(machine, kind, &value, spec)?)?;
    }
    let rest = positional.next().is_some();
    if rest && !(matches!(values, Value::Dict(_)) || (used && !matches!(values, Value::Tuple(_)))) {
        return Err(Error::of_type("not all arguments converted during string formatting"));
    }
    Ok(out.finish())
}

fn star(value: &Value) -> Result<usize> {
    match value.number() {
        Some(Number::Int(number)) => Ok(usize::try_from(number.max(0)).unwrap_or(usize::MAX)),
        _ => Err(Error::of_type("* wants int")),
    }
}

fn digits(letters: &mut Peekable<Chars<'_>>) -> Option<usize> {
    let mut number = None;
    while let Some(digit) = letters.peek().and_then(|letter| letter.to_digit(10)) {
        letters.next();
        number = Some(number.unwrap_or(0usize).saturating_mul(10).saturating_add(digit as usize));
    }
    number
}

fn percent_value(machine: &mut Machine<'_>, kind: char, value: &Value, mut spec: Spec) -> Result<String> {
    let budget = machine.budget;
    if spec.fill == Some('0') && !"srac".contains(kind) {
        spec.align = Some('=');
    }
    match kind {
        's' => {
            spec.fill = None;
            padded(&cut(&machine.text_of(value)?, spec.precision, budget)?, &spec, budget)
        }
        'r' | 'a' => {
            spec.fill = None;
            padded(&cut(&repr(value, budget)?, spec.precision, budget)?, &spec, budget)
        }
        'c' => {
            spec.fill = None;
            padded(&letter(value)?.to_string(), &spec, budget)
        }
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            let whole = match value.number() {
                Some(Number::Int(number)) => number,
                Some(Number::Float(number)) if "diu".contains(kind) => whole_part(number)?,
                _ => {
                    let found = value.type_name();
                    return Err(Error::of_type(format!(
                        "%{kind} format: a real number is required, not {found}"
                    )));
                }
            };
            spec.kind = Some(if "iu".contains(kind) { 'd' } else { kind });
            spec.precision = None;
            number(&Value::Int(whole), &spec, budget)
        }
        'f' | 'F' | 'e' | 'E' | 'g' | 'G' => {
            spec.kind = Some(kind);
            number(value, &spec, budget)
        }
        other => Err(Error::of_type(format!("unsupported format character '{other}'"))),
    }
}

/// Returns the letter of `%c`: one letter, or its number.
fn letter(value: &Value) -> Result<char> {
    if let Value::Str(text) = value {
        let mut letters = text.chars();
        if let (Some(letter), None) = (letters.next(), letters.next()) {
            return Ok(letter);
        }
    }
    let Some(Number::Int(number)) = value.number() else {
        return Err(Error::of_type("%c requires int or char"));
    };
    let letter = u32::try_from(number).ok().and_then(char::from_u32);
    letter.ok_or_else(|| Error::of_type("%c arg not in range(0x110000)"))
}

fn cut(text: &str, precision: Option<usize>, budget: &Budget) -> Result<String> {
    budget.text(text.len())?;
    Ok(match precision {
        Some(length) => text.chars().take(length).collect(),
        None => text.to_owned(),
    })
}

/// Pads a text to the field's width; texts are left-aligned by default.
fn padded(text: &str, spec: &Spec, budget: &Budget) -> Result<String> {
    budget.copies(text.len())?;
    let missing = spec.width.saturating_sub(text.chars().count());
    let (left, right) = match spec.align {
        Some('>') => (missing, 0),
        Some('^') => (missing / 2, missing - missing / 2),
        _ => (0, missing),
    };
    let fill = String::from(spec.fill.unwrap_or(' '));
    let mut out = Builder::new(budget);
    out.repeat(&fill, left)?;
    out.push_str(text)?;
    out.repeat(&fill, right)?;
    Ok(out.finish())
}

/// Formats a number.
fn number(value: &Value, spec: &Spec, budget: &Budget) -> Result<String> {
    if spec.precision.is_some_and(|digits| digits > MAX_PRECISION) {
        return Err(too_long());
    }
    let found = value
        .number()
        .ok_or_else(|| Error::of_type(format!("must be real number, not {}", value.type_name())))?;
    let is_integer = matches!(found, Number::Int(_));
    let kind = spec.kind.unwrap_or(if is_integer { 'd' } else { 'r' });
    let in_bits = "xXob".contains(kind);
    if let Some(separator) = spec.separator
        && (kind == 'n' || (in_bits && separator == ','))
    {
        return Err(cannot_group(separator, kind));
    }
    let (negative, mut body) = match (kind, found) {
        ('d' | 'n', Number::Int(number)) => (number < 0, number.unsigned_abs().to_string()),
        ('x', Number::Int(number)) => (number < 0, format!("{:x}", number.unsigned_abs())),
        ('X', Number::Int(number)) => (number < 0, format!("{:X}", number.unsigned_abs())),
        ('o', Number::Int(number)) => (number < 0, format!("{:o}", number.unsigned_abs())),
        ('b', Number::Int(number)) => (number < 0, format!("{:b}", number.unsigned_abs())),
        ('r', number) if spec.precision.is_none() => {
            budget.float()?;
            (number.float().is_sign_negative(), float(number.float().abs()))
        }
        ('f' | 'F' | 'e' | 'E' | 'g' | 'G' | '%' | 'r', number) => {
            let number = number.float();
            allow_digits(number, kind, spec.precision, budget)?;
            (number.is_sign_negative(), real(number.abs(), kind, spec.precision, spec.alternate))
        }
        _ => {
            let name = value.type_name();
            return Err(Error::of_type(format!("Unknown format code '{kind}' for object of type '{name}'")));
        }
    };
    let sign = match (negative, spec.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    };
    let prefix = if spec.alternate && is_integer && in_bits { format!("0{kind}") } else { String::new() };
    let sign = format!("{sign}{prefix}");
    let fills_after_sign = spec.align == Some('=');
    if let Some(separator) = spec.separator {
        // Zeros in front of a number are grouped with it.
        let zeros_to = if fills_after_sign && spec.fill == Some('0') { spec.width } else { 0 };
        let groups = Groups { separator, size: if in_bits { 4 } else { 3 } };
        body = groups.divide(&body, zeros_to.saturating_sub(sign.len()), budget)?;
    }
    if fills_after_sign {
        let missing = spec.width.saturating_sub(sign.len() + body.chars().count());
        let mut out = Builder::new(budget);
        out.push_str(&sign)?;
        out.repeat(&String::from(spec.fill.unwrap_or(' ')), missing)?;
        out.push_str(&body)?;
        return Ok(out.finish());
    }
    let align = spec.align.or(Some('>'));
    padded(&format!("{sign}{body}"), &Spec { align, ..spec.clone() }, budget)
}

/// Returns the approximate number of digits before the decimal point.
pub(crate) fn whole_digits(number: f64) -> usize {
    number.abs().log10().clamp(0.0, 400.0) as usize + 1
}

/// Spends the work of [`real`].
fn allow_digits(number: f64, kind: char, precision: Option<usize>, budget: &Budget) -> Result<()> {
    let digits = precision.unwrap_or(6);
    match kind {
        'e' | 'E' => budget.float_digits(digits),
        'f' | 'F' | '%' => budget.float_digits(whole_digits(number).saturating_add(digits)),
        // The digits are written twice, first to see how many there are.
        _ => budget.float_digits(digits).and_then(|()| budget.float_digits(digits.saturating_add(5))),
    }
}

fn real(number: f64, kind: char, precision: Option<usize>, alternate: bool) -> String {
    if !number.is_finite() {
        return float(number);
    }
    let digits = precision.unwrap_or(6);
    match kind {
        'f' | 'F' => format!("{number:.digits$}"),
        '%' => format!("{:.digits$}%", number * 100.0),
        'e' | 'E' => {
            let text = exponent(&format!("{number:.digits$e}"));
            if kind == 'E' { text.to_uppercase() } else { text }
        }
        _ => general(number, digits.max(1), kind == 'G', alternate),
    }
}

/// Writes an exponent with a sign and two digits.
fn exponent(text: &str) -> String {
    let (digits, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
    format!("{digits}e{sign}{exponent:0>2}")
}

fn general(number: f64, digits: usize, upper: bool, alternate: bool) -> String {
    let scientific = format!("{number:.*e}", digits - 1);
    let power: i32 = scientific.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
    let strip = |text: &str| {
        if alternate || !text.contains('.') {
            return text.to_owned();
        }
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    let text = if power < -4 || power >= digits as i32 {
        let (mantissa, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        exponent(&format!("{}e{power}", strip(mantissa)))
    } else {
        strip(&format!("{number:.*}", (digits as i32 - 1 - power).max(0) as usize))
    };
    if upper { text.to_uppercase() } else { text }
}

fn cannot_group(separator: char, kind: char) -> Error {
    Error::of_type(format!("Cannot specify '{separator}' with '{kind}'."))
}

/// Groups of digits.
struct Groups {
    separator: char,
    size: usize,
}

impl Groups {
    /// Divides the whole part of a number, with zeros in front so that it has at least `width` characters.
    fn divide(&self, body: &str, width: usize, budget: &Budget) -> Result<String> {
        let is_digit = |letter: char| if self.size == 4 { true } else { letter.is_ascii_digit() };
        let (whole, rest) = body.split_at(body.find(|letter| !is_digit(letter)).unwrap_or(body.len()));
        let width = width.saturating_sub(rest.len());
        let length = |digits: usize| digits + digits.saturating_sub(1) / self.size;
        // One group fewer than fits, so that few steps are left.
        let mut digits = whole.len().max((width / (self.size + 1)).saturating_sub(1) * self.size);
        while !whole.is_empty() && length(digits) < width {
            digits += 1;
        }
        let mut out = Builder::new(budget);
        let zeros = std::iter::repeat_n('0', digits - whole.len());
        for (index, digit) in zeros.chain(whole.chars()).enumerate() {
            if index > 0 && (digits - index).is_multiple_of(self.size) {
                out.push(self.separator)?;
            }
            out.push(digit)?;
        }
        out.push_str(rest)?;
        Ok(out.finish())
    }
}

/// Implements `format.format(…)`.
pub(crate) fn format(machine: &mut Machine<'_>, format: &str, arguments: &Arguments) -> Result<String> {
    expanded(machine, format, arguments, &mut 0, MAX_NESTED)
}

/// Replaces the fields of `format`, and up to `nested` levels of fields in their specifications. `automatic` counts the fields
/// without a name or number.
fn expanded(
    machine: &mut Machine<'_>,
    format: &str,
    arguments: &Arguments,
    automatic: &mut usize,
    nested: usize,
) -> Result<String> {
    let budget = machine.budget;
    let mut out = Builder::new(budget);
    let mut letters = format.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '{' if letters.next_if_eq(&'{').is_some() => out.push('{')?,
            '}' if letters.next_if_eq(&'}').is_some() => out.push('}')?,
            '}' => return Err(Error::of_type("Single '}' encountered in format string")),
            '{' => {
                budget.steps(1)?;
                let mut depth = 1;
                let mut field = Builder::new(budget);
                for letter in letters.by_ref() {
                    depth += i64::from(letter == '{') - i64::from(letter == '}');
                    if depth == 0 {
                        break;
                    }
                    field.push(letter)?;
                }
                if depth != 0 {
                    return Err(Error::of_type("expected '}' before end of string"));
                }
                out.push_str(&replacement(machine, &field.finish(), arguments, automatic, nested)?)?;
            }
            _ => out.push(letter)?,
        }
    }
    Ok(out.finish())
}

fn replacement(
    machine: &mut Machine<'_>,
    field: &str,
    arguments: &Arguments,
    automatic: &mut usize,
    nested: usize,
) -> Result<String> {
    let budget = machine.budget;
    let (path, conversion, spec) = parts(field);
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (first, mut rest) = path.split_at(end);
    let mut value = if first.is_empty() {
        *automatic += 1;
        arguments.positional.get(*automatic - 1).cloned()
    } else if let Ok(index) = first.parse::<usize>() {
        arguments.positional.get(index).cloned()
    } else {
        arguments.search(first, budget)?;
        arguments.position(first).map(|at| arguments.named[at].value.clone())
    }
    .ok_or_else(|| Error::of_type(format!("Replacement index or key '{first}' is missing")))?;
    while !rest.is_empty() {
        budget.steps(1)?;
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            value = evaluate::attribute(&value, &after[..end], budget)?;
            rest = &after[end..];
        } else {
            let rule = "Only '.' or '[' may follow ']' in format field specifier";
            let bracket = rest.strip_prefix('[').ok_or_else(|| Error::of_type(rule))?;
            let (key, after) =
                bracket.split_once(']').ok_or_else(|| Error::of_type("Missing ']' in format string"))?;
            let index = key.parse().map_or_else(|_| Value::from(key), Value::Int);
            value = evaluate::item(&value, &index, budget)?;
            rest = after;
        }
    }
    if let Value::Undefined(what) = &value {
        return Err(Error::undefined(&**what));
    }
    match conversion {
        "r" | "a" => value = Value::Str(repr(&value, budget)?),
        "s" => value = Value::Str(machine.text_of(&value)?),
        _ => {}
    }
    if !spec.contains(['{', '}']) {
        return formatted(machine, &value, spec);
    }
    let nested = nested.checked_sub(1).ok_or_else(|| Error::of_type("Max string recursion exceeded"))?;
    let spec = expanded(machine, spec, arguments, automatic, nested)?;
    formatted(machine, &value, &spec)
}

/// Divides a field into its path, conversion and specification. Brackets and their content belong to the path.
fn parts(field: &str) -> (&str, &str, &str) {
    let mut in_brackets = false;
    let ends_path = |letter: char| {
        in_brackets = letter == '[' || (in_brackets && letter != ']');
        !in_brackets && matches!(letter, ':' | '!')
    };
    let (path, rest) = field.split_at(field.find(ends_path).unwrap_or(field.len()));
    let (conversion, spec) = rest.split_once(':').unwrap_or((rest, ""));
    (path, conversion.trim_start_matches('!'), spec)
}

/// Formats a value by a specification such as `>8.2f`.
fn formatted(machine: &mut Machine<'_>, value: &Value, text: &str) -> Result<String> {
    let budget = machine.budget;
    if text.is_empty() {
        let text = machine.text_of(value)?;
        budget.text(text.len())?;
        return Ok(text.to_string());
    }
    let mut spec = Spec::default();
    let mut letters = text.chars().peekable();
    let mut ahead = text.chars();
    let (first, second) = (ahead.next(), ahead.next());
    if second.is_some_and(|letter| "<>=^".contains(letter)) {
        (spec.fill, spec.align) = (first, second);
        letters.nth(1);
    } else if first.is_some_and(|letter| "<>=^".contains(letter)) {
        spec.align = letters.next();
    }
    spec.sign = letters.next_if(|letter| "+- ".contains(*letter));
    spec.alternate = letters.next_if_eq(&'#').is_some();
    if letters.next_if_eq(&'0').is_some() && spec.align.is_none() {
        (spec.fill, spec.align) = (Some('0'), Some('='));
    }
    spec.width = digits(&mut letters).unwrap_or(0);
    spec.separator = letters.next_if(|letter| matches!(letter, ',' | '_'));
    if letters.next_if_eq(&'.').is_some() {
        spec.precision = digits(&mut letters);
    }
    spec.kind = letters.next();
    if letters.next().is_some() {
        return Err(Error::of_type("Invalid format specifier"));
    }
    match value {
        Value::Str(text) if matches!(spec.kind, None | Some('s')) => {
            if let Some(separator) = spec.separator {
                return Err(cannot_group(separator, 's'));
            }
            padded(&cut(text, spec.precision, budget)?, &spec, budget)
        }
        _ if value.number().is_some() => number(value, &spec, budget),
        _ => {
            let kind = value.type_name();
            Err(Error::of_type(format!("unsupported format string passed to {kind}.__format__")))
        }
    }
}
