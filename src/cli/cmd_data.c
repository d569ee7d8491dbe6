/* `tane data`: make data sets, look at them as training will see them, and prepare them. */
#include "cli/data_commands.h"
#include "infer/open.h"
#include "model/gguf_tokenizer.h"

Status data_input_open(DataInput *in, const Command *self, const char *tokenizer, const DataOptions *options,
                       const StringList *files) {
    Status st = TANE_OK;
    ErrorCopy why = {0};
    *in = (DataInput){0};
    if (files->n == 0) return cli_usage(self, "name at least one file, pattern or folder");
    if (!tokenizer) return cli_usage(self, "--tokenizer MODEL is missing");
    TRY(model_tokenizer_load(&in->tokenizer, tokenizer));
    TRY(open_template(&in->chat, options->chat_template, tokenizer, in->tokenizer, &why));
    if (why.code != TANE_OK) fprintf(stderr, "warning: the chat template cannot be read: %s\n", why.text);
    TRY(data_options_dataset(options, in->tokenizer, in->chat, &in->arena, &in->options));
    TRY(ARENA_NEW_ARRAY(&in->arena, &in->sources, files->n));
    in->n_sources = files->n;
    for (size_t i = 0; i < files->n; i++) in->sources[i] = (DataSource){files->items[i], 1, 1};
out:
    if (st != TANE_OK) data_input_close(in);
    return st;
}

void data_input_close(DataInput *in) {
    chat_template_free(in->chat);
    tokenizer_free(in->tokenizer);
    arena_release(&in->arena);
    *in = (DataInput){0};
}

static const Command *const subcommands[] = {&cmd_data_arithmetic, &cmd_data_show, &cmd_data_stats, &cmd_data_prepare,
                                             NULL};

const Command cmd_data = {
    .name = "data",
    .summary = "make, inspect and prepare data sets",
    .usage = "tane data COMMAND [options]",
    .examples = "  tane data arithmetic --digits 2 --negative --out math.jsonl\n"
                "  tane data show math.jsonl --tokenizer math_tokenizer.model\n"
                "  tane data stats train.parquet --tokenizer SmolLM2-135M --max-length 1024\n"
                "  tane data prepare 'books/*.txt.gz' --tokenizer SmolLM2-135M --out tokens\n",
    .sub = subcommands,
};
