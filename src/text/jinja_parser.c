/* The parser: tokens to a tree, by recursive descent, with the grammar of jinja2.parser. What a template nests is
 * bounded here, so that nothing later has to fear its depth. */
#include "text/jinja_parser.h"

#include <stdio.h>

#include "text/utf8.h"

/* ---- statements ------------------------------------------------------------------------------------------------- */

static Status parse_body(Parser *p, const char *const *end_words, JNode **out);

/* The body of a statement whose head ends here, up to one of the words, which is left as the current token. */
static Status parse_block(Parser *p, const char *const *end_words, JNode **out) {
    bool colon;
    TRY_RETURN(parser_take(p, T_COLON, &colon));
    TRY_RETURN(parser_expect(p, T_BLOCK_END, "the end of the tag '%}'"));
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
        TRY_RETURN(parser_enter(p));
        TRY_RETURN(next(p));
        TRY_RETURN(parse_tuple(p, parse_target_item, NULL, true, out));
        p->nesting--;
        return parser_expect(p, T_RPAREN, "')'");
    }
    char seen[64];
    if (token(p) != T_NAME || parse_constant_word(p, &constant))
        return PARSER_BAD(p, "cannot assign to %s", jinja_token_title(&p->lex, seen));
    TRY_RETURN(parser_make(p, E_NAME, p->lex.begin, out));
    TRY_RETURN(parser_expect_name(p, "a name", &(*out)->name));
    if (token(p) != T_DOT) return TANE_OK;
    (*out)->kind = E_NS;
    TRY_RETURN(next(p));
    return parser_expect_name(p, "the name of an attribute", &(*out)->attribute);
}

/* Only `set` assigns to attributes. */
static Status check_plain_target(Parser *p, const JNode *target) {
    if (target->kind == E_NS)
        return parser_fail(p, target->at, TANE_EFORMAT, "only {%% set %%} can assign to an attribute");
    for (uint32_t i = 0; i < target->n; i++) TRY_RETURN(check_plain_target(p, target->list[i]));
    if (target->name && target->name == p->t->known[NAME_LOOP])
        return parser_fail(p, target->at, TANE_EFORMAT, "a loop cannot assign to 'loop'");
    return TANE_OK;
}

static Status parse_set(Parser *p, JNode **out) {
    bool assign;
    TRY_RETURN(parser_make(p, S_SET, p->lex.begin, out));
    TRY_RETURN(next(p));
    TRY_RETURN(parse_target(p, NULL, &(*out)->a));
    TRY_RETURN(parser_take(p, T_ASSIGN, &assign));
    if (assign) return parse_tuple(p, parse_expression, NULL, false, &(*out)->b);
    (*out)->kind = S_SET_BLOCK;
    if (token(p) == T_PIPE) {
        TRY_RETURN(parser_make(p, E_CAPTURED, p->lex.begin, &(*out)->b));
        TRY_RETURN(parse_filters(p, false, &(*out)->b));
    }
    return parse_closed_block(p, "endset", &(*out)->c);
}

static Status parse_for(Parser *p, JNode **out) {
    bool taken, soft = p->soft, in_loop = p->in_loop;
    Nodes parts = {0};
    JNode *test = NULL, *body;
    TRY_RETURN(parser_make(p, S_FOR, p->lex.begin, out));
    TRY_RETURN(next(p));
    TRY_RETURN(parse_target(p, "in", &(*out)->a));
    TRY_RETURN(check_plain_target(p, (*out)->a));
    TRY_RETURN(parser_take_word(p, "in", &taken));
    if (!taken) return PARSER_BAD(p, "expected 'in'");
    TRY_RETURN(parse_tuple(p, parse_or, "recursive", false, &(*out)->b));
    p->soft = false;
    TRY_RETURN(parser_take_word(p, "if", &taken));
    if (taken) TRY_RETURN(parse_expression(p, &test));
    if (is_word(p, "recursive"))
        return parser_fail(p, p->lex.begin, TANE_EUNSUPPORTED, "recursive loops are not supported; use a macro");
    p->in_loop = true;
    TRY_RETURN(parse_block(p, (const char *const[]){"endfor", "else", NULL}, &body));
    p->in_loop = in_loop;
    TRY_RETURN(parser_push(p, &parts, test));
    TRY_RETURN(parser_push(p, &parts, body));
    (*out)->list = parts.items;
    (*out)->n = parts.n;
    TRY_RETURN(parser_take_word(p, "else", &taken));
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
    TRY_RETURN(parser_make(p, S_IF, p->lex.begin, out));
    do {
        TRY_RETURN(next(p));
        TRY_RETURN(parse_tuple(p, parse_or, NULL, false, &node));
        TRY_RETURN(parser_push(p, &parts, node));
        TRY_RETURN(parse_block(p, ends, &node));
        TRY_RETURN(parser_push(p, &parts, node));
    } while (is_word(p, "elif"));
    (*out)->list = parts.items;
    (*out)->n = parts.n;
    bool has_else;
    TRY_RETURN(parser_take_word(p, "else", &has_else));
    if (has_else) TRY_RETURN(parse_block(p, (const char *const[]){"endif", NULL}, &(*out)->c));
    p->soft = soft;
    return next(p);
}

