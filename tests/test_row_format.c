/* Rows to tokens: every format, which tokens are trained on, real conversations against transformers and tokenizers
 * (tests/golden/row_format, made by tools/golden/row_format.py), and what is wrong with rows and options. */
#include "row_cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chat_cases.h"
#include "support.h"

static json_t *golden;
static Tokenizer *tok; /* of a group: made once */
static ChatTemplate *chatml;

static const char CHATML[] =
    "{%- for m in messages -%}{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}";

static ChatTemplate *template_of(const char *source) {
    ChatTemplate *t;
    assert_ok(chat_template_new(&t, "t", source, strlen(source), CHAT_BOS, CHAT_EOS, NULL, NULL));
    return t;
}

static int start(void **state) {
    (void)state;
    if (test_setup(NULL) != 0) return -1;
    golden = row_golden("chats.json");
    tok = row_tokenizer(json_object_get(golden, "specials"), "</s>");
    chatml = template_of(CHATML);
    return test_teardown(NULL);
}

static int finish(void **state) {
    (void)state;
    chat_template_free(chatml);
    tokenizer_free(tok);
    json_decref(golden);
    return 0;
}

static RowFormatOptions usual(void) {
    return (RowFormatOptions){
        .tokenizer = tok, .chat = chatml, .loss = LOSS_LAST, .add_eos = true, .now = CHAT_NOW};
}

static RowFormat *make(RowFormatOptions o) {
    RowFormat *f;
    assert_ok(row_format_new(&f, &o));
    return f;
}

static Status encode(RowFormatOptions o, Row row, RowTokens *out) {
    RowFormat *f = make(o);
    RowScratch *scratch;
    assert_ok(row_scratch_new(&scratch));
    Status st = row_encode(f, &row, true, scratch, out);
    row_scratch_free(scratch);
    row_format_free(f);
    return st;
}

static void check_shown(RowFormatOptions o, const char *text, const char *want, int line) {
    RowTokens out = {0};
    if (encode(o, row_of(text), &out) != TANE_OK) fail_msg("line %d: %s", line, err_message());
    const char *shown = row_shown(o.tokenizer, out.list.ids, out.mask, out.list.n);
    if (strcmp(shown, want)) fail_msg("line %d:\n  is   %s\n  want %s", line, shown, want);
    row_tokens_free(&out);
}
#define SHOWN(options, text, want) check_shown(options, text, want, __LINE__)

static void check_refused(RowFormatOptions o, const char *text, const char *says, int line) {
    RowTokens out = {0};
    Status st = encode(o, row_of(text), &out);
    if (st != TANE_EFORMAT && st != TANE_EINVAL) fail_msg("line %d: accepted, or %d", line, st);
    if (strncmp(err_message(), "x.jsonl:7: ", 11) || !strstr(err_message(), says))
        fail_msg("line %d:\n  says %s\n  want %s", line, err_message(), says);
    assert_int_equal(out.list.n, 0);
    row_tokens_free(&out);
}
#define REFUSED(options, text, says) check_refused(options, text, says, __LINE__)

/* ---- texts and pairs ---- */

#define PAIR "{\"prompt\": \"2+2=\", \"completion\": \"4\"}"

static void pairs_train_the_completion_and_eos(void **state) {
    (void)state;
    RowFormatOptions o = usual();
    SHOWN(o, PAIR, "2+2=[4</s>]");
    SHOWN(o, "{\"completion\": \"4\", \"id\": {\"a\": [1]}, \"prompt\": \"2+2=\"}", "2+2=[4</s>]");
    SHOWN(o, "{\"prompt\": \"\", \"completion\": \"4\"}", "4[</s>]"); /* nothing predicts a row's first token */
    SHOWN(o, "{\"prompt\": \"a\", \"completion\": \"\"}", "a[</s>]");
    SHOWN(o, "{\"prompt\": \"a</s>\", \"completion\": \"b</s>\"}", "a</s>[b</s></s>]");
    o.loss = LOSS_ALL;
    SHOWN(o, PAIR, "2[+2=4</s>]");
    o.loss = LOSS_ASSISTANT;
    SHOWN(o, PAIR, "2+2=[4</s>]");
    o.add_bos = true;
    SHOWN(o, PAIR, "<s>2+2=[4</s>]");
    SHOWN(o, "{\"prompt\": \"\", \"completion\": \"4\"}", "<s>[4</s>]");
    o.loss = LOSS_ALL;
    SHOWN(o, PAIR, "<s>[2+2=4</s>]");
    o.add_eos = false;
    SHOWN(o, PAIR, "<s>[2+2=4]");
}

static void texts_are_trained_whole(void **state) {
    (void)state;
    RowFormatOptions o = usual();
    SHOWN(o, "{\"text\": \"one\\ntwo\"}", "o[ne\ntwo</s>]");
    o.add_bos = true;
    SHOWN(o, "{\"text\": \"one\"}", "<s>[one</s>]");
    SHOWN(o, "{\"text\": \"\"}", "<s>[</s>]");
    o.format = "text";
    SHOWN(o, "{\"text\": \"one\", \"prompt\": \"x\", \"messages\": 5}", "<s>[one</s>]");
}

/* The tokens of "12+" and "34" are never joined to what "12+34" would give. */
static void prompt_and_completion_are_cut_separately(void **state) {
    (void)state;
    RowTokens out = {0};
    TokenList prompt = {0}, completion = {0};
    assert_ok(encode(usual(), row_of("{\"prompt\": \"The wea\", \"completion\": \"ther is\"}"), &out));
    assert_ok(tokenizer_encode(tok, "The wea", 7, &prompt));
    assert_ok(tokenizer_encode(tok, "ther is", 7, &completion));
    assert_int_equal(out.list.n, prompt.n + completion.n + 1);
    assert_memory_equal(out.list.ids, prompt.ids, prompt.n * sizeof(int32_t));
    assert_memory_equal(out.list.ids + prompt.n, completion.ids, completion.n * sizeof(int32_t));
    for (size_t i = 0; i < out.list.n; i++) assert_int_equal(out.mask[i], i >= prompt.n);
    token_list_free(&prompt);
    token_list_free(&completion);
    row_tokens_free(&out);
}

static void suffix_and_separator(void **state) {
    (void)state;
    RowFormatOptions o = usual();
    o.prompt_suffix = " Think.";
    o.separator = "\n";
    SHOWN(o, PAIR, "2+2= Think.\n[4</s>]");
    SHOWN(o, "{\"question\": \"2+\\u0032?\", \"answer\": \"4\\n#### 4\"}", "2+2? Think.\n[4\n#### 4</s>]");
    o.separator = NULL;
    SHOWN(o, "{\"question\": \"2+2?\", \"answer\": \"4\"}", "2+2? Think.[4</s>]");
    o.chat_prompts = true;
    SHOWN(o, "{\"question\": \"2+2?\", \"answer\": \"4\"}",
          "<|im_start|>user\n2+2? Think.<|im_end|>\n<|im_start|>assistant\n[4</s>]");
}

