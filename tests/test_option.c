/* Options: strict values, YAML with the place of every error, command lines, precedence, round trips, the help
 * texts, and the table of training options. */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/option.h"
#include "train/options.h"

typedef struct Config {
    bool bf16, shuffle;
    int64_t seed, hidden_size;
    double learning_rate, dropout;
    const char *model, *lr_scheduler_type;
    StringList ops, train_files;
} Config;

#define ROW(field, type, fallback, choices, lo, hi, group, help)                                                       \
    {#field, OPTION_##type, offsetof(Config, field), fallback, choices, lo, hi, group, help}
static const Option rows[] = {
    ROW(bf16, BOOL, "false", NULL, 0, 0, "Machine", "bf16 products"),
    ROW(shuffle, BOOL, "true", NULL, 0, 0, "Machine", "shuffle the rows"),
    ROW(seed, INT, "42", NULL, 0, INFINITY, "Machine", "seed of everything"),
    ROW(hidden_size, INT, "768", NULL, 1, 65536, "Model", "width"),
    ROW(learning_rate, FLOAT, "5e-5", NULL, 0, 1, "Model", "peak | learning rate"),
    ROW(dropout, FLOAT, NULL, NULL, 0, 0, "Model", "any number"),
    ROW(model, STRING, NULL, NULL, 0, 0, "Model", "folder"),
    ROW(lr_scheduler_type, CHOICE, "linear", "linear|cosine|constant", 0, 0, "Model", "schedule"),
    ROW(ops, LIST, "+,-", NULL, 0, 0, "Model", "operators"),
    ROW(train_files, LIST, NULL, NULL, 0, 0, "Model", "files"),
};
static const OptionTable table = {"tane try", rows, sizeof rows / sizeof *rows};

static Config config;
static OptionSet set;

static void begin(void) {
    memset(&config, 0xa5, sizeof config); /* every field must be written */
    assert_ok(option_init(&set, &table, &config));
}

static void assert_list(const StringList *list, size_t n, const char *const *items) {
    assert_int_equal(list->n, n);
    for (size_t i = 0; i < n; i++) assert_string_equal(list->items[i], items[i]);
}
#define LIST(list, ...)                                                                                                \
    assert_list(&(list), sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *), (const char *[]){__VA_ARGS__})

static Status load(const char *yaml) { return option_load_yaml(&set, test_write(test_path("r.yaml"), yaml)); }

/* The whole message is the path followed by `rest`. */
static void assert_yaml_error(const char *yaml, const char *rest) {
    char expected[1024];
    begin();
    snprintf(expected, sizeof expected, "%s%s", test_path("r.yaml"), rest);
    assert_int_not_equal(load(yaml), TANE_OK);
    assert_string_equal(err_message(), expected);
    option_release(&set);
}

#define ARGS(words, ...)                                                                                               \
    option_parse_args(&set, sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *), (char *[]){__VA_ARGS__}, (words))
#define ASSERT_ARGS_ERROR(message, ...)                                                                                \
    do {                                                                                                               \
        StringList words_;                                                                                             \
        begin();                                                                                                       \
        assert_int_equal(ARGS(&words_, __VA_ARGS__), TANE_EINVAL);                                                     \
        assert_string_equal(err_message(), "command line: " message);                                                  \
        option_release(&set);                                                                                          \
    } while (0)

/* ---- values ---- */

static void defaults_fill_every_field(void **state) {
    (void)state;
    begin();
    assert_false(config.bf16);
    assert_true(config.shuffle);
    assert_int_equal(config.seed, 42);
    assert_int_equal(config.hidden_size, 768);
    assert_true(config.learning_rate == 5e-5);
    assert_true(config.dropout == 0);
    assert_null(config.model);
    assert_string_equal(config.lr_scheduler_type, "linear");
    LIST(config.ops, "+", "-");
    assert_int_equal(config.train_files.n, 0);
    assert_false(option_is_set(&set, "seed"));
    option_release(&set);
}

