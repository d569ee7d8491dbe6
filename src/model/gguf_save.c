/* Writing GGUF: which type each tensor gets, the order of rows, and the stream of blocks. See gguf_save.h. */
#include "model/gguf_save.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "model/convert_source.h"
#include "model/gguf_rope.h"

/* ---- types ---- */

static bool ends_with(const char *text, const char *ending) {
    size_t n = strlen(text), k = strlen(ending);
    return n >= k && !strcmp(text + n - k, ending);
}

const GgmlTypeInfo *gguf_tensor_type(const char *name, int rank, int64_t row, bool tied, const GgmlTypeInfo *type) {
    static const GgmlType fallback[] = {GGML_Q8_0, GGML_F16};
    bool output = !strcmp(name, tied ? "token_embd.weight" : "output.weight");
    if (rank < 2 || ends_with(name, "_norm.weight") || !strcmp(name, "position_embd.weight"))
        return ggml_type_info(GGML_F32);
    if (output && type->block > 1) type = ggml_type_info(GGML_Q8_0);
    for (int i = 0; row % type->block && i < 2; i++) type = ggml_type_info(fallback[i]);
    return type;
}

/* llama.cpp's numbers of file types. */
Status gguf_put_file_type(GgufWriter *w, const GgmlTypeInfo *type) {
    static const struct {
        GgmlType type;
        uint32_t number;
    } numbers[] = {{GGML_F32, 0}, {GGML_F16, 1}, {GGML_Q4_0, 2}, {GGML_Q8_0, 7}, {GGML_Q4_K, 14}, {GGML_BF16, 32}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i].type == type->type) TRY_RETURN(gguf_put_u32(w, "general.file_type", numbers[i].number));
    return type->block > 1 ? gguf_put_u32(w, "general.quantization_version", 2) : TANE_OK;
}

/* ---- numbers as blocks ---- */

typedef struct Buffer {
    float *values, *turned;
    uint8_t *blocks;
    size_t cap; /* numbers in each */
} Buffer;

static void buffer_free(Buffer *b) {
    mem_free(b->values);
    mem_free(b->turned);
    mem_free(b->blocks);
    *b = (Buffer){0};
}

static Status reserve(Buffer *b, size_t n) {
    if (n <= b->cap) return TANE_OK;
    buffer_free(b);
    TRY_RETURN(MEM_NEW_ARRAY(&b->values, n));
    TRY_RETURN(MEM_NEW_ARRAY(&b->turned, n));
    TRY_RETURN(MEM_NEW_ARRAY(&b->blocks, 4 * n)); /* no type takes more than F32 */
    b->cap = n;
    return TANE_OK;
}

static Status write_rows(ConvertSource *s, GgufWriter *w, const GgmlTypeInfo *type, const float *values, int64_t rows,
                         int64_t columns, uint8_t *blocks) {
    size_t row = ggml_row_bytes(type, columns);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) ggml_encode(type->type, values + r * columns, columns, blocks + (size_t)r * row);
    convert_tell(s, (uint64_t)rows * row);
    return gguf_write(w, blocks, (size_t)rows * row);
}

/* Heads' rows into GGUF's order: the halves interleaved. */
static void pair_rows(const float *from, float *to, int64_t rows, int64_t columns, int64_t head) {
    for (int64_t r = 0; r < rows; r++) {
        int64_t i = r % head, source = r - i + (i % 2 ? head / 2 : 0) + i / 2;
        memcpy(to + r * columns, from + source * columns, (size_t)columns * sizeof *to);
    }
}

static Status write_part(ConvertSource *s, GgufWriter *w, const ConvertPart *part, const GgufStored *stored,
                         const GgmlTypeInfo *type, Buffer *b) {
    int64_t columns = part->columns, head = stored->paired ? s->config.head_dim : 1;
    int64_t some = CONVERT_PIECE / (columns * head) ? CONVERT_PIECE / (columns * head) * head : head;
    for (int64_t row = 0; row < part->rows; row += some) {
        int64_t n = part->rows - row < some ? part->rows - row : some;
        TRY_RETURN(reserve(b, (size_t)(n * columns)));
        weight_rows(&part->weight, row, n, DTYPE_F32, b->values);
        if (stored->paired) pair_rows(b->values, b->turned, n, columns, head);
        for (int64_t i = 0; stored->plus != 0 && i < n * columns; i++) b->values[i] += stored->plus;
        TRY_RETURN(write_rows(s, w, type, stored->paired ? b->turned : b->values, n, columns, b->blocks));
    }
    return TANE_OK;
}

/* ---- from a folder ---- */

/* A tensor that is to be written. */
typedef struct Planned {
    ConvertPart part; /* param NULL: a table of the rope */
    GgufStored stored;
    const GgmlTypeInfo *type;
} Planned;

