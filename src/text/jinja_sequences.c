/* Filters over sequences. What Python would do item by item as it is asked (map, select, ...) happens here at once, and
 * the result can be walked once, like Python's generator. */
#include <string.h>

#include "text/jinja_filters.h"
#include "text/jinja_text.h"

/* ---- attributes by path: "a.b.0" -------------------------------------------------------------------------------- */

static bool all_digits(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (text[i] < '0' || text[i] > '9') return false;
    return n > 0;
}

/* One part of a path as a key: digits are an index. */
static Status path_key(JRun *r, const JStr *path, size_t from, size_t to, JVal *key) {
    int64_t index;
    TRY_RETURN(j_part(r, path, from, to, key));
    if (all_digits(path->data + from, to - from) && j_parse_int(key->str, 10, &index)) *key = j_int(index);
    return TANE_OK;
}

/* item.a.b.0; `fallback` (J_MISSING: none) stands in for what is undefined on the way. */
static Status by_path(JRun *r, JVal item, const JStr *path, size_t from, size_t to, JVal fallback, JVal *out) {
    while (from <= to) {
        const char *dot = memchr(path->data + from, '.', to - from);
        size_t end = dot ? (size_t)(dot - path->data) : to;
        JVal key;
        TRY_RETURN(path_key(r, path, from, end, &key));
        TRY_RETURN(j_item(r, item, key, &item));
        if (item.type == J_UNDEFINED && fallback.type != J_MISSING && fallback.type != J_NONE) item = fallback;
        from = end + 1;
    }
    *out = item;
    return TANE_OK;
}

/* What an attribute argument (none, a path, an index) gives for an item. */
static Status attribute_of(JRun *r, JVal item, JVal attribute, JVal fallback, JVal *out) {
    *out = item;
    if (attribute.type == J_MISSING || attribute.type == J_NONE) return TANE_OK;
    if (attribute.type == J_STR) return by_path(r, item, attribute.str, 0, attribute.str->n, fallback, out);
    TRY_RETURN(j_item(r, item, attribute, out));
    if (out->type == J_UNDEFINED && fallback.type != J_MISSING && fallback.type != J_NONE) *out = fallback;
    return TANE_OK;
}

static Status fold_case(JRun *r, JVal v, bool case_sensitive, JVal *out) {
    *out = v;
    return case_sensitive || v.type != J_STR ? TANE_OK : text_case(r, v.str, CASE_LOWER, out);
}

/* ---- plain ones ------------------------------------------------------------------------------------------------- */

FILTER(filter_first) {
    JIter it;
    (void)call;
    if (self.type == J_GENERATOR && self.seq->n) { /* only one is taken */
        *out = *self.seq->items++;
        self.seq->n--;
        return TANE_OK;
    }
    TRY_RETURN(j_walk(r, self, &it));
    *out = it.n ? j_iter_at(&it, 0) : j_hint("No first item, sequence was empty.");
    return TANE_OK;
}

FILTER(filter_last) {
    JIter it;
    (void)call;
    if (self.type == J_GENERATOR)
        return j_fail(r, TANE_EINVAL, "'generator' object is not reversible; use |list before |last");
    TRY_RETURN(j_walk(r, self, &it));
    *out = it.n ? j_iter_at(&it, it.n - 1) : j_hint("No last item, sequence was empty.");
    return TANE_OK;
}

FILTER(filter_list) {
    (void)call;
    return j_list_of(r, J_LIST, self, out);
}

FILTER(filter_items) {
    (void)call;
    if (self.type == J_UNDEFINED) return j_seq(r, J_GENERATOR, 0, out);
    if (self.type != J_DICT) return j_fail(r, TANE_EINVAL, "Can only get item pairs from a mapping.");
    TRY_RETURN(j_view(r, self.dict, 'i', out));
    out->type = J_GENERATOR;
    return TANE_OK;
}

FILTER(filter_reverse) {
    JIter it;
    (void)call;
    if (self.type == J_STR) {
        int64_t n = (int64_t)text_length(self.str);
        return text_slice(r, self.str, n - 1, -1, (size_t)n, out);
    }
    TRY_RETURN(j_walk(r, self, &it));
    TRY_RETURN(j_seq(r, J_GENERATOR, it.n, out));
    for (size_t i = 0; i < it.n; i++) out->seq->items[i] = j_iter_at(&it, it.n - 1 - i);
    return TANE_OK;
}

FILTER(filter_join) {
    static const JStr nothing = {.data = ""};
    const JStr *sep = &nothing;
    JVal items = self, attribute = j_arg(call, 1, j_none());
    JIter it;
    if (j_given(call, 0)) TRY_RETURN(j_to_str(r, call->pos[0], &sep));
    if (attribute.type != J_NONE) {
        TRY_RETURN(j_walk(r, self, &it));
        TRY_RETURN(j_seq(r, J_LIST, it.n, &items));
        for (size_t i = 0; i < it.n; i++)
            TRY_RETURN(attribute_of(r, j_iter_at(&it, i), attribute, j_none(), &items.seq->items[i]));
    }
    return text_join(r, sep, items, false, out);
}

