-- Price bands are a kind of tick ------------------------------------------------------------------------------

ALTER TABLE market.tick_segments DROP CONSTRAINT tick_segments_kind;
ALTER TABLE market.tick_segments ADD CONSTRAINT tick_segments_kind
    CHECK (kind IN ('trades', 'quotes', 'aggregates', 'snapshots', 'bands'));

CREATE TABLE market.stream_bands (
    market      text NOT NULL,
    symbol      text NOT NULL,
    session     date NOT NULL,
    ts          timestamptz NOT NULL,
    ts_ns       bigint NOT NULL,
    received_at timestamptz NOT NULL,
    seq         bigint NOT NULL,
    limit_up    double precision,
    limit_down  double precision,
    indicators  text NOT NULL,
    tape        text NOT NULL,
    marks       integer NOT NULL,
    feed        text NOT NULL,
    PRIMARY KEY (market, symbol, session, seq, ts_ns)
);
COMMENT ON TABLE market.stream_bands IS
    'Limit up, limit down, as streamed. Only with STREAM_TICKS_IN_DATABASE: the tick lake has them in any case.';
COMMENT ON COLUMN market.stream_bands.limit_up IS 'NULL where none is told.';
COMMENT ON COLUMN market.stream_bands.ts_ns IS 'Nanoseconds since 1970; ts has microseconds.';
