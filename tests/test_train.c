/* The trainer as a user has it: runs, checkpoints, going on bit for bit, also after kill -9 at any disk call. */
#include "support.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/json.h"
#include "train/checkpoint.h"
#include "train/schedule.h"
#include "train/trainer.h"

/* Every training here runs in a child process: threads and GPUs do not survive a fork, so this process must never make
 * or open any. */

typedef struct Job {
    char recipe[4096]; /* YAML */
    char error[2048];  /* of the last child */
    Status status;
} Job;

static const char *data_file(void) {
    static char text[8192];
    size_t n = 0;
    for (int i = 0; i < 40; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "{\"prompt\":\"%d+%d=\",\"completion\":\"%d\"}\n", i % 7,
                              i / 7, i % 7 + i / 7);
    return test_write(test_path("data.jsonl"), text);
}

static void make_tokenizer(void) {
    static const char *const sentences[] = {"0+1=2", "3+4=7", "5+6=11", "8-9=-1", "12*(34)/5=", "0123456789+-*/=()"};
    TokenizerTrainOptions o = {.model_type = "char", .vocab_size = 21, .character_coverage = 1.0, .threads = 1};
    assert_ok(tokenizer_train(sentences, 6, &o, test_path("tok")));
}

static void job_init(Job *job, const char *extra) {
    data_file();
    make_tokenizer();
    snprintf(job->recipe, sizeof job->recipe,
             "tokenizer: %s\ntrain_files: [%s]\noutput_dir: %s\ndb: %s\nhidden_size: 16\nnum_hidden_layers: "
             "2\nnum_attention_heads: 2\n"
             "max_position_embeddings: 32\nmax_length: 16\nlogging_steps: 2\nthreads: 1\ndevice: %s\n%s",
             test_path("tok.model"), test_path("data.jsonl"), test_path("run"), test_path("runs.db"),
             test_device_name(), extra);
}

static Status run_here(const char *recipe, const char *assignments) {
    TrainOptions config;
    OptionSet set;
    tane_run_result result;
    Status st = TANE_OK;
    TRY_RETURN(option_init(&set, &train_options, &config));
    TRY(option_load_yaml(&set, recipe));
    char words[1024];
    snprintf(words, sizeof words, "%s", assignments);
    for (char *word = strtok(words, " "); word; word = strtok(NULL, " ")) TRY(option_assign(&set, word, "test"));
    TRY(train_run(&set, recipe, NULL, &result));
out:
    option_release(&set);
    return st;
}

/* Trains in a child; its status and message come back through a pipe. False: it was killed. */
static bool child(Job *job, const char *assignments, TestFault *fault) {
    int fd[2];
    const char *recipe = test_write(test_path("recipe.yaml"), job->recipe);
    assert_int_equal(pipe(fd), 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        if (fault) test_fault_install(fault);
        Status st = run_here(recipe, assignments);
        ssize_t written = write(fd[1], &st, sizeof st);
        if (st != TANE_OK) written += write(fd[1], err_message(), strlen(err_message()) + 1);
        _exit(written > 0 ? 0 : 3);
    }
    close(fd[1]);
    job->status = TANE_EINTERNAL;
    memset(job->error, 0, sizeof job->error);
    bool told = read(fd[0], &job->status, sizeof job->status) == sizeof job->status;
    if (told && job->status != TANE_OK) told = read(fd[0], job->error, sizeof job->error - 1) > 0;
    close(fd[0]);
    int how;
    waitpid(pid, &how, 0);
    if (WIFSIGNALED(how)) assert_int_equal(WTERMSIG(how), SIGKILL);
    return told && !WIFSIGNALED(how);
}

static void train_ok(Job *job, const char *assignments) {
    if (!child(job, assignments, NULL) || job->status != TANE_OK) fail_msg("training failed: %s", job->error);
}

static void train_fails(Job *job, const char *assignments, Status status, const char *message) {
    if (!child(job, assignments, NULL)) fail_msg("the child died");
    if (job->status != status || !strstr(job->error, message))
        fail_msg("expected %s and \"%s\", got %s: %s", tane_status_name(status), message, tane_status_name(job->status),
                 job->error);
}

/* The files that must come out the same, of one checkpoint. */
static void assert_same_checkpoint(const char *a, const char *b) {
    static const char *const files[] = {"model.safetensors", "optimizer.safetensors", "config.json", "state.json"};
    for (int i = 0; i < 4; i++) {
        size_t n, m;
        char *x = test_read(test_path("%s/%s", a, files[i]), &n), *y = test_read(test_path("%s/%s", b, files[i]), &m);
        if (!x || !y || n != m || memcmp(x, y, n)) fail_msg("%s and %s differ in %s", a, b, files[i]);
    }
}