FILTER(filter_sum) {
    JIter it;
    JVal item;
    *out = j_arg(call, 1, j_int(0));
    if (out->type == J_STR) return j_fail(r, TANE_EINVAL, "sum() can't sum strings; use |join");
    TRY_RETURN(j_walk(r, self, &it));
    for (size_t i = 0; i < it.n; i++) {
        TRY_RETURN(attribute_of(r, j_iter_at(&it, i), j_arg(call, 0, j_none()), j_none(), &item));
        TRY_RETURN(j_binary(r, OP_ADD, *out, item, out));
    }
    return TANE_OK;
}

/* Rows of `n` items, the last one filled up. */
FILTER(filter_batch) {
    int64_t n = 0;
    JIter it;
    TRY_RETURN(j_arg_int(r, call, 0, &n));
    TRY_RETURN(j_walk(r, self, &it));
    if (n < 1) return j_fail(r, TANE_EINVAL, "batch wants rows of at least 1 item, not %lld", (long long)n);
    JVal fill = j_arg(call, 1, j_none());
    size_t rows = it.n / (size_t)n + (it.n % (size_t)n != 0);
    TRY_RETURN(j_seq(r, J_GENERATOR, rows, out));
    for (size_t i = 0; i < rows; i++) {
        size_t left = it.n - i * (size_t)n, here = left < (size_t)n ? left : (size_t)n;
        size_t width = fill.type == J_NONE ? here : (size_t)n;
        TRY_RETURN(j_seq(r, J_LIST, width, &out->seq->items[i]));
        for (size_t k = 0; k < width; k++)
            out->seq->items[i].seq->items[k] = k < here ? j_iter_at(&it, i * (size_t)n + k) : fill;
    }
    return TANE_OK;
}

/* `n` lists of nearly the same length. */
FILTER(filter_slice) {
    int64_t n = 0;
    JIter it;
    TRY_RETURN(j_arg_int(r, call, 0, &n));
    TRY_RETURN(j_walk(r, self, &it));
    if (n < 1 || n > JINJA_MAX_RANGE)
        return j_fail(r, TANE_EINVAL, "slice wants 1 to %d parts, not %lld", JINJA_MAX_RANGE, (long long)n);
    JVal fill = j_arg(call, 1, j_none());
    size_t each = it.n / (size_t)n, longer = it.n % (size_t)n, at = 0;
    TRY_RETURN(j_seq(r, J_GENERATOR, (size_t)n, out));
    for (size_t i = 0; i < (size_t)n; i++) {
        size_t here = each + (i < longer), width = here + (fill.type != J_NONE && i >= longer);
        TRY_RETURN(j_seq(r, J_LIST, width, &out->seq->items[i]));
        for (size_t k = 0; k < width; k++) out->seq->items[i].seq->items[k] = k < here ? j_iter_at(&it, at + k) : fill;
        at += here;
    }
    return TANE_OK;
}

/* ---- ordering --------------------------------------------------------------------------------------------------- */

typedef struct Keyed {
    JVal key, value;
} Keyed;

/* A stable merge sort; `spare` has room for n. */
static Status sort_keyed(JRun *r, Keyed *items, Keyed *spare, size_t n, bool reverse) {
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t lo = 0; lo < n; lo += 2 * width) {
            size_t mid = lo + width < n ? lo + width : n, hi = lo + 2 * width < n ? lo + 2 * width : n;
            for (size_t a = lo, b = mid, k = lo; k < hi; k++) {
                int order = -1;
                if (a < mid && b < hi) { /* Python asks only whether one is less */
                    TRY_RETURN(reverse ? j_less(r, items[a].key, items[b].key, "<", &order)
                                       : j_less(r, items[b].key, items[a].key, "<", &order));
                    order = order == -1 ? 1 : -1;
                } else if (a == mid) {
                    order = 1;
                }
                spare[k] = order < 0 ? items[a++] : items[b++];
            }
        }
        memcpy(items, spare, n * sizeof *items);
        TRY_RETURN(j_work(r, ITEM_WORK * n));
    }
    return TANE_OK;
}

static Status values_of(JRun *r, const Keyed *items, size_t n, JVal *out) {
    TRY_RETURN(j_seq(r, J_LIST, n, out));
    for (size_t i = 0; i < n; i++) out->seq->items[i] = items[i].value;
    return TANE_OK;
}

