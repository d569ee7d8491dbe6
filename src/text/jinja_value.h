/* Values of a rendering: Python's, as far as templates see them, with strings that know where their bytes came from.
 *
 * Everything lives in the run's arena until the rendering ends; values are immutable but for namespaces, loops, cyclers
 * and joiners. Functions that can run out of a bound or fail take the run first.
 */
#ifndef TEXT_JINJA_VALUE_H
#define TEXT_JINJA_VALUE_H

#include "text/jinja.h"

typedef enum JType {
    J_MISSING, /* an argument that was not given */
    J_UNDEFINED,
    J_NONE,
    J_BOOL,
    J_INT,
    J_FLOAT,
    J_STR,
    J_LIST,
    J_TUPLE,
    J_GENERATOR, /* a list that can be walked once */
    J_VIEW,      /* dict_keys, dict_values, dict_items */
    J_RANGE,
    J_DICT,
    J_NAMESPACE,
    J_LOOP,
    J_MACRO,
    J_FUNCTION,
    J_METHOD,
    J_CYCLER,
    J_JOINER
} JType;

typedef struct JStr JStr;
typedef struct JSeq JSeq;
typedef struct JDict JDict;
typedef struct JBuilder JBuilder;
typedef struct JLoop JLoop;
typedef struct JMacro JMacro;
typedef struct JMethod JMethod;
typedef struct JTurn JTurn;
typedef struct JBuiltin JBuiltin;

/* How an undefined value came to be: which union member says what was asked for. */
typedef enum JLack { LACK_NAME, LACK_ATTRIBUTE, LACK_ELEMENT, LACK_HINT, LACK_UNSAFE } JLack;

typedef struct JVal {
    uint8_t type;
    uint8_t lack;  /* J_UNDEFINED: JLack */
    uint8_t owner; /* J_UNDEFINED: JType of what lacks it */
    union {
        bool truth;
        int64_t integer; /* J_INT; LACK_ELEMENT */
        double real;
        const JStr *str; /* J_STR; LACK_NAME, LACK_ATTRIBUTE, LACK_UNSAFE */
        const char *hint;
        JSeq *seq;   /* J_LIST, J_TUPLE, J_GENERATOR, J_VIEW, J_RANGE */
        JDict *dict; /* J_DICT, J_NAMESPACE */
        JLoop *loop;
        JMacro *macro;
        JMethod *method;
        JTurn *turn; /* J_CYCLER, J_JOINER */
        const JBuiltin *builtin;
    };
} JVal;

struct JStr {
    const char *data;     /* (n), valid UTF-8, not terminated */
    const uint8_t *marks; /* (n), NULL: every byte has `mark` */
    size_t n;
    JBuilder *tail; /* where the bytes lie when more may be appended to them in place, or NULL */
    uint8_t mark;
    bool markup; /* markupsafe's Markup, which |safe and |escape give: `+` escapes the other side */
};

struct JSeq {
    JVal *items; /* (n); J_RANGE: NULL */
    size_t n;
    int64_t start, stop, step; /* J_RANGE */
    const char *title;         /* J_VIEW: "dict_keys" */
};

typedef struct JEntry {
    JVal key, value;
} JEntry;
struct JDict {
    JEntry *entries; /* (n) in order of insertion */
    size_t n, cap;
};

struct JMethod {
    JVal self;
    const JBuiltin *builtin;
};
struct JTurn { /* of a cycler; a joiner's separator is its only item */
    JVal *items;
    size_t n, at;
};

/* What a rendering has at hand; the evaluator's own state stands behind it (text/jinja_eval.c). */
typedef struct JRun {
    Arena arena;
    const JinjaTemplate *t;
    size_t memory; /* bytes that the arena may take */
    int64_t steps; /* left */
    int64_t work;  /* left */
    int64_t now;
    uint32_t at; /* place in the source, for errors */
    int depth;
} JRun;

