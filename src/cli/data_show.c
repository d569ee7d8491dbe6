/* `tane data show`: rows as the model sees them. */
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "cli/data_commands.h"

typedef struct ShowConfig {
    const char *tokenizer;
    int64_t limit;
    bool json;
    DataOptions rows;
} ShowConfig;

#define OPTION_STRUCT ShowConfig
static const Option show_rows[] = {
#include "base/option_rows.h"
    TEXT(tokenizer, NULL, "Show", "tokenizer model, or a model folder that has one (required)")
        INT(limit, 10, 0, 9e18, "Show", "rows of the layout to print; 0: all")
            BOOL(json, false, "Show", "one JSON object a document: line, ids, pieces, trained")
#include "base/option_end.h"
#define OPTION_MEMBER rows
#include "base/option_rows.h"
#include "data/options.def"
#include "base/option_end.h"
};

static const OptionTable show_table = {"tane data show", show_rows, sizeof show_rows / sizeof *show_rows};

/* A stretch of a document that stands in a row of the layout. */
typedef struct Stretch {
    DatasetRow row;
    int64_t from, n;   /* its tokens */
    bool first_trains; /* of windows: a document's first token is a target too */
} Stretch;

static bool trained(const Stretch *s, int64_t t) {
    const TokenShard *shard = s->row.shard;
    if (t > 0 || !s->first_trains) return row_trained(&s->row, t);
    return !shard->mask || shard_trained(shard, s->row.begin, s->row.begin);
}

/* "data.jsonl:3  1 2 + 3 4 = [4] [6] [</s>]": pieces, the trained ones in brackets (and green on a terminal). */
static Status add_text(const Tokenizer *tok, const Stretch *s, bool colour, Str *out) {
    TRY_RETURN(str_printf(out, "%s:%lld ", s->row.source, (long long)s->row.line));
    if (s->from > 0) TRY_RETURN(str_printf(out, " ..."));
    for (int64_t t = s->from; t < s->from + s->n; t++) {
        TokenPiece piece;
        TRY_RETURN(tokenizer_piece(tok, row_token(&s->row, t), &piece));
        const char *format = !trained(s, t) ? " %s" : colour ? " \033[32m[%s]\033[0m" : " [%s]";
        TRY_RETURN(str_printf(out, format, piece.text));
    }
    if (s->from + s->n < s->row.n) TRY_RETURN(str_printf(out, " ..."));
    else if (s->row.n < s->row.full)
        TRY_RETURN(str_printf(out, "  (cut: %lld more tokens)", (long long)(s->row.full - s->row.n)));
    return str_add(out, "\n", 1);
}

static Status add_json(const Tokenizer *tok, const Stretch *s, int64_t unit, bool with_unit, Str *out) {
    Status st = TANE_OK;
    json_t *ids = json_array(), *pieces = json_array(), *learned = json_array(), *object = NULL;
    for (int64_t t = s->from; t < s->from + s->n; t++) {
        TokenPiece piece;
        TRY(tokenizer_piece(tok, row_token(&s->row, t), &piece));
        json_array_append_new(ids, json_integer(row_token(&s->row, t)));
        json_array_append_new(pieces, json_string(piece.text));
        json_array_append_new(learned, json_boolean(trained(s, t)));
    }
    object = json_pack("{s:I, s:O, s:O, s:O}", "line", (json_int_t)s->row.line, "ids", ids, "pieces", pieces, "trained",
                       learned);
    bool whole = object &&
                 json_array_size(ids) + json_array_size(pieces) + json_array_size(learned) == 3 * (size_t)s->n;
    if (whole && with_unit) whole = !json_object_set_new(object, "row", json_integer(unit));
    if (whole && s->row.n < s->row.full)
        whole = !json_object_set_new(object, "cut", json_integer(s->row.full - s->row.n));
    if (!whole) TRY(FAIL(TANE_ENOMEM, "out of memory while printing a row"));
    TRY(json_write_str(out, object));
    TRY(str_add(out, "\n", 1));
out:
    json_decref(object);
    json_decref(ids);
    json_decref(pieces);
    json_decref(learned);
    return st;
}

typedef struct Show {
    const ShowConfig *config;
    const Tokenizer *tokenizer;
    const Dataset *set;
    const Layout *layout;
    Str text;
} Show;

static Status print_stretch(Show *s, const Stretch *stretch, int64_t unit) {
    bool many = layout_kind(s->layout) != LAYOUT_PADDING;
    s->text.len = 0;
    if (many && !s->config->json) TRY_RETURN(str_printf(&s->text, "  "));
    TRY_RETURN(s->config->json ? add_json(s->tokenizer, stretch, unit, many, &s->text)
                               : add_text(s->tokenizer, stretch, cli_colour(stdout), &s->text));
    if (fwrite(s->text.text, 1, s->text.len, stdout) != s->text.len)
        return FAIL(TANE_EIO, "cannot write to standard output");
    return TANE_OK;
}

