-- The user's tables (spec section 4), for databases that do not have them yet: ordinary tables of the caller's, laid out exactly as the
-- backend's ORM does, never members of the extension. Each row: kind, name, how to make it, and what belongs to it when it is new.
CREATE FUNCTION apapacho_jobs.table_definitions(
    OUT kind text, OUT name text, OUT definition text, OUT additions text[])
    RETURNS SETOF record
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $definitions$
VALUES
('type', 'CreatorTier', $$ENUM ('STANDARD', 'VIP')$$, '{}'::text[]),
('type', 'CreatorStatus', $$ENUM ('ACTIVE', 'SUSPENDED', 'PENDING_VERIFICATION')$$, '{}'),
('type', 'ProductType', $$ENUM ('SUBSCRIPTION', 'PPV', 'TIP')$$, '{}'),
('type', 'TransactionStatus', $$ENUM ('SUCCEEDED', 'REFUNDED', 'CHARGEDBACK', 'DISPUTED')$$, '{}'),
('type', 'PayoutStatus', $$ENUM ('CALCULATED', 'PENDING', 'SENT', 'FAILED', 'CANCELLED')$$, '{}'),
('type', 'PayoutFrequency', $$ENUM ('WEEKLY', 'BIWEEKLY', 'MONTHLY')$$, '{}'),
('type', 'ChargebackStatus', $$ENUM ('RECEIVED', 'WON', 'LOST', 'REVERSED')$$, '{}'),
('table', 'Creator', $$
    "id" text NOT NULL,
    "userId" text NOT NULL,
    "tier" "CreatorTier" NOT NULL DEFAULT 'STANDARD',
    "tierEffectiveFrom" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "status" "CreatorStatus" NOT NULL DEFAULT 'ACTIVE',
    "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" timestamp(3) NOT NULL,
    CONSTRAINT "Creator_pkey" PRIMARY KEY ("id")$$,
 ARRAY['CREATE UNIQUE INDEX "Creator_userId_key" ON "Creator" ("userId")']),
('table', 'CreatorBankAccount', $$
    "id" text NOT NULL,
    "creatorId" text NOT NULL,
    "bankCode" text NOT NULL,
    "bankName" text NOT NULL,
    "accountType" text NOT NULL,
    "accountNumber" text NOT NULL,
    "accountHolderName" text NOT NULL,
    "accountHolderRut" text NOT NULL,
    "isDefault" boolean NOT NULL DEFAULT true,
    "isVerified" boolean NOT NULL DEFAULT false,
    "verifiedAt" timestamp(3),
    "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" timestamp(3) NOT NULL,
    "deletedAt" timestamp(3),
    CONSTRAINT "CreatorBankAccount_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "CreatorBankAccount_creatorId_fkey" FOREIGN KEY ("creatorId") REFERENCES "Creator" ("id")
        ON DELETE CASCADE ON UPDATE CASCADE$$,
 ARRAY['CREATE INDEX "CreatorBankAccount_creatorId_idx" ON "CreatorBankAccount" ("creatorId")',
       'CREATE INDEX "CreatorBankAccount_isDefault_idx" ON "CreatorBankAccount" ("isDefault")']),
('table', 'FeeSchedule', $$
    "id" text NOT NULL,
    "effectiveFrom" timestamp(3) NOT NULL,
    "standardPlatformFeeBps" integer NOT NULL DEFAULT 1000,
    "vipPlatformFeeBps" integer NOT NULL DEFAULT 700,
    "holdDays" integer NOT NULL DEFAULT 7,
    "minPayoutClp" bigint NOT NULL DEFAULT 20000,
    "payoutFrequency" "PayoutFrequency" NOT NULL DEFAULT 'WEEKLY',
    "description" text,
    "createdBy" text,
    "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT "FeeSchedule_pkey" PRIMARY KEY ("id")$$,
 ARRAY['CREATE INDEX "FeeSchedule_effectiveFrom_idx" ON "FeeSchedule" ("effectiveFrom" DESC)',
       $$INSERT INTO "FeeSchedule" ("id", "effectiveFrom", "description", "createdBy")
         VALUES (pg_catalog.gen_random_uuid()::text, '2020-01-01', 'Default fee schedule', 'apapacho_jobs')$$]),
