/* `tane runs`: what was trained, from what, with which recipe, and how well it did. */
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "cli/cli.h"
#include "cli/table.h"
#include "track/runs.h"

typedef struct RunsConfig {
    const char *db;
    bool json;
} RunsConfig;

static const Option rows[] = {
    {"db", OPTION_STRING, offsetof(RunsConfig, db), "runs/tane.db", NULL, 0, 0, "Options", "database of runs to read"},
    {"json", OPTION_BOOL, offsetof(RunsConfig, json), "false", NULL, 0, 0, "Options", "print JSON for programs"},
};
/* `tree` and `diff` are for people; `list --json` and `show --json` hold all they show. */
static const OptionTable table_json = {"tane runs", rows, 2}, table_plain = {"tane runs", rows, 1};

/* What every subcommand begins with: options, the names given, the open database. */
typedef struct Session {
    RunsConfig config;
    OptionSet set;
    StringList names;
    Runs *runs;
    Arena arena;
} Session;

static Status session_open(Session *s, const Command *self, int argc, char **argv, size_t names, const char *wanted) {
    *s = (Session){0};
    TRY_RETURN(option_init(&s->set, self->options, &s->config));
    TRY_RETURN(option_parse_args(&s->set, argc, argv, &s->names));
    if (s->names.n < names) return cli_usage(self, "%s", wanted);
    if (s->names.n > names) return cli_usage(self, "unexpected word \"%s\"", s->names.items[names]);
    return runs_open(&s->runs, s->config.db, false);
}

static void session_close(Session *s) {
    runs_close(s->runs);
    arena_release(&s->arena);
    option_release(&s->set);
}

/* ---- scores ---- */

static const RunScore *score_named(const RunScore *scores, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++) {
        if (strcmp(scores[i].name, name) == 0) return &scores[i];
    }
    return NULL;
}

static Status score_cell(Table *table, const RunScore *score) {
    if (!score) return table_cell(table, "-");
    if (strstr(score->name, "exact_match")) return table_cell(table, "%.2f%%", 100 * score->value);
    return table_cell(table, "%.5g", score->value);
}

/* A name's distinct values in `scores`, in order of appearance. */
static Status score_names(Arena *arena, const RunScore *scores, size_t n, const char ***names, size_t *n_names) {
    *n_names = 0;
    TRY_RETURN(ARENA_NEW_ARRAY(arena, names, n));
    for (size_t i = 0; i < n; i++) {
        size_t k = 0;
        while (k < *n_names && strcmp((*names)[k], scores[i].name) != 0) k++;
        if (k == *n_names) (*names)[(*n_names)++] = scores[i].name;
    }
    return TANE_OK;
}

/* ---- JSON ---- */

static Status out_of_memory(void) { return FAIL(TANE_ENOMEM, "out of memory while writing JSON"); }

static json_t *optional_text(const char *text) { return *text ? json_string(text) : json_null(); }
static json_t *number(double value) { return isfinite(value) ? json_real(value) : json_null(); }

static Status run_json(Session *s, const RunInfo *run, json_t **out) {
    RunScore *scores;
    size_t n;
    TRY_RETURN(run_last_scores(s->runs, &s->arena, run->id, &scores, &n));
    json_t *last = json_object();
    for (size_t i = 0; i < n; i++) json_object_set_new(last, scores[i].name, number(scores[i].value));
    json_t *parent = run->parent_id ? json_integer(run->parent_id) : json_null();
    *out = json_pack("{sI ss ss ss so so so ss ss sI so}", "id", (json_int_t)run->id, "name", run->name, "status",
                     run->status, "created", run->created, "finished", optional_text(run->finished), "parent",
                     parent, "parent_path", optional_text(run->parent_path), "output_dir",
                     run->output_dir, "version", run->version, "step", (json_int_t)run->step, "scores", last);
    return *out ? TANE_OK : out_of_memory();
}

static Status print_json(json_t *value) {
    Str text = {0};
    Status st = json_write_str(&text, value);
    if (st == TANE_OK) printf("%s\n", text.text);
    str_free(&text);
    return st;
}

static Status list_json(Session *s, const RunInfo *list, size_t n) {
    Status st = TANE_OK;
    json_t *array = json_array(), *object;
    for (size_t i = 0; i < n; i++) {
        TRY(run_json(s, &list[i], &object));
        if (json_array_append_new(array, object)) TRY(out_of_memory());
    }
    TRY(print_json(array));
out:
    json_decref(array);
    return st;
}

