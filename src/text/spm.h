/* The one door to libsentencepiece: open, encode, decode, train. C on this side, C++ behind it.
 *
 * Nothing thrown there passes through, and nothing is printed. The library aborts on some input, so callers check
 * first: spm_open only gets bytes that spm_proto_write wrote, spm_train only text that tokenizer_train looked through.
 */
#ifndef TEXT_SPM_H
#define TEXT_SPM_H

#include "text/tokenizer.h"

typedef struct Spm Spm;

Status spm_open(Spm **out, const char *model, size_t n); /* a serialized ModelProto; the bytes are copied */
void spm_close(Spm *spm);                                /* NULL is fine */

/* Appends. ends, when it is not NULL, gets for each new id the byte of the text behind it (mem_free). */
Status spm_encode(const Spm *spm, const char *text, size_t n, TokenList *out, uint32_t **ends);
Status spm_decode(const Spm *spm, const int32_t *ids, size_t n, Str *out);     /* appends; ids are in range */

/* Text handed out piece by piece: false at the end. The bytes stay valid until the next call. */
typedef bool (*SpmNext)(void *ctx, const char **text, size_t *n);

typedef struct SpmTrainSpec {
    const TokenizerTrainOptions *options;
    int64_t vocab_size;     /* what SentencePiece is asked for */
    size_t longest;         /* bytes of the longest text handed out */
    bool large;             /* more characters than 32-bit indices count */
    bool tab;               /* the tab character becomes a piece of its own */
} SpmTrainSpec;

/* *model gets the serialized ModelProto. */
Status spm_train(const SpmTrainSpec *spec, SpmNext next, void *ctx, Str *model);

#endif
