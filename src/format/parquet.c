/* Rows put together again from the columns' triples: the schema's tree is walked for each row, and every leaf's stream
 * is read in step with it. The first leaf below a node says how much of it is there; the others must agree, or the file
 * is damaged. */
#include "format/parquet.h"

#include <string.h>

#include "format/parquet_column.h"
#include "format/parquet_json.h"

/* What a reader may take beside the file's size. */
static const size_t EXTRA_MEMORY = (size_t)56 << 20;

struct ParquetReader {
    const ParquetFile *file;
    const PqNode **nodes; /* (n_nodes) top-level columns, in the lines' order */
    size_t n_nodes;
    PqColumn **columns; /* (n_leaves) those that are read; else NULL */
    PqColumn *all;      /* (n_columns) the same without the gaps */
    size_t n_columns;
    PqChunk *chunks; /* (n_leaves) of the row group */
    PqBudget budget;
    int64_t row, end, group_end;
    size_t next_group;
    bool failed;
};

/* ---- files ------------------------------------------------------------------------------------------------------ */

Status parquet_open(ParquetFile **out, const char *path) {
    ParquetFile *file = NULL;
    Status st = TANE_OK;
    *out = NULL;
    TRY(MEM_NEW(&file));
    TRY(mem_strdup(&file->path, path));
    TRY(file_map(path, &file->map));
    TRY(pq_meta_read(file));
    *out = file;
    return TANE_OK;
out:
    parquet_close(file);
    return st;
}

void parquet_close(ParquetFile *file) {
    if (!file) return;
    mem_free(file->groups);
    arena_release(&file->arena);
    file_unmap(&file->map);
    mem_free(file->path);
    mem_free(file);
}

int64_t parquet_rows(const ParquetFile *file) { return file->rows; }
size_t parquet_column_count(const ParquetFile *file) { return file->schema.root.n_children; }
ParquetColumn parquet_column(const ParquetFile *file, size_t i) {
    return (ParquetColumn){file->names[i], pq_node_type(&file->schema, &file->schema.root.children[i])};
}

size_t parquet_group_count(const ParquetFile *file) { return file->n_groups; }
void parquet_group(const ParquetFile *file, size_t i, int64_t *first_row, int64_t *rows) {
    *first_row = file->groups[i].first;
    *rows = file->groups[i + 1].first - *first_row;
}

/* ---- a row ------------------------------------------------------------------------------------------------------ */

typedef struct Walk {
    PqColumn **columns;
    PqLine line;
} Walk;

static Status disagree(const Walk *w, const PqColumn *c) {
    return pq_value_fail(&w->line, c->leaf,
                         "its levels do not fit those beside it or make no row; the file is damaged");
}

/* The leaf's triple, which must repeat at `rep`. */
static Status peek(const Walk *w, uint32_t leaf, uint32_t rep, PqColumn **out) {
    PqColumn *c = *out = w->columns[leaf];
    bool more;
    TRY_RETURN(pq_column_peek(c, &more));
    if (!more) return pq_value_fail(&w->line, c->leaf, "the column ends before its row group; the file is damaged");
    return pq_rep(c) == rep ? TANE_OK : disagree(w, c);
}

/* One triple of each leaf below a node that is null, or empty, at the level `def`. */
static Status pass_over(const Walk *w, const PqNode *node, uint32_t rep, uint32_t def) {
    for (uint32_t i = 0; i < node->n_leaves; i++) {
        PqColumn *c;
        TRY_RETURN(peek(w, node->first_leaf + i, rep, &c));
        if (pq_def(c) != def) return disagree(w, c);
        pq_column_step(c);
    }
    return TANE_OK;
}

static Status put_node(Walk *w, const PqNode *node, uint32_t rep);

static Status put_leaf(Walk *w, const PqNode *node) {
    PqColumn *c = w->columns[node->first_leaf];
    const uint8_t *bytes;
    size_t n;
    TRY_RETURN(pq_column_value(c, &bytes, &n));
    TRY_RETURN(pq_put_value(&w->line, c->leaf, bytes, n));
    pq_column_step(c);
    return TANE_OK;
}

static Status put_member(Walk *w, const PqNode *node, uint32_t rep, bool first) {
    TRY_RETURN(pq_put(&w->line, first ? "{" : ", ", first ? 1 : 2));
    TRY_RETURN(pq_put_text(&w->line, (const uint8_t *)node->name, node->name_n));
    TRY_RETURN(pq_put(&w->line, ": ", 2));
    return put_node(w, node, rep);
}

static Status put_struct(Walk *w, const PqNode *node, uint32_t rep) {
    for (uint32_t i = 0; i < node->n_children; i++) TRY_RETURN(put_member(w, &node->children[i], rep, i == 0));
    return pq_put(&w->line, "}", 1);
}

