/* `tane tokenizer train --model-type byte_bpe`: files to texts, progress, and the folder that comes out. */
#ifndef CLI_TRAIN_BPE_H
#define CLI_TRAIN_BPE_H

#include "text/bpe_train.h"

typedef struct TrainBpe {
    const char *const *files; /* (n_files) .jsonl, or any other for plain text */
    size_t n_files;
    bool lines;              /* each line of a plain text is a text of its own */
    const char *out;         /* folder */
    BpeTrainOptions options; /* progress and user are set here */
} TrainBpe;

Status train_bpe(const TrainBpe *job);

#endif
