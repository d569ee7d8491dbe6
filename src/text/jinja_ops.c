/* Operators and subscripts: what +, <, in, x.name and x[...] mean for each pair of types, as in Python with Jinja2's
 * sandbox. Integers have 64 bits; where Python would need more, it is an error. */
#include <math.h>
#include <string.h>

#include "text/jinja_builtins.h"
#include "text/jinja_text.h"

static Status overflow(JRun *r) { return j_fail(r, TANE_EINVAL, "the result does not fit into 64 bits"); }

static const char *const op_signs[] = {"+", "-", "*", "/", "//", "%", "**"};

static Status no_operator(JRun *r, JOp op, JVal a, JVal b) {
    if (a.type == J_UNDEFINED) return j_fail_undefined(r, a);
    if (b.type == J_UNDEFINED) return j_fail_undefined(r, b);
    if (op == OP_ADD && a.type == J_STR)
        return j_fail(r, TANE_EINVAL, "can only concatenate str (not \"%s\") to str", j_type_name(b));
    return j_fail(r, TANE_EINVAL, "unsupported operand types for %s: '%s' and '%s'", op_signs[op], j_type_name(a),
                  j_type_name(b));
}

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

static int64_t floor_mod(int64_t a, int64_t b) {
    int64_t m = b == -1 ? 0 : a % b;
    return m != 0 && (m < 0) != (b < 0) ? m + b : m;
}

static Status power(JRun *r, int64_t base, int64_t exponent, JVal *out) {
    if (exponent < 0) {
        if (base == 0) return j_fail(r, TANE_EINVAL, "0 cannot be raised to a negative power");
        *out = j_float(pow((double)base, (double)exponent));
        return TANE_OK;
    }
    int64_t result = 1;
    for (;; exponent >>= 1) {
        if ((exponent & 1) && __builtin_mul_overflow(result, base, &result)) return overflow(r);
        if (exponent <= 1) break;
        if (__builtin_mul_overflow(base, base, &base)) return overflow(r);
    }
    *out = j_int(result);
    return TANE_OK;
}

static Status integers(JRun *r, JOp op, int64_t a, int64_t b, JVal *out) {
    int64_t result = 0;
    bool too_large = false;
    if (b == 0 && (op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD))
        return j_fail(r, TANE_EINVAL, "division by zero");
    switch (op) {
    case OP_ADD: too_large = __builtin_add_overflow(a, b, &result); break;
    case OP_SUB: too_large = __builtin_sub_overflow(a, b, &result); break;
    case OP_MUL: too_large = __builtin_mul_overflow(a, b, &result); break;
    case OP_MOD: result = floor_mod(a, b); break;
    case OP_FLOORDIV:
        too_large = a == INT64_MIN && b == -1;
        if (!too_large) result = a / b - (a % b != 0 && (a < 0) != (b < 0));
        break;
    case OP_DIV: *out = j_float((double)((long double)a / (long double)b)); return TANE_OK;
    case OP_POW: return power(r, a, b, out);
    }
    if (too_large) return overflow(r);
    *out = j_int(result);
    return TANE_OK;
}

static Status reals(JRun *r, JOp op, double a, double b, JVal *out) {
    double result = 0;
    if (b == 0 && (op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD))
        return j_fail(r, TANE_EINVAL, "division by zero");
    double mod = fmod(a, b);
    bool adjust = mod != 0 && (mod < 0) != (b < 0);
    switch (op) {
    case OP_ADD: result = a + b; break;
    case OP_SUB: result = a - b; break;
    case OP_MUL: result = a * b; break;
    case OP_DIV: result = a / b; break;
    case OP_MOD: result = mod == 0 ? copysign(0, b) : adjust ? mod + b : mod; break;
    case OP_FLOORDIV:
        result = (a - mod) / b - (adjust ? 1 : 0);
        result = result == 0 ? copysign(0, a / b) : floor(result) + (result - floor(result) > 0.5 ? 1 : 0);
        break;
    case OP_POW:
        if (a == 0 && b < 0) return j_fail(r, TANE_EINVAL, "0 cannot be raised to a negative power");
        if (a < 0 && b != floor(b)) return j_fail(r, TANE_EINVAL, "a negative number to a broken power is complex");
        result = pow(a, b);
        if (isinf(result) && !isinf(a) && !isinf(b))
            return j_fail(r, TANE_EINVAL, "the power is too large for a float");
        break;
    }
    *out = j_float(result);
    return TANE_OK;
}

