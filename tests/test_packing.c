/* Packed rows train as the same documents one a row: losses of each document and all gradients, with learned and rotary
 * positions, grouped queries and attention windows; and what happens when documents are not kept apart. */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "train/batch_tape.h"
#include "train/optimizer.h"

enum { VOCAB = 47, WIDTH = 32, DOCUMENTS = 23 };

/* ---- data ---- */

static Tokenizer *tok;

static int make_tokenizer(void **state) {
    (void)state;
    tok = test_characters();
    return 0;
}

static int free_tokenizer(void **state) {
    (void)state;
    tokenizer_free(tok);
    return 0;
}

/* Documents with prompts that are not trained on; one fills a unit exactly, one has a single target. */
static Dataset *documents(void) {
    ShardBuilder b;
    TokenShard s;
    Dataset *set;
    char hash[65];
    Rng rng = {.key = 12};
    DatasetOptions o = {.format = {.tokenizer = tok}, .max_length = WIDTH + 1};
    shard_builder_init(&b, VOCAB);
    for (int64_t d = 0; d < DOCUMENTS; d++) {
        int32_t ids[WIDTH + 1];
        uint8_t mask[WIDTH + 1];
        size_t n = d == 3 ? WIDTH + 1 : d == 4 ? 2 : 2 + rng_below(&rng, WIDTH - 1);
        size_t prompt = 1 + rng_below(&rng, n - 1);
        for (size_t i = 0; i < n; i++) {
            ids[i] = (int32_t)rng_below(&rng, VOCAB);
            mask[i] = i >= prompt;
        }
        assert_ok(shard_builder_add(&b, ids, mask, n, d + 1, false));
    }
    assert_ok(shard_builder_take(&b, &s));
    assert_ok(shard_write(&s, test_path("x.tok"), hash));
    shard_release(&s);
    shard_builder_free(&b);
    assert_ok(dataset_load(&set, &(DataSource){test_path("x.tok"), 1, 1}, 1, &o, 1));
    return set;
}

/* ---- models ---- */

typedef struct Kind {
    const char *family;
    int64_t window;
    DType dtype;
    TapeRecompute recompute;
} Kind;

typedef struct Bench {
    Model *model;
    Optimizer *optimizer;
    BatchTape tape;
    void *memory;
    int64_t rows;
} Bench;

static void bench_open(Bench *b, const Kind *k, Device *device, int64_t rows, bool packed) {
    ModelConfig c;
    OptimizerOptions adam = {.beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-8};
    BatchTapeOptions options = {
        .rows = rows, .width = WIDTH, .packed = packed, .with_grad = true, .recompute = k->recompute};
    ParamArray weights[2];
    bool gpt2 = strcmp(k->family, "gpt2") == 0;
    assert_ok(model_config_init(&c, k->family));
    c.vocab_size = VOCAB;
    c.context = WIDTH;
    c.width = 24;
    c.layers = 3;
    c.heads = 3;
    c.kv_heads = gpt2 ? 0 : 1;
    c.activation = gpt2 ? ACTIVATION_GELU_TANH : ACTIVATION_SILU;
    c.tied = true;
    c.init_std = 0.2; /* large, so that attention is far from even */
    c.window = k->window;
    if (k->window) memset(c.layer, LAYER_WINDOW, 2); /* the third layer sees everything */
    assert_ok(model_new(&b->model, &c, k->dtype, device));
    assert_ok(optimizer_new(&b->optimizer, b->model, &adam));
    assert_ok(params_init(&b->model->params, 3, weights, optimizer_weights(b->optimizer, weights)));
    assert_ok(batch_tape_new(&b->tape, b->model, &options));
    assert_ok(device_alloc(device, &b->memory, tape_bytes(b->tape.tape)));
    assert_ok(tape_bind(b->tape.tape, b->memory));
    b->rows = rows;
}

