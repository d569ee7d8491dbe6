"""Golden values for tests/test_jinja.c and tests/test_chat_template.c, by transformers' chat template environment.

    constructs.json      small templates, each with the text that it gives or the kind of error that it ends with
    NAME.json            what tests/golden/chat/NAME.jinja, which are tane's own, make of each conversation
    conversations.json   those conversations

Made with transformers 5.23.0, jinja2 3.1.6, Python 3.11.
"""

import copy
import json
import pathlib
import sys

import jinja2
import transformers
from transformers.utils import chat_template_utils as ctu

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import conversations
import real_templates

OUT = conversations.OUT
VERSIONS = {"transformers": transformers.__version__, "jinja2": jinja2.__version__}

# What every snippet finds besides the globals.
VARS = {
    "s": "Hello, World", "u": "Zürich 種 😀", "e": "", "sp": " \t a b \n", "q": "it's \"q\" \\ \n", "lines": "one\ntwo\r\n\nthree\n",
    "n": 7, "neg": -7, "f": 2.5, "z": 0, "big": 9007199254740993, "t": True, "no": False, "nil": None,
    "l": [3, 1, 2], "words": ["pear", "Apple", "fig", "apple"], "nested": [[1, "a"], [2, "b"]], "el": [],
    "d": {"b": 1, "a": {"x": [1, 2]}, "items": "shadow", "C": None}, "ed": {},
    "people": [{"name": "Ann", "age": 31, "tags": ["x", "y"]}, {"name": "bob", "age": 25, "tags": []},
               {"name": "Cid", "age": 31}],
    "html": "<a href=\"x\">'&'</a>", "mixed": [1, "1", 1.0, True, None, [1], {"k": "v"}],
}

