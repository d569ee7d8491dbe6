/* The option table at work: strict values, YAML recipes, key=value words, --flags, and the texts made from the rows.
 *
 * A value is parsed against its row first and stored afterwards, so that a recipe is checked to its last line even
 * where the command line has the last word.
 */
#include "base/option.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/file.h"

enum { MAX_RECIPE_BYTES = 1 << 20, MAX_NESTING = 8, MAX_GROUPS = 256, HELP_COLUMN = 32, HELP_WIDTH = 80 };
static const size_t NONE = SIZE_MAX;

/* The list is the largest and comes first: `(Value){0}` is only sure to clear the first member. */
typedef union Value {
    StringList list;
    bool flag;
    int64_t integer;
    double number;
    const char *text;
} Value;

/* ---- rows ---- */

static bool same_name(const char *name, const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (name[i] == 0 || (text[i] == '-' ? '_' : text[i]) != name[i]) return false;
    }
    return name[n] == 0;
}

static size_t find_row(const OptionTable *table, const char *text, size_t n) {
    for (size_t i = 0; i < table->n; i++) {
        if (same_name(table->rows[i].name, text, n)) return i;
    }
    return NONE;
}

/* `dashes` is what stood in front of the name, so that the suggestion can be typed as it is. */
static Status unknown_option(OptionSet *set, const char *where, const char *dashes, const char *text, size_t n) {
    const OptionTable *table = set->table;
    char **names, *given;
    TRY_RETURN(ARENA_NEW_ARRAY(&set->arena, &names, table->n));
    TRY_RETURN(arena_printf(&set->arena, &given, "%.*s", (int)n, text));
    char underscore = *dashes ? '_' : 0; /* flags are written with '-' */
    for (size_t i = 0; i < table->n; i++) {
        TRY_RETURN(arena_strdup(&set->arena, &names[i], table->rows[i].name));
        for (char *c = names[i]; *c; c++) {
            if (*c == underscore) *c = '-';
        }
    }
    const char *near = err_nearest(given, (const char *const *)names, table->n);
    if (near)
        return FAIL(TANE_EINVAL, "%s: unknown option \"%s%s\"; did you mean \"%s%s\"?", where, dashes, given, dashes,
                    near);
    return FAIL(TANE_EINVAL, "%s: unknown option \"%s%s\" (%s has none like it)", where, dashes, given, table->title);
}

static void *field(const OptionSet *set, size_t i) { return (char *)set->config + set->table->rows[i].offset; }

static void store(OptionSet *set, size_t i, const Value *value, const char *origin) {
    void *at = field(set, i);
    switch (set->table->rows[i].type) {
    case OPTION_BOOL: *(bool *)at = value->flag; break;
    case OPTION_INT: *(int64_t *)at = value->integer; break;
    case OPTION_FLOAT: *(double *)at = value->number; break;
    case OPTION_STRING:
    case OPTION_CHOICE: *(const char **)at = value->text; break;
    case OPTION_LIST: *(StringList *)at = value->list; break;
    }
    set->origin[i] = origin;
}

/* ---- values ---- */

static bool has_limits(const Option *row) { return row->lo != 0 || row->hi != 0; }

/* "a whole number from 1 to 64", "a number of at least 0": what a row accepts. */
static void describe(const Option *row, char *out, size_t size) {
    switch (row->type) {
    case OPTION_BOOL: snprintf(out, size, "true or false"); return;
    case OPTION_STRING: snprintf(out, size, "text"); return;
    case OPTION_LIST: snprintf(out, size, "a list"); return;
    case OPTION_CHOICE: {
        int n = snprintf(out, size, "one of ");
        for (const char *c = row->choices; *c && n + 3 < (int)size; c++) {
            if (*c == '|') {
                out[n++] = ',';
                out[n++] = ' ';
            } else {
                out[n++] = *c;
            }
        }
        out[n] = 0;
        return;
    }
    case OPTION_INT:
    case OPTION_FLOAT: break;
    }
    const char *kind = row->type == OPTION_INT ? "a whole number" : "a number";
    if (!has_limits(row)) snprintf(out, size, "%s", kind);
    else if (isinf(row->hi) || row->hi >= 9e18) snprintf(out, size, "%s of at least %.15g", kind, row->lo);
    else if (isinf(row->lo) || row->lo <= -9e18) snprintf(out, size, "%s of at most %.15g", kind, row->hi);
    else snprintf(out, size, "%s from %.15g to %.15g", kind, row->lo, row->hi);
}

