/* Time of every GPU kernel of a program, through CUPTI. Loaded by CUDA itself, so any program can be looked at:
 *
 *     CUDA_INJECTION64_PATH=$PWD/build/gpu_profile.so  build/bench/train_step --device cuda ...
 *
 * At the end it prints, to stderr, each kernel's calls, total and mean time, the most expensive first, and the share of
 * the time between first and last kernel in which none ran. Kernels inside graphs count too.
 */
#include <cupti.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFER = 8 << 20, MOST = 4096, NAME = 160 };

typedef struct Row {
    char name[NAME];
    uint64_t calls, ns;
    unsigned grid;
} Row;

static Row rows[MOST];
static int n_rows;
static uint64_t first_ns, last_ns, busy_ns, busy_until;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void add(const char *name, unsigned grid, uint64_t begin, uint64_t end) {
    int i = 0;
    if (!first_ns || begin < first_ns) first_ns = begin;
    if (end > last_ns) last_ns = end;
    if (end > busy_until) {
        busy_ns += end - (begin > busy_until ? begin : busy_until);
        busy_until = end;
    }
    while (i < n_rows && (rows[i].grid != grid || strncmp(rows[i].name, name, NAME - 1))) i++;
    if (i == MOST) return;
    if (i == n_rows) {
        snprintf(rows[i].name, NAME, "%s", name);
        rows[n_rows++].grid = grid;
    }
    rows[i].calls++;
    rows[i].ns += end - begin;
}

static void CUPTIAPI wanted(uint8_t **buffer, size_t *size, size_t *records) {
    *buffer = aligned_alloc(8, BUFFER);
    *size = *buffer ? BUFFER : 0;
    *records = 0;
}

static void CUPTIAPI filled(CUcontext context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid) {
    CUpti_Activity *record = NULL;
    (void)context;
    (void)stream;
    (void)size;
    pthread_mutex_lock(&lock);
    while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
        if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
            const CUpti_ActivityKernel9 *k = (const CUpti_ActivityKernel9 *)record;
            add(k->name, (unsigned)(k->gridX * k->gridY * k->gridZ), k->start, k->end);
        } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
            const CUpti_ActivityMemcpy5 *c = (const CUpti_ActivityMemcpy5 *)record;
            add(c->copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_HTOD   ? "[copy to the device]"
                : c->copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_DTOH ? "[copy to the host]"
                                                                 : "[copy on the device]",
                0, c->start, c->end);
        } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
            const CUpti_ActivityMemset4 *m = (const CUpti_ActivityMemset4 *)record;
            add("[memset]", 0, m->start, m->end);
        }
    }
    pthread_mutex_unlock(&lock);
    free(buffer);
}

static int by_time(const void *a, const void *b) {
    const Row *x = a, *y = b;
    return x->ns < y->ns ? 1 : x->ns > y->ns ? -1 : 0;
}

static void report(void) {
    cuptiActivityFlushAll(1);
    uint64_t total = 0;
    qsort(rows, (size_t)n_rows, sizeof *rows, by_time);
    for (int i = 0; i < n_rows; i++) total += rows[i].ns;
    fprintf(stderr, "%10s %6s %8s %10s %9s  %s\n", "total ms", "share", "calls", "mean us", "blocks", "kernel");
    for (int i = 0; i < n_rows && i < 60; i++)
        fprintf(stderr, "%10.3f %5.1f%% %8llu %10.2f %9u  %.100s\n", (double)rows[i].ns / 1e6,
                100.0 * (double)rows[i].ns / (double)total, (unsigned long long)rows[i].calls,
                (double)rows[i].ns / 1e3 / (double)rows[i].calls, rows[i].grid, rows[i].name);
    fprintf(stderr, "%10.3f ms in kernels, %.3f ms from first to last, %.1f%% of it with none running\n",
            (double)total / 1e6, (double)(last_ns - first_ns) / 1e6,
            100.0 * (1.0 - (double)busy_ns / (double)(last_ns - first_ns)));
}

/* CUDA calls this when it starts. */
int InitializeInjection(void);
int InitializeInjection(void) {
    cuptiActivityRegisterCallbacks(wanted, filled);
    cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
    cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY);
    cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMSET);
    atexit(report);
    return 1;
}