/* The documents of a padded or packed row. */
static Status print_documents(Show *s, int64_t index, int64_t unit) {
    int64_t n = layout_documents(s->layout, unit), tokens = 0;
    Stretch stretch = {0};
    for (int64_t i = 0; i < n; i++) {
        layout_document(s->layout, unit, i, &stretch.row);
        tokens += stretch.row.n - 1;
    }
    if (layout_kind(s->layout) == LAYOUT_PACKING && !s->config->json)
        printf("row %lld: %lld documents, %lld of %lld positions\n", (long long)index, (long long)n, (long long)tokens,
               (long long)layout_width(s->layout));
    for (int64_t i = 0; i < n; i++) {
        layout_document(s->layout, unit, i, &stretch.row);
        stretch.n = stretch.row.n;
        TRY_RETURN(print_stretch(s, &stretch, index));
    }
    return TANE_OK;
}

static Status print_window(Show *s, int64_t index, int64_t unit) {
    int64_t left = layout_width(s->layout) + 1;
    Stretch stretch = {.first_trains = true};
    if (!s->config->json) printf("window %lld\n", (long long)index);
    for (int64_t i = 0, n = layout_documents(s->layout, unit); i < n && left > 0; i++) {
        layout_document(s->layout, unit, i, &stretch.row);
        stretch.from = i == 0 ? layout_offset(s->layout, unit) : 0;
        stretch.n = stretch.row.n - stretch.from < left ? stretch.row.n - stretch.from : left;
        left -= stretch.n;
        TRY_RETURN(print_stretch(s, &stretch, index));
    }
    return TANE_OK;
}

static Status show_set(Show *s) {
    int64_t units = layout_ordered(s->layout), limit = s->config->limit;
    for (int64_t i = 0; i < units && (limit == 0 || i < limit); i++) {
        int64_t unit = layout_in_order(s->layout, i);
        TRY_RETURN(layout_kind(s->layout) == LAYOUT_WINDOWS ? print_window(s, i, unit) : print_documents(s, i, unit));
    }
    fflush(stdout);
    fprintf(stderr, "%lld rows, %lld tokens, the longest row %lld; %lld dropped, %lld cut, %lld unknown tokens\n",
            (long long)dataset_rows(s->set), (long long)dataset_tokens(s->set), (long long)dataset_longest(s->set),
            (long long)dataset_dropped(s->set), (long long)dataset_cut(s->set), (long long)dataset_unknown(s->set));
    return TANE_OK;
}

static Status show(const Command *self, const ShowConfig *c, const StringList *files) {
    Status st = TANE_OK;
    DataInput in;
    Dataset *set = NULL;
    Layout *layout = NULL;
    Show s = {.config = c};
    TRY_RETURN(data_input_open(&in, self, c->tokenizer, &c->rows, files));
    TRY(dataset_load(&set, in.sources, in.n_sources, &in.options, 0));
    TRY(data_options_arrange(&c->rows, set, &layout));
    s.tokenizer = in.tokenizer;
    s.set = set;
    s.layout = layout;
    TRY(show_set(&s));
out:
    str_free(&s.text);
    layout_free(layout);
    dataset_free(set);
    data_input_close(&in);
    return st;
}

static Status run_show(const Command *self, int argc, char **argv) {
    ShowConfig config;
    OptionSet set;
    StringList files;
    TRY_RETURN(option_init(&set, self->options, &config));
    Status st = option_parse_args(&set, argc, argv, &files);
    if (st == TANE_OK) st = show(self, &config, &files);
    option_release(&set);
    return st;
}

const Command cmd_data_show = {
    .name = "show",
    .summary = "rows as training sees them: tokens, and which of them are learned",
    .usage = "tane data show FILE... --tokenizer MODEL [options]",
    .examples =
        "  tane data show math.jsonl --tokenizer math_tokenizer.model\n"
        "  tane data show math.jsonl --tokenizer runs/quickstart/best --limit 3 --json\n"
        "  tane data show chats.parquet --tokenizer SmolLM2-135M-Instruct --assistant-only-loss --layout packing\n",
    .options = &show_table,
    .details = "Learned tokens stand in brackets: 1 2 + 3 4 = [4] [6] [</s>]\n"
               "Packed rows and windows are shown with a line for each document in them.\n",
    .run = run_show,
};
