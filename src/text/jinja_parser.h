/* What the files of the parser share: its state, tokens asked for and taken, names and nodes. Statements are in
 * text/jinja_parser.c, expressions in text/jinja_expressions.c, what both stand on in text/jinja_nodes.c. */
#ifndef TEXT_JINJA_PARSER_H
#define TEXT_JINJA_PARSER_H

#include <string.h>

#include "text/jinja_ast.h"
#include "text/jinja_lexer.h"

typedef struct Parser {
    JinjaTemplate *t;
    JLexer lex;
    int nesting;
    bool soft;            /* inside an if: filters that nobody knows fail when they are reached */
    bool in_loop;         /* break and continue have one */
    JMacroNode *macro;    /* the innermost one, for what its body speaks of */
    const JNode *unknown; /* a filter or test outside any if that tane cannot run */
} Parser;

/* ---- tokens */
Status parser_fail(const Parser *p, size_t at, Status code, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
#define PARSER_BAD(p, ...) parser_fail((p), (p)->lex.begin, TANE_EFORMAT, __VA_ARGS__)
static inline Status next(Parser *p) { return jinja_lexer_next(&p->lex); }
static inline JToken token(const Parser *p) { return p->lex.token; }
static inline const char *word(const Parser *p) { return p->lex.text + p->lex.from; }
static inline size_t word_length(const Parser *p) { return p->lex.to - p->lex.from; }
static inline bool is_word(const Parser *p, const char *text) {
    return token(p) == T_NAME && word_length(p) == strlen(text) && !memcmp(word(p), text, word_length(p));
}
bool parser_at_any(const Parser *p, const char *const *words); /* one of the words, up to a NULL */
Status parser_expect(Parser *p, JToken what, const char *title);
Status parser_expect_name(Parser *p, const char *title, const JName **out);
Status parser_take(Parser *p, JToken what, bool *taken); /* goes past it when it is there */
Status parser_take_word(Parser *p, const char *text, bool *taken);
Status parser_look(const Parser *p, JLexer *ahead); /* the token behind the current one */
Status parser_enter(Parser *p);                     /* one level deeper; p->nesting-- leaves it */

/* ---- names and nodes */
/* Finds or adds a name; its bytes are borrowed from the source. */
Status parser_intern(JinjaTemplate *t, const char *text, size_t n, const JName **out);

typedef struct Nodes {
    JNode **items;
    uint32_t n, cap;
} Nodes;
Status parser_make(Parser *p, JKind kind, size_t at, JNode **out);
Status parser_make_over(Parser *p, JKind kind, size_t at, JNode *a, JNode *b, JNode **out);
/* Puts `child` (NULL is fine) under `node`, whose tree may not get too deep. */
Status parser_under(Parser *p, JNode *node, const JNode *child);
Status parser_push(Parser *p, Nodes *list, JNode *item);
Status parser_set_list(Parser *p, JNode *node, const Nodes *list);

/* ---- expressions */
typedef Status (*ParseItem)(Parser *p, JNode **out);
Status parse_expression(Parser *p, JNode **out);
Status parse_or(Parser *p, JNode **out); /* without "a if b else c" */
/* One item, or several with commas between them: a tuple. It ends at the end of a tag, at ')' and at end_word (which
 * may be NULL). */
Status parse_tuple(Parser *p, ParseItem item, const char *end_word, bool in_parentheses, JNode **out);
/* The filters of a|b|c; the first one stands here when `inline_` (as in {% filter b|c %}). */
Status parse_filters(Parser *p, bool inline_, JNode **node);
bool parse_constant_word(const Parser *p, JVal *value); /* true, none ...; it is not taken */

#endif
