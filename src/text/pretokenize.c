/* Pre-tokenizers, one function a kind; how matches become pieces is the same for all of them. */
#include "text/pretokenize.h"

#include <stdio.h>
#include <string.h>

#include "text/classes.h"
#include "text/finder.h"
#include "text/utf8.h"

typedef struct Step {
    const TokenStep *spec;
    Finder finder; /* SPLIT, and ByteLevel's expression */
} Step;

struct PreTokenizer {
    Step *steps; /* (n) */
    size_t n;
    bool bytes, start;
    Scanner *fused; /* all steps at once, for the sequences that text/scan.h knows as one expression */
};

/* ---- from matches to pieces ---- */

/* Stretches of a text come in order, matches and what lies between them; pieces go out. */
typedef struct Splitter {
    SplitBehavior behavior;
    Pieces *out;
    Range held; /* may still grow; empty: nothing is held */
    bool held_match, fresh;
} Splitter;

static Status flush(Splitter *s) {
    Range held = s->held;
    s->held = (Range){0, 0};
    return pieces_cut(s->out, held.begin, held.end);
}

static bool joins(const Splitter *s, bool match) {
    if (s->held.begin == s->held.end) return false;
    switch (s->behavior) {
    case SPLIT_CONTIGUOUS: return match == s->held_match;
    case SPLIT_MERGED_WITH_PREVIOUS: return match && !s->held_match;
    case SPLIT_MERGED_WITH_NEXT: return !match && s->held_match;
    default: return false;
    }
}

static Status add_stretch(Splitter *s, size_t begin, size_t end, bool match) {
    if (begin == end) return TANE_OK;
    bool together = joins(s, match);
    if (!together) TRY_RETURN(flush(s));
    if (match && s->behavior == SPLIT_REMOVED) return TANE_OK;
    s->held = (Range){together ? s->held.begin : begin, end};
    s->held_match = match;
    return TANE_OK;
}

/* ---- where things match ---- */

static Status split_by_finder(const Finder *finder, bool invert, const char *text, Range piece, Splitter *s) {
    const char *from_text = text + piece.begin;
    size_t n = piece.end - piece.begin;
    for (size_t from = 0, begin, end; from < n; from = end) {
        TRY_RETURN(finder_next(finder, from_text, n, from, &begin, &end));
        TRY_RETURN(add_stretch(s, piece.begin + from, piece.begin + begin, invert));
        TRY_RETURN(add_stretch(s, piece.begin + begin, piece.begin + end, !invert));
    }
    return flush(s);
}

/* Every character of the class is a match of its own. */
static Status split_by_class(bool (*is_in)(uint32_t code), const char *text, Range piece, Splitter *s) {
    size_t from = piece.begin;
    uint32_t code = 0;
    for (size_t at = piece.begin, len; at < piece.end; at += len) {
        len = utf8_decode(text + at, piece.end - at, &code);
        if (!is_in(code)) continue;
        TRY_RETURN(add_stretch(s, from, at, false));
        TRY_RETURN(add_stretch(s, at, at + len, true));
        from = at + len;
    }
    TRY_RETURN(add_stretch(s, from, piece.end, false));
    return flush(s);
}

/* Runs of word characters, and runs of what is neither that nor space. */
static Status split_words(const char *text, Range piece, Splitter *s) {
    enum { SPACE, WORD, OTHER } kind, last = SPACE;
    size_t from = piece.begin;
    uint32_t code = 0;
    for (size_t at = piece.begin, len; at < piece.end; at += len) {
        len = utf8_decode(text + at, piece.end - at, &code);
        kind = char_is_word(code) ? WORD : char_is_space(code) ? SPACE : OTHER;
        if (kind == last) continue;
        if (last != SPACE) TRY_RETURN(pieces_cut(s->out, from, at));
        from = at;
        last = kind;
    }
    return last == SPACE ? TANE_OK : pieces_cut(s->out, from, piece.end);
}

static Status split_bert(const char *text, Range piece, Splitter *s) {
    size_t from = piece.begin;
    uint32_t code = 0;
    for (size_t at = piece.begin, len; at < piece.end; at += len) {
        len = utf8_decode(text + at, piece.end - at, &code);
        bool space = char_is_space(code);
        if (!space && !char_is_punctuation(code)) continue;
        TRY_RETURN(pieces_cut(s->out, from, at));
        if (!space) TRY_RETURN(pieces_cut(s->out, at, at + len));
        from = at + len;
    }
    return pieces_cut(s->out, from, piece.end);
}

