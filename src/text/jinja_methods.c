/* Methods of str, list, tuple and dict, and the attributes that Python has and tane has not. Methods that would change
 * a list or a dict are there to be refused, as the immutable sandbox does. */
#include <string.h>

#include "text/jinja_builtins.h"
#include "text/jinja_text.h"

#define METHOD(name) static Status name(JRun *r, JVal self, const JCall *call, JVal *out)
#define UNUSED(x)    (void)(x)

/* ---- str -------------------------------------------------------------------------------------------------------- */

static Status strip(JRun *r, JVal self, const JCall *call, int sides, JVal *out) {
    const JStr *chars = NULL;
    TRY_RETURN(j_arg_str(r, call, 0, &chars));
    return text_strip(r, self.str, chars, sides, out);
}
METHOD(str_strip) { return strip(r, self, call, STRIP_LEFT | STRIP_RIGHT, out); }
METHOD(str_lstrip) { return strip(r, self, call, STRIP_LEFT, out); }
METHOD(str_rstrip) { return strip(r, self, call, STRIP_RIGHT, out); }

static Status split(JRun *r, JVal self, const JCall *call, bool from_right, JVal *out) {
    const JStr *sep = NULL;
    int64_t most = -1;
    TRY_RETURN(j_arg_str(r, call, 0, &sep));
    TRY_RETURN(j_arg_int(r, call, 1, &most));
    return text_split(r, self.str, sep, most, from_right, out);
}
METHOD(str_split) { return split(r, self, call, false, out); }
METHOD(str_rsplit) { return split(r, self, call, true, out); }

METHOD(str_splitlines) { return text_split_lines(r, self.str, j_truth(j_arg(call, 0, j_bool(false))), out); }

/* start and end of s[start:end] from arguments i and i + 1, in bytes; from > to when there is no such part. */
static Status part(JRun *r, const JStr *s, const JCall *call, size_t i, size_t *from, size_t *to) {
    int64_t n = (int64_t)text_length(s), bounds[2] = {0, n};
    for (size_t k = 0; k < 2; k++) {
        if (j_given(call, i + k) && call->pos[i + k].type == J_NONE) continue;
        TRY_RETURN(j_arg_int(r, call, i + k, &bounds[k]));
        if (bounds[k] < 0) bounds[k] = bounds[k] < -n ? 0 : bounds[k] + n;
    }
    if (bounds[1] > n) bounds[1] = n;
    *from = bounds[0] > n ? s->n + 1 : text_offset(s, (size_t)bounds[0]);
    *to = text_offset(s, (size_t)bounds[1]);
    return j_work(r, s->n);
}

static bool matches(const JStr *s, size_t from, size_t to, const JStr *with, bool at_end) {
    if (from > to || to - from < with->n) return false;
    return memcmp(s->data + (at_end ? to - with->n : from), with->data, with->n) == 0;
}

static Status affix(JRun *r, JVal self, const JCall *call, bool at_end, JVal *out) {
    size_t from, to;
    JIter it = {.items = &call->pos[0], .n = 1};
    bool found = false;
    TRY_RETURN(part(r, self.str, call, 1, &from, &to));
    if (call->pos[0].type == J_TUPLE) TRY_RETURN(j_walk(r, call->pos[0], &it));
    for (size_t i = 0; i < it.n && !found; i++) {
        if (it.items[i].type == J_UNDEFINED) return j_fail_undefined(r, it.items[i]);
        if (it.items[i].type != J_STR)
            return j_fail(r, TANE_EINVAL, "%s first arg must be str or a tuple of str, not %s",
                          at_end ? "endswith" : "startswith", j_type_name(it.items[i]));
        found = matches(self.str, from, to, it.items[i].str, at_end);
    }
    *out = j_bool(found);
    return TANE_OK;
}
METHOD(str_startswith) { return affix(r, self, call, false, out); }
METHOD(str_endswith) { return affix(r, self, call, true, out); }

static Status remove_affix(JRun *r, JVal self, const JCall *call, bool at_end, JVal *out) {
    const JStr *s = self.str, *with = NULL;
    TRY_RETURN(j_arg_str(r, call, 0, &with));
    if (!with) return j_fail(r, TANE_EINVAL, "a text is expected as argument, not 'NoneType'");
    size_t n = matches(s, 0, s->n, with, at_end) ? with->n : 0;
    return j_part(r, s, at_end ? 0 : n, at_end ? s->n - n : s->n, out);
}
METHOD(str_removeprefix) { return remove_affix(r, self, call, false, out); }
METHOD(str_removesuffix) { return remove_affix(r, self, call, true, out); }

