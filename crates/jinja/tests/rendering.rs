//! What the output says besides its text, and templates that mean harm.

use jinja::{Error, ErrorKind, Notation, Output, Template, Value, Watch};
use proptest::prelude::*;
use serde_json::json;

fn messages() -> Value {
    Value::from(
        &json!([{"role": "a", "content": "one"}, {"role": "b", "content": ["x"]}, {"role": "c", "content": "3"}]),
    )
}

fn render(source: &str) -> Result<Output, Error> {
    let messages = messages();
    let printed = messages.items().iter().filter_map(|message| message.get("content").cloned()).collect();
    let watch = Watch { items: messages.items().to_vec(), printed };
    Template::new(source)?.render(vec![("messages".into(), messages)], &watch, None)
}

/// Returns the text of each item, by its number.
fn spans(source: &str) -> Vec<(usize, String)> {
    let output = render(source).expect("the template is valid");
    output.spans.iter().map(|span| (span.item, output.text[span.range.clone()].to_owned())).collect()
}

#[test]
fn text_belongs_to_the_item_that_a_loop_visits() {
    let expected = [(0, "<a>"), (1, "<b>"), (2, "<c>")].map(|(item, text)| (item, text.to_owned()));
    for source in [
        "x{% for m in messages %}<{{ m.role }}>{% endfor %}y",
        "{% set all = messages[:1] + messages[1:] %}{% for m in all %}{{ '<' + m.role }}{{ '>' }}{% endfor %}",
        "{% for i in range(messages | length) %}{% set m = messages[i] %}<{{ m.role }}>{% endfor %}",
        "{% macro tag(m) %}<{% for r in [m.role] %}{{ r }}{% endfor %}>{% endmacro %}{% for m in messages %}{{ tag(m) }}{% endfor %}",
        "{% for m in messages %}{% for other in [1, 2] %}{% if loop.first %}<{{ m.role }}{% endif %}{% endfor %}>{% endfor %}",
        "{% for m in messages | list %}{% filter upper | lower %}<{{ m.role }}>{% endfilter %}{% endfor %}",
    ] {
        assert_eq!(spans(source), expected, "{source}");
    }
    let backwards = spans("{% for m in messages[::-1] %}{{ m.role }}{% endfor %}");
    assert_eq!(backwards[0], (2, "c".to_owned()));
    assert!(spans("{% set x = messages[0] %}{{ x.role }}").is_empty());
}

#[test]
fn values_in_a_notation_are_reported_with_their_line() {
    let printed = |source: &str| {
        let output = render(source).unwrap();
        output.printed.iter().map(|found| (found.value, found.notation, found.line)).collect::<Vec<_>>()
    };
    for source in [
        "\n{{ messages[1].content }}",
        "\n{{ 'a' ~ messages[1].content }}",
        "\n{{ messages[1].content | string }}",
        "\n{{ messages[1].content | trim }}",
        "\n{{ '%s' % [messages[1].content] }}",
        "\n{{ messages[1] }}",
        "\n{{ '{}'.format(messages[1].content) }}",
    ] {
        assert_eq!(printed(source), [(1, Notation::Python, 2)], "{source}");
    }
    assert_eq!(printed("{{ messages[1].content | tojson }}"), [(1, Notation::Json, 1)]);
    assert_eq!(printed("{{ messages[0] | tojson }}"), [(0, Notation::Json, 1)]);
    assert!(printed("{{ messages[0].content }}{{ messages[1].content[0] }}{{ [1] }}").is_empty());
}

/// Returns the text of a template with `n` = 1, 2, 3 and the dict `d`, or the reason why there is none.
fn text(source: &str) -> String {
    let context = vec![
        ("n".to_owned(), Value::from(&json!([1, 2, 3]))),
        ("d".to_owned(), Value::from(&json!({"p": 1, "q": 2}))),
        ("role".to_owned(), "a".into()),
    ];
    let rendered =
        Template::new(source).and_then(|template| template.render(context, &Watch::default(), None));
    rendered.map_or_else(|error| format!("error: {}", error.message), |output| output.text)
}

