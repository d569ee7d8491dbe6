/* Writing tokenizer.json from a spec. The vocabulary and the merges are written as they go, the small parts from trees.
 */
#include <string.h>

#include "text/tokenizer_json.h"

static Status no_memory(void) { return FAIL(TANE_ENOMEM, "out of memory while writing a tokenizer.json"); }

static json_t *text_json(Bytes text) { return json_stringn(text.data ? text.data : "", text.n); }

/* Appends, taking both references; NULL when memory ran out, here or before. */
static json_t *append(json_t *list, json_t *item) {
    if (json_array_append_new(list, item) == 0) return list;
    json_decref(list);
    return NULL;
}

/* ---- steps ---- */

static json_t *pattern_json(const TokenStep *s) {
    return json_pack("{s:o}", s->regex ? "Regex" : "String", text_json(s->pattern));
}

static json_t *replace_json(const TokenStep *s) {
    return json_pack("{s:s, s:o, s:o}", "type", "Replace", "pattern", pattern_json(s), "content",
                     text_json(s->content));
}

static json_t *metaspace_json(const TokenStep *s) {
    static const char *const names[] = {"always", "first", "never"};
    return json_pack("{s:s, s:o, s:s, s:b}", "type", "Metaspace", "replacement", text_json(s->content),
                     "prepend_scheme", names[s->prepend], "split", s->split);
}

static json_t *bert_json(const TokenStep *s) {
    json_t *accents = s->strip_accents < 0 ? json_null() : json_boolean(s->strip_accents);
    return json_pack("{s:s, s:b, s:b, s:o, s:b}", "type", "BertNormalizer", "clean_text", s->clean_text,
                     "handle_chinese_chars", s->chinese, "strip_accents", accents, "lowercase", s->lowercase);
}

static json_t *charsmap_json(const TokenStep *s) {
    Str text = {0};
    json_t *value = NULL;
    if (base64_encode(&text, s->content.data, s->content.n) == TANE_OK)
        value = json_pack("{s:s, s:s}", "type", "Precompiled", "precompiled_charsmap", text.text ? text.text : "");
    str_free(&text);
    return value;
}

static json_t *normalizer_json(const TokenStep *s) {
    static const char *const plain[] = {[NORMALIZE_NFC] = "NFC",
                                        [NORMALIZE_NFD] = "NFD",
                                        [NORMALIZE_NFKC] = "NFKC",
                                        [NORMALIZE_NFKD] = "NFKD",
                                        [NORMALIZE_LOWERCASE] = "Lowercase",
                                        [NORMALIZE_STRIP_ACCENTS] = "StripAccents",
                                        [NORMALIZE_NMT] = "Nmt",
                                        [NORMALIZE_BYTE_LEVEL] = "ByteLevel"};
    switch ((NormalizerKind)s->kind) {
    case NORMALIZE_STRIP:
        return json_pack("{s:s, s:b, s:b}", "type", "Strip", "strip_left", s->left, "strip_right", s->right);
    case NORMALIZE_REPLACE: return replace_json(s);
    case NORMALIZE_PREPEND: return json_pack("{s:s, s:o}", "type", "Prepend", "prepend", text_json(s->content));
    case NORMALIZE_PRECOMPILED: return charsmap_json(s);
    case NORMALIZE_BERT: return bert_json(s);
    default: return json_pack("{s:s}", "type", plain[s->kind]);
    }
}

