/* Files: reading, mapping, the hashing writer, replacement under failing and killed disk calls, folders, paths. */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHA_EMPTY "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define SHA_ABC "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" /* FIPS 180-4's example */

static bool is_link(const char *path) {
    struct stat info;
    return lstat(path, &info) == 0 && S_ISLNK(info.st_mode);
}

static int open_descriptors(void) {
    int n = 0;
    for (int fd = 0; fd < 256; fd++) n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static void a_file_is_read_whole(void **state) {
    (void)state;
    char *text;
    size_t n;
    const char *path = test_write_bytes(test_path("a"), "one\0two", 7);
    assert_ok(file_read(path, 7, &text, &n));
    assert_int_equal(n, 7);
    assert_memory_equal(text, "one\0two\0", 8);
    mem_free(text);
    assert_error(file_read(path, 6, &text, &n), TANE_EFORMAT, "/a: larger than the 6 bytes");
    assert_null(text);
    test_write(path, "");
    assert_ok(file_read(path, 0, &text, &n));
    assert_int_equal(n, 0);
    assert_string_equal(text, "");
    mem_free(text);
    assert_error(file_read(test_path("none"), 10, &text, &n), TANE_ENOTFOUND, "/none: cannot open it: no such file");
    assert_error(file_read(test_dir(), 10, &text, &n), TANE_EIO, "it is a folder; name a file");
    assert_error(file_read(test_path("a/b"), 10, &text, &n), TANE_EIO, "a part of the path is a file");
}

static void files_of_unknown_size_are_read(void **state) {
    (void)state;
    char *text;
    size_t n;
    assert_ok(file_read("/proc/self/mountinfo", 1 << 20, &text, &n)); /* claims size 0 */
    assert_true(n > 10);
    assert_int_equal(strlen(text), n);
    mem_free(text);
    assert_error(file_read("/dev/zero", 100000, &text, &n), TANE_EFORMAT, "larger than the 100000 bytes");
}

static void a_file_is_mapped(void **state) {
    (void)state;
    FileMap map;
    const char *path = test_write(test_path("a"), "seed");
    assert_ok(file_map(path, &map));
    assert_int_equal(map.size, 4);
    assert_memory_equal(map.data, "seed", 4);
    file_unmap(&map);
    assert_null(map.data);
    file_unmap(&map);
    test_write(path, "");
    assert_ok(file_map(path, &map));
    assert_null(map.data);
    assert_int_equal(map.size, 0);
    file_unmap(&map);
    assert_error(file_map(test_path("none"), &map), TANE_ENOTFOUND, "/none");
    assert_error(file_map(test_dir(), &map), TANE_EIO, "it is a folder");
    assert_error(file_map("/dev/null", &map), TANE_EIO, "not a regular file");
}

/* ---- the writer ------------------------------------------------------------------------------------------------- */

static void the_writer_counts_and_hashes(void **state) {
    (void)state;
    FileWriter *w;
    uint64_t size;
    char hex[65], again[65];
    const char *path = test_path("a");
    assert_ok(fw_open(&w, path));
    assert_ok(fw_close(&w, &size, hex));
    assert_null(w);
    assert_int_equal(size, 0);
    assert_string_equal(hex, SHA_EMPTY);

    assert_ok(fw_open(&w, path));
    assert_ok(fw_write(w, "a", 1));
    assert_ok(fw_flush(w));
    assert_string_equal(test_read(path, NULL), "a");
    assert_ok(fw_write(w, "", 0));
    assert_ok(fw_printf(w, "%s%c", "b", 'c'));
    assert_ok(fw_close(&w, &size, hex));
    assert_int_equal(size, 3);
    assert_string_equal(hex, SHA_ABC);
    assert_string_equal(test_read(path, NULL), "abc");

    assert_ok(fw_append(&w, path));
    assert_ok(fw_printf(w, "abc"));
    assert_ok(fw_close(&w, &size, hex));
    assert_int_equal(size, 3);
    assert_string_equal(hex, SHA_ABC); /* only of what was added */
    assert_string_equal(test_read(path, NULL), "abcabc");
    assert_ok(file_sha256(path, &size, again));
    assert_int_equal(size, 6);
    assert_string_not_equal(again, hex);
    assert_ok(fw_open(&w, path)); /* truncates */
    fw_abort(&w);
    assert_null(w);
    fw_abort(&w);
    assert_string_equal(test_read(path, NULL), "");
}

/* Pieces of every size around the buffer's, against the same bytes in memory. */
static void pieces_of_all_sizes_arrive_in_order(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 1000, 262143, 1, 262144, 262145, 3, 600000, 17, 262141, 5};
    enum { TOTAL = 2 * 1000 * 1000 };
    char *bytes = malloc(TOTAL), hex[65], again[65];
    for (size_t i = 0; i < TOTAL; i++) bytes[i] = (char)('a' + i * i % 23);
    for (int print = 0; print < 2; print++) {
        FileWriter *w;
        uint64_t size;
        size_t n = 0, m;
        assert_ok(fw_open(&w, test_path("a")));
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; n += sizes[i++]) {
            if (print) assert_ok(fw_printf(w, "%.*s", (int)sizes[i], bytes + n));
            else assert_ok(fw_write(w, bytes + n, sizes[i]));
        }
        assert_ok(fw_close(&w, &size, hex));
        assert_int_equal(size, n);
        char *got = test_read(test_path("a"), &m);
        assert_int_equal(m, n);
        assert_memory_equal(got, bytes, n);
        assert_ok(file_sha256(test_path("a"), &size, again));
        assert_string_equal(hex, again);
    }
    free(bytes);
}