static void numbers_are_strict(void **state) {
    (void)state;
    static const char *const bad_ints[] = {"", " 1", "1 ", "1x", "0x10", "1.0", "1e3", "5e-5", "1_000", "--1", "+",
                                           "1,000", "9223372036854775808", "-1", "nan"};
    static const char *const bad_floats[] = {"", ".", "e5", "1e", "1e+", "0x1p-3", "nan", "inf", "-inf", "1_0", "1.0f",
                                             "1e999", "1 ", "0,5", "1.5", "-0.1", "true"};
    begin();
    for (size_t i = 0; i < sizeof bad_ints / sizeof *bad_ints; i++)
        assert_error(option_set(&set, "seed", bad_ints[i], "here"), TANE_EINVAL, "here: \"seed\" is ");
    for (size_t i = 0; i < sizeof bad_floats / sizeof *bad_floats; i++)
        assert_error(option_set(&set, "learning_rate", bad_floats[i], "here"), TANE_EINVAL,
                     "here: \"learning_rate\" is ");
    assert_int_equal(config.seed, 42);
    assert_true(config.learning_rate == 5e-5);
    assert_ok(option_set(&set, "seed", "9223372036854775807", "here"));
    assert_int_equal(config.seed, INT64_MAX);
    assert_ok(option_set(&set, "seed", "+007", "here"));
    assert_int_equal(config.seed, 7);
    static const struct {
        const char *text;
        double value;
    } good[] = {{"3e-4", 3e-4}, {".5", 0.5}, {"1.", 1}, {"1E-2", 0.01}, {"+0.25", 0.25}, {"0", 0}, {"1", 1}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_ok(option_set(&set, "learning-rate", good[i].text, "here"));
        assert_true(config.learning_rate == good[i].value);
    }
    assert_ok(option_set(&set, "dropout", "-1e300", "here")); /* no limits */
    assert_error(option_set(&set, "dropout", "1e999", "here"), TANE_EINVAL, "(and fit in a double)");
    option_release(&set);
}

static void values_say_what_is_allowed(void **state) {
    (void)state;
    begin();
    assert_error(option_assign(&set, "hidden_size=0", "here"), TANE_EINVAL,
                 "here: \"hidden_size\" is \"0\"; it must be a whole number from 1 to 65536");
    assert_error(option_assign(&set, "seed=-1", "here"), TANE_EINVAL, "it must be a whole number of at least 0");
    assert_error(option_assign(&set, "seed=1_000", "here"), TANE_EINVAL, "(write it without \"_\")");
    assert_error(option_assign(&set, "seed=1e3", "here"), TANE_EINVAL, "(digits only, without point or exponent)");
    assert_error(option_assign(&set, "bf16=yes", "here"), TANE_EINVAL, "\"bf16\" is \"yes\"; it must be true or false");
    assert_error(option_assign(&set, "lr_scheduler_type=cosin", "here"), TANE_EINVAL,
                 "it must be one of linear, cosine, constant; did you mean \"cosine\"?");
    assert_error(option_assign(&set, "lr_scheduler_type=", "here"), TANE_EINVAL, "it must be one of linear");
    assert_error(option_assign(&set, "ops=+,,-", "here"), TANE_EINVAL, "without empty items");
    assert_error(option_assign(&set, "model=\xff", "here"), TANE_EINVAL, "\"model\" is not valid UTF-8 (byte 1)");
    assert_error(option_assign(&set, "model=a\xed\xa0\x80", "here"), TANE_EINVAL, "not valid UTF-8 (byte 2)");
    assert_error(option_assign(&set, "=1", "here"), TANE_EINVAL, "here: \"=1\" is not key=value");
    assert_error(option_assign(&set, "zzz=1", "here"), TANE_EINVAL,
                 "unknown option \"zzz\" (tane try has none like it)");
    assert_ok(option_assign(&set, "model=a=b", "here"));
    assert_string_equal(config.model, "a=b");
    assert_ok(option_assign(&set, "model=", "here"));
    assert_null(config.model);
    option_release(&set);
}

/* ---- YAML ---- */

