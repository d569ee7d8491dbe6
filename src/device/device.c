/* The CPU as a device: ordinary memory, and everything is done when a call returns; and replaying, for any device. See
 * device.h. */
#include "device/device.h"

#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "device/cpuinfo.h"
#include "device/measure.h"

struct DeviceEvent {
    double at;
};

static void cpu_close(Device *d) { (void)d; }

static Status cpu_alloc(Device *d, void **out, size_t bytes) {
    (void)d;
    return mem_new(out, bytes, 1);
}

static void cpu_release(Device *d, void *memory) {
    (void)d;
    mem_free(memory);
}

static Status cpu_copy(Device *d, void *to, const void *from, size_t bytes) {
    (void)d;
    if (bytes && to != from) memcpy(to, from, bytes);
    return TANE_OK;
}

static Status cpu_zero(Device *d, void *to, size_t bytes) {
    (void)d;
    if (bytes) memset(to, 0, bytes);
    return TANE_OK;
}

static Status cpu_sync(Device *d) {
    (void)d;
    return TANE_OK;
}

static Status cpu_memory(Device *d, size_t *free, size_t *total) {
    (void)d;
    *free = cpu_memory_available();
    *total = cpu_info()->memory;
    return TANE_OK;
}

static Status no_graphs(void) { return FAIL(TANE_EINTERNAL, "the CPU records no graphs"); }
static Status cpu_graph_begin(Device *d) {
    (void)d;
    return no_graphs();
}
static Status cpu_graph_end(Device *d, DeviceGraph **out, bool keep) {
    (void)d;
    (void)keep;
    *out = NULL;
    return no_graphs();
}
static Status cpu_graph_launch(Device *d, DeviceGraph *graph) {
    (void)d;
    (void)graph;
    return no_graphs();
}
static void cpu_graph_free(Device *d, DeviceGraph *graph) {
    (void)d;
    (void)graph;
}

static Status cpu_event_new(Device *d, DeviceEvent **out) {
    (void)d;
    return MEM_NEW(out);
}
static Status cpu_event_record(Device *d, DeviceEvent *event) {
    (void)d;
    event->at = clock_seconds();
    return TANE_OK;
}
static Status cpu_event_wait(Device *d, DeviceEvent *event) {
    (void)d;
    (void)event;
    return TANE_OK;
}
static Status cpu_event_seconds(Device *d, DeviceEvent *from, DeviceEvent *to, double *seconds) {
    (void)d;
    *seconds = to->at - from->at;
    return TANE_OK;
}
static void cpu_event_free(Device *d, DeviceEvent *event) {
    (void)d;
    mem_free(event);
}

static Status cpu_measure(Device *d, DType type, double *flops, double *bytes_per_second) {
    (void)d;
    TRY_RETURN(measure_gemm(type, flops));
    return bytes_per_second ? measure_memory(bytes_per_second) : TANE_OK;
}

const DeviceApi device_cpu_api = {.close = cpu_close,
                                  .alloc = cpu_alloc,
                                  .release = cpu_release,
                                  .host_alloc = cpu_alloc,
                                  .host_release = cpu_release,
                                  .upload = cpu_copy,
                                  .download = cpu_copy,
                                  .download_later = cpu_copy,
                                  .copy = cpu_copy,
                                  .zero = cpu_zero,
                                  .sync = cpu_sync,
                                  .memory = cpu_memory,
                                  .graph_begin = cpu_graph_begin,
                                  .graph_end = cpu_graph_end,
                                  .graph_launch = cpu_graph_launch,
                                  .graph_free = cpu_graph_free,
                                  .event_new = cpu_event_new,
                                  .event_record = cpu_event_record,
                                  .event_wait = cpu_event_wait,
                                  .event_seconds = cpu_event_seconds,
                                  .event_free = cpu_event_free,
                                  .measure = cpu_measure};

Status device_replay(Device *d, DeviceReplay *replay, Status (*work)(void *user), void *user) {
    if (!d->graphs || !replay->warm) {
        replay->warm = true;
        return work(user);
    }
    if (!replay->graph) {
        ErrorCopy error;
        TRY_RETURN(device_graph_begin(d));
        Status st = work(user);
        if (st != TANE_OK) err_save(&error);
        Status end = device_graph_end(d, &replay->graph, st == TANE_OK);
        if (st != TANE_OK) return err_restore(&error);
        TRY_RETURN(end);
    }
    return device_graph_launch(d, replay->graph);
}