static Status bad_value(const Option *row, const char *text, const char *where, const char *hint) {
    char wanted[256];
    describe(row, wanted, sizeof wanted);
    return FAIL(TANE_EINVAL, "%s: \"%s\" is \"%s\"; it must be %s%s", where, row->name, text, wanted, hint);
}

/* [sign] digits [. digits] [e [sign] digits], at least one digit before e; nothing else (no hex, inf, nan, "_"). */
static bool is_number(const char *s, bool integer) {
    if (*s == '+' || *s == '-') s++;
    int digits = 0;
    while (isdigit((unsigned char)*s)) s++, digits++;
    if (integer) return digits > 0 && *s == 0;
    if (*s == '.') s++;
    while (isdigit((unsigned char)*s)) s++, digits++;
    if (!digits) return false;
    if (*s == 'e' || *s == 'E') {
        s++;
        if (*s == '+' || *s == '-') s++;
        if (!isdigit((unsigned char)*s)) return false;
        while (isdigit((unsigned char)*s)) s++;
    }
    return *s == 0;
}

static const char *number_hint(const Option *row, const char *text) {
    if (strchr(text, '_')) return " (write it without \"_\")";
    if (strchr(text, ',')) return " (write it without \",\")";
    if (row->type == OPTION_INT && is_number(text, false)) return " (digits only, without point or exponent)";
    return "";
}

static Status parse_int(const Option *row, const char *text, const char *where, int64_t *out) {
    if (!is_number(text, true)) return bad_value(row, text, where, number_hint(row, text));
    errno = 0;
    long long value = strtoll(text, NULL, 10);
    if (errno == ERANGE) return bad_value(row, text, where, " (and fit in 64 bits)");
    if (has_limits(row) && ((double)value < row->lo || (double)value > row->hi)) return bad_value(row, text, where, "");
    *out = value;
    return TANE_OK;
}

static Status parse_float(const Option *row, const char *text, const char *where, double *out) {
    if (!is_number(text, false)) return bad_value(row, text, where, number_hint(row, text));
    double value = strtod(text, NULL);
    if (isinf(value)) return bad_value(row, text, where, " (and fit in a double)");
    if (has_limits(row) && (value < row->lo || value > row->hi)) return bad_value(row, text, where, "");
    *out = value;
    return TANE_OK;
}

