/* Byte-pair encoding (Gage 1994; Sennrich et al. 2016) of one word at a time: the neighbours with the lowest rank merge
 * first, the leftmost of equals, until none can.
 *
 * Words of a few symbols merge by scanning, long ones by a heap over a linked list: O(n log n), no recursion, whatever
 * the word is. Long words are cut first where no merge can ever reach across. What a word became is remembered in a
 * bounded cache.
 */
#ifndef TEXT_BPE_H
#define TEXT_BPE_H

#include "text/tokenizer.h"

typedef struct Bpe Bpe;

typedef struct BpeToken {
    const char *bytes; /* raw bytes, not GPT-2's alphabet; NULL: this id is no token of the model */
    size_t n;
} BpeToken;

typedef struct BpeMerge {
    int32_t left, right, result;
} BpeMerge;

typedef struct BpeSpec {
    const BpeToken *tokens; /* (n_tokens) by id; borrowed until bpe_free */
    int32_t n_tokens;
    const BpeMerge *merges; /* (n_merges), lowest rank first, of a pair that is there twice the last counts; NULL: any
                             * pair whose bytes are a token, ranked by its id, and a word that is a token is that token
                             * (tiktoken's way) */
    size_t n_merges;
    bool chars;         /* words begin as characters (SentencePiece's way); else as bytes */
    bool ignore_merges; /* a whole word that is a token is that token, however the merges go */
    int32_t unk;        /* for a character (byte) that is no token and has no byte tokens; -1: it gives nothing */
    bool fuse_unk;      /* one unk for a run of such characters in a word */
    const int32_t *byte_token; /* chars: (256) tokens of single bytes (-1: none) for byte fallback; NULL: none */
} BpeSpec;

/* `where` begins errors. Ids out of range, a merge whose result is not its two sides, and with ranks alone (merges
 * NULL) a byte without a token are TANE_EFORMAT. */
Status bpe_new(Bpe **out, const BpeSpec *spec, const char *where);
void bpe_free(Bpe *bpe); /* NULL is fine */

/* One thread's working memory (about 4 MiB) with its cache of words: taken for a text, given back behind it. A pool
 * inside the Bpe keeps them. */
typedef struct BpeWork BpeWork;
Status bpe_take(const Bpe *bpe, BpeWork **work);
void bpe_give(const Bpe *bpe, BpeWork *work); /* NULL is fine */

/* Appends the ids of one word (n < 2^31; chars: valid UTF-8). `ends` (NULL: not wanted) has room for n of them and
 * gets, for each appended id, the byte of the word behind it. Whether `out` has ends of its own is the caller's
 * matter. */
Status bpe_word(const Bpe *bpe, BpeWork *work, const char *word, size_t n, TokenList *out, uint32_t *ends);
/* The whole of a text at once, the hot loop: scanner's matches and what lies between them are words. No ends. */
struct Scanner;
Status bpe_text(const Bpe *bpe, BpeWork *work, const struct Scanner *scanner, const char *text, size_t n,
                TokenList *out);

#endif
