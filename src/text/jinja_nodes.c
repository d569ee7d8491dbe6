/* What the parser stands on: tokens with their errors, the table of names, and nodes. */
#include <stdarg.h>
#include <stdio.h>

#include "text/jinja_parser.h"

/* ---- errors and the stream of tokens ---------------------------------------------------------------------------- */

Status parser_fail(const Parser *p, size_t at, Status code, const char *fmt, ...) {
    char message[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    return jinja_fail_at(p->t->where, p->t->text, at, code, message);
}
bool parser_at_any(const Parser *p, const char *const *words) {
    for (; *words; words++)
        if (is_word(p, *words)) return true;
    return false;
}

Status parser_expect(Parser *p, JToken what, const char *title) {
    char seen[64];
    if (token(p) != what) return PARSER_BAD(p, "expected %s, found %s", title, jinja_token_title(&p->lex, seen));
    return next(p);
}

/* Goes past the word when it is there. */
Status parser_take_word(Parser *p, const char *text, bool *taken) {
    *taken = is_word(p, text);
    return *taken ? next(p) : TANE_OK;
}

Status parser_take(Parser *p, JToken what, bool *taken) {
    *taken = token(p) == what;
    return *taken ? next(p) : TANE_OK;
}

/* The token behind the current one. */
Status parser_look(const Parser *p, JLexer *ahead) {
    *ahead = p->lex;
    return jinja_lexer_next(ahead);
}

Status parser_enter(Parser *p) {
    if (++p->nesting <= JINJA_MAX_NESTING) return TANE_OK;
    return PARSER_BAD(p, "blocks and expressions more than %d deep inside each other", JINJA_MAX_NESTING);
}

/* ---- names ------------------------------------------------------------------------------------------------------ */

static size_t name_slot(const JinjaTemplate *t, const char *text, size_t n) {
    size_t h = 14695981039346656037ull;
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)text[i]) * 1099511628211ull;
    size_t slot = h & (t->n_slots - 1);
    while (t->names[slot] && (t->names[slot]->str.n != n || memcmp(t->names[slot]->str.data, text, n)))
        slot = (slot + 1) & (t->n_slots - 1);
    return slot;
}

const JName *jinja_name(const JinjaTemplate *t, const char *text, size_t n) {
    return t->n_slots ? t->names[name_slot(t, text, n)] : NULL;
}

static Status grow_names(JinjaTemplate *t) {
    JName **old = t->names;
    size_t n_old = t->n_slots;
    t->n_slots = n_old ? 2 * n_old : 64;
    TRY_RETURN(ARENA_NEW_ARRAY(&t->arena, &t->names, t->n_slots));
    for (size_t i = 0; i < n_old; i++)
        if (old[i]) t->names[name_slot(t, old[i]->str.data, old[i]->str.n)] = old[i];
    return TANE_OK;
}

Status parser_intern(JinjaTemplate *t, const char *text, size_t n, const JName **out) {
    if (2 * t->n_names >= t->n_slots) TRY_RETURN(grow_names(t));
    JName **slot = &t->names[name_slot(t, text, n)];
    if (!*slot) {
        TRY_RETURN(ARENA_NEW(&t->arena, slot));
        **slot = (JName){.str = {.data = text, .n = n},
                         .function = jinja_find_function(text, n),
                         .str_method = jinja_find_method(J_STR, text, n),
                         .dict_method = jinja_find_method(J_DICT, text, n)};
        t->n_names++;
    }
    *out = *slot;
    return TANE_OK;
}

Status parser_expect_name(Parser *p, const char *title, const JName **out) {
    char seen[64];
    if (token(p) != T_NAME) return PARSER_BAD(p, "expected %s, found %s", title, jinja_token_title(&p->lex, seen));
    TRY_RETURN(parser_intern(p->t, word(p), word_length(p), out));
    return next(p);
}

/* ---- nodes ------------------------------------------------------------------------------------------------------ */

Status parser_make(Parser *p, JKind kind, size_t at, JNode **out) {
    TRY_RETURN(ARENA_NEW(&p->t->arena, out));
    (*out)->kind = (uint8_t)kind;
    (*out)->at = (uint32_t)at;
    return TANE_OK;
}

Status parser_under(Parser *p, JNode *node, const JNode *child) {
    if (!child || child->depth < node->depth) return TANE_OK;
    node->depth = (uint16_t)(child->depth + 1);
    if (node->depth <= JINJA_MAX_CHAIN) return TANE_OK;
    return parser_fail(p, node->at, TANE_EFORMAT, "more than %d operations in one expression", JINJA_MAX_CHAIN);
}

Status parser_push(Parser *p, Nodes *list, JNode *item) {
    if (list->n == list->cap) {
        uint32_t cap = list->cap ? 2 * list->cap : 4;
        JNode **items;
        TRY_RETURN(ARENA_NEW_ARRAY(&p->t->arena, &items, cap));
        if (list->n) memcpy(items, list->items, list->n * sizeof *items);
        list->items = items;
        list->cap = cap;
    }
    list->items[list->n++] = item;
    return TANE_OK;
}

Status parser_set_list(Parser *p, JNode *node, const Nodes *list) {
    node->list = list->items;
    node->n = list->n;
    for (uint32_t i = 0; i < list->n; i++) TRY_RETURN(parser_under(p, node, list->items[i]));
    return TANE_OK;
}

/* A node over one or two others. */
Status parser_make_over(Parser *p, JKind kind, size_t at, JNode *a, JNode *b, JNode **out) {
    TRY_RETURN(parser_make(p, kind, at, out));
    (*out)->a = a;
    (*out)->b = b;
    TRY_RETURN(parser_under(p, *out, a));
    return parser_under(p, *out, b);
}