static json_t *pre_tokenizer_json(const TokenStep *s) {
    static const char *const behaviors[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext",
                                            "Contiguous"};
    switch ((PreTokenizerKind)s->kind) {
    case PRE_SPLIT:
        return json_pack("{s:s, s:o, s:s, s:b}", "type", "Split", "pattern", pattern_json(s), "behavior",
                         behaviors[s->behavior], "invert", s->invert);
    case PRE_BYTE_LEVEL:
        return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", s->add_prefix_space,
                         "trim_offsets", 1, "use_regex", s->use_regex);
    case PRE_METASPACE: return metaspace_json(s);
    case PRE_WHITESPACE: return json_pack("{s:s}", "type", "Whitespace");
    case PRE_WHITESPACE_SPLIT: return json_pack("{s:s}", "type", "WhitespaceSplit");
    case PRE_DIGITS: return json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", s->individual);
    case PRE_PUNCTUATION: return json_pack("{s:s, s:s}", "type", "Punctuation", "behavior", behaviors[s->behavior]);
    case PRE_BERT: return json_pack("{s:s}", "type", "BertPreTokenizer");
    case PRE_CHAR_DELIMITER:
        return json_pack("{s:s, s:o}", "type", "CharDelimiterSplit", "delimiter", text_json(s->content));
    }
    return NULL;
}

static json_t *decoder_json(const TokenStep *s) {
    switch ((DecoderKind)s->kind) {
    case DECODE_BYTE_LEVEL:
        return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 1, "trim_offsets", 1,
                         "use_regex", 1);
    case DECODE_METASPACE: return metaspace_json(s);
    case DECODE_BYTE_FALLBACK: return json_pack("{s:s}", "type", "ByteFallback");
    case DECODE_FUSE: return json_pack("{s:s}", "type", "Fuse");
    case DECODE_STRIP:
        return json_pack("{s:s, s:o, s:I, s:I}", "type", "Strip", "content", text_json(s->content), "start",
                         (json_int_t)s->start, "stop", (json_int_t)s->stop);
    case DECODE_REPLACE: return replace_json(s);
    case DECODE_WORDPIECE:
        return json_pack("{s:s, s:o, s:b}", "type", "WordPiece", "prefix", text_json(s->content), "cleanup",
                         s->cleanup);
    case DECODE_BPE: return json_pack("{s:s, s:o}", "type", "BPEDecoder", "suffix", text_json(s->content));
    }
    return NULL;
}

/* None: null; one: itself; several: a sequence, whose list has this name. */
static json_t *steps_json(const TokenSteps *steps, const char *list_name, json_t *(*make)(const TokenStep *s)) {
    if (steps->n == 0) return json_null();
    if (steps->n == 1) return make(steps->items);
    json_t *list = json_array();
    for (size_t i = 0; i < steps->n; i++) list = append(list, make(&steps->items[i]));
    return json_pack("{s:s, s:o}", "type", "Sequence", list_name, list);
}

/* ---- added tokens, post-processor ---- */

static json_t *added_json(const TokenizerSpec *spec) {
    json_t *list = json_array();
    for (size_t i = 0; i < spec->n_added; i++) {
        const AddedToken *t = &spec->added[i];
        list = append(list, json_pack("{s:i, s:o, s:b, s:b, s:b, s:b, s:b}", "id", t->id, "content",
                                      text_json(t->content), "single_word", t->single_word, "lstrip", t->lstrip,
                                      "rstrip", t->rstrip, "normalized", t->normalized, "special", t->special));
    }
    return list;
}

static Bytes text_of(const TokenizerSpec *spec, int32_t id) {
    for (size_t i = 0; i < spec->n_added; i++)
        if (spec->added[i].id == id) return spec->added[i].content;
    return id >= 0 && id < spec->n_tokens ? spec->tokens[id].text : (Bytes){NULL, 0};
}

static json_t *template_json(const TokenizerSpec *spec, json_t *list, const char *sequence, int type) {
    for (size_t i = 0; i < spec->n_post; i++) {
        json_t *id = spec->post[i] == POST_SEQUENCE ? json_string(sequence) : text_json(text_of(spec, spec->post[i]));
        const char *kind = spec->post[i] == POST_SEQUENCE ? "Sequence" : "SpecialToken";
        list = append(list, json_pack("{s:{s:o, s:i}}", kind, "id", id, "type_id", type));
    }
    return list;
}