static void yaml_is_read(void **state) {
    (void)state;
    begin();
    assert_ok(load("# a recipe\n"
                   "seed: 7\n"
                   "model: {hidden-size: 64, inner: {dropout: 0.5}}\n"
                   "group:\n"
                   "  learning_rate: 3e-4   # peak\n"
                   "bf16: true\n"
                   "lr_scheduler_type: \"cosine\"\n"
                   "ops: ['*', \"a,b\"]\n"
                   "train_files:\n- a.jsonl\n- \xe7\xa8\xae.jsonl\n"));
    assert_int_equal(config.seed, 7);
    assert_int_equal(config.hidden_size, 64);
    assert_true(config.dropout == 0.5);
    assert_true(config.learning_rate == 3e-4);
    assert_true(config.bf16);
    assert_string_equal(config.lr_scheduler_type, "cosine");
    LIST(config.ops, "*", "a,b");
    LIST(config.train_files, "a.jsonl", "\xe7\xa8\xae.jsonl");
    assert_true(option_is_set(&set, "seed"));
    assert_false(option_is_set(&set, "shuffle"));
    assert_string_equal(strrchr(set.origin[2], '/'), "/r.yaml:2"); /* seed */
    assert_ok(load("ops: '+,-,*'\nmodel: ~\ntrain_files: null\n"));
    LIST(config.ops, "+", "-", "*");
    assert_null(config.model);
    assert_int_equal(config.train_files.n, 0);
    option_release(&set);
}

static void yaml_errors_name_the_line(void **state) {
    (void)state;
    assert_yaml_error("seed: 1\n\nlearning_rte: 1\n",
                      ":3: unknown option \"learning_rte\"; did you mean \"learning_rate\"?");
    assert_yaml_error("g:\n  seed: x\n", ":2: \"seed\" is \"x\"; it must be a whole number of at least 0");
    assert_yaml_error("seed: 1_000",
                      ":1: \"seed\" is \"1_000\"; it must be a whole number of at least 0 (write it without "
                      "\"_\")");
    assert_yaml_error("learning_rate: \"5e-5\"",
                      ":1: \"learning_rate\" is text in quotes; it must be a number from 0 to 1, without quotes");
    assert_yaml_error("bf16: yes", ":1: \"bf16\" is \"yes\"; it must be true or false");
    assert_yaml_error("seed:\n", ":1: \"seed\" has no value; it must be a whole number of at least 0");
    assert_yaml_error("lr_scheduler_type: null",
                      ":1: \"lr_scheduler_type\" has no value; it must be one of linear, cosine, constant");
    assert_yaml_error("seed: [1]", ":1: \"seed\" is a list; it must be a whole number of at least 0");
    assert_yaml_error("ops: [a, [b]]", ":1: an item of \"ops\" is a list or a mapping; each must be text or a number");
    assert_yaml_error("ops:\n- a\n-\n", ":3: an item of \"ops\" is empty; each must be text or a number");
    assert_yaml_error("? [a]\n: 1", ":1: a list or mapping stands where an option's name is expected");
}

static void yaml_duplicates_are_errors(void **state) {
    (void)state;
    assert_yaml_error("seed: 1\nbf16: true\nseed: 1\n",
                      ":3: \"seed\" stands here a second time (first in line 1); keep one");
    assert_yaml_error("a: {seed: 1}\nb:\n  seed: 2\n",
                      ":3: \"seed\" stands here a second time (first in line 1); keep one");
    assert_yaml_error("learning-rate: 1\nlearning_rate: 1\n",
                      ":2: \"learning_rate\" stands here a second time (first in line 1); keep one");
    assert_yaml_error("a: {seed: 1}\na: {bf16: true}\n",
                      ":2: \"a\" stands here a second time (first in line 1); keep one");
}

static void yaml_is_plain_data(void **state) {
    (void)state;
    assert_yaml_error("seed: &x 1", ":1: anchors (&x) are not supported; remove it");
    assert_yaml_error("a: &x {seed: 1}", ":1: anchors (&x) are not supported; remove it");
    assert_yaml_error("ops: &x [a]", ":1: anchors (&x) are not supported; remove it");
    assert_yaml_error("seed: *x", ":1: aliases (*x) are not supported; write the value out");
    assert_yaml_error("seed: !!int 1", ":1: tags (tag:yaml.org,2002:int) are not supported; remove it");
    assert_yaml_error("ops: [!x a]", ":1: tags (!x) are not supported; remove it");
    assert_yaml_error("seed: 1\n---\nseed: 2\n", ":2: a second document begins here; a recipe is one");
    assert_yaml_error("- seed\n", ":1: expected lines of \"option: value\"");
    assert_yaml_error("seed\n", ":1: expected lines of \"option: value\"");
    assert_yaml_error("", ": there are no options in it; write lines of \"option: value\"");
    assert_yaml_error("# nothing\n", ": there are no options in it; write lines of \"option: value\"");
    assert_yaml_error("model: \"a\\0b\"", ":1: the value holds a NUL character; remove it");
    assert_yaml_error("a: {b: {c: {d: {e: {f: {g: {h: {i: 1}}}}}}}}", ":1: groups are nested more than 8 deep");
}

