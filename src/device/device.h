/* A device: where tensors live and which kernels run over them. The CPU, or an NVIDIA GPU behind libtane_cuda.so.
 *
 * Everything above this folder is the same for both: it allocates through a device, moves data with upload and
 * download, and replays tapes whose kernels come from `kernels`. Work is queued in order: an upload, a tape's run and a
 * download see each other's results in the order of the calls. On the CPU every call is done when it returns; on a GPU
 * only device_download, device_sync and device_event_wait wait, and what went wrong in between shows up there.
 *
 * A graph is a recorded stretch of queued work (a whole training step) that is launched again with one call. The CPU
 * has none: device_graph_begin returns false, and the caller runs the work itself each time.
 *
 * A device is used by one thread at a time.
 */
#ifndef DEVICE_DEVICE_H
#define DEVICE_DEVICE_H

#include <stdbool.h>

#include "base/dtype.h"
#include "base/status.h"

typedef struct Device Device;
typedef struct DeviceGraph DeviceGraph;
typedef struct DeviceEvent DeviceEvent;

/* How fp32 products are computed, and whether bf16 and fp16 ones go through 8 bits. */
typedef enum MatmulMode { MATMUL_EXACT, MATMUL_TF32, MATMUL_FP8_TENSOR, MATMUL_FP8_BLOCK } MatmulMode;

typedef struct DeviceApi {
    void (*close)(Device *d);
    Status (*alloc)(Device *d, void **out, size_t bytes);
    void (*release)(Device *d, void *memory);
    Status (*host_alloc)(Device *d, void **out, size_t bytes);
    void (*host_release)(Device *d, void *memory);
    Status (*upload)(Device *d, void *to, const void *from, size_t bytes);
    Status (*download)(Device *d, void *to, const void *from, size_t bytes);
    Status (*download_later)(Device *d, void *to, const void *from, size_t bytes);
    Status (*copy)(Device *d, void *to, const void *from, size_t bytes);
    Status (*zero)(Device *d, void *to, size_t bytes);
    Status (*sync)(Device *d);
    Status (*memory)(Device *d, size_t *free, size_t *total);
    Status (*graph_begin)(Device *d);
    Status (*graph_end)(Device *d, DeviceGraph **out, bool keep);
    Status (*graph_launch)(Device *d, DeviceGraph *graph);
    void (*graph_free)(Device *d, DeviceGraph *graph);
    Status (*event_new)(Device *d, DeviceEvent **out);
    Status (*event_record)(Device *d, DeviceEvent *event);
    Status (*event_wait)(Device *d, DeviceEvent *event);
    Status (*event_seconds)(Device *d, DeviceEvent *from, DeviceEvent *to, double *seconds);
    void (*event_free)(Device *d, DeviceEvent *event);
    Status (*measure)(Device *d, DType type, double *flops, double *bytes_per_second);
} DeviceApi;

struct Device {
    const DeviceApi *api;
    const struct OpKernel *const *kernels; /* OP_COUNT rows */
    char name[16];        /* "cpu", "cuda:0" */
    char description[96]; /* "NVIDIA H100 80GB HBM3, compute capability 9.0" */
    char products[64];    /* what matrix products run on: "amx-bf16", "cuBLASLt 13.0" */
    bool host;            /* its memory is ordinary memory, to be read and written directly */
    bool graphs;          /* has device_graph_* */
    bool bf16_is_fast, has_fp16;
    MatmulMode matmul;    /* set before tapes are planned */
    bool rehearsing;      /* tapes planned now will not run: no time is spent on making them fast */
    size_t reserved;      /* bytes that its libraries and workspaces take, or will take, by themselves */
    size_t taken;         /* of these, already */
};