static void bench_close(Bench *b) {
    Device *device = b->model->device;
    batch_tape_free(&b->tape);
    optimizer_free(b->optimizer);
    model_free(b->model);
    device_release(device, b->memory);
}

/* Losses by document, their sum, and the gradient of sum / targets. */
typedef struct Outcome {
    double loss[DOCUMENTS], sum;
    int64_t targets, real;
    float *grads; /* (elements): mem_free */
} Outcome;

/* All units of the layout, `rows` at a time; `spoil` may change a batch first. */
static void run_units(Bench *b, const Layout *l, int64_t targets, void (*spoil)(Batch *), Outcome *out) {
    Batch batch;
    Device *device = b->model->device;
    bool packed = b->tape.n_in == BATCH_ARRAYS;
    float losses[WIDTH * DOCUMENTS];
    assert_true(b->rows <= DOCUMENTS);
    *out = (Outcome){0};
    assert_ok(batch_new(&batch, b->rows, WIDTH, packed));
    for (int64_t first = 0; first < layout_units(l); first += b->rows) {
        double sum;
        TapeRun run = {.training = true, .accumulate = first > 0, .grad_scale = (float)(1.0 / (double)targets)};
        batch_fill_ordered(&batch, l, first, 3);
        if (spoil) spoil(&batch);
        assert_ok(batch_tape_run(&b->tape, &batch, &run, &sum));
        assert_ok(device_download(device, losses, b->tape.losses->data, (size_t)(b->rows * WIDTH) * sizeof *losses));
        out->sum += sum;
        out->targets += batch.targets;
        out->real += batch.real;
        for (int64_t r = 0; r < b->rows && batch.units[r] >= 0; r++)
            for (int64_t i = 0, at = r * WIDTH; i < layout_documents(l, batch.units[r]); i++) {
                DatasetRow row;
                layout_document(l, batch.units[r], i, &row);
                for (int64_t t = 0; t < row.n - 1; t++) out->loss[row.line - 1] += (double)losses[at++];
            }
    }
    size_t n = b->model->params.elements;
    assert_int_equal(b->model->grad_dtype, DTYPE_F32);
    assert_ok(MEM_NEW_ARRAY(&out->grads, n));
    assert_ok(device_download(device, out->grads, b->model->grads, n * sizeof(float)));
    batch_free(&batch);
}

/* Largest difference of two values of a parameter, in parts of the parameter's largest. */
static double grads_differ(const Params *params, const float *a, const float *b) {
    double worst = 0;
    for (int i = 0; i < params->n; i++) {
        const Param *p = params->items[i];
        double scale = 0, off = 0;
        for (int64_t e = 0; e < param_count(p); e++) {
            double x = (double)a[p->offset + (size_t)e], y = (double)b[p->offset + (size_t)e];
            assert_true(isfinite(x) && isfinite(y));
            scale = fmax(scale, fabs(y));
            off = fmax(off, fabs(x - y));
        }
        assert_true(scale > 0);
        worst = fmax(worst, off / scale);
    }
    return worst;
}

/* ---- packed equals unpacked ---- */

typedef struct Setting {
    Dataset *set;
    Layout *padded, *packed;
} Setting;

static void setting_open(Setting *s) {
    bool padding = false;
    s->set = documents();
    assert_ok(layout_new(&s->padded, s->set, LAYOUT_PADDING, WIDTH));
    assert_ok(layout_new(&s->packed, s->set, LAYOUT_PACKING, WIDTH));
    assert_true(layout_units(s->packed) < DOCUMENTS - 4); /* many share a unit */
    for (int64_t u = 0; u < layout_units(s->packed); u++) {
        int64_t tokens = 0;
        for (int64_t i = 0; i < layout_documents(s->packed, u); i++) {
            DatasetRow row;
            layout_document(s->packed, u, i, &row);
            tokens += row.n - 1;
            if (row.n == WIDTH + 1) assert_int_equal(layout_documents(s->packed, u), 1);
        }
        padding |= tokens < WIDTH;
    }
    assert_true(padding);
}

