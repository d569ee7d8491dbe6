/* Decoders of Parquet's encodings. Each keeps a cursor into the page and checks every byte against its end. */
#include "format/parquet_encoding.h"

#include <string.h>

static Status ends_early(const char *what) { return FAIL(TANE_EFORMAT, "%s end too early; the file is damaged", what); }

static Status varint(const uint8_t **p, const uint8_t *end, uint64_t *out) {
    *out = 0;
    for (int shift = 0; shift < 64 && *p < end; shift += 7) {
        uint8_t byte = *(*p)++;
        *out |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) return TANE_OK;
    }
    return FAIL(TANE_EFORMAT, "a number in the page's data does not end; the file is damaged");
}

/* `width` bits (at most 64) from bit `bit` of p on, the lowest first; those behind `end` are 0. */
static inline uint64_t load_bits(const uint8_t *p, const uint8_t *end, uint64_t bit, uint32_t width) {
    const uint8_t *from = p + bit / 8;
    uint32_t shift = bit % 8;
    uint64_t x = 0, high = 0;
    size_t room = (size_t)(end - from);
    if (room >= 8) memcpy(&x, from, 8);
    else memcpy(&x, from, room);
    x >>= shift;
    if (shift + width > 64 && room > 8) high = (uint64_t)from[8] << (64 - shift);
    x |= high;
    return width == 64 ? x : x & ((1ull << width) - 1);
}

/* ---- runs ------------------------------------------------------------------------------------------------------- */

void pq_rle_start(PqRle *r, const uint8_t *p, const uint8_t *end, uint32_t width) {
    *r = (PqRle){.p = p, .end = end, .width = width};
}

void pq_bit_packed_start(PqRle *r, const uint8_t *p, const uint8_t *end, uint32_t width, uint64_t values) {
    *r = (PqRle){.p = p, .end = end, .width = width, .run = values, .packed = true, .high_first = true, .run_end = end};
}

static Status next_run(PqRle *r) {
    uint64_t header;
    uint32_t bytes = (r->width + 7) / 8;
    TRY_RETURN(varint(&r->p, r->end, &header));
    r->packed = header & 1;
    header >>= 1;
    if (header > UINT32_MAX) return FAIL(TANE_EFORMAT, "a run of more than 2^32 numbers; the file is damaged");
    size_t room = (size_t)(r->end - r->p);
    if (r->packed) {
        /* A last run may be cut behind the last number that is needed. */
        r->run = header * 8;
        r->bit = 0;
        r->run_end = header * r->width < room ? r->p + header * r->width : r->end;
        return TANE_OK;
    }
    if (bytes > room) return ends_early("the runs of numbers");
    r->run = header;
    r->value = 0;
    memcpy(&r->value, r->p, bytes);
    r->p += bytes;
    return TANE_OK;
}

static void unpack_high_first(const PqRle *r, uint32_t *out, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t x = 0;
        for (uint64_t bit = r->bit + i * r->width, end = bit + r->width; bit < end; bit++)
            x = x << 1 | (r->p[bit / 8] >> (7 - bit % 8) & 1);
        out[i] = x;
    }
}

/* As many of this run as are wanted and there. */
static size_t unpack(PqRle *r, uint32_t *out, size_t cap) {
    uint64_t there = r->width ? ((uint64_t)(r->run_end - r->p) * 8 - r->bit) / r->width : r->run;
    size_t n = r->run < cap ? (size_t)r->run : cap;
    if (there < n) n = (size_t)there;
    if (r->high_first) {
        unpack_high_first(r, out, n);
    } else {
        for (size_t i = 0; i < n; i++) out[i] = (uint32_t)load_bits(r->p, r->run_end, r->bit + i * r->width, r->width);
    }
    r->bit += n * r->width;
    r->run -= n;
    if (r->run == 0 || n < cap) { /* the next run, or the end of the data */
        r->run = 0;
        r->p = r->run_end;
    }
    return n;
}

Status pq_rle_read(PqRle *r, uint32_t *out, size_t cap, size_t *n) {
    *n = 0;
    while (*n < cap) {
        if (r->run == 0) {
            if (r->p == r->end || r->high_first) return TANE_OK;
            TRY_RETURN(next_run(r));
        }
        if (r->packed) {
            *n += unpack(r, out + *n, cap - *n);
            continue;
        }
        size_t take = r->run < cap - *n ? (size_t)r->run : cap - *n;
        for (size_t i = 0; i < take; i++) out[*n + i] = r->value;
        *n += take;
        r->run -= take;
    }
    return TANE_OK;
}

/* ---- deltas ----------------------------------------------------------------------------------------------------- */

static uint64_t unzigzag(uint64_t x) { return x >> 1 ^ (0 - (x & 1)); }

