/* Rewrites an expression for PCRE2, compiles it, and searches with bounded steps and memory. */
#include "text/regex.h"

#include <stdatomic.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

enum {
    MAX_PATTERN = 16384,
    MAX_STEPS = 10000000, /* of backtracking in one search: under a second */
    MAX_HEAP_KIB = 32768
};

struct Regex {
    pcre2_general_context *memory;
    pcre2_match_context *limits;
    pcre2_code *code;
    char *where; /* with the expression, for errors while matching */
    atomic_bool starved;
};

/* ------------------------------------------------------------------------------------------------------- rewriting */

typedef struct Rewrite {
    const char *where, *pattern, *p, *end;
    Str out;
} Rewrite;

#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define HEX "0-9A-Fa-f"

static Status lacks(const Rewrite *r, const char *at, const char *what) {
    return FAIL(TANE_EUNSUPPORTED, "%s: the expression %.*s has %s at byte %zu, which tane lacks", r->where,
                (int)(r->end - r->pattern > 300 ? 300 : r->end - r->pattern), r->pattern, what,
                (size_t)(at - r->pattern));
}

static Status add(Rewrite *r, const char *text) { return str_add(&r->out, text, strlen(text)); }

/* \p{...}: PCRE2 takes a script's bare name for its extensions too; here it is the script alone. */
static Status rewrite_property(Rewrite *r) {
    static const char *const other[] = {"Alphabetic", "White_Space", "Any", "Uppercase", "Lowercase", "Emoji", "L&"};
    const char *begin = r->p + 3, *close = memchr(begin, '}', (size_t)(r->end - begin));
    bool script = close && close - begin > 2;
    for (const char *c = begin; script && c < close; c++) script = *c != ':' && *c != '=';
    for (size_t i = 0; script && i < sizeof other / sizeof *other; i++)
        script = (size_t)(close - begin) != strlen(other[i]) || memcmp(begin, other[i], strlen(other[i])) != 0;
    if (!script) {
        TRY_RETURN(str_add(&r->out, r->p, 3));
        r->p += 3;
        return TANE_OK; /* the rest is copied as it is */
    }
    bool negated = *begin == '^';
    begin += negated;
    TRY_RETURN(str_printf(&r->out, "\\%c{%ssc:%.*s}", r->p[1], negated ? "^" : "", (int)(close - begin), begin));
    r->p = close + 1;
    return TANE_OK;
}

static Status rewrite_escape(Rewrite *r, bool in_class) {
    size_t left = (size_t)(r->end - r->p);
    char c = left > 1 ? r->p[1] : 0;
    if ((c == 'p' || c == 'P') && left > 2 && r->p[2] == '{') return rewrite_property(r);
    if (c == 'u' && left >= 6) {
        TRY_RETURN(str_printf(&r->out, "\\x{%.4s}", r->p + 2));
        r->p += 6;
        return TANE_OK;
    }
    if (in_class && (c == 'W' || c == 'H')) return lacks(r, r->p, c == 'W' ? "\\W in a class" : "\\H in a class");
    r->p += left > 1 ? 2 : 1;
    switch (c) {
    case 's': return add(r, "\\p{White_Space}");
    case 'S': return add(r, "\\P{White_Space}");
    case 'w': return add(r, in_class ? WORD : "[" WORD "]");
    case 'W': return add(r, "[^" WORD "]");
    case 'h': return add(r, in_class ? HEX : "[" HEX "]");
    case 'H': return add(r, "[^" HEX "]");
    default: return str_add(&r->out, r->p - (left > 1 ? 2 : 1), left > 1 ? 2 : 1);
    }
}

/* The inside of a class, from behind its opening bracket (and ^) to its closing bracket or "&&". A class in a class
 * adds its members. */
