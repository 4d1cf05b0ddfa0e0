-- What is traded ------------------------------------------------------------------------------------------

CREATE TABLE market.stocks (
    symbol           text NOT NULL,
    market           text NOT NULL,
    company_name     text NOT NULL DEFAULT '',
    sector           text,
    industry         text,
    exchange         text NOT NULL,
    currency         text NOT NULL,
    kind             text NOT NULL,
    is_active        boolean NOT NULL DEFAULT true,
    listed_from      date,
    delisted_on      date,
    provider_symbols jsonb NOT NULL DEFAULT '{}',
    updated_at       timestamptz NOT NULL,
    PRIMARY KEY (market, symbol)
);
COMMENT ON COLUMN market.stocks.exchange IS 'Operating MIC, which is also the name of the trading calendar.';
COMMENT ON COLUMN market.stocks.is_active IS 'False where the market no longer lists the symbol: rows are never deleted.';
COMMENT ON COLUMN market.stocks.delisted_on IS 'The last session on which it traded.';
COMMENT ON COLUMN market.stocks.provider_symbols IS 'Spellings that no rule gives, by provider.';

CREATE TABLE market.market_indices (
    symbol           text NOT NULL,
    market           text NOT NULL,
    name             text NOT NULL DEFAULT '',
    exchange         text NOT NULL,
    currency         text NOT NULL,
    is_active        boolean NOT NULL DEFAULT true,
    listed_from      date,
    delisted_on      date,
    provider_symbols jsonb NOT NULL DEFAULT '{}',
    updated_at       timestamptz NOT NULL,
    PRIMARY KEY (market, symbol)
);
COMMENT ON COLUMN market.market_indices.exchange IS 'Operating MIC whose sessions the index follows.';

CREATE TABLE market.index_members (
    market       text NOT NULL,
    index_symbol text NOT NULL,
    symbol       text NOT NULL,
    valid_from   date NOT NULL,
    valid_to     date CHECK (valid_to >= valid_from),
    source       text NOT NULL,
    PRIMARY KEY (market, index_symbol, symbol, valid_from)
);
COMMENT ON COLUMN market.index_members.valid_from IS 'The first date on which the source named it a member.';
COMMENT ON COLUMN market.index_members.valid_to IS 'The last date of membership; NULL while it is a member.';

-- Daily bars ----------------------------------------------------------------------------------------------

CREATE TABLE market.stock_prices (
    symbol      text NOT NULL,
    market      text NOT NULL,
    session     date NOT NULL,
    open        double precision NOT NULL,
    high        double precision NOT NULL,
    low         double precision NOT NULL,
    close       double precision NOT NULL,
    volume      double precision,
    provider    text NOT NULL,
    condition   text NOT NULL,
    provisional boolean NOT NULL,
    ingested_at timestamptz NOT NULL,
    PRIMARY KEY (market, symbol, session),
    CONSTRAINT stock_prices_condition CHECK (condition IN ('available', 'degraded', 'pending', 'missing')),
    -- NaN sorts above infinity, so the comparison with infinity refuses it too.
    CONSTRAINT stock_prices_finite CHECK (
        low > '-infinity' AND open < 'infinity' AND high < 'infinity' AND low <= high AND close < 'infinity'
    )
);
CREATE INDEX stock_prices_by_session ON market.stock_prices (market, session);
COMMENT ON TABLE market.stock_prices IS
    'The agreed daily bar, as traded: not adjusted for splits or dividends. Superseded versions are in bar_revisions.';
COMMENT ON COLUMN market.stock_prices.session IS 'The exchange''s own date.';
COMMENT ON COLUMN market.stock_prices.volume IS 'Shares, fractional where a provider counts so; NULL where it has none.';
COMMENT ON COLUMN market.stock_prices.provider IS 'Whose row was taken; simulated-<name> for made-up data.';
COMMENT ON COLUMN market.stock_prices.condition IS 'available, or degraded where the row is the best there is and not good.';
COMMENT ON COLUMN market.stock_prices.provisional IS 'The provider said that the bar was still moving.';
COMMENT ON COLUMN market.stock_prices.ingested_at IS 'Since when this version has been known here.';