Status pq_delta_start(PqDelta *d, const uint8_t *p, const uint8_t *end) {
    uint64_t block, minis, first;
    *d = (PqDelta){.p = p, .end = end, .first = true};
    TRY_RETURN(varint(&d->p, end, &block));
    TRY_RETURN(varint(&d->p, end, &minis));
    TRY_RETURN(varint(&d->p, end, &d->left));
    TRY_RETURN(varint(&d->p, end, &first));
    if (block == 0 || block % 128 || block > INT32_MAX || minis == 0 || block % minis || block / minis % PQ_MINI)
        return FAIL(TANE_EFORMAT, "blocks of %llu deltas in %llu parts are not possible; the file is damaged",
                    (unsigned long long)block, (unsigned long long)minis);
    if (d->left > INT32_MAX)
        return FAIL(TANE_EFORMAT, "%llu deltas in one page are too many; the file is damaged",
                    (unsigned long long)d->left);
    d->block_minis = (uint32_t)minis;
    d->per_mini = (uint32_t)(block / minis);
    d->last = unzigzag(first);
    return TANE_OK;
}

static Status next_mini(PqDelta *d) {
    if (d->minis_left == 0) {
        uint64_t least;
        TRY_RETURN(varint(&d->p, d->end, &least));
        d->least = unzigzag(least);
        if (d->block_minis > (size_t)(d->end - d->p)) return ends_early("the deltas");
        d->widths = d->p;
        d->p += d->block_minis;
        d->minis_left = d->block_minis;
    }
    d->width = *d->widths++;
    d->minis_left--;
    d->in_mini = d->per_mini;
    if (d->width > 64) return FAIL(TANE_EFORMAT, "deltas of %u bits are not possible; the file is damaged", d->width);
    return TANE_OK;
}

/* The next 32 of a miniblock: 4 bytes a bit of width. Those that are not needed may be missing at the very end. */
static Status fill(PqDelta *d) {
    if (d->in_mini == 0) TRY_RETURN(next_mini(d));
    size_t bytes = (size_t)d->width * (PQ_MINI / 8), room = (size_t)(d->end - d->p);
    d->n = d->left < PQ_MINI ? (uint32_t)d->left : PQ_MINI;
    if (room < ((uint64_t)d->n * d->width + 7) / 8) return ends_early("the deltas");
    for (uint32_t i = 0; i < d->n; i++) {
        d->last += d->least + load_bits(d->p, d->end, (uint64_t)i * d->width, d->width);
        d->buffer[i] = d->last;
    }
    d->p += bytes < room ? bytes : room;
    d->in_mini -= PQ_MINI;
    d->at = 0;
    return TANE_OK;
}

Status pq_delta_next(PqDelta *d, int64_t *out) {
    if (d->left == 0) return ends_early("the deltas");
    if (d->first) {
        d->first = false;
        *out = (int64_t)d->last;
    } else {
        if (d->at == d->n) TRY_RETURN(fill(d));
        *out = (int64_t)d->buffer[d->at++];
    }
    d->left--;
    return TANE_OK;
}

Status pq_delta_end(const PqDelta *start, const uint8_t **end) {
    PqDelta d = *start;
    /* The first number stands in the header. */
    for (uint64_t left = d.left ? d.left - 1 : 0; left > 0;) {
        TRY_RETURN(next_mini(&d));
        size_t bytes = (size_t)d.width * (d.per_mini / 8);
        if (bytes > (size_t)(d.end - d.p)) return ends_early("the deltas");
        d.p += bytes;
        left -= left < d.per_mini ? left : d.per_mini;
    }
    *end = d.p;
    return TANE_OK;
}

/* ---- dictionaries ----------------------------------------------------------------------------------------------- */

static uint32_t load_u32(const uint8_t *p) {
    uint32_t x;
    memcpy(&x, p, 4);
    return x;
}

/* A length and then as many bytes. */
static Status length_prefixed(const uint8_t **p, const uint8_t *end, const uint8_t **bytes, size_t *n) {
    size_t room = (size_t)(end - *p);
    if (room < 4) return ends_early("the page's values");
    *n = load_u32(*p);
    if (*n > room - 4)
        return FAIL(TANE_EFORMAT, "a value of %zu bytes, but the page has %zu left; the file is damaged", *n, room - 4);
    *bytes = *p + 4;
    *p += 4 + *n;
    return TANE_OK;
}

