/* Files: reading, mapping, the hashing writer, atomic replacement and folders.
 *
 * Each system call that changes the disk goes through ask() first; see file.h. Interrupted calls are repeated and short
 * writes continued. Errors of the system become messages in one place, sys_error().
 */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/mem.h"

enum { BUFFER_SIZE = 1 << 18, SHA256_BYTES = 32 };

static FileHook hook;
static void *hook_ctx;

void file_set_hook(FileHook new_hook, void *ctx) {
    hook = new_hook;
    hook_ctx = ctx;
}

/* 0 to go on, or -1 with errno set by the hook: the shape of a system call. */
static int ask(FileOp op, const char *path) {
    int error = hook ? hook(hook_ctx, op, path) : 0;
    if (error) errno = error;
    return error ? -1 : 0;
}

/* Free bytes where `path` lives or would live. */
static bool free_near(const char *path, uint64_t *bytes) {
    struct statvfs fs;
    char folder[4096];
    snprintf(folder, sizeof folder, "%s", path);
    while (statvfs(folder, &fs)) { /* not there yet: ask the folder above */
        char *slash = strrchr(folder, '/');
        if (!strcmp(folder, "/") || !strcmp(folder, ".")) return false;
        if (!slash) strcpy(folder, ".");
        else slash[slash == folder] = 0;
    }
    *bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    return true;
}

/* "<path>: cannot <action>: <reason>; <fix>" for an errno. */
static Status sys_error(const char *path, const char *action, int error) {
    uint64_t bytes = 0;
    switch (error) {
    case ENOENT: return FAIL(TANE_ENOTFOUND, "%s: cannot %s: no such file or folder; check the path", path, action);
    case ENOSPC:
        if (!free_near(path, &bytes)) break;
        return FAIL(TANE_ENOSPC,
                    "%s: cannot %s: the disk is full (%llu bytes, %.1f MiB, free there); free some space or choose a "
                    "folder on another disk",
                    path, action, (unsigned long long)bytes, (double)bytes / 1048576.0);
    case EDQUOT:
        return FAIL(TANE_ENOSPC, "%s: cannot %s: your disk quota is used up; free some space or choose another folder",
                    path, action);
    case ENOMEM: return FAIL(TANE_ENOMEM, "%s: cannot %s: out of memory", path, action);
    case EIO:
        return FAIL(TANE_EIO, "%s: cannot %s: input/output error (EIO): the disk or its connection failed; look at "
                              "`dmesg` and the disk's health before trying again",
                    path, action);
    case EACCES:
    case EPERM:
        return FAIL(TANE_EIO, "%s: cannot %s: permission denied; check who owns it (`ls -ld`) or choose another path",
                    path, action);
    case EROFS:
        return FAIL(TANE_EIO, "%s: cannot %s: this disk is mounted read-only; choose another folder", path, action);
    case EISDIR: return FAIL(TANE_EIO, "%s: cannot %s: it is a folder; name a file", path, action);
    case ENOTDIR: return FAIL(TANE_EIO, "%s: cannot %s: a part of the path is a file, not a folder", path, action);
    default: break;
    }
    return FAIL(error == ENOSPC ? TANE_ENOSPC : TANE_EIO, "%s: cannot %s: %s", path, action, strerror(error));
}

static int open_retry(const char *path, int flags) {
    int fd;
    do fd = open(path, flags | O_CLOEXEC, 0666);
    while (fd < 0 && errno == EINTR);
    return fd;
}

static ssize_t read_retry(int fd, void *bytes, size_t n) {
    ssize_t got;
    do got = read(fd, bytes, n);
    while (got < 0 && errno == EINTR);
    return got;
}

