/* What all kinds of tokenizers share: finding the file, checking arguments, handing on to the kind. */
#include "text/tokenizer.h"

#include <string.h>

#include "base/file.h"
#include "text/tokenizer_kind.h"

enum { MAX_FILE_BYTES = 256 << 20 };

/* ---- loading ---- */

/* The model file inside a folder: tokenizer.model, or the only *.model. */
static Status find_in_folder(char **out, const char *folder) {
    Status st = TANE_OK;
    DirList list = {0};
    const char *found = NULL;
    size_t models = 0;
    TRY(dir_list(folder, &list));
    for (size_t i = 0; i < list.n; i++) {
        size_t n = strlen(list.names[i]);
        if (strcmp(list.names[i], "tokenizer.model") == 0) {
            found = list.names[i];
            models = 1;
            break;
        }
        if (n > 6 && strcmp(list.names[i] + n - 6, ".model") == 0) {
            found = list.names[i];
            models++;
        }
    }
    if (models == 0)
        st = FAIL(TANE_ENOTFOUND, "%s: no tokenizer.model in this folder; name a SentencePiece .model file", folder);
    else if (models > 1)
        st = FAIL(TANE_EINVAL, "%s: %zu .model files and none is called tokenizer.model; name the one to use", folder,
                  models);
    else
        st = path_join(out, folder, found);
out:
    dir_list_free(&list);
    return st;
}

Status tokenizer_load(Tokenizer **out, const char *path) {
    Status st = TANE_OK;
    Tokenizer *tok = NULL;
    char *inside = NULL, *data = NULL;
    size_t n;
    *out = NULL;
    if (dir_exists(path)) {
        TRY(find_in_folder(&inside, path));
        path = inside;
    }
    TRY(file_read(path, MAX_FILE_BYTES, &data, &n));
    TRY(MEM_NEW(&tok));
    tok->bos = tok->eos = tok->pad = tok->unk = -1;
    TRY(spm_model_load(tok, path, data, n));
    *out = tok;
    tok = NULL;
out:
    tokenizer_free(tok);
    mem_free(data);
    mem_free(inside);
    return st;
}

void tokenizer_free(Tokenizer *tok) {
    if (!tok) return;
    if (tok->kind) tok->kind->release(tok);
    arena_release(&tok->arena);
    mem_free(tok);
}

/* ---- using ---- */

int32_t tokenizer_vocab_size(const Tokenizer *tok) { return tok->n_pieces; }
int32_t tokenizer_bos(const Tokenizer *tok) { return tok->bos; }
int32_t tokenizer_eos(const Tokenizer *tok) { return tok->eos; }
int32_t tokenizer_pad(const Tokenizer *tok) { return tok->pad; }
int32_t tokenizer_unk(const Tokenizer *tok) { return tok->unk; }

void token_list_free(TokenList *list) {
    mem_free(list->ids);
    *list = (TokenList){0};
}

Status tokenizer_encode(const Tokenizer *tok, const char *text, size_t n, TokenList *out) {
    return n ? tok->kind->encode(tok, text, n, out) : TANE_OK;
}

static Status check_id(const Tokenizer *tok, int32_t id) {
    if (id >= 0 && id < tok->n_pieces) return TANE_OK;
    return FAIL(TANE_EINVAL, "token id %d is out of range: this tokenizer has the ids 0 to %d (vocabulary size %d)", id,
                tok->n_pieces - 1, tok->n_pieces);
}

Status tokenizer_decode(const Tokenizer *tok, const int32_t *ids, size_t n, Str *out) {
    for (size_t i = 0; i < n; i++) TRY_RETURN(check_id(tok, ids[i]));
    return tok->kind->decode(tok, ids, n, out);
}

Status tokenizer_piece(const Tokenizer *tok, int32_t id, TokenPiece *out) {
    TRY_RETURN(check_id(tok, id));
    *out = tok->pieces[id];
    return TANE_OK;
}

Status tokenizer_save(const Tokenizer *tok, const char *folder) {
    TRY_RETURN(dir_make(folder));
    return tok->kind->save(tok, folder);
}