/* The code point at s and its length in bytes; 0 when it is not valid UTF-8. */
static int utf8_at(const char *s, uint32_t *out) {
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80) return *out = u[0], 1;
    int n = u[0] >= 0xf0 ? 4 : u[0] >= 0xe0 ? 3 : 2;
    if (u[0] < 0xc2 || u[0] > 0xf4) return 0;
    uint32_t c = u[0] & (0xffu >> (n + 1));
    for (int i = 1; i < n; i++) {
        if ((u[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (u[i] & 0x3fu);
    }
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    *out = c;
    return c < least[n] || (c >= 0xd800 && c < 0xe000) || c > 0x10ffff ? 0 : n;
}

/* Recipes are written back as YAML, which has to be UTF-8. */
static Status check_text(const Option *row, const char *text, const char *where) {
    uint32_t code;
    for (const char *s = text; *s;) {
        int n = utf8_at(s, &code);
        if (!n)
            return FAIL(TANE_EINVAL, "%s: \"%s\" is not valid UTF-8 (byte %zu)", where, row->name,
                        (size_t)(s - text) + 1);
        s += n;
    }
    return TANE_OK;
}

/* Lists have one owner: an append may write behind the end of the array it shares with the list it grew from. */
static Status list_append(Arena *arena, StringList *list, const char *bytes, size_t n) {
    const char **items = list->items;
    char *copy;
    if ((list->n & (list->n - 1)) == 0) { /* full: arrays grow at every power of two */
        TRY_RETURN(ARENA_NEW_ARRAY(arena, &items, list->n ? 2 * list->n : 1));
        if (list->n) memcpy(items, list->items, list->n * sizeof *items);
    }
    TRY_RETURN(arena_new(arena, (void **)&copy, n + 1, 1));
    memcpy(copy, bytes, n);
    items[list->n] = copy;
    *list = (StringList){items, list->n + 1};
    return TANE_OK;
}

static Status list_append_words(const Option *row, Arena *arena, StringList *list, const char *text,
                                const char *where) {
    if (!*text) return TANE_OK;
    for (const char *s = text;; s++) {
        size_t n = strcspn(s, ",");
        if (!n) return bad_value(row, text, where, " without empty items");
        TRY_RETURN(list_append(arena, list, s, n));
        s += n;
        if (!*s) return TANE_OK;
    }
}

static Status parse_choice(const Option *row, const char *text, const char *where, Arena *arena, const char **out) {
    StringList choices = {0};
    for (const char *s = row->choices;; s++) {
        size_t n = strcspn(s, "|");
        TRY_RETURN(list_append(arena, &choices, s, n));
        if (strcmp(choices.items[choices.n - 1], text) == 0) {
            *out = choices.items[choices.n - 1];
            return TANE_OK;
        }
        s += n;
        if (!*s) break;
    }
    char hint[128] = "";
    const char *near = *text ? err_nearest(text, choices.items, choices.n) : NULL;
    if (near) snprintf(hint, sizeof hint, "; did you mean \"%s\"?", near);
    return bad_value(row, text, where, hint);
}

static Status parse_value(const Option *row, const char *text, const char *where, Arena *arena, Value *out) {
    *out = (Value){0};
    switch (row->type) {
    case OPTION_BOOL:
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0) return bad_value(row, text, where, "");
        out->flag = *text == 't';
        return TANE_OK;
    case OPTION_INT: return parse_int(row, text, where, &out->integer);
    case OPTION_FLOAT: return parse_float(row, text, where, &out->number);
    case OPTION_CHOICE: return parse_choice(row, text, where, arena, &out->text);
    case OPTION_STRING: {
        char *copy = NULL;
        TRY_RETURN(check_text(row, text, where));
        if (*text) TRY_RETURN(arena_strdup(arena, &copy, text));
        out->text = copy;
        return TANE_OK;
    }
    case OPTION_LIST:
        TRY_RETURN(check_text(row, text, where));
        return list_append_words(row, arena, &out->list, text, where);
    }
    return FAIL(TANE_EINTERNAL, "option \"%s\" has no known type", row->name);
}

/* ---- sets ---- */

Status option_init(OptionSet *set, const OptionTable *table, void *config) {
    Status st = TANE_OK;
    *set = (OptionSet){.table = table, .config = config};
    TRY(ARENA_NEW_ARRAY(&set->arena, &set->origin, table->n));
    for (size_t i = 0; i < table->n; i++) {
        const Option *row = &table->rows[i];
        Value value = {0};
        if (row->fallback) TRY(parse_value(row, row->fallback, "default", &set->arena, &value));
        else if (row->type == OPTION_LIST) value.list = (StringList){0};
        store(set, i, &value, NULL);
    }
out:
    if (st != TANE_OK) option_release(set);
    return st;
}

void option_release(OptionSet *set) {
    arena_release(&set->arena);
    set->origin = NULL;
}

static Status set_row(OptionSet *set, size_t i, const char *text, const char *where) {
    Value value;
    char *origin;
    TRY_RETURN(parse_value(&set->table->rows[i], text, where, &set->arena, &value));
    TRY_RETURN(arena_strdup(&set->arena, &origin, where));
    store(set, i, &value, origin);
    return TANE_OK;
}

static Status set_named(OptionSet *set, const char *name, size_t n, const char *value, const char *where) {
    size_t i = find_row(set->table, name, n);
    if (i == NONE) return unknown_option(set, where, "", name, n);
    return set_row(set, i, value, where);
}

Status option_set(OptionSet *set, const char *name, const char *value, const char *where) {
    return set_named(set, name, strlen(name), value, where);
}

Status option_assign(OptionSet *set, const char *text, const char *where) {
    const char *equals = strchr(text, '=');
    if (!equals || equals == text) return FAIL(TANE_EINVAL, "%s: \"%s\" is not key=value", where, text);
    return set_named(set, text, (size_t)(equals - text), equals + 1, where);
}

Status option_number(const char *name, const char *text, const char *where, double lo, double hi, double *out) {
    const Option row = {.name = name, .type = OPTION_FLOAT, .lo = lo, .hi = hi};
    return parse_float(&row, text, where, out);
}

bool option_is_set(const OptionSet *set, const char *name) {
    size_t i = find_row(set->table, name, strlen(name));
    return i != NONE && set->origin[i];
}

/* ---- YAML ---- */

typedef struct Reader {
    OptionSet *set;
    const char *path;
    yaml_parser_t parser;
    yaml_event_t event; /* the current one; zeroed when there is none */
    size_t *row_line;   /* line of this file where row i stands, 0: nowhere yet */
    struct {
        const char *name;
        int mapping; /* which mapping the group is a key of */
        size_t line;
    } groups[MAX_GROUPS];
    int n_groups, n_mappings;
    Arena arena;
} Reader;

static size_t line_of(const Reader *r) { return r->event.start_mark.line + 1; }

static Status next_event(Reader *r) {
    yaml_event_delete(&r->event);
    if (yaml_parser_parse(&r->parser, &r->event)) return TANE_OK;
    r->event = (yaml_event_t){0};
    const yaml_parser_t *p = &r->parser;
    if (p->error == YAML_MEMORY_ERROR) return FAIL(TANE_ENOMEM, "%s: out of memory while reading it", r->path);
    if (p->error == YAML_READER_ERROR)
        return FAIL(TANE_EFORMAT, "%s: %s at byte %zu; the file must be UTF-8 text", r->path, p->problem,
                    p->problem_offset);
    return FAIL(TANE_EFORMAT, "%s:%zu: column %zu: not valid YAML: %s%s%s", r->path, p->problem_mark.line + 1,
                p->problem_mark.column + 1, p->context ? p->context : "", p->context ? ", " : "",
                p->problem ? p->problem : "cannot parse");
}

/* Recipes are plain data: what YAML can do beyond that hides what a run really used. */
static Status check_plain(const Reader *r) {
    const yaml_event_t *e = &r->event;
    const yaml_char_t *anchor = NULL, *tag = NULL;
    if (e->type == YAML_ALIAS_EVENT)
        return FAIL(TANE_EFORMAT, "%s:%zu: aliases (*%s) are not supported; write the value out", r->path, line_of(r),
                    (const char *)e->data.alias.anchor);
    if (e->type == YAML_SCALAR_EVENT) anchor = e->data.scalar.anchor, tag = e->data.scalar.tag;
    if (e->type == YAML_SEQUENCE_START_EVENT) anchor = e->data.sequence_start.anchor, tag = e->data.sequence_start.tag;
    if (e->type == YAML_MAPPING_START_EVENT) anchor = e->data.mapping_start.anchor, tag = e->data.mapping_start.tag;
    if (anchor)
        return FAIL(TANE_EFORMAT, "%s:%zu: anchors (&%s) are not supported; remove it", r->path, line_of(r),
                    (const char *)anchor);
    if (tag)
        return FAIL(TANE_EFORMAT, "%s:%zu: tags (%s) are not supported; remove it", r->path, line_of(r),
                    (const char *)tag);
    if (e->type == YAML_SCALAR_EVENT && strlen((const char *)e->data.scalar.value) != e->data.scalar.length)
        return FAIL(TANE_EFORMAT, "%s:%zu: the value holds a NUL character; remove it", r->path, line_of(r));
    return TANE_OK;
}

/* What the command line set stays as it is; the file's value has been checked all the same. */
static void store_from_file(OptionSet *set, size_t i, const Value *value, const char *origin) {
    if (!set->origin[i] || strcmp(set->origin[i], OPTION_COMMAND_LINE) != 0) store(set, i, value, origin);
}

static Status read_scalar(Reader *r, size_t i, const char *where) {
    const Option *row = &r->set->table->rows[i];
    const char *text = (const char *)r->event.data.scalar.value;
    bool quoted = r->event.data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    bool null = !quoted && (!*text || strcmp(text, "null") == 0 || strcmp(text, "~") == 0);
    bool textual = row->type == OPTION_STRING || row->type == OPTION_LIST || row->type == OPTION_CHOICE;
    char wanted[256];
    describe(row, wanted, sizeof wanted);
    Value value = {0};
    if (null && (row->type == OPTION_STRING || row->type == OPTION_LIST)) {
        if (row->type == OPTION_LIST) value.list = (StringList){0};
    } else if (null) {
        return FAIL(TANE_EINVAL, "%s: \"%s\" has no value; it must be %s", where, row->name, wanted);
    } else if (quoted && !textual) {
        return FAIL(TANE_EINVAL, "%s: \"%s\" is text in quotes; it must be %s, without quotes", where, row->name,
                    wanted);
    } else {
        TRY_RETURN(parse_value(row, text, where, &r->set->arena, &value));
    }
    store_from_file(r->set, i, &value, where);
    return TANE_OK;
}

static Status read_sequence(Reader *r, size_t i, const char *where) {
    const Option *row = &r->set->table->rows[i];
    char wanted[256];
    describe(row, wanted, sizeof wanted);
    if (row->type != OPTION_LIST)
        return FAIL(TANE_EINVAL, "%s: \"%s\" is a list; it must be %s", where, row->name, wanted);
    Value value = {0};
    for (;;) {
        TRY_RETURN(next_event(r));
        if (r->event.type == YAML_SEQUENCE_END_EVENT) break;
        TRY_RETURN(check_plain(r));
        const char *text = r->event.type == YAML_SCALAR_EVENT ? (const char *)r->event.data.scalar.value : "";
        if (!*text)
            return FAIL(TANE_EINVAL, "%s:%zu: an item of \"%s\" is %s; each must be text or a number", r->path,
                        line_of(r), row->name, r->event.type == YAML_SCALAR_EVENT ? "empty" : "a list or a mapping");
        TRY_RETURN(check_text(row, text, where));
        TRY_RETURN(list_append(&r->set->arena, &value.list, text, strlen(text)));
    }
    store_from_file(r->set, i, &value, where);
    return TANE_OK;
}

static Status enter_group(Reader *r, const char *name, int mapping, size_t line) {
    for (int g = 0; g < r->n_groups; g++) {
        if (r->groups[g].mapping == mapping && strcmp(r->groups[g].name, name) == 0)
            return FAIL(TANE_EFORMAT, "%s:%zu: \"%s\" stands here a second time (first in line %zu); keep one", r->path,
                        line, name, r->groups[g].line);
    }
    if (r->n_groups == MAX_GROUPS) return FAIL(TANE_EFORMAT, "%s:%zu: more than %d groups", r->path, line, MAX_GROUPS);
    r->groups[r->n_groups].name = name;
    r->groups[r->n_groups].mapping = mapping;
    r->groups[r->n_groups++].line = line;
    return TANE_OK;
}

static Status read_option(Reader *r, const char *key, size_t line) {
    char *where;
    TRY_RETURN(arena_printf(&r->set->arena, &where, "%s:%zu", r->path, line));
    size_t i = find_row(r->set->table, key, strlen(key));
    if (i == NONE) return unknown_option(r->set, where, "", key, strlen(key));
    if (r->row_line[i])
        return FAIL(TANE_EFORMAT, "%s: \"%s\" stands here a second time (first in line %zu); keep one", where, key,
                    r->row_line[i]);
    r->row_line[i] = line;
    return r->event.type == YAML_SCALAR_EVENT ? read_scalar(r, i, where) : read_sequence(r, i, where);
}

static Status read_mapping(Reader *r, int depth) {
    int mapping = r->n_mappings++;
    for (;;) {
        TRY_RETURN(next_event(r));
        if (r->event.type == YAML_MAPPING_END_EVENT) return TANE_OK;
        TRY_RETURN(check_plain(r));
        size_t line = line_of(r);
        char *key;
        if (r->event.type != YAML_SCALAR_EVENT)
            return FAIL(TANE_EFORMAT, "%s:%zu: a list or mapping stands where an option's name is expected", r->path,
                        line);
        TRY_RETURN(arena_strdup(&r->arena, &key, (const char *)r->event.data.scalar.value));
        TRY_RETURN(next_event(r));
        TRY_RETURN(check_plain(r));
        if (r->event.type == YAML_MAPPING_START_EVENT) {
            if (depth == MAX_NESTING)
                return FAIL(TANE_EFORMAT, "%s:%zu: groups are nested more than %d deep", r->path, line, MAX_NESTING);
            TRY_RETURN(enter_group(r, key, mapping, line));
            TRY_RETURN(read_mapping(r, depth + 1));
        } else {
            TRY_RETURN(read_option(r, key, line));
        }
    }
}

static Status read_document(Reader *r) {
    TRY_RETURN(next_event(r)); /* the stream's start */
    TRY_RETURN(next_event(r));
    if (r->event.type == YAML_STREAM_END_EVENT)
        return FAIL(TANE_EFORMAT, "%s: there are no options in it; write lines of \"option: value\"", r->path);
    TRY_RETURN(next_event(r)); /* behind the document's start */
    TRY_RETURN(check_plain(r));
    if (r->event.type != YAML_MAPPING_START_EVENT)
        return FAIL(TANE_EFORMAT, "%s:%zu: expected lines of \"option: value\"", r->path, line_of(r));
    TRY_RETURN(read_mapping(r, 1));
    TRY_RETURN(next_event(r)); /* the document's end */
    TRY_RETURN(next_event(r));
    if (r->event.type != YAML_STREAM_END_EVENT)
        return FAIL(TANE_EFORMAT, "%s:%zu: a second document begins here; a recipe is one", r->path, line_of(r));
    return TANE_OK;
}

Status option_load_yaml(OptionSet *set, const char *path) {
    Status st = TANE_OK;
    char *text = NULL;
    size_t len = 0;
    Reader r = {.set = set, .path = path};
    TRY_RETURN(file_read(path, MAX_RECIPE_BYTES, &text, &len));
    if (!yaml_parser_initialize(&r.parser)) {
        mem_free(text);
        return FAIL(TANE_ENOMEM, "%s: out of memory while reading it", path);
    }
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, len);
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    TRY(ARENA_NEW_ARRAY(&r.arena, &r.row_line, set->table->n));
    TRY(read_document(&r));
out:
    yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
    arena_release(&r.arena);
    mem_free(text);
    return st;
}

