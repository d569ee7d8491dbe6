/* Files: reading, mapping, and writes that survive a crash.
 *
 * Every system call that changes the disk first asks the fault hook, so that a test can make it fail with any errno, or
 * kill the process there. Errors name the path and the system's reason; ENOSPC becomes TANE_ENOSPC and ENOENT
 * becomes TANE_ENOTFOUND.
 */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include "base/status.h"

typedef enum FileOp {
    FILE_OP_CREATE,
    FILE_OP_WRITE,
    FILE_OP_FSYNC,
    FILE_OP_RENAME,
    FILE_OP_UNLINK,
    FILE_OP_MKDIR,
    FILE_OP_SYMLINK
} FileOp;

/* Called before each changing system call; returns 0 to go on, or an errno to fail with. NULL removes the hook. */
typedef int (*FileHook)(void *ctx, FileOp op, const char *path);
void file_set_hook(FileHook hook, void *ctx);

/* Whole file into memory (mem_free), NUL-terminated behind len bytes. Over max_bytes is an error. */
Status file_read(const char *path, size_t max_bytes, char **data, size_t *len);

typedef struct FileMap {
    const uint8_t *data; /* NULL when size is 0 */
    size_t size;
} FileMap;
Status file_map(const char *path, FileMap *map); /* read-only, private */
void file_unmap(FileMap *map);

/* A buffered writer that hashes what passes through it. */
typedef struct FileWriter FileWriter;
Status fw_open(FileWriter **out, const char *path);                  /* creates or truncates */
Status fw_append(FileWriter **out, const char *path);                /* appends; hash covers only what is added */
Status fw_write(FileWriter *w, const void *bytes, size_t n);
Status fw_printf(FileWriter *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
Status fw_flush(FileWriter *w);                                      /* to the system, without fsync */
/* Flush, fsync, close, free. size and hex (65 bytes) may be NULL. *w is NULL afterwards, also on failure. */
Status fw_close(FileWriter **w, uint64_t *size, char *sha256_hex);
void fw_abort(FileWriter **w); /* close without fsync; the file stays as it is; NULL is fine */

/* path.tmp, write, fsync, rename over path, fsync the folder. */
Status file_write_atomic(const char *path, const void *bytes, size_t n);

bool file_exists(const char *path); /* follows links */
bool dir_exists(const char *path);
bool link_exists(const char *path); /* a symbolic link, wherever it leads */
Status file_size(const char *path, uint64_t *size);
Status file_modified(const char *path, int64_t *nanoseconds); /* since 1970 */
Status file_sha256(const char *path, uint64_t *size, char sha256_hex[65]);
Status file_copy(const char *from, const char *to);   /* fsynced */
Status file_rename(const char *from, const char *to); /* also folders */
Status file_unlink(const char *path);                 /* a missing file is fine */
Status file_symlink(const char *target, const char *link_path); /* atomic replace */

Status dir_make(const char *path);   /* with parents; existing is fine */
Status dir_fsync(const char *path);
Status dir_remove(const char *path); /* the whole tree, not following links; a missing one is fine */
/* Names in a folder, sorted by bytes, without . and .. */
typedef struct DirList {
    char **names;
    size_t n;
} DirList;
Status dir_list(const char *path, DirList *list);
void dir_list_free(DirList *list);
/* Takes the folder for this process until dir_unlock or its end; TANE_EINVAL when another one has it. */
Status dir_lock(const char *path, int *fd);
void dir_unlock(int *fd); /* -1 is fine */
Status dir_free_bytes(const char *path, uint64_t *bytes);

/* "a/b" + "c" -> "a/b/c" (mem_free). */
Status path_join(char **out, const char *folder, const char *name);
const char *path_base(const char *path);

#endif