METHOD(str_upper) {
    UNUSED(call);
    return text_case(r, self.str, CASE_UPPER, out);
}
METHOD(str_lower) {
    UNUSED(call);
    return text_case(r, self.str, CASE_LOWER, out);
}
METHOD(str_title) {
    UNUSED(call);
    return text_case(r, self.str, CASE_TITLE, out);
}
METHOD(str_capitalize) {
    UNUSED(call);
    return text_case(r, self.str, CASE_CAPITALIZE, out);
}
METHOD(str_swapcase) {
    UNUSED(call);
    return text_case(r, self.str, CASE_SWAP, out);
}

METHOD(str_replace) {
    const JStr *old = NULL, *new = NULL;
    int64_t most = -1;
    JVal escaped;
    TRY_RETURN(j_arg_str(r, call, 0, &old));
    TRY_RETURN(j_arg_str(r, call, 1, &new));
    TRY_RETURN(j_arg_int(r, call, 2, &most));
    if (!old || !new) return j_fail(r, TANE_EINVAL, "replace() wants two texts, not 'NoneType'");
    if (self.str->markup) {
        TRY_RETURN(text_escape(r, new, &escaped));
        new = escaped.str;
    }
    return text_replace(r, self.str, old, new, most, out);
}

METHOD(str_join) { return text_join(r, self.str, call->pos[0], true, out); }
METHOD(str_format) { return j_str_format(r, self.str, call, out); }

/* The index of a character that begins at a byte. */
static int64_t character_index(const JStr *s, size_t at) {
    JStr before = {.data = s->data, .n = at};
    return (int64_t)text_length(&before);
}

static Status search(JRun *r, JVal self, const JCall *call, bool last, bool required, JVal *out) {
    const JStr *needle = NULL;
    size_t from, to, at;
    TRY_RETURN(j_arg_str(r, call, 0, &needle));
    if (!needle) return j_fail(r, TANE_EINVAL, "must be str, not NoneType");
    TRY_RETURN(part(r, self.str, call, 1, &from, &to));
    TRY_RETURN(last ? text_rfind(r, self.str, needle, from, to, &at) : text_find(r, self.str, needle, from, to, &at));
    if (at == SIZE_MAX && required) return j_fail(r, TANE_EINVAL, "substring not found");
    *out = j_int(at == SIZE_MAX ? -1 : character_index(self.str, at));
    return TANE_OK;
}
METHOD(str_find) { return search(r, self, call, false, false, out); }
METHOD(str_rfind) { return search(r, self, call, true, false, out); }
METHOD(str_index) { return search(r, self, call, false, true, out); }
METHOD(str_rindex) { return search(r, self, call, true, true, out); }

METHOD(str_count) {
    const JStr *needle = NULL;
    size_t from, to, at;
    int64_t n = 0;
    TRY_RETURN(j_arg_str(r, call, 0, &needle));
    if (!needle) return j_fail(r, TANE_EINVAL, "must be str, not NoneType");
    TRY_RETURN(part(r, self.str, call, 1, &from, &to));
    for (; from <= to; n++) {
        TRY_RETURN(text_find(r, self.str, needle, from, to, &at));
        if (at == SIZE_MAX) break;
        from = at + (needle->n ? needle->n : at < to ? text_char(self.str->data + at) : 1);
    }
    *out = j_int(n);
    return TANE_OK;
}