static json_t *post_json(const TokenizerSpec *spec) {
    if (spec->n_post == 0) return json_null();
    json_t *tokens = json_object();
    for (size_t i = 0; i < spec->n_post; i++) {
        if (spec->post[i] == POST_SEQUENCE) continue;
        Bytes text = text_of(spec, spec->post[i]);
        json_t *token = json_pack("{s:o, s:[i], s:[o]}", "id", text_json(text), "ids", spec->post[i], "tokens",
                                  text_json(text));
        if (json_object_setn_new(tokens, text.data ? text.data : "", text.n, token) == 0) continue;
        json_decref(tokens);
        tokens = NULL;
    }
    json_t *pair = template_json(spec, template_json(spec, json_array(), "A", 0), "B", 1);
    return json_pack("{s:s, s:o, s:o, s:o}", "type", "TemplateProcessing", "single",
                     template_json(spec, json_array(), "A", 0), "pair", pair, "special_tokens", tokens);
}

/* ---- the model ---- */

static Status put(Str *out, const char *text) { return str_add(out, text, strlen(text)); }

/* `    "key": value`, a line of "model". */
static Status put_member(Str *out, const char *key, json_t *value) {
    if (!value) return no_memory();
    Status st = str_printf(out, ",\n    \"%s\": ", key);
    if (st == TANE_OK) st = json_write_indented(out, value, 2);
    json_decref(value);
    return st;
}

static json_t *text_or_null(Bytes text) { return text.n ? text_json(text) : json_null(); }

/* Added tokens that are no tokens of the model get ids by Hugging Face's rule, one after the other behind the
 * vocabulary. Where that would give others they are written into the vocabulary. */
static Status need_place(const TokenizerSpec *spec, bool *need) {
    Vocab model = {0};
    int32_t next = 0;
    *need = false;
    Status st = vocab_init(&model, spec->tokens, sizeof *spec->tokens, (size_t)spec->n_tokens);
    for (int32_t id = 0; st == TANE_OK && id < spec->n_tokens; id++) {
        if (!spec->tokens[id].text.data) continue;
        vocab_add(&model, id);
        next++;
    }
    for (size_t i = 0; st == TANE_OK && i < spec->n_added; i++) {
        const AddedToken *token = &spec->added[i];
        int32_t id = vocab_find(&model, token->content.data, token->content.n);
        if (id < 0) id = next++;
        *need |= id != token->id;
    }
    vocab_free(&model);
    return st;
}

/* The texts by id, with the added tokens that the vocabulary has to name. *texts is (n), mem_free. */
static Status list_texts(const TokenizerSpec *spec, Bytes **texts, int32_t *n) {
    bool need;
    TRY_RETURN(need_place(spec, &need));
    *n = spec->n_tokens;
    for (size_t i = 0; i < spec->n_added && need; i++)
        if (spec->added[i].id >= *n) *n = spec->added[i].id + 1;
    TRY_RETURN(MEM_NEW_ARRAY(texts, *n));
    for (int32_t id = 0; id < spec->n_tokens; id++) (*texts)[id] = spec->tokens[id].text;
    for (size_t i = 0; i < spec->n_added && need; i++)
        if (!(*texts)[spec->added[i].id].data) (*texts)[spec->added[i].id] = spec->added[i].content;
    return TANE_OK;
}

static Status put_vocab(const TokenizerSpec *spec, Str *out) {
    Status st = TANE_OK;
    Bytes *texts = NULL;
    int32_t n;
    bool first = true;
    TRY(list_texts(spec, &texts, &n));
    TRY(put(out, ",\n    \"vocab\": {"));
    for (int32_t id = 0; id < n; id++) {
        if (!texts[id].data) continue;
        TRY(put(out, first ? "\n      " : ",\n      "));
        TRY(json_write_text(out, texts[id].data, texts[id].n));
        TRY(str_printf(out, ": %d", id));
        first = false;
    }
    TRY(put(out, first ? "}" : "\n    }"));
out:
    mem_free(texts);
    return st;
}

