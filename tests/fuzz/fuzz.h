/* Fuzz targets: each takes any bytes whatever, does with them all that a caller could, and returns. Errors are fine;
 * what is not: a crash, a sanitizer's finding, a failed assert, memory not released, more memory than the input and
 * 64 MiB, and seconds.
 */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#define FUZZ(name) void fuzz_##name(const uint8_t *data, size_t n);
#include "fuzz.def"
#undef FUZZ

/* The path of a file in memory with these bytes, for what opens files by name; valid until the next call. */
const char *fuzz_file(const uint8_t *data, size_t n);
/* The path of another one, for a target that writes while the first is mapped. */
const char *fuzz_other_file(void);
/* Reads every byte, so that a sanitizer sees a range that reaches too far. */
void fuzz_touch(const void *data, size_t n);

#endif
