/* Embedding on the GPU: x[b, t] = scale wte[token[b, t]] + wpe[position[b, t]]; dwte[token] += scale dx,
 * dwpe[position] += dx. The sum is scaled where it is written.
 *
 * forward: gather, a thread V elements of a row. An id out of range is reported and taken for 0.
 *
 * backward must add the rows of one id in a fixed order, without knowing how often an id occurs (a space or padding may
 * be a third of all rows):
 *
 *   up to FEW rows   few       a block for each row (and 32 V columns); only the first row of an id goes on, and adds
 *                              up all rows of that id
 *   else             tiles     sorts keys (id, row) in tiles of TILE, in shared memory
 *                    merge     makes one run of WAYS sorted runs until there is one: a key's new place is the number of
 *                              keys before it, found by bisection in each run; keys are distinct, so this is exact
 *                    pieces    cuts the sorted keys into windows of WINDOW; the rows of one id in one window are a
 *                              piece, added up by a warp. An id that lies in one window is done with
 *                    across    adds up the pieces of each id that spans windows
 *
 * What is added in which order depends on the ids alone. Tokens and positions go through the same launches (blockIdx.z,
 * or .y where there are no columns).
 */
#include "ops/kernel.cuh"

extern "C" {
#include "ops/embedding.h"
}

enum { THREADS = 256, FEW = 1024, TILE = 2048, WAYS = 8, WINDOW = 32, PIECE_WARPS = 4, SUM_WARPS = 8 };

/* V elements: 1, or whole vectors of 16 bytes. */
template <typename T, int V> __device__ static inline void load(float *to, const T *p) {
    if constexpr (V == 1) {
        *to = to_float(*p);
    } else {
#pragma unroll
        for (int e = 0; e < V; e += Vec16<T>::N) load16(to + e, p + e);
    }
}
template <typename T, int V> __device__ static inline void store(T *p, const float *from) {
    if constexpr (V == 1) {
        *p = from_float<T>(*from);
    } else {
#pragma unroll
        for (int e = 0; e < V; e += Vec16<T>::N) store16(p + e, from + e);
    }
}

/* ---- forward */

/* (B, T) ids and the rows (limit, C) that they choose. */
template <typename T> struct Gather {
    const int32_t *ids;
    const T *weight; /* NULL: none */
    float scale;
    int limit, code; /* code: what to report */
};

template <typename T>
__device__ static inline int64_t checked_id(const Gather<T> &g, int t, bool report, CudaFault *fault) {
    int id = g.ids[blockIdx.x];
    if (id >= 0 && id < g.limit) return id;
    if (report) report_fault(fault, g.code, blockIdx.x / t, blockIdx.x % t, id, g.limit);
    return 0;
}

template <typename T, int V>
static __global__ void __launch_bounds__(THREADS)
    gather(const Gather<T> wte, const Gather<T> wpe, T *x, int width, int t, CudaFault *fault) {
    int c = (blockIdx.y * blockDim.x + threadIdx.x) * V;
    if (c >= width) return;
    int64_t token = checked_id(wte, t, c == 0, fault);
    const T *from = wte.weight + token * width + c;
    T *to = x + (int64_t)blockIdx.x * width + c;
    float v[V], p[V];
    load<T, V>(v, from);
#pragma unroll
    for (int e = 0; e < V; e++) v[e] *= wte.scale;
    if (wpe.weight) {
        int64_t position = checked_id(wpe, t, c == 0, fault);
        load<T, V>(p, wpe.weight + position * width + c);
#pragma unroll
        for (int e = 0; e < V; e++) v[e] += p[e];
    }
    store<T, V>(to, v);
}

/* ---- backward */

typedef struct Scatter {
    const int32_t *ids;
    void *grad; /* (limit, width), fp32 or bf16; zeroed before where it is not added to */
    bool bf16, add;
    float scale;
    int limit;
    uint64_t *keys, *other; /* (rows) each; sorted ones end up in `keys` */
    float *partial;         /* (windows, 2, width): the piece at a window's begin, and the last one that began inside */
} Scatter;
typedef struct Scatters {
    Scatter of[2];
} Scatters;

__device__ static inline int safe_id(const Scatter &s, int row) {
    int id = s.ids[row];
    return id >= 0 && id < s.limit ? id : 0;
}

