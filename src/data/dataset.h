/* Training rows: files -> tokens + loss mask in memory; batches in a seeded order with an O(1) cursor. */
#ifndef DATA_DATASET_H
#define DATA_DATASET_H

#include "base/option.h"
#include "text/tokenizer.h"

typedef enum Truncation { TRUNCATION_ERROR, TRUNCATION_DROP, TRUNCATION_CUT } Truncation;

typedef struct DatasetOptions {
    const Tokenizer *tokenizer;
    int64_t max_length;       /* tokens of a row, BOS and EOS included */
    bool completion_only;     /* loss on the completion and EOS only, or on everything behind the first token */
    Truncation truncation;    /* what a longer row means */
    bool add_bos, add_eos;    /* add_bos only when the tokenizer has one */
} DatasetOptions;

/* One file of JSONL: {"prompt": text, "completion": text} or {"text": text}; other keys are ignored. */
typedef struct DataSource {
    const char *path;
    double fraction; /* of its rows, chosen by seed; 1 = all. Replay while fine-tuning uses less. */
    double repeat;   /* how often each chosen row stands in an epoch, >= 1 */
} DataSource;

typedef struct Dataset Dataset;

/* Errors name file, line, value and fix. A row without a trained token is an error; so is an empty file. */
Status dataset_load(Dataset **out, const DataSource *sources, size_t n, const DatasetOptions *options, uint64_t seed);
void dataset_free(Dataset *set);

int64_t dataset_rows(const Dataset *set);        /* of an epoch, repeats counted */
int64_t dataset_longest(const Dataset *set);     /* tokens of the longest row */
int64_t dataset_tokens(const Dataset *set);      /* of an epoch */
/* Of the chosen rows, repeats not counted: left out by truncation=drop, shortened by truncation=cut; and tokens that
 * stand for text the tokenizer does not know. */
int64_t dataset_dropped(const Dataset *set);
int64_t dataset_cut(const Dataset *set);
int64_t dataset_unknown(const Dataset *set);

typedef struct DatasetRow {
    const int32_t *tokens; /* (n) */
    const uint8_t *mask;   /* (n): 1 where this token is a target of the loss; mask[0] is always 0 */
    int64_t n;
    const char *source;    /* path, for messages */
    int64_t line;
} DatasetRow;
void dataset_row(const Dataset *set, int64_t index, DatasetRow *row);

/* The row at `position` of epoch `epoch`: a permutation by seed, O(1), the same at any number of ranks. */
int64_t dataset_at(const Dataset *set, uint64_t seed, int64_t epoch, int64_t position);

typedef struct Batch {
    int64_t rows, width;
    int32_t *tokens;   /* (rows, width), padded with pad_id on the right */
    int32_t *labels;   /* (rows, width): labels[t] = tokens[t + 1] where that is trained on, else -100 */
    int64_t *indices;  /* (rows): dataset index of each row, -1 for an empty one */
    int64_t targets;   /* labels that are not -100 */
    int64_t real;      /* tokens that are not padding */
    bool view;         /* tokens and labels belong to somebody else */
} Batch;
Status batch_new(Batch *batch, int64_t rows, int64_t width);
/* The same over memory of (rows, width) that the caller owns. */
Status batch_view(Batch *batch, int64_t rows, int64_t width, int32_t *tokens, int32_t *labels);
void batch_free(Batch *batch);
/* Fills `rows` rows with positions first .. first + rows - 1 of the epoch; beyond the epoch's end rows stay empty.
 * The width must be at least dataset_longest - 1 (a row's last token is a target, never an input). */
void batch_fill(Batch *batch, const Dataset *set, uint64_t seed, int64_t epoch, int64_t first, int32_t pad_id);
/* In file order instead, for evaluation. */
void batch_fill_ordered(Batch *batch, const Dataset *set, int64_t first, int32_t pad_id);

#endif