/* "(a, b=1)" into the macro. */
static Status parse_signature(Parser *p, JMacroNode *m) {
    enum { MOST = 255 };
    bool assign, has_default = false;
    TRY_RETURN(parser_expect(p, T_LPAREN, "'('"));
    TRY_RETURN(ARENA_NEW_ARRAY(&p->t->arena, &m->params, MOST));
    TRY_RETURN(ARENA_NEW_ARRAY(&p->t->arena, &m->defaults, MOST));
    while (token(p) != T_RPAREN) {
        if (m->n_params) TRY_RETURN(parser_expect(p, T_COMMA, "',' or ')'"));
        if (m->n_params == MOST) return PARSER_BAD(p, "more than %d parameters", MOST);
        TRY_RETURN(parser_expect_name(p, "the name of a parameter", &m->params[m->n_params]));
        TRY_RETURN(parser_take(p, T_ASSIGN, &assign));
        if (assign) TRY_RETURN(parse_expression(p, &m->defaults[m->n_params]));
        else if (has_default) return PARSER_BAD(p, "a parameter without a default stands behind one that has one");
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
    TRY_RETURN(parser_make(p, S_MACRO, p->lex.begin, out));
    TRY_RETURN(ARENA_NEW(&p->t->arena, &m));
    (*out)->macro = m;
    TRY_RETURN(next(p));
    TRY_RETURN(parser_expect_name(p, "the name of the macro", &m->name));
    TRY_RETURN(parse_signature(p, m));
    return parse_macro_body(p, "endmacro", m);
}

static Status parse_call_block(Parser *p, JNode **out) {
    JMacroNode *m;
    TRY_RETURN(parser_make(p, S_CALL, p->lex.begin, out));
    TRY_RETURN(ARENA_NEW(&p->t->arena, &m));
    (*out)->macro = m;
    TRY_RETURN(next(p));
    if (token(p) == T_LPAREN) TRY_RETURN(parse_signature(p, m));
    TRY_RETURN(parse_expression(p, &(*out)->a));
    if ((*out)->a->kind != E_CALL)
        return parser_fail(p, (*out)->at, TANE_EFORMAT, "{%% call %%} wants a call: {%% call name(...) %%}");
    return parse_macro_body(p, "endcall", m);
}

static Status parse_filter_block(Parser *p, JNode **out) {
    TRY_RETURN(parser_make(p, S_FILTER, p->lex.begin, out));
    TRY_RETURN(next(p));
    TRY_RETURN(parser_make(p, E_CAPTURED, p->lex.begin, &(*out)->a));
    TRY_RETURN(parse_filters(p, true, &(*out)->a));
    return parse_closed_block(p, "endfilter", &(*out)->c);
}

static Status parse_with(Parser *p, JNode **out) {
    Nodes parts = {0};
    JNode *node;
    TRY_RETURN(parser_make(p, S_WITH, p->lex.begin, out));
    TRY_RETURN(next(p));
    while (token(p) != T_BLOCK_END) {
        if (parts.n) TRY_RETURN(parser_expect(p, T_COMMA, "',' or the end of the tag"));
        TRY_RETURN(parse_target_item(p, &node));
        TRY_RETURN(check_plain_target(p, node));
        TRY_RETURN(parser_push(p, &parts, node));
        TRY_RETURN(parser_expect(p, T_ASSIGN, "'='"));
        TRY_RETURN(parse_expression(p, &node));
        TRY_RETURN(parser_push(p, &parts, node));
    }
    (*out)->list = parts.items;
    (*out)->n = parts.n;
    return parse_closed_block(p, "endwith", &(*out)->c);
}

static Status parse_generation(Parser *p, JNode **out) {
    bool in_loop = p->in_loop;
    TRY_RETURN(parser_make(p, S_GENERATION, p->lex.begin, out));
    TRY_RETURN(next(p));
    p->in_loop = false; /* its body is a caller's, as in transformers */
    TRY_RETURN(parse_closed_block(p, "endgeneration", &(*out)->c));
    p->in_loop = in_loop;
    p->t->generation = true;
    return TANE_OK;
}

static Status parse_loop_control(Parser *p, JNode **out) {
    bool is_break = is_word(p, "break");
    if (!p->in_loop) return PARSER_BAD(p, "'%s' stands outside a loop", is_break ? "break" : "continue");
    TRY_RETURN(parser_make(p, is_break ? S_BREAK : S_CONTINUE, p->lex.begin, out));
    return next(p);
}

static Status parse_print(Parser *p, JNode **out) {
    Nodes parts = {0};
    JNode *node, *print;
    TRY_RETURN(parser_make(p, S_BODY, p->lex.begin, out));
    TRY_RETURN(next(p));
    while (token(p) != T_BLOCK_END) {
        if (parts.n) TRY_RETURN(parser_expect(p, T_COMMA, "',' or the end of the tag"));
        TRY_RETURN(parser_make(p, S_PRINT, p->lex.begin, &print));
        TRY_RETURN(parse_expression(p, &node));
        print->a = node;
        TRY_RETURN(parser_push(p, &parts, print));
    }
    (*out)->list = parts.items;
    (*out)->n = parts.n;
    return TANE_OK;
}

static Status parse_unknown(Parser *p, const char *const *end_words) {
    static const char *const jinja[] = {"extends", "include", "import", "from", "block",    "autoescape",
                                        "trans",   "do",      "debug",  "raw",  "pluralize"};
    char seen[64], wanted[128] = "";
    for (size_t i = 0; i < sizeof jinja / sizeof *jinja; i++)
        if (is_word(p, jinja[i]))
            return parser_fail(p, p->lex.begin, TANE_EUNSUPPORTED, "the tag '%s' is not supported in chat templates",
                               jinja[i]);
    for (; end_words && *end_words; end_words++)
        snprintf(wanted + strlen(wanted), sizeof wanted - strlen(wanted), "%s'%s'",
                 *wanted ? " or "
                         : "; open is what "
                           "ends with ",
                 *end_words);
    return PARSER_BAD(p, "unknown tag %s%s", jinja_token_title(&p->lex, seen), wanted);
}

static Status parse_statement(Parser *p, const char *const *end_words, JNode **out) {
    static const struct {
        const char *tag;
        Status (*parse)(Parser *p, JNode **out);
    } rows[] = {{"if", parse_if},
                {"for", parse_for},
                {"set", parse_set},
                {"macro", parse_macro},
                {"call", parse_call_block},
                {"filter", parse_filter_block},
                {"with", parse_with},
                {"generation", parse_generation},
                {"break", parse_loop_control},
                {"continue", parse_loop_control},
                {"print", parse_print}};
    char seen[64];
    if (token(p) != T_NAME)
        return PARSER_BAD(p, "expected the name of a tag, found %s", jinja_token_title(&p->lex, seen));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (!is_word(p, rows[i].tag)) continue;
        TRY_RETURN(parser_enter(p));
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
        TRY_RETURN(parser_make(p, S_DATA, p->lex.begin, &node));
        TRY_RETURN(ARENA_NEW(&p->t->arena, &s));
        *s = (JStr){.data = word(p), .n = word_length(p)};
        node->value = j_from_str(s);
        TRY_RETURN(parser_push(p, body, node));
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
            if (end_words) return PARSER_BAD(p, "the template ends before '%s'", end_words[0]);
            ended = true;
            break;
        case T_DATA: TRY_RETURN(parse_data(p, &body)); break;
        case T_PRINT_BEGIN:
            TRY_RETURN(parser_make(p, S_PRINT, p->lex.begin, &node));
            TRY_RETURN(next(p));
            TRY_RETURN(parse_tuple(p, parse_expression, NULL, false, &node->a));
            TRY_RETURN(parser_expect(p, T_PRINT_END, "'}}'"));
            TRY_RETURN(parser_push(p, &body, node));
            break;
        default:
            TRY_RETURN(next(p));
            ended = end_words && parser_at_any(p, end_words);
            if (ended) break;
            TRY_RETURN(parse_statement(p, end_words, &node));
            TRY_RETURN(parser_push(p, &body, node));
            TRY_RETURN(parser_expect(p, T_BLOCK_END, "the end of the tag '%}'"));
        }
    }
    TRY_RETURN(parser_make(p, S_BODY, at, out));
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
    for (int i = 0; i < NAME_COUNT; i++) TRY_RETURN(parser_intern(t, known[i], strlen(known[i]), &t->known[i]));
    Parser p = {.t = t};
    jinja_lexer_init(&p.lex, t->where, t->text, t->n);
    TRY_RETURN(next(&p));
    TRY_RETURN(parse_body(&p, NULL, &t->body));
    return p.unknown ? jinja_fail_unknown(t, p.unknown) : TANE_OK;
}

Status jinja_parse(JinjaTemplate **out, const char *where, const char *source, size_t n) {
    *out = NULL;
    if (n > JINJA_MAX_SOURCE)
        return FAIL(TANE_EFORMAT, "%s: a chat template of %zu bytes; at most %d are allowed", where, n,
                    JINJA_MAX_SOURCE);
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
