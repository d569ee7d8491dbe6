/* JSON: the tree reader, whose trees must survive being written and read again, and the pull reader, asked for whatever
 * seems to come next. */
#include <assert.h>

#include "base/json.h"
#include "fuzz.h"

static void read_tree(const char *text, size_t n) {
    json_t *tree, *again;
    Str written = {0};
    if (json_read_text("fuzz.json", text, n, &tree) != TANE_OK) {
        assert(!tree);
        return;
    }
    Status st = json_write_str(&written, tree);
    assert(st == TANE_OK);
    st = json_read_text("written.json", written.text, written.len, &again);
    assert(st == TANE_OK && json_equal(tree, again));
    json_decref(again);
    json_decref(tree);
    str_free(&written);
}

enum { MAX_OPEN = 1000 }; /* more than the reader allows */

/* The character that follows, white space aside; 0 at the end. */
static char peek(const JsonReader *r) {
    const char *p = r->p;
    while (p < r->end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t')) p++;
    return p < r->end ? *p : 0;
}

static Status pull(JsonReader *r) {
    char open[MAX_OPEN];
    int depth = 0;
    const char *text;
    int64_t number;
    size_t n;
    bool more;
    do {
        char c = peek(r);
        if (c == '{' || c == '[') {
            TRY_RETURN(json_begin(r, c));
            assert(depth < MAX_OPEN);
            open[depth++] = c == '{' ? '}' : ']';
        } else if (c == '"') {
            TRY_RETURN(json_next_text(r, &text, &n));
            fuzz_touch(text, n + 1);
            assert(text[n] == 0);
        } else {
            TRY_RETURN(json_next_int(r, &number));
        }
        for (more = false; depth > 0 && !more;) {
            TRY_RETURN(json_more(r, open[depth - 1], &more));
            if (!more) depth--;
        }
        if (more && open[depth - 1] == '}') {
            TRY_RETURN(json_next_key(r, &text, &n));
            fuzz_touch(text, n + 1);
        }
    } while (depth > 0);
    return json_end(r);
}

void fuzz_json(const uint8_t *data, size_t n) {
    JsonReader r;
    read_tree((const char *)data, n);
    json_reader_init(&r, "fuzz.json", (const char *)data, n);
    (void)pull(&r);
    json_reader_free(&r);
}