/// The expected texts are those of Jinja2 3.1.6.
#[test]
fn a_generator_gives_each_value_once() {
    let twice = |value: &str| {
        text(&format!(
            "{{% set s = {value} %}}{{% for x in s %}}{{{{ x }}}}{{% endfor %}}|{{% for x in s %}}{{{{ x }}}}{{% endfor %}}"
        ))
    };
    for (value, expected) in [
        ("n | select('odd')", "13|"),
        ("n | reject('odd')", "2|"),
        ("[d] | selectattr('p') | map(attribute='q')", "2|"),
        ("[d] | rejectattr('x')", "{'p': 1, 'q': 2}|"),
        ("n | map('string')", "123|"),
        ("n | reverse", "321|"),
        ("n | select | reverse", "321|321"),
        ("'ab' | reverse", "ba|ba"),
        ("n | unique", "123|"),
        ("n | batch(2)", "[1, 2][3]|"),
        ("n | slice(2)", "[1, 2][3]|"),
        ("d | items", "('p', 1)('q', 2)|"),
        ("d.items()", "('p', 1)('q', 2)|('p', 1)('q', 2)"),
        ("d.keys()", "pq|pq"),
        ("d | dictsort", "('p', 1)('q', 2)|('p', 1)('q', 2)"),
        ("n | sort", "123|123"),
        ("n | select | list", "123|123"),
        ("range(3)", "012|012"),
    ] {
        assert_eq!(twice(value), expected, "{value}");
    }
    let with = |rest: &str| text(&format!("{{% set s = n | select %}}{rest}"));
    for (rest, expected) in [
        ("{{ s | first }}|{{ s | list }}|{{ s | list }}", "1|[2, 3]|[]"),
        ("{{ 2 in s }}|{{ s | list }}", "True|[3]"),
        ("{{ 9 in s }}|{{ s | list }}", "False|[]"),
        ("{% set a, b, c = s %}{{ a }}{{ s | list }}", "1[]"),
        ("{% if s %}t{% endif %}{% if s is iterable %}t{% endif %}{{ s | list }}", "tt[1, 2, 3]"),
        ("{{ s | max }}{{ s | sum }}{{ s | join }}", "30"),
        ("{% set ns = namespace(l=s) %}{{ ns.l | list }}{{ s | list }}", "[1, 2, 3][]"),
        ("{{ s == s }} {{ s in [s] }} {{ s | list }}", "True True [1, 2, 3]"),
    ] {
        assert_eq!(with(rest), expected, "{rest}");
    }
    assert!(with("{{ s | last }}").contains("not reversible"));
}

/// The expected texts are those of Jinja2 3.1.6.
#[test]
fn lines_end_where_python_ends_them() {
    for (source, expected) in [
        ("{{ 'a\\r\\nb' | indent }}", "a\n    b"),
        ("{{ 'a\\nb\\n' | indent }}|", "a\n    b\n|"),
        ("{{ 'a\\n\\nb\\n' | indent(2, true, true) }}|", "  a\n  \n  b\n  |"),
        ("{{ 'a\\n\\nb\\n' | indent(2, true) }}|", "  a\n\n  b\n|"),
        ("{{ 'a\\u2028b' | indent }}|", "a\n    b|"),
        ("{{ '' | indent(first=true) }}|", "    |"),
        ("{{ '' | indent }}|", "|"),
        ("{{ 'a\\x0bb\\x0cc\\rd' | indent }}|", "a\n    b\n    c\n    d|"),
        ("{{ 'a\\r\\nb c\\n' | wordwrap(2) }}|", "a\nb\nc|"),
    ] {
        assert_eq!(text(source), expected, "{source}");
    }
}

