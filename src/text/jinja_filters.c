/* Filters over single values, and the table of all filters. A new filter is a function and a row. */
#include "text/jinja_filters.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "text/jinja_text.h"

#define OWN(name) static Status name(JRun *r, JVal self, const JCall *call, JVal *out)

/* ---- text ------------------------------------------------------------------------------------------------------- */

static Status change_case(JRun *r, JVal self, TextCase to, JVal *out) {
    const JStr *s;
    TRY_RETURN(j_to_str(r, self, &s));
    return text_case(r, s, to, out);
}
OWN(filter_upper) {
    (void)call;
    return change_case(r, self, CASE_UPPER, out);
}
OWN(filter_lower) {
    (void)call;
    return change_case(r, self, CASE_LOWER, out);
}
OWN(filter_title) {
    (void)call;
    return change_case(r, self, CASE_JINJA_TITLE, out);
}
OWN(filter_capitalize) {
    (void)call;
    return change_case(r, self, CASE_CAPITALIZE, out);
}

OWN(filter_trim) {
    const JStr *s, *chars = NULL;
    TRY_RETURN(j_to_str(r, self, &s));
    TRY_RETURN(j_arg_str(r, call, 0, &chars));
    return text_strip(r, s, chars, STRIP_LEFT | STRIP_RIGHT, out);
}

OWN(filter_string) {
    const JStr *s;
    (void)call;
    TRY_RETURN(j_to_str(r, self, &s));
    *out = j_from_str(s);
    return TANE_OK;
}

static Status with_markup(JRun *r, const JStr *s, bool markup, JVal *out) {
    TRY_RETURN(j_part(r, s, 0, s->n, out));
    ((JStr *)(uintptr_t)out->str)->markup = markup;
    return TANE_OK;
}

OWN(filter_safe) {
    const JStr *s;
    (void)call;
    TRY_RETURN(j_to_str(r, self, &s));
    return with_markup(r, s, true, out);
}

OWN(filter_escape) {
    const JStr *s;
    (void)call;
    TRY_RETURN(j_to_str(r, self, &s));
    return text_escape(r, s, out);
}

OWN(filter_forceescape) {
    const JStr *s;
    JVal plain;
    (void)call;
    TRY_RETURN(j_to_str(r, self, &s));
    TRY_RETURN(with_markup(r, s, false, &plain));
    return text_escape(r, plain.str, out);
}

OWN(filter_replace) {
    const JStr *s, *old, *new;
    int64_t most = -1;
    JVal plain;
    TRY_RETURN(j_to_str(r, self, &s));
    TRY_RETURN(j_to_str(r, call->pos[0], &old));
    TRY_RETURN(j_to_str(r, call->pos[1], &new));
    if (j_given(call, 2) && call->pos[2].type != J_NONE) TRY_RETURN(j_arg_int(r, call, 2, &most));
    TRY_RETURN(with_markup(r, s, false, &plain));
    return text_replace(r, plain.str, old, new, most, out);
}

OWN(filter_center) {
    const JStr *s;
    int64_t width = 80;
    TRY_RETURN(j_to_str(r, self, &s));
    TRY_RETURN(j_arg_int(r, call, 0, &width));
    return text_pad(r, s, width, NULL, 'c', out);
}

/* What `indent` puts before a line. */
static Status indention(JRun *r, const JCall *call, const JStr **out) {
    static const JStr space = {.data = " ", .n = 1};
    int64_t width = 4;
    JVal text;
    if (j_given(call, 0) && call->pos[0].type == J_STR) {
        *out = call->pos[0].str;
        return TANE_OK;
    }
    TRY_RETURN(j_arg_int(r, call, 0, &width));
    TRY_RETURN(text_repeat(r, &space, width, &text));
    *out = text.str;
    return TANE_OK;
}