/* ---- command line ---- */

static bool is_flag(const char *word) { return word[0] == '-' && word[1] == '-'; }

/* Where "key=value" begins its '=': only for words that look like a name, so that "12+3=" stays a word. */
static const char *assignment(const char *word) {
    if (!isalpha((unsigned char)*word) && *word != '_') return NULL;
    while (isalnum((unsigned char)*word) || *word == '_' || *word == '-') word++;
    return *word == '=' ? word : NULL;
}

typedef struct Args {
    OptionSet *set;
    int argc, next;
    char **argv;
    bool *listed; /* rows of OPTION_LIST that this command line has already begun */
} Args;

/* The first mention replaces the list that was there, later ones add to it. */
static Status add_to_list(Args *a, size_t i, const char *text) {
    const Option *row = &a->set->table->rows[i];
    Value value = {0};
    if (a->listed[i]) value.list = *(StringList *)field(a->set, i);
    a->listed[i] = true;
    TRY_RETURN(check_text(row, text, OPTION_COMMAND_LINE));
    TRY_RETURN(list_append_words(row, &a->set->arena, &value.list, text, OPTION_COMMAND_LINE));
    store(a->set, i, &value, OPTION_COMMAND_LINE);
    return TANE_OK;
}

static Status parse_list_words(Args *a, size_t i) {
    int first = a->next;
    for (; a->next < a->argc && !is_flag(a->argv[a->next]); a->next++) {
        const char *word = a->argv[a->next], *equals = assignment(word);
        if (equals && find_row(a->set->table, word, (size_t)(equals - word)) != NONE) break;
        TRY_RETURN(add_to_list(a, i, word));
    }
    if (a->next == first)
        return FAIL(TANE_EINVAL, OPTION_COMMAND_LINE ": \"%s\" needs at least one value behind it", a->argv[first - 1]);
    return TANE_OK;
}

