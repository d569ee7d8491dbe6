/* The options of rows and layouts, shared by `tane train` and `tane data`. */
#ifndef DATA_OPTIONS_H
#define DATA_OPTIONS_H

#include "base/option.h"
#include "data/layout.h"

typedef struct DataOptions {
#include "base/option_fields.h"
#include "data/options.def"
#include "base/option_end.h"
} DataOptions;

/* Options against each other. */
Status data_options_check(const DataOptions *o);
/* chat may be NULL. Texts are the options', but for escapes (\n, \t, \\), which are made characters in `arena`. */
Status data_options_dataset(const DataOptions *o, const Tokenizer *tokenizer, const ChatTemplate *chat, Arena *arena,
                            DatasetOptions *out);
LayoutKind data_options_layout(const DataOptions *o);
/* The rows of a batch with these options. */
Status data_options_arrange(const DataOptions *o, const Dataset *set, Layout **out);
/* Everything that tokens depend on beside tokenizer and files, as one text in `arena`: see prepare. */
Status data_options_settings(const DatasetOptions *o, Arena *arena, char **out);

#endif
