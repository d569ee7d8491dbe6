/* `tane doctor`: what this machine has, what tane will use of it, what is missing and the command that fixes it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <oneapi/dnnl/dnnl.h>
#include <omp.h>
#include <openssl/crypto.h>
#include <sqlite3.h>
#include <sys/utsname.h>
#include <yaml.h>

#include "base/file.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/doctor_gpu.h"
#include "device/cpuinfo.h"
#include "device/gemm.h"
#include "device/measure.h"

enum { MAX_ADVICE = 12 };

typedef struct DoctorConfig {
    bool json, measure;
} DoctorConfig;

static const Option rows[] = {
    {"json", OPTION_BOOL, offsetof(DoctorConfig, json), "false", NULL, 0, 0, "Options", "print JSON for programs"},
    {"measure", OPTION_BOOL, offsetof(DoctorConfig, measure), "true", NULL, 0, 0, "Options",
     "measure matrix products and memory (2 seconds)"},
};
static const OptionTable table = {"tane doctor", rows, 2};

typedef struct Advice {
    const char *what; /* what is the matter */
    const char *fix;  /* the command, or what to do */
} Advice;

typedef struct Doctor {
    Arena arena;
    const CpuInfo *cpu;
    uint64_t available, disk_free;
    bool disk_known;
    char system[256];
    DoctorGpus gpus;
    bool measured;
    char why_not[256];    /* what kept us from measuring, "" when nothing did */
    double fp32_flops, bf16_flops, bandwidth; /* NaN: not measured */
    Advice advice[MAX_ADVICE];
    int n_advice;
} Doctor;

/* ---- looking ---- */

static void advise(Doctor *d, const char *what, const char *fix) {
    if (d->n_advice < MAX_ADVICE) d->advice[d->n_advice++] = (Advice){what, fix};
}

/* A small system file without its newline, NULL when there is none. */
static const char *system_text(Doctor *d, const char *path) {
    char *text, *copy = NULL;
    size_t n;
    if (file_read(path, 4096, &text, &n) != TANE_OK) return NULL;
    text[strcspn(text, "\n")] = 0;
    if (arena_strdup(&d->arena, &copy, text) != TANE_OK) copy = NULL;
    mem_free(text);
    return copy;
}

static void look_at_system(Doctor *d) {
    struct utsname u;
    if (uname(&u) == 0) snprintf(d->system, sizeof d->system, "%.60s %.100s, %.30s", u.sysname, u.release, u.machine);
    d->cpu = cpu_info();
    d->available = cpu_memory_available();
    d->disk_known = dir_free_bytes(".", &d->disk_free) == TANE_OK;
    d->fp32_flops = d->bf16_flops = d->bandwidth = NAN;
}

static Status measure(Doctor *d) {
    TRY_RETURN(measure_gemm(DTYPE_F32, &d->fp32_flops));
    Status st = measure_gemm(DTYPE_BF16, &d->bf16_flops);
    if (st == TANE_EUNSUPPORTED) d->bf16_flops = NAN; /* oneDNN has no bf16 for some old processors */
    else TRY_RETURN(st);
    TRY_RETURN(measure_memory(&d->bandwidth));
    d->measured = true;
    return TANE_OK;
}

/* ---- judging ---- */

static Status judge_processor(Doctor *d) {
    const CpuInfo *cpu = d->cpu;
    char *text;
    if (!cpu->avx2_fma) {
        advise(d, "the processor has no AVX2, or this virtual machine hides it: tane's plain C kernels are slow",
               "on a virtual machine, give it the host's processor (QEMU: -cpu host)");
    }
    if (cpu->cores < cpu->cores_online) {
        TRY_RETURN(arena_printf(&d->arena, &text, "only %d of %d processors may be used here", cpu->cores,
                                cpu->cores_online));
        advise(d, text, cpu->cpu_quota > 0 ? "raise the container's limit (docker run --cpus=N)"
                                           : "widen the affinity mask (taskset -pc 0-N $$)");
    }
    const char *governor = system_text(d, "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    if (governor && strcmp(governor, "powersave") == 0 &&
        !file_exists("/sys/devices/system/cpu/intel_pstate/status")) /* there, powersave still speeds up */
        advise(d, "the processor is held at its lowest clock (governor powersave)",
               "sudo cpupower frequency-set -g performance");
    return TANE_OK;
}

static Status judge_space(Doctor *d) {
    char *text;
    if (d->available && d->available < (uint64_t)2 << 30) {
        TRY_RETURN(arena_printf(&d->arena, &text, "only %.1f GiB of memory are free", (double)d->available / 0x1p30));
        advise(d, text, "close other programs, or train with a smaller per_device_train_batch_size");
    }
    if (d->disk_known && d->disk_free < (uint64_t)2 << 30) {
        TRY_RETURN(arena_printf(&d->arena, &text, "only %.1f GiB of disk are free", (double)d->disk_free / 0x1p30));
        advise(d, text, "free some space, or set output_dir to another disk");
    }
    return TANE_OK;
}

