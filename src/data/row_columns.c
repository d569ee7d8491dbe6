/* Telling a row's format by its keys. See row_columns.h. */
#include "data/row_columns.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "text/utf8.h"

static const char *const key_names[N_KEYS] = {"text",          "prompt",      "completion", "messages",
                                              "conversations", "instruction", "input",      "output",
                                              "question",      "answer",      "tools",      "system"};

static const struct {
    const char *name;
    RowKey needs[2]; /* the second N_KEYS: only one */
} kinds[N_KINDS] = {
    [ROW_PROMPT] = {"prompt", {KEY_PROMPT, KEY_COMPLETION}},
    [ROW_TEXT] = {"text", {KEY_TEXT, N_KEYS}},
    [ROW_MESSAGES] = {"messages", {KEY_MESSAGES, N_KEYS}},
    [ROW_SHAREGPT] = {"sharegpt", {KEY_CONVERSATIONS, N_KEYS}},
    [ROW_ALPACA] = {"alpaca", {KEY_INSTRUCTION, KEY_OUTPUT}},
    [ROW_QUESTION] = {"question", {KEY_QUESTION, KEY_ANSWER}},
};

const char *row_kind_name(RowKind kind) { return kinds[kind].name; }

/* The format that a key belongs to; ROW_AUTO for those of several. */
static RowKind kind_of_key(RowKey key) {
    if (key == KEY_INPUT) return ROW_ALPACA;
    for (int kind = 0; kind < N_KINDS; kind++)
        if (kinds[kind].needs[0] == key || kinds[kind].needs[1] == key) return (RowKind)kind;
    return ROW_AUTO;
}

/* ---- options ---- */

static Status parse_format(RowColumns *c, const char *format) {
    c->kind = ROW_AUTO;
    if (!format || !*format || !strcmp(format, "auto")) return TANE_OK;
    for (int kind = 0; kind < N_KINDS; kind++) {
        if (strcmp(kinds[kind].name, format)) continue;
        c->kind = (RowKind)kind;
        return TANE_OK;
    }
    return FAIL(TANE_EINVAL, "format is \"%s\", but must be auto, text, prompt, messages, sharegpt, alpaca or question",
                format);
}

static char *trimmed(char *text) {
    size_t n;
    while (*text == ' ') text++;
    for (n = strlen(text); n && text[n - 1] == ' ';) text[--n] = 0;
    return text;
}

/* One "ours=theirs". */
static Status parse_column(RowColumns *c, char *item, bool mapped[N_KEYS]) {
    char *equals = strchr(item, '='), *ours, *theirs;
    if (!equals) return FAIL(TANE_EINVAL, "columns: \"%s\" is not KEY=NAME, such as prompt=question", item);
    *equals = 0;
    ours = trimmed(item);
    theirs = trimmed(equals + 1);
    if (!*theirs) return FAIL(TANE_EINVAL, "columns: \"%s=\" has no name behind it", ours);
    if (strpbrk(theirs, "\\\"") || utf8_valid(theirs, strlen(theirs)) < strlen(theirs))
        return FAIL(TANE_EINVAL,
                    "columns: \"%s\" cannot be named; rename the column: backslashes and quotes in names are "
                    "not supported",
                    theirs);
    for (int key = 0; key < N_KEYS; key++) {
        if (strcmp(key_names[key], ours)) continue;
        if (mapped[key]) return FAIL(TANE_EINVAL, "columns: \"%s\" is there twice", ours);
        mapped[key] = true;
        c->names[key] = theirs;
        return TANE_OK;
    }
    const char *nearest = err_nearest(ours, key_names, N_KEYS);
    return FAIL(TANE_EINVAL,
                "columns: \"%s\" is no key of a format%s%s; there are text, prompt, completion, messages, "
                "conversations, instruction, input, output, question, answer, tools and system",
                ours, nearest ? "; did you mean " : "", nearest ? nearest : "");
}

