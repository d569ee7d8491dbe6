/* Conversations through chat templates that models really have: the tokens and what of them is trained on, or why it
 * cannot be told, against transformers and tokenizers.
 *
 *     TANE_REAL   folder with templates/NAME.jinja (tools/real/fetch_templates.sh); without them the test is skipped
 *
 * The golden values are sums (tests/golden/row_format/real.json, made by tools/golden/row_format.py): the templates
 * belong to others. A template whose own sum is another is not the one that was looked at, and counts as missing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../chat_cases.h"
#include "../row_cases.h"
#include "../support.h"

typedef struct Tally {
    int templates, missing, masks, refused, wrong;
} Tally;

/* "1,2,3 011" */
static void sum_of(const RowTokens *out, char sum[17]) {
    Str s = {0};
    for (size_t i = 0; i < out->list.n; i++) assert_ok(str_printf(&s, i ? ",%d" : "%d", out->list.ids[i]));
    assert_ok(str_add(&s, " ", 1));
    for (size_t i = 0; i < out->list.n; i++) assert_ok(str_add(&s, out->mask[i] ? "1" : "0", 1));
    chat_sha16(s.text, s.len, sum);
    str_free(&s);
}

static void compare(Tally *tally, const Tokenizer *tok, const char *name, const char *title, const char *want,
                    Status st, const RowTokens *out) {
    char sum[17];
    if (strlen(want) == 16) {
        tally->masks++;
        if (st == TANE_OK) sum_of(out, sum);
        if (st == TANE_OK && !strcmp(sum, want)) return;
        print_message("%s, \"%s\": %.600s\n", name, title,
                      st == TANE_OK ? row_shown(tok, out->list.ids, out->mask, out->list.n) : err_message());
    } else {
        tally->refused++;
        if (st != TANE_OK && strstr(err_message(), row_error_words(want))) return;
        print_message("%s, \"%s\": not refused as \"%s\": %s\n", name, title, want, st == TANE_OK ? "" : err_message());
    }
    tally->wrong++;
}

static void compare_all(Tally *tally, const char *name, const char *source, size_t n, const json_t *cases,
                        const Tokenizer *tok, const json_t *results) {
    ChatTemplate *t;
    RowScratch *scratch;
    assert_ok(row_scratch_new(&scratch));
    Status parsed = chat_template_new(&t, name, source, n, CHAT_BOS, CHAT_EOS, NULL, NULL);
    if (parsed != TANE_OK) print_message("%s: %s\n", name, err_message());
    tally->wrong += parsed != TANE_OK;
    for (size_t i = 0; parsed == TANE_OK && i < json_array_size(results); i++) {
        const json_t *c = json_array_get(cases, i / 2);
        RowFormatOptions o = {.tokenizer = tok, .chat = t, .add_eos = true, .now = CHAT_NOW};
        RowFormat *f;
        RowTokens out = {0};
        o.loss = i % 2 ? LOSS_LAST : LOSS_ASSISTANT;
        char *text = row_case_text(c);
        Row row = row_of(text);
        assert_ok(row_format_new(&f, &o));
        Status st = row_encode(f, &row, true, scratch, &out);
        compare(tally, tok, name, json_string_value(json_object_get(c, "name")),
                json_string_value(json_array_get(results, i)), st, &out);
        row_tokens_free(&out);
        row_format_free(f);
        mem_free(text);
    }
    row_scratch_free(scratch);
    chat_template_free(t);
}

static void test_real_rows(void **state) {
    (void)state;
    const char *folder = getenv("TANE_REAL"), *name;
    json_t *chats = row_golden("chats.json"), *golden = row_golden("real.json"), *entry;
    Tokenizer *tok = row_tokenizer(json_object_get(chats, "specials"), CHAT_EOS);
    Tally tally = {0};
    json_object_foreach(json_object_get(golden, "templates"), name, entry) {
        char path[4096], sum[17];
        size_t n = 0;
        snprintf(path, sizeof path, "%s/templates/%s", folder ? folder : "build/real", name);
        char *source = test_read(path, &n);
        if (source) chat_sha16(source, n, sum);
        if (!source || strcmp(sum, json_string_value(json_object_get(entry, "sha256")))) {
            tally.missing++;
            continue;
        }
        tally.templates++;
        compare_all(&tally, name, source, n, json_object_get(chats, "cases"), tok, json_object_get(entry, "results"));
    }
    print_message("%d chat templates (%d are not there): %d conversations with masks, %d refused; %d differ\n",
                  tally.templates, tally.missing, tally.masks, tally.refused, tally.wrong);
    tokenizer_free(tok);
    json_decref(chats);
    json_decref(golden);
    if (!tally.templates) skip();
    assert_int_equal(tally.wrong, 0);
    assert_true(tally.templates >= 30);
}

int main(void) {
    const struct CMUnitTest tests[] = {TEST(test_real_rows)};
    return cmocka_run_group_tests_name("real rows", tests, NULL, NULL);
}