CREATE TABLE market.market_index_prices (
    LIKE market.stock_prices INCLUDING CONSTRAINTS INCLUDING COMMENTS,
    PRIMARY KEY (market, symbol, session)
);
CREATE INDEX market_index_prices_by_session ON market.market_index_prices (market, session);
COMMENT ON TABLE market.market_index_prices IS 'The agreed daily level of an index; agreed on and versioned as stock_prices are.';

CREATE TABLE market.provider_bars (
    symbol      text NOT NULL,
    market      text NOT NULL,
    session     date NOT NULL,
    open        double precision NOT NULL,
    high        double precision NOT NULL,
    low         double precision NOT NULL,
    close       double precision NOT NULL,
    volume      double precision,
    provider    text NOT NULL,
    basis       text NOT NULL,
    provisional boolean NOT NULL,
    ingested_at timestamptz NOT NULL,
    PRIMARY KEY (market, symbol, session, provider),
    CONSTRAINT provider_bars_finite CHECK (
        low > '-infinity' AND open < 'infinity' AND high < 'infinity' AND low <= high AND close < 'infinity'
    )
);
CREATE INDEX provider_bars_by_session ON market.provider_bars (market, session);
COMMENT ON TABLE market.provider_bars IS
    'What each provider says now, of stocks and indices. Earlier answers are in the raw archive, byte for byte.';
COMMENT ON COLUMN market.provider_bars.basis IS
    'What the provider has done to the prices: traded (nothing), split, or split_dividend.';

CREATE TABLE market.bar_revisions (
    revision_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_table text NOT NULL,
    symbol       text NOT NULL,
    market       text NOT NULL,
    session      date NOT NULL,
    open         double precision NOT NULL,
    high         double precision NOT NULL,
    low          double precision NOT NULL,
    close        double precision NOT NULL,
    volume       double precision,
    provider     text NOT NULL,
    condition    text NOT NULL,
    provisional  boolean NOT NULL,
    known_from   timestamptz NOT NULL,
    known_to     timestamptz NOT NULL,
    removed      boolean NOT NULL,
    run_id       text
);
CREATE INDEX bar_revisions_by_bar ON market.bar_revisions (source_table, market, symbol, session, known_to);
COMMENT ON TABLE market.bar_revisions IS
    'Every version of an agreed bar that is no longer the current one. Written by triggers, so no way of changing a bar escapes it.';
COMMENT ON COLUMN market.bar_revisions.source_table IS 'stock_prices or market_index_prices.';
COMMENT ON COLUMN market.bar_revisions.known_from IS 'When this version became known here (its ingested_at).';
COMMENT ON COLUMN market.bar_revisions.known_to IS 'When its successor became known; the version held until just before.';
COMMENT ON COLUMN market.bar_revisions.removed IS 'It had no successor: the bar was taken out.';
COMMENT ON COLUMN market.bar_revisions.run_id IS 'The run that superseded it.';

CREATE FUNCTION market.keep_superseded_bars() RETURNS trigger LANGUAGE plpgsql AS $$
-- A writer names its run, and for removals its instant, in the settings market.run_id and market.known_at
-- of its transaction. The instant of a change is in the new row.
BEGIN
    IF TG_OP = 'UPDATE' THEN
        INSERT INTO market.bar_revisions (
            source_table, symbol, market, session, open, high, low, close, volume, provider, condition,
            provisional, known_from, known_to, removed, run_id
        )
        SELECT TG_TABLE_NAME, o.symbol, o.market, o.session, o.open, o.high, o.low, o.close, o.volume, o.provider,
               o.condition, o.provisional, o.ingested_at, n.ingested_at, false,
               nullif(current_setting('market.run_id', true), '')
        FROM old_bars AS o
        JOIN new_bars AS n USING (market, symbol, session)
        WHERE (o.open, o.high, o.low, o.close, o.volume, o.provider, o.condition, o.provisional)
              IS DISTINCT FROM
              (n.open, n.high, n.low, n.close, n.volume, n.provider, n.condition, n.provisional);
    ELSE
        INSERT INTO market.bar_revisions (
            source_table, symbol, market, session, open, high, low, close, volume, provider, condition,
            provisional, known_from, known_to, removed, run_id
        )
        SELECT TG_TABLE_NAME, o.symbol, o.market, o.session, o.open, o.high, o.low, o.close, o.volume, o.provider,
               o.condition, o.provisional, o.ingested_at,
               greatest(
                   coalesce(nullif(current_setting('market.known_at', true), '')::timestamptz, now()), o.ingested_at
               ),
               true, nullif(current_setting('market.run_id', true), '')
        FROM old_bars AS o;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER keep_changed AFTER UPDATE ON market.stock_prices
    REFERENCING OLD TABLE AS old_bars NEW TABLE AS new_bars
    FOR EACH STATEMENT EXECUTE FUNCTION market.keep_superseded_bars();