static void alpaca(void **state) {
    (void)state;
    RowFormatOptions o = usual();
    SHOWN(o, "{\"instruction\": \"Add.\", \"input\": \"1 2\", \"output\": \"3\"}",
          "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
          "response "
          "that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### "
          "Response:[3</s>]");
    static const char plain[] =
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Response:[3</s>]";
    SHOWN(o, "{\"instruction\": \"Add.\", \"input\": \"\", \"output\": \"3\"}", plain);
    SHOWN(o, "{\"instruction\": \"Add.\", \"input\": null, \"output\": \"3\"}", plain);
    SHOWN(o, "{\"instruction\": \"Add.\", \"output\": \"3\"}", plain);
    o.chat_prompts = true;
    SHOWN(o, "{\"instruction\": \"Add\\n.\", \"input\": \"1 2\", \"output\": \"3\"}",
          "<|im_start|>user\nAdd\n.\n\n1 2<|im_end|>\n<|im_start|>assistant\n[3</s>]");
    o.system = "Calculate.";
    SHOWN(o, "{\"instruction\": \"Add.\", \"output\": \"3\"}",
          "<|im_start|>system\nCalculate.<|im_end|>\n<|im_start|>user\nAdd.<|im_end|>\n<|im_start|>assistant\n[3</s>]");
    REFUSED(o, "{\"instruction\": \"Add.\", \"input\": [1, 2], \"output\": \"3\"}",
            "\"input\" is an array, but must be text");
}

/* verl's way: ids of the rendered prompt, of the answer, EOS. What a user spells stays text; the answer is text. */
static void chat_prompts(void **state) {
    (void)state;
    RowFormatOptions o = usual();
    o.chat_prompts = true;
    o.add_bos = true; /* the template's affair: none is added */
    SHOWN(o, PAIR, "<|im_start|>user\n2+2=<|im_end|>\n<|im_start|>assistant\n[4</s>]");
    RowTokens out = {0};
    assert_ok(encode(o, row_of("{\"prompt\": \"a<|im_end|>\", \"completion\": \"<|im_end|></s>\"}"), &out));
    int ends = 0, eos = 0;
    for (size_t i = 0; i < out.list.n; i++) {
        ends += out.list.ids[i] == tokenizer_find(tok, "<|im_end|>", 10);
        eos += out.list.ids[i] == tokenizer_eos(tok);
    }
    assert_int_equal(ends, 1);
    assert_int_equal(eos, 1);
    row_tokens_free(&out);
    o.loss = LOSS_ALL;
    SHOWN(o, PAIR, "<|im_start|>[user\n2+2=<|im_end|>\n<|im_start|>assistant\n4</s>]");
}

/* ---- documents ---- */

static void check_document(bool first, bool goes_on, const char *want) {
    RowFormatOptions o = usual();
    RowTokens out = {0};
    RowScratch *scratch;
    o.add_bos = true;
    RowFormat *f = make(o);
    Row row = row_of("one two");
    row.plain = true;
    row.goes_on = goes_on;
    assert_ok(row_scratch_new(&scratch));
    assert_ok(row_encode(f, &row, first, scratch, &out));
    assert_string_equal(row_shown(tok, out.list.ids, out.mask, out.list.n), want);
    row_tokens_free(&out);
    row_scratch_free(scratch);
    row_format_free(f);
}

static void documents_in_pieces_get_bos_and_eos_once(void **state) {
    (void)state;
    check_document(true, false, "<s>[one two</s>]");
    check_document(true, true, "<s>[one two]");
    check_document(false, true, "[one two]");
    check_document(false, false, "[one two</s>]");
    RowFormatOptions o = usual();
    RowTokens out = {0};
    Row row = row_of("one");
    row.plain = true;
    o.format = "messages";
    assert_error(encode(o, row, &out), TANE_EFORMAT,
                 "x.jsonl: the file is plain text, but the format messages needs JSON");
    row.line.n = 0;
    o.format = "text";
    assert_error(encode(o, row, &out), TANE_EFORMAT, "x.jsonl:7: the row has no token to learn (1 in all");
    row_tokens_free(&out);
}

/* ---- conversations ---- */

#define USER(text)       "{\"role\": \"user\", \"content\": \"" text "\"}"
#define ANSWER(text)     "{\"role\": \"assistant\", \"content\": \"" text "\"}"
#define SYSTEM(text)     "{\"role\": \"system\", \"content\": \"" text "\"}"
#define MESSAGES(list)   "{\"messages\": [" list "]}"
#define TURN(role, text) "<|im_start|>" role "\n" text "<|im_end|>\n"
#define TRAINED(text)    "<|im_start|>assistant\n[" text "<|im_end|>]\n"

static void conversations(void **state) {
    (void)state;
    RowFormatOptions o = usual();
    static const char row[] = MESSAGES(USER("a") ", " ANSWER("b") ", " USER("c") ", " ANSWER("d"));
    SHOWN(o, row, TURN("user", "a") TURN("assistant", "b") TURN("user", "c") TRAINED("d"));
    o.loss = LOSS_ASSISTANT;
    SHOWN(o, row, TURN("user", "a") TRAINED("b") TURN("user", "c") TRAINED("d"));
    SHOWN(o, MESSAGES(USER("a") ", " ANSWER("b") ", " USER("c")), TURN("user", "a") TRAINED("b") TURN("user", "c"));
    o.loss = LOSS_ALL;
    SHOWN(o, row,
          "<|im_start|>[user\na<|im_end|>\n" TURN("assistant", "b") TURN("user", "c") TURN("assistant", "d") "]");
    SHOWN(o, MESSAGES(USER("a")), "<|im_start|>[user\na<|im_end|>\n]");
}