static void broken_yaml_is_refused(void **state) {
    (void)state;
    begin();
    assert_error_contains(load("seed: 1\n\tbf16: true\n"), "r.yaml:2: column 1: not valid YAML: ");
    assert_error_contains(load("ops: [a\n"), "r.yaml:2: column 1: not valid YAML: ");
    assert_error_contains(load("model: \xff\n"), "the file must be UTF-8 text");
    assert_error_contains(load("model: \"x"), "not valid YAML");
    assert_error(option_load_yaml(&set, test_path("none.yaml")), TANE_ENOTFOUND, "none.yaml");
    Str deep = {0};
    for (int i = 0; i < 20000; i++) assert_ok(str_add(&deep, "[", 1));
    assert_error_contains(load(deep.text), "r.yaml");
    str_free(&deep);
    Str large = {0};
    while (large.len <= 1 << 20) assert_ok(str_printf(&large, "# %0100d\n", 0));
    assert_error_contains(load(large.text), "r.yaml");
    str_free(&large);
    Str groups = {0};
    for (int i = 0; i < 1000; i++) assert_ok(str_printf(&groups, "g%d: {}\n", i));
    assert_error_contains(load(groups.text), "r.yaml:257: more than 256 groups");
    str_free(&groups);
    option_release(&set);
}

/* ---- command lines ---- */

static void flags_in_all_spellings(void **state) {
    (void)state;
    StringList words;
    begin();
    assert_ok(ARGS(&words, "first", "--seed", "1", "--hidden-size=2", "--learning_rate", "1e-3", "--bf16",
                   "--no-shuffle", "lr-scheduler-type=cosine", "12+3=", "-5", "-", "--model", "-x", "--", "--seed",
                   "a=b"));
    assert_int_equal(config.seed, 1);
    assert_int_equal(config.hidden_size, 2);
    assert_true(config.learning_rate == 1e-3);
    assert_true(config.bf16);
    assert_false(config.shuffle);
    assert_string_equal(config.lr_scheduler_type, "cosine");
    assert_string_equal(config.model, "-x");
    LIST(words, "first", "12+3=", "-5", "-", "--seed", "a=b");
    assert_ok(ARGS(&words, "--bf16", "false", "--shuffle=true", "--dropout", "-3"));
    assert_false(config.bf16);
    assert_true(config.shuffle);
    assert_true(config.dropout == -3);
    assert_int_equal(words.n, 0);
    option_release(&set);
}

static void lists_on_the_command_line(void **state) {
    (void)state;
    StringList words;
    begin();
    assert_ok(ARGS(&words, "--ops", "+", "-", "*", "/", "--train-files", "a,b", "seed=3", "c"));
    LIST(config.ops, "+", "-", "*", "/");
    LIST(config.train_files, "a", "b");
    LIST(words, "c");
    assert_int_equal(config.seed, 3);
    assert_ok(ARGS(&words, "--ops", "x", "--seed", "4", "--ops=y", "ops=z,w")); /* replaces, then adds */
    LIST(config.ops, "x", "y", "z", "w");
    assert_ok(ARGS(&words, "ops="));
    assert_int_equal(config.ops.n, 0);
    option_release(&set);
}

static void long_lists_take_little_memory(void **state) {
    (void)state;
    enum { N = 20000 };
    static char *argv[N + 1];
    StringList words;
    begin();
    argv[0] = "--train-files";
    for (int i = 1; i <= N; i++) argv[i] = "file.jsonl";
    assert_ok(option_parse_args(&set, N + 1, argv, &words));
    assert_int_equal(config.train_files.n, N);
    assert_true(set.arena.used < 4 << 20);
    option_release(&set);
}

