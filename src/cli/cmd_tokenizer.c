/* `tane tokenizer`: train a tokenizer, look at one, turn text into ids and back. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "cli/cli.h"
#include "cli/train_bpe.h"
#include "model/gguf_tokenizer.h"
#include "text/scan.h"
#include "text/tokenizer.h"

#define TABLE(title, rows) {(title), (rows), sizeof(rows) / sizeof *(rows)}

static Status write_out(const Str *text) {
    if (text->len && fwrite(text->text, 1, text->len, stdout) != text->len)
        return FAIL(TANE_EIO, "cannot write to standard output: %s", strerror(errno));
    return TANE_OK;
}

/* All of standard input, without the newline that ends it. */
static Status read_stdin(Str *out) {
    char buffer[65536];
    size_t n;
    while ((n = fread(buffer, 1, sizeof buffer, stdin)) > 0) TRY_RETURN(str_add(out, buffer, n));
    if (ferror(stdin)) return FAIL(TANE_EIO, "cannot read standard input: %s", strerror(errno));
    if (out->len && out->text[out->len - 1] == '\n') out->text[--out->len] = 0;
    return TANE_OK;
}

/* ---- tane tokenizer train ---- */

typedef struct TrainConfig {
    StringList input;
    const char *out, *model_type;
    int64_t vocab_size, sample, seed, threads;
    double character_coverage;
    bool split_digits, byte_fallback, add_dummy_prefix;
    StringList special_tokens;
    const char *bos_token, *eos_token, *pad_token, *pattern;
    int64_t min_frequency;
    bool lines;
} TrainConfig;