SNIPPETS = r"""
plain text
{{ s }}|{{ u }}|{{ e }}|{{ n }}|{{ neg }}|{{ f }}|{{ t }}|{{ no }}|{{ nil }}|{{ missing }}
{{ l }} {{ d }} {{ nested }} {{ mixed }} {{ el }} {{ ed }} {{ people }}
{{ q }} {{ [q] }} {{ ["it's"] }} {{ ['"'] }} {{ ["'\""] }} {{ [u, "\u200d\x07\t\x80\xa0"] }}
{{ 1.0 }} {{ 100.0 }} {{ 1e16 }} {{ 1e15 }} {{ 123456789.123 }} {{ 1e-5 }} {{ 0.0001 }} {{ 1.5e300 }} {{ 0.1 + 0.2 }} {{ 1/3 }} {{ -0.0 }}
{{ 0x1f }} {{ 0b101 }} {{ 0o17 }} {{ 1_000 }} {{ 1_0.5 }} {{ 00 }} {{ 1E3 }} {{ 2e-2 }}
{{ 'a' 'b' "c" }} {{ "\x41\u00e9\U0001F600\101\n\t\\\'\"\q" }}
{{ 7 + 2 }} {{ 7 - 2 }} {{ 7 * 2 }} {{ 7 / 2 }} {{ 6 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ -2 ** 2 }} {{ 2 ** 3 ** 2 }}
{{ 7.5 // 2 }} {{ -7.5 // 2 }} {{ 7.5 % 2 }} {{ -7.5 % 2 }} {{ 7.5 % -2 }} {{ 2.0 ** 0.5 }} {{ 1 + 1.5 }} {{ 3 - 0.5 }} {{ t + t }} {{ 4.0 // 0.1 }} {{ -0.0 // 3 }}
{{ -n }} {{ +n }} {{ - - n }} {{ -f }} {{ not n }} {{ not not n }} {{ -t }} {{ +t }}
{{ n - 1 }}{{ n -1 }}{{ n-1 }}
{{ "ab" * 3 }} {{ 2 * "xy" }} {{ [1, 2] * 2 }} {{ "x" * -1 }}| {{ (1,) * 3 }}
{{ [1] + [2, 3] }} {{ (1, 2) + (3,) }} {{ "a" + "b" + "c" }}
{{ "a" ~ 1 ~ none ~ [1, "x"] ~ missing ~ 2.0 }} {{ 1 ~ 2 * 3 }} {{ 1.x }}| {{ 1 + ("2" ~ "3")|int }}
{{ 1 < 2 }} {{ 1 < 2 < 3 }} {{ 3 > 2 > 2 }} {{ 1 == 1.0 == true }} {{ "a" < "b" }} {{ "Z" < "a" }} {{ [1, 2] < [1, 3] }} {{ (1,) <= (1,) }} {{ 1 != 2 }} {{ "a" != "a" }}
{{ 1 == "1" }} {{ none == false }} {{ missing == missing2 }} {{ missing == none }} {{ [1] == (1,) }} {{ {"a": 1} == {"a": 1.0} }} {{ l == [3, 1, 2] }} {{ big == 9007199254740993.0 }} {{ big == 9007199254740992.0 }}
{{ 1 in l }} {{ 9 in l }} {{ "ell" in s }} {{ "" in e }} {{ "b" in d }} {{ 1 in d }} {{ "x" not in s }} {{ not "x" in s }} {{ 1 in (1, 2) }} {{ none in mixed }} {{ "a" in missing }} {{ 2 in range(5) }} {{ "b" in d.keys() }} {{ 1 in d.values() }}
{{ t and 1 }} {{ no and 1 }} {{ e or "x" }} {{ n or 1 }} {{ no or none or 0 }} {{ 1 and 2 or 3 }} {{ t and (no or "y") }}
{{ "a" if t else "b" }} {{ "a" if no else "b" }} {{ "a" if no }}| {{ 1 if no else 2 if no else 3 }} {{ ("a" if no) is defined }}
{{ s[0] }} {{ s[-1] }} {{ u[0:7] }} {{ u[7] }} {{ u[-1] }} {{ s[1:4] }} {{ s[:-3] }} {{ s[::-1] }} {{ s[::2] }} {{ s[10:2:-3] }} {{ u[::-1] }} {{ s[100:] }}| {{ s[:100] }} {{ s[-3:] }}
{{ l[0] }} {{ l[-1] }} {{ l[1:] }} {{ l[::-1] }} {{ l[:2] }} {{ l[5:] }} {{ l[9] }}| {{ (1, 2, 3)[1:] }} {{ l[t] }} {{ l[-10:2] }} {{ l[none:2] }} {{ range(10)[2:8:2]|list }} {{ range(5)[-1] }}
{{ d.b }} {{ d["b"] }} {{ d.a.x[1] }} {{ d["a"]["x"] }} {{ d.C }} {{ d.zzz }}| {{ d["zzz"] }}| {{ d["items"] }} {{ d[1] }}| {{ people[0].name }} {{ people.0.name }} {{ nested.1.1 }} {{ d["a"].x.0 }}
{{ d.items is callable }} {{ ed.get("x") }} {{ d.get("b") }} {{ d.get("x", 5) }} {{ d.get("x", default) }}|
{{ d.keys() }} {{ d.values() }} {{ ed.items() }} {{ d.keys()|list }} {{ people[0].items()|list }} {{ d.copy() }}
{{ people[0].tags.count("x") }} {{ l.index(2) }} {{ (1, 2, 2).count(2) }} {{ l.copy() }}
{{ dict(a=1, b="x") }} {{ dict([["k", 1], ("j", 2)]) }} {{ dict({"a": 1}, c=3) }} {{ {"a": 1, 2: "b", none: 3, true: 4, 1.5: 5} }} {{ {1: "a", 1.0: "b", true: "c"} }}
{{ range(5)|list }} {{ range(2, 5)|list }} {{ range(5, 0, -2)|list }} {{ range(0) }} {{ range(1, 9, 3) }} {{ range(3)|length }} {{ range(-3)|list }} {{ range(100000)|length }}
{{ () }} {{ (1,) }} {{ (1, 2) }} {{ 1, 2 }} {{ (1, (2, "x")) }} {{ [] }} {{ {} }} {{ [1, [2, [3]]] }} {{ [1,] }} {{ {"a": 1,} }}
{{ "%s and %s" % ("a", 1) }} {{ "%d%%" % 5 }} {{ "%5.2f|%-5s|%05d|%+d|%x|%X|%o|%e|%g" % (3.14159, "ab", 42, 7, 255, 255, 8, 12345.678, 0.0001) }} {{ "%r %s" % ("q'", [1]) }} {{ "%s" % missing }}| {{ "%s" % none }} {{ "%(a)s-%(b)03d" % {"a": "x", "b": 7} }} {{ "%c%c" % (65, "z") }} {{ "%10s|%.2s|%*d" % ("é種", "種種種", 4, 7) }} {{ "%i" % 3.9 }} {{ "%s" % l }} {{ "%5s%%" % 1 }}
{{ "{} {}".format(1, "a") }} {{ "{0}{1}{0}".format("x", "y") }} {{ "{a} {b.name} {c[0]} {d[k]}".format(a=1, b=people[0], c=l, d={"k": 9}) }} {{ "{:>5}|{:<5}|{:^5}|{:*^7}|{:05d}|{:.2f}|{:,}|{:x}|{:+}|{:e}|{:%}|{:5}|{:5}|".format("a", "b", "c", "d", 42, 3.14159, 1234567, 255, 3, 12345.678, 0.25, 7, "s") }} {{ "{{}} {!r} {!s}".format("q", 1) }} {{ "{:{}}|{:>{w}}".format("a", 4, "b", w=3) }} {{ "{} {} {}".format(none, true, 2.0) }} {{ "{:#x} {:b} {:o} {:#b}".format(255, 5, 8, 5) }} {{ "{:g} {:.3g} {:.3}".format(1e10, 1234.5, 1234.5) }} {{ "{:,.2f}".format(1234567.891) }} {{ "{:-^20}".format("種") }}
{{ s.upper() }} {{ s.lower() }} {{ "hello wORLD it's".title() }} {{ "hELLO wORLD".capitalize() }} {{ s.swapcase() }} {{ "ß ŉ ΐ ﬁ Ǆ İ".upper() }} {{ "İSTANBUL ΟΔΟΣ ΣΑΣ Σ ΑΣ. ΑΣ'Α".lower() }} {{ "ǆ ﬁx ßa éa".title() }} {{ "ßETA".capitalize() }}
{{ sp.strip() }}|{{ sp.lstrip() }}|{{ sp.rstrip() }}|{{ "xxaxx".strip("x") }}|{{ "abcab".lstrip("ba") }}|{{ "种a种".strip("种") }}|{{ "\u3000\u00a0x\x1c".strip() }}|{{ "x".strip(none) }}
{{ "a,b,,c".split(",") }} {{ " a  b c ".split() }} {{ "a,b,c".split(",", 1) }} {{ " a b  c ".split(none, 1) }} {{ "a,b,c".rsplit(",", 1) }} {{ " a b  c ".rsplit(none, 1) }} {{ "a b c".rsplit() }} {{ "".split() }} {{ "".split(",") }} {{ "abc".split("") if no else "" }} {{ "aXXbXXc".split("XX", maxsplit=1) }} {{ "x".split(sep="y") }} {{ "a b".split(none, 0) }} {{ "aaa".rsplit("aa") }}
{{ lines.splitlines() }} {{ lines.splitlines(true) }} {{ "".splitlines() }} {{ "a\x0bb\x1cc\u2028d\x85e".splitlines() }} {{ "a\n\n".splitlines() }}
{{ s.startswith("He") }} {{ s.endswith("ld") }} {{ s.startswith(("x", "H")) }} {{ s.startswith("W", 7) }} {{ s.endswith("lo", 0, 5) }} {{ s.startswith("") }} {{ e.endswith("x") }} {{ s.startswith("H", -100, 3) }} {{ s.startswith("", 50) }}
{{ s.replace("l", "L") }} {{ s.replace("l", "", 2) }} {{ "abc".replace("", "-") }} {{ "abc".replace("", "-", 2) }} {{ s.replace("zz", "y") }} {{ "aaa".replace("aa", "b") }} {{ "".replace("", "x") }}
{{ s.find("o") }} {{ s.rfind("o") }} {{ s.find("zz") }} {{ u.find("種") }} {{ s.index("W") }} {{ s.find("o", 5) }} {{ s.rfind("o", 0, 5) }} {{ s.count("l") }} {{ "aaaa".count("aa") }} {{ "abc".count("") }} {{ s.rindex("l") }} {{ "種種".count("") }} {{ s.find("", 3) }}
{{ ", ".join(["a", "b"]) }} {{ "-".join("abc") }} {{ "".join([]) }}| {{ "x".join(d.keys()) }}
{{ "a:b:c".partition(":") }} {{ "a:b:c".rpartition(":") }} {{ "abc".partition("x") }} {{ "abc".rpartition("x") }} {{ "prefix-x".removeprefix("prefix-") }} {{ "x.txt".removesuffix(".txt") }} {{ "x".removeprefix("y") }}
{{ "7".zfill(3) }} {{ "-7".zfill(4) }} {{ "a".ljust(3) }}| {{ "a".rjust(3, "*") }} {{ "a".center(4, "*") }} {{ "ab".center(5, "*") }} {{ "abcd".ljust(2) }} {{ "a"|center(5) }}|
{{ "123".isdigit() }} {{ "12a".isdigit() }} {{ "".isdigit() }} {{ "abc".isalpha() }} {{ "ab1".isalnum() }} {{ " \n".isspace() }} {{ "AB1".isupper() }} {{ "ab!".islower() }} {{ "".islower() }} {{ "種".isalpha() }} {{ "½".isnumeric() }} {{ "½".isdecimal() }} {{ "aé".isascii() }} {{ "".isascii() }}
{{ s|upper }} {{ s|lower }} {{ "hello world-foo (bar) it's"|title }} {{ "hELLO"|capitalize }} {{ 5|upper }} {{ none|lower }} {{ missing|upper }}|
{{ sp|trim }}| {{ "xxaxx"|trim("x") }} {{ 5|trim }} {{ missing|trim }}| {{ "  a "|trim|length }}
{{ l|length }} {{ s|length }} {{ u|length }} {{ u|count }} {{ d|length }} {{ e|length }} {{ missing|length }} {{ (1, 2)|length }} {{ d.items()|length }}
{{ l|join }} {{ l|join(", ") }} {{ people|join("; ", attribute="name") }} {{ mixed|join("|") }} {{ "abc"|join("-") }} {{ missing|join("x") }}| {{ d|join(",") }} {{ nested|join("/", 1) }} {{ [1]|join(2) }}
{{ missing|default("x") }} {{ e|default("x") }}| {{ e|default("x", true) }} {{ nil|default("x") }} {{ nil|default("x", boolean=true) }} {{ missing|d }}| {{ missing|default }}| {{ d.zz|default({}) }} {{ 0|default(5, true) }} {{ people[2].tags|default([]) }}
{{ l|first }} {{ l|last }} {{ s|first }} {{ s|last }} {{ el|first }}| {{ el|last }}| {{ d|first }} {{ d|last }} {{ e|first is undefined }} {{ range(4)|last }}
{{ "abc"|list }} {{ d|list }} {{ (1, 2)|list }} {{ missing|list }} {{ range(3)|list }} {{ d.items()|list }}
{{ d|items|list }} {{ missing|items|list }} {{ d|dictsort }} {{ {"b": 2, "A": 1, "c": 0}|dictsort(true) }} {{ {"b": 2, "A": 1}|dictsort(by="value") }} {{ {"b": 2, "A": 1}|dictsort(reverse=true) }} {{ {"b": 1, "a": 1}|dictsort(false, "value") }}
{{ l|sort }} {{ l|sort(reverse=true) }} {{ words|sort }} {{ words|sort(case_sensitive=true) }} {{ people|sort(attribute="age")|map(attribute="name")|list }} {{ people|sort(attribute="age,name", reverse=true)|map(attribute="name")|list }} {{ "hello"|sort }} {{ nested|sort(attribute=1) }} {{ el|sort }}
{{ l|reverse|list }} {{ s|reverse }} {{ u|reverse }} {{ (1, 2)|reverse|list }} {{ d|reverse|list }}
{{ words|unique|list }} {{ words|unique(true)|list }} {{ [1, 1.0, true, 2]|unique|list }} {{ people|unique(attribute="age")|map(attribute="name")|list }}
{{ l|min }} {{ l|max }} {{ words|min }} {{ words|max }} {{ people|max(attribute="age") }} {{ el|max }}| {{ l|sum }} {{ [1.5, 2]|sum }} {{ people|sum(attribute="age") }} {{ l|sum(start=10) }} {{ el|sum }} {{ people|min(attribute="name") }} {{ "hello"|max }}
{{ people|map(attribute="name")|list }} {{ people|map(attribute="tags.0", default="-")|list }} {{ words|map("upper")|join(",") }} {{ words|map("replace", "p", "P")|list }} {{ people|map(attribute="zzz")|list }} {{ [1, 2]|map("string")|list }} {{ missing|map("upper")|list }} {{ none|map("upper")|list }} {{ nested|map("first")|list }} {{ nested|map(attribute=1)|list }} {{ d|map("upper")|list }} {{ words|map("default", "x")|list }} {{ l|map("string")|map("length")|list }}
{{ l|select("odd")|list }} {{ l|select|list }} {{ [0, 1, none, "a", ""]|select|list }} {{ l|reject("odd")|list }} {{ [0, 1]|reject|list }} {{ people|selectattr("tags")|map(attribute="name")|list }} {{ people|selectattr("age", "equalto", 31)|map(attribute="name")|list }} {{ people|rejectattr("age", "gt", 30)|map(attribute="name")|list }} {{ people|selectattr("tags", "undefined")|list }} {{ people|selectattr("tags", "defined")|list|length }} {{ l|select("in", [1, 2])|list }} {{ people|selectattr("name", "in", ["Ann"])|list|length }} {{ l|select("gt", 1)|list }} {{ l|select(">=", 2)|list }} {{ nil|select|list }} {{ people|selectattr("name", "ne", "Ann")|map(attribute="age")|join("+") }}
{{ l|batch(2)|list }} {{ l|batch(2, "x")|list }} {{ [1, 2, 3, 4, 5]|slice(2)|list }} {{ [1, 2, 3, 4, 5]|slice(3, "f")|list }}
{% set g = l|map("string") %}{{ g|list }}{{ g|list }} {% set h = l|select %}{{ h|first }}{{ h|list }}
{{ "3"|int }} {{ "x"|int }} {{ "x"|int(5) }} {{ " 42 "|int }} {{ "42.9"|int }} {{ 3.99|int }} {{ -3.99|int }} {{ true|int }} {{ none|int }} {{ "0x1A"|int(0, 16) }} {{ "1A"|int(base=16) }} {{ "1_000"|int }} {{ "+5"|int }} {{ "1e3"|int }} {{ []|int(1) }} {{ "12"|int(default=3, base=8) }} {{ "1__0"|int }} {{ "nan"|int(4) }}
{{ "1.5"|float }} {{ "x"|float }} {{ "x"|float(2.5) }} {{ 3|float }} {{ "1e3"|float }} {{ "inf"|float }} {{ "-nan"|float }} {{ none|float }} {{ ".5"|float }} {{ "5."|float }} {{ "1_0.5"|float }} {{ "0x10"|float }} {{ " 1 "|float }} {{ "Infinity"|float }}
{{ 5|abs }} {{ -5|abs }} {{ -2.5|abs }} {{ 2.5|round }} {{ 3.5|round }} {{ 2.675|round(2) }} {{ 42.55|round(1, "floor") }} {{ 42.41|round(1, "ceil") }} {{ 5|round }} {{ 1234|round(-2) }} {{ 1250.0|round(-2) }} {{ -2.5|round }} {{ 1e22|round }} {{ 0.5|round }} {{ 3.14159|round(3) }} {{ 7|round(2) }} {{ 2|round(0, "floor") }}
{{ 5|string }} {{ none|string }} {{ [1, "a"]|string }} {{ missing|string }}| {{ 2.0|string + "x" }}
{{ s|replace("l", "L") }} {{ s|replace("l", "L", 1) }} {{ 515|replace(5, 6) }} {{ s|replace("o", "0", count=1) }} {{ missing|replace("a", "b") }}|
{{ lines|indent }} | {{ lines|indent(2) }} | {{ lines|indent(2, true) }} | {{ lines|indent(2, first=true, blank=true) }} | {{ "a\nb"|indent("> ") }} | {{ "a"|indent(first=true) }} | {{ ""|indent(2, true) }}|{{ "a\n"|indent(2) }}|
{{ "foo bar baz qux"|truncate(9) }} {{ "foo bar baz qux"|truncate(9, true) }} {{ "foo bar baz qux"|truncate(11) }} {{ "foo bar baz qux"|truncate(11, false, "...", 0) }} {{ "foo bar baz qux"|truncate(9, end="…") }} {{ "種種種種種種種種種種種種"|truncate(5, true) }} {{ "foobarbazqux"|truncate(5, leeway=0) }}
{{ "a b, c_d e-f"|wordcount }} {{ u|wordcount }} {{ "%s-%d"|format("a", 3) }} {{ "%(x)s"|format(x=1) }} {{ "x"|format }}
{{ html|escape }} {{ html|e }} {{ html|safe }} {{ html|escape|escape }} {{ html|e|forceescape }} {{ ("<b>"|safe) + "<i>" }} {{ "<i>" + ("<b>"|safe) }} {{ ("<b>"|safe) ~ "<i>" }} {{ (html|e) is escaped }} {{ html is escaped }} {{ ("<b>"|safe + "&")|upper }} {{ ("<%s>"|safe) % "&" }} {{ [("<b>"|safe), "<i>"]|join("&") }} {{ ("<b>"|safe)[1:] + "<" }} {{ [("<b>"|safe)] }} {{ ("<"|safe).replace("<", "<<") }} {{ ("a<"|safe)|replace("<", "<<") + "<" }} {{ ("<b>"|safe)|string + "<" }} {{ ("a <b>"|safe).split()[1] + "<" }} {{ ("<"|safe) * 2 + "<" }} {{ ("<b>"|safe)|trim + "<" }} {{ ("<b>"|safe)|length }}
{{ d|tojson }} {{ people|tojson }} {{ mixed|tojson }} {{ u|tojson }} {{ q|tojson }} {{ "\x00\x1f\x7f\u2028</script>"|tojson }} {{ u|tojson(ensure_ascii=true) }} {{ "\x7f"|tojson(true) }} {{ none|tojson }} {{ true|tojson }} {{ 1.0|tojson }} {{ 1e100|tojson }} {{ (1, "a")|tojson }} {{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }} {{ "inf"|float|tojson }} {{ "nan"|float|tojson }}
{{ d|tojson(indent=2) }} {{ people|tojson(indent=4) }} {{ el|tojson(indent=2) }} {{ ed|tojson(indent=2) }} {{ d|tojson(separators=(",", ":")) }} {{ d|tojson(sort_keys=true) }} {{ d|tojson(indent="\t") }} {{ [1, [2]]|tojson(indent=0) }} {{ {"b": 1, "a": {"d": 1, "c": 2}}|tojson(indent=1, sort_keys=true) }} {{ d|tojson(false, 2, (" ,", " :")) }} {{ d|tojson(indent=none) }}
{{ s is defined }} {{ missing is defined }} {{ missing is undefined }} {{ d.zz is defined }} {{ nil is none }} {{ 0 is none }} {{ t is boolean }} {{ 1 is boolean }} {{ t is true }} {{ 1 is true }} {{ no is false }} {{ 1 is integer }} {{ t is integer }} {{ 1.0 is integer }} {{ 1.0 is float }} {{ 1 is float }} {{ 1 is number }} {{ t is number }} {{ "1" is number }} {{ s is string }} {{ 1 is string }} {{ d is mapping }} {{ l is mapping }} {{ l is sequence }} {{ s is sequence }} {{ d is sequence }} {{ 1 is sequence }} {{ missing is sequence }} {{ range(3) is sequence }} {{ l is iterable }} {{ s is iterable }} {{ 1 is iterable }} {{ none is iterable }} {{ d.items() is iterable }} {{ d.items() is sequence }} {{ range is callable }} {{ 1 is callable }} {{ missing is callable }} {{ (l|map("string")) is iterable }} {{ (l|map("string")) is sequence }} {{ namespace() is mapping }}
{{ 3 is odd }} {{ 4 is even }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(4) }} {{ 1 is eq 1 }} {{ 1 is equalto 2 }} {{ 1 is ne 2 }} {{ 1 is lt 2 }} {{ 1 is gt 2 }} {{ 1 is le 1 }} {{ 1 is ge 2 }} {{ 1 is lessthan 2 }} {{ 1 is greaterthan(0) }} {{ 1 is in l }} {{ 5 is not in l }} {{ "abc" is lower }} {{ "ABC" is upper }} {{ "aBC" is upper }} {{ nil is sameas none }} {{ 1 is sameas true }} {{ t is sameas true }} {{ "upper" is filter }} {{ "zzz" is filter }} {{ "odd" is test }} {{ 3.0 is odd }} {{ t is odd }} {{ 1 is not odd }} {{ 4 is not none and 1 }} {{ s is string and s is not none }} {{ d.a is defined and d.a is mapping }} {{ 1 is in [1] and true }}
{% if t %}a{% endif %}{% if no %}b{% else %}c{% endif %}{% if no %}d{% elif n %}e{% elif t %}f{% else %}g{% endif %}{% if el %}h{% endif %}{% if missing %}i{% endif %}{% if "0" %}j{% endif %}{% if 0.0 %}k{% endif %}{% if not missing %}m{% endif %}{% if 1, 2 %}n{% endif %}
{% for x in l %}{{ x }},{% endfor %} {% for x in el %}x{% else %}none{% endfor %} {% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %} {% for k in d %}{{ k }}{% endfor %} {% for c in "aé種" %}[{{ c }}]{% endfor %} {% for x in missing %}x{% else %}-{% endfor %} {% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %} {% for x in 1, 2 %}{{ x }}{% endfor %} {% for a, b in ["xy", "zw"] %}{{ b }}{{ a }}{% endfor %}
{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle("a", "b") }}{{ loop.changed(x > 1) }};{% endfor %}
{% for x in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{{ loop.zzz is defined }} {% endfor %}
{% for x in range(10) if x is odd %}{{ x }}{{ loop.index }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.nextitem }} {% endfor %} {% for x in l if x > 5 %}x{% else %}none{% endfor %} {% for p in people if p.tags is defined and p.tags %}{{ p.name }}{% endfor %}
{% set ns = namespace(stop=false) %}{% for x in [1, 2, 3, 4] if not ns.stop %}{{ x }}{% if x == 2 %}{% set ns.stop = true %}{% endif %}{% endfor %} {% set ns = namespace(stop=false) %}{% for x in [1, 2, 3, 4] if not ns.stop %}{{ x }}{{ loop.last }}{% if x == 2 %}{% set ns.stop = true %}{% endif %}{% endfor %} {% set ns = namespace(stop=false) %}{% for x in [1, 2, 3, 4] if not ns.stop %}{{ x }}{{ loop.length }}{% if x == 2 %}{% set ns.stop = true %}{% endif %}{% endfor %}
{% for x in [1, 2, 3, 4] %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 4 %}{% break %}{% endif %}{{ x }}{% endfor %} {% for x in [1] %}{% break %}{% else %}else{% endfor %} {% for x in [1, 2] %}{% if x == 2 %}{% continue %}{% endif %}{% else %}else{% endfor %} {% for x in [1] %}{% continue %}{% else %}else{% endfor %} {% for x in [1, 2] %}{% for y in [1, 2] %}{% if y == 2 %}{% break %}{% endif %}{{ x }}{{ y }} {% endfor %}{% endfor %}
{% for x in [1, 2] %}{% for y in "ab" %}{{ x }}{{ y }}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %} {% for x in l %}{% set outer = loop %}{% for y in [1] %}{{ outer.index }}{{ loop.first }}{% endfor %}{% endfor %}
{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }} {% set y = 1 %}{% if t %}{% set y = 2 %}{% endif %}{{ y }} {% for i in [1, 2] %}{% if i == 1 %}{% set w = "w" %}{% endif %}{{ w }}|{% endfor %}{{ w }}| {% for s in [1] %}{{ s }}{% endfor %}{{ s }} {% for i in [1, 2] %}{{ zz is defined }}{% set zz = i %}{% endfor %}
{% set ns = namespace(a=1, b="x") %}{{ ns.a }}{% set ns.a = ns.a + 1 %}{{ ns.a }}{% set ns.c = [1] %}{{ ns.c }}{{ ns.zzz }}{{ ns.zzz is defined }}{{ ns["b"] }} {% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }} {{ ns }} {% set ns2 = namespace({"k": 1}, j=2) %}{{ ns2.k }}{{ ns2.j }}
{% set a, b = 1, 2 %}{{ a }}{{ b }} {% set (c, d2) = [3, 4] %}{{ c }}{{ d2 }} {% set t1 = 1, %}{{ t1 }} {% set a, b = b, a %}{{ a }}{{ b }} {% set ns = namespace() %}{% set ns.p, q2 = "pq" %}{{ ns.p }}{{ q2 }}
{% set body %}  text {{ n }} {% for x in l %}{{ x }}{% endfor %}{% endset %}[{{ body }}]{{ body|length }} {% set up | upper | replace("E", "3") %}hello {{ s }}{% endset %}{{ up }} {% set inner %}{% set leak = 1 %}{% endset %}{{ leak is defined }}
{% macro m(a, b=2, c="x") %}({{ a }},{{ b }},{{ c }}){% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c="z") }}{{ m(b=5, a=4) }}{{ m() }}{{ m(*[7, 8]) }}{{ m(**{"a": 9, "c": 0}) }}{{ m(1)|length }}{{ m(1) ~ m(2) }}{{ m is callable }}
{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, 2) }} {% macro v() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ v(1, 2, x=3) }}{{ v() }} {% macro r(x) %}{{ x }}{% if x > 0 %}{{ r(x - 1) }}{% endif %}{% endmacro %}{{ r(3) }} {% macro undef(a) %}{{ a is defined }}{% endmacro %}{{ undef() }}{{ undef(none) }}
{% macro outer() %}{{ late }}{{ n }}{% set n = 5 %}{{ n }}{% endmacro %}{% set late = "L" %}{{ outer() }}{{ n }} {% for i in [1, 2] %}{% macro inl() %}{{ i }}{% endmacro %}{{ inl() }}{% endfor %} {% macro a1() %}{{ b1() }}{% endmacro %}{% macro b1() %}B{% endmacro %}{{ a1() }}
{% macro wrap(tag) %}<{{ tag }}>{{ caller() }}</{{ tag }}>{% endmacro %}{% call wrap("b") %}in {{ n }}{% endcall %} {% macro each(xs) %}{% for x in xs %}{{ caller(x, loop.index) }}{% endfor %}{% endmacro %}{% call(x, i) each(l) %}[{{ i }}:{{ x }}]{% endcall %} {% macro maybe() %}{% if caller %}C{{ caller() }}{% else %}none{% endif %}{% endmacro %}{{ maybe() }}{% call maybe() %}x{% endcall %}
{% filter upper %}abc {{ s }}{% endfilter %} {% filter replace("a", "b")|upper %}banana{% endfilter %} {% filter trim %}  x  {% endfilter %}|
{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }} {% with %}{% set zq = 1 %}{{ zq }}{% endwith %}{{ zq is defined }} {% with n = n + 1 %}{{ n }}{% endwith %}{{ n }}
{% raw %}{{ not }} {% parsed %} {# at all #}{% endraw %} {%- raw -%}  x  {%- endraw -%} y {# comment {{ x }} {% if %} #}z {#- trimmed -#} w
{% set j = joiner(" | ") %}{{ j() }}a{{ j() }}b{{ j() }}c {% set c = cycler("x", "y") %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{% set _ = c.reset() %}{{ c.current }} {% set k = joiner() %}{{ k() }}{{ k() }}
{{ strftime_now("%Y-%m-%d %H:%M:%S %d %b %B %a %A %j %y %p %I %% %e %-d") }} {{ strftime_now("%f|%z|%Z|") }} {{ strftime_now("") }}| {{ strftime_now("年%Y") }}
{% generation %}gen {{ n }}{% set ginner = 1 %}{% endgeneration %}{{ ginner is defined }} {%- generation -%} x {%- endgeneration -%} y
{% print n, s %} {% print("x") %}
{{ messages is defined }} {{ loop is defined }} {{ caller is defined }} {{ true }}{{ True }}{{ none }}{{ None }}{{ false }}{{ False }}
{{ [1, 2]|length == 2 and s|length > 3 }} {{ not s|length }} {{ -1|abs }} {{ (-1)|abs }} {{ 1 + 2|float }} {{ "a"|upper ~ "b"|upper }} {{ l|length is even }} {{ l|join(",")|length }} {{ s.split(",")[0]|lower }} {{ (s|upper).lower() }} {{ s|upper|lower|title }}
{{ (1 if t else 2) + 3 }}
{{ d.a.x|first }} {{ (d.items()|list)[0][1] }} {{ d.keys()|list|first }} {{ "abc"[1]|upper }} {{ people[0]["na" ~ "me"] }} {{ people|length }}{{ people[people|length - 1].name }} {{ l[l|length - 1] }} {{ s[n:] }} {{ s[-n:n - 1] }} {{ "x" in "xyz"[1:] }} {{ (l + [4])[-1] }}
{{ 9223372036854775807 }} {{ -9223372036854775807 - 1 }} {{ 9223372036854775806 + 1 }} {{ 3037000499 * 3037000499 }} {{ 5 // -2 }} {{ 5 % -2 }} {{ -5 // -2 }} {{ 10 ** 18 }} {{ 1e308 * 10 }} {{ -1e308 * 10 }}
{{ undefined_function is defined }} {{ (missing or {}).x is defined }} {{ (d.get("zz") or {}).get("y") }} {{ missing ~ "x" }} {{ [missing]|length }} {{ [missing] }} {{ missing in [missing] }} {{ {"a": missing}.a is defined }}
{{ 'single \' quote' }} {{ "tab\tnew\nline" }}
{{ "a" if s is string else "b" if s is mapping else "c" }} {{ (s if s is mapping else s|upper) }} {{ "x" ~ ("y" if t) ~ "z" }} {{ x.y if x is defined else "no x" }}
{{ l|map("string")|join(" ")|trim|upper|replace("1", "one") }} {{ people|map(attribute="name")|map("lower")|sort|join(",") }} {{ (people|selectattr("age", "gt", 26)|list)[0].name }} {{ people|map(attribute="age")|unique|sort(reverse=true)|join("/") }}
{{ range(3)|map("string")|list }} {{ range(4)|sum }} {{ range(3)|reverse|list }} {{ 3 in range(3) }} {{ range(3) == range(0, 3) }} {{ range(2) ~ "" }}
{{ "{'a': 1}" }} {{ "}}" }} {{ "%}" }} {{ {"a": {"b": 1}} }} {{ {"a": {"b": {}}}["a"]["b"] }}
{{ None is none }} {{ s is not string }} {{ not s is string }}
{{ "a" < "b" and "b" < "c" }} {{ 1 < 2 == true }} {{ (1 < 2) == true }} {{ 1 in [1] == true }} {{ 2 not in [1] }} {{ not 1 == 2 }}
{{ "é" == "e\u0301" }} {{ "種" > "z" }} {{ "😀" > "\uffee" }} {{ u|upper }} {{ u|lower }} {{ u|title }} {{ u|capitalize }}
{{ s.join(["a", "b"]) }} {{ " ".join(s.split(", ")) }} {{ s.split(", ")|last }} {{ s.split(", ", 1)[1].lower() }} {{ s.lower().split("o")|length }} {{ (s ~ "!").endswith("!") }} {{ s.strip().upper().replace("L", "") }}
"""

