/* The schema: elements as Thrift has them, then the tree. Lists and maps are groups of groups in the file, in the
 * shapes that writers have made over the years; the rules for telling them apart are the format's
 * (parquet-format/LogicalTypes.md, "Nested Types"). */
#include "format/parquet_schema.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/parquet_json.h"

/* The annotations of both generations, those of "converted" and "logical" types, in one. */
typedef enum Meaning {
    MEANS_NOTHING,
    MEANS_TEXT,
    MEANS_LIST,
    MEANS_MAP,
    MEANS_DECIMAL,
    MEANS_DATE,
    MEANS_TIME,
    MEANS_TIMESTAMP,
    MEANS_INT,
    MEANS_NULL,
    MEANS_UUID,
    MEANS_HALF
} Meaning;

typedef enum Repetition { REQUIRED, OPTIONAL, REPEATED } Repetition;

typedef struct Element {
    const uint8_t *name;
    size_t name_n;
    int64_t type, width, children, scale, precision; /* type, width, precision: -1 is none */
    Repetition repetition;
    Meaning meaning;
    bool logical, is_signed, utc;
    uint8_t digits;
} Element;

const char *pq_type_name(PqType type) {
    static const char *const names[PQ_TYPES] = {"BOOLEAN", "INT32",  "INT64",      "INT96",
                                                "FLOAT",   "DOUBLE", "BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"};
    return names[type];
}

const char *pq_node_type(const PqSchema *schema, const PqNode *node) {
    static const char *const names[PQ_KINDS] = {"bool",  "int",       "int",       "float",   "float",
                                                "float", "text",      "binary",    "decimal", "date",
                                                "time",  "timestamp", "timestamp", "uuid",    "null"};
    if (node->shape == PQ_LEAF) return names[schema->leaves[node->first_leaf].kind];
    return node->shape == PQ_LIST ? "list" : node->shape == PQ_MAP ? "map" : "struct";
}

/* From the leaf upwards, so written from the buffer's end. */
const char *pq_leaf_name(const PqLeaf *leaf, char *out, size_t size) {
    size_t at = size - 1;
    out[at] = 0;
    for (const PqNode *node = leaf->node; node->parent; node = node->parent) {
        bool element = node->parent->shape == PQ_LIST;
        const char *text = element ? "[]" : node->name;
        size_t n = element ? 2 : node->name_n, dot = !element && node->parent->parent;
        if (n + dot + 3 > at) {
            at -= 3;
            memcpy(out + at, "...", 3);
            break;
        }
        at -= n;
        memcpy(out + at, text, n);
        if (dot) out[--at] = '.';
    }
    return out + at;
}

/* ---- elements --------------------------------------------------------------------------------------------------- */

static Status read_unit(Thrift *t, ThriftType type, Element *e) {
    ThriftField f = {0};
    TRY_RETURN(thrift_struct(t, type));
    for (;;) {
        TRY_RETURN(thrift_field(t, &f));
        if (f.type == THRIFT_STOP) return TANE_OK;
        if (f.id >= 1 && f.id <= 3) e->digits = (uint8_t)(3 * f.id); /* MILLIS, MICROS, NANOS */
        TRY_RETURN(thrift_skip(t, f.type));
    }
}

/* What stands inside a logical type; fields 1 and 2 depend on which it is. */
static Status read_logical_fields(Thrift *t, ThriftType type, Element *e) {
    ThriftField f = {0};
    int64_t bits;
    TRY_RETURN(thrift_struct(t, type));
    for (;;) {
        TRY_RETURN(thrift_field(t, &f));
        bool timed = e->meaning == MEANS_TIME || e->meaning == MEANS_TIMESTAMP;
        if (f.type == THRIFT_STOP) return TANE_OK;
        if (e->meaning == MEANS_DECIMAL && f.id == 1) TRY_RETURN(thrift_int(t, f.type, 0, 1000, &e->scale));
        else if (e->meaning == MEANS_DECIMAL && f.id == 2) TRY_RETURN(thrift_int(t, f.type, 0, 1000, &e->precision));
        else if (timed && f.id == 1) TRY_RETURN(thrift_bool(t, f.type, &e->utc));
        else if (timed && f.id == 2) TRY_RETURN(read_unit(t, f.type, e));
        else if (e->meaning == MEANS_INT && f.id == 1) TRY_RETURN(thrift_int(t, f.type, 8, 64, &bits));
        else if (e->meaning == MEANS_INT && f.id == 2) TRY_RETURN(thrift_bool(t, f.type, &e->is_signed));
        else TRY_RETURN(thrift_skip(t, f.type));
    }
}

