//! Templates that mean harm: each ends soon, within bounded memory, with an error that names its line.

#[path = "hostile/charges.rs"]
mod charges;

use std::time::{Duration, Instant};

use jinja::{Error, ErrorKind, Template, Value, Watch};
use serde_json::json;

/// Longest time of one template.
const MAX_TIME: Duration = Duration::from_secs(2);
/// Most memory of the process, in KiB.
#[cfg(target_os = "linux")]
const MAX_KIBIBYTES: u64 = 256 << 10;

/// Measures the CPU time of this thread where the system reports it, so that other processes do not distort the result.
struct Clock {
    processor: Option<Duration>,
    wall: Instant,
}

impl Clock {
    fn start() -> Self {
        Self { processor: Self::processor(), wall: Instant::now() }
    }

    fn processor() -> Option<Duration> {
        let text = fs_err::read_to_string("/proc/thread-self/schedstat").ok()?;
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    }

    fn elapsed(&self) -> Duration {
        match (self.processor, Self::processor()) {
            (Some(start), Some(end)) => end.saturating_sub(start),
            _ => self.wall.elapsed(),
        }
    }
}

fn render(source: &str) -> Result<usize, Error> {
    let messages = Value::from(&json!([
        {"role": "user", "content": "aloha kākou"},
        {"role": "assistant", "content": [{"type": "text", "text": "e komo mai"}]},
    ]));
    let printed = messages.items().iter().filter_map(|message| message.get("content").cloned()).collect();
    let watch = Watch { items: messages.items().to_vec(), printed };
    let output = Template::new(source)?.render(vec![("messages".into(), messages)], &watch, None)?;
    Ok(output.text.len())
}

/// Returns the error of `source`, and checks what it cost.
fn refused(source: &str) -> Error {
    attempt(source).unwrap_or_else(|problem| panic!("{problem}: {source:.200}"))
}

fn attempt(source: &str) -> Result<Error, String> {
    let start = Clock::start();
    let result = render(source);
    let time = start.elapsed();
    if time > MAX_TIME {
        return Err(format!("took {time:?}"));
    }
    check_memory()?;
    result.err().ok_or_else(|| "was rendered".to_owned())
}

/// Checks that each template reaches a limit on its second line or later.
fn check(table: &[String]) {
    let mut problems = Vec::new();
    for source in table {
        match attempt(source) {
            Err(problem) => problems.push(format!("{problem}: {source:.200}")),
            Ok(error) if error.kind != ErrorKind::Limit || error.line < 2 => {
                problems.push(format!("{error}: {source:.200}"));
            }
            Ok(_) => {}
        }
    }
    assert!(problems.is_empty(), "{} of {}:\n{}", problems.len(), table.len(), problems.join("\n"));
}

/// Checks that each template ends soon, with or without an error.
fn check_time(table: &[String]) {
    let mut problems = Vec::new();
    for source in table {
        let problem = attempt(source).err().filter(|problem| problem != "was rendered");
        problems.extend(problem.map(|problem| format!("{problem}: {source:.200}")));
    }
    assert!(problems.is_empty(), "{} of {}:\n{}", problems.len(), table.len(), problems.join("\n"));
}

#[cfg(target_os = "linux")]
fn check_memory() -> Result<(), String> {
    let status = fs_err::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().map_err(|_| "no `VmHWM`".to_owned())?;
    if peak < MAX_KIBIBYTES { Ok(()) } else { Err(format!("the process took {peak} KiB")) }
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "other systems do not tell")]
fn check_memory() -> Result<(), String> {
    Ok(())
}

/// Repeats `step` in a loop of 100 rounds with a namespace `ns` whose `x` is `start`.
fn grown(start: &str, step: &str) -> String {
    format!(
        "{{% set ns = namespace(x={start}) %}}\n{{% for i in range(100) %}}{step}{{% endfor %}}{{{{ ns.x }}}}"
    )
}