OWN(filter_indent) {
    const JStr *before;
    bool first = j_truth(j_arg(call, 1, j_bool(false))), blank = j_truth(j_arg(call, 2, j_bool(false)));
    static const JStr newline = {.data = "\n", .n = 1};
    JVal ended, lines;
    JBuilder text = {0};
    if (self.type == J_UNDEFINED) return j_fail_undefined(r, self);
    if (self.type != J_STR) return j_fail(r, TANE_EINVAL, "indent wants a text, not '%s'", j_type_name(self));
    TRY_RETURN(indention(r, call, &before));
    TRY_RETURN(j_concat(r, self.str, &newline, &ended));
    TRY_RETURN(text_split_lines(r, ended.str, false, &lines));
    for (size_t i = 0; i < lines.seq->n; i++) {
        const JStr *line = lines.seq->items[i].str;
        if (i) TRY_RETURN(jb_add_str(r, &text, &newline));
        if (i ? blank || line->n > 0 : first) TRY_RETURN(jb_add_str(r, &text, before));
        TRY_RETURN(jb_add_str(r, &text, line));
    }
    TRY_RETURN(jb_finish(r, &text, out));
    ((JStr *)(uintptr_t)out->str)->markup = self.str->markup;
    return TANE_OK;
}

OWN(filter_truncate) {
    static const JStr dots = {.data = "...", .n = 3}, space = {.data = " ", .n = 1};
    int64_t most = 255, leeway = 5;
    bool kill_words = j_truth(j_arg(call, 1, j_bool(false)));
    const JStr *end = &dots;
    JVal cut;
    size_t at;
    TRY_RETURN(j_arg_int(r, call, 0, &most));
    TRY_RETURN(j_arg_str(r, call, 2, &end));
    if (j_given(call, 3) && call->pos[3].type != J_NONE) TRY_RETURN(j_arg_int(r, call, 3, &leeway));
    int64_t n_end = (int64_t)text_length(end), n;
    TRY_RETURN(j_length(r, self, &n));
    if (most < n_end || leeway < 0 || most > INT32_MAX || leeway > INT32_MAX)
        return j_fail(r, TANE_EINVAL, "truncate cannot cut to %lld characters with an end of %lld", (long long)most,
                      (long long)n_end);
    *out = self;
    if (n <= most + leeway) return TANE_OK;
    if (self.type != J_STR) return j_fail(r, TANE_EINVAL, "truncate wants a text, not '%s'", j_type_name(self));
    TRY_RETURN(text_slice(r, self.str, 0, 1, (size_t)(most - n_end), &cut));
    if (!kill_words) {
        TRY_RETURN(text_rfind(r, cut.str, &space, 0, cut.str->n, &at));
        if (at != SIZE_MAX) TRY_RETURN(j_part(r, cut.str, 0, at, &cut));
    }
    return j_binary(r, OP_ADD, cut, j_from_str(end), out);
}

OWN(filter_wordcount) {
    const JStr *s;
    int64_t n = 0;
    bool inside = false;
    (void)call;
    TRY_RETURN(j_to_str(r, self, &s));
    for (size_t i = 0; i < s->n; i += text_char(s->data + i)) {
        JStr one = {.data = s->data + i, .n = text_char(s->data + i)};
        bool word = text_is(&one, "alnum") || one.data[0] == '_';
        n += word && !inside;
        inside = word;
    }
    *out = j_int(n);
    return j_work(r, s->n);
}

OWN(filter_format) {
    const JStr *s;
    JVal args;
    TRY_RETURN(j_to_str(r, self, &s));
    if (call->n_pos && call->n_named)
        return j_fail(r, TANE_EINVAL, "can't handle positional and keyword arguments at the same time");
    if (call->n_named) {
        TRY_RETURN(j_dict(r, call->n_named, &args));
        for (size_t i = 0; i < call->n_named; i++)
            TRY_RETURN(j_dict_set(r, args.dict, j_from_str(call->names[i]), call->named[i]));
    } else {
        TRY_RETURN(j_seq(r, J_TUPLE, call->n_pos, &args));
        if (call->n_pos) memcpy(args.seq->items, call->pos, call->n_pos * sizeof(JVal));
    }
    return j_percent(r, s, args, out);
}

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

OWN(filter_abs) {
    double f;
    int64_t i;
    (void)call;
    if (j_integer(self, &i)) {
        *out = j_int(i);
        return i < 0 ? j_negate(r, self, out) : TANE_OK;
    }
    if (self.type == J_UNDEFINED) return j_fail_undefined(r, self);
    if (!j_number(self, &f)) return j_fail(r, TANE_EINVAL, "bad operand type for abs(): '%s'", j_type_name(self));
    *out = j_float(fabs(f));
    return TANE_OK;
}