/* A union: one field, whose number says which type it is. Those that tane does not know mean nothing. */
static Status read_logical(Thrift *t, ThriftType type, Element *e) {
    static const Meaning meanings[] = {
        [1] = MEANS_TEXT,  [2] = MEANS_MAP,   [3] = MEANS_LIST,      [4] = MEANS_TEXT, [5] = MEANS_DECIMAL,
        [6] = MEANS_DATE,  [7] = MEANS_TIME,  [8] = MEANS_TIMESTAMP, [10] = MEANS_INT, [11] = MEANS_NULL,
        [12] = MEANS_TEXT, [14] = MEANS_UUID, [15] = MEANS_HALF};
    ThriftField f = {0};
    TRY_RETURN(thrift_struct(t, type));
    for (;;) {
        TRY_RETURN(thrift_field(t, &f));
        if (f.type == THRIFT_STOP) return TANE_OK;
        bool known = f.id >= 1 && (size_t)f.id < sizeof meanings / sizeof *meanings;
        e->meaning = known ? meanings[f.id] : MEANS_NOTHING;
        e->logical = e->meaning != MEANS_NOTHING;
        TRY_RETURN(read_logical_fields(t, f.type, e));
    }
}

/* The older annotation; where both are there, the newer one holds. */
static void convert(Element *e, int64_t converted) {
    static const struct {
        uint8_t meaning, digits;
        bool is_signed;
    } rows[] = {{MEANS_TEXT, 0, 0}, {MEANS_MAP, 0, 0},       {MEANS_MAP, 0, 0},       {MEANS_LIST, 0, 0},
                {MEANS_TEXT, 0, 0}, {MEANS_DECIMAL, 0, 0},   {MEANS_DATE, 0, 0},      {MEANS_TIME, 3, 0},
                {MEANS_TIME, 6, 0}, {MEANS_TIMESTAMP, 3, 0}, {MEANS_TIMESTAMP, 6, 0}, {MEANS_INT, 0, 0},
                {MEANS_INT, 0, 0},  {MEANS_INT, 0, 0},       {MEANS_INT, 0, 0},       {MEANS_INT, 0, 1},
                {MEANS_INT, 0, 1},  {MEANS_INT, 0, 1},       {MEANS_INT, 0, 1},       {MEANS_TEXT, 0, 0}};
    if (converted < 0 || e->logical || (size_t)converted >= sizeof rows / sizeof *rows) return;
    e->meaning = rows[converted].meaning;
    e->digits = rows[converted].digits;
    e->is_signed = rows[converted].is_signed;
    e->utc = true; /* the old timestamps are in UTC by definition */
}

static Status read_element(Thrift *t, Element *e) {
    ThriftField f = {0};
    int64_t repetition = REQUIRED, converted = -1;
    *e = (Element){.name = (const uint8_t *)"", .type = -1, .width = -1, .precision = -1};
    for (;;) {
        TRY_RETURN(thrift_field(t, &f));
        if (f.type == THRIFT_STOP) break;
        switch (f.id) {
        case 1: TRY_RETURN(thrift_int(t, f.type, 0, PQ_TYPES - 1, &e->type)); break;
        case 2: TRY_RETURN(thrift_int(t, f.type, 0, INT32_MAX, &e->width)); break;
        case 3: TRY_RETURN(thrift_int(t, f.type, REQUIRED, REPEATED, &repetition)); break;
        case 4: TRY_RETURN(thrift_binary(t, f.type, &e->name, &e->name_n)); break;
        case 5: TRY_RETURN(thrift_int(t, f.type, 0, PQ_MAX_ELEMENTS, &e->children)); break;
        case 6: TRY_RETURN(thrift_int(t, f.type, 0, INT32_MAX, &converted)); break;
        case 7: TRY_RETURN(thrift_int(t, f.type, INT32_MIN, INT32_MAX, &e->scale)); break;
        case 8: TRY_RETURN(thrift_int(t, f.type, INT32_MIN, INT32_MAX, &e->precision)); break;
        case 10: TRY_RETURN(read_logical(t, f.type, e)); break;
        default: TRY_RETURN(thrift_skip(t, f.type));
        }
    }
    e->repetition = (Repetition)repetition;
    convert(e, converted);
    return TANE_OK;
}

/* ---- the tree --------------------------------------------------------------------------------------------------- */

