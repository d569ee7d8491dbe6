/* Scaled dot-product attention through cuDNN; see sdpa.h for the layouts.
 *
 * cuDNN is given each pass as a graph of small operations over tensors that mostly exist on paper ("virtual"),
 * recognises attention in it and offers engines: fused kernels. What it recognises is this order of operations, which
 * has been the same in every 9.x (the single-node descriptors learnt causal masks in 9.21 only):
 *
 *   forward    S = scale Q K^T, -inf where key > query or key + window <= query
 *              m = max S;  e = exp(S - m);  l = sum e;  stats = m + log l;  O = (e / l) V
 *   backward   delta = sum(dO O) 1;  P = exp(mask(scale Q K^T - stats));  dV = P^T dO
 *              dS = (dO V^T - delta) P scale;  dK = dS^T Q;  dQ = dS K
 *
 * With fewer key heads than query heads, dK and dV are summed over each group behind their products.
 *
 * Determinism is in the form of the backward graph. NVIDIA's own default puts an fp32 accumulator behind dQ's product,
 * which kernels fill with atomic additions in any order (and no note of theirs says so). Here dQ is written by its
 * product directly: cuDNN then keeps dS in scratch, B H T T elements, and the same bits come out each time. Where that
 * is much memory the batch is taken in parts. Engines that call themselves nondeterministic are passed over as well.
 *
 * Engines come from cuDNN's heuristic, never from timing, so that a shape always runs on the same one.
 */
#include "device/cuda/sdpa.h"

#include "device/cuda/libs.h"

extern "C" {
#include "base/mem.h"
}

static __thread char refusal[384];

const char *sdpa_refusal(void) { return refusal; }

#if __has_include(<cudnn_graph.h>)
#include <cudnn_graph.h>
#include <dlfcn.h>
#include <pthread.h>

#define CUDNN_FUNCTIONS(F)                                                                                             \
    F(GetVersion)                                                                                                      \
    F(GetErrorString)                                                                                                  \
    F(GetLastErrorString)                                                                                              \
    F(Create)                                                                                                          \
    F(Destroy)                                                                                                         \
    F(SetStream)                                                                                                       \
    F(BackendCreateDescriptor)                                                                                         \
    F(BackendDestroyDescriptor)                                                                                        \
    F(BackendSetAttribute)                                                                                             \
    F(BackendGetAttribute)                                                                                             \
    F(BackendFinalize)                                                                                                 \
    F(BackendExecute)

static struct {
#define F(name) decltype(&cudnn##name) name;
    CUDNN_FUNCTIONS(F)
#undef F
} dnn;

/* Before 9.6, lengths that are no multiple of 64 were not taken everywhere. */
enum { OLDEST = 90600 };
enum { MOST_DESCRIPTORS = 192, MOST_OPERATIONS = 40, MOST_ENGINES = 24, MOST_NOTES = 64, MOST_POINTERS = 16 };
/* Scratch of the backward pass: the batch is split above the first, and one sequence must stay below the second. */
static const int64_t ENOUGH_SCRATCH = (int64_t)2 << 30, MOST_SCRATCH = (int64_t)8 << 30;

typedef cudnnBackendDescriptor_t Descriptor;

/* One pass that cuDNN can run. The configuration lives as long as the plan made from it. */
typedef struct Pass {
    Descriptor config, plan;
    size_t workspace;
} Pass;

struct Sdpa {
    Sdpa *next;
    SdpaShape shape;
    Pass forward, backward;       /* forward.plan is NULL where cuDNN refused */
    SdpaShape part;               /* what one run of the backward pass covers */
    float scale, fill, left, one; /* read by cuDNN when a pass is queued */
    char why[sizeof refusal];
};

struct SdpaState {
    cudnnHandle_t handle; /* NULL: no cuDNN */
    char why[sizeof refusal];
    Sdpa *plans;
};

/* --------------------------------------------------------------------------------------------- descriptors */

/* A graph while it is described. After the first failed call the rest do nothing. */
typedef struct Graph {
    const SdpaShape *shape;
    cudnnStatus_t status;
    const char *objection; /* ours, to what cuDNN offered */
    Descriptor all[MOST_DESCRIPTORS], operations[MOST_OPERATIONS];
    int count, operation_count;
    int64_t next_virtual;
    Descriptor scale, fill, left; /* scalars that the host passes */
} Graph;

