# apapacho_jobs: build (PGXS). The lists below are the table of contents: a feature is a folder of src.
#
#   make            build the extension                make demo    see it working, on a throw-away server
#   make install    install it into PostgreSQL         make check   set up what is needed and run every test

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
	src/lib/delivery/cloudevents.o \
	src/lib/delivery/ed25519.o \
	src/lib/delivery/engine.o \
	src/lib/delivery/message.o \
	src/lib/delivery/retry.o \
	src/lib/delivery/retry_after.o \
	src/lib/delivery/secret.o \
	src/lib/delivery/signature.o \
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
	src/outbox/events.o \
	src/outbox/hand.o \
	src/outbox/helpers.o \
	src/outbox/intake.o \
	src/outbox/monitor.o \
	src/outbox/printable.o \
	src/outbox/publisher.o \
	src/outbox/record.o \
	src/outbox/redeliver.o \
	src/outbox/share.o \
	src/outbox/webhook.o

PAYOUT_OBJS = \
	src/payout/calculation.o \
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
EXTRA_CLEAN = $(INSTALL_SQL) build

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

# Headers are few: a change to any of them rebuilds all.
$(OBJS): $(wildcard src/*/*.h src/lib/*/*.h)

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
