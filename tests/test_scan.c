/* Splitting: the classes of characters against tiktoken's, the scanners written by hand against PCRE2 on random text,
 * what is rewritten for PCRE2, and expressions that cannot be had. */
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "support.h"
#include "text/regex.h"
#include "text/scan.h"
#include "text/unicode.h"

static size_t put_code(char *out, uint32_t c) {
    if (c < 0x80) return out[0] = (char)c, 1;
    if (c < 0x800) return out[0] = (char)(0xC0 | c >> 6), out[1] = (char)(0x80 | (c & 63)), 2;
    if (c < 0x10000)
        return out[0] = (char)(0xE0 | c >> 12), out[1] = (char)(0x80 | (c >> 6 & 63)), out[2] = (char)(0x80 | (c & 63)),
               3;
    return out[0] = (char)(0xF0 | c >> 18), out[1] = (char)(0x80 | (c >> 12 & 63)),
           out[2] = (char)(0x80 | (c >> 6 & 63)), out[3] = (char)(0x80 | (c & 63)), 4;
}

static bool is_surrogate(uint32_t c) { return c >= 0xD800 && c <= 0xDFFF; }

static Scanner *open_scanner(const char *pattern, bool by_hand) {
    Scanner *s;
    assert_ok(scanner_new(&s, "test", pattern, strlen(pattern), by_hand));
    return s;
}

/* ---------------------------------------------------------------------------------------------------- the classes */

/* tests/golden/unicode_classes.txt: "<first code point> <classes>", both hexadecimal, for each run of equal ones. */
static void test_classes_are_tiktokens(void **state) {
    (void)state;
    const UnicodeTable *table = unicode_table();
    char *text = test_read(test_data("golden/unicode_classes.txt"), NULL);
    assert_non_null(text);
    unsigned long checked = 0;
    char *p = text;
    while (*p == '#') p = strchr(p, '\n') + 1;
    while (*p) {
        unsigned long first = strtoul(p, &p, 16), classes = strtoul(p, &p, 16), next = 0x110000;
        while (*p == '\n') p++;
        if (*p) next = strtoul(p, NULL, 16);
        for (unsigned long c = first; c < next; c++) {
            unsigned mine = unicode_class(table, (uint32_t)c) & 0xFF & ~(unsigned)CLASS_NEWLINE;
            if (mine != classes && !is_surrogate((uint32_t)c)) fail_msg("U+%lX: %x, should be %lx", c, mine, classes);
            checked++;
        }
    }
    assert_int_equal(checked, 0x110000);
    for (int c = 0; c < 128; c++) assert_int_equal(table->ascii[c], (uint8_t)unicode_class(table, (uint32_t)c));
    assert_int_equal(unicode_class(table, 0x110000), 0);
    assert_int_equal(unicode_class(table, UINT32_MAX), 0);
}

/* Code points whose classes PCRE2's Unicode has differently: it may be older than 16. */
static uint8_t differs[0x110000];

static void find_differences(void) {
    static const struct {
        const char *pattern;
        unsigned set;
    } rows[] = {{"[\\p{L}]+", CLASS_LETTER},
                {"[\\p{N}]+", CLASS_NUMBER},
                {"[\\s]+", CLASS_SPACE},
                {"[\\p{M}]+", CLASS_MARK},
                {"[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+", CLASS_UPPER},
                {"[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+", CLASS_LOWER},
                {"[\\p{P}\\p{S}]+", CLASS_SYMBOL}};
    static char text[0x110000 * 4];
    static uint32_t code_of[0x110000 * 4];
    size_t n = 0, unlike = 0;
    for (uint32_t c = 0; c < 0x110000; c++) {
        if (is_surrogate(c)) continue;
        if (unicode_class(unicode_table(), c) & CLASS_NUMBER_17) unlike += !differs[c], differs[c] = 1;
        code_of[n] = c;
        n += put_code(text + n, c);
    }
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        Scanner *s = open_scanner(rows[i].pattern, false);
        size_t begin, end = 0, at = 0;
        do {
            assert_ok(scanner_next(s, text, n, end, &begin, &end));
            for (; at < end; at++) {
                if ((text[at] & 0xC0) == 0x80) continue;
                bool theirs = at >= begin, mine = (unicode_class(unicode_table(), code_of[at]) & rows[i].set) != 0;
                if (theirs != mine) unlike += !differs[code_of[at]], differs[code_of[at]] = 1;
            }
        } while (begin < n);
        scanner_free(s);
    }
    print_message("           %zu code points have other classes in PCRE2's Unicode\n", unlike);
    assert_true(unlike < 20000); /* Unicode 14 beside 16: 5,185 + 4,489 new ones and a few that changed */
}

/* ------------------------------------------------------------------------------------------------- by hand = PCRE2 */

