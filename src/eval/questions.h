/* Question sets: rows with a prompt and its right answer, read and tokenized once. */
#ifndef EVAL_QUESTIONS_H
#define EVAL_QUESTIONS_H

#include "data/row_format.h"
#include "eval/answer.h"

typedef struct MatchCell {
    char op;    /* + - * /, or 0: no arithmetic problem */
    int digits; /* of the longer operand; 0 for these */
    int64_t right, total;
} MatchCell;

typedef struct Question {
    AnswerText row; /* its JSON object, with keep_rows */
    AnswerText right;
    size_t first; /* of its tokens */
    int32_t n_tokens;
    int32_t cell, file;
    int64_t line;
} Question;

typedef struct QuestionOptions {
    const RowFormatOptions *format; /* its tokenizer is borrowed */
    int64_t limit;                  /* rows of each file, from its beginning; 0: all */
    bool keep_rows;
} QuestionOptions;

/* In the files' order; to be read only. */
typedef struct Questions {
    const Tokenizer *tokenizer;
    Question *items;
    size_t n, cap;
    TokenList tokens;
    int64_t longest_prompt;
    size_t longest_right; /* tokens of an answer */
    MatchCell *cells;     /* kinds of questions; scores are 0 here */
    size_t n_cells, cap_cells;
    char **paths;
    size_t n_paths;
    Arena arena; /* texts */
} Questions;

Status questions_open(Questions **out, const char *const *paths, size_t n, const QuestionOptions *options);
/* Plain prompts and completions. add_bos: as in training. */
Status questions_load(Questions **out, const char *const *paths, size_t n, const Tokenizer *tokenizer, int64_t limit,
                      bool add_bos);
void questions_free(Questions *questions); /* NULL is fine */
int64_t questions_count(const Questions *questions);
/* TANE_EFORMAT names the first whose right answer is nothing that the rule could compare with. */
Status questions_check(const Questions *questions, AnswerRule rule);

#endif