static Status show_json(Session *s, const RunInfo *run, const RunScore *scores, size_t n_scores,
                        const RunCheckpoint *checkpoints, size_t n_checkpoints) {
    Status st = TANE_OK;
    json_t *object = NULL, *history = NULL, *saved = NULL;
    TRY(run_json(s, run, &object));
    history = json_array();
    saved = json_array();
    for (size_t i = 0; i < n_scores; i++)
        json_array_append_new(history, json_pack("{sI ss so}", "step", (json_int_t)scores[i].step, "name",
                                                 scores[i].name, "value", number(scores[i].value)));
    for (size_t i = 0; i < n_checkpoints; i++)
        json_array_append_new(saved, json_pack("{sI ss sb sb so}", "step", (json_int_t)checkpoints[i].step, "path",
                                               checkpoints[i].path, "best", checkpoints[i].is_best, "last",
                                               checkpoints[i].is_last, "eval_loss", number(checkpoints[i].eval_loss)));
    if (json_array_size(history) != n_scores || json_array_size(saved) != n_checkpoints) TRY(out_of_memory());
    if (json_object_set(object, "history", history) || json_object_set(object, "checkpoints", saved) ||
        json_object_set_new(object, "recipe", json_string(run->recipe)))
        TRY(out_of_memory());
    TRY(print_json(object));
out:
    json_decref(saved);
    json_decref(history);
    json_decref(object);
    return st;
}

/* ---- list ---- */

/* "2026-11-22T13:05:09Z" as people read it: "2026-11-22 13:05" */
static Status time_cell(Table *table, const char *utc) {
    if (strlen(utc) < 16) return table_cell(table, "-");
    return table_cell(table, "%.10s %.5s", utc, utc + 11);
}

static const RunInfo *run_numbered(const RunInfo *list, size_t n, int64_t id) {
    for (size_t i = 0; i < n; i++) {
        if (list[i].id == id) return &list[i];
    }
    return NULL;
}

/* Of all problems, where `tane eval` has measured; else of the sample that training looked at. */
static const RunScore *exact_score(const RunScore *scores, size_t n) {
    const RunScore *all = score_named(scores, n, "exact_match");
    return all ? all : score_named(scores, n, "eval_exact_match");
}

static const RunScore *loss_score(const RunScore *scores, size_t n) {
    const RunScore *eval = score_named(scores, n, "eval_loss");
    return eval ? eval : score_named(scores, n, "train_loss");
}

static Status list_row(Session *s, Table *table, const RunInfo *list, size_t n, const RunInfo *run) {
    RunScore *scores;
    size_t n_scores;
    TRY_RETURN(run_last_scores(s->runs, &s->arena, run->id, &scores, &n_scores));
    const RunInfo *parent = run_numbered(list, n, run->parent_id);
    TRY_RETURN(table_cell(table, "%lld", (long long)run->id));
    TRY_RETURN(table_cell(table, "%s", run->name));
    TRY_RETURN(table_cell(table, "%s", run->status));
    TRY_RETURN(time_cell(table, run->created));
    TRY_RETURN(table_cell(table, "%lld", (long long)run->step));
    TRY_RETURN(score_cell(table, loss_score(scores, n_scores)));
    TRY_RETURN(score_cell(table, exact_score(scores, n_scores)));
    return parent ? table_cell(table, "%s #%lld", parent->name, (long long)parent->id)
                  : table_cell(table, "%s", *run->parent_path ? run->parent_path : "-");
}

static Status run_list(const Command *self, int argc, char **argv) {
    static const char *const heading[] = {"#", "name", "status", "started (UTC)", "step", "loss", "exact", "from"};
    Session s;
    Table table;
    RunInfo *list;
    size_t n;
    Status st = TANE_OK;
    table_begin(&table, "rLllrrrL");
    TRY(session_open(&s, self, argc, argv, 0, ""));
    TRY(runs_list(s.runs, &s.arena, &list, &n));
    if (s.config.json) {
        TRY(list_json(&s, list, n));
        goto out;
    }
    for (size_t i = 0; i < 8; i++) TRY(table_cell(&table, "%s", heading[i]));
    for (size_t i = 0; i < n; i++) TRY(list_row(&s, &table, list, n, &list[i]));
    table_end(&table, stdout, "");
    if (!n) fprintf(stderr, "%s: no runs yet; `tane train RECIPE.yaml` makes one\n", s.config.db);
out:
    arena_release(&table.arena);
    session_close(&s);
    return st;
}

/* ---- show ---- */

enum { SHOWN_STEPS = 20 };

