/* Checkpoints: a Hugging Face folder plus what resume needs, saved so that a crash at any moment loses nothing.
 *
 *     RUN/step-000500/  config.json  generation_config.json  model.safetensors  tokenizer files
 *                       optimizer.safetensors  state.json  MANIFEST.json (sizes, checksums)
 *     RUN/last -> step-000500     RUN/best -> step-000400
 *
 * Order of a save: step-N.tmp/, write and fsync each file, manifest, fsync the folder, rename, fsync RUN, read back and
 * compare, links; only then are old ones removed. It is refused before it starts when the disk has no room.
 */
#ifndef TRAIN_CHECKPOINT_H
#define TRAIN_CHECKPOINT_H

#include "text/tokenizer.h"
#include "train/optimizer.h"

/* What a save writes beside the weights. */
typedef struct CheckpointSave {
    const char *run_dir;
    int64_t step;
    const Optimizer *optimizer;
    const Tokenizer *tokenizer;
    const char *chat_template; /* Jinja, in place of the one that the tokenizer came with; NULL: that one */
    const json_t *state;
    bool best;       /* also becomes RUN/best */
    int64_t keep;    /* at most so many besides best and last; 0: all */
} CheckpointSave;

/* Called for each checkpoint that is removed. */
typedef void (*CheckpointRemoved)(void *user, int64_t step);

Status checkpoint_save(const CheckpointSave *save, CheckpointRemoved removed, void *user);

/* Every file of the manifest is there with its size and checksum; else TANE_EFORMAT names the file. */
Status checkpoint_verify(const char *folder);

/* The newest complete checkpoint in run_dir (mem_free), or NULL in *out when there is none. Removes what a crash left
 * half-written. */
Status checkpoint_last(const char *run_dir, char **out);

/* Weights, moments and state.json (new reference) into an optimizer of the same shape. */
Status checkpoint_load(const char *folder, Optimizer *optimizer, json_t **state);

/* "RUN/step-000500" (mem_free). */
Status checkpoint_path(char **out, const char *run_dir, int64_t step);

#endif
