/* tane: the whole life of a language model in one C library.
 *
 * Conventions
 *  - Every function that can fail returns a tane_status. On anything but TANE_OK, tane_error_message()
 *    says, for the calling thread, what was found, where, and what to do about it.
 *  - The library never prints, exits, aborts or reads environment variables.
 *  - A handle belongs to one thread at a time. Different handles may be used from different threads.
 *  - Strings are UTF-8. What a function hands out stays owned by the handle it came from, unless said otherwise.
 */
#ifndef TANE_H
#define TANE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TANE_VERSION "0.1.0"

typedef enum tane_status {
    TANE_OK = 0,
    TANE_EINVAL,       /* an argument or option that makes no sense */
    TANE_ENOTFOUND,    /* a file, folder, run or key that is not there */
    TANE_EFORMAT,      /* a file that is not what it should be */
    TANE_EIO,          /* the operating system could not read or write */
    TANE_ENOSPC,       /* the disk is full, or would be */
    TANE_ENOMEM,       /* memory ran out, or the plan does not fit */
    TANE_EUNSUPPORTED, /* understood, but this build, model or machine cannot do it */
    TANE_ENUMERIC,     /* NaN or Inf where a number must be */
    TANE_ECANCELED,    /* stopped on request; what was saved is intact */
    TANE_EINTERNAL     /* a defect of tane itself */
} tane_status;

/* The last error of the calling thread, one or more lines without a final newline; "" when there was none. */
const char *tane_error_message(void);

/* The name of a status, e.g. "TANE_EFORMAT". */
const char *tane_status_name(tane_status status);

/* ------------------------------------------------------------------------------------------------------ models */

/* An open model with its tokenizer. Immutable: any number of sessions, on any threads, may share it. */
typedef struct tane_model tane_model;

/* `name`: a Hugging Face folder, a .gguf file, the folder of a run (its best checkpoint, else its last) or a run's name.
 * compute_dtype: "fp32", "bf16", "fp16" (GPU) or NULL for what is fast here. device: "cpu", "cuda", "cuda:N", or NULL for
 * the first GPU that works, else the CPU. A model on a GPU serves one thread at a time, with all its sessions. */
tane_status tane_model_open(tane_model **out, const char *name, const char *compute_dtype, const char *device);
/* Sessions over it must be closed before. NULL is fine. */
void tane_model_close(tane_model *model);

typedef struct tane_model_info {
    const char *folder, *model_type, *compute_dtype; /* the model's */
    int64_t parameters, layers, width, context, vocab_size;
} tane_model_info;
void tane_model_describe(const tane_model *model, tane_model_info *info);

/* *ids (tane_free) = the *count tokens of text[0..n), without BOS or EOS. */
tane_status tane_encode(const tane_model *model, const char *text, size_t n, int32_t **ids, size_t *count);
/* *text (tane_free), NUL-terminated. An id outside the vocabulary is TANE_EINVAL. */
tane_status tane_decode(const tane_model *model, const int32_t *ids, size_t n, char **text);
/* Releases what a function says is released with tane_free. NULL is fine. */
void tane_free(void *ptr);

/* ---------------------------------------------------------------------------------------------------- sessions */

/* A KV cache and working memory over a model, allocated once. */
typedef struct tane_session tane_session;

/* slots: prompts answered at a time, >= 1. context: tokens of each, 0: the model's own. */
tane_status tane_session_open(tane_session **out, const tane_model *model, int64_t slots, int64_t context);
void tane_session_close(tane_session *session); /* NULL is fine */

typedef struct tane_sampling {
    double temperature;     /* 0: always the most probable token */
    double top_p;           /* in (0, 1]; 1: off */
    int64_t top_k;          /* 0: off */
    uint64_t seed;          /* prompt i draws from stream i of this seed, whatever shares its batch */
    int64_t max_new_tokens; /* >= 1 */
} tane_sampling;

/* Temperature 1, no cuts, seed 0, 256 new tokens. */
tane_sampling tane_sampling_default(void);