/* One character, or a few that are dangerous together. */
static size_t put_piece(char *out, Rng *rng) {
    static const char *const pieces[] = {
        "'s", "'S", "'t", "'RE", "'re", "'Ve", "'m", "'LL", "'ll", "'lL", "'d", "'D", "'\u017f", "''", "'", "'x",
        " '", "'l", "'v", "\u017f", "\u212a", " ", " ", " ", "  ", "   ", "\t", "\n", "\r", "\r\n", "\n\n", " \n",
        "\n ", "\u00a0", "\u3000", "\u2028", "\xc2\x85", "\u180e", "\v", "\f", "\x1c", "\x7f", "/", "//", "\n/", "!",
        "?!", "...", "_", "0", "12", "345", "6789", "\u0664", "\u2167", "\u00bd", "\u0bf0", "a", "b", "I", "Z", "the",
        "The", "THE", "HTMLdoc", "iPhone", "\u00e9", "e\u0301", "\u0301", "\u0301\u0302", "\u01c5", "\u02b0",
        "\u0416\u0436", "\u03a3\u03c3\u03c2", "\u0627\u0644", "\u0939\u093f", "\u0e44\u0e17\u0e22", "\uad6d",
        "\u65e5\u672c\u8a9e", "\u3072\u3089", "\u30ab\u30fc", "\u30fb", "\u309b", "\u3001", "\u3002", "\u9fa6",
        "\u303f", "\u3100", "\U0001f600", "\U0001f468\u200d\U0001f469", "\ufe0f", "\U0001f1ef\U0001f1f5",
        "\U00010400", "\u200b", "\u00ad", "\ufeff", "\ufffd", "\u0378", "\ue000", "$", "+", "=", "{", "~", "`"};
    uint32_t kind = (uint32_t)rng_below(rng, 16), c;
    if (kind < 12) {
        const char *piece = pieces[rng_below(rng, sizeof pieces / sizeof *pieces)];
        memcpy(out, piece, strlen(piece));
        return strlen(piece);
    }
    do c = (uint32_t)rng_below(rng, kind < 13 ? 0x110000 : kind < 15 ? 0x3000 : 0x250);
    while (is_surrogate(c) || differs[c]);
    return put_code(out, c);
}

static const char *const by_hand[] = {
    scan_gpt2,
    "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
    "'(?:[sdmt]|ll|ve|re)| ?\\p{L}++| ?\\p{N}++| ?[^\\s\\p{L}\\p{N}]++|\\s++$|\\s+(?!\\S)|\\s",
    "'s|'t|'re|'ve|'m|'ll|'d| ?[\\p{L}]+| ?[\\p{N}]+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
    scan_digits_gpt2,
    scan_cl100k,
    scan_cl100k_json,
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]"
    "|\\s+(?!\\S)|\\s+",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    scan_o200k,
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}"
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    scan_deepseek3,
};
enum { PATTERNS = sizeof by_hand / sizeof *by_hand };

static void show_and_fail(const Scanner *s, const char *text, size_t n, size_t at) {
    print_message("           %s, at byte %zu of: ", scanner_name(s), at);
    for (size_t i = 0; i < n; i++) print_message(text[i] > 32 && text[i] < 127 ? "%c" : "\\x%02x", (uint8_t)text[i]);
    fail_msg("the scanner written by hand differs from PCRE2");
}

static void compare(const Scanner *hand, const Scanner *pcre, const char *text, size_t n) {
    size_t a[600], b[600], na, nb, begin, end, begin2, end2;
    assert_ok(scanner_cut(hand, text, n, 0, a, 600, &na));
    assert_ok(scanner_cut(pcre, text, n, 0, b, 600, &nb));
    for (size_t i = 0; i < na && i < nb; i++)
        if (a[i] != b[i]) show_and_fail(hand, text, n, i ? a[i - 1] : 0);
    assert_int_equal(na, nb);
    assert_true(n == 0 || a[na - 1] == n);
    for (size_t at = 0; at < n; at = end) { /* one by one is the same, and words are what is asked for */
        assert_ok(scanner_next(hand, text, n, at, &begin, &end));
        assert_ok(scanner_next(pcre, text, n, at, &begin2, &end2));
        if (begin != begin2 || end != end2) show_and_fail(hand, text, n, at);
    }
}

