-- seed.sql: eight creators and their sales, for the demo. Minimum payout 20,000 CLP and 7 days of hold: the default fee schedule.

-- creator, tier, transactions, gross amount of each, days since the newest, status of the transactions
CREATE TEMPORARY TABLE seed (creator text, tier "CreatorTier", count int, gross bigint, age int, status "TransactionStatus");
INSERT INTO seed VALUES
    ('ana',      'STANDARD', 12,  9990, 10, 'SUCCEEDED'),
    ('bruno',    'VIP',       5, 25000,  8, 'SUCCEEDED'),
    ('carla',    'STANDARD',  3, 14990, 20, 'SUCCEEDED'),
    ('carla',    'STANDARD',  2, 30000,  1, 'SUCCEEDED'),       -- held, beside others that are not
    ('diego',    'STANDARD',  4, 40000,  2, 'SUCCEEDED'),       -- held
    ('elena',    'STANDARD',  3,  4990, 15, 'SUCCEEDED'),       -- below the minimum
    ('fabian',   'STANDARD',  2, 50000, 12, 'REFUNDED'),        -- nothing to pay
    ('gabriela', 'VIP',       8, 12990,  9, 'SUCCEEDED'),
    ('hugo',     'STANDARD',  2, 60000, 11, 'SUCCEEDED');       -- fails, see below

INSERT INTO "Creator" ("id", "userId", "tier", "updatedAt")
    SELECT DISTINCT creator, 'user-' || creator, tier, CURRENT_TIMESTAMP AT TIME ZONE 'UTC' FROM seed;

INSERT INTO "Transaction" ("id", "creatorId", "fanUserId", "productType", "grossAmount", "appliedFeeScheduleId", "appliedPlatformFeeBps",
                           "platformFeeAmount", "creatorPayableAmount", "status", "occurredAt", "provider", "providerPaymentId",
                           "providerEventId")
    SELECT gen_random_uuid(), creator, 'fan-' || n, 'SUBSCRIPTION', gross, (SELECT "id" FROM "FeeSchedule"), bps,
           gross * bps / 10000, gross - gross * bps / 10000, status, now() AT TIME ZONE 'UTC' - make_interval(days => age, hours => n),
           'webpay', format('payment-%s-%s-%s', creator, age, n), format('event-%s-%s-%s', creator, age, n)
    FROM (SELECT *, CASE tier WHEN 'VIP' THEN 700 ELSE 1000 END AS bps FROM seed) AS s, generate_series(1, s.count) AS n;

-- A rule of the user's own, which one creator does not meet: that must not stop the others.
CREATE FUNCTION require_verified_account() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW."creatorId" = 'hugo' THEN
        RAISE EXCEPTION 'creator "%" has no verified bank account', NEW."creatorId";
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER require_verified_account BEFORE INSERT ON "Payout" FOR EACH ROW EXECUTE FUNCTION require_verified_account();
