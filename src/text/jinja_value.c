/* Values: making them, comparing them, walking them, and their text as Python's str() and repr() give it. */
#include "text/jinja_value.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "text/jinja_text.h"
#include "text/utf8.h"

/* ---- the run's bounds ------------------------------------------------------------------------------------------- */

Status j_alloc(JRun *r, void **out, size_t n, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > r->memory || r->arena.used > r->memory - bytes)
        return j_fail(r, TANE_EINVAL,
                      "the template takes more than %zu MiB of memory for this conversation; tane stops it there",
                      r->memory >> 20);
    return arena_new(&r->arena, out, n, size);
}

Status j_work(JRun *r, size_t bytes) {
    r->work -= (int64_t)(bytes < INT32_MAX ? bytes : INT32_MAX);
    if (r->work >= 0) return TANE_OK;
    return j_fail(r, TANE_EINVAL, "the template works over the same text again and again; tane stops it here");
}

/* ---- making values ---------------------------------------------------------------------------------------------- */

Status j_text(JRun *r, const char *text, size_t n, uint8_t mark, JVal *out) {
    JStr *s;
    TRY_RETURN(J_NEW(r, &s, 1));
    *s = (JStr){.data = text, .n = n, .mark = mark};
    *out = j_from_str(s);
    return TANE_OK;
}

Status j_seq(JRun *r, JType type, size_t n, JVal *out) {
    JSeq *seq;
    TRY_RETURN(J_NEW(r, &seq, 1));
    TRY_RETURN(J_NEW(r, &seq->items, n));
    seq->n = n;
    *out = (JVal){.type = (uint8_t)type, .seq = seq};
    return TANE_OK;
}

Status j_dict(JRun *r, size_t cap, JVal *out) {
    JDict *dict;
    TRY_RETURN(J_NEW(r, &dict, 1));
    TRY_RETURN(J_NEW(r, &dict->entries, cap));
    dict->cap = cap;
    *out = (JVal){.type = J_DICT, .dict = dict};
    return TANE_OK;
}

static Status dict_append(JRun *r, JDict *dict, JVal key, JVal value) {
    if (dict->n == dict->cap) {
        size_t cap = dict->cap ? 2 * dict->cap : 4;
        JEntry *entries;
        TRY_RETURN(J_NEW(r, &entries, cap));
        memcpy(entries, dict->entries, dict->n * sizeof *entries);
        dict->entries = entries;
        dict->cap = cap;
    }
    dict->entries[dict->n++] = (JEntry){key, value};
    return TANE_OK;
}

Status j_dict_set(JRun *r, JDict *dict, JVal key, JVal value) {
    const JVal *found;
    TRY_RETURN(j_dict_get(r, dict, key, &found));
    if (!found) return dict_append(r, dict, key, value);
    *(JVal *)(uintptr_t)found = value; /* the dict is ours to change */
    return TANE_OK;
}

Status j_view(JRun *r, const JDict *dict, int what, JVal *out) {
    TRY_RETURN(j_work(r, ITEM_WORK * dict->n));
    TRY_RETURN(j_seq(r, J_VIEW, dict->n, out));
    out->seq->title = what == 'k' ? "dict_keys" : what == 'v' ? "dict_values" : "dict_items";
    for (size_t i = 0; i < dict->n; i++) {
        const JEntry *e = &dict->entries[i];
        if (what != 'i') {
            out->seq->items[i] = what == 'k' ? e->key : e->value;
            continue;
        }
        JVal pair;
        TRY_RETURN(j_seq(r, J_TUPLE, 2, &pair));
        pair.seq->items[0] = e->key;
        pair.seq->items[1] = e->value;
        out->seq->items[i] = pair;
    }
    return TANE_OK;
}

/* The arena may grow by what the conversation is worth. */
static void admit(JRun *r, size_t bytes) {
    r->memory += JINJA_MEMORY_FACTOR * (bytes + 64);
    r->work += (int64_t)(JINJA_WORK_FACTOR * (bytes + 64));
}

static bool is_word(const JinjaVariable *v, const char *key, const json_t *value) {
    const char *text = json_string_value(value);
    if (!v->key || !text || strcmp(v->key, key)) return false;
    for (const char *const *word = v->words; *word; word++)
        if (!strcmp(*word, text)) return true;
    return false;
}

