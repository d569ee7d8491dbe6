/* What the files of the evaluator share: scopes, loops, and the state of a rendering. */
#ifndef TEXT_JINJA_EVAL_H
#define TEXT_JINJA_EVAL_H

#include "text/jinja_ast.h"

typedef struct JBind {
    const JName *name;
    JVal value;
} JBind;

/* A loop's body, a macro, a with: assignments stay in the innermost one, names are looked for outwards. */
typedef struct JScope {
    struct JScope *parent;
    JBind *binds;
    uint32_t n, cap;
} JScope;

typedef enum JFlow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } JFlow;

typedef struct JEval {
    JRun run; /* first: a JRun * of an evaluation is a JEval * */
    JScope *scope;
    JBuilder *out;
    JVal captured; /* what E_CAPTURED stands for */
    JFlow flow;
} JEval;

struct JMacro {
    const JMacroNode *node;
    JScope *scope; /* where it was defined */
};

/* A for loop under way. A condition is asked item by item as the body gets there, since the body may change what it
 * depends on; looking ahead (loop.last, loop.length) asks earlier, as in Jinja2. */
struct JLoop {
    JEval *e;
    const JNode *node;
    JScope *outside; /* where the loop stands */
    JScope *asking;  /* the condition's scope, NULL without one */
    JIter it;
    size_t next; /* of `it` */
    int64_t index0;
    JVal before, current, after;
    bool has_after, done;
    bool counted;
    int64_t length;
    JVal changed;
};

Status jinja_eval(JEval *e, const JNode *n, JVal *out);
Status jinja_exec(JEval *e, const JNode *n);
Status jinja_assign(JEval *e, const JNode *target, JVal value);
Status jinja_bind(JEval *e, JScope *scope, const JName *name, JVal value);
Status jinja_new_scope(JEval *e, JScope *parent, JScope **out);
Status jinja_exec_for(JEval *e, const JNode *n);

#endif
