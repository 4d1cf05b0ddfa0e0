-- Incidents and their notifications ------------------------------------------------------------------------

CREATE TABLE market.incidents (
    incident_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key            text NOT NULL,
    title          text NOT NULL,
    detail         text NOT NULL,
    severity       text NOT NULL CHECK (severity IN ('error', 'warning')),
    source         text NOT NULL,
    url            text,
    through        date,
    opened_at      timestamptz NOT NULL,
    last_seen      timestamptz NOT NULL,
    times_seen     bigint NOT NULL DEFAULT 1 CHECK (times_seen > 0),
    closed_at      timestamptz,
    closing_detail text NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX incidents_open ON market.incidents (key) WHERE closed_at IS NULL;
CREATE INDEX incidents_by_key ON market.incidents (key, closed_at);
CREATE INDEX incidents_by_opening ON market.incidents (opened_at);
COMMENT ON TABLE market.incidents IS
    'What is or was wrong, one row from the first sight of it to its recovery, however often it was seen.';
COMMENT ON COLUMN market.incidents.key IS 'What makes two sights the same incident: run:<job>, check:<asset>:<check> and so on.';
COMMENT ON COLUMN market.incidents.source IS 'Who saw it: runs, checks, the health check, a person''s test.';
COMMENT ON COLUMN market.incidents.through IS
    'The newest session that it is about; NULL where it is about none. Something that looked only at older ones is no recovery.';
COMMENT ON COLUMN market.incidents.closed_at IS 'NULL while it is open. Opened again within the settling time it is the same incident.';

CREATE TABLE market.notifications (
    notification_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    incident_id     bigint NOT NULL REFERENCES market.incidents ON DELETE CASCADE,
    kind            text NOT NULL CHECK (kind IN ('opened', 'recovered')),
    target          text NOT NULL,
    batch           text,
    queued_at       timestamptz NOT NULL,
    attempts        integer NOT NULL DEFAULT 0,
    next_try        timestamptz NOT NULL,
    sent_at         timestamptz,
    given_up_at     timestamptz,
    error           text NOT NULL DEFAULT '',
    CONSTRAINT notifications_once UNIQUE (incident_id, kind, target),
    CONSTRAINT notifications_end CHECK (sent_at IS NULL OR given_up_at IS NULL)
);
CREATE INDEX notifications_waiting ON market.notifications (target, next_try)
    WHERE sent_at IS NULL AND given_up_at IS NULL;
COMMENT ON TABLE market.notifications IS
    'The outbox: written in the transaction of the incident, emptied by whoever delivers. One row an incident, kind and target.';
COMMENT ON COLUMN market.notifications.target IS
    'Kind of service and a fingerprint of its address: the address itself carries tokens and is only in the settings.';
COMMENT ON COLUMN market.notifications.batch IS 'Rows of one batch go out as one message; NULL: alone.';

CREATE TABLE market.incident_positions (
    source     text PRIMARY KEY,
    position   text NOT NULL,
    updated_at timestamptz NOT NULL
);
COMMENT ON TABLE market.incident_positions IS
    'How far a stream of events was turned into incidents, written in their transaction: none is lost or counted twice.';

-- Housekeeping -------------------------------------------------------------------------------------------------

ALTER TABLE market.fetches ADD COLUMN pruned_at timestamptz;
COMMENT ON COLUMN market.fetches.pruned_at IS
    'When the archived answer was deleted, because all that it said is in final agreed bars; sha256 is NULL since.';
CREATE INDEX fetches_by_body ON market.fetches (sha256) WHERE sha256 IS NOT NULL;
