/* Status and error: every fallible function returns a Status; the message sits in a per-thread error object.
 *
 * The function that notices writes the message, complete for a user: file, place, value, fix. Callers pass the status
 * up with TRY and may put the larger circumstance in front with err_context ("reading runs/x/model.safetensors: ...").
 * The error object is fixed-size, so that running out of memory can be reported too.
 */
#ifndef BASE_STATUS_H
#define BASE_STATUS_H

#include "tane.h"

typedef tane_status Status;

/* Records the error of this thread and returns `code`, so that `return FAIL(TANE_EINVAL, "...", ...)` reads well. */
#define FAIL(code, ...) err_set((code), __FILE__, __LINE__, __VA_ARGS__)

/* Unwinding: a function with something to release declares `Status st = TANE_OK;` and has one label `out:`. */
#define TRY(expr)                                                                                                      \
    do {                                                                                                               \
        st = (expr);                                                                                                   \
        if (st != TANE_OK) goto out;                                                                                   \
    } while (0)

/* The same for a function with nothing to release. */
#define TRY_RETURN(expr)                                                                                               \
    do {                                                                                                               \
        Status try_status_ = (expr);                                                                                   \
        if (try_status_ != TANE_OK) return try_status_;                                                                \
    } while (0)

Status err_set(Status code, const char *source_file, int source_line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Puts "<text>: " in front of the current message and returns its status (TANE_OK if there is no error). */
Status err_context(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

Status err_code(void);
const char *err_message(void);
/* "src/base/file.c:120", where the error was noticed: for bug reports. */
const char *err_source(void);
void err_clear(void);

/* For threads: an error noticed in a worker is copied to the thread that reports it. */
typedef struct ErrorCopy {
    Status code;
    char text[2048];
    char source[96];
} ErrorCopy;
void err_save(ErrorCopy *copy);
Status err_restore(const ErrorCopy *copy);

/* The candidate nearest to `word` (edit distance <= 1 + length/4), or NULL: for "did you mean". */
const char *err_nearest(const char *word, const char *const *candidates, size_t n);

#endif