/* Three parts around the first (last) occurrence. */
static Status partition(JRun *r, JVal self, const JCall *call, bool last, JVal *out) {
    const JStr *s = self.str, *sep = NULL;
    size_t at;
    TRY_RETURN(j_arg_str(r, call, 0, &sep));
    if (!sep || !sep->n) return j_fail(r, TANE_EINVAL, "partition() wants a separator");
    TRY_RETURN(last ? text_rfind(r, s, sep, 0, s->n, &at) : text_find(r, s, sep, 0, s->n, &at));
    size_t cut = at != SIZE_MAX ? at : last ? 0 : s->n, behind = at != SIZE_MAX ? at + sep->n : cut;
    TRY_RETURN(j_seq(r, J_TUPLE, 3, out));
    TRY_RETURN(j_part(r, s, 0, cut, &out->seq->items[0]));
    TRY_RETURN(j_part(r, s, cut, behind, &out->seq->items[1]));
    return j_part(r, s, behind, s->n, &out->seq->items[2]);
}
METHOD(str_partition) { return partition(r, self, call, false, out); }
METHOD(str_rpartition) { return partition(r, self, call, true, out); }

static Status pad(JRun *r, JVal self, const JCall *call, char side, JVal *out) {
    int64_t width = 0;
    const JStr *fill = NULL;
    TRY_RETURN(j_arg_int(r, call, 0, &width));
    TRY_RETURN(j_arg_str(r, call, 1, &fill));
    return text_pad(r, self.str, width, fill, side, out);
}
METHOD(str_ljust) { return pad(r, self, call, 'l', out); }
METHOD(str_rjust) { return pad(r, self, call, 'r', out); }
METHOD(str_center) { return pad(r, self, call, 'c', out); }

METHOD(str_zfill) {
    static const JStr zero = {.data = "0", .n = 1};
    int64_t width = 0;
    JVal digits, padded, sign;
    TRY_RETURN(j_arg_int(r, call, 0, &width));
    size_t signs = self.str->n && (self.str->data[0] == '-' || self.str->data[0] == '+');
    TRY_RETURN(j_part(r, self.str, 0, signs, &sign));
    TRY_RETURN(j_part(r, self.str, signs, self.str->n, &digits));
    TRY_RETURN(text_pad(r, digits.str, width - (int64_t)signs, &zero, 'r', &padded));
    return j_concat(r, sign.str, padded.str, out);
}

