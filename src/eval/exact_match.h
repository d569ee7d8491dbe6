/* Exact match: asks a model every question of prompt-completion files and compares each answer with the completion,
 * byte for byte.
 *
 * An answer is what is generated greedily until EOS; one that does not end is wrong. Scores are kept for each kind of
 * arithmetic problem (operator, digits of the longer operand), and as one kind for everything else.
 */
#ifndef EVAL_EXACT_MATCH_H
#define EVAL_EXACT_MATCH_H

#include "infer/engine.h"
#include "text/tokenizer.h"

/* The questions, read and tokenized once. The tokenizer is borrowed. */
typedef struct Questions Questions;

/* limit: lines of each file, from its beginning; 0: all. add_bos: as in training. */
Status questions_load(Questions **out, const char *const *paths, size_t n, const Tokenizer *tokenizer, int64_t limit,
                      bool add_bos);
void questions_free(Questions *questions); /* NULL is fine */
int64_t questions_count(const Questions *questions);

typedef struct ExactMatchOptions {
    int64_t slots;          /* questions asked at a time; 0: many, within 512 MiB of cache */
    int64_t max_new_tokens; /* longest answer; 0: four more than the longest completion and its EOS */
    bool keep_wrong;
    /* Called about ten times a second at most; true stops with TANE_ECANCELED. May be NULL. */
    bool (*progress)(void *user, int64_t done, int64_t right, int64_t total);
    void *user;
} ExactMatchOptions;

typedef struct MatchCell {
    char op;    /* + - * /, or 0: no arithmetic problem */
    int digits; /* 0 for these */
    int64_t right, total;
} MatchCell;

typedef struct MatchText {
    const char *text;
    size_t n;
} MatchText;

typedef struct WrongAnswer {
    MatchText prompt, completion, said;
} WrongAnswer;

/* Texts of prompts and completions are the questions'; free the report first. */
typedef struct MatchReport {
    int64_t right, total, tokens; /* tokens: generated */
    double seconds;
    size_t bytes;                 /* the engine's memory */
    MatchCell *cells;             /* + - * / by digits, other last */
    size_t n_cells;
    WrongAnswer *wrong;           /* in the files' order */
    size_t n_wrong;
    Arena arena;
} MatchReport;
void match_report_free(MatchReport *report);

/* NaN logits are TANE_ENUMERIC; a prompt longer than the model's context is an error that names its line. */
Status exact_match(const Questions *questions, const Model *model, const ExactMatchOptions *options, MatchReport *out);

#endif