#define ROW(field, type, fallback, choices, lo, hi, group, help)                                                       \
    {#field, OPTION_##type, offsetof(TrainConfig, field), fallback, choices, lo, hi, group, help}

static const Option train_rows[] = {
    ROW(input, LIST, NULL, NULL, 0, 0, "Files",
        "files to learn from: .jsonl with \"prompt\" and \"completion\" (joined) or \"text\" on each line, or any "
        "other file with one sentence a line, for byte_bpe with one text (required)"),
    ROW(out, STRING, NULL, NULL, 0, 0, "Files",
        "writes OUT.model and OUT.vocab; byte_bpe: the folder OUT with tokenizer.json (required)"),
    ROW(sample, INT, "0", NULL, 0, 9e18, "Files", "learn from so many sentences drawn at random; 0: from all"),
    ROW(seed, INT, "42", NULL, 0, 9e18, "Files", "another seed: another sample"),
    ROW(vocab_size, INT, "8000", NULL, 1, 1 << 24, "Vocabulary",
        "pieces in all, special ones included; with char the most there may be"),
    ROW(model_type, CHOICE, "unigram", "unigram|bpe|char|byte_bpe", 0, 0, "Vocabulary",
        "SentencePiece's unigram: the likeliest pieces; bpe: the most frequent pairs; char: single characters; "
        "byte_bpe: byte-level BPE as GPT-2 and Llama 3 have it, in Hugging Face's files"),
    ROW(character_coverage, FLOAT, "1", NULL, 0.98, 1, "Vocabulary",
        "share of the text whose characters get a piece; 0.9995 for Japanese or Chinese with byte_fallback"),
    ROW(split_digits, BOOL, "false", NULL, 0, 0, "Vocabulary", "every digit is a piece of its own"),
    ROW(byte_fallback, BOOL, "false", NULL, 0, 0, "Vocabulary",
        "256 byte pieces, so that no character is unknown"),
    ROW(add_dummy_prefix, BOOL, "false", NULL, 0, 0, "Vocabulary",
        "a space in front of every text, as SentencePiece does by default"),
    ROW(min_frequency, INT, "2", NULL, 0, 9e18, "byte_bpe", "pairs that occur less often become no token"),
    ROW(special_tokens, LIST, "<|endoftext|>", NULL, 0, 0, "byte_bpe",
        "they get the first ids; the first one begins and ends texts, unless named below"),
    ROW(bos_token, STRING, NULL, NULL, 0, 0, "byte_bpe", "the special token that begins a text"),
    ROW(eos_token, STRING, NULL, NULL, 0, 0, "byte_bpe", "the special token that ends it"),
    ROW(pad_token, STRING, NULL, NULL, 0, 0, "byte_bpe", "the special token that fills rows"),
    ROW(pattern, STRING, NULL, NULL, 0, 0, "byte_bpe",
        "how text is cut into words: gpt2, cl100k, o200k or a regular expression; default: GPT-2's, in ByteLevel"),
    ROW(lines, BOOL, "false", NULL, 0, 0, "byte_bpe",
        "each line of a text file is a text of its own, as for Hugging Face's train(files)"),
    ROW(threads, INT, "0", NULL, 0, 1024, "Machine", "CPUs to use, 0: all; the result is the same"),
};
#undef ROW

static const OptionTable train_table = TABLE("tane tokenizer train", train_rows);

/* Sentences, texts in one arena. */
typedef struct Corpus {
    Arena arena;
    const char **sentences; /* (n) */
    size_t n, cap;
} Corpus;

static Status corpus_add(Corpus *corpus, const char *prompt, size_t n_prompt, const char *rest, size_t n_rest) {
    if (corpus->n == corpus->cap) {
        size_t cap = corpus->cap ? 2 * corpus->cap : 1024;
        TRY_RETURN(mem_grow((void **)&corpus->sentences, corpus->n, cap, sizeof *corpus->sentences));
        corpus->cap = cap;
    }
    char *text;
    TRY_RETURN(arena_new(&corpus->arena, (void **)&text, n_prompt + n_rest + 1, 1));
    memcpy(text, prompt, n_prompt);
    memcpy(text + n_prompt, rest, n_rest);
    corpus->sentences[corpus->n++] = text;
    return TANE_OK;
}

static Status add_json_line(Corpus *corpus, const char *where, const char *line, size_t n) {
    Status st = TANE_OK;
    json_t *object;
    const char *prompt = "", *rest = NULL;
    TRY_RETURN(json_read_text(where, line, n, &object));
    if (!json_is_object(object)) {
        st = FAIL(TANE_EFORMAT, "%s: expected {\"prompt\": ..., \"completion\": ...} or {\"text\": ...}", where);
        goto out;
    }
    TRY(json_opt_string(object, where, "text", &rest));
    if (!rest) {
        if (!json_object_get(object, "prompt") && !json_object_get(object, "completion")) {
            st = FAIL(TANE_EFORMAT, "%s: no text in it; each line needs {\"prompt\": ..., \"completion\": ...} or "
                      "{\"text\": ...}", where);
            goto out;
        }
        TRY(json_get_string(object, where, "prompt", &prompt));
        TRY(json_get_string(object, where, "completion", &rest));
    }
    TRY(corpus_add(corpus, prompt, strlen(prompt), rest, strlen(rest)));
out:
    json_decref(object);
    return st;
}

static Status add_file(Corpus *corpus, const char *path) {
    Status st = TANE_OK;
    FileMap map = {0};
    Str where = {0};
    size_t length = strlen(path), number = 0, before = corpus->n;
    bool jsonl = length > 6 && strcmp(path + length - 6, ".jsonl") == 0;
    TRY_RETURN(file_map(path, &map));
    const char *text = (const char *)map.data, *end = text + map.size;
    if (map.size >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) text += 3; /* byte order mark */
    while (text < end) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        size_t n = (size_t)((newline ? newline : end) - text), step = n + 1;
        if (n && text[n - 1] == '\r') n--;
        number++;
        if (!jsonl && memchr(text, 0, n)) {
            st = FAIL(TANE_EFORMAT, "%s:%zu: a NUL byte; this is not a text file", path, number);
            goto out;
        }
        if (jsonl && strspn(text, " \t") < n) {
            where.len = 0;
            TRY(str_printf(&where, "%s:%zu", path, number));
            TRY(add_json_line(corpus, where.text, text, n));
        } else if (!jsonl && n) {
            TRY(corpus_add(corpus, "", 0, text, n));
        }
        text = newline ? text + step : end;
    }
    if (corpus->n == before) st = FAIL(TANE_EFORMAT, "%s: there is no text in this file", path);
out:
    str_free(&where);
    file_unmap(&map);
    return st;
}