static Status from_json(JRun *r, const JinjaVariable *v, const json_t *json, int depth, JVal *out) {
    if (depth > JINJA_MAX_VALUE_DEPTH)
        return FAIL(TANE_EINVAL, "the conversation has lists and objects more than %d deep inside each other",
                    JINJA_MAX_VALUE_DEPTH);
    const char *key;
    json_t *value;
    size_t i;
    admit(r, json_is_string(json) ? json_string_length(json) : 0);
    switch (json_typeof(json)) {
    case JSON_STRING: return j_text(r, json_string_value(json), json_string_length(json), v->mark, out);
    case JSON_INTEGER: *out = j_int(json_integer_value(json)); return TANE_OK;
    case JSON_REAL: *out = j_float(json_real_value(json)); return TANE_OK;
    case JSON_TRUE: *out = j_bool(true); return TANE_OK;
    case JSON_FALSE: *out = j_bool(false); return TANE_OK;
    case JSON_NULL: *out = j_none(); return TANE_OK;
    case JSON_ARRAY:
        TRY_RETURN(j_seq(r, J_LIST, json_array_size(json), out));
        json_array_foreach(json, i, value) { TRY_RETURN(from_json(r, v, value, depth + 1, &out->seq->items[i])); }
        return TANE_OK;
    case JSON_OBJECT:
        TRY_RETURN(j_dict(r, json_object_size(json), out));
        json_object_foreach((json_t *)(uintptr_t)json, key, value) {
            JVal name, item;
            admit(r, strlen(key));
            TRY_RETURN(j_text(r, key, strlen(key), v->mark, &name));
            TRY_RETURN(from_json(r, v, value, depth + 1, &item));
            if (depth == 1 && is_word(v, key, value)) ((JStr *)(uintptr_t)item.str)->mark = 0; /* nobody else has it yet */
            TRY_RETURN(dict_append(r, out->dict, name, item));
        }
        return TANE_OK;
    }
    return FAIL(TANE_EINTERNAL, "a JSON value of the unknown type %d", (int)json_typeof(json));
}

Status j_from_json(JRun *r, const JinjaVariable *variable, JVal *out) {
    return from_json(r, variable, variable->json, 0, out);
}

/* ---- reading values --------------------------------------------------------------------------------------------- */

const char *j_type_name(JVal v) {
    switch ((JType)v.type) {
    case J_MISSING:
    case J_UNDEFINED: return "Undefined";
    case J_NONE: return "NoneType";
    case J_BOOL: return "bool";
    case J_INT: return "int";
    case J_FLOAT: return "float";
    case J_STR: return v.str && v.str->markup ? "Markup" : "str";
    case J_LIST: return "list";
    case J_TUPLE: return "tuple";
    case J_GENERATOR: return "generator";
    case J_VIEW: return v.seq ? v.seq->title : "dict_items";
    case J_RANGE: return "range";
    case J_DICT: return "dict";
    case J_NAMESPACE: return "Namespace";
    case J_LOOP: return "LoopContext";
    case J_MACRO: return "Macro";
    case J_FUNCTION: return "function";
    case J_METHOD: return "builtin_function_or_method";
    case J_CYCLER: return "Cycler";
    case J_JOINER: return "Joiner";
    }
    return "object";
}

Status j_fail_undefined(JRun *r, JVal v) {
    const char *owner = v.owner == J_NONE ? "None" : j_type_name((JVal){.type = v.owner});
    const char *object = v.owner == J_NONE ? "" : " object";
    switch ((JLack)v.lack) {
    case LACK_HINT: return j_fail(r, TANE_EINVAL, "%s", v.hint);
    case LACK_NAME: return j_fail(r, TANE_EINVAL, "'%.*s' is undefined", (int)v.str->n, v.str->data);
    case LACK_ELEMENT: return j_fail(r, TANE_EINVAL, "%s%s has no element %lld", owner, object, (long long)v.integer);
    case LACK_UNSAFE:
        return j_fail(r, TANE_EINVAL, "access to attribute '%.*s' of '%s' object is unsafe: templates change nothing",
                      (int)v.str->n, v.str->data, owner);
    case LACK_ATTRIBUTE: break;
    }
    return j_fail(r, TANE_EINVAL, "'%s%s' has no attribute '%.*s'", owner, object,
                  (int)(v.str->n < 200 ? v.str->n : 200), v.str->data);
}

