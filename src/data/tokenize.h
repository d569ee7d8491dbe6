/* Files of rows to shards of tokens, in parallel, a chunk of rows at a time: the result does not depend on the number
 * of threads, and the error reported is that of the first bad row. */
#ifndef DATA_TOKENIZE_H
#define DATA_TOKENIZE_H

#include "data/row_format.h"
#include "data/shard.h"

typedef struct TokenizeOptions {
    RowFormatOptions format;
    const char *text_separator; /* see RowsOptions */
    int64_t shard_tokens;       /* a shard is closed behind the row that makes it so long; 0: one shard a file */
    int64_t skip;               /* rows at the beginning that are passed over: they are in shards already */
    bool in_document;           /* and the last of them goes on behind it */
} TokenizeOptions;

typedef struct TokenizeCounts {
    int64_t rows, documents, tokens, unknown; /* unknown: tokens that stand for text the tokenizer does not know */
    uint64_t bytes;                           /* of text */
} TokenizeCounts;

/* Called for each shard when it is full and at the end; it takes the shard over (shard_release), also when it fails.
 * With shard_tokens its numbers are the tokenizer's, good until it returns. counts: so far. in_document: the last
 * document goes on in the next shard. */
typedef struct TokenizeSink {
    Status (*shard)(void *user, TokenShard *shard, const TokenizeCounts *counts, bool in_document);
    /* Now and then, how much of the file is done (0 to 1); true stops with TANE_ECANCELED. May be NULL. */
    bool (*progress)(void *user, double done, const TokenizeCounts *counts);
    void *user;
} TokenizeSink;

Status tokenize_file(const char *path, const TokenizeOptions *options, const TokenizeSink *sink,
                     TokenizeCounts *counts);

#endif