/// The expected texts are those of Python 3.11.
#[test]
fn numbers_are_grouped_and_padded() {
    for (format, number, expected) in [
        ("{:,}", "1234567", "1,234,567"),
        ("{:_}", "1234567", "1_234_567"),
        ("{:_}", "-1234", "-1_234"),
        ("{:+,}", "1234", "+1,234"),
        ("{:_.2f}", "1234567.5", "1_234_567.50"),
        ("{:_%}", "1234567.5", "123_456_750.000000%"),
        ("{:,.0%}", "1234.5", "123,450%"),
        ("{:_e}", "1234567.0", "1.234567e+06"),
        ("{:,.0f}", "123.0", "123"),
        ("{:,}", "1e20", "1e+20"),
        ("{:_x}", "1234567", "12_d687"),
        ("{:_o}", "1234567", "455_3207"),
        ("{:_b}", "37", "10_0101"),
        ("{:#_x}", "1234567", "0x12_d687"),
        ("{:#010x}", "255", "0x000000ff"),
        ("{:#X}", "255", "0XFF"),
        ("{:010_x}", "255", "0_0000_00ff"),
        ("{:012,}", "1234567", "0,001,234,567"),
        ("{:06,}", "1234", "01,234"),
        ("{:07,}", "1234", "001,234"),
        ("{:08,}", "1234", "0,001,234"),
        ("{:08,.1f}", "-1234.5", "-1,234.5"),
        ("{:0=10,}", "1234", "00,001,234"),
        ("{:=8,}", "1234", "   1,234"),
        ("{:0>8,}", "1234", "0001,234"),
        ("{:0>8}", "-5", "000000-5"),
        ("{:08}", "-5", "-0000005"),
        ("{:5,}", "12", "   12"),
    ] {
        assert_eq!(text(&format!("{{{{ '{format}'.format({number}) }}}}")), expected, "{format} of {number}");
    }
    for (format, value, reason) in [
        ("{:,x}", "37", "Cannot specify ',' with 'x'."),
        ("{:_n}", "37", "Cannot specify '_' with 'n'."),
        ("{:,s}", "'a'", "Cannot specify ',' with 's'."),
        ("{:,}", "'a'", "Cannot specify ',' with 's'."),
    ] {
        let refused = text(&format!("{{{{ '{format}'.format({value}) }}}}"));
        assert!(refused.contains(reason), "{format} of {value}: {refused}");
    }
    for (format, expected) in
        [("%05d", "-0042"), ("%-5d|", "-42  |"), ("%0-5d|", "-42  |"), ("%#07x", "-0x002a"), ("%5s", "  -42")]
    {
        assert_eq!(text(&format!("{{{{ '{format}' % -42 }}}}")), expected, "{format}");
    }
}

#[test]
fn specifications_may_hold_fields() {
    for (call, expected) in [
        ("'{:{}}|'.format('a', 5)", "a    |"),
        ("'{:{w}}|{}'.format('a', 'b', w=5)", "a    |b"),
        ("'{:{w}.{p}f}|'.format(1.23456, w=8, p=2)", "    1.23|"),
        ("'{0:{1}{2}}|'.format('a', '>', 5)", "    a|"),
        ("'{:{w!s}}|'.format('a', w=5)", "a    |"),
        ("'{!r:5}|'.format('a')", "'a'  |"),
        ("'{a[x:y]}|'.format(a={'x:y': 3})", "3|"),
    ] {
        assert_eq!(text(&format!("{{{{ {call} }}}}")), expected, "{call}");
    }
    for call in ["'{:{:{}}}|'.format('a', 5, 3)", "'{:{x}'.format('a', x=5)", "'{:{{}}}'.format('a')"] {
        let refused = text(&format!("{{{{ {call} }}}}"));
        assert!(refused.starts_with("error: "), "{call}: {refused}");
    }
}

/// The expected texts are those of Python 3.11.
#[test]
fn digits_are_decimal_or_at_least_digits_or_numeric() {
    for (letter, expected) in [
        ("7", "TrueTrueTrue"),
        ("٣", "TrueTrueTrue"),
        ("𝟘", "TrueTrueTrue"),
        ("²", "FalseTrueTrue"),
        ("①", "FalseTrueTrue"),
        ("½", "FalseFalseTrue"),
        ("Ⅷ", "FalseFalseTrue"),
        ("一", "FalseFalseTrue"),
        ("a", "FalseFalseFalse"),
        ("", "FalseFalseFalse"),
    ] {
        let source = format!(
            "{{% set s = '{letter}' %}}{{{{ s.isdecimal() }}}}{{{{ s.isdigit() }}}}{{{{ s.isnumeric() }}}}"
        );
        assert_eq!(text(&source), expected, "{letter}");
    }
}

