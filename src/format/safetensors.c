/* Reading safetensors files and sharded folders: map, parse the header once, check every range, look up by name.
 *
 * The header is read with the pull reader, without a tree: 100,000 tensors cost their own names and shapes and no more.
 */
#include "format/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

enum {
    LENGTH_BYTES = 8,
    MAX_HEADER = 100 * 1000 * 1000,
    MAX_TEXT = 1 << 24,
    MAX_TENSORS = 1 << 20,
    MIN_ENTRY = 48 /* "a":{"dtype":"U8","shape":[],"data_offsets":[0,1]} is the shortest */
};

typedef struct Pair {
    const char *key, *value;
} Pair;

struct StFile {
    Arena arena; /* names, shapes, metadata, paths */
    FileMap *maps;
    size_t n_maps;
    StTensor *tensors; /* sorted by name */
    size_t n;
    Pair *metadata; /* sorted by key */
    size_t n_metadata;
    const char *path;
};

void st_shape_text(const StTensor *tensor, char *out, size_t size) {
    size_t n = 0;
    snprintf(out, size, "[");
    for (int i = 0; i < tensor->rank && n < size; i++) {
        n = strlen(out);
        snprintf(out + n, size - n, "%s%lld", i ? ", " : "", (long long)tensor->shape[i]);
    }
    n = strlen(out);
    snprintf(out + n, size - n, "]");
}

/* ---- dtypes ----------------------------------------------------------------------------------------------------- */

const char *st_dtype_word(DType type) {
    static const char *const word[DTYPE_COUNT] = {[DTYPE_F32] = "F32", [DTYPE_BF16] = "BF16", [DTYPE_F16] = "F16",
                                                  [DTYPE_F64] = "F64", [DTYPE_I64] = "I64",   [DTYPE_I32] = "I32",
                                                  [DTYPE_I16] = "I16", [DTYPE_I8] = "I8",     [DTYPE_U8] = "U8",
                                                  [DTYPE_BOOL] = "BOOL"};
    return word[type];
}