#define IS(name)                                                                                                       \
    METHOD(str_is##name) {                                                                                             \
        UNUSED(r);                                                                                                     \
        UNUSED(call);                                                                                                  \
        *out = j_bool(text_is(self.str, #name));                                                                       \
        return TANE_OK;                                                                                                \
    }
IS(alnum)
IS(alpha)
IS(ascii)
IS(decimal)
IS(digit)
IS(lower)
IS(numeric)
IS(space)
IS(upper)

/* In the order of the alphabet, as all tables here: they are searched by halves. */
static const JBuiltin str_methods[] = {
    {"capitalize", 0, 0, NULL, str_capitalize},
    {"casefold", 0, 0, NULL, NULL},
    {"center", 1, 2, NULL, str_center},
    {"count", 1, 3, NULL, str_count},
    {"encode", 0, J_ANY, NULL, NULL},
    {"endswith", 1, 3, NULL, str_endswith},
    {"expandtabs", 0, J_ANY, NULL, NULL},
    {"find", 1, 3, NULL, str_find},
    {"format", 0, J_ANY, NULL, str_format},
    {"format_map", 0, J_ANY, NULL, NULL},
    {"index", 1, 3, NULL, str_index},
    {"isalnum", 0, 0, NULL, str_isalnum},
    {"isalpha", 0, 0, NULL, str_isalpha},
    {"isascii", 0, 0, NULL, str_isascii},
    {"isdecimal", 0, 0, NULL, str_isdecimal},
    {"isdigit", 0, 0, NULL, str_isdigit},
    {"isidentifier", 0, 0, NULL, NULL},
    {"islower", 0, 0, NULL, str_islower},
    {"isnumeric", 0, 0, NULL, str_isnumeric},
    {"isprintable", 0, 0, NULL, NULL},
    {"isspace", 0, 0, NULL, str_isspace},
    {"istitle", 0, 0, NULL, NULL},
    {"isupper", 0, 0, NULL, str_isupper},
    {"join", 1, 1, NULL, str_join},
    {"ljust", 1, 2, NULL, str_ljust},
    {"lower", 0, 0, NULL, str_lower},
    {"lstrip", 0, 1, NULL, str_lstrip},
    {"maketrans", 0, J_ANY, NULL, NULL},
    {"partition", 1, 1, NULL, str_partition},
    {"removeprefix", 1, 1, NULL, str_removeprefix},
    {"removesuffix", 1, 1, NULL, str_removesuffix},
    {"replace", 2, 3, NULL, str_replace},
    {"rfind", 1, 3, NULL, str_rfind},
    {"rindex", 1, 3, NULL, str_rindex},
    {"rjust", 1, 2, NULL, str_rjust},
    {"rpartition", 1, 1, NULL, str_rpartition},
    {"rsplit", 0, 2, "sep maxsplit ", str_rsplit},
    {"rstrip", 0, 1, NULL, str_rstrip},
    {"split", 0, 2, "sep maxsplit ", str_split},
    {"splitlines", 0, 1, "keepends ", str_splitlines},
    {"startswith", 1, 3, NULL, str_startswith},
    {"strip", 0, 1, NULL, str_strip},
    {"swapcase", 0, 0, NULL, str_swapcase},
    {"title", 0, 0, NULL, str_title},
    {"translate", 0, J_ANY, NULL, NULL},
    {"upper", 0, 0, NULL, str_upper},
    {"zfill", 1, 1, NULL, str_zfill},
};

/* ---- list and tuple --------------------------------------------------------------------------------------------- */

METHOD(list_count) {
    int64_t n = 0;
    TRY_RETURN(j_work(r, ITEM_WORK * self.seq->n));
    for (size_t i = 0; i < self.seq->n; i++) {
        bool same;
        TRY_RETURN(j_equal(r, self.seq->items[i], call->pos[0], &same));
        n += same;
    }
    *out = j_int(n);
    return TANE_OK;
}

METHOD(list_index) {
    TRY_RETURN(j_work(r, ITEM_WORK * self.seq->n));
    for (size_t i = 0; i < self.seq->n; i++) {
        bool same;
        TRY_RETURN(j_equal(r, self.seq->items[i], call->pos[0], &same));
        *out = j_int((int64_t)i);
        if (same) return TANE_OK;
    }
    return j_fail(r, TANE_EINVAL, "the value is not in the list");
}

METHOD(list_copy) {
    UNUSED(call);
    return j_list_of(r, J_LIST, self, out);
}

/* A row that the sandbox refuses has this function; nobody calls it. */
METHOD(unsafe) {
    UNUSED(self);
    UNUSED(call);
    UNUSED(out);
    return j_fail(r, TANE_EINVAL, "templates change nothing");
}
bool jinja_is_unsafe(const JBuiltin *method) { return method->function == unsafe; }

static const JBuiltin list_methods[] = {
    {"append", 0, J_ANY, NULL, unsafe},  {"clear", 0, J_ANY, NULL, unsafe},  {"copy", 0, 0, NULL, list_copy},
    {"count", 1, 1, NULL, list_count},   {"extend", 0, J_ANY, NULL, unsafe}, {"index", 1, 1, NULL, list_index},
    {"insert", 0, J_ANY, NULL, unsafe},  {"pop", 0, J_ANY, NULL, unsafe},    {"remove", 0, J_ANY, NULL, unsafe},
    {"reverse", 0, J_ANY, NULL, unsafe}, {"sort", 0, J_ANY, NULL, unsafe},
};
static const JBuiltin tuple_methods[] = {{"count", 1, 1, NULL, list_count}, {"index", 1, 1, NULL, list_index}};

/* ---- dict ------------------------------------------------------------------------------------------------------- */

METHOD(dict_get) {
    const JVal *found;
    TRY_RETURN(j_dict_get(r, self.dict, call->pos[0], &found));
    *out = found ? *found : j_arg(call, 1, j_none());
    return TANE_OK;
}

METHOD(dict_items) {
    UNUSED(call);
    return j_view(r, self.dict, 'i', out);
}
METHOD(dict_keys) {
    UNUSED(call);
    return j_view(r, self.dict, 'k', out);
}
METHOD(dict_values) {
    UNUSED(call);
    return j_view(r, self.dict, 'v', out);
}

METHOD(dict_copy) {
    UNUSED(call);
    TRY_RETURN(j_work(r, ITEM_WORK * self.dict->n));
    TRY_RETURN(j_dict(r, self.dict->n, out));
    if (self.dict->n) memcpy(out->dict->entries, self.dict->entries, self.dict->n * sizeof(JEntry));
    out->dict->n = self.dict->n;
    return TANE_OK;
}

static const JBuiltin dict_methods[] = {
    {"clear", 0, J_ANY, NULL, unsafe},  {"copy", 0, 0, NULL, dict_copy},     {"fromkeys", 0, J_ANY, NULL, NULL},
    {"get", 1, 2, NULL, dict_get},      {"items", 0, 0, NULL, dict_items},   {"keys", 0, 0, NULL, dict_keys},
    {"pop", 0, J_ANY, NULL, unsafe},    {"popitem", 0, J_ANY, NULL, unsafe}, {"setdefault", 0, J_ANY, NULL, unsafe},
    {"update", 0, J_ANY, NULL, unsafe}, {"values", 0, 0, NULL, dict_values},
};

/* ---- cycler ----------------------------------------------------------------------------------------------------- */

METHOD(cycler_next) {
    UNUSED(r);
    UNUSED(call);
    *out = self.turn->items[self.turn->at];
    self.turn->at = (self.turn->at + 1) % self.turn->n;
    return TANE_OK;
}

METHOD(cycler_reset) {
    UNUSED(r);
    UNUSED(call);
    self.turn->at = 0;
    *out = j_none();
    return TANE_OK;
}

static const JBuiltin cycler_methods[] = {{"next", 0, 0, NULL, cycler_next}, {"reset", 0, 0, NULL, cycler_reset}};

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

static const JBuiltin int_methods[] = {
    {"as_integer_ratio", 0, 0, NULL, NULL},
    {"bit_count", 0, 0, NULL, NULL},
    {"bit_length", 0, 0, NULL, NULL},
    {"conjugate", 0, 0, NULL, NULL},
    {"denominator", 0, 0, NULL, NULL},
    {"from_bytes", 0, J_ANY, NULL, NULL},
    {"imag", 0, 0, NULL, NULL},
    {"numerator", 0, 0, NULL, NULL},
    {"real", 0, 0, NULL, NULL},
    {"to_bytes", 0, J_ANY, NULL, NULL},
};
static const JBuiltin float_methods[] = {
    {"as_integer_ratio", 0, 0, NULL, NULL},
    {"conjugate", 0, 0, NULL, NULL},
    {"fromhex", 0, J_ANY, NULL, NULL},
    {"hex", 0, 0, NULL, NULL},
    {"imag", 0, 0, NULL, NULL},
    {"is_integer", 0, 0, NULL, NULL},
    {"real", 0, 0, NULL, NULL},
};

/* ---- things that have attributes and no use in templates --------------------------------------------------------- */

static const JBuiltin range_methods[] = {
    {"count", 0, J_ANY, NULL, NULL}, {"index", 0, J_ANY, NULL, NULL}, {"start", 0, J_ANY, NULL, NULL},
    {"step", 0, J_ANY, NULL, NULL},  {"stop", 0, J_ANY, NULL, NULL},
};
static const JBuiltin view_methods[] = {{"isdisjoint", 0, J_ANY, NULL, NULL}, {"mapping", 0, J_ANY, NULL, NULL}};
static const JBuiltin macro_methods[] = {
    {"arguments", 0, J_ANY, NULL, NULL},       {"caller", 0, J_ANY, NULL, NULL},
    {"catch_kwargs", 0, J_ANY, NULL, NULL},    {"catch_varargs", 0, J_ANY, NULL, NULL},
    {"explicit_caller", 0, J_ANY, NULL, NULL}, {"name", 0, J_ANY, NULL, NULL},
};

/* ---- looking up ------------------------------------------------------------------------------------------------- */

#define FIND(rows) jinja_find_row(rows, sizeof(rows) / sizeof *(rows), name, n)

const JBuiltin *jinja_find_method(JType type, const char *name, size_t n) {
    switch (type) {
    case J_STR: return FIND(str_methods);
    case J_LIST: return FIND(list_methods);
    case J_TUPLE: return FIND(tuple_methods);
    case J_DICT: return FIND(dict_methods);
    case J_CYCLER: return FIND(cycler_methods);
    case J_RANGE: return FIND(range_methods);
    case J_VIEW: return FIND(view_methods);
    case J_MACRO: return FIND(macro_methods);
    case J_BOOL:
    case J_INT: return FIND(int_methods);
    case J_FLOAT: return FIND(float_methods);
    default: return NULL;
    }
}