static void judge_gpus(Doctor *d) {
    const char *what, *fix = doctor_gpus_advice(&d->gpus, &what);
    if (fix) advise(d, what, fix);
}

/* ---- telling ---- */

static const char *kernels(const CpuInfo *cpu) { return cpu->avx512 ? "AVX-512" : cpu->avx2_fma ? "AVX2" : "plain C"; }

static Status instruction_sets(const CpuInfo *cpu, const char *between, Str *out) {
    const struct {
        bool has;
        const char *name;
    } sets[] = {{cpu->avx2_fma, "avx2"}, {cpu->avx512, "avx512"}, {cpu->avx512_vnni, "avx512_vnni"},
                {cpu->avx512_bf16, "avx512_bf16"}, {cpu->avx512_fp16, "avx512_fp16"}, {cpu->amx_bf16, "amx_bf16"}};
    TRY_RETURN(str_add(out, "", 0));
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        if (sets[i].has) TRY_RETURN(str_printf(out, "%s%s", out->len ? between : "", sets[i].name));
    }
    return TANE_OK;
}

static void tell_cores(const CpuInfo *cpu) {
    printf("  cores         %d to use", cpu->cores);
    if (cpu->cores_allowed != cpu->cores_online) printf(", %d allowed by the affinity mask", cpu->cores_allowed);
    if (cpu->cpu_quota > 0) printf(", time for %.3g by the control group", cpu->cpu_quota);
    printf(", of %d\n", cpu->cores_online);
}

static void tell_cache(const char *name, size_t bytes, const char *before) {
    if (!bytes) return;
    if (bytes >= 1 << 20) printf("%s%s %.4g MiB", before, name, (double)bytes / 0x1p20);
    else printf("%s%s %.4g KiB", before, name, (double)bytes / 0x1p10);
}

static void tell_libraries(void) {
    int major, minor, patch;
    const dnnl_version_t *dnnl = dnnl_version();
    yaml_get_version(&major, &minor, &patch);
    printf("  libraries     oneDNN %d.%d.%d, SQLite %s, jansson %s, libyaml %d.%d.%d,\n", dnnl->major, dnnl->minor,
           dnnl->patch, sqlite3_libversion(), jansson_version_str(), major, minor, patch);
    printf("                %s\n", OpenSSL_version(OPENSSL_VERSION));
}

static Status tell_machine(const Doctor *d) {
    const CpuInfo *cpu = d->cpu;
    Str sets = {0};
    Status st = TANE_OK;
    TRY(instruction_sets(cpu, " ", &sets));
    printf("This machine\n  system        %s\n  processor     %s\n", d->system, cpu->model);
    tell_cores(cpu);
    printf("  instructions  %s\n", sets.len ? sets.text : "none that tane has kernels for");
    if (cpu->cache_l1d) {
        tell_cache("L1", cpu->cache_l1d, "  caches        ");
        tell_cache("L2", cpu->cache_l2, ", ");
        tell_cache("L3", cpu->cache_l3, ", ");
        printf("\n");
    }
    printf("  memory        %.1f GiB", (double)cpu->memory / 0x1p30);
    if (cpu->memory_limit) printf(", limited to %.1f by the control group", (double)cpu->memory_limit / 0x1p30);
    if (d->available) printf(", %.1f free", (double)d->available / 0x1p30);
    printf("\n");
    if (d->disk_known) printf("  disk          %.1f GiB free in this folder\n", (double)d->disk_free / 0x1p30);
    doctor_gpus_tell(&d->gpus);
    tell_libraries();
out:
    str_free(&sets);
    return st;
}

static void tell_rates(const Doctor *d) {
    if (*d->why_not) printf("\nCould not measure: %s\n", d->why_not);
    if (!d->measured) return;
    printf("\nMeasured on %d thread%s\n", omp_get_max_threads(), omp_get_max_threads() == 1 ? "" : "s");
    printf("  products      fp32 %.0f GFLOP/s, ", d->fp32_flops / 1e9);
    if (isnan(d->bf16_flops)) printf("bf16 not possible\n");
    else printf("bf16 %.0f GFLOP/s (%.1fx)\n", d->bf16_flops / 1e9, d->bf16_flops / d->fp32_flops);
    printf("  memory        %.1f GB/s\n", d->bandwidth / 1e9);
}

static void tell_use(const Doctor *d) {
    printf("\ntane %s will use\n", TANE_VERSION);
    if (d->gpus.used) {
        printf("  device        cuda:0 with device auto: bf16, by cuBLASLt; device=cpu is the processor:\n");
        printf("                %d thread%s\n", d->cpu->cores, d->cpu->cores == 1 ? "" : "s");
    } else {
        printf("  device        cpu, %d thread%s\n", d->cpu->cores, d->cpu->cores == 1 ? "" : "s");
    }
    printf("  products      %s with compute_dtype auto\n", gemm_bf16_is_fast() ? "bf16" : "fp32");
    printf("                bf16 by %s, fp32 by %s\n", gemm_backend(DTYPE_BF16), gemm_backend(DTYPE_F32));
    printf("  other ops     %s kernels\n", kernels(d->cpu));
}

