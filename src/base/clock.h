/* Time: a monotonic clock for durations and UTC text for records. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stddef.h>

double clock_seconds(void); /* monotonic, since an arbitrary start */
/* "2026-11-22T13:05:09Z" (needs 21 bytes) */
void clock_utc(char *out, size_t size);

#endif
