/* Tests (x is defined, x is divisibleby 3) and their table. */
#include <math.h>

#include "text/jinja_builtins.h"
#include "text/jinja_text.h"

#define TEST(name) static Status name(JRun *r, JVal self, const JCall *call, JVal *out)

/* A test that only looks at the value. */
#define LOOK(name, condition)                                                                                          \
    TEST(name) {                                                                                                       \
        (void)r;                                                                                                       \
        (void)call;                                                                                                    \
        *out = j_bool(condition);                                                                                      \
        return TANE_OK;                                                                                                \
    }

static bool is_callable(JVal v) {
    return v.type == J_FUNCTION || v.type == J_METHOD || v.type == J_MACRO || v.type == J_LOOP || v.type == J_JOINER ||
           v.type == J_UNDEFINED;
}
static bool is_sequence(JVal v) {
    return v.type == J_STR || v.type == J_LIST || v.type == J_TUPLE || v.type == J_RANGE || v.type == J_DICT ||
           v.type == J_UNDEFINED;
}

LOOK(test_defined, self.type != J_UNDEFINED)
LOOK(test_undefined, self.type == J_UNDEFINED)
LOOK(test_none, self.type == J_NONE)
LOOK(test_boolean, self.type == J_BOOL)
LOOK(test_true, self.type == J_BOOL && self.truth)
LOOK(test_false, self.type == J_BOOL && !self.truth)
LOOK(test_integer, self.type == J_INT)
LOOK(test_float, self.type == J_FLOAT)
LOOK(test_number, self.type == J_INT || self.type == J_FLOAT || self.type == J_BOOL)
LOOK(test_string, self.type == J_STR)
LOOK(test_mapping, self.type == J_DICT)
LOOK(test_sequence, is_sequence(self))
LOOK(test_iterable, j_iterable(self))
LOOK(test_callable, is_callable(self))
LOOK(test_escaped, self.type == J_STR && self.str->markup)

static Status test_case(JRun *r, JVal self, const char *which, JVal *out) {
    const JStr *s;
    TRY_RETURN(j_to_str(r, self, &s));
    *out = j_bool(text_is(s, which));
    return j_work(r, s->n);
}
TEST(test_lower) {
    (void)call;
    return test_case(r, self, "lower", out);
}
TEST(test_upper) {
    (void)call;
    return test_case(r, self, "upper", out);
}

/* self % n == rest */
static Status test_rest(JRun *r, JVal self, JVal n, int64_t rest, JVal *out) {
    bool equal;
    TRY_RETURN(j_binary(r, OP_MOD, self, n, out));
    TRY_RETURN(j_equal(r, *out, j_int(rest), &equal));
    *out = j_bool(equal);
    return TANE_OK;
}
TEST(test_odd) {
    (void)call;
    return test_rest(r, self, j_int(2), 1, out);
}
TEST(test_even) {
    (void)call;
    return test_rest(r, self, j_int(2), 0, out);
}
TEST(test_divisibleby) { return test_rest(r, self, call->pos[0], 0, out); }

static Status comparison(JRun *r, JCompare op, JVal self, const JCall *call, JVal *out) {
    bool holds;
    TRY_RETURN(j_compare(r, op, self, call->pos[0], &holds));
    *out = j_bool(holds);
    return TANE_OK;
}
TEST(test_eq) { return comparison(r, CMP_EQ, self, call, out); }
TEST(test_ne) { return comparison(r, CMP_NE, self, call, out); }
TEST(test_lt) { return comparison(r, CMP_LT, self, call, out); }
TEST(test_le) { return comparison(r, CMP_LE, self, call, out); }
TEST(test_gt) { return comparison(r, CMP_GT, self, call, out); }
TEST(test_ge) { return comparison(r, CMP_GE, self, call, out); }
TEST(test_in) { return comparison(r, CMP_IN, self, call, out); }

/* The same object. For what Python shares between equal values (small numbers, none, true) that is equality; two equal
 * texts or lists are the same only when they are one. */
TEST(test_sameas) {
    JVal other = call->pos[0];
    bool same = self.type == other.type;
    if (same && self.type >= J_BOOL && self.type <= J_FLOAT) TRY_RETURN(j_equal(r, self, other, &same));
    else if (same && self.type > J_FLOAT) same = self.dict == other.dict;
    *out = j_bool(same);
    return TANE_OK;
}

static Status known_name(JRun *r, JVal self, bool test, JVal *out) {
    if (self.type != J_STR)
        return j_fail(r, TANE_EINVAL, "the name of a filter or test must be a text, not '%s'", j_type_name(self));
    const JBuiltin *b = test ? jinja_find_test(self.str->data, self.str->n)
                             : jinja_find_filter(self.str->data, self.str->n);
    *out = j_bool(b != NULL);
    return TANE_OK;
}
TEST(test_filter) {
    (void)call;
    return known_name(r, self, false, out);
}
TEST(test_test) {
    (void)call;
    return known_name(r, self, true, out);
}

/* In the order of the alphabet (of ASCII, for the signs). */
static const JBuiltin tests[] = {
    {"!=", 1, 1, NULL, test_ne},
    {"<", 1, 1, NULL, test_lt},
    {"<=", 1, 1, NULL, test_le},
    {"==", 1, 1, NULL, test_eq},
    {">", 1, 1, NULL, test_gt},
    {">=", 1, 1, NULL, test_ge},
    {"boolean", 0, 0, NULL, test_boolean},
    {"callable", 0, 0, NULL, test_callable},
    {"defined", 0, 0, NULL, test_defined},
    {"divisibleby", 1, 1, "num ", test_divisibleby},
    {"eq", 1, 1, NULL, test_eq},
    {"equalto", 1, 1, NULL, test_eq},
    {"escaped", 0, 0, NULL, test_escaped},
    {"even", 0, 0, NULL, test_even},
    {"false", 0, 0, NULL, test_false},
    {"filter", 0, 0, NULL, test_filter},
    {"float", 0, 0, NULL, test_float},
    {"ge", 1, 1, NULL, test_ge},
    {"greaterthan", 1, 1, NULL, test_gt},
    {"gt", 1, 1, NULL, test_gt},
    {"in", 1, 1, "seq ", test_in},
    {"integer", 0, 0, NULL, test_integer},
    {"iterable", 0, 0, NULL, test_iterable},
    {"le", 1, 1, NULL, test_le},
    {"lessthan", 1, 1, NULL, test_lt},
    {"lower", 0, 0, NULL, test_lower},
    {"lt", 1, 1, NULL, test_lt},
    {"mapping", 0, 0, NULL, test_mapping},
    {"ne", 1, 1, NULL, test_ne},
    {"none", 0, 0, NULL, test_none},
    {"number", 0, 0, NULL, test_number},
    {"odd", 0, 0, NULL, test_odd},
    {"sameas", 1, 1, "other ", test_sameas},
    {"sequence", 0, 0, NULL, test_sequence},
    {"string", 0, 0, NULL, test_string},
    {"test", 0, 0, NULL, test_test},
    {"true", 0, 0, NULL, test_true},
    {"undefined", 0, 0, NULL, test_undefined},
    {"upper", 0, 0, NULL, test_upper},
};

const JBuiltin *jinja_find_test(const char *name, size_t n) {
    return jinja_find_row(tests, sizeof tests / sizeof *tests, name, n);
}
