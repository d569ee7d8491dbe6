/* The lexer; see jinja_lexer.h. The rules are those of jinja2.lexer with the settings that transformers gives it. */
#include "text/jinja_lexer.h"

#include <stdio.h>
#include <string.h>

#include "text/jinja_text.h"
#include "text/utf8.h"

void jinja_lexer_init(JLexer *l, const char *where, const char *text, size_t n) {
    *l = (JLexer){.where = where, .text = text, .n = n, .line_start = true, .token = T_DATA};
}

Status jinja_fail_at(const char *where, const char *text, size_t at, Status code, const char *message) {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at; i++) {
        if (text[i] == '\n') {
            line++;
            column = 1;
        } else if (((unsigned char)text[i] & 0xC0) != 0x80) {
            column++;
        }
    }
    return FAIL(code, "%s:%zu:%zu: %s", where, line, column, message);
}

static Status fail(const JLexer *l, size_t at, const char *message) {
    return jinja_fail_at(l->where, l->text, at, TANE_EFORMAT, message);
}

const char *jinja_token_title(const JLexer *l, char out[64]) {
    size_t n = l->to - l->from;
    switch (l->token) {
    case T_END: return "the end of the template";
    case T_DATA: return "the text behind the tag";
    case T_BLOCK_END: return "the end of the tag '%}'";
    case T_PRINT_END: return "the end of the expression '}}'";
    default: snprintf(out, 64, "'%.*s'", (int)(n < 40 ? n : 40), l->text + l->from); return out;
    }
}

static bool has(const JLexer *l, size_t at, const char *what) {
    size_t n = strlen(what);
    return l->n - at >= n && memcmp(l->text + at, what, n) == 0;
}

static size_t skip_space(const JLexer *l, size_t at) { return at + text_space_before(l->text + at, l->n - at); }

/* ---- text between tags ------------------------------------------------------------------------------------------ */

/* The next "{%", "{{" or "{#" from `at` on, or the end. */
static size_t find_tag(const JLexer *l, size_t at) {
    while (at + 1 < l->n) {
        const char *brace = memchr(l->text + at, '{', l->n - at - 1);
        if (!brace) break;
        at = (size_t)(brace - l->text);
        if (brace[1] == '%' || brace[1] == '{' || brace[1] == '#') return at;
        at++;
    }
    return l->n;
}

/* Where text[from..to) ends when the tag behind it has this sign ('-', '+' or another). */
static size_t trimmed(const JLexer *l, size_t from, size_t to, char sign, bool is_block) {
    if (sign == '-') return to - text_space_behind(l->text + from, to - from);
    if (sign == '+' || !is_block) return to;
    size_t space = text_space_behind(l->text + from, to - from);
    for (size_t line = to; line-- > to - space;)
        if (l->text[line] == '\n') return line + 1;
    return space == to - from && l->line_start ? from : to;
}

/* The end of the tag that closes at `at` with "%}" (or "#}"), white space that goes with it too; 0 when it does not. */
static size_t closes(const JLexer *l, size_t at, const char *end) {
    bool minus = has(l, at, "-"), plus = has(l, at, "+");
    if (!has(l, at + (minus || plus), end)) return 0;
    size_t behind = at + (minus || plus) + 2;
    if (minus) return skip_space(l, behind);
    return !plus && behind < l->n && l->text[behind] == '\n' ? behind + 1 : behind;
}

/* "{%- name -%}" at `at`: where it ends, or 0. raw's own beginning takes no newline with it. */
static size_t simple_tag(const JLexer *l, size_t at, const char *name, bool trims, char *sign) {
    size_t p = at + 2;
    *sign = p < l->n ? l->text[p] : 0;
    if (*sign == '-' || *sign == '+') p++;
    p = skip_space(l, p);
    if (!has(l, p, name)) return 0;
    p = skip_space(l, p + strlen(name));
    if (trims) return closes(l, p, "%}");
    if (has(l, p, "-%}")) return skip_space(l, p + 3);
    return has(l, p, "%}") ? p + 2 : 0;
}

static void remember_line(JLexer *l, size_t end) { l->line_start = end > 0 && l->text[end - 1] == '\n'; }

static void set_data(JLexer *l, size_t from, size_t to) {
    l->token = T_DATA;
    l->begin = l->from = from;
    l->to = to;
}