static double metric(const char *run, int64_t step, const char *name) {
    char *text = test_read(test_path("%s/metrics.jsonl", run), NULL);
    assert_non_null(text);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *json;
        int64_t at;
        double value = NAN;
        assert_ok(json_read_text("metrics", line, strlen(line), &json));
        assert_ok(json_get_int(json, "metrics", "step", 0, INT64_MAX, &at));
        Status st = at == step ? json_get_double(json, "metrics", name, &value) : TANE_ENOTFOUND;
        json_decref(json);
        if (st == TANE_OK) return value;
    }
    return NAN;
}

static const char *const EXACT[] = {
    "architecture: gpt2\nmax_steps: 8\nsave_steps: 2\ndropout: 0.1\ngradient_accumulation_steps: "
    "2\nper_device_train_batch_size: 4\n"
    "learning_rate: 1e-2\nwarmup_steps: 0.25\nweight_decay: 0.1\ncompute_dtype: fp32\n",
    "architecture: llama\nnum_key_value_heads: 1\nmax_steps: 8\nsave_steps: 2\nper_device_train_batch_size: "
    "6\nlearning_rate: 1e-2\n"
    "lr_scheduler_type: cosine\ncompute_dtype: bf16\n",
    "architecture: llama\nmax_steps: 8\nsave_steps: 2\nlayout: packing\nper_device_train_batch_size: 3\n"
    "gradient_accumulation_steps: 2\ndropout: 0.1\nlearning_rate: 1e-2\ncompute_dtype: fp32\n",
    "architecture: gpt2\nmax_steps: 8\nsave_steps: 2\nlayout: windows\nper_device_train_batch_size: 3\n"
    "learning_rate: 1e-2\ncompute_dtype: fp32\n",
    /* on a GPU only */
    "architecture: llama\nmax_steps: 8\nsave_steps: 2\nper_device_train_batch_size: 6\nlearning_rate: 1e-2\n"
    "gradient_accumulation_steps: 2\ncompute_dtype: bf16\noptimizer_states: bf16\n",
    "architecture: gpt2\nmax_steps: 8\nsave_steps: 2\nper_device_train_batch_size: 6\nlearning_rate: 1e-2\n"
    "gradient_checkpointing: true\ndropout: 0.1\ncompute_dtype: fp16\n",
};

static void test_training_learns(void **state) {
    (void)state;
    Job job;
    job_init(&job, "max_steps: 120\nlearning_rate: 1e-2\nsave_strategy: no\n");
    train_ok(&job, "");
    double first = metric("run", 2, "loss"), last = metric("run", 120, "loss");
    if (!(last < 0.5 * first)) fail_msg("loss went from %g to %g only", first, last);
}

/* A run into `folder` that is killed in its first disk call behind the save of step `stop`; *call: that one, or an
 * earlier one to begin with. */
static void train_and_kill(Job *job, const char *words, const char *folder, int stop, size_t *call) {
    for (;; *call += 11) { /* in large steps: kill_anywhere tries every call */
        TestFault fault = {.at = *call, .kill = true};
        assert_ok(dir_remove(folder));
        assert_false(child(job, words, &fault));
        char saved[512];
        snprintf(saved, sizeof saved, "%s/step-%06d", folder, stop);
        if (dir_exists(saved) || stop == 8) return;
    }
}

/* Steps 1..8 at once, and with a fresh process behind every checkpoint. */
static void test_resume_is_exact(void **state) {
    (void)state;
    bool cpu = test_on_cpu();
    for (int i = 0; i < (cpu ? 4 : 6); i++) {
        Job job;
        char run[300];
        job_init(&job, EXACT[i]);
        snprintf(run, sizeof run, "output_dir=%s", test_path("whole%d", i));
        train_ok(&job, run);
        for (int stop = cpu ? 2 : 4; stop <= (cpu ? 8 : 4); stop += 2) {
            char words[300], onto_cpu[400], a[64], b[64];
            const char *folder = test_path("cut%d-%d", i, stop);
            size_t call = 1;
            snprintf(words, sizeof words, "output_dir=%s", folder);
            /* Where to kill does not depend on the device, and a GPU takes a while to open. */
            snprintf(onto_cpu, sizeof onto_cpu, "%s device=cpu compute_dtype=fp32 optimizer_states=fp32", words);
            if (!cpu) train_and_kill(&job, onto_cpu, folder, stop, &call);
            train_and_kill(&job, words, folder, stop, &call);
            strcat(words, " resume=true");
            train_ok(&job, words);
            snprintf(a, sizeof a, "whole%d/step-000008", i);
            snprintf(b, sizeof b, "cut%d-%d/step-000008", i, stop);
            assert_same_checkpoint(a, b);
        }
    }
}

