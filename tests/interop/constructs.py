"""Single constructs of the template language, each rendered alone: where an engine can differ from Jinja2 and Python."""

# Values that expressions can use, beside the messages.
VARIABLES = {
    "text": "  Aloha ʻĀina, e Hawaiʻi!  ",
    "word": "kāne",
    "empty": "",
    "number": 7,
    "negative": -7,
    "real": 2.5,
    "large": 1e16,
    "flag": True,
    "nothing": None,
    "items": [3, 1, 2],
    "names": ["b", "A", "c", "a"],
    "record": {"b": 1, "a": [1, 2.0, None, True, "x'y", 'q"'], "é": "ʻ\n"},
    "records": [{"k": "x", "n": 2}, {"k": "y", "n": 1}, {"k": "x", "n": 3}],
    "items_key": {"items": 5, "keys": 6},
}

EXPRESSIONS = """
nothing is none | nothing is defined | nothing is iterable | nothing is string | nothing is mapping | nothing is sequence
missing is defined | missing is none | missing is iterable | missing is sequence | missing is undefined | missing is string
missing is mapping | text is iterable | text is sequence | text is string | items is iterable | items is sequence
record is sequence | record is iterable | record is mapping | number is iterable | number is number | flag is number
flag is integer | number is integer | real is float | flag is boolean | nothing is boolean | range is callable
nothing | length
missing | length
items | length
record | length
number | length
nothing.foo
nothing.foo is defined
nothing['foo'] is defined
missing.foo
missing['foo']
missing + 'a'
'a' + missing
'a' ~ missing ~ nothing ~ flag ~ 1.0 ~ 2 ~ [1, none]
'a' + nothing
'a' + number
number + 'a'
items + [4] | string
items + (4,)
(1, 2) + (3,)
(1,)
()
(1, 'a', none)
1, 2
[1, (2, 3), {'a': (4,)}]
text.strip() | text.lstrip() | text.rstrip()
text.strip(' !A') | text.strip(none) | '\u2003x\x1f'.strip()
text.strip().split() | text.split(' ') | text.split(none, 1) | text.split(' ', 2) | text.rsplit(none, 1) | text.rsplit(' ', 1)
text.split(sep=' ', maxsplit=1)
'a,b,,c'.split(',') | ''.split() | ''.split(',') | 'a,b,c'.split(',')[-1] | 'a</think>b'.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n')
'a,b'.split('')
text.title() | "they're bill's".title() | text.upper() | text.lower() | text.capitalize() | text.swapcase()
text.startswith('  A') | text.startswith(('x', '  ')) | text.endswith('!') | text.endswith(' ') | text.startswith('A', 2)
text.find('A') | text.find('zz') | text.rfind('a') | text.index('A') | text.count('a') | 'ʻaʻa'.find('a', 2)
text.index('zz')
text.replace('a', 'o') | text.replace('a', 'o', 1) | text.replace('', '-') | word.replace('ā', 'a')
word.removeprefix('kā') | word.removesuffix('ne') | word.removeprefix('x') | word.removesuffix('')
word.zfill(9)
word.center(9, '*') | word.center(10, '*') | word.ljust(6, '.') | word.rjust(6)
word.isalpha() | '12'.isdigit() | '1.2'.isdigit() | 'a1'.isalnum() | ' '.isspace() | ''.isspace() | 'A'.isupper() | 'Ab'.istitle() | 'ab'.islower()
'a-b-c'.partition('-') | 'a-b-c'.rpartition('-') | 'abc'.partition('-') | 'abc'.rpartition('-')
'a\nb\r\nc'.splitlines() | 'a\nb'.splitlines(true) | '-'.join(['a', 'b']) | '-'.join('abc')
'-'.join([1])
'a\tb'.expandtabs(4) | 'Straße'.casefold()
'{} {}'.format(1, 'a') | '{0}{1}{0}'.format('a', 2) | '{a:>5}|{b:<4}|{c:^5}'.format(a='x', b=1, c='y') | '{:.2f} {:,} {:05d} {:x} {:%}'.format(3.14159, 1234567, 42, 255, 0.25)
'{}'.format([1, none, 'a']) | '{{}}'.format() | '{0[a]} {1.b}'.format({'a': 1}, {'b': 2})
'%s %d %.2f %5s|%-5s| %05d %x %%' % ('a', 3, 2.345, 'b', 'c', 42, 255)
'%s' % 'a' | '%s' % number | '%s' % nothing | '%s' % [1, 2] | '%r' % 'a' | '%(a)s %(b)d' % {'a': 1, 'b': 2} | '%s' % (1,) | '%g %g %e' % (0.0001, 1e10, 12345.678)
'%s %s' % 'a'
'%d' % 'a'
'a' % 'b'
'%s' | format('a')
'%s and %s' | format('a', 1)
number % 3 | negative % 3 | number % -3 | negative // 2 | number // 2 | number / 2 | 6 / 2 | 2 ** 10 | 2 ** -1 | -2 ** 2 | 7.5 % 2 | -7.5 // 2 | 1e3 | 1.0 | 100000000000000000000 | 0.1 + 0.2 | 1 / 3
1 / 0
1 // 0
1 % 0
'ab' * 3 | 3 * 'ab' | [1] * 2 | 'a' * -1 | (1, 2) * 2
'a' * 'b'
'a' - 'b'
-'a'
-true | +true | not none | not 'a'
large | real | 1e-5 | 123456789.123 | 1e22 | 5 | 5.0 | 1_000 | 0x1F | 0b11 | 0o17
items[0] | items[-1] | items[5] | items[1:] | items[:-1] | items[::-1] | items[::2] | items[-2:] | items[5:] | items[-10:2] | items[2:0:-1]
word[0] | word[-1] | word[1:3] | word[::-1] | word[9] | word[:2] ~ word[2:]
(1, 2, 3)[1:] | (1, 2)[0] | nothing[1:] is defined
missing[1:]
record.b | record['b'] | record.a | record.zz | record.zz is defined | record['é'] | record.get('b') | record.get('zz') | record.get('zz', 'd')
record.items() | list | string
record.keys() | list
record.values() | list
record | list
record | items | list
missing | items | list
nothing | items | list
items_key['items'] | items_key['keys'] | items_key.get('items')
'b' in record | 'zz' in record | 3 in items | 'āi' in 'kāina' | 'a' not in names | missing in items | '' in 'a'
3 in 'abc'
'a' in nothing
'a' in missing
'a' in number
1 < 2 < 3 | 1 < 2 > 5 | 'a' < 'b' | [1, 2] < [1, 3] | 1 == 1.0 | true == 1 | 'a' == 'a' | none == none | [1] == [1] | {'a': 1} == {'a': 1.0} | 1 != 2 | '1' == 1 | (1,) == [1]
1 < 'a'
none < 1
missing < 1
missing == missing | missing == none | not missing
1 if true | 1 if false | 1 if false else 2 | 1 if none else 2 if '' else 3
(1 if false) is defined
1 or 2 | 0 or 'a' | '' and 'b' | 'a' and 'b' | not 1 or 2 | none or none | missing or 'd'
text | trim | length
' xx ' | trim('x ') | 5 | trim | nothing | trim | [1, 'a'] | trim
names | sort | names | sort(reverse=true) | names | sort(case_sensitive=true) | items | sort
records | sort(attribute='n') | map(attribute='n') | list
records | sort(attribute='k,n') | map(attribute='n') | list
[1, 'a'] | sort
records | map(attribute='k') | join(', ')
records | map(attribute='zz', default='d') | list
names | map('upper') | list | names | map('replace', 'a', 'o') | list
records | selectattr('k', 'equalto', 'x') | list | length
records | selectattr('k', '==', 'x') | map(attribute='n') | list
records | rejectattr('n', 'gt', 1) | list | length
records | selectattr('zz') | list
records | selectattr('zz', 'defined') | list
items | select('odd') | list | items | reject('odd') | list | items | select('in', [1, 2]) | list
records | selectattr('k', 'in', ['y']) | first
(records | selectattr('k', 'equalto', 'none')) and 'truthy generator'
records | selectattr('k') | length
records | groupby('k') | length
items | first | items | last | [] | first | [] | last is defined | 'abc' | first | 'abc' | last
items | max | items | min | [] | max | names | max | items | sum | records | sum(attribute='n')
items | reverse | list | 'abc' | reverse | items | unique | list | [1, 1, 2] | unique | list
[1, 2, 3, 4, 5] | batch(2) | list | [1, 2, 3] | batch(2, 0) | list | [1, 2, 3, 4, 5] | slice(2) | list
record | dictsort | record | tojson | record | string
items | join | items | join(', ') | ['a', none, true, 1.0] | join('-') | names | join(d='+')
nothing | join
record | tojson(indent=2)
record | tojson(indent=4) | length
[] | tojson(indent=2) ~ ({} | tojson(indent=2))
record | tojson(ensure_ascii=true) | record | tojson(sort_keys=true) | [1, 'a'] | tojson(separators=(',', ':')) | record | tojson(ensure_ascii=false, indent=none)
nothing | tojson | flag | tojson | 1.0 | tojson | 'a"\\\n\t/<>&' | tojson | (1, 2) | tojson | '\u2028\x7f' | tojson | 1e16 | tojson
missing | tojson
{1: 2, true: 3, none: 4, 1.5: 5} | tojson
nothing | default('d') | missing | default('d') | nothing | default('d', true) | '' | default('d', boolean=true) | missing | d('e') | missing.foo | default('x')
number | string + 'a' | real | int | '12' | int | 'x' | int | 'x' | int(5) | '1.7' | int | 'ff' | int(base=16) | '2.5' | float | 'x' | float | nothing | int
2.567 | round(2) | 2.5 | round | 3.5 | round | 2.4 | round(method='ceil') | 2.6 | round(0, 'floor') | 5 | round | 1234.5 | round(-2) | -3 | abs
'hello world' | capitalize | 'hello wORLD-foo (bar)' | title | 'ABC' | lower | 'abc' | upper
'a\nb\n\nc' | indent | 'a\nb' | indent(2, true) | 'a\n\nb' | indent(2, blank=true) | 'a\nb' | indent('> ')
'a b c' | wordcount | 'a b' | replace(' ', '_') | 'aXbX' | replace('X', '', 1) | 'abc' | center(7) | 'abcdefghij' | truncate(5) | 'foo bar baz qux' | truncate(9, leeway=0)
'<a href="x">' | e | '<' | escape | '<' | safe | 'a b/c?' | urlencode
'x' | nosuch
'x' is nosuch
range(3) | list | range(2, 8, 3) | list | range(3, 0, -1) | list | range(5)[1:3] | list | range(0) | list
range(1000000)
dict(a=1, b=2) | dict([('a', 1)]) | dict({'a': 1}, b=2) | {'a': 1, 'a': 2} | {} | {'a': {'b': [1]}}
namespace(a=1).a | namespace(a=1).b is defined
joiner(', ')() ~ 'x'
raise_exception('no ʻ')
nosuch()
nothing()
text()
record.update({'x': 1})
items.append(4)
items.index(1) | items.count(3) | items.copy()
items is eq [3, 1, 2] | number is divisibleby 7 | number is odd | number is even | 'a' is in 'abc' | 'A' is upper | 'a' is lower | nothing is sameas none | number is ne 3 | number is gt 3 | number is lessthan 3
number is divisibleby(0)
'a' 'b' "c"
'it\'s' ~ "q\"" ~ 'tab\t' ~ '\\' ~ '\u02bb' ~ '\x41' ~ '\q'
"<|im_start|>" + 'x' ~ "\n"
strftime_now('%d %B %Y') | strftime_now('%Y-%m-%d %A %j')
text._x
text.__class__
''.__class__.__mro__
"abc"|length + 1
-1 | abs
1 + 2 ~ 3 + 4
2 * 3 ~ 1
not 1 == 2
1 in [1] and 2 in [2]
[1, 2,]
{'a': 1,}
'a' if 'b' is string and number is not none else 'c'
number is not defined or flag
loop is defined
caller is defined
varargs is defined
text | wordwrap(10)
text is not string
items | map('string') | join
items | map('tojson') | list
names | map('length') | list
records | map('tojson') | join('\n')
records | first | tojson
(records | last).k
records[0].n + records[1]['n']
records.0.k
items | list == items
'%s=%s' % ('a', [1]) ~ '%c' % 'x'
"%s" % missing
"%05.1f|%+d|% d" % (3.14159, 5, 5)
['a', 'b'][true]
{'true': 1}[true] is defined
{true: 1}[1]
record['a'][0]
record.a[-1]
""" 


