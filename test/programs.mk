# programs.mk: the tests' own programs, in plain C, without PostgreSQL. Run from the top: make -f test/programs.mk TARGET
#
#   unit       build/unit/*           test/unit/*_test.c, each linked with src/lib (cli_*: parts of src/cli), with sanitizers
#   fuzz       build/fuzz/*           test/fuzz/*_fuzz.c, each linked with src/lib, with clang's fuzzer
#   program    build/apapacho-jobs    the companion program with sanitizers

BUILD = build
ifeq ($(origin CC),default)
CC = gcc
endif
CLANG ?= clang

FLAGS = -std=gnu11 -g -fno-omit-frame-pointer -Wall -Wextra -Werror -D_GNU_SOURCE -Isrc -Isrc/lib/delivery -Itest
SANITIZE = -fsanitize=address,undefined -fno-sanitize-recover=undefined
LIBRARIES = -lcurl -lssl -lcrypto -lpthread

LIB = $(wildcard src/lib/*/*.c)
HEADERS = $(wildcard src/lib/*/*.h src/cli/*.h test/*/*.h)
UNIT = $(patsubst test/unit/%.c,$(BUILD)/unit/%,$(wildcard test/unit/*_test.c))
FUZZ = $(patsubst test/fuzz/%.c,$(BUILD)/fuzz/%,$(wildcard test/fuzz/*_fuzz.c))

unit: $(UNIT)
fuzz: $(FUZZ)
program: $(BUILD)/apapacho-jobs
.PHONY: unit fuzz program
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
CLI_PARTS = conninfo json message pretty printable table text utf8
$(BUILD)/unit/cli_%: test/unit/cli_%.c $(CLI_PARTS:%=src/cli/%.c) $(HEADERS) $(wildcard src/cli/*.h)
	@mkdir -p $(@D)
	$(CC) $(FLAGS) -I$(shell $${PG_CONFIG:-pg_config} --includedir) -O1 $(SANITIZE) -o $@ $(filter %.c,$^) \
		-L$(shell $${PG_CONFIG:-pg_config} --libdir) -lpq

$(BUILD)/fuzz/%: test/fuzz/%.c $(LIB:src/lib/%.c=$(BUILD)/fuzzed/%.o) $(HEADERS)
	@mkdir -p $(@D)
	$(CLANG) $(FLAGS) -O1 $(SANITIZE) -fsanitize=fuzzer -o $@ $(filter %.c %.o,$^) $(LIBRARIES)

# What of src/cli reads bytes from outside, without libpq and libmicrohttpd
$(BUILD)/fuzz/http_request_fuzz: $(patsubst %,$(BUILD)/fuzzed/cli/%.o,serve_parameters serve_route serve_uri text utf8)

$(BUILD)/fuzzed/cli/%.o: src/cli/%.c $(HEADERS)
	@mkdir -p $(@D)
	$(CLANG) $(FLAGS) -O1 $(SANITIZE) -fsanitize=fuzzer-no-link -c -o $@ $<

# The program takes libpq's headers from where PostgreSQL has them, and the generated file from the top Makefile.
PG_CONFIG ?= pg_config
PROGRAM = $(sort $(wildcard src/cli/*.c) src/cli/serve_openapi.c)
PROGRAM_FLAGS = -DAPAPACHO_VERSION='"$(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" apapacho_jobs.control)"' \
	-I$(shell $(PG_CONFIG) --includedir)

src/cli/serve_openapi.c: src/cli/openapi.json
	$(MAKE) -f Makefile PG_CONFIG=$(PG_CONFIG) $@

$(BUILD)/sanitized/cli/%.o: src/cli/%.c $(HEADERS)
	@mkdir -p $(@D)
	$(CC) $(FLAGS) $(PROGRAM_FLAGS) -O1 $(SANITIZE) -c -o $@ $<

$(BUILD)/apapacho-jobs: $(PROGRAM:src/cli/%.c=$(BUILD)/sanitized/cli/%.o) $(LIB:src/lib/%.c=$(BUILD)/sanitized/%.o)
	$(CC) $(FLAGS) $(SANITIZE) -o $@ $^ -L$(shell $(PG_CONFIG) --libdir) -lpq -lmicrohttpd $(LIBRARIES)
