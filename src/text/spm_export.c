/* Saving a SentencePiece tokenizer so that other tools read the same ids from the folder.
 *
 * tokenizer.model is the file as it was. transformers 5 opens LlamaTokenizer as a BPE with byte fallback and a space in
 * front, whatever the model says, so that unigram and char models would give other ids; the config therefore names
 * PreTrainedTokenizerFast, and tokenizer.json spells the model out in full for it (and for every tool built on the
 * tokenizers library). What differs there: "</s>" written in a text becomes the special token.
 */
#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "text/spm_model.h"
#include "text/utf8.h"

static const char space_piece[] = "\xE2\x96\x81";

static Status no_memory(const char *folder) {
    return FAIL(TANE_ENOMEM, "%s: out of memory while writing the tokenizer", folder);
}

/* Appends, taking both references; NULL when memory ran out, here or before. */
static json_t *append(json_t *list, json_t *item) {
    if (json_array_append_new(list, item) == 0) return list;
    json_decref(list);
    return NULL;
}

static json_t *bytes_json(SpmBytes text) { return json_stringn(text.data, text.n); }

/* ---- tokenizer.json: merges ---- */

typedef struct Merge {
    float score;         /* of the piece it makes */
    uint32_t piece;      /* its id */
    uint32_t left_bytes; /* where it is cut */
} Merge;

typedef struct Merges {
    Merge *items; /* (n) */
    size_t n, cap;
} Merges;

/* A piece with a high score first; SentencePiece breaks ties by place in the text, any order serves here. */
static int compare_merges(const void *a, const void *b) {
    const Merge *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? 1 : -1;
    if (x->piece != y->piece) return x->piece < y->piece ? -1 : 1;
    return (x->left_bytes > y->left_bytes) - (x->left_bytes < y->left_bytes);
}

static int compare_ids(const void *a, const void *b, void *ctx) {
    const SpmPiece *pieces = ctx;
    const SpmBytes *x = &pieces[*(const uint32_t *)a].text, *y = &pieces[*(const uint32_t *)b].text;
    int order = memcmp(x->data, y->data, x->n < y->n ? x->n : y->n);
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

typedef struct Index {
    const SpmProto *proto;
    uint32_t *ids; /* (n) ids of the pieces text can merge into, by their bytes */
    size_t n;
} Index;

static bool in_index(const Index *index, SpmBytes text) {
    size_t lo = 0, hi = index->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        const SpmBytes *piece = &index->proto->pieces[index->ids[mid]].text;
        int order = memcmp(text.data, piece->data, text.n < piece->n ? text.n : piece->n);
        if (order == 0) order = (text.n > piece->n) - (text.n < piece->n);
        if (order == 0) return true;
        if (order < 0) hi = mid;
        else lo = mid + 1;
    }
    return false;
}

static Status add_merges(Merges *merges, const Index *index, uint32_t id) {
    const SpmPiece *piece = &index->proto->pieces[id];
    for (size_t at = 1; at < piece->text.n; at++) {
        SpmBytes left = {piece->text.data, at}, right = {piece->text.data + at, piece->text.n - at};
        if (((unsigned char)*right.data & 0xC0) == 0x80 || !in_index(index, left) || !in_index(index, right)) continue;
        if (merges->n == merges->cap) {
            size_t cap = merges->cap ? 2 * merges->cap : 256;
            TRY_RETURN(mem_grow((void **)&merges->items, merges->n, cap, sizeof *merges->items));
            merges->cap = cap;
        }
        merges->items[merges->n++] = (Merge){piece->score, id, (uint32_t)at};
    }
    return TANE_OK;
}

static json_t *merges_json(const SpmProto *proto, const Merges *merges) {
    json_t *list = json_array();
    for (size_t i = 0; i < merges->n; i++) {
        const Merge *m = &merges->items[i];
        const SpmBytes *text = &proto->pieces[m->piece].text;
        json_t *left = bytes_json((SpmBytes){text->data, m->left_bytes});
        json_t *right = bytes_json((SpmBytes){text->data + m->left_bytes, text->n - m->left_bytes});
        list = append(list, append(append(json_array(), left), right));
    }
    return list;
}

/* Every way to put two pieces together to a third. A char model has pieces of one character and so no merges. */
static Status list_merges(const SpmProto *proto, json_t **out) {
    Status st = TANE_OK;
    Index index = {proto, NULL, 0};
    Merges merges = {0};
    TRY(MEM_NEW_ARRAY(&index.ids, proto->n_pieces));
    for (size_t i = 0; i < proto->n_pieces; i++)
        if (proto->pieces[i].type == SPM_NORMAL) index.ids[index.n++] = (uint32_t)i;
    qsort_r(index.ids, index.n, sizeof *index.ids, compare_ids, proto->pieces);
    for (size_t i = 0; i < index.n && proto->type == SPM_BPE; i++) TRY(add_merges(&merges, &index, index.ids[i]));
    if (merges.n) qsort(merges.items, merges.n, sizeof *merges.items, compare_merges);
    *out = merges_json(proto, &merges);
out:
    mem_free(merges.items);
    mem_free(index.ids);
    return st;
}

