-- Cron expressions as they are set: what is accepted, and how errors tell field and position.
SET apapacho_jobs.payout_cron = '0 2 * * 0';
SHOW apapacho_jobs.payout_cron;

-- The seed's examples, and the rest of the notation
SET apapacho_jobs.payout_cron = '* * * * *';
SET apapacho_jobs.payout_cron = '*/5 * * * *';
SET apapacho_jobs.payout_cron = '0 * * * *';
SET apapacho_jobs.payout_cron = '0 0 * * *';
SET apapacho_jobs.payout_cron = '0 9 * * 1-5';
SET apapacho_jobs.payout_cron = '  0,30 8-18/2 1,15 jan-jun Mon-Fri  ';
SET apapacho_jobs.payout_cron = '0 0 $ * *';
SET apapacho_jobs.payout_cron = '0 0 * * 7';
SET apapacho_jobs.payout_cron = '@daily';
SET apapacho_jobs.payout_cron = '30 seconds';

-- What pg_cron does not know
SET apapacho_jobs.payout_cron = '*/15 0 2 * * 0';
SET apapacho_jobs.payout_cron = '10-5 22-2 * nov-feb fri-mon';
SET apapacho_jobs.payout_cron = '5/10 2 * * *';
SET apapacho_jobs.payout_cron = '0 2 1,15,L january-JUNE ?';
SET apapacho_jobs.payout_cron = '0 2 L-3,15W,LW * ?';
SET apapacho_jobs.payout_cron = '0 2 ? * 5#2,fridayL';
SET apapacho_jobs.payout_cron = '0 2 29 2 *';
SET apapacho_jobs.payout_cron = '@every 1h30m';
SHOW apapacho_jobs.payout_cron;

-- Empty: disabled
SET apapacho_jobs.payout_cron = '';
SHOW apapacho_jobs.payout_cron;
RESET apapacho_jobs.payout_cron;

-- Refused
SET apapacho_jobs.payout_cron = '60 2 * * 0';
SET apapacho_jobs.payout_cron = '0 24 * * 0';
SET apapacho_jobs.payout_cron = '0 2 0 * *';
SET apapacho_jobs.payout_cron = '0 2 * 13 *';
SET apapacho_jobs.payout_cron = '0 2 * * 8';
SET apapacho_jobs.payout_cron = '0 2 * *';
SET apapacho_jobs.payout_cron = '0 2 * * 0 *';
SET apapacho_jobs.payout_cron = '0 2 * * 0 root';
SET apapacho_jobs.payout_cron = '5x 2 * * 0';
SET apapacho_jobs.payout_cron = '0 0 2 * * 0 *';
SET apapacho_jobs.payout_cron = '60 0 2 * * 0';
SET apapacho_jobs.payout_cron = '*/0 2 * * 0';
SET apapacho_jobs.payout_cron = '99999999999999999999 2 * * 0';
SET apapacho_jobs.payout_cron = '0 2 * foo *';
SET apapacho_jobs.payout_cron = '0 2 1 sept *';
SET apapacho_jobs.payout_cron = '0 2 31 2 *';
SET apapacho_jobs.payout_cron = '0 2 29 2 */7';
SET apapacho_jobs.payout_cron = '0 2 * 2 1#5';
SET apapacho_jobs.payout_cron = '0 2 L-31 * *';
SET apapacho_jobs.payout_cron = '0 2 32W * *';
SET apapacho_jobs.payout_cron = '0 2 * * 5#6';
SET apapacho_jobs.payout_cron = '0 2 * * L';
SET apapacho_jobs.payout_cron = '0 2 ?,1 * *';
SET apapacho_jobs.payout_cron = '@sometimes';
SET apapacho_jobs.payout_cron = '90 seconds';
SET apapacho_jobs.payout_cron = '@every 5m1h';
SET apapacho_jobs.payout_cron = '@every 367d';
SET apapacho_jobs.payout_cron = '   ';
DO $$
BEGIN
    PERFORM set_config('apapacho_jobs.payout_cron', repeat('0,', 130) || '0 2 * * 0', false);
END
$$;
SHOW apapacho_jobs.payout_cron;
