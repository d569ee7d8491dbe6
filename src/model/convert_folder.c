/* Writing a Hugging Face folder: config.json, generation_config.json, model.safetensors, tokenizer and template. */
#include <string.h>

#include "base/file.h"
#include "format/safetensors.h"
#include "model/convert_source.h"

/* ---- weights ---- */

/* Memory for one piece of a tensor. */
typedef struct Piece {
    void *values;
    size_t cap; /* bytes */
} Piece;

static Status reserve(Piece *p, size_t bytes) {
    if (bytes <= p->cap) return TANE_OK;
    mem_free(p->values);
    *p = (Piece){0};
    TRY_RETURN(mem_new(&p->values, bytes, 1));
    p->cap = bytes;
    return TANE_OK;
}

static void turn(const void *from, void *to, int64_t rows, int64_t columns, size_t size) {
#pragma omp parallel for schedule(static)
    for (int64_t c = 0; c < columns; c++)
        for (int64_t r = 0; r < rows; r++)
            memcpy((char *)to + (size_t)(c * rows + r) * size, (const char *)from + (size_t)(r * columns + c) * size, size);
}

/* GPT-2's matrices stand (in, out) in Hugging Face's files: they are made whole. */
static Status write_transposed(StWriter *w, Piece *p, const ConvertPart *part, DType type) {
    int64_t rows = part->rows, columns = part->columns;
    size_t bytes = (size_t)(rows * columns) * dtype_size(type);
    TRY_RETURN(reserve(p, 2 * bytes));
    void *turned = (char *)p->values + bytes;
    weight_rows(&part->weight, 0, rows, type, p->values);
    turn(p->values, turned, rows, columns, dtype_size(type));
    return st_writer_write(w, turned, bytes);
}

static Status write_part(ConvertSource *s, StWriter *w, Piece *p, const ConvertPart *part, DType type) {
    int64_t some = CONVERT_PIECE / part->columns ? CONVERT_PIECE / part->columns : 1;
    if (part->part->transposed) TRY_RETURN(write_transposed(w, p, part, type));
    for (int64_t row = 0; !part->part->transposed && row < part->rows; row += some) {
        int64_t n = part->rows - row < some ? part->rows - row : some;
        size_t bytes = (size_t)(n * part->columns) * dtype_size(type);
        TRY_RETURN(reserve(p, bytes));
        weight_rows(&part->weight, row, n, type, p->values);
        TRY_RETURN(st_writer_write(w, p->values, bytes));
    }
    convert_tell(s, (uint64_t)(part->rows * part->columns) * dtype_size(type));
    return TANE_OK;
}

/* Parts in the order in which they are added to the writer. */
static Status list_parts(ConvertSource *s, ConvertPart **out, size_t *n) {
    const Params *set = &s->model->params;
    *n = 0;
    TRY_RETURN(MEM_NEW_ARRAY(out, (size_t)set->n * PARAM_PARTS));
    for (int i = 0; i < set->n; i++)
        for (int k = 0; k < set->items[i]->n_parts; k++)
            TRY_RETURN(convert_part(s, set->items[i], &set->items[i]->parts[k], &(*out)[(*n)++]));
    return TANE_OK;
}

static Status write_weights(ConvertSource *s, const char *path, DType type) {
    Status st = TANE_OK;
    StWriter *w = NULL;
    ConvertPart *parts = NULL;
    Piece piece = {0};
    size_t n;
    TRY(list_parts(s, &parts, &n));
    for (size_t i = 0; i < n; i++) s->total += (uint64_t)(parts[i].rows * parts[i].columns) * dtype_size(type);
    TRY(convert_check_space(path, s->total));
    TRY(st_writer_open(&w, path));
    TRY(st_writer_metadata(w, "format", "pt"));
    for (size_t i = 0; i < n; i++) {
        int64_t shape[2];
        params_part_shape(parts[i].param, parts[i].part, parts[i].part->transposed, shape);
        TRY(st_writer_add(w, parts[i].part->name, type, parts[i].param->rank, shape));
    }
    TRY(st_writer_begin(w));
    for (const StTensor *t; (t = st_writer_next(w));) TRY(write_part(s, w, &piece, &parts[t->index], type));
    TRY(st_writer_close(&w, NULL, NULL));
out:
    st_writer_abort(&w);
    mem_free(parts);
    mem_free(piece.values);
    return st;
}

/* ---- what lies beside ---- */

static Status copy_one(const char *from, const char *to, const char *name) {
    Status st = TANE_OK;
    char *a = NULL, *b = NULL;
    TRY(path_join(&a, from, name));
    TRY(path_join(&b, to, name));
    if (file_exists(a)) TRY(file_copy(a, b));
out:
    mem_free(a);
    mem_free(b);
    return st;
}

/* From a folder everything as it is. */
static Status copy_files(const ConvertSource *s, const char *folder) {
    static const char *const names[] = {"tokenizer.json",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "added_tokens.json",
                                        "vocab.json",
                                        "merges.txt",
                                        "vocab.txt",
                                        "tokenizer.model",
                                        "chat_template.jinja",
                                        "chat_template.json"};
    TRY_RETURN(copy_one(s->path, folder, "generation_config.json"));
    for (size_t i = 0; !s->options->no_tokenizer && i < sizeof names / sizeof *names; i++)
        TRY_RETURN(copy_one(s->path, folder, names[i]));
    return TANE_OK;
}

static Status write_template(const ConvertSource *s, const char *folder) {
    char *path;
    if (!s->chat_template) return TANE_OK;
    TRY_RETURN(path_join(&path, folder, "chat_template.jinja"));
    Status st = file_write_atomic(path, s->chat_template, strlen(s->chat_template));
    mem_free(path);
    return st;
}

Status convert_to_folder(ConvertSource *s, const char *folder, DType type) {
    char *path;
    TRY_RETURN(path_join(&path, folder, "model.safetensors"));
    Status st = write_weights(s, path, type);
    mem_free(path);
    TRY_RETURN(st);
    TRY_RETURN(model_config_write(&s->config, folder, type));
    if (!s->gguf) return copy_files(s, folder);
    if (s->tokenizer) TRY_RETURN(tokenizer_save(s->tokenizer, folder));
    return write_template(s, folder);
}
