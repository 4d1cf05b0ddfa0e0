-- Limits --------------------------------------------------------------------------------------------------

CREATE TABLE market.provider_calls (
    provider        text NOT NULL,
    key             text NOT NULL,
    second_cells    integer[] NOT NULL DEFAULT '{}',
    second_head     bigint NOT NULL DEFAULT 0,
    minute_cells    integer[] NOT NULL DEFAULT '{}',
    minute_head     bigint NOT NULL DEFAULT 0,
    day             date NOT NULL,
    day_calls       integer NOT NULL DEFAULT 0,
    next_day_calls  integer NOT NULL DEFAULT 0,
    zone            text NOT NULL,
    per_second      integer,
    per_minute      integer,
    per_day         integer,
    reserve         integer NOT NULL DEFAULT 0,
    blocked_until   timestamptz,
    blocked_as      text,
    blocked_because text,
    PRIMARY KEY (provider, key)
) WITH (fillfactor = 20);  -- few rows, each written at every call: the versions of one stay on its page
COMMENT ON TABLE market.provider_calls IS
    'What has been spent of each provider''s limits, one row a key. Only take_call, return_call and block_calls write here.';
COMMENT ON COLUMN market.provider_calls.key IS 'A short salted hash; empty where the provider wants no key.';
COMMENT ON COLUMN market.provider_calls.second_cells IS
    'Calls by sixtieths of the window since the epoch. The last cell has the number second_head.';
COMMENT ON COLUMN market.provider_calls.day IS 'In the provider''s zone. next_day_calls were made so close to its end that they count in the next day too.';
COMMENT ON COLUMN market.provider_calls.per_second IS 'The limits as they were when last a call was made; null: none.';
COMMENT ON COLUMN market.provider_calls.blocked_as IS 'throttled: it named a time to come again. quota_exhausted: it said that the day is used up.';

CREATE UNLOGGED TABLE market.provider_witness (
    provider text NOT NULL,
    key      text NOT NULL,
    PRIMARY KEY (provider, key)
);
COMMENT ON TABLE market.provider_witness IS
    'PostgreSQL empties an unlogged table after a crash and after nothing else: a row says that no call was forgotten.';