/* Keeps `wanted` of the sentences, the first ones of a seeded permutation. */
static Status draw_sample(Corpus *corpus, size_t wanted, uint64_t seed) {
    if (wanted == 0 || wanted >= corpus->n) return TANE_OK;
    const char **drawn;
    TRY_RETURN(MEM_NEW_ARRAY(&drawn, wanted));
    for (size_t i = 0; i < wanted; i++) drawn[i] = corpus->sentences[rng_permute(seed, 0, corpus->n, i)];
    mem_free(corpus->sentences);
    corpus->sentences = drawn;
    corpus->n = corpus->cap = wanted;
    return TANE_OK;
}

static Status report_trained(const char *prefix, size_t sentences) {
    Status st = TANE_OK;
    Str path = {0};
    Tokenizer *tok = NULL;
    TRY(str_printf(&path, "%s.model", prefix));
    TRY(tokenizer_load(&tok, path.text));
    fprintf(stderr, "%s.model and %s.vocab: %d pieces from %zu sentences\n", prefix, prefix, tokenizer_vocab_size(tok),
            sentences);
out:
    tokenizer_free(tok);
    str_free(&path);
    return st;
}

/* Options of the other kind of tokenizer, which would be left out without a word. */
static Status check_kind(const Command *self, const OptionSet *set, bool byte_bpe) {
    static const char *const theirs[] = {"sample", "seed", "character_coverage", "split_digits", "byte_fallback",
                                         "add_dummy_prefix"};
    for (size_t i = 0; byte_bpe && i < sizeof theirs / sizeof *theirs; i++)
        if (option_is_set(set, theirs[i]))
            return cli_usage(self, "%s is an option of unigram, bpe and char, not of byte_bpe", theirs[i]);
    for (size_t i = 0; !byte_bpe && i < set->table->n; i++) {
        const Option *row = &set->table->rows[i];
        if (strcmp(row->group, "byte_bpe") == 0 && option_is_set(set, row->name))
            return cli_usage(self, "%s is an option of --model-type byte_bpe", row->name);
    }
    return TANE_OK;
}

static Status train_byte_bpe(const TrainConfig *c) {
    static const struct {
        const char *name, *pattern;
    } known[] = {{"gpt2", scan_gpt2}, {"cl100k", scan_cl100k_json}, {"o200k", scan_o200k}};
    TrainBpe job = {
        .files = c->input.items,
        .n_files = c->input.n,
        .lines = c->lines,
        .out = c->out,
        .options = {.vocab_size = c->vocab_size,
                    .min_frequency = c->min_frequency,
                    .pattern = c->pattern,
                    .special = c->special_tokens.items,
                    .n_special = c->special_tokens.n,
                    .bos = c->bos_token,
                    .eos = c->eos_token,
                    .pad = c->pad_token,
                    .threads = c->threads},
    };
    for (size_t i = 0; c->pattern && i < sizeof known / sizeof *known; i++)
        if (strcmp(c->pattern, known[i].name) == 0) job.options.pattern = known[i].pattern;
    return train_bpe(&job);
}

