/* JSON: jansson behind tane's errors. Readers name file, line and column; getters name file, key and what was found.
 *
 * `where` in the getters is what an error message begins with, usually the file's path.
 */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <jansson.h>

#include "base/mem.h"

/* Duplicate keys are an error. *out is a new reference (json_decref). */
Status json_read_file(const char *path, json_t **out);
/* The same from memory; `where` names the source in errors. Bytes behind the value are an error. */
Status json_read_text(const char *where, const char *text, size_t n, json_t **out);
/* The same for a small file that Python wrote, whose numbers have no bounds: a whole one beyond 64 bits becomes a real.
 * transformers writes "model_max_length": 1000000000000000019884624838656 where there is no limit. */
Status json_read_config(const char *where, const char *text, size_t n, json_t **out);
Status json_write_file(const char *path, const json_t *root); /* indented, atomic */
Status json_write_str(Str *out, const json_t *root);          /* one line */
/* The same with a line a member, as a value that stands `indent` levels deep. */
Status json_write_indented(Str *out, const json_t *root, int indent);

/* "text" in quotes with escapes; bytes that are not UTF-8 are TANE_EINVAL. */
Status json_write_text(Str *out, const char *text, size_t n);

/* A reader for large texts, which builds no tree: the caller asks for what its format expects next and gets an error
 * that names the place when something else is there.
 *
 *     TRY(json_begin(&r, '{'));
 *     for (bool more; (st = json_more(&r, '}', &more)) == TANE_OK && more;) {
 *         TRY(json_next_key(&r, &key, &n));
 *         TRY(json_next_int(&r, &value));
 *     }
 *
 * Keys and texts are NUL-terminated and borrowed until the next call. Keys that are there twice are the
 * caller's to find. */
typedef struct JsonReader {
    const char *where, *text, *p, *end;
    const char *at; /* where the last thing began, for errors */
    bool fresh;     /* directly behind an opening bracket */
    bool round;     /* whole numbers beyond 64 bits become reals */
    int depth;
    Str stack;      /* decoded keys and strings */
} JsonReader;
void json_reader_init(JsonReader *r, const char *where, const char *text, size_t n);
void json_reader_free(JsonReader *r);
Status json_begin(JsonReader *r, char bracket);                /* '{' or '[' */
Status json_more(JsonReader *r, char bracket, bool *more);     /* '}' or ']'; before each element and behind the last */
Status json_next_key(JsonReader *r, const char **key, size_t *n);
Status json_next_text(JsonReader *r, const char **text, size_t *n);
Status json_next_int(JsonReader *r, int64_t *value);
Status json_next_double(JsonReader *r, double *value);
Status json_next_value(JsonReader *r, json_t **out);           /* a whole tree; a new reference (json_decref) */
Status json_skip(JsonReader *r);                               /* a whole value, looked at but not kept */
char json_peek(JsonReader *r);                                 /* what the next thing begins with; 0 at the end */
Status json_end(JsonReader *r);                                /* only white space may follow */
/* TANE_EFORMAT "<where>:<line>:<column>: ..." at the last thing read. */
Status json_reader_fail(const JsonReader *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Required members. Wrong type, missing or (int) out of [lo, hi] is TANE_EFORMAT. */
Status json_get_int(const json_t *object, const char *where, const char *key, int64_t lo, int64_t hi, int64_t *out);
Status json_get_double(const json_t *object, const char *where, const char *key, double *out);
Status json_get_bool(const json_t *object, const char *where, const char *key, bool *out);
Status json_get_string(const json_t *object, const char *where, const char *key, const char **out); /* borrowed */
/* Optional ones: absent or null leaves *out as it is. */
Status json_opt_int(const json_t *object, const char *where, const char *key, int64_t lo, int64_t hi, int64_t *out);
Status json_opt_double(const json_t *object, const char *where, const char *key, double *out);
Status json_opt_bool(const json_t *object, const char *where, const char *key, bool *out);
Status json_opt_string(const json_t *object, const char *where, const char *key, const char **out);

#endif