/* to[0 .. V) (+)= scale sum */
template <typename G, int V> __device__ static inline void put_vector(G *to, float *sum, float scale, bool add) {
    constexpr int WIDTH = V % Vec16<G>::N ? 1 : V; /* a store's: bf16 gradients of fp32 rows go one by one */
#pragma unroll
    for (int e = 0; e < V; e += WIDTH) {
        float old[WIDTH];
        if (add) load<G, WIDTH>(old, to + e);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) sum[e + i] = add ? scale * sum[e + i] + old[i] : scale * sum[e + i];
        store<G, WIDTH>(to + e, sum + e);
    }
}
template <int V> __device__ static inline void put(const Scatter &s, int64_t at, float *sum) {
    if (s.bf16) put_vector<__nv_bfloat16, V>((__nv_bfloat16 *)s.grad + at, sum, s.scale, s.add);
    else put_vector<float, V>((float *)s.grad + at, sum, s.scale, s.add);
}

/* Sums of a block's warps, one after the other: column threadIdx.x of the block's 32 V, below `columns`, to
 * grad[at + column]. */
template <int V>
__device__ static inline void join_warps(const Scatter &s, int64_t at, int columns, const float *sum,
                                         float (*shared)[32 * V]) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
    for (int e = 0; e < V; e++) shared[warp][lane * V + e] = sum[e];
    __syncthreads();
    if ((int)threadIdx.x >= 32 * V || (int)threadIdx.x >= columns) return;
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < SUM_WARPS; w++) total += shared[w][threadIdx.x];
    put<1>(s, at + threadIdx.x, &total);
}

template <typename T, int V>
static __global__ void __launch_bounds__(32 * SUM_WARPS)
    few(const T *dx, int rows, int width, const Scatters scatters) {
    __shared__ uint32_t same[FEW / 32]; /* bit r: row r has our id */
    __shared__ uint16_t list[FEW];
    __shared__ float shared[SUM_WARPS][32 * V];
    const Scatter &s = scatters.of[blockIdx.z];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, words = (rows + 31) / 32, first = blockIdx.x;
    int id = safe_id(s, first), count = 0;
    for (int w = warp; w < words; w += SUM_WARPS) {
        int row = w * 32 + lane;
        uint32_t bits = __ballot_sync(0xffffffffu, row < rows && safe_id(s, row) == id);
        if (lane == 0) same[w] = bits;
    }
    __syncthreads();
    for (int w = 0; w <= first / 32; w++)
        if (same[w] & (w < first / 32 ? 0xffffffffu : (1u << first % 32) - 1)) return; /* all: a row before has it */
    for (int w = 0; w < words; w++) { /* each warp lists the words that it has */
        if (w % SUM_WARPS == warp && same[w] >> lane & 1)
            list[count + __popc(same[w] & ((1u << lane) - 1))] = (uint16_t)(w * 32 + lane);
        count += __popc(same[w]);
    }
    __syncthreads();
    int c = (blockIdx.y * 32 + lane) * V;
    float sum[V] = {};
    if (c < width)
#pragma unroll 4
        for (int i = warp; i < count; i += SUM_WARPS) {
            float v[V];
            load<T, V>(v, dx + (int64_t)list[i] * width + c);
#pragma unroll
            for (int e = 0; e < V; e++) sum[e] += v[e];
        }
    int begin = blockIdx.y * 32 * V;
    join_warps<V>(s, (int64_t)id * width + begin, width - begin, sum, shared);
}

/* A block sorts tile blockIdx.x of the keys: Batcher's bitonic network. */
static __global__ void __launch_bounds__(TILE / 2) tiles(int rows, const Scatters scatters) {
    __shared__ uint64_t keys[TILE];
    const Scatter &s = scatters.of[blockIdx.y];
    int first = blockIdx.x * TILE;
    for (int i = threadIdx.x; i < TILE; i += TILE / 2)
        keys[i] = first + i < rows ? (uint64_t)safe_id(s, first + i) << 32 | (uint32_t)(first + i) : UINT64_MAX;
    for (int run = 2; run <= TILE; run *= 2)
        for (int gap = run / 2; gap > 0; gap /= 2) {
            __syncthreads();
            int i = 2 * threadIdx.x - (threadIdx.x & (gap - 1)); /* the pair (i, i + gap) */
            bool rising = (i & run) == 0;
            uint64_t a = keys[i], b = keys[i + gap];
            if (a > b == rising) {
                keys[i] = b;
                keys[i + gap] = a;
            }
        }
    __syncthreads();
    for (int i = threadIdx.x; i < TILE && first + i < rows; i += TILE / 2) s.keys[first + i] = keys[i];
}