static Status plan(ConvertSource *s, const GgufArch *arch, const GgmlTypeInfo *type, Planned *list, size_t *n) {
    const Params *set = &s->model->params;
    *n = 0;
    for (int i = 0; i < set->n; i++)
        for (int k = 0; k < set->items[i]->n_parts; k++) {
            Planned *p = &list[(*n)++];
            TRY_RETURN(convert_part(s, set->items[i], &set->items[i]->parts[k], &p->part));
            if (!gguf_stored(arch, p->part.part->name, &p->stored))
                return FAIL(TANE_EUNSUPPORTED, "GGUF's architecture \"%s\" has no name for the tensor \"%s\"",
                            arch->name, p->part.part->name);
            p->type = gguf_tensor_type(p->stored.name, p->part.param->rank, p->part.columns, s->config.tied, type);
            s->total += ggml_row_bytes(p->type, p->part.columns) * (uint64_t)p->part.rows;
        }
    return TANE_OK;
}

static Status add_planned(GgufWriter *w, const Planned *list, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const ConvertPart *part = &list[i].part;
        int64_t shape[2] = {part->rows, part->columns};
        TRY_RETURN(gguf_add(w, list[i].stored.name, list[i].type->type, part->param->rank, shape));
    }
    return TANE_OK;
}

/* Rotary factors are tensors. */
enum { TABLES = 2 };
static int rope_tables(const ModelConfig *c, float tables[TABLES][512], const char *names[TABLES]) {
    const RopeConfig *r = &c->rope;
    int64_t half = rope_width(r, c->head_dim) / 2;
    names[0] = r->type == ROPE_LLAMA3 ? "rope_freqs.weight" : "rope_factors_long.weight";
    names[1] = "rope_factors_short.weight";
    for (int64_t i = 0; i < half && i < 512; i++) {
        tables[0][i] = (float)(r->type == ROPE_LLAMA3 ? gguf_rope_factor(r, 2 * half, i)
                                                      : r->long_factor[i % ROPE_FACTORS]);
        tables[1][i] = (float)r->short_factor[i % ROPE_FACTORS];
    }
    return r->type == ROPE_LLAMA3 ? 1 : r->type == ROPE_LONGROPE ? 2 : 0;
}

static Status put_general(ConvertSource *s, GgufWriter *w, const GgufArch *arch, const GgmlTypeInfo *type) {
    const char *name = path_base(s->path);
    TRY_RETURN(gguf_put_text(w, "general.architecture", arch->name, strlen(arch->name)));
    TRY_RETURN(gguf_put_text(w, "general.type", "model", 5));
    if (*name) TRY_RETURN(gguf_put_text(w, "general.name", name, strlen(name)));
    TRY_RETURN(gguf_put_config(w, &s->config, arch, s->options->note, s->options->user));
    TRY_RETURN(gguf_put_tokenizer(w, s->tokenizer, &s->config, s->options->note, s->options->user));
    if (s->chat_template)
        TRY_RETURN(gguf_put_text(w, "tokenizer.chat_template", s->chat_template, strlen(s->chat_template)));
    return gguf_put_file_type(w, type);
}

static void note_fallbacks(ConvertSource *s, const Planned *list, size_t n, const GgmlTypeInfo *type) {
    char text[256];
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += list[i].part.columns % type->block && list[i].part.param->rank == 2;
    if (!count || !s->options->note) return;
    snprintf(text, sizeof text,
             "%zu tensors have rows that are no multiple of %lld numbers: they are stored as Q8_0 or F16, "
             "not %s",
             count, (long long)type->block, type->name);
    s->options->note(s->options->user, text);
}

static Status from_folder(ConvertSource *s, const char *out, const GgmlTypeInfo *type) {
    Status st = TANE_OK;
    GgufWriter *w = NULL;
    Planned *list = NULL;
    Buffer buffer = {0};
    size_t n;
    float tables[TABLES][512];
    const char *names[TABLES];
    const GgufArch *arch = gguf_arch_of(s->config.family);
    int64_t half = rope_width(&s->config.rope, s->config.head_dim) / 2;
    int n_tables = rope_tables(&s->config, tables, names);
    TRY(MEM_NEW_ARRAY(&list, (size_t)s->model->params.n * PARAM_PARTS));
    TRY(plan(s, arch, type, list, &n));
    TRY(convert_check_space(out, s->total));
    note_fallbacks(s, list, n, type);
    TRY(gguf_writer_open(&w, out));
    TRY(put_general(s, w, arch, type));
    for (int i = 0; i < n_tables; i++) TRY(gguf_add(w, names[i], GGML_F32, 1, &half));
    TRY(add_planned(w, list, n));
    TRY(gguf_begin(w));
    for (int i = 0; i < n_tables; i++) TRY(gguf_write(w, tables[i], (size_t)half * sizeof(float)));
    for (size_t i = 0; i < n; i++) TRY(write_part(s, w, &list[i].part, &list[i].stored, list[i].type, &buffer));
    TRY(gguf_writer_close(&w));
out:
    gguf_writer_abort(&w);
    buffer_free(&buffer);
    mem_free(list);
    return st;
}

