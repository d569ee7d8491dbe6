/* The next token of each row, on the GPU: what src/ops/sample.c computes, with rows decided on the device.
 *
 *   scan   a block a SEGMENT of a row: its maximum (lowest id on ties), sum of exponentials and, where the row draws,
 *          its mass at the row's temperature: one pass at the speed of memory
 *
 *   pick   a block a row: joins the segments; greedy rows are done. Without cuts it finds the segment, then the token,
 *          that holds u times the mass. With top_k or top_p it ranks candidates, a few or many:
 *
 *   few    the tokens that a histogram over (maximum - logit) shows to hold the k best, or the share top_p, sorted in
 *          shared memory, when at most CANDIDATES
 *
 *   many   without sorting: the cuts and the draw are each the largest key that enough tokens, or enough mass, lie at
 *          or above, found two bits at a time in passes over the row
 *
 * A token's mass is exp((logit - maximum) / temperature) as a whole number of 2^-42: sums are exact in any order, so
 * the draw is the same on every run, whatever shares the batch, and the CPU's but for rounding at the boundaries.
 */
#include "ops/kernel.cuh"

enum { LOGITS, ROWS };
enum { SEGMENT = 4096, SCAN_THREADS = 256, PICK_THREADS = 1024, CANDIDATES = 4096, BINS = 2048 };
enum { SEGMENTS = 512, WIDEST = SEGMENT * SEGMENTS }; /* 2^21 tokens of mass 2^42 fit into 64 bits */

typedef unsigned long long Mass;

/* What the scan finds in a segment. */
typedef struct SamplePart {
    Mass mass; /* relative to `top`; 0 where the row does not draw */
    float top;
    int best;  /* its first place */
    float sum; /* of exp(logit - top) */
    int nan;
} SamplePart;

__device__ static inline int sample_vocab(const SampleRow *how, int width) {
    return how->vocab > 0 && how->vocab < width ? how->vocab : width;
}

__device__ static inline Mass sample_mass(float logit, float top, float temperature) {
    return __float2ull_rn(expf((logit - top) / temperature) * 0x1p42f);
}

/* ------------------------------------------------------------------------------------------- over blocks and warps */

/* The larger value, or the lower id of equal ones, over the block; `shared` holds 64 words. */
__device__ static void block_best(float *top, int *best, float *shared) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    for (int round = 0; round < 2; round++) {
#pragma unroll
        for (int other = 16; other > 0; other >>= 1) {
            float t = __shfl_xor_sync(0xffffffffu, *top, other);
            int b = __shfl_xor_sync(0xffffffffu, *best, other);
            if (t > *top || (t == *top && b < *best)) {
                *top = t;
                *best = b;
            }
        }
        if (round == 1) return;
        __syncthreads();
        if (lane == 0) {
            shared[warp] = *top;
            ((int *)shared)[32 + warp] = *best;
        }
        __syncthreads();
        *top = lane < warps ? shared[lane] : -INFINITY;
        *best = lane < warps ? ((int *)shared)[32 + lane] : INT32_MAX;
    }
}

/* The sum over the threads before this one, and in *total over all; `shared` holds 32. */
__device__ static Mass block_scan(Mass x, Mass *total, Mass *shared) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    Mass sum = x;
#pragma unroll
    for (int other = 1; other < 32; other <<= 1) {
        Mass y = __shfl_up_sync(0xffffffffu, sum, other);
        if (lane >= other) sum += y;
    }
    __syncthreads();
    if (lane == 31) shared[warp] = sum;
    __syncthreads();
    Mass all = lane < warps ? shared[lane] : 0;
#pragma unroll
    for (int other = 1; other < 32; other <<= 1) {
        Mass y = __shfl_up_sync(0xffffffffu, all, other);
        if (lane >= other) all += y;
    }
    Mass before = __shfl_sync(0xffffffffu, all, (warp + 31) & 31);
    *total = __shfl_sync(0xffffffffu, all, 31);
    return (warp ? before : 0) + sum - x;
}

/* -------------------------------------------------------------------------------------------------------- the scan */

