/* Perplexity and bits per byte of texts.
 *
 *   loss            mean over the scored tokens of -ln p(token | the tokens before it in its window)
 *   perplexity      exp(loss)
 *   bits per byte   sum of the losses / ln 2 / bytes of the text that the scored tokens stand for
 *
 * Windows of up to `context` tokens go over each document in steps of `stride`; every token but a document's first
 * (which nothing comes before, unless add_bos puts BOS there) is scored once, in the first window that reaches it. So,
 * but for a document's beginning, a token is predicted from at least context - stride + 1 tokens before it: with stride
 * = context windows are disjoint and cheap, with stride = 1 each token sees a whole context. (transformers' page on
 * perplexity has the same windows, but scores only max_length - 1 tokens of each: its max_length is context + 1.)
 *
 * Documents are those of data/rows.h: plain text, or rows with "text". Windows are computed many at a time, short ones
 * packed into shared rows, each with its own attention and positions.
 */
#ifndef EVAL_PERPLEXITY_H
#define EVAL_PERPLEXITY_H

#include "eval/results.h"
#include "model/model.h"
#include "text/tokenizer.h"

enum { PERPLEXITY_CONTEXT = 4096 };

typedef struct PerplexityOptions {
    const Tokenizer *tokenizer;
    const char *format, *columns, *separator; /* see row_format.h and rows.h */
    bool add_bos;
    int64_t limit;    /* documents of each file, from its beginning; 0: all */
    int64_t context;  /* 0: the model's, at most PERPLEXITY_CONTEXT */
    int64_t stride;   /* 0: context */
    int64_t rows;     /* of a batch, each of `context` tokens; 0: some thousand tokens */
    Results *results; /* goes on behind what is there and adds to it; NULL: none */
    /* share: of all files, 0 to 1. Called about ten times a second at most; true stops with TANE_ECANCELED. May be
     * NULL. */
    bool (*progress)(void *user, double share, int64_t tokens);
    void *user;
} PerplexityOptions;

typedef struct PerplexityPart {
    const char *path;
    int64_t documents, tokens, bytes; /* tokens and bytes: scored */
    int64_t unknown;                  /* of the tokens, those that stand for text the tokenizer does not know */
    double loss_sum;
} PerplexityPart;
double perplexity_loss(const PerplexityPart *part); /* mean; NaN without tokens */
double perplexity_of(const PerplexityPart *part);
double perplexity_bits_per_byte(const PerplexityPart *part);

typedef struct PerplexityReport {
    PerplexityPart all, *files; /* (n_files) paths are the caller's */
    size_t n_files;
    int64_t windows, resumed; /* of the windows, taken from the results file */
    int64_t context, stride;
    double seconds;
    size_t memory;
} PerplexityReport;
void perplexity_report_free(PerplexityReport *report);

/* A file without a token to score is an error, and so is a loss that is not finite (TANE_ENUMERIC). */
Status perplexity(const char *const *paths, size_t n, const Model *model, const PerplexityOptions *options,
                  PerplexityReport *out);

#endif