typedef struct Builder {
    const char *where;
    Arena *arena;
    const Element *next, *end;
    PqLeaf *leaves;
    uint32_t n_leaves;
    int depth;
} Builder;

/* How much of a name a message shows. */
static int shown(size_t n) { return n > 80 ? 80 : (int)n; }

__attribute__((format(printf, 3, 4))) static Status bad(const Builder *b, const Element *e, const char *fmt, ...) {
    char text[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return FAIL(TANE_EFORMAT, "%s: the column \"%.*s\" %s", b->where, shown(e->name_n), (const char *)e->name, text);
}

typedef struct Kind {
    Meaning meaning;
    PqType type;
    PqKind kind;
} Kind;

/* Which annotation fits which stored type. */
static const Kind kinds[] = {
    {MEANS_TEXT, PQ_BYTE_ARRAY, PQ_KIND_TEXT},  {MEANS_TEXT, PQ_FIXED, PQ_KIND_TEXT},
    {MEANS_DECIMAL, PQ_INT32, PQ_KIND_DECIMAL}, {MEANS_DECIMAL, PQ_INT64, PQ_KIND_DECIMAL},
    {MEANS_DECIMAL, PQ_FIXED, PQ_KIND_DECIMAL}, {MEANS_DECIMAL, PQ_BYTE_ARRAY, PQ_KIND_DECIMAL},
    {MEANS_DATE, PQ_INT32, PQ_KIND_DATE},       {MEANS_TIME, PQ_INT32, PQ_KIND_TIME},
    {MEANS_TIME, PQ_INT64, PQ_KIND_TIME},       {MEANS_TIMESTAMP, PQ_INT64, PQ_KIND_TIMESTAMP},
    {MEANS_TIMESTAMP, PQ_INT96, PQ_KIND_INT96}, {MEANS_INT, PQ_INT32, PQ_KIND_INT},
    {MEANS_INT, PQ_INT64, PQ_KIND_INT},         {MEANS_UUID, PQ_FIXED, PQ_KIND_UUID},
    {MEANS_HALF, PQ_FIXED, PQ_KIND_HALF},       {MEANS_NOTHING, PQ_BOOLEAN, PQ_KIND_BOOL},
    {MEANS_NOTHING, PQ_INT32, PQ_KIND_INT},     {MEANS_NOTHING, PQ_INT64, PQ_KIND_INT},
    {MEANS_NOTHING, PQ_INT96, PQ_KIND_INT96},   {MEANS_NOTHING, PQ_FLOAT, PQ_KIND_FLOAT},
    {MEANS_NOTHING, PQ_DOUBLE, PQ_KIND_DOUBLE}, {MEANS_NOTHING, PQ_BYTE_ARRAY, PQ_KIND_BINARY},
    {MEANS_NOTHING, PQ_FIXED, PQ_KIND_BINARY},
};

static Status leaf_kind(const Builder *b, const Element *e, PqLeaf *leaf) {
    static const uint8_t widths[PQ_TYPES] = {
        [PQ_BOOLEAN] = 1, [PQ_INT32] = 4, [PQ_INT64] = 8, [PQ_INT96] = 12, [PQ_FLOAT] = 4, [PQ_DOUBLE] = 8};
    leaf->type = (PqType)e->type;
    leaf->width = leaf->type == PQ_FIXED ? (uint32_t)e->width : widths[leaf->type];
    leaf->digits = e->digits;
    leaf->utc = e->utc;
    if (leaf->type == PQ_FIXED && e->width <= 0) return bad(b, e, "has values of a fixed length, but not which");
    leaf->kind = PQ_KIND_NULL;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds && e->meaning != MEANS_NULL; i++)
        if (kinds[i].meaning == e->meaning && kinds[i].type == leaf->type) leaf->kind = kinds[i].kind;
    if (leaf->kind == PQ_KIND_NULL && e->meaning != MEANS_NULL)
        return bad(b, e, "is stored as %s, which does not fit its logical type", pq_type_name(leaf->type));
    if (leaf->kind == PQ_KIND_INT && e->meaning == MEANS_INT && !e->is_signed) leaf->kind = PQ_KIND_UINT;
    if ((leaf->kind == PQ_KIND_TIME || leaf->kind == PQ_KIND_TIMESTAMP) && !leaf->digits)
        return bad(b, e, "is a time without a unit");
    if (leaf->kind == PQ_KIND_UUID && leaf->width != 16)
        return bad(b, e, "is a UUID of %u bytes; it must have 16", leaf->width);
    if (leaf->kind == PQ_KIND_HALF && leaf->width != 2)
        return bad(b, e, "is a float16 of %u bytes; it must have 2", leaf->width);
    if (leaf->kind != PQ_KIND_DECIMAL) return TANE_OK;
    if (e->precision < 1 || e->precision > PQ_MAX_DIGITS || e->scale < 0 || e->scale > e->precision)
        return bad(b, e, "is a decimal of %lld digits, %lld of them behind the point; 1 to %d digits are possible",
                   (long long)e->precision, (long long)e->scale, PQ_MAX_DIGITS);
    leaf->scale = (uint8_t)e->scale;
    return TANE_OK;
}

