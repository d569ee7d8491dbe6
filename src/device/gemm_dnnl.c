/* Matrix products through oneDNN's matmul primitive, for oneDNN 2.6 (Debian 12) and 3.x.
 *
 * Making a primitive generates code (0.1 to 10 ms), so primitives are kept in a small table by shape. A slot is used
 * by one thread at a time; a second thread with the same shape gets a slot of its own, which oneDNN's own cache makes
 * cheap. Scratch: what oneDNN wants is not monotone in m, so it can't be promised to the caller ahead of time. It comes
 * from a pool of buffers that grow to the largest need and stay, one for each product that is in flight at a time.
 *
 * Where oneDNN has no bf16 (before AVX-512) the operands are widened to fp32 first: slow, but right.
 */
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>

#include "base/mem.h"
#include "device/gemm_backend.h"

enum { SLOTS = 256, POOL = 64 };
enum { MEM_A, MEM_B, MEM_C, MEM_BIAS, MEM_SCRATCH, MEMS };
static const int mem_arg[MEMS] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_BIAS, DNNL_ARG_SCRATCHPAD};

typedef struct Product {
    Gemm key;
    int threads; /* what oneDNN may use is fixed when the primitive is made */
    bool made;
    bool widen; /* the primitive is the dense fp32 twin of a bf16 product */
    dnnl_primitive_t primitive;
    dnnl_stream_t stream;
    dnnl_memory_t mem[MEMS]; /* NULL where the product has none */
    size_t scratch;
} Product;

/* While busy, the product belongs to one thread; all else here is under the lock. */
typedef struct Slot {
    Product product;
    bool busy;
    uint64_t used; /* for the choice of whom to replace */
} Slot;

typedef struct Buffer {
    uint8_t *bytes;
    size_t size;
} Buffer;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static dnnl_engine_t engine;
static Slot slots[SLOTS];
static Buffer pool[POOL]; /* idle ones are 0..pooled-1 */
static int pooled;
static uint64_t takes;

static Status failed(dnnl_status_t code, const Gemm *g) {
    const dnnl_version_t *v = dnnl_version();
    Status st = code == dnnl_out_of_memory   ? TANE_ENOMEM
                : code == dnnl_unimplemented ? TANE_EUNSUPPORTED
                                             : TANE_EINTERNAL;
    return FAIL(st, "oneDNN %d.%d could not multiply %lld x %lld x %lld in %s (its status %d: %s)", v->major, v->minor,
                (long long)g->m, (long long)g->n, (long long)g->k, dtype_name(g->type), (int)code,
                code == dnnl_out_of_memory   ? "out of memory"
                : code == dnnl_unimplemented ? "not implemented for this CPU"
                                             : "see dnnl_status_t");
}

#define DNNL_TRY(expr)                                                                                                 \
    do {                                                                                                               \
        code = (expr);                                                                                                 \
        if (code != dnnl_success) goto out;                                                                            \
    } while (0)

/* The three places where 2.x and 3.x differ: descriptors by value or by handle, sum's arguments, making a matmul. */
#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t Desc;
#define DESC(d) (d)
static dnnl_status_t desc_init(Desc *d, dnnl_dims_t dims, dnnl_data_type_t type, dnnl_dims_t strides) {
    return dnnl_memory_desc_create_with_strides(d, 2, dims, type, strides);
}
static void desc_free(Desc d) {
    if (d) dnnl_memory_desc_destroy(d);
}
static dnnl_status_t append_sum(dnnl_post_ops_t ops) {
    return dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef);
}
static dnnl_status_t matmul_desc(dnnl_primitive_desc_t *pd, Desc d[MEMS], bool bias, dnnl_primitive_attr_t attr) {
    return dnnl_matmul_primitive_desc_create(pd, engine, d[MEM_A], d[MEM_B], bias ? d[MEM_BIAS] : NULL, d[MEM_C], attr);
}
#else
typedef dnnl_memory_desc_t Desc;
#define DESC(d) (&(d))
static dnnl_status_t desc_init(Desc *d, dnnl_dims_t dims, dnnl_data_type_t type, dnnl_dims_t strides) {
    return dnnl_memory_desc_init_by_strides(d, 2, dims, type, strides);
}
static void desc_free(Desc d) { (void)d; }
static dnnl_status_t append_sum(dnnl_post_ops_t ops) { return dnnl_post_ops_append_sum(ops, 1.0f); }
static dnnl_status_t matmul_desc(dnnl_primitive_desc_t *pd, Desc d[MEMS], bool bias, dnnl_primitive_attr_t attr) {
    dnnl_matmul_desc_t op;
    dnnl_status_t code = dnnl_matmul_desc_init(&op, &d[MEM_A], &d[MEM_B], bias ? &d[MEM_BIAS] : NULL, &d[MEM_C]);
    return code != dnnl_success ? code : dnnl_primitive_desc_create(pd, &op, attr, engine, NULL);
}
#endif