CREATE FUNCTION market.window_at(cells integer[], head bigint, cell bigint, size integer) RETURNS integer[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    -- The last `size` cells up to and with number `cell`. If the clock went back, all that was counted is
    -- counted as of now: rather a wait too long than a call too many.
    SELECT CASE
        WHEN cell < head THEN
            array_fill(0, ARRAY[size - 1]) || (SELECT coalesce(sum(one), 0)::integer FROM unnest(cells) AS one)
        ELSE (array_fill(0, ARRAY[size]) || cells || array_fill(0, ARRAY[least(cell - head, size)::integer]))
             [cardinality(cells) + least(cell - head, size)::integer + 1 :]
    END
$$;

CREATE FUNCTION market.window_opens(
    cells integer[], head bigint, cell_seconds double precision, span double precision, allowed integer
) RETURNS double precision LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
-- The first moment (seconds since the epoch) at which fewer than `allowed` calls are younger than `span`. A cell
-- counts as long as its youngest possible call does. Null: there is no limit, or there is room already.
DECLARE
    found integer := 0;
    size integer := cardinality(cells);
BEGIN
    IF allowed IS NOT NULL THEN
        FOR place IN REVERSE size..1 LOOP
            found := found + cells[place];
            IF found >= allowed THEN
                RETURN (head - size + place + 1) * cell_seconds + span;
            END IF;
        END LOOP;
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION market.window_use(
    cells integer[], head bigint, seconds double precision, at timestamptz, OUT used integer, OUT resets_at timestamptz
) LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(sum(calls), 0)::integer,
           to_timestamp(min((head - cardinality(cells) + place + 1) * seconds / 60 + seconds))
    FROM unnest(cells) WITH ORDINALITY AS cell (calls, place)
    WHERE calls > 0
          AND (head - cardinality(cells) + place + 1) * seconds / 60 + seconds > extract(epoch FROM at)::double precision
$$;
COMMENT ON FUNCTION market.window_use IS 'Calls in the rolling window, and when the oldest of them stops counting.';

CREATE FUNCTION market.day_ends(zone text, at timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT ((at AT TIME ZONE zone)::date + 1)::timestamp AT TIME ZONE zone
$$;

CREATE FUNCTION market.judge_call(
    was market.provider_calls, for_quotes boolean, second_seconds double precision, minute_seconds double precision,
    slack double precision, guard interval, at timestamptz,
    OUT verdict text, OUT retry_at timestamptz, OUT clock_went_back boolean, OUT becomes market.provider_calls
) LANGUAGE plpgsql STABLE AS $$
-- Whether one more call may go out at this instant, and the row that says so. `was` carries the limits.
DECLARE
    now_epoch double precision := extract(epoch FROM at);
    second_cell bigint := floor(now_epoch * 60 / second_seconds);
    minute_cell bigint := floor(now_epoch * 60 / minute_seconds);
    -- A provider's midnight is not ours to the second: a call this close to it has to fit into both days.
    this_day date := greatest(((at - guard) AT TIME ZONE was.zone)::date, was.day);
    other_day date := greatest(((at + guard) AT TIME ZONE was.zone)::date, this_day);
    allowed integer := was.per_day - CASE WHEN for_quotes THEN 0 ELSE was.reserve END;
    second_opens double precision;
    minute_opens double precision;
BEGIN
    becomes := was;
    clock_went_back := second_cell < was.second_head OR minute_cell < was.minute_head;
    becomes.second_cells := market.window_at(
        was.second_cells, was.second_head, second_cell, ceil(60 * (1 + slack / second_seconds))::integer + 2);
    becomes.second_head := second_cell;
    becomes.minute_cells := market.window_at(
        was.minute_cells, was.minute_head, minute_cell, ceil(60 * (1 + slack / minute_seconds))::integer + 2);
    becomes.minute_head := minute_cell;
    IF this_day > was.day THEN
        becomes.day_calls := CASE WHEN this_day = was.day + 1 THEN was.next_day_calls ELSE 0 END;
        becomes.next_day_calls := 0;
        becomes.day := this_day;
    END IF;

    IF was.blocked_until > at THEN
        verdict := 'blocked';
        retry_at := was.blocked_until;
        RETURN;
    END IF;
    IF becomes.day_calls >= allowed OR (other_day > this_day AND becomes.next_day_calls >= allowed) THEN
        verdict := CASE WHEN greatest(becomes.day_calls, becomes.next_day_calls) >= was.per_day
                        THEN 'day' ELSE 'reserve' END;
        retry_at := guard + CASE WHEN becomes.day_calls >= allowed
                                 THEN (this_day + 1)::timestamp AT TIME ZONE was.zone
                                 ELSE (other_day + 1)::timestamp AT TIME ZONE was.zone END;
        RETURN;
    END IF;
    second_opens := market.window_opens(
        becomes.second_cells, second_cell, second_seconds / 60, second_seconds + slack, was.per_second);
    minute_opens := market.window_opens(
        becomes.minute_cells, minute_cell, minute_seconds / 60, minute_seconds + slack, was.per_minute);
    IF greatest(second_opens, minute_opens) > now_epoch THEN
        verdict := CASE WHEN coalesce(second_opens >= minute_opens, minute_opens IS NULL)
                        THEN 'second' ELSE 'minute' END;
        -- Rounded up: whoever comes back at that very instant gets in.
        retry_at := to_timestamp(greatest(second_opens, minute_opens)) + interval '10 microseconds';
        RETURN;
    END IF;

    verdict := 'granted';
    becomes.second_cells[cardinality(becomes.second_cells)] := becomes.second_cells[cardinality(becomes.second_cells)] + 1;
    becomes.minute_cells[cardinality(becomes.minute_cells)] := becomes.minute_cells[cardinality(becomes.minute_cells)] + 1;
    becomes.day_calls := becomes.day_calls + 1;
    IF other_day > this_day THEN
        becomes.next_day_calls := becomes.next_day_calls + 1;
    END IF;
    IF was.blocked_until IS NOT NULL THEN
        becomes.blocked_until := NULL;
        becomes.blocked_as := NULL;
        becomes.blocked_because := NULL;
    END IF;
END
$$;

CREATE FUNCTION market.take_call(
    of_provider text, of_key text, at_second integer, at_minute integer, at_day integer, kept integer,
    for_quotes boolean, in_zone text, second_seconds double precision, minute_seconds double precision,
    slack double precision, guard interval, pretended timestamptz DEFAULT NULL,
    OUT verdict text, OUT taken_at timestamptz, OUT retry_at timestamptz, OUT blocked_as text, OUT because text,
    OUT day_calls integer
) LANGUAGE plpgsql AS $$
DECLARE
    was market.provider_calls;
    judged record;
    forgotten timestamptz;
BEGIN
    IF at_day IS NULL THEN
        -- Windows need not survive a crash of the server: see provider_witness. A day's count has to.
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    SELECT * INTO was FROM market.provider_calls AS c WHERE c.provider = of_provider AND c.key = of_key;
    IF NOT FOUND THEN
        INSERT INTO market.provider_calls (provider, key, zone, day)
        VALUES (of_provider, of_key, in_zone, (coalesce(pretended, clock_timestamp()) AT TIME ZONE in_zone)::date)
        ON CONFLICT DO NOTHING;
    END IF;
    FOR look IN 1..2 LOOP
        -- The first look takes no lock and writes nothing: those who have to wait anyway disturb nobody.
        IF look = 2 OR was IS NULL THEN
            SELECT * INTO STRICT was FROM market.provider_calls AS c
            WHERE c.provider = of_provider AND c.key = of_key FOR UPDATE;
            IF NOT EXISTS (SELECT FROM market.provider_witness AS w
                           WHERE w.provider = of_provider AND w.key = of_key) THEN
                INSERT INTO market.provider_witness (provider, key) VALUES (of_provider, of_key);
                forgotten := pg_postmaster_start_time() + make_interval(secs => minute_seconds + slack);
                IF was.second_head > 0 AND forgotten > greatest(clock_timestamp(), was.blocked_until)
                   AND coalesce(at_second, at_minute) IS NOT NULL THEN
                    -- Calls that were spent just before the crash may be missing in the windows: let them pass.
                    UPDATE market.provider_calls AS c
                    SET blocked_until = forgotten, blocked_as = 'throttled',
                        blocked_because = 'the database crashed and may have forgotten calls of the last minute'
                    WHERE c.provider = of_provider AND c.key = of_key
                    RETURNING * INTO was;
                END IF;
            END IF;
        END IF;
        was.per_second := at_second;
        was.per_minute := at_minute;
        was.per_day := at_day;
        was.reserve := kept;
        was.zone := in_zone;
        -- Read under the lock, so that grants follow one another by the clock too.
        taken_at := coalesce(pretended, clock_timestamp());
        SELECT * INTO judged
        FROM market.judge_call(was, for_quotes, second_seconds, minute_seconds, slack, guard, taken_at);
        verdict := judged.verdict;
        retry_at := judged.retry_at;
        blocked_as := CASE WHEN verdict = 'blocked' THEN was.blocked_as END;
        because := CASE WHEN verdict = 'blocked' THEN was.blocked_because END;
        day_calls := (judged.becomes).day_calls;
        EXIT WHEN verdict <> 'granted' AND NOT judged.clock_went_back;
    END LOOP;
    IF verdict <> 'granted' AND NOT judged.clock_went_back THEN
        RETURN;
    END IF;
    UPDATE market.provider_calls AS c
    SET second_cells = (judged.becomes).second_cells, second_head = (judged.becomes).second_head,
        minute_cells = (judged.becomes).minute_cells, minute_head = (judged.becomes).minute_head,
        day = (judged.becomes).day, day_calls = (judged.becomes).day_calls,
        next_day_calls = (judged.becomes).next_day_calls, zone = in_zone, per_second = at_second,
        per_minute = at_minute, per_day = at_day, reserve = kept,
        blocked_until = (judged.becomes).blocked_until, blocked_as = (judged.becomes).blocked_as,
        blocked_because = (judged.becomes).blocked_because
    WHERE c.provider = of_provider AND c.key = of_key;
END
$$;
COMMENT ON FUNCTION market.take_call IS
    'Spends one call if every limit allows it at this instant; otherwise says which does not, and until when. To be a transaction by itself.';

CREATE FUNCTION market.return_call(
    of_provider text, of_key text, taken timestamptz, second_seconds double precision,
    minute_seconds double precision, guard interval
) RETURNS void LANGUAGE plpgsql AS $$
-- For a call that certainly was not sent. Its caller sees to it that this happens once.
DECLARE
    was market.provider_calls;
    place bigint;
    counted date;
BEGIN
    SELECT * INTO was FROM market.provider_calls AS c
    WHERE c.provider = of_provider AND c.key = of_key FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    place := cardinality(was.second_cells) - was.second_head
             + floor(extract(epoch FROM taken)::double precision * 60 / second_seconds)::bigint;
    IF was.second_cells[place] > 0 THEN
        was.second_cells[place] := was.second_cells[place] - 1;
    END IF;
    place := cardinality(was.minute_cells) - was.minute_head
             + floor(extract(epoch FROM taken)::double precision * 60 / minute_seconds)::bigint;
    IF was.minute_cells[place] > 0 THEN
        was.minute_cells[place] := was.minute_cells[place] - 1;
    END IF;
    FOR counted IN
        SELECT DISTINCT (instant AT TIME ZONE was.zone)::date
        FROM unnest(ARRAY[taken - guard, taken + guard]) AS instant
    LOOP
        IF counted = was.day THEN
            was.day_calls := greatest(was.day_calls - 1, 0);
        ELSIF counted = was.day + 1 THEN
            was.next_day_calls := greatest(was.next_day_calls - 1, 0);
        END IF;
    END LOOP;
    UPDATE market.provider_calls AS c
    SET second_cells = was.second_cells, minute_cells = was.minute_cells, day_calls = was.day_calls,
        next_day_calls = was.next_day_calls
    WHERE c.provider = of_provider AND c.key = of_key;
END
$$;

CREATE FUNCTION market.block_calls(
    of_provider text, of_key text, in_zone text, outcome text, because text, seconds double precision,
    pretended timestamptz DEFAULT NULL
) RETURNS timestamptz LANGUAGE plpgsql AS $$
-- Nobody calls before then. Without seconds: before the provider's day has ended. A longer block stays.
DECLARE
    at timestamptz := coalesce(pretended, clock_timestamp());
    -- Just after midnight the refusal is still yesterday's.
    ends timestamptz := CASE WHEN seconds IS NULL
                             THEN market.day_ends(in_zone, at - interval '1 minute') + interval '1 minute'
                             ELSE at + make_interval(secs => seconds) END;
BEGIN
    INSERT INTO market.provider_calls AS c (provider, key, zone, day, blocked_until, blocked_as, blocked_because)
    VALUES (of_provider, of_key, in_zone, (at AT TIME ZONE in_zone)::date, ends, outcome, because)
    ON CONFLICT (provider, key) DO UPDATE
    SET blocked_until = EXCLUDED.blocked_until, blocked_as = EXCLUDED.blocked_as,
        blocked_because = EXCLUDED.blocked_because
    WHERE c.blocked_until IS NULL OR c.blocked_until < EXCLUDED.blocked_until;
    RETURN ends;
END
$$;

DROP VIEW market.provider_quota;
CREATE VIEW market.provider_quota AS
SELECT c.provider, c.key, w."window", w."limit", w.used, w.resets_at,
       CASE WHEN w."window" = 'day' THEN c.reserve ELSE 0 END AS reserve,
       CASE WHEN c.blocked_until > clock_timestamp() THEN c.blocked_until END AS blocked_until,
       CASE WHEN c.blocked_until > clock_timestamp() THEN c.blocked_as END AS blocked_as,
       CASE WHEN c.blocked_until > clock_timestamp() THEN c.blocked_because END AS blocked_because
FROM market.provider_calls AS c
CROSS JOIN LATERAL (
    SELECT 'second' AS "window", c.per_second AS "limit", s.used, s.resets_at
    FROM market.window_use(c.second_cells, c.second_head, 1, clock_timestamp()) AS s
    UNION ALL
    SELECT 'minute', c.per_minute, m.used, m.resets_at
    FROM market.window_use(c.minute_cells, c.minute_head, 60, clock_timestamp()) AS m
    UNION ALL
    SELECT 'day', c.per_day,
           CASE (clock_timestamp() AT TIME ZONE c.zone)::date - c.day
               WHEN 0 THEN c.day_calls WHEN 1 THEN c.next_day_calls ELSE 0 END,
           market.day_ends(c.zone, clock_timestamp())
) AS w;
COMMENT ON VIEW market.provider_quota IS
    'Calls spent in the rolling second and minute and in the provider''s own day, beside the limits that held when last a call was made.';
COMMENT ON COLUMN market.provider_quota."limit" IS 'Null: none is set, or the simulator answers.';
COMMENT ON COLUMN market.provider_quota.reserve IS 'Calls of the day that are kept for quotes.';

-- Breakers ------------------------------------------------------------------------------------------------

CREATE TABLE market.provider_health (
    provider    text PRIMARY KEY,
    failures    integer NOT NULL DEFAULT 0,
    openings    integer NOT NULL DEFAULT 0,
    opened_at   timestamptz,
    next_try    timestamptz,
    probe_by    text,
    probe_until timestamptz,
    outcome     text NOT NULL DEFAULT '',
    reason      text NOT NULL DEFAULT '',
    since       timestamptz NOT NULL,
    CONSTRAINT provider_health_open CHECK ((opened_at IS NULL) = (next_try IS NULL))
) WITH (fillfactor = 50);
COMMENT ON TABLE market.provider_health IS
    'The circuit breaker of each provider, for all processes: open while opened_at is set, half-open from next_try on.';
COMMENT ON COLUMN market.provider_health.failures IS 'In a row, while it is closed.';
COMMENT ON COLUMN market.provider_health.openings IS 'In a row; each doubles the pause.';
COMMENT ON COLUMN market.provider_health.probe_until IS 'The one who tries has until then; whoever dies over it blocks nobody for longer.';
COMMENT ON COLUMN market.provider_health.since IS 'When it last opened or closed.';

CREATE FUNCTION market.breaker_asks(
    of_provider text, holder text, lease double precision, pretended timestamptz DEFAULT NULL,
    OUT allowed boolean, OUT retry_at timestamptz, OUT outcome text, OUT reason text, OUT probed boolean
) LANGUAGE plpgsql AS $$
DECLARE
    was market.provider_health;
    at timestamptz := coalesce(pretended, clock_timestamp());
BEGIN
    SELECT * INTO was FROM market.provider_health AS h WHERE h.provider = of_provider;
    allowed := was.opened_at IS NULL;
    probed := false;
    IF NOT allowed AND was.next_try <= at THEN
        UPDATE market.provider_health AS h
        SET probe_by = holder, probe_until = at + make_interval(secs => lease)
        WHERE h.provider = of_provider AND h.opened_at IS NOT NULL AND h.next_try <= at
              AND (h.probe_until IS NULL OR h.probe_until <= at OR h.probe_by = holder);
        allowed := FOUND;
        probed := true;
        IF NOT allowed THEN
            SELECT * INTO was FROM market.provider_health AS h WHERE h.provider = of_provider;
            allowed := was.opened_at IS NULL;  -- closed or opened again meanwhile
            probed := NOT allowed AND was.next_try <= at;
        END IF;
    END IF;
    IF NOT allowed THEN
        retry_at := CASE WHEN was.next_try <= at THEN was.probe_until ELSE was.next_try END;
        outcome := was.outcome;
        reason := was.reason;
    END IF;
END
$$;

CREATE FUNCTION market.breaker_fails(
    of_provider text, holder text, with_outcome text, with_reason text, counts boolean, threshold integer,
    first_pause double precision, longest_pause double precision, stretch double precision,
    pretended timestamptz DEFAULT NULL
) RETURNS void LANGUAGE plpgsql AS $$
-- One more failure. `counts` is false for what only tells of a trial that did not work out.
DECLARE
    was market.provider_health;
    at timestamptz := coalesce(pretended, clock_timestamp());
    probing boolean;
BEGIN
    IF counts THEN
        INSERT INTO market.provider_health (provider, since) VALUES (of_provider, at) ON CONFLICT DO NOTHING;
    END IF;
    SELECT * INTO was FROM market.provider_health AS h WHERE h.provider = of_provider FOR UPDATE;
    probing := was.opened_at IS NOT NULL AND was.probe_by IS NOT DISTINCT FROM holder;
    IF NOT FOUND OR NOT (probing OR (counts AND was.opened_at IS NULL)) THEN
        RETURN;  -- of those who were under way when it opened
    END IF;
    was.failures := was.failures + 1;
    IF probing OR was.failures >= threshold THEN
        was.since := CASE WHEN probing THEN was.since ELSE at END;
        was.opened_at := at;
        was.openings := was.openings + 1;
        was.next_try := at + make_interval(
            secs => least(first_pause * 2 ^ least(was.openings - 1, 30), longest_pause) * stretch);
    END IF;
    UPDATE market.provider_health AS h
    SET failures = was.failures, openings = was.openings, opened_at = was.opened_at, next_try = was.next_try,
        probe_by = NULL, probe_until = NULL, outcome = with_outcome, reason = with_reason, since = was.since
    WHERE h.provider = of_provider;
END
$$;