CREATE TRIGGER keep_removed AFTER DELETE ON market.stock_prices
    REFERENCING OLD TABLE AS old_bars
    FOR EACH STATEMENT EXECUTE FUNCTION market.keep_superseded_bars();
CREATE TRIGGER keep_changed AFTER UPDATE ON market.market_index_prices
    REFERENCING OLD TABLE AS old_bars NEW TABLE AS new_bars
    FOR EACH STATEMENT EXECUTE FUNCTION market.keep_superseded_bars();
CREATE TRIGGER keep_removed AFTER DELETE ON market.market_index_prices
    REFERENCING OLD TABLE AS old_bars
    FOR EACH STATEMENT EXECUTE FUNCTION market.keep_superseded_bars();

-- Corporate actions ---------------------------------------------------------------------------------------

CREATE TABLE market.corporate_actions (
    symbol      text NOT NULL,
    market      text NOT NULL,
    ex_date     date NOT NULL,
    kind        text NOT NULL,
    factor      double precision,
    amount      double precision,
    provider    text NOT NULL,
    ingested_at timestamptz NOT NULL,
    PRIMARY KEY (market, symbol, ex_date, kind),
    CONSTRAINT corporate_actions_value CHECK (
        CASE kind
            WHEN 'split' THEN factor > 0 AND factor < 'infinity' AND amount IS NULL
            WHEN 'dividend' THEN amount > 0 AND amount < 'infinity' AND factor IS NULL
            ELSE false
        END
    )
);
COMMENT ON COLUMN market.corporate_actions.factor IS 'Split: new shares for one old; 4 for 4:1, 0.1 for 1:10.';
COMMENT ON COLUMN market.corporate_actions.amount IS
    'Dividend: cash per share as paid on the ex-date, not restated for later splits. A split on the same date has already happened to that share.';
COMMENT ON COLUMN market.corporate_actions.provider IS 'Who said so first.';
COMMENT ON COLUMN market.corporate_actions.ingested_at IS 'Since when this version has been known here.';

CREATE TABLE market.corporate_action_revisions (
    revision_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    symbol      text NOT NULL,
    market      text NOT NULL,
    ex_date     date NOT NULL,
    kind        text NOT NULL,
    factor      double precision,
    amount      double precision,
    provider    text NOT NULL,
    known_from  timestamptz NOT NULL,
    known_to    timestamptz NOT NULL,
    removed     boolean NOT NULL
);
CREATE INDEX corporate_action_revisions_by_action
    ON market.corporate_action_revisions (market, symbol, ex_date, kind, known_to);
COMMENT ON TABLE market.corporate_action_revisions IS 'Superseded versions, as bar_revisions keeps them for bars.';

CREATE FUNCTION market.keep_superseded_actions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO market.corporate_action_revisions (
        symbol, market, ex_date, kind, factor, amount, provider, known_from, known_to, removed
    )
    VALUES (
        OLD.symbol, OLD.market, OLD.ex_date, OLD.kind, OLD.factor, OLD.amount, OLD.provider, OLD.ingested_at,
        CASE TG_OP
            WHEN 'UPDATE' THEN NEW.ingested_at
            ELSE greatest(
                coalesce(nullif(current_setting('market.known_at', true), '')::timestamptz, now()), OLD.ingested_at
            )
        END,
        TG_OP = 'DELETE'
    );
    RETURN NULL;