static void command_line_errors(void **state) {
    (void)state;
    ASSERT_ARGS_ERROR("unknown option \"--sed\"; did you mean \"--seed\"?", "--sed", "1");
    ASSERT_ARGS_ERROR("unknown option \"--learning-rte\"; did you mean \"--learning-rate\"?", "--learning-rte=1");
    ASSERT_ARGS_ERROR("unknown option \"learning_rte\"; did you mean \"learning_rate\"?", "learning_rte=1");
    ASSERT_ARGS_ERROR("unknown option \"--no-seed\" (tane try has none like it)", "--no-seed");
    ASSERT_ARGS_ERROR("unknown option \"-s\"; options are written --name", "-s");
    ASSERT_ARGS_ERROR("\"--seed\" needs a value: a whole number of at least 0", "--seed");
    ASSERT_ARGS_ERROR("\"--seed\" needs a value: a whole number of at least 0", "--seed", "--bf16");
    ASSERT_ARGS_ERROR("\"--ops\" needs at least one value behind it", "--ops", "--bf16");
    ASSERT_ARGS_ERROR("\"bf16\" is \"1\"; it must be true or false", "--bf16=1");
    begin();
    assert_error(option_parse_args(&set, 1, (char *[]){"word"}, NULL), TANE_EINVAL,
                 "command line: unexpected word \"word\"");
    option_release(&set);
}

static void the_command_line_wins_over_files(void **state) {
    (void)state;
    StringList words;
    begin();
    assert_ok(ARGS(&words, "--seed", "1", "--ops", "x"));
    assert_ok(load("seed: 2\nops: [y]\nhidden_size: 3\n"));
    assert_int_equal(config.seed, 1);
    LIST(config.ops, "x");
    assert_int_equal(config.hidden_size, 3);
    assert_ok(ARGS(&words, "--hidden-size", "4"));
    assert_int_equal(config.hidden_size, 4);
    assert_error_contains(load("seed: x\n"), "r.yaml:1: \"seed\""); /* checked all the same */
    option_release(&set);
}

/* ---- texts ---- */

static void written_yaml_reads_back(void **state) {
    (void)state;
    static const char *const texts[] = {"runs/a", "null", "true", "No", "~", "1.5", "a: b", "# c", "\"", "\\",
                                        "a\nb\tc", " x ", "\xe7\xa8\xae", "\xc2\x85", "\xe2\x80\xa8",
                                        "\xef\xbb\xbf", "\x01\x7f",
                                        "- a", "[a]", "{a}", "*a", "&a", "!a", "%a", "@a", "'", "\xf0\x9f\x8c\xb1"};
    static const double numbers[] = {0, 1, -1, 0.1, 1.0 / 3, 1e-8, 5e-324, 1e15, 1e22, 123456789.125, -2.5e-7};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        Str out = {0};
        begin();
        config.model = texts[i];
        config.train_files = (StringList){(const char *[]){texts[i], "b"}, 2};
        config.dropout = numbers[i % (sizeof numbers / sizeof *numbers)];
        assert_ok(option_write_yaml(&set, &out));
        option_release(&set);
        begin();
        assert_ok(load(out.text));
        assert_string_equal(config.model, texts[i]);
        LIST(config.train_files, texts[i], "b");
        assert_true(config.dropout == numbers[i % (sizeof numbers / sizeof *numbers)]);
        assert_int_equal(config.seed, 42);
        Str again = {0};
        assert_ok(option_write_yaml(&set, &again));
        assert_string_equal(again.text, out.text);
        str_free(&again);
        str_free(&out);
        option_release(&set);
    }
}

static void help_and_markdown(void **state) {
    (void)state;
    Str help = {0}, docs = {0};
    assert_ok(option_help(&table, false, &help));
    assert_non_null(strstr(help.text, "Machine:\n  --[no-]bf16                   bf16 products (default false)\n"));
    assert_non_null(strstr(help.text, "\nModel:\n  --hidden-size INT             width (default 768)\n"));
    assert_non_null(strstr(help.text, "schedule; one of linear, cosine, constant\n"));
    for (char *line = strtok(help.text, "\n"); line; line = strtok(NULL, "\n")) assert_true(strlen(line) <= 80);
    assert_ok(option_help(&table, true, &docs));
    assert_non_null(strstr(docs.text, "### Model\n\n| option | value | default | meaning |\n| --- | --- | --- | --- |\n"
                                      "| `hidden_size` | a whole number from 1 to 65536 | 768 | width |\n"));
    assert_non_null(strstr(docs.text, "| 5e-5 | peak \\| learning rate |\n"));
    str_free(&help);
    str_free(&docs);
}

