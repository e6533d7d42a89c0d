# apapacho_jobs: build (PGXS). The lists below are the table of contents: a feature is a folder of src.
#
#   make            build the extension                make demo    see it working, on a throw-away server
#   make install    install it into PostgreSQL         make check   set up what is needed and run every test
#   make deb        Debian packages, in build/deb      make install-program   apapacho-jobs alone, below PROGRAM_PREFIX

EXTENSION = apapacho_jobs
EXTENSION_VERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" $(EXTENSION).control)
MODULE_big = apapacho_jobs

# src/lib: plain C, no PostgreSQL
LIB_OBJS = \
	src/lib/cron/calendar.o \
	src/lib/cron/describe.o \
	src/lib/cron/describe_times.o \
	src/lib/cron/fields.o \
	src/lib/cron/next.o \
	src/lib/cron/parse.o \
	src/lib/cron/reader.o \
	src/lib/cron/words.o \
	src/lib/delivery/address.o \
	src/lib/delivery/answer.o \
	src/lib/delivery/body.o \
	src/lib/delivery/cloudevents.o \
	src/lib/delivery/ed25519.o \
	src/lib/delivery/engine.o \
	src/lib/delivery/exchange.o \
	src/lib/delivery/message.o \
	src/lib/delivery/retry.o \
	src/lib/delivery/retry_after.o \
	src/lib/delivery/secret.o \
	src/lib/delivery/signature.o \
	src/lib/delivery/sockets.o \
	src/lib/delivery/transfer.o \
	src/lib/delivery/url.o \
	src/lib/delivery/verdict.o

# src/server: the platform that the features stand on
SERVER_OBJS = \
	src/server/counters.o \
	src/server/delivery_settings.o \
	src/server/entry.o \
	src/server/environment.o \
	src/server/extension.o \
	src/server/ids.o \
	src/server/job.o \
	src/server/seats.o \
	src/server/session.o \
	src/server/settings.o \
	src/server/shared.o \
	src/server/user_tables.o \
	src/server/wake.o \
	src/server/xact.o

SCHEDULER_OBJS = \
	src/scheduler/claims.o \
	src/scheduler/command.o \
	src/scheduler/cron_functions.o \
	src/scheduler/database_events.o \
	src/scheduler/dispatch.o \
	src/scheduler/dispatch_worker.o \
	src/scheduler/due.o \
	src/scheduler/history.o \
	src/scheduler/job_control.o \
	src/scheduler/job_table.o \
	src/scheduler/jobs.o \
	src/scheduler/launcher.o \
	src/scheduler/ledger.o \
	src/scheduler/left_over.o \
	src/scheduler/plans.o \
	src/scheduler/process.o \
	src/scheduler/run_slots.o \
	src/scheduler/scheduler.o \
	src/scheduler/status.o \
	src/scheduler/work.o \
	src/scheduler/worker.o

OUTBOX_OBJS = \
	src/outbox/attempt.o \
	src/outbox/claim.o \
	src/outbox/cleanup.o \
	src/outbox/commit.o \
	src/outbox/console.o \
	src/outbox/endpoint.o \
	src/outbox/endpoint_check.o \
	src/outbox/endpoint_set.o \
	src/outbox/events.o \
	src/outbox/hand.o \
	src/outbox/helpers.o \
	src/outbox/intake.o \
	src/outbox/monitor.o \
	src/outbox/open_transactions.o \
	src/outbox/printable.o \
	src/outbox/publisher.o \
	src/outbox/receiver.o \
	src/outbox/record.o \
	src/outbox/redeliver.o \
	src/outbox/remote.o \
	src/outbox/remote_open.o \
	src/outbox/remote_requests.o \
	src/outbox/request.o \
	src/outbox/share.o \
	src/outbox/waiting.o \
	src/outbox/watch.o \
	src/outbox/webhook.o

