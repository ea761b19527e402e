# Hadal. `make help` lists the targets. No configure step: what the machine has is found below and printed.
#
# Layout: every src/<floor>/*.c but src/serve and src/bin is the library; only kern_<isa>.c files get instruction-set flags.
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
DESTDIR ?=
VERSION := $(shell sed -n 's/^\#define HADAL_VERSION "\(.*\)"/\1/p' include/hadal.h 2>/dev/null)

# Without -ffast-math and with contraction off, the same source gives the same bits with every compiler and CPU.
CFLAGS_ALL  := -std=c11 -D_GNU_SOURCE -g $(OPT) -ffp-contract=off -fPIC -fvisibility=hidden -pthread \
               $(WARN) $(WERROR) $(SAN) $(DEFS) $(CFLAGS)
CPPFLAGS_ALL := -Isrc -Iinclude -Itests/util $(CPPFLAGS)
LDFLAGS_ALL := $(SAN) -pthread $(LDFLAGS)
LDLIBS      := -ljansson -lpcre2-8 -lxxhash -luring -lhwloc -lm
# The HTTP server is in the program, not in the library: only who uses it needs these.
SERVE_LIBS  := -Wl,--as-needed -lmicrohttpd -lsqlite3

# ---------------------------------------------------------------- what this machine has

MACHINE   := $(shell $(CC) -dumpmachine 2>/dev/null | cut -d- -f1)
JOBS      := $(shell nproc 2>/dev/null || echo 2)
HAVE_CUDA := $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))
HAVE_MPI  := $(shell command -v mpicc 2>/dev/null)
HAVE_CANN := $(wildcard $(ASCEND_HOME_PATH)/include/acl/acl.h)

ifeq ($(MAKELEVEL)$(filter help clean,$(MAKECMDGOALS)),0)
$(info hadal: compiler $(CC) ($(or $(MACHINE),not installed yet)), CUDA $(or $(HAVE_CUDA),no), MPI $(or $(HAVE_MPI),no), CANN $(or $(HAVE_CANN),no))
endif

ISA_FLAGS_avx2    := -mavx2 -mfma -mbmi2 -mf16c
ISA_FLAGS_avx512  := -mavx2 -mfma -mbmi2 -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vbmi
ISA_FLAGS_avx512bf16 := $(ISA_FLAGS_avx512) -mavx512vnni -mavx512bf16
ISA_FLAGS_neon    :=
ISA_FLAGS_neondot := -march=armv8.2-a+dotprod
ISA_FLAGS_neonbf16 := -march=armv8.2-a+dotprod+bf16
ISA_FLAGS_neoni8mm := $(ISA_FLAGS_neonbf16)+i8mm

# ---------------------------------------------------------------- sources