static int fsync_retry(int fd, const char *path) {
    if (ask(FILE_OP_FSYNC, path)) return -1;
    int rc;
    do rc = fsync(fd);
    while (rc && errno == EINTR);
    return rc;
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

/* Opens for reading; st gets the stat. Folders are refused. */
static Status open_for_read(const char *path, int *fd, struct stat *st) {
    *fd = open_retry(path, O_RDONLY);
    if (*fd < 0) return sys_error(path, "open it", errno);
    int error = fstat(*fd, st) ? errno : S_ISDIR(st->st_mode) ? EISDIR : 0;
    if (!error) return TANE_OK;
    close(*fd);
    *fd = -1;
    return sys_error(path, "read it", error);
}

static Status too_large(const char *path, size_t max_bytes) {
    return FAIL(TANE_EFORMAT, "%s: larger than the %zu bytes (%.1f MiB) such a file may have; is it the right file?",
                path, max_bytes, (double)max_bytes / 1048576.0);
}

Status file_read(const char *path, size_t max_bytes, char **data, size_t *len) {
    Status st = TANE_OK;
    char *text = NULL;
    size_t n = 0, cap;
    struct stat info;
    int fd;
    *data = NULL;
    *len = 0;
    TRY_RETURN(open_for_read(path, &fd, &info));
    if (info.st_size > 0 && (uint64_t)info.st_size > max_bytes) TRY(too_large(path, max_bytes));
    /* Pipes and /proc say size 0: the size is only the first guess. */
    cap = info.st_size > 0 ? (size_t)info.st_size + 2 : 4096;
    TRY(mem_new((void **)&text, cap, 1));
    for (;;) {
        if (cap - n < 2) {
            TRY(mem_grow((void **)&text, cap, cap * 2, 1));
            cap *= 2;
        }
        ssize_t got = read_retry(fd, text + n, cap - n - 1);
        if (got < 0) TRY(sys_error(path, "read it", errno));
        if (got == 0) break;
        n += (size_t)got;
        if (n > max_bytes) TRY(too_large(path, max_bytes));
    }
    text[n] = 0;
    *data = text;
    *len = n;
    text = NULL;
out:
    mem_free(text);
    close(fd);
    return st;
}

Status file_map(const char *path, FileMap *map) {
    struct stat info;
    int fd;
    *map = (FileMap){0};
    TRY_RETURN(open_for_read(path, &fd, &info));
    Status st = TANE_OK;
    if (!S_ISREG(info.st_mode)) TRY(FAIL(TANE_EIO, "%s: not a regular file, so it cannot be mapped", path));
    if (info.st_size > 0) {
        void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) TRY(sys_error(path, "map it into memory", errno));
        *map = (FileMap){data, (size_t)info.st_size};
    }
out:
    close(fd);
    return st;
}

void file_unmap(FileMap *map) {
    if (map->data) munmap((void *)(uintptr_t)map->data, map->size);
    *map = (FileMap){0};
}

/* ---- SHA-256 ---------------------------------------------------------------------------------------------------- */

static Status sha_failed(void) { return FAIL(TANE_ENOMEM, "could not compute a SHA-256 checksum: out of memory"); }

static Status sha_new(EVP_MD_CTX **ctx) {
    *ctx = EVP_MD_CTX_new();
    if (*ctx && EVP_DigestInit_ex(*ctx, EVP_sha256(), NULL)) return TANE_OK;
    EVP_MD_CTX_free(*ctx);
    *ctx = NULL;
    return sha_failed();
}

static Status sha_finish(EVP_MD_CTX *ctx, char hex[65]) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    if (!EVP_DigestFinal_ex(ctx, digest, NULL)) return sha_failed();
    for (int i = 0; i < SHA256_BYTES; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    return TANE_OK;
}

/* ---- the writer ------------------------------------------------------------------------------------------------- */

struct FileWriter {
    int fd;
    int error;        /* errno of the first failure; every later call fails with it */
    char *path;
    char *buffer;     /* BUFFER_SIZE bytes */
    size_t used;
    uint64_t written; /* bytes that reached the system */
    EVP_MD_CTX *sha;
};

static void fw_free(FileWriter *w) {
    if (w->fd >= 0) close(w->fd);
    EVP_MD_CTX_free(w->sha);
    mem_free(w->buffer);
    mem_free(w->path);
    mem_free(w);
}

static Status open_writer(FileWriter **out, const char *path, int flags) {
    FileWriter *w;
    Status st = TANE_OK;
    *out = NULL;
    TRY_RETURN(MEM_NEW(&w));
    w->fd = -1;
    TRY(mem_strdup(&w->path, path));
    TRY(mem_new((void **)&w->buffer, BUFFER_SIZE, 1));
    TRY(sha_new(&w->sha));
    if (ask(FILE_OP_CREATE, path) == 0) w->fd = open_retry(path, O_WRONLY | O_CREAT | flags);
    if (w->fd < 0) TRY(sys_error(path, "create it", errno));
    *out = w;
    return TANE_OK;
out:
    fw_free(w);
    return st;
}

Status fw_open(FileWriter **out, const char *path) { return open_writer(out, path, O_TRUNC); }
Status fw_append(FileWriter **out, const char *path) { return open_writer(out, path, O_APPEND); }

