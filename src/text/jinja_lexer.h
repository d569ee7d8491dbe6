/* Tokens of a template, one at a time: the text between tags with its white space trimmed as trim_blocks, lstrip_blocks
 * and the signs in {%- -%} say, and the words inside tags. */
#ifndef TEXT_JINJA_LEXER_H
#define TEXT_JINJA_LEXER_H

#include "text/jinja.h"

typedef enum JToken {
    T_END,
    T_DATA,
    T_BLOCK_BEGIN,
    T_BLOCK_END,
    T_PRINT_BEGIN,
    T_PRINT_END,
    T_NAME,
    T_STRING,
    T_INTEGER,
    T_FLOAT,
    /* operators; the names are Python's */
    T_ADD,
    T_SUB,
    T_MUL,
    T_DIV,
    T_FLOORDIV,
    T_MOD,
    T_POW,
    T_TILDE,
    T_EQ,
    T_NE,
    T_LT,
    T_LE,
    T_GT,
    T_GE,
    T_ASSIGN,
    T_LPAREN,
    T_RPAREN,
    T_LBRACKET,
    T_RBRACKET,
    T_LBRACE,
    T_RBRACE,
    T_DOT,
    T_COMMA,
    T_COLON,
    T_PIPE,
    T_SEMICOLON
} JToken;

typedef struct JLexer {
    const char *where, *text; /* newlines are \n, the last one is gone */
    size_t n, at;
    char tag;        /* what is open: 0, '%' or '{' */
    bool line_start; /* the last match ended with a newline, or nothing was there yet */
    int open;        /* brackets */
    char brackets[JINJA_MAX_NESTING];
    /* the current token: text[from..to), for strings without their quotes */
    JToken token;
    size_t from, to;
    size_t begin; /* where it begins, quotes too, for errors */
} JLexer;

void jinja_lexer_init(JLexer *l, const char *where, const char *text, size_t n);
/* Goes to the next token. */
Status jinja_lexer_next(JLexer *l);
/* TANE_EFORMAT (or `code`) "<where>:<line>:<column>: ..." at an offset of the source. */
Status jinja_fail_at(const char *where, const char *text, size_t at, Status code, const char *message);
/* What a message calls the current token. */
const char *jinja_token_title(const JLexer *l, char out[64]);

#endif
