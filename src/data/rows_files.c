/* Which files paths, folders and patterns name. A pattern is matched folder by folder; links to folders are followed
 * where they are named, but not by **, which would not come to an end in a circle. */
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "data/rows_parts.h"

enum { MAX_DEPTH = 64 };

typedef struct Found {
    char *path;
    size_t order;
} Found;

typedef struct Files {
    Arena *arena;
    Found *items;
    size_t n, cap;
} Files;

/* ---- what was found ---- */

/* Without "./" in front, "//" and "/./", so that a file has one name. */
static void tidy(char *path) {
    char *to = path;
    for (const char *p = path; *p; p++) {
        bool begins = to == path || to[-1] == '/';
        if (*p == '/' && begins && to != path) continue;
        if (begins && p[0] == '.' && p[1] == '/') {
            p++;
            while (p[1] == '/') p++;
            continue;
        }
        *to++ = *p;
    }
    *to = 0;
}

static Status add_file(Files *files, const char *path) {
    if (files->n == files->cap) {
        size_t cap = files->cap ? 2 * files->cap : 64;
        TRY_RETURN(mem_grow((void **)&files->items, files->n, cap, sizeof *files->items));
        files->cap = cap;
    }
    Found *item = &files->items[files->n];
    TRY_RETURN(arena_strdup(files->arena, &item->path, path));
    tidy(item->path);
    item->order = files->n++;
    return TANE_OK;
}

static int by_path(const void *a, const void *b) {
    const Found *x = a, *y = b;
    int order = strcmp(x->path, y->path);
    return order ? order : (x->order > y->order) - (x->order < y->order);
}

static int by_order(const void *a, const void *b) {
    const Found *x = a, *y = b;
    return (x->order > y->order) - (x->order < y->order);
}

/* The files of one pattern, from `first` on, sorted by path. */
static void sort_pattern(Files *files, size_t first) {
    if (files->n - first < 2) return;
    qsort(files->items + first, files->n - first, sizeof *files->items, by_path);
    for (size_t i = first; i < files->n; i++) files->items[i].order = i;
}

/* A file that was named twice stays at its first place. */
static void drop_repeats(Files *files) {
    if (files->n < 2) return;
    qsort(files->items, files->n, sizeof *files->items, by_path);
    size_t kept = 1;
    for (size_t i = 1; i < files->n; i++)
        if (strcmp(files->items[i].path, files->items[kept - 1].path) != 0) files->items[kept++] = files->items[i];
    files->n = kept;
    qsort(files->items, files->n, sizeof *files->items, by_order);
}

/* ---- folders ---- */

static bool is_shy(const char *name) { return name[0] == '.' || name[0] == '_'; }

static bool is_data_name(const char *name) {
    const char *packed;
    return !is_shy(name) && rows_kind_of_name(name, &packed) != ROWS_UNKNOWN;
}

typedef Status (*Visit)(Files *files, const char *path, const char *name, const char *rest, int depth);

/* visit(path of the entry, its name) for all entries of a folder; "" is the current one. */
static Status each_entry(Files *files, const char *folder, const char *rest, int depth, Visit visit) {
    DirList list;
    char *path = NULL;
    TRY_RETURN(dir_list(*folder ? folder : ".", &list));
    Status st = TANE_OK;
    for (size_t i = 0; i < list.n; i++) {
        TRY(path_join(&path, folder, list.names[i]));
        TRY(visit(files, path, list.names[i], rest, depth));
        mem_free(path);
        path = NULL;
    }
out:
    mem_free(path);
    dir_list_free(&list);
    return st;
}

static Status add_data_file(Files *files, const char *path, const char *name, const char *rest, int depth) {
    (void)rest, (void)depth;
    return is_data_name(name) && file_exists(path) ? add_file(files, path) : TANE_OK;
}

/* ---- patterns ---- */

static bool has_magic(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (strchr("*?[", text[i])) return true;
    return false;
}

/* The first part of a pattern that has magic; what stands before it names a folder. */
static const char *first_magic(const char *pattern) {
    const char *part = pattern;
    for (const char *p = pattern;; p++) {
        if (*p && *p != '/') continue;
        if (has_magic(part, (size_t)(p - part))) return part;
        if (!*p) return NULL;
        part = p + 1;
    }
}

static Status expand(Files *files, const char *folder, const char *pattern, int depth);

/* `rest` begins with the part that the entry's name must fit. */
static Status visit_match(Files *files, const char *path, const char *name, const char *rest, int depth) {
    const char *slash = strchr(rest, '/');
    char *part;
    TRY_RETURN(mem_strdup(&part, rest));
    if (slash) part[slash - rest] = 0;
    bool fits = fnmatch(part, name, FNM_PERIOD | FNM_NOESCAPE) == 0;
    mem_free(part);
    if (!fits) return TANE_OK;
    if (!slash) return file_exists(path) ? add_file(files, path) : TANE_OK;
    return expand(files, path, slash + 1, depth + 1);
}