# Templates of several lines: white space between tags. Separated by lines of =====.
LAYOUTS = r"""
{% filter indent(2) %}a
b{% endfilter %}
=====
{{ "a\
b" }}
=====
<ul>
  {% for x in l %}
  <li>{{ x }}</li>
  {% endfor %}
</ul>
=====
  {%- if t -%}
   a
  {%- else -%}
   b
  {%- endif -%}
   c
=====
a {% if t %} b {% endif %} c
   {% if t %} d
   {% endif %}
=====
x
   {{ n }}
   {{- n }}
   {{ n -}}
   y
=====
a
   {%+ if t %}b{% endif +%}

c {%+ if t +%}
 d{%+ endif %}
=====
  {# comment #}
a
  {#- comment -#}
b {# c #} d
  {#+ keep +#}
e
=====
{% raw %}
  {{ x }}
{% endraw %}
a
  {%- raw -%}
   {% y %}
  {%- endraw -%}
b
   {% raw %} z {% endraw %}
c
=====
{% set a = 1 %}

{% set b = 2 %}
{{ a }}

{{ b }}


=====
{%- for m in people %}
    {%- if loop.first %}
        {{- "first: " }}
    {%- endif %}
    {{- m.name + "\n" }}
{%- endfor %}
end
=====
	{% if t %}
	tab
	{% endif %}
 {% if t %} {# x #} {% endif %}
after
=====
{% macro m() -%}
  in
{%- endmacro %}
[{{ m() }}]
=====
line {% for x in l %}
{{ x }}
{% endfor %}
{%if t%}tight{%endif%}{{n}}{{-n-}}{{+n}}{{ n+ 1 }}
=====
{{ "a
b" }}
{%
  set x
  =
  [1,
   2]
%}
{{ x }}
=====
{% for x in [1,2] -%}
    {{ x }}

{%- endfor %}
{#-
multi
line
-#}
tail   
"""

