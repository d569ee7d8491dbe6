/* Chat templates that models really have, against transformers: the same text, the same {% generation %} mask, the same
 * words where a template refuses a conversation, and an error where transformers has one.
 *
 *     TANE_REAL   folder with templates/NAME.jinja (tools/real/fetch_templates.sh); without them the test is skipped
 *
 * The golden values are sums only (tests/golden/chat/real.json, made by tools/golden/real_templates.py): the templates
 * belong to others. A template whose own sum is another is not the one that was looked at, and counts as missing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../chat_cases.h"
#include "../support.h"

typedef struct Tally {
    int templates, missing, texts, masks, refusals, errors, wrong;
} Tally;

static void complain(Tally *tally, const char *name, const json_t *c, const char *what, const char *found) {
    tally->wrong++;
    print_message("%s, \"%s\": %s: %.300s\n", name, json_string_value(json_object_get(c, "name")), what, found);
}

static bool is_sum(const json_t *expected, const char *text, size_t n) {
    char sum[17];
    chat_sha16(text, n, sum);
    return !strcmp(sum, json_string_value(expected));
}

static void compare(Tally *tally, const char *name, const json_t *c, const json_t *expected, Status st,
                    const ChatText *out) {
    const json_t *text = json_object_get(expected, "text"), *mask = json_object_get(expected, "mask");
    const json_t *words = json_object_get(expected, "raise");
    const char *rendered = out->text.text ? out->text.text : "";
    if (text && st != TANE_OK) {
        complain(tally, name, c, "no text", err_message());
    } else if (text && !is_sum(text, rendered, out->text.len)) {
        complain(tally, name, c, "another text", rendered);
    } else if (!text && st == TANE_OK) {
        complain(tally, name, c, "transformers has an error here, tane a text", rendered);
    } else if (words && !strstr(err_message(), json_string_value(words))) {
        complain(tally, name, c, "other words of refusal", err_message());
    }
    tally->texts += text != NULL;
    tally->refusals += words != NULL;
    tally->errors += !text && !words;
    if (!mask || st != TANE_OK) return;
    Str bits = chat_generation_mask(out);
    if (!is_sum(mask, bits.text ? bits.text : "", bits.len)) complain(tally, name, c, "another mask", bits.text);
    tally->masks++;
    str_free(&bits);
}

static void render_all(Tally *tally, const char *name, const char *source, size_t n, const json_t *cases,
                       const json_t *results) {
    ChatTemplate *t;
    Status parsed = chat_template_new(&t, name, source, n, CHAT_BOS, CHAT_EOS, CHAT_PAD, CHAT_UNK);
    for (size_t i = 0; i < json_array_size(results); i++) {
        const json_t *c = json_array_get(cases, i);
        ChatInput input = chat_case_input(c);
        ChatText out = {0};
        Status st = parsed == TANE_OK ? chat_template_render(t, &input, &out) : parsed;
        compare(tally, name, c, json_array_get(results, i), st, &out);
        chat_text_free(&out);
    }
    chat_template_free(t);
}

static void test_real_templates(void **state) {
    (void)state;
    const char *folder = getenv("TANE_REAL"), *name;
    json_t *golden, *cases = chat_cases(), *entry;
    Tally tally = {0};
    assert_ok(json_read_file(test_data("golden/chat/real.json"), &golden));
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
        render_all(&tally, name, source, n, cases, json_object_get(entry, "results"));
    }
    print_message("%d chat templates (%d are not there): %d texts, %d masks, %d refusals, %d errors; %d differ\n",
                  tally.templates, tally.missing, tally.texts, tally.masks, tally.refusals, tally.errors, tally.wrong);
    json_decref(cases);
    json_decref(golden);
    if (!tally.templates) skip();
    assert_int_equal(tally.wrong, 0);
    assert_true(tally.templates >= 30);
}

int main(void) {
    const struct CMUnitTest tests[] = {TEST(test_real_templates)};
    return cmocka_run_group_tests_name("real templates", tests, NULL, NULL);
}