static Status train_run(const Command *self, int argc, char **argv) {
    Status st = TANE_OK;
    TrainConfig c = {0};
    OptionSet set = {0};
    Corpus corpus = {0};
    TRY(option_init(&set, self->options, &c));
    TRY(option_parse_args(&set, argc, argv, NULL));
    if (c.input.n == 0) TRY(cli_usage(self, "--input FILE.jsonl is missing"));
    bool byte_bpe = strcmp(c.model_type, "byte_bpe") == 0;
    if (!c.out && byte_bpe) TRY(cli_usage(self, "--out FOLDER is missing"));
    if (!c.out) TRY(cli_usage(self, "--out PREFIX is missing (writes PREFIX.model and PREFIX.vocab)"));
    TRY(check_kind(self, &set, byte_bpe));
    if (byte_bpe) {
        TRY(train_byte_bpe(&c));
        goto out;
    }
    for (size_t i = 0; i < c.input.n; i++) TRY(add_file(&corpus, c.input.items[i]));
    TRY(draw_sample(&corpus, (size_t)c.sample, (uint64_t)c.seed));
    TokenizerTrainOptions options = {
        .model_type = c.model_type,
        .vocab_size = c.vocab_size,
        .character_coverage = c.character_coverage,
        .byte_fallback = c.byte_fallback,
        .split_digits = c.split_digits,
        .add_dummy_prefix = c.add_dummy_prefix,
        .threads = c.threads,
    };
    TRY(tokenizer_train(corpus.sentences, corpus.n, &options, c.out));
    TRY(report_trained(c.out, corpus.n));
out:
    mem_free(corpus.sentences);
    arena_release(&corpus.arena);
    option_release(&set);
    return st;
}

static const Command train_command = {
    .name = "train",
    .summary = "learn a vocabulary from text",
    .usage = "tane tokenizer train --input FILE.jsonl [FILE2 ...] --vocab-size N --out PREFIX [options]",
    .examples =
        "  tane tokenizer train --input data.jsonl --vocab-size 35 --out math_tokenizer\n"
        "  tane tokenizer train --input data.jsonl --model-type char --vocab-size 64 --out chars\n"
        "  tane tokenizer train --input a.txt b.txt --model-type bpe --vocab-size 8000 --byte-fallback --out bpe8k\n"
        "  tane tokenizer train --input a.txt b.txt --model-type byte_bpe --vocab-size 32000 --out my_tokenizer\n",
    .options = &train_table,
    .details = "A text comes back unchanged after encoding and decoding; with unigram, bpe and char unless it has\n"
               "characters that the training text had not (they become <unk>; --byte-fallback prevents that) or the\n"
               "character U+2581.\n",
    .run = train_run,
};

/* ---- what the commands on a finished tokenizer share ---- */

typedef struct ViewConfig {
    const char *csv, *out;
    bool json, pieces;
} ViewConfig;

typedef struct View {
    ViewConfig config;
    OptionSet set;
    Tokenizer *tok;
    StringList words; /* behind the model */
    Str out;
} View;

