/* Rows as training sees them: a JSON object or a document becomes tokens, and for each token whether it is trained on.
 *
 * Formats, told by each row's keys unless `format` names one:
 *   text           {"text": ...}, or a plain document
 *   prompt         {"prompt": ..., "completion": ...}: texts, or lists of messages
 *   messages       {"messages": [{"role", "content", ...}, ...], "tools": [...]}
 *   sharegpt       {"conversations": [{"from": "human" | "gpt" | "system" | "tool", "value"}, ...]}
 *   alpaca         {"instruction", "input", "output"}
 *   question       {"question", "answer"}
 * A conversation may bring "system", a text, and "tools". docs/data-formats.md has the rules.
 */
#ifndef DATA_ROW_FORMAT_H
#define DATA_ROW_FORMAT_H

#include "data/rows.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

/* What is trained on: the completion of a pair (ALL: the prompt too); of a conversation everything (COMPLETION, ALL),
 * every answer (ASSISTANT: generation blocks of the template, else where the turns stand in it) or the last one (LAST).
 */
typedef enum RowLoss { LOSS_COMPLETION, LOSS_ALL, LOSS_ASSISTANT, LOSS_LAST } RowLoss;

/* Texts are copied; tokenizer and template must outlive the format. */
typedef struct RowFormatOptions {
    const Tokenizer *tokenizer;
    const ChatTemplate *chat; /* NULL: conversations are an error */
    const char *format;       /* NULL, "auto" or one of the names above */
    const char
        *columns; /* NULL, or "prompt=question,completion=answer,text=body,messages=turns": its key = the file's */
    const char *system; /* system message for conversations that have none; NULL: none */
    bool chat_prompts; /* prompt, alpaca and question as a conversation: the user's turn, then the assistant's answer */
    const char *prompt_suffix; /* behind each prompt of prompt, alpaca and question; NULL: none */
    const char *separator;     /* between prompt and completion texts without chat_prompts; NULL: none */
    RowLoss loss;              /* a text is always trained whole */
    /* BOS in front of a text or prompt; conversations have their template's. EOS once, at the end of a text or
     * completion, and behind a conversation whose last answer no special token of its template ends. */
    bool add_bos, add_eos;
    int64_t now; /* what templates take for the time, in seconds since 1970; 0: when the format is made */
} RowFormatOptions;

typedef struct RowFormat RowFormat;
/* Checks the options. Immutable: any number of threads may use it at once. */
Status row_format_new(RowFormat **out, const RowFormatOptions *options);
void row_format_free(RowFormat *format); /* NULL is fine */
/* The keys of rows that it looks at: at most ROW_FORMAT_KEYS, the format's own. For RowsOptions.columns. */
enum { ROW_FORMAT_KEYS = 16 };
size_t row_format_keys(const RowFormat *format, const char *names[ROW_FORMAT_KEYS]);

/* Working memory of one thread. */
typedef struct RowScratch RowScratch;
Status row_scratch_new(RowScratch **out);
void row_scratch_free(RowScratch *scratch); /* NULL is fine */

/* Tokens of rows behind each other; mask[i] is 1 where tokens[i] is trained on. Zero-initialise. */
typedef struct RowTokens {
    TokenList list;
    uint8_t *mask; /* (list.n) */
    size_t mask_cap;
    int64_t unknown; /* tokens that stand for text the tokenizer does not know */
} RowTokens;
void row_tokens_free(RowTokens *tokens);

/* Appends a row's tokens; nothing is appended on failure. The first token of a row is never trained on: nothing
 * predicts it. Errors name file and line, key, value and fix; a row without a trained token is one. Of a document in
 * pieces (row->goes_on) the first gets BOS and the last EOS; `first` is false behind the first piece, whose first token
 * follows the piece before it and is trained on. */
Status row_encode(const RowFormat *format, const Row *row, bool first, RowScratch *scratch, RowTokens *out);

/* Appends the prompt alone as it stands in front of the answer to be generated (with BOS and generation prompt as in
 * training), and gives the right answer's text: for question sets. Formats with prompt and answer only. The answer is
 * valid until the next call with this scratch. */
Status row_prompt(const RowFormat *format, const Row *row, RowScratch *scratch, TokenList *prompt, const char **answer,
                  size_t *answer_n);

#endif
