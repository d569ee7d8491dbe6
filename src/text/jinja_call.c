/* Rows of the tables: finding them, and calling them. Arguments find their parameters; what does not fit is an error.
 */
#include <string.h>

#include "text/jinja_builtins.h"

enum { MOST_PARAMETERS = 8 };

const JBuiltin *jinja_find_row(const JBuiltin *rows, size_t n, const char *name, size_t length) {
    size_t lo = 0, hi = memchr(name, 0, length) ? 0 : n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        int order = strncmp(rows[mid].name, name, length);
        if (order == 0) order = rows[mid].name[length] != 0;
        if (order == 0) return &rows[mid];
        if (order < 0) lo = mid + 1;
        else hi = mid;
    }
    return NULL;
}

/* The place of a parameter by its name, or -1. */
static int parameter_place(const char *parameters, const JStr *name) {
    int place = 0;
    for (const char *p = parameters; p && *p; place++) {
        size_t n = strcspn(p, " ");
        if (n == name->n && memcmp(p, name->data, n) == 0) return place;
        p += n + (p[n] == ' ');
    }
    return -1;
}

static Status bind(JRun *r, const JBuiltin *b, const char *kind, const JCall *call, JVal slots[MOST_PARAMETERS]) {
    if (call->n_pos > b->max)
        return j_fail(r, TANE_EINVAL, "the %s '%s' takes at most %d arguments, %zu are given", kind, b->name, b->max,
                      call->n_pos);
    for (size_t i = 0; i < call->n_pos; i++) slots[i] = call->pos[i];
    for (size_t i = 0; i < call->n_named; i++) {
        const JStr *name = call->names[i];
        int place = parameter_place(b->parameters, name);
        if (place < 0 || place >= b->max)
            return j_fail(r, TANE_EINVAL, "the %s '%s' has no argument '%.*s'", kind, b->name,
                          (int)(name->n < 60 ? name->n : 60), name->data);
        if (slots[place].type != J_MISSING)
            return j_fail(r, TANE_EINVAL, "the argument '%.*s' of '%s' is given twice", (int)name->n, name->data,
                          b->name);
        slots[place] = call->named[i];
    }
    for (int i = 0; i < b->min; i++)
        if (slots[i].type == J_MISSING)
            return j_fail(r, TANE_EINVAL, "the %s '%s' needs %d argument%s", kind, b->name, b->min,
                          b->min == 1 ? "" : "s");
    return TANE_OK;
}

Status j_call_builtin(JRun *r, const JBuiltin *b, const char *kind, JVal self, const JCall *call, JVal *out) {
    JVal slots[MOST_PARAMETERS] = {{0}};
    if (!b->function)
        return j_fail(r, TANE_EUNSUPPORTED, "the %s '%s' of Python is not supported in templates", kind, b->name);
    if (b->max == J_ANY) return b->function(r, self, call, out);
    TRY_RETURN(bind(r, b, kind, call, slots));
    return b->function(r, self, &(JCall){.pos = slots, .n_pos = b->max}, out);
}

Status j_arg_int(JRun *r, const JCall *call, size_t i, int64_t *out) {
    if (!j_given(call, i)) return TANE_OK;
    if (call->pos[i].type == J_UNDEFINED) return j_fail_undefined(r, call->pos[i]);
    if (j_integer(call->pos[i], out)) return TANE_OK;
    return j_fail(r, TANE_EINVAL, "'%s' object cannot be interpreted as an integer", j_type_name(call->pos[i]));
}

Status j_arg_str(JRun *r, const JCall *call, size_t i, const JStr **out) {
    if (!j_given(call, i) || call->pos[i].type == J_NONE) return TANE_OK;
    if (call->pos[i].type == J_UNDEFINED) return j_fail_undefined(r, call->pos[i]);
    if (call->pos[i].type != J_STR)
        return j_fail(r, TANE_EINVAL, "a text is expected as argument, not '%s'", j_type_name(call->pos[i]));
    *out = call->pos[i].str;
    return TANE_OK;
}