FILTER(filter_dictsort) {
    bool case_sensitive = j_truth(j_arg(call, 0, j_bool(false))), reverse = j_truth(j_arg(call, 2, j_bool(false)));
    const JStr *by = NULL;
    Keyed *items, *spare;
    JVal pairs;
    TRY_RETURN(j_arg_str(r, call, 1, &by));
    if (self.type == J_UNDEFINED) return j_fail_undefined(r, self);
    if (self.type != J_DICT) return j_fail(r, TANE_EINVAL, "dictsort wants a mapping, not '%s'", j_type_name(self));
    if (by && !j_str_is(by, "key") && !j_str_is(by, "value"))
        return j_fail(r, TANE_EINVAL, "You can only sort by either \"key\" or \"value\"");
    size_t which = by && j_str_is(by, "value"), n = self.dict->n;
    TRY_RETURN(j_view(r, self.dict, 'i', &pairs));
    TRY_RETURN(J_NEW(r, &items, n));
    TRY_RETURN(J_NEW(r, &spare, n));
    for (size_t i = 0; i < n; i++) {
        items[i].value = pairs.seq->items[i];
        TRY_RETURN(fold_case(r, items[i].value.seq->items[which], case_sensitive, &items[i].key));
    }
    TRY_RETURN(sort_keyed(r, items, spare, n, reverse));
    return values_of(r, items, n, out);
}

/* The list of keys "a,b.c" of an item. */
static Status sort_key(JRun *r, JVal item, JVal attribute, bool case_sensitive, JVal *out) {
    JVal key;
    if (attribute.type != J_STR) {
        TRY_RETURN(attribute_of(r, item, attribute, j_none(), &key));
        return fold_case(r, key, case_sensitive, out);
    }
    const JStr *paths = attribute.str;
    size_t n = 1, from = 0;
    for (size_t i = 0; i < paths->n; i++) n += paths->data[i] == ',';
    TRY_RETURN(j_seq(r, J_LIST, n, out));
    for (size_t i = 0; i < n; i++) {
        const char *comma = memchr(paths->data + from, ',', paths->n - from);
        size_t end = comma ? (size_t)(comma - paths->data) : paths->n;
        TRY_RETURN(by_path(r, item, paths, from, end, j_none(), &key));
        TRY_RETURN(fold_case(r, key, case_sensitive, &out->seq->items[i]));
        from = end + 1;
    }
    return TANE_OK;
}

FILTER(filter_sort) {
    bool reverse = j_truth(j_arg(call, 0, j_bool(false))), case_sensitive = j_truth(j_arg(call, 1, j_bool(false)));
    Keyed *items, *spare;
    JIter it;
    TRY_RETURN(j_walk(r, self, &it));
    TRY_RETURN(J_NEW(r, &items, it.n));
    TRY_RETURN(J_NEW(r, &spare, it.n));
    for (size_t i = 0; i < it.n; i++) {
        items[i].value = j_iter_at(&it, i);
        TRY_RETURN(sort_key(r, items[i].value, j_arg(call, 2, j_none()), case_sensitive, &items[i].key));
    }
    TRY_RETURN(sort_keyed(r, items, spare, it.n, reverse));
    return values_of(r, items, it.n, out);
}

static Status extreme(JRun *r, JVal self, const JCall *call, bool most, JVal *out) {
    bool case_sensitive = j_truth(j_arg(call, 0, j_bool(false)));
    JVal attribute = j_arg(call, 1, j_none()), best = j_none(), key;
    JIter it;
    TRY_RETURN(j_walk(r, self, &it));
    *out = j_hint("No aggregated item, sequence was empty.");
    for (size_t i = 0; i < it.n; i++) {
        int order = most ? 1 : -1;
        TRY_RETURN(attribute_of(r, j_iter_at(&it, i), attribute, j_none(), &key));
        TRY_RETURN(fold_case(r, key, case_sensitive, &key));
        if (i) TRY_RETURN(j_less(r, key, best, most ? ">" : "<", &order));
        if (order != (most ? 1 : -1)) continue;
        best = key;
        *out = j_iter_at(&it, i);
    }
    return TANE_OK;
}
FILTER(filter_min) { return extreme(r, self, call, false, out); }
FILTER(filter_max) { return extreme(r, self, call, true, out); }

FILTER(filter_unique) {
    bool case_sensitive = j_truth(j_arg(call, 0, j_bool(false)));
    JVal seen, key;
    JIter it;
    size_t n = 0;
    TRY_RETURN(j_walk(r, self, &it));
    TRY_RETURN(j_dict(r, it.n, &seen));
    TRY_RETURN(j_seq(r, J_GENERATOR, it.n, out));
    for (size_t i = 0; i < it.n; i++) {
        const JVal *found;
        TRY_RETURN(attribute_of(r, j_iter_at(&it, i), j_arg(call, 1, j_none()), j_none(), &key));
        TRY_RETURN(fold_case(r, key, case_sensitive, &key));
        TRY_RETURN(j_dict_get(r, seen.dict, key, &found));
        if (found) continue;
        TRY_RETURN(j_dict_set(r, seen.dict, key, j_none()));
        out->seq->items[n++] = j_iter_at(&it, i);
    }
    out->seq->n = n;
    return TANE_OK;
}