static void test_scanners_equal_pcre2(void **state) {
    (void)state;
    Scanner *hand[PATTERNS], *pcre[PATTERNS];
    Rng rng = {.key = 41};
    find_differences();
    for (int i = 0; i < PATTERNS; i++) {
        hand[i] = open_scanner(by_hand[i], true);
        pcre[i] = open_scanner(by_hand[i], false);
        assert_string_equal(scanner_name(pcre[i]), "pcre2");
        assert_string_not_equal(scanner_name(hand[i]), "pcre2");
    }
    for (int round = 0; round < test_rounds(100000); round++) {
        char text[600];
        size_t n = 0, pieces = rng_below(&rng, round % 16 ? 12 : 50);
        for (size_t i = 0; i < pieces; i++) n += put_piece(text + n, &rng);
        compare(hand[round % PATTERNS], pcre[round % PATTERNS], text, n);
        if (round % 4 == 0)
            for (int i = 0; i < PATTERNS; i++) compare(hand[i], pcre[i], text, n);
    }
    for (int i = 0; i < PATTERNS; i++) {
        scanner_free(hand[i]);
        scanner_free(pcre[i]);
    }
}

/* Runs as long as anybody may send, each a single match or none: bytes are looked at about once. */
static void test_long_runs(void **state) {
    (void)state;
    enum { N = 1000000 };
    static const char *const units[] = {"a", "A", " ", "\n", "0", "!", "\u3042", "\u0301", "\u4e2dA",
                                        "a\u0301", " \n", "'", "'s", "/"};
    char *text;
    size_t ends[512], count, words;
    assert_ok(MEM_NEW_ARRAY(&text, N));
    for (int i = 0; i < PATTERNS; i++) {
        Scanner *s = open_scanner(by_hand[i], true);
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            size_t n = 0, len = strlen(units[u]);
            for (; n + len <= N; n += len) memcpy(text + n, units[u], len);
            words = 0;
            for (size_t at = 0; at < n; at = ends[count - 1], words += count) {
                assert_ok(scanner_cut(s, text, n, at, ends, 512, &count));
                assert_true(count > 0 && ends[count - 1] > at);
            }
            if (strcmp(units[u], "a") == 0) assert_int_equal(words, 1);
            if (strcmp(units[u], "'s") == 0 && strstr("gpt2 cl100k llama3 qwen2", scanner_name(s)))
                assert_int_equal(words, n / 2);
        }
        scanner_free(s);
    }
    mem_free(text);
}

/* The last character may be cut off by the end of the buffer: nothing behind it is read (the sanitizer watches). */
static void test_text_that_ends_within_a_character(void **state) {
    (void)state;
    static const char *const cut[] = {"ab\xe3\x81", "ab\xe3", " \xf0\x9f\x98", "'\xc5", "1\xe2", "\xc3", "A\xcc"};
    for (int i = 0; i < PATTERNS; i++) {
        Scanner *s = open_scanner(by_hand[i], true);
        for (size_t c = 0; c < sizeof cut / sizeof *cut; c++) {
            size_t n = strlen(cut[c]), ends[16], count;
            char *exact;
            assert_ok(MEM_NEW_ARRAY(&exact, n));
            memcpy(exact, cut[c], n);
            assert_ok(scanner_cut(s, exact, n, 0, ends, 16, &count));
            assert_int_equal(ends[count - 1], n);
            mem_free(exact);
        }
        scanner_free(s);
    }
}

/* ----------------------------------------------------------------------------------- expressions not known by hand */

/* "a|b|c": matches in brackets, what lies between them as it is. */
static void check_cut(const char *pattern, const char *text, const char *expected) {
    Scanner *s = open_scanner(pattern, true);
    size_t n = strlen(text), begin, end = 0;
    Str out = {0};
    for (size_t at = 0; at < n; at = end) {
        assert_ok(scanner_next(s, text, n, at, &begin, &end));
        assert_ok(str_add(&out, text + at, begin - at));
        if (end > begin) assert_ok(str_printf(&out, "[%.*s]", (int)(end - begin), text + begin));
    }
    assert_string_equal(out.text ? out.text : "", expected);
    str_free(&out);
    scanner_free(s);
}

static void test_other_expressions(void **state) {
    (void)state;
    check_cut("a+", "xaayaz", "x[aa]y[a]z");
    check_cut("\\s", "a\u180e-\xc2\x85- d", "a\u180e-[\xc2\x85]-[ ]d"); /* U+180E is no white space any more */
    check_cut("[^\\S\\n]+", "a \t\nb", "a[ \t]\nb");
    check_cut("\\w+", "a\u0301_\u0967-\u203f\u24d0", "[a\u0301_\u0967]-[\u203f\u24d0]");
    check_cut("[\\w-]+", "a-b c", "[a-b] [c]");
    check_cut("\\h+", "xAFg09", "x[AF]g[09]"); /* Oniguruma's: hexadecimal digits */
    check_cut("\\p{Han}+", "\u65e5\u3001\u672c\u30fc", "[\u65e5]\u3001[\u672c]\u30fc");
    check_cut("\\p{^Han}+", "\u65e5ab", "\u65e5[ab]");
    check_cut("[\\p{L}&&[^\\p{Han}]]+", "ab\u65e5c1", "[ab]\u65e5[c]1"); /* Kimi-K2 */
    check_cut("[\\p{L}&&[a-m]]+", "abxyc", "[ab]xy[c]");
    check_cut("[^(\\s|[.,!?\u3002])]+", "ab (c.d|e", "[ab] ([c].[d]|[e]"); /* BLOOM */
    check_cut("[[:digit:]x]+", "a1x\u0661", "a[1x\u0661]");
    check_cut("[]a]+", "]ab", "[]a]b");
    check_cut("\\u3042|\\x{3044}", "\u3042\u3044\u3046", "[\u3042][\u3044]\u3046");
    check_cut("a*", "baab", "b[aa]b"); /* an empty match is none */
    check_cut("^b|c$", "b\nbc\nb", "[b]\n[b][c]\n[b]");
    check_cut("x?", "\u3042\u3044x", "\u3042\u3044[x]");
    check_cut("(?:a|b)+", "ababc", "[abab]c");
}