PAYOUT_OBJS = \
	src/payout/calculation.o \
	src/payout/claims.o \
	src/payout/discovery.o \
	src/payout/divide.o \
	src/payout/eligibility.o \
	src/payout/export.o \
	src/payout/export_file.o \
	src/payout/guard.o \
	src/payout/install.o \
	src/payout/ledger.o \
	src/payout/pay.o \
	src/payout/range.o \
	src/payout/reconcile.o \
	src/payout/retry.o \
	src/payout/shares.o \
	src/payout/sql.o \
	src/payout/state.o \
	src/payout/statement.o \
	src/payout/sweep.o \
	src/payout/transitions.o

# apapacho-jobs, the companion program: a client, no part of the module
CLI_OBJS = \
	src/cli/bind.o \
	src/cli/client.o \
	src/cli/conninfo.o \
	src/cli/cron.o \
	src/cli/help.o \
	src/cli/joblog.o \
	src/cli/json.o \
	src/cli/listen.o \
	src/cli/listen_answer.o \
	src/cli/listen_forward.o \
	src/cli/listen_http.o \
	src/cli/listen_judge.o \
	src/cli/listen_report.o \
	src/cli/main.o \
	src/cli/message.o \
	src/cli/metrics.o \
	src/cli/metrics_collectors.o \
	src/cli/metrics_text.o \
	src/cli/options.o \
	src/cli/outbox.o \
	src/cli/payout.o \
	src/cli/pretty.o \
	src/cli/printable.o \
	src/cli/progress.o \
	src/cli/run.o \
	src/cli/runs.o \
	src/cli/serve.o \
	src/cli/serve_actions.o \
	src/cli/serve_answer.o \
	src/cli/serve_check.o \
	src/cli/serve_database.o \
	src/cli/serve_failure.o \
	src/cli/serve_http.o \
	src/cli/serve_key.o \
	src/cli/serve_log.o \
	src/cli/serve_openapi.o \
	src/cli/serve_parameters.o \
	src/cli/serve_peers.o \
	src/cli/serve_pool.o \
	src/cli/serve_route.o \
	src/cli/serve_uri.o \
	src/cli/session.o \
	src/cli/show.o \
	src/cli/start.o \
	src/cli/start_channel.o \
	src/cli/start_environment.o \
	src/cli/start_send.o \
	src/cli/status.o \
	src/cli/table.o \
	src/cli/text.o \
	src/cli/utf8.o \
	src/cli/zone.o

OBJS = $(LIB_OBJS) $(SERVER_OBJS) $(SCHEDULER_OBJS) $(OUTBOX_OBJS) $(PAYOUT_OBJS)

# The install script is put together from the features' SQL, in this order.
SQL_PARTS = \
	src/server/server.sql \
	src/server/user_tables.sql \
	src/scheduler/jobs.sql \
	src/scheduler/scheduler.sql \
	src/outbox/outbox.sql \
	src/payout/guard.sql \
	src/payout/adjustment.sql \
	src/payout/run.sql \
	src/payout/payout.sql \
	src/payout/export_format.sql \
	src/payout/export.sql \
	src/payout/statement.sql

INSTALL_SQL = $(EXTENSION)--$(EXTENSION_VERSION).sql
DATA_built = $(INSTALL_SQL)
SCRIPTS_built = apapacho-jobs
EXTRA_CLEAN = $(INSTALL_SQL) $(CLI_OBJS) src/cli/serve_openapi.c build