/* Computing activations a second time changes no bit of what is trained. */
static void test_gradient_checkpointing_is_exact(void **state) {
    (void)state;
    static const char *const how[] = {"", "gradient_checkpointing=true",
                                      "gradient_checkpointing=true gradient_checkpointing_policy=full"};
    for (int i = 0; i < 3; i++) {
        Job job;
        job_init(&job, EXACT[i]);
        for (int k = 0; k < 3; k++) {
            char words[400], a[64], b[64];
            snprintf(words, sizeof words, "save_steps=8 num_hidden_layers=3 output_dir=%s %s", test_path("%d-%d", i, k),
                     how[k]);
            train_ok(&job, words);
            snprintf(a, sizeof a, "%d-0/step-000008", i);
            snprintf(b, sizeof b, "%d-%d/step-000008", i, k);
            assert_same_checkpoint(a, b);
        }
    }
}

/* kill -9 at each disk call of the whole run, in turn; each time a resumed run ends in the very same files. */
static void test_kill_anywhere(void **state) {
    (void)state;
    test_cpu_only("hundreds of processes, and nothing about the device");
    Job job;
    job_init(&job, "max_steps: 3\nsave_steps: 1\nsave_total_limit: 1\nper_device_train_batch_size: 4\nlearning_rate: "
                   "1e-2\ncompute_dtype: fp32\n");
    char words[256];
    snprintf(words, sizeof words, "output_dir=%s", test_path("whole"));
    train_ok(&job, words);
    snprintf(words, sizeof words, "output_dir=%s", test_path("cut"));
    size_t killed = 0;
    for (size_t at = 1;; at++) {
        TestFault fault = {.at = at, .kill = true};
        assert_ok(dir_remove(test_path("cut")));
        bool finished = child(&job, words, &fault);
        if (finished) break;
        killed++;
        char resume[300];
        snprintf(resume, sizeof resume, "%s resume=true", words);
        train_ok(&job, resume);
        assert_same_checkpoint("whole/step-000003", "cut/step-000003");
    }
    assert_true(killed > 60); /* three saves of eight files each, at the least */
}

/* Every disk call fails in turn with a full disk, then with an I/O error: an error, and what was saved stays whole. */
static void test_disk_faults(void **state) {
    (void)state;
    test_cpu_only("hundreds of processes, and nothing about the device");
    Job job;
    job_init(&job, "max_steps: 2\nsave_steps: 1\nper_device_train_batch_size: 4\ncompute_dtype: fp32\n");
    char words[256];
    snprintf(words, sizeof words, "output_dir=%s", test_path("cut"));
    const int errors[] = {ENOSPC, EIO};
    for (int e = 0; e < 2; e++)
        for (size_t at = 1;; at += test_stride(1 + (size_t)e * 4)) {
            TestFault fault = {.at = at, .error = errors[e]};
            assert_ok(dir_remove(test_path("cut")));
            assert_true(child(&job, words, &fault));
            if (job.status == TANE_OK) break;
            assert_true(strlen(job.error) > 10);
            for (int step = 1; step <= 2; step++)
                if (dir_exists(test_path("cut/step-%06d", step)))
                    assert_ok(checkpoint_verify(test_path("cut/step-%06d", step)));
        }
}

static void test_checkpoint_contents(void **state) {
    (void)state;
    Job job;
    job_init(&job, "max_steps: 6\nsave_steps: 1\nsave_total_limit: 2\nper_device_train_batch_size: 4\neval_strategy: "
                   "steps\neval_steps: 2\n");
    char words[256];
    snprintf(words, sizeof words, "eval_files=%s", test_path("data.jsonl"));
    train_ok(&job, words);
    static const char *const files[] = {
        "config.json", "generation_config.json", "model.safetensors", "optimizer.safetensors",
        "state.json",  "MANIFEST.json",          "tokenizer.model"};
    for (int i = 0; i < 7; i++)
        if (!file_exists(test_path("run/step-000006/%s", files[i]))) fail_msg("%s is missing", files[i]);
    assert_true(file_exists(test_path("run/recipe.yaml")));
    assert_true(file_exists(test_path("run/last/config.json")));
    assert_true(file_exists(test_path("run/best/config.json")));
    assert_true(dir_exists(test_path("run/step-000004")));  /* kept by the limit or as the best */
    assert_false(dir_exists(test_path("run/step-000001"))); /* pruned */
    assert_false(isnan(metric("run", 6, "eval_loss")));
    /* A flipped byte is noticed, and named. */
    size_t n;
    char *bytes = test_read(test_path("run/step-000006/optimizer.safetensors"), &n);
    bytes[n - 9] ^= 1;
    test_write_bytes(test_path("run/step-000006/optimizer.safetensors"), bytes, n);
    snprintf(words, sizeof words, "eval_files=%s resume=true max_steps=8", test_path("data.jsonl"));
    train_fails(&job, words, TANE_EFORMAT, "optimizer.safetensors: checksum mismatch");
}

