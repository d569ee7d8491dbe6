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
Status json_write_file(const char *path, const json_t *root); /* indented, atomic */
Status json_write_str(Str *out, const json_t *root);          /* one line */

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