Status j_negate(JRun *r, JVal v, JVal *out) {
    int64_t i;
    if (v.type == J_UNDEFINED) return j_fail_undefined(r, v);
    if (v.type == J_FLOAT) {
        *out = j_float(-v.real);
        return TANE_OK;
    }
    if (!j_integer(v, &i)) return j_fail(r, TANE_EINVAL, "bad operand type for unary -: '%s'", j_type_name(v));
    if (i == INT64_MIN) return overflow(r);
    *out = j_int(-i);
    return TANE_OK;
}

/* ---- texts and lists -------------------------------------------------------------------------------------------- */

static bool is_list_like(JVal v) { return v.type == J_LIST || v.type == J_TUPLE; }

static Status add_strings(JRun *r, const JStr *a, const JStr *b, JVal *out) {
    JVal escaped;
    if (!a->markup && !b->markup) return j_concat(r, a, b, out);
    TRY_RETURN(text_escape(r, a->markup ? b : a, &escaped));
    TRY_RETURN(j_concat(r, a->markup ? a : escaped.str, a->markup ? escaped.str : b, out));
    ((JStr *)(uintptr_t)out->str)->markup = true;
    return TANE_OK;
}

static Status add_lists(JRun *r, JVal a, JVal b, JVal *out) {
    TRY_RETURN(j_work(r, a.seq->n + b.seq->n));
    TRY_RETURN(j_seq(r, (JType)a.type, a.seq->n + b.seq->n, out));
    if (a.seq->n) memcpy(out->seq->items, a.seq->items, a.seq->n * sizeof(JVal));
    if (b.seq->n) memcpy(out->seq->items + a.seq->n, b.seq->items, b.seq->n * sizeof(JVal));
    return TANE_OK;
}

static Status repeat_list(JRun *r, JVal v, int64_t times, JVal *out) {
    size_t n, count = times > 0 ? (size_t)times : 0;
    if (__builtin_mul_overflow(v.seq->n, count, &n) || n > r->memory / sizeof(JVal))
        return j_fail(r, TANE_EINVAL, "a list of %zu items is to be repeated %lld times: too long for a template",
                      v.seq->n, (long long)times);
    TRY_RETURN(j_work(r, n));
    TRY_RETURN(j_seq(r, (JType)v.type, n, out));
    for (size_t i = 0; i < n; i++) out->seq->items[i] = v.seq->items[i % v.seq->n];
    return TANE_OK;
}

static Status multiply(JRun *r, JVal a, JVal b, JVal *out) {
    int64_t times;
    if (j_integer(a, &times)) { /* 3 * "x" */
        JVal swap = a;
        a = b;
        b = swap;
    }
    if (!j_integer(b, &times)) return no_operator(r, OP_MUL, a, b);
    if (a.type == J_STR) return text_repeat(r, a.str, times, out);
    if (is_list_like(a)) return repeat_list(r, a, times, out);
    return no_operator(r, OP_MUL, a, b);
}

Status j_binary(JRun *r, JOp op, JVal a, JVal b, JVal *out) {
    int64_t i, k;
    double x, y;
    if (op == OP_ADD && a.type == J_STR && b.type == J_STR) return add_strings(r, a.str, b.str, out);
    if (op == OP_MOD && a.type == J_STR) return j_percent(r, a.str, b, out);
    if (j_integer(a, &i) && j_integer(b, &k)) return integers(r, op, i, k, out);
    if (j_number(a, &x) && j_number(b, &y)) return reals(r, op, x, y, out);
    if (op == OP_ADD && is_list_like(a) && a.type == b.type) return add_lists(r, a, b, out);
    if (op == OP_MUL && a.type != J_UNDEFINED && b.type != J_UNDEFINED) return multiply(r, a, b, out);
    return no_operator(r, op, a, b);
}

/* ---- comparisons ------------------------------------------------------------------------------------------------ */

static Status contains(JRun *r, JVal needle, JVal haystack, bool *out) {
    JIter it;
    size_t at;
    const JVal *found;
    *out = false;
    if (haystack.type == J_STR) {
        if (needle.type != J_STR)
            return j_fail(r, TANE_EINVAL, "'in <string>' requires string as left operand, not %s", j_type_name(needle));
        TRY_RETURN(text_find(r, haystack.str, needle.str, 0, haystack.str->n, &at));
        *out = at != SIZE_MAX;
        return TANE_OK;
    }
    if (haystack.type == J_DICT) {
        TRY_RETURN(j_dict_get(r, haystack.dict, needle, &found));
        *out = found != NULL;
        return TANE_OK;
    }
    if (!j_iterable(haystack))
        return j_fail(r, TANE_EINVAL, "argument of type '%s' is not iterable", j_type_name(haystack));
    TRY_RETURN(j_walk(r, haystack, &it));
    for (size_t i = 0; i < it.n && !*out; i++) TRY_RETURN(j_equal(r, j_iter_at(&it, i), needle, out));
    return TANE_OK;
}

