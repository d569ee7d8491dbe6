# tane. `make quickstart` and `make test` do all set-up themselves; plain `make` builds ./tane.
#
#   make                the program              make test        all fast tests (with set-up)
#   make quickstart     the whole first job      make test-long   the slow ones
#   make sanitize       tests under ASan+UBSan   make fault       every allocation and disk call made to fail
#   make bench          speed beside the peers   make clean
#
# BUILD=dir builds elsewhere (objects, tests and the program); CC and CXX may be gcc or clang.

BUILD ?= build
CC := $(if $(filter default,$(origin CC)),gcc,$(CC))
CXX := $(if $(filter default,$(origin CXX)),$(if $(findstring clang,$(CC)),clang++,g++),$(CXX))
OPT ?= -O3
PACKAGES := dnnl jansson yaml-0.1 sqlite3 libcrypto libedit sentencepiece
# oneDNN 2.6 in Debian 12 ships no .pc file.
PC := $(filter-out dnnl,$(PACKAGES))

WARN := -Wall -Wextra -Werror -Wno-unknown-pragmas
# No -ffast-math: the two flags here only drop errno and trap bookkeeping, results stay IEEE.
COMMON := $(OPT) -g -fopenmp -fPIC -fno-math-errno -fno-trapping-math -D_GNU_SOURCE -Iinclude -Isrc $(WARN) $(EXTRA)
CFLAGS_ALL := -std=c17 -Wstrict-prototypes -Wmissing-prototypes -ffp-contract=fast $(COMMON) $(shell pkg-config --cflags $(PC) 2>/dev/null)
CXXFLAGS_ALL := -std=c++17 $(COMMON) $(shell pkg-config --cflags $(PC) 2>/dev/null)
LIBS := -ldnnl $(shell pkg-config --libs $(PC) 2>/dev/null) -lm -lpthread

# One file an op; each is compiled once per instruction set, and device/cpu picks the table at run time by cpuid.
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
TANE := $(if $(filter build,$(BUILD)),tane,$(BUILD)/tane)

.PHONY: all setup test test-long sanitize fault quickstart bench clean tests doc
all: $(TANE)

$(TANE): $(CLI_OBJ) $(BUILD)/libtane.a
	$(CXX) -fopenmp $(EXTRA) -o $@ $^ $(LIBS)

$(BUILD)/libtane.a: $(LIB_OBJ)
	@rm -f $@
	ar rcs $@ $^

$(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(CFLAGS_$(basename $(notdir $<))) -MMD -MP -c -o $@ $<

$(BUILD)/%.o: %.cpp Makefile
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS_ALL) -MMD -MP -c -o $@ $<

define isa_rule
$(BUILD)/ops/%.$(1).o: src/ops/%.c src/ops/ops.def Makefile
	@mkdir -p $$(@D)
	$$(CC) $$(CFLAGS_ALL) $$(ISA_FLAGS_$(1)) -DISA=$(1) -MMD -MP -c -o $$@ $$<
endef
$(foreach isa,$(ISAS),$(eval $(call isa_rule,$(isa))))

$(BUILD)/tests/%: $(BUILD)/tests/%.o $(TEST_HELP) $(TEST_OBJ) $(BUILD)/libtane.a
	$(CXX) -fopenmp $(EXTRA) -o $@ $^ $(LIBS) -lcmocka

tests: $(TESTS) $(TANE)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

setup:
	@tools/setup.sh

test: setup
	@$(MAKE) --no-print-directory tests
	@TANE=$(abspath $(TANE)) tests/run.sh $(TESTS)

clean:
	rm -rf build tane