static void system_messages(void **state) {
    (void)state;
    RowFormatOptions o = usual();
    static const char row[] = MESSAGES(USER("a") ", " ANSWER("b")), turns[] = TURN("user", "a") TRAINED("b");
    SHOWN(o, row, turns);
    o.system = "s";
    SHOWN(o, row, TURN("system", "s") TURN("user", "a") TRAINED("b"));
    SHOWN(o, MESSAGES(SYSTEM("own") ", " USER("a") ", " ANSWER("b")),
          TURN("system", "own") TURN("user", "a") TRAINED("b"));
    SHOWN(o, MESSAGES("{\"role\": \"developer\", \"content\": \"own\"}, " USER("a") ", " ANSWER("b")),
          TURN("developer", "own") TURN("user", "a") TRAINED("b"));
    SHOWN(o, "{\"system\": \"row\", \"messages\": [" USER("a") ", " ANSWER("b") "]}",
          TURN("system", "row") TURN("user", "a") TRAINED("b"));
    SHOWN(o, "{\"system\": \"\", \"messages\": [" USER("a") ", " ANSWER("b") "]}",
          TURN("system", "s") TURN("user", "a") TRAINED("b"));
    REFUSED(o, "{\"system\": \"row\", \"messages\": [" SYSTEM("own") ", " ANSWER("b") "]}",
            "\"system\" is there, and the conversation has a system message of its own");
    REFUSED(o, "{\"system\": 5, \"messages\": [" USER("a") "]}", "\"system\" is a number, but must be text");
}

static void weights(void **state) {
    (void)state;
    RowFormatOptions o = usual();
#define WEIGHED(text, weight) "{\"role\": \"assistant\", \"content\": \"" text "\", \"weight\": " weight "}"
#define FOUR(one, other)      MESSAGES(USER("a") ", " WEIGHED("b", one) ", " USER("c") ", " WEIGHED("d", other))
    o.loss = LOSS_ASSISTANT;
    SHOWN(o, FOUR("0", "1"), TURN("user", "a") TURN("assistant", "b") TURN("user", "c") TRAINED("d"));
    SHOWN(o, FOUR("1.0", "0.0"), TURN("user", "a") TRAINED("b") TURN("user", "c") TURN("assistant", "d"));
    SHOWN(o, FOUR("null", "false"), TURN("user", "a") TRAINED("b") TURN("user", "c") TURN("assistant", "d"));
    REFUSED(o, FOUR("0", "0"), "each of the assistant's messages that would be trained on has \"weight\": 0");
    REFUSED(o, FOUR("1", "0.5"), "messages[3]: \"weight\" must be 0 (not trained on) or 1");
    REFUSED(o, FOUR("\"1\"", "1"), "messages[1]: \"weight\" must be 0");
    o.loss = LOSS_LAST;
    REFUSED(o, FOUR("1", "0"), "has \"weight\": 0");
}

static void pairs_of_message_lists(void **state) {
    (void)state;
    RowFormatOptions o = usual();
    static const char row[] = "{\"prompt\": [" USER("a") ", " ANSWER("b") ", " USER("c") "], \"completion\": [" ANSWER(
        "d") "]}";
    SHOWN(o, row, TURN("user", "a") TURN("assistant", "b") TURN("user", "c") TRAINED("d"));
    o.loss = LOSS_ASSISTANT;
    SHOWN(o, row, TURN("user", "a") TRAINED("b") TURN("user", "c") TRAINED("d"));
    o.loss = LOSS_LAST;
    SHOWN(o, "{\"prompt\": [" USER("a") "], \"completion\": [" ANSWER("b") ", " USER("c") ", " ANSWER("d") "]}",
          TURN("user", "a") TRAINED("b") TURN("user", "c") TRAINED("d"));
    REFUSED(o, "{\"prompt\": [" USER("a") "], \"completion\": \"b\"}",
            "\"completion\" is text, but must be a list of messages");
    REFUSED(o, "{\"prompt\": \"a\", \"completion\": [" ANSWER("b") "]}",
            "\"completion\" is an array, but must be text");
    REFUSED(o, "{\"prompt\": [" USER("a") "], \"completion\": [" USER("b") "]}", "no message of the assistant's");
}

static void sharegpt(void **state) {
    (void)state;
    RowFormatOptions o = usual();
    o.loss = LOSS_ASSISTANT;
#define SAYS(who, what)     "{\"from\": \"" who "\", \"value\": \"" what "\"}"
#define CONVERSATIONS(list) "{\"conversations\": [" list "]}"
    static const char *const answers[] = {"gpt", "assistant", "chatgpt", "bing", "bard"};
    for (size_t i = 0; i < 5; i++) {
        char row[256];
        snprintf(row, sizeof row, CONVERSATIONS(SAYS("human", "a") ", " SAYS("%s", "b")), answers[i]);
        SHOWN(o, row, TURN("user", "a") TRAINED("b"));
    }
    SHOWN(o, CONVERSATIONS(SAYS("system", "s") ", " SAYS("user", "a") ", " SAYS("gpt", "b")),
          TURN("system", "s") TURN("user", "a") TRAINED("b"));
    SHOWN(o, "{\"system\": \"s\", \"conversations\": [" SAYS("user", "a") ", " SAYS("gpt", "b") "]}",
          TURN("system", "s") TURN("user", "a") TRAINED("b"));
    SHOWN(o,
          CONVERSATIONS(
              SAYS("human", "a") ", " SAYS("observation", "t") ", " SAYS("function", "u") ", " SAYS("gpt", "b")),
          TURN("user", "a") TURN("tool", "t") TURN("tool", "u") TRAINED("b"));
    SHOWN(o,
          CONVERSATIONS(SAYS("human", "a") ", {\"from\": \"gpt\", \"value\": \"b\", \"weight\": 0}, " SAYS(
              "human", "c") ", " SAYS("gpt", "d")),
          TURN("user", "a") TURN("assistant", "b") TURN("user", "c") TRAINED("d"));
    REFUSED(o, CONVERSATIONS(SAYS("human", "a") ", " SAYS("narrator", "b")),
            "conversations[1]: \"from\" is \"narrator\", which is");
    REFUSED(o, CONVERSATIONS("{\"from\": \"human\"}"), "conversations[0]: \"value\" is missing; each turn needs");
    REFUSED(o, CONVERSATIONS("{\"from\": \"human\", \"value\": null}"),
            "conversations[0]: \"value\" is null, but must be text");
    REFUSED(o, CONVERSATIONS(USER("a")), "conversations[0]: \"from\" is missing; this looks like messages");
}

