/* What an answer says in the end, by rules that other software has too, so that scores can be compared with theirs.
 *
 *   exact_match       the whole text, byte for byte
 *   gsm8k_strict      verl's reward for GSM8K: in the last 300 characters the last match of  #### (-?[0-9.,]+)
 *   gsm8k_flexible    verl's looser rule: in the last 300 characters the last match of  -?[0-9.,]+  that is not "."
 *   harness_strict    lm-evaluation-harness's "strict-match": the first match of  #### (-?[0-9.,]+)
 *   harness_flexible  its "flexible-extract": the last match of  -?[$0-9.,]{2,}|-?[0-9]+
 *
 * verl compares with the number behind the right answer's first "#### " without its commas, character by character; of
 * what was said only the strict rule takes commas away. So "18." is not "18", nor, flexibly, "1,800" "1800". The
 * harness compares after taking from both sides commas, dollar signs, everything up to the last "#### ", and a full
 * stop at the end. docs/evaluation.md has examples.
 */
#ifndef EVAL_ANSWER_H
#define EVAL_ANSWER_H

#include "base/mem.h"

typedef enum AnswerRule {
    ANSWER_EXACT,
    ANSWER_GSM8K_STRICT,
    ANSWER_GSM8K_FLEXIBLE,
    ANSWER_HARNESS_STRICT,
    ANSWER_HARNESS_FLEXIBLE,
    ANSWER_RULES
} AnswerRule;
/* As written above: the names of the scores. */
const char *answer_rule_name(AnswerRule rule);

typedef struct AnswerText {
    const char *text; /* (n), valid UTF-8 */
    size_t n;
} AnswerText;

/* What `said` says, and what it has to be, as the rule compares them, in place of what is in `out`. *found is false
 * when there is nothing of the kind. */
Status answer_extract(AnswerRule rule, AnswerText said, Str *out, bool *found);
Status answer_expected(AnswerRule rule, AnswerText right, Str *out, bool *found);

/* Working memory. Zero-initialise. */
typedef struct AnswerScratch {
    Str said, right;
} AnswerScratch;
void answer_scratch_free(AnswerScratch *scratch);
Status answer_is_right(AnswerRule rule, AnswerText said, AnswerText right, AnswerScratch *scratch, bool *yes);

#endif
