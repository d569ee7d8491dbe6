/* The parser of expressions: the levels of operators from "a if b else c" down to names and literals. */
#include <stdio.h>

#include "text/jinja_parser.h"
#include "text/jinja_text.h"
#include "text/utf8.h"

/* ---- literals --------------------------------------------------------------------------------------------------- */

static int hex_digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
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
        if (digit < 0) return PARSER_BAD(p, "\\%c wants %d hexadecimal digits", kind, width);
        *code = *code * 16 + (uint32_t)digit;
    }
    if (*code > UTF8_MAX || (*code >= 0xD800 && *code <= 0xDFFF))
        return PARSER_BAD(p, "\\%c%0*x is no character", kind, width, (unsigned)*code);
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
            return parser_fail(p, p->lex.begin, TANE_EUNSUPPORTED, "\\N{...} in a string is not supported; use \\u");
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
    TRY_RETURN(parser_make(p, E_CONST, p->lex.begin, out));
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
    TRY_RETURN(parser_make(p, E_CONST, p->lex.begin, out));
    if (token(p) == T_FLOAT) {
        double f;
        if (!j_parse_float(&digits, &f)) return PARSER_BAD(p, "%.*s is no number", (int)digits.n, digits.data);
        (*out)->value = j_float(f);
    } else {
        int64_t i;
        if (!j_parse_int(&digits, 0, &i))
            return PARSER_BAD(p, "the number %.*s does not fit into 64 bits", (int)(digits.n < 60 ? digits.n : 60),
                              digits.data);
        (*out)->value = j_int(i);
    }
    return next(p);
}

/* ---- expressions ------------------------------------------------------------------------------------------------ */

static Status parse_unary(Parser *p, bool with_filter, JNode **out);

/* Where a tuple without brackets ends: at the end of a tag, a parenthesis, or one of two words (each may be NULL). */
static bool tuple_ends(const Parser *p, const char *word_) {
    return token(p) == T_PRINT_END || token(p) == T_BLOCK_END || token(p) == T_RPAREN || (word_ && is_word(p, word_));
}

Status parse_tuple(Parser *p, ParseItem item, const char *end_word, bool in_parentheses, JNode **out) {
    Nodes items = {0};
    size_t at = p->lex.begin;
    bool comma = false, is_tuple = false;
    char seen[64];
    JNode *node;
    while (!tuple_ends(p, end_word)) {
        TRY_RETURN(item(p, &node));
        TRY_RETURN(parser_push(p, &items, node));
        TRY_RETURN(parser_take(p, T_COMMA, &comma));
        if (!comma) break;
        is_tuple = true;
    }
    if (!is_tuple && items.n) {
        *out = items.items[0];
        return TANE_OK;
    }
    if (!is_tuple && !in_parentheses)
        return PARSER_BAD(p, "expected an expression, found %s", jinja_token_title(&p->lex, seen));
    TRY_RETURN(parser_make(p, E_TUPLE, at, out));
    return parser_set_list(p, *out, &items);
}

static Status parse_list(Parser *p, JNode **out) {
    Nodes items = {0};
    JNode *node;
    TRY_RETURN(parser_make(p, E_LIST, p->lex.begin, out));
    TRY_RETURN(next(p));
    while (token(p) != T_RBRACKET) {
        if (items.n) TRY_RETURN(parser_expect(p, T_COMMA, "',' or ']'"));
        if (token(p) == T_RBRACKET) break;
        TRY_RETURN(parse_expression(p, &node));
        TRY_RETURN(parser_push(p, &items, node));
    }
    TRY_RETURN(next(p));
    return parser_set_list(p, *out, &items);
}

static Status parse_dict(Parser *p, JNode **out) {
    Nodes items = {0};
    JNode *node;
    TRY_RETURN(parser_make(p, E_DICT, p->lex.begin, out));
    TRY_RETURN(next(p));
    while (token(p) != T_RBRACE) {
        if (items.n) TRY_RETURN(parser_expect(p, T_COMMA, "',' or '}'"));
        if (token(p) == T_RBRACE) break;
        TRY_RETURN(parse_expression(p, &node));
        TRY_RETURN(parser_push(p, &items, node));
        TRY_RETURN(parser_expect(p, T_COLON, "':'"));
        TRY_RETURN(parse_expression(p, &node));
        TRY_RETURN(parser_push(p, &items, node));
    }
    TRY_RETURN(next(p));
    return parser_set_list(p, *out, &items);
}

