/* Thrift's compact protocol, as far as Parquet's metadata uses it: a cursor over bytes that may say anything.
 *
 * A structure is fields, each a type and a number, in any order; unknown ones are skipped:
 *
 *     ThriftField f = {0};
 *     for (;;) {
 *         TRY_RETURN(thrift_field(t, &f));
 *         if (f.type == THRIFT_STOP) break;
 *         if (f.id == 1) TRY_RETURN(thrift_int(t, f.type, 0, INT64_MAX, &rows));
 *         else TRY_RETURN(thrift_skip(t, f.type));
 *     }
 *
 * Every error is TANE_EFORMAT "<where>: byte N: ...", N counted from the file's beginning.
 */
#ifndef FORMAT_PARQUET_THRIFT_H
#define FORMAT_PARQUET_THRIFT_H

#include "base/status.h"

typedef struct Thrift {
    const char *where;
    const uint8_t *file; /* where byte 0 is */
    const uint8_t *p, *end;
} Thrift;

/* The numbers of the format. */
typedef enum ThriftType {
    THRIFT_STOP,
    THRIFT_TRUE,
    THRIFT_FALSE,
    THRIFT_BYTE,
    THRIFT_I16,
    THRIFT_I32,
    THRIFT_I64,
    THRIFT_DOUBLE,
    THRIFT_BINARY,
    THRIFT_LIST,
    THRIFT_SET,
    THRIFT_MAP,
    THRIFT_STRUCT,
    THRIFT_UUID
} ThriftType;

typedef struct ThriftField {
    int16_t id;
    ThriftType type;
} ThriftField;

enum { THRIFT_MAX_DEPTH = 32 };

Status thrift_field(Thrift *t, ThriftField *field); /* the next one, or THRIFT_STOP; *field is the one before */
Status thrift_int(Thrift *t, ThriftType type, int64_t lo, int64_t hi, int64_t *out);
Status thrift_bool(Thrift *t, ThriftType type, bool *out);
Status thrift_binary(Thrift *t, ThriftType type, const uint8_t **bytes, size_t *n); /* in the file */
/* A list whose elements are of type `element`; *n is at most what is left of the bytes. */
Status thrift_list(Thrift *t, ThriftType type, ThriftType element, size_t *n);
Status thrift_struct(const Thrift *t, ThriftType type); /* that a structure follows */
Status thrift_skip(Thrift *t, ThriftType type);
/* TANE_EFORMAT at the cursor. */
Status thrift_fail(const Thrift *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