/* A (rows, cols) matrix stored as said, or with rows and columns exchanged. */
static dnnl_status_t desc_matrix(Desc *d, int64_t rows, int64_t cols, int64_t ld, bool transposed, DType type) {
    dnnl_dims_t dims = {rows, cols}, strides = {transposed ? 1 : ld, transposed ? ld : 1};
    return desc_init(d, dims, type == DTYPE_BF16 ? dnnl_bf16 : dnnl_f32, strides);
}

static void product_release(Product *s) {
    for (int i = 0; i < MEMS; i++)
        if (s->mem[i]) dnnl_memory_destroy(s->mem[i]);
    if (s->primitive) dnnl_primitive_destroy(s->primitive);
    if (s->stream) dnnl_stream_destroy(s->stream);
    *s = (Product){0};
}

/* Makes the primitive for `g` and, without data, the memory objects it works on. */
static dnnl_status_t product_build(Product *s, const Gemm *g) {
    dnnl_status_t code;
    Desc desc[MEMS] = {0};
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    dnnl_primitive_desc_t pd = NULL;
    DNNL_TRY(desc_matrix(&desc[MEM_A], g->m, g->k, g->lda, g->trans_a, g->type));
    DNNL_TRY(desc_matrix(&desc[MEM_B], g->k, g->n, g->ldb, g->trans_b, g->type));
    DNNL_TRY(desc_matrix(&desc[MEM_C], g->m, g->n, g->ldc, false, g->out_type));
    if (g->bias) DNNL_TRY(desc_matrix(&desc[MEM_BIAS], 1, g->n, g->n, false, g->type));
    DNNL_TRY(dnnl_primitive_attr_create(&attr));
    DNNL_TRY(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user));
    if (g->accumulate) {
        DNNL_TRY(dnnl_post_ops_create(&ops));
        DNNL_TRY(append_sum(ops));
        DNNL_TRY(dnnl_primitive_attr_set_post_ops(attr, ops));
    }
    DNNL_TRY(matmul_desc(&pd, desc, g->bias, attr));
    DNNL_TRY(dnnl_primitive_create(&s->primitive, pd));
    DNNL_TRY(dnnl_stream_create(&s->stream, engine, dnnl_stream_default_flags));
    for (int i = 0; i < MEM_SCRATCH; i++)
        if (i != MEM_BIAS || g->bias) DNNL_TRY(dnnl_memory_create(&s->mem[i], DESC(desc[i]), engine, DNNL_MEMORY_NONE));
    s->scratch = dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0));
    if (s->scratch > 0)
        DNNL_TRY(dnnl_memory_create(&s->mem[MEM_SCRATCH], dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0),
                                    engine, DNNL_MEMORY_NONE));
out:
    if (pd) dnnl_primitive_desc_destroy(pd);
    if (ops) dnnl_post_ops_destroy(ops);
    if (attr) dnnl_primitive_attr_destroy(attr);
    for (int i = 0; i < MEMS; i++) desc_free(desc[i]);
    return code;
}

/* The same product over dense fp32 copies. */
static Gemm widened(const Gemm *g) {
    Gemm w = *g;
    w.type = w.out_type = DTYPE_F32;
    w.lda = g->trans_a ? g->m : g->k;
    w.ldb = g->trans_b ? g->k : g->n;
    w.ldc = g->n;
    return w;
}

