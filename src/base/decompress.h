/* Decompression: gzip, zstd and snappy behind one interface, with bounded output. */
#ifndef BASE_DECOMPRESS_H
#define BASE_DECOMPRESS_H

#include <stdbool.h>

#include "base/status.h"

typedef enum Codec { CODEC_NONE, CODEC_GZIP, CODEC_ZSTD, CODEC_SNAPPY, CODEC_COUNT } Codec;

const char *codec_name(Codec codec); /* "gzip" */
/* By its first bytes: gzip, zstd or none. */
Codec codec_detect(const void *data, size_t n);

/* A whole block that is known to have out_n bytes: anything else is TANE_EFORMAT, beginning with `where`. */
Status decompress_block(Codec codec, const char *where, const void *in, size_t n, void *out, size_t out_n);

/* A stream: gzip (with several members, as `cat a.gz b.gz` makes) or zstd (several frames). */
typedef struct Decompressor Decompressor;
/* in (n), usually a mapped file, must outlive it. */
Status decompressor_open(Decompressor **out, Codec codec, const char *where, const void *in, size_t n);
/* Up to cap more bytes; *n is 0 only at the end. Damaged or cut-off input is TANE_EFORMAT with the place. */
Status decompressor_read(Decompressor *d, void *out, size_t cap, size_t *n);
/* Bytes of the input read so far. */
size_t decompressor_position(const Decompressor *d);
void decompressor_close(Decompressor *d); /* NULL is fine */

#endif