/* int() of a number that has a broken part; out of 64 bits is an error. */
static Status truncated(JRun *r, double f, JVal *out) {
    if (!(fabs(f) < 9223372036854775808.0)) return j_fail(r, TANE_EINVAL, "the number does not fit into 64 bits");
    *out = j_int((int64_t)f);
    return TANE_OK;
}

OWN(filter_int) {
    int64_t i, base = 10;
    double f;
    TRY_RETURN(j_arg_int(r, call, 1, &base));
    if (self.type == J_UNDEFINED) return j_fail_undefined(r, self);
    *out = j_arg(call, 0, j_int(0));
    if (j_integer(self, &i)) *out = j_int(i);
    else if (self.type == J_FLOAT) return isnan(self.real) || isinf(self.real) ? TANE_OK : truncated(r, self.real, out);
    else if (self.type == J_STR) {
        if (base != 0 && (base < 2 || base > 36)) return TANE_OK;
        if (j_parse_int(self.str, (int)base, &i)) *out = j_int(i);
        else if (j_parse_float(self.str, &f) && !isnan(f) && !isinf(f)) return truncated(r, f, out);
    }
    return TANE_OK;
}

OWN(filter_float) {
    double f;
    if (self.type == J_UNDEFINED) return j_fail_undefined(r, self);
    *out = j_arg(call, 0, j_float(0));
    if (j_number(self, &f) || (self.type == J_STR && j_parse_float(self.str, &f))) *out = j_float(f);
    return TANE_OK;
}

/* round(): the decimal digits decide, and a tie goes to the even one. */
static double rounded(double f, int64_t digits) {
    char text[400];
    double result;
    if (isnan(f) || isinf(f) || digits > 300) return f;
    if (digits < 0) {
        double unit = pow(10, (double)(digits < -400 ? 400 : -digits));
        return isinf(unit) ? copysign(0, f) : nearbyint(f / unit) * unit;
    }
    snprintf(text, sizeof text, "%.*f", (int)(digits > 40 ? 40 : digits), f);
    JStr s = {.data = text, .n = strlen(text)};
    return j_parse_float(&s, &result) ? result : f;
}

OWN(filter_round) {
    int64_t precision = 0, i;
    double f;
    const JStr *method = NULL;
    TRY_RETURN(j_arg_int(r, call, 0, &precision));
    TRY_RETURN(j_arg_str(r, call, 1, &method));
    bool ceil_ = method && j_str_is(method, "ceil"), floor_ = method && j_str_is(method, "floor");
    if (method && !ceil_ && !floor_ && !j_str_is(method, "common"))
        return j_fail(r, TANE_EINVAL, "method must be common, ceil or floor");
    if (self.type == J_UNDEFINED) return j_fail_undefined(r, self);
    if (!j_number(self, &f)) return j_fail(r, TANE_EINVAL, "type %s cannot be rounded", j_type_name(self));
    if (ceil_ || floor_) {
        double unit = pow(10, (double)precision);
        *out = j_float((ceil_ ? ceil(f * unit) : floor(f * unit)) / unit);
    } else if (j_integer(self, &i) && precision >= 0) {
        *out = j_int(i);
    } else if (j_integer(self, &i)) {
        return truncated(r, rounded(f, precision), out);
    } else {
        *out = j_float(rounded(f, precision));
    }
    return TANE_OK;
}

/* ---- any value -------------------------------------------------------------------------------------------------- */

OWN(filter_default) {
    static const JStr nothing = {.data = ""};
    (void)r;
    bool empty = self.type == J_UNDEFINED || (j_truth(j_arg(call, 1, j_bool(false))) && !j_truth(self));
    *out = empty ? j_arg(call, 0, j_from_str(&nothing)) : self;
    return TANE_OK;
}

OWN(filter_length) {
    int64_t n;
    (void)call;
    TRY_RETURN(j_length(r, self, &n));
    *out = j_int(n);
    return TANE_OK;
}