static void a_failed_writer_stays_failed(void **state) {
    (void)state;
    TestFault fault = {.at = 1, .error = EIO};
    FileWriter *w;
    assert_ok(fw_open(&w, test_path("a")));
    test_fault_install(&fault);
    assert_ok(fw_write(w, "abc", 3));
    assert_error(fw_flush(w), TANE_EIO, "/a: cannot write to it: input/output error (EIO)");
    assert_int_equal(fault.op, FILE_OP_WRITE);
    assert_error(fw_write(w, "abc", 3), TANE_EIO, "EIO");
    assert_error(fw_printf(w, "abc"), TANE_EIO, "EIO");
    assert_error(fw_close(&w, NULL, NULL), TANE_EIO, "EIO");
    assert_null(w);
}

static int interrupt(void *ctx, FileOp op, const char *path) {
    (void)path;
    int *calls = ctx;
    return op == FILE_OP_WRITE && ++*calls < 4 ? EINTR : 0;
}

static void an_interrupted_write_is_repeated(void **state) {
    (void)state;
    int calls = 0;
    file_set_hook(interrupt, &calls);
    assert_ok(file_write_atomic(test_path("a"), "abc", 3));
    assert_int_equal(calls, 4);
    assert_string_equal(test_read(test_path("a"), NULL), "abc");
}

/* A limit on the size of files makes a write short for real; at the second one the limit is lifted, or not. */
typedef struct ShortWrite {
    struct rlimit before;
    int writes;
    bool lift;
} ShortWrite;

static int lift_at_the_second_write(void *ctx, FileOp op, const char *path) {
    (void)path;
    ShortWrite *s = ctx;
    if (op == FILE_OP_WRITE && ++s->writes == 2 && s->lift) setrlimit(RLIMIT_FSIZE, &s->before);
    return 0;
}

