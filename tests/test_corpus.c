/* The fuzz targets on their corpora: every file of tests/corpus/NAME/, and what becomes of it by cutting and by
 * changing bytes. Memory must be released, and never be more than the input and 64 MiB. The printed names say, when a
 * run dies, which input did it. */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "fuzz/fuzz.h"

typedef void Target(const uint8_t *data, size_t n);

/* The bytes in a block of exactly their size, so that a sanitizer sees the first one behind them. */
static void run(Target *target, const char *bytes, size_t n) {
    TestAllocator allocator = {0};
    uint8_t *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, n);
    test_allocator_install(&allocator);
    target(copy, n);
    test_allocator_remove();
    free(copy);
    if (allocator.live) fail_msg("%zu blocks were not released", allocator.live);
    if (allocator.peak_bytes > n + (64u << 20))
        fail_msg("%zu bytes of input took %zu bytes of memory", n, allocator.peak_bytes);
}

/* One to four changes: a bit, a byte at the ends of its range, a cut, or bytes moved from elsewhere in the file. */
static size_t damage(Rng *rng, char *bytes, size_t n) {
    static const uint8_t extremes[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
    for (uint64_t changes = 1 + rng_below(rng, 4); changes-- > 0 && n > 0;) {
        size_t at = rng_below(rng, n), from = rng_below(rng, n);
        switch (rng_below(rng, 4)) {
        case 0: bytes[at] ^= (char)(1 << rng_below(rng, 8)); break;
        case 1: bytes[at] = (char)extremes[rng_below(rng, sizeof extremes)]; break;
        case 2: n = at; break;
        default: memmove(bytes + at, bytes + from, rng_below(rng, n - (at > from ? at : from)) % 16);
        }
    }
    return n;
}

static void replay(const char *name, Target *target) {
    enum { LARGE = 1 << 16 }; /* a large input is there for its size, not for its bytes */
    char folder[64], *folder_path, *path;
    DirList files;
    Rng rng = {.key = 4, .stream = 0};
    snprintf(folder, sizeof folder, "corpus/%s", name);
    assert_ok(mem_strdup(&folder_path, test_data(folder)));
    assert_ok(dir_list(folder_path, &files));
    assert_true(files.n > 0);
    for (size_t i = 0; i < files.n; i++) {
        size_t n;
        assert_ok(path_join(&path, folder_path, files.names[i]));
        char *bytes = test_read(path, &n), *changed = malloc(n + 1);
        assert_true(bytes && changed);
        mem_free(path);
        print_message("%s\n", files.names[i]);
        run(target, bytes, n);
        for (int round = 0; n < LARGE && round < test_rounds(50); round++) {
            memcpy(changed, bytes, n);
            run(target, changed, damage(&rng, changed, n));
        }
        free(changed);
    }
    dir_list_free(&files);
    mem_free(folder_path);
}

#define FUZZ(name)                                                                                                     \
    static void corpus_of_##name(void **state) {                                                                       \
        (void)state;                                                                                                   \
        replay(#name, fuzz_##name);                                                                                    \
    }
#include "fuzz/fuzz.def"
#undef FUZZ

int main(void) {
    const struct CMUnitTest tests[] = {
#define FUZZ(name) TEST(corpus_of_##name),
#include "fuzz/fuzz.def"
#undef FUZZ
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