static Status split_piece(const Step *step, const char *text, Range piece, Splitter *s) {
    const TokenStep *spec = step->spec;
    switch ((PreTokenizerKind)spec->kind) {
    case PRE_SPLIT: s->behavior = spec->behavior; return split_by_finder(&step->finder, spec->invert, text, piece, s);
    case PRE_CHAR_DELIMITER: s->behavior = SPLIT_REMOVED; return split_by_finder(&step->finder, false, text, piece, s);
    case PRE_BYTE_LEVEL: return split_by_finder(&step->finder, false, text, piece, s);
    case PRE_WHITESPACE: return split_words(text, piece, s);
    case PRE_WHITESPACE_SPLIT: s->behavior = SPLIT_REMOVED; return split_by_class(char_is_space, text, piece, s);
    case PRE_DIGITS:
        s->behavior = spec->individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
        return split_by_class(char_is_numeric, text, piece, s);
    case PRE_PUNCTUATION: s->behavior = spec->behavior; return split_by_class(char_is_punctuation, text, piece, s);
    case PRE_BERT: return split_bert(text, piece, s);
    case PRE_METASPACE: /* has a finder for its replacement, once the text has it */
        s->behavior = SPLIT_MERGED_WITH_NEXT;
        return split_by_finder(&step->finder, false, text, piece, s);
    }
    return FAIL(TANE_EINTERNAL, "a pre-tokenizer of unknown kind %d", spec->kind);
}

/* The text stays, its pieces are cut further: the list of *spare takes the place of that of *text. */
static Status split_all(const Step *step, Pieces *text, Pieces *spare) {
    spare->n = 0;
    for (size_t i = 0; i < text->n; i++) {
        Splitter s = {.behavior = SPLIT_ISOLATED, .out = spare};
        TRY_RETURN(split_piece(step, text->text.text, text->items[i], &s));
    }
    Range *items = text->items;
    size_t cap = text->cap;
    text->items = spare->items;
    text->n = spare->n;
    text->cap = spare->cap;
    spare->items = items;
    spare->cap = cap;
    spare->n = 0;
    return TANE_OK;
}

/* ---- what changes the text ---- */

static bool begins_with(const Pieces *text, Range piece, Bytes what) {
    return piece.end - piece.begin >= what.n && memcmp(text->text.text + piece.begin, what.data, what.n) == 0;
}

static Status put_with_spaces_as(const Pieces *text, Range piece, Bytes replacement, Pieces *out) {
    const char *bytes = text->text.text;
    for (size_t from = piece.begin, at;; from = at + 1) {
        const char *space = from < piece.end ? memchr(bytes + from, ' ', piece.end - from) : NULL;
        at = space ? (size_t)(space - bytes) : piece.end;
        TRY_RETURN(pieces_copy(out, text, from, at));
        if (!space) return TANE_OK;
        TRY_RETURN(pieces_put(out, replacement.data, replacement.n, pieces_origin(text, at)));
    }
}

static bool wants_prefix(const TokenStep *spec, const Pieces *text, Range piece, bool at_start) {
    if (spec->prepend == PREPEND_NEVER || begins_with(text, piece, spec->content) ||
        (begins_with(text, piece, (Bytes){" ", 1})))
        return false;
    if (spec->prepend == PREPEND_ALWAYS) return true;
    return text->aligned ? text->origin[piece.begin].begin == 0 : at_start && piece.begin == 0;
}

static void turn(Pieces *text, Pieces *spare) {
    Pieces made = *spare;
    *spare = *text;
    *text = made;
    pieces_clear(spare);
}

/* Each piece with a prefix where it wants one, spaces as `spaces` (data NULL: as they are). */
static Status rewrite(const TokenStep *spec, Bytes prefix, bool metaspace, bool at_start, Pieces *text, Pieces *spare) {
    pieces_clear(spare);
    spare->aligned = text->aligned;
    for (size_t i = 0; i < text->n; i++) {
        Range piece = text->items[i];
        size_t begin = spare->text.len;
        bool wants = metaspace ? wants_prefix(spec, text, piece, at_start) : !begins_with(text, piece, prefix);
        if (wants) TRY_RETURN(pieces_put(spare, prefix.data, prefix.n, pieces_origin(text, piece.begin)));
        if (metaspace) TRY_RETURN(put_with_spaces_as(text, piece, spec->content, spare));
        else TRY_RETURN(pieces_copy(spare, text, piece.begin, piece.end));
        TRY_RETURN(pieces_cut(spare, begin, spare->text.len));
    }
    turn(text, spare);
    return TANE_OK;
}

static Status run_step(const Step *step, bool cut, bool at_start, Pieces *text, Pieces *spare) {
    const TokenStep *spec = step->spec;
    if (spec->kind == PRE_METASPACE) {
        TRY_RETURN(rewrite(spec, spec->content, true, at_start, text, spare));
        return spec->split ? split_all(step, text, spare) : TANE_OK;
    }
    if (spec->kind == PRE_BYTE_LEVEL) {
        if (spec->add_prefix_space) TRY_RETURN(rewrite(spec, (Bytes){" ", 1}, false, at_start, text, spare));
        return spec->use_regex && cut ? split_all(step, text, spare) : TANE_OK;
    }
    return cut ? split_all(step, text, spare) : TANE_OK;
}