/* `rest` begins with the ** that may stand for this folder, too. */
static Status visit_below(Files *files, const char *path, const char *name, const char *rest, int depth) {
    if (is_shy(name) || link_exists(path) || !dir_exists(path)) return TANE_OK;
    return expand(files, path, rest, depth + 1);
}

/* Files that a pattern names below a folder. */
static Status expand(Files *files, const char *folder, const char *pattern, int depth) {
    if (depth > MAX_DEPTH) return FAIL(TANE_EINVAL, "%s: more than %d folders deep", folder, MAX_DEPTH);
    while (*pattern == '/') pattern++;
    const char *slash = strchr(pattern, '/');
    size_t n = slash ? (size_t)(slash - pattern) : strlen(pattern);
    if (*folder && !dir_exists(folder)) return TANE_OK;
    if (n == 2 && !memcmp(pattern, "**", 2)) {
        TRY_RETURN(slash ? expand(files, folder, slash + 1, depth + 1)
                         : each_entry(files, folder, NULL, depth, add_data_file));
        return each_entry(files, folder, pattern, depth, visit_below);
    }
    if (has_magic(pattern, n)) return each_entry(files, folder, pattern, depth, visit_match);
    /* A plain part: no need to list the folder. */
    char *name, *path;
    TRY_RETURN(mem_strdup(&name, pattern));
    name[n] = 0;
    Status st = path_join(&path, folder, name);
    mem_free(name);
    if (st != TANE_OK) return st;
    if (slash) st = expand(files, path, slash + 1, depth + 1);
    else if (file_exists(path)) st = add_file(files, path);
    mem_free(path);
    return st;
}

/* ---- errors ---- */

/* The folder of a path, "." for a bare name (mem_free). */
static Status folder_of(char **out, const char *path) {
    const char *name = path_base(path);
    TRY_RETURN(mem_strdup(out, name == path ? "." : path));
    if (name != path) (*out)[name - path - (name - path > 1)] = 0;
    return TANE_OK;
}

static Status missing_file(const char *path) {
    char *folder;
    DirList list = {0};
    TRY_RETURN(folder_of(&folder, path));
    Status st = TANE_OK;
    if (!dir_exists(folder))
        TRY(FAIL(TANE_ENOTFOUND, "%s: no such file, nor the folder %s; check the path", path, folder));
    TRY(dir_list(folder, &list));
    const char *near = err_nearest(path_base(path), (const char *const *)list.names, list.n);
    if (near)
        TRY(FAIL(TANE_ENOTFOUND, "%s: no such file; did you mean %.*s%s?", path, (int)(path_base(path) - path), path,
                 near));
    TRY(FAIL(TANE_ENOTFOUND, "%s: no such file or folder; check the path", path));
out:
    dir_list_free(&list);
    mem_free(folder);
    return st;
}

static Status no_match(const char *pattern) {
    const char *magic = first_magic(pattern);
    char *folder;
    TRY_RETURN(mem_strdup(&folder, pattern));
    folder[magic - pattern] = 0;
    bool there = magic == pattern || dir_exists(folder);
    Status st = FAIL(TANE_ENOTFOUND, "%s: no file fits this pattern; %s%s", pattern,
                     there ? "check it with ls" : "there is no folder ", there ? "" : folder);
    mem_free(folder);
    return st;
}

/* ---- all of it ---- */

static Status add_pattern(Files *files, const char *pattern) {
    size_t before = files->n;
    if (file_exists(pattern)) return add_file(files, pattern); /* also one with brackets in its name */
    if (dir_exists(pattern)) {
        TRY_RETURN(each_entry(files, pattern, NULL, 0, add_data_file));
        if (files->n > before) return TANE_OK;
        return FAIL(TANE_ENOTFOUND, "%s: no data files in this folder (%s); for those in folders below it: %s/**",
                    pattern, ROWS_ENDINGS, pattern);
    }
    if (!first_magic(pattern)) return missing_file(pattern);
    TRY_RETURN(expand(files, *pattern == '/' ? "/" : "", pattern, 0));
    if (files->n == before) return no_match(pattern);
    sort_pattern(files, before);
    return TANE_OK;
}

Status rows_files(const char *const *patterns, size_t n, Arena *arena, char ***out, size_t *n_out) {
    Files files = {.arena = arena};
    Status st = TANE_OK;
    *out = NULL;
    *n_out = 0;
    if (n == 0) TRY(FAIL(TANE_EINVAL, "no data files are named; name at least one file, folder or pattern"));
    for (size_t i = 0; i < n; i++) TRY(add_pattern(&files, patterns[i]));
    drop_repeats(&files);
    TRY(ARENA_NEW_ARRAY(arena, out, files.n));
    for (size_t i = 0; i < files.n; i++) (*out)[i] = files.items[i].path;
    *n_out = files.n;
out:
    mem_free(files.items);
    return st;
}