static Status product_make(Product *s, const Gemm *g, int threads) {
    dnnl_status_t code = product_build(s, g);
    if (code == dnnl_unimplemented && g->type == DTYPE_BF16) {
        product_release(s);
        Gemm w = widened(g);
        code = product_build(s, &w);
        s->widen = true;
    }
    if (code != dnnl_success) {
        product_release(s);
        return failed(code, g);
    }
    s->made = true;
    s->key = *g;
    s->threads = threads;
    return TANE_OK;
}

static bool fits(const Product *s, const Gemm *y, int threads) {
    const Gemm *x = &s->key;
    return s->made && s->threads == threads && x->m == y->m && x->n == y->n && x->k == y->k && x->lda == y->lda &&
           x->ldb == y->ldb && x->ldc == y->ldc && x->type == y->type && x->out_type == y->out_type &&
           x->trans_a == y->trans_a && x->trans_b == y->trans_b && x->accumulate == y->accumulate && x->bias == y->bias;
}

/* An idle slot for the shape, or the idle one used longest ago; NULL when every one is busy. Marks it busy. */
static Slot *slot_take(const Gemm *g, int threads, Buffer *buffer) {
    Slot *best = NULL;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < SLOTS; i++) {
        Slot *s = &slots[i];
        if (s->busy) continue;
        if (fits(&s->product, g, threads)) {
            best = s;
            break;
        }
        if (!best || s->used < best->used) best = s;
    }
    if (best) {
        best->busy = true;
        best->used = ++takes;
    }
    *buffer = pooled > 0 ? pool[--pooled] : (Buffer){0};
    pthread_mutex_unlock(&lock);
    return best;
}

static void slot_give_back(Slot *s, Buffer buffer) {
    pthread_mutex_lock(&lock);
    if (s) s->busy = false;
    if (buffer.bytes && pooled < POOL) {
        pool[pooled++] = buffer;
        buffer.bytes = NULL;
    }
    pthread_mutex_unlock(&lock);
    mem_free(buffer.bytes);
}

static Status buffer_reserve(Buffer *buffer, size_t size) {
    if (buffer->size >= size) return TANE_OK;
    mem_free(buffer->bytes);
    *buffer = (Buffer){0};
    TRY_RETURN(MEM_NEW_ARRAY(&buffer->bytes, size));
    buffer->size = size;
    return TANE_OK;
}

static Status execute(Product *s, const Gemm *g, void *data[MEMS]) {
    dnnl_exec_arg_t args[MEMS];
    int n = 0;
    dnnl_status_t code = dnnl_success;
    for (int i = 0; i < MEMS; i++) {
        if (!s->mem[i]) continue;
        DNNL_TRY(dnnl_memory_set_data_handle(s->mem[i], data[i]));
        args[n++] = (dnnl_exec_arg_t){mem_arg[i], s->mem[i]};
    }
    DNNL_TRY(dnnl_primitive_execute(s->primitive, s->stream, n, args));
    DNNL_TRY(dnnl_stream_wait(s->stream));
out:
    return code == dnnl_success ? TANE_OK : failed(code, g);
}

static void widen(float *out, const uint16_t *in, int64_t rows, int64_t cols, int64_t ld) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) out[i * cols + j] = bf16_to_f32(in[i * ld + j]);
}

static size_t padded_floats(int64_t n) { return ((size_t)n * sizeof(float) + 63) & ~(size_t)63; }