Status pq_dictionary_start(PqDictionary *d, const PqLeaf *leaf, const uint8_t *p, const uint8_t *end) {
    const uint8_t *bytes;
    size_t n;
    d->p = p;
    d->width = leaf->width;
    if (leaf->type == PQ_BOOLEAN) return FAIL(TANE_EFORMAT, "a dictionary of booleans is not possible");
    if (leaf->width && d->n > (size_t)(end - p) / leaf->width) return ends_early("the dictionary's values");
    for (uint32_t i = 0; !leaf->width && i < d->n; i++) {
        d->offsets[i] = (uint32_t)(p - d->p);
        TRY_RETURN(length_prefixed(&p, end, &bytes, &n));
    }
    return TANE_OK;
}

static Status dictionary_value(const PqDictionary *d, uint32_t index, const uint8_t **bytes, size_t *n) {
    if (index >= d->n)
        return FAIL(TANE_EFORMAT, "the index %u into a dictionary of %u values; the file is damaged", index, d->n);
    if (d->width) {
        *bytes = d->p + (size_t)index * d->width;
        *n = d->width;
    } else {
        *bytes = d->p + d->offsets[index] + 4;
        *n = load_u32(*bytes - 4);
    }
    return TANE_OK;
}

/* ---- values ----------------------------------------------------------------------------------------------------- */

static Status unknown_encoding(const PqValues *v, int64_t encoding) {
    return FAIL(TANE_EFORMAT,
                "%s values in encoding %lld, which tane does not know for them; write the file with other "
                "encodings",
                pq_type_name(v->type), (long long)encoding);
}

static Status start_dictionary(PqValues *v) {
    if (!v->dictionary) return FAIL(TANE_EFORMAT, "its values are in a dictionary that is not there");
    uint32_t width = *v->p++;
    if (width > 32) return FAIL(TANE_EFORMAT, "dictionary indices of %u bits are not possible", width);
    pq_rle_start(&v->rle, v->p, v->end, width);
    return TANE_OK;
}

static Status start_rle_booleans(PqValues *v) {
    if (v->end - v->p < 4 || load_u32(v->p) > (size_t)(v->end - v->p) - 4) return ends_early("the page's booleans");
    pq_rle_start(&v->rle, v->p + 4, v->p + 4 + load_u32(v->p), 1);
    return TANE_OK;
}

static Status start_split(PqValues *v) {
    size_t n = (size_t)(v->end - v->p);
    if (n % v->width)
        return FAIL(TANE_EFORMAT, "%zu bytes are not whole values of %u bytes; the file is damaged", n, v->width);
    v->stride = n / v->width;
    return TANE_OK;
}

/* The lengths stand in front of all texts, and before them, where there are any, those of the prefixes. */
static Status start_lengths(PqValues *v) {
    if (!v->length) TRY_RETURN(MEM_NEW(&v->length));
    if (v->encoding == PQ_DELTA_BYTE_ARRAY) {
        if (!v->prefix) TRY_RETURN(MEM_NEW(&v->prefix));
        TRY_RETURN(pq_delta_start(v->prefix, v->p, v->end));
        TRY_RETURN(pq_delta_end(v->prefix, &v->p));
    }
    TRY_RETURN(pq_delta_start(v->length, v->p, v->end));
    return pq_delta_end(v->length, &v->p);
}

static Status start_deltas(PqValues *v) {
    if (!v->length) TRY_RETURN(MEM_NEW(&v->length));
    return pq_delta_start(v->length, v->p, v->end);
}

Status pq_values_start(PqValues *v, const PqLeaf *leaf, int64_t encoding, const uint8_t *p, const uint8_t *end,
                       const PqDictionary *dictionary) {
    PqType type = leaf->type;
    bool whole = type == PQ_INT32 || type == PQ_INT64, bytes = type == PQ_BYTE_ARRAY, boolean = type == PQ_BOOLEAN;
    v->encoding = (PqEncoding)(encoding == PQ_PLAIN_DICTIONARY ? PQ_RLE_DICTIONARY : encoding);
    v->type = type;
    v->width = leaf->width;
    v->p = p;
    v->end = end;
    v->empty = p == end;
    v->dictionary = dictionary;
    v->at = 0;
    v->batch_at = v->batch_n = 0;
    v->text.len = 0;
    if (encoding == PQ_PLAIN || v->empty) return TANE_OK;
    if (v->encoding == PQ_RLE_DICTIONARY && !boolean) return start_dictionary(v);
    if (encoding == PQ_RLE && boolean) return start_rle_booleans(v);
    if (encoding == PQ_BYTE_STREAM_SPLIT && !bytes && !boolean) return start_split(v);
    if (encoding == PQ_DELTA_BINARY_PACKED && whole) return start_deltas(v);
    if (encoding == PQ_DELTA_LENGTH_BYTE_ARRAY && bytes) return start_lengths(v);
    if (encoding == PQ_DELTA_BYTE_ARRAY && (bytes || type == PQ_FIXED)) return start_lengths(v);
    return unknown_encoding(v, encoding);
}