('table', 'Product', $$
    "id" text NOT NULL,
    "creatorId" text NOT NULL,
    "type" "ProductType" NOT NULL,
    "title" text,
    "description" text,
    "priceClp" bigint NOT NULL,
    "metadata" jsonb NOT NULL DEFAULT '{}',
    "isActive" boolean NOT NULL DEFAULT true,
    "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" timestamp(3) NOT NULL,
    "deletedAt" timestamp(3),
    CONSTRAINT "Product_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "Product_creatorId_fkey" FOREIGN KEY ("creatorId") REFERENCES "Creator" ("id")
        ON DELETE CASCADE ON UPDATE CASCADE$$,
 ARRAY['CREATE INDEX "Product_creatorId_idx" ON "Product" ("creatorId")',
       'CREATE INDEX "Product_type_idx" ON "Product" ("type")',
       'CREATE INDEX "Product_isActive_idx" ON "Product" ("isActive")']),
('table', 'Transaction', $$
    "id" text NOT NULL,
    "creatorId" text NOT NULL,
    "fanUserId" text NOT NULL,
    "productId" text,
    "productType" "ProductType" NOT NULL,
    "currency" text NOT NULL DEFAULT 'CLP',
    "grossAmount" bigint NOT NULL,
    "appliedFeeScheduleId" text NOT NULL,
    "appliedPlatformFeeBps" integer NOT NULL,
    "platformFeeAmount" bigint NOT NULL,
    "processorFeeAmount" bigint NOT NULL DEFAULT 0,
    "creatorPayableAmount" bigint NOT NULL,
    "status" "TransactionStatus" NOT NULL DEFAULT 'SUCCEEDED',
    "occurredAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "provider" text NOT NULL,
    "providerPaymentId" text NOT NULL,
    "providerEventId" text NOT NULL,
    "metadata" jsonb NOT NULL DEFAULT '{}',
    "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT "Transaction_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "Transaction_creatorId_fkey" FOREIGN KEY ("creatorId") REFERENCES "Creator" ("id")
        ON DELETE RESTRICT ON UPDATE CASCADE,
    CONSTRAINT "Transaction_productId_fkey" FOREIGN KEY ("productId") REFERENCES "Product" ("id")
        ON DELETE SET NULL ON UPDATE CASCADE,
    CONSTRAINT "Transaction_appliedFeeScheduleId_fkey" FOREIGN KEY ("appliedFeeScheduleId")
        REFERENCES "FeeSchedule" ("id") ON DELETE RESTRICT ON UPDATE CASCADE$$,
 ARRAY['CREATE UNIQUE INDEX "Transaction_providerEventId_key" ON "Transaction" ("providerEventId")',
       'CREATE INDEX "Transaction_creatorId_occurredAt_idx" ON "Transaction" ("creatorId", "occurredAt" DESC)',
       'CREATE INDEX "Transaction_fanUserId_idx" ON "Transaction" ("fanUserId")',
       'CREATE INDEX "Transaction_status_idx" ON "Transaction" ("status")',
       'CREATE INDEX "Transaction_providerPaymentId_idx" ON "Transaction" ("providerPaymentId")']),
('table', 'LedgerAccount', $$
    "id" text NOT NULL,
    "code" text NOT NULL,
    "name" text NOT NULL,
    "type" text NOT NULL,
    CONSTRAINT "LedgerAccount_pkey" PRIMARY KEY ("id")$$,
 ARRAY['CREATE UNIQUE INDEX "LedgerAccount_code_key" ON "LedgerAccount" ("code")',
       $$INSERT INTO "LedgerAccount" ("id", "code", "name", "type")
         SELECT pg_catalog.gen_random_uuid()::text, a.code, a.name, a.type
         FROM (VALUES ('CASH_PROCESSOR_CLEARING', 'Cash in processor clearing', 'ASSET'),
                      ('CREATOR_PAYABLE', 'Payable to creators', 'LIABILITY'),
                      ('PLATFORM_REVENUE', 'Platform revenue', 'REVENUE'),
                      ('PROCESSOR_FEE_EXPENSE', 'Processor fees', 'EXPENSE'),
                      ('CHARGEBACK_LOSS', 'Chargeback losses', 'EXPENSE'),
                      ('PAYOUT_PENDING', 'Payouts pending', 'LIABILITY'),
                      ('REFUND_EXPENSE', 'Refunds', 'EXPENSE')) AS a (code, name, type)$$]),
