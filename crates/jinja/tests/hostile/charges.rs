//! Operations whose work is not proportional to the values that they copy: searching, visiting shared values, printing digits.

use jinja::{ErrorKind, Template, Value, Watch};
use serde_json::json;

use super::{check, check_memory, check_time, render};

#[test]
fn letters_to_remove_are_collected_once() {
    let letters = "{% set a = 'a' * 8000000 %}{% set b = 'b' * 8000000 ~ 'a' %}\n";
    check(
        &["a.strip(b)", "a | trim(b)", "a.lstrip(b)", "a.rstrip(b)"]
            .map(|op| format!("{letters}{{{{ {op} }}}}")),
    );
    assert_eq!(render("{{ ('ʻa' * 1000000).strip('bʻa') }}{{ 'ʻaloha'.lstrip('ʻ') }}").unwrap(), 5);
}

#[test]
fn texts_that_are_looked_for_are_counted() {
    let texts = "{% set b = 'ab' * 5000000 %}{% set t = b ~ 'c' %}{% set u = ['b', b] | join %}";
    let operations = [
        "find(b)",
        "rfind(b)",
        "count(b)",
        "replace(b, 'x')",
        "split(b)",
        "rsplit(b)",
        "partition(b)",
        "rpartition(b)",
        "startswith(b)",
        "endswith((b, b))",
        "removeprefix(b)",
        "removesuffix(b)",
    ];
    let mut table = Vec::new();
    for (text, rounds) in [("'a'", 2000), ("t", 99)] {
        let calls = operations.iter().map(|operation| format!("{text}.{operation}"));
        for operation in calls.chain([format!("b in {text}"), format!("{text} | replace(b, 'x')")]) {
            table.push(format!(
                "{texts}\n{{% for i in range({rounds}) %}}{{% set x = {operation} %}}{{% endfor %}}"
            ));
        }
    }
    for operation in ["'a'.index(b)", "'a'.rindex(b)", "u.index(t)", "u.find(b, 1)", "u.find(b, 0, -1)"] {
        table.push(format!("{texts}\n{{% for i in range(99) %}}{{{{ {operation} }}}}{{% endfor %}}"));
    }
    check_time(&table);
}

#[test]
fn long_arguments_are_not_copied_for_nothing() {
    let long = "{% set b = 'ab' * 5000000 %}{% set d = dict([(b, 1)]) %}{% set f = '%' ~ '-' * 10000000 ~ 's' %}{% set z = '%.' ~ '0' * 10000000 ~ 'd' %}{% set l = '%' ~ 'l' * 10000000 ~ 'd' %}";
    let table = [
        "1 | tojson(indent=b, separators=(b, b))",
        "[] | tojson(indent=b)",
        "{} | attr(b)",
        "{}[b]",
        "none[b]",
        "''.format_map(d)",
        "'' | format(**d)",
        "[1] | map('format', **d) | list",
        "dict(**d)",
        "f % 1",
        "z % 1",
        "l % 1",
    ]
    .map(|operation| {
        format!("{long}\n{{% for i in range(2000) %}}{{% set x = {operation} %}}{{% endfor %}}")
    });
    check_time(&table);
}

#[test]
fn long_names_are_counted() {
    let name = |end: usize| format!("{}{end}", "n".repeat(50_000));
    let (last, many) = (name(9), (0..10).map(name).collect::<Vec<_>>());
    let sets = many.iter().map(|name| format!("{{% set {name} = 1 %}}")).collect::<Vec<_>>().concat();
    let named = many.iter().map(|name| format!("{name}=1")).collect::<Vec<_>>().join(", ");
    let looped = |before: &str, call: &str| {
        format!(
            "{before}\n{{% for i in range(300) %}}{{% for j in range(300) %}}{{{{ {call} }}}}{{% endfor %}}{{% endfor %}}"
        )
    };
    check(&[
        looped(&sets, &last),
        looped("", &format!("dict({named})")),
        looped("", &format!("'{{{last}}}'.format({named})")),
        looped("", &format!("(range(99) | map('format', {last}=1) | list)")),
        looped(&format!("{{% macro {last}() %}}{{% endmacro %}}{{% set f = {last} %}}"), "f()"),
        looped(&format!("{{% macro f({}) %}}{{% endmacro %}}", many.join(", ")), &format!("f({named})")),
    ]);
}

#[test]
fn shared_keys_are_counted() {
    let shared = "{% set ns = namespace(t=(1,) * 1000) %}{% for i in range(7) %}{% set ns.t = (ns.t,) * 1000 %}{% endfor %}\n";
    check(
        &["{ns.t: 1}", "dict([(ns.t, 1)])", "{}.get(ns.t)", "{ns.t: 1} == {ns.t: 1}"]
            .map(|key| format!("{shared}{{% set d = {key} %}}{{{{ d }}}}")),
    );
    let deep = "{% set ns = namespace(t=(1,)) %}{% for i in range(12) %}{% set ns.t = (ns.t, 2) %}{% endfor %}{{ {ns.t: 'x'}[ns.t] }}";
    assert_eq!(render(deep).unwrap(), 1);
}

