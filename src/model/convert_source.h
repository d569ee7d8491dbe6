/* What convert.c hands to those that write: a model whose weights are still in their files. */
#ifndef MODEL_CONVERT_SOURCE_H
#define MODEL_CONVERT_SOURCE_H

#include "model/convert.h"

typedef struct ConvertSource {
    const char *path;
    GgufFile *gguf; /* NULL: a folder */
    ModelConfig config;
    Model *model; /* declared: it says which parameters there are */
    Weights *weights;
    Tokenizer *tokenizer;      /* NULL: none */
    const char *chat_template; /* or NULL */
    char *jinja;               /* where chat_template is from a file of its own */
    GgmlType type;             /* that most of its numbers in matrices have */
    const ConvertOptions *options;
    uint64_t done, total; /* bytes, for progress */
} ConvertSource;

enum { CONVERT_PIECE = 1 << 20 }; /* numbers at a time; rows are never cut */

/* Takes up `bytes` into what is done. */
void convert_tell(ConvertSource *s, uint64_t bytes);
/* TANE_ENOSPC where the disk that will hold `path` has not so many bytes free. */
Status convert_check_space(const char *path, uint64_t bytes);

/* Rows [row, row + n) of a part of a parameter, n x columns. */
typedef struct ConvertPart {
    const Param *param;
    const ParamPart *part;
    Weight weight;
    int64_t rows, columns;
} ConvertPart;
Status convert_part(ConvertSource *s, const Param *p, const ParamPart *part, ConvertPart *out);

/* type: NULL keeps every tensor of a GGUF file as it is. */
Status convert_to_gguf(ConvertSource *s, const char *out, const GgmlTypeInfo *type);
/* Into an existing, empty folder. */
Status convert_to_folder(ConvertSource *s, const char *folder, DType type);

#endif