/* Sorted runs of length `run`, a power of two, to runs of WAYS * run. swapped: from `other` to `keys`. */
static __global__ void __launch_bounds__(THREADS) merge(int rows, int run, bool swapped, const Scatters scatters) {
    const Scatter &s = scatters.of[blockIdx.y];
    const uint64_t *from = swapped ? s.other : s.keys;
    uint64_t *to = swapped ? s.keys : s.other;
    int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= rows) return;
    uint64_t key = from[i];
    int64_t group = (int64_t)i / ((int64_t)run * WAYS) * run * WAYS;
    int below[WAYS] = {}; /* keys below ours in each run */
    for (int step = run; step > 0; step /= 2)
#pragma unroll
        for (int w = 0; w < WAYS; w++) {
            int64_t begin = group + (int64_t)w * run, end = begin + run < rows ? begin + run : rows;
            int64_t next = begin + below[w] + step;
            if (next <= end && from[next - 1] < key) below[w] += step;
        }
    int64_t place = group;
#pragma unroll
    for (int w = 0; w < WAYS; w++) place += below[w];
    to[place] = key;
}

__device__ static inline int id_at(const Scatter &s, int64_t i) { return (int)(s.keys[i] >> 32); }

/* A block of PIECE_WARPS warps for window blockIdx.x and 32 V columns; its warps take the window's pieces in turn. */
template <typename T, int V>
static __global__ void __launch_bounds__(32 * PIECE_WARPS)
    pieces(const T *dx, int rows, int width, const Scatters scatters) {
    const Scatter &s = scatters.of[blockIdx.z];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, c = (blockIdx.y * 32 + lane) * V;
    int64_t first = (int64_t)blockIdx.x * WINDOW, i = first + lane;
    int n = rows - first < WINDOW ? (int)(rows - first) : WINDOW;
    uint64_t key = i < rows ? s.keys[i] : UINT64_MAX;
    int id = (int)(key >> 32), row = (int)(uint32_t)key;
    int before = first > 0 ? id_at(s, first - 1) : -1, after = first + n < rows ? id_at(s, first + n) : -1;
    int left = __shfl_up_sync(0xffffffffu, id, 1);
    uint32_t heads = __ballot_sync(0xffffffffu, lane < n && (lane == 0 || id != left));
    for (int piece = 0; heads != 0; piece++) {
        int begin = __ffs((int)heads) - 1;
        heads &= heads - 1;
        if (piece % PIECE_WARPS != warp) continue;
        int end = heads ? __ffs((int)heads) - 1 : n, own = __shfl_sync(0xffffffffu, id, begin);
        float sum[V] = {};
#pragma unroll 4
        for (int k = begin; k < end; k++) {
            int64_t at = (int64_t)__shfl_sync(0xffffffffu, row, k) * width + c;
            float v[V] = {};
            if (c < width) load<T, V>(v, dx + at);
#pragma unroll
            for (int e = 0; e < V; e++) sum[e] += v[e];
        }
        if (c >= width) continue;
        if ((begin > 0 || before != own) && (end < n || after != own)) {
            put<V>(s, (int64_t)own * width + c, sum);
            continue;
        }
        store<float, V>(s.partial + ((int64_t)blockIdx.x * 2 + (begin > 0)) * width + c, sum);
    }
}

/* A block for the border between windows blockIdx.x and blockIdx.x + 1, and 32 V columns: where an id goes over the
 * border, and over none before it, its pieces are added up. */