static Status comment(JLexer *l, size_t begin) {
    /* A sign of the beginning is not one of the end: {#-#} is closed by its "#}" alone. */
    size_t at = begin + 2 + (has(l, begin + 2, "-") || has(l, begin + 2, "+"));
    for (; at < l->n; at++) {
        size_t end = closes(l, at, "#}");
        if (!end) continue;
        l->at = end;
        remember_line(l, end);
        return TANE_OK;
    }
    return fail(l, begin, "the comment has no end; close it with #}");
}

/* Text between {% raw %} and {% endraw %}; l->at is behind the former. */
static Status raw(JLexer *l, size_t begin) {
    size_t from = l->at;
    for (size_t at = from; (at = find_tag(l, at)) < l->n; at++) {
        char sign;
        size_t end = l->text[at + 1] == '%' ? simple_tag(l, at, "endraw", true, &sign) : 0;
        if (!end) continue;
        set_data(l, from, trimmed(l, from, at, sign, true));
        l->at = end;
        remember_line(l, end);
        return TANE_OK;
    }
    return fail(l, begin, "the raw block has no end; close it with {% endraw %}");
}

/* Text up to the next tag, or the tag when it is here. */
static Status outside(JLexer *l) {
    while (l->at < l->n) {
        size_t from = l->at, tag = find_tag(l, from);
        char kind = tag < l->n ? l->text[tag + 1] : 0, sign = 0;
        if (!kind) {
            l->at = l->n;
            set_data(l, from, l->n);
            return TANE_OK;
        }
        size_t raw_end = kind == '%' ? simple_tag(l, tag, "raw", false, &sign) : 0;
        sign = tag + 2 < l->n ? l->text[tag + 2] : 0;
        size_t to = trimmed(l, from, tag, sign, kind != '{');
        if (to > from) {
            set_data(l, from, to);
            l->at = tag; /* seen again, with nothing before it */
            l->line_start = false;
            return TANE_OK;
        }
        if (raw_end) {
            l->at = raw_end;
            remember_line(l, raw_end);
            return raw(l, tag);
        }
        if (kind == '#') {
            TRY_RETURN(comment(l, tag));
            continue;
        }
        l->tag = kind;
        l->token = kind == '%' ? T_BLOCK_BEGIN : T_PRINT_BEGIN;
        l->begin = l->from = tag;
        l->to = l->at = tag + 2 + (sign == '-' || sign == '+');
        l->line_start = false;
        return TANE_OK;
    }
    l->token = T_END;
    l->begin = l->from = l->to = l->n;
    return TANE_OK;
}

