/* A parsed template: a tree of nodes in an arena, and the names that occur in it. */
#ifndef TEXT_JINJA_AST_H
#define TEXT_JINJA_AST_H

#include "text/jinja_builtins.h"

/* A name is looked up once, when it is parsed: what it may mean as a method or as a function. Two names are the same
 * when their pointers are. */
typedef struct JName {
    JStr str;
    const JBuiltin *function;
    const JBuiltin *str_method, *dict_method;
} JName;

typedef enum JKind {
    E_CONST,     /* value */
    E_NAME,      /* name */
    E_CAPTURED,  /* the text of the block that a filter stands on */
    E_ATTRIBUTE, /* a.name */
    E_ITEM,      /* a[b] */
    E_SLICE,     /* a[list[0]:list[1]:list[2]], each may be NULL */
    E_CALL,      /* a(args) */
    E_FILTER,    /* a|name(args) */
    E_TEST,      /* a is name(args) */
    E_NOT,       /* a */
    E_NEGATE,    /* a */
    E_POSITIVE,  /* a */
    E_BINARY,    /* a op b */
    E_AND,       /* a and b */
    E_OR,
    E_IF,      /* a if b else c; c may be NULL */
    E_CONCAT,  /* list[0] ~ list[1] ~ ... */
    E_COMPARE, /* a op[0] list[0] op[1] list[1] ... */
    E_LIST,
    E_TUPLE,
    E_DICT, /* list: key, value, key, value ... */
    E_NS,   /* name.attribute, as a target of set */

    S_BODY,       /* list */
    S_DATA,       /* value: the text */
    S_PRINT,      /* a */
    S_IF,         /* list: condition, body, condition, body ...; else: c */
    S_FOR,        /* for a in b if list[0]: list[1] else: c */
    S_SET,        /* set a = b */
    S_SET_BLOCK,  /* set a | b: c; b, on E_CAPTURED, may be NULL */
    S_MACRO,      /* macro */
    S_CALL,       /* a: the call; macro: the caller */
    S_FILTER,     /* a, on E_CAPTURED; c: body */
    S_WITH,       /* list: target, value, ...; c: body */
    S_GENERATION, /* c: body */
    S_BREAK,
    S_CONTINUE
} JKind;

typedef struct JNode JNode;

typedef struct JArgs {
    JNode **pos, **named;
    const JStr **names;
    uint32_t n_pos, n_named;
    JNode *star, *star_star; /* *list and **dict, or NULL */
} JArgs;

typedef struct JMacroNode {
    const JName *name; /* NULL: a caller */
    const JName **params;
    JNode **defaults; /* (n_params), NULL where there is none */
    uint32_t n_params;
    bool takes_caller, takes_kwargs, takes_varargs; /* the body speaks of them */
    JNode *body;
} JMacroNode;

struct JNode {
    uint8_t kind, op;
    uint16_t depth; /* of the tree below */
    uint32_t at;    /* in the source */
    uint32_t n;     /* of list */
    JNode **list;
    const JName *name;
    JNode *a, *b;
    union {
        JNode *c;
        JArgs *args;
        JMacroNode *macro;
        const uint8_t *ops;     /* E_COMPARE */
        const JName *attribute; /* E_NS */
        JVal value;
    };
    const JBuiltin *builtin; /* E_FILTER, E_TEST; NULL: nobody knows it */
};

/* The names that the evaluator itself gives a meaning. */
typedef enum JWellKnown { NAME_LOOP, NAME_CALLER, NAME_KWARGS, NAME_VARARGS, NAME_COUNT } JWellKnown;

struct JinjaTemplate {
    Arena arena;
    const char *where;
    const char *text; /* newlines are \n, the last one is gone */
    size_t n;
    JNode *body;
    JName **names; /* a hash table of n_slots, NULL where empty */
    size_t n_names, n_slots;
    const JName *known[NAME_COUNT];
    bool generation;
};

/* That a filter or test cannot be run: a node without a function. */
Status jinja_fail_unknown(const JinjaTemplate *t, const JNode *node);
/* The name if the template has it, or NULL. */
const JName *jinja_name(const JinjaTemplate *t, const char *text, size_t n);

#endif
