/* Thrift's compact protocol. Integers are varints of 7 bits a byte, signed ones zigzag; field numbers are given as the
 * difference to the one before where that fits in 4 bits. */
#include "format/parquet_thrift.h"

#include <stdarg.h>
#include <stdio.h>

Status thrift_fail(const Thrift *t, const char *fmt, ...) {
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return FAIL(TANE_EFORMAT, "%s: byte %zu: %s", t->where, (size_t)(t->p - t->file), text);
}

static Status ends(const Thrift *t) { return thrift_fail(t, "the metadata ends in the middle; the file is damaged"); }

static const char *type_name(ThriftType type) {
    static const char *const names[] = {"nothing",    "true",       "false",       "a byte", "an integer",
                                        "an integer", "an integer", "a float",     "bytes",  "a list",
                                        "a set",      "a map",      "a structure", "a UUID"};
    return type <= THRIFT_UUID ? names[type] : "a type that does not exist";
}

static Status wrong_type(const Thrift *t, const char *expected, ThriftType found) {
    return thrift_fail(t, "the metadata has %s where %s must be; the file is damaged", type_name(found), expected);
}

static Status varint(Thrift *t, uint64_t *out) {
    *out = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (t->p == t->end) return ends(t);
        uint8_t byte = *t->p++;
        if (shift == 63 && byte > 1) break;
        *out |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) return TANE_OK;
    }
    return thrift_fail(t, "a number of the metadata does not fit in 64 bits; the file is damaged");
}

static int64_t unzigzag(uint64_t x) { return (int64_t)(x >> 1 ^ (0 - (x & 1))); }

Status thrift_field(Thrift *t, ThriftField *field) {
    if (t->p == t->end) return ends(t);
    uint8_t byte = *t->p++;
    field->type = (ThriftType)(byte & 15);
    if (byte == 0) return TANE_OK;
    if (field->type == THRIFT_STOP || field->type > THRIFT_UUID) return wrong_type(t, "a field", field->type);
    int64_t id = field->id + (byte >> 4);
    if (!(byte >> 4)) {
        uint64_t raw;
        TRY_RETURN(varint(t, &raw));
        id = unzigzag(raw);
    }
    if (id < INT16_MIN || id > INT16_MAX) return thrift_fail(t, "the metadata's field number is out of range");
    field->id = (int16_t)id;
    return TANE_OK;
}

Status thrift_int(Thrift *t, ThriftType type, int64_t lo, int64_t hi, int64_t *out) {
    uint64_t raw = 0;
    if (type == THRIFT_BYTE) {
        if (t->p == t->end) return ends(t);
        *out = (int8_t)*t->p++;
    } else {
        if (type != THRIFT_I16 && type != THRIFT_I32 && type != THRIFT_I64) return wrong_type(t, "an integer", type);
        TRY_RETURN(varint(t, &raw));
        *out = unzigzag(raw);
    }
    if (*out >= lo && *out <= hi) return TANE_OK;
    return thrift_fail(t, "the metadata has the number %lld; it must be from %lld to %lld", (long long)*out,
                       (long long)lo, (long long)hi);
}

Status thrift_bool(Thrift *t, ThriftType type, bool *out) {
    if (type != THRIFT_TRUE && type != THRIFT_FALSE) return wrong_type(t, "true or false", type);
    *out = type == THRIFT_TRUE;
    return TANE_OK;
}

Status thrift_binary(Thrift *t, ThriftType type, const uint8_t **bytes, size_t *n) {
    uint64_t length;
    if (type != THRIFT_BINARY) return wrong_type(t, "bytes", type);
    TRY_RETURN(varint(t, &length));
    if (length > (uint64_t)(t->end - t->p))
        return thrift_fail(t, "a text of %llu bytes, but the metadata has %zu left; the file is damaged",
                           (unsigned long long)length, (size_t)(t->end - t->p));
    *bytes = t->p;
    *n = (size_t)length;
    t->p += length;
    return TANE_OK;
}