/* Grid (rows, segments). VECTOR: rows are multiples of 4. */
template <bool VECTOR>
__global__ static void __launch_bounds__(SCAN_THREADS)
    sample_scan_kernel(const float *logits, const SampleRow *rows, int width, SamplePart *parts) {
    constexpr int EACH = SEGMENT / SCAN_THREADS, RUN = VECTOR ? 4 : 1;
    __shared__ float words[64];
    __shared__ Mass masses[32];
    const SampleRow *how = &rows[blockIdx.x];
    int first = blockIdx.y * SEGMENT, n = sample_vocab(how, width);
    float temperature = how->temperature;
    __align__(16) float x[EACH];
    const float *row = logits + (int64_t)blockIdx.x * width;
#pragma unroll
    for (int k = 0; k < EACH; k += RUN) {
        int i = first + (k / RUN * SCAN_THREADS + threadIdx.x) * RUN;
        if (VECTOR) *(float4 *)&x[k] = i < width ? *(const float4 *)(row + i) : make_float4(0, 0, 0, 0);
        else x[k] = i < width ? row[i] : 0.0f;
    }
    float top = -INFINITY, sum = 0;
    int best = INT32_MAX, nan = 0;
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        int i = first + (k / RUN * SCAN_THREADS + threadIdx.x) * RUN + k % RUN;
        if (i >= n) x[k] = -INFINITY;
        nan |= x[k] != x[k];
        if (x[k] > top) {
            top = x[k];
            best = i;
        }
    }
    nan = __syncthreads_or(nan);
    block_best(&top, &best, words);
    Mass mass = 0;
    if (top > -INFINITY) { /* else nothing but -Inf */
#pragma unroll
        for (int k = 0; k < EACH; k++) sum += expf(x[k] - top);
        if (temperature > 0)
#pragma unroll
            for (int k = 0; k < EACH; k++) mass += sample_mass(x[k], top, temperature);
    }
    sum = block_reduce<false>(sum, words);
    if (temperature > 0) block_scan(mass, &mass, masses);
    if (threadIdx.x == 0) parts[(int64_t)blockIdx.x * gridDim.y + blockIdx.y] = (SamplePart){mass, top, best, sum, nan};
}

/* -------------------------------------------------------------------------------------------------------- the pick */

/* A row as all threads of its block see it. */
typedef struct SampleView {
    const float *logits;
    const SamplePart *parts;
    int n, segments;
    float top, temperature;
} SampleView;

typedef struct SampleShared {
    Mass rank[CANDIDATES]; /* key, and the id upside down: equal logits rank by id */
    unsigned bins[BINS];
    double share[SEGMENTS]; /* of the segments, relative to the row's maximum */
    Mass masses[32];
    float words[64];
    float range; /* the histogram's: what lies further below the maximum falls into the last bin */
    Mass target, sum;
    double total;
    int segment, threshold, found, nucleus;
    int token;
} SampleShared;