static Status check_name(const Builder *b, const Element *e) {
    if (e->name_n && memchr(e->name, 0, e->name_n)) return bad(b, e, "has a name with a zero byte in it");
    if (pq_utf8_valid(e->name, e->name_n) == e->name_n) return TANE_OK;
    return FAIL(TANE_EFORMAT, "%s: the name of a column is not UTF-8; write the file with another name", b->where);
}

static int by_name(const void *a, const void *b) {
    const PqNode *x = *(const PqNode *const *)a, *y = *(const PqNode *const *)b;
    int order = memcmp(x->name, y->name, x->name_n < y->name_n ? x->name_n : y->name_n);
    return order ? order : (x->name_n > y->name_n) - (x->name_n < y->name_n);
}

/* An object has a key once. */
static Status check_members(const Builder *b, const PqNode *node) {
    const PqNode **sorted;
    TRY_RETURN(MEM_NEW_ARRAY(&sorted, node->n_children));
    for (uint32_t i = 0; i < node->n_children; i++) sorted[i] = &node->children[i];
    qsort(sorted, node->n_children, sizeof *sorted, by_name);
    Status st = TANE_OK;
    for (uint32_t i = 1; i < node->n_children && st == TANE_OK; i++)
        if (by_name(&sorted[i - 1], &sorted[i]) == 0)
            st = FAIL(TANE_EFORMAT, "%s: the column \"%.*s\" is there twice; give one of them another name", b->where,
                      shown(sorted[i]->name_n), sorted[i]->name);
    mem_free(sorted);
    return st;
}

/* Where a node stands: under which, and with which levels. */
typedef struct Place {
    const PqNode *parent;
    uint8_t def, rep;
} Place;

static Status build(Builder *b, PqNode *node, Place place, bool repeated_too);

static Status build_children(Builder *b, PqNode *node, int64_t n, uint8_t def, uint8_t rep) {
    TRY_RETURN(ARENA_NEW_ARRAY(b->arena, &node->children, (size_t)n));
    node->n_children = (uint32_t)n;
    for (int64_t i = 0; i < n; i++) TRY_RETURN(build(b, &node->children[i], (Place){node, def, rep}, false));
    return TANE_OK;
}

/* The group inside a list is either its element or only there to repeat it. */
static bool is_the_element(const Element *list, const Element *inner) {
    static const char tuple[] = "_tuple";
    size_t n = list->name_n;
    if (inner->children != 1 || inner[1].repetition == REPEATED) return true;
    if (inner->name_n == 5 && memcmp(inner->name, "array", 5) == 0) return true;
    return inner->name_n == n + 6 && (n == 0 || memcmp(inner->name, list->name, n) == 0) &&
           memcmp(inner->name + n, tuple, 6) == 0;
}

static Status build_list(Builder *b, PqNode *node, const Element *e, uint8_t rep) {
    if (e->children != 1 || b->next == b->end || b->next->repetition != REPEATED)
        return bad(b, e, "is marked as a list, but has not the one repeated field that a list has");
    if (b->next->children && b->next + 1 == b->end) return bad(b, e, "lacks its last fields; the file is damaged");
    node->shape = PQ_LIST;
    node->rep = (uint8_t)(rep + 1);
    TRY_RETURN(ARENA_NEW(b->arena, &node->children));
    node->n_children = 1;
    Place place = {node, (uint8_t)(node->def + 1), node->rep};
    if (b->next->children == 0 || is_the_element(e, b->next)) return build(b, node->children, place, true);
    TRY_RETURN(check_name(b, b->next));
    b->next++;
    return build(b, node->children, place, false);
}