/* One row a step, one column a score; the last steps only, the run's metrics.jsonl has all. */
static Status show_scores(Session *s, const RunScore *scores, size_t n) {
    const char **names;
    size_t n_names, first = n, steps = 0;
    Table table;
    char align[16] = "r";
    Status st = TANE_OK;
    TRY_RETURN(score_names(&s->arena, scores, n, &names, &n_names));
    if (n_names > sizeof align - 2) n_names = sizeof align - 2;
    memset(align + 1, 'r', n_names);
    table_begin(&table, align);
    while (first > 0 && steps < SHOWN_STEPS) {
        int64_t step = scores[first - 1].step;
        while (first > 0 && scores[first - 1].step == step) first--;
        steps++;
    }
    if (!n) return TANE_OK;
    printf("\nScores%s\n", first ? " (the last steps; --json prints all)" : "");
    TRY(table_cell(&table, "step"));
    for (size_t k = 0; k < n_names; k++) TRY(table_cell(&table, "%s", names[k]));
    for (size_t i = first, end; i < n; i = end) {
        for (end = i; end < n && scores[end].step == scores[i].step;) end++;
        TRY(table_cell(&table, "%lld", (long long)scores[i].step));
        for (size_t k = 0; k < n_names; k++) TRY(score_cell(&table, score_named(scores + i, end - i, names[k])));
    }
    table_end(&table, stdout, "  ");
out:
    arena_release(&table.arena);
    return st;
}

static Status show_checkpoints(const RunCheckpoint *list, size_t n) {
    static const char *const heading[] = {"step", "eval_loss", "", "folder"};
    Table table;
    Status st = TANE_OK;
    table_begin(&table, "rrlL");
    if (!n) return TANE_OK;
    printf("\nCheckpoints\n");
    for (size_t i = 0; i < 4; i++) TRY(table_cell(&table, "%s", heading[i]));
    for (size_t i = 0; i < n; i++) {
        TRY(table_cell(&table, "%lld", (long long)list[i].step));
        TRY(isnan(list[i].eval_loss) ? table_cell(&table, "-") : table_cell(&table, "%.5g", list[i].eval_loss));
        TRY(table_cell(&table, "%s%s%s", list[i].is_best ? "best" : "", list[i].is_best && list[i].is_last ? ", " : "",
                       list[i].is_last ? "last" : ""));
        TRY(table_cell(&table, "%s", list[i].path));
    }
    table_end(&table, stdout, "  ");
out:
    arena_release(&table.arena);
    return st;
}

/* "base #1 > finetune #2", and what was trained on from here. */
static void show_lineage(const RunInfo *list, size_t n, const RunInfo *run) {
    const RunInfo *chain[64];
    size_t length = 0;
    for (const RunInfo *r = run; r && length < 64; r = run_numbered(list, n, r->parent_id)) chain[length++] = r;
    if (*run->parent_path) printf("  from      %s\n", run->parent_path);
    if (length > 1) {
        printf("  lineage   ");
        for (size_t k = length; k-- > 0;)
            printf("%s #%lld%s", chain[k]->name, (long long)chain[k]->id, k ? " > " : "\n");
    }
    const char *before = "  children  ";
    for (size_t i = 0; i < n; i++) {
        if (list[i].parent_id != run->id) continue;
        printf("%s%s #%lld", before, list[i].name, (long long)list[i].id);
        before = ", ";
    }
    if (before[0] == ',') printf("\n");
}

static void show_recipe(const char *recipe) {
    printf("\nRecipe\n");
    for (const char *line = recipe; *line;) {
        size_t n = strcspn(line, "\n");
        printf("%s%.*s\n", n ? "  " : "", (int)n, line);
        line += n + (line[n] == '\n');
    }
}

static Status run_show(const Command *self, int argc, char **argv) {
    Session s;
    RunInfo run, *list;
    RunScore *scores;
    RunCheckpoint *saved;
    size_t n, n_scores, n_saved;
    Status st = TANE_OK;
    TRY(session_open(&s, self, argc, argv, 1, "which run?"));
    TRY(run_find(s.runs, &s.arena, s.names.items[0], &run));
    TRY(runs_list(s.runs, &s.arena, &list, &n));
    TRY(run_scores(s.runs, &s.arena, run.id, &scores, &n_scores));
    TRY(run_checkpoints(s.runs, &s.arena, run.id, &saved, &n_saved));
    if (s.config.json) {
        TRY(show_json(&s, &run, scores, n_scores, saved, n_saved));
        goto out;
    }
    printf("%s #%lld: %s\n", run.name, (long long)run.id, run.status);
    printf("  started   %s\n", run.created);
    if (*run.finished) printf("  finished  %s\n", run.finished);
    printf("  folder    %s\n  by        tane %s\n", run.output_dir, run.version);
    show_lineage(list, n, &run);
    TRY(show_scores(&s, scores, n_scores));
    TRY(show_checkpoints(saved, n_saved));
    show_recipe(run.recipe);
out:
    session_close(&s);
    return st;
}

