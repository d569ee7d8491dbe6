/* The scanners written by hand, and the table that finds them by the text of their expression.
 *
 * An expression's alternatives are tried in order and each takes as much as it can; the comment of a scanner says how
 * that comes out as a walk without going back. Each scanner is one inlined function; CUTTER makes the loop over
 * words of it.
 */
#include "text/scan.h"

#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "text/regex.h"
#include "text/unicode.h"

#define INLINE static inline __attribute__((always_inline))

typedef struct Input {
    const UnicodeTable *table;
    const uint8_t *text;
    size_t n;
} Input;

enum { LETTER = CLASS_LETTER, NUMBER = CLASS_NUMBER, SPACE = CLASS_SPACE, MARK = CLASS_MARK, NEWLINE = CLASS_NEWLINE };

/* ---------------------------------------------------------------------------------------------- characters and runs */

/* Code point of the character at p, which is not ASCII; a character that the text's end cuts off is U+10FFFF. */
INLINE uint32_t code_at(Input in, size_t p, size_t *len) {
    const uint8_t *t = in.text + p;
    *len = t[0] < 0xE0 ? 2 : t[0] < 0xF0 ? 3 : 4;
    if (in.n - p < *len) {
        *len = in.n - p;
        return 0x10FFFF;
    }
    if (*len == 2) return (t[0] & 0x1Fu) << 6 | (t[1] & 0x3Fu);
    if (*len == 3) return (t[0] & 0x0Fu) << 12 | (t[1] & 0x3Fu) << 6 | (t[2] & 0x3Fu);
    return (t[0] & 0x07u) << 18 | (t[1] & 0x3Fu) << 12 | (t[2] & 0x3Fu) << 6 | (t[3] & 0x3Fu);
}

/* Classes of the character at p < n. */
INLINE unsigned class_at(Input in, size_t p, size_t *len) {
    *len = 1;
    if (in.text[p] < 0x80) return in.table->ascii[in.text[p]];
    return unicode_class(in.table, code_at(in, p, len));
}

/* Behind the ASCII letters (lower: only the small ones) at p. */
INLINE size_t ascii_letters(Input in, size_t p, bool lower) {
#ifdef __SSE2__
    const __m128i last = _mm_set1_epi8('z' - 'a' - 128);
    while (in.n - p >= 16) {
        __m128i c = _mm_loadu_si128((const __m128i *)(in.text + p));
        if (!lower) c = _mm_or_si128(c, _mm_set1_epi8(0x20));
        c = _mm_sub_epi8(c, _mm_set1_epi8((char)('a' + 128))); /* 'a' becomes the smallest signed byte */
        unsigned other = (unsigned)_mm_movemask_epi8(_mm_cmpgt_epi8(c, last));
        if (other) return p + (unsigned)__builtin_ctz(other);
        p += 16;
    }
#endif
    while (p < in.n && (uint8_t)((lower ? in.text[p] : in.text[p] | 0x20) - 'a') < 26) p++;
    return p;
}

/* Behind the characters at p that have one of `set` (want), or none of it (!want). */
INLINE size_t run(Input in, size_t p, unsigned set, bool want) {
    while (p < in.n) {
        size_t len;
        if (((class_at(in, p, &len) & set) != 0) != want) break;
        p += len;
    }
    return p;
}

/* run() for a set with all letters: words are mostly ASCII. */
INLINE size_t run_letters(Input in, size_t p, unsigned set) {
    for (;;) {
        p = ascii_letters(in, p, false);
        if (p == in.n || in.text[p] < 0x80) return p;
        size_t q = p, len;
        while (q < in.n && in.text[q] >= 0x80 && (unicode_class(in.table, code_at(in, q, &len)) & set)) q += len;
        if (q == p || q == in.n || in.text[q] >= 0x80) return q;
        p = q;
    }
}

/* Bytes of 's 't 'm 'd 'll 've 're at p, where text[p] is an apostrophe; 0 when it is none of them. `fold`: in any
 * case, which makes the long s (U+017F) an s. */