/* ---- memory ---- */

static Status everything(void *ctx) {
    Status st = TANE_OK;
    Str out = {0};
    StringList words;
    TRY_RETURN(option_init(&set, &table, &config));
    TRY(ARGS(&words, "--ops", "a", "b,c", "--seed", "1", "word"));
    TRY(option_load_yaml(&set, ctx));
    TRY(option_write_yaml(&set, &out));
    TRY(option_help(&table, false, &out));
out:
    str_free(&out);
    option_release(&set);
    return st;
}

static void allocations_may_fail(void **state) {
    (void)state;
    const char *path = test_write(test_path("m.yaml"), "g: {model: x}\ntrain_files: [a, b, c]\n");
    assert_true(test_fail_allocations(everything, (void *)(uintptr_t)path) > 3);
}

/* ---- training options ---- */

static TrainOptions train;

static void begin_training(const char *yaml) {
    memset(&train, 0xa5, sizeof train);
    assert_ok(option_init(&set, &train_options, &train));
    assert_ok(load(yaml));
}

static void assert_check(const char *yaml, const char *message) {
    begin_training(yaml);
    if (message) assert_error_contains(train_options_check(&set), message);
    else assert_ok(train_options_check(&set));
    option_release(&set);
}

static void training_defaults_are_the_known_ones(void **state) {
    (void)state;
    begin_training("train_files: a.jsonl\ntokenizer: t.model\n");
    assert_int_equal(train.per_device_train_batch_size, 8);
    assert_int_equal(train.per_device_eval_batch_size, 8);
    assert_true(train.num_train_epochs == 3);
    assert_int_equal(train.max_steps, -1);
    assert_true(train.learning_rate == 5e-5);
    assert_string_equal(train.lr_scheduler_type, "linear");
    assert_true(train.warmup_steps == 0 && train.weight_decay == 0 && train.label_smoothing_factor == 0);
    assert_true(train.adam_beta1 == 0.9 && train.adam_beta2 == 0.999 && train.adam_epsilon == 1e-8);
    assert_true(train.max_grad_norm == 1);
    assert_int_equal(train.gradient_accumulation_steps, 1);
    assert_int_equal(train.logging_steps, 500);
    assert_int_equal(train.save_steps, 500);
    assert_int_equal(train.save_total_limit, 0);
    assert_int_equal(train.seed, 42);
    assert_int_equal(train.max_length, 1024);
    assert_false(train.bf16 || train.fp16 || train.gradient_checkpointing || train.dataloader_drop_last);
    assert_ok(train_options_check(&set));
    option_release(&set);
}

static void every_row_is_sound(void **state) {
    (void)state;
    for (size_t i = 0; i < train_options.n; i++) {
        const Option *row = &train_options.rows[i];
        assert_true(strlen(row->help) > 10);
        for (size_t k = 0; k < i; k++) {
            assert_string_not_equal(train_options.rows[k].name, row->name);
            assert_int_not_equal(train_options.rows[k].offset, row->offset);
        }
    }
    Str text = {0}, again = {0};
    begin_training("train_files: a.jsonl\ntokenizer: t.model\n");
    assert_ok(option_write_yaml(&set, &text));
    option_release(&set);
    begin_training(text.text);
    assert_ok(train_options_check(&set)); /* a resolved recipe is a recipe */
    assert_ok(option_write_yaml(&set, &again));
    assert_string_equal(text.text, again.text);
    str_free(&text);
    str_free(&again);
    option_release(&set);
}

#define BASE "train_files: [a, b]\ntokenizer: t\n"