Status j_compare(JRun *r, JCompare op, JVal a, JVal b, bool *out) {
    static const char *const signs[] = {"==", "!=", "<", "<=", ">", ">="};
    int order;
    switch (op) {
    case CMP_EQ:
    case CMP_NE:
        TRY_RETURN(j_equal(r, a, b, out));
        *out = *out == (op == CMP_EQ);
        return TANE_OK;
    case CMP_IN:
    case CMP_NOT_IN:
        TRY_RETURN(contains(r, a, b, out));
        *out = *out == (op == CMP_IN);
        return TANE_OK;
    default: break;
    }
    TRY_RETURN(j_less(r, a, b, signs[op], &order));
    *out = op == CMP_LT   ? order == -1
           : op == CMP_LE ? order == -1 || order == 0
           : op == CMP_GT ? order == 1
                          : order == 1 || order == 0;
    return TANE_OK;
}

/* ---- attributes and items --------------------------------------------------------------------------------------- */

static JVal lacks_attribute(JVal object, const JStr *name) {
    return (JVal){.type = J_UNDEFINED, .lack = LACK_ATTRIBUTE, .owner = object.type, .str = name};
}

/* What the Python type itself has under this name; *found false when it has nothing. */
static Status own_attribute(JRun *r, JVal object, const JStr *name, JVal *out, bool *found) {
    *found = true;
    if (object.type == J_LOOP) return j_loop_attribute(r, object.loop, name, out, found);
    if (object.type == J_NAMESPACE) {
        const JVal *value = j_dict_find(object.dict, name->data, name->n);
        *found = value != NULL;
        if (value) *out = *value;
        return TANE_OK;
    }
    if (object.type == J_CYCLER && j_str_is(name, "current")) {
        *out = object.turn->items[object.turn->at];
        return TANE_OK;
    }
    const JBuiltin *method = jinja_find_method((JType)object.type, name->data, name->n);
    bool hidden = name->n >= 2 && name->data[0] == '_' && name->data[1] == '_'; /* Python's internals */
    if (hidden || (method && jinja_is_unsafe(method))) {
        /* A dict may well have a key that begins so. */
        if (hidden && object.type == J_DICT && j_dict_find(object.dict, name->data, name->n)) *found = false;
        else *out = (JVal){.type = J_UNDEFINED, .lack = LACK_UNSAFE, .owner = object.type, .str = name};
        return TANE_OK;
    }
    *found = method != NULL;
    if (!method) return TANE_OK;
    JMethod *bound;
    TRY_RETURN(J_NEW(r, &bound, 1));
    *bound = (JMethod){object, method};
    *out = (JVal){.type = J_METHOD, .method = bound};
    return TANE_OK;
}

Status j_attribute(JRun *r, JVal object, const JStr *name, JVal *out) {
    bool found;
    if (object.type == J_UNDEFINED) return j_fail_undefined(r, object);
    TRY_RETURN(own_attribute(r, object, name, out, &found));
    if (found) return TANE_OK;
    const JVal *value = object.type == J_DICT ? j_dict_find(object.dict, name->data, name->n) : NULL;
    *out = value ? *value : lacks_attribute(object, name);
    return TANE_OK;
}

static Status item_of_list(JRun *r, JVal object, int64_t index, JVal *out) {
    int64_t n;
    TRY_RETURN(j_length(r, object, &n));
    int64_t i = index < 0 ? index + n : index;
    if (i < 0 || i >= n) {
        *out = (JVal){.type = J_UNDEFINED, .lack = LACK_ELEMENT, .owner = object.type, .integer = index};
        return TANE_OK;
    }
    if (object.type == J_STR) return text_slice(r, object.str, i, 1, 1, out);
    *out = object.seq->items ? object.seq->items[i] : j_range_at(object.seq->start, object.seq->step, (size_t)i);
    return TANE_OK;
}