END
$$;
CREATE TRIGGER keep_superseded AFTER UPDATE OR DELETE ON market.corporate_actions
    FOR EACH ROW EXECUTE FUNCTION market.keep_superseded_actions();

CREATE TABLE market.actions_known (
    symbol        text NOT NULL,
    market        text NOT NULL,
    provider      text NOT NULL,
    known_from    date NOT NULL,
    known_through date NOT NULL CHECK (known_through >= known_from),
    checked_at    timestamptz NOT NULL,
    PRIMARY KEY (market, symbol, provider)
);
COMMENT ON TABLE market.actions_known IS
    'From when through when a provider has shown every action of a symbol: no row in corporate_actions means none happened only inside.';

-- Reading: as known at an instant, and adjusted -----------------------------------------------------------

CREATE FUNCTION market.stock_prices_as_of(ts timestamptz) RETURNS TABLE (
    symbol text, market text, session date, open double precision, high double precision, low double precision,
    close double precision, volume double precision, provider text, condition text, provisional boolean,
    ingested_at timestamptz
) LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT p.symbol, p.market, p.session, p.open, p.high, p.low, p.close, p.volume, p.provider, p.condition,
           p.provisional, p.ingested_at
    FROM market.stock_prices AS p
    WHERE p.ingested_at <= ts
    UNION ALL
    SELECT r.symbol, r.market, r.session, r.open, r.high, r.low, r.close, r.volume, r.provider, r.condition,
           r.provisional, r.known_from
    FROM market.bar_revisions AS r
    WHERE r.source_table = 'stock_prices' AND r.known_from <= ts AND ts < r.known_to
$$;
COMMENT ON FUNCTION market.stock_prices_as_of IS
    'stock_prices as this database knew them at the instant: a version holds from its known_from to just before its known_to.';

CREATE FUNCTION market.market_index_prices_as_of(ts timestamptz) RETURNS TABLE (
    symbol text, market text, session date, open double precision, high double precision, low double precision,
    close double precision, volume double precision, provider text, condition text, provisional boolean,
    ingested_at timestamptz
) LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT p.symbol, p.market, p.session, p.open, p.high, p.low, p.close, p.volume, p.provider, p.condition,
           p.provisional, p.ingested_at
    FROM market.market_index_prices AS p
    WHERE p.ingested_at <= ts
    UNION ALL
    SELECT r.symbol, r.market, r.session, r.open, r.high, r.low, r.close, r.volume, r.provider, r.condition,
           r.provisional, r.known_from
    FROM market.bar_revisions AS r
    WHERE r.source_table = 'market_index_prices' AND r.known_from <= ts AND ts < r.known_to
$$;

CREATE FUNCTION market.corporate_actions_as_of(ts timestamptz) RETURNS TABLE (
    symbol text, market text, ex_date date, kind text, factor double precision, amount double precision,
    provider text, ingested_at timestamptz
) LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT a.symbol, a.market, a.ex_date, a.kind, a.factor, a.amount, a.provider, a.ingested_at
    FROM market.corporate_actions AS a
    WHERE a.ingested_at <= ts
    UNION ALL
    SELECT r.symbol, r.market, r.ex_date, r.kind, r.factor, r.amount, r.provider, r.known_from
    FROM market.corporate_action_revisions AS r
    WHERE r.known_from <= ts AND ts < r.known_to
$$;

CREATE AGGREGATE market.product(double precision) (
    SFUNC = float8mul, STYPE = double precision, INITCOND = '1', PARALLEL = SAFE
);

