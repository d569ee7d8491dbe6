/* Decomposition and composition are utf8proc's; ordering the marks in between is done here, by counting, because a text
 * may consist of nothing but marks. */
#include "text/compose.h"

#include <pthread.h>
#include <string.h>

#include <utf8proc.h>

#include "text/classes.h"
#include "text/utf8.h"

enum {
    LAST = 0x30000, /* from here on nothing changes and nothing joins */
    MAX_PARTS = 32, /* of one character; Unicode's longest decomposition has 18 */
    JOINS = 1,      /* may become one with what stands before, or change places with it */
    JOINS_K = 2,    /* the same for the K forms */
    CHANGES = 4,    /* its NFC is something else */
    DECOMPOSES = 8,
    DECOMPOSES_K = 16
};

static uint8_t table[LAST];
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static int class_of(int32_t code) { return char_combining_class((uint32_t)code); }

static size_t decompose(int32_t code, bool compat, int32_t parts[MAX_PARTS]) {
    int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0), last_class = 0;
    utf8proc_ssize_t n = 0;
    if (char_decomposes((uint32_t)code))
        n = utf8proc_decompose_char(code, parts, MAX_PARTS, (utf8proc_option_t)options, &last_class);
    if (n > 0 && n <= MAX_PARTS) return (size_t)n;
    parts[0] = code;
    return 1;
}

static bool is_surrogate(int32_t code) { return code >= 0xD800 && code <= 0xDFFF; }

/* First what can be the second half of a composition: the last part of a decomposition, and Hangul's vowels and finals.
 */