static Status rewrite_members(Rewrite *r) {
    int depth = 0;
    for (bool first = true; r->p < r->end; first = false) {
        if (*r->p == ']' && !first) {
            if (depth-- == 0) return TANE_OK;
            r->p++;
        } else if (*r->p == '&' && r->end - r->p > 1 && r->p[1] == '&') {
            return depth ? lacks(r, r->p, "an intersection in a class in a class") : TANE_OK;
        } else if (*r->p == '\\') {
            TRY_RETURN(rewrite_escape(r, true));
        } else if (*r->p == '[' && r->end - r->p > 1 && r->p[1] == ':') {
            const char *close = memmem(r->p, (size_t)(r->end - r->p), ":]", 2);
            if (!close) return lacks(r, r->p, "[: without :]");
            TRY_RETURN(str_add(&r->out, r->p, (size_t)(close + 2 - r->p)));
            r->p = close + 2;
        } else if (*r->p == '[') {
            if (r->end - r->p > 1 && r->p[1] == '^') return lacks(r, r->p, "a negated class in a class");
            depth++;
            r->p++;
        } else {
            TRY_RETURN(str_add(&r->out, *r->p == '[' ? "\\[" : r->p, *r->p == '[' ? 2 : 1));
            r->p++;
        }
    }
    return lacks(r, r->p, "a class without its closing bracket");
}

/* [A] or [^A]; [A&&[B]] becomes (?:(?=[B])[A]), [A&&[^B]] becomes (?:(?![B])[A]). */
static Status rewrite_class(Rewrite *r) {
    Status st = TANE_OK;
    const char *begin = r->p++;
    Str before = r->out;
    bool negated = r->p < r->end && *r->p == '^';
    r->p += negated;
    r->out = (Str){0}; /* the class for itself, since what goes in front of it may come last */
    TRY(add(r, negated ? "[^" : "["));
    TRY(rewrite_members(r));
    TRY(add(r, "]"));
    if (*r->p == ']') {
        r->p++;
        TRY(str_add(&before, r->out.text, r->out.len));
        goto out;
    }
    bool without = r->end - r->p > 3 && r->p[3] == '^';
    if (negated || r->end - r->p < 4 || r->p[2] != '[') {
        st = lacks(r, begin, "an intersection other than [A&&[B]] and [A&&[^B]]");
        goto out;
    }
    r->p += without ? 4 : 3;
    Str members = r->out;
    r->out = (Str){0};
    st = rewrite_members(r);
    if (st == TANE_OK && (*r->p != ']' || r->end - r->p < 2 || r->p[1] != ']'))
        st = lacks(r, begin, "an intersection other than [A&&[B]] and [A&&[^B]]");
    if (st == TANE_OK)
        st = str_printf(&before, "(?:(?%c[%s])%s)", without ? '!' : '=', r->out.text ? r->out.text : "", members.text);
    if (st == TANE_OK) r->p += 2;
    str_free(&members);
out:
    str_free(&r->out);
    r->out = before;
    return st;
}

static Status rewrite(Rewrite *r) {
    while (r->p < r->end) {
        if (*r->p == '\\')
            TRY_RETURN(rewrite_escape(r, false));
        else if (*r->p == '[')
            TRY_RETURN(rewrite_class(r));
        else
            TRY_RETURN(str_add(&r->out, r->p++, 1));
    }
    return add(r, "");
}

/* ------------------------------------------------------------------------------------------------------- compiling */

static void *pcre2_alloc(size_t size, void *ctx) {
    void *ptr = mem_alloc(size);
    if (!ptr) atomic_store((atomic_bool *)ctx, true);
    return ptr;
}
static void pcre2_release(void *ptr, void *ctx) {
    (void)ctx;
    mem_free(ptr);
}

static Status no_memory(void) { return FAIL(TANE_ENOMEM, "out of memory: no room for a regular expression"); }

static Status compile(Regex *re, const Rewrite *r) {
    int error;
    size_t offset;
    re->memory = pcre2_general_context_create(pcre2_alloc, pcre2_release, &re->starved);
    if (!re->memory) return no_memory();
    pcre2_compile_context *options = pcre2_compile_context_create(re->memory);
    re->limits = pcre2_match_context_create(re->memory);
    if (options && re->limits) {
        pcre2_set_newline(options, PCRE2_NEWLINE_LF);
        pcre2_set_parens_nest_limit(options, 100);
        pcre2_set_match_limit(re->limits, MAX_STEPS);
        pcre2_set_heap_limit(re->limits, MAX_HEAP_KIB);
        re->code = pcre2_compile((PCRE2_SPTR)r->out.text, r->out.len,
                                 PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset,
                                 options);
    }
    pcre2_compile_context_free(options);
    if (re->code) {
        pcre2_jit_compile(re->code, PCRE2_JIT_COMPLETE); /* where it may not, the interpreter does the same, slower */
        return re->starved ? no_memory() : TANE_OK;
    }
    if (!options || !re->limits || error == PCRE2_ERROR_HEAP_FAILED) return no_memory();
    PCRE2_UCHAR reason[128];
    pcre2_get_error_message(error, reason, sizeof reason);
    return FAIL(TANE_EUNSUPPORTED, "%s: the expression %.*s cannot be compiled: %s, before \"%.40s\"", r->where,
                (int)(r->end - r->pattern > 300 ? 300 : r->end - r->pattern), r->pattern, (const char *)reason,
                r->out.text + (offset < r->out.len ? offset : r->out.len));
}