static void setting_close(Setting *s) {
    layout_free(s->padded);
    layout_free(s->packed);
    dataset_free(s->set);
}

static int64_t targets_of(const Dataset *set) {
    int64_t n = 0;
    for (int64_t i = 0; i < dataset_rows(set); i++) {
        DatasetRow row;
        dataset_row(set, i, &row);
        for (int64_t t = 0; t < row.n; t++) n += row_trained(&row, t);
    }
    return n;
}

static Outcome outcome(const Kind *k, Device *device, const Layout *l, int64_t rows, int64_t targets,
                       void (*spoil)(Batch *)) {
    Bench b;
    Outcome out;
    bench_open(&b, k, device, rows, layout_kind(l) == LAYOUT_PACKING);
    run_units(&b, l, targets, spoil, &out);
    bench_close(&b);
    return out;
}

static double worst_loss(const Outcome *a, const Outcome *b) {
    double worst = 0;
    for (int d = 0; d < DOCUMENTS; d++) {
        assert_true(b->loss[d] > 0);
        worst = fmax(worst, fabs(a->loss[d] - b->loss[d]) / b->loss[d]);
    }
    return worst;
}

static void assert_packed_equals_unpacked(const Kind *k, double sum_bound, double loss_bound, double grad_bound) {
    Setting s;
    setting_open(&s);
    int64_t targets = targets_of(s.set), units = layout_units(s.packed);
    for (Device *const *device = test_devices(); *device; device++) {
        Bench shape;
        Outcome one = outcome(k, *device, s.padded, 1, targets, NULL);
        bench_open(&shape, k, *device, 1, false);
        assert_int_equal(one.targets, targets);
        /* All units at once; one at a time; with units that are empty at the end. */
        const int64_t rows[] = {units, 1, 5};
        for (int i = 0; i < (*device == test_device() ? 3 : 1); i++) {
            Outcome packed = outcome(k, *device, s.packed, rows[i], targets, NULL);
            double sum = fabs(packed.sum - one.sum) / one.sum, loss = worst_loss(&packed, &one),
                   grad = grads_differ(&shape.model->params, packed.grads, one.grads);
            print_message(
                "%s %s window %d, %d rows: sum of losses off by %.2g, a document's by %.2g, gradients by %.2g\n",
                test_device_title(*device), k->family, (int)k->window, (int)rows[i], sum, loss, grad);
            assert_int_equal(packed.targets, targets);
            assert_int_equal(packed.real, one.real);
            assert_true(sum <= sum_bound && loss <= loss_bound && grad <= grad_bound);
            mem_free(packed.grads);
        }
        mem_free(one.grads);
        bench_close(&shape);
    }
    setting_close(&s);
}

static void in_fp32_they_are_equal(void **state) {
    (void)state;
    static const Kind kinds[] = {{"gpt2", 0, DTYPE_F32, RECOMPUTE_NONE},
                                 {"llama", 0, DTYPE_F32, RECOMPUTE_NONE},
                                 {"mistral", 6, DTYPE_F32, RECOMPUTE_NONE},
                                 {"llama", 0, DTYPE_F32, RECOMPUTE_BLOCK}};
    for (int i = 0; i < 4; i++) assert_packed_equals_unpacked(&kinds[i], 1e-6, 1e-5, 1e-5);
}

/* On the CPU the losses are the same to the bit: no token's numbers depend on what else is in the row. On a GPU
 * attention adds up in another order: a bf16 number has 8 bits, and what is rounded otherwise differs by such a part. */
static void in_bf16_they_are_equal_but_for_rounding(void **state) {
    (void)state;
    static const Kind kinds[] = {{"gpt2", 0, DTYPE_BF16, RECOMPUTE_NONE}, {"llama", 0, DTYPE_BF16, RECOMPUTE_NONE}};
    for (int i = 0; i < 2; i++)
        if (test_on_cpu()) assert_packed_equals_unpacked(&kinds[i], 1e-6, 0, 1e-5);
        else assert_packed_equals_unpacked(&kinds[i], 0x1p-10, 0x1p-8, 0x1p-6);
}