bool j_truth(JVal v) {
    switch ((JType)v.type) {
    case J_MISSING:
    case J_UNDEFINED:
    case J_NONE: return false;
    case J_BOOL: return v.truth;
    case J_INT: return v.integer != 0;
    case J_FLOAT: return v.real != 0;
    case J_STR: return v.str->n > 0;
    case J_LIST:
    case J_TUPLE:
    case J_VIEW:
    case J_RANGE: return v.seq->n > 0;
    case J_DICT: return v.dict->n > 0;
    default: return true;
    }
}

bool j_integer(JVal v, int64_t *out) {
    if (v.type != J_INT && v.type != J_BOOL) return false;
    *out = v.type == J_INT ? v.integer : v.truth;
    return true;
}

bool j_number(JVal v, double *out) {
    int64_t i;
    if (j_integer(v, &i)) *out = (double)i;
    else if (v.type == J_FLOAT) *out = v.real;
    else return false;
    return true;
}

/* The wide type holds every int64 and every double. */
static bool wide_number(JVal v, long double *out) {
    int64_t i;
    if (j_integer(v, &i)) *out = (long double)i;
    else if (v.type == J_FLOAT) *out = (long double)v.real;
    else return false;
    return true;
}

static Status too_deep(JRun *r) {
    return j_fail(r, TANE_EINVAL, "a value has lists and dicts more than %d deep inside each other",
                  JINJA_MAX_VALUE_DEPTH);
}

static bool same_str(const JStr *a, const JStr *b) { return a->n == b->n && memcmp(a->data, b->data, a->n) == 0; }
bool j_str_is(const JStr *s, const char *text) { return s->n == strlen(text) && memcmp(s->data, text, s->n) == 0; }

static bool is_list_like(JVal v) { return v.type == J_LIST || v.type == J_TUPLE; }

static Status equal(JRun *r, JVal a, JVal b, int depth, bool *out);

static Status equal_dicts(JRun *r, const JDict *a, const JDict *b, int depth, bool *out) {
    *out = a->n == b->n;
    for (size_t i = 0; *out && i < a->n; i++) {
        const JVal *other;
        TRY_RETURN(j_dict_get(r, b, a->entries[i].key, &other));
        if (!other) *out = false;
        else TRY_RETURN(equal(r, a->entries[i].value, *other, depth + 1, out));
    }
    return TANE_OK;
}

static Status equal(JRun *r, JVal a, JVal b, int depth, bool *out) {
    long double x, y;
    if (depth > JINJA_MAX_VALUE_DEPTH) return too_deep(r);
    if (a.type == J_STR && b.type == J_STR) {
        *out = same_str(a.str, b.str);
        return a.str->n == b.str->n ? j_work(r, a.str->n) : TANE_OK;
    }
    if (wide_number(a, &x) && wide_number(b, &y)) {
        *out = x == y;
        return TANE_OK;
    }
    *out = a.type == b.type;
    if (a.type != b.type) return TANE_OK;
    if (a.type == J_UNDEFINED || a.type == J_NONE) return TANE_OK;
    if (a.type == J_DICT) return equal_dicts(r, a.dict, b.dict, depth, out);
    if (a.type == J_RANGE) {
        *out = a.seq->n == b.seq->n && (a.seq->n == 0 || a.seq->start == b.seq->start) &&
               (a.seq->n <= 1 || a.seq->step == b.seq->step);
        return TANE_OK;
    }
    if (!is_list_like(a)) {
        *out = a.dict == b.dict; /* the same object */
        return TANE_OK;
    }
    *out = a.seq->n == b.seq->n;
    if (*out) TRY_RETURN(j_work(r, ITEM_WORK * a.seq->n));
    for (size_t i = 0; *out && i < a.seq->n; i++)
        TRY_RETURN(equal(r, a.seq->items[i], b.seq->items[i], depth + 1, out));
    return TANE_OK;
}

Status j_equal(JRun *r, JVal a, JVal b, bool *out) { return equal(r, a, b, 0, out); }

