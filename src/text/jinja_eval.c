/* The evaluator: walks the tree of a template and builds its text. */
#include "text/jinja_eval.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "text/chat_template.h"
#include "text/jinja_lexer.h"

Status j_fail(const JRun *r, Status code, const char *fmt, ...) {
    char message[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    return jinja_fail_at(r->t->where, r->t->text, r->at, code, message);
}

/* ---- scopes ----------------------------------------------------------------------------------------------------- */

Status jinja_new_scope(JEval *e, JScope *parent, JScope **out) {
    TRY_RETURN(J_NEW(&e->run, out, 1));
    (*out)->parent = parent;
    return TANE_OK;
}

Status jinja_bind(JEval *e, JScope *scope, const JName *name, JVal value) {
    for (uint32_t i = 0; i < scope->n; i++) {
        if (scope->binds[i].name != name) continue;
        scope->binds[i].value = value;
        return TANE_OK;
    }
    if (scope->n == scope->cap) {
        uint32_t cap = scope->cap ? 2 * scope->cap : 8;
        JBind *binds;
        TRY_RETURN(J_NEW(&e->run, &binds, cap));
        if (scope->n) memcpy(binds, scope->binds, scope->n * sizeof *binds);
        scope->binds = binds;
        scope->cap = cap;
    }
    e->run.work -= scope->n;
    scope->binds[scope->n++] = (JBind){name, value};
    return TANE_OK;
}

static JVal look_up(JEval *e, const JName *name) {
    for (const JScope *s = e->scope; s; s = s->parent) {
        for (uint32_t i = 0; i < s->n; i++)
            if (s->binds[i].name == name) return s->binds[i].value;
        e->run.work -= s->n;
    }
    if (name->function) return (JVal){.type = J_FUNCTION, .builtin = name->function};
    return (JVal){.type = J_UNDEFINED, .lack = LACK_NAME, .str = &name->str};
}

static Status unpack(JEval *e, const JNode *target, JVal value) {
    JIter it;
    TRY_RETURN(j_walk(&e->run, value, &it));
    if (it.n != target->n)
        return j_fail(&e->run, TANE_EINVAL, "%zu values cannot be unpacked into %u names", it.n, (unsigned)target->n);
    for (uint32_t i = 0; i < target->n; i++) TRY_RETURN(jinja_assign(e, target->list[i], j_iter_at(&it, i)));
    return TANE_OK;
}

Status jinja_assign(JEval *e, const JNode *target, JVal value) {
    if (target->kind == E_NAME) return jinja_bind(e, e->scope, target->name, value);
    if (target->kind == E_TUPLE) return unpack(e, target, value);
    JVal ns = look_up(e, target->name);
    e->run.at = target->at;
    if (ns.type != J_NAMESPACE)
        return j_fail(&e->run, TANE_EINVAL, "cannot assign to an attribute of what is no namespace: '%.*s'",
                      (int)target->name->str.n, target->name->str.data);
    if (target->attribute->str.data[0] == '_')
        return j_fail(&e->run, TANE_EINVAL, "attributes of a namespace cannot begin with an underscore: '%.*s'",
                      (int)target->attribute->str.n, target->attribute->str.data);
    return j_dict_set(&e->run, ns.dict, j_from_str(&target->attribute->str), value);
}

/* ---- calls ------------------------------------------------------------------------------------------------------ */

/* Adds **mapping to the arguments by name. */
static Status add_star_star(JEval *e, const JArgs *args, JCall *call) {
    JVal more;
    const JStr **names;
    JVal *values;
    TRY_RETURN(jinja_eval(e, args->star_star, &more));
    if (more.type != J_DICT) return j_fail(&e->run, TANE_EINVAL, "** wants a mapping, not '%s'", j_type_name(more));
    size_t n = call->n_named + more.dict->n;
    TRY_RETURN(J_NEW(&e->run, &names, n));
    TRY_RETURN(J_NEW(&e->run, &values, n));
    for (size_t i = 0; i < n; i++) {
        const JEntry *entry = i < call->n_named ? NULL : &more.dict->entries[i - call->n_named];
        if (entry && entry->key.type != J_STR) return j_fail(&e->run, TANE_EINVAL, "keywords must be strings");
        names[i] = entry ? entry->key.str : call->names[i];
        values[i] = entry ? entry->value : call->named[i];
    }
    call->names = names;
    call->named = values;
    call->n_named = n;
    return TANE_OK;
}

static Status eval_args(JEval *e, const JArgs *args, JCall *call) {
    JIter more = {0};
    JVal star, *pos, *named;
    *call = (JCall){0};
    if (args->star) {
        TRY_RETURN(jinja_eval(e, args->star, &star));
        TRY_RETURN(j_walk(&e->run, star, &more));
    }
    if (args->n_pos + more.n) {
        TRY_RETURN(J_NEW(&e->run, &pos, args->n_pos + more.n));
        for (uint32_t i = 0; i < args->n_pos; i++) TRY_RETURN(jinja_eval(e, args->pos[i], &pos[i]));
        for (size_t i = 0; i < more.n; i++) pos[args->n_pos + i] = j_iter_at(&more, i);
        call->pos = pos;
        call->n_pos = args->n_pos + more.n;
    }
    if (args->n_named) {
        TRY_RETURN(J_NEW(&e->run, &named, args->n_named));
        for (uint32_t i = 0; i < args->n_named; i++) TRY_RETURN(jinja_eval(e, args->named[i], &named[i]));
        call->names = args->names;
        call->named = named;
        call->n_named = args->n_named;
    }
    return args->star_star ? add_star_star(e, args, call) : TANE_OK;
}

static bool same_name(const JStr *a, const JStr *b) {
    return a == b || (a->n == b->n && memcmp(a->data, b->data, a->n) == 0);
}

/* The argument by this name, which is then taken; NULL when there is none. */
static const JVal *take_named(const JCall *call, bool *taken, const JStr *name) {
    for (size_t i = 0; i < call->n_named; i++) {
        if (taken[i] || !same_name(call->names[i], name)) continue;
        taken[i] = true;
        return &call->named[i];
    }
    return NULL;
}

/* caller, kwargs and varargs, for a macro that speaks of them; what is left over otherwise is an error. */
static Status bind_rest(JEval *e, const JMacroNode *m, const JCall *call, bool *taken, JScope *scope) {
    JRun *r = &e->run;
    const JName *const *known = r->t->known;
    const char *title = m->name ? m->name->str.data : "caller";
    int title_n = m->name ? (int)m->name->str.n : 6;
    JVal rest;
    bool has_caller = false;
    for (uint32_t i = 0; i < m->n_params; i++) has_caller = has_caller || m->params[i] == known[NAME_CALLER];
    if (m->takes_caller && !has_caller) {
        const JVal *caller = take_named(call, taken, &known[NAME_CALLER]->str);
        bool given = caller && caller->type != J_NONE;
        TRY_RETURN(jinja_bind(e, scope, known[NAME_CALLER], given ? *caller : j_hint("No caller defined")));
    }
    TRY_RETURN(j_dict(r, call->n_named, &rest));
    for (size_t i = 0; i < call->n_named; i++) {
        if (taken[i]) continue;
        if (!m->takes_kwargs)
            return j_fail(r, TANE_EINVAL, "macro '%.*s' takes no keyword argument '%.*s'", title_n, title,
                          (int)call->names[i]->n, call->names[i]->data);
        TRY_RETURN(j_dict_set(r, rest.dict, j_from_str(call->names[i]), call->named[i]));
    }
    if (m->takes_kwargs) TRY_RETURN(jinja_bind(e, scope, known[NAME_KWARGS], rest));
    if (!m->takes_varargs && call->n_pos > m->n_params)
        return j_fail(r, TANE_EINVAL, "macro '%.*s' takes not more than %u argument(s)", title_n, title,
                      (unsigned)m->n_params);
    if (!m->takes_varargs) return TANE_OK;
    size_t extra = call->n_pos > m->n_params ? call->n_pos - m->n_params : 0;
    TRY_RETURN(j_seq(r, J_TUPLE, extra, &rest));
    for (size_t i = 0; i < extra; i++) rest.seq->items[i] = call->pos[m->n_params + i];
    return jinja_bind(e, scope, known[NAME_VARARGS], rest);
}

/* Parameters in order; a default may use the ones before it. e->scope is the macro's own. */
static Status bind_parameters(JEval *e, const JMacroNode *m, const JCall *call) {
    bool *taken;
    JScope *scope = e->scope;
    TRY_RETURN(J_NEW(&e->run, &taken, call->n_named));
    for (uint32_t i = 0; i < m->n_params; i++) {
        const JVal *given = i < call->n_pos ? &call->pos[i] : take_named(call, taken, &m->params[i]->str);
        if (given) TRY_RETURN(jinja_bind(e, scope, m->params[i], *given));
    }
    TRY_RETURN(bind_rest(e, m, call, taken, scope));
    for (uint32_t i = 0; i < m->n_params; i++) {
        JVal value = j_hint("a parameter was not provided");
        bool given = false;
        for (uint32_t k = 0; k < scope->n; k++) given = given || scope->binds[k].name == m->params[i];
        if (given) continue;
        if (m->defaults[i]) TRY_RETURN(jinja_eval(e, m->defaults[i], &value));
        TRY_RETURN(jinja_bind(e, scope, m->params[i], value));
    }
    return TANE_OK;
}

/* Runs statements with their text going to a builder of their own. */
static Status capture(JEval *e, const JNode *body, JScope *scope, JVal *out) {
    JBuilder text = {0}, *around = e->out;
    JScope *outside = e->scope;
    e->out = &text;
    e->scope = scope;
    TRY_RETURN(jinja_exec(e, body));
    e->out = around;
    e->scope = outside;
    return jb_finish(&e->run, &text, out);
}

static Status call_macro(JEval *e, const JMacro *m, const JCall *call, JVal *out) {
    JScope *outside = e->scope, *inside;
    TRY_RETURN(jinja_new_scope(e, m->scope, &inside));
    e->scope = inside;
    TRY_RETURN(bind_parameters(e, m->node, call));
    e->scope = outside;
    return capture(e, m->node->body, inside, out);
}

static Status call_joiner(JTurn *turn, JVal *out) {
    static const JStr nothing = {.data = ""};
    *out = turn->at++ ? turn->items[0] : j_from_str(&nothing);
    return TANE_OK;
}

Status j_call_value(JRun *r, JVal callee, const JCall *call, JVal *out) {
    switch ((JType)callee.type) {
    case J_FUNCTION: return j_call_builtin(r, callee.builtin, "function", j_none(), call, out);
    case J_METHOD: return j_call_builtin(r, callee.method->builtin, "method", callee.method->self, call, out);
    case J_MACRO: return call_macro((JEval *)r, callee.macro, call, out);
    case J_JOINER: return call_joiner(callee.turn, out);
    case J_UNDEFINED: return j_fail_undefined(r, callee);
    default: return j_fail(r, TANE_EINVAL, "'%s' object is not callable", j_type_name(callee));
    }
}

/* The method that x.name(...) calls on a string or dict, without making a bound method first; NULL: none of these. */
static const JBuiltin *direct_method(JVal object, const JName *name) {
    const JBuiltin *b = object.type == J_STR ? name->str_method : object.type == J_DICT ? name->dict_method : NULL;
    return b && !jinja_is_unsafe(b) ? b : NULL;
}

/* caller: for {% call %}, or NULL */
static Status eval_call(JEval *e, const JNode *n, const JVal *caller, JVal *out) {
    JVal callee, object = j_none();
    JCall call;
    const JBuiltin *method = NULL;
    if (n->a->kind == E_ATTRIBUTE) {
        TRY_RETURN(jinja_eval(e, n->a->a, &object));
        method = direct_method(object, n->a->name);
        e->run.at = n->a->at;
        if (!method) TRY_RETURN(j_attribute(&e->run, object, &n->a->name->str, &callee));
    } else {
        TRY_RETURN(jinja_eval(e, n->a, &callee));
    }
    TRY_RETURN(eval_args(e, n->args, &call));
    if (caller) {
        const JStr **names;
        JVal *named;
        TRY_RETURN(J_NEW(&e->run, &names, call.n_named + 1));
        TRY_RETURN(J_NEW(&e->run, &named, call.n_named + 1));
        for (size_t i = 0; i < call.n_named; i++) {
            names[i] = call.names[i];
            named[i] = call.named[i];
        }
        names[call.n_named] = &e->run.t->known[NAME_CALLER]->str;
        named[call.n_named] = *caller;
        call.names = names;
        call.named = named;
        call.n_named++;
    }
    e->run.at = n->a->at;
    if (method) return j_call_builtin(&e->run, method, "method", object, &call, out);
    return j_call_value(&e->run, callee, &call, out);
}

static Status eval_filter(JEval *e, const JNode *n, const char *kind, JVal *out) {
    JVal self;
    JCall call;
    TRY_RETURN(jinja_eval(e, n->a, &self));
    if (!n->builtin || !n->builtin->function) return jinja_fail_unknown(e->run.t, n);
    TRY_RETURN(eval_args(e, n->args, &call));
    e->run.at = n->at;
    return j_call_builtin(&e->run, n->builtin, kind, self, &call, out);
}

/* ---- expressions ------------------------------------------------------------------------------------------------ */

static Status eval_list(JEval *e, const JNode *n, JVal *out) {
    TRY_RETURN(j_seq(&e->run, n->kind == E_LIST ? J_LIST : J_TUPLE, n->n, out));
    for (uint32_t i = 0; i < n->n; i++) TRY_RETURN(jinja_eval(e, n->list[i], &out->seq->items[i]));
    return TANE_OK;
}

static Status eval_dict(JEval *e, const JNode *n, JVal *out) {
    TRY_RETURN(j_dict(&e->run, n->n / 2, out));
    for (uint32_t i = 0; i < n->n; i += 2) {
        JVal key, value;
        TRY_RETURN(jinja_eval(e, n->list[i], &key));
        TRY_RETURN(jinja_eval(e, n->list[i + 1], &value));
        e->run.at = n->list[i]->at;
        TRY_RETURN(j_dict_set(&e->run, out->dict, key, value));
    }
    return TANE_OK;
}

static Status eval_concat(JEval *e, const JNode *n, JVal *out) {
    JBuilder text = {0};
    for (uint32_t i = 0; i < n->n; i++) {
        JVal part;
        TRY_RETURN(jinja_eval(e, n->list[i], &part));
        e->run.at = n->list[i]->at;
        TRY_RETURN(jb_add_value(&e->run, &text, part));
    }
    return jb_finish(&e->run, &text, out);
}

static Status eval_compare(JEval *e, const JNode *n, JVal *out) {
    JVal left, right;
    bool holds = true;
    TRY_RETURN(jinja_eval(e, n->a, &left));
    for (uint32_t i = 0; holds && i < n->n; i++) {
        TRY_RETURN(jinja_eval(e, n->list[i], &right));
        e->run.at = n->at;
        TRY_RETURN(j_compare(&e->run, (JCompare)n->ops[i], left, right, &holds));
        left = right;
    }
    *out = j_bool(holds);
    return TANE_OK;
}

static Status eval_slice(JEval *e, const JNode *n, JVal *out) {
    JVal object, bounds[3];
    TRY_RETURN(jinja_eval(e, n->a, &object));
    for (int i = 0; i < 3; i++) {
        bounds[i] = j_none();
        if (n->list[i]) TRY_RETURN(jinja_eval(e, n->list[i], &bounds[i]));
    }
    e->run.at = n->at;
    return j_slice(&e->run, object, bounds[0], bounds[1], bounds[2], out);
}

static Status eval_binary(JEval *e, const JNode *n, JVal *out) {
    JVal a, b;
    TRY_RETURN(jinja_eval(e, n->a, &a));
    TRY_RETURN(jinja_eval(e, n->b, &b));
    e->run.at = n->at;
    return n->kind == E_ITEM ? j_item(&e->run, a, b, out) : j_binary(&e->run, (JOp)n->op, a, b, out);
}

static Status eval_if(JEval *e, const JNode *n, JVal *out) {
    JVal condition;
    TRY_RETURN(jinja_eval(e, n->b, &condition));
    if (j_truth(condition)) return jinja_eval(e, n->a, out);
    if (n->c) return jinja_eval(e, n->c, out);
    *out = j_hint("the inline if-expression evaluated to false and no else section was defined");
    return TANE_OK;
}

static Status eval_inner(JEval *e, const JNode *n, JVal *out) {
    JVal a;
    switch ((JKind)n->kind) {
    case E_ATTRIBUTE:
        TRY_RETURN(jinja_eval(e, n->a, &a));
        e->run.at = n->at;
        e->run.work -= a.type == J_DICT ? (int64_t)a.dict->n : 0;
        return j_attribute(&e->run, a, &n->name->str, out);
    case E_ITEM:
    case E_BINARY: return eval_binary(e, n, out);
    case E_SLICE: return eval_slice(e, n, out);
    case E_CALL: return eval_call(e, n, NULL, out);
    case E_FILTER: return eval_filter(e, n, "filter", out);
    case E_TEST: return eval_filter(e, n, "test", out);
    case E_NOT:
        TRY_RETURN(jinja_eval(e, n->a, &a));
        *out = j_bool(!j_truth(a));
        return TANE_OK;
    case E_NEGATE:
    case E_POSITIVE:
        TRY_RETURN(jinja_eval(e, n->a, &a));
        e->run.at = n->at;
        TRY_RETURN(j_negate(&e->run, a, out));
        return n->kind == E_POSITIVE ? j_negate(&e->run, *out, out) : TANE_OK;
    case E_AND:
    case E_OR:
        TRY_RETURN(jinja_eval(e, n->a, out));
        return j_truth(*out) == (n->kind == E_AND) ? jinja_eval(e, n->b, out) : TANE_OK;
    case E_IF: return eval_if(e, n, out);
    case E_CONCAT: return eval_concat(e, n, out);
    case E_COMPARE: return eval_compare(e, n, out);
    case E_LIST:
    case E_TUPLE: return eval_list(e, n, out);
    case E_DICT: return eval_dict(e, n, out);
    default: return FAIL(TANE_EINTERNAL, "a node of kind %d is no expression", n->kind);
    }
}

static Status one_step(JEval *e, const JNode *n) {
    JRun *r = &e->run;
    if (--r->steps < 0) {
        r->at = n->at;
        return j_fail(r, TANE_EINVAL,
                      "the template takes more than %d steps for this conversation; tane stops it there",
                      JINJA_MAX_STEPS);
    }
    return r->work < 0 ? j_work(r, 0) : TANE_OK;
}

Status jinja_eval(JEval *e, const JNode *n, JVal *out) {
    TRY_RETURN(one_step(e, n));
    if (n->kind == E_CONST) *out = n->value;
    else if (n->kind == E_NAME) *out = look_up(e, n->name);
    else if (n->kind == E_CAPTURED) *out = e->captured;
    else {
        if (e->run.depth >= JINJA_MAX_DEPTH) {
            e->run.at = n->at;
            return j_fail(&e->run, TANE_EINVAL, "macros and expressions more than %d deep inside each other",
                          JINJA_MAX_DEPTH);
        }
        e->run.depth++;
        Status st = eval_inner(e, n, out);
        e->run.depth--;
        return st;
    }
    return TANE_OK;
}

/* ---- statements ------------------------------------------------------------------------------------------------- */

static Status exec_body(JEval *e, const JNode *n) {
    for (uint32_t i = 0; i < n->n && e->flow == FLOW_ON; i++) TRY_RETURN(jinja_exec(e, n->list[i]));
    return TANE_OK;
}

static Status exec_print(JEval *e, const JNode *n) {
    JVal value;
    TRY_RETURN(jinja_eval(e, n->a, &value));
    e->run.at = n->at;
    return jb_add_value(&e->run, e->out, value);
}

static Status exec_if(JEval *e, const JNode *n) {
    for (uint32_t i = 0; i < n->n; i += 2) {
        JVal condition;
        TRY_RETURN(jinja_eval(e, n->list[i], &condition));
        if (j_truth(condition)) return jinja_exec(e, n->list[i + 1]);
    }
    return n->c ? jinja_exec(e, n->c) : TANE_OK;
}

static Status exec_set(JEval *e, const JNode *n) {
    JVal value;
    TRY_RETURN(jinja_eval(e, n->b, &value));
    e->run.at = n->at;
    return jinja_assign(e, n->a, value);
}

/* {% set x | filter %}...{% endset %} and {% filter f %}...{% endfilter %}: the text of `body` through the filters. */
static Status filtered_block(JEval *e, const JNode *body, const JNode *filters, JVal *out) {
    JScope *inside;
    JVal around = e->captured;
    TRY_RETURN(jinja_new_scope(e, e->scope, &inside));
    TRY_RETURN(capture(e, body, inside, out));
    if (!filters) return TANE_OK;
    e->captured = *out;
    TRY_RETURN(jinja_eval(e, filters, out));
    e->captured = around;
    return TANE_OK;
}

static Status make_macro(JEval *e, const JMacroNode *node, JVal *out) {
    JMacro *m;
    TRY_RETURN(J_NEW(&e->run, &m, 1));
    *m = (JMacro){node, e->scope};
    *out = (JVal){.type = J_MACRO, .macro = m};
    return TANE_OK;
}

static Status exec_call(JEval *e, const JNode *n) {
    JVal caller, text;
    TRY_RETURN(make_macro(e, n->macro, &caller));
    TRY_RETURN(eval_call(e, n->a, &caller, &text));
    return jb_add_value(&e->run, e->out, text);
}

static Status exec_with(JEval *e, const JNode *n) {
    JScope *outside = e->scope, *inside;
    TRY_RETURN(jinja_new_scope(e, outside, &inside));
    for (uint32_t i = 0; i < n->n; i += 2) {
        JVal value;
        TRY_RETURN(jinja_eval(e, n->list[i + 1], &value));
        e->scope = inside;
        TRY_RETURN(jinja_assign(e, n->list[i], value));
        e->scope = outside;
    }
    e->scope = inside;
    TRY_RETURN(jinja_exec(e, n->c));
    e->scope = outside;
    return TANE_OK;
}

static Status exec_generation(JEval *e, const JNode *n) {
    JScope *outside = e->scope;
    size_t from = e->out->n;
    TRY_RETURN(jinja_new_scope(e, outside, &e->scope));
    TRY_RETURN(jinja_exec(e, n->c));
    e->scope = outside;
    for (size_t i = from; i < e->out->n; i++) e->out->marks[i] |= CHAT_GENERATION;
    return TANE_OK;
}

static Status exec_inner(JEval *e, const JNode *n) {
    JVal value;
    switch ((JKind)n->kind) {
    case S_BODY: return exec_body(e, n);
    case S_DATA: return jb_add_str(&e->run, e->out, n->value.str);
    case S_PRINT: return exec_print(e, n);
    case S_IF: return exec_if(e, n);
    case S_FOR: return jinja_exec_for(e, n);
    case S_SET: return exec_set(e, n);
    case S_SET_BLOCK: TRY_RETURN(filtered_block(e, n->c, n->b, &value)); return jinja_assign(e, n->a, value);
    case S_FILTER: TRY_RETURN(filtered_block(e, n->c, n->a, &value)); return jb_add_value(&e->run, e->out, value);
    case S_MACRO: TRY_RETURN(make_macro(e, n->macro, &value)); return jinja_bind(e, e->scope, n->macro->name, value);
    case S_CALL: return exec_call(e, n);
    case S_WITH: return exec_with(e, n);
    case S_GENERATION: return exec_generation(e, n);
    case S_BREAK:
    case S_CONTINUE: e->flow = n->kind == S_BREAK ? FLOW_BREAK : FLOW_CONTINUE; return TANE_OK;
    default: return FAIL(TANE_EINTERNAL, "a node of kind %d is no statement", n->kind);
    }
}

Status jinja_exec(JEval *e, const JNode *n) {
    TRY_RETURN(one_step(e, n));
    if (e->run.depth >= JINJA_MAX_DEPTH) {
        e->run.at = n->at;
        return j_fail(&e->run, TANE_EINVAL, "macros and blocks more than %d deep inside each other", JINJA_MAX_DEPTH);
    }
    e->run.depth++;
    Status st = exec_inner(e, n);
    e->run.depth--;
    return st;
}

/* ---- a rendering ------------------------------------------------------------------------------------------------ */

static Status bind_variables(JEval *e, const JinjaVariable *variables, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const JinjaVariable *v = &variables[i];
        const JName *name = jinja_name(e->run.t, v->name, strlen(v->name));
        JVal value;
        if (!name) continue; /* the template never asks */
        if (v->json) TRY_RETURN(j_from_json(&e->run, v, &value));
        else TRY_RETURN(j_text(&e->run, v->text, v->n, v->mark, &value));
        TRY_RETURN(jinja_bind(e, e->scope, name, value));
    }
    return TANE_OK;
}

static Status append(const JBuilder *from, Str *text, Str *marks) {
    size_t before = text->len;
    if (!from->n) return TANE_OK;
    TRY_RETURN(str_add(text, from->text, from->n));
    Status st = str_add(marks, (const char *)from->marks, from->n);
    if (st != TANE_OK) text->len = before;
    if (st != TANE_OK && text->text) text->text[before] = 0;
    return st;
}

Status jinja_render(const JinjaTemplate *t, const JinjaVariable *variables, size_t n, int64_t now, Str *text,
                    Str *marks) {
    Status st = TANE_OK;
    JBuilder out = {0};
    JEval e = {.run = {.t = t, .memory = JINJA_MEMORY, .steps = JINJA_MAX_STEPS, .work = JINJA_MAX_WORK, .now = now},
               .out = &out};
    TRY(jinja_new_scope(&e, NULL, &e.scope));
    TRY(bind_variables(&e, variables, n));
    TRY(jinja_new_scope(&e, e.scope, &e.scope));
    TRY(jinja_exec(&e, t->body));
    TRY(append(&out, text, marks));
out:
    arena_release(&e.run.arena);
    return st;
}