static Status read_dtype(JsonReader *r, const char *name, DType *out) {
    static const char *const others[] = {"U16",     "U32",     "U64",     "C64",    "F8_E4M3", "F8_E5M2", "F8_E8M0",
                                         "F6_E2M3", "F6_E3M2", "F4",      "F8_E4M3FNUZ", "F8_E5M2FNUZ"};
    const char *word;
    size_t n;
    TRY_RETURN(json_next_text(r, &word, &n));
    for (int i = 0; i < DTYPE_COUNT; i++) {
        if (strcmp(word, st_dtype_word((DType)i))) continue;
        *out = (DType)i;
        return TANE_OK;
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (!strcmp(word, others[i]))
            return FAIL(TANE_EUNSUPPORTED,
                        "%s: tensor \"%.200s\" has dtype %s, which tane does not read; convert it to F32, BF16 or F16",
                        r->where, name, word);
    return json_reader_fail(r, "tensor \"%.200s\" has the unknown dtype \"%.40s\"", name, word);
}

/* ---- the header ------------------------------------------------------------------------------------------------- */

static Status read_shape(JsonReader *r, Arena *arena, StTensor *t) {
    int64_t shape[ST_MAX_RANK], *kept;
    bool more;
    t->rank = 0;
    TRY_RETURN(json_begin(r, '['));
    for (;;) {
        TRY_RETURN(json_more(r, ']', &more));
        if (!more) break;
        if (t->rank == ST_MAX_RANK)
            return json_reader_fail(r, "tensor \"%.200s\" has more than %d dimensions", t->name, ST_MAX_RANK);
        TRY_RETURN(json_next_int(r, &shape[t->rank]));
        if (shape[t->rank] < 0)
            return json_reader_fail(r, "tensor \"%.200s\" has the negative size %lld in its shape", t->name,
                                    (long long)shape[t->rank]);
        t->rank++;
    }
    TRY_RETURN(ARENA_NEW_ARRAY(arena, &kept, (size_t)t->rank));
    memcpy(kept, shape, (size_t)t->rank * sizeof *shape);
    t->shape = kept;
    return TANE_OK;
}

static Status read_offsets(JsonReader *r, const char *name, int64_t range[2]) {
    bool more;
    TRY_RETURN(json_begin(r, '['));
    for (int i = 0; i < 2; i++) {
        TRY_RETURN(json_more(r, ']', &more));
        if (!more) return json_reader_fail(r, "data_offsets of \"%.200s\" needs two numbers", name);
        TRY_RETURN(json_next_int(r, &range[i]));
        if (range[i] < 0)
            return json_reader_fail(r, "data_offsets of \"%.200s\" has the negative number %lld", name,
                                    (long long)range[i]);
    }
    TRY_RETURN(json_more(r, ']', &more));
    return more ? json_reader_fail(r, "data_offsets of \"%.200s\" has more than two numbers", name) : TANE_OK;
}

/* Sets bytes and data; the range must be what shape and dtype take, and lie in the data. */
static Status place(StTensor *t, const int64_t range[2], const FileMap *data) {
    char shape[256];
    uint64_t bytes = dtype_size(t->dtype);
    bool overflow = false;
    for (int i = 0; i < t->rank; i++) overflow |= __builtin_mul_overflow(bytes, (uint64_t)t->shape[i], &bytes);
    st_shape_text(t, shape, sizeof shape);
    if (overflow)
        return FAIL(TANE_EFORMAT, "%s: tensor \"%.200s\": the shape %s is too large for any file", t->file, t->name,
                    shape);
    if (range[1] < range[0] || (uint64_t)(range[1] - range[0]) != bytes)
        return FAIL(TANE_EFORMAT,
                    "%s: tensor \"%.200s\": %s of shape %s takes %llu bytes, but its data_offsets are [%lld, %lld]",
                    t->file, t->name, st_dtype_word(t->dtype), shape, (unsigned long long)bytes, (long long)range[0],
                    (long long)range[1]);
    if ((uint64_t)range[1] > data->size)
        return FAIL(TANE_EFORMAT,
                    "%s: tensor \"%.200s\" ends at byte %lld of the data, but the file has only %zu; the download or "
                    "copy is incomplete: get it again",
                    t->file, t->name, (long long)range[1], data->size);
    t->bytes = (size_t)bytes;
    t->data = data->data + range[0];
    return TANE_OK;
}

/* {"dtype": ..., "shape": [...], "data_offsets": [begin, end]}, each once, in any order. */
static Status read_entry(JsonReader *r, Arena *arena, const FileMap *data, StTensor *t) {
    static const char *const members[] = {"dtype", "shape", "data_offsets"};
    bool seen[3] = {0}, more;
    const char *key;
    int64_t range[2];
    size_t n;
    TRY_RETURN(json_begin(r, '{'));
    for (;;) {
        int m = 0;
        TRY_RETURN(json_more(r, '}', &more));
        if (!more) break;
        TRY_RETURN(json_next_key(r, &key, &n));
        while (m < 3 && strcmp(key, members[m])) m++;
        if (m == 3)
            return json_reader_fail(
                r, "tensor \"%.200s\" has the unknown member \"%.40s\"; known are dtype, shape and data_offsets",
                t->name, key);
        if (seen[m]) return json_reader_fail(r, "tensor \"%.200s\" has \"%s\" twice", t->name, members[m]);
        seen[m] = true;
        if (m == 0) TRY_RETURN(read_dtype(r, t->name, &t->dtype));
        else if (m == 1) TRY_RETURN(read_shape(r, arena, t));
        else TRY_RETURN(read_offsets(r, t->name, range));
    }
    for (int m = 0; m < 3; m++)
        if (!seen[m]) return json_reader_fail(r, "tensor \"%.200s\" has no \"%s\"", t->name, members[m]);
    return place(t, range, data);
}

static int by_key(const void *a, const void *b) { return strcmp(((const Pair *)a)->key, ((const Pair *)b)->key); }

/* {"key": "value", ...}, added to what other shards brought. */
static Status read_metadata(JsonReader *r, StFile *file) {
    size_t cap = file->n_metadata, first = file->n_metadata, n;
    const char *text;
    char *kept;
    bool more;
    TRY_RETURN(json_begin(r, '{'));
    for (;;) {
        TRY_RETURN(json_more(r, '}', &more));
        if (!more) break;
        if (file->n_metadata == cap) {
            size_t grown = cap < 8 ? 8 : cap + cap / 2;
            TRY_RETURN(mem_grow((void **)&file->metadata, cap, grown, sizeof *file->metadata));
            cap = grown;
        }
        Pair *pair = &file->metadata[file->n_metadata];
        TRY_RETURN(json_next_key(r, &text, &n));
        TRY_RETURN(arena_strdup(&file->arena, &kept, text));
        pair->key = kept;
        TRY_RETURN(json_next_text(r, &text, &n));
        TRY_RETURN(arena_strdup(&file->arena, &kept, text));
        pair->value = kept;
        file->n_metadata++;
    }
    size_t added = file->n_metadata - first;
    if (added) qsort(file->metadata + first, added, sizeof *file->metadata, by_key);
    for (size_t i = first + 1; i < file->n_metadata; i++)
        if (!by_key(&file->metadata[i - 1], &file->metadata[i]))
            return json_reader_fail(r, "__metadata__ has the key \"%.80s\" twice", file->metadata[i].key);
    return TANE_OK;
}

/* A first look at the header, so that reading it takes no more memory than the file and a little. *most is no fewer
 * than the tensors that will be read, whose array is allocated once: each opens a brace outside of texts and takes a
 * minimum of bytes. Texts are decoded into a buffer that doubles, so they must not be too long. */
static Status survey(const char *path, const char *text, size_t n, size_t *most) {
    size_t braces = 0;
    const char *end = text + n;
    *most = 0;
    for (const char *p = text; p < end; p++) {
        braces += *p == '{';
        if (*p != '"') continue;
        const char *begin = ++p;
        while (p < end && *p != '"') p += *p == '\\' && end - p > 1 ? 2 : 1;
        if (p - begin > MAX_TEXT)
            return FAIL(TANE_EFORMAT, "%s: the text at byte %zu of the header has %zu bytes; at most %d are allowed",
                        path, (size_t)(begin - text), (size_t)(p - begin), MAX_TEXT);
        if (p == end) break;
    }
    *most = braces < n / MIN_ENTRY + 1 ? braces : n / MIN_ENTRY + 1;
    if (*most > MAX_TENSORS) *most = MAX_TENSORS;
    return TANE_OK;
}

/* Appends the tensors of one header. */
static Status read_header(StFile *file, const char *path, const char *text, size_t size, const FileMap *data) {
    JsonReader r;
    Status st = TANE_OK;
    bool more, metadata = false;
    const char *key;
    char *kept;
    size_t n, cap;
    json_reader_init(&r, path, text, size);
    TRY(survey(path, text, size, &cap));
    cap += file->n;
    TRY(mem_grow((void **)&file->tensors, file->n, cap, sizeof *file->tensors));
    TRY(json_begin(&r, '{'));
    for (;;) {
        TRY(json_more(&r, '}', &more));
        if (!more) break;
        TRY(json_next_key(&r, &key, &n));
        if (n == 0) TRY(json_reader_fail(&r, "a tensor has an empty name"));
        if (!strcmp(key, "__metadata__")) {
            if (metadata) TRY(json_reader_fail(&r, "\"__metadata__\" is there twice"));
            metadata = true;
            TRY(read_metadata(&r, file));
            continue;
        }
        if (file->n == cap)
            TRY(FAIL(TANE_EUNSUPPORTED, "%s: more than %d tensors; tane reads no more from one file", path,
                     MAX_TENSORS));
        StTensor *t = &file->tensors[file->n];
        TRY(arena_strdup(&file->arena, &kept, key));
        *t = (StTensor){.name = kept, .file = path};
        TRY(read_entry(&r, &file->arena, data, t));
        file->n++;
    }
    TRY(json_end(&r));
out:
    json_reader_free(&r);
    return st;
}

/* ---- checks ----------------------------------------------------------------------------------------------------- */

static int by_place(const void *a, const void *b) {
    const StTensor *x = a, *y = b;
    if (x->data != y->data) return (const char *)x->data < (const char *)y->data ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Every byte of the data belongs to exactly one tensor. */
static Status check_ranges(const char *path, StTensor *tensors, size_t n, const FileMap *data) {
    size_t end = 0;
    if (n) qsort(tensors, n, sizeof *tensors, by_place);
    for (size_t i = 0; i < n; i++) {
        const StTensor *t = &tensors[i];
        size_t begin = (size_t)((const uint8_t *)t->data - data->data);
        if (begin != end)
            return FAIL(TANE_EFORMAT,
                        "%s: tensor \"%.200s\" begins at byte %zu of the data, but %s%.200s ends at %zu: %s", path,
                        t->name, begin, i ? "tensor " : "the header", i ? tensors[i - 1].name : "", end,
                        begin < end ? "they overlap" : "there is a hole between them");
        end = begin + t->bytes;
    }
    if (end != data->size)
        return FAIL(TANE_EFORMAT, "%s: %zu bytes behind the last tensor belong to none; the file is damaged", path,
                    data->size - end);
    return TANE_OK;
}

/* What people most often have instead of the weights. */
static const char *other_format(const FileMap *map) {
    if (map->size >= 12 && !memcmp(map->data, "version http", 12))
        return " (this is a Git LFS pointer, not the weights: run `git lfs pull`)";
    if (map->size >= 4 && !memcmp(map->data, "GGUF", 4)) return " (this is a GGUF file)";
    if (map->size >= 2 && (!memcmp(map->data, "PK", 2) || !memcmp(map->data, "\x80\x02", 2)))
        return " (this looks like a PyTorch pickle: convert it to safetensors)";
    if (map->size >= 1 && map->data[0] == '<') return " (this looks like a web page: the download went wrong)";
    return "";
}

static Status check_length(const char *path, const FileMap *map, uint64_t *length) {
    *length = 0;
    if (map->size < LENGTH_BYTES)
        return FAIL(TANE_EFORMAT, "%s: only %zu bytes long; a safetensors file begins with 8 bytes of header length%s",
                    path, map->size, other_format(map));
    for (int i = 0; i < LENGTH_BYTES; i++) *length |= (uint64_t)map->data[i] << 8 * i;
    if (*length > MAX_HEADER)
        return FAIL(TANE_EFORMAT, "%s: claims a header of %llu bytes; at most %d are allowed%s", path,
                    (unsigned long long)*length, MAX_HEADER, other_format(map));
    if (*length > map->size - LENGTH_BYTES)
        return FAIL(TANE_EFORMAT,
                    "%s: claims a header of %llu bytes, but the file has only %zu; the download or copy is incomplete: "
                    "get it again",
                    path, (unsigned long long)*length, map->size);
    if (*length == 0 || map->data[LENGTH_BYTES] != '{')
        return FAIL(TANE_EFORMAT, "%s: the header does not begin with '{'; not a safetensors file%s", path,
                    other_format(map));
    return TANE_OK;
}

/* Maps one file and appends its tensors. */
static Status open_one(StFile *file, const char *path) {
    FileMap *map = &file->maps[file->n_maps];
    char *kept;
    uint64_t length;
    size_t first = file->n;
    TRY_RETURN(arena_strdup(&file->arena, &kept, path));
    TRY_RETURN(file_map(kept, map));
    file->n_maps++;
    TRY_RETURN(check_length(kept, map, &length));
    const char *header = (const char *)map->data + LENGTH_BYTES;
    FileMap data = {map->data + LENGTH_BYTES + length, map->size - LENGTH_BYTES - (size_t)length};
    TRY_RETURN(read_header(file, kept, header, (size_t)length, &data));
    return check_ranges(kept, file->tensors + first, file->n - first, &data);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const StTensor *)a)->name, ((const StTensor *)b)->name);
}