Status j_item(JRun *r, JVal object, JVal key, JVal *out) {
    int64_t index;
    bool found;
    const JVal *value = NULL;
    if (object.type == J_UNDEFINED) return j_fail_undefined(r, object);
    bool indexed = is_list_like(object) || object.type == J_STR || object.type == J_RANGE;
    if (indexed && j_integer(key, &index)) return item_of_list(r, object, index, out);
    if (object.type == J_DICT && key.type != J_LIST && key.type != J_DICT)
        TRY_RETURN(j_dict_get(r, object.dict, key, &value));
    if (value) {
        *out = *value;
        return TANE_OK;
    }
    if (key.type == J_STR) {
        TRY_RETURN(own_attribute(r, object, key.str, out, &found));
        if (!found) *out = lacks_attribute(object, key.str);
        return TANE_OK;
    }
    *out = (JVal){.type = J_UNDEFINED, .lack = LACK_ELEMENT, .owner = object.type, .integer = 0};
    if (j_integer(key, &index)) out->integer = index;
    else *out = j_hint("the object has no such element");
    return TANE_OK;
}

/* Python's slice.indices: the first index, and how many there are. */
static Status slice_range(JRun *r, JVal start, JVal stop, int64_t step, int64_t n, int64_t *first, size_t *count) {
    JVal given[2] = {start, stop};
    int64_t bounds[2] = {step < 0 ? n - 1 : 0, step < 0 ? -1 : n};
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n;
    for (int i = 0; i < 2; i++) {
        if (given[i].type == J_MISSING || given[i].type == J_NONE) continue;
        if (given[i].type == J_UNDEFINED) return j_fail_undefined(r, given[i]);
        if (!j_integer(given[i], &bounds[i]))
            return j_fail(r, TANE_EINVAL, "slice indices must be integers or none, not '%s'", j_type_name(given[i]));
        if (bounds[i] < 0) bounds[i] = bounds[i] < -n ? -1 : bounds[i] + n;
        if (bounds[i] < low) bounds[i] = low;
        if (bounds[i] > high) bounds[i] = high;
    }
    *first = bounds[0];
    int64_t span = step < 0 ? bounds[0] - bounds[1] : bounds[1] - bounds[0];
    int64_t stride = step < 0 ? -step : step;
    *count = span > 0 ? (size_t)((span - 1) / stride + 1) : 0;
    return TANE_OK;
}

Status j_slice(JRun *r, JVal object, JVal start, JVal stop, JVal step, JVal *out) {
    int64_t by = 1, n, first = 0;
    size_t count = 0;
    if (object.type == J_UNDEFINED) return j_fail_undefined(r, object);
    bool sliced = is_list_like(object) || object.type == J_STR || object.type == J_RANGE;
    if (!sliced) return j_fail(r, TANE_EINVAL, "'%s' object cannot be sliced", j_type_name(object));
    if (step.type != J_MISSING && step.type != J_NONE && !j_integer(step, &by))
        return j_fail(r, TANE_EINVAL, "a slice's step must be an integer or none, not '%s'", j_type_name(step));
    if (by == 0) return j_fail(r, TANE_EINVAL, "slice step cannot be zero");
    if (by < -INT32_MAX) by = -INT32_MAX; /* longer than anything; keeps -by in range */
    TRY_RETURN(j_length(r, object, &n));
    TRY_RETURN(slice_range(r, start, stop, by, n, &first, &count));
    if (object.type == J_STR) return text_slice(r, object.str, first, by, count, out);
    JSeq *seq;
    TRY_RETURN(J_NEW(r, &seq, 1));
    *out = (JVal){.type = object.type, .seq = seq};
    seq->n = count;
    if (object.type == J_RANGE) {
        const JSeq *from = object.seq;
        int64_t span;
        seq->start = j_range_at(from->start, from->step, (size_t)first).integer;
        if (__builtin_mul_overflow(from->step, by, &seq->step) ||
            __builtin_mul_overflow(seq->step, (int64_t)count, &span) ||
            __builtin_add_overflow(seq->start, span, &seq->stop))
            return overflow(r);
        return TANE_OK;
    }
    if (by == 1) { /* lists never change: the part may share the items */
        seq->items = object.seq->items + (count ? first : 0);
        return TANE_OK;
    }
    TRY_RETURN(j_work(r, count));
    TRY_RETURN(J_NEW(r, &seq->items, count));
    for (size_t i = 0; i < count; i++) seq->items[i] = object.seq->items[first + (int64_t)i * by];
    return TANE_OK;
}
