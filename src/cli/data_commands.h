/* The commands of `tane data`, and what those that read rows have in common. */
#ifndef CLI_DATA_COMMANDS_H
#define CLI_DATA_COMMANDS_H

#include "cli/cli.h"
#include "data/options.h"

extern const Command cmd_data_arithmetic, cmd_data_show, cmd_data_stats, cmd_data_prepare;

/* Files as training would read them. */
typedef struct DataInput {
    Tokenizer *tokenizer;
    ChatTemplate *chat;
    DatasetOptions options; /* texts in `arena` */
    DataSource *sources;    /* in `arena` */
    size_t n_sources;
    Arena arena;
} DataInput;

/* tokenizer: file, model folder or .gguf. Without tokenizer or files it is wrong usage of `self`. */
Status data_input_open(DataInput *in, const Command *self, const char *tokenizer, const DataOptions *options,
                       const StringList *files);
void data_input_close(DataInput *in);

#endif
