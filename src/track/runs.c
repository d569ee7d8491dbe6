/* Runs in SQLite: schema, prepared statements, and the calls of runs.h as one transaction each. */
#include "track/runs.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"

enum { SCHEMA_VERSION = 1, PATIENCE_MS = 10000, HOST_BYTES = 256 };

static const char schema[] =
    "CREATE TABLE runs("
    "  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, created TEXT NOT NULL, finished TEXT,"
    "  status TEXT NOT NULL CHECK(status IN ('running', 'done', 'failed', 'stopped')),"
    "  parent INTEGER REFERENCES runs(id) ON DELETE SET NULL, parent_path TEXT,"
    "  recipe TEXT NOT NULL, output_dir TEXT NOT NULL, version TEXT NOT NULL, pid INTEGER, host TEXT);"
    "CREATE INDEX runs_by_name ON runs(name);"
    "CREATE TABLE scores("
    "  run INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE, step INTEGER NOT NULL, name TEXT NOT NULL,"
    "  value REAL, PRIMARY KEY(run, step, name)) WITHOUT ROWID;"
    "CREATE TABLE checkpoints("
    "  run INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE, step INTEGER NOT NULL, path TEXT NOT NULL,"
    "  is_best INTEGER NOT NULL, is_last INTEGER NOT NULL, eval_loss REAL, PRIMARY KEY(run, step)) WITHOUT ROWID;"
    "PRAGMA user_version = 1;";

#define RUN_COLUMNS                                                                                                    \
    "SELECT id, name, created, finished, status, parent, parent_path, recipe, output_dir, version, pid, host,"         \
    " max(ifnull((SELECT max(step) FROM scores WHERE run = id), 0),"                                                   \
    "     ifnull((SELECT max(step) FROM checkpoints WHERE run = id), 0)) FROM runs "

typedef enum Query {
    BEGIN, COMMIT, ROLLBACK, START, FIND_FOLDER, GO_ON, CUT_SCORES, CUT_CHECKPOINTS, FINISH, SCORE, NOT_BEST, NOT_LAST,
    CHECKPOINT, REMOVED, LIST, BY_NAME, BY_ID, SCORES, LAST_SCORES, CHECKPOINTS, QUERIES
} Query;

static const char *const sql[QUERIES] = {
    [BEGIN] = "BEGIN IMMEDIATE",
    [COMMIT] = "COMMIT",
    [ROLLBACK] = "ROLLBACK",
    [START] = "INSERT INTO runs(name, created, status, parent, parent_path, recipe, output_dir, version, pid, host)"
              " VALUES(?, ?, 'running', nullif(?, 0), ?, ?, ?, ?, ?, ?)",
    [FIND_FOLDER] = "SELECT id FROM runs WHERE output_dir = ? ORDER BY id DESC LIMIT 1",
    [GO_ON] = "UPDATE runs SET status = 'running', finished = NULL, version = ?, pid = ?, host = ? WHERE id = ?",
    [CUT_SCORES] = "DELETE FROM scores WHERE run = ? AND step > ?",
    [CUT_CHECKPOINTS] = "DELETE FROM checkpoints WHERE run = ? AND step > ?",
    [FINISH] = "UPDATE runs SET status = ?, finished = ? WHERE id = ?",
    [SCORE] = "INSERT OR REPLACE INTO scores(run, step, name, value) VALUES(?, ?, ?, ?)",
    [NOT_BEST] = "UPDATE checkpoints SET is_best = 0 WHERE run = ? AND is_best",
    [NOT_LAST] = "UPDATE checkpoints SET is_last = 0 WHERE run = ? AND is_last",
    [CHECKPOINT] = "INSERT OR REPLACE INTO checkpoints(run, step, path, is_best, is_last, eval_loss)"
                   " VALUES(?, ?, ?, ?, ?, ?)",
    [REMOVED] = "DELETE FROM checkpoints WHERE run = ? AND step = ?",
    [LIST] = RUN_COLUMNS "ORDER BY id",
    [BY_NAME] = RUN_COLUMNS "WHERE name = ?1 OR output_dir = ?1 ORDER BY id DESC LIMIT 1",
    [BY_ID] = RUN_COLUMNS "WHERE id = ?",
    [SCORES] = "SELECT step, name, value FROM scores WHERE run = ? ORDER BY step, name",
    [LAST_SCORES] = "SELECT max(step), name, value FROM scores WHERE run = ? GROUP BY name ORDER BY name",
    [CHECKPOINTS] = "SELECT step, path, is_best, is_last, eval_loss FROM checkpoints WHERE run = ? ORDER BY step",
};

