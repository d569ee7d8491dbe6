/* |tojson as transformers has it: Python's json.dumps with ensure_ascii off unless asked for. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "text/jinja_builtins.h"
#include "text/jinja_text.h"
#include "text/utf8.h"

typedef struct Dump {
    JRun *r;
    JBuilder text;
    const JStr *indent; /* NULL: all in one line */
    const JStr *item_sep, *key_sep;
    bool ascii, sorted;
} Dump;

static Status add(Dump *d, const char *text) { return jb_add(d->r, &d->text, text, strlen(text), 0); }

static Status add_escape(Dump *d, uint32_t code, uint8_t mark) {
    static const char plain[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    char text[16];
    const char *letter = code && code < 0x80 ? strchr(plain, (int)code) : NULL;
    if (letter) snprintf(text, sizeof text, "\\%c", letters[letter - plain]);
    else if (code < 0x10000) snprintf(text, sizeof text, "\\u%04x", (unsigned)code);
    else
        snprintf(text, sizeof text, "\\u%04x\\u%04x", (unsigned)(0xD7C0 + (code >> 10)),
                 (unsigned)(0xDC00 + (code & 0x3FF)));
    return jb_add(d->r, &d->text, text, strlen(text), mark);
}

static Status dump_str(Dump *d, const JStr *s) {
    size_t from = 0;
    TRY_RETURN(add(d, "\""));
    for (size_t i = 0, len; i < s->n; i += len) {
        uint32_t code = (unsigned char)s->data[i];
        len = 1;
        if (code >= 0x80 && d->ascii) len = utf8_decode(s->data + i, s->n - i, &code);
        if (code >= 0x20 && code != '"' && code != '\\' && (code < 0x7F || !d->ascii)) continue;
        TRY_RETURN(jb_add_part(d->r, &d->text, s, from, i));
        TRY_RETURN(add_escape(d, code, j_mark_at(s, i)));
        from = i + len;
    }
    TRY_RETURN(jb_add_part(d->r, &d->text, s, from, s->n));
    return add(d, "\"");
}

static Status dump_float(Dump *d, double f) {
    if (isnan(f)) return add(d, "NaN");
    if (isinf(f)) return add(d, f < 0 ? "-Infinity" : "Infinity");
    return jb_add_float(d->r, &d->text, f);
}

static Status new_line(Dump *d, int depth) {
    if (!d->indent) return TANE_OK;
    TRY_RETURN(add(d, "\n"));
    for (int i = 0; i < depth; i++) TRY_RETURN(jb_add_str(d->r, &d->text, d->indent));
    return TANE_OK;
}

static Status dump(Dump *d, JVal v, int depth);

static Status dump_list(Dump *d, const JSeq *seq, int depth) {
    if (!seq->n) return add(d, "[]");
    TRY_RETURN(add(d, "["));
    for (size_t i = 0; i < seq->n; i++) {
        if (i) TRY_RETURN(jb_add_str(d->r, &d->text, d->item_sep));
        TRY_RETURN(new_line(d, depth + 1));
        TRY_RETURN(dump(d, seq->items[i], depth + 1));
    }
    TRY_RETURN(new_line(d, depth));
    return add(d, "]");
}

/* Keys that are no text become one: 1, 1.5, true, null. */
static Status dump_key(Dump *d, JVal key) {
    if (key.type == J_STR) return dump_str(d, key.str);
    if (key.type != J_INT && key.type != J_FLOAT && key.type != J_BOOL && key.type != J_NONE)
        return j_fail(d->r, TANE_EINVAL, "keys must be str, int, float, bool or None, not %s", j_type_name(key));
    TRY_RETURN(add(d, "\""));
    TRY_RETURN(dump(d, key, 0));
    return add(d, "\"");
}

/* By key, stable; an insertion sort would be quadratic, so halves are merged. */
static Status sort_entries(JRun *r, JEntry *items, JEntry *spare, size_t n) {
    if (n < 2) return TANE_OK;
    size_t half = n / 2, a = 0, b = half;
    TRY_RETURN(sort_entries(r, items, spare, half));
    TRY_RETURN(sort_entries(r, items + half, spare, n - half));
    for (size_t k = 0; k < n; k++) {
        int order = -1;
        if (a < half && b < n) TRY_RETURN(j_less(r, items[b].key, items[a].key, "<", &order));
        bool second = a == half || (b < n && order == -1);
        spare[k] = second ? items[b++] : items[a++];
    }
    memcpy(items, spare, n * sizeof *items);
    return TANE_OK;
}

static Status dump_dict(Dump *d, const JDict *dict, int depth) {
    JEntry *entries = dict->entries, *spare;
    if (!dict->n) return add(d, "{}");
    if (d->sorted) {
        TRY_RETURN(J_NEW(d->r, &entries, dict->n));
        TRY_RETURN(J_NEW(d->r, &spare, dict->n));
        memcpy(entries, dict->entries, dict->n * sizeof *entries);
        TRY_RETURN(sort_entries(d->r, entries, spare, dict->n));
    }
    TRY_RETURN(add(d, "{"));
    for (size_t i = 0; i < dict->n; i++) {
        if (i) TRY_RETURN(jb_add_str(d->r, &d->text, d->item_sep));
        TRY_RETURN(new_line(d, depth + 1));
        TRY_RETURN(dump_key(d, entries[i].key));
        TRY_RETURN(jb_add_str(d->r, &d->text, d->key_sep));
        TRY_RETURN(dump(d, entries[i].value, depth + 1));
    }
    TRY_RETURN(new_line(d, depth));
    return add(d, "}");
}

static Status dump(Dump *d, JVal v, int depth) {
    if (depth > JINJA_MAX_VALUE_DEPTH)
        return j_fail(d->r, TANE_EINVAL, "a value has lists and dicts more than %d deep inside each other",
                      JINJA_MAX_VALUE_DEPTH);
    switch ((JType)v.type) {
    case J_NONE: return add(d, "null");
    case J_BOOL: return add(d, v.truth ? "true" : "false");
    case J_INT: return jb_printf(d->r, &d->text, "%lld", (long long)v.integer);
    case J_FLOAT: return dump_float(d, v.real);
    case J_STR: return dump_str(d, v.str);
    case J_LIST:
    case J_TUPLE: return dump_list(d, v.seq, depth);
    case J_DICT: return dump_dict(d, v.dict, depth);
    default: return j_fail(d->r, TANE_EINVAL, "Object of type %s is not JSON serializable", j_type_name(v));
    }
}

/* indent=4, indent="\t" or none */
static Status read_indent(Dump *d, JVal indent) {
    static const JStr space = {.data = " ", .n = 1};
    int64_t n;
    JVal text;
    if (indent.type == J_NONE) return TANE_OK;
    if (indent.type == J_STR) d->indent = indent.str;
    else if (j_integer(indent, &n)) {
        TRY_RETURN(text_repeat(d->r, &space, n, &text));
        d->indent = text.str;
    } else {
        return j_fail(d->r, TANE_EINVAL, "tojson's indent is a number or a text, not '%s'", j_type_name(indent));
    }
    return TANE_OK;
}

Status j_tojson(JRun *r, JVal v, const JCall *call, JVal *out) {
    static const JStr comma = {.data = ",", .n = 1}, comma_space = {.data = ", ", .n = 2},
                      colon = {.data = ": ", .n = 2};
    Dump d = {.r = r, .key_sep = &colon};
    JVal separators = j_arg(call, 2, j_none());
    d.ascii = j_truth(j_arg(call, 0, j_bool(false)));
    d.sorted = j_truth(j_arg(call, 3, j_bool(false)));
    TRY_RETURN(read_indent(&d, j_arg(call, 1, j_none())));
    d.item_sep = d.indent ? &comma : &comma_space;
    if (separators.type != J_NONE) {
        bool pair = (separators.type == J_TUPLE || separators.type == J_LIST) && separators.seq->n == 2 &&
                    separators.seq->items[0].type == J_STR && separators.seq->items[1].type == J_STR;
        if (!pair) return j_fail(r, TANE_EINVAL, "tojson's separators are two texts: (', ', ': ')");
        d.item_sep = separators.seq->items[0].str;
        d.key_sep = separators.seq->items[1].str;
    }
    TRY_RETURN(dump(&d, v, 0));
    return jb_finish(r, &d.text, out);
}