static Status sort_names(StFile *file) {
    if (file->n) qsort(file->tensors, file->n, sizeof *file->tensors, by_name);
    for (size_t i = 1; i < file->n; i++) {
        const StTensor *a = &file->tensors[i - 1], *b = &file->tensors[i];
        if (strcmp(a->name, b->name)) continue;
        if (a->file == b->file) return FAIL(TANE_EFORMAT, "%s: tensor \"%.200s\" is there twice", a->file, a->name);
        return FAIL(TANE_EFORMAT, "%s: tensor \"%.200s\" is also in %s", a->file, a->name, b->file);
    }
    for (size_t i = 0; i < file->n; i++) file->tensors[i].index = i;
    return TANE_OK;
}

/* ---- shards ----------------------------------------------------------------------------------------------------- */

static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* The names of the index's files, each once, sorted. They are plain names of files beside the index. */
static Status list_shards(const char *path, const json_t *map, const char ***out, size_t *n) {
    const char *key;
    json_t *value;
    *n = 0;
    TRY_RETURN(mem_new((void **)out, json_object_size(map), sizeof **out));
    json_object_foreach((json_t *)(uintptr_t)map, key, value) {
        const char *name = json_string_value(value);
        if (!name || !*name || name[0] == '.' || strpbrk(name, "/\\"))
            return FAIL(TANE_EFORMAT,
                        "%s: weight_map puts \"%.200s\" into \"%.200s\"; it must be the plain name of a file in the "
                        "same folder",
                        path, key, name ? name : "(no text)");
        (*out)[(*n)++] = name;
    }
    if (*n == 0) return FAIL(TANE_EFORMAT, "%s: weight_map is empty", path);
    qsort(*out, *n, sizeof **out, by_text);
    size_t kept = 1;
    for (size_t i = 1; i < *n; i++)
        if (strcmp((*out)[i], (*out)[kept - 1])) (*out)[kept++] = (*out)[i];
    *n = kept;
    return TANE_OK;
}

