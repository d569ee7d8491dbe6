/* Asks a model every question of a set and scores the answers: byte for byte, or by the rules for GSM8K.
 *
 * An answer is what is generated greedily until a token that ends it. By the byte an answer that does not end is wrong;
 * the rules for GSM8K take what is there. Scores are kept for each kind of arithmetic problem (operator, digits of the
 * longer operand), and as one kind for everything else.
 *
 * Questions are asked sorted by length, so that prompts computed together need little padding, and slots are given to
 * the next question as soon as they are free; everything that comes out is in the files' order.
 */
#ifndef EVAL_EXACT_MATCH_H
#define EVAL_EXACT_MATCH_H

#include "eval/questions.h"
#include "eval/results.h"
#include "infer/engine.h"

typedef struct ExactMatchOptions {
    bool gsm8k;             /* the four rules for GSM8K instead of exact match */
    int64_t slots;          /* questions asked at a time; 0: many, within 512 MiB of cache */
    int64_t max_new_tokens; /* longest answer; 0: match_max_new_tokens */
    const int32_t *stop;    /* (n_stop) tokens that end an answer; NULL: EOS */
    int64_t n_stop;
    bool keep_wrong;  /* wants questions with keep_rows */
    Results *results; /* goes on behind what is there and adds to it; NULL: none */
    /* Called about ten times a second at most; true stops with TANE_ECANCELED. May be NULL. */
    bool (*progress)(void *user, int64_t done, int64_t right, int64_t total);
    void *user;
} ExactMatchOptions;

/* Four more than the longest right answer and its EOS; for GSM8K, where a model may say more than the row does, at
 * least 256, as verl and lm-evaluation-harness have it. */
int64_t match_max_new_tokens(const Questions *questions, bool gsm8k);

typedef struct WrongAnswer {
    const Question *question;
    AnswerText said;
} WrongAnswer;

/* Free the report before the questions. */
typedef struct MatchReport {
    AnswerRule first, end;        /* the rules that were applied: first .. end - 1 */
    int64_t scores[ANSWER_RULES]; /* right answers by each rule */
    int64_t right, total;         /* by the first rule, also in cells and `wrong` */
    int64_t unfinished;           /* answers that did not end */
    int64_t tokens;               /* generated */
    int64_t resumed;              /* of the total, taken from the results file */
    double seconds;               /* for the others */
    size_t bytes;                 /* the engine's memory */
    MatchCell *cells;             /* + - * / by digits, other last */
    size_t n_cells;
    WrongAnswer *wrong; /* in the files' order */
    size_t n_wrong;
    Arena arena;
} MatchReport;
void match_report_free(MatchReport *report);

/* NaN logits are TANE_ENUMERIC; a prompt longer than the model's context is an error that names its line. */
Status exact_match(const Questions *questions, const Model *model, const ExactMatchOptions *options, MatchReport *out);

#endif
