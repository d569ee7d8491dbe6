/* The parser: tokens to a tree, by recursive descent, with the grammar of jinja2.parser. What a template nests is bounded
 * here, so that nothing later has to fear its depth. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "text/jinja_ast.h"
#include "text/jinja_lexer.h"
#include "text/jinja_text.h"
#include "text/utf8.h"

typedef struct Parser {
    JinjaTemplate *t;
    JLexer lex;
    int nesting;
    bool soft;           /* inside an if: names of filters that nobody knows fail when they are reached */
    bool in_loop;        /* break and continue have one */
    JMacroNode *macro;   /* the innermost one, for what its body speaks of */
    const JNode *unknown; /* a filter or test outside any if that tane cannot run */
} Parser;

/* ---- errors and the stream of tokens ---------------------------------------------------------------------------- */

__attribute__((format(printf, 4, 5))) static Status fail_at(const Parser *p, size_t at, Status code, const char *fmt, ...) {
    char message[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    return jinja_fail_at(p->t->where, p->t->text, at, code, message);
}
#define BAD(p, ...) fail_at((p), (p)->lex.begin, TANE_EFORMAT, __VA_ARGS__)

static Status next(Parser *p) { return jinja_lexer_next(&p->lex); }
static JToken token(const Parser *p) { return p->lex.token; }
static const char *word(const Parser *p) { return p->lex.text + p->lex.from; }
static size_t word_length(const Parser *p) { return p->lex.to - p->lex.from; }

static bool is_word(const Parser *p, const char *text) {
    return token(p) == T_NAME && word_length(p) == strlen(text) && !memcmp(word(p), text, word_length(p));
}
static bool is_any_word(const Parser *p, const char *const *words) {
    for (; *words; words++)
        if (is_word(p, *words)) return true;
    return false;
}

static Status expect(Parser *p, JToken what, const char *title) {
    char seen[64];
    if (token(p) != what) return BAD(p, "expected %s, found %s", title, jinja_token_title(&p->lex, seen));
    return next(p);
}

/* Goes past the word when it is there. */
static Status take_word(Parser *p, const char *text, bool *taken) {
    *taken = is_word(p, text);
    return *taken ? next(p) : TANE_OK;
}

static Status take(Parser *p, JToken what, bool *taken) {
    *taken = token(p) == what;
    return *taken ? next(p) : TANE_OK;
}

/* The token behind the current one. */
static Status look(const Parser *p, JLexer *ahead) {
    *ahead = p->lex;
    return jinja_lexer_next(ahead);
}

static Status enter(Parser *p) {
    if (++p->nesting <= JINJA_MAX_NESTING) return TANE_OK;
    return BAD(p, "blocks and expressions more than %d deep inside each other", JINJA_MAX_NESTING);
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

/* Finds or adds a name; its bytes are borrowed from the source. */
static Status intern(JinjaTemplate *t, const char *text, size_t n, const JName **out) {
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

static Status expect_name(Parser *p, const char *title, const JName **out) {
    char seen[64];
    if (token(p) != T_NAME) return BAD(p, "expected %s, found %s", title, jinja_token_title(&p->lex, seen));
    TRY_RETURN(intern(p->t, word(p), word_length(p), out));
    return next(p);
}

/* ---- nodes ------------------------------------------------------------------------------------------------------ */

static Status make(Parser *p, JKind kind, size_t at, JNode **out) {
    TRY_RETURN(ARENA_NEW(&p->t->arena, out));
    (*out)->kind = (uint8_t)kind;
    (*out)->at = (uint32_t)at;
    return TANE_OK;
}

/* Puts `child` under `node`, whose tree may not get too deep. */
static Status under(Parser *p, JNode *node, const JNode *child) {
    if (!child || child->depth < node->depth) return TANE_OK;
    node->depth = (uint16_t)(child->depth + 1);
    if (node->depth <= JINJA_MAX_CHAIN) return TANE_OK;
    return fail_at(p, node->at, TANE_EFORMAT, "more than %d operations in one expression", JINJA_MAX_CHAIN);
}

typedef struct Nodes {
    JNode **items;
    uint32_t n, cap;
} Nodes;

static Status push(Parser *p, Nodes *list, JNode *item) {
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

static Status set_list(Parser *p, JNode *node, const Nodes *list) {
    node->list = list->items;
    node->n = list->n;
    for (uint32_t i = 0; i < list->n; i++) TRY_RETURN(under(p, node, list->items[i]));
    return TANE_OK;
}

/* A node over one or two others. */
static Status make_over(Parser *p, JKind kind, size_t at, JNode *a, JNode *b, JNode **out) {
    TRY_RETURN(make(p, kind, at, out));
    (*out)->a = a;
    (*out)->b = b;
    TRY_RETURN(under(p, *out, a));
    return under(p, *out, b);
}

/* ---- literals --------------------------------------------------------------------------------------------------- */

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* \xhh, \uhhhh, \Uhhhhhhhh and \ooo: the code point, and *i behind it. */
static Status numbered_escape(const Parser *p, const char *text, size_t n, size_t *i, uint32_t *code) {
    char kind = text[*i];
    *code = 0;
    if (kind >= '0' && kind <= '7') {
        for (int k = 0; k < 3 && *i < n && text[*i] >= '0' && text[*i] <= '7'; k++, ++*i)
            *code = *code * 8 + (uint32_t)(text[*i] - '0');
        return TANE_OK;
    }
    int width = kind == 'x' ? 2 : kind == 'u' ? 4 : 8;
    ++*i;
    for (int k = 0; k < width; k++, ++*i) {
        int digit = *i < n ? hex_digit(text[*i]) : -1;
        if (digit < 0) return BAD(p, "\\%c wants %d hexadecimal digits", kind, width);
        *code = *code * 16 + (uint32_t)digit;
    }
    if (*code > UTF8_MAX || (*code >= 0xD800 && *code <= 0xDFFF))
        return BAD(p, "\\%c%0*x is no character", kind, width, (unsigned)*code);
    return TANE_OK;
}

/* Appends a string's value to out[*n_out..]; it is never longer than its spelling. */
static Status unescape(const Parser *p, const char *text, size_t n, char *out, size_t *n_out) {
    static const char letters[] = "abfnrtv\\'\"", values[] = "\a\b\f\n\r\t\v\\'\"";
    for (size_t i = 0; i < n;) {
        if (text[i] != '\\') {
            out[(*n_out)++] = text[i++];
            continue;
        }
        char c = text[++i];
        const char *letter = c ? strchr(letters, c) : NULL;
        if (letter) {
            out[(*n_out)++] = values[letter - letters];
            i++;
        } else if (c == '\n') {
            i++; /* the line goes on */
        } else if (c == 'N') {
            return fail_at(p, p->lex.begin, TANE_EUNSUPPORTED, "\\N{...} in a string is not supported; use \\u");
        } else if ((c >= '0' && c <= '7') || c == 'x' || c == 'u' || c == 'U') {
            uint32_t code;
            TRY_RETURN(numbered_escape(p, text, n, &i, &code));
            *n_out += text_encode(code, out + *n_out);
        } else {
            out[(*n_out)++] = '\\';
        }
    }
    return TANE_OK;
}

/* One or more string tokens in a row. */
static Status parse_string(Parser *p, JNode **out) {
    size_t cap = 0, used = 0;
    char *text = NULL;
    JStr *s;
    TRY_RETURN(make(p, E_CONST, p->lex.begin, out));
    while (token(p) == T_STRING) {
        if (!text || cap - used < word_length(p)) {
            char *longer;
            cap = text ? 2 * (used + word_length(p)) : word_length(p);
            TRY_RETURN(ARENA_NEW_ARRAY(&p->t->arena, &longer, cap));
            if (used) memcpy(longer, text, used);
            text = longer;
        }
        TRY_RETURN(unescape(p, word(p), word_length(p), text, &used));
        TRY_RETURN(next(p));
    }
    TRY_RETURN(ARENA_NEW(&p->t->arena, &s));
    *s = (JStr){.data = text, .n = used};
    (*out)->value = j_from_str(s);
    return TANE_OK;
}

static Status parse_number(Parser *p, JNode **out) {
    JStr digits = {.data = word(p), .n = word_length(p)};
    TRY_RETURN(make(p, E_CONST, p->lex.begin, out));
    if (token(p) == T_FLOAT) {
        double f;
        if (!j_parse_float(&digits, &f)) return BAD(p, "%.*s is no number", (int)digits.n, digits.data);
        (*out)->value = j_float(f);
    } else {
        int64_t i;
        if (!j_parse_int(&digits, 0, &i))
            return BAD(p, "the number %.*s does not fit into 64 bits", (int)(digits.n < 60 ? digits.n : 60), digits.data);
        (*out)->value = j_int(i);
    }
    return next(p);
}

/* ---- expressions ------------------------------------------------------------------------------------------------ */

static Status parse_expression(Parser *p, JNode **out);
static Status parse_or(Parser *p, JNode **out);
static Status parse_unary(Parser *p, bool with_filter, JNode **out);

/* Where a tuple without brackets ends: at the end of a tag, a parenthesis, or one of two words (each may be NULL). */
static bool tuple_ends(const Parser *p, const char *word_) {
    return token(p) == T_PRINT_END || token(p) == T_BLOCK_END || token(p) == T_RPAREN || (word_ && is_word(p, word_));
}

typedef Status (*ParseItem)(Parser *p, JNode **out);

/* One expression, or several with commas between them: a tuple. */
static Status parse_tuple(Parser *p, ParseItem item, const char *end_word, bool in_parentheses, JNode **out) {
    Nodes items = {0};
    size_t at = p->lex.begin;
    bool comma = false, is_tuple = false;
    char seen[64];
    JNode *node;
    while (!tuple_ends(p, end_word)) {
        TRY_RETURN(item(p, &node));
        TRY_RETURN(push(p, &items, node));
        TRY_RETURN(take(p, T_COMMA, &comma));
        if (!comma) break;
        is_tuple = true;
    }
    if (!is_tuple && items.n) {
        *out = items.items[0];
        return TANE_OK;
    }
    if (!is_tuple && !in_parentheses)
        return BAD(p, "expected an expression, found %s", jinja_token_title(&p->lex, seen));
    TRY_RETURN(make(p, E_TUPLE, at, out));
    return set_list(p, *out, &items);
}

static Status parse_list(Parser *p, JNode **out) {
    Nodes items = {0};
    JNode *node;
    TRY_RETURN(make(p, E_LIST, p->lex.begin, out));
    TRY_RETURN(next(p));
    while (token(p) != T_RBRACKET) {
        if (items.n) TRY_RETURN(expect(p, T_COMMA, "',' or ']'"));
        if (token(p) == T_RBRACKET) break;
        TRY_RETURN(parse_expression(p, &node));
        TRY_RETURN(push(p, &items, node));
    }
    TRY_RETURN(next(p));
    return set_list(p, *out, &items);
}

static Status parse_dict(Parser *p, JNode **out) {
    Nodes items = {0};
    JNode *node;
    TRY_RETURN(make(p, E_DICT, p->lex.begin, out));
    TRY_RETURN(next(p));
    while (token(p) != T_RBRACE) {
        if (items.n) TRY_RETURN(expect(p, T_COMMA, "',' or '}'"));
        if (token(p) == T_RBRACE) break;
        TRY_RETURN(parse_expression(p, &node));
        TRY_RETURN(push(p, &items, node));
        TRY_RETURN(expect(p, T_COLON, "':'"));
        TRY_RETURN(parse_expression(p, &node));
        TRY_RETURN(push(p, &items, node));
    }
    TRY_RETURN(next(p));
    return set_list(p, *out, &items);
}

/* Notes that the macros around speak of caller, kwargs or varargs. */
static void note_name(Parser *p, const JName *name) {
    if (!p->macro) return;
    p->macro->takes_caller |= name == p->t->known[NAME_CALLER];
    p->macro->takes_kwargs |= name == p->t->known[NAME_KWARGS];
    p->macro->takes_varargs |= name == p->t->known[NAME_VARARGS];
}

static bool constant_word(const Parser *p, JVal *value) {
    if (is_word(p, "true") || is_word(p, "True")) *value = j_bool(true);
    else if (is_word(p, "false") || is_word(p, "False")) *value = j_bool(false);
    else if (is_word(p, "none") || is_word(p, "None")) *value = j_none();
    else return false;
    return true;
}

static Status parse_primary(Parser *p, JNode **out) {
    char seen[64];
    JVal value;
    switch (token(p)) {
    case T_NAME:
        if (constant_word(p, &value)) {
            TRY_RETURN(make(p, E_CONST, p->lex.begin, out));
            (*out)->value = value;
            return next(p);
        }
        TRY_RETURN(make(p, E_NAME, p->lex.begin, out));
        TRY_RETURN(expect_name(p, "a name", &(*out)->name));
        note_name(p, (*out)->name);
        return TANE_OK;
    case T_STRING: return parse_string(p, out);
    case T_INTEGER:
    case T_FLOAT: return parse_number(p, out);
    case T_LPAREN:
        TRY_RETURN(next(p));
        TRY_RETURN(enter(p));
        TRY_RETURN(parse_tuple(p, parse_expression, NULL, true, out));
        p->nesting--;
        return expect(p, T_RPAREN, "')'");
    case T_LBRACKET: return parse_list(p, out);
    case T_LBRACE: return parse_dict(p, out);
    default: return BAD(p, "expected an expression, found %s", jinja_token_title(&p->lex, seen));
    }
}

/* The name of an argument when one stands here: name=... */
static Status argument_name(Parser *p, const JStr **name) {
    JLexer ahead;
    const JName *found;
    *name = NULL;
    if (token(p) != T_NAME) return TANE_OK;
    TRY_RETURN(look(p, &ahead));
    if (ahead.token != T_ASSIGN) return TANE_OK;
    TRY_RETURN(expect_name(p, "a name", &found));
    *name = &found->str;
    return next(p);
}

static Status parse_argument(Parser *p, JArgs *args, Nodes *pos, Nodes *named) {
    JNode *node;
    const JStr *name = NULL;
    bool star = token(p) == T_MUL, star_star = token(p) == T_POW;
    if (star || star_star) {
        if (args->star_star || (star && args->star)) return BAD(p, "this * cannot stand here");
        TRY_RETURN(next(p));
        return parse_expression(p, star ? &args->star : &args->star_star);
    }
    TRY_RETURN(argument_name(p, &name));
    if (args->star_star || (!name && (args->star || named->n)))
        return BAD(p, "an argument by position stands behind one by name");
    TRY_RETURN(parse_expression(p, &node));
    if (!name) return push(p, pos, node);
    for (uint32_t i = 0; i < named->n; i++)
        if (args->names[i] == name) return BAD(p, "the argument %.*s is given twice", (int)name->n, name->data);
    const JStr **names;
    TRY_RETURN(ARENA_NEW_ARRAY(&p->t->arena, &names, named->n + 1));
    if (named->n) memcpy(names, args->names, named->n * sizeof *names);
    names[named->n] = name;
    args->names = names;
    return push(p, named, node);
}

/* "(...)", or nothing when there is no parenthesis; *deepest goes up to what they nest. */
static Status parse_arguments(Parser *p, JNode *owner) {
    Nodes pos = {0}, named = {0};
    JArgs *args;
    TRY_RETURN(ARENA_NEW(&p->t->arena, &args));
    owner->args = args;
    if (token(p) != T_LPAREN) return TANE_OK;
    TRY_RETURN(next(p));
    for (bool first = true; token(p) != T_RPAREN; first = false) {
        if (!first) TRY_RETURN(expect(p, T_COMMA, "',' or ')'"));
        if (token(p) == T_RPAREN) break;
        if (named.n >= 64) return BAD(p, "more than 64 arguments by name");
        TRY_RETURN(parse_argument(p, args, &pos, &named));
    }
    TRY_RETURN(next(p));
    args->pos = pos.items;
    args->n_pos = pos.n;
    args->named = named.items;
    args->n_named = named.n;
    for (uint32_t i = 0; i < pos.n; i++) TRY_RETURN(under(p, owner, pos.items[i]));
    for (uint32_t i = 0; i < named.n; i++) TRY_RETURN(under(p, owner, named.items[i]));
    TRY_RETURN(under(p, owner, args->star));
    return under(p, owner, args->star_star);
}

static Status parse_call(Parser *p, JNode **node) {
    JNode *call;
    TRY_RETURN(make_over(p, E_CALL, p->lex.begin, *node, NULL, &call));
    *node = call;
    return parse_arguments(p, call);
}

/* a.name, a.0 */
static Status parse_dot(Parser *p, JNode **node) {
    char seen[64];
    JNode *out;
    TRY_RETURN(next(p));
    if (token(p) == T_NAME) {
        TRY_RETURN(make_over(p, E_ATTRIBUTE, p->lex.begin, *node, NULL, &out));
        TRY_RETURN(expect_name(p, "a name", &out->name));
    } else if (token(p) == T_INTEGER) {
        JNode *index;
        size_t at = p->lex.begin;
        TRY_RETURN(parse_number(p, &index));
        TRY_RETURN(make_over(p, E_ITEM, at, *node, index, &out));
    } else {
        return BAD(p, "expected a name or a number behind '.', found %s", jinja_token_title(&p->lex, seen));
    }
    *node = out;
    return TANE_OK;
}

/* start:stop:step with any of them missing, or one expression (*slices false). */
static Status parse_subscript(Parser *p, JNode *bounds[3], bool *slices) {
    *slices = false;
    for (int i = 0; i < 3; i++) {
        if (token(p) != T_COLON && token(p) != T_RBRACKET && token(p) != T_COMMA)
            TRY_RETURN(parse_expression(p, &bounds[i]));
        if (token(p) != T_COLON || i == 2) return TANE_OK;
        *slices = true;
        TRY_RETURN(next(p));
    }
    return TANE_OK;
}

/* a[b], a[b:c:d] */
static Status parse_brackets(Parser *p, JNode **node) {
    JNode *bounds[3] = {0}, *out;
    Nodes list = {0};
    char seen[64];
    size_t at = p->lex.begin;
    bool slices;
    TRY_RETURN(next(p));
    TRY_RETURN(parse_subscript(p, bounds, &slices));
    if (token(p) == T_COMMA)
        return fail_at(p, at, TANE_EUNSUPPORTED, "a subscript of several parts, x[a, b], is not supported");
    if (!slices && !bounds[0])
        return BAD(p, "expected an expression, found %s", jinja_token_title(&p->lex, seen));
    TRY_RETURN(expect(p, T_RBRACKET, "']'"));
    TRY_RETURN(make_over(p, slices ? E_SLICE : E_ITEM, at, *node, slices ? NULL : bounds[0], &out));
    if (slices) {
        for (int i = 0; i < 3; i++) {
            TRY_RETURN(push(p, &list, bounds[i]));
            TRY_RETURN(under(p, out, bounds[i]));
        }
        out->list = list.items;
        out->n = list.n;
    }
    *node = out;
    return TANE_OK;
}

static Status parse_postfix(Parser *p, JNode **node) {
    for (;;) {
        if (token(p) == T_DOT) TRY_RETURN(parse_dot(p, node));
        else if (token(p) == T_LBRACKET) TRY_RETURN(parse_brackets(p, node));
        else if (token(p) == T_LPAREN) TRY_RETURN(parse_call(p, node));
        else return TANE_OK;
    }
}

/* A filter or test that nobody knows, or that Jinja2 has and tane has not, is an error here; but inside an if only when
 * it is reached, so that a template can ask first. */
static void check_builtin(Parser *p, const JNode *node) {
    bool runs = node->builtin && node->builtin->function;
    if (!runs && !p->soft && !p->unknown) p->unknown = node;
}

Status jinja_fail_unknown(const JinjaTemplate *t, const JNode *node) {
    const char *kind = node->kind == E_TEST ? "test" : "filter";
    char message[200];
    if (node->builtin) snprintf(message, sizeof message, "the %s '%s' of Jinja is not supported", kind, node->builtin->name);
    else snprintf(message, sizeof message, "no %s named '%.*s'", kind, (int)(node->name->str.n < 100 ? node->name->str.n : 100),
                  node->name->str.data);
    return jinja_fail_at(t->where, t->text, node->at, TANE_EUNSUPPORTED, message);
}

/* The filters of a|b|c; the first one stands here when `inline_` (as in {% filter b|c %}). */
static Status parse_filters(Parser *p, bool inline_, JNode **node) {
    while (inline_ || token(p) == T_PIPE) {
        JNode *out;
        if (!inline_) TRY_RETURN(next(p));
        inline_ = false;
        TRY_RETURN(make_over(p, E_FILTER, p->lex.begin, *node, NULL, &out));
        TRY_RETURN(expect_name(p, "the name of a filter", &out->name));
        out->builtin = jinja_find_filter(out->name->str.data, out->name->str.n);
        check_builtin(p, out);
        TRY_RETURN(parse_arguments(p, out));
        *node = out;
    }
    return TANE_OK;
}

/* "is name", "is not name(args)", "is name argument" */
static Status parse_test(Parser *p, JNode **node) {
    static const char *const not_an_argument[] = {"else", "or", "and", NULL};
    bool negated;
    JNode *test, *argument;
    size_t at = p->lex.begin;
    TRY_RETURN(next(p));
    TRY_RETURN(take_word(p, "not", &negated));
    TRY_RETURN(make_over(p, E_TEST, p->lex.begin, *node, NULL, &test));
    TRY_RETURN(expect_name(p, "the name of a test", &test->name));
    test->builtin = jinja_find_test(test->name->str.data, test->name->str.n);
    check_builtin(p, test);
    bool is_argument = token(p) == T_NAME || token(p) == T_STRING || token(p) == T_INTEGER || token(p) == T_FLOAT ||
                       token(p) == T_LBRACKET || token(p) == T_LBRACE;
    if (token(p) != T_LPAREN && is_argument && !is_any_word(p, not_an_argument)) {
        Nodes pos = {0};
        if (is_word(p, "is")) return BAD(p, "tests cannot be chained: put parentheses around the first");
        TRY_RETURN(ARENA_NEW(&p->t->arena, &test->args));
        TRY_RETURN(parse_primary(p, &argument));
        TRY_RETURN(parse_postfix(p, &argument));
        TRY_RETURN(push(p, &pos, argument));
        test->args->pos = pos.items;
        test->args->n_pos = 1;
        TRY_RETURN(under(p, test, argument));
    } else {
        TRY_RETURN(parse_arguments(p, test));
    }
    *node = test;
    return negated ? make_over(p, E_NOT, at, test, NULL, node) : TANE_OK;
}

static Status parse_filter_expression(Parser *p, JNode **node) {
    for (;;) {
        if (token(p) == T_PIPE) TRY_RETURN(parse_filters(p, false, node));
        else if (is_word(p, "is")) TRY_RETURN(parse_test(p, node));
        else if (token(p) == T_LPAREN) TRY_RETURN(parse_call(p, node));
        else return TANE_OK;
    }
}

static Status parse_unary(Parser *p, bool with_filter, JNode **out) {
    if (token(p) == T_SUB || token(p) == T_ADD) {
        JKind kind = token(p) == T_SUB ? E_NEGATE : E_POSITIVE;
        size_t at = p->lex.begin;
        JNode *operand;
        TRY_RETURN(enter(p));
        TRY_RETURN(next(p));
        TRY_RETURN(parse_unary(p, false, &operand));
        TRY_RETURN(make_over(p, kind, at, operand, NULL, out));
        p->nesting--;
    } else {
        TRY_RETURN(parse_primary(p, out));
    }
    TRY_RETURN(parse_postfix(p, out));
    return with_filter ? parse_filter_expression(p, out) : TANE_OK;
}

/* left (op right)*, from left to right, for the binary operators of one level. */
static Status parse_chain(Parser *p, const JToken *tokens, const JOp *ops, size_t n, ParseItem operand, JNode **out) {
    TRY_RETURN(operand(p, out));
    for (;;) {
        size_t k = 0, at = p->lex.begin;
        JNode *right, *left = *out;
        while (k < n && tokens[k] != token(p)) k++;
        if (k == n) return TANE_OK;
        TRY_RETURN(next(p));
        TRY_RETURN(operand(p, &right));
        TRY_RETURN(make_over(p, E_BINARY, at, left, right, out));
        (*out)->op = (uint8_t)ops[k];
    }
}

static Status parse_filtered(Parser *p, JNode **out) { return parse_unary(p, true, out); }

static Status parse_power(Parser *p, JNode **out) {
    return parse_chain(p, (const JToken[]){T_POW}, (const JOp[]){OP_POW}, 1, parse_filtered, out);
}

static Status parse_product(Parser *p, JNode **out) {
    static const JToken tokens[] = {T_MUL, T_DIV, T_FLOORDIV, T_MOD};
    static const JOp ops[] = {OP_MUL, OP_DIV, OP_FLOORDIV, OP_MOD};
    return parse_chain(p, tokens, ops, 4, parse_power, out);
}

static Status parse_concat(Parser *p, JNode **out) {
    Nodes items = {0};
    size_t at = p->lex.begin;
    TRY_RETURN(parse_product(p, out));
    if (token(p) != T_TILDE) return TANE_OK;
    TRY_RETURN(push(p, &items, *out));
    while (token(p) == T_TILDE) {
        TRY_RETURN(next(p));
        TRY_RETURN(parse_product(p, out));
        TRY_RETURN(push(p, &items, *out));
    }
    TRY_RETURN(make(p, E_CONCAT, at, out));
    return set_list(p, *out, &items);
}

static Status parse_sum(Parser *p, JNode **out) {
    static const JToken tokens[] = {T_ADD, T_SUB};
    static const JOp ops[] = {OP_ADD, OP_SUB};
    return parse_chain(p, tokens, ops, 2, parse_concat, out);
}

/* The comparison that stands here, past it; *found false when there is none. */
static Status take_comparison(Parser *p, JCompare *op, bool *found) {
    static const struct {
        JToken token;
        JCompare op;
    } rows[] = {{T_EQ, CMP_EQ}, {T_NE, CMP_NE}, {T_LT, CMP_LT}, {T_LE, CMP_LE}, {T_GT, CMP_GT}, {T_GE, CMP_GE}};
    *found = true;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (token(p) == rows[i].token) {
            *op = rows[i].op;
            return next(p);
        }
    *op = CMP_IN;
    if (is_word(p, "in")) return next(p);
    *op = CMP_NOT_IN;
    if (is_word(p, "not")) {
        JLexer ahead;
        TRY_RETURN(look(p, &ahead));
        if (ahead.token == T_NAME && ahead.to - ahead.from == 2 && !memcmp(ahead.text + ahead.from, "in", 2)) {
            p->lex = ahead;
            return next(p);
        }
    }
    *found = false;
    return TANE_OK;
}

static Status parse_comparison(Parser *p, JNode **out) {
    enum { MOST = 64 };
    uint8_t ops[MOST], *kept;
    Nodes items = {0};
    JNode *first, *node;
    size_t at = p->lex.begin;
    TRY_RETURN(parse_sum(p, &first));
    for (bool found;;) {
        JCompare op;
        TRY_RETURN(take_comparison(p, &op, &found));
        if (!found) break;
        if (items.n == MOST) return BAD(p, "more than %d comparisons in a row", MOST);
        ops[items.n] = (uint8_t)op;
        TRY_RETURN(parse_sum(p, &node));
        TRY_RETURN(push(p, &items, node));
    }
    *out = first;
    if (!items.n) return TANE_OK;
    TRY_RETURN(make_over(p, E_COMPARE, at, first, NULL, out));
    TRY_RETURN(set_list(p, *out, &items));
    TRY_RETURN(ARENA_NEW_ARRAY(&p->t->arena, &kept, items.n));
    memcpy(kept, ops, items.n);
    (*out)->ops = kept;
    return TANE_OK;
}

static Status parse_not(Parser *p, JNode **out) {
    if (!is_word(p, "not")) return parse_comparison(p, out);
    size_t at = p->lex.begin;
    JNode *operand;
    TRY_RETURN(enter(p));
    TRY_RETURN(next(p));
    TRY_RETURN(parse_not(p, &operand));
    p->nesting--;
    return make_over(p, E_NOT, at, operand, NULL, out);
}

static Status parse_words(Parser *p, const char *op, JKind kind, ParseItem operand, JNode **out) {
    TRY_RETURN(operand(p, out));
    while (is_word(p, op)) {
        size_t at = p->lex.begin;
        JNode *right, *left = *out;
        TRY_RETURN(next(p));
        TRY_RETURN(operand(p, &right));
        TRY_RETURN(make_over(p, kind, at, left, right, out));
    }
    return TANE_OK;
}

static Status parse_and(Parser *p, JNode **out) { return parse_words(p, "and", E_AND, parse_not, out); }
static Status parse_or(Parser *p, JNode **out) { return parse_words(p, "or", E_OR, parse_and, out); }

static Status parse_expression(Parser *p, JNode **out) {
    bool soft = p->soft, has_else;
    const JNode *unknown = p->unknown;
    TRY_RETURN(enter(p));
    TRY_RETURN(parse_or(p, out));
    while (is_word(p, "if")) {
        size_t at = p->lex.begin;
        JNode *then = *out;
        p->soft = true;
        p->unknown = unknown; /* what stands before the if is inside it too */
        TRY_RETURN(next(p));
        TRY_RETURN(make_over(p, E_IF, at, then, NULL, out));
        TRY_RETURN(parse_or(p, &(*out)->b));
        TRY_RETURN(under(p, *out, (*out)->b));
        TRY_RETURN(take_word(p, "else", &has_else));
        if (has_else) TRY_RETURN(parse_expression(p, &(*out)->c));
        TRY_RETURN(under(p, *out, (*out)->c));
    }
    p->soft = soft;
    p->nesting--;
    return TANE_OK;
}

/* ---- statements ------------------------------------------------------------------------------------------------- */

static Status parse_body(Parser *p, const char *const *end_words, JNode **out);

/* The body of a statement whose head ends here, up to one of the words, which is left as the current token. */
static Status parse_block(Parser *p, const char *const *end_words, JNode **out) {
    bool colon;
    TRY_RETURN(take(p, T_COLON, &colon));
    TRY_RETURN(expect(p, T_BLOCK_END, "the end of the tag '%}'"));
    return parse_body(p, end_words, out);
}

/* The same with one word, which is taken, in a place where an if around it does not count. */
static Status parse_closed_block(Parser *p, const char *end_word, JNode **out) {
    bool soft = p->soft;
    p->soft = false;
    TRY_RETURN(parse_block(p, (const char *const[]){end_word, NULL}, out));
    p->soft = soft;
    return next(p);
}

static Status parse_target_item(Parser *p, JNode **out);

/* name, (a, b); with `attributes` also namespace.name */
static Status parse_target(Parser *p, const char *end_word, JNode **out) {
    return parse_tuple(p, parse_target_item, end_word, false, out);
}

static Status parse_target_item(Parser *p, JNode **out) {
    JVal constant;
    if (token(p) == T_LPAREN) {
        TRY_RETURN(enter(p));
        TRY_RETURN(next(p));
        TRY_RETURN(parse_tuple(p, parse_target_item, NULL, true, out));
        p->nesting--;
        return expect(p, T_RPAREN, "')'");
    }
    char seen[64];
    if (token(p) != T_NAME || constant_word(p, &constant))
        return BAD(p, "cannot assign to %s", jinja_token_title(&p->lex, seen));
    TRY_RETURN(make(p, E_NAME, p->lex.begin, out));
    TRY_RETURN(expect_name(p, "a name", &(*out)->name));
    if (token(p) != T_DOT) return TANE_OK;
    (*out)->kind = E_NS;
    TRY_RETURN(next(p));
    return expect_name(p, "the name of an attribute", &(*out)->attribute);
}

/* Only `set` assigns to attributes. */
static Status check_plain_target(Parser *p, const JNode *target) {
    if (target->kind == E_NS)
        return fail_at(p, target->at, TANE_EFORMAT, "only {%% set %%} can assign to an attribute");
    for (uint32_t i = 0; i < target->n; i++) TRY_RETURN(check_plain_target(p, target->list[i]));
    if (target->name && target->name == p->t->known[NAME_LOOP])
        return fail_at(p, target->at, TANE_EFORMAT, "a loop cannot assign to 'loop'");
    return TANE_OK;
}

static Status parse_set(Parser *p, JNode **out) {
    bool assign;
    TRY_RETURN(make(p, S_SET, p->lex.begin, out));
    TRY_RETURN(next(p));
    TRY_RETURN(parse_target(p, NULL, &(*out)->a));
    TRY_RETURN(take(p, T_ASSIGN, &assign));
    if (assign) return parse_tuple(p, parse_expression, NULL, false, &(*out)->b);
    (*out)->kind = S_SET_BLOCK;
    if (token(p) == T_PIPE) {
        TRY_RETURN(make(p, E_CAPTURED, p->lex.begin, &(*out)->b));
        TRY_RETURN(parse_filters(p, false, &(*out)->b));
    }
    return parse_closed_block(p, "endset", &(*out)->c);
}

static Status parse_for(Parser *p, JNode **out) {
    bool taken, soft = p->soft, in_loop = p->in_loop;
    Nodes parts = {0};
    JNode *test = NULL, *body;
    TRY_RETURN(make(p, S_FOR, p->lex.begin, out));
    TRY_RETURN(next(p));
    TRY_RETURN(parse_target(p, "in", &(*out)->a));
    TRY_RETURN(check_plain_target(p, (*out)->a));
    TRY_RETURN(take_word(p, "in", &taken));
    if (!taken) return BAD(p, "expected 'in'");
    TRY_RETURN(parse_tuple(p, parse_or, "recursive", false, &(*out)->b));
    p->soft = false;
    TRY_RETURN(take_word(p, "if", &taken));
    if (taken) TRY_RETURN(parse_expression(p, &test));
    if (is_word(p, "recursive"))
        return fail_at(p, p->lex.begin, TANE_EUNSUPPORTED, "recursive loops are not supported; use a macro");
    p->in_loop = true;
    TRY_RETURN(parse_block(p, (const char *const[]){"endfor", "else", NULL}, &body));
    p->in_loop = in_loop;
    TRY_RETURN(push(p, &parts, test));
    TRY_RETURN(push(p, &parts, body));
    (*out)->list = parts.items;
    (*out)->n = parts.n;
    TRY_RETURN(take_word(p, "else", &taken));
    if (taken) TRY_RETURN(parse_closed_block(p, "endfor", &(*out)->c));
    else TRY_RETURN(next(p));
    p->soft = soft;
    return TANE_OK;
}

static Status parse_if(Parser *p, JNode **out) {
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    Nodes parts = {0};
    JNode *node;
    bool soft = p->soft;
    p->soft = true;
    TRY_RETURN(make(p, S_IF, p->lex.begin, out));
    do {
        TRY_RETURN(next(p));
        TRY_RETURN(parse_tuple(p, parse_or, NULL, false, &node));
        TRY_RETURN(push(p, &parts, node));
        TRY_RETURN(parse_block(p, ends, &node));
        TRY_RETURN(push(p, &parts, node));
    } while (is_word(p, "elif"));
    (*out)->list = parts.items;
    (*out)->n = parts.n;
    bool has_else;
    TRY_RETURN(take_word(p, "else", &has_else));
    if (has_else) TRY_RETURN(parse_block(p, (const char *const[]){"endif", NULL}, &(*out)->c));
    p->soft = soft;
    return next(p);
}

/* "(a, b=1)" into the macro. */
static Status parse_signature(Parser *p, JMacroNode *m) {
    enum { MOST = 255 };
    bool assign, has_default = false;
    TRY_RETURN(expect(p, T_LPAREN, "'('"));
    TRY_RETURN(ARENA_NEW_ARRAY(&p->t->arena, &m->params, MOST));
    TRY_RETURN(ARENA_NEW_ARRAY(&p->t->arena, &m->defaults, MOST));
    while (token(p) != T_RPAREN) {
        if (m->n_params) TRY_RETURN(expect(p, T_COMMA, "',' or ')'"));
        if (m->n_params == MOST) return BAD(p, "more than %d parameters", MOST);
        TRY_RETURN(expect_name(p, "the name of a parameter", &m->params[m->n_params]));
        TRY_RETURN(take(p, T_ASSIGN, &assign));
        if (assign) TRY_RETURN(parse_expression(p, &m->defaults[m->n_params]));
        else if (has_default) return BAD(p, "a parameter without a default stands behind one that has one");
        has_default = has_default || assign;
        m->n_params++;
    }
    return next(p);
}

/* The body of a macro or caller, with what it speaks of. */
static Status parse_macro_body(Parser *p, const char *end_word, JMacroNode *m) {
    JMacroNode *around = p->macro;
    bool in_loop = p->in_loop;
    p->macro = m;
    p->in_loop = false;
    TRY_RETURN(parse_closed_block(p, end_word, &m->body));
    p->in_loop = in_loop;
    p->macro = around;
    if (around) { /* Jinja2 looks into inner macros too */
        around->takes_caller |= m->takes_caller;
        around->takes_kwargs |= m->takes_kwargs;
        around->takes_varargs |= m->takes_varargs;
    }
    return TANE_OK;
}

static Status parse_macro(Parser *p, JNode **out) {
    JMacroNode *m;
    TRY_RETURN(make(p, S_MACRO, p->lex.begin, out));
    TRY_RETURN(ARENA_NEW(&p->t->arena, &m));
    (*out)->macro = m;
    TRY_RETURN(next(p));
    TRY_RETURN(expect_name(p, "the name of the macro", &m->name));
    TRY_RETURN(parse_signature(p, m));
    return parse_macro_body(p, "endmacro", m);
}

static Status parse_call_block(Parser *p, JNode **out) {
    JMacroNode *m;
    TRY_RETURN(make(p, S_CALL, p->lex.begin, out));
    TRY_RETURN(ARENA_NEW(&p->t->arena, &m));
    (*out)->macro = m;
    TRY_RETURN(next(p));
    if (token(p) == T_LPAREN) TRY_RETURN(parse_signature(p, m));
    TRY_RETURN(parse_expression(p, &(*out)->a));
    if ((*out)->a->kind != E_CALL) return fail_at(p, (*out)->at, TANE_EFORMAT, "{%% call %%} wants a call: {%% call name(...) %%}");
    return parse_macro_body(p, "endcall", m);
}

static Status parse_filter_block(Parser *p, JNode **out) {
    TRY_RETURN(make(p, S_FILTER, p->lex.begin, out));
    TRY_RETURN(next(p));
    TRY_RETURN(make(p, E_CAPTURED, p->lex.begin, &(*out)->a));
    TRY_RETURN(parse_filters(p, true, &(*out)->a));
    return parse_closed_block(p, "endfilter", &(*out)->c);
}

static Status parse_with(Parser *p, JNode **out) {
    Nodes parts = {0};
    JNode *node;
    TRY_RETURN(make(p, S_WITH, p->lex.begin, out));
    TRY_RETURN(next(p));
    while (token(p) != T_BLOCK_END) {
        if (parts.n) TRY_RETURN(expect(p, T_COMMA, "',' or the end of the tag"));
        TRY_RETURN(parse_target_item(p, &node));
        TRY_RETURN(check_plain_target(p, node));
        TRY_RETURN(push(p, &parts, node));
        TRY_RETURN(expect(p, T_ASSIGN, "'='"));
        TRY_RETURN(parse_expression(p, &node));
        TRY_RETURN(push(p, &parts, node));
    }
    (*out)->list = parts.items;
    (*out)->n = parts.n;
    return parse_closed_block(p, "endwith", &(*out)->c);
}

static Status parse_generation(Parser *p, JNode **out) {
    bool in_loop = p->in_loop;
    TRY_RETURN(make(p, S_GENERATION, p->lex.begin, out));
    TRY_RETURN(next(p));
    p->in_loop = false; /* its body is a caller's, as in transformers */
    TRY_RETURN(parse_closed_block(p, "endgeneration", &(*out)->c));
    p->in_loop = in_loop;
    p->t->generation = true;
    return TANE_OK;
}

static Status parse_loop_control(Parser *p, JNode **out) {
    bool is_break = is_word(p, "break");
    if (!p->in_loop) return BAD(p, "'%s' stands outside a loop", is_break ? "break" : "continue");
    TRY_RETURN(make(p, is_break ? S_BREAK : S_CONTINUE, p->lex.begin, out));
    return next(p);
}

static Status parse_print(Parser *p, JNode **out) {
    Nodes parts = {0};
    JNode *node, *print;
    TRY_RETURN(make(p, S_BODY, p->lex.begin, out));
    TRY_RETURN(next(p));
    while (token(p) != T_BLOCK_END) {
        if (parts.n) TRY_RETURN(expect(p, T_COMMA, "',' or the end of the tag"));
        TRY_RETURN(make(p, S_PRINT, p->lex.begin, &print));
        TRY_RETURN(parse_expression(p, &node));
        print->a = node;
        TRY_RETURN(push(p, &parts, print));
    }
    (*out)->list = parts.items;
    (*out)->n = parts.n;
    return TANE_OK;
}

static Status parse_unknown(Parser *p, const char *const *end_words) {
    static const char *const jinja[] = {"extends", "include", "import", "from",  "block",    "autoescape",
                                        "trans",   "do",      "debug",  "raw",   "pluralize"};
    char seen[64], wanted[128] = "";
    for (size_t i = 0; i < sizeof jinja / sizeof *jinja; i++)
        if (is_word(p, jinja[i]))
            return fail_at(p, p->lex.begin, TANE_EUNSUPPORTED, "the tag '%s' is not supported in chat templates", jinja[i]);
    for (; end_words && *end_words; end_words++)
        snprintf(wanted + strlen(wanted), sizeof wanted - strlen(wanted), "%s'%s'", *wanted ? " or " : "; open is what "
                 "ends with ", *end_words);
    return BAD(p, "unknown tag %s%s", jinja_token_title(&p->lex, seen), wanted);
}

static Status parse_statement(Parser *p, const char *const *end_words, JNode **out) {
    static const struct {
        const char *tag;
        Status (*parse)(Parser *p, JNode **out);
    } rows[] = {{"if", parse_if},           {"for", parse_for},       {"set", parse_set},
                {"macro", parse_macro},     {"call", parse_call_block}, {"filter", parse_filter_block},
                {"with", parse_with},       {"generation", parse_generation}, {"break", parse_loop_control},
                {"continue", parse_loop_control}, {"print", parse_print}};
    char seen[64];
    if (token(p) != T_NAME) return BAD(p, "expected the name of a tag, found %s", jinja_token_title(&p->lex, seen));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (!is_word(p, rows[i].tag)) continue;
        TRY_RETURN(enter(p));
        TRY_RETURN(rows[i].parse(p, out));
        p->nesting--;
        return TANE_OK;
    }
    return parse_unknown(p, end_words);
}

static Status parse_data(Parser *p, Nodes *body) {
    JNode *node;
    JStr *s;
    if (word_length(p) > 0) {
        TRY_RETURN(make(p, S_DATA, p->lex.begin, &node));
        TRY_RETURN(ARENA_NEW(&p->t->arena, &s));
        *s = (JStr){.data = word(p), .n = word_length(p)};
        node->value = j_from_str(s);
        TRY_RETURN(push(p, body, node));
    }
    return next(p);
}

/* Statements up to one of the words, or (end_words NULL) to the end of the template. */
static Status parse_body(Parser *p, const char *const *end_words, JNode **out) {
    Nodes body = {0};
    JNode *node;
    size_t at = p->lex.begin;
    bool ended = false;
    while (!ended) {
        switch (token(p)) {
        case T_END:
            if (end_words) return BAD(p, "the template ends before '%s'", end_words[0]);
            ended = true;
            break;
        case T_DATA: TRY_RETURN(parse_data(p, &body)); break;
        case T_PRINT_BEGIN:
            TRY_RETURN(make(p, S_PRINT, p->lex.begin, &node));
            TRY_RETURN(next(p));
            TRY_RETURN(parse_tuple(p, parse_expression, NULL, false, &node->a));
            TRY_RETURN(expect(p, T_PRINT_END, "'}}'"));
            TRY_RETURN(push(p, &body, node));
            break;
        default:
            TRY_RETURN(next(p));
            ended = end_words && is_any_word(p, end_words);
            if (ended) break;
            TRY_RETURN(parse_statement(p, end_words, &node));
            TRY_RETURN(push(p, &body, node));
            TRY_RETURN(expect(p, T_BLOCK_END, "the end of the tag '%}'"));
        }
    }
    TRY_RETURN(make(p, S_BODY, at, out));
    (*out)->list = body.items;
    (*out)->n = body.n;
    return TANE_OK;
}

/* ---- the whole template ----------------------------------------------------------------------------------------- */

/* A copy with \n for every kind of newline, without the last one; it must be UTF-8. */
static Status copy_source(JinjaTemplate *t, const char *source, size_t n) {
    char *text;
    uint32_t code;
    TRY_RETURN(ARENA_NEW_ARRAY(&t->arena, &text, n + 1));
    for (size_t i = 0, len; i < n; i += len) {
        len = utf8_decode(source + i, n - i, &code);
        if (!len) {
            t->text = text;
            return jinja_fail_at(t->where, text, t->n, TANE_EFORMAT, "the template is not UTF-8 here");
        }
        if (source[i] == '\r') {
            text[t->n++] = '\n';
            if (i + 1 < n && source[i + 1] == '\n') len = 2;
        } else {
            memcpy(text + t->n, source + i, len);
            t->n += len;
        }
    }
    if (t->n && text[t->n - 1] == '\n') text[--t->n] = 0;
    t->text = text;
    return TANE_OK;
}

static Status parse(JinjaTemplate *t, const char *where, const char *source, size_t n) {
    static const char *const known[NAME_COUNT] = {"loop", "caller", "kwargs", "varargs"};
    char *copy;
    TRY_RETURN(arena_strdup(&t->arena, &copy, where));
    t->where = copy;
    TRY_RETURN(copy_source(t, source, n));
    for (int i = 0; i < NAME_COUNT; i++) TRY_RETURN(intern(t, known[i], strlen(known[i]), &t->known[i]));
    Parser p = {.t = t};
    jinja_lexer_init(&p.lex, t->where, t->text, t->n);
    TRY_RETURN(next(&p));
    TRY_RETURN(parse_body(&p, NULL, &t->body));
    return p.unknown ? jinja_fail_unknown(t, p.unknown) : TANE_OK;
}

Status jinja_parse(JinjaTemplate **out, const char *where, const char *source, size_t n) {
    *out = NULL;
    if (n > JINJA_MAX_SOURCE)
        return FAIL(TANE_EFORMAT, "%s: a chat template of %zu bytes; at most %d are allowed", where, n, JINJA_MAX_SOURCE);
    TRY_RETURN(MEM_NEW(out));
    Status st = parse(*out, where, source, n);
    if (st == TANE_OK) return TANE_OK;
    jinja_free(*out);
    *out = NULL;
    return st;
}

void jinja_free(JinjaTemplate *t) {
    if (!t) return;
    arena_release(&t->arena);
    mem_free(t);
}

bool jinja_marks_generation(const JinjaTemplate *t) { return t->generation; }
