/* What templates can call by name: filters, tests, functions and the methods of Python's types. One table each; a row
 * is all that a new one needs (docs/chat-templates.md). */
#ifndef TEXT_JINJA_BUILTINS_H
#define TEXT_JINJA_BUILTINS_H

#include "text/jinja_value.h"

/* Arguments of a call. For a builtin with parameters pos[i] is its i-th one, J_MISSING where nothing was given. */
typedef struct JCall {
    const JVal *pos;
    size_t n_pos;
    const JStr *const *names; /* (n_named) */
    const JVal *named;
    size_t n_named;
} JCall;

/* self: what a filter or test stands behind, or the object of a method. Tests give a bool. */
typedef Status (*JFunction)(JRun *r, JVal self, const JCall *call, JVal *out);

enum { J_ANY = 255 };
struct JBuiltin {
    const char *name;
    uint8_t min, max;       /* arguments; max J_ANY: as they come, named ones too */
    const char *parameters; /* their names, with a space behind each; NULL: by position only */
    JFunction function; /* NULL: Python or Jinja2 has it and tane has not; or, in J_UNSAFE rows, nobody may call it */
};

/* The row of a table that is in the order of the alphabet; NULL when there is none by this name. */
const JBuiltin *jinja_find_row(const JBuiltin *rows, size_t n, const char *name, size_t length);
/* The same in the tables of filters, tests and functions. */
const JBuiltin *jinja_find_filter(const char *name, size_t n);
const JBuiltin *jinja_find_test(const char *name, size_t n);
const JBuiltin *jinja_find_function(const char *name, size_t n);
/* Attributes that Python's type has itself, which hide a dict's keys of the same name. */
const JBuiltin *jinja_find_method(JType type, const char *name, size_t n);
/* The sandbox refuses it, because it would change the value (list.append). */
bool jinja_is_unsafe(const JBuiltin *method);

/* Calls a row: arguments go to their parameters, and too few, too many or unknown ones are an error. `kind` names what
 * it is in errors: "filter", "test", "function", "method". */
Status j_call_builtin(JRun *r, const JBuiltin *b, const char *kind, JVal self, const JCall *call, JVal *out);
/* Calls a value: a function, method, macro, or an error. (text/jinja_eval.c) */
Status j_call_value(JRun *r, JVal callee, const JCall *call, JVal *out);

/* ---- operations shared with the evaluator (text/jinja_ops.c) */
typedef enum JOp { OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_FLOORDIV, OP_MOD, OP_POW } JOp;
typedef enum JCompare { CMP_EQ, CMP_NE, CMP_LT, CMP_LE, CMP_GT, CMP_GE, CMP_IN, CMP_NOT_IN } JCompare;
Status j_binary(JRun *r, JOp op, JVal a, JVal b, JVal *out);
Status j_negate(JRun *r, JVal v, JVal *out);
Status j_compare(JRun *r, JCompare op, JVal a, JVal b, bool *out);
Status j_attribute(JRun *r, JVal object, const JStr *name, JVal *out); /* object.name */
Status j_item(JRun *r, JVal object, JVal key, JVal *out);              /* object[key] */
Status j_slice(JRun *r, JVal object, JVal start, JVal stop, JVal step, JVal *out);
Status j_loop_attribute(JRun *r, JLoop *loop, const JStr *name, JVal *out, bool *found); /* text/jinja_eval.c */

/* ---- text (text/jinja_format.c, text/jinja_json.c) */
Status j_percent(JRun *r, const JStr *format, JVal args, JVal *out);            /* format % args */
Status j_str_format(JRun *r, const JStr *format, const JCall *call, JVal *out); /* format.format(...) */
Status j_tojson(JRun *r, JVal v, const JCall *call, JVal *out);
/* Python's int() and float() of a text; false when it is none. An integer out of range is false too. */
bool j_parse_int(const JStr *s, int base, int64_t *out);
bool j_parse_float(const JStr *s, double *out);

/* ---- arguments */
/* Argument i as what it has to be; absent ones leave *out as it is. */
Status j_arg_int(JRun *r, const JCall *call, size_t i, int64_t *out);
Status j_arg_str(JRun *r, const JCall *call, size_t i, const JStr **out); /* also none: *out stays */
static inline bool j_given(const JCall *call, size_t i) { return i < call->n_pos && call->pos[i].type != J_MISSING; }
static inline JVal j_arg(const JCall *call, size_t i, JVal fallback) {
    return j_given(call, i) ? call->pos[i] : fallback;
}

#endif