LIB_SRC := $(sort $(filter-out src/bin/% src/serve/%,$(wildcard src/*/*.c src/ops/cpu/*.c)))
ifneq ($(MACHINE),x86_64)
LIB_SRC := $(filter-out %_avx2.c %_avx512.c %_avx512bf16.c,$(LIB_SRC))
endif
ifneq ($(MACHINE),aarch64)
LIB_SRC := $(filter-out %_neon.c %_neondot.c %_neonbf16.c %_neoni8mm.c,$(LIB_SRC))
endif
BIN_SRC := $(sort $(wildcard src/bin/*.c))
SERVE_SRC := $(sort $(wildcard src/serve/*.c))
LIB_OBJ := $(LIB_SRC:%.c=$(B)/%.o)
BIN_OBJ := $(BIN_SRC:%.c=$(B)/%.o)
SERVE_OBJ := $(SERVE_SRC:%.c=$(B)/%.o)

# A test program is tests/SUITE/test_NAME.c; every one is linked with tests/util/*.c, cmocka and the whole library.
SUITES  := unit check house fuzz cli golden tiny api sim fault e2e
TESTS   := $(patsubst %.c,$(B)/%,$(sort $(foreach s,$(SUITES),$(wildcard tests/$s/test_*.c))))
UNIT    := $(filter $(B)/tests/unit/%,$(TESTS))
FUZZ    := $(patsubst tests/fuzz/%.c,$(B)/tests/fuzz/%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
CHECK   := $(patsubst %.c,$(B)/%.o,$(sort $(wildcard tests/check/check_*.c)))
# AVX-512 kernels compiled to portable C with SIMDe, so that the harness checks them on machines without AVX-512.
HAVE_SIMDE := $(if $(filter x86_64,$(MACHINE)),$(wildcard /usr/include/simde/x86/avx512/dpbf16.h))
# Slow to compile, so only for the plain gcc build: the others look for warnings and bad memory, not for wrong numbers.
EMULATED := $(if $(and $(HAVE_SIMDE),$(filter gcc,$(CC)),$(if $(SAN),,yes)),$(addprefix $(B)/tests/check/emulated_, \
            avx512.o avx512bf16.o attn_avx512bf16.o vector_kern_avx512.o vector_kern_row_avx512.o vector_kern_attn_avx512.o))
# Programs that tests start.
HELPERS := $(patsubst %.c,$(B)/%,$(wildcard tests/api/scripted_server.c tests/api/grammar_words.c))
UTIL    := $(patsubst %.c,$(B)/%.o,$(sort $(wildcard tests/util/*.c)))

# ---------------------------------------------------------------- the library and the program

.PHONY: all
all: $(B)/libhadal.a $(B)/libhadal.so $(B)/hadal
	@cmp -s $(B)/hadal hadal || cp -f $(B)/hadal hadal

$(B)/hadal: $(BIN_OBJ) $(B)/libserve.a $(B)/libhadal.a
	$(CC) $(LDFLAGS_ALL) -o $@ $(BIN_OBJ) $(B)/libserve.a $(B)/libhadal.a $(LDLIBS) -ledit $(SERVE_LIBS)

$(B)/libserve.a: $(SERVE_OBJ)
	@rm -f $@
	$(AR) rcs $@ $(SERVE_OBJ)

$(B)/libhadal.a: $(LIB_OBJ)
	@rm -f $@
	$(AR) rcs $@ $(LIB_OBJ)

# Hidden visibility leaves only what include/hadal.h marks HADAL_API.
$(B)/libhadal.so: $(LIB_OBJ)
	$(CC) $(LDFLAGS_ALL) -shared -Wl,-soname,libhadal.so.0 -o $@ $(LIB_OBJ) $(LDLIBS)

# kern_avx2.c -> avx2: the part after the last underscore chooses the flags, for files named kern_* only.
isa_of = $(if $(filter kern_%,$(notdir $1)),$(ISA_FLAGS_$(lastword $(subst _, ,$(basename $(notdir $1))))))
# Attention kernels of the fast numerics contract multiply and add; nothing else does.
contract_of = $(if $(filter kern_attn_%,$(notdir $1)),-ffp-contract=fast)

$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(call isa_of,$<) $(call contract_of,$<) -MMD -MP -c -o $@ $<

# ---------------------------------------------------------------- install

# The installed archive is one object whose hidden symbols are made local, so that it too offers only hadal_ names.
$(B)/install/libhadal.a: $(LIB_OBJ)
	@mkdir -p $(@D)
	@rm -f $@
	$(LD) -r -o $(@D)/libhadal.o $(LIB_OBJ)
	objcopy --localize-hidden $(@D)/libhadal.o
	$(AR) rcs $@ $(@D)/libhadal.o

.PHONY: install
install: all $(B)/install/libhadal.a
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/lib/pkgconfig \
	    $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 755 $(B)/hadal $(DESTDIR)$(PREFIX)/bin/hadal
	install -m 644 include/hadal.h $(DESTDIR)$(PREFIX)/include/hadal.h
	install -m 644 $(B)/install/libhadal.a $(DESTDIR)$(PREFIX)/lib/libhadal.a
	install -m 755 $(B)/libhadal.so $(DESTDIR)$(PREFIX)/lib/libhadal.so.0
	ln -sf libhadal.so.0 $(DESTDIR)$(PREFIX)/lib/libhadal.so
	install -m 644 man/hadal.1 $(DESTDIR)$(PREFIX)/share/man/man1/hadal.1
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' hadal.pc.in \
	    > $(DESTDIR)$(PREFIX)/lib/pkgconfig/hadal.pc

# ---------------------------------------------------------------- run

PROMPT ?= Who are you?

.PHONY: setup run
setup:
	@tools/setup.sh build

run: setup
	@$(MAKE) -s -j$(JOBS) all
	./hadal run -m models/tiny -p "$(PROMPT)"

# ---------------------------------------------------------------- tests

$(B)/tests/util/libtest.a: $(UTIL)
	@mkdir -p $(@D)
	@rm -f $@
	$(AR) rcs $@ $(UTIL)

$(filter-out $(FUZZ),$(TESTS)) $(HELPERS): $(B)/tests/%: $(B)/tests/%.o $(B)/tests/util/libtest.a $(B)/libserve.a $(B)/libhadal.a
	$(CC) $(LDFLAGS_ALL) -o $@ $(filter %.o,$^) $(filter %.a,$^) -lcmocka $(LDLIBS) $(SERVE_LIBS)

# Calls that fail as the test says.
FAULTS := malloc calloc realloc aligned_alloc posix_memalign pread pwrite posix_fallocate fdatasync flock openat pthread_create \
          io_uring_queue_init io_uring_submit __io_uring_get_cqe
$(B)/tests/fault/test_fault: LDLIBS += $(FAULTS:%=-Wl,--wrap=%)

# The kernel harness is one program of several files.
$(B)/tests/check/test_check: $(CHECK) $(EMULATED)
$(B)/tests/check/test_check.o: CPPFLAGS_ALL += $(if $(EMULATED),-DCHECK_EMULATED)

EMULATE = $(CC) -Itests/check/emulate $(CPPFLAGS_ALL) -std=c11 -D_GNU_SOURCE -g -O1 -mfma -w
$(B)/tests/check/emulated_%.o: src/ops/cpu/kern_fast_%.c tests/check/emulate/immintrin.h
	@mkdir -p $(@D)
	$(EMULATE) -ffp-contract=off -DUNROLL= -Dfast_kern_$*=emulated_$* -MMD -MP -c -o $@ $<

$(B)/tests/check/emulated_attn_%.o: src/ops/cpu/kern_attn_%.c tests/check/emulate/immintrin.h
	@mkdir -p $(@D)
	$(EMULATE) $(call contract_of,$<) -Dattn_kern_$*=emulated_attn_$* -MMD -MP -c -o $@ $<

# Kernels over vectors of any width need no emulation: the compiler makes two registers of one.
EMULATED_NAMES := kern_avx512=emulated_kern_avx512 row_kern_avx512=emulated_row_avx512 attn_kern_avx512=emulated_attn_avx512
$(B)/tests/check/emulated_vector_%.o: src/ops/cpu/%.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) -std=c11 -D_GNU_SOURCE -g -O2 $(ISA_FLAGS_avx2) -ffp-contract=off $(call contract_of,$<) -w \
	    $(EMULATED_NAMES:%=-D%) -MMD -MP -c -o $@ $<

# The harness for 64-bit ARM, cross-compiled and linked statically; tests/check/*_neon.sh run it by qemu-user.
NEON_CC  ?= aarch64-linux-gnu-gcc
NEON_SRC := $(filter-out %_avx2.c %_avx512.c %_avx512bf16.c src/base/topology.c,$(wildcard src/base/*.c src/num/*.c \
            src/ops/*.c src/ops/cpu/*.c tests/check/*.c tests/check/neon/*.c))
NEON_OBJ := $(NEON_SRC:%.c=$(B)/neon/%.o)

# The harness itself at -O2: at -O3 Debian 12's compiler dies of check_row_truth.c.
$(B)/neon/%.o: %.c
	@mkdir -p $(@D)
	$(NEON_CC) -Isrc -std=c11 -D_GNU_SOURCE -g $(if $(filter src/%,$<),$(OPT),-O2) -ffp-contract=off -pthread -w $(call isa_of,$<) \
	    $(call contract_of,$<) -MMD -MP -c -o $@ $<

$(B)/neon/check: $(NEON_OBJ)
	$(NEON_CC) -static -pthread -o $@ $(NEON_OBJ) -lm

# Fuzz targets: with FUZZER=1 linked to libFuzzer (clang), otherwise to a driver that replays files.
$(FUZZ): $(B)/tests/fuzz/%: $(B)/tests/fuzz/%.o $(if $(FUZZER),,$(B)/tests/fuzz/replay.o) $(B)/tests/util/libtest.a $(B)/libserve.a $(B)/libhadal.a
	$(CC) $(LDFLAGS_ALL) $(if $(FUZZER),-fsanitize=fuzzer) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LDLIBS) $(SERVE_LIBS)

.SECONDARY:
-include $(LIB_OBJ:.o=.d) $(BIN_OBJ:.o=.d) $(SERVE_OBJ:.o=.d) $(HELPERS:=.d) $(TESTS:=.d) $(FUZZ:=.d) $(UTIL:.o=.d) $(CHECK:.o=.d) $(EMULATED:.o=.d) $(NEON_OBJ:.o=.d) $(B)/tests/fuzz/replay.d

.PHONY: programs unit test setup-test
programs: all $(TESTS) $(HELPERS) $(FUZZ)

unit: all $(UNIT)
	@B=$(B) CC=$(CC) tests/run_tests.sh unit

setup-test:
	@tools/setup.sh test

test: setup-test
	@$(MAKE) -s -j$(JOBS) programs
	@B=$(B) CC=$(CC) tests/run_tests.sh $(SUITES)

# One suite, e.g. `make suite-cli`.
suite-%: programs
	@B=$(B) CC=$(CC) tests/run_tests.sh $*

# Every kernel at every instruction-set level; SEED=N repeats a failure. `make bench` prints their speeds.
.PHONY: check bench
check: $(B)/tests/check/test_check
	@$(B)/tests/check/test_check $(if $(SEED),--seed $(SEED))

bench: $(B)/tests/check/test_check
	@$(B)/tests/check/test_check --bench

# The golden comparison on any folder of that format: make golden GOLDEN=DIR.
.PHONY: golden
golden: $(B)/tests/golden/test_golden
	@B=$(B) $(B)/tests/golden/test_golden $(GOLDEN)

# Exact numerics on random tiny models against Hugging Face transformers and the numpy reference; CASES=N, SEED=N.
# The Python packages live in build/parity-env (a torch 2.13.0 that is already installed is used).
PARITY_ENV := build/parity-env
$(PARITY_ENV)/ready: tests/parity/requirements.txt
	python3 -m venv --system-site-packages $(PARITY_ENV)
	$(PARITY_ENV)/bin/python -c 'import torch; assert torch.__version__.split("+")[0] == "2.13.0"' 2>/dev/null || \
	    $(PARITY_ENV)/bin/pip install -q torch==2.13.0
	$(PARITY_ENV)/bin/pip install -q -r $<
	@touch $@

.PHONY: parity
parity: all $(PARITY_ENV)/ready
	@$(PARITY_ENV)/bin/python -B tests/parity/parity.py --program $(B)/hadal $(if $(SEED),--seed $(SEED)) $(if $(CASES),--cases $(CASES))

# The scheduler and the prefix cache in simulated worlds: make sim SEED=N STEPS=N.
.PHONY: sim
sim: $(B)/tests/sim/test_sim
	@SEED=$(SEED) STEPS=$(STEPS) $(B)/tests/sim/test_sim

# ---------------------------------------------------------------- sanitizers and fuzzing

ASAN := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
TSAN := -fsanitize=thread
FUZZ_SECONDS ?= 60

.PHONY: asan tsan fuzz
asan:
	@$(MAKE) -s -j$(JOBS) B=build-asan SAN="$(ASAN)" OPT=-O1 programs
	@B=build-asan tests/run_tests.sh unit fuzz

tsan:
	@$(MAKE) -s -j$(JOBS) B=build-tsan SAN="$(TSAN)" OPT=-O1 \
	    build-tsan/tests/unit/test_pool build-tsan/tests/unit/test_spill build-tsan/tests/unit/test_engine build-tsan/tests/unit/test_hadal_api \
	    build-tsan/tests/unit/test_sched build-tsan/tests/unit/test_cache build-tsan/tests/unit/test_replay build-tsan/tests/unit/test_fork \
	    build-tsan/tests/api/scripted_server build-tsan/hadal
	@B=build-tsan tests/run_tests.sh unit api

fuzz:
	@$(MAKE) -s -j$(JOBS) CC=clang B=build-fuzz FUZZER=1 OPT=-O1 \
	    SAN="-fsanitize=fuzzer-no-link,address,undefined" $(patsubst $(B)/%,build-fuzz/%,$(FUZZ))
	@tests/fuzz/run_fuzz.sh build-fuzz $(FUZZ_SECONDS)

# Deliberate bugs, each killed by a test (docs/TESTING.md).
.PHONY: mutants
mutants: programs
	@B=$(B) CC=$(CC) tests/run_tests.sh mutants

# The embedded model's skills, asked through the engine: a table on stdout, $(B)/eval-tiny.json. ARGS=--quick: fewer questions.
# Needs python3-numpy. The mutation build shows what is lost when the indexer selects nothing.
$(B)/tools/eval_tiny/ask: tools/eval_tiny/ask.c $(B)/libhadal.a
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(LDFLAGS_ALL) -o $@ $^ $(LDLIBS)

.PHONY: eval-tiny
eval-tiny: all $(B)/tools/eval_tiny/ask
	@$(MAKE) -s -j$(JOBS) B=$(B)-mutants OPT=-O2 DEFS=-DHADAL_MUTANTS $(B)-mutants/tools/eval_tiny/ask
	@B=$(B) python3 -B tools/eval_tiny/eval.py --json $(B)/eval-tiny.json $(ARGS)

.PHONY: nightly
nightly: test asan tsan mutants
	@B=$(B) CC=$(CC) KIND=nightly tests/run_tests.sh $(SUITES)
	@$(MAKE) fuzz FUZZ_SECONDS=600

# ---------------------------------------------------------------- the rest

.PHONY: clean help man
# The man page is written from the program's help texts; a test refuses a stale one.
man: all
	tools/man_page.py ./hadal > man/hadal.1.new
	mv man/hadal.1.new man/hadal.1

clean:
	rm -rf build build-* hadal

help:
	@echo 'make                 build ./hadal, libhadal.a and libhadal.so under build/ (B=DIR, CC=, OPT=, WERROR=-Werror)'
	@echo 'make run             install what is missing, build, and answer a prompt with the embedded model (PROMPT="...")'
	@echo 'make test            install what is missing, build, and run every suite; ends in "N passed, N failed"'
	@echo 'make unit            the unit tests alone; make suite-NAME runs one of: $(SUITES)'
	@echo 'make golden          compare with the numbers of the official code; GOLDEN=DIR for another folder of that format'
	@echo 'make check, bench    every kernel at every instruction-set level (SEED=N repeats); their speeds'
	@echo 'make sim             scheduler and prefix cache in simulated worlds; SEED=N STEPS=N runs one'
	@echo 'make mutants         plant each bug of the catalogue in docs/TESTING.md: some test must fail'
	@echo 'make parity          random tiny models against Hugging Face transformers and numpy (fetches Python packages); CASES=, SEED='
	@echo 'make eval-tiny       what the embedded model can do, measured through the engine (ARGS=--quick: fewer questions)'
	@echo 'make nightly         test, asan, tsan, mutants, the long tests and ten minutes of fuzzing per target'
	@echo 'make asan, tsan      unit tests and fuzz corpora under address+undefined sanitizers; pool, engine and server under thread sanitizer'
	@echo 'make fuzz            libFuzzer on every target, FUZZ_SECONDS=$(FUZZ_SECONDS) each'
	@echo 'make install         program, library, header, pkg-config file, man page under PREFIX=$(PREFIX) (DESTDIR=)'
	@echo 'make setup           only install the missing Debian packages that the build needs'
	@echo 'make man             write man/hadal.1 from the help texts'
	@echo 'make clean           remove every build'
