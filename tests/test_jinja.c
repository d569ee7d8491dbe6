/* The Jinja engine: every construct against transformers' environment (tests/golden/chat/constructs.json, made by
 * tools/golden/chat_template.py), the words of its errors, its bounds, and the marks that text carries. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "chat_cases.h"
#include "support.h"
#include "text/jinja.h"

/* Renders a template with the members of `variables` (NULL: none) as literal text. */
static Status render_with(const char *template, size_t n, const json_t *variables, ChatText *out) {
    JinjaTemplate *t;
    JinjaVariable list[64];
    size_t count = 0;
    const char *key;
    json_t *value;
    TRY_RETURN(jinja_parse(&t, "t", template, n));
    json_object_foreach((json_t *)(uintptr_t)variables, key, value) {
        list[count++] = (JinjaVariable){.name = key, .json = value, .mark = CHAT_LITERAL};
    }
    Status st = jinja_render(t, list, count, CHAT_NOW, &out->text, &out->marks);
    jinja_free(t);
    return st;
}

static Status render(const char *template, ChatText *out) { return render_with(template, strlen(template), NULL, out); }

static const char *text_of(const ChatText *t) { return t->text.text ? t->text.text : ""; }

static void check_snippet(const json_t *row, const json_t *variables, int *wrong) {
    const json_t *template = json_object_get(row, "template"), *text = json_object_get(row, "text");
    const json_t *words = json_object_get(row, "raise");
    ChatText out = {0};
    Status st = render_with(json_string_value(template), json_string_length(template), variables, &out);
    bool right = text ? st == TANE_OK && out.text.len == json_string_length(text) &&
                            !memcmp(text_of(&out), json_string_value(text), out.text.len)
                      : st != TANE_OK && st != TANE_EINTERNAL &&
                            (!words || strstr(err_message(), json_string_value(words)));
    if (!right) {
        ++*wrong;
        print_message("%s\n  expected %s\n  found    %s\n", json_string_value(template),
                      text ? json_string_value(text) : "an error", st == TANE_OK ? text_of(&out) : err_message());
    }
    chat_text_free(&out);
}

static void test_every_construct_as_transformers(void **state) {
    (void)state;
    json_t *golden, *row;
    size_t i;
    int wrong = 0;
    assert_ok(json_read_file(test_data("golden/chat/constructs.json"), &golden));
    json_array_foreach(json_object_get(golden, "rows"), i, row) {
        check_snippet(row, json_object_get(golden, "variables"), &wrong);
    }
    assert_true(i > 300);
    json_decref(golden);
    assert_int_equal(wrong, 0);
}

/* ---- errors ----------------------------------------------------------------------------------------------------- */

/* Parsing or rendering ends with this status and these words. */
static void assert_fails(const char *template, Status code, const char *words) {
    ChatText out = {0};
    assert_error(render(template, &out), code, words);
    assert_int_equal(out.text.len, 0);
    chat_text_free(&out);
}

static void assert_gives(const char *template, const char *expected) {
    ChatText out = {0};
    assert_ok(render(template, &out));
    assert_string_equal(text_of(&out), expected);
    chat_text_free(&out);
}

