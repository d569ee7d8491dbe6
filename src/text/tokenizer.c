/* What all kinds of tokenizers share: finding the file, checking arguments, handing on to the kind. */
#include "text/tokenizer.h"

#include <string.h>

#include "base/file.h"
#include "text/tokenizer_kind.h"

enum {
    MAX_FILE_BYTES = 256 << 20,
    MAX_TEXT_BYTES = 1 << 30 /* places in a text are 32 bits wide, and normalizing makes it longer */
};

/* ---- loading ---- */

static bool has_ending(const char *name, const char *ending) {
    size_t n = strlen(name), m = strlen(ending);
    return n > m && strcmp(name + n - m, ending) == 0;
}

static const char *find_name(const DirList *list, const char *name) {
    for (size_t i = 0; i < list->n; i++)
        if (strcmp(list->names[i], name) == 0) return list->names[i];
    return NULL;
}

/* The only file with this ending; NULL: there is none. */
static Status find_only(const DirList *list, const char *ending, const char *folder, const char **out) {
    size_t count = 0;
    for (size_t i = 0; i < list->n; i++) {
        if (!has_ending(list->names[i], ending)) continue;
        *out = list->names[i];
        count++;
    }
    if (count < 2) return TANE_OK;
    return FAIL(TANE_EINVAL, "%s: %zu %s files and none is called tokenizer%s; name the one to use", folder, count,
                ending, ending);
}

/* tokenizer.json, else ranks, else a SentencePiece model. */
static Status find_in_folder(char **out, const char *folder) {
    Status st = TANE_OK;
    DirList list = {0};
    TRY(dir_list(folder, &list));
    const char *found = find_name(&list, "tokenizer.json");
    if (!found) found = find_name(&list, "tokenizer.tiktoken");
    if (!found) TRY(find_only(&list, ".tiktoken", folder, &found));
    if (!found) found = find_name(&list, "tokenizer.model");
    if (!found) TRY(find_only(&list, ".model", folder, &found));
    if (!found)
        TRY(FAIL(TANE_ENOTFOUND,
                 "%s: no tokenizer in this folder: no tokenizer.json, *.tiktoken, tokenizer.model or other .model file",
                 folder));
    TRY(path_join(out, folder, found));
out:
    dir_list_free(&list);
    return st;
}