struct Runs {
    sqlite3 *db;
    char *path;
    sqlite3_stmt *statements[QUERIES]; /* prepared at first use */
};

/* ---- errors ---- */

static Status fail(const char *path, int code, const char *message) {
    switch (code & 0xff) {
    case SQLITE_NOMEM: return FAIL(TANE_ENOMEM, "%s: out of memory", path);
    case SQLITE_FULL: return FAIL(TANE_ENOSPC, "%s: the disk is full; free some space and try again", path);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return FAIL(TANE_EIO, "%s: another process has held it for %d s; try again", path, PATIENCE_MS / 1000);
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
        return FAIL(TANE_EFORMAT, "%s: %s; not a database of runs, or a damaged one: move it away", path, message);
    case SQLITE_READONLY: return FAIL(TANE_EIO, "%s: it may not be written; check its permissions", path);
    case SQLITE_CANTOPEN: return FAIL(TANE_EIO, "%s: cannot open it; check the folder and its permissions", path);
    default: return FAIL(TANE_EIO, "%s: %s (SQLite %d)", path, message, code);
    }
}

static Status db_fail(Runs *r) { return fail(r->path, sqlite3_extended_errcode(r->db), sqlite3_errmsg(r->db)); }

/* ---- statements ---- */

/* The statement with its values bound: 'i' int64_t, 'd' double (NaN: NULL), 's' text (NULL: NULL). Text must live until
 * `done`. */
static Status bind(Runs *r, Query query, sqlite3_stmt **out, const char *types, ...) {
    sqlite3_stmt **s = &r->statements[query];
    if (!*s && sqlite3_prepare_v3(r->db, sql[query], -1, SQLITE_PREPARE_PERSISTENT, s, NULL) != SQLITE_OK)
        return db_fail(r);
    *out = *s;
    va_list args;
    va_start(args, types);
    int rc = SQLITE_OK;
    for (int i = 1; types[i - 1] && rc == SQLITE_OK; i++) {
        if (types[i - 1] == 'i') rc = sqlite3_bind_int64(*s, i, va_arg(args, int64_t));
        else if (types[i - 1] == 'd') rc = sqlite3_bind_double(*s, i, va_arg(args, double));
        else rc = sqlite3_bind_text(*s, i, va_arg(args, const char *), -1, SQLITE_STATIC);
    }
    va_end(args);
    return rc == SQLITE_OK ? TANE_OK : db_fail(r);
}

static void done(sqlite3_stmt *s) {
    sqlite3_reset(s);
    sqlite3_clear_bindings(s);
}

/* One step: *row says whether there is a row. Without one the statement is done. */
static Status step(Runs *r, sqlite3_stmt *s, bool *row) {
    int rc = sqlite3_step(s);
    *row = rc == SQLITE_ROW;
    Status st = rc == SQLITE_ROW || rc == SQLITE_DONE ? TANE_OK : db_fail(r);
    if (!*row) done(s);
    return st;
}

/* For statements that give no rows. */
#define EXECUTE(r, query, ...)                                                                                         \
    do {                                                                                                               \
        sqlite3_stmt *statement_;                                                                                      \
        bool row_;                                                                                                     \
        TRY(bind((r), (query), &statement_, __VA_ARGS__));                                                             \
        TRY(step((r), statement_, &row_));                                                                             \
    } while (0)

/* Ends a transaction: commits after success, else rolls back and keeps the error. */
static Status finish(Runs *r, Status st) {
    ErrorCopy error;
    sqlite3_stmt *s;
    bool row;
    if (st == TANE_OK) {
        st = bind(r, COMMIT, &s, "");
        if (st == TANE_OK) st = step(r, s, &row);
        if (st == TANE_OK) return TANE_OK;
    }
    err_save(&error);
    if (!sqlite3_get_autocommit(r->db) && bind(r, ROLLBACK, &s, "") == TANE_OK) (void)step(r, s, &row);
    return err_restore(&error);
}

/* ---- opening ---- */

static Status execute_text(Runs *r, const char *text) {
    return sqlite3_exec(r->db, text, NULL, NULL, NULL) == SQLITE_OK ? TANE_OK : db_fail(r);
}

static Status schema_version(Runs *r, int *version) {
    sqlite3_stmt *s = NULL;
    Status st = TANE_OK;
    if (sqlite3_prepare_v2(r->db, "PRAGMA user_version", -1, &s, NULL) != SQLITE_OK) TRY(db_fail(r));
    if (sqlite3_step(s) != SQLITE_ROW) TRY(db_fail(r));
    *version = sqlite3_column_int(s, 0);
out:
    sqlite3_finalize(s);
    return st;
}