def expressions() -> list[str]:
    """Returns the expressions: a line holds several, between ` | ` where every part stands alone."""
    found = []
    for line in EXPRESSIONS.strip("\n").split("\n"):
        line = line.strip()
        if line:
            found.append(line)
    return found


# Whole templates: statements and white space.
STATEMENTS = [
    "{% for a in items %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }}{% endfor %}",
    "{% for a in items %}{{ loop.previtem }}|{{ loop.nextitem }}|{{ loop.previtem is defined }};{% endfor %}",
    "{% for a in items %}{{ loop.cycle('x', 'y') }}{{ loop.changed(a > 1) }}{% endfor %}",
    "{% for a in items if a > 1 %}{{ a }}{{ loop.length }}{{ loop.index }}{% else %}none{% endfor %}",
    "{% for a in [] %}{{ a }}{% else %}none{% endfor %}",
    "{% for a in missing %}x{% else %}none{% endfor %}",
    "{% for a in nothing %}x{% endfor %}",
    "{% for k, v in record.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in record | dictsort %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in record %}{{ k }}{% endfor %}{% for c in 'kā' %}{{ c }}-{% endfor %}",
    "{% for a, b in [[1, 2], (3, 4)] %}{{ a }}{{ b }}{% endfor %}",
    "{% for a, b in [[1]] %}{{ a }}{% endfor %}",
    "{% for (a, b), c in [[[1, 2], 3]] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for a in items %}{% if a == 1 %}{% break %}{% endif %}{{ a }}{% endfor %}",
    "{% for a in items %}{% if a == 1 %}{% continue %}{% endif %}{{ a }}{% endfor %}",
    "{% for a in range(3) %}{% for b in range(a) %}{{ a }}{{ b }}{{ loop.depth }} {% endfor %}{% endfor %}",
    "{% set x = 1 %}{% for a in items %}{% set x = x + a %}{{ x }} {% endfor %}{{ x }}",
    "{% set ns = namespace(x=0, f=false) %}{% for a in items %}{% set ns.x = ns.x + a %}{% set ns.f = true %}{% endfor %}{{ ns.x }}{{ ns.f }}",
    "{% set ns = namespace() %}{% set ns._x = 1 %}",
    "{% set x = {} %}{% set x.y = 1 %}",
    "{% if true %}{% set x = 1 %}{% endif %}{{ x }}",
    "{% set x, y = 1, 2 %}{{ x }}{{ y }}{% set (a, b) = [3, 4] %}{{ a }}{{ b }}",
    "{% set x %}a{{ number }}\n{% endset %}[{{ x }}]{{ x is string }}",
    "{% set x | trim | upper %} a {% endset %}[{{ x }}]",
    "{% macro m(a, b='d', c=none) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(c=3, a=4) }}{{ m() }}",
    "{% macro m(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "{% set g = 5 %}{% macro m() %}{{ g }}{{ items | length }}{% set g = 6 %}{{ g }}{% endmacro %}{{ m() }}{{ g }}",
    "{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}x{{ number }}{% endcall %}",
    "{% macro m() %}<{{ caller('a') }}>{% endmacro %}{% call(p) m() %}x{{ p }}{% endcall %}",
    "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}",
    "{% for a in [1] %}{{ [2, [3, [4]]] | length }}{% endfor %}",
    "{%- for a in [[1, [2]], [3, []]] recursive %}{{ a[0] if a is sequence else a }}{% if a is sequence and a[1] %}({{ loop([[a[1][0], []]]) }}){% endif %}{% endfor %}",
    "{% with a = 1, b = number %}{{ a + b }}{% endwith %}{{ a is defined }}",
    "{% filter upper %}a{{ word }}{% endfilter %}",
    "{% raw %}{{ x }}{% if %}{% endraw %}|{%- raw -%}  a  {%- endraw -%}  b",
    "{# comment #}a{#- b -#} c {#\nd\n#}\ne",
    "a\n  {% if true %}\n  b\n  {% endif %}\nc\n",
    "a\n  {%+ if true +%}\n  b\n  {%- endif -%}\n\n  c",
    "  {{ 'x' }}  \n  {{- 'y' -}}  \n z",
    "\n\n{{ 'x' }}\n\n",
    "a\r\nb{% if true %}\r\nc{% endif %}\r\n",
    "{% if true %}\n\n  x{% endif %}  \n{% if false %}{% endif %}  \n y",
    "  \t{% set a = 1 %}  \n{{ a }}",
    "{{ '{{' }}{{ \"%}\" }}{{ {'a': {'b': 1}}['a'] }}{{ {} }}",
    "{% if x is not defined %}{% set x = 'd' %}{% endif %}{{ x }}",
    "{% if nothing %}a{% elif missing %}b{% elif empty %}c{% elif items %}d{% else %}e{% endif %}",
    "{% if 1 %}{% if 0 %}{% else %}x{% endif %}{% endif %}",
    "{% block b %}x{{ number }}{% endblock %}",
    "{% generation %}a{{ number }}{% endgeneration %}b{% generation %}c{% endgeneration %}",
    "{%- for m in messages -%}{%- if m.role == 'assistant' -%}{%- generation -%} {{ m.content }} {%- endgeneration -%}{%- endif -%}{%- endfor -%}",
    "{% do items.append(1) %}",
    "{% include 'x' %}",
    "{% nosuch %}",
    "{% if true %}",
    "{% for a in items %}{% endif %}",
    "{{ a b }}",
    "{{ }}",
    "{{ 'a }}",
    "{% set %}",
    "{% endif %}",
    "{{ (1 }}",
    "{{ 1 ? 2 }}",
    "{% break %}",
    "{{ cycler('a', 'b').next() }}",
    "{% set j = joiner('; ') %}{% for a in items %}{{ j() }}{{ a }}{% endfor %}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}{% set _ = c.reset() %}{{ c.next() }}",
    "{% for m in messages %}{% set content = m.content %}{% if loop.first %}{% set content = 'S' + content %}{% endif %}{{ content }};{% endfor %}",
    "{% set loop_messages = messages[1:] %}{% for m in loop_messages %}{{ m.role }}{% endfor %}{{ messages[0]['content'] }}{{ messages[-1].role }}",
    "{% set last = messages | length - 1 %}{{ last }}{% for m in messages[::-1] %}{{ loop.index0 }}{{ m.role }}{% endfor %}",
    "{% for m in messages %}{{ (m.role == 'user') != (loop.index0 % 2 == 0) }}{% endfor %}",
    "{% set roles = messages | map(attribute='role') | list %}{{ roles }}{{ roles | unique | list }}{{ 'user' in roles }}",
    "{{ messages }}",
    "{{ messages | tojson }}",
    "{% autoescape true %}<{% endautoescape %}",
    "{% set x = namespace(a=[]) %}{% set x.a = x.a + [1] %}{% set x.a = x.a + [2] %}{{ x.a }}",
    "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ add_generation_prompt }}{{ tools }}{{ documents }}",
    "{% if tools is not none and tools is defined %}x{% else %}y{% endif %}{% if not tools is defined %}a{% endif %}{{ tools is none }}",
    "{%- set date_string = strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' -%}{{ date_string }}",
]