static bool is_json(const char *path, const char *data, size_t n) {
    if (has_ending(path, ".json") || has_ending(path, ".model")) return has_ending(path, ".json");
    size_t i = n >= 3 && memcmp(data, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
    while (i < n && strchr(" \t\r\n", data[i]) && data[i]) i++;
    return i < n && data[i] == '{';
}

static Status spec_load(Tokenizer *tok, const char *path, const char *data, size_t n, const TokenizerConfig *config) {
    TokenizerSpec spec = {0};
    Status st = is_json(path, data, n) ? tokenizer_spec_read_json(&spec, path, data, n)
                                       : tokenizer_spec_read_tiktoken(&spec, path, data, n, NULL, NULL, 0);
    int32_t unk = -1;
    if (st == TANE_OK) st = tokenizer_config_apply(config, &spec, &unk);
    if (st == TANE_OK) st = pipeline_load(tok, path, &spec);
    else tokenizer_spec_release(&spec);
    if (st == TANE_OK && tok->unk < 0) tok->unk = unk;
    return st;
}

/* By what is in it, whatever it is called: Llama 3's tokenizer.model is a list of ranks. */
static Status load_file(Tokenizer *tok, const char *path, bool keep, const TokenizerConfig *config) {
    Status st = TANE_OK;
    char *data = NULL;
    size_t n;
    TRY(file_read(path, MAX_FILE_BYTES, &data, &n));
    bool json = is_json(path, data, n);
    if (json || has_ending(path, ".tiktoken") || tiktoken_recognise(data, n))
        TRY(spec_load(tok, path, data, n, config));
    else TRY(spm_model_load(tok, path, data, n, config));
    if (!json && !keep) goto out;
    const char *name = json ? "tokenizer.json" : path_base(path);
    char *kept;
    TRY(arena_strdup(&tok->arena, &kept, name));
    st = tokenizer_files_add(&tok->files, kept, data, n);
    data = NULL;
out:
    mem_free(data);
    return st;
}

static Status index_texts(Tokenizer *tok) {
    TRY_RETURN(vocab_init(&tok->vocab, tok->texts, sizeof *tok->texts, (size_t)tok->n_pieces));
    for (int32_t id = 0; id < tok->n_pieces; id++)
        if (tok->texts[id].data) vocab_add(&tok->vocab, id);
    return TANE_OK;
}

static Status new_tokenizer(Tokenizer **out) {
    TRY_RETURN(MEM_NEW(out));
    (*out)->bos = (*out)->eos = (*out)->pad = (*out)->unk = -1;
    return TANE_OK;
}

Status tokenizer_load(Tokenizer **out, const char *path) {
    Status st = TANE_OK;
    Tokenizer *tok = NULL;
    TokenizerConfig config = {.add_bos = -1, .add_eos = -1};
    char *inside = NULL;
    bool folder = dir_exists(path);
    *out = NULL;
    if (folder) TRY(find_in_folder(&inside, path));
    TRY(new_tokenizer(&tok));
    if (folder) TRY(tokenizer_config_load(&config, &tok->files, path));
    TRY(load_file(tok, inside ? inside : path, config.present, &config));
    TRY(index_texts(tok));
    *out = tok;
    tok = NULL;
out:
    tokenizer_config_release(&config);
    tokenizer_free(tok);
    mem_free(inside);
    return st;
}

Status tokenizer_from_spec(Tokenizer **out, TokenizerSpec *spec, const char *where) {
    Tokenizer *tok;
    *out = NULL;
    Status st = new_tokenizer(&tok);
    if (st != TANE_OK) {
        tokenizer_spec_release(spec);
        return st;
    }
    st = pipeline_load(tok, where, spec);
    if (st == TANE_OK) st = index_texts(tok);
    if (st == TANE_OK) *out = tok;
    else tokenizer_free(tok);
    return st;
}

void tokenizer_free(Tokenizer *tok) {
    if (!tok) return;
    if (tok->kind) tok->kind->release(tok);
    tokenizer_files_free(&tok->files);
    vocab_free(&tok->vocab);
    arena_release(&tok->arena);
    mem_free(tok);
}

/* ---- asking ---- */

int32_t tokenizer_vocab_size(const Tokenizer *tok) { return tok->n_pieces; }
int32_t tokenizer_bos(const Tokenizer *tok) { return tok->bos; }
int32_t tokenizer_eos(const Tokenizer *tok) { return tok->eos; }
int32_t tokenizer_pad(const Tokenizer *tok) { return tok->pad; }
bool tokenizer_cuts_at_lines(const Tokenizer *tok) { return tok->cuts_at_lines; }
int32_t tokenizer_unk(const Tokenizer *tok) { return tok->unk; }

int32_t tokenizer_find(const Tokenizer *tok, const char *text, size_t n) { return vocab_find(&tok->vocab, text, n); }

static Status check_id(const Tokenizer *tok, int32_t id) {
    if (id >= 0 && id < tok->n_pieces) return TANE_OK;
    return FAIL(TANE_EINVAL, "token id %d is out of range: this tokenizer has the ids 0 to %d (vocabulary size %d)", id,
                tok->n_pieces - 1, tok->n_pieces);
}

Status tokenizer_piece(const Tokenizer *tok, int32_t id, TokenPiece *out) {
    TRY_RETURN(check_id(tok, id));
    *out = tok->pieces[id];
    return TANE_OK;
}

/* ---- lists ---- */

Status token_list_reserve(TokenList *list, size_t more) {
    size_t need = list->n + more;
    if (need <= list->cap) return TANE_OK;
    size_t cap = need > 2 * list->cap ? need : 2 * list->cap;
    if (list->ends) TRY_RETURN(mem_grow((void **)&list->ends, list->n, cap, sizeof *list->ends));
    TRY_RETURN(mem_grow((void **)&list->ids, list->n, cap, sizeof *list->ids));
    list->cap = cap;
    return TANE_OK;
}

Status token_list_add(TokenList *list, int32_t id) {
    TRY_RETURN(token_list_reserve(list, 1));
    if (list->ends) list->ends[list->n] = 0;
    list->ids[list->n++] = id;
    return TANE_OK;
}

void token_list_free(TokenList *list) {
    mem_free(list->ids);
    mem_free(list->ends);
    *list = (TokenList){0};
}

/* ---- encoding ---- */

/* Puts ids (n) with their ends behind a list that has ends from now on. */
static Status append(TokenList *out, const int32_t *ids, const uint32_t *ends, size_t n) {
    TRY_RETURN(token_list_reserve(out, n));
    if (ends && !out->ends) TRY_RETURN(MEM_NEW_ARRAY(&out->ends, out->cap));
    if (n) memcpy(out->ids + out->n, ids, n * sizeof *ids);
    if (n && ends) memcpy(out->ends + out->n, ends, n * sizeof *ends);
    else if (n && out->ends) memset(out->ends + out->n, 0, n * sizeof *out->ends);
    out->n += n;
    return TANE_OK;
}

/* The text's own ids with what belongs around them; a text that begins with BOS gets no second one. */
static Status append_around(const Tokenizer *tok, const EncodeInput *input, const TokenList *own, const uint32_t *ends,
                            TokenList *out) {
    static const uint32_t start = 0;
    const uint32_t end = (uint32_t)input->n;
    bool before = true;
    for (size_t i = 0; i < tok->n_post; i++) {
        int32_t id = tok->post[i];
        if (id == POST_SEQUENCE) {
            TRY_RETURN(append(out, own->ids, ends, own->n));
            before = false;
        } else if (!(before && id == tok->bos && own->n && own->ids[0] == id)) {
            TRY_RETURN(append(out, &id, !input->want_ends ? NULL : before ? &start : &end, 1));
        }
    }
    return TANE_OK;
}

Status tokenizer_encode_input(const Tokenizer *tok, const EncodeInput *input, TokenList *out) {
    static const uint32_t none;
    Status st = TANE_OK;
    TokenList own = {0};
    uint32_t *ends = NULL;
    if (input->n > MAX_TEXT_BYTES)
        return FAIL(TANE_EINVAL, "a text of %zu bytes is too long to encode at once (at most %d); split it", input->n,
                    MAX_TEXT_BYTES);
    bool around = input->add_special && tok->n_post;
    if (!around && !input->want_ends && !out->ends) {
        uint32_t *no_ends = NULL;
        return input->n ? tok->kind->encode(tok, input, out, &no_ends) : TANE_OK;
    }
    if (input->n) TRY(tok->kind->encode(tok, input, &own, &ends));
    const uint32_t *wanted = !input->want_ends ? NULL : ends ? ends : &none;
    if (around) TRY(append_around(tok, input, &own, wanted, out));
    else TRY(append(out, own.ids, wanted, own.n));
out:
    mem_free(ends);
    token_list_free(&own);
    return st;
}

Status tokenizer_encode(const Tokenizer *tok, const char *text, size_t n, TokenList *out) {
    return tokenizer_encode_input(tok, &(EncodeInput){.text = text, .n = n}, out);
}

Status tokenizer_encode_many(const Tokenizer *tok, const EncodeInput *inputs, size_t n, int threads, TokenList *lists) {
    ErrorCopy error = {0};
    bool failed = false;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads > 0 ? threads : 1) if (threads > 1)
    for (size_t i = 0; i < n; i++) {
        bool skip;
#pragma omp atomic read
        skip = failed;
        if (skip || tokenizer_encode_input(tok, &inputs[i], &lists[i]) == TANE_OK) continue;
#pragma omp critical(tokenizer_error)
        {
            bool first = !failed;
#pragma omp atomic write
            failed = true;
            if (first) err_save(&error);
        }
    }
    return failed ? err_restore(&error) : TANE_OK;
}

/* ---- decoding ---- */

Status tokenizer_decode_all(const Tokenizer *tok, const int32_t *ids, size_t n, bool special, Str *out) {
    for (size_t i = 0; i < n; i++) TRY_RETURN(check_id(tok, ids[i]));
    return tok->kind->decode(tok, ids, n, special, out);
}

Status tokenizer_decode(const Tokenizer *tok, const int32_t *ids, size_t n, Str *out) {
    return tokenizer_decode_all(tok, ids, n, false, out);
}

/* ---- saving ---- */

/* Files that it came with go out as they came in. A lone tokenizer.json is joined by the two small files. */
Status tokenizer_save(const Tokenizer *tok, const char *folder) {
    TRY_RETURN(dir_make(folder));
    if (!tokenizer_files_find(&tok->files, "tokenizer_config.json")) TRY_RETURN(tok->kind->save(tok, folder));
    return tokenizer_files_write(&tok->files, folder);
}