static void tools_reach_the_template(void **state) {
    (void)state;
    RowFormatOptions o = usual();
    ChatTemplate *t = template_of(
        "{%- if tools %}{{ tools|length }}{{ tools[0].name }}|{% endif %}{%- for m in messages -%}"
        "{{- m.role + ':' + m.content + '<|end|>' -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- 'assistant:' -}}{%- endif -%}");
    o.chat = t;
#define WITH(tools) "{\"tools\": " tools ", \"messages\": [" USER("a") ", " ANSWER("b") "]}"
    static const char with[] = "1f|user:a<|end|>assistant:[b<|end|>]", without[] = "user:a<|end|>assistant:[b<|end|>]";
    SHOWN(o, WITH("[{\"name\": \"f\"}]"), with);
    SHOWN(o, WITH("\"[{\\\"name\\\": \\\"f\\\"}]\""), with);
    SHOWN(o, WITH("null"), without);
    SHOWN(o, WITH("\"\""), without);
    SHOWN(o, WITH("\"null\""), without);
    SHOWN(o, WITH("[]"), without);
    REFUSED(o, WITH("{\"name\": \"f\"}"), "\"tools\" is an object, but must be a list of tools");
    REFUSED(o, WITH("[\"f\"]"), "tools[0] is text, but must be an object");
    REFUSED(o, WITH("\"[{\""), "tools:1:3: ");
    chat_template_free(t);
}

/* ---- HARDENING, Labels ---- */

/* The template writes no special token, so EOS is what the model learns to stop with. */
static void eos_is_added_where_no_special_token_ends_the_answer(void **state) {
    (void)state;
    RowFormatOptions o = usual();
    ChatTemplate *t = template_of(
        "{%- for m in messages -%}{{- '# ' ~ m.role ~ '\\n' ~ m.content ~ '\\n' -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '# assistant\\n' -}}{%- endif -%}");
    o.chat = t;
    o.loss = LOSS_ASSISTANT;
    static const char row[] = MESSAGES(USER("a") ", " ANSWER("b") ", " USER("c") ", " ANSWER("d"));
    SHOWN(o, row, "# user\na\n# assistant\n[b\n]# user\nc\n# assistant\n[d\n</s>]");
    SHOWN(o, MESSAGES(USER("a") ", " ANSWER("</s>")), "# user\na\n# assistant\n[</s>\n</s>]"); /* the first is text */
    SHOWN(o, MESSAGES(USER("a") ", " ANSWER("b") ", " USER("c")), "# user\na\n# assistant\n[b\n]# user\nc\n");
    SHOWN(o, MESSAGES(USER("a") ", " ANSWER("b") ", " USER("c") ", " WEIGHED("d", "0")),
          "# user\na\n# assistant\n[b\n]# user\nc\n# assistant\nd\n");
    o.loss = LOSS_ALL;
    SHOWN(o, MESSAGES(USER("a") ", " ANSWER("b")), "#[ user\na\n# assistant\nb\n</s>]");
    o.add_eos = false;
    SHOWN(o, MESSAGES(USER("a") ", " ANSWER("b")), "#[ user\na\n# assistant\nb\n]");
    chat_template_free(t);
}

/* EOS is trained although the same token pads: the mask says so, not the id. */
static void pad_equal_to_eos_still_learns_eos(void **state) {
    (void)state;
    static const char config[] = "{\"eos_token\": \"</s>\", \"pad_token\": \"</s>\", \"bos_token\": \"<s>\"}";
    tokenizer_free(row_tokenizer(json_object_get(golden, "specials"), "</s>"));
    test_write(test_path("tokenizer/tokenizer_config.json"), config);
    Tokenizer *same;
    assert_ok(tokenizer_load(&same, test_path("tokenizer")));
    assert_int_equal(tokenizer_pad(same), tokenizer_eos(same));
    RowFormatOptions o = usual();
    o.tokenizer = same;
    SHOWN(o, PAIR, "2+2=[4</s>]");
    o.chat_prompts = true;
    SHOWN(o, PAIR, "<|im_start|>user\n2+2=<|im_end|>\n<|im_start|>assistant\n[4</s>]");
    tokenizer_free(same);
}

/* Nor is a special token that swallows the space that the answer begins with. */
static void last_prompt_token_is_never_trained(void **state) {
    (void)state;
    RowFormatOptions o = usual();
    ChatTemplate *t = template_of(
        "{%- for m in messages -%}{{- '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}");
    o.chat = t;
    SHOWN(o, MESSAGES(USER("a") ", " ANSWER("b")), "<|user|>a<|end|><|assistant|>[b<|end|>]");
    SHOWN(o, MESSAGES(USER("a") ", " ANSWER("\\n b")), "<|user|>a<|end|><|assistant|>[b<|end|>]");
    SHOWN(o, MESSAGES(USER("a") ", " ANSWER(" ")), "<|user|>a<|end|><|assistant|>[<|end|>]");
    chat_template_free(t);
    SHOWN(usual(), MESSAGES(USER("a") ", " ANSWER("b")), TURN("user", "a") TRAINED("b"));
}

static void rows_without_a_trained_token_are_errors(void **state) {
    (void)state;
    RowFormatOptions o = usual();
    REFUSED(o, MESSAGES(USER("a")), "no message of the assistant's, so there is nothing to learn");
    o.add_eos = false;
    REFUSED(o, "{\"prompt\": \"ab\", \"completion\": \"\"}", "the row has no token to learn (");
    REFUSED(o, "{\"prompt\": \"\", \"completion\": \"4\"}", "the row has no token to learn (1 in all");
    REFUSED(o, "{\"text\": \"\"}", "the row has no token to learn (0 in all");
    ChatTemplate *nothing = template_of(
        "{%- for m in messages if m.role != 'assistant' -%}{{- m.content -}}{%- endfor -%}");
    o.chat = nothing;
    REFUSED(o, MESSAGES(USER("a") ", " ANSWER("b") ", " USER("c")), "writes nothing for messages[1], the assistant's");
    chat_template_free(nothing);
}

static void assistant_mask_all_zero_is_an_error(void **state) {
    (void)state;
    RowFormatOptions o = usual();
    o.loss = LOSS_ASSISTANT;
    ChatTemplate *t = template_of(
        "{%- for m in messages -%}{%- if m.role == 'model' -%}{%- generation -%}{{- m.content -}}"
        "{%- endgeneration -%}{%- else -%}{{- m.content -}}{%- endif -%}{%- endfor -%}");
    o.chat = t;
    REFUSED(o, MESSAGES(USER("a") ", " ANSWER("b")), "{% generation %} blocks mark nothing of this conversation");
    o.loss = LOSS_ALL;
    SHOWN(o, MESSAGES(USER("a") ", " ANSWER(" b")), "a[ b</s>]");
    chat_template_free(t);
}