static Status parse_flag(Args *a) {
    const OptionTable *table = a->set->table;
    const char *word = a->argv[a->next++], *name = word + 2;
    size_t n = strcspn(name, "=");
    size_t i = find_row(table, name, n);
    const char *value = name[n] == '=' ? name + n + 1 : NULL;
    if (i == NONE && !value && n > 3 && (strncmp(name, "no-", 3) == 0 || strncmp(name, "no_", 3) == 0)) {
        i = find_row(table, name + 3, n - 3);
        if (i != NONE && table->rows[i].type == OPTION_BOOL) return set_row(a->set, i, "false", OPTION_COMMAND_LINE);
        i = NONE;
    }
    if (i == NONE) return unknown_option(a->set, OPTION_COMMAND_LINE, "--", name, n);
    const char *ahead = a->next < a->argc ? a->argv[a->next] : NULL;
    if (table->rows[i].type == OPTION_BOOL && !value) {
        bool spelled = ahead && (strcmp(ahead, "true") == 0 || strcmp(ahead, "false") == 0);
        if (spelled) a->next++;
        return set_row(a->set, i, spelled ? ahead : "true", OPTION_COMMAND_LINE);
    }
    if (table->rows[i].type == OPTION_LIST) return value ? add_to_list(a, i, value) : parse_list_words(a, i);
    if (!value && (!ahead || is_flag(ahead))) {
        char wanted[256];
        describe(&table->rows[i], wanted, sizeof wanted);
        return FAIL(TANE_EINVAL, OPTION_COMMAND_LINE ": \"%s\" needs a value: %s", word, wanted);
    }
    if (!value) a->next++;
    return set_row(a->set, i, value ? value : ahead, OPTION_COMMAND_LINE);
}