('table', 'Payout', $$
    "id" text NOT NULL,
    "creatorId" text NOT NULL,
    "periodStart" timestamp(3) NOT NULL,
    "periodEnd" timestamp(3) NOT NULL,
    "currency" text NOT NULL DEFAULT 'CLP',
    "grossTotal" bigint NOT NULL DEFAULT 0,
    "platformFeeTotal" bigint NOT NULL DEFAULT 0,
    "adjustmentsTotal" bigint NOT NULL DEFAULT 0,
    "payoutAmount" bigint NOT NULL DEFAULT 0,
    "status" "PayoutStatus" NOT NULL DEFAULT 'CALCULATED',
    "sentAt" timestamp(3),
    "failedAt" timestamp(3),
    "failureReason" text,
    "retryCount" integer NOT NULL DEFAULT 0,
    "nextRetryAt" timestamp(3),
    "providerTransferId" text,
    "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" timestamp(3) NOT NULL,
    CONSTRAINT "Payout_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "Payout_creatorId_fkey" FOREIGN KEY ("creatorId") REFERENCES "Creator" ("id")
        ON DELETE RESTRICT ON UPDATE CASCADE$$,
 ARRAY['CREATE INDEX "Payout_creatorId_periodEnd_idx" ON "Payout" ("creatorId", "periodEnd" DESC)',
       'CREATE INDEX "Payout_status_idx" ON "Payout" ("status")',
       'CREATE INDEX "Payout_nextRetryAt_idx" ON "Payout" ("nextRetryAt")']),
('table', 'PayoutItem', $$
    "id" text NOT NULL,
    "payoutId" text NOT NULL,
    "transactionId" text NOT NULL,
    "amount" bigint NOT NULL,
    "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT "PayoutItem_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "PayoutItem_payoutId_fkey" FOREIGN KEY ("payoutId") REFERENCES "Payout" ("id")
        ON DELETE CASCADE ON UPDATE CASCADE,
    CONSTRAINT "PayoutItem_transactionId_fkey" FOREIGN KEY ("transactionId") REFERENCES "Transaction" ("id")
        ON DELETE RESTRICT ON UPDATE CASCADE$$,
 ARRAY['CREATE UNIQUE INDEX "PayoutItem_payoutId_transactionId_key" ON "PayoutItem" ("payoutId", "transactionId")',
       'CREATE INDEX "PayoutItem_transactionId_idx" ON "PayoutItem" ("transactionId")']),
('table', 'LedgerEntry', $$
    "id" text NOT NULL,
    "transactionId" text,
    "payoutId" text,
    "accountId" text NOT NULL,
    "creatorId" text,
    "currency" text NOT NULL DEFAULT 'CLP',
    "debit" bigint NOT NULL DEFAULT 0,
    "credit" bigint NOT NULL DEFAULT 0,
    "description" text,
    "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT "LedgerEntry_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "LedgerEntry_transactionId_fkey" FOREIGN KEY ("transactionId") REFERENCES "Transaction" ("id")
        ON DELETE SET NULL ON UPDATE CASCADE,
    CONSTRAINT "LedgerEntry_payoutId_fkey" FOREIGN KEY ("payoutId") REFERENCES "Payout" ("id")
        ON DELETE SET NULL ON UPDATE CASCADE,
    CONSTRAINT "LedgerEntry_accountId_fkey" FOREIGN KEY ("accountId") REFERENCES "LedgerAccount" ("id")
        ON DELETE RESTRICT ON UPDATE CASCADE,
    CONSTRAINT "LedgerEntry_creatorId_fkey" FOREIGN KEY ("creatorId") REFERENCES "Creator" ("id")
        ON DELETE SET NULL ON UPDATE CASCADE$$,
 ARRAY['CREATE INDEX "LedgerEntry_transactionId_idx" ON "LedgerEntry" ("transactionId")',
       'CREATE INDEX "LedgerEntry_payoutId_idx" ON "LedgerEntry" ("payoutId")',
       'CREATE INDEX "LedgerEntry_creatorId_createdAt_idx" ON "LedgerEntry" ("creatorId", "createdAt" DESC)',
       'CREATE INDEX "LedgerEntry_accountId_idx" ON "LedgerEntry" ("accountId")']),