INLINE size_t contraction(Input in, size_t p, bool fold) {
    const uint8_t *t = in.text + p;
    size_t left = in.n - p;
    if (left < 2) return 0;
    uint8_t a = fold && t[1] < 0x80 ? t[1] | 0x20 : t[1];
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if (left < 3) return 0;
    if (fold && t[1] == 0xC5 && t[2] == 0xBF) return 3;
    uint8_t b = fold && t[2] < 0x80 ? t[2] | 0x20 : t[2];
    return (a == 'l' && b == 'l') || ((a == 'v' || a == 'r') && b == 'e') ? 3 : 0;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ at white space: through the last newline of the run; without one, all of the run but its
 * last character, which belongs to what follows, unless nothing follows or that is all there is. newlines false:
 * without the first alternative. tail: \s++$ goes before all of them. stop: characters of these classes count as the
 * text's end. */
INLINE size_t spaces(Input in, size_t p, bool newlines, bool tail, unsigned stop) {
    size_t begin = p, last = p, behind_newline = 0, len = 0;
    unsigned class = 0;
    while (p < in.n && ((class = class_at(in, p, &len)) & SPACE)) {
        last = p;
        p += len;
        if (class & NEWLINE) behind_newline = p;
    }
    if (tail && p == in.n) return p;
    if (newlines && behind_newline) return behind_newline;
    if (p == in.n || (class & stop)) return p;
    return last > begin ? last : p;
}

/* ----------------------------------------------------------------------------------------------------- the scanners */

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 * digits: each number is a word of its own, and to its left the text ends. */
INLINE size_t gpt2(Input in, size_t p, bool digits) {
    const unsigned number = digits ? NUMBER | CLASS_NUMBER_17 : NUMBER, stop = digits ? number : 0;
    size_t len, q = p;
    if (in.text[p] == '\'' && (len = contraction(in, p, false)) != 0) return p + len;
    unsigned class = class_at(in, p, &len);
    if (class & SPACE) {
        q = p + 1;
        if (in.text[p] != ' ' || q == in.n) return spaces(in, p, false, false, stop);
        class = class_at(in, q, &len);
        if (class & (SPACE | stop)) return spaces(in, p, false, false, stop);
    }
    if (class & LETTER) return run_letters(in, q, LETTER);
    if (class & number) return digits ? q + len : run(in, q, NUMBER, true);
    return run(in, q + len, LETTER | number | SPACE, false);
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 * triples: numbers go by three, else one by one. tail: \s++$ goes before the newlines. letters: L, or L and M, which
 * then are out of the fourth alternative too. */
INLINE size_t cl100k(Input in, size_t p, bool triples, bool tail, unsigned letters) {
    size_t len, next_len;
    if (in.text[p] == '\'' && (len = contraction(in, p, true)) != 0) return p + len;
    unsigned class = class_at(in, p, &len);
    if (class & letters) return run_letters(in, p, letters);
    if (class & NUMBER) {
        p += len;
        for (int more = triples ? 2 : 0; more > 0 && p < in.n && (class_at(in, p, &len) & NUMBER); more--) p += len;
        return p;
    }
    size_t q = p + len;
    unsigned next = q < in.n ? class_at(in, q, &next_len) : SPACE;
    if (next & letters && !(class & NEWLINE)) return run_letters(in, q, letters);
    if (class & SPACE) {
        if (in.text[p] != ' ' || next & (SPACE | NUMBER)) return spaces(in, p, true, tail, 0);
        q += next_len;
    }
    q = run(in, q, letters | NUMBER | SPACE, false);
    while (q < in.n && (in.text[q] == '\r' || in.text[q] == '\n')) q++;
    return q;
}

/* [U]*[W]+|[U]+[W]* at p, where U are letters but small ones, W letters but capitals, and marks are both: through U
 * as far as it goes; then small letters if there are any, else back behind the last character that is W too, if there
 * is one. p itself when neither matches. */
INLINE size_t cased_letters(Input in, size_t p) {
    size_t len, behind_both = 0, q = p;
    unsigned class = 0;
    while (q < in.n && ((class = class_at(in, q, &len)) & CLASS_UPPER)) {
        q += len;
        if (class & CLASS_LOWER) behind_both = q;
    }
    if (q == in.n || !(class & CLASS_LOWER)) return behind_both ? behind_both : q;
    for (;;) {
        q = ascii_letters(in, q, true);
        if (q == in.n || in.text[q] < 0x80) return q;
        if (!(class_at(in, q, &len) & CLASS_LOWER)) return q;
        q += len;
    }
}

/* [^\r\n\p{L}\p{N}]?[U]*[W]+(?i:'s|...)?|[^\r\n\p{L}\p{N}]?[U]+[W]*(?i:'s|...)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*
 * |\s*[\r\n]+|\s+(?!\S)|\s+
 * A mark in front could be the prefix or a letter: both come to the same. plain: Mistral's, without contractions and
 * triples. */
INLINE size_t o200k(Input in, size_t p, bool plain) {
    size_t len;
    unsigned class = class_at(in, p, &len);
    if (class & NUMBER) {
        p += len;
        for (int more = plain ? 0 : 2; more > 0 && p < in.n && (class_at(in, p, &len) & NUMBER); more--) p += len;
        return p;
    }
    size_t q = class & (LETTER | MARK) ? p : p + len, end = class & NEWLINE ? q : cased_letters(in, q);
    if (end > q) {
        size_t more = !plain && end < in.n && in.text[end] == '\'' ? contraction(in, end, true) : 0;
        return end + more;
    }
    q = p + len;
    if (class & SPACE) {
        unsigned next = q < in.n ? class_at(in, q, &len) : SPACE;
        if (in.text[p] != ' ' || next & (SPACE | NUMBER)) return spaces(in, p, true, false, 0);
        q += len;
    }
    q = run(in, q, LETTER | NUMBER | SPACE, false);
    while (q < in.n && (in.text[q] == '\r' || in.text[q] == '\n' || in.text[q] == '/')) q++;
    return q;
}

/* class_at where kana and Han are a class of their own and nothing else. */
INLINE unsigned class_apart(Input in, size_t p, size_t *len) {
    unsigned class = class_at(in, p, len);
    return class & CLASS_KANA_HAN ? CLASS_KANA_HAN : class;
}

INLINE size_t run_apart(Input in, size_t p, unsigned set) {
    size_t len;
    while (p < in.n && (class_apart(in, p, &len) & set)) p += len;
    return p;
}

/* Is the character at p kana or Han of these classes? */
INLINE bool is_kana(Input in, size_t p, unsigned set, size_t *len) {
    unsigned class = p < in.n ? class_at(in, p, len) : 0;
    return class & CLASS_KANA_HAN && class & set;
}

/* In a run of kana and Han: letters and marks, an unassigned character with them, signs, unassigned ones alone. */
INLINE size_t kana_at(Input in, size_t p) {
    const unsigned letters = LETTER | MARK;
    size_t len = 0, q = p;
    if (is_kana(in, p, CLASS_SYMBOL, &len)) {
        for (; is_kana(in, q, CLASS_SYMBOL, &len); q += len) {}
        return q;
    }
    if (!is_kana(in, p, letters, &len)) q = p + len;
    if (is_kana(in, q, letters, &len)) {
        for (; is_kana(in, q, letters, &len); q += len) {}
        return q;
    }
    /* Unassigned, and no letter behind it: as far as that goes on. */
    for (size_t next = 0; q < in.n && class_apart(in, q, &len) & CLASS_KANA_HAN; q += len)
        if (is_kana(in, q, letters | CLASS_SYMBOL, &next) || is_kana(in, q + len, letters, &next)) break;
    return q;
}

/* The end of a match at p, or p. Numbers by three and runs of kana and Han are cut out first, and these runs are cut once
 * more like all the rest; what lies between is for
 * [!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
INLINE size_t deepseek3_at(Input in, size_t p) {
    size_t len, next_len = 0;
    unsigned class = class_apart(in, p, &len);
    if (class & NUMBER) {
        p += len;
        for (int more = 2; more > 0 && p < in.n && (class_at(in, p, &len) & NUMBER); more--) p += len;
        return p;
    }
    if (class & (LETTER | MARK)) return run_apart(in, p, LETTER | MARK);
    if (class & CLASS_KANA_HAN) return kana_at(in, p);
    size_t q = p + len, letters = ascii_letters(in, q, false);
    if (class & CLASS_SYMBOL && in.text[p] < 0x80 && letters > q) return letters;
    unsigned next = q < in.n ? class_apart(in, q, &next_len) : SPACE;
    if (next & (LETTER | MARK) && !(class & (NEWLINE | CLASS_SYMBOL))) return run_apart(in, q, LETTER | MARK);
    if (class & CLASS_SYMBOL || (in.text[p] == ' ' && next & CLASS_SYMBOL)) {
        q = run_apart(in, q, CLASS_SYMBOL);
        while (q < in.n && (in.text[q] == '\r' || in.text[q] == '\n')) q++;
        return q;
    }
    return class & SPACE ? spaces(in, p, true, false, NUMBER | CLASS_KANA_HAN) : p;
}

/* Characters without any class may be in no match at all. */
INLINE size_t deepseek3(Input in, size_t p, size_t *begin) {
    for (size_t len, end; p < in.n; p += len) {
        *begin = p;
        if ((end = deepseek3_at(in, p)) > p) return end;
        class_at(in, p, &len);
    }
    return *begin = in.n;
}

/* ------------------------------------------------------------------------------------------------ the table of them */

/* Cuts from p on; *begin is where the first match begins. */
typedef size_t Cutter(Input in, size_t p, size_t *ends, size_t max, size_t *begin);

#define CUTTER(name, next)                                                                                             \
    static size_t cut_##name(Input in, size_t p, size_t *ends, size_t max, size_t *first) {                           \
        size_t k = 0;                                                                                                  \
        *first = p;                                                                                                    \
        for (size_t begin, end; p < in.n && k + 1 < max; p = end) {                                                    \
            begin = p;                                                                                                 \
            end = next;                                                                                                \
            if (k == 0) *first = begin;                                                                                \
            if (begin > p) ends[k++] = begin;                                                                          \
            if (end > begin) ends[k++] = end;                                                                          \
        }                                                                                                              \
        return k;                                                                                                      \
    }
CUTTER(gpt2, gpt2(in, p, false))
CUTTER(digits_gpt2, gpt2(in, p, true))
CUTTER(cl100k, cl100k(in, p, true, true, LETTER))
CUTTER(llama3, cl100k(in, p, true, false, LETTER))
CUTTER(qwen2, cl100k(in, p, false, false, LETTER))
CUTTER(qwen35, cl100k(in, p, false, false, LETTER | MARK))
CUTTER(o200k, o200k(in, p, false))
CUTTER(tekken, o200k(in, p, true))
CUTTER(deepseek3, deepseek3(in, p, &begin))

const char scan_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char scan_digits_gpt2[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+|\\s+(?![^\\s\\p{N}])|\\s+";
const char scan_cl100k[] = "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\p{N}{1,3}+"
                           "| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*+|\\s++$|\\s*[\\r\\n]|\\s+(?!\\S)|\\s";
/* Oniguruma reads "{1,3}+" and "$" otherwise. */
const char scan_cl100k_json[] = "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\p{N}{1,3}"
                                "| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*+|\\s++\\z|\\s*[\\r\\n]|\\s+(?!\\S)|\\s";
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define PREFIX "[^\\r\\n\\p{L}\\p{N}]?"
#define SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define KANA_HAN "\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff"
const char scan_o200k[] = PREFIX UPPER "*" LOWER "+" CONTRACTIONS "?|" PREFIX UPPER "+" LOWER "*" CONTRACTIONS "?|"
                                       "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES;
const char *const scan_deepseek3_steps[3] = {
    "\\p{N}{1,3}", "[" KANA_HAN "]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES};
/* The three in one. The third cuts also what the second took. */
#define IN_KANA(class) "(?:(?=[" KANA_HAN "])" class ")"
const char scan_deepseek3[] =
    "\\p{N}{1,3}|" IN_KANA("[\\p{P}\\p{S}]") "+|" IN_KANA("[^\\p{L}\\p{M}\\p{P}\\p{S}]") "?" IN_KANA("[\\p{L}\\p{M}]") "+"
    "|(?:" IN_KANA("[^\\p{L}\\p{M}\\p{P}\\p{S}]") "(?!" IN_KANA("[\\p{L}\\p{M}]") "))+|[!-/:-@\\[-`{-~][A-Za-z]+"
    "|[^\\r\\n\\p{L}\\p{P}\\p{S}\\p{N}" KANA_HAN "]?(?:(?![" KANA_HAN "])[\\p{L}\\p{M}])+"
    "| ?(?:(?![" KANA_HAN "])[\\p{P}\\p{S}])+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?![^\\s\\p{N}" KANA_HAN "])|\\s+";

/* As the expressions stand in tokenizer.json files and in tiktoken's source, through its versions. Texts written
 * differently may mean the same. */
static const struct Known {
    const char *name;
    Cutter *cut;
    const char *pattern;
} known[] = {
    {"gpt2", cut_gpt2, scan_gpt2},
    {"gpt2", cut_gpt2, "'s|'t|'re|'ve|'m|'ll|'d| ?[\\p{L}]+| ?[\\p{N}]+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},
    {"gpt2", cut_gpt2, "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},
    {"gpt2", cut_gpt2, "'(?:[sdmt]|ll|ve|re)| ?\\p{L}++| ?\\p{N}++| ?[^\\s\\p{L}\\p{N}]++|\\s++$|\\s+(?!\\S)|\\s"},
    {"digits_gpt2", cut_digits_gpt2, scan_digits_gpt2},
    {"cl100k", cut_cl100k, scan_cl100k},
    {"cl100k", cut_cl100k, scan_cl100k_json},
    {"llama3", cut_llama3,
     CONTRACTIONS "|" PREFIX "\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES},
    {"llama3", cut_llama3,
     "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]"
     "|\\s+(?!\\S)|\\s+"},
    {"qwen2", cut_qwen2, CONTRACTIONS "|" PREFIX "\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES},
    {"qwen35", cut_qwen35,
     CONTRACTIONS "|" PREFIX "[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACES},
    {"o200k", cut_o200k, scan_o200k},
    {"tekken", cut_tekken,
     PREFIX UPPER "*" LOWER "+|" PREFIX UPPER "+" LOWER "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES},
    {"deepseek3", cut_deepseek3, scan_deepseek3},
};

struct Scanner {
    const struct Known *known; /* NULL: regex */
    const UnicodeTable *table;
    Regex *regex;
};

bool scan_same_pattern(const char *text, const char *pattern, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char escape = pattern[i] == '\r' ? 'r' : pattern[i] == '\n' ? 'n' : 0;
        if (escape) {
            if (text[0] != '\\' || text[1] != escape) return false;
            text += 2;
        } else if (*text == 0 || *text++ != pattern[i]) {
            return false;
        }
    }
    return *text == 0;
}

Status scanner_new(Scanner **out, const char *where, const char *pattern, size_t n, bool by_hand) {
    Status st = TANE_OK;
    Scanner *s;
    *out = NULL;
    TRY_RETURN(MEM_NEW(&s));
    for (size_t i = 0; by_hand && i < sizeof known / sizeof *known && !s->known; i++)
        if (scan_same_pattern(known[i].pattern, pattern, n)) s->known = &known[i];
    s->table = unicode_table();
    if (!s->known) TRY(regex_new(&s->regex, where, pattern, n));
    *out = s;
    s = NULL;
out:
    scanner_free(s);
    return st;
}

void scanner_free(Scanner *s) {
    if (!s) return;
    regex_free(s->regex);
    mem_free(s);
}

const char *scanner_name(const Scanner *s) { return s->known ? s->known->name : "pcre2"; }

Status scanner_next(const Scanner *s, const char *text, size_t n, size_t from, size_t *begin, size_t *end) {
    size_t ends[3], count;
    *begin = *end = n;
    if (s->regex) return regex_next(s->regex, text, n, from, begin, end);
    count = s->known->cut((Input){s->table, (const uint8_t *)text, n}, from, ends, 2, begin);
    if (count) *end = ends[count - 1];
    return TANE_OK;
}

Status scanner_cut(const Scanner *s, const char *text, size_t n, size_t from, size_t *ends, size_t max, size_t *count) {
    size_t begin;
    if (s->regex) return regex_cut(s->regex, text, n, from, ends, max, count);
    *count = s->known->cut((Input){s->table, (const uint8_t *)text, n}, from, ends, max, &begin);
    return TANE_OK;
}
