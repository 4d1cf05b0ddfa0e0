-- Intraday bars -------------------------------------------------------------------------------------------

CREATE TABLE market.stock_prices_intraday (
    symbol      text NOT NULL,
    market      text NOT NULL,
    interval    text NOT NULL,
    session     date NOT NULL,
    ts          timestamptz NOT NULL,
    phase       text NOT NULL,
    open        double precision NOT NULL,
    high        double precision NOT NULL,
    low         double precision NOT NULL,
    close       double precision NOT NULL,
    volume      double precision,
    provider    text NOT NULL,
    condition   text NOT NULL,
    provisional boolean NOT NULL,
    ingested_at timestamptz NOT NULL,
    PRIMARY KEY (market, symbol, interval, session, ts),
    CONSTRAINT stock_prices_intraday_phase CHECK (phase IN ('pre', 'regular', 'post')),
    CONSTRAINT stock_prices_intraday_condition CHECK (condition IN ('available', 'degraded', 'pending', 'missing')),
    CONSTRAINT stock_prices_intraday_finite CHECK (
        low > '-infinity' AND open < 'infinity' AND high < 'infinity' AND low <= high AND close < 'infinity'
    )
);
CREATE INDEX stock_prices_intraday_by_session ON market.stock_prices_intraday (market, interval, session);
COMMENT ON TABLE market.stock_prices_intraday IS
    'Agreed bars within a session, as traded, at the market''s base interval; longer ones are computed from them.';
COMMENT ON COLUMN market.stock_prices_intraday.ts IS 'When the bar begins.';
COMMENT ON COLUMN market.stock_prices_intraday.session IS 'The exchange''s own date.';
COMMENT ON COLUMN market.stock_prices_intraday.phase IS 'Before, within or after the regular session, by the exchange''s calendar.';
COMMENT ON COLUMN market.stock_prices_intraday.provider IS 'One provider a symbol and session; simulated-<name> for made-up data.';

CREATE TABLE market.provider_bars_intraday (
    symbol      text NOT NULL,
    market      text NOT NULL,
    interval    text NOT NULL,
    session     date NOT NULL,
    ts          timestamptz NOT NULL,
    phase       text NOT NULL,
    open        double precision NOT NULL,
    high        double precision NOT NULL,
    low         double precision NOT NULL,
    close       double precision NOT NULL,
    volume      double precision,
    provider    text NOT NULL,
    basis       text NOT NULL,
    provisional boolean NOT NULL,
    ingested_at timestamptz NOT NULL,
    PRIMARY KEY (market, symbol, interval, session, ts, provider),
    CONSTRAINT provider_bars_intraday_finite CHECK (
        low > '-infinity' AND open < 'infinity' AND high < 'infinity' AND low <= high AND close < 'infinity'
    )
);
CREATE INDEX provider_bars_intraday_by_session ON market.provider_bars_intraday (market, interval, session);

CREATE TABLE market.intraday_revisions (
    revision_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    symbol      text NOT NULL,
    market      text NOT NULL,
    interval    text NOT NULL,
    session     date NOT NULL,
    ts          timestamptz NOT NULL,
    phase       text NOT NULL,
    open        double precision NOT NULL,
    high        double precision NOT NULL,
    low         double precision NOT NULL,
    close       double precision NOT NULL,
    volume      double precision,
    provider    text NOT NULL,
    condition   text NOT NULL,
    provisional boolean NOT NULL,
    known_from  timestamptz NOT NULL,
    known_to    timestamptz NOT NULL,
    removed     boolean NOT NULL,
    run_id      text
);
CREATE INDEX intraday_revisions_by_bar ON market.intraday_revisions (market, symbol, interval, ts, known_to);
COMMENT ON TABLE market.intraday_revisions IS 'Superseded versions of agreed intraday bars, as bar_revisions keeps them for daily ones.';