/* Notes that the macros around speak of caller, kwargs or varargs. */
static void note_name(Parser *p, const JName *name) {
    if (!p->macro) return;
    p->macro->takes_caller |= name == p->t->known[NAME_CALLER];
    p->macro->takes_kwargs |= name == p->t->known[NAME_KWARGS];
    p->macro->takes_varargs |= name == p->t->known[NAME_VARARGS];
}

bool parse_constant_word(const Parser *p, JVal *value) {
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
        if (parse_constant_word(p, &value)) {
            TRY_RETURN(parser_make(p, E_CONST, p->lex.begin, out));
            (*out)->value = value;
            return next(p);
        }
        TRY_RETURN(parser_make(p, E_NAME, p->lex.begin, out));
        TRY_RETURN(parser_expect_name(p, "a name", &(*out)->name));
        note_name(p, (*out)->name);
        return TANE_OK;
    case T_STRING: return parse_string(p, out);
    case T_INTEGER:
    case T_FLOAT: return parse_number(p, out);
    case T_LPAREN:
        TRY_RETURN(next(p));
        TRY_RETURN(parse_tuple(p, parse_expression, NULL, true, out));
        return parser_expect(p, T_RPAREN, "')'");
    case T_LBRACKET: return parse_list(p, out);
    case T_LBRACE: return parse_dict(p, out);
    default: return PARSER_BAD(p, "expected an expression, found %s", jinja_token_title(&p->lex, seen));
    }
}

/* The name of an argument when one stands here: name=... */
static Status argument_name(Parser *p, const JStr **name) {
    JLexer ahead;
    const JName *found;
    *name = NULL;
    if (token(p) != T_NAME) return TANE_OK;
    TRY_RETURN(parser_look(p, &ahead));
    if (ahead.token != T_ASSIGN) return TANE_OK;
    TRY_RETURN(parser_expect_name(p, "a name", &found));
    *name = &found->str;
    return next(p);
}

static Status parse_argument(Parser *p, JArgs *args, Nodes *pos, Nodes *named) {
    JNode *node;
    const JStr *name = NULL;
    bool star = token(p) == T_MUL, star_star = token(p) == T_POW;
    if (star || star_star) {
        if (args->star_star || (star && args->star)) return PARSER_BAD(p, "this * cannot stand here");
        TRY_RETURN(next(p));
        return parse_expression(p, star ? &args->star : &args->star_star);
    }
    TRY_RETURN(argument_name(p, &name));
    if (args->star_star || (!name && (args->star || named->n)))
        return PARSER_BAD(p, "an argument by position stands behind one by name");
    TRY_RETURN(parse_expression(p, &node));
    if (!name) return parser_push(p, pos, node);
    for (uint32_t i = 0; i < named->n; i++)
        if (args->names[i] == name) return PARSER_BAD(p, "the argument %.*s is given twice", (int)name->n, name->data);
    const JStr **names;
    TRY_RETURN(ARENA_NEW_ARRAY(&p->t->arena, &names, named->n + 1));
    if (named->n) memcpy(names, args->names, named->n * sizeof *names);
    names[named->n] = name;
    args->names = names;
    return parser_push(p, named, node);
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
        if (!first) TRY_RETURN(parser_expect(p, T_COMMA, "',' or ')'"));
        if (token(p) == T_RPAREN) break;
        if (named.n >= 64) return PARSER_BAD(p, "more than 64 arguments by name");
        TRY_RETURN(parse_argument(p, args, &pos, &named));
    }
    TRY_RETURN(next(p));
    args->pos = pos.items;
    args->n_pos = pos.n;
    args->named = named.items;
    args->n_named = named.n;
    for (uint32_t i = 0; i < pos.n; i++) TRY_RETURN(parser_under(p, owner, pos.items[i]));
    for (uint32_t i = 0; i < named.n; i++) TRY_RETURN(parser_under(p, owner, named.items[i]));
    TRY_RETURN(parser_under(p, owner, args->star));
    return parser_under(p, owner, args->star_star);
}

