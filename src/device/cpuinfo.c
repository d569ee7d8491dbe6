/* cpuid, affinity, control groups.
 *
 * The few system files are read with plain calls into the stack: these facts must not depend on whether memory is left,
 * because they are remembered for the life of the process.
 */
#include "device/cpuinfo.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#endif

static CpuInfo info;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* ---- instruction sets ---- */

#if defined(__x86_64__)

static uint64_t saved_registers(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* Tile registers are 8 KiB a thread; Linux hands them out only to processes that ask. */
static bool request_tiles(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_TILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_TILEDATA) == 0;
}

static bool bit(uint32_t word, int n) { return word >> n & 1; }

static void find_features(void) {
    uint32_t a, b, c, d, b7, c7, d7, a71 = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return;
    bool fma = bit(c, 12), osxsave = bit(c, 27), avx = bit(c, 28), f16c = bit(c, 29);
    if (!osxsave || !avx || !__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) return;
    if (a >= 1) __get_cpuid_count(7, 1, &a71, &b, &c, &d);
    uint64_t saved = saved_registers();
    const uint64_t ymm = 0x6, zmm = 0xe6, tiles = 0x60000;
    info.avx2_fma = (saved & ymm) == ymm && fma && f16c && bit(b7, 5) && bit(b7, 8);
    info.avx512 = info.avx2_fma && (saved & zmm) == zmm && bit(b7, 16) && bit(b7, 17) && bit(b7, 30) && bit(b7, 31);
    info.avx512_vnni = info.avx512 && bit(c7, 11);
    info.avx512_fp16 = info.avx512 && bit(d7, 23);
    info.avx512_bf16 = info.avx512 && bit(a71, 5);
    info.amx_bf16 = info.avx512 && (saved & tiles) == tiles && bit(d7, 24) && bit(d7, 22) && request_tiles();
}

static void find_model(void) {
    uint32_t words[12];
    if ((uint32_t)__get_cpuid_max(0x80000000u, NULL) < 0x80000004u) return;
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t *w = words + 4 * i;
        if (!__get_cpuid(0x80000002u + i, &w[0], &w[1], &w[2], &w[3])) return;
    }
    char name[sizeof words + 1] = {0};
    memcpy(name, words, sizeof words);
    const char *text = name + strspn(name, " ");
    if (*text) snprintf(info.model, sizeof info.model, "%s", text);
}

#else

static void find_features(void) {}

#endif

/* ---- system files ---- */

/* The first bytes of a small file, NUL-terminated; false when there is none. */
static bool read_small(const char *path, char *out, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    size_t n = 0;
    for (ssize_t got; n + 1 < size && (got = read(fd, out + n, size - n - 1)) > 0;) n += (size_t)got;
    close(fd);
    out[n] = 0;
    return n > 0;
}

