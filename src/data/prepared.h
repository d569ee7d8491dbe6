/* Tokens that were prepared before: a folder of tane's (index.json and shards, made by `tane data prepare`), or a file
 * of llm.c or nanoGPT. */
#ifndef DATA_PREPARED_H
#define DATA_PREPARED_H

#include "data/tokenize.h"

enum { PREPARED_VERSION = 1 };

/* Does this path hold tokens, not rows: a folder with an index.json of tane's, or a .bin or .tok file? */
Status prepared_is(const char *path, bool *yes);

/* Maps the shards, checks each against its checksum (in parallel) and hands them to `take` in order, with the path of
 * the file that they came from and a text that changes with what is in them. A damaged shard is named, and so is one
 * whose ids the tokenizer cannot have given. */
Status prepared_open(const char *path, const Tokenizer *tokenizer,
                     Status (*take)(void *user, TokenShard *shard, const char *source, const char *hash), void *user);

typedef struct PrepareOptions {
    TokenizeOptions tokenize; /* shard_tokens 0: 2^25 */
    const char *tokenizer;    /* where it is from, for people */
    const char *settings; /* everything else that the tokens depend on, as one text: compared when tokens are reused */
    bool (*progress)(void *user, const char *file, size_t i, size_t n, double done, const TokenizeCounts *counts);
    void *user;
} PrepareOptions;

typedef struct PrepareReport {
    TokenizeCounts counts;
    size_t files, shards;
    bool reused, resumed;
} PrepareReport;

/* Files of rows to a folder of shards. What is there already, made from the same files with the same options, is
 * reused; a preparation that was interrupted goes on behind its last whole shard. Other tokens in the folder are an
 * error. At no moment does the folder hold something that looks whole and is not. */
Status prepare(const char *folder, const char *const *files, size_t n, const PrepareOptions *options,
               PrepareReport *report);

typedef struct ExportOptions {
    ShardFormat format; /* SHARD_LLMC: FOLDER/train_000001.bin ..., val_000000.bin; SHARD_NANOGPT: train.bin, val.bin */
    double holdout;     /* this share of the tokens, the last ones, goes to val; 0: none */
    int64_t shard_tokens; /* of llm.c's files; 0: 10^8 */
} ExportOptions;

typedef struct ExportReport {
    int64_t train, val; /* tokens */
    size_t files;
} ExportReport;

/* Prepared tokens (a folder) as files of llm.c or nanoGPT in `out`. Each appears whole or not at all. */
Status prepared_export(const char *folder, const Tokenizer *tokenizer, const char *out, const ExportOptions *options,
                       ExportReport *report);

/* A hash of what a tokenizer does: its vocabulary and what it makes of some text, whatever files it came from. */
Status prepared_tokenizer_hash(const Tokenizer *tokenizer, char hex[17]);

#endif