static Status execute_widened(Product *s, const Gemm *g, void *const data[MEMS], Buffer *buffer) {
    Gemm w = widened(g);
    size_t size_a = padded_floats(g->m * g->k), size_b = padded_floats(g->k * g->n);
    size_t size_c = padded_floats(g->m * g->n);
    size_t at = (s->scratch + 63) & ~(size_t)63;
    TRY_RETURN(buffer_reserve(buffer, at + size_a + size_b + size_c + padded_floats(g->n)));
    uint8_t *p = buffer->bytes;
    float *a = (float *)(p + at), *b = (float *)(p + at + size_a), *c = (float *)(p + at + size_a + size_b);
    float *bias = (float *)(p + at + size_a + size_b + size_c);
    widen(a, data[MEM_A], g->trans_a ? g->k : g->m, w.lda, g->lda);
    widen(b, data[MEM_B], g->trans_b ? g->n : g->k, w.ldb, g->ldb);
    if (g->bias) widen(bias, data[MEM_BIAS], 1, g->n, g->n);
    bool narrow = g->out_type == DTYPE_BF16;
    uint16_t *out16 = data[MEM_C];
    float *out32 = data[MEM_C];
    if (g->accumulate && narrow) widen(c, out16, g->m, g->n, g->ldc);
    if (g->accumulate && !narrow)
        for (int64_t i = 0; i < g->m; i++) memcpy(c + i * g->n, out32 + i * g->ldc, (size_t)g->n * sizeof *c);
    TRY_RETURN(execute(s, g, (void *[MEMS]){a, b, c, bias, p}));
    for (int64_t i = 0; i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++) {
            if (narrow) out16[i * g->ldc + j] = f32_to_bf16(c[i * g->n + j]);
            else out32[i * g->ldc + j] = c[i * g->n + j];
        }
    return TANE_OK;
}

static Status ensure_engine(const Gemm *g) {
    pthread_mutex_lock(&lock);
    dnnl_status_t code = engine ? dnnl_success : dnnl_engine_create(&engine, dnnl_cpu, 0);
    pthread_mutex_unlock(&lock);
    return code == dnnl_success ? TANE_OK : failed(code, g);
}

static Status run(const Gemm *g, const void *a, const void *b, void *c, const void *bias, void *scratch) {
    (void)scratch;
    TRY_RETURN(ensure_engine(g));
    int threads = omp_in_parallel() ? 1 : omp_get_max_threads(); /* as oneDNN counts them */
    Status st = TANE_OK;
    Buffer buffer;
    Product spare = {0}; /* when all slots are busy */
    Slot *slot = slot_take(g, threads, &buffer);
    Product *s = slot ? &slot->product : &spare;
    if (!fits(s, g, threads)) {
        product_release(s);
        TRY(product_make(s, g, threads));
    }
    void *data[MEMS] = {(void *)a, (void *)b, c, (void *)bias, NULL};
    if (s->widen) {
        TRY(execute_widened(s, g, data, &buffer));
    } else {
        TRY(buffer_reserve(&buffer, s->scratch));
        data[MEM_SCRATCH] = buffer.bytes;
        TRY(execute(s, g, data));
    }
out:
    product_release(&spare);
    slot_give_back(slot, buffer);
    return st;
}

static bool supports(DType type) { return type == DTYPE_F32 || type == DTYPE_BF16; }

static size_t scratch(const Gemm *g, int threads) {
    (void)g;
    (void)threads;
    return 0;
}

/* An instruction set's number holds the bits of all the sets it contains. */
static bool has_bits(int isa, int bits) { return (isa & bits) == bits; }

static const char *name(DType type) {
    int isa = (int)dnnl_get_effective_cpu_isa();
    if (type == DTYPE_BF16) {
        if (!has_bits(isa, dnnl_cpu_isa_avx512_core)) return "onednn, bf16 widened to fp32";
        if (has_bits(isa, dnnl_cpu_isa_avx512_core_amx)) return "onednn avx512_core_amx";
        if (has_bits(isa, dnnl_cpu_isa_avx512_core_bf16)) return "onednn avx512_core_bf16";
    }
    return has_bits(isa, dnnl_cpu_isa_avx512_core) ? "onednn avx512_core"
           : has_bits(isa, dnnl_cpu_isa_avx2)      ? "onednn avx2"
                                                   : "onednn";
}

static void shut_down(void) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < SLOTS; i++) product_release(&slots[i].product);
    while (pooled > 0) mem_free(pool[--pooled].bytes);
    if (engine) dnnl_engine_destroy(engine);
    engine = NULL;
    pthread_mutex_unlock(&lock);
}

const GemmBackend gemm_dnnl = {supports, name, scratch, run, shut_down};