/* Inside a transaction, so that of two processes that create the file at once the second finds it made. */
static Status make_schema(Runs *r) {
    int version = 0;
    Status st = TANE_OK;
    EXECUTE(r, BEGIN, "");
    st = schema_version(r, &version);
    if (st == TANE_OK && version == 0) st = execute_text(r, schema);
    return finish(r, st);
out:
    return st;
}

static Status prepare(Runs *r, bool create) {
    int version = 0;
    TRY_RETURN(schema_version(r, &version));
    if (version == 0 && create) {
        TRY_RETURN(execute_text(r, "PRAGMA journal_mode = WAL"));
        TRY_RETURN(make_schema(r));
        TRY_RETURN(schema_version(r, &version));
    }
    if (version == 0) return FAIL(TANE_EFORMAT, "%s: not a database of runs; give another one with --db", r->path);
    if (version > SCHEMA_VERSION)
        return FAIL(TANE_EUNSUPPORTED, "%s: written by a newer tane (schema %d, this one knows %d); update tane",
                    r->path, version, SCHEMA_VERSION);
    return execute_text(r, "PRAGMA foreign_keys = ON; PRAGMA synchronous = NORMAL");
}

static Status make_parent_folder(const char *path) {
    char *folder;
    TRY_RETURN(mem_strdup(&folder, path));
    char *slash = strrchr(folder, '/');
    Status st = TANE_OK;
    if (slash && slash != folder) {
        *slash = 0;
        st = dir_make(folder);
    }
    mem_free(folder);
    return st;
}

Status runs_open(Runs **out, const char *path, bool create) {
    Runs *r = NULL;
    Status st = TANE_OK;
    *out = NULL;
    if (!create && !file_exists(path))
        return FAIL(TANE_ENOTFOUND, "%s: no runs are recorded here; `tane train` makes this file, --db names another",
                    path);
    if (create) TRY(make_parent_folder(path));
    TRY(MEM_NEW(&r));
    TRY(mem_strdup(&r->path, path));
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | (create ? SQLITE_OPEN_CREATE : 0);
    int rc = sqlite3_open_v2(path, &r->db, flags, NULL);
    if (rc != SQLITE_OK) TRY(fail(path, rc, r->db ? sqlite3_errmsg(r->db) : "cannot open it"));
    sqlite3_busy_timeout(r->db, PATIENCE_MS);
    TRY(prepare(r, create));
    *out = r;
    return TANE_OK;
out:
    runs_close(r);
    return st;
}

void runs_close(Runs *r) {
    if (!r) return;
    for (int i = 0; i < QUERIES; i++) sqlite3_finalize(r->statements[i]);
    sqlite3_close(r->db);
    mem_free(r->path);
    mem_free(r);
}

/* ---- writing ---- */

static void this_host(char out[HOST_BYTES]) {
    if (gethostname(out, HOST_BYTES) != 0) out[0] = 0;
    out[HOST_BYTES - 1] = 0;
}

/* The latest run whose folder is `path` or holds it; links (best, last) are followed. 0: none. */
static Status find_parent(Runs *r, const char *path, int64_t *id) {
    char wanted[PATH_MAX], folder[PATH_MAX];
    Arena arena = {0};
    RunInfo *list;
    size_t n;
    Status st = TANE_OK;
    *id = 0;
    if (!path || !realpath(path, wanted)) return TANE_OK;
    TRY(runs_list(r, &arena, &list, &n));
    for (size_t i = n; i-- > 0 && !*id;) {
        if (!realpath(list[i].output_dir, folder)) continue;
        size_t length = strlen(folder);
        if (strncmp(wanted, folder, length) == 0 && (wanted[length] == 0 || wanted[length] == '/')) *id = list[i].id;
    }
out:
    arena_release(&arena);
    return st;
}

Status run_start(Runs *r, const RunStart *start, int64_t *id) {
    Status st = TANE_OK;
    char now[32], host[HOST_BYTES];
    int64_t parent;
    this_host(host);
    clock_utc(now, sizeof now);
    TRY(find_parent(r, start->parent, &parent));
    EXECUTE(r, START, "ssissssis", start->name, now, parent, start->parent, start->recipe, start->output_dir,
            TANE_VERSION, (int64_t)getpid(), host);
    *id = sqlite3_last_insert_rowid(r->db);
out:
    return st;
}

