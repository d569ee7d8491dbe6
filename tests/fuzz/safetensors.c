/* safetensors: what opens lies inside its file, is found by name, and written again is the same. */
#include <assert.h>
#include <string.h>

#include "base/file.h"
#include "format/safetensors.h"
#include "fuzz.h"

static void look_at(const StFile *file, size_t size) {
    const char *key, *value;
    size_t sum = 0;
    char shape[64];
    for (size_t i = 0; i < st_count(file); i++) {
        const StTensor *t = st_get(file, i);
        assert(st_find(file, t->name) == t);
        assert(t->rank >= 0 && t->rank <= ST_MAX_RANK && strlen(st_dtype_word(t->dtype)) > 0);
        st_shape_text(t, shape, sizeof shape);
        fuzz_touch(t->data, t->bytes);
        sum += t->bytes;
    }
    assert(sum <= size);
    for (size_t i = 0; i < st_metadata_count(file); i++) {
        st_metadata_get(file, i, &key, &value);
        assert(st_metadata(file, key));
    }
}

static Status write_again(const StFile *file, const char *path) {
    Status st = TANE_OK;
    StWriter *w;
    const char *key, *value;
    TRY_RETURN(st_writer_open(&w, path));
    for (size_t i = 0; i < st_metadata_count(file); i++) {
        st_metadata_get(file, i, &key, &value);
        TRY(st_writer_metadata(w, key, value));
    }
    for (size_t i = 0; i < st_count(file); i++) {
        const StTensor *t = st_get(file, i);
        TRY(st_writer_add(w, t->name, t->dtype, t->rank, t->shape));
    }
    TRY(st_writer_begin(w));
    for (const StTensor *t; (t = st_writer_next(w));) TRY(st_writer_write(w, st_get(file, t->index)->data, t->bytes));
    TRY(st_writer_close(&w, NULL, NULL));
out:
    st_writer_abort(&w);
    return st;
}

void fuzz_safetensors(const uint8_t *data, size_t n) {
    StFile *file, *again;
    if (st_open(&file, fuzz_file(data, n)) != TANE_OK) {
        assert(!file);
        return;
    }
    look_at(file, n);
    /* The file that is read must not change under the mapping. */
    const char *path = fuzz_other_file();
    Status st = write_again(file, path);
    assert(st == TANE_OK);
    st = st_open(&again, path);
    assert(st == TANE_OK && st_count(again) == st_count(file) && st_metadata_count(again) == st_metadata_count(file));
    for (size_t i = 0; i < st_count(file); i++) {
        const StTensor *a = st_get(file, i), *b = st_get(again, i);
        assert(!strcmp(a->name, b->name) && a->dtype == b->dtype && a->rank == b->rank && a->bytes == b->bytes);
        assert(!memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape));
        assert(a->bytes == 0 || !memcmp(a->data, b->data, a->bytes));
    }
    st_close(&again);
    st_close(&file);
}
