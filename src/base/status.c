/* The per-thread error object and the "did you mean" search. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local ErrorCopy last;

Status err_set(Status code, const char *source_file, int source_line, const char *fmt, ...) {
    /* Formatted aside first: an argument may be the current message itself. */
    char text[sizeof last.text];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    last.code = code;
    memcpy(last.text, text, sizeof text);
    snprintf(last.source, sizeof last.source, "%s:%d", source_file, source_line);
    return code;
}

Status err_context(const char *fmt, ...) {
    if (last.code == TANE_OK) return TANE_OK;
    char text[sizeof last.text];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (n < 0) n = 0;
    if ((size_t)n >= sizeof text) n = (int)sizeof text - 1;
    /* A message that does not fit is cut at its end; its beginning says where. */
    if (snprintf(text + n, sizeof text - (size_t)n, ": %s", last.text) < 0) return last.code;
    memcpy(last.text, text, sizeof text);
    return last.code;
}

Status err_code(void) { return last.code; }
const char *err_message(void) { return last.text; }
const char *err_source(void) { return last.source; }
void err_clear(void) { memset(&last, 0, sizeof last); }

void err_save(ErrorCopy *copy) { *copy = last; }
Status err_restore(const ErrorCopy *copy) {
    last = *copy;
    return last.code;
}

const char *tane_error_message(void) { return last.text; }

const char *tane_status_name(tane_status status) {
    switch (status) {
    case TANE_OK: return "TANE_OK";
    case TANE_EINVAL: return "TANE_EINVAL";
    case TANE_ENOTFOUND: return "TANE_ENOTFOUND";
    case TANE_EFORMAT: return "TANE_EFORMAT";
    case TANE_EIO: return "TANE_EIO";
    case TANE_ENOSPC: return "TANE_ENOSPC";
    case TANE_ENOMEM: return "TANE_ENOMEM";
    case TANE_EUNSUPPORTED: return "TANE_EUNSUPPORTED";
    case TANE_ENUMERIC: return "TANE_ENUMERIC";
    case TANE_ECANCELED: return "TANE_ECANCELED";
    case TANE_EINTERNAL: return "TANE_EINTERNAL";
    }
    return "unknown status";
}

/* Damerau-Levenshtein distance (adjacent swaps count one), rows of at most 64 characters. */
static int edit_distance(const char *a, const char *b) {
    enum { MAX = 64 };
    int n = (int)strlen(a), m = (int)strlen(b);
    if (n >= MAX || m >= MAX) return MAX;
    int row[3][MAX + 1];
    for (int j = 0; j <= m; j++) row[0][j] = j;
    for (int i = 1; i <= n; i++) {
        int *now = row[i % 3], *prev = row[(i + 2) % 3], *prev2 = row[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= m; j++) {
            int best = prev[j - 1] + (a[i - 1] != b[j - 1]);
            if (prev[j] + 1 < best) best = prev[j] + 1;
            if (now[j - 1] + 1 < best) best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && prev2[j - 2] + 1 < best)
                best = prev2[j - 2] + 1;
            now[j] = best;
        }
    }
    return row[n % 3][m];
}

const char *err_nearest(const char *word, const char *const *candidates, size_t n) {
    const char *best = NULL;
    int limit = 1 + (int)strlen(word) / 4, best_distance = limit + 1;
    for (size_t i = 0; i < n; i++) {
        int d = edit_distance(word, candidates[i]);
        if (d < best_distance) {
            best_distance = d;
            best = candidates[i];
        }
    }
    return best;
}