CREATE FUNCTION market.adjustment_factors_as_of(ts timestamptz) RETURNS TABLE (
    market text, symbol text, since date, until date, price_factor double precision, share_factor double precision
) LANGUAGE sql STABLE PARALLEL SAFE AS $$
    -- One row for each stretch of sessions between two ex-dates: since <= session < until.
    SELECT e.market, e.symbol,
           coalesce(lag(e.ex_date) OVER earlier, '-infinity') AS since,
           e.ex_date AS until,
           market.product(e.price_factor) OVER later AS price_factor,
           market.product(e.ratio) OVER later AS share_factor
    FROM (
        SELECT d.market, d.symbol, d.ex_date, d.ratio,
               -- A dividend that is not smaller than the price before it cannot be true and does not count.
               CASE WHEN d.cash < b.worth THEN 1 - d.cash / b.worth ELSE 1 END / d.ratio AS price_factor
        FROM (
            SELECT a.market, a.symbol, a.ex_date,
                   coalesce(max(a.factor) FILTER (WHERE a.kind = 'split'), 1) AS ratio,
                   coalesce(max(a.amount) FILTER (WHERE a.kind = 'dividend'), 0) AS cash
            FROM market.corporate_actions_as_of(ts) AS a
            WHERE a.ex_date <= (least(ts, now()) AT TIME ZONE 'UTC')::date
            GROUP BY a.market, a.symbol, a.ex_date
        ) AS d
        LEFT JOIN LATERAL (
            -- The last traded close before the ex-date, in shares of the ex-date: splits in between divide it.
            SELECT p.close / (
                       SELECT market.product(s.factor)
                       FROM market.corporate_actions_as_of(ts) AS s
                       WHERE s.market = d.market AND s.symbol = d.symbol AND s.kind = 'split'
                             AND s.ex_date > p.session AND s.ex_date <= d.ex_date
                   ) AS worth
            FROM market.stock_prices_as_of(ts) AS p
            WHERE d.cash > 0 AND p.market = d.market AND p.symbol = d.symbol AND p.session < d.ex_date
            ORDER BY p.session DESC
            LIMIT 1
        ) AS b ON true
    ) AS e
    WINDOW earlier AS (PARTITION BY e.market, e.symbol ORDER BY e.ex_date),
           later AS (PARTITION BY e.market, e.symbol ORDER BY e.ex_date DESC)
$$;
COMMENT ON FUNCTION market.adjustment_factors_as_of IS
    'What prices and volumes of a stretch of sessions are multiplied by, to compare with the newest: splits and dividends since, combined.';

CREATE FUNCTION market.stock_prices_adjusted_as_of(ts timestamptz) RETURNS TABLE (
    symbol text, market text, session date, open double precision, high double precision, low double precision,
    close double precision, volume double precision, provider text, condition text, provisional boolean,
    ingested_at timestamptz
) LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT p.symbol, p.market, p.session,
           p.open * coalesce(f.price_factor, 1), p.high * coalesce(f.price_factor, 1),
           p.low * coalesce(f.price_factor, 1), p.close * coalesce(f.price_factor, 1),
           p.volume * coalesce(f.share_factor, 1), p.provider, p.condition, p.provisional, p.ingested_at
    FROM market.stock_prices_as_of(ts) AS p
    LEFT JOIN market.adjustment_factors_as_of(ts) AS f
        ON f.market = p.market AND f.symbol = p.symbol AND p.session >= f.since AND p.session < f.until
$$;

CREATE VIEW market.stock_prices_adjusted AS
SELECT symbol, market, session, open, high, low, close, volume, provider, condition, provisional, ingested_at
FROM market.stock_prices_adjusted_as_of('infinity');
COMMENT ON VIEW market.stock_prices_adjusted IS
    'stock_prices with splits (prices divided, volume multiplied) and dividends (prices times 1 - D / close before) worked in.';

-- Ledgers -------------------------------------------------------------------------------------------------

CREATE TABLE market.quarantine (
    quarantine_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    market        text NOT NULL,
    symbol        text NOT NULL,
    session       date,
    open          double precision,
    high          double precision,
    low           double precision,
    close         double precision,
    volume        double precision,
    provider      text NOT NULL,
    rule          text NOT NULL,
    severity      text NOT NULL,
    detail        text NOT NULL DEFAULT '',
    run_id        text,
    first_seen    timestamptz NOT NULL,
    last_seen     timestamptz NOT NULL,
    times_seen    integer NOT NULL DEFAULT 1,
    CONSTRAINT quarantine_row UNIQUE NULLS NOT DISTINCT
        (market, symbol, session, provider, rule, open, high, low, close, volume)
);
CREATE INDEX quarantine_by_run ON market.quarantine (run_id);
CREATE INDEX quarantine_by_time ON market.quarantine (last_seen);
COMMENT ON TABLE market.quarantine IS
    'Rows that a rule kept out of the tables or marked, with what the provider sent. The same row and rule again only counts up.';
