/*
 * job_table.h: apapacho_jobs.job, a row for every job, as the scheduler's C code sees it; and the rights on jobs.
 *
 * Who owns a job (is a member of its owner) sees and changes it. What it does is done by the role `run_as`, which the
 * owner must be able to become (SET ROLE): that is checked when the job is written and again before each run.
 */
#ifndef APAPACHO_JOB_TABLE_H
#define APAPACHO_JOB_TABLE_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "pgtime.h"

#include "lib/cron/cron.h"

#define JOB_SCHEDULE_MAX_BYTES 255

/* What becomes of a scheduled time at which the job's previous run is still at work. */
typedef enum OverlapPolicy { OVERLAP_SKIP, OVERLAP_QUEUE } OverlapPolicy;

/* What becomes of scheduled times that nobody was there for. */
typedef enum MisfirePolicy { MISFIRE_SKIP, MISFIRE_ONCE, MISFIRE_ALL } MisfirePolicy;

/* A row. Built-in jobs have neither command nor database, and their schedule is their setting's. */
typedef struct Job {
    int64 id;
    char *name;
    char *long_name; /* built-in jobs; else NULL */
    bool builtin;
    bool paused;
    Oid owner;
    Oid run_as;
    char *schedule;   /* NULL: the setting */
    char *command;    /* NULL: built-in */
    char *database;   /* NULL: this one */
    char *time_zone;  /* NULL: the setting */
    int64 timeout_ms; /* 0: none; at most INT_MAX */
    int retries;
    int64 retry_delay_ms;
    int64 retry_delay_max_ms;
    OverlapPolicy overlap;
    MisfirePolicy misfire;
    int64 misfire_window; /* microseconds */
} Job;

/*
 * All jobs by id, a List of Job allocated in `context`. Between xact_begin() and xact_commit(), or else in a
 * transaction with SPI connected.
 */
List *job_table_read(MemoryContext context);

/*
 * The job of that name or long name, allocated in `context`; NULL: there is none. In a backend, within a transaction;
 * reads as the extension's owner. Says nothing about the caller's rights: see job_require_rights().
 */
Job *job_table_find(const char *name, MemoryContext context);

/* The same, with the row locked against changes by others until the transaction ends. */
Job *job_table_lock(const char *name, MemoryContext context);

/* The same in CurrentMemoryContext, of a job that is the current user's to change; else ERROR as the two below. */
Job *job_table_lock_own(const char *name);

/*
 * Executes a statement on the extension's tables as their owner, in a backend; returns the first column, a bigint, of
 * the first row that it returns, or 0.
 */
int64 job_table_execute(const char *sql, int count, Oid *types, Datum *values, const char *nulls);

/* The name of the setting that holds a built-in job's schedule, palloc'ed. */
char *job_setting(const Job *job);

/* ERROR undefined_object with the names of the jobs that the current user knows. */
void job_unknown(const char *name) __attribute__((noreturn));

/* ERROR insufficient_privilege unless the role may see and change the job. */
void job_require_rights(const Job *job, Oid role);

/*
 * Whether a job of a user's can be run: its owner and its role are there, the owner may still become the role, the role
 * may log in and connect to the database, which exists. Else *why says what is wrong, as an error message without
 * secrets, palloc'ed. Within a transaction.
 */
bool job_table_valid_run_as(const Job *job, char **why);

/* The same, as an ERROR. */
void job_require_runnable(const Job *job);

/* Reads a schedule; ERROR invalid_parameter_value with position and field if it is none. */
void job_parse_schedule(const char *text, CronSchedule *schedule);

/* The zone of that name; ERROR invalid_parameter_value if there is none. */
pg_tz *job_time_zone(const char *name);

/* ERROR unless it is one of pg_timezone_names: the server keeps every other one that it is asked for in memory for
 * ever. */
void job_check_time_zone(const char *name);

#endif
