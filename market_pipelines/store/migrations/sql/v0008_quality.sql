-- Decisions over quarantined rows, and who took them.

ALTER TABLE market.quarantine
    ADD COLUMN interval    text,
    ADD COLUMN ts          timestamptz,
    ADD COLUMN basis       text,
    ADD COLUMN provisional boolean,
    ADD COLUMN decision    text,
    ADD COLUMN decided_at  timestamptz,
    ADD COLUMN decided_by  text,
    ADD COLUMN reason      text,
    ADD CONSTRAINT quarantine_decision CHECK (decision IN ('released', 'dropped')),
    ADD CONSTRAINT quarantine_decided CHECK (
        (decision IS NULL) = (decided_at IS NULL) AND (decision IS NULL) = (decided_by IS NULL)
    );
-- Bars within sessions had said so only in words.
UPDATE market.quarantine SET interval = '1d' WHERE detail !~ '^[0-2][0-9]:[0-5][0-9] UTC: ';
ALTER TABLE market.quarantine
    DROP CONSTRAINT quarantine_row,
    ADD CONSTRAINT quarantine_row UNIQUE NULLS NOT DISTINCT
        (market, symbol, session, provider, rule, interval, ts, open, high, low, close, volume);
CREATE INDEX quarantine_open ON market.quarantine (market, session) WHERE decision IS NULL;
CREATE INDEX quarantine_released ON market.quarantine (market, symbol, session) WHERE decision = 'released';
COMMENT ON COLUMN market.quarantine.interval IS
    '1d, or that of a bar within its session; NULL for such bars that were kept before it was.';
COMMENT ON COLUMN market.quarantine.ts IS 'When a bar within its session begins.';
COMMENT ON COLUMN market.quarantine.basis IS 'What had been done to the prices, as in provider_bars; NULL where that was not kept.';
COMMENT ON COLUMN market.quarantine.decision IS
    'NULL while nobody has decided. Released: exactly these values pass exactly this rule from now on.';
COMMENT ON COLUMN market.quarantine.decided_by IS 'The user of the operating system, or the one who was named.';

CREATE TABLE market.audit_log (
    entry_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL,
    actor    text NOT NULL,
    action   text NOT NULL,
    subject  text NOT NULL,
    detail   jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_log_by_time ON market.audit_log (at);
CREATE INDEX audit_log_by_subject ON market.audit_log (subject, at);
COMMENT ON TABLE market.audit_log IS 'What people decided: who, when, what, over what. No row is ever changed.';
COMMENT ON COLUMN market.audit_log.action IS 'quarantine.release, quarantine.drop, quarantine.reopen, correction.accept, correction.reject.';
COMMENT ON COLUMN market.audit_log.subject IS 'The thing itself, such as quarantine/17 or correction/4.';

CREATE FUNCTION market.refuse_audit_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a row of market.audit_log is never changed' USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER never_changed BEFORE UPDATE ON market.audit_log
    FOR EACH ROW EXECUTE FUNCTION market.refuse_audit_changes();

-- Results of the checks, evaluation by evaluation -----------------------------------------------------------

CREATE TABLE market.check_results (
    market        text NOT NULL,
    asset         text NOT NULL,
    rule          text NOT NULL,
    at            timestamptz NOT NULL,
    first_session date NOT NULL,
    last_session  date NOT NULL CHECK (last_session >= first_session),
    passed        boolean NOT NULL,
    severity      text NOT NULL,
    failing_rows  bigint NOT NULL,
    checked       bigint NOT NULL,
    run_id        text,
    PRIMARY KEY (market, asset, rule, at),
    CONSTRAINT check_results_severity CHECK (severity IN ('block', 'warn', 'info'))
);
CREATE INDEX check_results_by_time ON market.check_results (at);
COMMENT ON TABLE market.check_results IS
    'What every check said each time it was asked: the trend of a rule. The newest row of a rule is how it stands.';
COMMENT ON COLUMN market.check_results.severity IS 'Of the worst offence; of the rule itself where there was none.';
COMMENT ON COLUMN market.check_results.failing_rows IS
    'Offending rows in the table, and rows that were refused, whether another provider replaced them or not.';
COMMENT ON COLUMN market.check_results.run_id IS 'The run that asked; empty for a command.';