void pq_values_free(PqValues *v) {
    mem_free(v->prefix);
    mem_free(v->length);
    str_free(&v->text);
    *v = (PqValues){0};
}

/* The next of the runs: an index, or a boolean. */
static Status next_in_batch(PqValues *v, uint32_t *out) {
    if (v->batch_at == v->batch_n) {
        v->batch_at = 0;
        TRY_RETURN(pq_rle_read(&v->rle, v->batch, PQ_BATCH, &v->batch_n));
        if (v->batch_n == 0) return ends_early("the page's values");
    }
    *out = v->batch[v->batch_at++];
    return TANE_OK;
}

static Status next_boolean(PqValues *v) {
    uint32_t bit = 0;
    if (v->encoding == PQ_RLE) {
        TRY_RETURN(next_in_batch(v, &bit));
    } else {
        if (v->at / 8 >= (size_t)(v->end - v->p)) return ends_early("the page's booleans");
        bit = v->p[v->at / 8] >> (v->at % 8) & 1;
        v->at++;
    }
    v->number[0] = (uint8_t)bit;
    return TANE_OK;
}

static Status next_plain(PqValues *v, const uint8_t **bytes, size_t *n) {
    if (!v->width) return length_prefixed(&v->p, v->end, bytes, n);
    if (v->width > (size_t)(v->end - v->p)) return ends_early("the page's values");
    *bytes = v->p;
    *n = v->width;
    v->p += v->width;
    return TANE_OK;
}

/* A text: what it shares with the one before, and the rest. */
static Status next_text(PqValues *v, const uint8_t **bytes, size_t *n) {
    int64_t prefix = 0, length;
    if (v->encoding == PQ_DELTA_BYTE_ARRAY) TRY_RETURN(pq_delta_next(v->prefix, &prefix));
    TRY_RETURN(pq_delta_next(v->length, &length));
    if (length < 0 || length > v->end - v->p)
        return FAIL(TANE_EFORMAT, "a value of %lld bytes, but the page has %zu left; the file is damaged",
                    (long long)length, (size_t)(v->end - v->p));
    *bytes = v->p;
    *n = (size_t)length;
    v->p += length;
    if (v->encoding == PQ_DELTA_LENGTH_BYTE_ARRAY) return TANE_OK;
    if (prefix < 0 || (uint64_t)prefix > v->text.len)
        return FAIL(TANE_EFORMAT,
                    "a value that begins with %lld bytes of the one before, which has %zu; the file is "
                    "damaged",
                    (long long)prefix, v->text.len);
    v->text.len = (size_t)prefix;
    TRY_RETURN(str_add(&v->text, (const char *)*bytes, *n));
    *bytes = (const uint8_t *)v->text.text;
    *n = v->text.len;
    if (v->width && *n != v->width)
        return FAIL(TANE_EFORMAT, "a value of %zu bytes where all must have %u; the file is damaged", *n, v->width);
    return TANE_OK;
}

/* Byte i of all values stands before byte i + 1 of any. */
static Status next_split(PqValues *v, const uint8_t **bytes, size_t *n) {
    if (v->at == v->stride) return ends_early("the page's values");
    const uint8_t *from = v->p + v->at++;
    *n = v->width;
    if (v->width <= sizeof v->number) {
        for (uint32_t i = 0; i < v->width; i++) v->number[i] = from[i * v->stride];
        return TANE_OK;
    }
    v->text.len = 0;
    for (uint32_t i = 0; i < v->width; i++) TRY_RETURN(str_add(&v->text, (const char *)&from[i * v->stride], 1));
    *bytes = (const uint8_t *)v->text.text;
    return TANE_OK;
}

Status pq_values_next(PqValues *v, const uint8_t **bytes, size_t *n) {
    uint32_t index = 0;
    int64_t number;
    if (v->empty) return ends_early("the page's values");
    *bytes = v->number;
    *n = v->width;
    if (v->type == PQ_BOOLEAN) return next_boolean(v);
    if (v->encoding == PQ_PLAIN) return next_plain(v, bytes, n);
    if (v->encoding == PQ_RLE_DICTIONARY) {
        TRY_RETURN(next_in_batch(v, &index));
        return dictionary_value(v->dictionary, index, bytes, n);
    }
    if (v->encoding == PQ_BYTE_STREAM_SPLIT) return next_split(v, bytes, n);
    if (v->encoding != PQ_DELTA_BINARY_PACKED) return next_text(v, bytes, n);
    TRY_RETURN(pq_delta_next(v->length, &number));
    memcpy(v->number, &number, 8);
    return TANE_OK;
}