/* Never a wrong mask: a template that writes a turn in another way later is refused with what to do. */
static void templates_that_rewrite_turns_are_errors(void **state) {
    (void)state;
    RowFormatOptions o = usual();
    o.loss = LOSS_ASSISTANT;
    ChatTemplate *t = template_of(
        "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\\n' -}}{%- if m.role == 'assistant' and "
        "loop.last -%}{{- '<think></think>' -}}{%- endif -%}{{- m.content + '<|im_end|>\\n' -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}");
    o.chat = t;
    static const char two[] = MESSAGES(USER("a") ", " ANSWER("b") ", " USER("c") ", " ANSWER("d"));
    SHOWN(o, MESSAGES(USER("a") ", " ANSWER("b")), TURN("user", "a") TRAINED("<think></think>b"));
    REFUSED(o, two, "writes messages[1] in another way once more messages follow");
    REFUSED(o, two, "a template with {% generation %} blocks, or set conversation_loss to last or all");
    o.loss = LOSS_LAST;
    SHOWN(o, two, TURN("user", "a") TURN("assistant", "b") TURN("user", "c") TRAINED("<think></think>d"));
    chat_template_free(t);
    t = template_of(
        "{%- if messages|length < 2 -%}{{- raise_exception('too short') -}}{%- endif -%}{%- for m in messages -%}"
        "{{- m.content -}}{%- endfor -%}");
    o.chat = t;
    REFUSED(o, MESSAGES(USER("a") ", " ANSWER("b")), "without the messages from messages[1] on");
    REFUSED(o, MESSAGES(USER("a") ", " ANSWER("b")), "too short");
    chat_template_free(t);
    o.chat = chatml;
    o.loss = LOSS_ASSISTANT;
    REFUSED(o, MESSAGES(ANSWER("a") ", " USER("b") ", " ANSWER("c")), "begins with the assistant's message");
    o.system = "s"; /* the row's own count */
    REFUSED(o, MESSAGES(USER("a") ", " ANSWER("b") ", " USER("c") ", " WEIGHED("d", "2")),
            "messages[3]: \"weight\" must be");
    ChatTemplate *later = template_of(
        "{%- for m in messages -%}{{- m.content ~ (loop.last and 'x' or '') -}}{%- endfor -%}");
    o.chat = later;
    REFUSED(o, MESSAGES(USER("a") ", " ANSWER("b") ", " USER("c")),
            "does not begin messages[1] with its own generation prompt");
    chat_template_free(later);
    o.chat = chatml;
    o.system = NULL;
    SHOWN(o, MESSAGES(WEIGHED("a", "0") ", " USER("b") ", " ANSWER("c")),
          TURN("assistant", "a") TURN("user", "b") TRAINED("c"));
}

/* ---- against transformers ---- */

static void compare(const char *name, const json_t *c, const char *loss, const json_t *want, Status st,
                    const RowTokens *out) {
    const char *title = json_string_value(json_object_get(c, "name"));
    const json_t *error = json_object_get(want, "error"), *ids = json_object_get(want, "ids");
    if (error) {
        if (st == TANE_OK) fail_msg("%s, \"%s\", %s: no error \"%s\"", name, title, loss, json_string_value(error));
        if (!strstr(err_message(), row_error_words(json_string_value(error))))
            fail_msg("%s, \"%s\", %s: %s, not: %s", name, title, loss, json_string_value(error), err_message());
        return;
    }
    if (st != TANE_OK) fail_msg("%s, \"%s\", %s: %s", name, title, loss, err_message());
    const char *mask = json_string_value(json_object_get(want, "mask"));
    bool same = out->list.n == json_array_size(ids);
    for (size_t i = 0; same && i < out->list.n; i++)
        same = json_integer_value(json_array_get(ids, i)) == out->list.ids[i] && mask[i] == '0' + out->mask[i];
    if (!same)
        fail_msg("%s, \"%s\", %s: other tokens or mask: %s\nmask %s", name, title, loss,
                 row_shown(tok, out->list.ids, out->mask, out->list.n), mask);
}

static void compare_template(const char *name, const json_t *results) {
    const json_t *cases = json_object_get(golden, "cases");
    static const char *const losses[] = {"completion", "assistant"};
    char path[256];
    size_t n;
    snprintf(path, sizeof path, "golden/%s.jinja", name);
    const char *source = test_read(test_data(path), &n);
    assert_non_null(source);
    ChatTemplate *t = template_of(source);
    RowScratch *scratch;
    assert_ok(row_scratch_new(&scratch));
    assert_int_equal(json_array_size(results), json_array_size(cases));
    for (size_t i = 0; i < 2 * json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i / 2);
        RowFormatOptions o = usual();
        RowTokens out = {0};
        o.chat = t;
        o.loss = i % 2 ? LOSS_ASSISTANT : LOSS_LAST;
        RowFormat *f = make(o);
        char *text = row_case_text(c);
        Row row = row_of(text);
        Status st = row_encode(f, &row, true, scratch, &out);
        compare(name, c, losses[i % 2], json_object_get(json_array_get(results, i / 2), losses[i % 2]), st, &out);
        row_tokens_free(&out);
        row_format_free(f);
        mem_free(text);
    }
    row_scratch_free(scratch);
    chat_template_free(t);
}

static void families_are_as_golden(void **state) {
    (void)state;
    const char *name;
    json_t *results, *templates = json_object_get(golden, "templates");
    assert_true(json_object_size(templates) >= 10);
    json_object_foreach(templates, name, results) compare_template(name, results);
}

/* The letters of a text, in lower case. */
static const char *letters_of(const char *text) {
    static char out[256];
    size_t n = 0;
    for (; *text && n + 1 < sizeof out; text++)
        if (strchr("abcdefghijklmnopqrstuvwxyz", *text | 0x20)) out[n++] = (char)(*text | 0x20);
    out[n] = 0;
    return out;
}

/* Normalizers, spaces that come from nowhere, tokens of other kinds: it is always the same words. */
static void every_kind_of_tokenizer_masks_the_same_words(void **state) {
    (void)state;
    static const char *const names[] = {
        "tokenizer_json/gpt2.json",   "tokenizer_json/roberta.json", "tokenizer_json/llama3.json",
        "tokenizer_json/tekken.json", "tokenizer_json/qwen2.json",   "tokenizer_json/deepseek.json",
        "tokenizer_json/llama2.json", "tokenizer_json/mistral.json", "tokenizer_json/phi3.json",
        "tokenizer_json/gemma.json",  "tokenizer_json/t5.json",      "tokenizer_json/albert.json",
        "tokenizer_json/bert.json",   "tokenizer/bytes.model",       "tokenizer/rules_bpe.model",
        "tokenizer/rules.model",      "tokenizer/user.model"};
    RowFormatOptions o = usual();
    o.loss = LOSS_ASSISTANT;
    o.add_eos = false;
    ChatTemplate *t = template_of(
        "{%- for m in messages -%}{{- '# ' ~ m.role ~ ' ' ~ m.content ~ '\n' -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '# assistant' -}}{%- endif -%}");
    o.chat = t;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        static const char row[] = MESSAGES(
            USER("the first") ", " ANSWER("it is so") ", " USER("then") ", " ANSWER("not now"));
        char path[128];
        Tokenizer *other;
        RowTokens out = {0};
        Str trained = {0};
        snprintf(path, sizeof path, "golden/%s", names[i]);
        assert_ok(tokenizer_load(&other, test_data(path)));
        o.tokenizer = other;
        if (encode(o, row_of(row), &out) != TANE_OK) fail_msg("%s: %s", names[i], err_message());
        for (size_t at = 0; at < out.list.n; at++)
            if (out.mask[at]) assert_ok(tokenizer_decode(other, &out.list.ids[at], 1, &trained));
        if (strcmp(letters_of(trained.text), "itissonotnow")) fail_msg("%s: %s", names[i], trained.text);
        str_free(&trained);
        row_tokens_free(&out);
        tokenizer_free(other);
    }
    chat_template_free(t);
}