/* Keys are in the order of the logits; -0 equals 0. And back. */
__device__ static inline uint32_t sample_key(float logit) {
    uint32_t bits = __float_as_uint(logit + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ static inline float sample_logit(uint32_t key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}
__device__ static inline Mass key_mass(const SampleView &v, uint32_t key) {
    return sample_mass(sample_logit(key), v.top, v.temperature);
}

/* [0, 1) with 53 bits. */
__device__ static inline double sample_uniform(const SampleRow *how) {
    uint32_t word[4];
    philox4x32(how->seed, how->stream, how->position, word);
    return (double)(((uint64_t)word[0] << 32 | word[1]) >> 11) * 0x1p-53;
}

/* floor(x), below `end`. */
__device__ static inline Mass floor_below(double x, Mass end) {
    return x < (double)end ? min((Mass)x, end - 1) : end - 1;
}

/* The token whose stretch of the cumulative mass, in the order of ids, holds u of it. s.share is filled. */
__device__ static void draw_all(const SampleView &v, double u, SampleShared &s) {
    if (threadIdx.x == 0) {
        double before = 0, sum = 0, at = u * s.total;
        int held = 0;
        for (int i = 0; i < v.segments; i++) {
            if (s.share[i] <= 0) continue;
            before = sum;
            held = i;
            sum += s.share[i];
            if (sum > at) break;
        }
        Mass mass = v.parts[held].mass;
        s.segment = held;
        s.target = floor_below(fmax(at - before, 0.0) / s.share[held] * (double)mass, mass);
    }
    __syncthreads();
    constexpr int EACH = SEGMENT / PICK_THREADS;
    int first = s.segment * SEGMENT + threadIdx.x * EACH;
    float top = v.parts[s.segment].top;
    Mass mass[EACH], sum = 0, all;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        mass[e] = first + e < v.n ? sample_mass(v.logits[first + e], top, v.temperature) : 0;
        sum += mass[e];
    }
    Mass at = block_scan(sum, &all, s.masses);
    if (s.target < at || s.target >= at + sum) return;
    for (int e = 0; e < EACH; e++) {
        at += mass[e];
        if (s.target < at) {
            s.token = first + e;
            return;
        }
    }
}

/* ---- few candidates */

__device__ static inline int sample_bin(const SampleView &v, float logit, float range) {
    return (int)fminf((v.top - logit) * ((float)BINS / range), (float)(BINS - 1));
}

/* The first bin such that those up to it hold the k best, or surely the share top_p; s.found: how many tokens
 * these are. BINS - 1: there is none. */
__device__ static void find_threshold(const SampleView &v, int k, double share, SampleShared &s) {
    if (threadIdx.x == 0) {
        float low = v.top;
        if (k < v.n)
            for (int i = 0; i < v.segments; i++)
                if (v.parts[i].top > -INFINITY) low = fminf(low, v.parts[i].top);
        s.range = fmaxf(fmaxf(32.0f * v.temperature, 2.0f * (v.top - low)), 1e-30f);
        s.threshold = BINS - 1;
        s.found = v.n;
    }
    for (int i = threadIdx.x; i < BINS; i += PICK_THREADS) s.bins[i] = 0;
    __syncthreads();
#pragma unroll 8
    for (int i = threadIdx.x; i < v.n; i += PICK_THREADS) {
        int bin = sample_bin(v, v.logits[i], s.range);
        if (bin < BINS - 1) atomicAdd(&s.bins[bin], 1u);
    }
    __syncthreads();
    constexpr int EACH = BINS / PICK_THREADS;
    Mass count[EACH], mass[EACH], counts = 0, masses = 0, all;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        int bin = threadIdx.x * EACH + e;
        float furthest = (bin + 1) * (s.range / BINS); /* from the maximum; with room for rounding */
        count[e] = s.bins[bin];
        mass[e] = count[e] * __float2ull_rn(expf(-furthest / v.temperature) * 0.9999f * 0x1p42f);
        counts += count[e];
        masses += mass[e];
    }
    counts = block_scan(counts, &all, s.masses);
    masses = block_scan(masses, &all, s.masses);
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        int bin = threadIdx.x * EACH + e;
        counts += count[e];
        masses += mass[e];
        count[e] = counts;
        if (bin < BINS - 1 && (k < v.n ? counts >= (Mass)k : (double)masses >= share)) atomicMin(&s.threshold, bin);
    }
    __syncthreads();
#pragma unroll
    for (int e = 0; e < EACH; e++)
        if (s.threshold < BINS - 1 && s.threshold == threadIdx.x * EACH + e) s.found = (int)count[e];
    __syncthreads();
}

/* Tokens of the bins up to the threshold into s.rank, the rest of which is 0; -> how many places are to be sorted. */
__device__ static int gather(const SampleView &v, SampleShared &s) {
    bool all = v.n <= CANDIDATES;
    int found = all ? v.n : s.found, places = 1;
    while (places < found) places *= 2;
    __syncthreads();
    if (threadIdx.x == 0) s.found = 0;
    for (int i = threadIdx.x; i < places; i += PICK_THREADS) s.rank[i] = 0;
    __syncthreads();
    for (int segment = 0; segment < v.segments; segment++) {
        if (!all && sample_bin(v, v.parts[segment].top, s.range) > s.threshold) continue;
        int first = segment * SEGMENT + threadIdx.x, end = min((segment + 1) * (int)SEGMENT, v.n);
#pragma unroll
        for (int e = 0; e < SEGMENT / PICK_THREADS; e++) {
            int i = first + e * PICK_THREADS;
            float x = i < end ? v.logits[i] : 0.0f;
            if (i < end && (all || sample_bin(v, x, s.range) <= s.threshold))
                s.rank[atomicAdd(&s.found, 1)] = (Mass)sample_key(x) << 32 | (uint32_t)~i;
        }
    }
    __syncthreads();
    return places;
}

/* Bitonic, the largest first. */
__device__ static void sort_ranks(Mass *rank, int places) {
    for (int size = 2; size <= places; size *= 2)
        for (int apart = size / 2; apart > 0; apart /= 2) {
            for (int t = threadIdx.x; t < places / 2; t += PICK_THREADS) {
                int i = 2 * t - (t & (apart - 1)), j = i + apart;
                Mass a = rank[i], b = rank[j];
                if ((a < b) == ((i & size) == 0)) {
                    rank[i] = b;
                    rank[j] = a;
                }
            }
            __syncthreads();
        }
}