/* Called with each answer's text so far, NUL-terminated and always whole characters; true ends that answer. */
typedef bool (*tane_token_callback)(void *user, size_t prompt, const char *text);

/* Continues every prompt until EOS, max_new_tokens or the end of the context. answers[i] (tane_free) is the text behind
 * prompts[i], without EOS. A prompt that does not fit is TANE_EINVAL with both numbers, and nothing is generated. */
tane_status tane_session_generate(tane_session *session, const char *const *prompts, size_t n,
                                  const tane_sampling *sampling, tane_token_callback on_token, void *user,
                                  char **answers);

/* Exact match over a file of prompts and completions (JSONL), greedily; limit 0: all lines. */
tane_status tane_evaluate(const tane_model *model, const char *path, int64_t limit, int64_t *right, int64_t *total);

/* -------------------------------------------------------------------------------------------------------- runs */

/* A training run: options, then training. `tane help train` lists the options. */
typedef struct tane_run tane_run;

/* From a recipe file, or NULL for nothing but defaults. */
tane_status tane_run_open(tane_run **out, const char *recipe);
void tane_run_close(tane_run *run); /* NULL is fine */
/* Overrides one option; lists are comma-separated. Unknown names are TANE_EINVAL with the nearest known one. */
tane_status tane_run_set(tane_run *run, const char *option, const char *value);

/* What a run is and what it takes, known before its first step. Memory in bytes. */
typedef struct tane_plan {
    const char *output_dir, *model_type, *compute_dtype;
    const char *device, *device_model; /* "cuda:0" and "NVIDIA H100 80GB HBM3, ..." */
    const char *backend; /* what matrix products run on */
    int threads;
    int64_t parameters, vocab_size;
    int64_t rows, tokens;  /* of an epoch */
    int64_t width;         /* tokens of a padded row */
    int64_t steps_per_epoch, total_steps, first_step;
    size_t weights, gradients, optimizer, activations, scratch, data, process, total, available; /* of the device */
    double limit_flops;    /* measured rate of matrix products, 0 without a progress callback */
} tane_plan;

typedef struct tane_progress {
    int64_t step, total_steps;
    double epoch, loss, learning_rate, grad_norm;
    double tokens_per_second; /* without padding */
    double seconds_left;
    double limit_share;       /* of limit_flops */
    double best;              /* of metric_for_best_model, NaN before the first evaluation */
} tane_progress;

typedef struct tane_evaluation {
    int64_t step;
    double loss;        /* NaN: no eval_files */
    double exact_match; /* NaN: no eval_exact_match_files */
    bool is_best;
} tane_evaluation;

typedef enum tane_level { TANE_INFO, TANE_WARNING } tane_level;

/* What a run tells while it goes on. Any of them may be NULL. */
typedef struct tane_run_callbacks {
    void *user;
    void (*plan)(void *user, const tane_plan *plan);
    void (*progress)(void *user, const tane_progress *progress); /* every step */
    void (*evaluation)(void *user, const tane_evaluation *evaluation);
    void (*saved)(void *user, const char *folder, int64_t step, bool is_best);
    void (*message)(void *user, tane_level level, const char *text);
    bool (*stop)(void *user); /* true: save, and end with TANE_ECANCELED */
} tane_run_callbacks;

typedef struct tane_run_result {
    int64_t step;
    double train_loss;             /* of the last logged steps; NaN: none */
    double eval_loss, exact_match; /* of the last evaluation; NaN: none */
    double seconds, tokens_per_second, limit_share;
    size_t peak_memory;            /* of the process */
    char folder[512];              /* the last checkpoint */
} tane_run_result;

/* Trains. With the option resume it goes on from the last checkpoint bit for bit; without, an output_dir that already
 * holds a run is TANE_EINVAL. callbacks may be NULL. */
tane_status tane_run_train(tane_run *run, const tane_run_callbacks *callbacks, tane_run_result *result);
/* Only the plan: nothing is trained or written. Its strings are the run's. */
tane_status tane_run_plan(tane_run *run, tane_plan *plan);

#ifdef __cplusplus
}
#endif
#endif