static Status less(JRun *r, JVal a, JVal b, const char *op, int depth, int *order) {
    long double x, y;
    if (depth > JINJA_MAX_VALUE_DEPTH) return too_deep(r);
    if (a.type == J_UNDEFINED) return j_fail_undefined(r, a);
    if (b.type == J_UNDEFINED) return j_fail_undefined(r, b);
    if (wide_number(a, &x) && wide_number(b, &y)) {
        *order = x < y ? -1 : x > y ? 1 : x == y ? 0 : 2;
        return TANE_OK;
    }
    if (a.type == J_STR && b.type == J_STR) { /* UTF-8 sorts as its code points do */
        size_t n = a.str->n < b.str->n ? a.str->n : b.str->n;
        int c = memcmp(a.str->data, b.str->data, n);
        *order = c < 0 ? -1 : c > 0 ? 1 : a.str->n < b.str->n ? -1 : a.str->n > b.str->n;
        return j_work(r, n);
    }
    if (!is_list_like(a) || a.type != b.type)
        return j_fail(r, TANE_EINVAL, "'%s' is not possible between '%s' and '%s'", op, j_type_name(a), j_type_name(b));
    size_t n = a.seq->n < b.seq->n ? a.seq->n : b.seq->n;
    TRY_RETURN(j_work(r, ITEM_WORK * n));
    for (size_t i = 0; i < n; i++) {
        bool same;
        TRY_RETURN(equal(r, a.seq->items[i], b.seq->items[i], depth + 1, &same));
        if (!same) return less(r, a.seq->items[i], b.seq->items[i], op, depth + 1, order);
    }
    *order = a.seq->n < b.seq->n ? -1 : a.seq->n > b.seq->n;
    return TANE_OK;
}

Status j_less(JRun *r, JVal a, JVal b, const char *op, int *order) { return less(r, a, b, op, 0, order); }

static Status check_key(JRun *r, JVal key) {
    if (key.type == J_LIST || key.type == J_DICT)
        return j_fail(r, TANE_EINVAL, "unhashable type: '%s' cannot be a key", j_type_name(key));
    return TANE_OK;
}

Status j_dict_get(JRun *r, const JDict *dict, JVal key, const JVal **out) {
    *out = NULL;
    TRY_RETURN(check_key(r, key));
    TRY_RETURN(j_work(r, 8 * dict->n));
    if (key.type == J_STR) {
        *out = j_dict_find(dict, key.str->data, key.str->n);
        return TANE_OK;
    }
    for (size_t i = 0; i < dict->n; i++) {
        bool same;
        TRY_RETURN(j_equal(r, dict->entries[i].key, key, &same));
        if (same) {
            *out = &dict->entries[i].value;
            return TANE_OK;
        }
    }
    return TANE_OK;
}

const JVal *j_dict_find(const JDict *dict, const char *key, size_t n) {
    for (size_t i = 0; i < dict->n; i++) {
        const JVal *k = &dict->entries[i].key;
        if (k->type == J_STR && k->str->n == n && memcmp(k->str->data, key, n) == 0) return &dict->entries[i].value;
    }
    return NULL;
}

/* ---- walking ---------------------------------------------------------------------------------------------------- */

bool j_iterable(JVal v) {
    switch ((JType)v.type) {
    case J_UNDEFINED:
    case J_STR:
    case J_LIST:
    case J_TUPLE:
    case J_GENERATOR:
    case J_VIEW:
    case J_RANGE:
    case J_DICT:
    case J_LOOP: return true;
    default: return false;
    }
}

static Status characters(JRun *r, const JStr *s, JIter *it) {
    size_t n = text_length(s), at = 0;
    JVal *items;
    TRY_RETURN(j_work(r, ITEM_WORK * s->n));
    TRY_RETURN(J_NEW(r, &items, n));
    for (size_t i = 0; i < n; i++) {
        size_t len = text_char(s->data + at);
        TRY_RETURN(j_part(r, s, at, at + len, &items[i]));
        ((JStr *)(uintptr_t)items[i].str)->markup = false;
        at += len;
    }
    *it = (JIter){.items = items, .n = n};
    return TANE_OK;
}