static Status write_beyond_a_limit(ShortWrite *s, const char *path, const char *bytes, size_t n) {
    getrlimit(RLIMIT_FSIZE, &s->before);
    struct rlimit limit = {100000, s->before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
    file_set_hook(lift_at_the_second_write, s);
    Status st = file_write_atomic(path, bytes, n);
    file_set_hook(NULL, NULL);
    setrlimit(RLIMIT_FSIZE, &s->before);
    return st;
}

static void a_short_write_is_continued_or_reported(void **state) {
    (void)state;
    enum { N = 300000 };
    char *bytes = malloc(N);
    size_t n;
    for (size_t i = 0; i < N; i++) bytes[i] = (char)(i * i >> 3);
    ShortWrite lifted = {.lift = true}, kept = {0};
    assert_ok(write_beyond_a_limit(&lifted, test_path("b"), bytes, N));
    assert_int_equal(lifted.writes, 2);
    char *got = test_read(test_path("b"), &n);
    assert_int_equal(n, N);
    assert_memory_equal(got, bytes, N);
    Status st = write_beyond_a_limit(&kept, test_path("a"), bytes, N);
    free(bytes);
    assert_int_equal(kept.writes, 2);
    assert_error(st, TANE_EIO, "a.tmp: cannot write to it: File too large");
    assert_false(file_exists(test_path("a")));
    assert_false(file_exists(test_path("a.tmp")));
}

static void a_full_disk_says_how_much_is_free(void **state) {
    (void)state;
    FileWriter *w;
    assert_ok(fw_open(&w, "/dev/full"));
    assert_ok(fw_write(w, "abc", 3));
    assert_error(fw_close(&w, NULL, NULL), TANE_ENOSPC, "the disk is full (");
    assert_non_null(strstr(err_message(), "MiB, free there); free some space"));
    TestFault fault = {.at = 1, .error = ENOSPC};
    test_fault_install(&fault);
    assert_error(dir_make(test_path("new/folder")), TANE_ENOSPC, "/new: cannot make this folder: the disk is full (");
    fault = (TestFault){.at = 1, .error = EDQUOT};
    assert_error(fw_open(&w, test_path("a")), TANE_ENOSPC, "your disk quota is used up");
    fault = (TestFault){.at = 1, .error = EACCES};
    assert_error(fw_open(&w, test_path("a")), TANE_EIO, "permission denied");
    fault = (TestFault){.at = 1, .error = EROFS};
    assert_error(fw_open(&w, test_path("a")), TANE_EIO, "mounted read-only");
    fault = (TestFault){.at = 1, .error = ENOMEM};
    assert_error(fw_open(&w, test_path("a")), TANE_ENOMEM, "out of memory");
    fault = (TestFault){.at = 1, .error = EMFILE};
    assert_error(fw_open(&w, test_path("a")), TANE_EIO, "Too many open files");
}

/* ---- atomic replacement ----------------------------------------------------------------------------------------- */

static Status replace(void *path) { return file_write_atomic(path, "new content", 11); }

static void write_old(void *path) { test_write(path, "old"); }

static void is_old_or_new(void *path) {
    size_t n;
    const char *text = test_read(path, &n);
    assert_non_null(text);
    if (strcmp(text, "old")) assert_string_equal(text, "new content");
}

static void is_old_or_new_and_clean(void *path) {
    is_old_or_new(path);
    Str tmp = {0};
    assert_ok(str_printf(&tmp, "%s.tmp", (char *)path));
    assert_false(file_exists(tmp.text));
    str_free(&tmp);
}

static void a_failing_replacement_leaves_old_or_new(void **state) {
    (void)state;
    char *path = (char *)(uintptr_t)test_path("a");
    int before = open_descriptors();
    /* create, write, fsync, rename, fsync of the folder */
    assert_int_equal(test_fail_disk_calls(replace, ENOSPC, write_old, is_old_or_new_and_clean, path), 5);
    assert_int_equal(test_fail_disk_calls(replace, EIO, write_old, is_old_or_new_and_clean, path), 5);
    assert_string_equal(test_read(path, NULL), "new content");
    assert_int_equal(open_descriptors(), before);
    for (size_t n = 1; n <= 4; n++) { /* a disk that is gone for good: even the removal of the temporary file fails */
        TestFault fault = {.at = n, .error = EIO, .persist = true};
        write_old(path);
        test_fault_install(&fault);
        assert_error(replace(path), TANE_EIO, "EIO");
        assert_string_equal(test_read(path, NULL), "old");
    }
}

static void a_killed_replacement_leaves_old_or_new(void **state) {
    (void)state;
    char *path = (char *)(uintptr_t)test_path("a");
    assert_int_equal(test_kill_at_disk_calls(replace, write_old, is_old_or_new, path), 5);
    assert_string_equal(test_read(path, NULL), "new content");
    assert_false(file_exists(test_path("a.tmp"))); /* the last run took over what the killed ones left */
}

static void replacement_is_simple_from_outside(void **state) {
    (void)state;
    assert_ok(file_write_atomic(test_path("empty"), NULL, 0));
    assert_string_equal(test_read(test_path("empty"), NULL), "");
    assert_error(file_write_atomic(test_path("no/a"), "x", 1), TANE_ENOTFOUND, "/no/a.tmp: cannot create it");
    assert_ok(dir_make(test_path("folder/inner")));
    assert_error(file_write_atomic(test_path("folder"), "x", 1), TANE_EIO, "renaming to");
    assert_false(file_exists(test_path("folder.tmp")));
    assert_int_equal(chdir(test_dir()), 0);
    assert_ok(file_write_atomic("relative", "x", 1)); /* its folder is "." */
    assert_int_equal(chdir("/"), 0);
    assert_string_equal(test_read(test_path("relative"), NULL), "x");
}

static Status replace_link(void *path) { return file_symlink("new-target", path); }
static void link_old(void *path) {
    unlink(path);
    assert_int_equal(symlink("old-target", path), 0);
}
static void links_to_old_or_new(void *path) {
    char target[64] = "";
    assert_true(readlink(path, target, sizeof target - 1) > 0);
    if (strcmp(target, "old-target")) assert_string_equal(target, "new-target");
}

static void a_link_is_replaced_atomically(void **state) {
    (void)state;
    char *path = (char *)(uintptr_t)test_path("last");
    assert_ok(file_symlink("first", path));
    assert_true(is_link(path));
    assert_false(file_exists(path)); /* follows: the target is not there */
    test_write(test_path("first"), "x");
    assert_true(file_exists(path));
    /* removal of a left-over, link, rename, fsync of the folder */
    assert_int_equal(test_fail_disk_calls(replace_link, EIO, link_old, links_to_old_or_new, path), 4);
    assert_int_equal(test_kill_at_disk_calls(replace_link, link_old, links_to_old_or_new, path), 4);
    assert_string_equal(test_read(test_path("first"), NULL), "x");
}

/* ---- copying, renaming, removing -------------------------------------------------------------------------------- */

static Status copy(void *ctx) {
    const char *const *paths = ctx;
    return file_copy(paths[0], paths[1]);
}
static void copy_is_whole_or_absent(void *ctx) {
    const char *const *paths = ctx;
    char *text = test_read(paths[1], NULL);
    if (text) assert_string_equal(text, "content");
}

static void a_copy_is_whole_or_absent(void **state) {
    (void)state;
    const char *paths[] = {test_write(test_path("a"), "content"), test_path("b")};
    assert_int_equal(test_fail_disk_calls(copy, EIO, NULL, copy_is_whole_or_absent, paths), 3);
    assert_string_equal(test_read(paths[1], NULL), "content");
    assert_error(file_copy(paths[0], paths[0]), TANE_EINVAL, "onto itself");
    assert_int_equal(symlink("a", test_path("link")), 0);
    assert_error(file_copy(paths[0], test_path("link")), TANE_EINVAL, "onto itself");
    assert_string_equal(test_read(paths[0], NULL), "content");
    assert_error(file_copy(test_path("none"), paths[1]), TANE_ENOTFOUND, "/none: cannot copy it");
    assert_string_equal(test_read(paths[1], NULL), "content");
    assert_error(file_copy(test_dir(), paths[1]), TANE_EIO, "it is a folder");
}

static void sizes_and_hashes_are_told(void **state) {
    (void)state;
    uint64_t size;
    char hex[65];
    const char *path = test_write(test_path("a"), "abc");
    assert_ok(file_size(path, &size));
    assert_int_equal(size, 3);
    assert_ok(file_sha256(path, &size, hex));
    assert_string_equal(hex, SHA_ABC);
    assert_ok(file_sha256(path, NULL, hex));
    assert_error(file_size(test_path("none"), &size), TANE_ENOTFOUND, "/none");
    assert_error(file_size(test_dir(), &size), TANE_EIO, "it is a folder");
    assert_error(file_sha256(test_path("none"), &size, hex), TANE_ENOTFOUND, "/none");
    assert_true(file_exists(path) && !dir_exists(path));
    assert_true(!file_exists(test_dir()) && dir_exists(test_dir()));
    assert_ok(dir_free_bytes(test_dir(), &size));
    assert_true(size > 0);
    assert_error(dir_free_bytes(test_path("none"), &size), TANE_ENOTFOUND, "how much space is free");
}

static void renaming_and_removing_report(void **state) {
    (void)state;
    test_write(test_path("a"), "x");
    assert_ok(file_rename(test_path("a"), test_path("b")));
    assert_ok(dir_make(test_path("d/e")));
    assert_ok(file_rename(test_path("d"), test_path("f")));
    assert_true(dir_exists(test_path("f/e")) && !dir_exists(test_path("d")));
    assert_error(file_rename(test_path("none"), test_path("b")), TANE_ENOTFOUND, "renaming to ");
    assert_non_null(strstr(err_message(), "/none: cannot rename it"));
    assert_ok(file_unlink(test_path("b")));
    assert_false(file_exists(test_path("b")));
    assert_ok(file_unlink(test_path("b")));
    assert_error(file_unlink(test_path("f")), TANE_EIO, "/f: cannot delete it");
}

/* ---- folders ---------------------------------------------------------------------------------------------------- */

static void folders_are_made_with_parents(void **state) {
    (void)state;
    assert_ok(dir_make(test_path("a/b/c")));
    assert_ok(dir_make(test_path("a/b/c")));
    assert_ok(dir_make(test_path("a//d/")));
    assert_true(dir_exists(test_path("a/b/c")) && dir_exists(test_path("a/d")));
    assert_ok(dir_make("/"));
    test_write(test_path("file"), "x");
    assert_error(dir_make(test_path("file")), TANE_EIO, "a file of that name is there");
    assert_error(dir_make(test_path("file/x")), TANE_EIO, "/file: cannot make this folder: a file of that name");
    assert_error(dir_make(""), TANE_ENOTFOUND, "cannot make this folder");
    assert_ok(dir_fsync(test_path("a")));
    assert_error(dir_fsync(test_path("none")), TANE_ENOTFOUND, "/none");
    assert_error(dir_fsync(test_path("file")), TANE_EIO, "not a folder");
}

static void a_listing_is_sorted(void **state) {
    (void)state;
    DirList list;
    assert_ok(dir_list(test_dir(), &list));
    assert_int_equal(list.n, 0);
    dir_list_free(&list);
    for (int i = 39; i >= 0; i--) test_write(test_path("f%02d", i), "");
    test_write(test_path(".hidden"), "");
    test_write(test_path("Z"), "");
    assert_ok(dir_list(test_dir(), &list));
    assert_int_equal(list.n, 42);
    assert_string_equal(list.names[0], ".hidden");
    assert_string_equal(list.names[1], "Z");
    for (int i = 0; i < 40; i++) assert_string_equal(list.names[i + 2], path_base(test_path("f%02d", i)));
    dir_list_free(&list);
    assert_null(list.names);
    assert_error(dir_list(test_path("none"), &list), TANE_ENOTFOUND, "/none: cannot list this folder");
}

static void make_tree(void *ctx) {
    (void)ctx;
    assert_ok(dir_make(test_path("tree/a/b")));
    assert_ok(dir_make(test_path("outside")));
    test_write(test_path("outside/keep"), "x");
    test_write(test_path("tree/file"), "x");
    test_write(test_path("tree/a/b/file"), "x");
    if (!is_link(test_path("tree/a/link"))) assert_int_equal(symlink("../../outside", test_path("tree/a/link")), 0);
}

static void outside_is_kept(void *ctx) {
    (void)ctx;
    assert_string_equal(test_read(test_path("outside/keep"), NULL), "x");
}

static Status remove_tree(void *ctx) {
    (void)ctx;
    return dir_remove(test_path("tree"));
}

static void removal_does_not_follow_links(void **state) {
    (void)state;
    assert_ok(dir_remove(test_path("none")));
    /* file, b/file, b, link, a, tree */
    assert_int_equal(test_fail_disk_calls(remove_tree, EIO, make_tree, outside_is_kept, NULL), 6);
    assert_false(dir_exists(test_path("tree")));
    assert_int_equal(symlink("outside", test_path("link")), 0);
    assert_ok(dir_remove(test_path("link")));
    assert_false(is_link(test_path("link")));
    outside_is_kept(NULL);
}

/* ---- paths and memory ------------------------------------------------------------------------------------------- */

static void paths_are_joined(void **state) {
    (void)state;
    static const char *const cases[][3] = {
        {"a/b", "c", "a/b/c"}, {"a/", "c", "a/c"}, {"", "c", "c"}, {"/", "c", "/c"}, {".", "c", "./c"}, {"a", "", "a/"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *path;
        assert_ok(path_join(&path, cases[i][0], cases[i][1]));
        assert_string_equal(path, cases[i][2]);
        mem_free(path);
    }
    assert_string_equal(path_base("a/b/c.txt"), "c.txt");
    assert_string_equal(path_base("c.txt"), "c.txt");
    assert_string_equal(path_base("/c"), "c");
    assert_string_equal(path_base("a/"), "");
}

static Status use_everything(void *ctx) {
    const char *const *p = ctx; /* a, b, folder, link */
    Status st = TANE_OK;
    FileWriter *w = NULL;
    FileMap map = {0};
    DirList list = {0};
    char *text = NULL, hex[65];
    size_t n;
    TRY(dir_make(p[2]));
    TRY(fw_open(&w, p[0]));
    TRY(fw_printf(w, "%0300000d", 1)); /* over the buffer: needs memory of its own */
    TRY(fw_close(&w, NULL, NULL));
    TRY(fw_append(&w, p[0]));
    TRY(fw_close(&w, NULL, NULL));
    TRY(file_read(p[0], 1 << 20, &text, &n));
    TRY(file_map(p[0], &map));
    TRY(file_sha256(p[0], NULL, hex));
    TRY(file_copy(p[0], p[1]));
    TRY(file_write_atomic(p[0], "x", 1));
    TRY(file_symlink("a", p[3]));
    TRY(dir_list(p[2], &list));
    TRY(dir_remove(p[2]));
out:
    fw_abort(&w);
    mem_free(text);
    file_unmap(&map);
    dir_list_free(&list);
    return st;
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    const char *paths[] = {test_path("folder/a"), test_path("folder/b"), test_path("folder"), test_path("folder/link")};
    int before = open_descriptors();
    assert_true(test_fail_allocations(use_everything, paths) > 30);
    assert_int_equal(open_descriptors(), before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(a_file_is_read_whole),
        TEST(files_of_unknown_size_are_read),
        TEST(a_file_is_mapped),
        TEST(the_writer_counts_and_hashes),
        TEST(pieces_of_all_sizes_arrive_in_order),
        TEST(a_failed_writer_stays_failed),
        TEST(an_interrupted_write_is_repeated),
        TEST(a_short_write_is_continued_or_reported),
        TEST(a_full_disk_says_how_much_is_free),
        TEST(a_failing_replacement_leaves_old_or_new),
        TEST(a_killed_replacement_leaves_old_or_new),
        TEST(replacement_is_simple_from_outside),
        TEST(a_link_is_replaced_atomically),
        TEST(a_copy_is_whole_or_absent),
        TEST(sizes_and_hashes_are_told),
        TEST(renaming_and_removing_report),
        TEST(folders_are_made_with_parents),
        TEST(a_listing_is_sorted),
        TEST(removal_does_not_follow_links),
        TEST(paths_are_joined),
        TEST(every_allocation_may_fail),
    };
    return cmocka_run_group_tests_name("file", tests, NULL, NULL);
}