static void tell_advice(const Doctor *d) {
    if (!d->n_advice) {
        printf("\nNothing is missing.\n");
        return;
    }
    printf("\nTo do better\n");
    for (int i = 0; i < d->n_advice; i++) printf("  - %s\n      %s\n", d->advice[i].what, d->advice[i].fix);
}

/* ---- JSON ---- */

static json_t *measured(double value) { return isfinite(value) ? json_real(value) : json_null(); }

static json_t *json_advice(const Doctor *d) {
    json_t *array = json_array();
    for (int i = 0; i < d->n_advice; i++)
        json_array_append_new(array, json_pack("{ss ss}", "what", d->advice[i].what, "fix", d->advice[i].fix));
    return array;
}

static json_t *json_processor(const CpuInfo *cpu) {
    return json_pack("{ss si si sf si sb sb sb sb sb sb sI sI sI}", "model", cpu->model, "cores_online",
                     cpu->cores_online, "cores_allowed", cpu->cores_allowed, "quota", cpu->cpu_quota, "cores",
                     cpu->cores, "avx2", cpu->avx2_fma, "avx512", cpu->avx512, "avx512_vnni", cpu->avx512_vnni,
                     "avx512_bf16", cpu->avx512_bf16, "avx512_fp16", cpu->avx512_fp16, "amx_bf16", cpu->amx_bf16,
                     "l1d", (json_int_t)cpu->cache_l1d, "l2", (json_int_t)cpu->cache_l2, "l3",
                     (json_int_t)cpu->cache_l3);
}

static Status tell_json(const Doctor *d) {
    Str text = {0};
    Status st = TANE_OK;
    json_t *processor = json_processor(d->cpu), *gpus = doctor_gpus_json(&d->gpus), *advice = json_advice(d);
    json_t *use = json_pack("{ss si ss ss ss ss}", "device", d->gpus.used ? "cuda:0" : "cpu", "threads", d->cpu->cores,
                            "compute_dtype",
                            gemm_bf16_is_fast() ? "bf16" : "fp32", "bf16", gemm_backend(DTYPE_BF16), "fp32",
                            gemm_backend(DTYPE_F32), "kernels", kernels(d->cpu));
    json_t *memory = json_pack("{sI sI sI}", "total", (json_int_t)d->cpu->memory, "limit",
                               (json_int_t)d->cpu->memory_limit, "available", (json_int_t)d->available);
    json_t *rates = json_pack("{so so so}", "fp32_flops", measured(d->fp32_flops), "bf16_flops",
                              measured(d->bf16_flops), "memory_bytes_per_second", measured(d->bandwidth));
    json_t *all = json_pack("{ss ss so so sI so si so so so}", "version", TANE_VERSION, "system", d->system,
                            "processor", processor, "memory", memory, "disk_free", (json_int_t)d->disk_free, "gpus",
                            gpus, "cuda_driver", d->gpus.driver, "measured", rates, "use", use, "advice", advice);
    if (!all) TRY(FAIL(TANE_ENOMEM, "out of memory while writing JSON"));
    TRY(json_write_str(&text, all));
    printf("%s\n", text.text);
out:
    json_decref(all);
    str_free(&text);
    return st;
}

/* ---- the command ---- */

static Status run(const Command *self, int argc, char **argv) {
    DoctorConfig config;
    OptionSet set;
    StringList words;
    Doctor d = {0};
    Status st = TANE_OK;
    TRY_RETURN(option_init(&set, self->options, &config));
    TRY(option_parse_args(&set, argc, argv, &words));
    if (words.n) TRY(cli_usage(self, "unexpected word \"%s\"", words.items[0]));
    look_at_system(&d);
    doctor_gpus_look(&d.gpus, config.measure);
    err_clear(); /* files that are not there are no errors here */
    if (config.measure && measure(&d) != TANE_OK) snprintf(d.why_not, sizeof d.why_not, "%.255s", err_message());
    TRY(judge_processor(&d));
    TRY(judge_space(&d));
    judge_gpus(&d);
    if (config.json) {
        TRY(tell_json(&d));
        goto out;
    }
    TRY(tell_machine(&d));
    tell_rates(&d);
    tell_use(&d);
    tell_advice(&d);
out:
    arena_release(&d.arena);
    option_release(&set);
    return st;
}

const Command cmd_doctor = {
    .name = "doctor",
    .summary = "what this machine has, what tane will use, what is missing",
    .examples = "  tane doctor\n"
                "  tane doctor --json | jq .measured\n",
    .usage = "tane doctor [--json] [--no-measure]",
    .options = &table,
    .run = run,
};