Status j_iter(JRun *r, JVal v, JIter *it) {
    static const JVal nothing[1];
    JVal keys;
    *it = (JIter){.items = nothing};
    switch ((JType)v.type) {
    case J_UNDEFINED: return TANE_OK;
    case J_STR: return characters(r, v.str, it);
    case J_DICT:
        TRY_RETURN(j_view(r, v.dict, 'k', &keys));
        *it = (JIter){.items = keys.seq->items, .n = keys.seq->n};
        return TANE_OK;
    case J_RANGE: *it = (JIter){.n = v.seq->n, .start = v.seq->start, .step = v.seq->step}; return TANE_OK;
    case J_LIST:
    case J_TUPLE:
    case J_VIEW:
    case J_GENERATOR:
        *it = (JIter){.items = v.seq->items, .n = v.seq->n};
        if (v.type == J_GENERATOR) v.seq->n = 0;
        return TANE_OK;
    case J_LOOP: return j_fail(r, TANE_EUNSUPPORTED, "walking `loop` itself is not supported; walk the list again");
    default: return j_fail(r, TANE_EINVAL, "'%s' object is not iterable", j_type_name(v));
    }
}

Status j_walk(JRun *r, JVal v, JIter *it) {
    TRY_RETURN(j_iter(r, v, it));
    return j_work(r, ITEM_WORK * it->n);
}

Status j_list_of(JRun *r, JType type, JVal v, JVal *out) {
    JIter it;
    TRY_RETURN(j_walk(r, v, &it));
    TRY_RETURN(j_seq(r, type, it.n, out));
    for (size_t i = 0; i < it.n; i++) out->seq->items[i] = j_iter_at(&it, i);
    return TANE_OK;
}

Status j_length(JRun *r, JVal v, int64_t *out) {
    switch ((JType)v.type) {
    case J_UNDEFINED: *out = 0; return TANE_OK;
    case J_STR: *out = (int64_t)text_length(v.str); return j_work(r, v.str->n);
    case J_DICT: *out = (int64_t)v.dict->n; return TANE_OK;
    case J_LIST:
    case J_TUPLE:
    case J_VIEW:
    case J_RANGE: *out = (int64_t)v.seq->n; return TANE_OK;
    default: return j_fail(r, TANE_EINVAL, "object of type '%s' has no length", j_type_name(v));
    }
}

/* ---- text being built ------------------------------------------------------------------------------------------- */

static Status reserve(JRun *r, JBuilder *b, size_t extra) {
    if (b->cap - b->n >= extra) return TANE_OK;
    size_t cap = b->cap < 32 ? 64 : 2 * b->cap;
    while (cap - b->n < extra) cap *= 2;
    char *text;
    TRY_RETURN(j_alloc(r, (void **)&text, cap, 2)); /* the marks behind the text */
    if (b->n) {
        memcpy(text, b->text, b->n);
        memcpy(text + cap, b->marks, b->n);
    }
    b->text = text;
    b->marks = (uint8_t *)text + cap;
    b->cap = cap;
    return TANE_OK;
}

Status jb_add(JRun *r, JBuilder *b, const char *text, size_t n, uint8_t mark) {
    if (!n) return TANE_OK;
    TRY_RETURN(j_work(r, n));
    TRY_RETURN(reserve(r, b, n));
    memcpy(b->text + b->n, text, n);
    memset(b->marks + b->n, mark, n);
    b->n += n;
    return TANE_OK;
}

Status jb_add_part(JRun *r, JBuilder *b, const JStr *s, size_t from, size_t to) {
    TRY_RETURN(jb_add(r, b, s->data + from, to - from, s->mark));
    if (s->marks && to > from) memcpy(b->marks + b->n - (to - from), s->marks + from, to - from);
    return TANE_OK;
}

Status jb_add_str(JRun *r, JBuilder *b, const JStr *s) { return jb_add_part(r, b, s, 0, s->n); }

Status jb_add_code(JRun *r, JBuilder *b, uint32_t code, uint8_t mark) {
    char bytes[4];
    size_t n = text_encode(code, bytes);
    return jb_add(r, b, bytes, n, mark);
}

Status jb_printf(JRun *r, JBuilder *b, const char *fmt, ...) {
    char text[128];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof text) return FAIL(TANE_EINTERNAL, "a text of %d bytes for 127", n);
    return jb_add(r, b, text, (size_t)n, 0);
}

Status jb_finish(JRun *r, const JBuilder *b, JVal *out) {
    JStr *s;
    TRY_RETURN(J_NEW(r, &s, 1));
    *s = (JStr){.data = b->n ? b->text : "", .marks = b->n ? b->marks : NULL, .n = b->n};
    *out = j_from_str(s);
    return TANE_OK;
}

