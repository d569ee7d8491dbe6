/* Functions that a template finds without being given them, and their table. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "text/jinja_builtins.h"
#include "text/jinja_text.h"

#define FUNCTION(name) static Status name(JRun *r, JVal self, const JCall *call, JVal *out)

FUNCTION(raise_exception) {
    const JStr *words;
    (void)self;
    (void)out;
    TRY_RETURN(j_to_str(r, call->pos[0], &words));
    return j_fail(r, TANE_EINVAL, "the template refuses this conversation: %.*s",
                  (int)(words->n < 800 ? words->n : 800), words->data);
}

FUNCTION(range) {
    int64_t start = 0, stop = 0, step = 1;
    JSeq *seq;
    (void)self;
    bool one = !j_given(call, 1);
    TRY_RETURN(j_arg_int(r, call, 0, one ? &stop : &start));
    TRY_RETURN(j_arg_int(r, call, 1, &stop));
    TRY_RETURN(j_arg_int(r, call, 2, &step));
    if (step == 0) return j_fail(r, TANE_EINVAL, "range() arg 3 must not be zero");
    unsigned __int128 span = 0, stride = step < 0 ? (unsigned __int128)-(__int128)step : (unsigned __int128)step;
    if (step > 0 && stop > start) span = (unsigned __int128)((__int128)stop - start);
    if (step < 0 && stop < start) span = (unsigned __int128)((__int128)start - stop);
    unsigned __int128 n = (span + stride - 1) / stride;
    if (n > JINJA_MAX_RANGE)
        return j_fail(r, TANE_EINVAL, "Range too big: templates may count to %d at most", JINJA_MAX_RANGE);
    TRY_RETURN(J_NEW(r, &seq, 1));
    *seq = (JSeq){.n = (size_t)n, .start = start, .stop = stop, .step = step};
    *out = (JVal){.type = J_RANGE, .seq = seq};
    return TANE_OK;
}

/* dict(mapping or pairs, name=value ...) */
static Status make_dict(JRun *r, const JCall *call, const char *title, JVal *out) {
    JIter it;
    if (call->n_pos > 1) return j_fail(r, TANE_EINVAL, "%s expected at most 1 argument, got %zu", title, call->n_pos);
    TRY_RETURN(j_dict(r, call->n_named, out));
    if (call->n_pos && (call->pos[0].type == J_DICT || call->pos[0].type == J_NAMESPACE)) {
        const JDict *from = call->pos[0].dict;
        for (size_t i = 0; i < from->n; i++)
            TRY_RETURN(j_dict_set(r, out->dict, from->entries[i].key, from->entries[i].value));
    } else if (call->n_pos) {
        TRY_RETURN(j_walk(r, call->pos[0], &it));
        for (size_t i = 0; i < it.n; i++) {
            JIter pair;
            TRY_RETURN(j_walk(r, j_iter_at(&it, i), &pair));
            if (pair.n != 2)
                return j_fail(r, TANE_EINVAL, "%s wants pairs; element %zu has %zu values", title, i, pair.n);
            TRY_RETURN(j_dict_set(r, out->dict, j_iter_at(&pair, 0), j_iter_at(&pair, 1)));
        }
    }
    for (size_t i = 0; i < call->n_named; i++)
        TRY_RETURN(j_dict_set(r, out->dict, j_from_str(call->names[i]), call->named[i]));
    return TANE_OK;
}

FUNCTION(dict) {
    (void)self;
    return make_dict(r, call, "dict", out);
}

FUNCTION(namespace) {
    (void)self;
    TRY_RETURN(make_dict(r, call, "namespace", out));
    out->type = J_NAMESPACE;
    for (size_t i = 0; i < out->dict->n; i++) {
        JVal key = out->dict->entries[i].key;
        if (key.type == J_STR && key.str->n && key.str->data[0] == '_')
            return j_fail(r, TANE_EINVAL, "attributes of a namespace cannot begin with an underscore: '%.*s'",
                          (int)(key.str->n < 60 ? key.str->n : 60), key.str->data);
    }
    return TANE_OK;
}

static Status make_turn(JRun *r, JType type, const JVal *items, size_t n, JVal *out) {
    JTurn *turn;
    TRY_RETURN(J_NEW(r, &turn, 1));
    TRY_RETURN(J_NEW(r, &turn->items, n));
    memcpy(turn->items, items, n * sizeof *items);
    turn->n = n;
    *out = (JVal){.type = (uint8_t)type, .turn = turn};
    return TANE_OK;
}

FUNCTION(cycler) {
    (void)self;
    if (call->n_pos == 0 || call->n_named) return j_fail(r, TANE_EINVAL, "cycler wants at least one item");
    return make_turn(r, J_CYCLER, call->pos, call->n_pos, out);
}

FUNCTION(joiner) {
    static const JStr comma = {.data = ", ", .n = 2};
    JVal sep = j_arg(call, 0, j_from_str(&comma));
    (void)self;
    return make_turn(r, J_JOINER, &sep, 1, out);
}

/* The format with what Python answers itself put in: %f, and %z and %Z, which are empty for a time without a zone. */
static Status python_codes(JRun *r, const JStr *format, char *out, size_t size) {
    size_t n = 0;
    for (size_t i = 0; i < format->n; i++) {
        char c = format->data[i], code = i + 1 < format->n ? format->data[i + 1] : 0;
        const char *text = c == '%' && code == 'f' ? "000000" : c == '%' && (code == 'z' || code == 'Z') ? "" : NULL;
        size_t length = text ? strlen(text) : c == '%' && code ? 2 : 1;
        if (c == 0 || n + length >= size) return j_fail(r, TANE_EINVAL, "the format of strftime_now is too long");
        memcpy(out + n, text ? text : format->data + i, length);
        n += length;
        i += text || length == 2;
    }
    out[n] = 0;
    return TANE_OK;
}

FUNCTION(strftime_now) {
    char format[256], text[1024], *kept;
    struct tm parts;
    time_t now = (time_t)r->now;
    const JStr *wanted = NULL;
    (void)self;
    TRY_RETURN(j_arg_str(r, call, 0, &wanted));
    if (!wanted) return j_fail(r, TANE_EINVAL, "strftime_now wants a format");
    TRY_RETURN(python_codes(r, wanted, format, sizeof format));
    if (!gmtime_r(&now, &parts)) return j_fail(r, TANE_EINVAL, "the time %lld has no date", (long long)r->now);
    size_t n = strftime(text, sizeof text, format, &parts);
    if (!n && *format) return j_fail(r, TANE_EINVAL, "strftime_now gives nothing for the format '%s'", format);
    TRY_RETURN(J_NEW(r, &kept, n));
    memcpy(kept, text, n);
    return j_text(r, kept, n, 0, out);
}

/* In the order of the alphabet. */
static const JBuiltin functions[] = {
    {"cycler", 0, J_ANY, NULL, cycler},
    {"dict", 0, J_ANY, NULL, dict},
    {"joiner", 0, 1, "sep ", joiner},
    {"lipsum", 0, J_ANY, NULL, NULL},
    {"namespace", 0, J_ANY, NULL, namespace},
    {"raise_exception", 1, 1, "message ", raise_exception},
    {"range", 1, 3, NULL, range},
    {"strftime_now", 1, 1, "format ", strftime_now},
};

const JBuiltin *jinja_find_function(const char *name, size_t n) {
    return jinja_find_row(functions, sizeof functions / sizeof *functions, name, n);
}