#[test]
fn errors_have_a_kind_and_the_line() {
    let error = |source: &str| {
        let error = render(source).unwrap_err();
        (error.kind, error.line)
    };
    assert_eq!(error("a\n{% if %}"), (ErrorKind::Syntax, 2));
    assert_eq!(error("a\n\n{{ raise_exception('no') }}"), (ErrorKind::Raised, 3));
    assert_eq!(error("{{ missing.name }}"), (ErrorKind::Undefined, 1));
    assert_eq!(error("{% for m in messages %}\n{{ m.role + 1 }}{% endfor %}"), (ErrorKind::Type, 2));
    assert_eq!(error("{{ strftime_now('%d') }}"), (ErrorKind::MissingFunction, 1));
}

#[test]
fn numbers_without_a_value_are_errors() {
    for (source, message) in [
        ("(0 - 2**126 - 2**126)|abs", "the number is too large"),
        ("'%c' % -1", "%c arg not in range(0x110000)"),
        ("'%c' % 1114112", "%c arg not in range(0x110000)"),
        ("'%c' % 'ab'", "%c requires int or char"),
        ("'%c' % 65.0", "%c requires int or char"),
        ("0 ** -1", "0.0 cannot be raised to a negative power"),
        ("0.0 ** -0.5", "0.0 cannot be raised to a negative power"),
        ("(-8) ** 0.5", "complex numbers are not supported"),
        ("10.0 ** 400", "the number is too large"),
        ("1e300|int", "the number is too large"),
        ("('9' * 50)|int", "the number is too large"),
        ("'%d' % 1e39", "the number is too large"),
        ("1e308|round(3, 'ceil')", "the number is too large"),
    ] {
        let error = render(&format!("{{{{ {source} }}}}")).unwrap_err();
        assert_eq!(error.message, message, "{source}");
    }
    for (source, expected) in [
        ("'%c%c' % (65, 'é')", "Aé"),
        ("(1 - 2**126 - 2**126)|abs", "170141183460469231731687303715884105727"),
        ("2 ** -1", "0.5"),
        ("0.0 ** 0", "1.0"),
        ("1e30|int", "1000000000000000019884624838656"),
        ("'%d' % -1e30", "-1000000000000000019884624838656"),
        ("'1e9'|int", "1000000000"),
    ] {
        assert_eq!(text(&format!("{{{{ {source} }}}}")), expected, "{source}");
    }
}

#[test]
fn work_and_text_are_bounded() {
    for source in [
        "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% for a in range(9999) %}{{ 'x' * 99999 }}{% endfor %}",
        "{{ ('x' * 60000000) * 60000000 }}",
        "{{ 'x' * 9999999999999 }}",
        "{{ range(999999999) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ 'x'.ljust(99999999999) }}",
        "{{ '%99999999s' % 'x' }}{{ 'x'.replace('', 'y' * 60000000) }}",
        "{% set ns = namespace(x='ab') %}{% for a in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    ] {
        assert_eq!(render(source).unwrap_err().kind, ErrorKind::Limit, "{source}");
    }
    let deep = [
        format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000)),
        format!("{{{{ {} 1 }}}}", "not ".repeat(5000)),
        format!("{{{{ 1{} }}}}", " + 1".repeat(5000)),
        format!("{{{{ x{} }}}}", ".y".repeat(5000)),
        format!("{{{{ x{} }}}}", " | trim".repeat(5000)),
        "{% if 1 %}".repeat(5000),
    ];
    for source in deep {
        assert_eq!(render(&source).unwrap_err().kind, ErrorKind::Syntax);
    }
}

proptest! {
    #[test]
    fn nothing_panics(source in "(\\{\\{|\\{%|%\\}|\\}\\}|\\{#|#\\}|-|[a-z]{1,3}|\\.|\\(|\\)|\\[|\\]|'|\\||:|,|~|%| |\n|1|for m in messages|endfor|if|endif|set x =|messages|raw|endraw){0,24}") {
        let _ = render(&source);
    }
}

#[test]
fn a_field_that_goes_on_after_a_bracket_is_refused() {
    let error = render("{{ '{0[a]ʻ}'.format({'a': 1}) }}").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Type);
    assert!(error.message.contains("may follow ']'"), "{error}");
}
