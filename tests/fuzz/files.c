/* What fuzz targets share: an input as a file, and a range read to its end. */
#include <assert.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"

/* Opened once for each of the two. */
static int memory_file(int which, char path[32]) {
    static int fds[2] = {-1, -1};
    if (fds[which] < 0) fds[which] = memfd_create("fuzz", 0);
    assert(fds[which] >= 0);
    snprintf(path, 32, "/proc/self/fd/%d", fds[which]);
    return fds[which];
}

const char *fuzz_file(const uint8_t *data, size_t n) {
    static char path[32];
    int fd = memory_file(0, path);
    int rc = ftruncate(fd, 0); /* nothing of a longer input before this one may stay */
    assert(rc == 0);
    ssize_t done = pwrite(fd, data, n, 0);
    assert(done == (ssize_t)n);
    return path;
}

const char *fuzz_other_file(void) {
    static char path[32];
    memory_file(1, path);
    return path;
}

void fuzz_touch(const void *data, size_t n) {
    const volatile uint8_t *bytes = data; /* volatile: reading is the purpose */
    for (size_t i = 0; i < n; i++) (void)bytes[i];
}