/* s.rank is sorted: cuts it and draws. */
__device__ static void draw_sorted(const SampleView &v, const SampleRow *how, int k, double u, SampleShared &s) {
    constexpr int EACH = CANDIDATES / PICK_THREADS;
    int kept = min(k, s.found), first = threadIdx.x * EACH;
    Mass mass[EACH], sum = 0, all;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        mass[e] = first + e < kept ? key_mass(v, (uint32_t)(s.rank[first + e] >> 32)) : 0;
        sum += mass[e];
    }
    Mass before = block_scan(sum, &all, s.masses), at = before;
    double share = (double)how->top_p * (k < v.n || v.n <= CANDIDATES ? (double)all : s.total);
    if (threadIdx.x == 0) s.nucleus = kept;
    __syncthreads();
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        at += mass[e];
        if (first + e < kept && (double)at >= share) atomicMin(&s.nucleus, first + e + 1);
    }
    __syncthreads();
    at = before;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        at += mass[e];
        if (first + e == s.nucleus - 1) s.sum = at;
    }
    __syncthreads();
    Mass target = floor_below(u * (double)s.sum, s.sum);
    at = before;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        if (target >= at && target < at + mass[e]) s.token = (int)~(uint32_t)s.rank[first + e];
        at += mass[e];
    }
}

/* ---- many candidates */

/* How many tokens, or what mass, have a key at or above each of three. */
template <bool COUNT>
__device__ static void measure(const SampleView &v, const uint32_t key[3], Mass m[3], SampleShared &s) {
    Mass sum[3] = {0, 0, 0};
#pragma unroll 4
    for (int i = threadIdx.x; i < v.n; i += PICK_THREADS) {
        float x = v.logits[i];
        uint32_t own = sample_key(x);
        Mass one = COUNT ? 1 : sample_mass(x, v.top, v.temperature);
#pragma unroll
        for (int j = 0; j < 3; j++) sum[j] += own >= key[j] ? one : 0;
    }
#pragma unroll
    for (int j = 0; j < 3; j++) block_scan(sum[j], &m[j], s.masses);
}

/* The largest key that at least `need` tokens, or mass, lie at or above; *above: what lies above it. */
template <bool COUNT>
__device__ static uint32_t select_key(const SampleView &v, Mass need, Mass *above, SampleShared &s) {
    uint32_t key = 0;
    *above = 0;
    for (int shift = 30; shift >= 0; shift -= 2) {
        uint32_t next[3] = {key + (1u << shift), key + (2u << shift), key + (3u << shift)};
        Mass m[3];
        measure<COUNT>(v, next, m, s);
        int j = 0;
        while (j < 3 && m[j] >= need) key = next[j++];
        if (j < 3) *above = m[j];
    }
    return key;
}

/* The token of this key that has `place` of the same key before it. */
__device__ static void find_equal(const SampleView &v, uint32_t key, Mass place, SampleShared &s) {
    int each = (v.n + PICK_THREADS - 1) / PICK_THREADS, first = threadIdx.x * each, end = min(first + each, v.n);
    Mass count = 0, all;
    for (int i = first; i < end; i++) count += sample_key(v.logits[i]) == key;
    Mass at = block_scan(count, &all, s.masses);
    for (int i = first; i < end; i++)
        if (sample_key(v.logits[i]) == key && at++ == place) s.token = i;
}

__device__ static void draw_unsorted(const SampleView &v, const SampleRow *how, int k, double u, SampleShared &s) {
    Mass above, mass[3];
    uint32_t key = 0, cut[3] = {0, 0, 0};
    Mass equal = 0;
    if (k < v.n) {
        key = select_key<true>(v, (Mass)k, &above, s);
        equal = ((Mass)k - above) * key_mass(v, key);
        cut[0] = cut[1] = cut[2] = key + 1;
    }
    measure<false>(v, cut, mass, s);
    Mass total = mass[0] + equal;
    Mass need = floor_below(ceil(fmin((double)how->top_p, 1.0) * (double)total), total + 1);
    if (need == 0) need = 1;
    key = select_key<false>(v, need, &above, s);
    Mass one = key_mass(v, key), sum = above + (need - above + one - 1) / one * one;
    Mass target = floor_below(u * (double)sum, sum);
    key = select_key<false>(v, target + 1, &above, s);
    find_equal(v, key, (target - above) / key_mass(v, key), s);
}

/* s.share and s.total are filled. */
__device__ static void draw_ranked(const SampleView &v, const SampleRow *how, int k, double u, SampleShared &s) {
    if (v.n > CANDIDATES) find_threshold(v, k, (double)how->top_p * s.total, s);
    if (v.n > CANDIDATES && (s.threshold == BINS - 1 || s.found > CANDIDATES)) {
        draw_unsorted(v, how, k, u, s);
        return;
    }
    sort_ranks(s.rank, gather(v, s));
    draw_sorted(v, how, k, u, s);
}

