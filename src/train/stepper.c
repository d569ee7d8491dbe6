/* Slots of inputs and results, and a step as one graph. See stepper.h.
 *
 * What changes from step to step lies in one block: TapeRuns (one a micro-batch, one for the update), the hyper values,
 * tokens and labels. The host fills a slot's copy of it, one upload moves it to the device, where its address is always
 * the same; that is why a graph can be launched again. Results come back the same way.
 */
#include "train/stepper.h"

#include <math.h>

#include "base/clock.h"

enum { DEPTH = 4 };

/* Offsets in the block and in the results. */
typedef struct BlockLayout {
    size_t hyper, ids, array, batch, bytes; /* runs come first; array: bytes of one of a micro-batch's arrays */
    size_t control, result_bytes;           /* losses come first */
} BlockLayout;

typedef struct Slot {
    StepInput input;
    Batch *batches; /* (accumulation): views of `block` */
    char *block, *results;
    DeviceEvent *done;
    int64_t targets, real;
} Slot;

struct Stepper {
    Device *device;
    BatchTape *tape;
    Optimizer *optimizer;
    int64_t accumulation;
    BlockLayout layout;
    Slot slot[DEPTH];
    int depth, first, in_flight; /* slots first .. first + in_flight - 1 are queued */
    char *block, *results;       /* on the device */
    DeviceReplay *replay;        /* (accumulation + 1) by micro-batches used */
    double taken;
};

static size_t align64(size_t n) { return (n + 63) & ~(size_t)63; }

static BlockLayout layout_of(const BatchTape *tape, int64_t accumulation) {
    BlockLayout l = {0};
    size_t n = (size_t)accumulation;
    l.array = align64((size_t)(tape->rows * tape->width) * sizeof(int32_t));
    l.hyper = align64((n + 1) * sizeof(TapeRun));
    l.ids = l.hyper + align64(UPDATE_HYPER * sizeof(float));
    l.batch = (size_t)tape->n_in * l.array;
    l.bytes = l.ids + n * l.batch;
    l.control = align64(n * 2 * sizeof(float));
    l.result_bytes = l.control + align64(UPDATE_CONTROL * sizeof(float));
    return l;
}

size_t stepper_bytes(const BatchTape *tape, int64_t accumulation) {
    BlockLayout l = layout_of(tape, accumulation);
    return l.bytes + l.result_bytes;
}

static Status slot_new(Stepper *s, Slot *slot) {
    const BatchTape *tape = s->tape;
    TRY_RETURN(device_host_alloc(s->device, (void **)&slot->block, s->layout.bytes));
    TRY_RETURN(device_host_alloc(s->device, (void **)&slot->results, s->layout.result_bytes));
    TRY_RETURN(device_event_new(s->device, &slot->done));
    TRY_RETURN(MEM_NEW_ARRAY(&slot->batches, (size_t)s->accumulation));
    for (int64_t i = 0; i < s->accumulation; i++) {
        char *at = slot->block + s->layout.ids + (size_t)i * s->layout.batch;
        bool packed = tape->n_in == BATCH_ARRAYS;
        TRY_RETURN(batch_view(&slot->batches[i], tape->rows, tape->width, packed, at, s->layout.array));
    }
    return TANE_OK;
}

Status stepper_new(Stepper **out, BatchTape *tape, Optimizer *optimizer, int64_t accumulation) {
    Status st = TANE_OK;
    TRY_RETURN(MEM_NEW(out));
    Stepper *s = *out;
    s->device = tape->device;
    s->tape = tape;
    s->optimizer = optimizer;
    s->accumulation = accumulation;
    s->depth = s->device->host ? 1 : DEPTH;
    s->layout = layout_of(tape, accumulation);
    s->taken = clock_seconds();
    TRY(device_alloc(s->device, (void **)&s->block, s->layout.bytes));
    TRY(device_alloc(s->device, (void **)&s->results, s->layout.result_bytes));
    TRY(MEM_NEW_ARRAY(&s->replay, (size_t)accumulation + 1));
    for (int i = 0; i < s->depth; i++) TRY(slot_new(s, &s->slot[i]));
out:
    if (st != TANE_OK) {
        stepper_free(s);
        *out = NULL;
    }
    return st;
}

