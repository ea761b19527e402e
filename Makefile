# Hadal. `make help` lists the targets. No configure step: what the machine has is found below and printed.
#
# Layout: every src/<floor>/*.c but src/bin is the library; only kern_<isa>.c files get instruction-set flags.
# Build output goes to $(B) (default build/); use B=DIR for a second build beside the first.

B       ?= build
ifeq ($(origin CC),default)
CC      := gcc
endif
OPT     ?= -O3
WARN    := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith
WERROR  ?=
SAN     ?=
DEFS    ?=
PREFIX  ?= /usr/local

# Without -ffast-math and with contraction off, the same source gives the same bits with every compiler and CPU.
CFLAGS_ALL  := -std=c11 -D_GNU_SOURCE -g $(OPT) -ffp-contract=off -fPIC -fvisibility=hidden -pthread \
               $(WARN) $(WERROR) $(SAN) $(DEFS) $(CFLAGS)
CPPFLAGS_ALL := -Isrc -Iinclude $(CPPFLAGS)
LDFLAGS_ALL := $(SAN) -pthread $(LDFLAGS)
LDLIBS      := -ljansson -lpcre2-8 -lxxhash -lm

MACHINE := $(shell $(CC) -dumpmachine | cut -d- -f1)
HAVE_CUDA := $(shell command -v nvcc 2>/dev/null)
HAVE_MPI  := $(shell command -v mpicc 2>/dev/null)
HAVE_CANN := $(wildcard $(ASCEND_HOME_PATH)/include/acl/acl.h)

ISA_FLAGS_avx2    := -mavx2 -mfma -mbmi2 -mf16c
ISA_FLAGS_avx512  := -mavx2 -mfma -mbmi2 -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vbmi
ISA_FLAGS_avx512bf16 := $(ISA_FLAGS_avx512) -mavx512vnni -mavx512bf16
ISA_FLAGS_neon    :=
ISA_FLAGS_neondot := -march=armv8.2-a+dotprod

LIB_SRC := $(sort $(filter-out src/bin/%,$(wildcard src/*/*.c src/ops/cpu/*.c)))
ifneq ($(MACHINE),x86_64)
LIB_SRC := $(filter-out %_avx2.c %_avx512.c %_avx512bf16.c,$(LIB_SRC))
endif
ifneq ($(MACHINE),aarch64)
LIB_SRC := $(filter-out %_neon.c %_neondot.c,$(LIB_SRC))
endif
BIN_SRC := $(sort $(wildcard src/bin/*.c))
LIB_OBJ := $(LIB_SRC:%.c=$(B)/%.o)
BIN_OBJ := $(BIN_SRC:%.c=$(B)/%.o)
UNIT    := $(patsubst tests/unit/%.c,$(B)/tests/unit/%,$(sort $(wildcard tests/unit/test_*.c)))
FUZZ    := $(patsubst tests/fuzz/%.c,$(B)/tests/fuzz/%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))

all: $(B)/libhadal.a $(B)/hadal
	@cp -f $(B)/hadal hadal

.PHONY: all

$(B)/hadal: $(BIN_OBJ) $(B)/libhadal.a
	$(CC) $(LDFLAGS_ALL) -o $@ $(BIN_OBJ) $(B)/libhadal.a $(LDLIBS) -ledit

$(B)/libhadal.a: $(LIB_OBJ)
	@rm -f $@
	$(AR) rcs $@ $(LIB_OBJ)

# kern_avx2.c -> avx2: the part after the last underscore chooses the flags, for files named kern_* only.
isa_of = $(if $(filter kern_%,$(notdir $1)),$(ISA_FLAGS_$(lastword $(subst _, ,$(basename $(notdir $1))))))

$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(call isa_of,$<) -MMD -MP -c -o $@ $<

$(B)/tests/unit/%: $(B)/tests/unit/%.o $(B)/libhadal.a
	$(CC) $(LDFLAGS_ALL) -o $@ $< $(B)/libhadal.a -lcmocka $(LDLIBS)

# Fuzz targets: with FUZZER=1 linked to libFuzzer (clang), otherwise to a driver that replays files.
$(B)/tests/fuzz/%: $(B)/tests/fuzz/%.o $(if $(FUZZER),,$(B)/tests/fuzz/replay.o) $(B)/libhadal.a
	$(CC) $(LDFLAGS_ALL) $(if $(FUZZER),-fsanitize=fuzzer) -o $@ $(filter %.o,$^) $(B)/libhadal.a $(LDLIBS)

DEPS := $(LIB_OBJ:.o=.d) $(BIN_OBJ:.o=.d) $(UNIT:=.d) $(FUZZ:=.d)
-include $(DEPS)

# ---------------------------------------------------------------- tests

.PHONY: unit
unit: all $(UNIT)
	@B=$(B) tests/run_tests.sh unit

.PHONY: clean
clean:
	rm -rf build build-* hadal