# Each of these is an error in Python; tane has one too.
ERRORS = r"""
{{ missing.x }}
{{ missing["x"] }}
{{ missing() }}
{{ missing + 1 }}
{{ 1 + missing }}
{{ missing < 1 }}
{{ -missing }}
{{ missing|int }}
{{ missing|tojson }}
{{ d.zz.y }}
{{ l[9].x }}
{{ nil.x.y }}
{{ nil["x"]["y"] }}
{{ n.x.y }}
{{ 1 + "a" }}
{{ "a" + 1 }}
{{ "a" + none }}
{{ [1] + (1,) }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 1 % 0 }}
{{ 1.5 % 0 }}
{{ 0 ** -1 }}
{{ 1 < "a" }}
{{ none < 1 }}
{{ [1] < 1 }}
{{ {} < {} }}
{{ 1 in 5 }}
{{ 1 in "a" }}
{{ [] in {} }}
{{ {[]: 1} }}
{{ {{}: 1} }}
{{ "a" * "b" }}
{{ "a" - "b" }}
{{ [1] * 1.5 }}
{{ -"a" }}
{{ +[] }}
{{ n() }}
{{ s() }}
{{ s.upper(1) }}
{{ s.split(1) }}
{{ s.split("") }}
{{ s.replace("a") }}
{{ s.replace(1, 2) }}
{{ s.index("zzz") }}
{{ s.join([1]) }}
{{ s.join(1) }}
{{ s.startswith(1) }}
{{ s.strip(1) }}
{{ s.zzz() }}
{{ d.get() }}
{{ d.get([]) }}
{{ l.append(4) }}
{{ l.pop() }}
{{ d.update({}) }}
{{ d.pop("b") }}
{{ d.setdefault("x", 1) }}
{{ l.index(99) }}
{{ l.sort() }}
{{ range() }}
{{ range("a") }}
{{ range(1, 2, 0) }}
{{ range(100001) }}
{{ range(10**9) }}
{{ range(1.5) }}
{{ 1|length }}
{{ none|length }}
{{ (l|map("string"))|length }}
{{ (l|map("string"))|last }}
{{ 1|list }}
{{ none|list }}
{{ 1|first }}
{{ none|join }}
{{ 1|items|list }}
{{ l|dictsort }}
{{ d|dictsort(by="x") }}
{{ mixed|sort }}
{{ mixed|max }}
{{ ["a"]|sum }}
{{ [[]]|unique|list }}
{{ l|map("zzz")|list }}
{{ l|map|list }}
{{ l|select("zzz")|list }}
{{ l|selectattr|list }}
{{ l|zzz }}
{{ l is zzz }}
{{ l|join(1, 2, 3) }}
{{ l|sort(zzz=1) }}
{{ l|length(1) }}
{{ s|default(1, 2, 3) }}
{{ s|replace("a") }}
{{ 1|indent }}
{{ "abcdef"|truncate(2) }}
{{ 5|round(1, "up") }}
{{ "a"|abs }}
{{ "a"|round }}
{{ "%d" % "a" }}
{{ "%s %s" % "a" }}
{{ "%s" % (1, 2) }}
{{ "%q" % 1 }}
{{ "%" % 1 }}
{{ "%(a)s" % 1 }}
{{ "%(a)s" % {} }}
{{ "x" % 1 }}
{{ "{}".format() }}
{{ "{a}".format() }}
{{ "{0} {}".format(1, 2) }}
{{ "{".format(1) }}
{{ "}".format(1) }}
{{ "{:d}".format("a") }}
{{ "{:>5}".format(none) }}
{{ "{:zz}".format(1) }}
{{ {"a": range}|tojson }}
{{ range|tojson }}
{{ {(1, 2): 3}|tojson }}
{{ "a" is odd }}
{{ 1 is divisibleby 0 }}
{{ 1 is lt "a" }}
{{ raise_exception("the words") }}
{{ raise_exception("種 " ~ n) }}
{{ raise_exception() }}
{{ dict(1) }}
{{ dict([1]) }}
{{ dict([[1, 2, 3]]) }}
{{ dict(1, 2) }}
{{ namespace(_x=1) }}
{% set ns = namespace() %}{% set ns._x = 1 %}
{% set d.b = 2 %}
{% set zzz.b = 2 %}
{% set a, b = 1 %}
{% set a, b = [1, 2, 3] %}
{% for a, b in [[1]] %}{% endfor %}
{% for x in 5 %}{% endfor %}
{% for x in none %}{% endfor %}
{% for loop in l %}{% endfor %}{{ loop }}{% for loop in l %}{{ loop.index }}{% endfor %}
{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{% endmacro %}{{ m(b=1) }}
{% macro m(a) %}{% endmacro %}{{ m(1, a=2) }}
{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}
{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}
{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}
{% for x in l %}{{ loop.cycle() }}{% endfor %}
{% for x in l %}{{ loop() }}{% endfor %}
{{ cycler() }}
{{ l[::0] }}
{{ l["a":] }}
{{ d[1:] }}
{{ nil[1:] }}
{{ missing[1:] }}
{{ s[1.5:] }}
{{ (1).__class__.__mro__ }}
{{ s.__class__.__name__ }}
{{ s.__init__() }}
{{ "".format.__self__.x }}
{{ d.__class__() }}
{% if %}{% endif %}
{% if t %}
{% for x in l %}
{% endif %}
{% endfor %}
{% else %}
{% zzz %}
{% for x l %}{% endfor %}
{% for in l %}{% endfor %}
{% for 1 in l %}{% endfor %}
{% set 1 = 2 %}
{% set true = 2 %}
{% set x %}
{% macro m %}{% endmacro %}
{% macro m(1) %}{% endmacro %}
{% macro m(a=1, b) %}{% endmacro %}
{% call 1 %}{% endcall %}
{% filter %}{% endfilter %}
{% filter zzz %}{% endfilter %}
{% break %}
{% for x in l %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}
{% for x in l %}{% generation %}{% break %}{% endgeneration %}{% endfor %}
{% generation %}
{# x
{{ x
{{ x }
{{ }}
{{ 1 + }}
{{ s is string is defined }}
{{ [x for x in l] }}
{{ -l|length }}
{{ 1 ~ 2 + 3 }}
{{ * 1 }}
{{ (1 }}
{{ 1) }}
{{ [1) }}
{{ {1} }}
{{ {1: } }}
{{ a b }}
{{ a. }}
{{ a.'b' }}
{{ a[] }}
{{ a| }}
{{ a|1 }}
{{ a is }}
{{ a is 1 }}
{{ a is defined is string }}
{{ 'a }}
{{ "\xg" }}
{{ "\u12" }}
{{ "\U99999999" }}
{{ f(a=1, 2) }}
{{ f(**a, 1) }}
{{ f(*a, *b) }}
{{ 1 if }}
{{ a not b }}
{{ ! }}
{{ a ? b : c }}
{{ a = 1 }}
{{ $x }}
{{ x }}{% endraw %}
{% set x = 1
{% if t }}x{% endif %}
{{ not }}
{{ , }}
{{ 'a'.'b' }}
{% with a %}{% endwith %}
{% with a.b = 1 %}{% endwith %}
{{ lambda x: x }}
{{ x|upper( }}
{{ "%c" % "ab" }}
{{ "%*d" % ("a", 1) }}
{{ 9223372036854775807|zzz }}
{{ "a".center("b") }}
{{ "a".center(3, "xy") }}
{{ "a".zfill("b") }}
{{ "a".partition("") }}
{{ ",".join(missing.x) }}
{{ l|sort(attribute="x.y") }}
{{ people|map(attribute="zz.y")|list }}
{{ people|sum(attribute="name") }}
{{ none|sum }}
{{ strftime_now() }}
{{ strftime_now(1) }}
{{ 1|batch(0)|list }}
{{ joiner(1, 2) }}
{{ mixed|min }}
{{ s|attr }}
{{ loop.index }}
{{ s[missing.x] }}
{{ d[[]].x }}
{{ l|tojson(indent=[]) }}
{{ namespace(1) }}
{{ l.0.x.y }}
"""