/* ---- what would go wrong ---- */

static void one_document(Batch *b) {
    for (int64_t i = 0; i < b->rows * b->width; i++) b->starts[i] = 0;
}

static void positions_go_on(Batch *b) {
    for (int64_t i = 0; i < b->rows * b->width; i++) b->positions[i] = (int32_t)(i % b->width);
}

/* The comparison above sees documents that attend to each other, and learned positions that do not begin anew. (Rotary
 * ones only matter by their differences.) */
static void documents_that_are_not_kept_apart_differ(void **state) {
    (void)state;
    static const Kind gpt2 = {"gpt2", 0, DTYPE_F32, RECOMPUTE_NONE}, llama = {"llama", 0, DTYPE_F32, RECOMPUTE_NONE};
    Setting s;
    setting_open(&s);
    int64_t targets = targets_of(s.set), units = layout_units(s.packed);
    Outcome right = outcome(&gpt2, test_device(), s.packed, units, targets, NULL),
            mixed = outcome(&gpt2, test_device(), s.packed, units, targets, one_document),
            shifted = outcome(&gpt2, test_device(), s.packed, units, targets, positions_go_on),
            rotary = outcome(&llama, test_device(), s.packed, units, targets, NULL),
            turned = outcome(&llama, test_device(), s.packed, units, targets, positions_go_on);
    assert_true(worst_loss(&mixed, &right) > 1e-2);
    assert_true(worst_loss(&shifted, &right) > 1e-2);
    assert_true(worst_loss(&turned, &rotary) < 1e-5);
    mem_free(right.grads);
    mem_free(mixed.grads);
    mem_free(shifted.grads);
    mem_free(rotary.grads);
    mem_free(turned.grads);
    setting_close(&s);
}

/* What a document's tokens are changes no loss of its neighbours, to the bit. */
static void replace_first_document(Batch *b) {
    for (int64_t r = 0; r < b->rows; r++)
        for (int64_t t = 0; t < b->width && b->starts[r * b->width + t] == 0; t++) {
            b->tokens[r * b->width + t] = (b->tokens[r * b->width + t] + 1) % VOCAB;
        }
}

static void neighbours_do_not_matter(void **state) {
    (void)state;
    static const Kind kinds[] = {{"gpt2", 0, DTYPE_F32, RECOMPUTE_NONE}, {"llama", 0, DTYPE_BF16, RECOMPUTE_NONE}};
    Setting s;
    setting_open(&s);
    int64_t targets = targets_of(s.set), units = layout_units(s.packed);
    for (int k = 0; k < 2; k++) {
        Outcome a = outcome(&kinds[k], test_device(), s.packed, units, targets, NULL),
                b = outcome(&kinds[k], test_device(), s.packed, units, targets, replace_first_document);
        int first = 0, later = 0;
        for (int64_t u = 0; u < units; u++)
            for (int64_t i = 0; i < layout_documents(s.packed, u); i++) {
                DatasetRow row;
                layout_document(s.packed, u, i, &row);
                bool same = a.loss[row.line - 1] == b.loss[row.line - 1];
                if (i == 0) first += !same;
                else if (!same) fail_msg("document %d of unit %d", (int)i, (int)u);
                else later++;
            }
        assert_int_equal(first, units);
        assert_true(later > 4);
        mem_free(a.grads);
        mem_free(b.grads);
    }
    setting_close(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(in_fp32_they_are_equal),
        TEST(in_bf16_they_are_equal_but_for_rounding),
        TEST(documents_that_are_not_kept_apart_differ),
        TEST(neighbours_do_not_matter),
    };
    return cmocka_run_group_tests_name("packing", tests, make_tokenizer, free_tokenizer);
}