static Status check_weight_map(const StFile *file, const char *path, const json_t *map) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)map, key, value) {
        const StTensor *t = st_find(file, key);
        if (!t || strcmp(path_base(t->file), json_string_value(value)))
            return FAIL(TANE_EFORMAT, "%s: weight_map says that \"%.200s\" is in %s, but it is %s%s", path, key,
                        json_string_value(value), t ? "in " : "not there", t ? path_base(t->file) : "");
    }
    return TANE_OK;
}

static Status open_sharded(StFile *file, const char *path) {
    Status st = TANE_OK;
    json_t *root = NULL;
    const char **names = NULL, *base = path_base(path);
    Str shard = {0};
    size_t n;
    TRY(json_read_file(path, &root));
    const json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map))
        TRY(FAIL(TANE_EFORMAT, "%s: \"weight_map\" is missing; it must be an object of tensor names and files", path));
    TRY(list_shards(path, map, &names, &n));
    TRY(MEM_NEW_ARRAY(&file->maps, n));
    for (size_t i = 0; i < n; i++) {
        shard.len = 0;
        TRY(str_printf(&shard, "%.*s%s", (int)(base - path), path, names[i]));
        st = open_one(file, shard.text);
        if (st == TANE_ENOTFOUND) (void)err_context("%s names a file that is missing", path);
        if (st != TANE_OK) goto out;
    }
    TRY(sort_names(file));
    TRY(check_weight_map(file, path, map));
