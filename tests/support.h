/* What the tests share: a folder per test, files from strings, allocations and disk calls that fail on purpose.
 *
 * A test is listed with TEST(name). It gets an empty folder of its own (test_path names files in it), removed behind it
 * together with any allocator or fault still installed.
 */
#ifndef TESTS_SUPPORT_H
#define TESTS_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "device/device.h"
#include "text/tokenizer.h"

#define TEST(name) cmocka_unit_test_setup_teardown(name, test_setup, test_teardown)
int test_setup(void **state);
int test_teardown(void **state);

/* "<folder of this test>/<formatted name>"; valid until the end of the test. */
const char *test_path(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
const char *test_dir(void);
/* A file committed in tests/, e.g. "golden/x.safetensors", seen from the repository's root (make runs tests there). */
const char *test_data(const char *name);
/* A SentencePiece model of 47 pieces in which each character is one token: digits, + - * / ( ) =, lower-case letters; so what
 * rows must look like can be written down by hand. For a group's setup; tokenizer_free when done. */
Tokenizer *test_characters(void);

/* Writes a file (not through base/file, so that faults do not touch it) and returns its path. */
const char *test_write(const char *path, const char *text);
const char *test_write_bytes(const char *path, const void *bytes, size_t n);
/* Zeroed bytes, valid until the end of the test. */
void *test_room(size_t bytes);
/* The whole file as text, NULL when it is not there; valid until the end of the test. */
char *test_read(const char *path, size_t *n);

/* `usual` rounds of a loop; twenty times as many in the long tier (make test-long, make fault). */
int test_rounds(int usual);
/* Every how many-th case a loop takes: all of them in the long tier. */
size_t test_stride(size_t usual);

/* ---- devices: the CPU with each instruction set that it has, the best one last; or, where the environment variable
 * TANE_TEST_DEVICE names a device, only that one (make gpu-test). Opened once and never closed. */
Device *const *test_devices(void); /* ends with NULL */
Device *test_device(void);         /* the last of them */
/* Which one, for messages: "cpu (avx2)". */
const char *test_device_title(const Device *device);
/* The same without opening anything (a process that forks must not): "cpu", or what TANE_TEST_DEVICE says. */
const char *test_device_name(void);
bool test_on_cpu(void);
/* Skips the running test on any other device, and says why. */
void test_cpu_only(const char *why);

/* ---- statuses */
#define assert_ok(expr) support_assert_ok((expr), #expr, __FILE__, __LINE__)
/* Not TANE_OK, and the message has the substring in it. */
#define assert_error_contains(expr, substring) support_assert_error((expr), -1, (substring), #expr, __FILE__, __LINE__)
/* The same with the exact status. */
#define assert_error(expr, code, substring) \
    support_assert_error((expr), (int)(code), (substring), #expr, __FILE__, __LINE__)
void support_assert_ok(Status st, const char *text, const char *file, int line);
void support_assert_error(Status st, int code, const char *substring, const char *text, const char *file, int line);

/* ---- allocations that fail */
typedef struct TestAllocator {
    size_t fail_at; /* the allocation that fails, from 1; 0: none */
    size_t calls, live, live_bytes, peak_bytes;
    bool failed;    /* the failing one was reached */
} TestAllocator;
void test_allocator_install(TestAllocator *allocator); /* only while no tane memory is live */
void test_allocator_remove(void);

/* Runs body with its 1st, 2nd, ... allocation failing until it gets through. Each failing run must return TANE_ENOMEM
 * and leave no live block; body releases what it made, also on success. Returns how many allocations body makes. */
typedef Status (*TestBody)(void *ctx);
size_t test_fail_allocations(TestBody body, void *ctx);

/* ---- disk calls that fail, or the death of the process there */
typedef struct TestFault {
    size_t at;      /* the changing call that fails, from 1; 0: none */
    int error;      /* errno to fail with; SIGKILL instead when `kill` */
    bool kill;
    bool persist;   /* all later calls fail too */
    size_t calls;
    bool reached;
    FileOp op;      /* of the call that failed */
} TestFault;
void test_fault_install(TestFault *fault);
void test_fault_remove(void);

/* Runs body with its 1st, 2nd, ... changing call failing with `error` until it gets through; each failing run must
 * return an error. check(ctx) follows every run; prepare(ctx), which may be NULL, goes before. Returns how many calls
 * body makes. */
size_t test_fail_disk_calls(TestBody body, int error, void (*prepare)(void *), void (*check)(void *), void *ctx);
/* The same, but a forked child is killed with SIGKILL at the call. Only before the process has made threads. */
size_t test_kill_at_disk_calls(TestBody body, void (*prepare)(void *), void (*check)(void *), void *ctx);

#endif
