/* libFuzzer's entry. The program's own name says which target it runs: fuzz_json is a link to the one program. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

static const struct {
    const char *name;
    void (*run)(const uint8_t *, size_t);
} targets[] = {
#define FUZZ(name) {"fuzz_" #name, fuzz_##name},
#include "fuzz.def"
#undef FUZZ
};

static void (*chosen)(const uint8_t *, size_t);

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc;
    const char *slash = strrchr((*argv)[0], '/'), *name = slash ? slash + 1 : (*argv)[0];
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++)
        if (!strcmp(name, targets[i].name)) chosen = targets[i].run;
    if (chosen) return 0;
    fprintf(stderr, "%s: no fuzz target has this name; tests/fuzz/fuzz.def lists them\n", name);
    exit(1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    chosen(data, n);
    return 0;
}