/* The sum of a value of each segment, scaled to the row's maximum, in a fixed order; the same in all threads. */
__device__ static double sum_shares(const SampleView &v, double share, SampleShared &s) {
    __syncthreads();
    if (threadIdx.x < v.segments) s.share[threadIdx.x] = share;
    __syncthreads();
    double sum = 0;
    for (int i = threadIdx.x & 31; i < v.segments; i += 32) sum += s.share[i];
#pragma unroll
    for (int other = 16; other > 0; other >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, other);
    return sum;
}

/* Grid (rows). */
__global__ static void __launch_bounds__(PICK_THREADS)
    sample_pick_kernel(const float *logits, const SampleRow *rows, int width, int segments, const SamplePart *parts,
                       SampleChoice *choices) {
    __shared__ SampleShared s;
    const SampleRow *how = &rows[blockIdx.x];
    SampleView v = {};
    v.logits = logits + (int64_t)blockIdx.x * width;
    v.parts = parts + (int64_t)blockIdx.x * segments;
    v.n = sample_vocab(how, width);
    v.segments = segments;
    v.temperature = how->temperature;
    SamplePart own = {0, -INFINITY, INT32_MAX, 0, 0};
    if (threadIdx.x < segments) own = v.parts[threadIdx.x];
    float top = own.top;
    int best = own.best, nan = __syncthreads_or(own.nan);
    block_best(&top, &best, s.words);
    if (nan || isinf(top)) {
        if (threadIdx.x == 0) choices[blockIdx.x] = (SampleChoice){-1, NAN};
        return;
    }
    v.top = top;
    double total = sum_shares(v, (double)own.sum * exp((double)(own.top - top)), s);
    if (threadIdx.x == 0) s.token = best;
    if (v.temperature > 0) {
        int k = how->top_k > 0 && how->top_k < v.n ? how->top_k : v.n;
        double mass = sum_shares(v, (double)own.mass * exp((double)(own.top - top) / (double)v.temperature), s);
        if (threadIdx.x == 0) s.total = mass;
        __syncthreads();
        if (k == v.n && how->top_p >= 1) draw_all(v, sample_uniform(how), s);
        else draw_ranked(v, how, k, sample_uniform(how), s);
    }
    __syncthreads();
    if (threadIdx.x == 0)
        choices[blockIdx.x] = (SampleChoice){s.token, (float)((double)(v.logits[s.token] - top) - log(total))};
}

/* --------------------------------------------------------------------------------------------------------- the op */

static int64_t segments_of(const Node *node) { return cuda_blocks(node->in[LOGITS]->shape[1], SEGMENT); }

static Status plan(Node *node) {
    const Tensor *logits = node->in[LOGITS];
    if (logits->shape[1] > WIDEST)
        return FAIL(TANE_EUNSUPPORTED, "sample: a vocabulary of %lld is beyond %d, what CUDA's kernel can draw from",
                    (long long)logits->shape[1], (int)WIDEST);
    node->scratch_bytes = (size_t)(logits->shape[0] * segments_of(node)) * sizeof(SamplePart);
    return TANE_OK;
}

static Status forward(const Node *node, const TapeRun *run) {
    (void)run;
    const Tensor *logits = node->in[LOGITS];
    CudaDevice *d = cuda_device(node);
    int width = (int)logits->shape[1], segments = (int)segments_of(node);
    unsigned b = (unsigned)logits->shape[0];
    const float *x = (const float *)logits->data;
    const SampleRow *rows = (const SampleRow *)node->in[ROWS]->data;
    SamplePart *parts = (SamplePart *)node->scratch;
    dim3 grid(b, (unsigned)segments);
    if (width % 4 == 0) sample_scan_kernel<true><<<grid, SCAN_THREADS, 0, d->stream>>>(x, rows, width, parts);
    else sample_scan_kernel<false><<<grid, SCAN_THREADS, 0, d->stream>>>(x, rows, width, parts);
    CUDA_LAUNCHED();
    sample_pick_kernel<<<b, PICK_THREADS, 0, d->stream>>>(x, rows, width, segments, parts,
                                                          (SampleChoice *)node->out[0]->data);
    CUDA_LAUNCHED();
    return TANE_OK;
}

CUDA_KERNEL_NODIFF(sample, plan, forward)
