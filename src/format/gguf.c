/* Reading GGUF files: map, walk the header once with every length checked against what is left, then the tensors'
 * ranges; look up by name in sorted order. */
#include "format/gguf.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

enum {
    MIN_KEY = 8 + 1 + 4 + 1,            /* name of one letter, kind, value of one byte */
    MIN_TENSOR = 8 + 1 + 4 + 8 + 4 + 8, /* name, rank, one size, type, offset */
    MAX_KEYS = 1 << 16,                 /* real files have a hundred; a key costs more memory than its bytes */
    MAX_TENSORS = 1 << 20,
    MAX_NAME = 1024,
    MIN_ALIGNMENT = 8,
    MAX_ALIGNMENT = 1 << 16,
    MARK_EVERY = 64 /* texts of an array between two remembered places */
};

typedef struct Key {
    const char *name;
    GgufKind kind, element; /* element: of an array */
    const uint8_t *value;   /* for an array its first element */
    size_t n;               /* elements of an array */
    const uint8_t **marks;  /* every MARK_EVERY-th text of an array of texts */
    const uint8_t *begin, *end; /* all of the value, with an array's element type and length */
} Key;

/* One file; a split model has several. */
typedef struct Part {
    const char *path;
    FileMap map;
    Key *keys;
    const Key **sorted; /* by name */
    size_t n_keys;
    GgufTensor *tensors;
    size_t n_tensors;
} Part;

struct GgufFile {
    Arena arena; /* names, paths, marks */
    Part *parts;
    size_t n_parts;
    const GgufTensor **tensors; /* of all parts, in their order */
    const GgufTensor **sorted;  /* by name */
    size_t n_tensors;
};

/* ---- kinds ------------------------------------------------------------------------------------------------------ */

