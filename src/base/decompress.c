/* zlib, libzstd and libsnappy behind decompress.h. They allocate through base/mem.h, so that a test can refuse them
 * memory, and get as much of it as a damaged input may cost: the input's size and a fixed amount.
 */
#include "base/decompress.h"

#include <snappy-c.h>
#include <stdint.h>
#include <string.h>
#include <zlib.h>

/* The allocator, the frame's header and the window limit are in this part of zstd's interface. */
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>
#include <zstd_errors.h>

#include "base/mem.h"

/* zstd's window: what its own program takes at most, and what a small input may claim beside its size. */
static const size_t MAX_WINDOW = (size_t)128 << 20, SMALL_WINDOW = (size_t)56 << 20;
static const size_t MAX_STEP = (size_t)1 << 30; /* zlib counts in 32 bits */
enum { ZLIB_GZIP = 15 + 16, ZLIB_GZIP_OR_ZLIB = 15 + 32 };

struct Decompressor {
    Codec codec;
    char *where;
    const uint8_t *in;
    size_t n, pos;
    bool in_frame; /* inside a gzip member or zstd frame */
    bool zlib_open;
    z_stream zlib;
    ZSTD_DCtx *zstd;
};

const char *codec_name(Codec codec) {
    static const char *const names[CODEC_COUNT] = {"none", "gzip", "zstd", "snappy"};
    return names[codec];
}

Codec codec_detect(const void *data, size_t n) {
    const uint8_t *p = data;
    if (n >= 3 && p[0] == 0x1f && p[1] == 0x8b && p[2] == 8) return CODEC_GZIP;
    if (n < 4) return CODEC_NONE;
    uint32_t magic = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    /* pzstd puts skippable frames first. */
    bool skippable = (magic & ZSTD_MAGIC_SKIPPABLE_MASK) == ZSTD_MAGIC_SKIPPABLE_START;
    return magic == ZSTD_MAGICNUMBER || skippable ? CODEC_ZSTD : CODEC_NONE;
}

static void *zlib_alloc(void *ctx, unsigned n, unsigned size) {
    (void)ctx;
    return mem_alloc((size_t)n * size);
}
static void zlib_free(void *ctx, void *ptr) {
    (void)ctx;
    mem_free(ptr);
}
static void *zstd_alloc(void *ctx, size_t size) {
    (void)ctx;
    return mem_alloc(size);
}

static Status no_memory(const char *where) { return FAIL(TANE_ENOMEM, "%s: out of memory while decompressing", where); }

static Status cut_off(const Decompressor *d) {
    if (!d->n) return FAIL(TANE_EFORMAT, "%s: there is no %s data in it; it is empty", d->where, codec_name(d->codec));
    return FAIL(TANE_EFORMAT,
                "%s: the %s data ends too early, after %zu bytes; the file was cut off: copy or load it again",
                d->where, codec_name(d->codec), d->n);
}

static Status damaged(const Decompressor *d, const char *reason) {
    return FAIL(TANE_EFORMAT, "%s: the %s data is damaged near byte %zu (%s); copy or load the file again", d->where,
                codec_name(d->codec), d->pos, reason);
}

/* ---- gzip ------------------------------------------------------------------------------------------------------- */

static Status open_zlib(Decompressor *d, int window_bits) {
    d->zlib = (z_stream){.zalloc = zlib_alloc, .zfree = zlib_free};
    if (inflateInit2(&d->zlib, window_bits) != Z_OK) return no_memory(d->where);
    d->zlib_open = true;
    d->in_frame = true;
    return TANE_OK;
}

/* Behind a member: another one, zeros (tapes and some tools pad with them), or the end. */
static Status next_member(Decompressor *d) {
    d->in_frame = false;
    size_t end = d->pos;
    while (d->pos < d->n && d->in[d->pos] == 0) d->pos++;
    if (d->pos == d->n) return TANE_OK;
    if (codec_detect(d->in + d->pos, d->n - d->pos) != CODEC_GZIP)
        return FAIL(TANE_EFORMAT, "%s: the gzip data ends at byte %zu, but %zu more bytes follow; remove them",
                    d->where, end, d->n - end);
    if (inflateReset(&d->zlib) != Z_OK) return damaged(d, "zlib cannot go on");
    d->in_frame = true;
    return TANE_OK;
}