/* ---- question sets ---- */

static void check_prompt(RowFormatOptions o, const char *text, const char *prompt, const char *answer, int line) {
    RowFormat *f = make(o);
    RowScratch *scratch;
    TokenList list = {0};
    Str shown = {0};
    const char *is;
    size_t n;
    Row row = row_of(text);
    assert_ok(row_scratch_new(&scratch));
    if (row_prompt(f, &row, scratch, &list, &is, &n) != TANE_OK) fail_msg("line %d: %s", line, err_message());
    assert_ok(tokenizer_decode_all(tok, list.ids, list.n, true, &shown));
    if (strcmp(shown.text, prompt)) fail_msg("line %d: prompt %s", line, shown.text);
    if (n != strlen(answer) || memcmp(is, answer, n)) fail_msg("line %d: answer %.*s", line, (int)n, is);
    str_free(&shown);
    token_list_free(&list);
    row_scratch_free(scratch);
    row_format_free(f);
}
#define PROMPT(options, text, prompt, answer) check_prompt(options, text, prompt, answer, __LINE__)

static void prompts_are_those_of_training(void **state) {
    (void)state;
    RowFormatOptions o = usual();
    o.add_bos = true;
    o.prompt_suffix = "?";
    PROMPT(o, "{\"question\": \"2+2\", \"answer\": \"f\\u006fur\"}", "<s>2+2?", "four");
    PROMPT(o, "{\"prompt\": \"2+2\", \"completion\": \"4\"}", "<s>2+2?", "4");
    o.chat_prompts = true;
    PROMPT(o, "{\"question\": \"2+2\", \"answer\": \"4\"}", TURN("user", "2+2?") "<|im_start|>assistant\n", "4");
    PROMPT(o, "{\"instruction\": \"Add\", \"input\": \"2\", \"output\": \"4\"}",
           TURN("user", "Add\n\n2?") "<|im_start|>assistant\n", "4");
    o.system = "s";
    PROMPT(o, "{\"prompt\": [" USER("a") "], \"completion\": [" ANSWER("b\\nc") "]}",
           TURN("system", "s") TURN("user", "a") "<|im_start|>assistant\n", "b\nc");
}

static void rows_without_an_answer_are_no_question_set(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {{"{\"text\": \"a\"}", "the row is a text, which has no prompt and answer"},
               {MESSAGES(USER("a")), "the row is a conversation, which has no prompt and answer"},
               {"{\"prompt\": [" USER("a") "], \"completion\": [" ANSWER("a") ", " USER("a") "]}",
                "must be one message of the"},
               {"{\"question\": \"a\", \"answer\": 4}", "\"answer\" is a number, but must be text"}};
    RowFormat *f = make(usual());
    RowScratch *scratch;
    TokenList list = {0};
    const char *answer;
    size_t n;
    assert_ok(row_scratch_new(&scratch));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Row row = row_of(bad[i].text);
        assert_error(row_prompt(f, &row, scratch, &list, &answer, &n), TANE_EFORMAT, bad[i].says);
        assert_int_equal(list.n, 0);
    }
    Row plain = row_of("text");
    plain.plain = true;
    assert_error(row_prompt(f, &plain, scratch, &list, &answer, &n), TANE_EFORMAT, "the file is plain text");
    token_list_free(&list);
    row_scratch_free(scratch);
    row_format_free(f);
}

/* ---- columns, formats, wrong rows ---- */

static void columns_map_keys(void **state) {
    (void)state;
    RowFormatOptions o = usual();
    o.columns = "prompt=question, completion=a b";
    SHOWN(o, "{\"question\": \"x\", \"a b\": \"y\", \"answer\": 5, \"text\": \"z\", \"prompt\": 3}", "x[y</s>]");
    REFUSED(o, "{\"question\": \"x\"}",
            "\"a b\" is missing; each line needs {\"question\": ..., \"a b\": ...}; this row has \"question\"");
    o.columns = "text=body";
    SHOWN(o, "{\"body\": \"xy z\", \"messages\": []}", "x[y z</s>]");
    o.columns = "messages=turns,system=instructions";
    SHOWN(o, "{\"turns\": [" USER("a") ", " ANSWER("b") "], \"instructions\": \"s\", \"text\": \"t\"}",
          TURN("system", "s") TURN("user", "a") TRAINED("b"));
    REFUSED(o, "{\"messages\": [" USER("a") "], \"x\": {\"y\": 1}}",
            "\"turns\" is missing; each line needs {\"turns\": ...}; this row has "
            "\"messages\", \"x\"");
    o.columns = "system=instructions"; /* belongs to no format: the rows tell theirs */
    SHOWN(o, PAIR, "2+2=[4</s>]");
}

