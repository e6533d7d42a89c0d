-- The settings: what there is, what is refused.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS apapacho_jobs;

SELECT name, vartype, unit, context, min_val, max_val, enumvals
FROM pg_settings WHERE name LIKE 'apapacho\_jobs.%' ORDER BY name COLLATE "C";

-- Defaults, but for the schedules, which the server of these tests has set.
SELECT name, boot_val FROM pg_settings
WHERE name LIKE 'apapacho\_jobs.%' AND name NOT LIKE '%webhook%' ORDER BY name COLLATE "C";

-- Units
SET apapacho_jobs.outbox_timeout = '5s';
SHOW apapacho_jobs.outbox_timeout;
RESET apapacho_jobs.outbox_timeout;

-- Bad values are refused with the reason, and the old ones stay.
SET apapacho_jobs.outbox_batch_size = 0;
SET apapacho_jobs.outbox_batch_size = 10001;
SET apapacho_jobs.outbox_max_retries = 'many';
SET apapacho_jobs.outbox_publisher_type = 'kafka';
SET apapacho_jobs.outbox_webhook_url = 'ftp://example.com/';
SET apapacho_jobs.schema = '';
SET apapacho_jobs.timezone = 'Mars/Olympus';
SET apapacho_jobs.payout_batch_size = -1;
SHOW apapacho_jobs.outbox_batch_size;
SHOW apapacho_jobs.outbox_publisher_type;
SHOW apapacho_jobs.outbox_webhook_url;

-- A misspelt name does not pass for a setting.
SET apapacho_jobs.outbox_batchsize = 10;

-- Not for a session
SET apapacho_jobs.enabled = off;
SET apapacho_jobs.databases = 'mine';
SET apapacho_jobs.outbox_webhook_secret = 'tu_secret';

-- Good values
SET apapacho_jobs.outbox_webhook_url = 'https://tu-servicio.com/webhooks/payments';
SHOW apapacho_jobs.outbox_webhook_url;
RESET apapacho_jobs.outbox_webhook_url;
SHOW apapacho_jobs.outbox_webhook_url;
SET apapacho_jobs.timezone = 'America/Santiago';
SHOW apapacho_jobs.timezone;
RESET apapacho_jobs.timezone;
SET apapacho_jobs.outbox_publisher_type = 'WEBHOOK';
SHOW apapacho_jobs.outbox_publisher_type;
RESET apapacho_jobs.outbox_publisher_type;
