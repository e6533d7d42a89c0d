# programs.mk: the tests' own programs, in plain C, without PostgreSQL. Run from the top: make -f test/programs.mk TARGET
#
#   unit       build/unit/*           test/unit/*_test.c, each linked with src/lib (cli_*: parts of src/cli), with sanitizers
#   fuzz       build/fuzz/*           test/fuzz/*_fuzz.c, each linked with src/lib, with clang's fuzzer

BUILD = build
ifeq ($(origin CC),default)
CC = gcc
endif
CLANG ?= clang

FLAGS = -std=gnu11 -g -fno-omit-frame-pointer -Wall -Wextra -Werror -D_GNU_SOURCE -Isrc -Isrc/lib/delivery -Itest
SANITIZE = -fsanitize=address,undefined -fno-sanitize-recover=undefined
LIBRARIES = -lcurl -lssl -lcrypto -lpthread

LIB = $(wildcard src/lib/*/*.c)
HEADERS = $(wildcard src/lib/*/*.h test/*/*.h)
UNIT = $(patsubst test/unit/%.c,$(BUILD)/unit/%,$(wildcard test/unit/*_test.c))
FUZZ = $(patsubst test/fuzz/%.c,$(BUILD)/fuzz/%,$(wildcard test/fuzz/*_fuzz.c))

unit: $(UNIT)
fuzz: $(FUZZ)
.PHONY: unit fuzz
.SECONDARY:

$(BUILD)/sanitized/%.o: src/lib/%.c $(HEADERS)
	@mkdir -p $(@D)
	$(CC) $(FLAGS) -O1 $(SANITIZE) -c -o $@ $<

$(BUILD)/fuzzed/%.o: src/lib/%.c $(HEADERS)
	@mkdir -p $(@D)
	$(CLANG) $(FLAGS) -O1 $(SANITIZE) -fsanitize=fuzzer-no-link -c -o $@ $<

$(BUILD)/unit/%: test/unit/%.c $(LIB:src/lib/%.c=$(BUILD)/sanitized/%.o) $(HEADERS)
	@mkdir -p $(@D)
	$(CC) $(FLAGS) -O1 $(SANITIZE) -o $@ $(filter %.c %.o,$^) $(LIBRARIES)

# Tests of apapacho-jobs have its plain parts besides, which know libpq's results but no server.
CLI_PARTS = conninfo json message pretty table text
$(BUILD)/unit/cli_%: test/unit/cli_%.c $(CLI_PARTS:%=src/cli/%.c) $(HEADERS) $(wildcard src/cli/*.h)
	@mkdir -p $(@D)
	$(CC) $(FLAGS) -I$(shell $${PG_CONFIG:-pg_config} --includedir) -O1 $(SANITIZE) -o $@ $(filter %.c,$^) \
		-L$(shell $${PG_CONFIG:-pg_config} --libdir) -lpq

$(BUILD)/fuzz/%: test/fuzz/%.c $(LIB:src/lib/%.c=$(BUILD)/fuzzed/%.o) $(HEADERS)
	@mkdir -p $(@D)
	$(CLANG) $(FLAGS) -O1 $(SANITIZE) -fsanitize=fuzzer -o $@ $(filter %.c %.o,$^) $(LIBRARIES)