Status regex_new(Regex **out, const char *where, const char *pattern, size_t n) {
    Status st = TANE_OK;
    Regex *re = NULL;
    Str name = {0};
    Rewrite r = {.where = where, .pattern = pattern, .p = pattern, .end = pattern + n};
    *out = NULL;
    if (n > MAX_PATTERN)
        return FAIL(TANE_EUNSUPPORTED, "%s: a regular expression of %zu bytes; tane takes at most %d", where, n,
                    MAX_PATTERN);
    TRY(MEM_NEW(&re));
    TRY(rewrite(&r));
    TRY(compile(re, &r));
    TRY(str_printf(&name, "%s: the expression %.*s", where, (int)(n > 300 ? 300 : n), pattern));
    re->where = name.text;
    name = (Str){0};
    *out = re;
    re = NULL;
out:
    regex_free(re);
    str_free(&name);
    str_free(&r.out);
    return st;
}

void regex_free(Regex *re) {
    if (!re) return;
    pcre2_code_free(re->code);
    pcre2_match_context_free(re->limits);
    pcre2_general_context_free(re->memory);
    mem_free(re->where);
    mem_free(re);
}

/* -------------------------------------------------------------------------------------------------------- searching */

static Status search(const Regex *re, pcre2_match_data *data, const char *text, size_t n, size_t from, size_t *begin,
                     size_t *end) {
    *begin = *end = n;
    while (from < n) {
        int found = pcre2_match(re->code, (PCRE2_SPTR)text, n, from, PCRE2_NO_UTF_CHECK, data, re->limits);
        /* The JIT's stack is small; the interpreter keeps its own on the heap. */
        if (found == PCRE2_ERROR_JIT_STACKLIMIT)
            found = pcre2_match(re->code, (PCRE2_SPTR)text, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data,
                                re->limits);
        if (found == PCRE2_ERROR_NOMATCH) return TANE_OK;
        if (found == PCRE2_ERROR_NOMEMORY) return no_memory();
        if (found < 0)
            return FAIL(TANE_EUNSUPPORTED,
                        "%s takes too many steps (or too much memory) on the text from byte %zu on, \"%.*s\"",
                        re->where, from, (int)(n - from < 40 ? n - from : 40), text + from);
        const size_t *span = pcre2_get_ovector_pointer(data);
        if (span[1] > span[0] && span[0] >= from) {
            *begin = span[0];
            *end = span[1];
            return TANE_OK;
        }
        from = span[1] > from ? span[1] : from; /* an empty match: on behind the character there */
        do from++;
        while (from < n && ((unsigned char)text[from] & 0xC0) == 0x80);
    }
    return TANE_OK;
}

Status regex_next(const Regex *re, const char *text, size_t n, size_t from, size_t *begin, size_t *end) {
    pcre2_match_data *data = pcre2_match_data_create(1, re->memory);
    if (!data) return no_memory();
    Status st = search(re, data, text, n, from, begin, end);
    pcre2_match_data_free(data);
    return st;
}

Status regex_cut(const Regex *re, const char *text, size_t n, size_t from, size_t *ends, size_t max, size_t *count) {
    Status st = TANE_OK;
    pcre2_match_data *data = pcre2_match_data_create(1, re->memory);
    if (!data) return no_memory();
    size_t k = 0;
    for (size_t begin, end; from < n && k + 1 < max; from = end) {
        TRY(search(re, data, text, n, from, &begin, &end));
        if (begin > from) ends[k++] = begin;
        if (end > begin) ends[k++] = end;
    }
    *count = k;
out:
    pcre2_match_data_free(data);
    return st;
}
