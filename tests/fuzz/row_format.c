/* Rows: the first byte chooses options, the second one of two chat templates, the rest is a row. Whatever it is, an
 * encoded row has ids in range, its first token is not trained on and some other one is; the same comes out again; and
 * an error appends nothing. */
#include <assert.h>
#include <string.h>

#include "data/row_format.h"
#include "fuzz.h"
#include "text/tokenizer_spec.h"

static const char tokenizer_json[] = "{\"added_tokens\": [{\"id\": 1, \"content\": \"<s>\", \"special\": true}, "
                                     "{\"id\": 2, \"content\": \"</s>\", \"special\": true}, "
                                     "{\"id\": 3, \"content\": \"<|end|>\", \"special\": true, \"rstrip\": true}], "
                                     "\"pre_tokenizer\": {\"type\": \"Whitespace\"}, "
                                     "\"model\": {\"type\": \"WordLevel\", \"unk_token\": \"?\", \"vocab\": {\"?\": 0, "
                                     "\"<s>\": 1, \"</s>\": 2, \"<|end|>\": 3, \"a\": 4}}}";
static const char *const templates[] = {
    "{% for m in messages %}{{ '<s>' + m.role + ': ' + m.content|string + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant: ' }}{% else %}{{ eos_token }}{% endif %}",
    "{% for m in messages %}{{ m.role }}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration "
    "%}"
    "{% else %}{{ m.content }}{{ tools }}{% endif %}{% endfor %}"};

static void encode(const RowFormat *f, const Row *row) {
    RowScratch *scratch = NULL;
    RowTokens out = {0};
    if (row_scratch_new(&scratch) != TANE_OK) return;
    Status st = row_encode(f, row, true, scratch, &out);
    const size_t n = out.list.n;
    assert(st != TANE_EINTERNAL && (st == TANE_OK) == (n > 0));
    if (st == TANE_OK) {
        assert(row_encode(f, row, true, scratch, &out) == TANE_OK && out.list.n == 2 * n);
        assert(!memcmp(out.list.ids, out.list.ids + n, n * sizeof *out.list.ids) && !memcmp(out.mask, out.mask + n, n));
        assert(out.mask[0] == 0 && memchr(out.mask, 1, n));
        for (size_t i = 0; i < n; i++) assert(out.list.ids[i] >= 0 && out.list.ids[i] < 5 && out.mask[i] <= 1);
    }
    const char *answer;
    TokenList prompt = {0};
    size_t answer_n;
    st = row_prompt(f, row, scratch, &prompt, &answer, &answer_n);
    assert(st != TANE_EINTERNAL && (st == TANE_OK || prompt.n == 0));
    if (st == TANE_OK) fuzz_touch(answer, answer_n);
    token_list_free(&prompt);
    row_tokens_free(&out);
    row_scratch_free(scratch);
}

void fuzz_row_format(const uint8_t *data, size_t n) {
    static const char *const formats[] = {"auto",     "text",   "prompt",   "messages",
                                          "sharegpt", "alpaca", "question", "auto"};
    Tokenizer *tok = NULL;
    TokenizerSpec spec = {0};
    ChatTemplate *chat = NULL;
    RowFormat *f = NULL;
    if (n < 2) return;
    const char *source = templates[data[1] & 1];
    Status st = tokenizer_spec_read_json(&spec, "fuzz", tokenizer_json, sizeof tokenizer_json - 1);
    spec.bos = 1;
    spec.eos = 2;
    if (st == TANE_OK) st = tokenizer_from_spec(&tok, &spec, "fuzz");
    if (st == TANE_OK) st = chat_template_new(&chat, "fuzz.jinja", source, strlen(source), "<s>", "</s>", NULL, NULL);
    assert(st == TANE_OK);
    RowFormatOptions o = {.tokenizer = tok,
                          .chat = chat,
                          .format = formats[data[0] >> 5],
                          .chat_prompts = data[0] & 1,
                          .loss = data[0] & 2   ? LOSS_ALL
                                  : data[0] & 4 ? LOSS_ASSISTANT
                                                : LOSS_COMPLETION,
                          .add_bos = data[0] & 8,
                          .add_eos = data[0] & 16,
                          .system = data[1] & 2 ? "a" : NULL,
                          .prompt_suffix = data[1] & 4 ? " a" : NULL,
                          .now = 1};
    assert(row_format_new(&f, &o) == TANE_OK);
    Row row = {.line = {.path = "fuzz", .number = 1, .text = (const char *)data + 2, .n = n - 2}, .plain = data[1] & 8};
    encode(f, &row);
    row_format_free(f);
    chat_template_free(chat);
    tokenizer_free(tok);
}
