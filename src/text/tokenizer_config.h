/* The small files beside a tokenizer: tokenizer_config.json, special_tokens_map.json, added_tokens.json. They say which
 * tokens are special, and what else there is besides the tokenizer's own file. */
#ifndef TEXT_TOKENIZER_CONFIG_H
#define TEXT_TOKENIZER_CONFIG_H

#include "text/tokenizer_spec.h"

typedef struct TokenizerFile {
    const char *name; /* in the folder */
    char *bytes;
    size_t n;
} TokenizerFile;

enum { TOKENIZER_MAX_FILES = 8 };

/* A tokenizer's files as they were read. */
typedef struct TokenizerFiles {
    TokenizerFile items[TOKENIZER_MAX_FILES];
    size_t n;
} TokenizerFiles;

void tokenizer_files_free(TokenizerFiles *files);
const TokenizerFile *tokenizer_files_find(const TokenizerFiles *files, const char *name);
/* Takes the bytes over (mem_free), also on failure. name is one of the literals in tokenizer_config.c, or static. */
Status tokenizer_files_add(TokenizerFiles *files, const char *name, char *bytes, size_t n);
Status tokenizer_files_write(const TokenizerFiles *files, const char *folder);

typedef struct TokenizerConfig {
    const char *bos, *eos, *pad, *unk; /* texts, NULL where none is named */
    int add_bos, add_eos;              /* 1, 0; -1: not said */
    AddedToken *added;                 /* (n_added) tokens listed with their ids */
    size_t n_added;
    const char *chat_template; /* or NULL */
    char *where;               /* the file that errors name */
    bool present;              /* there is a tokenizer_config.json */
    Arena arena;
} TokenizerConfig;

/* From a folder; the files that are there are added to *files. Nothing there is fine. */
Status tokenizer_config_load(TokenizerConfig *config, TokenizerFiles *files, const char *folder);
void tokenizer_config_release(TokenizerConfig *config);

/* Puts into a spec what the config says: added tokens, special ids, what is put around a text. *unk is the unknown
 * token that the config names, -1: none; it need not be the one that the model uses. */
Status tokenizer_config_apply(const TokenizerConfig *config, TokenizerSpec *spec, int32_t *unk);

/* tokenizer_config.json and special_tokens_map.json for a tokenizer that did not come with any. */
Status tokenizer_config_write(const TokenizerSpec *spec, const Bytes *texts, const char *folder);

#endif