static void test_errors_name_place_and_cause(void **state) {
    (void)state;
    static const struct {
        const char *template;
        Status code;
        const char *words;
    } rows[] = {
        {"a\n{{ x.y }}", TANE_EINVAL, "t:2:6: 'x' is undefined"},
        {"{{ {'k': 1}.z.y }}", TANE_EINVAL, "t:1:15: 'dict object' has no attribute 'z'"},
        {"{{ [1][5].y }}", TANE_EINVAL, "list object has no element 5"},
        {"{{ none.x.y }}", TANE_EINVAL, "'None' has no attribute 'x'"},
        {"{{ 'é' + 1 }}", TANE_EINVAL, "t:1:8: can only concatenate str (not \"int\") to str"},
        {"{{ 1 < 'a' }}", TANE_EINVAL, "'<' is not possible between 'int' and 'str'"},
        {"{{ [].append(1) }}", TANE_EINVAL, "access to attribute 'append' of 'list' object is unsafe"},
        {"{{ {}['update']({}) }}", TANE_EINVAL, "access to attribute 'update' of 'dict' object is unsafe"},
        {"{{ ''.__class__.x }}", TANE_EINVAL, "access to attribute '__class__' of 'str' object is unsafe"},
        {"{{ 'x'.expandtabs() }}", TANE_EUNSUPPORTED, "the method 'expandtabs' of Python is not supported"},
        {"{{ 'x'|urlize }}", TANE_EUNSUPPORTED, "t:1:8: the filter 'urlize' of Jinja is not supported"},
        {"{{ [1]|random }}", TANE_EUNSUPPORTED, "the filter 'random'"},
        {"{{ 'x'|nobody }}", TANE_EUNSUPPORTED, "no filter named 'nobody'"},
        {"{{ 'x' is nobody }}", TANE_EUNSUPPORTED, "no test named 'nobody'"},
        {"{% if true %}{{ 'x'|nobody }}{% endif %}", TANE_EUNSUPPORTED, "no filter named 'nobody'"},
        {"{% for x in [1] recursive %}{% endfor %}", TANE_EUNSUPPORTED, "recursive loops are not supported"},
        {"{% extends 'x' %}", TANE_EUNSUPPORTED, "t:1:4: the tag 'extends' is not supported"},
        {"{% block x %}{% endblock %}", TANE_EUNSUPPORTED, "the tag 'block'"},
        {"{% autoescape true %}", TANE_EUNSUPPORTED, "the tag 'autoescape'"},
        {"{{ x[1, 2] }}", TANE_EUNSUPPORTED, "a subscript of several parts"},
        {"{{ '\\N{BULLET}' }}", TANE_EUNSUPPORTED, "\\N{...}"},
        {"{{ lipsum() }}", TANE_EUNSUPPORTED, "the function 'lipsum'"},
        {"{% if x %}", TANE_EFORMAT, "t:1:11: the template ends before 'elif'"},
        {"{% endif %}", TANE_EFORMAT, "unknown tag 'endif'"},
        {"{% for x in y %}{% endif %}", TANE_EFORMAT, "unknown tag 'endif'; open is what ends with 'endfor' or 'else'"},
        {"{{ 1 + }}", TANE_EFORMAT, "t:1:8: expected an expression, found the end of the expression '}}'"},
        {"{{ (1] }}", TANE_EFORMAT, "t:1:6: unexpected ']', expected ')'"},
        {"{{ 'x }}", TANE_EFORMAT, "t:1:4: the string has no closing quote"},
        {"x {# y", TANE_EFORMAT, "t:1:3: the comment has no end"},
        {"{% raw %} {{", TANE_EFORMAT, "the raw block has no end"},
        {"{{ x", TANE_EFORMAT, "the expression has no end"},
        {"{{ é }}", TANE_EFORMAT, "unexpected character 'é'"},
        {"{{ '\\ud800' }}", TANE_EFORMAT, "is no character"},
        {"{% break %}", TANE_EFORMAT, "'break' stands outside a loop"},
        {"{% set true = 1 %}", TANE_EFORMAT, "cannot assign to 'true'"},
        {"{% for a.b in x %}{% endfor %}", TANE_EFORMAT, "only {% set %} can assign to an attribute"},
        {"\xff", TANE_EFORMAT, "t:1:1: the template is not UTF-8 here"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) assert_fails(rows[i].template, rows[i].code, rows[i].words);
}

/* A template may ask whether there is a filter; what is never reached is no error, as in Jinja2. */
static void test_unknown_filters_inside_an_if_wait_until_they_are_reached(void **state) {
    (void)state;
    assert_gives("{% if 'nobody' is filter %}{{ 'x'|nobody }}{% else %}none{% endif %}", "none");
    assert_gives("{{ 'x'|nobody if false else 'y' }}", "y");
    assert_gives("{{ (('x' is nobody) if false) is defined }}", "False");
    assert_fails("{% if false %}{% for x in [1] %}{{ x|nobody }}{% endfor %}{% endif %}", TANE_EUNSUPPORTED, "nobody");
}

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

static void test_integers_that_python_would_make_longer_are_errors(void **state) {
    (void)state;
    static const char *const rows[] = {"{{ 9223372036854775807 + 1 }}",
                                       "{{ -9223372036854775807 - 2 }}",
                                       "{{ 4294967296 * 4294967296 }}",
                                       "{{ 2 ** 63 }}",
                                       "{{ (-9223372036854775807 - 1) // -1 }}",
                                       "{{ -(-9223372036854775807 - 1) }}",
                                       "{{ 1e19|int }}",
                                       "{{ '99999999999999999999'|int }}",
                                       "{{ [9223372036854775807, 1]|sum }}",
                                       "{{ (-9223372036854775807 - 1)|abs }}"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) assert_fails(rows[i], TANE_EINVAL, "64 bits");
    assert_fails("{{ 9223372036854775808 }}", TANE_EFORMAT, "does not fit into 64 bits");
    assert_fails("{{ 10.0 ** 400 }}", TANE_EINVAL, "too large for a float");
    assert_gives("{{ (-9223372036854775807 - 1) % -1 }} {{ 2 ** 62 }} {{ 0 ** 0 }}", "0 4611686018427387904 1");
}

/* ---- bounds ----------------------------------------------------------------------------------------------------- */

/* head, then `n` times `part`, then `tail` as often. */
static char *repeated(const char *head, const char *part, const char *middle, const char *tail, size_t n) {
    Str s = {0};
    assert_ok(str_add(&s, head, strlen(head)));
    for (size_t i = 0; i < n; i++) assert_ok(str_add(&s, part, strlen(part)));
    assert_ok(str_add(&s, middle, strlen(middle)));
    for (size_t i = 0; i < n; i++) assert_ok(str_add(&s, tail, strlen(tail)));
    return s.text;
}

static void assert_refused(char *template, const char *words) {
    ChatText out = {0};
    double from = clock_seconds();
    Status st = render(template, &out);
    if (st == TANE_OK || !strstr(err_message(), words))
        fail_msg("expected \"%s\", found %s", words, st == TANE_OK ? "no error" : err_message());
    assert_true(clock_seconds() - from < 20); /* far more than it takes, and far less than without a bound */
    mem_free(template);
    chat_text_free(&out);
}

static void test_deep_parentheses(void **state) {
    (void)state;
    static const struct {
        const char *head, *part, *middle, *tail, *words;
    } rows[] = {
        {"{{ ", "(", "1", ")", "deep inside each other"},
        {"{{ ", "[", "1", "]", "deep inside each other"},
        {"{{ ", "{1:", "1", "}", "deep inside each other"},
        {"{{ ", "x[", "1", "]", "deep inside each other"},
        {"{{ ", "x(", "1", ")", "deep inside each other"},
        {"{{ ", "- ", "1", "", "deep inside each other"},
        {"{{ ", "not ", "1", "", "deep inside each other"},
        {"{{ ", "1 if 1 else ", "1", "", "deep inside each other"},
        {"{{ 1", "+1", "", "", "operations in one expression"},
        {"{{ x", ".x", "", "", "operations in one expression"},
        {"{{ x", "|upper", "", "", "operations in one expression"},
        {"{{ x", "()", "", "", "operations in one expression"},
        {"{{ x", "[0]", "", "", "operations in one expression"},
        {"{{ x", " if x", "", "", "operations in one expression"},
        {"{{ 1", " and 1", "", "", "operations in one expression"},
        {"{{ 1", " < 1", "", "", "comparisons in a row"},
        {"", "{% if x %}", "", "{% endif %}", "deep inside each other"},
        {"", "{% for x in y %}", "", "{% endfor %}", "deep inside each other"},
        {"", "{% macro m() %}", "", "{% endmacro %}", "deep inside each other"},
        {"{% set ", "(", "x", ")", "deep inside each other"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t n = (JINJA_MAX_SOURCE - 100) / (strlen(rows[i].part) + strlen(rows[i].tail));
        assert_refused(repeated(rows[i].head, rows[i].part, rows[i].middle, rows[i].tail, n < 100000 ? n : 100000),
                       rows[i].words);
    }
    /* What people write fits. */
    char *usual = repeated("{{ ", "(", "1", ")", JINJA_MAX_NESTING / 2);
    Str whole = {0};
    assert_ok(str_printf(&whole, "%s }}", usual));
    assert_gives(whole.text, "1");
    mem_free(usual);
    str_free(&whole);
}

static void test_recursive_macros(void **state) {
    (void)state;
    assert_fails("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", TANE_EINVAL, "deep inside each other");
    assert_fails("{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}", TANE_EINVAL,
                 "deep");
    assert_fails("{% macro m(x=m()) %}{% endmacro %}{{ m() }}", TANE_EINVAL, "deep inside each other");
    assert_fails("{% macro m() %}{% call m() %}{% endcall %}{{ caller }}{% endmacro %}{{ m() }}", TANE_EINVAL, "deep");
    assert_fails("{% macro m(n) %}{{ m(n + 1) ~ m(n + 1) if n < 40 }}{% endmacro %}{{ m(0) }}", TANE_EINVAL,
                 "the template takes more than");
    assert_gives("{% macro m(n) %}{{ n }}{{ m(n - 1) if n }}{% endmacro %}{{ m(60) }}",
                 "60595857565554535251504948474645444342414039383736353433323130292827262524232221201918171615141312111"
                 "0987654321"
                 "0");
}

static void test_huge_ranges_and_repetitions(void **state) {
    (void)state;
    assert_fails("{% for i in range(10**9) %}{% endfor %}", TANE_EINVAL, "t:1:13: Range too big");
    assert_fails("{{ range(-9223372036854775807, 9223372036854775807)|length }}", TANE_EINVAL, "Range too big");
    assert_fails("{{ 'x' * 10**12 }}", TANE_EINVAL, "too long for a template");
    assert_fails("{{ [1] * 10**12 }}", TANE_EINVAL, "too long for a template");
    assert_fails("{{ '%1000000000d' % 1 }}", TANE_EINVAL, "a width of more than");
    assert_fails("{{ '%.1000000000f' % 1 }}", TANE_EINVAL, "a width of more than");
    assert_fails("{{ '{:1000000000}'.format(1) }}", TANE_EINVAL, "invalid format specifier");
    assert_fails("{{ 'x'|center(10**12) }}", TANE_EINVAL, "too much");
    assert_fails("{{ 'a\nb'|indent(10**12) }}", TANE_EINVAL, "too long for a template");
    assert_fails("{{ [1]|tojson(indent=10**12) }}", TANE_EINVAL, "too long for a template");
    assert_fails("{{ [1]|batch(10**12, 'x')|list }}", TANE_EINVAL, "MiB of memory");
    assert_fails("{{ [1]|slice(10**12)|list }}", TANE_EINVAL, "parts");
    assert_fails("{{ 'x'.zfill(10**12) }}", TANE_EINVAL, "too much");
}

/* Steps, text, memory and work: whatever a template does, it ends soon. */
static void test_endless_templates_end(void **state) {
    (void)state;
    static const struct {
        const char *template, *words;
    } rows[] = {
        {"{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "steps"},
        {"{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}", "MiB of memory"},
        {"{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
         "MiB of memory"},
        {"{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
         "MiB of memory"},
        {"{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
         "deep inside"},
        {"{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l|tojson }}",
         "deep"},
        {"{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l == [ns.l] "
         "}}",
         "deep"},
        {"{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}", "deep inside"},
        {"{% set s = 'x' * 999999 %}{% for i in range(99999) %}{% if 'y' in s %}{% endif %}{% endfor %}",
         "again and again"},
        {"{% set s = 'a' * 99999 %}{{ ('a' * 999999).rfind('b' ~ s) }}{{ ('a' * 999999).rfind(s ~ 'b' ~ s) }}", NULL},
        {"{% set l = range(99999)|list %}{% for i in l %}{% if l == l[:] %}{% endif %}{% endfor %}", "again and again"},
        {"{% set l = range(99999)|list %}{% for i in l %}{% if l|sum + l|max %}{% endif %}{% endfor %}",
         "again and again"},
        {"{% set l = range(99999)|list %}{% for i in l %}{% if l|join|length %}{% endif %}{% endfor %}",
         "the template"},
        {"{% set l = range(99999)|list %}{% for i in l %}{% if -1 in l or l.count(1) %}{% endif %}{% endfor %}",
         "again and again"},
        {"{% set l = range(99999)|list %}{% for i in l %}{% for j in l %}{% break %}{% endfor %}{% endfor %}", NULL},
        {"{{ range(99999)|map('string')|unique|list|length }}", "again and again"},
        {"{% macro m() %}{% for i in range(99999) %}{{ caller() }}{% endfor %}{% endmacro %}{% call m() %}{% call m() "
         "%}x"
         "{% endcall %}{% endcall %}",
         NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        ChatText out = {0};
        double from = clock_seconds();
        Status st = render(rows[i].template, &out);
        double took = clock_seconds() - from;
        if (took > 0.5) print_message("%.2f s: %s\n", took, rows[i].template);
        assert_true(took < 20);
        if (rows[i].words && (st == TANE_OK || !strstr(err_message(), rows[i].words)))
            fail_msg("%s: expected \"%s\", found %s", rows[i].template, rows[i].words,
                     st == TANE_OK ? "no error" : err_message());
        chat_text_free(&out);
    }
}

/* A refused template has not taken much more than the bound on the way. */
static void test_memory_of_a_rendering_is_bounded(void **state) {
    (void)state;
    TestAllocator a = {0};
    test_allocator_install(&a);
    ChatText out = {0};
    Status st = render(
        "{% set ns = namespace(s='x', l=[]) %}{% for i in range(99999) %}{% set ns.s = ns.s ~ 'yyyyyyyyyyyyyyyyyyyy' %}"
        "{% set ns.l = ns.l + [i, ns.s] %}{% endfor %}{{ ns.s }}",
        &out);
    chat_text_free(&out);
    test_allocator_remove();
    assert_int_equal(st, TANE_EINVAL);
    assert_int_equal(a.live, 0);
    assert_true(a.peak_bytes < (size_t)64 << 20);
}

static void test_a_template_of_a_megabyte_is_refused(void **state) {
    (void)state;
    assert_refused(repeated("", "{{ x }} ", "", "", JINJA_MAX_SOURCE / 8 + 1), "a chat template of");
    TestAllocator a = {0};
    char *largest = repeated("{{ 1", "~1", "", "", JINJA_MAX_SOURCE / 2 - 10);
    Str whole = {0};
    assert_ok(str_printf(&whole, "%s }}", largest));
    mem_free(largest);
    char *text = test_read(test_write(test_path("t"), whole.text), NULL);
    size_t n = whole.len;
    str_free(&whole);
    test_allocator_install(&a);
    JinjaTemplate *t;
    Status st = jinja_parse(&t, "t", text, n);
    jinja_free(t);
    test_allocator_remove();
    assert_ok(st);
    assert_true(a.peak_bytes < n + ((size_t)64 << 20));
}

/* 300 KB of one conversation at once, and of many turns: no bound is in the way of what people do. */
static void test_long_conversations_fit(void **state) {
    (void)state;
    static const char template[] =
        "{% set ns = namespace(n=0, all='') %}{% for m in l %}{% if m.role == 'user' and m.content is string %}"
        "{% set ns.n = ns.n + 1 %}{% endif %}{% set ns.all = ns.all + m.content|trim + '\n' %}{% for o in "
        "l[loop.index0:] %}"
        "{% if o.role == 'assistant' %}{% break %}{% endif %}{% endfor %}{% endfor %}{{ ns.n }}{{ ns.all }}";
    json_t *variables = json_object(), *list = json_array();
    for (int i = 0; i < 3000; i++) {
        json_t *message = json_object();
        json_object_set_new(message, "role", json_string(i % 2 ? "assistant" : "user"));
        json_object_set_new(message, "content", json_string("種 forty bytes of what somebody says to it. "));
        json_array_append_new(list, message);
    }
    char *book = repeated("", "A long text, ", "", "", 100000);
    json_object_set_new(json_array_get(list, 0), "content", json_string(book));
    json_object_set_new(variables, "l", list);
    mem_free(book);
    ChatText out = {0};
    assert_ok(render_with(template, strlen(template), variables, &out));
    assert_int_equal(out.text.len, 4 + 1299999 + 1 + 2999 * 45);
    chat_text_free(&out);
    json_decref(variables);
}

/* ---- marks ------------------------------------------------------------------------------------------------------ */

/* Where text comes from data: 'L' (and 'G' or 'B' inside {% generation %}, '.' from the template). */
static void assert_marks(const char *template, const char *expected_text, const char *expected) {
    json_t *data;
    static const char json[] =
        "{\"u\": \"<user>\", \"l\": [\"a\", \"b\"], \"d\": {\"k\": \"v\"}, \"sp\": \" x \", \"n\": 5}";
    assert_ok(json_read_text("data", json, sizeof json - 1, &data));
    ChatText out = {0};
    assert_ok(render_with(template, strlen(template), data, &out));
    assert_string_equal(out.text.text, expected_text);
    assert_int_equal(out.marks.len, out.text.len);
    for (size_t i = 0; i < out.marks.len; i++) out.marks.text[i] = ".LGB"[(int)out.marks.text[i]];
    if (strcmp(out.marks.text, expected)) fail_msg("%s: marks %s, expected %s", template, out.marks.text, expected);
    chat_text_free(&out);
    json_decref(data);
}

static void test_marks_go_through_every_operation(void **state) {
    (void)state;
    static const char *const rows[][3] = {
        {"a{{ u }}b", "a<user>b", ".LLLLLL."},
        {"{{ 'x' + u + 'y' }}", "x<user>y", ".LLLLLL."},
        {"{{ 'x' ~ u ~ n }}", "x<user>5", ".LLLLLL."},
        {"{{ ('<' + u)[1:4] }}{{ ('x' + u)[::-1] }}", "<us>resu<x", "LLLLLLLLL."},
        {"{{ (' ' + u + ' ')|trim }}{{ sp.strip() }}", "<user>x", "LLLLLLL"},
        {"{{ u|upper }}{{ ('a' ~ u)|title }}", "<USER>A<User>", "LLLLLL.LLLLLL"},
        {"{{ u.replace('s', 'zz') }}{{ 'abc'.replace('b', u) }}", "<uzzer>a<user>c", "LL..LLL.LLLLLL."},
        {"{{ 'a-b'.split('-')[1] }}{{ (u ~ '-b').split('-')|join('+') }}", "b<user>+b", ".LLLLLL.."},
        {"{{ l|join(', ') }}{{ ', '.join(l) }}", "a, ba, b", "L..LL..L"},
        {"{{ l }}{{ d }}", "['a', 'b']{'k': 'v'}", "..L....L....L....L.."},
        {"{{ d|tojson }}{{ (u ~ '\\n')|tojson }}", "{\"k\": \"v\"}\"<user>\\n\"", "..L....L...LLLLLL..."},
        {"{{ '%s|%5s' % (u, l[0]) }}{{ '{}{:>2}'.format(u, l[0]) }}", "<user>|    a<user> a", "LLLLLL.....LLLLLLL.L"},
        {"{% set x %}[{{ u }}]{% endset %}{{ x }}", "[<user>]", ".LLLLLL."},
        {"{% macro m(a) %}({{ a }}){% endmacro %}{{ m(u) }}{{ m('t') }}", "(<user>)(t)", ".LLLLLL...."},
        {"{% filter upper %}x{{ u }}{% endfilter %}", "X<USER>", ".LLLLLL"},
        {"{% for k, v in d.items() %}{{ k }}={{ v }}{% endfor %}", "k=v", "L.L"},
        {"{% for c in 'x' ~ l[0] %}{{ c }}{% endfor %}", "xa", ".L"},
        {"{{ u|e }}{{ ('<'|safe) + u }}", "&lt;user&gt;<&lt;user&gt;", "LLLLLLLLLLLL.LLLLLLLLLLLL"},
        {"{{ u|indent(1, true) }}{{ u|truncate(3, true, '.', 0) }}{{ l[0]|center(3) }}", " <user><u. a ",
         ".LLLLLLLL..L."},
        {"{{ l[0] * 2 }}{{ 'ab'|list|join(l[1]) }}", "aaabb", "LL.L."},
        {"{{ l|map('upper')|sort(reverse=true)|first }}{{ u|default('x') }}{{ zz|default(l[0]) }}", "B<user>a",
         "LLLLLLLL"},
        {"{% generation %}x{{ u }}{% endgeneration %}y", "x<user>y", "GBBBBBB."},
        {"{% set ns = namespace(s='') %}{% for x in l %}{% set ns.s = ns.s + x + ',' %}{% endfor %}{{ ns.s }}", "a,b,",
         "L.L."},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) assert_marks(rows[i][0], rows[i][1], rows[i][2]);
}

/* Text that grows in place does not change what others hold of it. */
static void test_growing_texts_stay_apart(void **state) {
    (void)state;
    assert_gives("{% set a = 'x' + 'y' %}{% set b = a + '1' %}{% set c = a + '2' %}{{ a }} {{ b }} {{ c }} {{ b + '3' "
                 "}} {{ b }}",
                 "xy xy1 xy2 xy13 xy1");
    assert_gives("{% set a = 'x' + 'y' %}{% set b = a + a %}{% set c = b + b[1:] + a %}{{ a }} {{ b }} {{ c }}",
                 "xy xyxy xyxyyxyxy");
}

/* The same template in two renderings at once: nothing of one is seen by the other. */
static void test_renderings_do_not_share_state(void **state) {
    (void)state;
    JinjaTemplate *t;
    Str text = {0}, marks = {0};
    static const char source[] =
        "{% set ns = namespace(n=1) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{% set x = x|default(0) + 1 %}{{ x }}";
    assert_ok(jinja_parse(&t, "t", source, strlen(source)));
    for (int i = 0; i < 3; i++) assert_ok(jinja_render(t, NULL, 0, 0, &text, &marks));
    assert_string_equal(text.text, "212121");
    str_free(&text);
    str_free(&marks);
    jinja_free(t);
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static Status parse_and_render(void *ctx) {
    ChatText out = {0};
    Status st = render(ctx, &out);
    chat_text_free(&out);
    return st;
}

static void test_fail_allocations_of_parsing_and_rendering(void **state) {
    (void)state;
    /* Large enough that the arenas need several blocks. */
    static char template[] =
        "{% set l = range(2000)|list %}{% set s %}{% for x in l %}{{ x }},{% endfor %}{% endset %}"
        "{% macro m(a, b=[1]) %}{{ a|upper|replace('0', 'o') }}{% endmacro %}{{ m(s)[:10] }}"
        "{{ l|map('string')|select|sort|join('-')|length }}{{ (l|tojson)[:9] }}{{ l|string|length }}";
    assert_true(test_fail_allocations(parse_and_render, template) > 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_every_construct_as_transformers),
        TEST(test_errors_name_place_and_cause),
        TEST(test_unknown_filters_inside_an_if_wait_until_they_are_reached),
        TEST(test_integers_that_python_would_make_longer_are_errors),
        TEST(test_deep_parentheses),
        TEST(test_recursive_macros),
        TEST(test_huge_ranges_and_repetitions),
        TEST(test_endless_templates_end),
        TEST(test_memory_of_a_rendering_is_bounded),
        TEST(test_a_template_of_a_megabyte_is_refused),
        TEST(test_long_conversations_fit),
        TEST(test_marks_go_through_every_operation),
        TEST(test_growing_texts_stay_apart),
        TEST(test_renderings_do_not_share_state),
        TEST(test_fail_allocations_of_parsing_and_rendering),
    };
    return cmocka_run_group_tests_name("jinja", tests, NULL, NULL);
}