#[test]
fn digits_are_counted() {
    let mut table = Vec::new();
    for operation in [
        "'%.4096g' | format(5e-324)",
        "'%.4096e' % 2.2250738585072011e-308",
        "'%.4096f' % 5e-324",
        "'%.800f' % 2.2250738585072011e-308",
        "'%f' % 1.7e308",
        "'{:.4096}'.format(5e-324)",
        "'{:.4096%}'.format(5e-324)",
        "'{:.0f}'.format(1.7e308)",
        "'{:,.0f}'.format(1.7e308)",
        "1.7e308 | round(300)",
        "2.2250738585072011e-308 | round(300)",
        "'2.4703282292062327208e-324' | float",
        "'2.4703282292062327208e-324' | int",
        "([1e22] * 99) | string",
        "([1e22] * 99) | tojson",
        "{1e22: 1e22} | tojson ~ {1e22: 1e22}",
        "(['{:}'] * 99) | join | replace('{:}', '{0:r}')",
        "([1e22] * 99) | map('string') | list",
        "'{0}{0}{0}{0}{0}{0}{0}{0}{0}{0}'.format(1e22)",
        "'%s%s%s%s%s%s%s%s%s%s' % ((1e22,) * 10)",
    ] {
        table.push(format!(
            "\n{{% for i in range(999) %}}{{% for j in range(999) %}}{{% set x = {operation} %}}{{% endfor %}}{{% endfor %}}"
        ));
    }
    check(&table);
    assert_eq!(render("{{ '%.2f' % 1.5 }}{{ '%g' % 1e300 }}{{ 2.675 | round(2) }}").unwrap(), 4 + 6 + 4);
}

#[test]
fn empty_indentation_is_counted() {
    let deep = "{% set ns = namespace(x=range(9999) | list) %}{% for i in range(190) %}{% set ns.x = [ns.x] %}{% endfor %}";
    let indent = "{% for i in range(9999) %}{% set x = ns.x | tojson(indent='') %}{% endfor %}";
    check(&[format!("{deep}\n{indent}")]);
}

/// On a thread with little stack each statement needs another one, as do expressions at some depth of a template elsewhere.
#[test]
fn new_stacks_are_counted() {
    let source = format!("\n{}", "{{ 1 }}".repeat(100_000));
    let thread = std::thread::Builder::new().stack_size(256 << 10);
    let error = thread.spawn(move || render(&source)).unwrap().join().unwrap().unwrap_err();
    assert_eq!((error.kind, error.line), (ErrorKind::Limit, 2), "{error}");
}

#[test]
fn memory_of_values_on_their_way_is_counted() {
    let concatenated = format!("{}t{}", "t ~ (".repeat(40), ")".repeat(40));
    let list = |depth: usize| format!("{}r{}", "f(*r, x=".repeat(depth), ")".repeat(depth));
    let text = Value::from("x".repeat(2 << 20));
    for source in [
        "{% set r = ('map',) * 500000 %}\n{{ 'a' | map(*r) | list }}".to_owned(),
        "{% set r = ('select',) * 500000 %}\n{{ 'a' | map('map', *(('map',) * 500000)) | list }}".to_owned(),
        format!("{{% set t = 'x' * 10000000 %}}\n{{{{ {concatenated} }}}}"),
        format!(
            "{{% set r = [0] * 500000 %}}\n{{% macro f() %}}{{{{ varargs }}}}{{{{ kwargs }}}}{{% endmacro %}}{{{{ {} }}}}",
            list(40)
        ),
        "\n{% for i in range(99999) %}{% for j in range(999) %}{% for m in messages %}x{% endfor %}{% endfor %}{% endfor %}".to_owned(),
        "{% set t = '\u{fdd0}\u{fdd1}' * 5000000 %}\n{{ t }}{{ t }}{{ t }}".to_owned(),
    ] {
        let messages = Value::from(&json!([{"role": "user"}, {"role": "assistant"}]));
        let watch = Watch { items: messages.items().to_vec(), printed: Vec::new() };
        let context = vec![("messages".into(), messages), ("text".into(), text.clone())];
        let error = Template::new(&source).unwrap().render(context, &watch, None).unwrap_err();
        assert_eq!((error.kind, error.line), (ErrorKind::Limit, 2), "{error}: {source:.200}");
        check_memory().unwrap_or_else(|problem| panic!("{problem}: {source:.200}"));
    }
}
