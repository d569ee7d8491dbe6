/* The test helpers; see support.h. They use libc directly where the code under test could be the one that is broken. */
#include "support.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ops/backend.h"

/* ---- the folder of a test --------------------------------------------------------------------------------------- */

static char folder[256];

/* Texts that live until the end of the test. */
typedef struct Kept {
    struct Kept *next;
    char text[];
} Kept;
static Kept *kept;

static char *keep(size_t n) {
    Kept *k = calloc(1, sizeof *k + n + 1);
    if (!k) fail_msg("out of memory in a test helper");
    k->next = kept;
    kept = k;
    return k->text;
}

int test_setup(void **state) {
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/tane-test-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    err_clear();
    return mkdtemp(folder) ? 0 : -1;
}

int test_teardown(void **state) {
    (void)state;
    test_fault_remove();
    test_allocator_remove();
    while (kept) {
        Kept *next = kept->next;
        free(kept);
        kept = next;
    }
    return dir_remove(folder) == TANE_OK ? 0 : -1;
}

void *test_room(size_t bytes) { return keep(bytes); }

const char *test_dir(void) { return folder; }

const char *test_path(const char *fmt, ...) {
    char name[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    char *path = keep(sizeof folder + sizeof name);
    snprintf(path, sizeof folder + sizeof name, "%s/%s", folder, name);
    return path;
}

const char *test_data(const char *name) {
    /* __FILE__ is tests/support.c. */
    const char *base = strrchr(__FILE__, '/');
    int n = base ? (int)(base - __FILE__) : 0;
    char *path = keep(strlen(__FILE__) + strlen(name) + 2);
    sprintf(path, "%.*s/%s", n ? n : 1, n ? __FILE__ : ".", name);
    return path;
}

const char *test_write_bytes(const char *path, const void *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(bytes, 1, n, f) != n || fclose(f)) fail_msg("cannot write %s: %s", path, strerror(errno));
    return path;
}

const char *test_write(const char *path, const char *text) { return test_write_bytes(path, text, strlen(text)); }

char *test_read(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    size_t size = (size_t)ftell(f);
    rewind(f);
    char *text = keep(size);
    if (fread(text, 1, size, f) != size) fail_msg("cannot read %s", path);
    fclose(f);
    if (n) *n = size;
    return text;
}

/* ---- tiers ------------------------------------------------------------------------------------------------------ */

static bool long_tier(void) {
    const char *text = getenv("TANE_TEST_LONG");
    return text && *text && strcmp(text, "0") != 0;
}
int test_rounds(int usual) { return long_tier() ? 20 * usual : usual; }
size_t test_stride(size_t usual) { return long_tier() ? 1 : usual; }

/* ---- devices ----------------------------------------------------------------------------------------------------- */

static const char *chosen(void) {
    const char *name = getenv("TANE_TEST_DEVICE");
    return name && *name ? name : "cpu";
}

static const char *const isas[] = {"base", "avx2", "avx512"};
static Device *devices[4];

static Device *open_chosen(void) {
    Device *device;
    if (backend_open(&device, chosen()) == TANE_OK) return device;
    fail_msg("TANE_TEST_DEVICE: %s", err_message());
    return NULL;
}

Device *const *test_devices(void) {
    if (devices[0]) return devices;
    if (!test_on_cpu()) {
        devices[0] = open_chosen();
        return devices;
    }
    for (int i = 0, n = 0; i < 3; i++) {
        Device *device = backend_cpu_isa(isas[i]);
        if (device) devices[n++] = device;
        else print_message("this CPU has no %s\n", isas[i]);
    }
    return devices;
}

Device *test_device(void) {
    Device *const *last = test_devices();
    while (last[1]) last++;
    return *last;
}

bool test_on_cpu(void) { return !strcmp(chosen(), "cpu"); }
const char *test_device_name(void) { return chosen(); }

const char *test_device_title(const Device *device) {
    static char title[64];
    snprintf(title, sizeof title, "%s", device->name);
    for (int i = 0; i < 3; i++)
        if (device == backend_cpu_isa(isas[i])) snprintf(title, sizeof title, "cpu (%s)", isas[i]);
    return title;
}

void test_cpu_only(const char *why) {
    if (test_on_cpu()) return;
    print_message("not on %s: %s\n", chosen(), why);
    skip();
}

/* ---- statuses --------------------------------------------------------------------------------------------------- */

void support_assert_ok(Status st, const char *text, const char *file, int line) {
    if (st == TANE_OK) return;
    print_error("%s gave %s: %s (noticed at %s)\n", text, tane_status_name(st), err_message(), err_source());
    _fail(file, line);
}

void support_assert_error(Status st, int code, const char *substring, const char *text, const char *file, int line) {
    if (st == TANE_OK) {
        print_error("%s gave TANE_OK; expected an error with \"%s\"\n", text, substring);
    } else if (code >= 0 && (int)st != code) {
        print_error("%s gave %s, expected %s: %s\n", text, tane_status_name(st), tane_status_name((Status)code),
                    err_message());
    } else if (!strstr(err_message(), substring)) {
        print_error("%s: expected \"%s\" in the message: %s\n", text, substring, err_message());
    } else {
        return;
    }
    _fail(file, line);
}