static bool is_object(const Walk *w, const PqNode *map) {
    const PqNode *key = map->children;
    if (map->shape != PQ_MAP || map->n_children != 2 || key->shape != PQ_LEAF) return false;
    PqKind kind = w->columns[key->first_leaf]->leaf->kind;
    return kind == PQ_KIND_TEXT || kind == PQ_KIND_BINARY;
}

/* A list's element, or what a map has of a key and its value. */
static Status put_element(Walk *w, const PqNode *node, uint32_t rep, bool object) {
    const PqNode *first = node->children;
    PqColumn *c;
    if (node->n_children == 1) return put_node(w, first, rep);
    if (object) {
        TRY_RETURN(peek(w, first->first_leaf, rep, &c));
        if (pq_def(c) != c->leaf->max_def) return pq_value_fail(&w->line, c->leaf, "a key is null; give it a text");
    } else {
        TRY_RETURN(pq_put(&w->line, "[", 1));
    }
    TRY_RETURN(put_node(w, first, rep));
    TRY_RETURN(pq_put(&w->line, object ? ": " : ", ", 2));
    TRY_RETURN(put_node(w, first + 1, rep));
    return object ? TANE_OK : pq_put(&w->line, "]", 1);
}

/* Elements follow as long as the first leaf repeats at the node's level. */
static Status put_list(Walk *w, const PqNode *node, uint32_t rep, uint32_t def) {
    PqColumn *c = w->columns[node->first_leaf];
    bool object = is_object(w, node), more = true;
    TRY_RETURN(pq_put(&w->line, object ? "{" : "[", 1));
    if (def == node->def) {
        TRY_RETURN(pass_over(w, node, rep, def));
    } else {
        TRY_RETURN(put_element(w, node, rep, object));
        for (;;) {
            TRY_RETURN(pq_column_peek(c, &more));
            if (!more || pq_rep(c) != node->rep) break;
            TRY_RETURN(pq_put(&w->line, ", ", 2));
            TRY_RETURN(put_element(w, node, node->rep, object));
        }
    }
    return pq_put(&w->line, object ? "}" : "]", 1);
}

/* A value of any node, whose first triple repeats at `rep`. The schema's depth bounds the recursion. */
static Status put_node(Walk *w, const PqNode *node, uint32_t rep) {
    PqColumn *c;
    TRY_RETURN(peek(w, node->first_leaf, rep, &c));
    uint32_t def = pq_def(c);
    if (def < node->min_def) return disagree(w, c);
    if (def < node->def) {
        TRY_RETURN(pass_over(w, node, rep, def));
        return pq_put(&w->line, "null", 4);
    }
    if (node->shape == PQ_LEAF) return put_leaf(w, node);
    if (node->shape == PQ_STRUCT) return put_struct(w, node, rep);
    return put_list(w, node, rep, def);
}

/* ---- readers ---------------------------------------------------------------------------------------------------- */

static Status unknown_column(const ParquetFile *file, const char *name) {
    const char *near = err_nearest(name, file->names, parquet_column_count(file));
    return FAIL(TANE_ENOTFOUND, "%s: there is no column \"%s\"; %s%s%s", file->path, name,
                near ? "did you mean \"" : "the first one is \"", near ? near : file->names[0], near ? "\"?" : "\"");
}

static Status choose(ParquetReader *r, const char *const *names, size_t n) {
    const PqNode *root = &r->file->schema.root;
    r->n_nodes = names ? n : root->n_children;
    if (r->n_nodes == 0) return FAIL(TANE_EINVAL, "%s: no column to read was named", r->file->path);
    TRY_RETURN(MEM_NEW_ARRAY(&r->nodes, r->n_nodes));
    for (size_t i = 0; i < r->n_nodes; i++) {
        size_t k = names ? 0 : i;
        while (names && k < root->n_children && strcmp(r->file->names[k], names[i]) != 0) k++;
        if (k == root->n_children) return unknown_column(r->file, names[i]);
        for (size_t j = 0; names && j < i; j++)
            if (r->nodes[j] == &root->children[k])
                return FAIL(TANE_EINVAL, "%s: the column \"%s\" is named twice", r->file->path, names[i]);
        r->nodes[i] = &root->children[k];
        r->n_columns += r->nodes[i]->n_leaves;
    }
    return TANE_OK;
}