/* ---- from another GGUF file: every tensor in its place, changed only in its type ---- */

static const GgmlTypeInfo *new_type(const ConvertSource *s, const GgufTensor *t, const GgmlTypeInfo *type) {
    return type ? gguf_tensor_type(t->name, t->rank, t->shape[t->rank - 1], s->config.tied, type) : t->type;
}

static int64_t rows_of(const GgufTensor *t) {
    int64_t rows = 1;
    for (int i = 0; i + 1 < t->rank; i++) rows *= t->shape[i];
    return rows;
}

static bool begins_with(const char *text, const char *start) { return !strncmp(text, start, strlen(start)); }

static Status copy_keys(ConvertSource *s, GgufWriter *w, const GgmlTypeInfo *type) {
    bool bare = s->options->no_tokenizer;
    for (size_t i = 0; i < gguf_key_count(s->gguf); i++) {
        const char *key = gguf_key(s->gguf, i, NULL);
        bool typed = !strcmp(key, "general.file_type") || !strcmp(key, "general.quantization_version");
        /* The writer's alignment is the usual one, and it writes one file. */
        if ((type && typed) || !strcmp(key, "general.alignment") || begins_with(key, "split.")) continue;
        if (bare && begins_with(key, "tokenizer.")) continue;
        TRY_RETURN(gguf_put_copy(w, s->gguf, i));
    }
    if (bare) TRY_RETURN(gguf_put_tokenizer(w, NULL, &s->config, NULL, NULL));
    return type ? gguf_put_file_type(w, type) : TANE_OK;
}

static Status copy_tensor(ConvertSource *s, GgufWriter *w, const GgufTensor *t, const GgmlTypeInfo *type, Buffer *b) {
    int64_t rows = rows_of(t), columns = t->shape[t->rank - 1];
    int64_t some = CONVERT_PIECE / columns ? CONVERT_PIECE / columns : 1;
    size_t row_bytes = ggml_row_bytes(t->type, columns);
    for (int64_t row = 0; row < rows; row += some) {
        int64_t n = rows - row < some ? rows - row : some;
        const uint8_t *from = (const uint8_t *)t->data + (size_t)row * row_bytes;
        if (type == t->type) {
            TRY_RETURN(gguf_write(w, from, (size_t)n * row_bytes));
            convert_tell(s, (uint64_t)n * row_bytes);
            continue;
        }
        TRY_RETURN(reserve(b, (size_t)(n * columns)));
#pragma omp parallel for schedule(static)
        for (int64_t r = 0; r < n; r++)
            ggml_decode(t->type->type, from + (size_t)r * row_bytes, columns, b->values + r * columns);
        TRY_RETURN(write_rows(s, w, type, b->values, n, columns, b->blocks));
    }
    return TANE_OK;
}

static Status from_gguf(ConvertSource *s, const char *out, const GgmlTypeInfo *type) {
    Status st = TANE_OK;
    GgufWriter *w = NULL;
    Buffer buffer = {0};
    size_t n = gguf_tensor_count(s->gguf);
    for (size_t i = 0; i < n; i++) {
        const GgufTensor *t = gguf_tensor(s->gguf, i);
        s->total += ggml_row_bytes(new_type(s, t, type), t->shape[t->rank - 1]) * (uint64_t)rows_of(t);
    }
    TRY(convert_check_space(out, s->total));
    TRY(gguf_writer_open(&w, out));
    TRY(copy_keys(s, w, type));
    for (size_t i = 0; i < n; i++) {
        const GgufTensor *t = gguf_tensor(s->gguf, i);
        TRY(gguf_add(w, t->name, new_type(s, t, type)->type, t->rank, t->shape));
    }
    TRY(gguf_begin(w));
    for (size_t i = 0; i < n; i++)
        TRY(copy_tensor(s, w, gguf_tensor(s->gguf, i), new_type(s, gguf_tensor(s->gguf, i), type), &buffer));
    TRY(gguf_writer_close(&w));
out:
    gguf_writer_abort(&w);
    buffer_free(&buffer);
    return st;
}

Status convert_to_gguf(ConvertSource *s, const char *out, const GgmlTypeInfo *type) {
    return s->gguf ? from_gguf(s, out, type) : from_folder(s, out, type);
}