/* ---- map, select and their kin ---------------------------------------------------------------------------------- */

/* A filter or test whose name is a value of the template. */
static Status named_builtin(JRun *r, JVal name, bool test, const JBuiltin **out) {
    const char *kind = test ? "test" : "filter";
    if (name.type == J_UNDEFINED) return j_fail_undefined(r, name);
    if (name.type != J_STR)
        return j_fail(r, TANE_EINVAL, "the name of a %s is no text but '%s'", kind, j_type_name(name));
    int n = (int)(name.str->n < 60 ? name.str->n : 60);
    *out = test ? jinja_find_test(name.str->data, name.str->n) : jinja_find_filter(name.str->data, name.str->n);
    if (!*out) return j_fail(r, TANE_EINVAL, "no %s named '%.*s'", kind, n, name.str->data);
    if (!(*out)->function)
        return j_fail(r, TANE_EUNSUPPORTED, "the %s '%.*s' of Jinja is not supported", kind, n, name.str->data);
    return TANE_OK;
}

static Status map_attribute(JRun *r, const JIter *it, const JCall *call, JVal *out) {
    JVal attribute = j_none(), fallback = j_none();
    for (size_t i = 0; i < call->n_named; i++) {
        if (j_str_is(call->names[i], "attribute")) attribute = call->named[i];
        else if (j_str_is(call->names[i], "default")) fallback = call->named[i];
        else
            return j_fail(r, TANE_EINVAL, "the filter 'map' has no argument '%.*s'", (int)call->names[i]->n,
                          call->names[i]->data);
    }
    for (size_t i = 0; i < it->n; i++)
        TRY_RETURN(attribute_of(r, j_iter_at(it, i), attribute, fallback, &out->seq->items[i]));
    return TANE_OK;
}

FILTER(filter_map) {
    JIter it;
    const JBuiltin *filter;
    if (!j_truth(self)) return j_seq(r, J_GENERATOR, 0, out); /* none too */
    TRY_RETURN(j_walk(r, self, &it));
    TRY_RETURN(j_seq(r, J_GENERATOR, it.n, out));
    bool attribute = false;
    for (size_t i = 0; i < call->n_named; i++) attribute = attribute || j_str_is(call->names[i], "attribute");
    if (call->n_pos == 0 && attribute) return map_attribute(r, &it, call, out);
    if (call->n_pos == 0) return j_fail(r, TANE_EINVAL, "map requires a filter argument");
    TRY_RETURN(named_builtin(r, call->pos[0], false, &filter));
    JCall inner = *call;
    inner.pos++;
    inner.n_pos--;
    for (size_t i = 0; i < it.n; i++)
        TRY_RETURN(j_call_builtin(r, filter, "filter", j_iter_at(&it, i), &inner, &out->seq->items[i]));
    return TANE_OK;
}

/* The items for which a test (or, without one, their truth) says `wanted`, asked of an attribute when by_attribute. */
static Status choose(JRun *r, JVal self, const JCall *call, bool by_attribute, bool wanted, JVal *out) {
    JIter it;
    const JBuiltin *test = NULL;
    JVal attribute = j_none(), item, answer;
    JCall inner = *call;
    size_t n = 0;
    if (!j_truth(self)) return j_seq(r, J_GENERATOR, 0, out); /* none too */
    if (by_attribute) {
        if (inner.n_pos == 0) return j_fail(r, TANE_EINVAL, "Missing parameter for attribute name");
        attribute = *inner.pos++;
        inner.n_pos--;
    }
    if (inner.n_pos) {
        TRY_RETURN(named_builtin(r, inner.pos[0], true, &test));
        inner.pos++;
        inner.n_pos--;
    }
    TRY_RETURN(j_walk(r, self, &it));
    TRY_RETURN(j_seq(r, J_GENERATOR, it.n, out));
    for (size_t i = 0; i < it.n; i++) {
        TRY_RETURN(attribute_of(r, j_iter_at(&it, i), attribute, j_none(), &item));
        answer = item;
        if (test) TRY_RETURN(j_call_builtin(r, test, "test", item, &inner, &answer));
        if (j_truth(answer) == wanted) out->seq->items[n++] = j_iter_at(&it, i);
    }
    out->seq->n = n;
    return TANE_OK;
}
FILTER(filter_select) { return choose(r, self, call, false, true, out); }
FILTER(filter_reject) { return choose(r, self, call, false, false, out); }
FILTER(filter_selectattr) { return choose(r, self, call, true, true, out); }
FILTER(filter_rejectattr) { return choose(r, self, call, true, false, out); }