TEMPLATES = ["chatml", "llama2", "llama3", "tools", "mistral", "gemma", "reasoning", "documents", "commands", "generation"]


def run(template):
    """The text of a snippet, or what kind of error it is."""
    try:
        compiled = ctu._compile_jinja_template(template)
        compiled.environment.globals["strftime_now"] = lambda format: real_templates.NOW.strftime(format)
        return {"text": compiled.render(**copy.deepcopy(VARS))}
    except jinja2.exceptions.TemplateError as e:
        return {"raise": str(e)} if type(e) is jinja2.exceptions.TemplateError else {"error": type(e).__name__}
    except Exception as e:
        return {"error": type(e).__name__}


def write(name, value, rows):
    body = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    head = json.dumps(value, ensure_ascii=False)[1:-1]
    (OUT / name).write_text('{%s%s"rows": [\n%s\n]}\n' % (head, ", " if head else "", body))


def constructs():
    rows = []
    for template in SNIPPETS.strip("\n").split("\n") + LAYOUTS[1:].split("\n=====\n"):
        result = run(template)
        if "text" not in result:
            print("an error:", template, result)
        rows.append({"template": template, **result})
    for template in ERRORS.strip("\n").split("\n"):
        result = run(template)
        if "text" in result:
            print("no error:", template, repr(result["text"]))
            continue
        rows.append({"template": template, **result})
    write("constructs.json", {"versions": VERSIONS, "variables": VARS}, rows)
    print(len(rows), "snippets")


def families():
    for name in TEMPLATES:
        template = (OUT / f"{name}.jinja").read_text()
        rows = [real_templates.render(template, case, "generation %}" in template) for case in conversations.CASES]
        write(f"{name}.json", {"versions": VERSIONS}, rows)
        print(name, sum("text" in r for r in rows), "texts,", sum("text" not in r for r in rows), "errors")


if __name__ == "__main__":
    constructs()
    families()