static Status build_map(Builder *b, PqNode *node, const Element *e, uint8_t rep) {
    const Element *pair = b->next;
    if (e->children != 1 || pair == b->end || pair->repetition != REPEATED || pair->children < 1 || pair->children > 2)
        return bad(b, e, "is marked as a map, but has not the one repeated group of key and value that a map has");
    TRY_RETURN(check_name(b, pair));
    b->next++;
    node->shape = PQ_MAP;
    node->rep = (uint8_t)(rep + 1);
    return build_children(b, node, pair->children, (uint8_t)(node->def + 1), node->rep);
}

static Status build_leaf(Builder *b, PqNode *node, const Element *e, uint8_t rep) {
    PqLeaf *leaf = &b->leaves[b->n_leaves++];
    if (e->type < 0) return bad(b, e, "has neither a type nor fields");
    leaf->node = node;
    leaf->max_def = node->def;
    leaf->max_rep = rep;
    return leaf_kind(b, e, leaf);
}

/* A field that repeats without being marked as a list: a list that is never null, of what it would be otherwise. */
static Status build_bare_list(Builder *b, PqNode *node, const Element *e, Place place) {
    node->shape = PQ_LIST;
    node->name = (const char *)e->name;
    node->name_n = e->name_n;
    node->def = node->min_def = place.def;
    node->rep = (uint8_t)(place.rep + 1);
    TRY_RETURN(ARENA_NEW(b->arena, &node->children));
    node->n_children = 1;
    return build(b, node->children, (Place){node, (uint8_t)(place.def + 1), node->rep}, true);
}

/* The next element and all below it. `repeated_too`: that it repeats is already said by the list above it. */
static Status build_node(Builder *b, PqNode *node, Place place, bool repeated_too) {
    const Element *e = b->next;
    node->first_leaf = b->n_leaves;
    node->parent = place.parent;
    if (e->repetition == REPEATED && !repeated_too) return build_bare_list(b, node, e, place);
    b->next++;
    node->name = (const char *)e->name;
    node->name_n = e->name_n;
    node->optional = e->repetition == OPTIONAL;
    node->min_def = place.def;
    node->def = (uint8_t)(place.def + node->optional);
    if (e->children == 0) return build_leaf(b, node, e, place.rep);
    if (e->meaning == MEANS_LIST) return build_list(b, node, e, place.rep);
    if (e->meaning == MEANS_MAP) return build_map(b, node, e, place.rep);
    node->shape = PQ_STRUCT;
    TRY_RETURN(build_children(b, node, e->children, node->def, place.rep));
    return check_members(b, node);
}

static Status build(Builder *b, PqNode *node, Place place, bool repeated_too) {
    if (b->next == b->end)
        return FAIL(TANE_EFORMAT, "%s: the schema promises more columns than it has; the file is damaged", b->where);
    if (b->depth == PQ_MAX_DEPTH) return bad(b, b->next, "is nested deeper than %d levels", PQ_MAX_DEPTH);
    TRY_RETURN(check_name(b, b->next));
    b->depth++;
    TRY_RETURN(build_node(b, node, place, repeated_too));
    b->depth--;
    node->n_leaves = b->n_leaves - node->first_leaf;
    return TANE_OK;
}

Status pq_schema_read(PqSchema *schema, Arena *arena, Thrift *t, ThriftType type) {
    size_t n;
    Element *elements = NULL;
    Status st = TANE_OK;
    TRY(thrift_list(t, type, THRIFT_STRUCT, &n));
    if (n > PQ_MAX_ELEMENTS)
        TRY(FAIL(TANE_EFORMAT, "%s: the schema has %zu elements; at most %d are possible: write fewer columns",
                 t->where, n, PQ_MAX_ELEMENTS));
    TRY(MEM_NEW_ARRAY(&elements, n));
    for (size_t i = 0; i < n; i++) TRY(read_element(t, &elements[i]));
    if (n < 2 || elements[0].children < 1) TRY(FAIL(TANE_EFORMAT, "%s: the file has no columns", t->where));
    TRY(ARENA_NEW_ARRAY(arena, &schema->leaves, n));
    Builder b = {.where = t->where, .arena = arena, .next = elements, .end = elements + n, .leaves = schema->leaves};
    /* The root is a group, whatever else it says of itself. */
    elements[0].repetition = REQUIRED;
    elements[0].meaning = MEANS_NOTHING;
    TRY(build(&b, &schema->root, (Place){0}, false));
    if (b.next != b.end)
        TRY(FAIL(TANE_EFORMAT, "%s: the schema has %zu elements that belong to no column; the file is damaged",
                 t->where, (size_t)(b.end - b.next)));
    schema->n_leaves = b.n_leaves;
out:
    mem_free(elements);
    return st;
}