void stepper_free(Stepper *s) {
    if (!s) return;
    (void)device_sync(s->device);
    for (int64_t i = 0; s->replay && i <= s->accumulation; i++) device_replay_free(s->device, &s->replay[i]);
    for (int i = 0; i < DEPTH; i++) {
        Slot *slot = &s->slot[i];
        for (int64_t b = 0; slot->batches && b < s->accumulation; b++) batch_free(&slot->batches[b]);
        mem_free(slot->batches);
        device_host_release(s->device, slot->block);
        device_host_release(s->device, slot->results);
        device_event_free(s->device, slot->done);
    }
    mem_free(s->replay);
    device_release(s->device, s->block);
    device_release(s->device, s->results);
    mem_free(s);
}

int stepper_depth(const Stepper *s) { return s->depth; }
int stepper_in_flight(const Stepper *s) { return s->in_flight; }

static Slot *next_slot(Stepper *s) { return &s->slot[(s->first + s->in_flight) % s->depth]; }

void stepper_batches(Stepper *s, Batch **batches) { *batches = next_slot(s)->batches; }

/* Everything between the upload of the inputs and the download of the results. The host's copies of the runs are good
 * for the whole life of a graph: only `training` and `accumulate` are read from them. */
static Status queue_work(void *user) {
    Stepper *s = user;
    const Slot *slot = next_slot(s);
    BatchTape *tape = s->tape;
    const TapeRun *runs = (const TapeRun *)slot->block;
    for (int64_t i = 0; i <= slot->input.used; i++) {
        bool update = i == slot->input.used;
        TapeRun run = runs[update ? s->accumulation : i];
        run.on_device = (const TapeRun *)s->block + (update ? s->accumulation : i);
        if (update) {
            s->optimizer->hyper->data = s->block + s->layout.hyper;
            s->optimizer->control->data = s->results + s->layout.control;
            return optimizer_queue(s->optimizer, &run);
        }
        char *ids = s->block + s->layout.ids + (size_t)i * s->layout.batch;
        for (int k = 0; k < tape->n_in; k++) tape->in[k]->data = ids + (size_t)k * s->layout.array;
        tape->sum->data = (float *)s->results + 2 * i;
        TRY_RETURN(batch_tape_queue(tape, &run));
    }
    return TANE_OK;
}

Status stepper_submit(Stepper *s, const StepInput *input) {
    Slot *slot = next_slot(s);
    TapeRun *runs = (TapeRun *)slot->block;
    slot->input = *input;
    slot->targets = slot->real = 0;
    for (int64_t i = 0; i < input->used; i++) {
        slot->targets += slot->batches[i].targets;
        slot->real += slot->batches[i].real;
    }
    for (int64_t i = 0; i < input->used; i++)
        runs[i] = (TapeRun){.seed = input->seed,
                            .position = (uint64_t)(input->step * s->accumulation + i),
                            .training = true,
                            .accumulate = i > 0,
                            .grad_scale = (float)(1.0 / (double)slot->targets)};
    runs[s->accumulation] = (TapeRun){.seed = input->seed, .position = (uint64_t)input->step};
    optimizer_hyper(s->optimizer, input->learning_rate, (float *)(slot->block + s->layout.hyper));
    TRY_RETURN(device_upload(s->device, s->block, slot->block, s->layout.bytes));
    TRY_RETURN(device_replay(s->device, &s->replay[input->used], queue_work, s));
    TRY_RETURN(device_download_later(s->device, slot->results, s->results, s->layout.result_bytes));
    TRY_RETURN(device_event_record(s->device, slot->done));
    s->in_flight++;
    return TANE_OK;
}

Status stepper_take(Stepper *s, StepResult *r) {
    if (!s->in_flight) return FAIL(TANE_EINTERNAL, "stepper_take: no step is in flight");
    Slot *slot = &s->slot[s->first];
    TRY_RETURN(device_event_wait(s->device, slot->done));
    s->first = (s->first + 1) % s->depth;
    s->in_flight--;
    const float *losses = (const float *)slot->results, *control = (const float *)(slot->results + s->layout.control);
    double now = clock_seconds();
    *r = (StepResult){.input = slot->input,
                      .batches = slot->batches,
                      .targets = slot->targets,
                      .real = slot->real,
                      .norm = control[CONTROL_NORM],
                      .applied = control[CONTROL_APPLY] != 0,
                      .bad_batch = -1,
                      .bad_row = -1,
                      .seconds = now - s->taken};
    s->taken = now;
    for (int64_t i = 0; i < slot->input.used; i++) {
        r->loss += losses[2 * i];
        if (r->bad_batch >= 0 || losses[2 * i + 1] < 0) continue;
        r->bad_batch = i;
        r->bad_row = (int64_t)losses[2 * i + 1] / s->tape->width;
    }
    return TANE_OK;
}