out:
    str_free(&shard);
    mem_free(names);
    json_decref(root);
    return st;
}

/* ---- opening and looking up ------------------------------------------------------------------------------------- */

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

/* The file to open for what the user named. */
static Status resolve(StFile *file, const char *path) {
    char *found;
    if (!dir_exists(path)) {
        TRY_RETURN(arena_strdup(&file->arena, &found, path));
        file->path = found;
        return TANE_OK;
    }
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json"};
    for (int i = 0; i < 2; i++) {
        TRY_RETURN(arena_printf(&file->arena, &found, "%s%s%s", path, ends_with(path, "/") ? "" : "/", names[i]));
        file->path = found;
        if (file_exists(found)) return TANE_OK;
    }
    return FAIL(TANE_ENOTFOUND, "%s: no weights in this folder; expected %s or %s", path, names[0], names[1]);
}

Status st_open(StFile **out, const char *path) {
    Status st = TANE_OK;
    StFile *file;
    *out = NULL;
    TRY_RETURN(MEM_NEW(&file));
    TRY(resolve(file, path));
    if (ends_with(file->path, ".json")) {
        TRY(open_sharded(file, file->path));
    } else {
        TRY(MEM_NEW_ARRAY(&file->maps, 1));
        TRY(open_one(file, file->path));
        TRY(sort_names(file));
    }
    if (file->n_metadata) qsort(file->metadata, file->n_metadata, sizeof *file->metadata, by_key);
    *out = file;
    return TANE_OK;
out:
    st_close(&file);
    return st;
}

void st_close(StFile **handle) {
    StFile *file = *handle;
    *handle = NULL;
    if (!file) return;
    for (size_t i = 0; i < file->n_maps; i++) file_unmap(&file->maps[i]);
    mem_free(file->maps);
    mem_free(file->tensors);
    mem_free(file->metadata);
    arena_release(&file->arena);
    mem_free(file);
}

size_t st_count(const StFile *file) { return file->n; }
const StTensor *st_get(const StFile *file, size_t i) { return &file->tensors[i]; }

const StTensor *st_find(const StFile *file, const char *name) {
    StTensor wanted = {.name = name};
    return file->n ? bsearch(&wanted, file->tensors, file->n, sizeof *file->tensors, by_name) : NULL;
}

Status st_require(const StFile *file, const char *name, const StTensor **out) {
    *out = st_find(file, name);
    if (*out) return TANE_OK;
    const char *nearest = NULL;
    const char **names;
    TRY_RETURN(MEM_NEW_ARRAY(&names, file->n));
    for (size_t i = 0; i < file->n; i++) names[i] = file->tensors[i].name;
    nearest = err_nearest(name, names, file->n);
    mem_free(names);
    return FAIL(TANE_ENOTFOUND, "%s: no tensor \"%.200s\" among its %zu%s%s%s", file->path, name, file->n,
                nearest ? "; the nearest is \"" : "", nearest ? nearest : "", nearest ? "\"" : "");
}

const char *st_metadata(const StFile *file, const char *key) {
    Pair wanted = {.key = key};
    if (!file->n_metadata) return NULL;
    const Pair *pair = bsearch(&wanted, file->metadata, file->n_metadata, sizeof *file->metadata, by_key);
    return pair ? pair->value : NULL;
}
size_t st_metadata_count(const StFile *file) { return file->n_metadata; }
void st_metadata_get(const StFile *file, size_t i, const char **key, const char **value) {
    *key = file->metadata[i].key;
    *value = file->metadata[i].value;
}