static Status parse_assignment(Args *a, const char *word, const char *equals) {
    size_t n = (size_t)(equals - word), i = find_row(a->set->table, word, n);
    if (i == NONE) return unknown_option(a->set, OPTION_COMMAND_LINE, "", word, n);
    if (a->set->table->rows[i].type == OPTION_LIST) return add_to_list(a, i, equals + 1);
    return set_row(a->set, i, equals + 1, OPTION_COMMAND_LINE);
}

Status option_parse_args(OptionSet *set, int argc, char **argv, StringList *words) {
    Args a = {.set = set, .argc = argc, .argv = argv};
    size_t n_words = 0;
    const char **found;
    TRY_RETURN(ARENA_NEW_ARRAY(&set->arena, &a.listed, set->table->n));
    TRY_RETURN(ARENA_NEW_ARRAY(&set->arena, &found, (size_t)(argc > 0 ? argc : 0)));
    for (bool flags = true; a.next < argc;) {
        const char *word = argv[a.next];
        const char *equals = flags ? assignment(word) : NULL;
        if (flags && strcmp(word, "--") == 0) {
            flags = false;
            a.next++;
        } else if (flags && is_flag(word)) {
            TRY_RETURN(parse_flag(&a));
        } else if (equals) {
            a.next++;
            TRY_RETURN(parse_assignment(&a, word, equals));
        } else if (flags && word[0] == '-' && isalpha((unsigned char)word[1])) {
            return FAIL(TANE_EINVAL, OPTION_COMMAND_LINE ": unknown option \"%s\"; options are written --name", word);
        } else {
            found[n_words++] = word;
            a.next++;
        }
    }
    if (words) *words = (StringList){found, n_words};
    else if (n_words) return FAIL(TANE_EINVAL, OPTION_COMMAND_LINE ": unexpected word \"%s\"", found[0]);
    return TANE_OK;
}

