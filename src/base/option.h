/* Options: one table row gives an option its field, default, check, YAML key, key=value form, --flag and help line.
 *
 * A row's `name` is the YAML key, the `key=value` key and, with '_' read as '-', the --flag. Both spellings are accepted
 * everywhere. Booleans take true/false (also --flag alone and --no-flag).
 */
#ifndef BASE_OPTION_H
#define BASE_OPTION_H

#include "base/mem.h"

typedef enum OptionType {
    OPTION_BOOL,   /* bool */
    OPTION_INT,    /* int64_t, lo..hi */
    OPTION_FLOAT,  /* double, lo..hi; never NaN */
    OPTION_STRING, /* const char *, NULL when unset; an empty text unsets it */
    OPTION_CHOICE, /* const char *, one of choices "a|b|c" */
    OPTION_LIST    /* StringList: YAML sequence, or comma-separated, or the flag repeated / followed by several words */
} OptionType;

typedef struct StringList {
    const char **items;
    size_t n;
} StringList;

typedef struct Option {
    const char *name;
    OptionType type;
    size_t offset;        /* of the field in the config struct */
    const char *fallback; /* default, as text; NULL: unset */
    const char *choices;  /* OPTION_CHOICE */
    double lo, hi;        /* numbers: allowed range; both 0: any; INFINITY: no limit on that side */
    const char *group;    /* heading in help and docs */
    const char *help;
} Option;

typedef struct OptionTable {
    const char *title; /* "tane train" */
    const Option *rows;
    size_t n;
} OptionTable;

/* A config struct being filled: strings live in `arena`; `origin[i]` says where row i was set (NULL: default). */
typedef struct OptionSet {
    const OptionTable *table;
    void *config;
    Arena arena;
    const char **origin;
} OptionSet;

Status option_init(OptionSet *set, const OptionTable *table, void *config); /* fills in the defaults */
void option_release(OptionSet *set);
/* `where`: "recipe.yaml:12" or "command line". Unknown names get the nearest known one as a suggestion. */
Status option_set(OptionSet *set, const char *name, const char *value, const char *where);
/* "key=value" */
Status option_assign(OptionSet *set, const char *text, const char *where);
/* What `where` and `origin` say for option_parse_args; all its errors begin with it. */
#define OPTION_COMMAND_LINE "command line"
/* What the command line has set stays (it wins over a file, whichever is read first).
 * A flat YAML mapping; nested mappings only group ("model: {hidden_size: 64}" sets hidden_size). Lists for OPTION_LIST. */
Status option_load_yaml(OptionSet *set, const char *path);
/* Command line: --flag value, --flag=value, key=value; other words go to `words` (in order). "--" ends the flags. */
Status option_parse_args(OptionSet *set, int argc, char **argv, StringList *words);
/* Every row with its value, grouped, as YAML that option_load_yaml reads back to the same config. */
Status option_write_yaml(const OptionSet *set, Str *out);
/* One strict number from an item of a list; errors as for a row called `name`. */
Status option_number(const char *name, const char *text, const char *where, double lo, double hi, double *out);
bool option_is_set(const OptionSet *set, const char *name);
/* Help text: rows by group with type, default and help. `markdown` gives the table used in docs. */
Status option_help(const OptionTable *table, bool markdown, Str *out);

#endif