static Descriptor make(Graph *g, cudnnBackendDescriptorType_t type) {
    Descriptor d = NULL;
    if (g->status == CUDNN_STATUS_SUCCESS && g->count == MOST_DESCRIPTORS) g->status = CUDNN_STATUS_INTERNAL_ERROR;
    if (g->status == CUDNN_STATUS_SUCCESS) g->status = dnn.BackendCreateDescriptor(type, &d);
    if (g->status != CUDNN_STATUS_SUCCESS) return NULL;
    g->all[g->count++] = d;
    return d;
}

static void attr(Graph *g, Descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                 int64_t count, const void *values) {
    if (g->status == CUDNN_STATUS_SUCCESS) g->status = dnn.BackendSetAttribute(d, name, type, count, values);
}

static void attr_descriptor(Graph *g, Descriptor d, cudnnBackendAttributeName_t name, Descriptor value) {
    if (value) attr(g, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static void finalize(Graph *g, Descriptor d) {
    if (g->status == CUDNN_STATUS_SUCCESS) g->status = dnn.BackendFinalize(d);
}

static void release(Graph *g) {
    while (g->count) dnn.BackendDestroyDescriptor(g->all[--g->count]);
}

/* Leaves `d` to somebody else. */
static Descriptor keep(Graph *g, Descriptor d) {
    for (int i = 0; i < g->count; i++)
        if (g->all[i] == d) g->all[i] = g->all[--g->count];
    return d;
}

/* ------------------------------------------------------------------------------------------------- tensors */

/* Names of the tensors that have memory, the same in both passes. */
enum { Q = 1, K, V, O, STATS, D_O, D_Q, D_K, D_V, DELTA, SCALE, FILL, LEFT, ONE, VIRTUAL = 100 };

typedef struct Layout {
    int64_t size[4], stride[4];
} Layout;

static const Layout scalar = {{1, 1, 1, 1}, {1, 1, 1, 1}};

/* (B, heads, T, width) inside rows of `row` elements, one row a token. */
static Layout in_rows(const SdpaShape *s, int heads, int64_t row) {
    int64_t d = s->head_dim;
    return (Layout){{s->batch, heads, s->tokens, d}, {s->tokens * row, d, row, 1}};
}
static Layout in_qkv(const SdpaShape *s, int heads) {
    return in_rows(s, heads, (int64_t)(s->heads + 2 * s->kv_heads) * s->head_dim);
}
static Layout in_out(const SdpaShape *s) { return in_rows(s, s->heads, (int64_t)s->heads * s->head_dim); }

/* (B, H, T, width) without gaps. */
static Layout packed(const SdpaShape *s, int64_t width) {
    int64_t t = s->tokens * width;
    return (Layout){{s->batch, s->heads, s->tokens, width}, {s->heads * t, t, width, 1}};
}
static Layout transposed(Layout l) {
    return (Layout){{l.size[0], l.size[1], l.size[3], l.size[2]}, {l.stride[0], l.stride[1], l.stride[3], l.stride[2]}};
}

static cudnnDataType_t type_of(const SdpaShape *s) {
    return s->type == DTYPE_BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_HALF;
}

static Descriptor tensor(Graph *g, int64_t uid, cudnnDataType_t type, Layout l, bool by_value) {
    Descriptor d = make(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    int64_t alignment = 16;
    bool is_virtual = uid >= VIRTUAL;
    attr(g, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
    attr(g, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    attr(g, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, l.size);
    attr(g, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, l.stride);
    attr(g, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    attr(g, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
    attr(g, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &by_value);
    finalize(g, d);
    return d;
}

static Descriptor memory(Graph *g, int64_t uid, Layout l) { return tensor(g, uid, type_of(g->shape), l, false); }
static Descriptor fp32(Graph *g, int64_t uid, Layout l) { return tensor(g, uid, CUDNN_DATA_FLOAT, l, false); }
static Descriptor value(Graph *g, int64_t uid) { return tensor(g, uid, CUDNN_DATA_FLOAT, scalar, true); }
static Descriptor on_paper(Graph *g, cudnnDataType_t type, Layout l) {
    return tensor(g, g->next_virtual++, type, l, false);
}
/* What most operations give: scores (B, H, T, T), and one number a row (B, H, T, 1). */
static Descriptor scores(Graph *g, cudnnDataType_t type) {
    return on_paper(g, type, packed(g->shape, g->shape->tokens));
}
static Descriptor a_row(Graph *g) { return on_paper(g, CUDNN_DATA_FLOAT, packed(g->shape, 1)); }

/* ---------------------------------------------------------------------------------------------- operations */

/* The last step of each: the operation joins the graph, and its result is what the next one reads. */
static Descriptor operation(Graph *g, Descriptor op, Descriptor y) {
    finalize(g, op);
    if (g->status == CUDNN_STATUS_SUCCESS && g->operation_count == MOST_OPERATIONS)
        g->status = CUDNN_STATUS_INTERNAL_ERROR;
    if (g->status == CUDNN_STATUS_SUCCESS) g->operations[g->operation_count++] = op;
    return y;
}

/* y = mode(x, b), or b and x chosen by `select`; axis is GEN_INDEX's. */
static Descriptor pointwise_full(Graph *g, cudnnPointwiseMode_t mode, int64_t axis, cudnnDataType_t compute,
                                 Descriptor x, Descriptor b, Descriptor select, Descriptor y) {
    Descriptor what = make(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    attr(g, what, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    attr(g, what, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &compute);
    if (mode == CUDNN_POINTWISE_GEN_INDEX) attr(g, what, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis);
    finalize(g, what);
    Descriptor op = make(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    attr_descriptor(g, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, what);
    attr_descriptor(g, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    attr_descriptor(g, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    attr_descriptor(g, op, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, select);
    attr_descriptor(g, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    return operation(g, op, y);
}

static Descriptor pointwise(Graph *g, cudnnPointwiseMode_t mode, Descriptor x, Descriptor b, Descriptor y) {
    return pointwise_full(g, mode, 0, CUDNN_DATA_FLOAT, x, b, NULL, y);
}

static Descriptor product(Graph *g, Descriptor a, Descriptor b, Descriptor c) {
    cudnnDataType_t compute = CUDNN_DATA_FLOAT;
    Descriptor what = make(g, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    attr(g, what, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &compute);
    finalize(g, what);
    Descriptor op = make(g, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    attr_descriptor(g, op, CUDNN_ATTR_OPERATION_MATMUL_DESC, what);
    attr_descriptor(g, op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
    attr_descriptor(g, op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
    attr_descriptor(g, op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c);
    return operation(g, op, c);
}

/* Over the axes in which y is shorter than x. */
static Descriptor reduce(Graph *g, cudnnReduceTensorOp_t how, Descriptor x, Descriptor y) {
    cudnnDataType_t compute = CUDNN_DATA_FLOAT;
    Descriptor what = make(g, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    attr(g, what, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &how);
    attr(g, what, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &compute);
    finalize(g, what);
    Descriptor op = make(g, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    attr_descriptor(g, op, CUDNN_ATTR_OPERATION_REDUCTION_DESC, what);
    attr_descriptor(g, op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    attr_descriptor(g, op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    return operation(g, op, y);
}

/* The same numbers as `l` sees them: how a transposed operand is written. */
static Descriptor view(Graph *g, Descriptor x, Layout l) {
    Descriptor y = on_paper(g, type_of(g->shape), l);
    Descriptor op = make(g, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    attr_descriptor(g, op, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
    attr_descriptor(g, op, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
    return operation(g, op, y);
}

/* -------------------------------------------------------------------------------------------- the two passes */

/* Number of the query (axis 2) or the key (axis 3). */
static Descriptor place(Graph *g, Descriptor s, int64_t axis) {
    return pointwise_full(g, CUDNN_POINTWISE_GEN_INDEX, axis, CUDNN_DATA_FLOAT, s, NULL, NULL,
                          scores(g, CUDNN_DATA_INT32));
}

static Descriptor keep_where(Graph *g, Descriptor s, cudnnPointwiseMode_t compare, Descriptor a, Descriptor b) {
    Descriptor kept = pointwise_full(g, compare, 0, CUDNN_DATA_BOOLEAN, a, b, NULL, scores(g, CUDNN_DATA_BOOLEAN));
    return pointwise_full(g, CUDNN_POINTWISE_BINARY_SELECT, 0, CUDNN_DATA_FLOAT, s, g->fill, kept,
                          scores(g, CUDNN_DATA_FLOAT));
}

static Descriptor mask(Graph *g, Descriptor s) {
    s = keep_where(g, s, CUDNN_POINTWISE_CMP_GE, place(g, s, 2), place(g, s, 3));
    if (!g->left) return s;
    Descriptor reach = pointwise(g, CUDNN_POINTWISE_ADD, place(g, s, 3), g->left, scores(g, CUDNN_DATA_FLOAT));
    return keep_where(g, s, CUDNN_POINTWISE_CMP_GT, reach, place(g, s, 2));
}

static Descriptor scaled(Graph *g, Descriptor x) {
    return pointwise(g, CUDNN_POINTWISE_MUL, x, g->scale, scores(g, CUDNN_DATA_FLOAT));
}

static void scalars(Graph *g) {
    g->scale = value(g, SCALE);
    g->fill = value(g, FILL);
    g->left = g->shape->window ? value(g, LEFT) : NULL;
}

static void describe_forward(Graph *g) {
    const SdpaShape *shape = g->shape;
    scalars(g);
    Descriptor q = memory(g, Q, in_qkv(shape, shape->heads));
    Descriptor k_t = memory(g, K, transposed(in_qkv(shape, shape->kv_heads)));
    Descriptor v = memory(g, V, in_qkv(shape, shape->kv_heads));
    Descriptor s = mask(g, scaled(g, product(g, q, k_t, scores(g, CUDNN_DATA_FLOAT))));
    Descriptor most = reduce(g, CUDNN_REDUCE_TENSOR_MAX, s, a_row(g));
    Descriptor below = pointwise(g, CUDNN_POINTWISE_SUB, s, most, scores(g, CUDNN_DATA_FLOAT));
    Descriptor e = pointwise(g, CUDNN_POINTWISE_EXP, below, NULL, scores(g, CUDNN_DATA_FLOAT));
    Descriptor sum = reduce(g, CUDNN_REDUCE_TENSOR_ADD, e, a_row(g));
    Descriptor log = pointwise(g, CUDNN_POINTWISE_LOG, sum, NULL, a_row(g));
    pointwise(g, CUDNN_POINTWISE_ADD, most, log, shape->backward ? fp32(g, STATS, packed(shape, 1)) : a_row(g));
    Descriptor p = pointwise(g, CUDNN_POINTWISE_DIV, e, sum, scores(g, type_of(shape)));
    product(g, p, v, memory(g, O, in_out(shape)));
}

/* dK or dV: x^T y, summed over the query heads of each key head. */
static void key_gradient(Graph *g, Descriptor x, Descriptor y, int64_t uid) {
    const SdpaShape *s = g->shape;
    Descriptor x_t = view(g, x, transposed(packed(s, s->tokens)));
    Descriptor out = memory(g, uid, in_qkv(s, s->kv_heads));
    if (s->heads == s->kv_heads) product(g, x_t, y, out);
    else reduce(g, CUDNN_REDUCE_TENSOR_ADD, product(g, x_t, y, on_paper(g, type_of(s), packed(s, s->head_dim))), out);
}

static void describe_backward(Graph *g) {
    const SdpaShape *shape = g->shape;
    scalars(g);
    Layout keys = in_qkv(shape, shape->kv_heads);
    Descriptor q = memory(g, Q, in_qkv(shape, shape->heads));
    Descriptor k_t = memory(g, K, transposed(keys)), v_t = memory(g, V, transposed(keys));
    Descriptor o = memory(g, O, in_out(shape)), d_o = memory(g, D_O, in_out(shape));
    Descriptor stats = fp32(g, STATS, packed(shape, 1));

    Descriptor both = pointwise(g, CUDNN_POINTWISE_MUL, d_o, o,
                                on_paper(g, CUDNN_DATA_FLOAT, packed(shape, shape->head_dim)));
    Descriptor delta = reduce(g, CUDNN_REDUCE_TENSOR_ADD, both, a_row(g));
    delta = pointwise(g, CUDNN_POINTWISE_MUL, delta, value(g, ONE), fp32(g, DELTA, packed(shape, 1)));

    Descriptor s = scaled(g, product(g, q, k_t, scores(g, CUDNN_DATA_FLOAT)));
    s = mask(g, pointwise(g, CUDNN_POINTWISE_SUB, s, stats, scores(g, CUDNN_DATA_FLOAT)));
    Descriptor p = pointwise(g, CUDNN_POINTWISE_EXP, s, NULL, scores(g, CUDNN_DATA_FLOAT));
    key_gradient(g, p, d_o, D_V);

    Descriptor d_p = product(g, d_o, v_t, scores(g, CUDNN_DATA_FLOAT));
    d_p = pointwise(g, CUDNN_POINTWISE_SUB, d_p, delta, scores(g, CUDNN_DATA_FLOAT));
    Descriptor d_s = scaled(g, pointwise(g, CUDNN_POINTWISE_MUL, d_p, p, scores(g, CUDNN_DATA_FLOAT)));
    key_gradient(g, d_s, q, D_K);
    product(g, d_s, view(g, k_t, keys), memory(g, D_Q, in_qkv(shape, shape->heads)));
}

/* ------------------------------------------------------------------------------------------------- planning */

static bool deterministic(Graph *g, Descriptor config) {
    cudnnBackendNumericalNote_t notes[MOST_NOTES];
    int64_t n = 0;
    Descriptor engine = make(g, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    if (g->status == CUDNN_STATUS_SUCCESS)
        g->status = dnn.BackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &n,
                                            &engine);
    if (g->status == CUDNN_STATUS_SUCCESS)
        g->status = dnn.BackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                                            MOST_NOTES, &n, notes);
    for (int64_t i = 0; g->status == CUDNN_STATUS_SUCCESS && i < n; i++)
        if (notes[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) {
            g->status = CUDNN_STATUS_NOT_SUPPORTED;
            g->objection = "what it has is not deterministic";
        }
    return g->status == CUDNN_STATUS_SUCCESS;
}

static bool plan_config(Graph *g, Descriptor config, Pass *out) {
    int64_t n = 0, bytes = 0;
    if (!deterministic(g, config)) return false;
    Descriptor plan = make(g, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    attr_descriptor(g, plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
    finalize(g, plan);
    if (g->status == CUDNN_STATUS_SUCCESS)
        g->status = dnn.BackendGetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &n,
                                            &bytes);
    if (g->status != CUDNN_STATUS_SUCCESS) return false;
    *out = (Pass){keep(g, config), keep(g, plan), (size_t)bytes};
    return true;
}

/* The first engine that cuDNN's heuristic offers and that can be made. */
static bool plan_mode(Graph *g, Descriptor whole, cudnnBackendHeurMode_t mode, Pass *out) {
    Descriptor configs[MOST_ENGINES];
    int64_t n = 0;
    Descriptor heuristic = make(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    attr_descriptor(g, heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, whole);
    attr(g, heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    finalize(g, heuristic);
    for (int i = 0; i < MOST_ENGINES; i++) configs[i] = make(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    if (g->status == CUDNN_STATUS_SUCCESS)
        g->status = dnn.BackendGetAttribute(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                            MOST_ENGINES, &n, configs);
    if (g->status == CUDNN_STATUS_SUCCESS && n == 0) g->status = CUDNN_STATUS_NOT_SUPPORTED;
    for (int64_t i = 0; i < n && i < MOST_ENGINES; i++) {
        g->status = CUDNN_STATUS_SUCCESS;
        if (plan_config(g, configs[i], out)) return true;
    }
    return false;
}

/* The first of the reasons that cuDNN's long report gives. */
static void reason(char *text, size_t size) {
    char report[2048] = "";
    dnn.GetLastErrorString(report, sizeof report);
    const char *at = strstr(report, "Reason: ");
    at = at ? at + strlen("Reason: ") : report;
    snprintf(text, size, "%.*s", (int)strcspn(at, "\n"), at);
}

static bool plan_pass(cudnnHandle_t handle, const SdpaShape *shape, void (*describe)(Graph *), Pass *out, char *why,
                      size_t size) {
    Graph g = {};
    g.shape = shape;
    g.next_virtual = VIRTUAL;
    describe(&g);
    Descriptor whole = make(&g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    attr(&g, whole, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    attr(&g, whole, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g.operation_count, g.operations);
    finalize(&g, whole);
    int described = g.count;
    bool ok = g.status == CUDNN_STATUS_SUCCESS && plan_mode(&g, whole, CUDNN_HEUR_MODE_A, out);
    if (!ok) {
        char text[160];
        reason(text, sizeof text); /* the likelier engines' */
        const char *direction = describe == describe_forward ? "forward" : "backward";
        snprintf(why, size, "cuDNN has no %s pass for this shape: %s", direction, g.objection ? g.objection : text);
        if (described == g.count) return release(&g), false; /* the graph itself was refused */
        while (g.count > described) dnn.BackendDestroyDescriptor(g.all[--g.count]);
        g.status = CUDNN_STATUS_SUCCESS;
        ok = plan_mode(&g, whole, CUDNN_HEUR_MODE_FALLBACK, out);
        if (ok) why[0] = 0;
    }
    release(&g);
    return ok;
}

/* What the backward pass takes: dS, and dK and dV of all query heads before they are summed. */
static int64_t scratch_of(const SdpaShape *s) {
    int64_t t = (s->tokens + 127) / 128 * 128;
    int64_t whole_heads = s->heads == s->kv_heads ? 0 : 2 * s->tokens * s->head_dim;
    return s->batch * s->heads * (t * t + whole_heads) * 2;
}

static SdpaShape part_of(const SdpaShape *s) {
    SdpaShape part = *s;
    int64_t parts = 1;
    while (parts < s->batch && (s->batch % parts || scratch_of(s) / parts > ENOUGH_SCRATCH)) parts++;
    part.batch = s->batch / parts;
    return part;
}

/* What is known to be wrong or missing without asking; NULL: cuDNN may be asked. */
static const char *unsuited(const CudaDevice *d, const SdpaShape *s) {
    size_t version = dnn.GetVersion();
    if (s->type != DTYPE_BF16 && s->type != DTYPE_F16) return "cuDNN attends in bf16 and fp16 only";
    if (d->major < 8) return "cuDNN attends on compute capability 8.0 and later";
    if (s->tokens < 2) return "one token is too few for cuDNN";
    if (s->head_dim % 8 || s->head_dim > 256) return "cuDNN wants heads of a multiple of 8, 256 at most";
    if (!s->backward) return NULL;
    if (d->major >= 10) return "no backward pass of cuDNN on Blackwell is known to be deterministic";
    if (d->major != 9 && s->head_dim > 128) return "cuDNN's backward pass wants heads of 128 at most here";
    if (scratch_of(s) / s->batch > MOST_SCRATCH) return "cuDNN's backward pass would take too much scratch";
    if (version <= 91500 && s->tokens % 128) return "cuDNN up to 9.15.0 wants a multiple of 128 tokens to train";
    return NULL;
}

/* ------------------------------------------------------------------------------------- library, handle, plans */

static pthread_mutex_t loading = PTHREAD_MUTEX_INITIALIZER;

/* NULL, or why cuDNN cannot be used. */
static const char *load(void) {
    const char *path, *why;
    void *library = cuda_library_cudnn(&path, &why);
    if (!library) return why;
#define F(name)                                                                                                        \
    dnn.name = (decltype(dnn.name))dlsym(library, "cudnn" #name);                                                      \
    if (!dnn.name) return "cuDNN: cudnn" #name " is missing: install cuDNN 9.6 or later";
    CUDNN_FUNCTIONS(F)
#undef F
    size_t version = dnn.GetVersion();
    if (version < OLDEST) return "cuDNN is older than 9.6: install a later one";
    if (version == 91000 || version == 91001)
        return "cuDNN 9.10.0 and 9.10.1 have known bugs in attention: install a later one";
    return NULL;
}

static void open_state(CudaDevice *d, SdpaState *state) {
    pthread_mutex_lock(&loading);
    const char *why = load();
    pthread_mutex_unlock(&loading);
    cudnnStatus_t status = CUDNN_STATUS_SUCCESS;
    if (!why) status = dnn.Create(&state->handle);
    if (!why && status == CUDNN_STATUS_SUCCESS) status = dnn.SetStream(state->handle, d->stream);
    if (!why && status != CUDNN_STATUS_SUCCESS) {
        if (state->handle) dnn.Destroy(state->handle);
        state->handle = NULL;
        why = dnn.GetErrorString(status);
    }
    if (why) snprintf(state->why, sizeof state->why, "%s", why);
}

static bool same_shape(const SdpaShape *a, const SdpaShape *b) {
    return a->batch == b->batch && a->tokens == b->tokens && a->heads == b->heads && a->kv_heads == b->kv_heads &&
           a->head_dim == b->head_dim && a->type == b->type && a->scale == b->scale && a->window == b->window &&
           a->backward == b->backward;
}

static void free_pass(Pass *pass) {
    if (pass->plan) dnn.BackendDestroyDescriptor(pass->plan);
    if (pass->config) dnn.BackendDestroyDescriptor(pass->config);
    *pass = (Pass){};
}

static void make_plan(const CudaDevice *d, cudnnHandle_t handle, Sdpa *s) {
    const SdpaShape *shape = &s->shape;
    s->scale = shape->scale;
    s->fill = dnn.GetVersion() < 91000 ? -3.402823466e38f : -INFINITY; /* the earlier ones subtract it from itself */
    s->left = (float)shape->window;
    s->one = 1.0f;
    const char *why = unsuited(d, shape);
    if (why) {
        snprintf(s->why, sizeof s->why, "%s", why);
        return;
    }
    if (!plan_pass(handle, shape, describe_forward, &s->forward, s->why, sizeof s->why)) return;
    s->part = part_of(shape);
    if (shape->backward && !plan_pass(handle, &s->part, describe_backward, &s->backward, s->why, sizeof s->why))
        free_pass(&s->forward);
}

Status sdpa_plan(CudaDevice *d, const SdpaShape *shape, const Sdpa **out) {
    *out = NULL;
    refusal[0] = 0;
    if (!d->sdpa) {
        Status st = mem_new((void **)&d->sdpa, 1, sizeof *d->sdpa);
        if (st != TANE_OK) return st;
        open_state(d, d->sdpa);
    }
    SdpaState *state = d->sdpa;
    if (!state->handle) {
        snprintf(refusal, sizeof refusal, "%s", state->why);
        return TANE_OK;
    }
    SdpaShape wanted = *shape;
    if (wanted.window >= wanted.tokens) wanted.window = 0;
    Sdpa *s = state->plans;
    while (s && !same_shape(&s->shape, &wanted)) s = s->next;
    if (!s) {
        Status st = mem_new((void **)&s, 1, sizeof *s);
        if (st != TANE_OK) return st;
        s->shape = wanted;
        s->next = state->plans;
        state->plans = s;
        make_plan(d, state->handle, s);
    }
    if (s->forward.plan) *out = s;
    else snprintf(refusal, sizeof refusal, "%s", s->why);
    return TANE_OK;
}

void sdpa_close(CudaDevice *d) {
    SdpaState *state = d->sdpa;
    if (!state) return;
    for (Sdpa *s = state->plans, *next; s; s = next) {
        next = s->next;
        free_pass(&s->forward);
        free_pass(&s->backward);
        mem_free(s);
    }
    if (state->handle) dnn.Destroy(state->handle);
    mem_free(state);
    d->sdpa = NULL;
}

/* -------------------------------------------------------------------------------------------------- running */

static size_t delta_bytes(const SdpaShape *s) { return cuda_align((size_t)(s->batch * s->heads * s->tokens) * 4); }

size_t sdpa_scratch(const Sdpa *s) {
    size_t backward = s->backward.plan ? delta_bytes(&s->part) + s->backward.workspace : 0;
    return s->forward.workspace > backward ? s->forward.workspace : backward;
}

/* Addresses for the names in a graph. Those of scalars are the host's, and read when the pass is queued. */
typedef struct Binding {
    int64_t uids[MOST_POINTERS];
    void *pointers[MOST_POINTERS];
    int count;
} Binding;

static void bind(Binding *b, int64_t uid, const void *pointer) {
    b->uids[b->count] = uid;
    b->pointers[b->count++] = (void *)pointer;
}

/* Queries, keys and values (or their gradients) inside rows of qkv. */
static void bind_qkv(Binding *b, const SdpaShape *s, const void *qkv, int64_t q, int64_t k, int64_t v) {
    const char *at = (const char *)qkv;
    bind(b, q, at);
    bind(b, k, at + (size_t)s->heads * s->head_dim * 2);
    bind(b, v, at + (size_t)(s->heads + s->kv_heads) * s->head_dim * 2);
}

static void bind_scalars(Binding *b, const Sdpa *s) {
    bind(b, SCALE, &s->scale);
    bind(b, FILL, &s->fill);
    if (s->shape.window) bind(b, LEFT, &s->left);
}

static Status execute(CudaDevice *d, const Pass *pass, const Binding *b, void *workspace) {
    Graph g = {};
    Descriptor pack = make(&g, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    attr(&g, pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, b->count, b->uids);
    attr(&g, pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, b->count, b->pointers);
    attr(&g, pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
    finalize(&g, pack);
    if (g.status == CUDNN_STATUS_SUCCESS) g.status = dnn.BackendExecute(d->sdpa->handle, pass->plan, pack);
    if (g.status != CUDNN_STATUS_SUCCESS) {
        char text[160];
        reason(text, sizeof text);
        release(&g);
        return FAIL(TANE_EUNSUPPORTED, "attention: cuDNN planned this shape and failed to run it: %s %s",
                    dnn.GetErrorString(g.status), text);
    }
    release(&g);
    return TANE_OK;
}

Status sdpa_forward(CudaDevice *d, const Sdpa *s, const void *qkv, void *out, float *stats, void *scratch) {
    Binding b = {};
    bind_qkv(&b, &s->shape, qkv, Q, K, V);
    bind(&b, O, out);
    if (s->shape.backward) bind(&b, STATS, stats);
    bind_scalars(&b, s);
    return execute(d, &s->forward, &b, scratch);
}

Status sdpa_backward(CudaDevice *d, const Sdpa *s, const void *qkv, const void *out, const float *stats,
                     const void *d_out, void *d_qkv, void *scratch) {
    const SdpaShape *part = &s->part;
    size_t rows = (size_t)(part->batch * part->tokens), width = (size_t)part->heads * part->head_dim;
    size_t in_step = rows * (width + 2 * (size_t)part->kv_heads * part->head_dim) * 2, out_step = rows * width * 2;
    for (int64_t i = 0; i < s->shape.batch / part->batch; i++) {
        Binding b = {};
        bind_qkv(&b, part, (const char *)qkv + i * in_step, Q, K, V);
        bind_qkv(&b, part, (const char *)d_qkv + i * in_step, D_Q, D_K, D_V);
        bind(&b, O, (const char *)out + i * out_step);
        bind(&b, D_O, (const char *)d_out + i * out_step);
        bind(&b, STATS, stats + i * rows * part->heads);
        bind(&b, DELTA, scratch);
        bind(&b, ONE, &s->one);
        bind_scalars(&b, s);
        Status st = execute(d, &s->backward, &b, (char *)scratch + delta_bytes(part));
        if (st != TANE_OK) return st;
    }
    return TANE_OK;
}

#else /* built where cuDNN's headers were not: attention.cu's own kernels do everything */

Status sdpa_plan(CudaDevice *d, const SdpaShape *shape, const Sdpa **out) {
    (void)d, (void)shape;
    *out = NULL;
    snprintf(refusal, sizeof refusal, "this libtane_cuda.so was built without cuDNN's headers");
    return TANE_OK;
}
size_t sdpa_scratch(const Sdpa *s) { return (void)s, 0; }
Status sdpa_forward(CudaDevice *d, const Sdpa *s, const void *qkv, void *out, float *stats, void *scratch) {
    (void)d, (void)s, (void)qkv, (void)out, (void)stats, (void)scratch;
    return FAIL(TANE_EUNSUPPORTED, "attention: %s", refusal);
}
Status sdpa_backward(CudaDevice *d, const Sdpa *s, const void *qkv, const void *out, const float *stats,
                     const void *d_out, void *d_qkv, void *scratch) {
    (void)d, (void)s, (void)qkv, (void)out, (void)stats, (void)d_out, (void)d_qkv, (void)scratch;
    return FAIL(TANE_EUNSUPPORTED, "attention: %s", refusal);
}
void sdpa_close(CudaDevice *d) { (void)d; }

#endif