/* ---- tokenizer.json: the rest ---- */

/* SentencePiece lets a user-defined piece win over all others by its score: 0.1 below its bytes times the best score,
 * where the best score starts from the smallest positive float. */
static float user_score(const SpmProto *proto, const SpmPiece *piece) {
    float best = FLT_MIN;
    for (size_t i = 0; i < proto->n_pieces; i++)
        if (proto->pieces[i].type == SPM_NORMAL && proto->pieces[i].score > best) best = proto->pieces[i].score;
    return (float)((double)((float)piece->text.n * best) - 0.1);
}

static json_t *vocab_list(const SpmProto *proto) {
    json_t *list = json_array();
    for (size_t i = 0; i < proto->n_pieces; i++) {
        const SpmPiece *piece = &proto->pieces[i];
        float score = piece->type == SPM_USER_DEFINED ? user_score(proto, piece) : piece->score;
        list = append(list, append(append(json_array(), bytes_json(piece->text)), json_real((double)score)));
    }
    return list;
}

static json_t *vocab_object(const Tokenizer *tok) {
    json_t *object = json_object();
    int32_t own = (int32_t)((const SpmModel *)tok->model)->proto.n_pieces;
    for (int32_t id = 0; id < own; id++) {
        if (json_object_set_new(object, tok->pieces[id].text, json_integer(id)) != 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

static Status model_json(const Tokenizer *tok, json_t **out) {
    const SpmProto *proto = &((const SpmModel *)tok->model)->proto;
    if (proto->type == SPM_UNIGRAM) {
        *out = json_pack("{s:s, s:i, s:o, s:b}", "type", "Unigram", "unk_id", tok->unk, "vocab", vocab_list(proto),
                         "byte_fallback", proto->byte_fallback);
        return TANE_OK;
    }
    json_t *merges = NULL;
    TRY_RETURN(list_merges(proto, &merges));
    *out = json_pack("{s:s, s:n, s:s, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout", "unk_token",
                     tok->pieces[tok->unk].text, "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", true,
                     "byte_fallback", proto->byte_fallback, "ignore_merges", false, "vocab", vocab_object(tok),
                     "merges", merges);
    return TANE_OK;
}

static json_t *replace_json(const char *kind, const char *pattern, const char *content) {
    return json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", kind, pattern, "content", content);
}

static json_t *base64(SpmBytes in) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t n = (in.n + 2) / 3 * 4, o = 0;
    char *text = mem_alloc(n);
    if (!text) return NULL;
    for (size_t i = 0; i < in.n; i += 3) {
        uint32_t word = (uint32_t)(uint8_t)in.data[i] << 16;
        if (i + 1 < in.n) word |= (uint32_t)(uint8_t)in.data[i + 1] << 8;
        if (i + 2 < in.n) word |= (uint8_t)in.data[i + 2];
        for (int shift = 18; shift >= 0; shift -= 6) text[o++] = digits[word >> shift & 63];
    }
    for (size_t pad = (3 - in.n % 3) % 3; pad > 0; pad--) text[n - pad] = '=';
    json_t *value = json_stringn(text, n);
    mem_free(text);
    return value;
}

/* What SentencePiece does before the pieces, in its order: character map, leading and repeated spaces, the space in
 * front, U+2581 for spaces, trailing spaces. */
static json_t *normalizer_json(const SpmProto *proto) {
    const SpmNormalizer *norm = &proto->normalizer;
    json_t *steps = json_array();
    if (norm->charsmap.n)
        steps = append(steps, json_pack("{s:s, s:o}", "type", "Precompiled", "precompiled_charsmap",
                                               base64(norm->charsmap)));
    if (norm->remove_extra_whitespaces) {
        steps = append(steps, replace_json("Regex", "\\A +", ""));
        steps = append(steps, replace_json("Regex", " {2,}", " "));
    }
    if (norm->add_dummy_prefix && !proto->treat_whitespace_as_suffix)
        steps = append(steps, json_pack("{s:s, s:s}", "type", "Prepend", "prepend", " "));
    if (norm->escape_whitespaces) steps = append(steps, replace_json("String", " ", space_piece));
    /* Last, because SentencePiece takes a U+2581 of the text itself away here too. */
    if (norm->remove_extra_whitespaces)
        steps = append(steps, replace_json("Regex", norm->escape_whitespaces ? "\xE2\x96\x81+\\z" : " +\\z", ""));
    return json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", steps);
}

static json_t *decoder_json(const SpmProto *proto) {
    json_t *steps = json_array();
    steps = append(steps, replace_json("String", space_piece, " "));
    steps = append(steps, json_pack("{s:s}", "type", "ByteFallback"));
    steps = append(steps, json_pack("{s:s}", "type", "Fuse"));
    if (proto->normalizer.add_dummy_prefix)
        steps = append(steps, json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", " ", "start", 1, "stop",
                                        0));
    return json_pack("{s:s, s:o}", "type", "Sequence", "decoders", steps);
}

/* Does the library have to look for this user-defined piece before anything else? Such tokens split the text, and each
 * part gets its own space in front, so only where the model would not find it: BPE has no merges to a longer one, and a
 * character map could change it. */
static bool found_first(const SpmProto *proto, const SpmPiece *piece) {
    uint32_t code;
    bool single = utf8_decode(piece->text.data, piece->text.n, &code) == piece->text.n;
    return piece->type == SPM_USER_DEFINED &&
           (proto->normalizer.charsmap.n || (proto->type != SPM_UNIGRAM && !single));
}

static json_t *added_token(const Tokenizer *tok, int32_t id, const AddedToken *flags) {
    return json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", tok->pieces[id].text, "single_word",
                     flags->single_word, "lstrip", flags->lstrip, "rstrip", flags->rstrip, "normalized",
                     flags->normalized, "special", flags->special);
}