REGRESS = $(basename $(notdir $(wildcard sql/*.sql)))

PG_CPPFLAGS = -I$(srcdir)/src -DAPAPACHO_VERSION='"$(EXTENSION_VERSION)"'
PG_CFLAGS = -std=gnu11 -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare \
	-Wno-declaration-after-statement -fvisibility=hidden
# PostgreSQL's own flags are the compiler's that it was built with, which clang may not know.
PG_CFLAGS += $(if $(findstring clang,$(CC)),-Wno-unknown-warning-option -Wno-ignored-attributes \
	-Wno-ignored-optimization-argument)
SHLIB_LINK = -lcurl -lcrypto

# The module does no work that the JIT compiler could inline.
override with_llvm = no

# The targets that need no PostgreSQL beforehand: test/sandbox.sh installs what is missing, then builds in a directory of its own.
TEST_TARGETS = check demo

ifeq (,$(filter $(TEST_TARGETS),$(MAKECMDGOALS)))

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
ifeq (,$(PGXS))
$(error no PostgreSQL to build with: install its server headers, or set PG_CONFIG (see README.md))
endif
include $(PGXS)

$(INSTALL_SQL): $(SQL_PARTS) $(EXTENSION).control Makefile
	{ printf '%s\n' '\echo Use "CREATE EXTENSION $(EXTENSION)" to load this file. \quit'; cat $(SQL_PARTS); } > $@.tmp
	mv $@.tmp $@

# The program has nothing of the server's: its own flags, libpq, and src/lib as the module has it.
CLI_CFLAGS = -std=gnu11 -O2 -g -fstack-protector-strong -Wall -Wextra -Werror -Wformat-security $(COPT)
CLI_CPPFLAGS = -D_GNU_SOURCE -DAPAPACHO_VERSION='"$(EXTENSION_VERSION)"' -I$(srcdir)/src -I$(srcdir)/src/lib/delivery \
	-I$(includedir)
CLI_LIBS = -L$(libdir) -lpq -lmicrohttpd -lcurl -lcrypto -lpthread

$(CLI_OBJS): %.o: %.c
	$(CC) $(CLI_CFLAGS) $(CLI_CPPFLAGS) -c -o $@ $<

apapacho-jobs: $(CLI_OBJS) $(LIB_OBJS)
	$(CC) $(CLI_CFLAGS) -o $@ $^ $(LDFLAGS) $(LDFLAGS_EX) $(CLI_LIBS)

# The OpenAPI document as a string of C.
src/cli/serve_openapi.c: src/cli/openapi.json
	{ printf '#include "serve_openapi.h"\n\nconst char openapi_document[] =\n'; sed 's/[\\"]/\\&/g; s/.*/    "&\\n"/' $<; printf '    ;\n'; } > $@.tmp
	mv $@.tmp $@

# The program with all that belongs to it, wherever PostgreSQL is: with `make install` it is among PostgreSQL's programs only.
PROGRAM_PREFIX ?= /usr/local
program_root = $(DESTDIR)$(PROGRAM_PREFIX)

install-program: apapacho-jobs
	$(MKDIR_P) '$(program_root)/bin' '$(program_root)/share/man/man1' '$(program_root)/share/bash-completion/completions' \
		'$(program_root)/lib/systemd/system'
	$(INSTALL_SCRIPT) apapacho-jobs '$(program_root)/bin/'
	$(INSTALL_DATA) $(srcdir)/packaging/apapacho-jobs.1 '$(program_root)/share/man/man1/'
	$(INSTALL_DATA) $(srcdir)/packaging/apapacho-jobs.bash '$(program_root)/share/bash-completion/completions/apapacho-jobs'
	for unit in $(notdir $(wildcard packaging/systemd/*.service packaging/systemd/*.timer)); do \
		sed 's,/usr/bin/,$(PROGRAM_PREFIX)/bin/,' "$(srcdir)/packaging/systemd/$$unit" >'$(program_root)/lib/systemd/system/'"$$unit"; \
	done

deb: all
	PG_CONFIG='$(PG_CONFIG)' MAKE='$(MAKE)' bash $(srcdir)/packaging/deb.sh

.PHONY: install-program deb

# Headers are few: a change to any of them rebuilds all.
$(OBJS) $(CLI_OBJS): $(wildcard src/*/*.h src/lib/*/*.h)

else

check:
	@bash test/sandbox.sh bash test/check.sh

demo:
	@bash test/sandbox.sh bash test/demo/demo.sh

# Whatever is asked for beside them
$(filter-out $(TEST_TARGETS),$(MAKECMDGOALS)):
	@$(MAKE) $@

.PHONY: $(MAKECMDGOALS)

endif