static Status put_scores(const TokenizerSpec *spec, Str *out) {
    TRY_RETURN(put(out, ",\n    \"vocab\": ["));
    for (int32_t id = 0; id < spec->n_tokens; id++) {
        const SpecToken *token = &spec->tokens[id];
        if (!token->text.data)
            return FAIL(TANE_EUNSUPPORTED,
                        "the id %d stands for nothing; a Unigram vocabulary in tokenizer.json has no holes", id);
        TRY_RETURN(put(out, id ? ",\n      [\n        " : "\n      [\n        "));
        TRY_RETURN(json_write_text(out, token->text.data, token->text.n));
        json_t *score = json_real(token->score);
        if (!score) return no_memory();
        Status st = put(out, ",\n        ");
        if (st == TANE_OK) st = json_write_str(out, score);
        json_decref(score);
        TRY_RETURN(st);
        TRY_RETURN(put(out, "\n      ]"));
    }
    return put(out, spec->n_tokens ? "\n    ]" : "]");
}

static Status put_merge(Str *out, Bytes left, Bytes right, bool *first) {
    TRY_RETURN(put(out, *first ? "\n      [\n        " : ",\n      [\n        "));
    TRY_RETURN(json_write_text(out, left.data, left.n));
    TRY_RETURN(put(out, ",\n        "));
    *first = false;
    TRY_RETURN(json_write_text(out, right.data, right.n));
    return put(out, "\n      ]");
}

/* Ranks as merges: a token can be made of any two tokens that spell it, those of lower ids first. */
static Status put_ranked(const TokenizerSpec *spec, const Vocab *vocab, int32_t id, Str *out, bool *first) {
    enum { MAX_PAIRS = 512 };
    struct Pair {
        int32_t left, right;
    } pairs[MAX_PAIRS];
    Bytes text = spec->tokens[id].text;
    int n = 0;
    for (size_t cut = 1; text.data && cut < text.n; cut++) {
        if (((uint8_t)text.data[cut] & 0xC0) == 0x80) continue;
        int32_t left = vocab_find(vocab, text.data, cut), right = vocab_find(vocab, text.data + cut, text.n - cut);
        if (left < 0 || right < 0) continue;
        if (n == MAX_PAIRS)
            return FAIL(TANE_EUNSUPPORTED,
                        "token %d can be put together in more than %d ways; tane cannot list its merges", id,
                        MAX_PAIRS);
        int at = n++;
        for (; at > 0 && (pairs[at - 1].left > left || (pairs[at - 1].left == left && pairs[at - 1].right > right));
             at--)
            pairs[at] = pairs[at - 1];
        pairs[at] = (struct Pair){left, right};
    }
    for (int i = 0; i < n; i++)
        TRY_RETURN(put_merge(out, spec->tokens[pairs[i].left].text, spec->tokens[pairs[i].right].text, first));
    return TANE_OK;
}

static Status put_merges(const TokenizerSpec *spec, Str *out) {
    Status st = TANE_OK;
    Vocab vocab = {0};
    bool first = true;
    TRY(put(out, ",\n    \"merges\": ["));
    for (size_t i = 0; i < spec->n_merges; i++)
        TRY(put_merge(out, spec->tokens[spec->merges[i].left].text, spec->tokens[spec->merges[i].right].text, &first));
    if (!spec->merges) {
        TRY(vocab_init(&vocab, spec->tokens, sizeof *spec->tokens, (size_t)spec->n_tokens));
        for (int32_t id = 0; id < spec->n_tokens; id++)
            if (spec->tokens[id].text.data) vocab_add(&vocab, id);
        for (int32_t id = 0; id < spec->n_tokens; id++) TRY(put_ranked(spec, &vocab, id, out, &first));
    }
    TRY(put(out, first ? "]" : "\n    ]"));
out:
    vocab_free(&vocab);
    return st;
}