static json_t *added_tokens(const Tokenizer *tok) {
    const SpmModel *m = tok->model;
    json_t *list = json_array();
    int32_t own = (int32_t)m->proto.n_pieces;
    for (int32_t id = 0; id < own; id++) {
        SpmPieceType type = m->proto.pieces[id].type;
        AddedToken flags = {.special = type != SPM_USER_DEFINED};
        if (type != SPM_CONTROL && type != SPM_UNKNOWN && !found_first(&m->proto, &m->proto.pieces[id])) continue;
        list = append(list, added_token(tok, id, &flags));
    }
    for (size_t i = 0; i < m->n_tokens; i++)
        if (m->tokens[i].id >= own) list = append(list, added_token(tok, m->tokens[i].id, &m->tokens[i]));
    return list;
}

static Status write_tokenizer_json(const Tokenizer *tok, const char *folder, const char *path) {
    const SpmProto *proto = &((const SpmModel *)tok->model)->proto;
    json_t *model = NULL;
    TRY_RETURN(model_json(tok, &model));
    json_t *root = json_pack("{s:s, s:n, s:n, s:o, s:o, s:n, s:n, s:o, s:o}", "version", "1.0", "truncation", "padding",
                             "added_tokens", added_tokens(tok), "normalizer", normalizer_json(proto), "pre_tokenizer",
                             "post_processor", "decoder", decoder_json(proto), "model", model);
    if (!root) return no_memory(folder);
    Status st = json_write_file(path, root);
    json_decref(root);
    return st;
}

/* ---- the two small files ---- */

static int set_special(json_t *object, const Tokenizer *tok, const char *key, int32_t id) {
    return id < 0 ? 0 : json_object_set_new(object, key, json_string(tok->pieces[id].text));
}

static Status special_tokens(json_t **out, const Tokenizer *tok, const char *folder) {
    json_t *object = json_object();
    if (!object || set_special(object, tok, "bos_token", tok->bos) || set_special(object, tok, "eos_token", tok->eos) ||
        set_special(object, tok, "pad_token", tok->pad) || set_special(object, tok, "unk_token", tok->unk)) {
        json_decref(object);
        return no_memory(folder);
    }
    *out = object;
    return TANE_OK;
}

static Status write_config(const Tokenizer *tok, const char *folder, const char *config, const char *special) {
    json_t *object = NULL;
    TRY_RETURN(special_tokens(&object, tok, folder));
    Status st = json_write_file(special, object);
    json_t *more = json_pack("{s:s, s:b, s:b, s:b, s:b}", "tokenizer_class", "PreTrainedTokenizerFast", "add_bos_token",
                             false, "add_eos_token", false, "legacy", false, "clean_up_tokenization_spaces", false);
    if (st == TANE_OK && (!more || json_object_update(object, more) != 0)) st = no_memory(folder);
    if (st == TANE_OK) st = json_write_file(config, object);
    json_decref(more);
    json_decref(object);
    return st;
}

Status spm_model_save(const Tokenizer *tok, const char *folder) {
    static const char *const names[] = {"tokenizer.model", "tokenizer.json", "tokenizer_config.json",
                                        "special_tokens_map.json"};
    const SpmModel *m = tok->model;
    Status st = TANE_OK;
    char *paths[4] = {NULL};
    for (int i = 0; i < 4; i++) TRY(path_join(&paths[i], folder, names[i]));
    TRY(file_write_atomic(paths[0], m->bytes, m->n_bytes));
    /* The tokenizers library has nothing that works like a word model. */
    if (m->proto.type != SPM_WORD) TRY(write_tokenizer_json(tok, folder, paths[1]));
    TRY(write_config(tok, folder, paths[2], paths[3]));
out:
    for (int i = 0; i < 4; i++) mem_free(paths[i]);
    return st;
}