/* ---- allocations ------------------------------------------------------------------------------------------------ */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *counted_alloc(void *ctx, size_t size, size_t align) {
    TestAllocator *a = ctx;
    void *block = NULL;
    pthread_mutex_lock(&lock);
    bool refuse = ++a->calls == a->fail_at;
    if (refuse) a->failed = true;
    else block = aligned_alloc(align, (size + align - 1) / align * align);
    if (block) {
        a->live++;
        a->live_bytes += malloc_usable_size(block);
        if (a->live_bytes > a->peak_bytes) a->peak_bytes = a->live_bytes;
        memset(block, 0xa5, size); /* nobody may count on zeros */
    }
    pthread_mutex_unlock(&lock);
    return block;
}

static void counted_free(void *ctx, void *block) {
    TestAllocator *a = ctx;
    pthread_mutex_lock(&lock);
    a->live--;
    a->live_bytes -= malloc_usable_size(block);
    pthread_mutex_unlock(&lock);
    free(block);
}

void test_allocator_install(TestAllocator *allocator) {
    mem_set_allocator(&(Allocator){counted_alloc, counted_free, allocator});
}
void test_allocator_remove(void) { mem_set_allocator(NULL); }

size_t test_fail_allocations(TestBody body, void *ctx) {
    for (size_t n = 1;; n++) {
        TestAllocator a = {.fail_at = n};
        test_allocator_install(&a);
        err_clear();
        Status st = body(ctx);
        test_allocator_remove();
        if (a.live) fail_msg("allocation %zu failed and %zu blocks were not released", n, a.live);
        if (a.failed && st != TANE_ENOMEM)
            fail_msg("allocation %zu failed and the result was %s: %s", n, tane_status_name(st), err_message());
        if (a.failed) continue;
        if (st != TANE_OK) fail_msg("without any failure the result was %s: %s", tane_status_name(st), err_message());
        return a.calls;
    }
}

/* ---- disk calls ------------------------------------------------------------------------------------------------- */

static int fault_hook(void *ctx, FileOp op, const char *path) {
    (void)path;
    TestFault *f = ctx;
    f->calls++;
    if (!f->at || f->calls < f->at || (f->calls > f->at && !f->persist)) return 0;
    if (f->reached) return f->error;
    f->reached = true;
    f->op = op;
    if (f->kill) kill(getpid(), SIGKILL);
    return f->error;
}

void test_fault_install(TestFault *fault) { file_set_hook(fault_hook, fault); }
void test_fault_remove(void) { file_set_hook(NULL, NULL); }

size_t test_fail_disk_calls(TestBody body, int error, void (*prepare)(void *), void (*check)(void *), void *ctx) {
    for (size_t n = 1;; n++) {
        TestFault f = {.at = n, .error = error};
        if (prepare) prepare(ctx);
        err_clear();
        test_fault_install(&f);
        Status st = body(ctx);
        test_fault_remove();
        if (f.reached && st == TANE_OK)
            fail_msg("disk call %zu (operation %d) failed and nobody said so", n, (int)f.op);
        if (!f.reached && st != TANE_OK)
            fail_msg("without any failure the result was %s: %s", tane_status_name(st), err_message());
        check(ctx);
        if (!f.reached) return f.calls;
    }
}

size_t test_kill_at_disk_calls(TestBody body, void (*prepare)(void *), void (*check)(void *), void *ctx) {
    for (size_t n = 1;; n++) {
        if (prepare) prepare(ctx);
        pid_t child = fork();
        if (child < 0) fail_msg("fork: %s", strerror(errno));
        if (child == 0) {
            TestFault f = {.at = n, .kill = true};
            test_fault_install(&f);
            _exit(body(ctx) == TANE_OK ? 0 : 1);
        }
        int status;
        while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
        bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
        if (!killed && !(WIFEXITED(status) && WEXITSTATUS(status) == 0))
            fail_msg("to be killed at disk call %zu, the child ended with status 0x%x", n, (unsigned)status);
        check(ctx);
        if (!killed) return n - 1;
    }
}

Tokenizer *test_characters(void) {
    static const char *const sentences[] = {"0123456789", "+-*/()=", "abcdefghijklmnopqrstuvwxyz", "12+34=46"};
    TokenizerTrainOptions options = {.model_type = "char", .vocab_size = 47, .character_coverage = 1.0, .threads = 1};
    Tokenizer *tok;
    if (test_setup(NULL) != 0) return NULL;
    assert_ok(tokenizer_train(sentences, sizeof sentences / sizeof *sentences, &options, test_path("chars")));
    assert_ok(tokenizer_load(&tok, test_path("chars.model")));
    (void)test_teardown(NULL);
    return tok;
}