static Status write_failed(FileWriter *w) { return sys_error(w->path, "write to it", w->error); }

static Status write_through(FileWriter *w, const char *bytes, size_t n) {
    if (w->error) return write_failed(w);
    if (!EVP_DigestUpdate(w->sha, bytes, n)) return sha_failed();
    while (n > 0) {
        ssize_t done = -1;
        if (ask(FILE_OP_WRITE, w->path) == 0) done = write(w->fd, bytes, n);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) {
            w->error = done < 0 ? errno : ENOSPC; /* a regular file that takes nothing has no room */
            return write_failed(w);
        }
        bytes += done;
        n -= (size_t)done;
        w->written += (uint64_t)done;
    }
    return TANE_OK;
}

Status fw_flush(FileWriter *w) {
    size_t n = w->used;
    w->used = 0;
    return write_through(w, w->buffer, n);
}

Status fw_write(FileWriter *w, const void *bytes, size_t n) {
    if (w->error) return write_failed(w);
    if (n > BUFFER_SIZE - w->used) TRY_RETURN(fw_flush(w));
    if (n >= BUFFER_SIZE) return write_through(w, bytes, n);
    if (n) memcpy(w->buffer + w->used, bytes, n);
    w->used += n;
    return TANE_OK;
}

Status fw_printf(FileWriter *w, const char *fmt, ...) {
    va_list args, again;
    if (w->error) return write_failed(w);
    size_t room = BUFFER_SIZE - w->used;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(w->buffer + w->used, room, fmt, args);
    va_end(args);
    Status st = TANE_OK;
    if (n < 0) {
        st = FAIL(TANE_EINVAL, "%s: text that cannot be formatted", w->path);
    } else if ((size_t)n < room) {
        w->used += (size_t)n;
    } else {
        char *text;
        st = mem_new((void **)&text, (size_t)n + 1, 1);
        if (st == TANE_OK) {
            vsnprintf(text, (size_t)n + 1, fmt, again);
            st = fw_write(w, text, (size_t)n);
            mem_free(text);
        }
    }
    va_end(again);
    return st;
}

Status fw_close(FileWriter **writer, uint64_t *size, char *sha256_hex) {
    FileWriter *w = *writer;
    Status st = TANE_OK;
    char hex[65];
    *writer = NULL;
    TRY(fw_flush(w));
    if (fsync_retry(w->fd, w->path)) TRY(sys_error(w->path, "make sure it is on the disk (fsync)", errno));
    TRY(sha_finish(w->sha, hex));
    int rc = close(w->fd);
    w->fd = -1;
    if (rc && errno != EINTR) TRY(sys_error(w->path, "close it", errno)); /* some network disks report errors here */
    if (size) *size = w->written;
    if (sha256_hex) memcpy(sha256_hex, hex, sizeof hex);
out:
    fw_free(w);
    return st;
}

void fw_abort(FileWriter **writer) {
    if (*writer) fw_free(*writer);
    *writer = NULL;
}

/* ---- whole files ------------------------------------------------------------------------------------------------ */

/* Removes what a failed operation left, keeping the error that is being reported. */
static void clean_up(const char *path) {
    ErrorCopy reported;
    err_save(&reported);
    (void)file_unlink(path);
    (void)err_restore(&reported);
}

static Status write_whole(const char *path, const void *bytes, size_t n) {
    FileWriter *w = NULL;
    TRY_RETURN(fw_open(&w, path));
    Status st = fw_write(w, bytes, n);
    if (st == TANE_OK) return fw_close(&w, NULL, NULL);
    fw_abort(&w);
    return st;
}

/* The folder that holds `path` (mem_free). */
static Status parent_of(char **out, const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash) return mem_strdup(out, ".");
    size_t n = slash == path ? 1 : (size_t)(slash - path);
    TRY_RETURN(mem_new((void **)out, n + 1, 1));
    memcpy(*out, path, n);
    return TANE_OK;
}

static Status fsync_parent(const char *path) {
    char *folder;
    TRY_RETURN(parent_of(&folder, path));
    Status st = dir_fsync(folder);
    mem_free(folder);
    return st;
}

Status file_write_atomic(const char *path, const void *bytes, size_t n) {
    Str tmp = {0};
    TRY_RETURN(str_printf(&tmp, "%s.tmp", path));
    Status st = write_whole(tmp.text, bytes, n);
    if (st == TANE_OK) st = file_rename(tmp.text, path);
    if (st != TANE_OK) clean_up(tmp.text);
    if (st == TANE_OK) st = fsync_parent(path);
    str_free(&tmp);
    return st;
}