static Status go_on(Runs *r, const char *output_dir, int64_t from, int64_t *id) {
    Status st = TANE_OK;
    sqlite3_stmt *s;
    bool row;
    char host[HOST_BYTES];
    this_host(host);
    TRY(bind(r, FIND_FOLDER, &s, "s", output_dir));
    TRY(step(r, s, &row));
    if (!row) TRY(FAIL(TANE_ENOTFOUND, "%s: no run in folder %s is recorded", r->path, output_dir));
    *id = sqlite3_column_int64(s, 0);
    done(s);
    EXECUTE(r, GO_ON, "sisi", TANE_VERSION, (int64_t)getpid(), host, *id);
    EXECUTE(r, CUT_SCORES, "ii", *id, from);
    EXECUTE(r, CUT_CHECKPOINTS, "ii", *id, from);
out:
    return st;
}

Status run_resume(Runs *r, const char *output_dir, int64_t from, int64_t *id) {
    Status st = TANE_OK;
    EXECUTE(r, BEGIN, "");
    return finish(r, go_on(r, output_dir, from, id));
out:
    return st;
}

Status run_finish(Runs *r, int64_t id, const char *status) {
    Status st = TANE_OK;
    char now[32];
    clock_utc(now, sizeof now);
    EXECUTE(r, FINISH, "ssi", status, now, id);
out:
    return st;
}

Status run_score(Runs *r, int64_t id, int64_t at_step, const char *name, double value) {
    Status st = TANE_OK;
    EXECUTE(r, SCORE, "iisd", id, at_step, name, value);
out:
    return st;
}

static Status add_checkpoint(Runs *r, int64_t id, const RunCheckpoint *c) {
    Status st = TANE_OK;
    if (c->is_best) EXECUTE(r, NOT_BEST, "i", id);
    if (c->is_last) EXECUTE(r, NOT_LAST, "i", id);
    EXECUTE(r, CHECKPOINT, "iisiid", id, c->step, c->path, (int64_t)c->is_best, (int64_t)c->is_last, c->eval_loss);
out:
    return st;
}

Status run_checkpoint(Runs *r, int64_t id, const RunCheckpoint *checkpoint) {
    Status st = TANE_OK;
    EXECUTE(r, BEGIN, "");
    return finish(r, add_checkpoint(r, id, checkpoint));
out:
    return st;
}

Status run_checkpoint_removed(Runs *r, int64_t id, int64_t at_step) {
    Status st = TANE_OK;
    EXECUTE(r, REMOVED, "ii", id, at_step);
out:
    return st;
}

/* ---- reading ---- */

static Status text_at(Arena *arena, sqlite3_stmt *s, int column, const char **out) {
    const char *text = (const char *)sqlite3_column_text(s, column);
    return arena_strdup(arena, (char **)(uintptr_t)out, text ? text : "");
}

static double number_at(sqlite3_stmt *s, int column) {
    return sqlite3_column_type(s, column) == SQLITE_NULL ? NAN : sqlite3_column_double(s, column);
}

/* A process that was killed could not say so. */
static bool is_gone(sqlite3_stmt *s) {
    char host[HOST_BYTES];
    const char *recorded = (const char *)sqlite3_column_text(s, 11);
    pid_t pid = (pid_t)sqlite3_column_int64(s, 10);
    this_host(host);
    return recorded && strcmp(recorded, host) == 0 && pid > 0 && kill(pid, 0) != 0 && errno == ESRCH;
}

/* The row of RUN_COLUMNS that the statement stands on. */
static Status read_run(Arena *arena, sqlite3_stmt *s, RunInfo *out) {
    *out = (RunInfo){.id = sqlite3_column_int64(s, 0), .parent_id = sqlite3_column_int64(s, 5),
                     .step = sqlite3_column_int64(s, 12)};
    TRY_RETURN(text_at(arena, s, 1, &out->name));
    TRY_RETURN(text_at(arena, s, 2, &out->created));
    TRY_RETURN(text_at(arena, s, 3, &out->finished));
    TRY_RETURN(text_at(arena, s, 4, &out->status));
    TRY_RETURN(text_at(arena, s, 6, &out->parent_path));
    TRY_RETURN(text_at(arena, s, 7, &out->recipe));
    TRY_RETURN(text_at(arena, s, 8, &out->output_dir));
    TRY_RETURN(text_at(arena, s, 9, &out->version));
    if (strcmp(out->status, "running") == 0 && is_gone(s)) out->status = "interrupted";
    return TANE_OK;
}

/* Room for one more element of an array in an arena, which doubles when full. */
static Status make_room(Arena *arena, void **list, size_t n, size_t size) {
    void *grown;
    if (n & (n - 1)) return TANE_OK;
    TRY_RETURN(arena_new(arena, &grown, n ? 2 * n : 1, size));
    if (n) memcpy(grown, *list, n * size);
    *list = grown;
    return TANE_OK;
}