static void fill_table(void) {
    int32_t parts[MAX_PARTS];
    for (int32_t code = 0xA0; code < LAST; code++) {
        if (is_surrogate(code)) continue;
        size_t n = decompose(code, false, parts);
        if (n > 1 || parts[0] != code) table[code] |= DECOMPOSES;
        if (n > 1 && parts[n - 1] < LAST) table[parts[n - 1]] |= JOINS;
    }
    for (int32_t code = 0x1161; code <= 0x11C2; code++) table[code] |= JOINS;
    for (int32_t code = 0xA0; code < LAST; code++) {
        if (is_surrogate(code)) continue;
        if (class_of(code)) table[code] |= JOINS;
    }
    for (int32_t code = 0xA0; code < LAST; code++) {
        if (is_surrogate(code)) continue;
        size_t n = decompose(code, true, parts);
        if (n > 1 || parts[0] != code) table[code] |= DECOMPOSES_K;
        if (class_of(parts[0]) || (parts[0] < LAST && table[parts[0]] & JOINS)) table[code] |= JOINS_K;
        if (!(table[code] & DECOMPOSES)) continue;
        n = decompose(code, false, parts);
        if (class_of(parts[0]) || (parts[0] < LAST && table[parts[0]] & JOINS)) table[code] |= JOINS;
        n = (size_t)utf8proc_normalize_utf32(parts, (utf8proc_ssize_t)n,
                                             (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
        if (n != 1 || parts[0] != code) table[code] |= CHANGES;
    }
}

static const uint8_t *get_table(void) {
    pthread_once(&table_once, fill_table);
    return table;
}

static inline uint8_t flags_of(const uint8_t *flags, uint32_t code) { return code < LAST ? flags[code] : 0; }

bool is_nfc_quickly(const char *text, size_t n) {
    const uint8_t *flags = NULL;
    uint32_t code = 0;
    for (size_t at = 0, len; at < n; at += len) {
        uint64_t word;
        while (n - at >= 8) {
            memcpy(&word, text + at, 8);
            if (word & 0x8080808080808080u) break;
            at += 8;
        }
        if (at == n) break;
        len = utf8_decode(text + at, n - at, &code);
        if (code < 0x300) continue; /* Latin, all of it as it should be */
        if (!flags) flags = get_table();
        if (flags_of(flags, code) & (JOINS | CHANGES)) return false;
    }
    return true;
}

/* ---- one run ---- */

typedef struct Part {
    int32_t code;
    uint32_t from; /* the character that it is a part of lies there in the run */
} Part;

typedef struct Run {
    Part *parts, *sorted; /* (n) */
    int32_t *codes;       /* (n) what composition makes of them */
    size_t n, cap;
} Run;

static void run_free(Run *run) {
    mem_free(run->parts);
    mem_free(run->sorted);
    mem_free(run->codes);
}

static Status run_add(Run *run, uint32_t code, size_t from, bool compat) {
    int32_t parts[MAX_PARTS];
    if (run->n + MAX_PARTS > run->cap) {
        size_t cap = run->cap ? 2 * run->cap : 256;
        TRY_RETURN(mem_grow((void **)&run->parts, run->n, cap, sizeof *run->parts));
        TRY_RETURN(mem_grow((void **)&run->sorted, 0, cap, sizeof *run->sorted));
        TRY_RETURN(mem_grow((void **)&run->codes, 0, cap, sizeof *run->codes));
        run->cap = cap;
    }
    size_t n = decompose((int32_t)code, compat, parts);
    for (size_t i = 0; i < n; i++) run->parts[run->n++] = (Part){parts[i], (uint32_t)from};
    return TANE_OK;
}

/* parts[0..n) by their classes, equals in their order. */
static void sort_marks(Part *parts, size_t n, Part *sorted) {
    size_t place[257] = {0};
    for (size_t i = 0; i < n; i++) place[class_of(parts[i].code) + 1]++;
    for (size_t i = 1; i < 257; i++) place[i] += place[i - 1];
    for (size_t i = 0; i < n; i++) sorted[place[class_of(parts[i].code)]++] = parts[i];
    memcpy(parts, sorted, n * sizeof *parts);
}

static void order_marks(Run *run) {
    for (size_t i = 0, end; i < run->n; i = end + (end == i)) {
        int last = 0;
        bool sorted = true;
        for (end = i; end < run->n && class_of(run->parts[end].code); end++) {
            sorted &= class_of(run->parts[end].code) >= last;
            last = class_of(run->parts[end].code);
        }
        if (!sorted) sort_marks(run->parts + i, end - i, run->sorted);
    }
}

/* What composition makes of the run: true if that is something new. */
static bool join(Run *run, size_t *n) {
    for (size_t i = 0; i < run->n; i++) run->codes[i] = run->parts[i].code;
    *n = (size_t)utf8proc_normalize_utf32(run->codes, (utf8proc_ssize_t)run->n,
                                          (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    return *n != run->n;
}

/* text[begin..end) of in, nothing of which joins what stands around it. */
static Status compose_run(ComposeForm form, Run *run, const Pieces *in, size_t begin, size_t end, Pieces *out) {
    bool compat = form == COMPOSE_NFKC || form == COMPOSE_NFKD;
    uint32_t code = 0;
    size_t n;
    run->n = 0;
    for (size_t at = begin, len; at < end; at += len) {
        len = utf8_decode(in->text.text + at, end - at, &code);
        TRY_RETURN(run_add(run, code, at - begin, compat));
    }
    order_marks(run);
    if ((form == COMPOSE_NFC || form == COMPOSE_NFKC) && join(run, &n)) {
        Origin origin = {pieces_origin(in, begin).begin, pieces_origin(in, end - 1).end};
        for (size_t i = 0; i < n; i++) TRY_RETURN(pieces_put_code(out, (uint32_t)run->codes[i], origin));
        return TANE_OK;
    }
    for (size_t i = 0; i < run->n; i++)
        TRY_RETURN(pieces_put_code(out, (uint32_t)run->parts[i].code, pieces_origin(in, begin + run->parts[i].from)));
    return TANE_OK;
}

Status compose(ComposeForm form, const Pieces *in, Pieces *out) {
    static const uint8_t changing[] = {CHANGES, DECOMPOSES, DECOMPOSES_K, DECOMPOSES_K};
    Status st = TANE_OK;
    Run run = {0};
    const uint8_t *flags = get_table();
    const char *text = in->text.text;
    const uint8_t joins = form == COMPOSE_NFKC || form == COMPOSE_NFKD ? JOINS_K : JOINS, changes = changing[form];
    size_t n = in->text.len, plain = 0; /* text[plain..begin) is to be copied */
    uint32_t code = 0;
    for (size_t begin = 0, end; begin < n; begin = end) {
        end = begin + utf8_decode(text + begin, n - begin, &code);
        bool work = flags_of(flags, code) & (joins | changes);
        for (size_t len; (len = utf8_decode(text + end, n - end, &code)) && flags_of(flags, code) & joins; end += len)
            work = true;
        if (!work) continue;
        TRY(pieces_copy(out, in, plain, begin));
        TRY(compose_run(form, &run, in, begin, end, out));
        plain = end;
    }
    TRY(pieces_copy(out, in, plain, n));
out:
    run_free(&run);
    return st;
}