/* The number behind `key` in a file of "key: value" lines; 0 when it is not there. */
static uint64_t number_in(const char *path, const char *key) {
    char text[8192];
    if (!read_small(path, text, sizeof text)) return 0;
    const char *at = strstr(text, key);
    return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

#if !defined(__x86_64__)
static void find_model(void) {
    char text[8192];
    if (!read_small("/proc/cpuinfo", text, sizeof text)) return;
    const char *at = strstr(text, "model name");
    if (!at) at = strstr(text, "Model");
    if (at) at = strchr(at, ':');
    if (!at) return;
    at += 1 + strspn(at + 1, " ");
    snprintf(info.model, sizeof info.model, "%.*s", (int)strcspn(at, "\n"), at);
}
#endif

/* ---- control groups ---- */

/* True where `word` is one of comma-separated `names`; no names match the empty word. */
static bool lists(const char *names, const char *word) {
    size_t n = strlen(word);
    for (const char *s = names;; s++) {
        size_t length = strcspn(s, ",");
        if (length == n && memcmp(s, word, n) == 0) return true;
        s += length;
        if (!*s) return false;
    }
}

/* This process's group below a hierarchy: of `controller` (version 1), or of the unified one (""). */
static bool group_path(const char *controller, char *out, size_t size) {
    char text[4096];
    if (!read_small("/proc/self/cgroup", text, sizeof text)) return false;
    for (char *line = text, *end; line; line = end ? end + 1 : NULL) { /* "4:memory:/path" */
        end = strchr(line, '\n');
        if (end) *end = 0;
        char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
        if (!path) continue;
        *path++ = 0; /* names: ":cpu,cpuacct" */
        if (lists(names + 1, controller)) {
            snprintf(out, size, "%s", path);
            return true;
        }
    }
    return false;
}

typedef void (*GroupVisit)(const char *folder);

/* A limit anywhere between the group and the root binds. */
static void visit_groups(const char *mount, const char *controller, GroupVisit visit) {
    char path[2048], folder[2304];
    if (!group_path(controller, path, sizeof path)) return;
    for (;;) {
        snprintf(folder, sizeof folder, "%s%s", mount, strcmp(path, "/") == 0 ? "" : path);
        visit(folder);
        char *slash = strrchr(path, '/');
        if (!slash || !*path) return;
        *slash = 0;
    }
}

static bool read_in(const char *folder, const char *name, char *out, size_t size) {
    char path[2560];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return read_small(path, out, size);
}

static void limit_cpu(double quota, double period) {
    if (quota <= 0 || period <= 0) return;
    double share = quota / period;
    if (info.cpu_quota == 0 || share < info.cpu_quota) info.cpu_quota = share;
}

static void limit_memory(const char *text) {
    char *end;
    uint64_t bytes = strtoull(text, &end, 10);
    if (end == text || bytes == 0 || (info.memory && bytes >= info.memory)) return; /* "max", or no limit in effect */
    if (info.memory_limit == 0 || bytes < info.memory_limit) info.memory_limit = bytes;
}

static void visit_v2(const char *folder) {
    char text[64];
    double quota, period;
    if (read_in(folder, "cpu.max", text, sizeof text) && sscanf(text, "%lf %lf", &quota, &period) == 2)
        limit_cpu(quota, period);
    if (read_in(folder, "memory.max", text, sizeof text)) limit_memory(text);
}

static void visit_v1(const char *folder) {
    char quota[64], period[64], memory[64];
    if (read_in(folder, "cpu.cfs_quota_us", quota, sizeof quota) &&
        read_in(folder, "cpu.cfs_period_us", period, sizeof period))
        limit_cpu(strtod(quota, NULL), strtod(period, NULL));
    if (read_in(folder, "memory.limit_in_bytes", memory, sizeof memory)) limit_memory(memory);
}

/* ---- all of it ---- */

static size_t cache_size(int name) {
    long size = sysconf(name);
    return size > 0 ? (size_t)size : 0;
}

static void find_cores(void) {
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    info.cores_online = online > 0 ? (int)online : 1;
    info.cores_allowed = info.cores_online;
    cpu_set_t mask; /* 1024 processors; a larger machine makes the call fail, and then all are allowed */
    if (sched_getaffinity(0, sizeof mask, &mask) == 0 && CPU_COUNT(&mask) > 0) info.cores_allowed = CPU_COUNT(&mask);
    info.cores = info.cores_allowed;
    int quota = (int)info.cpu_quota + (info.cpu_quota > (int)info.cpu_quota);
    if (quota > 0 && quota < info.cores) info.cores = quota;
}

static void find_all(void) {
    snprintf(info.model, sizeof info.model, "unknown");
    find_features();
    find_model();
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    info.memory = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
    visit_groups("/sys/fs/cgroup", "", visit_v2);
    visit_groups("/sys/fs/cgroup/cpu", "cpu", visit_v1);
    visit_groups("/sys/fs/cgroup/memory", "memory", visit_v1);
    find_cores();
#if defined(_SC_LEVEL1_DCACHE_SIZE)
    info.cache_l1d = cache_size(_SC_LEVEL1_DCACHE_SIZE);
    info.cache_l2 = cache_size(_SC_LEVEL2_CACHE_SIZE);
    info.cache_l3 = cache_size(_SC_LEVEL3_CACHE_SIZE);
#endif
}

const CpuInfo *cpu_info(void) {
    pthread_once(&once, find_all);
    return &info;
}

/* ---- memory now ---- */

static _Thread_local uint64_t group_room; /* smallest room seen by visit_room */

static void room_between(const char *limit, const char *used, uint64_t reclaimable) {
    char *end;
    uint64_t most = strtoull(limit, &end, 10), now = strtoull(used, NULL, 10);
    if (end == limit) return; /* "max" */
    now = now > reclaimable ? now - reclaimable : 0;
    uint64_t room = most > now ? most - now : 0;
    if (room < group_room) group_room = room;
}

/* File pages count as used but are given up when memory is wanted. */
static void visit_room(const char *folder) {
    static const char *const names[][3] = {
        {"memory.max", "memory.current", "\ninactive_file "},
        {"memory.limit_in_bytes", "memory.usage_in_bytes", "\ntotal_inactive_file "},
    };
    char limit[64], used[64], stat[2560];
    for (int version = 0; version < 2; version++) {
        if (!read_in(folder, names[version][0], limit, sizeof limit)) continue;
        if (!read_in(folder, names[version][1], used, sizeof used)) continue;
        snprintf(stat, sizeof stat, "%s/memory.stat", folder);
        room_between(limit, used, number_in(stat, names[version][2]));
    }
}

uint64_t cpu_memory_available(void) {
    uint64_t machine = number_in("/proc/meminfo", "MemAvailable:") * 1024;
    group_room = machine ? machine : UINT64_MAX;
    visit_groups("/sys/fs/cgroup", "", visit_room);
    visit_groups("/sys/fs/cgroup/memory", "memory", visit_room);
    return group_room == UINT64_MAX ? 0 : group_room;
}

uint64_t cpu_memory_resident(void) { return number_in("/proc/self/status", "VmRSS:") * 1024; }
