/* A data set: documents (rows) of tokens with their loss mask, from one or several sources, and what an epoch consists
 * of.
 *
 * A source is a file, a pattern or a folder of rows, which are tokenized into memory; or tokens that were prepared
 * before
 * (`tane data prepare`, llm.c, nanoGPT), which are mapped. Both are shards: see shard.h.
 */
#ifndef DATA_DATASET_H
#define DATA_DATASET_H

#include "data/row_format.h"
#include "data/shard.h"

typedef enum Truncation { TRUNCATION_ERROR, TRUNCATION_DROP, TRUNCATION_CUT } Truncation;

typedef struct DatasetOptions {
    RowFormatOptions format;    /* of files of rows; its tokenizer also tells what prepared tokens must fit */
    const char *text_separator; /* see RowsOptions */
    int64_t max_length;         /* tokens of a row, BOS and EOS included; 0: any number */
    Truncation truncation;      /* what a longer row means */
} DatasetOptions;

/* path: a file, pattern or folder. */
typedef struct DataSource {
    const char *path;
    double fraction; /* of its rows, chosen by seed; 1 = all. Replay while fine-tuning uses less. */
    double repeat;   /* how often each chosen row stands in an epoch, >= 1 */
} DataSource;

typedef struct Dataset Dataset;

/* Errors name file, line, value and fix. A row without a trained token is an error; so is an empty file. */
Status dataset_load(Dataset **out, const DataSource *sources, size_t n, const DatasetOptions *options, uint64_t seed);
void dataset_free(Dataset *set);

int64_t dataset_rows(const Dataset *set);    /* of an epoch, repeats counted */
int64_t dataset_longest(const Dataset *set); /* tokens of the longest row */
int64_t dataset_tokens(const Dataset *set);  /* of an epoch */
/* Of the chosen rows, repeats not counted: left out by truncation=drop, shortened by truncation=cut; and tokens that
 * stand for text the tokenizer does not know. */
int64_t dataset_dropped(const Dataset *set);
int64_t dataset_cut(const Dataset *set);
int64_t dataset_unknown(const Dataset *set);
/* "prepared" sources keep the options they were made with. */
bool dataset_has_prepared(const Dataset *set);
/* 16 hex digits that change with the tokens, their masks, order and sources. */
void dataset_fingerprint(const Dataset *set, char out[17]);

typedef struct DatasetRow {
    const TokenShard *shard;
    int64_t begin, n;   /* its tokens in the shard */
    int64_t full;       /* so many it would have without max_length */
    const char *source; /* path, for messages */
    int64_t line;
} DatasetRow;
void dataset_row(const Dataset *set, int64_t index, DatasetRow *row);
static inline int32_t row_token(const DatasetRow *row, int64_t t) { return shard_token(row->shard, row->begin + t); }
/* Is token t a target of the loss? Token 0 never is. */
static inline bool row_trained(const DatasetRow *row, int64_t t) {
    return t > 0 && shard_trained(row->shard, row->begin, row->begin + t);
}

/* The row at `position` of epoch `epoch`: a permutation by seed, O(1), the same at any number of ranks. */
int64_t dataset_at(const Dataset *set, uint64_t seed, int64_t epoch, int64_t position);

/* The same tokens as one stream a source, where documents follow each other without a gap. Rows chosen, repeated or
 * dropped play no part, but weights do: stream s is to be read weight (fraction x repeat) times as often as its length
 * says. */
size_t dataset_streams(const Dataset *set);
int64_t dataset_stream_tokens(const Dataset *set, size_t stream);
double dataset_stream_weight(const Dataset *set, size_t stream);
/* n tokens from `at` on; trained[i] is 1 where tokens[i] is a target (documents' first tokens are). */
void dataset_stream_copy(const Dataset *set, size_t stream, int64_t at, int64_t n, int32_t *tokens, uint8_t *trained);
/* The document at this place; returns how many of its tokens stand before. */
int64_t dataset_stream_row(const Dataset *set, size_t stream, int64_t at, DatasetRow *row);

#endif
