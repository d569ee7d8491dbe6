/* Matrix products through cuBLASLt; see matmul.h.
 *
 * cuBLASLt thinks in columns: a row-major (M, N) matrix is to it a column-major (N, M) one. So C = op(A) op(B) is
 * handed over as C^T = op(B)^T op(A)^T: our B is its first operand, our A its second, and its rows of C are our N
 * columns, which is where its bias epilogue adds the bias.
 *
 * A plan asks the heuristic once and keeps its first answer, or the fastest equal one. Algorithms that split K may only
 * sum the parts in fp32 in a separate pass: this keeps a fixed order and rounds once. The algorithm does not depend on
 * beta, so one plan serves `accumulate` or not. Base pointers are taken to be 16-byte aligned, as whole tensors are; a
 * call with others (a slice of columns), and one on the side stream with its smaller workspace, asks the heuristic
 * again, once.
 *
 * Where cuBLASLt has no algorithm (some unaligned shapes; K = 0; types an old GPU lacks), product_kernel serves: any
 * shape, fp32 sums in the order of K, no speed to speak of.
 *
 * With fp8 both operands are rounded to e4m3 first (quantize.cu), and the product takes their scales from memory. */
#include "device/cuda/matmul.h"

#include <cublasLt.h>
#include <dlfcn.h>

extern "C" {
#include "base/mem.h"
}
#include "device/cuda/libs.h"
#include "device/cuda/math.cuh"
#include "device/cuda/quantize.h"

/* ------------------------------------------------------------------------------------------------ the library */

#define LT_FUNCTIONS(F)                                                                                                \
    F(Create)                                                                                                          \
    F(Destroy)                                                                                                         \
    F(GetVersion) F(GetStatusString) F(MatmulDescCreate) F(MatmulDescDestroy) F(MatmulDescSetAttribute)                \
        F(MatrixLayoutCreate) F(MatrixLayoutDestroy) F(MatmulPreferenceCreate) F(MatmulPreferenceDestroy)              \
            F(MatmulPreferenceSetAttribute) F(MatmulAlgoGetHeuristic) F(Matmul)

static struct {
#define LT_FIELD(name) decltype(&cublasLt##name) name;
    LT_FUNCTIONS(LT_FIELD)
} lt;
static bool lt_loaded;