static void wrong_options_are_named(void **state) {
    (void)state;
    static const struct {
        const char *format, *columns, *says;
    } bad[] = {{"chatml", NULL, "format is \"chatml\", but must be auto, text, prompt, messages"},
               {NULL, "prompt", "columns: \"prompt\" is not KEY=NAME"},
               {NULL, "prompt=", "columns: \"prompt=\" has no name"},
               {NULL, "promt=x", "columns: \"promt\" is no key of a format; did you mean prompt"},
               {NULL, "prompt=x,prompt=y", "columns: \"prompt\" is there twice"},
               {NULL, "prompt=x,completion=x", "columns: \"prompt\" and \"completion\" are both \"x\""},
               {NULL, "prompt=x,text=y", "columns: \"prompt\" belongs to the format prompt, and not to text"},
               {"text", "prompt=x", "columns: \"prompt\" belongs to the format prompt, and not to text"},
               {NULL, "prompt=completion", "columns: the format prompt also needs \"completion\""},
               {NULL, "text=a\"b", "columns: \"a\"b\" cannot be named"},
               {NULL, "text=\xff", "cannot be named"}};
    RowFormat *f;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        RowFormatOptions o = usual();
        o.format = bad[i].format;
        o.columns = bad[i].columns;
        assert_error(row_format_new(&f, &o), TANE_EINVAL, bad[i].says);
        assert_null(f);
    }
    RowFormatOptions o = usual();
    o.chat_prompts = true;
    o.separator = "\n";
    assert_error(row_format_new(&f, &o), TANE_EINVAL, "separator and chat_prompts exclude each other");
    o.chat = NULL;
    o.separator = NULL;
    assert_error(row_format_new(&f, &o), TANE_EINVAL, "chat_prompts needs a chat template");
    o.chat_prompts = false;
    o.system = "\xff";
    assert_error(row_format_new(&f, &o), TANE_EINVAL, "system is not valid UTF-8");
    Tokenizer *endless = row_tokenizer(NULL, NULL);
    o = (RowFormatOptions){.tokenizer = endless, .add_eos = true};
    assert_error(row_format_new(&f, &o), TANE_EINVAL, "the tokenizer has no end-of-text token");
    tokenizer_free(endless);
}

static void wrong_rows_are_named(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"{\"prompt\": \"a\"}",
         "\"completion\" is missing; each line needs {\"prompt\": ..., \"completion\": ...}; this row has \"prompt\""},
        {"{\"completion\": \"a\"}", "\"prompt\" is missing"},
        {"{\"prompt\": \"a\", \"completion\": 12}", "\"completion\" is a number, but must be text; each line needs"},
        {"{\"prompt\": null, \"completion\": \"a\"}", "\"prompt\" is null, but must be text"},
        {"{\"text\": [\"a\"]}", "\"text\" is an array, but must be text"},
        {"{\"body\": \"a\", \"n\": [{\"k\": \"v\"}], \"k\\\"\": {}}",
         "neither \"prompt\" nor \"text\" is there, nor what another format has; each line needs {\"prompt\": ..., "
         "\"completion\": ...}, {\"text\": ...}, {\"messages\": ...}, {\"conversations\": ...}, {\"instruction\": ..., "
         "\"output\": "
         "...} or {\"question\": ..., \"answer\": ...}; this row has \"body\", \"n\", \"k\\\"\""},
        {"{}", "this row has no keys"},
        {"{\"prompt\": \"a\", \"completion\": \"b\", \"text\": \"c\"}",
         "both \"prompt\" and \"text\" are there; keep one kind of row"},
        {"{\"prompt\": \"a\", \"text\": \"c\"}", "both \"prompt\" and \"text\" are there"},
        {"{\"messages\": [], \"text\": \"c\"}",
         "both \"text\" and \"messages\" are there; keep one kind of row, or say which counts "
         "with format=text or format=messages"},
        {"{\"question\": \"a\"}", "\"answer\" is missing"},
        {"{\"output\": \"a\"}", "\"instruction\" is missing"},
        {"{\"messages\": []}", "\"messages\" is empty"},
        {"{\"messages\": {}}", "\"messages\" is an object, but must be a list"},
        {"{\"messages\": \"[]\"}", "\"messages\" is text, but must be a list"},
        {"{\"messages\": [\"a\"]}", "messages[0] is text, but must be {\"role\": ..., \"content\": ...}"},
        {"{\"messages\": [" USER("a") ", {\"content\": \"b\"}]}",
         "messages[1]: \"role\" is missing; each message needs"},
        {"{\"messages\": [{\"role\": 5}]}", "messages[0]: \"role\" is a number, but must be text"},
        {"{\"messages\": [{\"from\": \"human\", \"value\": \"a\"}]}", "\"role\" is missing; this looks like sharegpt"},
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"\\u0000\"}]}", "messages:1:31: \\u0000 is not allowed"},
        {"{\"messages\": [" USER("a") "]", "column "},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) REFUSED(usual(), bad[i].text, bad[i].says);
    RowFormatOptions o = usual();
    o.chat = NULL;
    REFUSED(o, MESSAGES(USER("a")), "\"messages\" is a conversation, which needs a chat template");
    REFUSED(o, "{\"conversations\": []}", "\"conversations\" is a conversation, which needs a chat template");
    SHOWN(usual(), "{\"prompt\": \"a\", \"prompt_id\": \"b\", \"messages\": [" USER("a") ", " ANSWER("b") "]}",
          TURN("user", "a") TRAINED("b")); /* half of a pair beside a whole conversation, as UltraChat has it */
    SHOWN(usual(), "{\"text\": null, \"messages\": [" USER("a") ", " ANSWER("b") "]}", TURN("user", "a") TRAINED("b"));
}