#define ROW(field, type, fallback, help)                                                                               \
    {#field, OPTION_##type, offsetof(ViewConfig, field), fallback, NULL, 0, 0, "Output", help}

static Status view_open(View *view, const Command *self, int argc, char **argv) {
    TRY_RETURN(option_init(&view->set, self->options, &view->config));
    TRY_RETURN(option_parse_args(&view->set, argc, argv, &view->words));
    if (view->words.n == 0) return cli_usage(self, "which tokenizer? name its file or a model");
    TRY_RETURN(model_tokenizer_load(&view->tok, view->words.items[0]));
    view->words.items++;
    view->words.n--;
    return TANE_OK;
}

static Status view_close(View *view, Status st) {
    if (st == TANE_OK) st = write_out(&view->out);
    str_free(&view->out);
    tokenizer_free(view->tok);
    option_release(&view->set);
    return st;
}

static Status add_json_piece(Str *out, const char *text) { return json_write_text(out, text, strlen(text)); }

/* ---- tane tokenizer show ---- */

static const Option show_rows[] = {
    ROW(csv, STRING, NULL, "writes the list to this CSV file instead; - is standard output"),
    ROW(json, BOOL, "false", "one JSON array of {id, piece, score, type}"),
};
static const OptionTable show_table = TABLE("tane tokenizer show", show_rows);

/* RFC 4180: quotes around a field that has a quote, a comma or a line break in it, and quotes doubled. */
static Status add_csv_field(Str *out, const char *text) {
    if (!strpbrk(text, "\",\r\n")) return str_printf(out, "%s", text);
    TRY_RETURN(str_add(out, "\"", 1));
    for (; *text; text++) TRY_RETURN(*text == '"' ? str_add(out, "\"\"", 2) : str_add(out, text, 1));
    return str_add(out, "\"", 1);
}

static Status list_csv(const Tokenizer *tok, Str *out) {
    TRY_RETURN(str_printf(out, "id,piece,score,type\n"));
    for (int32_t id = 0; id < tokenizer_vocab_size(tok); id++) {
        TokenPiece piece;
        TRY_RETURN(tokenizer_piece(tok, id, &piece));
        TRY_RETURN(str_printf(out, "%d,", id));
        TRY_RETURN(add_csv_field(out, piece.text));
        TRY_RETURN(str_printf(out, ",%g,%s\n", (double)piece.score, piece.type));
    }
    return TANE_OK;
}

static Status list_json(const Tokenizer *tok, Str *out) {
    for (int32_t id = 0; id < tokenizer_vocab_size(tok); id++) {
        TokenPiece piece;
        TRY_RETURN(tokenizer_piece(tok, id, &piece));
        TRY_RETURN(str_printf(out, "%s{\"id\":%d,\"piece\":", id ? ",\n " : "[", id));
        TRY_RETURN(add_json_piece(out, piece.text));
        TRY_RETURN(str_printf(out, ",\"score\":%.9g,\"type\":\"%s\"}", (double)piece.score, piece.type));
    }
    return str_add(out, "]\n", 2);
}

/* For the eye: control characters in JSON's spelling, so that a line stays a line. */
static Status list_table(const Tokenizer *tok, Str *out) {
    TRY_RETURN(str_printf(out, "%6s  %10s  %-12s  %s\n", "id", "score", "type", "piece"));
    for (int32_t id = 0; id < tokenizer_vocab_size(tok); id++) {
        TokenPiece piece;
        TRY_RETURN(tokenizer_piece(tok, id, &piece));
        TRY_RETURN(str_printf(out, "%6d  %10.4f  %-12s  ", id, (double)piece.score, piece.type));
        TRY_RETURN(add_json_piece(out, piece.text));
        TRY_RETURN(str_add(out, "\n", 1));
    }
    return TANE_OK;
}

static Status show_run(const Command *self, int argc, char **argv) {
    Status st = TANE_OK;
    View view = {0};
    TRY(view_open(&view, self, argc, argv));
    const char *csv = view.config.csv;
    if (view.words.n) TRY(cli_usage(self, "one tokenizer at a time; what is \"%s\"?", view.words.items[0]));
    if (csv && view.config.json) TRY(cli_usage(self, "--csv and --json exclude one another"));
    if (csv) TRY(list_csv(view.tok, &view.out));
    else if (view.config.json) TRY(list_json(view.tok, &view.out));
    else TRY(list_table(view.tok, &view.out));
    if (csv && strcmp(csv, "-") != 0) {
        TRY(file_write_atomic(csv, view.out.text, view.out.len));
        view.out.len = 0;
        fprintf(stderr, "%s: %d pieces\n", csv, tokenizer_vocab_size(view.tok));
    }
out:
    return view_close(&view, st);
}

static const Command show_command = {
    .name = "show",
    .summary = "list id, piece, score and type",
    .usage = "tane tokenizer show MODEL [--csv OUT.csv | --json]",
    .examples = "  tane tokenizer show math_tokenizer.model\n"
                "  tane tokenizer show math_tokenizer.model --csv vocabulary.csv\n"
                "  tane tokenizer show runs/math/best --json\n",
    .options = &show_table,
    .run = show_run,
};

/* ---- tane tokenizer encode ---- */

static const Option encode_rows[] = {
    ROW(json, BOOL, "false", "one JSON object a text: {ids} or, with --pieces, {ids, pieces}"),
    ROW(pieces, BOOL, "false", "pieces instead of ids"),
};
static const OptionTable encode_table = TABLE("tane tokenizer encode", encode_rows);

static Status add_ids(const Tokenizer *tok, const TokenList *list, bool pieces, bool json, Str *out) {
    for (size_t i = 0; i < list->n; i++) {
        const char *gap = i == 0 ? "" : json ? "," : " ";
        TRY_RETURN(str_printf(out, "%s", gap));
        if (!pieces) {
            TRY_RETURN(str_printf(out, "%d", list->ids[i]));
            continue;
        }
        TokenPiece piece;
        TRY_RETURN(tokenizer_piece(tok, list->ids[i], &piece));
        TRY_RETURN(add_json_piece(out, piece.text));
    }
    return TANE_OK;
}

static Status encode_one(View *view, const char *text, size_t n) {
    Status st = TANE_OK;
    TokenList list = {0};
    const ViewConfig *c = &view->config;
    TRY(tokenizer_encode(view->tok, text, n, &list));
    if (c->json) {
        TRY(str_printf(&view->out, "{\"ids\":["));
        TRY(add_ids(view->tok, &list, false, true, &view->out));
        if (c->pieces) {
            TRY(str_printf(&view->out, "],\"pieces\":["));
            TRY(add_ids(view->tok, &list, true, true, &view->out));
        }
        TRY(str_printf(&view->out, "]}\n"));
    } else {
        TRY(add_ids(view->tok, &list, c->pieces, false, &view->out));
        TRY(str_add(&view->out, "\n", 1));
    }
out:
    token_list_free(&list);
    return st;
}

static Status encode_run(const Command *self, int argc, char **argv) {
    Status st = TANE_OK;
    View view = {0};
    Str input = {0};
    TRY(view_open(&view, self, argc, argv));
    for (size_t i = 0; i < view.words.n; i++) TRY(encode_one(&view, view.words.items[i], strlen(view.words.items[i])));
    if (view.words.n == 0) {
        TRY(read_stdin(&input));
        TRY(encode_one(&view, input.text, input.len));
    }
out:
    str_free(&input);
    return view_close(&view, st);
}

static const Command encode_command = {
    .name = "encode",
    .summary = "text to token ids",
    .usage = "tane tokenizer encode MODEL [TEXT ...] [--pieces] [--json]",
    .examples = "  tane tokenizer encode math_tokenizer.model '12+(-34)='\n"
                "  tane tokenizer encode math_tokenizer.model --pieces '12+(-34)=' '5*6='\n"
                "  tane tokenizer encode math_tokenizer.model --json < text.txt\n",
    .options = &encode_table,
    .details = "One line of ids a TEXT. Without TEXT all of standard input is one text (without its last newline).\n"
               "A text that looks like an option goes behind --.\n",
    .run = encode_run,
};

/* ---- tane tokenizer decode ---- */

static const Option decode_rows[] = {
    ROW(json, BOOL, "false", "one JSON object {text}"),
};
static const OptionTable decode_table = TABLE("tane tokenizer decode", decode_rows);

/* Ids between white space, commas and brackets, so that the output of encode goes straight back in. */
static Status read_ids(const char *text, TokenList *list) {
    static const char between[] = " \t\r\n,[]";
    for (text += strspn(text, between); *text; text += strspn(text, between)) {
        char *end;
        errno = 0;
        long id = strtol(text, &end, 10);
        size_t n = strcspn(text, between);
        if (end != text + n || errno || id != (int32_t)id)
            return FAIL(TANE_EINVAL, "\"%.*s\" is not a token id; ids are whole numbers", (int)(n < 40 ? n : 40), text);
        if (list->n == list->cap) {
            size_t cap = list->cap ? 2 * list->cap : 64;
            TRY_RETURN(mem_grow((void **)&list->ids, list->n, cap, sizeof *list->ids));
            list->cap = cap;
        }
        list->ids[list->n++] = (int32_t)id;
        text = end;
    }
    return TANE_OK;
}

static Status decode_run(const Command *self, int argc, char **argv) {
    Status st = TANE_OK;
    View view = {0};
    Str input = {0}, text = {0};
    TokenList list = {0};
    TRY(view_open(&view, self, argc, argv));
    for (size_t i = 0; i < view.words.n; i++) TRY(read_ids(view.words.items[i], &list));
    if (view.words.n == 0) {
        TRY(read_stdin(&input));
        if (input.len) TRY(read_ids(input.text, &list));
    }
    TRY(tokenizer_decode(view.tok, list.ids, list.n, &text));
    if (view.config.json) {
        TRY(str_printf(&view.out, "{\"text\":"));
        TRY(json_write_text(&view.out, text.len ? text.text : "", text.len));
        TRY(str_add(&view.out, "}\n", 2));
    } else {
        if (text.len) TRY(str_add(&view.out, text.text, text.len));
        TRY(str_add(&view.out, "\n", 1));
    }
out:
    token_list_free(&list);
    str_free(&text);
    str_free(&input);
    return view_close(&view, st);
}

static const Command decode_command = {
    .name = "decode",
    .summary = "token ids to text",
    .usage = "tane tokenizer decode MODEL [ID ...] [--json]",
    .examples = "  tane tokenizer decode math_tokenizer.model 10 5 31 34 4\n"
                "  tane tokenizer encode math_tokenizer.model '1+1=2' | tane tokenizer decode math_tokenizer.model\n",
    .options = &decode_table,
    .details = "Without ID the ids come from standard input, between spaces, commas or line breaks.\n",
    .run = decode_run,
};

/* ---- tane tokenizer export ---- */

static Status export_run(const Command *self, int argc, char **argv) {
    Status st = TANE_OK;
    View view = {0};
    TRY(view_open(&view, self, argc, argv));
    if (view.words.n) TRY(cli_usage(self, "one tokenizer at a time; what is \"%s\"?", view.words.items[0]));
    if (!view.config.out) TRY(cli_usage(self, "--out FOLDER is missing"));
    TRY(tokenizer_save(view.tok, view.config.out));
    fprintf(stderr, "%s: tokenizer files for transformers\n", view.config.out);
out:
    return view_close(&view, st);
}

static const Option export_rows[] = {
    ROW(out, STRING, NULL, "folder to write to (required)"),
};
static const OptionTable export_table = TABLE("tane tokenizer export", export_rows);

static const Command export_command = {
    .name = "export",
    .summary = "write the files that transformers opens",
    .usage = "tane tokenizer export MODEL --out FOLDER",
    .examples = "  tane tokenizer export math_tokenizer.model --out math_tokenizer\n",
    .options = &export_table,
    .details = "Writes tokenizer.model, tokenizer.json, tokenizer_config.json and special_tokens_map.json.\n"
               "transformers gives the same ids, but reads \"</s>\" in a text as the special token; tane does not.\n",
    .run = export_run,
};

static const Command *const subcommands[] = {&train_command,  &show_command,   &encode_command,
                                             &decode_command, &export_command, NULL};

const Command cmd_tokenizer = {
    .name = "tokenizer",
    .summary = "train a tokenizer, look at one, encode, decode, export",
    .usage = "tane tokenizer train|show|encode|decode|export ...",
    .examples = "  tane tokenizer train --input data.jsonl --vocab-size 35 --out math_tokenizer\n"
                "  tane tokenizer show math_tokenizer.model --csv vocabulary.csv\n"
                "  tane tokenizer encode math_tokenizer.model '12+(-34)='\n"
                "  tane tokenizer decode math_tokenizer.model 10 5 31\n",
    .sub = subcommands,
};