static Status read_gzip(Decompressor *d, uint8_t *out, size_t cap, size_t *got) {
    z_stream *z = &d->zlib;
    while (*got < cap && d->in_frame) {
        size_t give = d->n - d->pos < MAX_STEP ? d->n - d->pos : MAX_STEP;
        size_t take = cap - *got < MAX_STEP ? cap - *got : MAX_STEP;
        z->next_in = (Bytef *)(uintptr_t)(d->in + d->pos);
        z->avail_in = (uInt)give;
        z->next_out = out + *got;
        z->avail_out = (uInt)take;
        int rc = inflate(z, Z_NO_FLUSH);
        d->pos += give - z->avail_in;
        *got += take - z->avail_out;
        if (rc == Z_STREAM_END) TRY_RETURN(next_member(d));
        else if (rc == Z_MEM_ERROR) return no_memory(d->where);
        else if (rc == Z_BUF_ERROR && d->pos == d->n) return cut_off(d);
        else if (rc != Z_OK) return damaged(d, z->msg ? z->msg : rc == Z_NEED_DICT ? "it needs a dictionary" : "zlib");
    }
    return TANE_OK;
}

/* ---- zstd ------------------------------------------------------------------------------------------------------- */

static Status open_zstd(ZSTD_DCtx **out, const char *where) {
    *out = ZSTD_createDCtx_advanced((ZSTD_customMem){zstd_alloc, zlib_free, NULL});
    return *out ? TANE_OK : no_memory(where);
}

/* The largest window that this input may ask memory for. */
static size_t window_limit(size_t n) { return n < MAX_WINDOW - SMALL_WINDOW ? n + SMALL_WINDOW : MAX_WINDOW; }

static Status read_zstd(Decompressor *d, uint8_t *out, size_t cap, size_t *got) {
    ZSTD_inBuffer in = {d->in, d->n, d->pos};
    ZSTD_outBuffer to = {out, cap, 0};
    while (to.pos < cap && (d->in_frame || in.pos < in.size)) {
        size_t before_in = in.pos, before_out = to.pos, left = ZSTD_decompressStream(d->zstd, &to, &in);
        if (ZSTD_isError(left)) {
            ZSTD_ErrorCode code = ZSTD_getErrorCode(left);
            if (code == ZSTD_error_memory_allocation) return no_memory(d->where);
            if (code == ZSTD_error_frameParameter_windowTooLarge)
                return FAIL(TANE_EFORMAT,
                            "%s: this zstd data asks for a window of more than %zu MiB; compress it with "
                            "zstd -19 or less, without --long",
                            d->where, window_limit(d->n) >> 20);
            return damaged(d, ZSTD_getErrorName(left));
        }
        d->pos = in.pos;
        d->in_frame = left != 0;
        if (left && in.pos == before_in && to.pos == before_out) return cut_off(d);
    }
    *got = to.pos;
    return TANE_OK;
}

/* ---- streams ---------------------------------------------------------------------------------------------------- */

static Status open_stream(Decompressor **out, Codec codec, const char *where, const void *in, size_t n,
                          int window_bits) {
    Decompressor *d = NULL;
    Status st = TANE_OK;
    *out = NULL;
    TRY(MEM_NEW(&d));
    d->codec = codec;
    d->in = in;
    d->n = n;
    TRY(mem_strdup(&d->where, where));
    if (n == 0 && codec != CODEC_NONE) TRY(cut_off(d));
    if (codec == CODEC_GZIP) TRY(open_zlib(d, window_bits));
    if (codec == CODEC_ZSTD) {
        TRY(open_zstd(&d->zstd, where));
        if (ZSTD_isError(ZSTD_DCtx_setMaxWindowSize(d->zstd, window_limit(n))))
            TRY(FAIL(TANE_EINTERNAL, "zstd refuses a window limit of %zu bytes", window_limit(n)));
    }
    if (codec == CODEC_SNAPPY) TRY(FAIL(TANE_EINTERNAL, "%s: snappy data is no stream", where));
    *out = d;
    return TANE_OK;
out:
    decompressor_close(d);
    return st;
}

Status decompressor_open(Decompressor **out, Codec codec, const char *where, const void *in, size_t n) {
    return open_stream(out, codec, where, in, n, ZLIB_GZIP);
}