/* A few bytes of text can be a tree of a hundred times that; commas in texts are none. */
static void many_values_are_refused(void **state) {
    (void)state;
    static const char begin[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"",
                      end[] = "\"}, " ANSWER("b") "]}";
    Str s = {0};
    assert_ok(str_add(&s, "{\"messages\": [{}", 16));
    for (int i = 0; i < 100000; i++) assert_ok(str_add(&s, ",{}", 3));
    assert_ok(str_add(&s, "]}", 2));
    REFUSED(usual(), s.text, "\"messages\" has more than 100000 values; split the row");
    s.len = 0;
    assert_ok(str_add(&s, begin, sizeof begin - 1));
    for (int i = 0; i < 100001; i++) assert_ok(str_add(&s, i % 1000 ? ",{" : "\\\"", 2));
    assert_ok(str_add(&s, end, sizeof end - 1));
    RowTokens out = {0};
    assert_ok(encode(usual(), row_of(s.text), &out));
    row_tokens_free(&out);
    str_free(&s);
}

/* ---- memory, threads, time ---- */

static const char *const every_kind[] = {
    "{\"text\": \"one\\ntwo\"}",
    PAIR,
    "{\"instruction\": \"Add\\n.\", \"input\": \"1 2\", \"output\": \"3\"}",
    "{\"question\": \"2+2?\", \"answer\": \"4\", \"system\": \"s\", \"tools\": \"[{\\\"name\\\": \\\"f\\\"}]\"}",
    MESSAGES(USER("a") ", " ANSWER("b") ", " USER("c") ", " ANSWER("d")),
    "{\"system\": \"s\", \"conversations\": [" SAYS("human", "a") ", " SAYS("gpt", "b") "]}",
    "{\"prompt\": [" USER("a") "], \"completion\": [" ANSWER("b") "]}",
};
enum { EVERY_KIND = sizeof every_kind / sizeof *every_kind };

static RowFormatOptions everything(void) {
    RowFormatOptions o = usual();
    o.loss = LOSS_ASSISTANT;
    o.add_bos = o.chat_prompts = true;
    o.prompt_suffix = " Think.";
    o.columns = "system=system";
    return o;
}

/* A small tokenizer and a template of its own, so that nothing of tane's lives when allocations begin to fail. */
static const char tiny_tokenizer[] = "{\"added_tokens\": [{\"id\": 1, \"content\": \"<s>\", \"special\": true}, "
                                     "{\"id\": 2, \"content\": \"</s>\", \"special\": "
                                     "true}, {\"id\": 3, \"content\": \"<|im_end|>\", \"special\": true}], "
                                     "\"pre_tokenizer\": {\"type\": \"Whitespace\"}, "
                                     "\"model\": {\"type\": \"WordLevel\", \"unk_token\": \"?\", \"vocab\": {\"?\": 0, "
                                     "\"<s>\": 1, \"</s>\": 2, \"<|im_end|>\": 3, "
                                     "\"a\": 4, \"b\": 5}}}";

static Status encode_every_kind(void *ctx) {
    Status st = TANE_OK;
    RowFormatOptions o = everything();
    RowFormat *f = NULL;
    RowScratch *scratch = NULL;
    RowTokens out = {0};
    Tokenizer *tiny = NULL;
    ChatTemplate *t = NULL;
    TRY(tokenizer_load(&tiny, ctx));
    TRY(chat_template_new(&t, "t", CHATML, sizeof CHATML - 1, CHAT_BOS, CHAT_EOS, NULL, NULL));
    o.tokenizer = tiny;
    o.chat = t;
    TRY(row_format_new(&f, &o));
    TRY(row_scratch_new(&scratch));
    for (size_t i = 0; i < EVERY_KIND; i++) {
        Row row = row_of(every_kind[i]);
        TRY(row_encode(f, &row, true, scratch, &out));
    }
out:
    row_tokens_free(&out);
    row_scratch_free(scratch);
    row_format_free(f);
    chat_template_free(t);
    tokenizer_free(tiny);
    return st;
}

static void running_out_of_memory_is_an_error(void **state) {
    (void)state;
    assert_ok(dir_make(test_path("tiny")));
    test_write(test_path("tiny/tokenizer.json"), tiny_tokenizer);
    test_write(test_path("tiny/tokenizer_config.json"), "{\"bos_token\": \"<s>\", \"eos_token\": \"</s>\"}");
    assert_true(test_fail_allocations(encode_every_kind, (void *)(uintptr_t)test_path("tiny")) > 300);
}

/* One format, many threads, rows behind each other: what each gives alone. */
static void threads_share_a_format(void **state) {
    (void)state;
    RowFormatOptions o = everything();
    RowFormat *f = make(o);
    RowTokens alone = {0};
    RowScratch *scratch;
    int wrong = 0;
    assert_ok(row_scratch_new(&scratch));
    for (size_t i = 0; i < EVERY_KIND; i++) {
        Row row = row_of(every_kind[i]);
        assert_ok(row_encode(f, &row, true, scratch, &alone));
    }
    row_scratch_free(scratch);
#pragma omp parallel num_threads(4) reduction(+ : wrong)
    {
        RowScratch *own = NULL;
        RowTokens out = {0};
        wrong += row_scratch_new(&own) != TANE_OK;
        for (int round = 0; round < 20 && own; round++) {
            out.list.n = 0;
            for (size_t i = 0; i < EVERY_KIND; i++) {
                Row row = row_of(every_kind[i]);
                wrong += row_encode(f, &row, true, own, &out) != TANE_OK;
            }
            wrong += out.list.n != alone.list.n || memcmp(out.list.ids, alone.list.ids, out.list.n * sizeof(int32_t)) ||
                     memcmp(out.mask, alone.mask, out.list.n);
        }
        row_tokens_free(&out);
        row_scratch_free(own);
    }
    assert_int_equal(wrong, 0);
    row_tokens_free(&alone);
    row_format_free(f);
}

/* Turns are found by rendering beginnings, which is quadratic: it goes far enough, and ends. */
static void long_conversations_end(void **state) {
    (void)state;
    RowFormatOptions o = usual();
    o.loss = LOSS_ASSISTANT;
    for (int turns = 200; turns <= 20000; turns *= 100) {
        Str s = {0};
        RowTokens out = {0};
        assert_ok(str_printf(&s, "{\"messages\": [" USER("0")));
        for (int i = 0; i < turns; i++)
            assert_ok(
                str_printf(&s, ", {\"role\": \"%s\", \"content\": \"some words\"}", i % 2 ? "user" : "assistant"));
        assert_ok(str_add(&s, "]}", 2));
        if (turns == 200) assert_ok(encode(o, row_of(s.text), &out));
        else
            assert_error(encode(o, row_of(s.text), &out), TANE_EFORMAT,
                         "too long to look for the assistant's turns in it (");
        row_tokens_free(&out);
        str_free(&s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(pairs_train_the_completion_and_eos),
        TEST(texts_are_trained_whole),
        TEST(prompt_and_completion_are_cut_separately),
        TEST(suffix_and_separator),
        TEST(alpaca),
        TEST(chat_prompts),
        TEST(documents_in_pieces_get_bos_and_eos_once),
        TEST(conversations),
        TEST(system_messages),
        TEST(weights),
        TEST(pairs_of_message_lists),
        TEST(sharegpt),
        TEST(tools_reach_the_template),
        TEST(eos_is_added_where_no_special_token_ends_the_answer),
        TEST(pad_equal_to_eos_still_learns_eos),
        TEST(last_prompt_token_is_never_trained),
        TEST(rows_without_a_trained_token_are_errors),
        TEST(assistant_mask_all_zero_is_an_error),
        TEST(templates_that_rewrite_turns_are_errors),
        TEST(families_are_as_golden),
        TEST(every_kind_of_tokenizer_masks_the_same_words),
        TEST(prompts_are_those_of_training),
        TEST(rows_without_an_answer_are_no_question_set),
        TEST(columns_map_keys),
        TEST(wrong_options_are_named),
        TEST(wrong_rows_are_named),
        TEST(many_values_are_refused),
        TEST(threads_share_a_format),
        TEST(long_conversations_end),
    };
    const struct CMUnitTest alone[] = {TEST(running_out_of_memory_is_an_error)};
    int failed = cmocka_run_group_tests_name("row formats", tests, start, finish);
    return failed + cmocka_run_group_tests_name("row formats without memory", alone, NULL, NULL);
}