bool file_exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && !S_ISDIR(info.st_mode);
}

bool dir_exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

bool link_exists(const char *path) {
    struct stat info;
    return lstat(path, &info) == 0 && S_ISLNK(info.st_mode);
}

Status file_size(const char *path, uint64_t *size) {
    struct stat info;
    if (stat(path, &info)) return sys_error(path, "look at it", errno);
    if (S_ISDIR(info.st_mode)) return sys_error(path, "tell its size", EISDIR);
    *size = (uint64_t)info.st_size;
    return TANE_OK;
}

Status file_modified(const char *path, int64_t *nanoseconds) {
    struct stat info;
    if (stat(path, &info)) return sys_error(path, "look at it", errno);
    *nanoseconds = (int64_t)info.st_mtim.tv_sec * 1000000000 + info.st_mtim.tv_nsec;
    return TANE_OK;
}

/* Feeds a file piece by piece to a hash, a writer, or both. */
static Status pump(const char *path, EVP_MD_CTX *sha, FileWriter *w, uint64_t *size) {
    Status st = TANE_OK;
    char *buffer = NULL;
    struct stat info;
    int fd;
    uint64_t total = 0;
    TRY_RETURN(open_for_read(path, &fd, &info));
    TRY(mem_new((void **)&buffer, BUFFER_SIZE, 1));
    for (;;) {
        ssize_t got = read_retry(fd, buffer, BUFFER_SIZE);
        if (got < 0) TRY(sys_error(path, "read it", errno));
        if (got == 0) break;
        if (sha && !EVP_DigestUpdate(sha, buffer, (size_t)got)) TRY(sha_failed());
        if (w) TRY(fw_write(w, buffer, (size_t)got));
        total += (uint64_t)got;
    }
    if (size) *size = total;
out:
    mem_free(buffer);
    close(fd);
    return st;
}

Status file_sha256(const char *path, uint64_t *size, char sha256_hex[65]) {
    EVP_MD_CTX *sha;
    TRY_RETURN(sha_new(&sha));
    Status st = pump(path, sha, NULL, size);
    if (st == TANE_OK) st = sha_finish(sha, sha256_hex);
    EVP_MD_CTX_free(sha);
    return st;
}