static void test_resume_refuses_other_data(void **state) {
    (void)state;
    test_cpu_only("nothing about the device");
    Job job;
    job_init(&job, "max_steps: 2\nper_device_train_batch_size: 4\n");
    train_ok(&job, "");
    train_fails(&job, "", TANE_EINVAL, "--resume");
    train_fails(&job, "resume=true per_device_train_batch_size=5", TANE_EINVAL, "per_device_train_batch_size=4");
    train_fails(&job, "resume=true seed=1", TANE_EINVAL, "seed=42");
    train_fails(&job, "resume=true layout=packing", TANE_EINVAL, "layout=padding, now it is packing");
    train_fails(&job, "resume=true layout=windows max_length=8", TANE_EINVAL, "layout=padding, now it is windows");
    test_write(test_path("data.jsonl"), "{\"prompt\":\"1+1=\",\"completion\":\"2\"}\n");
    train_fails(&job, "resume=true max_steps=4", TANE_EINVAL, "other data");
}

/* Two runs in one folder would write over each other. */
static void test_folder_in_use(void **state) {
    (void)state;
    test_cpu_only("nothing about the device");
    Job job;
    int fd;
    job_init(&job, "max_steps: 1\n");
    assert_ok(dir_make(test_path("run")));
    assert_ok(dir_lock(test_path("run"), &fd));
    train_fails(&job, "", TANE_EINVAL, "in use by another tane");
    dir_unlock(&fd);
    train_ok(&job, "");
    assert_non_null(strstr(test_read(test_path("run/log.txt"), NULL), "saved"));
}

/* A weight that is NaN makes every loss NaN: nothing is applied, and the message says where the data was. */
static void test_nan_loss(void **state) {
    (void)state;
    Job job;
    job_init(&job, "max_steps: 2\nper_device_train_batch_size: 4\n");
    train_ok(&job, "");
    size_t n;
    char *bytes = test_read(test_path("run/step-000002/model.safetensors"), &n);
    memset(bytes + n - 4, 0xff, 4); /* the last float of the file */
    assert_ok(dir_make(test_path("broken")));
    static const char *const files[] = {"config.json", "tokenizer.model"};
    for (int i = 0; i < 2; i++)
        assert_ok(file_copy(test_path("run/step-000002/%s", files[i]), test_path("broken/%s", files[i])));
    test_write_bytes(test_path("broken/model.safetensors"), bytes, n);
    char words[512];
    snprintf(words, sizeof words, "model=%s output_dir=%s", test_path("broken"), test_path("next"));
    train_fails(&job, words, TANE_ENUMERIC, "data.jsonl:");
    assert_false(dir_exists(test_path("next/step-000001")));
    strcat(words, " on_nan=skip");
    train_ok(&job, words); /* both steps skipped: the weights are what they were */
    size_t m;
    char *after = test_read(test_path("next/step-000002/model.safetensors"), &m);
    assert_int_equal(n, m);
    assert_memory_equal(bytes, after, n);
}

static void test_early_stopping_and_best(void **state) {
    (void)state;
    Job job;
    char extra[512];
    snprintf(extra, sizeof extra, "eval_files: [%s]\n", test_path("data.jsonl"));
    char all[1024];
    /* A learning rate of 0 never gets better after the first evaluation. */
    snprintf(all, sizeof all,
             "max_steps: 50\nlearning_rate: 0\neval_strategy: steps\neval_steps: 2\nearly_stopping_patience: "
             "3\nsave_strategy: no\n%s",
             extra);
    job_init(&job, all);
    train_ok(&job, "");
    assert_true(dir_exists(test_path("run/step-000008"))); /* 2 is the best; 4, 6, 8 are not better */
    assert_false(dir_exists(test_path("run/step-000010")));
}