/* ---- texts ---- */

/* The shortest digits that read back to the same double; with a point, as YAML 1.1 readers want it. */
static Status write_number(Str *out, double value) {
    char text[48];
    if (value == floor(value) && fabs(value) < 1e15) return str_printf(out, "%.1f", value);
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    if (strchr(text, '.')) return str_printf(out, "%s", text);
    size_t mantissa = strcspn(text, "e");
    return str_printf(out, "%.*s.0%s", (int)mantissa, text, text + mantissa);
}

static bool is_bare_text(const char *text) {
    static const char *const words[] = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcasecmp(text, words[i]) == 0) return false;
    }
    if (!isalpha((unsigned char)*text) && *text != '/') return false;
    for (; *text; text++) {
        if (!isalnum((unsigned char)*text) && !strchr("_-./", *text)) return false;
    }
    return true;
}

static Status write_text(Str *out, const char *text) {
    if (!text) return str_printf(out, "null");
    if (is_bare_text(text)) return str_printf(out, "%s", text);
    TRY_RETURN(str_add(out, "\"", 1));
    while (*text) {
        uint32_t c;
        int n = utf8_at(text, &c);
        if (!n) return FAIL(TANE_EINVAL, "a text to write into the recipe is not valid UTF-8");
        bool odd = c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x2028 || c == 0x2029 || c == 0xfeff || c == 0xfffe ||
                   c == 0xffff;
        if (c == '"' || c == '\\') TRY_RETURN(str_printf(out, "\\%c", (int)c));
        else if (odd) TRY_RETURN(str_printf(out, "\\u%04x", c));
        else TRY_RETURN(str_add(out, text, (size_t)n));
        text += n;
    }
    return str_add(out, "\"", 1);
}

static Status write_value(const OptionSet *set, size_t i, Str *out) {
    const void *at = field(set, i);
    switch (set->table->rows[i].type) {
    case OPTION_BOOL: return str_printf(out, "%s", *(const bool *)at ? "true" : "false");
    case OPTION_INT: return str_printf(out, "%lld", (long long)*(const int64_t *)at);
    case OPTION_FLOAT: return write_number(out, *(const double *)at);
    case OPTION_STRING:
    case OPTION_CHOICE: return write_text(out, *(const char *const *)at);
    case OPTION_LIST: {
        const StringList *list = at;
        TRY_RETURN(str_add(out, "[", 1));
        for (size_t k = 0; k < list->n; k++) {
            if (k) TRY_RETURN(str_add(out, ", ", 2));
            TRY_RETURN(write_text(out, list->items[k]));
        }
        return str_add(out, "]", 1);
    }
    }
    return FAIL(TANE_EINTERNAL, "option \"%s\" has no known type", set->table->rows[i].name);
}

static const char *group_of(const Option *row) { return row->group ? row->group : "Options"; }

static bool begins_group(const OptionTable *table, size_t i) {
    return i == 0 || strcmp(group_of(&table->rows[i]), group_of(&table->rows[i - 1])) != 0;
}

