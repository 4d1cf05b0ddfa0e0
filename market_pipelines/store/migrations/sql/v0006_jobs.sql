-- Jobs that people add at run time ------------------------------------------------------------------------------

CREATE TABLE market.scheduled_jobs (
    name              text PRIMARY KEY,
    market            text NOT NULL,
    symbols           text[] NOT NULL DEFAULT '{}',
    interval          text NOT NULL,
    interval_minutes  integer NOT NULL CHECK (interval_minutes >= 1),
    extended_hours    boolean NOT NULL DEFAULT false,
    created_at        timestamptz NOT NULL,
    last_requested_at timestamptz
);
COMMENT ON TABLE market.scheduled_jobs IS
    'Polls that are run while their exchange trades. How each run ended is in etl_job_logs, under "scheduled <name>".';
COMMENT ON COLUMN market.scheduled_jobs.symbols IS 'Empty: all of the market.';
COMMENT ON COLUMN market.scheduled_jobs.interval IS 'Length of the bars.';
COMMENT ON COLUMN market.scheduled_jobs.extended_hours IS 'Also before the opening and after the closing bell.';
COMMENT ON COLUMN market.scheduled_jobs.last_requested_at IS 'When a run was last asked for; null: never.';

CREATE INDEX etl_job_logs_by_name ON market.etl_job_logs (job_name, started_at);