static void test_errors(void **state) {
    (void)state;
    static const struct {
        const char *pattern, *message;
    } bad[] = {{"(", "f.json: the expression ( cannot be compiled: missing closing parenthesis"},
               {"a{2,1}", "cannot be compiled"},
               {"[a", "a class without its closing bracket at byte 2"},
               {"\\p{Nonsense}", "cannot be compiled: unknown property"},
               {"\\p{L", "cannot be compiled"},
               {"[a&&b]", "an intersection other than"},
               {"[^a&&[b]]", "an intersection other than"},
               {"[a&&[b]c]", "an intersection other than"},
               {"[a[b&&[c]]]", "an intersection in a class in a class"},
               {"[a[^b]]", "a negated class in a class at byte 2"},
               {"[\\W]", "\\W in a class"},
               {"[[:alpha]", "[: without :]"},
               {"\\C", "cannot be compiled"},
               {"\\", "cannot be compiled"},
               {"\\u12", "cannot be compiled"}};
    Scanner *s;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_error(scanner_new(&s, "f.json", bad[i].pattern, strlen(bad[i].pattern), true), TANE_EUNSUPPORTED,
                     bad[i].message);
    char *deep;
    assert_ok(MEM_NEW_ARRAY(&deep, 100001));
    memset(deep, '(', 100000);
    assert_error(scanner_new(&s, "f.json", deep, 100000, true), TANE_EUNSUPPORTED, "100000 bytes; tane takes at most");
    assert_error(scanner_new(&s, "f.json", deep, 10000, true), TANE_EUNSUPPORTED, "parentheses are too deeply nested");
    mem_free(deep);
}

/* Exponential for a backtracking matcher: an error that names the expression, and soon. */
static void test_expression_that_takes_too_long(void **state) {
    (void)state;
    Scanner *s = open_scanner("(a|b|ab)*(?=c)", true);
    char text[4000];
    size_t begin, end, ends[8], count;
    for (size_t i = 0; i < sizeof text; i++) text[i] = "ab"[i % 2];
    assert_error(scanner_next(s, text, sizeof text, 0, &begin, &end), TANE_EUNSUPPORTED,
                 "test: the expression (a|b|ab)*(?=c) takes too many steps");
    assert_error(scanner_cut(s, text, sizeof text, 0, ends, 8, &count), TANE_EUNSUPPORTED, "takes too many steps");
    scanner_free(s);
    /* A deep but harmless one: turns of a group need no machine stack, and no more than 32 MiB. */
    enum { N = 100000 };
    char *many;
    assert_ok(MEM_NEW_ARRAY(&many, N));
    memset(many, 'a', N);
    s = open_scanner("(?:a|b)+", true);
    assert_ok(scanner_next(s, many, N, 0, &begin, &end));
    assert_int_equal(end - begin, N);
    scanner_free(s);
    mem_free(many);
}

static Status open_all(void *ctx) {
    (void)ctx;
    Status st = TANE_OK;
    Scanner *s = NULL;
    size_t begin, end;
    static const char *const patterns[] = {scan_gpt2, "[\\p{L}&&[^\\p{Han}]]+", "(?:ab)+"};
    for (size_t i = 0; i < 3; i++) {
        TRY(scanner_new(&s, "test", patterns[i], strlen(patterns[i]), true));
        TRY(scanner_next(s, "xabab", 5, 0, &begin, &end));
        scanner_free(s);
        s = NULL;
    }
out:
    scanner_free(s);
    return st;
}

static void test_allocations_that_fail(void **state) {
    (void)state;
    assert_true(test_fail_allocations(open_all, NULL) > 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_classes_are_tiktokens),
        TEST(test_scanners_equal_pcre2),
        TEST(test_long_runs),
        TEST(test_text_that_ends_within_a_character),
        TEST(test_other_expressions),
        TEST(test_errors),
        TEST(test_expression_that_takes_too_long),
        TEST(test_allocations_that_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