Status decompressor_read(Decompressor *d, void *out, size_t cap, size_t *n) {
    *n = 0;
    if (d->codec == CODEC_GZIP) return read_gzip(d, out, cap, n);
    if (d->codec == CODEC_ZSTD) return read_zstd(d, out, cap, n);
    *n = d->n - d->pos < cap ? d->n - d->pos : cap;
    if (*n) memcpy(out, d->in + d->pos, *n);
    d->pos += *n;
    return TANE_OK;
}

size_t decompressor_position(const Decompressor *d) { return d->pos; }

void decompressor_close(Decompressor *d) {
    if (!d) return;
    if (d->zlib_open) inflateEnd(&d->zlib);
    ZSTD_freeDCtx(d->zstd);
    mem_free(d->where);
    mem_free(d);
}

/* ---- blocks ----------------------------------------------------------------------------------------------------- */

static Status wrong_size(Codec codec, const char *where, size_t n, size_t out_n, const char *found) {
    return FAIL(TANE_EFORMAT, "%s: %zu bytes of %s data should become %zu bytes, but %s; the file is damaged", where, n,
                codec == CODEC_NONE ? "uncompressed" : codec_name(codec), out_n, found);
}

static Status gzip_block(const char *where, const void *in, size_t n, void *out, size_t out_n) {
    Decompressor *d = NULL;
    Status st = TANE_OK;
    size_t got, more;
    uint8_t one;
    TRY(open_stream(&d, CODEC_GZIP, where, in, n, ZLIB_GZIP_OR_ZLIB));
    TRY(decompressor_read(d, out, out_n, &got));
    TRY(decompressor_read(d, &one, 1, &more)); /* also checks what stands behind the data */
    if (got != out_n || more) TRY(wrong_size(CODEC_GZIP, where, n, out_n, more ? "are more" : "are fewer"));
out:
    decompressor_close(d);
    return st;
}

static Status zstd_block(const char *where, const void *in, size_t n, void *out, size_t out_n) {
    ZSTD_DCtx *context;
    uint8_t none;
    TRY_RETURN(open_zstd(&context, where));
    size_t got = ZSTD_decompressDCtx(context, out_n ? out : &none, out_n, in, n);
    ZSTD_freeDCtx(context);
    if (got == out_n) return TANE_OK;
    if (!ZSTD_isError(got)) return wrong_size(CODEC_ZSTD, where, n, out_n, "are fewer");
    if (ZSTD_getErrorCode(got) == ZSTD_error_memory_allocation) return no_memory(where);
    if (ZSTD_getErrorCode(got) == ZSTD_error_dstSize_tooSmall)
        return wrong_size(CODEC_ZSTD, where, n, out_n, "are more");
    return FAIL(TANE_EFORMAT, "%s: the zstd data is damaged (%s); copy or load the file again", where,
                ZSTD_getErrorName(got));
}

static Status snappy_block(const char *where, const void *in, size_t n, void *out, size_t out_n) {
    size_t claimed;
    char none;
    if (snappy_uncompressed_length(in, n, &claimed) != SNAPPY_OK)
        return FAIL(TANE_EFORMAT, "%s: the snappy data is damaged (no length in front); copy or load the file again",
                    where);
    if (claimed != out_n) return wrong_size(CODEC_SNAPPY, where, n, out_n, claimed > out_n ? "are more" : "are fewer");
    if (snappy_uncompress(in, n, out_n ? out : &none, &claimed) != SNAPPY_OK)
        return FAIL(TANE_EFORMAT, "%s: the snappy data is damaged; copy or load the file again", where);
    return TANE_OK;
}

Status decompress_block(Codec codec, const char *where, const void *in, size_t n, void *out, size_t out_n) {
    if (codec == CODEC_GZIP) return gzip_block(where, in, n, out, out_n);
    if (codec == CODEC_ZSTD) return zstd_block(where, in, n, out, out_n);
    if (codec == CODEC_SNAPPY) return snappy_block(where, in, n, out, out_n);
    if (n != out_n) return wrong_size(CODEC_NONE, where, n, out_n, n > out_n ? "are more" : "are fewer");
    if (n) memcpy(out, in, n);
    return TANE_OK;
}
