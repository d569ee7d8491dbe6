/* The for loop and its variable `loop`. */
#include <string.h>

#include "text/jinja_eval.h"

/* The next item that the condition lets through. */
static Status pull(JLoop *l, JVal *item, bool *got) {
    JEval *e = l->e;
    *got = false;
    while (!*got && l->next < l->it.n) {
        *item = j_iter_at(&l->it, l->next++);
        *got = true;
        if (!l->asking) break;
        JScope *scope = e->scope;
        JVal answer;
        e->scope = l->asking;
        l->asking->n = 0;
        TRY_RETURN(jinja_assign(e, l->node->a, *item));
        TRY_RETURN(jinja_eval(e, l->node->list[0], &answer));
        e->scope = scope;
        *got = j_truth(answer);
    }
    return TANE_OK;
}

static Status peek(JLoop *l, bool *more) {
    if (!l->has_after && !l->done) {
        TRY_RETURN(pull(l, &l->after, &l->has_after));
        l->done = !l->has_after;
    }
    *more = l->has_after;
    return TANE_OK;
}

static Status advance(JLoop *l, bool *more) {
    TRY_RETURN(peek(l, more));
    if (!*more) return TANE_OK;
    l->before = l->current;
    l->current = l->after;
    l->has_after = false;
    l->index0++;
    return TANE_OK;
}

/* Without a condition the length is known; with one, all items have to be asked now. */
static Status length(JLoop *l, int64_t *out) {
    JRun *r = &l->e->run;
    if (!l->counted && l->asking) {
        JVal *items;
        size_t n = 0;
        bool got = true;
        TRY_RETURN(J_NEW(r, &items, l->it.n - l->next));
        while (got) {
            TRY_RETURN(pull(l, &items[n], &got));
            n += got;
        }
        l->length = (int64_t)n + l->index0 + 1 + l->has_after;
        l->it = (JIter){.items = items, .n = n};
        l->next = 0;
        l->asking = NULL;
    } else if (!l->counted) {
        l->length = (int64_t)l->it.n;
    }
    l->counted = true;
    *out = l->length;
    return TANE_OK;
}

static Status loop_cycle(JRun *r, JVal self, const JCall *call, JVal *out) {
    if (call->n_pos == 0) return j_fail(r, TANE_EINVAL, "no items for cycling given");
    *out = call->pos[(size_t)self.loop->index0 % call->n_pos];
    return TANE_OK;
}

static Status loop_changed(JRun *r, JVal self, const JCall *call, JVal *out) {
    JVal now;
    bool same = false;
    TRY_RETURN(j_seq(r, J_TUPLE, call->n_pos, &now));
    if (call->n_pos) memcpy(now.seq->items, call->pos, call->n_pos * sizeof(JVal));
    if (self.loop->changed.type != J_MISSING) TRY_RETURN(j_equal(r, now, self.loop->changed, &same));
    self.loop->changed = now;
    *out = j_bool(!same);
    return TANE_OK;
}

static const JBuiltin methods[] = {{"cycle", 0, J_ANY, NULL, loop_cycle}, {"changed", 0, J_ANY, NULL, loop_changed}};

static Status method(JRun *r, JLoop *l, const JBuiltin *builtin, JVal *out) {
    JMethod *m;
    TRY_RETURN(J_NEW(r, &m, 1));
    *m = (JMethod){.self = {.type = J_LOOP, .loop = l}, .builtin = builtin};
    *out = (JVal){.type = J_METHOD, .method = m};
    return TANE_OK;
}

Status j_loop_attribute(JRun *r, JLoop *l, const JStr *name, JVal *out, bool *found) {
    int64_t n;
    bool more;
    *found = true;
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (j_str_is(name, methods[i].name)) return method(r, l, &methods[i], out);
    if (j_str_is(name, "index")) *out = j_int(l->index0 + 1);
    else if (j_str_is(name, "index0")) *out = j_int(l->index0);
    else if (j_str_is(name, "first")) *out = j_bool(l->index0 == 0);
    else if (j_str_is(name, "depth")) *out = j_int(1);
    else if (j_str_is(name, "depth0")) *out = j_int(0);
    else if (j_str_is(name, "previtem")) *out = l->index0 > 0 ? l->before : j_hint("there is no previous item");
    else if (j_str_is(name, "last") || j_str_is(name, "nextitem")) {
        TRY_RETURN(peek(l, &more));
        if (j_str_is(name, "last")) *out = j_bool(!more);
        else *out = more ? l->after : j_hint("there is no next item");
    } else if (j_str_is(name, "length") || j_str_is(name, "revindex") || j_str_is(name, "revindex0")) {
        TRY_RETURN(length(l, &n));
        *out = j_int(j_str_is(name, "length") ? n : n - l->index0 - (j_str_is(name, "revindex0") ? 1 : 0));
    } else {
        *found = false;
    }
    return TANE_OK;
}

/* *completed: some round came to its end, without break or continue. */
static Status run_body(JEval *e, JLoop *l, bool *completed) {
    JScope *inside;
    bool more;
    TRY_RETURN(jinja_new_scope(e, l->outside, &inside));
    for (;;) {
        TRY_RETURN(advance(l, &more));
        if (!more) return TANE_OK;
        inside->n = 0;
        e->scope = inside;
        TRY_RETURN(jinja_bind(e, inside, e->run.t->known[NAME_LOOP], (JVal){.type = J_LOOP, .loop = l}));
        e->run.at = l->node->at;
        TRY_RETURN(jinja_assign(e, l->node->a, l->current));
        TRY_RETURN(jinja_exec(e, l->node->list[1]));
        e->scope = l->outside;
        bool stop = e->flow == FLOW_BREAK;
        *completed = *completed || e->flow == FLOW_ON;
        e->flow = FLOW_ON;
        if (stop) return TANE_OK;
    }
}

Status jinja_exec_for(JEval *e, const JNode *n) {
    JVal iterable;
    JLoop *l;
    bool completed = false;
    TRY_RETURN(jinja_eval(e, n->b, &iterable));
    TRY_RETURN(J_NEW(&e->run, &l, 1));
    *l = (JLoop){.e = e, .node = n, .outside = e->scope, .index0 = -1};
    e->run.at = n->b->at;
    TRY_RETURN(j_iter(&e->run, iterable, &l->it));
    if (n->list[0]) TRY_RETURN(jinja_new_scope(e, e->scope, &l->asking));
    TRY_RETURN(run_body(e, l, &completed));
    if (completed || !n->c) return TANE_OK; /* so has Jinja2 it, where Python would ask for no break */
    JScope *scope = e->scope;
    TRY_RETURN(jinja_new_scope(e, scope, &e->scope));
    TRY_RETURN(jinja_exec(e, n->c));
    e->scope = scope;
    return TANE_OK;
}