static Status parse_call(Parser *p, JNode **node) {
    JNode *call;
    TRY_RETURN(parser_make_over(p, E_CALL, p->lex.begin, *node, NULL, &call));
    *node = call;
    return parse_arguments(p, call);
}

/* a.name, a.0 */
static Status parse_dot(Parser *p, JNode **node) {
    char seen[64];
    JNode *out;
    TRY_RETURN(next(p));
    if (token(p) == T_NAME) {
        TRY_RETURN(parser_make_over(p, E_ATTRIBUTE, p->lex.begin, *node, NULL, &out));
        TRY_RETURN(parser_expect_name(p, "a name", &out->name));
    } else if (token(p) == T_INTEGER) {
        JNode *index;
        size_t at = p->lex.begin;
        TRY_RETURN(parse_number(p, &index));
        TRY_RETURN(parser_make_over(p, E_ITEM, at, *node, index, &out));
    } else {
        return PARSER_BAD(p, "expected a name or a number behind '.', found %s", jinja_token_title(&p->lex, seen));
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
        return parser_fail(p, at, TANE_EUNSUPPORTED, "a subscript of several parts, x[a, b], is not supported");
    if (!slices && !bounds[0])
        return PARSER_BAD(p, "expected an expression, found %s", jinja_token_title(&p->lex, seen));
    TRY_RETURN(parser_expect(p, T_RBRACKET, "']'"));
    TRY_RETURN(parser_make_over(p, slices ? E_SLICE : E_ITEM, at, *node, slices ? NULL : bounds[0], &out));
    if (slices) {
        for (int i = 0; i < 3; i++) {
            TRY_RETURN(parser_push(p, &list, bounds[i]));
            TRY_RETURN(parser_under(p, out, bounds[i]));
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
    if (node->builtin)
        snprintf(message, sizeof message, "the %s '%s' of Jinja is not supported", kind, node->builtin->name);
    else
        snprintf(message, sizeof message, "no %s named '%.*s'", kind,
                 (int)(node->name->str.n < 100 ? node->name->str.n : 100), node->name->str.data);
    return jinja_fail_at(t->where, t->text, node->at, TANE_EUNSUPPORTED, message);
}

/* The name of a filter or test. One with dots is a name that nobody knows. */
static Status builtin_name(Parser *p, const char *title, const JName **out) {
    size_t from = p->lex.from, to;
    TRY_RETURN(parser_expect_name(p, title, out));
    while (token(p) == T_DOT) {
        const JName *part;
        TRY_RETURN(next(p));
        to = p->lex.to;
        TRY_RETURN(parser_expect_name(p, title, &part));
        TRY_RETURN(parser_intern(p->t, p->lex.text + from, to - from, out));
    }
    return TANE_OK;
}

Status parse_filters(Parser *p, bool inline_, JNode **node) {
    while (inline_ || token(p) == T_PIPE) {
        JNode *out;
        if (!inline_) TRY_RETURN(next(p));
        inline_ = false;
        TRY_RETURN(parser_make_over(p, E_FILTER, p->lex.begin, *node, NULL, &out));
        TRY_RETURN(builtin_name(p, "the name of a filter", &out->name));
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
    TRY_RETURN(parser_take_word(p, "not", &negated));
    TRY_RETURN(parser_make_over(p, E_TEST, p->lex.begin, *node, NULL, &test));
    TRY_RETURN(builtin_name(p, "the name of a test", &test->name));
    test->builtin = jinja_find_test(test->name->str.data, test->name->str.n);
    check_builtin(p, test);
    bool is_argument = token(p) == T_NAME || token(p) == T_STRING || token(p) == T_INTEGER || token(p) == T_FLOAT ||
                       token(p) == T_LBRACKET || token(p) == T_LBRACE;
    if (token(p) != T_LPAREN && is_argument && !parser_at_any(p, not_an_argument)) {
        Nodes pos = {0};
        if (is_word(p, "is")) return PARSER_BAD(p, "tests cannot be chained: put parentheses around the first");
        TRY_RETURN(ARENA_NEW(&p->t->arena, &test->args));
        TRY_RETURN(parse_primary(p, &argument));
        TRY_RETURN(parse_postfix(p, &argument));
        TRY_RETURN(parser_push(p, &pos, argument));
        test->args->pos = pos.items;
        test->args->n_pos = 1;
        TRY_RETURN(parser_under(p, test, argument));
    } else {
        TRY_RETURN(parse_arguments(p, test));
    }
    *node = test;
    return negated ? parser_make_over(p, E_NOT, at, test, NULL, node) : TANE_OK;
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
        TRY_RETURN(parser_enter(p));
        TRY_RETURN(next(p));
        TRY_RETURN(parse_unary(p, false, &operand));
        TRY_RETURN(parser_make_over(p, kind, at, operand, NULL, out));
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
        TRY_RETURN(parser_make_over(p, E_BINARY, at, left, right, out));
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
    TRY_RETURN(parser_push(p, &items, *out));
    while (token(p) == T_TILDE) {
        TRY_RETURN(next(p));
        TRY_RETURN(parse_product(p, out));
        TRY_RETURN(parser_push(p, &items, *out));
    }
    TRY_RETURN(parser_make(p, E_CONCAT, at, out));
    return parser_set_list(p, *out, &items);
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
        TRY_RETURN(parser_look(p, &ahead));
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
        if (items.n == MOST) return PARSER_BAD(p, "more than %d comparisons in a row", MOST);
        ops[items.n] = (uint8_t)op;
        TRY_RETURN(parse_sum(p, &node));
        TRY_RETURN(parser_push(p, &items, node));
    }
    *out = first;
    if (!items.n) return TANE_OK;
    TRY_RETURN(parser_make_over(p, E_COMPARE, at, first, NULL, out));
    TRY_RETURN(parser_set_list(p, *out, &items));
    TRY_RETURN(ARENA_NEW_ARRAY(&p->t->arena, &kept, items.n));
    memcpy(kept, ops, items.n);
    (*out)->ops = kept;
    return TANE_OK;
}

static Status parse_not(Parser *p, JNode **out) {
    if (!is_word(p, "not")) return parse_comparison(p, out);
    size_t at = p->lex.begin;
    JNode *operand;
    TRY_RETURN(parser_enter(p));
    TRY_RETURN(next(p));
    TRY_RETURN(parse_not(p, &operand));
    p->nesting--;
    return parser_make_over(p, E_NOT, at, operand, NULL, out);
}

static Status parse_words(Parser *p, const char *op, JKind kind, ParseItem operand, JNode **out) {
    TRY_RETURN(operand(p, out));
    while (is_word(p, op)) {
        size_t at = p->lex.begin;
        JNode *right, *left = *out;
        TRY_RETURN(next(p));
        TRY_RETURN(operand(p, &right));
        TRY_RETURN(parser_make_over(p, kind, at, left, right, out));
    }
    return TANE_OK;
}

static Status parse_and(Parser *p, JNode **out) { return parse_words(p, "and", E_AND, parse_not, out); }
Status parse_or(Parser *p, JNode **out) { return parse_words(p, "or", E_OR, parse_and, out); }

Status parse_expression(Parser *p, JNode **out) {
    bool soft = p->soft, has_else;
    const JNode *unknown = p->unknown;
    TRY_RETURN(parser_enter(p));
    TRY_RETURN(parse_or(p, out));
    while (is_word(p, "if")) {
        size_t at = p->lex.begin;
        JNode *then = *out;
        p->soft = true;
        p->unknown = unknown; /* what stands before the if is inside it too */
        TRY_RETURN(next(p));
        TRY_RETURN(parser_make_over(p, E_IF, at, then, NULL, out));
        TRY_RETURN(parse_or(p, &(*out)->b));
        TRY_RETURN(parser_under(p, *out, (*out)->b));
        TRY_RETURN(parser_take_word(p, "else", &has_else));
        if (has_else) TRY_RETURN(parse_expression(p, &(*out)->c));
        TRY_RETURN(parser_under(p, *out, (*out)->c));
    }
    p->soft = soft;
    p->nesting--;
    return TANE_OK;
}