CREATE FUNCTION market.keep_superseded_intraday() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        INSERT INTO market.intraday_revisions (
            symbol, market, interval, session, ts, phase, open, high, low, close, volume, provider, condition,
            provisional, known_from, known_to, removed, run_id
        )
        SELECT o.symbol, o.market, o.interval, o.session, o.ts, o.phase, o.open, o.high, o.low, o.close, o.volume,
               o.provider, o.condition, o.provisional, o.ingested_at, n.ingested_at, false,
               nullif(current_setting('market.run_id', true), '')
        FROM old_bars AS o
        JOIN new_bars AS n USING (market, symbol, interval, session, ts)
        WHERE (o.open, o.high, o.low, o.close, o.volume, o.provider, o.condition, o.provisional)
              IS DISTINCT FROM
              (n.open, n.high, n.low, n.close, n.volume, n.provider, n.condition, n.provisional);
    ELSE
        INSERT INTO market.intraday_revisions (
            symbol, market, interval, session, ts, phase, open, high, low, close, volume, provider, condition,
            provisional, known_from, known_to, removed, run_id
        )
        SELECT o.symbol, o.market, o.interval, o.session, o.ts, o.phase, o.open, o.high, o.low, o.close, o.volume,
               o.provider, o.condition, o.provisional, o.ingested_at,
               greatest(
                   coalesce(nullif(current_setting('market.known_at', true), '')::timestamptz, now()), o.ingested_at
               ),
               true, nullif(current_setting('market.run_id', true), '')
        FROM old_bars AS o;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER keep_changed AFTER UPDATE ON market.stock_prices_intraday
    REFERENCING OLD TABLE AS old_bars NEW TABLE AS new_bars
    FOR EACH STATEMENT EXECUTE FUNCTION market.keep_superseded_intraday();
CREATE TRIGGER keep_removed AFTER DELETE ON market.stock_prices_intraday
    REFERENCING OLD TABLE AS old_bars
    FOR EACH STATEMENT EXECUTE FUNCTION market.keep_superseded_intraday();

CREATE FUNCTION market.stock_prices_intraday_as_of(ts timestamptz) RETURNS TABLE (
    symbol text, market text, "interval" text, session date, bar_ts timestamptz, phase text, open double precision,
    high double precision, low double precision, close double precision, volume double precision, provider text,
    condition text, provisional boolean, ingested_at timestamptz
) LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT p.symbol, p.market, p.interval, p.session, p.ts, p.phase, p.open, p.high, p.low, p.close, p.volume,
           p.provider, p.condition, p.provisional, p.ingested_at
    FROM market.stock_prices_intraday AS p
    WHERE p.ingested_at <= $1
    UNION ALL
    SELECT r.symbol, r.market, r.interval, r.session, r.ts, r.phase, r.open, r.high, r.low, r.close, r.volume,
           r.provider, r.condition, r.provisional, r.known_from
    FROM market.intraday_revisions AS r
    WHERE r.known_from <= $1 AND $1 < r.known_to
$$;

-- What a fetch was for --------------------------------------------------------------------------------------

ALTER TABLE market.fetches ADD COLUMN capability text NOT NULL DEFAULT 'daily';
COMMENT ON COLUMN market.fetches.capability IS 'What was asked for: daily, intraday, quote, actions and so on.';

-- Corrections that wait --------------------------------------------------------------------------------------

CREATE TABLE market.held_corrections (
    held_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_table text NOT NULL,
    market       text NOT NULL,
    symbol       text NOT NULL,
    session      date NOT NULL,
    old_open     double precision NOT NULL,
    old_high     double precision NOT NULL,
    old_low      double precision NOT NULL,
    old_close    double precision NOT NULL,
    old_volume   double precision,
    old_provider text NOT NULL,
    open         double precision NOT NULL,
    high         double precision NOT NULL,
    low          double precision NOT NULL,
    close        double precision NOT NULL,
    volume       double precision,
    provider     text NOT NULL,
    condition    text NOT NULL,
    change       double precision NOT NULL,
    first_seen   timestamptz NOT NULL,
    last_seen    timestamptz NOT NULL,
    times_seen   integer NOT NULL DEFAULT 1,
    run_id       text,
    status       text NOT NULL DEFAULT 'held',
    decided_at   timestamptz,
    CONSTRAINT held_corrections_status CHECK (status IN ('held', 'accepted', 'rejected')),
    CONSTRAINT held_corrections_row UNIQUE NULLS NOT DISTINCT
        (source_table, market, symbol, session, provider, open, high, low, close, volume)
);
CREATE INDEX held_corrections_waiting ON market.held_corrections (market, session) WHERE status = 'held';
COMMENT ON TABLE market.held_corrections IS
    'Changes of a final bar too large to believe unseen: the old bar stands until a person accepts or rejects the new one.';
COMMENT ON COLUMN market.held_corrections.change IS 'The largest relative change among the four prices.';