static Status list_header(Thrift *t, ThriftType *element, size_t *n) {
    if (t->p == t->end) return ends(t);
    uint8_t byte = *t->p++;
    uint64_t count = byte >> 4;
    *element = (ThriftType)(byte & 15);
    if (count == 15) TRY_RETURN(varint(t, &count));
    if (count > (uint64_t)(t->end - t->p)) /* each takes a byte at least */
        return thrift_fail(t, "a list of %llu elements, but the metadata has %zu bytes left; the file is damaged",
                           (unsigned long long)count, (size_t)(t->end - t->p));
    *n = (size_t)count;
    return TANE_OK;
}

Status thrift_list(Thrift *t, ThriftType type, ThriftType element, size_t *n) {
    ThriftType found = THRIFT_STOP;
    if (type != THRIFT_LIST) return wrong_type(t, "a list", type);
    TRY_RETURN(list_header(t, &found, n));
    return found == element || *n == 0 ? TANE_OK : wrong_type(t, type_name(element), found);
}

Status thrift_struct(const Thrift *t, ThriftType type) {
    return type == THRIFT_STRUCT ? TANE_OK : wrong_type(t, "a structure", type);
}

static Status skip_bytes(Thrift *t, size_t n) {
    if (n > (size_t)(t->end - t->p)) return ends(t);
    t->p += n;
    return TANE_OK;
}

static Status skip(Thrift *t, ThriftType type, bool element, int depth);

static Status skip_list(Thrift *t, int depth) {
    ThriftType element = THRIFT_STOP;
    size_t n = 0;
    TRY_RETURN(list_header(t, &element, &n));
    for (size_t i = 0; i < n; i++) TRY_RETURN(skip(t, element, true, depth));
    return TANE_OK;
}

static Status skip_map(Thrift *t, int depth) {
    uint64_t n = 0;
    TRY_RETURN(varint(t, &n));
    if (n == 0) return TANE_OK;
    if (t->p == t->end) return ends(t);
    uint8_t types = *t->p++;
    if (n > (uint64_t)(t->end - t->p)) return ends(t);
    for (uint64_t i = 0; i < n; i++) {
        TRY_RETURN(skip(t, (ThriftType)(types >> 4), true, depth));
        TRY_RETURN(skip(t, (ThriftType)(types & 15), true, depth));
    }
    return TANE_OK;
}

static Status skip_struct(Thrift *t, int depth) {
    ThriftField f = {0};
    for (;;) {
        TRY_RETURN(thrift_field(t, &f));
        if (f.type == THRIFT_STOP) return TANE_OK;
        TRY_RETURN(skip(t, f.type, false, depth));
    }
}

/* A field that is true or false has no bytes, an element of a list has one. */
static Status skip(Thrift *t, ThriftType type, bool element, int depth) {
    uint64_t ignored;
    const uint8_t *bytes = NULL;
    size_t n = 0;
    if (depth == THRIFT_MAX_DEPTH)
        return thrift_fail(t, "the metadata is nested deeper than %d levels", THRIFT_MAX_DEPTH);
    switch (type) {
    case THRIFT_TRUE:
    case THRIFT_FALSE: return skip_bytes(t, element);
    case THRIFT_BYTE: return skip_bytes(t, 1);
    case THRIFT_I16:
    case THRIFT_I32:
    case THRIFT_I64: return varint(t, &ignored);
    case THRIFT_DOUBLE: return skip_bytes(t, 8);
    case THRIFT_BINARY: return thrift_binary(t, type, &bytes, &n);
    case THRIFT_LIST:
    case THRIFT_SET: return skip_list(t, depth + 1);
    case THRIFT_MAP: return skip_map(t, depth + 1);
    case THRIFT_STRUCT: return skip_struct(t, depth + 1);
    case THRIFT_UUID: return skip_bytes(t, 16);
    case THRIFT_STOP: break;
    }
    return wrong_type(t, "a field", type);
}

Status thrift_skip(Thrift *t, ThriftType type) { return skip(t, type, false, 0); }