static void test_bad_options(void **state) {
    (void)state;
    test_cpu_only("nothing about the device");
    Job job;
    job_init(&job, "max_steps: 2\n");
    train_fails(&job, "train_files=/nowhere/x.jsonl", TANE_ENOTFOUND, "/nowhere/x.jsonl");
    train_fails(&job, "model=/nowhere/model", TANE_ENOTFOUND, "/nowhere/model");
    train_fails(&job, "learning_rte=1", TANE_EINVAL, "learning_rate");
    train_fails(&job, "device=gpu", TANE_EINVAL, "auto, cpu, cuda or cuda:N");
    /* no plug-in, no driver, or not as many GPUs: the status says which, and the message what works */
    if (!child(&job, "device=cuda:99", NULL) || job.status == TANE_OK) fail_msg("there is no GPU 99");
    assert_non_null(strstr(job.error, "device=cuda:99: "));
    assert_non_null(strstr(job.error, "device=cpu works now"));
    train_fails(&job, "compute_dtype=fp16", TANE_EUNSUPPORTED, "compute_dtype=fp16 needs a GPU");
    train_fails(&job, "compute_dtype=fp8", TANE_EUNSUPPORTED, "compute_dtype=fp8 needs a GPU");
    train_fails(&job, "compute_dtype=bf16 optimizer_states=bf16", TANE_EUNSUPPORTED,
                "optimizer_states=bf16 needs a GPU");
    train_fails(&job, "max_length=3", TANE_EFORMAT, "data.jsonl:1: the row has 6 tokens, but max_length is 3");
    test_write(test_path("empty.jsonl"), "");
    char words[256];
    snprintf(words, sizeof words, "train_files=%s", test_path("empty.jsonl"));
    train_fails(&job, words, TANE_EFORMAT, "empty.jsonl");
    test_write(test_path("bad.jsonl"),
               "{\"prompt\":\"1\",\"completion\":\"2\"}\n\n\n\n\n\n{\"prompt\":\"1\",\"completion\"\n");
    snprintf(words, sizeof words, "train_files=%s", test_path("bad.jsonl"));
    train_fails(&job, words, TANE_EFORMAT, "bad.jsonl:7");
}

/* The factors of transformers 5 at a few steps; see the formulas in its optimization.py. */
static void test_schedules(void **state) {
    (void)state;
    TrainOptions o = {.learning_rate = 1, .warmup_steps = 10, .lr_scheduler_type = "linear", .num_decay_steps = 20};
    assert_float_equal(schedule_lr(&o, 0, 100), 0, 1e-12);
    assert_float_equal(schedule_lr(&o, 5, 100), 0.5, 1e-12);
    assert_float_equal(schedule_lr(&o, 10, 100), 1, 1e-12);
    assert_float_equal(schedule_lr(&o, 55, 100), 0.5, 1e-12);
    assert_float_equal(schedule_lr(&o, 99, 100), 1.0 / 90, 1e-12);
    o.lr_scheduler_type = "cosine";
    assert_float_equal(schedule_lr(&o, 55, 100), 0.5, 1e-12);
    assert_float_equal(schedule_lr(&o, 100, 100), 0, 1e-12);
    o.lr_scheduler_type = "cosine_with_min_lr";
    o.min_lr_rate = 0.1;
    assert_float_equal(schedule_lr(&o, 55, 100), 0.55, 1e-12);
    assert_float_equal(schedule_lr(&o, 100, 100), 0.1, 1e-12);
    o.lr_scheduler_type = "warmup_stable_decay";
    o.min_lr_rate = 0;
    assert_float_equal(schedule_lr(&o, 79, 100), 1, 1e-12);
    assert_float_equal(schedule_lr(&o, 90, 100), 0.5, 1e-12);
    o.warmup_steps = 0.25;
    o.lr_scheduler_type = "constant_with_warmup";
    assert_float_equal(schedule_lr(&o, 5, 100), 0.2, 1e-12);
    assert_float_equal(schedule_lr(&o, 25, 100), 1, 1e-12);
    o.lr_scheduler_type = "constant";
    assert_float_equal(schedule_lr(&o, 0, 100), 1, 1e-12);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_schedules),
        TEST(test_training_learns),
        TEST(test_resume_is_exact),
        TEST(test_gradient_checkpointing_is_exact),
        TEST(test_kill_anywhere),
        TEST(test_disk_faults),
        TEST(test_checkpoint_contents),
        TEST(test_resume_refuses_other_data),
        TEST(test_nan_loss),
        TEST(test_early_stopping_and_best),
        TEST(test_bad_options),
        TEST(test_folder_in_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