static json_t *unk_json(const TokenizerSpec *spec) {
    return spec->unk < 0 ? json_null() : text_json(text_of(spec, spec->unk));
}

static Status put_model(const TokenizerSpec *spec, Str *out) {
    static const char *const names[] = {"BPE", "Unigram", "WordPiece", "WordLevel"};
    TRY_RETURN(str_printf(out, "{\n    \"type\": \"%s\"", names[spec->model]));
    switch (spec->model) {
    case TOKEN_BPE:
        TRY_RETURN(put_member(out, "dropout", json_null()));
        TRY_RETURN(put_member(out, "unk_token", unk_json(spec)));
        TRY_RETURN(put_member(out, "continuing_subword_prefix", text_or_null(spec->continuing_subword_prefix)));
        TRY_RETURN(put_member(out, "end_of_word_suffix", text_or_null(spec->end_of_word_suffix)));
        TRY_RETURN(put_member(out, "fuse_unk", json_boolean(spec->fuse_unk)));
        TRY_RETURN(put_member(out, "byte_fallback", json_boolean(spec->byte_fallback)));
        TRY_RETURN(put_member(out, "ignore_merges", json_boolean(spec->ignore_merges)));
        TRY_RETURN(put_vocab(spec, out));
        TRY_RETURN(put_merges(spec, out));
        break;
    case TOKEN_UNIGRAM:
        TRY_RETURN(put_member(out, "unk_id", spec->unk < 0 ? json_null() : json_integer(spec->unk)));
        TRY_RETURN(put_scores(spec, out));
        TRY_RETURN(put_member(out, "byte_fallback", json_boolean(spec->byte_fallback)));
        break;
    case TOKEN_WORDPIECE:
        TRY_RETURN(put_member(out, "unk_token", unk_json(spec)));
        TRY_RETURN(put_member(out, "continuing_subword_prefix", text_json(spec->continuing_subword_prefix)));
        TRY_RETURN(put_member(out, "max_input_chars_per_word", json_integer(spec->max_input_chars_per_word)));
        TRY_RETURN(put_vocab(spec, out));
        break;
    case TOKEN_WORDLEVEL:
        TRY_RETURN(put_vocab(spec, out));
        TRY_RETURN(put_member(out, "unk_token", unk_json(spec)));
        break;
    }
    return put(out, "\n  }");
}

/* ---- the file ---- */

static Status put_part(Str *out, const char *key, json_t *value) {
    if (!value) return no_memory();
    Status st = str_printf(out, "  \"%s\": ", key);
    if (st == TANE_OK) st = json_write_indented(out, value, 1);
    if (st == TANE_OK) st = put(out, ",\n");
    json_decref(value);
    return st;
}

Status tokenizer_spec_json(const TokenizerSpec *spec, Str *out) {
    TRY_RETURN(put(out, "{\n"));
    TRY_RETURN(put_part(out, "version", json_string("1.0")));
    TRY_RETURN(put_part(out, "truncation", json_null()));
    TRY_RETURN(put_part(out, "padding", json_null()));
    TRY_RETURN(put_part(out, "added_tokens", added_json(spec)));
    TRY_RETURN(put_part(out, "normalizer", steps_json(&spec->normalizers, "normalizers", normalizer_json)));
    TRY_RETURN(put_part(out, "pre_tokenizer", steps_json(&spec->pre_tokenizers, "pretokenizers", pre_tokenizer_json)));
    TRY_RETURN(put_part(out, "post_processor", post_json(spec)));
    TRY_RETURN(put_part(out, "decoder", steps_json(&spec->decoders, "decoders", decoder_json)));
    TRY_RETURN(put(out, "  \"model\": "));
    TRY_RETURN(put_model(spec, out));
    return put(out, "\n}\n");
}