('table', 'Chargeback', $$
    "id" text NOT NULL,
    "transactionId" text NOT NULL,
    "provider" text NOT NULL,
    "providerCaseId" text NOT NULL,
    "amount" bigint NOT NULL,
    "reason" text,
    "status" "ChargebackStatus" NOT NULL DEFAULT 'RECEIVED',
    "occurredAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "resolvedAt" timestamp(3),
    "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt" timestamp(3) NOT NULL,
    CONSTRAINT "Chargeback_pkey" PRIMARY KEY ("id"),
    CONSTRAINT "Chargeback_transactionId_fkey" FOREIGN KEY ("transactionId") REFERENCES "Transaction" ("id")
        ON DELETE RESTRICT ON UPDATE CASCADE$$,
 ARRAY['CREATE UNIQUE INDEX "Chargeback_providerCaseId_key" ON "Chargeback" ("providerCaseId")',
       'CREATE INDEX "Chargeback_transactionId_idx" ON "Chargeback" ("transactionId")',
       'CREATE INDEX "Chargeback_status_idx" ON "Chargeback" ("status")']),
('table', 'OutboxEvent', $$
    "id" text NOT NULL,
    "aggregateType" text NOT NULL,
    "aggregateId" text NOT NULL,
    "eventType" text NOT NULL,
    "payload" jsonb NOT NULL,
    "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "publishedAt" timestamp(3),
    "retryCount" integer NOT NULL DEFAULT 0,
    "lastError" text,
    CONSTRAINT "OutboxEvent_pkey" PRIMARY KEY ("id")$$,
 ARRAY['CREATE INDEX "OutboxEvent_publishedAt_createdAt_idx" ON "OutboxEvent" ("publishedAt", "createdAt")',
       'CREATE INDEX "OutboxEvent_aggregateType_aggregateId_idx" ON "OutboxEvent" ("aggregateType", "aggregateId")',
       'CREATE INDEX "OutboxEvent_retryCount_idx" ON "OutboxEvent" ("retryCount")'])
$definitions$;
COMMENT ON FUNCTION apapacho_jobs.table_definitions() IS 'how apapacho_create_tables() lays out the user''s tables';

CREATE FUNCTION apapacho_jobs.check_user_tables() RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'apapacho_check_user_tables';
COMMENT ON FUNCTION apapacho_jobs.check_user_tables() IS
    'raises an error that names the first table or column that the jobs need and that apapacho_jobs.schema does not have';

-- Runs as the caller, whose tables they become. The names in the definitions are found through the search_path set here.
CREATE FUNCTION @extschema@.apapacho_create_tables(OUT table_name text, OUT created boolean)
    RETURNS SETOF record
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    SET client_min_messages = warning
    AS $$
DECLARE
    target text := current_setting('apapacho_jobs.schema');
    part record;
    addition text;
BEGIN
    IF to_regnamespace(quote_ident(target)) IS NULL THEN
        RAISE EXCEPTION 'schema "%" does not exist', target
            USING ERRCODE = 'invalid_schema_name', HINT = 'Create it, or set apapacho_jobs.schema to another one.';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('apapacho_create_tables', 0));
    PERFORM set_config('search_path', format('pg_catalog, %I, pg_temp', target), true);
    FOR part IN SELECT * FROM apapacho_jobs.table_definitions() LOOP
        IF part.kind = 'type' THEN
            IF to_regtype(format('%I.%I', target, part.name)) IS NULL THEN
                EXECUTE format('CREATE TYPE %I.%I AS %s', target, part.name, part.definition);
            ELSIF NOT EXISTS (SELECT FROM pg_type WHERE oid = to_regtype(format('%I.%I', target, part.name)) AND typtype = 'e') THEN
                RAISE EXCEPTION 'type %.% is not an enum', quote_ident(target), quote_ident(part.name)
                    USING ERRCODE = 'wrong_object_type', HINT = 'Rename it, or set apapacho_jobs.schema to another schema.';
            END IF;
            CONTINUE;
        END IF;
        table_name := part.name;
        created := to_regclass(format('%I.%I', target, part.name)) IS NULL;
        IF created THEN
            EXECUTE format('CREATE TABLE %I.%I (%s)', target, part.name, part.definition);
            FOREACH addition IN ARRAY part.additions LOOP
                EXECUTE addition;
            END LOOP;
        END IF;
        RETURN NEXT;
    END LOOP;
    PERFORM apapacho_jobs.check_user_tables();
    PERFORM apapacho_jobs.install_missing_guards();
END
$$;
COMMENT ON FUNCTION @extschema@.apapacho_create_tables() IS
    'creates those of the backend''s tables that apapacho_jobs.schema does not have, as ordinary tables of the caller''s, and adopts '
    'the others as they are';
REVOKE EXECUTE ON FUNCTION @extschema@.apapacho_create_tables() FROM PUBLIC;

