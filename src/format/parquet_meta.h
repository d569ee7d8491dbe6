/* The metadata of a Parquet file: the footer (schema, row groups, where each column's bytes lie) and the headers in
 * front of pages.
 *
 *     "PAR1" | column chunks: pages, each header then bytes | metadata | u32 its length | "PAR1"
 *
 * A row group holds some rows; for each leaf it has a chunk. What a chunk's metadata says is read when it is needed, so
 * that a footer of any size takes only 16 bytes a row group.
 */
#ifndef FORMAT_PARQUET_META_H
#define FORMAT_PARQUET_META_H

#include "base/file.h"
#include "format/parquet_schema.h"

typedef struct PqGroup {
    size_t offset; /* of its metadata in the file */
    int64_t first; /* row */
} PqGroup;

typedef struct ParquetFile {
    char *path;
    FileMap map;
    Arena arena;
    PqSchema schema;
    size_t footer;   /* where the metadata begins */
    PqGroup *groups; /* (n_groups + 1), the last with only `first` */
    size_t n_groups;
    int64_t rows;
    const char **names; /* of the top-level columns */
} ParquetFile;

/* The numbers of the format. */
typedef enum PqCodec {
    PQ_UNCOMPRESSED,
    PQ_SNAPPY,
    PQ_GZIP,
    PQ_LZO,
    PQ_BROTLI,
    PQ_LZ4,
    PQ_ZSTD,
    PQ_LZ4_RAW,
    PQ_CODECS
} PqCodec;

typedef struct PqChunk {
    PqCodec codec;
    int64_t values;    /* triples, also those of nulls */
    size_t begin, end; /* in the file; checked */
    bool encrypted, external;
} PqChunk;

/* Checks map, footer and all that it says, and fills in all but path and map. */
Status pq_meta_read(ParquetFile *file);
/* The chunks of a row group, one a leaf. */
Status pq_group_chunks(const ParquetFile *file, size_t group, PqChunk *chunks);

typedef enum PqPageKind { PQ_PAGE_DATA, PQ_PAGE_INDEX, PQ_PAGE_DICTIONARY, PQ_PAGE_DATA_V2, PQ_PAGE_KINDS } PqPageKind;

typedef struct PqPage {
    PqPageKind kind;
    uint32_t stored, raw; /* bytes in the file, and decompressed */
    bool has_crc, compressed;
    uint32_t crc;
    uint32_t values; /* triples; DICTIONARY: entries */
    int64_t encoding, def_encoding, rep_encoding;
    uint32_t def_bytes, rep_bytes; /* DATA_V2 */
} PqPage;

/* A page's header; the cursor then stands at its bytes. */
Status pq_page_read(PqPage *page, Thrift *t);

#endif
