/* A SentencePiece .model file (protobuf ModelProto): the fields that matter for encoding and decoding, checked.
 *
 * libsentencepiece trusts what it reads: a truncated character map makes it read outside its buffers, 65 nested
 * user-defined pieces overrun an array, a million empty pieces cost gigabytes. So tane reads the bytes itself, checks
 * everything the library relies on, and hands over a message written anew that holds nothing unchecked.
 */
#ifndef TEXT_SPM_PROTO_H
#define TEXT_SPM_PROTO_H

#include "text/tokenizer.h"

typedef enum SpmModelType { SPM_UNIGRAM = 1, SPM_BPE = 2, SPM_WORD = 3, SPM_CHAR = 4 } SpmModelType;

typedef enum SpmPieceType {
    SPM_NORMAL = 1,
    SPM_UNKNOWN = 2,
    SPM_CONTROL = 3,
    SPM_USER_DEFINED = 4,
    SPM_UNUSED = 5,
    SPM_BYTE = 6
} SpmPieceType;

typedef struct SpmBytes {
    const char *data; /* inside the file's bytes */
    size_t n;
} SpmBytes;

typedef struct SpmPiece {
    SpmBytes text;
    float score;
    SpmPieceType type;
} SpmPiece;

typedef struct SpmNormalizer {
    SpmBytes charsmap; /* double-array trie and replacement texts; empty: identity */
    bool add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces;
} SpmNormalizer;

typedef struct SpmProto {
    SpmPiece *pieces; /* (n_pieces), mem_free */
    size_t n_pieces, cap;
    bool has_trainer, has_normalizer;
    SpmModelType type;
    bool byte_fallback, treat_whitespace_as_suffix;
    SpmBytes unk_piece, bos_piece, eos_piece, pad_piece; /* names of the special pieces */
    SpmBytes unk_surface;                                /* data NULL: the default */
    SpmNormalizer normalizer, denormalizer;
} SpmProto;

/* Points into data[0..n), which must outlive *proto. */
Status spm_proto_parse(SpmProto *proto, const char *where, const char *data, size_t n);
void spm_proto_free(SpmProto *proto);

const char *spm_piece_type_name(SpmPieceType type);

/* Everything libsentencepiece relies on. */
Status spm_proto_check(const SpmProto *proto, const char *where);
/* The message that spm_open gets. */
Status spm_proto_write(const SpmProto *proto, Str *out);

#endif