/* The shortest digits that read back as the same number, as Python writes them. */
Status jb_add_float(JRun *r, JBuilder *b, double f) {
    char digits[40], out[64];
    if (isnan(f) || isinf(f)) return jb_printf(r, b, "%s", isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
    int precision = 0;
    do snprintf(digits, sizeof digits, "%.*e", precision, f);
    while (strtod(digits, NULL) != f && ++precision < 17);
    const char *e = strchr(digits, 'e');
    int exponent = atoi(e + 1);
    const char *sign = digits[0] == '-' ? "-" : "";
    char plain[24]; /* the digits alone */
    size_t n = 0;
    for (const char *c = digits; c < e && n + 1 < sizeof plain; c++)
        if (*c >= '0' && *c <= '9') plain[n++] = *c;
    plain[n] = 0;
    if (exponent < -4 || exponent >= 16)
        snprintf(out, sizeof out, "%s%c%s%se%c%02d", sign, plain[0], n > 1 ? "." : "", plain + 1,
                 exponent < 0 ? '-' : '+', abs(exponent));
    else if (exponent < 0) snprintf(out, sizeof out, "%s0.%.*s%s", sign, -exponent - 1, "0000", plain);
    else if ((int)n <= exponent + 1)
        snprintf(out, sizeof out, "%s%s%.*s.0", sign, plain, exponent + 1 - (int)n, "0000000000000000");
    else snprintf(out, sizeof out, "%s%.*s.%s", sign, exponent + 1, plain, plain + exponent + 1);
    return jb_printf(r, b, "%s", out);
}

static bool printable(uint32_t code) {
    if (code < 0x7f) return code >= 0x20;
    switch (utf8proc_category((int32_t)code)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS: return false;
    default: return true;
    }
}

static Status add_str_repr(JRun *r, JBuilder *b, const JStr *s) {
    bool single = memchr(s->data, '\'', s->n) != NULL, twice = memchr(s->data, '"', s->n) != NULL;
    char quote = single && !twice ? '"' : '\'';
    TRY_RETURN(jb_add(r, b, &quote, 1, 0));
    for (size_t i = 0; i < s->n;) {
        uint32_t code = 0;
        size_t len = utf8_decode(s->data + i, s->n - i, &code);
        uint8_t mark = j_mark_at(s, i);
        char text[16] = "";
        if (code == (unsigned char)quote || code == '\\') snprintf(text, sizeof text, "\\%c", (char)code);
        else if (code == '\n' || code == '\r' || code == '\t')
            snprintf(text, sizeof text, "\\%c", code == '\n' ? 'n' : code == '\r' ? 'r' : 't');
        else if (!printable(code))
            snprintf(text, sizeof text, code < 0x100 ? "\\x%02x" : code < 0x10000 ? "\\u%04x" : "\\U%08x", code);
        if (*text) TRY_RETURN(jb_add(r, b, text, strlen(text), mark));
        else TRY_RETURN(jb_add_part(r, b, s, i, i + len));
        i += len;
    }
    return jb_add(r, b, &quote, 1, 0);
}

static Status add_repr(JRun *r, JBuilder *b, JVal v, int depth);

static Status add_items(JRun *r, JBuilder *b, JVal v, const char *open, const char *close, int depth) {
    TRY_RETURN(jb_printf(r, b, "%s", open));
    for (size_t i = 0; i < v.seq->n; i++) {
        if (i) TRY_RETURN(jb_printf(r, b, ", "));
        TRY_RETURN(add_repr(r, b, v.seq->items[i], depth + 1));
    }
    return jb_printf(r, b, "%s", close);
}

static Status add_dict_repr(JRun *r, JBuilder *b, const JDict *dict, int depth) {
    TRY_RETURN(jb_printf(r, b, "{"));
    for (size_t i = 0; i < dict->n; i++) {
        if (i) TRY_RETURN(jb_printf(r, b, ", "));
        TRY_RETURN(add_repr(r, b, dict->entries[i].key, depth + 1));
        TRY_RETURN(jb_printf(r, b, ": "));
        TRY_RETURN(add_repr(r, b, dict->entries[i].value, depth + 1));
    }
    return jb_printf(r, b, "}");
}

static Status add_range_repr(JRun *r, JBuilder *b, const JSeq *s) {
    TRY_RETURN(jb_printf(r, b, "range(%lld, %lld", (long long)s->start, (long long)s->stop));
    if (s->step != 1) TRY_RETURN(jb_printf(r, b, ", %lld", (long long)s->step));
    return jb_printf(r, b, ")");
}

static Status add_repr(JRun *r, JBuilder *b, JVal v, int depth) {
    if (depth > JINJA_MAX_VALUE_DEPTH) return too_deep(r);
    switch ((JType)v.type) {
    case J_MISSING:
    case J_UNDEFINED: return jb_printf(r, b, "Undefined");
    case J_NONE: return jb_printf(r, b, "None");
    case J_BOOL: return jb_printf(r, b, v.truth ? "True" : "False");
    case J_INT: return jb_printf(r, b, "%lld", (long long)v.integer);
    case J_FLOAT: return jb_add_float(r, b, v.real);
    case J_STR:
        if (!v.str->markup) return add_str_repr(r, b, v.str);
        TRY_RETURN(jb_printf(r, b, "Markup("));
        TRY_RETURN(add_str_repr(r, b, v.str));
        return jb_printf(r, b, ")");
    case J_LIST: return add_items(r, b, v, "[", "]", depth);
    case J_TUPLE: return add_items(r, b, v, "(", v.seq->n == 1 ? ",)" : ")", depth);
    case J_VIEW: TRY_RETURN(jb_printf(r, b, "%s", v.seq->title)); return add_items(r, b, v, "([", "])", depth);
    case J_RANGE: return add_range_repr(r, b, v.seq);
    case J_DICT: return add_dict_repr(r, b, v.dict, depth);
    case J_NAMESPACE:
        TRY_RETURN(jb_printf(r, b, "<Namespace "));
        TRY_RETURN(add_dict_repr(r, b, v.dict, depth));
        return jb_printf(r, b, ">");
    default:
        return j_fail(r, TANE_EINVAL, "a '%s' object has no text of its own; call it, walk it or use |list",
                      j_type_name(v));
    }
}

Status jb_add_repr(JRun *r, JBuilder *b, JVal v) { return add_repr(r, b, v, 0); }

Status jb_add_value(JRun *r, JBuilder *b, JVal v) {
    if (v.type == J_STR) return jb_add_str(r, b, v.str);
    if (v.type == J_UNDEFINED) return TANE_OK;
    return add_repr(r, b, v, 0);
}

Status j_to_str(JRun *r, JVal v, const JStr **out) {
    JBuilder b = {0};
    JVal text;
    if (v.type == J_STR) {
        *out = v.str;
        return TANE_OK;
    }
    TRY_RETURN(jb_add_value(r, &b, v));
    TRY_RETURN(jb_finish(r, &b, &text));
    *out = text.str;
    return TANE_OK;
}

/* A text that ends where its builder does can grow in place: a loop that adds to a text takes time in proportion to it.
 * Whoever holds the shorter text does not see what is behind its end. */
Status j_concat(JRun *r, const JStr *a, const JStr *b, JVal *out) {
    JBuilder *tail = a->tail;
    JStr *s;
    if (!tail || tail->n != a->n) {
        TRY_RETURN(J_NEW(r, &tail, 1));
        TRY_RETURN(reserve(r, tail, a->n + b->n + (a->n + b->n) / 4));
        TRY_RETURN(jb_add_str(r, tail, a));
    }
    TRY_RETURN(jb_add_str(r, tail, b));
    TRY_RETURN(J_NEW(r, &s, 1));
    *s = (JStr){.data = tail->n ? tail->text : "", .marks = tail->n ? tail->marks : NULL, .n = tail->n, .tail = tail};
    *out = j_from_str(s);
    return TANE_OK;
}

Status j_part(JRun *r, const JStr *s, size_t from, size_t to, JVal *out) {
    JStr *part;
    TRY_RETURN(J_NEW(r, &part, 1));
    *part = (JStr){.data = s->data + from,
                   .marks = s->marks ? s->marks + from : NULL,
                   .n = to - from,
                   .mark = s->mark,
                   .markup = s->markup};
    *out = j_from_str(part);
    return TANE_OK;
}