static void options_are_checked_together(void **state) {
    (void)state;
    assert_check("tokenizer: t\n", "no data to train on");
    assert_check("train_files: a\n", "no \"tokenizer\"");
    assert_check("train_files: a\nmodel: m\n", NULL);
    assert_check(BASE "train_fraction: [0.5]\ntrain_repeat: [1, 2]\n", NULL);
    assert_check(BASE "train_fraction: [1, 1, 1]\n", "r.yaml:3: \"train_fraction\" has 3 numbers for 2 files");
    assert_check(BASE "train_fraction: 1.5\n", "r.yaml:3: \"train_fraction\" is \"1.5\"; it must be a number from");
    assert_check(BASE "train_repeat: x\n", "\"train_repeat\" is \"x\"");
    assert_check(BASE "hidden_size: 100\n", "r.yaml:3: \"hidden_size\" is 100, not a multiple");
    assert_check(BASE "num_key_value_heads: 3\n", "is for architecture llama");
    assert_check(BASE "architecture: llama\nnum_key_value_heads: 5\n", "not a multiple of \"num_key_value_heads\" (5)");
    assert_check(BASE "architecture: llama\nnum_key_value_heads: 3\n", NULL);
    assert_check(BASE "architecture: llama\nhidden_size: 36\n", "llama needs an even width");
    assert_check(BASE "max_length: 2048\n", "r.yaml:3: \"max_length\" (2048) is more than");
    assert_check(BASE "min_lr: 1e-6\nmin_lr_rate: 0.1\n", "\"min_lr\" and \"min_lr_rate\" are both set");
    assert_check(BASE "min_lr: 1\n", "\"min_lr\" (1) is more than \"learning_rate\"");
    assert_check(BASE "num_train_epochs: 0\n", "nothing to train");
    assert_check(BASE "eval_strategy: steps\n", "nothing to evaluate");
    assert_check(BASE "early_stopping_patience: 2\n", "needs evaluations");
    assert_check(BASE "target_exact_match: 0.99\n", "needs \"eval_exact_match_files\"");
    assert_check(BASE "metric_for_best_model: eval_exact_match\n", "needs \"eval_exact_match_files\"");
    assert_check(BASE "eval_strategy: epoch\neval_exact_match_files: c\nearly_stopping_patience: 1\n",
                 "watches eval_loss");
    assert_check(BASE "bf16: true\ncompute_dtype: fp32\n", "keep one");
    assert_check(BASE "resume: true\nresume_from_checkpoint: x\n", "keep one");
}

static void sources_carry_fractions_and_repeats(void **state) {
    (void)state;
    Arena arena = {0};
    DataSource *sources;
    size_t n;
    begin_training(BASE "train_fraction: [1, 0.25]\ntrain_repeat: 3\n");
    assert_ok(train_options_sources(&set, &arena, &sources, &n));
    assert_int_equal(n, 2);
    assert_string_equal(sources[1].path, "b");
    assert_true(sources[0].fraction == 1 && sources[1].fraction == 0.25);
    assert_true(sources[0].repeat == 3 && sources[1].repeat == 3);
    arena_release(&arena);
    option_release(&set);
}

static void runs_are_named(void **state) {
    (void)state;
    begin_training(BASE);
    assert_ok(train_options_name_run(&set, "recipes/math/quickstart.yaml"));
    assert_string_equal(train.run_name, "quickstart");
    assert_string_equal(train.output_dir, "runs/quickstart");
    option_release(&set);
    begin_training(BASE "run_name: ../x\n");
    assert_error_contains(train_options_name_run(&set, NULL), "r.yaml:3: \"run_name\" is \"../x\"");
    option_release(&set);
    begin_training(BASE "output_dir: elsewhere/y\n");
    assert_ok(train_options_name_run(&set, NULL));
    assert_string_equal(train.run_name, "run");
    assert_string_equal(train.output_dir, "elsewhere/y");
    option_release(&set);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(defaults_fill_every_field),
        TEST(numbers_are_strict),
        TEST(values_say_what_is_allowed),
        TEST(yaml_is_read),
        TEST(yaml_errors_name_the_line),
        TEST(yaml_duplicates_are_errors),
        TEST(yaml_is_plain_data),
        TEST(broken_yaml_is_refused),
        TEST(flags_in_all_spellings),
        TEST(lists_on_the_command_line),
        TEST(long_lists_take_little_memory),
        TEST(command_line_errors),
        TEST(the_command_line_wins_over_files),
        TEST(written_yaml_reads_back),
        TEST(help_and_markdown),
        TEST(allocations_may_fail),
        TEST(training_defaults_are_the_known_ones),
        TEST(every_row_is_sound),
        TEST(options_are_checked_together),
        TEST(sources_carry_fractions_and_repeats),
        TEST(runs_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