/* ---- the whole ---- */

/* The step whose cut can be left to bpe_text: the last one that cuts, by an expression that keeps what it finds. */
static const Step *scanning_step(const PreTokenizer *p) {
    if (!p->bytes) return NULL;
    const Step *last = &p->steps[p->n - 1];
    if (last->spec->use_regex) return last;
    if (last->spec->add_prefix_space || p->n < 2) return NULL;
    const Step *before = last - 1;
    bool keeps = before->spec->kind == PRE_SPLIT && before->finder.scanner && !before->spec->invert &&
                 before->spec->behavior == SPLIT_ISOLATED;
    return keeps ? before : NULL;
}

const Scanner *pretokenizer_scanner(const PreTokenizer *p) {
    if (p->fused) return p->fused;
    const Step *step = p->n ? scanning_step(p) : NULL;
    return step ? step->finder.scanner : NULL;
}

bool pretokenizer_only_scans(const PreTokenizer *p) {
    if (p->fused) return true;
    const Step *step = p->n ? scanning_step(p) : NULL;
    return step == p->steps && step && !step->spec->add_prefix_space;
}

bool pretokenizer_is_bytes(const PreTokenizer *p) { return p->bytes; }
bool pretokenizer_needs_start(const PreTokenizer *p) { return p->start; }

Status pretokenizer_run(const PreTokenizer *p, bool all, bool at_start, Pieces *text, Pieces *spare) {
    if (p->fused && !all) return TANE_OK;
    const Step *left = all || p->n == 0 ? NULL : scanning_step(p);
    for (size_t i = 0; i < p->n; i++) TRY_RETURN(run_step(&p->steps[i], &p->steps[i] != left, at_start, text, spare));
    return TANE_OK;
}

static Status step_init(PreTokenizer *p, const char *where, const TokenStep *spec, bool last) {
    Step *step = &p->steps[p->n];
    char path[64];
    step->spec = spec;
    snprintf(path, sizeof path, "the pattern of pre-tokenizer %zu", p->n);
    switch ((PreTokenizerKind)spec->kind) {
    case PRE_SPLIT: return finder_init(&step->finder, where, path, spec->pattern, spec->regex);
    case PRE_CHAR_DELIMITER: return finder_init(&step->finder, where, path, spec->content, false);
    case PRE_METASPACE:
        p->start |= spec->prepend == PREPEND_FIRST;
        return finder_init(&step->finder, where, path, spec->content, false);
    case PRE_BYTE_LEVEL:
        if (!last)
            return FAIL(TANE_EUNSUPPORTED,
                        "%s: pre-tokenizer %zu is ByteLevel, but not the last one; tane has it only there", where,
                        p->n);
        p->bytes = true;
        if (!spec->use_regex) return TANE_OK;
        return finder_init(&step->finder, where, path, (Bytes){scan_gpt2, strlen(scan_gpt2)}, true);
    default: return TANE_OK;
    }
}

static bool is_plain_split(const TokenStep *s, const char *pattern) {
    return s->kind == PRE_SPLIT && s->regex && !s->invert && s->behavior == SPLIT_ISOLATED &&
           scan_same_pattern(pattern, s->pattern.data, s->pattern.n);
}

/* The expression that stands for the whole sequence, or NULL. */
static const char *fused_pattern(const TokenSteps *steps) {
    if (steps->n < 2) return NULL;
    const TokenStep *s = steps->items, *last = s + steps->n - 1;
    if (last->kind != PRE_BYTE_LEVEL || last->add_prefix_space) return NULL;
    if (steps->n == 2 && s->kind == PRE_DIGITS && s->individual && last->use_regex) return scan_digits_gpt2;
    bool deepseek = steps->n == 4 && !last->use_regex;
    for (size_t i = 0; i < 3 && deepseek; i++) deepseek = is_plain_split(&s[i], scan_deepseek3_steps[i]);
    return deepseek ? scan_deepseek3 : NULL;
}

Status pretokenizer_new(PreTokenizer **out, const char *where, const TokenSteps *steps) {
    Status st = TANE_OK;
    PreTokenizer *p;
    *out = NULL;
    TRY_RETURN(MEM_NEW(&p));
    TRY(MEM_NEW_ARRAY(&p->steps, steps->n));
    for (; p->n < steps->n; p->n++) TRY(step_init(p, where, &steps->items[p->n], p->n + 1 == steps->n));
    const char *fused = fused_pattern(steps);
    if (fused) TRY(scanner_new(&p->fused, where, fused, strlen(fused), true));
    *out = p;
    p = NULL;
out:
    pretokenizer_free(p);
    return st;
}

void pretokenizer_free(PreTokenizer *p) {
    if (!p) return;
    for (size_t i = 0; i < p->n; i++) finder_free(&p->steps[i].finder);
    scanner_free(p->fused);
    mem_free(p->steps);
    mem_free(p);
}