/* Bytes of a value; 0: texts and arrays, which differ. */
static size_t kind_size(GgufKind kind) {
    static const uint8_t size[GGUF_KINDS] = {
        [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
        [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
    };
    return size[kind];
}

const char *gguf_kind_name(GgufKind kind) {
    static const char *const name[GGUF_KINDS] = {"u8",   "i8",   "u16",   "i16", "u32", "i32", "f32",
                                                 "bool", "text", "array", "u64", "i64", "f64"};
    return name[kind];
}

static bool is_text(GgufKind kind) { return kind == GGUF_STRING; }
static bool is_number(GgufKind kind) { return kind_size(kind) && kind != GGUF_BOOL; }
static bool is_integer(GgufKind kind) { return is_number(kind) && kind != GGUF_F32 && kind != GGUF_F64; }

/* ---- walking the bytes ------------------------------------------------------------------------------------------ */

typedef struct Cursor {
    const char *path;
    const uint8_t *begin, *p, *end;
} Cursor;

static size_t left(const Cursor *c) { return (size_t)(c->end - c->p); }
static size_t place(const Cursor *c) { return (size_t)(c->p - c->begin); }

static Status cut(const Cursor *c, const char *what) {
    return FAIL(TANE_EFORMAT,
                "%s: ends in the middle of %s, at byte %zu; the download or copy is incomplete: get it again", c->path,
                what, place(c));
}

static Status take_u32(Cursor *c, const char *what, uint32_t *out) {
    *out = 0;
    if (left(c) < 4) return cut(c, what);
    memcpy(out, c->p, 4);
    c->p += 4;
    return TANE_OK;
}

static Status take_u64(Cursor *c, const char *what, uint64_t *out) {
    *out = 0;
    if (left(c) < 8) return cut(c, what);
    memcpy(out, c->p, 8);
    c->p += 8;
    return TANE_OK;
}

static Status take_text(Cursor *c, const char *what, GgufText *out) {
    uint64_t n;
    size_t at = place(c);
    *out = (GgufText){0};
    TRY_RETURN(take_u64(c, what, &n));
    if (n > left(c))
        return FAIL(TANE_EFORMAT, "%s: %s at byte %zu claims %llu bytes, but only %zu are left in the file", c->path,
                    what, at, (unsigned long long)n, left(c));
    *out = (GgufText){(const char *)c->p, (size_t)n};
    c->p += n;
    return TANE_OK;
}

/* A text that names something: not empty, no zero byte, not absurdly long. */
static Status take_name(Cursor *c, Arena *arena, const char *what, const char **out) {
    GgufText text;
    char *name;
    size_t at = place(c);
    TRY_RETURN(take_text(c, what, &text));
    if (text.n == 0) return FAIL(TANE_EFORMAT, "%s: %s at byte %zu is empty", c->path, what, at);
    if (text.n > MAX_NAME)
        return FAIL(TANE_EFORMAT, "%s: %s at byte %zu has %zu bytes; at most %d are allowed", c->path, what, at, text.n,
                    MAX_NAME);
    if (memchr(text.data, 0, text.n))
        return FAIL(TANE_EFORMAT, "%s: %s at byte %zu has a zero byte in it", c->path, what, at);
    TRY_RETURN(ARENA_NEW_ARRAY(arena, &name, text.n + 1));
    memcpy(name, text.data, text.n);
    *out = name;
    return TANE_OK;
}

/* ---- keys ------------------------------------------------------------------------------------------------------- */

static Status check_bools(const Cursor *c, const char *name, const uint8_t *values, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (values[i] > 1)
            return FAIL(TANE_EFORMAT, "%s: the key \"%.200s\" is a bool with the value %d; it must be 0 or 1", c->path,
                        name, values[i]);
    return TANE_OK;
}

static Status walk_texts(Cursor *c, Arena *arena, Key *key) {
    GgufText text;
    if (key->n > left(c) / 8)
        return FAIL(TANE_EFORMAT,
                    "%s: the key \"%.200s\" claims an array of %zu texts, but only %zu bytes are left in the "
                    "file",
                    c->path, key->name, key->n, left(c));
    TRY_RETURN(ARENA_NEW_ARRAY(arena, &key->marks, (key->n + MARK_EVERY - 1) / MARK_EVERY));
    for (size_t i = 0; i < key->n; i++) {
        if (i % MARK_EVERY == 0) key->marks[i / MARK_EVERY] = c->p;
        TRY_RETURN(take_text(c, "a text in an array", &text));
    }
    return TANE_OK;
}

static Status walk_array(Cursor *c, Arena *arena, Key *key) {
    uint32_t element;
    uint64_t n;
    TRY_RETURN(take_u32(c, "an array's element type", &element));
    TRY_RETURN(take_u64(c, "an array's length", &n));
    if (element == GGUF_ARRAY)
        return FAIL(TANE_EUNSUPPORTED, "%s: the key \"%.200s\" is an array of arrays, which tane does not read",
                    c->path, key->name);
    if (element >= GGUF_KINDS)
        return FAIL(TANE_EFORMAT, "%s: the key \"%.200s\" is an array of the unknown type %u", c->path, key->name,
                    element);
    key->element = (GgufKind)element;
    key->value = c->p;
    size_t size = kind_size(key->element);
    if (n > left(c) / (size ? size : 8))
        return FAIL(TANE_EFORMAT,
                    "%s: the key \"%.200s\" claims an array of %llu elements, but only %zu bytes are left in the file",
                    c->path, key->name, (unsigned long long)n, left(c));
    key->n = (size_t)n;
    if (key->element == GGUF_STRING) return walk_texts(c, arena, key);
    c->p += key->n * size;
    return key->element == GGUF_BOOL ? check_bools(c, key->name, key->value, key->n) : TANE_OK;
}

static Status walk_value(Cursor *c, Arena *arena, Key *key) {
    GgufText text;
    if (key->kind == GGUF_ARRAY) return walk_array(c, arena, key);
    if (key->kind == GGUF_STRING) return take_text(c, "a text", &text);
    if (left(c) < kind_size(key->kind)) return cut(c, "a key's value");
    c->p += kind_size(key->kind);
    return key->kind == GGUF_BOOL ? check_bools(c, key->name, key->value, 1) : TANE_OK;
}

static Status walk_key(Cursor *c, Arena *arena, Key *key) {
    uint32_t kind;
    TRY_RETURN(take_name(c, arena, "a key", &key->name));
    TRY_RETURN(take_u32(c, "a key's type", &kind));
    if (kind >= GGUF_KINDS)
        return FAIL(TANE_EFORMAT, "%s: the key \"%.200s\" has the unknown type %u", c->path, key->name, kind);
    key->kind = (GgufKind)kind;
    key->begin = key->value = c->p;
    TRY_RETURN(walk_value(c, arena, key));
    key->end = c->p;
    return TANE_OK;
}

static int by_key_name(const void *a, const void *b) {
    return strcmp((*(const Key *const *)a)->name, (*(const Key *const *)b)->name);
}

static Status walk_keys(Cursor *c, Arena *arena, Part *part, uint64_t n) {
    if (n > left(c) / MIN_KEY)
        return FAIL(TANE_EFORMAT, "%s: claims %llu keys, but only %zu bytes are left in the file", c->path,
                    (unsigned long long)n, left(c));
    if (n > MAX_KEYS)
        return FAIL(TANE_EUNSUPPORTED, "%s: has %llu keys; tane reads at most %d", c->path, (unsigned long long)n,
                    MAX_KEYS);
    TRY_RETURN(MEM_NEW_ARRAY(&part->keys, (size_t)n));
    TRY_RETURN(MEM_NEW_ARRAY(&part->sorted, (size_t)n));
    for (; part->n_keys < n; part->n_keys++) {
        Key *key = &part->keys[part->n_keys];
        TRY_RETURN(walk_key(c, arena, key));
        part->sorted[part->n_keys] = key;
    }
    if (n) qsort(part->sorted, part->n_keys, sizeof *part->sorted, by_key_name);
    for (size_t i = 1; i < part->n_keys; i++)
        if (!by_key_name(&part->sorted[i - 1], &part->sorted[i]))
            return FAIL(TANE_EFORMAT, "%s: the key \"%.200s\" is there twice", c->path, part->sorted[i]->name);
    return TANE_OK;
}

/* ---- tensors ---------------------------------------------------------------------------------------------------- */

/* The sizes, fastest first in the file, and how many numbers they make. */
static Status walk_shape(Cursor *c, GgufTensor *t, int64_t *count) {
    uint32_t rank;
    uint64_t size;
    *count = 1;
    TRY_RETURN(take_u32(c, "a tensor's rank", &rank));
    if (rank < 1 || rank > GGUF_MAX_RANK)
        return FAIL(TANE_EFORMAT, "%s: tensor \"%.200s\" has %u dimensions; there must be 1 to %d", c->path, t->name,
                    rank, GGUF_MAX_RANK);
    t->rank = (int)rank;
    for (int i = t->rank - 1; i >= 0; i--) {
        TRY_RETURN(take_u64(c, "a tensor's shape", &size));
        if (size == 0 || size > INT64_MAX)
            return FAIL(TANE_EFORMAT, "%s: tensor \"%.200s\" has the size %lld in its shape; it must be at least 1",
                        c->path, t->name, (long long)size);
        t->shape[i] = (int64_t)size;
        if (__builtin_mul_overflow(*count, t->shape[i], count))
            return FAIL(TANE_EFORMAT, "%s: tensor \"%.200s\" has a shape too large for any file", c->path, t->name);
    }
    return TANE_OK;
}

static Status walk_type(Cursor *c, GgufTensor *t) {
    uint32_t type;
    TRY_RETURN(take_u32(c, "a tensor's type", &type));
    t->type = ggml_type_info(type);
    if (t->type) return TANE_OK;
    const char *foreign = ggml_type_foreign_name(type);
    if (!foreign) return FAIL(TANE_EFORMAT, "%s: tensor \"%.200s\" has the unknown type %u", c->path, t->name, type);
    return FAIL(
        TANE_EUNSUPPORTED,
        "%s: tensor \"%.200s\" has the type %s, which tane cannot read; it reads %s: get the model in one of these",
        c->path, t->name, foreign, ggml_type_names(false));
}

/* `expected`: where the one before it ended, aligned; becomes where the next one begins. */
static Status check_range(const Cursor *c, const GgufTensor *t, uint64_t offset, size_t alignment, uint64_t *expected) {
    if (offset % alignment)
        return FAIL(TANE_EFORMAT,
                    "%s: tensor \"%.200s\" is at byte %llu of the data, which is no multiple of the alignment "
                    "%zu",
                    c->path, t->name, (unsigned long long)offset, alignment);
    if (offset != *expected)
        return FAIL(
            TANE_EFORMAT,
            "%s: tensor \"%.200s\" is at byte %llu of the data, but must be at %llu, right behind the one before "
            "it: %s",
            c->path, t->name, (unsigned long long)offset, (unsigned long long)*expected,
            offset < *expected ? "they overlap" : "there is a hole");
    uint64_t end;
    if (__builtin_add_overflow(offset, t->bytes + alignment - 1, &end))
        return FAIL(TANE_EFORMAT, "%s: tensor \"%.200s\" makes the data too large for any file", c->path, t->name);
    *expected = end / alignment * alignment;
    return TANE_OK;
}

static Status walk_tensor(Cursor *c, Arena *arena, GgufTensor *t, size_t alignment, uint64_t *offset,
                          uint64_t *expected) {
    int64_t count;
    TRY_RETURN(take_name(c, arena, "a tensor's name", &t->name));
    TRY_RETURN(walk_shape(c, t, &count));
    TRY_RETURN(walk_type(c, t));
    TRY_RETURN(take_u64(c, "a tensor's offset", offset));
    int64_t row = t->shape[t->rank - 1];
    if (row % t->type->block)
        return FAIL(TANE_EFORMAT, "%s: tensor \"%.200s\" has rows of %lld numbers, but %s takes multiples of %lld",
                    c->path, t->name, (long long)row, t->type->name, (long long)t->type->block);
    if (__builtin_mul_overflow((size_t)(count / t->type->block), t->type->bytes, &t->bytes) ||
        t->bytes > INT64_MAX - MAX_ALIGNMENT)
        return FAIL(TANE_EFORMAT, "%s: tensor \"%.200s\" has a shape too large for any file", c->path, t->name);
    return check_range(c, t, *offset, alignment, expected);
}

static Status too_short(const Part *part, const GgufTensor *t, uint64_t needed) {
    return FAIL(TANE_EFORMAT,
                "%s: tensor \"%.200s\" ends at byte %llu of the file, which has only %zu; the download or copy is "
                "incomplete: get it again",
                part->path, t->name, (unsigned long long)needed, part->map.size);
}

/* Behind the header: padding, then the tensors one after another, then nothing. */
static Status place_tensors(Part *part, const Cursor *c, size_t alignment) {
    size_t size = part->map.size, data = (place(c) + alignment - 1) / alignment * alignment, end = place(c);
    uint64_t at = data;
    for (size_t i = 0; i < part->n_tensors; i++) {
        GgufTensor *t = &part->tensors[i];
        if (at > size || t->bytes > size - at) return too_short(part, t, at + t->bytes);
        t->data = part->map.data + at;
        end = (size_t)at + t->bytes;
        at = (end + alignment - 1) / alignment * alignment;
    }
    if (size > at) /* the last tensor may be padded or not */
        return FAIL(TANE_EFORMAT, "%s: %zu bytes behind the last tensor belong to none; the file is damaged",
                    part->path, size - end);
    return TANE_OK;
}

static Status get_alignment(const Part *part, size_t *out);

static Status walk_tensors(Cursor *c, Arena *arena, Part *part, uint64_t n) {
    size_t alignment;
    uint64_t offset = 0, expected = 0;
    TRY_RETURN(get_alignment(part, &alignment));
    if (n > left(c) / MIN_TENSOR)
        return FAIL(TANE_EFORMAT, "%s: claims %llu tensors, but only %zu bytes are left in the file", c->path,
                    (unsigned long long)n, left(c));
    if (n > MAX_TENSORS)
        return FAIL(TANE_EUNSUPPORTED, "%s: has %llu tensors; tane reads at most %d", c->path, (unsigned long long)n,
                    MAX_TENSORS);
    TRY_RETURN(MEM_NEW_ARRAY(&part->tensors, (size_t)n));
    for (; part->n_tensors < n; part->n_tensors++)
        TRY_RETURN(walk_tensor(c, arena, &part->tensors[part->n_tensors], alignment, &offset, &expected));
    return place_tensors(part, c, alignment);
}

/* ---- one file --------------------------------------------------------------------------------------------------- */

/* What people most often have instead. */
static const char *other_format(const FileMap *map) {
    static const char *const older[] = {"lmgg", "fmgg", "tjgg", "algg"};
    const uint8_t *p = map->data;
    if (map->size >= 12 && !memcmp(p, "version http", 12))
        return " (this is a Git LFS pointer, not the model: run `git lfs pull`)";
    for (int i = 0; map->size >= 4 && i < 4; i++)
        if (!memcmp(p, older[i], 4)) return " (this is the older GGML format: convert it with a llama.cpp of 2023)";
    if (map->size >= 9 && p[8] == '{') return " (this looks like safetensors)";
    if (map->size >= 2 && !memcmp(p, "PK", 2)) return " (this looks like a PyTorch pickle)";
    if (map->size >= 1 && *p == '<') return " (this looks like a web page: the download went wrong)";
    return "";
}

static Status walk_version(Cursor *c) {
    uint32_t version;
    TRY_RETURN(take_u32(c, "the version", &version));
    if (version == 2 || version == 3) return TANE_OK;
    if (version == 1)
        return FAIL(TANE_EUNSUPPORTED,
                    "%s: GGUF version 1, which nobody writes since 2023; tane reads versions 2 and 3: "
                    "get a newer file of the model",
                    c->path);
    if (__builtin_bswap32(version) >= 1 && __builtin_bswap32(version) <= 3)
        return FAIL(TANE_EUNSUPPORTED,
                    "%s: a big-endian GGUF file; tane reads little-endian ones: get that one, or turn it "
                    "round with gguf-py's gguf_convert_endian.py",
                    c->path);
    return FAIL(TANE_EUNSUPPORTED, "%s: GGUF version %u, which tane does not know; it reads versions 2 and 3", c->path,
                version);
}

static Status open_part(Part *part, Arena *arena, const char *path) {
    char *kept;
    uint64_t n_tensors, n_keys;
    TRY_RETURN(arena_strdup(arena, &kept, path));
    part->path = kept;
    TRY_RETURN(file_map(kept, &part->map));
    const FileMap *map = &part->map;
    if (map->size < 4 || memcmp(map->data, "GGUF", 4))
        return FAIL(TANE_EFORMAT, "%s: does not begin with \"GGUF\"; not a GGUF file%s", kept, other_format(map));
    Cursor c = {kept, map->data, map->data + 4, map->data + map->size};
    TRY_RETURN(walk_version(&c));
    TRY_RETURN(take_u64(&c, "the number of tensors", &n_tensors));
    TRY_RETURN(take_u64(&c, "the number of keys", &n_keys));
    TRY_RETURN(walk_keys(&c, arena, part, n_keys));
    return walk_tensors(&c, arena, part, n_tensors);
}

/* ---- values ----------------------------------------------------------------------------------------------------- */

static const Key *find_key(const Part *part, const char *name) {
    Key wanted = {.name = name};
    const Key *at = &wanted;
    if (!part->n_keys) return NULL;
    const Key **found = bsearch(&at, part->sorted, part->n_keys, sizeof *part->sorted, by_key_name);
    return found ? *found : NULL;
}

static Status missing(const Part *part, const char *key, const char *wanted) {
    return FAIL(TANE_EFORMAT, "%s: the key \"%s\" is missing; it must be %s", part->path, key, wanted);
}

static Status wrong_kind(const Part *part, const Key *key, const char *wanted) {
    bool array = key->kind == GGUF_ARRAY;
    return FAIL(TANE_EFORMAT, "%s: the key \"%.200s\" is %s%s; it must be %s", part->path, key->name,
                array ? "an array of type " : "of type ", gguf_kind_name(array ? key->element : key->kind), wanted);
}

/* Element i behind `p`. False: an unsigned one that int64 does not hold. */
static bool load_int(GgufKind kind, const uint8_t *p, size_t i, int64_t *out) {
    size_t size = kind_size(kind);
    uint64_t bits = 0;
    memcpy(&bits, p + i * size, size);
    bool is_signed = kind == GGUF_I8 || kind == GGUF_I16 || kind == GGUF_I32 || kind == GGUF_I64;
    int unused = 64 - 8 * (int)size;
    *out = is_signed ? (int64_t)(bits << unused) >> unused : (int64_t)bits;
    return is_signed || bits <= INT64_MAX;
}

static double load_number(GgufKind kind, const uint8_t *p, size_t i) {
    float f;
    double d;
    int64_t whole;
    if (kind == GGUF_F32) return memcpy(&f, p + 4 * i, 4), (double)f;
    if (kind == GGUF_F64) return memcpy(&d, p + 8 * i, 8), d;
    return load_int(kind, p, i, &whole) ? (double)whole : (double)(uint64_t)whole;
}

/* A text at p, whose length was checked when the file was opened. */
static GgufText load_text(const uint8_t *p) {
    uint64_t n;
    memcpy(&n, p, 8);
    return (GgufText){(const char *)p + 8, (size_t)n};
}

static Status read_int(const Part *part, const char *name, bool required, int64_t lo, int64_t hi, int64_t *out) {
    char wanted[96] = "a whole number";
    if (hi != INT64_MAX)
        snprintf(wanted, sizeof wanted, "a whole number from %lld to %lld", (long long)lo, (long long)hi);
    else if (lo != INT64_MIN) snprintf(wanted, sizeof wanted, "a whole number of at least %lld", (long long)lo);
    const Key *key = find_key(part, name);
    int64_t value;
    if (!key) return required ? missing(part, name, wanted) : TANE_OK;
    if (!is_integer(key->kind)) return wrong_kind(part, key, wanted);
    bool fits = load_int(key->kind, key->value, 0, &value);
    if (!fits)
        return FAIL(TANE_EFORMAT, "%s: the key \"%s\" is %llu; it must be %s", part->path, name,
                    (unsigned long long)value, wanted);
    if (value < lo || value > hi)
        return FAIL(TANE_EFORMAT, "%s: the key \"%s\" is %lld; it must be %s", part->path, name, (long long)value,
                    wanted);
    *out = value;
    return TANE_OK;
}

static Status get_alignment(const Part *part, size_t *out) {
    int64_t alignment = 32;
    *out = (size_t)alignment;
    TRY_RETURN(read_int(part, "general.alignment", false, INT64_MIN, INT64_MAX, &alignment));
    if (alignment < MIN_ALIGNMENT || alignment > MAX_ALIGNMENT || (alignment & (alignment - 1)))
        return FAIL(TANE_EFORMAT, "%s: general.alignment is %lld; it must be a power of two from %d to %d", part->path,
                    (long long)alignment, MIN_ALIGNMENT, MAX_ALIGNMENT);
    *out = (size_t)alignment;
    return TANE_OK;
}

Status gguf_int(const GgufFile *file, const char *key, bool required, int64_t lo, int64_t hi, int64_t *out) {
    return read_int(&file->parts[0], key, required, lo, hi, out);
}

Status gguf_double(const GgufFile *file, const char *name, bool required, double *out) {
    const Part *part = &file->parts[0];
    const Key *key = find_key(part, name);
    if (!key) return required ? missing(part, name, "a number") : TANE_OK;
    if (!is_number(key->kind)) return wrong_kind(part, key, "a number");
    *out = load_number(key->kind, key->value, 0);
    return TANE_OK;
}

Status gguf_bool(const GgufFile *file, const char *name, bool required, bool *out) {
    const Part *part = &file->parts[0];
    const Key *key = find_key(part, name);
    if (!key) return required ? missing(part, name, "a bool") : TANE_OK;
    if (key->kind != GGUF_BOOL) return wrong_kind(part, key, "a bool");
    *out = *key->value;
    return TANE_OK;
}

Status gguf_text(const GgufFile *file, const char *name, bool required, GgufText *out) {
    const Part *part = &file->parts[0];
    const Key *key = find_key(part, name);
    if (!key) return required ? missing(part, name, "a text") : TANE_OK;
    if (key->kind != GGUF_STRING) return wrong_kind(part, key, "a text");
    *out = load_text(key->value);
    return TANE_OK;
}

/* ---- arrays ----------------------------------------------------------------------------------------------------- */

Status gguf_array(const GgufFile *file, const char *name, bool required, GgufKind *element, size_t *n) {
    const Part *part = &file->parts[0];
    const Key *key = find_key(part, name);
    *n = 0;
    if (!key) return required ? missing(part, name, "an array") : TANE_OK;
    if (key->kind != GGUF_ARRAY) return wrong_kind(part, key, "an array");
    *element = key->element;
    *n = key->n;
    return TANE_OK;
}

/* Element by place: the caller has asked gguf_array for kind and number. */
GgufText gguf_array_text(const GgufFile *file, const char *name, size_t i) {
    const Key *key = find_key(&file->parts[0], name);
    assert(key && key->marks && i < key->n);
    const uint8_t *p = key->marks[i / MARK_EVERY];
    GgufText text = load_text(p);
    for (size_t steps = i % MARK_EVERY; steps-- > 0;) text = load_text((const uint8_t *)text.data + text.n);
    return text;
}

double gguf_array_number(const GgufFile *file, const char *name, size_t i) {
    const Key *key = find_key(&file->parts[0], name);
    assert(key && key->kind == GGUF_ARRAY && key->element != GGUF_STRING && i < key->n);
    return load_number(key->element, key->value, i);
}

/* The array `name` with n elements of a kind that `fits`. */
static Status whole_array(const GgufFile *file, const char *name, size_t n, bool (*fits)(GgufKind), const char *wanted,
                          const Key **out) {
    const Part *part = &file->parts[0];
    const Key *key = find_key(part, name);
    *out = key;
    if (!key) return missing(part, name, wanted);
    if (key->kind != GGUF_ARRAY || !fits(key->element)) return wrong_kind(part, key, wanted);
    if (key->n != n)
        return FAIL(TANE_EFORMAT, "%s: the array \"%s\" has %zu elements; %zu are needed", part->path, name, key->n, n);
    return TANE_OK;
}

Status gguf_array_texts(const GgufFile *file, const char *name, GgufText *texts, size_t n) {
    const Key *key;
    TRY_RETURN(whole_array(file, name, n, is_text, "an array of texts", &key));
    const uint8_t *p = key->value;
    for (size_t i = 0; i < n; i++) {
        texts[i] = load_text(p);
        p = (const uint8_t *)texts[i].data + texts[i].n;
    }
    return TANE_OK;
}

Status gguf_array_ints(const GgufFile *file, const char *name, int64_t *values, size_t n) {
    const Key *key;
    TRY_RETURN(whole_array(file, name, n, is_integer, "an array of whole numbers", &key));
    for (size_t i = 0; i < n; i++)
        if (!load_int(key->element, key->value, i, &values[i]))
            return FAIL(TANE_EFORMAT, "%s: element %zu of the array \"%s\" is %llu, which does not fit in 63 bits",
                        file->parts[0].path, i, name, (unsigned long long)values[i]);
    return TANE_OK;
}

Status gguf_array_doubles(const GgufFile *file, const char *name, double *values, size_t n) {
    const Key *key;
    TRY_RETURN(whole_array(file, name, n, is_number, "an array of numbers", &key));
    for (size_t i = 0; i < n; i++) values[i] = load_number(key->element, key->value, i);
    return TANE_OK;
}

/* ---- split models ----------------------------------------------------------------------------------------------- */

enum { SPLIT_SUFFIX = 20 }; /* "-00001-of-00003.gguf" */

/* The path of part i of n, from the first one's, which must follow the pattern. */
static Status part_path(Str *out, const char *first, int64_t i, int64_t n) {
    char suffix[64];
    size_t length = strlen(first);
    snprintf(suffix, sizeof suffix, "-%05lld-of-%05lld.gguf", 1LL, (long long)n);
    if (length < SPLIT_SUFFIX || strcmp(first + length - SPLIT_SUFFIX, suffix))
        return FAIL(TANE_EFORMAT,
                    "%s: the first of %lld parts, so its name must end in \"%s\" for the others to be found", first,
                    (long long)n, suffix);
    out->len = 0;
    TRY_RETURN(str_add(out, first, length - SPLIT_SUFFIX));
    return str_printf(out, "-%05lld-of-%05lld.gguf", (long long)i + 1, (long long)n);
}

/* Part `no` of `count`; of the first one, opened before anything is known of the others, *count is the answer. */
static Status check_split(const Part *part, int64_t no, int64_t *count) {
    int64_t part_no = 0, part_count = 1;
    TRY_RETURN(read_int(part, "split.no", false, 0, 65534, &part_no));
    TRY_RETURN(read_int(part, "split.count", false, 0, 65535, &part_count));
    if (no == 0 && part_no != 0)
        return FAIL(TANE_EINVAL, "%s: part %lld of a model of %lld parts; open the first one", part->path,
                    (long long)part_no + 1, (long long)part_count);
    if (no != 0 && (part_no != no || part_count != *count))
        return FAIL(TANE_EFORMAT, "%s: says that it is part %lld of %lld, but by its name it is part %lld of %lld",
                    part->path, (long long)part_no + 1, (long long)part_count, (long long)no + 1, (long long)*count);
    *count = part_count > 1 ? part_count : 1;
    return TANE_OK;
}

static Status open_parts(GgufFile *file, const char *path) {
    Status st = TANE_OK;
    Str name = {0};
    int64_t count = 1;
    TRY(MEM_NEW_ARRAY(&file->parts, 1));
    file->n_parts = 1;
    TRY(open_part(&file->parts[0], &file->arena, path));
    TRY(check_split(&file->parts[0], 0, &count));
    if (count > 1) TRY(mem_grow((void **)&file->parts, 1, (size_t)count, sizeof *file->parts));
    for (int64_t i = 1; i < count; i++) {
        TRY(part_path(&name, path, i, count));
        file->n_parts++;
        st = open_part(&file->parts[i], &file->arena, name.text);
        if (st == TANE_ENOTFOUND) (void)err_context("%s: a part of the model is missing", path);
        if (st != TANE_OK) goto out;
        TRY(check_split(&file->parts[i], i, &count));
    }
out:
    str_free(&name);
    return st;
}

static int by_tensor_name(const void *a, const void *b) {
    return strcmp((*(const GgufTensor *const *)a)->name, (*(const GgufTensor *const *)b)->name);
}

/* One list of the tensors of all parts, and the order by name. */
static Status list_tensors(GgufFile *file) {
    int64_t announced = -1;
    size_t n = 0;
    for (size_t p = 0; p < file->n_parts; p++) n += file->parts[p].n_tensors;
    TRY_RETURN(read_int(&file->parts[0], "split.tensors.count", false, 0, INT64_MAX, &announced));
    if (announced >= 0 && (uint64_t)announced != n)
        return FAIL(TANE_EFORMAT, "%s: announces %lld tensors in all parts, but there are %zu", file->parts[0].path,
                    (long long)announced, n);
    TRY_RETURN(MEM_NEW_ARRAY(&file->tensors, n));
    TRY_RETURN(MEM_NEW_ARRAY(&file->sorted, n));
    for (size_t p = 0; p < file->n_parts; p++)
        for (size_t i = 0; i < file->parts[p].n_tensors; i++)
            file->tensors[file->n_tensors++] = &file->parts[p].tensors[i];
    if (n == 0) return TANE_OK;
    memcpy(file->sorted, file->tensors, n * sizeof *file->sorted);
    qsort(file->sorted, n, sizeof *file->sorted, by_tensor_name);
    for (size_t i = 1; i < n; i++)
        if (!by_tensor_name(&file->sorted[i - 1], &file->sorted[i]))
            return FAIL(TANE_EFORMAT, "%s: tensor \"%.200s\" is there twice", file->parts[0].path,
                        file->sorted[i]->name);
    return TANE_OK;
}

/* ---- opening and looking up ------------------------------------------------------------------------------------- */

Status gguf_open(GgufFile **out, const char *path) {
    Status st = TANE_OK;
    GgufFile *file;
    *out = NULL;
    TRY_RETURN(MEM_NEW(&file));
    TRY(open_parts(file, path));
    TRY(list_tensors(file));
    *out = file;
    return TANE_OK;
out:
    gguf_close(&file);
    return st;
}

void gguf_close(GgufFile **handle) {
    GgufFile *file = *handle;
    *handle = NULL;
    if (!file) return;
    for (size_t p = 0; p < file->n_parts; p++) {
        Part *part = &file->parts[p];
        file_unmap(&part->map);
        mem_free(part->keys);
        mem_free(part->sorted);
        mem_free(part->tensors);
    }
    mem_free(file->parts);
    mem_free(file->tensors);
    mem_free(file->sorted);
    arena_release(&file->arena);
    mem_free(file);
}

const char *gguf_path(const GgufFile *file) { return file->parts[0].path; }
size_t gguf_tensor_count(const GgufFile *file) { return file->n_tensors; }
const GgufTensor *gguf_tensor(const GgufFile *file, size_t i) { return file->tensors[i]; }

const GgufTensor *gguf_find(const GgufFile *file, const char *name) {
    GgufTensor wanted = {.name = name};
    const GgufTensor *at = &wanted;
    if (!file->n_tensors) return NULL;
    const GgufTensor **found = bsearch(&at, file->sorted, file->n_tensors, sizeof *file->sorted, by_tensor_name);
    return found ? *found : NULL;
}

size_t gguf_key_count(const GgufFile *file) { return file->parts[0].n_keys; }
const char *gguf_key(const GgufFile *file, size_t i, GgufKind *kind) {
    if (kind) *kind = file->parts[0].keys[i].kind;
    return file->parts[0].keys[i].name;
}
bool gguf_has(const GgufFile *file, const char *key) { return find_key(&file->parts[0], key) != NULL; }
const void *gguf_key_bytes(const GgufFile *file, size_t i, size_t *n) {
    const Key *key = &file->parts[0].keys[i];
    *n = (size_t)(key->end - key->begin);
    return key->begin;
}
