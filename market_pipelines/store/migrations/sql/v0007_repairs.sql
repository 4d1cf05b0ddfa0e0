-- Holes and what is known of them ---------------------------------------------------------------------------

CREATE TABLE market.holes (
    market       text NOT NULL,
    interval     text NOT NULL,
    symbol       text NOT NULL,
    session      date NOT NULL,
    cause        text NOT NULL,
    first_seen   timestamptz NOT NULL,
    last_asked   timestamptz,
    times_asked  integer NOT NULL DEFAULT 0,
    confirmed_at timestamptz,
    next_ask     timestamptz NOT NULL,
    healed_at    timestamptz,
    reason       text NOT NULL DEFAULT '',
    lacking      integer NOT NULL DEFAULT 1,
    expected     integer NOT NULL DEFAULT 1,
    PRIMARY KEY (market, interval, symbol, session),
    CONSTRAINT holes_cause CHECK (cause IN ('hole', 'outage', 'closure', 'incomplete', 'not_asked')),
    CONSTRAINT holes_counts CHECK (times_asked >= 0 AND lacking >= 0 AND expected >= 0)
);
CREATE INDEX holes_open ON market.holes (market, interval, next_ask) WHERE healed_at IS NULL;
CREATE INDEX holes_healed ON market.holes (healed_at) WHERE healed_at IS NOT NULL;
COMMENT ON TABLE market.holes IS
    'Bars that should be stored and are not: since when, how often they were asked for, and when again. Open while healed_at is empty.';
COMMENT ON COLUMN market.holes.symbol IS 'Empty: the session of the whole market, which is one incident and not a hole a symbol.';
COMMENT ON COLUMN market.holes.cause IS
    'hole: of one symbol. Of the whole market: outage (a provider failed), closure (all answered and nobody has a row), incomplete, not_asked.';
COMMENT ON COLUMN market.holes.confirmed_at IS 'When somebody had answered and it was still there.';
COMMENT ON COLUMN market.holes.healed_at IS 'When it was filled, or no longer expected: reason says which.';
COMMENT ON COLUMN market.holes.lacking IS 'How many symbols lack the session.';

CREATE TABLE market.closures (
    market      text NOT NULL,
    session     date NOT NULL,
    declared_at timestamptz NOT NULL,
    note        text NOT NULL DEFAULT '',
    PRIMARY KEY (market, session)
);
COMMENT ON TABLE market.closures IS
    'Sessions of the calendar on which, as a person has said, the exchange was closed: nothing is expected of them, and no coverage counts them.';

CREATE INDEX fetches_by_market ON market.fetches (market, fetched_at);