/* *out: zeroed memory, aligned to 256 bytes on a GPU and 64 on the CPU. TANE_ENOMEM names sizes. */
static inline Status device_alloc(Device *d, void **out, size_t bytes) { return d->api->alloc(d, out, bytes); }
static inline void device_release(Device *d, void *memory) {
    if (memory) d->api->release(d, memory);
}
/* Ordinary memory that a GPU copies from and to without waiting. */
static inline Status device_host_alloc(Device *d, void **out, size_t bytes) {
    return d->api->host_alloc(d, out, bytes);
}
static inline void device_host_release(Device *d, void *memory) {
    if (memory) d->api->host_release(d, memory);
}
/* Host to device. `from` is free again on return, unless it came from device_host_alloc: then it must keep its values
 * until the queue has passed this point. */
static inline Status device_upload(Device *d, void *to, const void *from, size_t bytes) {
    return d->api->upload(d, to, from, bytes);
}
/* Device to host; waits for everything queued before. */
static inline Status device_download(Device *d, void *to, const void *from, size_t bytes) {
    return d->api->download(d, to, from, bytes);
}
/* The same without waiting: `to`, from device_host_alloc, is filled once an event recorded afterwards has passed. */
static inline Status device_download_later(Device *d, void *to, const void *from, size_t bytes) {
    return d->api->download_later(d, to, from, bytes);
}
static inline Status device_copy(Device *d, void *to, const void *from, size_t bytes) {
    return d->api->copy(d, to, from, bytes);
}
static inline Status device_zero(Device *d, void *to, size_t bytes) { return d->api->zero(d, to, bytes); }
/* Waits for everything queued. Reports what a kernel found wrong (an id out of range) and what the driver did. */
static inline Status device_sync(Device *d) { return d->api->sync(d); }
static inline Status device_memory(Device *d, size_t *free, size_t *total) { return d->api->memory(d, free, total); }

/* Between begin and end, work is recorded and not run. keep = false throws it away (after an error); *out is NULL. */
static inline Status device_graph_begin(Device *d) { return d->api->graph_begin(d); }
static inline Status device_graph_end(Device *d, DeviceGraph **out, bool keep) {
    return d->api->graph_end(d, out, keep);
}
static inline Status device_graph_launch(Device *d, DeviceGraph *graph) { return d->api->graph_launch(d, graph); }
static inline void device_graph_free(Device *d, DeviceGraph *graph) {
    if (graph) d->api->graph_free(d, graph);
}

/* Work that is queued again and again with the same addresses. The first time it is queued call by call, so that all it
 * needs is loaded; the second time it is recorded, and from then on launched as one graph. A device without graphs queues
 * it each time. Zero-initialise; device_replay_free when an address changes or at the end. */
typedef struct DeviceReplay {
    DeviceGraph *graph;
    bool warm;
} DeviceReplay;
Status device_replay(Device *d, DeviceReplay *replay, Status (*work)(void *user), void *user);
static inline void device_replay_free(Device *d, DeviceReplay *replay) {
    device_graph_free(d, replay->graph);
    *replay = (DeviceReplay){NULL, false};
}

/* A place in the queue; event_wait returns once it is passed, and reports errors as device_sync does. */
static inline Status device_event_new(Device *d, DeviceEvent **out) { return d->api->event_new(d, out); }
static inline Status device_event_record(Device *d, DeviceEvent *event) { return d->api->event_record(d, event); }
static inline Status device_event_wait(Device *d, DeviceEvent *event) { return d->api->event_wait(d, event); }
/* Seconds between two passed events. */
static inline Status device_event_seconds(Device *d, DeviceEvent *from, DeviceEvent *to, double *seconds) {
    return d->api->event_seconds(d, from, to, seconds);
}
static inline void device_event_free(Device *d, DeviceEvent *event) {
    if (event) d->api->event_free(d, event);
}

/* Rates of large products of `type` and of copying (read + written); under a second. */
static inline Status device_measure(Device *d, DType type, double *flops, double *bytes_per_second) {
    return d->api->measure(d, type, flops, bytes_per_second);
}

static inline void device_close(Device *d) {
    if (d) d->api->close(d);
}

/* The CPU's functions; ops/backend.c makes the device with its kernels. */
extern const DeviceApi device_cpu_api;

#endif