static Status load_library(void) {
    if (lt_loaded) return TANE_OK;
    const char *path = NULL, *why = NULL;
    void *library = cuda_library_cublaslt(&path, &why);
    if (!library) return FAIL(TANE_ENOTFOUND, "cuBLASLt, which computes matrix products on a GPU, is missing: %s", why);
#define LT_LOAD(name)                                                                                                  \
    lt.name = (decltype(lt.name))dlsym(library, "cublasLt" #name);                                                     \
    if (!lt.name) return FAIL(TANE_EUNSUPPORTED, "%s has no cublasLt" #name "; cuBLASLt 12.4 or later is needed", path);
    LT_FUNCTIONS(LT_LOAD)
    lt_loaded = true;
    return TANE_OK;
}

void matmul_version(char *text, size_t size) {
    if (load_library() != TANE_OK) {
        snprintf(text, size, "missing");
        return;
    }
    int version = (int)lt.GetVersion();
    snprintf(text, size, "%d.%d.%d", version / 10000, version / 100 % 100, version % 100);
}

#define LT_TRY(call)                                                                                                   \
    do {                                                                                                               \
        cublasStatus_t lt_status_ = (call);                                                                            \
        if (lt_status_ != CUBLAS_STATUS_SUCCESS)                                                                       \
            return FAIL(TANE_EINTERNAL, "cuBLASLt: %s in %s", lt.GetStatusString(lt_status_), #call);                  \
    } while (0)

/* Of cublasLt.h since CUDA 12.9; an older library answers that it does not know them. */
enum { DESC_A_SCALE_MODE = 31, DESC_B_SCALE_MODE = 32, SCALE_VEC128 = 4, SCALE_BLK128 = 5 };

/* --------------------------------------------------------------------------------------------------- the plan */

/* A product as described to the library, and what it chose. */
typedef struct Choice {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t first, second, result; /* our B, A and C */
    cublasLtMatmulAlgo_t algo;
    bool tried, found; /* found is false: product_kernel */
} Choice;

typedef enum PointerCare { POINTERS_ALIGNED, POINTERS_ANY } PointerCare;

struct Matmul {
    MatmulShape shape;
    MatmulMode mode;
    QuantizeMode quantize;
    const Matmul *padded; /* fewer than LEAST_ROWS rows: what is computed in their place */
    const Matmul *sliced; /* no algorithm gives the rows that this one gives: it is run, LEAST_ROWS at a time */
    bool searched;        /* for the fastest algorithm, or one that agrees */
    Choice choice[2][2];  /* [PointerCare][on the side stream]; all but the first are made when they are first needed */
    Matmul *next;
};

/* Plans by shape: serving meets many numbers of rows. They live as long as the device, for tapes point to them. */
enum { BUCKETS = 256 };
struct MatmulCache {
    cublasLtHandle_t handle;
    Matmul *plans[BUCKETS];
};

static Matmul **bucket_of(CudaDevice *d, const MatmulShape *s) {
    return &d->matmul_cache->plans[(uint64_t)((s->m * 31 + s->n) * 31 + s->k) % BUCKETS];
}

Status matmul_open(CudaDevice *d) {
    TRY_RETURN(load_library());
    TRY_RETURN(MEM_NEW(&d->matmul_cache));
    LT_TRY(lt.Create(&d->matmul_cache->handle));
    return TANE_OK;
}

static void choice_free(Choice *c) {
    if (c->desc) lt.MatmulDescDestroy(c->desc);
    if (c->first) lt.MatrixLayoutDestroy(c->first);
    if (c->second) lt.MatrixLayoutDestroy(c->second);
    if (c->result) lt.MatrixLayoutDestroy(c->result);
    memset(c, 0, sizeof *c);
}

static void plan_free(Matmul *m) {
    for (int i = 0; i < 4; i++) choice_free(&m->choice[i / 2][i % 2]);
    mem_free(m);
}

void matmul_close(CudaDevice *d) {
    if (!d->matmul_cache) return;
    for (int i = 0; i < BUCKETS; i++)
        for (Matmul *m = d->matmul_cache->plans[i], *next; m; m = next) {
            next = m->next;
            plan_free(m);
        }
    if (d->matmul_cache->handle) lt.Destroy(d->matmul_cache->handle);
    mem_free(d->matmul_cache);
    d->matmul_cache = NULL;
}

static cudaDataType_t data_type(DType type) {
    return type == DTYPE_F32 ? CUDA_R_32F : type == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_16F;
}

/* Bytes that every row of a matrix is aligned to when its first one is to 16. */
static uint32_t row_alignment(int64_t ld, DType type, PointerCare care) {
    uint32_t size = (uint32_t)dtype_size(type), bytes = 16;
    if (care == POINTERS_ANY) return size;
    while (bytes > size && (uint64_t)ld * size % bytes) bytes /= 2;
    return bytes;
}

static bool is_aligned(const void *p, uint32_t bytes) { return (uintptr_t)p % bytes == 0; }

template <typename V> static cublasStatus_t set(cublasLtMatmulDesc_t desc, int attribute, V value) {
    return lt.MatmulDescSetAttribute(desc, (cublasLtMatmulDescAttributes_t)attribute, &value, sizeof value);
}
template <typename V>
static cublasStatus_t prefer(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t attribute, V value) {
    return lt.MatmulPreferenceSetAttribute(p, attribute, &value, sizeof value);
}

/* e4m3 operands: both lie with K running fastest, which is the one layout that all GPUs with fp8 multiply. *known: the
 * library knows these scales. */
static Status describe_fp8(CudaDevice *d, const Matmul *m, Choice *c, bool *known) {
    const MatmulShape *s = &m->shape;
    LT_TRY(lt.MatrixLayoutCreate(&c->first, CUDA_R_8F_E4M3, (uint64_t)s->k, (uint64_t)s->n, s->k));
    LT_TRY(lt.MatrixLayoutCreate(&c->second, CUDA_R_8F_E4M3, (uint64_t)s->k, (uint64_t)s->m, s->k));
    LT_TRY(set<int32_t>(c->desc, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T));
    LT_TRY(set<void *>(c->desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, d->workspace)); /* alignment, for the heuristic */
    LT_TRY(set<void *>(c->desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, d->workspace));
    *known = m->quantize != QUANTIZE_BLOCK ||
             (set<int32_t>(c->desc, DESC_A_SCALE_MODE, SCALE_BLK128) == CUBLAS_STATUS_SUCCESS &&
              set<int32_t>(c->desc, DESC_B_SCALE_MODE, SCALE_VEC128) == CUBLAS_STATUS_SUCCESS);
    return TANE_OK;
}

static Status describe_operands(const MatmulShape *s, Choice *c) {
    int64_t rows = s->trans_b ? s->k : s->n, cols = s->trans_b ? s->n : s->k;
    LT_TRY(lt.MatrixLayoutCreate(&c->first, data_type(s->type), (uint64_t)rows, (uint64_t)cols, s->ldb));
    rows = s->trans_a ? s->m : s->k, cols = s->trans_a ? s->k : s->m;
    LT_TRY(lt.MatrixLayoutCreate(&c->second, data_type(s->type), (uint64_t)rows, (uint64_t)cols, s->lda));
    LT_TRY(set<int32_t>(c->desc, CUBLASLT_MATMUL_DESC_TRANSA, s->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N));
    LT_TRY(set<int32_t>(c->desc, CUBLASLT_MATMUL_DESC_TRANSB, s->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N));
    return TANE_OK;
}

static Status describe(CudaDevice *d, const Matmul *m, Choice *c, PointerCare care, bool *known) {
    const MatmulShape *s = &m->shape;
    bool tf32 = s->type == DTYPE_F32 && m->mode == MATMUL_TF32 && d->major >= 8;
    cublasComputeType_t compute = tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    LT_TRY(lt.MatmulDescCreate(&c->desc, compute, CUDA_R_32F));
    *known = true;
    if (m->quantize) TRY_RETURN(describe_fp8(d, m, c, known));
    else TRY_RETURN(describe_operands(s, c));
    LT_TRY(lt.MatrixLayoutCreate(&c->result, data_type(s->out_type), (uint64_t)s->n, (uint64_t)s->m, s->ldc));
    if (s->epilogue == EPILOGUE_NONE) return TANE_OK;
    bool gelu = s->epilogue == EPILOGUE_BIAS_GELU;
    if (gelu) LT_TRY(set<void *>(c->desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, d->workspace));
    if (gelu) LT_TRY(set<int64_t>(c->desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, s->ldc));
    /* The heuristic looks at the pointer's alignment alone. */
    char *pointer = (char *)d->workspace + (care == POINTERS_ANY ? dtype_size(s->type) : 0);
    LT_TRY(set<int32_t>(c->desc, CUBLASLT_MATMUL_DESC_EPILOGUE,
                        gelu ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_BIAS));
    LT_TRY(set<void *>(c->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, pointer));
    LT_TRY(set<int32_t>(c->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, data_type(s->type)));
    return TANE_OK;
}

enum { CANDIDATES = 12 };

/* The heuristic's answers, at most `most`, the best first by its own judgement. */
static Status ask_heuristic(CudaDevice *d, const Matmul *m, Choice *c, PointerCare care, bool side,
                            cublasLtMatmulPreference_t preference, int most, cublasLtMatmulAlgo_t *algos, int *n) {
    const MatmulShape *s = &m->shape;
    uint32_t a = m->quantize ? 16 : row_alignment(s->lda, s->type, care);
    uint32_t b = m->quantize ? 16 : row_alignment(s->ldb, s->type, care);
    uint32_t out = row_alignment(s->ldc, s->out_type, care);
    uint64_t workspace = side ? d->side_workspace_bytes : d->workspace_bytes;
    LT_TRY(prefer<uint64_t>(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace));
    LT_TRY(prefer<uint32_t>(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                            s->apart ? CUBLASLT_REDUCTION_SCHEME_NONE : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    LT_TRY(prefer<uint32_t>(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b));
    LT_TRY(prefer<uint32_t>(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a));
    LT_TRY(prefer<uint32_t>(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, out));
    LT_TRY(prefer<uint32_t>(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out));
    cublasLtMatmulHeuristicResult_t results[CANDIDATES];
    int found = 0;
    *n = 0;
    cublasStatus_t status = lt.MatmulAlgoGetHeuristic(d->matmul_cache->handle, c->desc, c->first, c->second, c->result,
                                                      c->result, preference, most, results, &found);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) return TANE_OK;
    if (status != CUBLAS_STATUS_SUCCESS)
        return FAIL(TANE_EINTERNAL, "cuBLASLt: %s, asked for a product of (%lld, %lld) and (%lld, %lld)",
                    lt.GetStatusString(status), (long long)s->m, (long long)s->k, (long long)s->k, (long long)s->n);
    for (int i = 0; i < found; i++)
        if (results[i].state == CUBLAS_STATUS_SUCCESS) algos[(*n)++] = results[i].algo;
    return TANE_OK;
}

static Status candidates(CudaDevice *d, const Matmul *m, Choice *c, PointerCare care, bool side, int most,
                         cublasLtMatmulAlgo_t *algos, int *n) {
    cublasLtMatmulPreference_t preference;
    LT_TRY(lt.MatmulPreferenceCreate(&preference));
    Status st = ask_heuristic(d, m, c, care, side, preference, most, algos, n);
    lt.MatmulPreferenceDestroy(preference);
    return st;
}

/* Forward: a row of C must not depend on how many there are. So K is not split, fewer than LEAST_ROWS rows are computed
 * as so many (the library's kernels for a handful of rows add in another order), and for more only an algorithm will do
 * that gives the rows which LEAST_ROWS alone give. */
enum { LEAST_ROWS = 16 };

/* ---- the fastest of those that compute the same bits
 *
 * Most of the library's kernels for a shape add along K in the same order and differ in how they cut up C; others are
 * found out on random values and left alone. */

static const double TUNE_FROM = 2e9; /* operations: smaller products are bound by their launch */
enum { TUNE_RUNS = 4 };

typedef struct Tuning {
    char *memory, *a, *b, *bias, *aux, *expected, *found;
    size_t compared; /* bytes of C */
    int *differs;    /* on the device */
    cudaEvent_t begin, end;
} Tuning;

__global__ static void tune_fill(void *to, DType type, size_t n) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        uint32_t h = (uint32_t)i * 2654435761u;
        h = (h ^ h >> 15) * 2246822519u;
        float x = (float)(h ^ h >> 13) * 0x1p-32f - 0.5f;
        if (type == DTYPE_F32) ((float *)to)[i] = x;
        else if (type == DTYPE_BF16) ((__nv_bfloat16 *)to)[i] = __float2bfloat16(x);
        else ((__half *)to)[i] = __float2half(x);
    }
}

__global__ static void tune_compare(const uint16_t *x, const uint16_t *y, size_t n, int *differs) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        if (x[i] != y[i]) *differs = 1;
}

/* False: there is no room for it now. In training the heuristic's first choice it is then, which computes the same; in
 * generation a slower way. */
static bool tune_open(CudaDevice *d, const MatmulShape *s, Tuning *t) {
    size_t a = (size_t)((s->trans_a ? s->k : s->m) * s->lda), b = (size_t)((s->trans_b ? s->n : s->k) * s->ldb);
    size_t size = dtype_size(s->type), c = cuda_align((size_t)(s->m * s->ldc) * dtype_size(s->out_type));
    size_t aux = s->epilogue == EPILOGUE_BIAS_GELU ? c : 0;
    size_t bytes = cuda_align(a * size) + cuda_align(b * size) + cuda_align((size_t)s->n * size) + aux + 2 * c + 256;
    memset(t, 0, sizeof *t);
    if (cudaMalloc(&t->memory, bytes) != cudaSuccess || cudaEventCreate(&t->begin) != cudaSuccess ||
        cudaEventCreate(&t->end) != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    t->a = t->memory;
    t->b = t->a + cuda_align(a * size);
    t->bias = t->b + cuda_align(b * size);
    t->aux = t->bias + cuda_align((size_t)s->n * size);
    t->expected = t->aux + aux;
    t->found = t->expected + c;
    t->differs = (int *)(t->found + c);
    t->compared = c;
    cudaMemsetAsync(t->expected, 0, 2 * c + 256, d->stream); /* what lies between rows is equal */
    tune_fill<<<512, 256, 0, d->stream>>>(t->a, s->type, a);
    tune_fill<<<512, 256, 0, d->stream>>>(t->b, s->type, b);
    tune_fill<<<8, 256, 0, d->stream>>>(t->bias, s->type, (size_t)s->n);
    return cudaGetLastError() == cudaSuccess;
}

static void tune_close(Tuning *t) {
    cudaFree(t->memory);
    if (t->begin) cudaEventDestroy(t->begin);
    if (t->end) cudaEventDestroy(t->end);
}

static bool tune_run(CudaDevice *d, const Choice *c, const cublasLtMatmulAlgo_t *algo, const Tuning *t, char *out) {
    float one = 1.0f, zero = 0.0f;
    cublasStatus_t status = lt.Matmul(d->matmul_cache->handle, c->desc, &one, t->b, c->first, t->a, c->second, &zero,
                                      out, c->result, out, c->result, algo, d->workspace, d->workspace_bytes,
                                      d->stream);
    return status == CUBLAS_STATUS_SUCCESS;
}

/* Does an algorithm compute the bits that are expected? */
static bool tune_agrees(CudaDevice *d, const Choice *c, const cublasLtMatmulAlgo_t *algo, const Tuning *t) {
    int differs = 1;
    if (!tune_run(d, c, algo, t, t->found)) return false;
    tune_compare<<<512, 256, 0, d->stream>>>((const uint16_t *)t->expected, (const uint16_t *)t->found, t->compared / 2,
                                             t->differs);
    cudaMemcpyAsync(&differs, t->differs, sizeof differs, cudaMemcpyDeviceToHost, d->stream);
    cudaMemsetAsync(t->differs, 0, sizeof differs, d->stream);
    return cudaStreamSynchronize(d->stream) == cudaSuccess && !differs;
}

static float tune_milliseconds(CudaDevice *d, const Choice *c, const cublasLtMatmulAlgo_t *algo, const Tuning *t) {
    float ms;
    cudaEventRecord(t->begin, d->stream);
    for (int i = 0; i < TUNE_RUNS; i++) tune_run(d, c, algo, t, t->found);
    cudaEventRecord(t->end, d->stream);
    bool timed = cudaEventSynchronize(t->end) == cudaSuccess &&
                 cudaEventElapsedTime(&ms, t->begin, t->end) == cudaSuccess;
    return timed ? ms : INFINITY;
}

static void tune_pointers(const Choice *c, const MatmulShape *s, const Tuning *t) {
    if (s->epilogue != EPILOGUE_NONE) set<void *>(c->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, t->bias);
    if (s->epilogue == EPILOGUE_BIAS_GELU) set<void *>(c->desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, t->aux);
}

/* Takes the first algorithm that agrees, or with `timed` the fastest one, into c; false: none does. They must agree
 * with the first of them or, where there is a `least`, with that product of LEAST_ROWS rows. */
static bool tune(CudaDevice *d, const Matmul *m, Choice *c, const Matmul *least, bool timed,
                 const cublasLtMatmulAlgo_t *algos, int n) {
    const MatmulShape *s = &m->shape;
    const Choice *judge = least ? &least->choice[POINTERS_ALIGNED][false] : c;
    Tuning t;
    float best = INFINITY;
    bool found = false;
    if (tune_open(d, s, &t)) {
        if (least) t.compared = (size_t)(LEAST_ROWS * s->ldc) * dtype_size(s->out_type);
        tune_pointers(c, s, &t);
        tune_pointers(judge, s, &t);
        bool judged = tune_run(d, judge, least ? &judge->algo : &algos[0], &t, t.expected);
        for (int i = 0; judged && i < n && (timed || !found); i++) {
            if (!tune_agrees(d, c, &algos[i], &t)) continue;
            float ms = timed ? tune_milliseconds(d, c, &algos[i], &t) : 0.0f;
            if (found && ms >= 0.98f * best) continue;
            found = true;
            best = ms;
            c->algo = algos[i];
        }
        cudaStreamSynchronize(d->stream);
        cudaGetLastError();
    }
    tune_close(&t);
    return found;
}

static Status choose(CudaDevice *d, Matmul *m, PointerCare care, bool side) {
    const MatmulShape *s = &m->shape;
    Choice *c = &m->choice[care][side];
    choice_free(c);
    c->tried = true;
    if (!s->m || !s->n || !s->k) return TANE_OK;
    bool known = false;
    TRY_RETURN(describe(d, m, c, care, &known));
    if (!known) return TANE_OK;
    int n;
    TRY_RETURN(candidates(d, m, c, care, side, 1, &c->algo, &n));
    c->found = n > 0;
    return TANE_OK;
}

/* Once for each plan that will run, as soon as there is nothing in its way. */
static Status search(CudaDevice *d, Matmul *m) {
    const MatmulShape *s = &m->shape;
    Choice *c = &m->choice[POINTERS_ALIGNED][false];
    if (m->searched || d->base.rehearsing || d->capturing) return TANE_OK;
    m->searched = true;
    bool apart = s->apart && s->type != DTYPE_F32 && s->m > LEAST_ROWS;
    bool timed = s->tune && 2.0 * (double)s->m * (double)s->n * (double)s->k >= TUNE_FROM;
    if ((!apart && !timed) || m->quantize) return TANE_OK;
    const Matmul *least = NULL;
    if (apart) {
        MatmulShape few = *s;
        few.m = LEAST_ROWS;
        few.tune = false;
        TRY_RETURN(matmul_plan(d, &few, &least));
    }
    /* Training goes on with what is fast; generation keeps its promise. */
    bool keeps = apart && !s->tune;
    if (least && !matmul_is_native(least)) { /* product_kernel it is, which adds in one order whatever M */
        if (keeps) c->found = false;
        least = NULL;
    } else if (keeps && !c->found) m->sliced = least;
    if (!c->found || (!least && !timed)) return TANE_OK;
    cublasLtMatmulAlgo_t algos[CANDIDATES];
    int n;
    TRY_RETURN(candidates(d, m, c, POINTERS_ALIGNED, false, CANDIDATES, algos, &n));
    if (tune(d, m, c, least, timed, algos, n)) return TANE_OK;
    if (keeps) m->sliced = least;
    else if (least && timed) tune(d, m, c, NULL, true, algos, n);
    return TANE_OK;
}

static bool same_shape(const MatmulShape *p, const MatmulShape *q) {
    return p->m == q->m && p->n == q->n && p->k == q->k && p->type == q->type && p->out_type == q->out_type &&
           p->trans_a == q->trans_a && p->trans_b == q->trans_b && p->lda == q->lda && p->ldb == q->ldb &&
           p->ldc == q->ldc && p->epilogue == q->epilogue && p->fp8 == q->fp8 && p->apart == q->apart &&
           p->tune == q->tune;
}

/* How this product could go through 8 bits; the library has the last word. */
static QuantizeMode fp8_mode(const CudaDevice *d, const MatmulShape *s) {
    MatmulMode mode = d->base.matmul;
    if (!s->fp8 || s->type == DTYPE_F32 || s->trans_a || s->lda % 8 || s->ldb % 8 || !s->m || !s->n || !s->k)
        return QUANTIZE_NONE;
    if (d->major < 8 || (d->major == 8 && d->minor < 9)) return QUANTIZE_NONE;
    if (mode == MATMUL_FP8_TENSOR && s->k % 16 == 0 && s->n % 16 == 0) return QUANTIZE_TENSOR;
    if (mode == MATMUL_FP8_BLOCK && s->k % 128 == 0 && s->n % 128 == 0 && s->m % 4 == 0) return QUANTIZE_BLOCK;
    return QUANTIZE_NONE;
}

static Status make_plan(CudaDevice *d, Matmul *m) {
    if (m->shape.apart && m->shape.m > 0 && m->shape.m < LEAST_ROWS) {
        MatmulShape more = m->shape;
        more.m = LEAST_ROWS;
        more.lda = more.k;
        more.ldc = more.n;
        return matmul_plan(d, &more, &m->padded);
    }
    m->quantize = fp8_mode(d, &m->shape);
    TRY_RETURN(choose(d, m, POINTERS_ALIGNED, false));
    if (!m->quantize || m->choice[POINTERS_ALIGNED][false].found) return TANE_OK;
    m->quantize = QUANTIZE_NONE;
    return choose(d, m, POINTERS_ALIGNED, false);
}

Status matmul_plan(CudaDevice *d, const MatmulShape *shape, const Matmul **out) {
    Matmul **bucket = bucket_of(d, shape);
    for (const Matmul *m = *bucket; m; m = m->next)
        if (m->mode == d->base.matmul && same_shape(&m->shape, shape)) {
            *out = m;
            return search(d, (Matmul *)m); /* const to callers only */
        }
    if (!cuda_is_float(shape->type) || (shape->out_type != DTYPE_F32 && shape->out_type != shape->type))
        return FAIL(TANE_EUNSUPPORTED, "no matrix product of %s with results in %s", dtype_name(shape->type),
                    dtype_name(shape->out_type));
    Matmul *m;
    TRY_RETURN(MEM_NEW(&m));
    m->shape = *shape;
    m->mode = d->base.matmul;
    Status st = make_plan(d, m);
    if (st != TANE_OK) {
        plan_free(m);
        return st;
    }
    m->next = *bucket;
    *bucket = m;
    *out = m;
    return search(d, m);
}

/* -------------------------------------------------------------------------------------------- without cuBLASLt */

enum { TILE = 32, DEPTH = 16 }; /* of C, and of K at a time */

/* A(i, p) lies at a[i * a_row + p * a_col]; B alike. 16 x 16 threads, each 2 x 2 elements of C. */
template <typename T, typename O>
__global__ void __launch_bounds__(256)
    product_kernel(const T *a, int64_t a_row, int64_t a_col, const T *b, int64_t b_row, int64_t b_col, O *c,
                   int64_t ldc, const T *bias, int64_t m, int64_t n, int64_t k, bool accumulate) {
    __shared__ float tile_a[DEPTH][TILE + 1], tile_b[DEPTH][TILE + 1];
    int64_t tiles = (n + TILE - 1) / TILE, i0 = blockIdx.x / tiles * TILE, j0 = blockIdx.x % tiles * TILE;
    int thread = threadIdx.x, ti = thread / 16, tj = thread % 16;
    float sum[2][2] = {{0, 0}, {0, 0}};
    for (int64_t p0 = 0; p0 < k; p0 += DEPTH) {
        for (int e = thread; e < TILE * DEPTH; e += 256) {
            int i = a_col == 1 ? e / DEPTH : e % TILE, p = a_col == 1 ? e % DEPTH : e / TILE;
            bool inside = i0 + i < m && p0 + p < k;
            tile_a[p][i] = inside ? to_float(a[(i0 + i) * a_row + (p0 + p) * a_col]) : 0.0f;
            int j = b_col == 1 ? e % TILE : e / DEPTH;
            p = b_col == 1 ? e / TILE : e % DEPTH;
            inside = j0 + j < n && p0 + p < k;
            tile_b[p][j] = inside ? to_float(b[(p0 + p) * b_row + (j0 + j) * b_col]) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int p = 0; p < DEPTH; p++)
#pragma unroll
            for (int u = 0; u < 2; u++)
#pragma unroll
                for (int v = 0; v < 2; v++) sum[u][v] = fmaf(tile_a[p][ti + 16 * u], tile_b[p][tj + 16 * v], sum[u][v]);
        __syncthreads();
    }
    for (int u = 0; u < 2; u++)
        for (int v = 0; v < 2; v++) {
            int64_t i = i0 + ti + 16 * u, j = j0 + tj + 16 * v;
            if (i >= m || j >= n) continue;
            float y = sum[u][v] + (bias ? to_float(bias[j]) : 0.0f);
            O *at = c + i * ldc + j;
            *at = from_float<O>(accumulate ? to_float(*at) + y : y);
        }
}

template <typename T, typename O>
static void launch_product(const MatmulShape *s, const void *a, const void *b, void *c, const void *bias,
                           bool accumulate, cudaStream_t stream) {
    int64_t blocks = cuda_blocks(s->m, TILE) * cuda_blocks(s->n, TILE);
    product_kernel<T, O><<<(unsigned)blocks, 256, 0, stream>>>(
        (const T *)a, s->trans_a ? 1 : s->lda, s->trans_a ? s->lda : 1, (const T *)b, s->trans_b ? 1 : s->ldb,
        s->trans_b ? s->ldb : 1, (O *)c, s->ldc, (const T *)bias, s->m, s->n, s->k, accumulate);
}

template <typename T>
static Status run_product(const MatmulShape *s, const void *a, const void *b, void *c, const void *bias,
                          bool accumulate, cudaStream_t stream) {
    if (s->out_type == DTYPE_F32) launch_product<T, float>(s, a, b, c, bias, accumulate, stream);
    else launch_product<T, T>(s, a, b, c, bias, accumulate, stream);
    CUDA_LAUNCHED();
    return TANE_OK;
}

/* ------------------------------------------------------------------------------------------------------- running */

/* Where the 8-bit operands and their scales lie in scratch. */
typedef struct Fp8Scratch {
    size_t a, b, scale_a, scale_b, partial, bytes;
} Fp8Scratch;

static Fp8Scratch fp8_scratch(const Matmul *m) {
    const MatmulShape *s = &m->shape;
    Fp8Scratch at;
    at.a = 0;
    at.b = at.a + cuda_align((size_t)(s->m * s->k));
    at.scale_a = at.b + cuda_align((size_t)(s->n * s->k));
    at.scale_b = at.scale_a + cuda_align(quantize_rows_scales(m->quantize, s->m, s->k) * sizeof(float));
    at.partial = at.scale_b + cuda_align(quantize_tiles_scales(m->quantize, s->n, s->k) * sizeof(float));
    at.bytes = at.partial + QUANTIZE_PARTIALS * sizeof(float);
    return at;
}

static size_t padded_a_bytes(const Matmul *m) {
    return cuda_align((size_t)(LEAST_ROWS * m->shape.k) * dtype_size(m->shape.type));
}
static size_t padded_c_bytes(const Matmul *m) {
    return cuda_align((size_t)(LEAST_ROWS * m->shape.n) * dtype_size(m->shape.out_type));
}

size_t matmul_scratch(const Matmul *m) {
    int results = m->shape.epilogue == EPILOGUE_BIAS_GELU ? 2 : 1;
    if (m->padded) return padded_a_bytes(m) + (size_t)results * padded_c_bytes(m) + matmul_scratch(m->padded);
    return m->quantize ? fp8_scratch(m).bytes : 0;
}

/* The last slice begins early enough to be whole: what it computes twice comes out the same. */
static Status run_sliced(CudaDevice *d, const Matmul *m, const void *a, const void *b, void *c, const void *bias,
                         bool accumulate, bool side, void *scratch) {
    const MatmulShape *s = &m->shape;
    if (accumulate) return FAIL(TANE_EINTERNAL, "a product in slices cannot be added to anything");
    for (int64_t row = 0; row < s->m; row += LEAST_ROWS) {
        int64_t from = row + LEAST_ROWS > s->m ? s->m - LEAST_ROWS : row;
        TRY_RETURN(matmul_run(d, m->sliced, (const char *)a + (size_t)(from * s->lda) * dtype_size(s->type), b,
                              (char *)c + (size_t)(from * s->ldc) * dtype_size(s->out_type), bias, false, side,
                              scratch));
    }
    return TANE_OK;
}

/* The rows beyond what there is are whatever scratch holds; nothing of them is kept. */
static Status run_padded(CudaDevice *d, const Matmul *m, const void *a, const void *b, void *c, const void *bias,
                         bool accumulate, bool side, char *scratch) {
    const MatmulShape *s = &m->shape;
    cudaStream_t stream = side ? d->side : d->stream;
    size_t size = dtype_size(s->type), out = dtype_size(s->out_type), rows = (size_t)s->m;
    size_t lda = (size_t)s->lda * size, ldc = (size_t)s->ldc * out, k = (size_t)s->k * size, n = (size_t)s->n * out;
    char *padded_a = scratch, *padded_c = scratch + padded_a_bytes(m);
    if (k) CUDA_TRY(cudaMemcpy2DAsync(padded_a, k, a, lda, k, rows, cudaMemcpyDeviceToDevice, stream));
    if (accumulate) CUDA_TRY(cudaMemcpy2DAsync(padded_c, n, c, ldc, n, rows, cudaMemcpyDeviceToDevice, stream));
    TRY_RETURN(matmul_run(d, m->padded, padded_a, b, padded_c, bias, accumulate, side, padded_c + padded_c_bytes(m)));
    CUDA_TRY(cudaMemcpy2DAsync(c, ldc, padded_c, n, n, rows, cudaMemcpyDeviceToDevice, stream));
    return TANE_OK;
}

static Status quantize_operands(const Matmul *m, const Choice *c, const void **a, const void **b, char *scratch,
                                cudaStream_t stream) {
    const MatmulShape *s = &m->shape;
    Fp8Scratch at = fp8_scratch(m);
    float *scale_a = (float *)(scratch + at.scale_a), *scale_b = (float *)(scratch + at.scale_b);
    float *partial = (float *)(scratch + at.partial);
    QuantizeInput left = {*a, s->type, s->m, s->k, s->lda, false};
    QuantizeInput right = {*b, s->type, s->trans_b ? s->n : s->k, s->trans_b ? s->k : s->n, s->ldb, !s->trans_b};
    if (m->quantize == QUANTIZE_TENSOR) {
        TRY_RETURN(quantize_tensor(&left, scratch + at.a, scale_a, partial, stream));
        TRY_RETURN(quantize_tensor(&right, scratch + at.b, scale_b, partial, stream));
    } else {
        TRY_RETURN(quantize_rows(&left, scratch + at.a, scale_a, stream));
        TRY_RETURN(quantize_tiles(&right, scratch + at.b, scale_b, stream));
    }
    LT_TRY(set<void *>(c->desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, scale_b));
    LT_TRY(set<void *>(c->desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, scale_a));
    *a = scratch + at.a;
    *b = scratch + at.b;
    return TANE_OK;
}

/* The algorithm for these pointers and this stream's workspace. */
static Status choice_for(CudaDevice *d, Matmul *m, const void *a, const void *b, const void *c, const void *bias,
                         bool side, const Choice **out) {
    const MatmulShape *s = &m->shape;
    bool aligned = is_aligned(a, row_alignment(s->lda, s->type, POINTERS_ALIGNED)) &&
                   is_aligned(b, row_alignment(s->ldb, s->type, POINTERS_ALIGNED)) &&
                   is_aligned(c, row_alignment(s->ldc, s->out_type, POINTERS_ALIGNED)) && is_aligned(bias, 16);
    PointerCare care = aligned ? POINTERS_ALIGNED : POINTERS_ANY;
    *out = &m->choice[care][side];
    if ((*out)->tried) return TANE_OK;
    if (m->quantize && !aligned)
        return FAIL(TANE_EINTERNAL, "fp8 product of %lld x %lld x %lld: its operands are not 16-byte aligned",
                    (long long)s->m, (long long)s->n, (long long)s->k);
    return choose(d, m, care, side);
}

Status matmul_run(CudaDevice *d, const Matmul *m, const void *a, const void *b, void *c, const void *bias,
                  bool accumulate, bool side, void *scratch) {
    const MatmulShape *s = &m->shape;
    if (!s->m || !s->n) return TANE_OK;
    if (s->epilogue != EPILOGUE_BIAS) bias = NULL;
    if (m->padded) return run_padded(d, m, a, b, c, bias, accumulate, side, (char *)scratch);
    if (m->sliced) return run_sliced(d, m, a, b, c, bias, accumulate, side, scratch);
    cudaStream_t stream = side ? d->side : d->stream;
    const Choice *choice; /* plans are const to callers; the choices in them are a cache */
    TRY_RETURN(choice_for(d, (Matmul *)m, a, b, c, bias, side, &choice));
    if (!choice->found) return CUDA_BY_TYPE(s->type, run_product, s, a, b, c, bias, accumulate, stream);
    if (m->quantize) TRY_RETURN(quantize_operands(m, choice, &a, &b, (char *)scratch, stream));
    if (bias) LT_TRY(set<const void *>(choice->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias));
    float alpha = 1.0f, beta = accumulate ? 1.0f : 0.0f;
    LT_TRY(lt.Matmul(d->matmul_cache->handle, choice->desc, &alpha, b, choice->first, a, choice->second, &beta, c,
                     choice->result, c, choice->result, &choice->algo, side ? d->side_workspace : d->workspace,
                     side ? d->side_workspace_bytes : d->workspace_bytes, stream));
    return TANE_OK;
}

bool matmul_is_native(const Matmul *m) {
    const Matmul *other = m->padded ? m->padded : m->sliced;
    if (other) return matmul_is_native(other);
    return !m->quantize && m->choice[POINTERS_ALIGNED][false].found;
}

/* Fewer than LEAST_ROWS rows, as run_padded has them. */
static Status run_gelu_padded(CudaDevice *d, const Matmul *m, const void *a, const void *b, void *c, void *gelu,
                              const void *bias, char *scratch) {
    const MatmulShape *s = &m->shape;
    size_t rows = (size_t)s->m, k = (size_t)s->k * dtype_size(s->type), n = (size_t)s->n * dtype_size(s->out_type);
    size_t lda = (size_t)s->lda * dtype_size(s->type), ldc = (size_t)s->ldc * dtype_size(s->out_type);
    char *padded_c = scratch + padded_a_bytes(m), *padded_gelu = padded_c + padded_c_bytes(m);
    CUDA_TRY(cudaMemcpy2DAsync(scratch, k, a, lda, k, rows, cudaMemcpyDeviceToDevice, d->stream));
    TRY_RETURN(matmul_run_gelu(d, m->padded, scratch, b, padded_c, padded_gelu, bias, padded_gelu + padded_c_bytes(m)));
    CUDA_TRY(cudaMemcpy2DAsync(c, ldc, padded_c, n, n, rows, cudaMemcpyDeviceToDevice, d->stream));
    CUDA_TRY(cudaMemcpy2DAsync(gelu, ldc, padded_gelu, n, n, rows, cudaMemcpyDeviceToDevice, d->stream));
    return TANE_OK;
}

Status matmul_run_gelu(CudaDevice *d, const Matmul *m, const void *a, const void *b, void *c, void *gelu,
                       const void *bias, void *scratch) {
    const MatmulShape *s = &m->shape;
    const Choice *choice = &m->choice[POINTERS_ALIGNED][false];
    float one = 1.0f, zero = 0.0f;
    if (!matmul_is_native(m)) return FAIL(TANE_EINTERNAL, "matmul_run_gelu: cuBLASLt has no such product");
    if (m->padded) return run_gelu_padded(d, m, a, b, c, gelu, bias, (char *)scratch);
    for (int64_t row = 0; m->sliced && row < s->m; row += LEAST_ROWS) { /* as run_sliced */
        int64_t from = row + LEAST_ROWS > s->m ? s->m - LEAST_ROWS : row;
        size_t at = (size_t)(from * s->ldc) * dtype_size(s->out_type);
        TRY_RETURN(matmul_run_gelu(d, m->sliced, (const char *)a + (size_t)(from * s->lda) * dtype_size(s->type), b,
                                   (char *)c + at, (char *)gelu + at, bias, scratch));
    }
    if (m->sliced) return TANE_OK;
    LT_TRY(set<const void *>(choice->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias));
    LT_TRY(set<void *>(choice->desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, c));
    LT_TRY(lt.Matmul(d->matmul_cache->handle, choice->desc, &one, b, choice->first, a, choice->second, &zero, gelu,
                     choice->result, gelu, choice->result, &choice->algo, d->workspace, d->workspace_bytes, d->stream));
    return TANE_OK;
}