/* "<where>:<line>:<column>: ..." at the run's place. */
Status j_fail(const JRun *r, Status code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
Status j_alloc(JRun *r, void **out, size_t n, size_t size);
#define J_NEW(r, ptr, n) j_alloc((r), (void **)(ptr), (n), sizeof **(ptr))
Status j_work(JRun *r, size_t bytes); /* takes them from the budget */
enum { ITEM_WORK = 32 };              /* what looking at an item of a list or dict counts for */

/* ---- making values */
static inline JVal j_none(void) { return (JVal){.type = J_NONE}; }
static inline JVal j_bool(bool b) { return (JVal){.type = J_BOOL, .truth = b}; }
static inline JVal j_int(int64_t i) { return (JVal){.type = J_INT, .integer = i}; }
static inline JVal j_float(double f) { return (JVal){.type = J_FLOAT, .real = f}; }
static inline JVal j_from_str(const JStr *s) { return (JVal){.type = J_STR, .str = s}; }
static inline JVal j_hint(const char *hint) { return (JVal){.type = J_UNDEFINED, .lack = LACK_HINT, .hint = hint}; }
Status j_text(JRun *r, const char *text, size_t n, uint8_t mark, JVal *out); /* borrows the bytes */
Status j_seq(JRun *r, JType type, size_t n, JVal *out);                      /* items all J_MISSING */
Status j_dict(JRun *r, size_t cap, JVal *out);
Status j_dict_set(JRun *r, JDict *dict, JVal key, JVal value);  /* replaces; unhashable keys are refused */
Status j_view(JRun *r, const JDict *dict, int what, JVal *out); /* 'k', 'v', 'i' */
/* The tree of the variable's JSON value, its strings borrowed. */
Status j_from_json(JRun *r, const JinjaVariable *variable, JVal *out);

/* ---- reading values */
const char *j_type_name(JVal v); /* "str", "dict", "NoneType": Python's */
bool j_truth(JVal v);
bool j_number(JVal v, double *out);   /* bool, int, float */
bool j_integer(JVal v, int64_t *out); /* bool, int */
Status j_equal(JRun *r, JVal a, JVal b, bool *out);
Status j_less(JRun *r, JVal a, JVal b, const char *op, int *order);        /* *order: <0, 0, >0, 2: unordered (NaN) */
Status j_dict_get(JRun *r, const JDict *dict, JVal key, const JVal **out); /* NULL when it is not there */
const JVal *j_dict_find(const JDict *dict, const char *key, size_t n);
bool j_str_is(const JStr *s, const char *text);
/* The message that using an undefined value raises. */
Status j_fail_undefined(JRun *r, JVal v);

/* What a value gives when it is walked. A generator is spent by that. */
typedef struct JIter {
    const JVal *items; /* NULL: a range */
    size_t n;
    int64_t start, step;
} JIter;
Status j_iter(JRun *r, JVal v, JIter *it); /* an error for what cannot be walked */
Status j_walk(JRun *r, JVal v, JIter *it); /* the same for somebody who walks it all: takes that work from the budget */
bool j_iterable(JVal v);
/* Item i of a range. The product alone may not fit, the sum does: so it is reckoned modulo 2^64. */
static inline JVal j_range_at(int64_t start, int64_t step, size_t i) {
    return j_int((int64_t)((uint64_t)start + (uint64_t)i * (uint64_t)step));
}
static inline JVal j_iter_at(const JIter *it, size_t i) {
    return it->items ? it->items[i] : j_range_at(it->start, it->step, i);
}
Status j_list_of(JRun *r, JType type, JVal v, JVal *out); /* a new list or tuple of what v gives */
Status j_length(JRun *r, JVal v, int64_t *out);

/* ---- text being built */
struct JBuilder {
    char *text;
    uint8_t *marks;
    size_t n, cap;
};
Status jb_add(JRun *r, JBuilder *b, const char *text, size_t n, uint8_t mark);
Status jb_add_str(JRun *r, JBuilder *b, const JStr *s);
Status jb_add_part(JRun *r, JBuilder *b, const JStr *s, size_t from, size_t to); /* bytes */
Status jb_printf(JRun *r, JBuilder *b, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
Status jb_add_code(JRun *r, JBuilder *b, uint32_t code, uint8_t mark);
Status jb_add_value(JRun *r, JBuilder *b, JVal v); /* str(v) */
Status jb_add_repr(JRun *r, JBuilder *b, JVal v);  /* repr(v) */
Status jb_add_float(JRun *r, JBuilder *b, double f);
Status jb_finish(JRun *r, const JBuilder *b, JVal *out); /* the text as a value */
/* str(v) as a value; strings as they are. */
Status j_to_str(JRun *r, JVal v, const JStr **out);
Status j_concat(JRun *r, const JStr *a, const JStr *b, JVal *out);
/* Bytes from..to of a string, as a value. */
Status j_part(JRun *r, const JStr *s, size_t from, size_t to, JVal *out);
static inline uint8_t j_mark_at(const JStr *s, size_t i) { return s->marks ? s->marks[i] : s->mark; }

#endif