/* The mapped keys tell the format, and each of the file's keys has one meaning. */
static Status settle_columns(RowColumns *c, const bool mapped[N_KEYS]) {
    for (int key = 0; key < N_KEYS; key++) {
        if (!mapped[key]) continue;
        RowKind kind = kind_of_key((RowKey)key);
        if (kind != ROW_AUTO && c->kind != ROW_AUTO && kind != c->kind)
            return FAIL(TANE_EINVAL, "columns: \"%s\" belongs to the format %s, and not to %s", key_names[key],
                        kinds[kind].name, kinds[c->kind].name);
        if (kind != ROW_AUTO) c->kind = kind;
        for (int other = 0; other < N_KEYS; other++) {
            if (other == key || !c->names[other] || strcmp(c->names[other], c->names[key])) continue;
            if (mapped[other])
                return FAIL(TANE_EINVAL, "columns: \"%s\" and \"%s\" are both \"%s\"", key_names[key], key_names[other],
                            c->names[key]);
            c->names[other] = NULL;
        }
    }
    for (int i = 0; c->kind != ROW_AUTO && i < 2; i++) {
        RowKey key = kinds[c->kind].needs[i];
        if (key != N_KEYS && !c->names[key])
            return FAIL(TANE_EINVAL, "columns: the format %s also needs \"%s\"; say which column that is",
                        kinds[c->kind].name, key_names[key]);
    }
    return TANE_OK;
}

static Status parse_columns(RowColumns *c, const char *spec) {
    bool mapped[N_KEYS] = {false};
    char *text;
    memcpy(c->names, key_names, sizeof c->names);
    if (!spec || !*spec) return TANE_OK;
    TRY_RETURN(arena_strdup(&c->arena, &text, spec));
    for (char *item = text, *next; item; item = next) {
        next = strchr(item, ',');
        if (next) *next++ = 0;
        TRY_RETURN(parse_column(c, item, mapped));
    }
    return settle_columns(c, mapped);
}

Status row_columns_init(RowColumns *c, const char *format, const char *spec) {
    Status st = TANE_OK;
    *c = (RowColumns){0};
    TRY(parse_format(c, format));
    TRY(parse_columns(c, spec));
    return TANE_OK;
out:
    row_columns_free(c);
    return st;
}

size_t row_columns_names(const RowColumns *columns, const char *names[N_KEYS]) {
    size_t n = 0;
    for (int i = 0; i < N_KEYS; i++)
        if (columns->names[i]) names[n++] = columns->names[i];
    return n;
}

void row_columns_free(RowColumns *c) {
    arena_release(&c->arena);
    *c = (RowColumns){0};
}

/* ---- what errors say ---- */

typedef struct Words {
    char text[640];
    size_t n;
} Words;

__attribute__((format(printf, 2, 3))) static void say(Words *w, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(w->text + w->n, sizeof w->text - w->n, fmt, args);
    va_end(args);
    w->n += n < 0 ? 0 : (size_t)n < sizeof w->text - w->n ? (size_t)n : sizeof w->text - 1 - w->n;
}

/* {"prompt": ..., "completion": ...}, by the file's names. */
static void say_needs(Words *w, const RowColumns *c, RowKind kind) {
    for (int i = 0; i < 2; i++) {
        RowKey key = kinds[kind].needs[i];
        if (key != N_KEYS) say(w, "%s\"%s\": ...", i ? ", " : "{", c->names[key] ? c->names[key] : key_names[key]);
    }
    say(w, "}");
}

static const char *end_of_string(const char *p, const char *end) {
    for (; p < end && *p != '"'; p++) p += *p == '\\';
    return p < end ? p : end;
}

/* The keys of a row whose JSON was checked, as they are written there. */
static void say_keys(Words *w, const JsonlLine *line) {
    const char *end = line->text + line->n;
    int depth = 0, n = 0;
    bool key = true;
    for (const char *p = line->text; p < end && n < 16; p++) {
        depth += (*p == '{' || *p == '[') - (*p == '}' || *p == ']');
        if (*p == ',' || *p == ':') key = *p == ',';
        if (*p != '"') continue;
        const char *from = ++p;
        p = end_of_string(p, end);
        if (depth != 1 || !key) continue;
        int length = p - from < 40 ? (int)(p - from) : 40;
        while (length && length < p - from && ((unsigned char)from[length] & 0xC0) == 0x80) length--;
        say(w, "%s\"%.*s\"", n++ ? ", " : "; this row has ", length, from);
    }
    if (!n) say(w, "; this row has no keys");
}

static Status missing(const RowColumns *c, const JsonlLine *line, RowKind kind, RowKey key) {
    Words needs = {.n = 0}, keys = {.n = 0};
    say_needs(&needs, c, kind);
    say_keys(&keys, line);
    return FAIL(TANE_EFORMAT, "%s:%lld: \"%s\" is missing; each line needs %s%s", line->path, (long long)line->number,
                c->names[key], needs.text, keys.text);
}