/* ---- tree ---- */

typedef struct Tree {
    Session *session;
    const RunInfo *list;
    size_t n;
    Str indent;
} Tree;

static bool is_last_child(const Tree *t, size_t i) {
    for (size_t k = i + 1; k < t->n; k++) {
        if (t->list[k].parent_id == t->list[i].parent_id) return false;
    }
    return true;
}

static Status print_node(Tree *t, const RunInfo *run) {
    RunScore *scores;
    size_t n;
    TRY_RETURN(run_last_scores(t->session->runs, &t->session->arena, run->id, &scores, &n));
    const RunScore *loss = loss_score(scores, n), *exact = exact_score(scores, n);
    printf("%s #%lld  %s", run->name, (long long)run->id, run->status);
    if (run->step) printf(", step %lld", (long long)run->step);
    if (loss) printf(", loss %.5g", loss->value);
    if (exact) printf(", exact %.2f%%", 100 * exact->value);
    /* A start from a model that no recorded run made. */
    if (!run->parent_id && *run->parent_path) printf(" (from %s)", run->parent_path);
    printf("\n");
    return TANE_OK;
}

/* Children come after their parents (their numbers are higher), so there are no cycles. */
static Status print_children(Tree *t, int64_t parent) {
    for (size_t i = 0; i < t->n; i++) {
        const RunInfo *run = &t->list[i];
        if (run->parent_id != parent || run->id <= parent) continue;
        bool last = is_last_child(t, i);
        size_t indent = t->indent.len;
        if (parent) printf("%s%s ", t->indent.text, last ? "└─" : "├─");
        TRY_RETURN(print_node(t, run));
        if (parent) TRY_RETURN(str_printf(&t->indent, "%s  ", last ? " " : "│"));
        TRY_RETURN(print_children(t, run->id));
        t->indent.len = indent;
        t->indent.text[indent] = 0;
    }
    return TANE_OK;
}

static Status run_tree(const Command *self, int argc, char **argv) {
    Session s;
    Tree tree = {.session = &s};
    Status st = TANE_OK;
    RunInfo *list;
    TRY(session_open(&s, self, argc, argv, 0, ""));
    TRY(runs_list(s.runs, &s.arena, &list, &tree.n));
    tree.list = list;
    TRY(str_add(&tree.indent, "", 0));
    TRY(print_children(&tree, 0));
    if (!tree.n) fprintf(stderr, "%s: no runs yet; `tane train RECIPE.yaml` makes one\n", s.config.db);
out:
    str_free(&tree.indent);
    session_close(&s);
    return st;
}

/* ---- diff ---- */

/* The value of `key` in recipe text as option_write_yaml writes it, NULL when it is not there. */
static Status recipe_value(Arena *arena, const char *recipe, const char *key, size_t key_n, char **out) {
    *out = NULL;
    for (const char *line = recipe; *line;) {
        size_t n = strcspn(line, "\n");
        if (n > key_n + 1 && strncmp(line, key, key_n) == 0 && line[key_n] == ':') {
            const char *value = line + key_n + 1 + (line[key_n + 1] == ' ');
            return arena_printf(arena, out, "%.*s", (int)(line + n - value), value);
        }
        line += n + (line[n] == '\n');
    }
    return TANE_OK;
}

static Status diff_row(Table *table, const char *key, int key_n, const char *a, const char *b) {
    TRY_RETURN(table_cell(table, "%.*s", key_n, key));
    TRY_RETURN(table_cell(table, "%s", a ? a : "-"));
    return table_cell(table, "%s", b ? b : "-");
}

