/* tane: the whole life of a language model in one C library.
 *
 * Conventions
 *  - Every function that can fail returns a tane_status. On anything but TANE_OK, tane_error_message()
 *    says, for the calling thread, what was found, where, and what to do about it.
 *  - The library never prints, exits, aborts or reads environment variables.
 *  - A handle belongs to one thread at a time. Different handles may be used from different threads.
 *  - Strings are UTF-8. What a function hands out stays owned by the handle it came from, unless said otherwise.
 */
#ifndef TANE_H
#define TANE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TANE_VERSION "0.1.0"

typedef enum tane_status {
    TANE_OK = 0,
    TANE_EINVAL,       /* an argument or option that makes no sense */
    TANE_ENOTFOUND,    /* a file, folder, run or key that is not there */
    TANE_EFORMAT,      /* a file that is not what it should be */
    TANE_EIO,          /* the operating system could not read or write */
    TANE_ENOSPC,       /* the disk is full, or would be */
    TANE_ENOMEM,       /* memory ran out, or the plan does not fit */
    TANE_EUNSUPPORTED, /* understood, but this build, model or machine cannot do it */
    TANE_ENUMERIC,     /* NaN or Inf where a number must be */
    TANE_ECANCELED,    /* stopped on request; what was saved is intact */
    TANE_EINTERNAL     /* a defect of tane itself */
} tane_status;

/* The last error of the calling thread, one or more lines without a final newline; "" when there was none. */
const char *tane_error_message(void);

/* The name of a status, e.g. "TANE_EFORMAT". */
const char *tane_status_name(tane_status status);

#ifdef __cplusplus
}
#endif
#endif