Status option_write_yaml(const OptionSet *set, Str *out) {
    const OptionTable *table = set->table;
    for (size_t i = 0; i < table->n; i++) {
        if (begins_group(table, i)) TRY_RETURN(str_printf(out, "%s# %s\n", i ? "\n" : "", group_of(&table->rows[i])));
        /* A choice without a value cannot be read back; it is simply left out. */
        if (table->rows[i].type == OPTION_CHOICE && !*(const char *const *)field(set, i)) continue;
        TRY_RETURN(str_printf(out, "%s: ", table->rows[i].name));
        TRY_RETURN(write_value(set, i, out));
        TRY_RETURN(str_add(out, "\n", 1));
    }
    return TANE_OK;
}

/* Words of `text` from column `at`, wrapped to HELP_WIDTH with HELP_COLUMN of indent. */
static Status write_wrapped(Str *out, const char *text, int at) {
    while (*text) {
        size_t n = strcspn(text, " ");
        if (at > HELP_COLUMN && at + 1 + (int)n > HELP_WIDTH) {
            TRY_RETURN(str_printf(out, "\n%*s", HELP_COLUMN, ""));
            at = HELP_COLUMN;
        }
        TRY_RETURN(str_printf(out, "%s%.*s", at > HELP_COLUMN ? " " : "", (int)n, text));
        at += (int)n + (at > HELP_COLUMN);
        text += n;
        text += strspn(text, " ");
    }
    return str_add(out, "\n", 1);
}

/* Help, then the choices and what it is by default. Ranges are left to the docs and to errors: most are obvious. */
static Status full_help(const Option *row, Str *out) {
    char wanted[256];
    describe(row, wanted, sizeof wanted);
    TRY_RETURN(str_printf(out, "%s", row->help));
    if (row->type == OPTION_CHOICE) TRY_RETURN(str_printf(out, "; %s", wanted));
    const char *fallback = row->fallback ? row->fallback : row->type == OPTION_BOOL ? "false" : NULL;
    return fallback && *fallback ? str_printf(out, " (default %s)", fallback) : TANE_OK;
}

static const char *type_word(OptionType type) {
    static const char *const word[] = {"", " INT", " NUMBER", " TEXT", " CHOICE", " LIST"};
    return word[type];
}

static Status help_row(const Option *row, Str *out) {
    Str help = {0};
    Status st = TANE_OK;
    size_t from = out->len;
    TRY(str_printf(out, "  --%s%s%s", row->type == OPTION_BOOL ? "[no-]" : "", row->name, type_word(row->type)));
    for (size_t k = from; k < out->len && out->text[k] != '\n'; k++) {
        if (out->text[k] == '_') out->text[k] = '-';
    }
    int at = (int)(out->len - from);
    if (at + 2 > HELP_COLUMN) TRY(str_printf(out, "\n%*s", HELP_COLUMN, ""));
    else TRY(str_printf(out, "%*s", HELP_COLUMN - at, ""));
    TRY(full_help(row, &help));
    TRY(write_wrapped(out, help.text, HELP_COLUMN));
out:
    str_free(&help);
    return st;
}

/* A cell of a Markdown table: "|" would end it. */
static Status write_cell(Str *out, const char *text) {
    for (; *text; text++) {
        if (*text == '|') TRY_RETURN(str_add(out, "\\", 1));
        TRY_RETURN(str_add(out, text, 1));
    }
    return str_add(out, " | ", 3);
}

static Status markdown_row(const Option *row, Str *out) {
    char wanted[256];
    describe(row, wanted, sizeof wanted);
    const char *fallback = row->fallback ? row->fallback : row->type == OPTION_BOOL ? "false" : "";
    TRY_RETURN(str_printf(out, "| `%s` | ", row->name));
    TRY_RETURN(write_cell(out, wanted));
    TRY_RETURN(write_cell(out, fallback));
    TRY_RETURN(write_cell(out, row->help));
    out->text[--out->len] = 0; /* the blank behind the last "|" */
    return str_add(out, "\n", 1);
}

Status option_help(const OptionTable *table, bool markdown, Str *out) {
    for (size_t i = 0; i < table->n; i++) {
        const Option *row = &table->rows[i];
        if (begins_group(table, i)) {
            TRY_RETURN(str_printf(out, markdown ? "%s### %s\n\n" : "%s%s:\n", i ? "\n" : "", group_of(row)));
            if (markdown)
                TRY_RETURN(str_printf(out, "| option | value | default | meaning |\n| --- | --- | --- | --- |\n"));
        }
        TRY_RETURN(markdown ? markdown_row(row, out) : help_row(row, out));
    }
    return TANE_OK;
}