typedef Status (*ReadRow)(Arena *arena, sqlite3_stmt *s, void *element);

static Status read_all(Runs *r, sqlite3_stmt *s, ReadRow read, size_t size, Arena *arena, void **list, size_t *n) {
    Status st = TANE_OK;
    bool row;
    *list = NULL;
    *n = 0;
    for (;;) {
        TRY(step(r, s, &row));
        if (!row) return TANE_OK;
        TRY(make_room(arena, list, *n, size));
        TRY(read(arena, s, (char *)*list + *n * size));
        ++*n;
    }
out:
    done(s);
    return st;
}

static Status read_run_row(Arena *arena, sqlite3_stmt *s, void *element) { return read_run(arena, s, element); }

static Status read_score(Arena *arena, sqlite3_stmt *s, void *element) {
    RunScore *score = element;
    *score = (RunScore){.step = sqlite3_column_int64(s, 0), .value = number_at(s, 2)};
    return text_at(arena, s, 1, &score->name);
}

static Status read_checkpoint(Arena *arena, sqlite3_stmt *s, void *element) {
    RunCheckpoint *c = element;
    *c = (RunCheckpoint){.step = sqlite3_column_int64(s, 0), .is_best = sqlite3_column_int(s, 2),
                         .is_last = sqlite3_column_int(s, 3), .eval_loss = number_at(s, 4)};
    return text_at(arena, s, 1, &c->path);
}

Status runs_list(Runs *r, Arena *arena, RunInfo **list, size_t *n) {
    sqlite3_stmt *s;
    TRY_RETURN(bind(r, LIST, &s, ""));
    return read_all(r, s, read_run_row, sizeof **list, arena, (void **)list, n);
}

static Status read_list(Runs *r, Query query, int64_t id, ReadRow read, size_t size, Arena *arena, void **list,
                        size_t *n) {
    sqlite3_stmt *s;
    TRY_RETURN(bind(r, query, &s, "i", id));
    return read_all(r, s, read, size, arena, list, n);
}

Status run_scores(Runs *r, Arena *arena, int64_t id, RunScore **list, size_t *n) {
    return read_list(r, SCORES, id, read_score, sizeof **list, arena, (void **)list, n);
}

Status run_last_scores(Runs *r, Arena *arena, int64_t id, RunScore **list, size_t *n) {
    return read_list(r, LAST_SCORES, id, read_score, sizeof **list, arena, (void **)list, n);
}

Status run_checkpoints(Runs *r, Arena *arena, int64_t id, RunCheckpoint **list, size_t *n) {
    return read_list(r, CHECKPOINTS, id, read_checkpoint, sizeof **list, arena, (void **)list, n);
}

/* ---- finding ---- */

static Status no_such_run(Runs *r, const char *name) {
    Arena arena = {0};
    RunInfo *list;
    size_t n;
    const char **names;
    Status st = TANE_OK;
    TRY(runs_list(r, &arena, &list, &n));
    TRY(ARENA_NEW_ARRAY(&arena, &names, n));
    for (size_t i = 0; i < n; i++) names[i] = list[i].name;
    const char *near = err_nearest(name, names, n);
    if (near) TRY(FAIL(TANE_ENOTFOUND, "%s: no run is called \"%s\"; did you mean \"%s\"?", r->path, name, near));
    TRY(FAIL(TANE_ENOTFOUND, "%s: no run is called \"%s\"; `tane runs list` shows all", r->path, name));
out:
    arena_release(&arena);
    return st;
}

static Status find_row(Runs *r, sqlite3_stmt *s, Arena *arena, RunInfo *out, bool *found) {
    TRY_RETURN(step(r, s, found));
    if (!*found) return TANE_OK;
    Status st = read_run(arena, s, out);
    done(s);
    return st;
}

Status run_find(Runs *r, Arena *arena, const char *name, RunInfo *out) {
    sqlite3_stmt *s;
    bool found;
    TRY_RETURN(bind(r, BY_NAME, &s, "s", name));
    TRY_RETURN(find_row(r, s, arena, out, &found));
    const char *digits = name + (*name == '#');
    if (!found && *digits && strspn(digits, "0123456789") == strlen(digits)) {
        TRY_RETURN(bind(r, BY_ID, &s, "i", (int64_t)strtoll(digits, NULL, 10)));
        TRY_RETURN(find_row(r, s, arena, out, &found));
    }
    return found ? TANE_OK : no_such_run(r, name);
}
