/* The part of Jinja2 that chat templates use, as transformers runs it: ImmutableSandboxedEnvironment with trim_blocks
 * and lstrip_blocks, the loop controls and {% generation %}. docs/chat-templates.md lists what there is.
 *
 * A template is untrusted code that runs over untrusted text: it is parsed once, evaluated without any access to the
 * machine, and bounded in nesting, steps, bytes moved and memory. Each byte that a template gives carries marks
 * (text/chat_template.h) that say whether it came from the conversation; every operation on text hands them on.
 */
#ifndef TEXT_JINJA_H
#define TEXT_JINJA_H

#include "base/json.h"

enum {
    JINJA_MAX_SOURCE = 1 << 19,  /* bytes of a template; the longest in use have some 30,000 */
    JINJA_MAX_NESTING = 100,     /* blocks and brackets inside each other */
    JINJA_MAX_CHAIN = 500,       /* operators, filters or subscripts applied to one another: 1+1+1+... */
    JINJA_MAX_DEPTH = 1500,      /* evaluations inside each other, through macros too */
    JINJA_MAX_VALUE_DEPTH = 600, /* lists and dicts inside each other */
    JINJA_MAX_STEPS = 5000000,   /* evaluations of one rendering */
    JINJA_MAX_RANGE = 100000,    /* as the sandbox of Jinja2 has it */
    JINJA_MEMORY = 48 << 20,     /* bytes of one rendering beside JINJA_MEMORY_FACTOR x the input's */
    JINJA_MEMORY_FACTOR = 16,
    JINJA_MAX_WORK = 1 << 29 /* bytes moved or compared (an item counts as many), beside JINJA_WORK_FACTOR x
                              * the input's */
};
enum { JINJA_WORK_FACTOR = 256 };

typedef struct JinjaTemplate JinjaTemplate;

/* `where` begins errors. A text that Jinja2 refuses is TANE_EFORMAT, a construct that tane lacks TANE_EUNSUPPORTED;
 * both name line and column. A filter or test that nobody knows is an error when it is reached if it stands inside an
 * if, as in Jinja2. */
Status jinja_parse(JinjaTemplate **out, const char *where, const char *source, size_t n);
void jinja_free(JinjaTemplate *t); /* NULL is fine */
bool jinja_marks_generation(const JinjaTemplate *t);

/* A variable of a rendering: JSON or, when json is NULL, a text. Strings are not copied. */
typedef struct JinjaVariable {
    const char *name;
    const json_t *json;
    const char *text;
    size_t n;
    uint8_t mark; /* of its bytes */
    /* NULL, or words, the last one NULL: where one of them is the value of `key` in an object of the list that this variable
     * is, its bytes have no mark. */
    const char *key, *const *words;
} JinjaVariable;

/* Appends to text and marks; on failure both are as they were. now: seconds since 1970. TANE_EINVAL when the template
 * raises, when the data do not suit it, and at a limit. A template may be rendered by several threads at once. */
Status jinja_render(const JinjaTemplate *t, const JinjaVariable *variables, size_t n, int64_t now, Str *text,
                    Str *marks);

#endif