COMMENT ON COLUMN market.quarantine.run_id IS 'The run that saw it last.';

CREATE TABLE market.coverage (
    market       text NOT NULL,
    interval     text NOT NULL,
    symbol       text NOT NULL,
    session      date NOT NULL,
    condition    text NOT NULL,
    last_checked timestamptz NOT NULL,
    PRIMARY KEY (market, interval, symbol, session),
    CONSTRAINT coverage_condition CHECK (condition IN ('available', 'degraded', 'pending', 'missing'))
) WITH (fillfactor = 80);  -- every check writes every row again: room on the page spares the indexes
CREATE INDEX coverage_by_session ON market.coverage (market, interval, session);

CREATE TABLE market.etl_job_logs (
    job_id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_name          text NOT NULL,
    kind              text NOT NULL,
    market            text NOT NULL,
    symbols           text[] NOT NULL DEFAULT '{}',
    started_at        timestamptz NOT NULL,
    finished_at       timestamptz,
    status            text NOT NULL,
    records_processed bigint NOT NULL DEFAULT 0,
    records_failed    bigint NOT NULL DEFAULT 0,
    error             text,
    dagster_run_id    text,
    CONSTRAINT etl_job_logs_status CHECK (status IN ('running', 'success', 'partial', 'failure'))
);
CREATE INDEX etl_job_logs_by_start ON market.etl_job_logs (started_at);

CREATE TABLE market.fetches (
    fetch_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    provider     text NOT NULL,
    endpoint     text NOT NULL,
    market       text NOT NULL,
    symbol       text NOT NULL,
    "from"       date,
    "to"         date,
    outcome      text NOT NULL,
    http_status  integer NOT NULL,
    rows         bigint NOT NULL,
    bytes        bigint NOT NULL,
    sha256       text,
    archive_path text,
    fetched_at   timestamptz NOT NULL,
    duration     double precision NOT NULL,
    url          text NOT NULL,
    params       jsonb NOT NULL,
    headers      jsonb NOT NULL,
    reason       text NOT NULL,
    run_id       text
);
CREATE INDEX fetches_by_provider ON market.fetches (provider, fetched_at);
CREATE INDEX fetches_by_symbol ON market.fetches (market, symbol, provider, endpoint, fetched_at);
COMMENT ON TABLE market.fetches IS 'One row for every request that went out, in whatever way it ended. No secret is in it.';
COMMENT ON COLUMN market.fetches.http_status IS '0 where no complete answer arrived.';
COMMENT ON COLUMN market.fetches.sha256 IS 'Of the answer''s bytes, under which the raw archive keeps them.';
COMMENT ON COLUMN market.fetches.duration IS 'Seconds from the request to the last byte.';
COMMENT ON COLUMN market.fetches.headers IS 'Of the answer.';
COMMENT ON COLUMN market.fetches.reason IS 'What the provider said, in one line, where it said no.';

CREATE VIEW market.provider_quota AS
SELECT provider, 'minute' AS "window",
       count(*) FILTER (WHERE fetched_at > now() - interval '1 minute') AS used,
       min(fetched_at) FILTER (WHERE fetched_at > now() - interval '1 minute') + interval '1 minute' AS resets_at
FROM market.fetches
WHERE fetched_at > now() - interval '1 day'
GROUP BY provider
UNION ALL
SELECT provider, 'day', count(*), min(fetched_at) + interval '1 day'
FROM market.fetches
WHERE fetched_at > now() - interval '1 day'
GROUP BY provider;
COMMENT ON VIEW market.provider_quota IS
    'Requests spent in the rolling minute and the rolling day, and when the oldest of them stops counting. Limits are settings.';