/* Options of `from` whose value in `other` differs; `only_new` leaves out those that `other` has. */
static Status diff_options(Session *s, Table *table, const char *from, const char *other, bool only_new) {
    for (const char *line = from; *line;) {
        size_t n = strcspn(line, "\n"), key = strcspn(line, ":\n");
        char *mine, *theirs;
        if (*line != '#' && key < n) {
            TRY_RETURN(recipe_value(&s->arena, from, line, key, &mine));
            TRY_RETURN(recipe_value(&s->arena, other, line, key, &theirs));
            if (only_new && !theirs) TRY_RETURN(diff_row(table, line, (int)key, NULL, mine));
            if (!only_new && (!theirs || strcmp(mine, theirs) != 0))
                TRY_RETURN(diff_row(table, line, (int)key, mine, theirs));
        }
        line += n + (line[n] == '\n');
    }
    return TANE_OK;
}

static Status diff_scores(Session *s, Table *table, const RunInfo *a, const RunInfo *b) {
    RunScore *left, *right;
    size_t n_left, n_right;
    TRY_RETURN(run_last_scores(s->runs, &s->arena, a->id, &left, &n_left));
    TRY_RETURN(run_last_scores(s->runs, &s->arena, b->id, &right, &n_right));
    for (size_t i = 0; i < n_left + n_right; i++) {
        const char *name = i < n_left ? left[i].name : right[i - n_left].name;
        if (i >= n_left && score_named(left, n_left, name)) continue;
        TRY_RETURN(table_cell(table, "%s", name));
        TRY_RETURN(score_cell(table, score_named(left, n_left, name)));
        TRY_RETURN(score_cell(table, score_named(right, n_right, name)));
    }
    return TANE_OK;
}

static Status diff_heading(Table *table, const char *what, const RunInfo *a, const RunInfo *b) {
    TRY_RETURN(table_cell(table, "%s", what));
    TRY_RETURN(table_cell(table, "%s #%lld", a->name, (long long)a->id));
    return table_cell(table, "%s #%lld", b->name, (long long)b->id);
}

static Status run_diff(const Command *self, int argc, char **argv) {
    Session s;
    RunInfo a, b;
    Table options, scores;
    Status st = TANE_OK;
    table_begin(&options, "lLL");
    table_begin(&scores, "lrr");
    TRY(session_open(&s, self, argc, argv, 2, "which two runs?"));
    TRY(run_find(s.runs, &s.arena, s.names.items[0], &a));
    TRY(run_find(s.runs, &s.arena, s.names.items[1], &b));
    TRY(diff_heading(&options, "option", &a, &b));
    TRY(diff_options(&s, &options, a.recipe, b.recipe, false));
    TRY(diff_options(&s, &options, b.recipe, a.recipe, true));
    TRY(diff_heading(&scores, "last score", &a, &b));
    TRY(diff_scores(&s, &scores, &a, &b));
    if (options.n == 3) printf("The recipes are the same.\n");
    table_end(&options, stdout, "");
    if (scores.n > 3) printf("\n");
    table_end(&scores, stdout, "");
out:
    arena_release(&options.arena);
    arena_release(&scores.arena);
    session_close(&s);
    return st;
}

/* ---- the commands ---- */

static const Command sub_list = {
    .name = "list",
    .summary = "all runs, oldest first, with status, step, last loss and exact match",
    .examples = "  tane runs list\n  tane runs list --json | jq '.[] | select(.status == \"done\") | .name'\n",
    .usage = "tane runs list [--json] [--db FILE]",
    .options = &table_json,
    .run = run_list,
}, sub_show = {
    .name = "show",
    .summary = "one run: parents and children, scores, checkpoints, recipe",
    .examples = "  tane runs show quickstart\n"
                "  tane runs show 3            run number 3, where several have the same name\n",
    .usage = "tane runs show NAME [--json] [--db FILE]",
    .options = &table_json,
    .run = run_show,
}, sub_tree = {
    .name = "tree",
    .summary = "which run started from which",
    .examples = "  tane runs tree\n",
    .usage = "tane runs tree [--db FILE]",
    .options = &table_plain,
    .run = run_tree,
}, sub_diff = {
    .name = "diff",
    .summary = "two runs side by side: options that differ, and scores",
    .examples = "  tane runs diff quickstart finetune\n  tane runs diff 3 5\n",
    .usage = "tane runs diff A B [--db FILE]",
    .options = &table_plain,
    .run = run_diff,
};

static const Command *const subcommands[] = {&sub_list, &sub_show, &sub_tree, &sub_diff, NULL};

const Command cmd_runs = {
    .name = "runs",
    .summary = "every run, its parent, its recipe, its scores",
    .examples = "  tane runs list\n"
                "  tane runs show quickstart\n"
                "  tane runs tree\n"
                "  tane runs diff quickstart finetune\n",
    .usage = "tane runs list|show|tree|diff ...",
    .sub = subcommands,
};