static Status make_columns(ParquetReader *r) {
    const PqSchema *schema = &r->file->schema;
    size_t at = 0;
    TRY_RETURN(MEM_NEW_ARRAY(&r->chunks, schema->n_leaves));
    TRY_RETURN(MEM_NEW_ARRAY(&r->columns, schema->n_leaves));
    TRY_RETURN(MEM_NEW_ARRAY(&r->all, r->n_columns));
    for (size_t i = 0; i < r->n_nodes; i++)
        for (uint32_t k = 0, leaf = r->nodes[i]->first_leaf; k < r->nodes[i]->n_leaves; k++, leaf++) {
            r->columns[leaf] = &r->all[at++];
            pq_column_init(r->columns[leaf], r->file, &schema->leaves[leaf], &r->budget);
        }
    r->budget.used = r->n_columns * sizeof(PqColumn) + schema->n_leaves * (sizeof(PqChunk) + sizeof(PqColumn *)) +
                     r->file->n_groups * sizeof(PqGroup);
    return TANE_OK;
}

static size_t group_of(const ParquetFile *file, int64_t row) {
    size_t lo = 0, hi = file->n_groups;
    while (lo < hi) {
        size_t middle = (lo + hi) / 2;
        if (file->groups[middle + 1].first <= row) lo = middle + 1;
        else hi = middle;
    }
    return lo;
}

/* Begins the row group that holds the reader's row. */
static Status start_group(ParquetReader *r) {
    int64_t first, rows;
    parquet_group(r->file, r->next_group, &first, &rows);
    TRY_RETURN(pq_group_chunks(r->file, r->next_group, r->chunks));
    for (size_t i = 0; i < r->n_columns; i++) {
        PqColumn *c = &r->all[i];
        TRY_RETURN(pq_column_start(c, &r->chunks[c->leaf - r->file->schema.leaves], rows));
        if (r->row > first) TRY_RETURN(pq_column_skip(c, r->row - first));
    }
    r->group_end = first + rows;
    r->next_group++;
    return TANE_OK;
}

/* Behind a row group's last row no column may have anything left. */
static Status end_group(ParquetReader *r, const PqLine *line) {
    for (size_t i = 0; i < r->n_columns; i++) {
        bool more;
        TRY_RETURN(pq_column_peek(&r->all[i], &more));
        if (more)
            return pq_value_fail(line, r->all[i].leaf,
                                 "the column has values behind the row group's last row; the file is "
                                 "damaged");
    }
    return TANE_OK;
}

Status parquet_reader_new(ParquetReader **out, const ParquetFile *file, const char *const *columns, size_t n,
                          int64_t first_row, int64_t rows) {
    ParquetReader *r = NULL;
    Status st = TANE_OK;
    *out = NULL;
    if (first_row < 0 || first_row > file->rows || rows < -1 || rows > file->rows - first_row)
        return FAIL(TANE_EINVAL, "%s: %lld rows from row %lld on were asked for, but there are %lld", file->path,
                    (long long)rows, (long long)first_row + 1, (long long)file->rows);
    TRY(MEM_NEW(&r));
    r->file = file;
    r->row = r->group_end = first_row;
    r->end = rows < 0 ? file->rows : first_row + rows;
    r->next_group = group_of(file, first_row);
    r->budget.limit = file->map.size + EXTRA_MEMORY;
    TRY(choose(r, columns, n));
    TRY(make_columns(r));
    *out = r;
    return TANE_OK;
out:
    parquet_reader_close(r);
    return st;
}

void parquet_reader_close(ParquetReader *r) {
    if (!r) return;
    for (size_t i = 0; r->all && i < r->n_columns; i++) pq_column_free(&r->all[i]);
    mem_free(r->all);
    mem_free(r->columns);
    mem_free(r->chunks);
    mem_free(r->nodes);
    mem_free(r);
}

static Status put_row(ParquetReader *r, Str *line) {
    Walk w = {r->columns, {r->file->path, r->row + 1, line, &r->budget}};
    r->budget.line = line;
    r->budget.before = line->len;
    if (r->row == r->group_end) {
        while (r->file->groups[r->next_group + 1].first == r->row) r->next_group++; /* groups without rows */
        TRY_RETURN(start_group(r));
    }
    for (size_t i = 0; i < r->n_nodes; i++) TRY_RETURN(put_member(&w, r->nodes[i], 0, i == 0));
    TRY_RETURN(pq_put(&w.line, "}", 1));
    r->row++;
    return r->row == r->group_end ? end_group(r, &w.line) : TANE_OK;
}

Status parquet_next(ParquetReader *r, Str *line, bool *more) {
    *more = !r->failed && r->row < r->end;
    if (!*more) return TANE_OK;
    size_t before = line->len;
    Status st = put_row(r, line);
    r->budget.line = NULL;
    if (st == TANE_OK) return TANE_OK;
    if (line->text) line->text[before] = 0;
    line->len = before;
    r->failed = true;
    *more = false;
    return st;
}