Status file_copy(const char *from, const char *to) {
    struct stat a, b;
    if (stat(from, &a)) return sys_error(from, "copy it", errno);
    if (S_ISDIR(a.st_mode)) return sys_error(from, "copy it", EISDIR);
    if (stat(to, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
        return FAIL(TANE_EINVAL, "%s: cannot copy a file onto itself (%s)", from, to);
    FileWriter *w;
    TRY_RETURN(fw_open(&w, to));
    Status st = pump(from, NULL, w, NULL);
    if (st == TANE_OK) st = fw_close(&w, NULL, NULL);
    fw_abort(&w);
    if (st != TANE_OK) clean_up(to);
    return st;
}

Status file_rename(const char *from, const char *to) {
    if (ask(FILE_OP_RENAME, from) || rename(from, to)) {
        Status st = sys_error(from, "rename it", errno);
        return err_context("renaming to %s", to), st;
    }
    return TANE_OK;
}

Status file_unlink(const char *path) {
    if ((ask(FILE_OP_UNLINK, path) || unlink(path)) && errno != ENOENT) return sys_error(path, "delete it", errno);
    return TANE_OK;
}

Status file_symlink(const char *target, const char *link_path) {
    Str tmp = {0};
    Status st = TANE_OK;
    TRY(str_printf(&tmp, "%s.tmp", link_path));
    TRY(file_unlink(tmp.text)); /* left by a crash */
    if (ask(FILE_OP_SYMLINK, link_path) || symlink(target, tmp.text))
        TRY(sys_error(link_path, "make a symbolic link there", errno));
    st = file_rename(tmp.text, link_path);
    if (st != TANE_OK) clean_up(tmp.text);
    if (st == TANE_OK) st = fsync_parent(link_path);
out:
    str_free(&tmp);
    return st;
}

/* ---- folders ---------------------------------------------------------------------------------------------------- */

static Status make_one(const char *path) {
    if (dir_exists(path)) return TANE_OK;
    if (ask(FILE_OP_MKDIR, path) == 0 && mkdir(path, 0777) == 0) return TANE_OK;
    if (errno != EEXIST) return sys_error(path, "make this folder", errno);
    if (dir_exists(path)) return TANE_OK; /* somebody else was faster */
    return FAIL(TANE_EIO, "%s: cannot make this folder: a file of that name is there; move it or choose another name",
                path);
}

Status dir_make(const char *path) {
    char *prefix;
    TRY_RETURN(mem_strdup(&prefix, path));
    Status st = TANE_OK;
    for (char *p = prefix + 1; *prefix && *p && st == TANE_OK; p++) {
        if (*p != '/') continue;
        *p = 0;
        st = make_one(prefix);
        *p = '/';
    }
    if (st == TANE_OK) st = make_one(path);
    mem_free(prefix);
    return st;
}

Status dir_fsync(const char *path) {
    int fd = open_retry(path, O_RDONLY | O_DIRECTORY);
    if (fd < 0) return sys_error(path, "open this folder", errno);
    int error = fsync_retry(fd, path) ? errno : 0;
    close(fd);
    if (error && error != EINVAL) /* EINVAL: a file system whose folders need no fsync */
        return sys_error(path, "make sure this folder is on the disk (fsync)", error);
    return TANE_OK;
}

static Status remove_tree(const char *path) {
    struct stat info;
    if (lstat(path, &info)) return errno == ENOENT ? TANE_OK : sys_error(path, "look at it", errno);
    if (!S_ISDIR(info.st_mode)) return file_unlink(path);
    DirList list;
    TRY_RETURN(dir_list(path, &list));
    Status st = TANE_OK;
    for (size_t i = 0; i < list.n && st == TANE_OK; i++) {
        char *child;
        st = path_join(&child, path, list.names[i]);
        if (st != TANE_OK) break;
        st = remove_tree(child);
        mem_free(child);
    }
    dir_list_free(&list);
    if (st == TANE_OK && (ask(FILE_OP_UNLINK, path) || rmdir(path)) && errno != ENOENT)
        st = sys_error(path, "delete this folder", errno);
    return st;
}

Status dir_remove(const char *path) { return remove_tree(path); }

static int compare_names(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

Status dir_list(const char *path, DirList *list) {
    Status st = TANE_OK;
    size_t cap = 0;
    *list = (DirList){0};
    DIR *dir = opendir(path);
    if (!dir) return sys_error(path, "list this folder", errno);
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(dir);
        if (!entry && errno) TRY(sys_error(path, "list this folder", errno));
        if (!entry) break;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (list->n == cap) {
            size_t grown = cap ? 2 * cap : 16;
            TRY(mem_grow((void **)&list->names, cap, grown, sizeof *list->names));
            cap = grown;
        }
        TRY(mem_strdup(&list->names[list->n], entry->d_name));
        list->n++;
    }
    if (list->n) qsort(list->names, list->n, sizeof *list->names, compare_names);
out:
    closedir(dir);
    if (st != TANE_OK) dir_list_free(list);
    return st;
}

void dir_list_free(DirList *list) {
    for (size_t i = 0; i < list->n; i++) mem_free(list->names[i]);
    mem_free(list->names);
    *list = (DirList){0};
}

Status dir_lock(const char *path, int *fd) {
    *fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*fd < 0) return FAIL(errno == ENOENT ? TANE_ENOTFOUND : TANE_EIO, "%s: cannot open the folder: %s", path, strerror(errno));
    if (flock(*fd, LOCK_EX | LOCK_NB) == 0) return TANE_OK;
    int reason = errno;
    dir_unlock(fd);
    /* A file system without locks is no reason not to work. */
    return reason == EWOULDBLOCK ? FAIL(TANE_EINVAL, "%s is in use by another tane; wait for it, or choose another folder", path) : TANE_OK;
}

void dir_unlock(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

Status dir_free_bytes(const char *path, uint64_t *bytes) {
    struct statvfs fs;
    if (statvfs(path, &fs)) return sys_error(path, "tell how much space is free there", errno);
    *bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    return TANE_OK;
}

/* ---- paths ------------------------------------------------------------------------------------------------------ */

Status path_join(char **out, const char *folder, const char *name) {
    size_t n = strlen(folder), m = strlen(name);
    bool slash = n > 0 && folder[n - 1] != '/';
    TRY_RETURN(mem_new((void **)out, n + slash + m + 1, 1));
    memcpy(*out, folder, n);
    if (slash) (*out)[n] = '/';
    memcpy(*out + n + slash, name, m);
    return TANE_OK;
}

const char *path_base(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}