/* ---- words inside tags ------------------------------------------------------------------------------------------ */

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_name_byte(char c) { return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

/* Digits with single underscores between them. */
static size_t digits(const JLexer *l, size_t at, const char *set) {
    size_t end = at;
    while (at < l->n && l->text[at] && strchr(set, l->text[at])) {
        end = ++at;
        if (at < l->n && l->text[at] == '_') at++;
    }
    return end;
}

static void number(JLexer *l) {
    static const char decimal[] = "0123456789";
    size_t at = l->at, end;
    l->token = T_INTEGER;
    char second = at + 1 < l->n && l->text[at] == '0' ? (char)(l->text[at + 1] | 0x20) : 0;
    const char *set = second == 'b'   ? "01"
                      : second == 'o' ? "01234567"
                      : second == 'x' ? "0123456789abcdefABCDEF"
                                      : NULL;
    size_t prefix = at + 2 + (at + 2 < l->n && l->text[at + 2] == '_');
    if (set && (end = digits(l, prefix, set)) > prefix) {
        l->to = l->at = end;
        return;
    }
    end = digits(l, at, decimal);
    bool item = at > 0 && l->text[at - 1] == '.'; /* x.0.1 is item 1 of item 0 */
    if (!item && end < l->n && l->text[end] == '.' && digits(l, end + 1, decimal) > end + 1) {
        end = digits(l, end + 1, decimal);
        l->token = T_FLOAT;
    }
    if (!item && end < l->n && (l->text[end] | 0x20) == 'e') {
        size_t exponent = end + 1 + (has(l, end + 1, "+") || has(l, end + 1, "-"));
        if (digits(l, exponent, decimal) > exponent) {
            end = digits(l, exponent, decimal);
            l->token = T_FLOAT;
        }
    }
    /* A number that begins with 0 is 0 alone: 007 is 00 and then 7. */
    if (l->token == T_INTEGER && l->text[at] == '0') end = digits(l, at, "0");
    l->to = l->at = end;
}

static Status string(JLexer *l) {
    char quote = l->text[l->at];
    size_t at = l->at + 1;
    while (at < l->n && l->text[at] != quote) at += l->text[at] == '\\' ? 2 : 1;
    if (at >= l->n) return fail(l, l->begin, "the string has no closing quote");
    l->token = T_STRING;
    l->from = l->begin + 1;
    l->to = at;
    l->at = at + 1;
    return TANE_OK;
}

static Status bracket(JLexer *l, char c) {
    static const char opening[] = "([{", closing[] = ")]}";
    const char *opens = strchr(opening, c), *closes_ = strchr(closing, c);
    char message[120];
    if (opens) {
        if (l->open == JINJA_MAX_NESTING) {
            snprintf(message, sizeof message, "brackets more than %d deep inside each other", JINJA_MAX_NESTING);
            return fail(l, l->begin, message);
        }
        l->brackets[l->open++] = closing[opens - opening];
    } else if (closes_) {
        char expected = l->open ? l->brackets[--l->open] : 0;
        if (expected == c) return TANE_OK;
        if (expected) snprintf(message, sizeof message, "unexpected '%c', expected '%c'", c, expected);
        else snprintf(message, sizeof message, "unexpected '%c': nothing is open that it could close", c);
        return fail(l, l->begin, message);
    }
    return TANE_OK;
}

static Status operator(JLexer *l) {
    static const struct {
        const char *text;
        JToken token;
    } rows[] = {/* longest first */
                {"//", T_FLOORDIV}, {"**", T_POW},   {"==", T_EQ},      {"!=", T_NE},      {"<=", T_LE},
                {">=", T_GE},       {"+", T_ADD},    {"-", T_SUB},      {"*", T_MUL},      {"/", T_DIV},
                {"%", T_MOD},       {"~", T_TILDE},  {"<", T_LT},       {">", T_GT},       {"=", T_ASSIGN},
                {"(", T_LPAREN},    {")", T_RPAREN}, {"[", T_LBRACKET}, {"]", T_RBRACKET}, {"{", T_LBRACE},
                {"}", T_RBRACE},    {".", T_DOT},    {",", T_COMMA},    {":", T_COLON},    {"|", T_PIPE},
                {";", T_SEMICOLON}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (!has(l, l->at, rows[i].text)) continue;
        TRY_RETURN(bracket(l, l->text[l->at]));
        l->token = rows[i].token;
        l->to = l->at += strlen(rows[i].text);
        return TANE_OK;
    }
    char message[64];
    snprintf(message, sizeof message, "unexpected character '%.*s'", (int)text_char(l->text + l->at), l->text + l->at);
    return fail(l, l->at, message);
}

static Status inside(JLexer *l) {
    size_t begin = l->at, end = 0;
    l->at = skip_space(l, l->at);
    if (l->at >= l->n)
        return fail(l, begin,
                    l->tag == '%' ? "the tag has no end; close it with %}"
                                  : "the expression has no end; close it with }}");
    l->begin = l->from = l->at;
    if (!l->open) {
        if (l->tag == '%') end = closes(l, l->at, "%}");
        else if (has(l, l->at, "-}}")) end = skip_space(l, l->at + 3);
        else if (has(l, l->at, "}}")) end = l->at + 2;
    }
    if (end) {
        l->token = l->tag == '%' ? T_BLOCK_END : T_PRINT_END;
        l->tag = 0;
        l->to = l->at = end;
        remember_line(l, end);
        return TANE_OK;
    }
    char c = l->text[l->at];
    if (c == '"' || c == '\'') return string(l);
    if (is_digit(c)) {
        number(l);
        return TANE_OK;
    }
    if (!is_name_byte(c)) return operator(l);
    l->token = T_NAME;
    while (l->at < l->n && is_name_byte(l->text[l->at])) l->at++;
    l->to = l->at;
    return TANE_OK;
}

Status jinja_lexer_next(JLexer *l) { return l->tag ? inside(l) : outside(l); }
