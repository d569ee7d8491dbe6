/* From what a user calls a model to a model that can answer: its files, weights, tokenizer, chat template, and prompts
 * as tokens. */
#ifndef INFER_OPEN_H
#define INFER_OPEN_H

#include "model/model.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

/* A model folder; a .gguf file; or a run's folder, which means its best checkpoint, else its last one; or the name of a
 * run under runs/. *out (mem_free) is the model's folder itself, "runs/math/step-000500", not a link to it. */
Status model_resolve_path(char **out, const char *name);

typedef struct OpenModel {
    Device *device;
    char *folder; /* or the .gguf file */
    Model *model;
    Tokenizer *tokenizer;
    ChatTemplate *chat;   /* NULL: the model has none, or one that tane cannot read */
    ErrorCopy chat_error; /* why it cannot */
} OpenModel;

/* compute: "auto" (bf16 where that is fast), "fp32", "bf16" or "fp16". device: see backend_open. tokenizer: file or
 * folder (also a .gguf file), NULL: the model's own. */
Status open_model(OpenModel *out, const char *name, const char *compute, const char *device, const char *tokenizer);
void open_model_close(OpenModel *open);
/* Fills in chat and chat_error from folder and tokenizer, as open_model does. */
Status open_chat(OpenModel *open);
/* A chat template: from `file` (Jinja), else the one that a model's folder or .gguf file has. *out is NULL when there
 * is none, and when tane cannot read the model's own: only conversations need it, so that is no failure; *why has the
 * reason. */
Status open_template(ChatTemplate **out, const char *file, const char *model, const Tokenizer *tokenizer,
                     ErrorCopy *why);

/* The tokens that end an answer: EOS of the tokenizer and of the model's configuration, and what ends a turn in the
 * chat template where that is a special token ("<|im_end|>", "<end_of_turn>", "<|eot_id|>", ...). */
enum { STOP_TOKENS = 2 + MODEL_EOS + 16 };
typedef struct StopTokens {
    int32_t ids[STOP_TOKENS];
    int64_t n;
} StopTokens;
StopTokens stop_tokens(const OpenModel *open);

/* Appends a prompt's tokens as training sees them: BOS first if wanted and there is one. */
Status prompt_encode(const Tokenizer *tokenizer, const char *text, size_t n, bool add_bos, TokenList *out);

#endif