template <int V>
static __global__ void __launch_bounds__(32 * SUM_WARPS) across(int rows, int width, const Scatters scatters) {
    __shared__ float shared[SUM_WARPS][32 * V];
    const Scatter &s = scatters.of[blockIdx.z];
    int64_t border = (int64_t)(blockIdx.x + 1) * WINDOW, begin = border - WINDOW;
    int id = id_at(s, border);
    if (id_at(s, border - 1) != id || (begin > 0 && id_at(s, begin - 1) == id)) return;
    int windows = 0; /* that begin with the id, from the border on */
    for (bool more = true; more;) {
        int64_t i = border + (int64_t)(windows + threadIdx.x) * WINDOW;
        int found = __syncthreads_count(i < rows && id_at(s, i) == id);
        windows += found;
        more = found == 32 * SUM_WARPS;
    }
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, c = (blockIdx.y * 32 + lane) * V;
    const float *head = s.partial + ((int64_t)blockIdx.x * 2 + (id_at(s, begin) != id)) * width + c;
    const float *rest = s.partial + ((int64_t)blockIdx.x + 1) * 2 * width + c; /* one every 2 width */
    float sum[V] = {};
    if (c < width)
#pragma unroll 4
        for (int k = warp; k <= windows; k += SUM_WARPS) {
            float v[V];
            load<float, V>(v, k == 0 ? head : rest + (int64_t)(k - 1) * 2 * width);
#pragma unroll
            for (int e = 0; e < V; e++) sum[e] += v[e];
        }
    int from = blockIdx.y * 32 * V;
    join_warps<V>(s, (int64_t)id * width + from, width - from, sum, shared);
}

/* ---- plan and launch */

static size_t keys_bytes(int64_t rows) { return cuda_align((size_t)rows * sizeof(uint64_t)); }
static size_t partial_bytes(int64_t rows, int64_t width) {
    return cuda_align((size_t)(cuda_blocks(rows, WINDOW) * 2 * width) * sizeof(float));
}

static Status plan(Node *node) {
    const Tensor *wte = node->in[WTE], *x = node->out[0];
    int64_t rows = tensor_rows(x), width = tensor_width(x);
    if (node->in[WPE] && node->in[WPE]->dtype != wte->dtype)
        return FAIL(TANE_EUNSUPPORTED, "embedding: wte and wpe differ in type");
    if (!cuda_is_float(wte->dtype))
        return FAIL(TANE_EUNSUPPORTED, "embedding: no %s kernel on the GPU; use fp32, bf16 or fp16",
                    dtype_name(wte->dtype));
    if (rows > INT32_MAX / 2 || width > INT32_MAX / 2)
        return FAIL(TANE_EUNSUPPORTED, "embedding: %lld rows of %lld are too many for the GPU; lower the batch size",
                    (long long)rows, (long long)width);
    for (int k = WTE; k <= WPE && rows > FEW; k++)
        if (node->in[k] && node->grad_in[k]) node->scratch_bytes += 2 * keys_bytes(rows) + partial_bytes(rows, width);
    return TANE_OK;
}

/* Of the rows of wte or wpe. */
static float scale_of(const Node *node, int k) {
    return k == WTE ? ((const EmbeddingArgs *)node->args)->scale : 1.0f;
}

template <typename T> static Gather<T> gather_of(const Node *node, int ids, int weight, int code) {
    const Tensor *w = node->in[weight];
    if (!w) return Gather<T>{NULL, NULL, 0.0f, 0, 0};
    return Gather<T>{(const int32_t *)node->in[ids]->data, (const T *)w->data, scale_of(node, weight),
                     (int)w->shape[0], code};
}

template <typename T, int V> static Status launch_gather(const Node *node) {
    const Tensor *x = node->out[0];
    CudaDevice *d = cuda_device(node);
    int64_t n = cuda_blocks(tensor_width(x), V), threads = cuda_blocks(n, 32) * 32;
    if (threads > THREADS) threads = THREADS;
    dim3 grid((unsigned)tensor_rows(x), (unsigned)cuda_blocks(n, threads));
    gather<T, V><<<grid, (unsigned)threads, 0, d->stream>>>(
        gather_of<T>(node, TOKENS, WTE, FAULT_TOKEN), gather_of<T>(node, POSITIONS, WPE, FAULT_POSITION), (T *)x->data,
        (int)tensor_width(x), (int)tensor_width(node->in[TOKENS]), d->fault);
    CUDA_LAUNCHED();
    return TANE_OK;
}

template <typename T> static Status launch_forward(const Node *node) {
    if (tensor_width(node->out[0]) % Vec16<T>::N == 0) return launch_gather<T, Vec16<T>::N>(node);
    return launch_gather<T, 1>(node);
}

static Status forward(const Node *node, const TapeRun *) {
    return CUDA_BY_TYPE(node->out[0]->dtype, launch_forward, node);
}