#[test]
fn work_is_bounded() {
    let thrice = "{% for a in r %}{% for b in r %}{% for c in r %}";
    let ends = "{% endfor %}{% endfor %}{% endfor %}";
    let table = vec![
        format!("{{% set r = range(9999) %}}\n{thrice}{ends}"),
        format!("{{% set r = range(9999) %}}\n{thrice}{{{{ x }}}}{ends}"),
        "\n{% for a in range(99999) %}{% for b in range(99999) if b == 100000 %}{% endfor %}{% endfor %}".into(),
        "\n{% macro f(n) %}{% for i in range(40) %}{{ f(n) }}{% endfor %}{% endmacro %}{{ f(1) }}".into(),
        "\n{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}".into(),
        "\n{% for a in [[1, 2], [3]] recursive %}{{ loop([[1], [2], [3]]) }}{% endfor %}".into(),
        "\n{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}".into(),
        "\n{% macro f() %}{{ caller() }}{% endmacro %}{% macro g() %}{% call f() %}{{ g() }}{% endcall %}{% endmacro %}{{ g() }}".into(),
        "\n{% macro f(x=[f()]) %}{% endmacro %}{{ f(f) }}{% macro g(x=g()) %}{% endmacro %}{{ g() }}".into(),
        format!("\n{{% macro f() %}}{{{{ {}f(){} }}}}{{% endmacro %}}{{{{ f() }}}}", "[".repeat(50), "]".repeat(50)),
        "\n{{ range(99999) | list | unique | list | length }}".into(),
        "\n{{ range(99999) | map('string') | unique | list | length }}".into(),
        "\n{{ dict(range(99999) | map('string') | map('list') | map('join') | batch(2)) }}".into(),
        "\n{% for i in range(9999) %}{{ range(99999) | sort(reverse=true) | first }}{% endfor %}".into(),
        "\n{% for i in range(9999) %}{{ range(99999) | sum }}{% endfor %}".into(),
        "\n{% for i in range(99999) %}{{ range(99999) | length }}{% endfor %}".into(),
        "\n{% for i in range(9999) %}{{ range(9999) | select('in', range(9999)) | list | length }}{% endfor %}".into(),
        "\n{% set r = range(9999) | list %}{{ r | map('string') | select('in', r | map('string') | list) | list | length }}".into(),
        "\n{% for i in range(99999) %}{{ (messages * 4999) | map(attribute='role') | list | length }}{% endfor %}".into(),
        "\n{% for i in range(99999) %}{{ range(99999) | reverse | first }}{% endfor %}".into(),
        "\n{% for i in range(99999) %}{{ range(9999) | list == range(9999) | list }}{% endfor %}".into(),
        "\n{% for i in range(99999) %}{{ range(9999) | tojson | length }}{% endfor %}".into(),
        "\n{% for i in range(99999) %}{{ range(9999) | string | length }}{% endfor %}".into(),
        "\n{% for i in range(99999) %}{{ range(9999) | join('-') | length }}{% endfor %}".into(),
        "\n{% set w = 'x' * 1000000 %}{% for i in range(99999) %}{{ w | wordwrap(1) | length }}{% endfor %}".into(),
        format!("{{% set s = '{}' %}}
{{% for i in range(99999) %}}{{{{ '{}' | length }}}}{{% endfor %}}", "a".repeat(99_999), "b".repeat(99_999)),
        "\n{% set s = 'ab' * 1000000 %}{% for i in range(99999) %}{% if s[i] == s[-1 - i] %}{% endif %}{% endfor %}".into(),
        format!("\n{{% set d = dict({}) %}}{{% for i in range(99999) %}}{{{{ d.k1999 ~ d['k1998'] }}}}{{% endfor %}}", (0..2000).map(|i| format!("k{i}={i}")).collect::<Vec<_>>().join(",")),
        format!("{}\n{{% for i in range(99999) %}}{{{{ missing }}}}{{% endfor %}}", (0..2000).map(|i| format!("{{% set v{i} = {i} %}}")).collect::<Vec<_>>().concat()),
        format!("\n{{% macro f({0}) %}}{{% endmacro %}}{{% set d = dict({0}) %}}{{% for i in range(99999) %}}{{{{ f(**d) }}}}{{% endfor %}}", (0..1000).map(|i| format!("k{i}={i}")).collect::<Vec<_>>().join(",")),
        "\n{% for i in range(99999) %}{% for j in range(99999) %}{% generation %}{% endgeneration %}{% endfor %}{% endfor %}".into(),
        "\n{% for i in range(99999) %}{% for j in range(99999) %}{% set ns = namespace(x=j) %}{% endfor %}{% endfor %}".into(),
        "\n{% for i in range(99999) %}{{ [messages[1].content] * 9999 }}{% endfor %}".into(),
        "\n{% for i in range(99999) %}{{ loop.changed(range(99999)) }}{% endfor %}".into(),
        "\n{% for i in range(99999) %}{{ '%s' % 'x' * 999 }}{{ '{0} {0}'.format('x' * 99999) | length }}{% endfor %}".into(),
    ];
    check(&table);
}

#[test]
fn operations_on_large_values_are_bounded() {
    let long = "{% set t = 'x' * 10000000 %}\n{% for i in range(99999) %}";
    let wide = "{% set r = range(99999) | list %}\n{% for i in range(99999) %}";
    let mut table = Vec::new();
    for operation in [
        "t | upper",
        "t | title",
        "t | trim('x')",
        "t | replace('x', 'y')",
        "t | replace('xx', '')",
        "t | indent",
        "t | center(20)",
        "t | truncate(9)",
        "t | wordcount",
        "t | wordwrap",
        "t | urlencode",
        "t | escape",
        "t | length",
        "t | reverse",
        "t | tojson",
        "t | int",
        "t | float",
        "t | list | length",
        "t.split('y')",
        "t.split()",
        "t.splitlines()",
        "t.find('y')",
        "t.count('xy')",
        "t.strip('x')",
        "t.partition('y')",
        "t.startswith('y', 5)",
        "t.title()",
        "t.swapcase()",
        "t.expandtabs()",
        "t.casefold()",
        "t.zfill(3)",
        "t.isalpha()",
        "t.istitle()",
        "t.removesuffix('y')",
        "t[5]",
        "t[1:]",
        "t[::-1]",
        "t ~ t",
        "t + t",
        "t == t ~ ''",
        "'y' in t",
        "t is upper",
        "t is lower",
        "t % ()",
        "t.format()",
        "t < t ~ ''",
        "[t] | sort | first",
        "t | list",
        "t | string ~ 1",
        "t.join(['a', 'b'])",
        "[t, t] | join",
        "namespace(x=t ~ t).x",
        "t is in [t ~ '']",
        "t.rsplit('x', 1)",
        "'x'.replace('', t)",
    ] {
        table.push(format!("{long}{{% if ({operation}) == 1 %}}{{% endif %}}{{% endfor %}}"));
    }
    for operation in [
        "r | length == r | list",
        "r | first",
        "r | last",
        "r + r",
        "r * 2",
        "r[1:]",
        "r[::-1]",
        "r[::2]",
        "r.index(99998)",
        "r.count(1)",
        "99998 in r",
        "-1 not in r",
        "r | max",
        "r | min",
        "r | sort",
        "r | sum",
        "r | batch(3)",
        "r | slice(3)",
        "r | select",
        "r | reject",
        "r | map('abs')",
        "r | join",
        "r == r + []",
        "r < r + []",
        "dict(a=r).values() | first | list",
        "(r, r) | tojson",
        "r | string",
        "r | unique",
        "cycler(*r)",
        "([[1, 2]] * 99999) | groupby(1)",
        "range(99999)",
        "r is iterable and r | reverse",
        "r is in [r + []]",
    ] {
        table.push(format!("{wide}{{% if ({operation}) == 1 %}}{{% endif %}}{{% endfor %}}"));
    }
    check(&table);
}

#[test]
fn memory_is_bounded() {
    let mut table: Vec<String> = [
        "\n{{ 'a' * 10 ** 9 }}",
        "\n{{ [0] * 10 ** 9 }}",
        "\n{{ (0,) * 10 ** 9 }}",
        "\n{{ ([[[0] * 999] * 999] * 999) | string }}",
        "\n{{ '%1000000000d' % 1 }}",
        "\n{{ '%*d' % (1000000000, 1) }}",
        "\n{{ '%.1000000000f' % 1 }}",
        "\n{{ '%10000000000d' | format(1) }}",
        "\n{{ '{:>1000000000}'.format(1) }}",
        "\n{{ '{:.1000000000f}'.format(1.5) }}",
        "\n{{ '%(a)1000000000s' | format(a=1) }}",
        "\n{{ 'x\ny' | indent(10 ** 9) }}",
        "\n{{ ('\n' * 10 ** 6) | indent(1000, blank=true) }}",
        "\n{{ ('\n' * 10 ** 6) | indent('x' * 1000, first=true, blank=true) }}",
        "\n{{ 'x' | center(10 ** 9) }}",
        "\n{{ 'x'.ljust(10 ** 9) }}",
        "\n{{ 'x'.rjust(10 ** 18) }}",
        "\n{{ 'x'.center(10 ** 18, 'ʻ') }}",
        "\n{{ 'x'.zfill(10 ** 9) }}",
        "\n{{ '\t'.expandtabs(10 ** 9) }}",
        "\n{{ ('\t' * 10 ** 6).expandtabs(1000) }}",
        "\n{{ ('x' * 10 ** 5) | replace('', 'y' * 10 ** 5) }}",
        "\n{{ ('x' * 10 ** 5).replace('x', 'y' * 10 ** 5) }}",
        "\n{{ ('x' * 10 ** 5) | replace('x', 'y' * 10 ** 5) }}",
        "\n{{ ('y' * 10 ** 5).join('x' * 10 ** 5) }}",
        "\n{{ range(10 ** 5) | join('y' * 10 ** 5) }}",
        "\n{{ ('a,' * 10 ** 7).split(',') | length }}",
        "\n{{ ('a ' * 10 ** 7).split() | length }}",
        "\n{{ ('a\n' * 10 ** 7).splitlines() | length }}",
        "\n{{ ('a' * 10 ** 7) | list | length }}",
        "\n{% for c in 'a' * 10 ** 7 %}{% endfor %}",
        "\n{{ [1] | batch(10 ** 9, 0) | list }}",
        "\n{{ [1] | slice(10 ** 9) | list }}",
        "\n{{ [1] | slice(10 ** 7, 'x') | list }}",
        "\n{{ range(10 ** 12) }}",
        "\n{{ range(-(10 ** 18), 10 ** 18) }}",
        "\n{{ [messages] | tojson(indent=10 ** 9) }}",
        "\n{{ range(10 ** 5) | list | tojson(indent='x' * 10 ** 5) }}",
        "\n{{ range(10 ** 5) | list | tojson(separators=('x' * 10 ** 5, ':')) }}",
        "\n{{ ('\"' * 5 * 10 ** 7) | escape }}",
        "\n{{ ('\"' * 5 * 10 ** 7) | tojson }}",
        "\n{{ ('ʻ' * 2 * 10 ** 7) | urlencode }}",
        "\n{{ ('ΐ' * 2 * 10 ** 7) | upper }}",
        "\n{{ ['x' * 10 ** 7] * 10 ** 3 }}",
        "\n{{ (['x' * 10 ** 7] * 10 ** 3) | join }}",
        "\n{{ '%s%s%s%s%s%s%s%s' | format(*(['x' * 10 ** 7] * 8)) }}",
        "\n{{ ('{0}' * 1000).format('x' * 10 ** 6) }}",
        "\n{{ ('%(a)s' * 1000) % dict(a='x' * 10 ** 6) }}",
        "\n{{ 'x' * 10 ** 7 ~ 'x' * 10 ** 7 ~ 'x' * 10 ** 7 ~ 'x' * 10 ** 7 ~ 'x' * 10 ** 7 ~ 'x' * 10 ** 7 ~ 'x' * 10 ** 7 }}",
        "\n{{ ('x ' * 10 ** 5) | wordwrap(1, wrapstring='y' * 10 ** 5) }}",
        "\n{% for a in range(9999) %}{{ 'x' * 99999 }}{% endfor %}",
        "\n{% set x %}{% for a in range(9999) %}{{ 'x' * 99999 }}{% endfor %}{% endset %}",
        "\n{% filter upper %}{% for a in range(9999) %}{{ 'x' * 99999 }}{% endfor %}{% endfilter %}",
        "\n{% macro f() %}{{ 'x' * 10 ** 6 }}{% for i in range(9) %}{{ f() }}{% endfor %}{% endmacro %}{{ f() }}",
        "\n{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = ns.x + ['x' * 9999] %}{% endfor %}",
        "\n{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x, 'x' * 9999] %}{% endfor %}",
        "\n{% set ns = namespace() %}{% for i in range(99999) %}{% set ns2 = namespace(p=ns, x='x' * 99999) %}{% set ns.q = [ns2, ns.q] %}{% endfor %}",
        "\n{{ 9 ** 9 ** 9 }}",
        "\n{{ 2 ** 127 }}",
        "\n{{ 10 ** 38 * 10 }}",
        "\n{{ (10 ** 38) + (10 ** 38) + (10 ** 38) }}",
    ]
    .map(str::to_owned)
    .to_vec();
    for step in [
        "{% set ns.x = ns.x ~ ns.x %}",
        "{% set ns.x = ns.x + ns.x %}",
        "{% set ns.x = ns.x * 2 %}",
        "{% set ns.x = [ns.x, ns.x] | join %}",
        "{% set ns.x = ns.x | replace('a', 'aa') %}",
        "{% set ns.x = '%s%s' % (ns.x, ns.x) %}",
        "{% set ns.x = '{0}{0}'.format(ns.x) %}",
        "{% set ns.x = ns.x | tojson | tojson %}",
        "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}",
        "{% set ns.x = ns.x.join([ns.x, ns.x]) %}",
        "{% set ns.x = ns.x | urlencode ~ '%' * ns.x | length %}",
    ] {
        table.push(grown("'ab'", step));
    }
    for step in [
        "{% set ns.x = [ns.x, ns.x] %}",
        "{% set ns.x = (ns.x, ns.x) %}",
        "{% set ns.x = {'a': ns.x, 'b': ns.x} %}",
        "{% set ns.x = dict(a=ns.x, b=ns.x).items() %}",
        "{% set ns.x = ns.x + ns.x %}",
        "{% set ns.x = ns.x * 2 %}",
        "{% set ns.x = [ns.x, ns.x] | map('list') | list %}",
    ] {
        table.push(grown("[1]", step));
    }
    check(&table);
}

#[test]
fn nesting_is_bounded() {
    let bombs = [
        "ns.x | string",
        "ns.x | tojson",
        "ns.x == ns.y",
        "ns.x < ns.y",
        "ns.x in [ns.y]",
        "[ns.y, ns.x] | sort",
        "[ns.y, ns.x] | unique | list",
        "'%r' % [ns.x]",
    ];
    for bomb in bombs {
        let source = format!(
            "{{% set ns = namespace(x=[1], y=[1]) %}}{{% for i in range(60) %}}{{% set ns.x = [ns.x, ns.x] %}}{{% set ns.y = [ns.y, ns.y] %}}{{% endfor %}}\n{{{{ {bomb} }}}}"
        );
        let error = refused(&source);
        assert_eq!((error.kind, error.line), (ErrorKind::Limit, 2), "{error}: {bomb}");
        let deep = format!(
            "{{% set ns = namespace(x=[1], y=[1]) %}}{{% for i in range(50000) %}}{{% set ns.x = [ns.x] %}}{{% set ns.y = [ns.y] %}}{{% endfor %}}\n{{{{ {bomb} }}}}"
        );
        let error = refused(&deep);
        assert_eq!((error.kind, error.line), (ErrorKind::Limit, 2), "{error}: {bomb}");
    }
    for wrapped in [
        "[ns.x]",
        "(ns.x,)",
        "{'a': ns.x}",
        "cycler(ns.x)",
        "namespace(x=ns.x)",
        "[ns.x] | map('list')",
        "dict(a=ns.x).values()",
    ] {
        let source = format!(
            "{{% set ns = namespace(x=[1]) %}}{{% for i in range(90000) %}}{{% set ns.x = {wrapped} %}}{{% endfor %}}\n{{{{ [ns.x] * 2 == 1 }}}}{{{{ missing.x }}}}"
        );
        let error = refused(&source);
        assert!(matches!(error.kind, ErrorKind::Undefined | ErrorKind::Limit), "{error}: {wrapped}");
    }
    for cycle in [
        "{% set ns.x = [ns] %}\n{{ ns }}",
        "{% set ns.x = {'a': ns} %}\n{{ ns.x }}",
        "{% set ns.x = ns %}\n{{ [ns] }}",
        "{% set ns.x = (ns, ns) %}\n{{ 'a' ~ ns.x }}",
    ] {
        let error = refused(&format!("{{% set ns = namespace() %}}{cycle}"));
        assert_eq!((error.kind, error.line), (ErrorKind::Limit, 2), "{error}: {cycle}");
    }
}

#[test]
fn sources_are_bounded() {
    let nested = |open: &str, close: &str, count: usize| {
        format!("{{{{ {}1{} }}}}", open.repeat(count), close.repeat(count))
    };
    let chained = |start: &str, link: &str, count: usize| format!("{{{{ {start}{} }}}}", link.repeat(count));
    let mut table = Vec::new();
    for count in [200, 5000, 200_000] {
        table.extend([
            nested("(", ")", count),
            nested("[", "]", count),
            nested("{1:", "}", count),
            nested("f(", ")", count),
            nested("f[", "]", count),
            nested("x|f(", ")", count),
            nested("not ", "", count),
            nested("- ", "", count),
            nested("1 if 1 else ", "", count),
            "{% if 1 %}".repeat(count),
            "{% for a in b %}".repeat(count),
            "{% macro f() %}".repeat(count),
            "{% filter upper %}".repeat(count),
            "{% with %}".repeat(count),
            "{% generation %}".repeat(count),
        ]);
    }
    for count in [500, 5000, 100_000] {
        table.extend([
            chained("1", "+1", count),
            chained("1", "*1", count),
            chained("1", "**1", count),
            chained("1", " or 1", count),
            chained("1", " and 1", count),
            chained("a", ".b", count),
            chained("a", "[0]", count),
            chained("a", "()", count),
            chained("a", "|f", count),
            chained("a", " is x", count),
            chained("1", " if 1", 2 * count),
        ]);
    }
    // Long chains in brackets in long chains.
    let mut stacked = "1".to_owned();
    for _ in 0..50 {
        stacked = format!("({stacked}{})", "+1".repeat(390));
    }
    table.push(format!("{{{{ {stacked} }}}}"));
    let mut stacked = "a".to_owned();
    for _ in 0..50 {
        stacked = format!("({stacked}{})", ".b".repeat(390));
    }
    table.push(format!("{{{{ {stacked} }}}}"));
    table.push("{{ 1 }}".repeat(1 << 20));
    table.push("x".repeat(1 << 21));
    for source in table {
        let error = refused(&source);
        assert!(matches!(error.kind, ErrorKind::Syntax | ErrorKind::Limit), "{error}: {source:.100}");
        assert!(error.line >= 1);
    }
}

#[test]
fn parsing_is_linear() {
    for source in [
        "{{ 1 }}",
        "{%",
        "{# #}",
        "{{",
        "{",
        "{%raw%}{%endraw%}",
        "{% raw %}{%",
        "a\n",
        "-%}",
        "{% if 1 %}{% endif %}",
        "{{ 'a' 'b' }}",
        "{%                              ",
    ] {
        let source = source.repeat((1 << 20) / source.len());
        let start = Clock::start();
        let _ = Template::new(&source);
        let time = start.elapsed();
        assert!(time < MAX_TIME, "{source:.40} took {time:?}");
    }
}

#[test]
fn messages_are_short() {
    let error = refused("\n{{ raise_exception('x' * 1000000) }}");
    assert_eq!((error.kind, error.line), (ErrorKind::Raised, 2));
    assert!(error.message.len() < 3000);
    let error = refused(&format!("\n{{{{ {} }}}}", "ab.".repeat(99) + &"c".repeat(99_999)));
    assert!(error.message.len() < 3000);
}

#[test]
fn numbers_that_are_no_numbers_are_sorted() {
    let source = "{% set nan = 'nan' | float %}{% set r = [3, nan, 1, nan, 2, nan, 9, nan, 0, nan, 4, 7, nan, 5, nan, 6, nan, 8, nan, 1, nan, 3] %}{{ (r | sort | list + r) | sort(reverse=true) | length }}{{ dict(a=nan) | dictsort(by='value') }}{{ r | max }}{{ r | unique | list | length }}";
    assert!(render(source).is_ok());
}

#[test]
fn long_conversations_fit() {
    let text = "He mea nui ka ʻōlelo. ".repeat(40);
    let messages: Vec<serde_json::Value> = (0..5000)
        .map(|index| json!({"role": if index % 2 == 0 { "user" } else { "assistant" }, "content": text}))
        .collect();
    let messages = Value::from(&serde_json::Value::Array(messages));
    let watch = Watch { items: messages.items().to_vec(), printed: Vec::new() };
    let source = "{% set ns = namespace(last=0) %}{% for m in messages[::-1] %}{% if m.role == 'user' and not m.content.startswith('<tool>') %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}{% set content = m.content | trim %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ '<|im_start|>' + m.role + '\n' + content + '<|im_end|>' + '\n' }}{% endfor %}";
    let output =
        Template::new(source).unwrap().render(vec![("messages".into(), messages)], &watch, None).unwrap();
    assert_eq!(output.spans.len(), 5000);
}