OWN(filter_attr) {
    const JStr *name;
    TRY_RETURN(j_to_str(r, call->pos[0], &name));
    if (self.type != J_DICT) return j_attribute(r, self, name, out);
    /* |attr never looks at keys. */
    JVal empty;
    TRY_RETURN(j_dict(r, 0, &empty));
    TRY_RETURN(j_attribute(r, empty, name, out));
    if (out->type == J_METHOD) out->method->self = self;
    return TANE_OK;
}

OWN(filter_tojson) { return j_tojson(r, self, call, out); }

/* ---- the table -------------------------------------------------------------------------------------------------- */

/* In the order of the alphabet. Rows without a function are filters of Jinja2 that no chat template was seen to use. */
static const JBuiltin filters[] = {
    {"abs", 0, 0, NULL, filter_abs},
    {"attr", 1, 1, "name ", filter_attr},
    {"batch", 1, 2, "linecount fill_with ", filter_batch},
    {"capitalize", 0, 0, NULL, filter_capitalize},
    {"center", 0, 1, "width ", filter_center},
    {"count", 0, 0, NULL, filter_length},
    {"d", 0, 2, "default_value boolean ", filter_default},
    {"default", 0, 2, "default_value boolean ", filter_default},
    {"dictsort", 0, 3, "case_sensitive by reverse ", filter_dictsort},
    {"e", 0, 0, NULL, filter_escape},
    {"escape", 0, 0, NULL, filter_escape},
    {"filesizeformat", 0, J_ANY, NULL, NULL},
    {"first", 0, 0, NULL, filter_first},
    {"float", 0, 1, "default ", filter_float},
    {"forceescape", 0, 0, NULL, filter_forceescape},
    {"format", 0, J_ANY, NULL, filter_format},
    {"groupby", 0, J_ANY, NULL, NULL},
    {"indent", 0, 3, "width first blank ", filter_indent},
    {"int", 0, 2, "default base ", filter_int},
    {"items", 0, 0, NULL, filter_items},
    {"join", 0, 2, "d attribute ", filter_join},
    {"last", 0, 0, NULL, filter_last},
    {"length", 0, 0, NULL, filter_length},
    {"list", 0, 0, NULL, filter_list},
    {"lower", 0, 0, NULL, filter_lower},
    {"map", 0, J_ANY, NULL, filter_map},
    {"max", 0, 2, "case_sensitive attribute ", filter_max},
    {"min", 0, 2, "case_sensitive attribute ", filter_min},
    {"pprint", 0, J_ANY, NULL, NULL},
    {"random", 0, J_ANY, NULL, NULL}, /* the same conversation gives the same text */
    {"reject", 0, J_ANY, NULL, filter_reject},
    {"rejectattr", 0, J_ANY, NULL, filter_rejectattr},
    {"replace", 2, 3, "old new count ", filter_replace},
    {"reverse", 0, 0, NULL, filter_reverse},
    {"round", 0, 2, "precision method ", filter_round},
    {"safe", 0, 0, NULL, filter_safe},
    {"select", 0, J_ANY, NULL, filter_select},
    {"selectattr", 0, J_ANY, NULL, filter_selectattr},
    {"slice", 1, 2, "slices fill_with ", filter_slice},
    {"sort", 0, 3, "reverse case_sensitive attribute ", filter_sort},
    {"string", 0, 0, NULL, filter_string},
    {"striptags", 0, J_ANY, NULL, NULL},
    {"sum", 0, 2, "attribute start ", filter_sum},
    {"title", 0, 0, NULL, filter_title},
    {"tojson", 0, 4, "ensure_ascii indent separators sort_keys ", filter_tojson},
    {"trim", 0, 1, "chars ", filter_trim},
    {"truncate", 0, 4, "length killwords end leeway ", filter_truncate},
    {"unique", 0, 2, "case_sensitive attribute ", filter_unique},
    {"upper", 0, 0, NULL, filter_upper},
    {"urlencode", 0, J_ANY, NULL, NULL},
    {"urlize", 0, J_ANY, NULL, NULL},
    {"wordcount", 0, 0, NULL, filter_wordcount},
    {"wordwrap", 0, J_ANY, NULL, NULL},
    {"xmlattr", 0, J_ANY, NULL, NULL},
};

const JBuiltin *jinja_find_filter(const char *name, size_t n) {
    return jinja_find_row(filters, sizeof filters / sizeof *filters, name, n);
}