/* The gradients that are wanted; those not added to are zeroed, for the ids that do not occur. */
static Status scatters_of(const Node *node, const TapeRun *run, Scatters *all, int *n) {
    int64_t rows = tensor_rows(node->out[0]), width = tensor_width(node->out[0]);
    char *scratch = (char *)node->scratch;
    *n = 0;
    for (int k = WTE; k <= WPE; k++) {
        if (!node->in[k] || !node->grad_in[k]) continue;
        const Tensor *grad = node->in[k]->grad;
        Scatter *s = &all->of[(*n)++];
        s->ids = (const int32_t *)node->in[k == WTE ? TOKENS : POSITIONS]->data;
        s->grad = grad->data;
        s->bf16 = grad->dtype == DTYPE_BF16;
        s->add = node_adds(node, k, run);
        s->scale = scale_of(node, k);
        s->limit = (int)grad->shape[0];
        if (!s->add) CUDA_TRY(cudaMemsetAsync(grad->data, 0, tensor_bytes(grad), cuda_device(node)->stream));
        if (rows <= FEW) continue;
        s->keys = (uint64_t *)scratch;
        s->other = (uint64_t *)(scratch + keys_bytes(rows));
        s->partial = (float *)(scratch + 2 * keys_bytes(rows));
        scratch += 2 * keys_bytes(rows) + partial_bytes(rows, width);
    }
    return TANE_OK;
}

static Status sort_keys(CudaDevice *d, int rows, int n, Scatters *all) {
    tiles<<<dim3((unsigned)cuda_blocks(rows, TILE), n), TILE / 2, 0, d->stream>>>(rows, *all);
    CUDA_LAUNCHED();
    bool swapped = false;
    for (int64_t run = TILE; run < rows; run *= WAYS, swapped = !swapped) {
        merge<<<dim3((unsigned)cuda_blocks(rows, THREADS), n), THREADS, 0, d->stream>>>(rows, (int)run, swapped, *all);
        CUDA_LAUNCHED();
    }
    for (int k = 0; k < n && swapped; k++) all->of[k].keys = all->of[k].other;
    return TANE_OK;
}

/* n scatters side by side. */
template <typename T, int V> static Status launch_scatters(const Node *node, Scatters all, int n) {
    CudaDevice *d = cuda_device(node);
    const Tensor *x = node->out[0];
    const T *dx = (const T *)x->grad->data;
    int rows = (int)tensor_rows(x), width = (int)tensor_width(x);
    unsigned columns = (unsigned)cuda_blocks(width, 32 * V), windows = (unsigned)cuda_blocks(rows, WINDOW);
    if (rows <= FEW) {
        few<T, V><<<dim3((unsigned)rows, columns, n), 32 * SUM_WARPS, 0, d->stream>>>(dx, rows, width, all);
        CUDA_LAUNCHED();
        return TANE_OK;
    }
    TRY_RETURN(sort_keys(d, rows, n, &all));
    pieces<T, V><<<dim3(windows, columns, n), 32 * PIECE_WARPS, 0, d->stream>>>(dx, rows, width, all);
    CUDA_LAUNCHED();
    across<V><<<dim3(windows - 1, columns, n), 32 * SUM_WARPS, 0, d->stream>>>(rows, width, all);
    CUDA_LAUNCHED();
    return TANE_OK;
}

template <typename T, int V> static Status launch_scatter(const Node *node, const TapeRun *run) {
    Scatters all = {};
    int n;
    TRY_RETURN(scatters_of(node, run, &all, &n));
    if (n == 0) return TANE_OK;
    if (n == 1 || all.of[0].grad != all.of[1].grad) return launch_scatters<T, V>(node, all, n);
    Scatters second = {}; /* one table for both: they would add to one row at a time */
    second.of[0] = all.of[1];
    TRY_RETURN((launch_scatters<T, V>(node, all, 1)));
    return launch_scatters<T, V>(node, second, 1);
}

template <typename T> static Status launch_backward(const Node *node, const TapeRun *run) {
    if (tensor_width(node->out[0]) % Vec16<T>::N == 0) return launch_scatter<T, Vec16<T>::N>(node, run);
    return launch_scatter<T, 1>(node, run);
}

static Status backward(const Node *node, const TapeRun *run) {
    return CUDA_BY_TYPE(node->out[0]->dtype, launch_backward, node, run);
}

CUDA_KERNEL(embedding, plan, forward, backward)
