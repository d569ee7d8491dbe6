/* A shard: tokenized documents as one block of numbers, mapped from a file or built in memory.
 *
 * A file of tane's own (ending .tok, all numbers little-endian): 64 bytes of head, then tokens (uint16, or uint32 for a
 * vocabulary above 65,536), bounds (documents + 1 uint64: document d is tokens [bounds[d], bounds[d + 1])), lines
 * (uint64 a document: where it stands in its source) and the loss mask (a bit a token, from bit 0 of 64-bit words),
 * each beginning at a multiple of 64. Without a mask every token is trained on but the first of a document, which
 * nothing predicts. (In a window the document before predicts it; so its bit is that of the token behind it, and with a
 * mask or without one the same tokens are trained on, whichever documents share a shard.) Also read and written: the
 * shards of llm.c and nanoGPT's train.bin, which hold tokens only.
 */
#ifndef DATA_SHARD_H
#define DATA_SHARD_H

#include "base/file.h"

typedef enum ShardFormat { SHARD_TANE, SHARD_LLMC, SHARD_NANOGPT } ShardFormat;

typedef struct TokenShard {
    int64_t tokens, documents;
    const void *ids; /* (tokens) uint16, or uint32 when wide */
    bool wide;
    bool continues;                        /* the first document is the rest of the shard's before */
    const uint64_t *bounds, *lines, *mask; /* (documents + 1), (documents), ((tokens + 63) / 64) or NULL */
    FileMap map;
    void *owned[4];
} TokenShard;

/* Maps a file and checks that its parts fit together; what the numbers are is not looked at. */
Status shard_map(TokenShard *out, const char *path, ShardFormat format);
/* llm.c's and tane's have marks; any other file is nanoGPT's. */
Status shard_detect(const char *path, ShardFormat *format);
void shard_release(TokenShard *shard);
/* Writes the file (fsynced); the hash is of the whole of it. */
Status shard_write(const TokenShard *shard, const char *path, char sha256_hex[65]);

static inline int32_t shard_token(const TokenShard *s, int64_t i) {
    return s->wide ? (int32_t)((const uint32_t *)s->ids)[i] : (int32_t)((const uint16_t *)s->ids)[i];
}
/* Is token i of a document that begins at `begin` trained on? */
static inline bool shard_trained(const TokenShard *s, int64_t begin, int64_t i) {
    return s->mask ? s->mask[i / 64] >> (i % 64) & 1 : i > begin;
}
/* out[0..n) = tokens from `at`. */
void shard_copy(const TokenShard *s, int64_t at, int64_t n, int32_t *out);

/* Builds a shard in memory, document by document. */
typedef struct ShardBuilder {
    bool wide;
    bool masked; /* something but first tokens is not trained on */
    bool continues, open;
    void *ids;
    uint64_t *bounds, *lines, *mask;
    size_t tokens, documents, cap_tokens, cap_documents;
} ShardBuilder;
void shard_builder_init(ShardBuilder *b, int64_t vocab_size);
/* A document's n tokens, or its next n when the one before was added with goes_on; mask is 1 where trained. */
Status shard_builder_add(ShardBuilder *b, const int32_t *ids, const uint8_t *mask, size_t n, int64_t line,
                         bool goes_on);
/* What was built so far, in no more memory than it needs; the builder is empty again, and goes on with a document that
 * is open. */
Status shard_builder_take(ShardBuilder *b, TokenShard *out);
/* The same without moving anything: *out is good until shard_builder_clear, which empties the builder and keeps its
 * memory. */
void shard_builder_view(const ShardBuilder *b, TokenShard *out);
void shard_builder_clear(ShardBuilder *b);
void shard_builder_free(ShardBuilder *b);

/* Tokens alone, for the formats without documents: begin, add, end. total: llm.c's head needs it. */
Status shard_bare_begin(FileWriter **out, const char *path, ShardFormat format, int64_t total, bool wide);
Status shard_bare_add(FileWriter *w, const TokenShard *shard, int64_t at, int64_t n, bool wide);

#endif