Status row_columns_wrong(const RowColumns *c, const JsonlLine *line, RowKind kind, const JsonlField *field,
                         const char *wanted) {
    Words needs = {.n = 0};
    say_needs(&needs, c, kind);
    return FAIL(TANE_EFORMAT, "%s:%lld: \"%s\" is %s, but must be %s; each line needs %s", line->path,
                (long long)line->number, field->key, jsonl_kind_name(field->kind), wanted, needs.text);
}

static Status no_format(const RowColumns *c, const JsonlLine *line) {
    Words needs = {.n = 0}, keys = {.n = 0};
    for (int kind = 0; kind < N_KINDS; kind++) {
        say(&needs, "%s", kind == 0 ? "" : kind + 1 < N_KINDS ? ", " : " or ");
        say_needs(&needs, c, (RowKind)kind);
    }
    say_keys(&keys, line);
    return FAIL(TANE_EFORMAT,
                "%s:%lld: neither \"prompt\" nor \"text\" is there, nor what another format has; each line "
                "needs %s%s; `columns` gives keys their meaning",
                line->path, (long long)line->number, needs.text, keys.text);
}

static Status two_formats(const JsonlLine *line, const JsonlField *a, RowKind first, const JsonlField *b,
                          RowKind second) {
    return FAIL(TANE_EFORMAT,
                "%s:%lld: both \"%s\" and \"%s\" are there; keep one kind of row, or say which counts with "
                "format=%s or format=%s",
                line->path, (long long)line->number, a->key, b->key, kinds[first].name, kinds[second].name);
}

/* ---- a row ---- */

static bool is_there(const JsonlField *fields, RowKey key) { return key == N_KEYS || fields[key].kind > JSONL_ABSENT; }
static bool has_value(const JsonlField *fields, RowKey key) {
    return key == N_KEYS || (is_there(fields, key) && fields[key].kind != JSONL_NULL);
}

/* The one format whose keys are all there; else the first with one of its keys; else an error. A text beside half of a
 * pair is no text: who wrote it meant something else. */
static Status tell_kind(const RowColumns *c, const JsonlLine *line, const JsonlField *fields, RowKind *kind) {
    RowKind half = ROW_AUTO;
    *kind = ROW_AUTO;
    for (int k = N_KINDS - 1; k >= 0; k--) {
        RowKey a = kinds[k].needs[0], b = kinds[k].needs[1];
        if (is_there(fields, a) || (b != N_KEYS && is_there(fields, b))) half = (RowKind)k;
        if (!has_value(fields, a) || !has_value(fields, b)) continue;
        if (*kind != ROW_AUTO) return two_formats(line, &fields[a], (RowKind)k, &fields[kinds[*kind].needs[0]], *kind);
        *kind = (RowKind)k;
    }
    if (*kind == ROW_TEXT && (is_there(fields, KEY_PROMPT) || is_there(fields, KEY_COMPLETION)))
        return two_formats(line, &fields[is_there(fields, KEY_PROMPT) ? KEY_PROMPT : KEY_COMPLETION], ROW_PROMPT,
                           &fields[KEY_TEXT], ROW_TEXT);
    if (*kind == ROW_AUTO) *kind = half;
    return *kind == ROW_AUTO ? no_format(c, line) : TANE_OK;
}

Status row_columns_read(const RowColumns *c, const JsonlLine *line, JsonlField *fields, JsonlScratch *scratch,
                        RowKind *kind) {
    for (int key = 0; key < N_KEYS; key++) fields[key].key = c->names[key] ? c->names[key] : key_names[key];
    TRY_RETURN(jsonl_parse(line, fields, N_KEYS, scratch));
    for (int key = 0; key < N_KEYS; key++)
        if (!c->names[key]) fields[key].kind = JSONL_ABSENT; /* the file's key of this name is another of ours */
    *kind = c->kind;
    if (*kind == ROW_AUTO) TRY_RETURN(tell_kind(c, line, fields, kind));
    for (int i = 0; i < 2; i++) {
        RowKey key = kinds[*kind].needs[i];
        if (!is_there(fields, key)) return missing(c, line, *kind, key);
    }
    return TANE_OK;
}
