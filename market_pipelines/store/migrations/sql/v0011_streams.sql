-- Who streams, and how it goes -------------------------------------------------------------------------------

CREATE TABLE market.stream_status (
    stream       text PRIMARY KEY,
    market       text NOT NULL,
    feed         text NOT NULL,
    asset_class  text NOT NULL CHECK (asset_class IN ('stocks', 'options')),
    provider     text NOT NULL,
    holder       text NOT NULL,
    host         text NOT NULL,
    pid          integer NOT NULL,
    hosted_by    text NOT NULL CHECK (hosted_by IN ('process', 'dagster')),
    run_id       text,
    journal      text NOT NULL,
    state        text NOT NULL CHECK (state IN ('starting', 'live', 'waiting', 'stopping', 'stopped', 'failed')),
    detail       text NOT NULL DEFAULT '',
    wish         text NOT NULL DEFAULT '' CHECK (wish IN ('', 'stop', 'reload')),
    symbols      integer NOT NULL DEFAULT 0,
    channels     text[] NOT NULL DEFAULT '{}',
    connections  jsonb NOT NULL DEFAULT '[]',
    sinks        jsonb NOT NULL DEFAULT '[]',
    counters     jsonb NOT NULL DEFAULT '{}',
    started_at   timestamptz NOT NULL,
    heartbeat_at timestamptz NOT NULL,
    lease_until  timestamptz NOT NULL,
    stopped_at   timestamptz
) WITH (fillfactor = 70);  -- rewritten in place every few seconds
COMMENT ON TABLE market.stream_status IS 'One row a stream: its lease, its heartbeat and what it counted since it started.';
COMMENT ON COLUMN market.stream_status.holder IS 'Names one process for all time; its lease holds until lease_until by the clock of the database.';
COMMENT ON COLUMN market.stream_status.wish IS 'What somebody asked the running service for; it empties it when it heeds it.';

-- What is missing --------------------------------------------------------------------------------------------

CREATE TABLE market.stream_gaps (
    gap_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gap_key     text NOT NULL UNIQUE,
    stream      text NOT NULL,
    market      text NOT NULL,
    feed        text NOT NULL,
    origin      text NOT NULL DEFAULT '',
    cause       text NOT NULL CHECK (cause IN (
        'disconnected', 'silent', 'sequence', 'journal_bound', 'disk_full', 'crashed', 'stopped', 'slow_consumer', 'overflow'
    )),
    sink        text,
    channels    text[] NOT NULL,
    symbols     text[],
    begins_at   timestamptz NOT NULL,
    ends_at     timestamptz,
    recorded_at timestamptz NOT NULL,
    status      text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'filled', 'partial', 'unfillable')),
    reason      text NOT NULL DEFAULT '',
    attempts    integer NOT NULL DEFAULT 0,
    retry_at    timestamptz,
    rows_filled bigint NOT NULL DEFAULT 0,
    settled_at  timestamptz,
    CONSTRAINT stream_gaps_span CHECK (ends_at IS NULL OR ends_at >= begins_at)
);
CREATE INDEX stream_gaps_open ON market.stream_gaps (stream, begins_at) WHERE status = 'open';
CREATE INDEX stream_gaps_by_time ON market.stream_gaps (market, begins_at);
COMMENT ON TABLE market.stream_gaps IS 'Every span in which a live stream may have missed something, and whether history has filled it.';
COMMENT ON COLUMN market.stream_gaps.gap_key IS 'Given where the gap was noticed, so that telling of it twice makes one row.';
COMMENT ON COLUMN market.stream_gaps.symbols IS 'NULL: everything that the stream was subscribed to.';
COMMENT ON COLUMN market.stream_gaps.ends_at IS 'NULL while it goes on.';
COMMENT ON COLUMN market.stream_gaps.sink IS 'Only this sink missed something (its part of the journal was given up); NULL: nobody has it.';

CREATE TABLE market.stream_cursors (
    stream     text NOT NULL,
    sink       text NOT NULL,
    journal    text NOT NULL,
    position   bigint NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (stream, sink, journal)
) WITH (fillfactor = 50);
COMMENT ON TABLE market.stream_cursors IS
    'Up to which position of a journal a sink of PostgreSQL has everything, written in the transaction that stored it. Machines that stream in turns have a journal each.';

CREATE TABLE market.stream_rejects (
    stream      text NOT NULL,
    journal     text NOT NULL,
    position    bigint NOT NULL,
    place       integer NOT NULL,
    format      text NOT NULL,
    received_at timestamptz NOT NULL,
    reason      text NOT NULL,
    body        bytea NOT NULL,
    PRIMARY KEY (stream, journal, position, place)
);
CREATE INDEX stream_rejects_by_time ON market.stream_rejects (received_at);
COMMENT ON TABLE market.stream_rejects IS 'Frames and events that could not be read: their beginning, for a person. The whole frame is in the journal.';

-- Ticks, for those who want them here ------------------------------------------------------------------------

CREATE TABLE market.stream_trades (
    market      text NOT NULL,
    symbol      text NOT NULL,
    session     date NOT NULL,
    ts          timestamptz NOT NULL,
    ts_ns       bigint NOT NULL,
    received_at timestamptz NOT NULL,
    seq         bigint NOT NULL,
    price       double precision NOT NULL,
    size        double precision,
    exchange    text NOT NULL,
    trade_id    text NOT NULL,
    conditions  text NOT NULL,
    marks       integer NOT NULL,
    feed        text NOT NULL,
    PRIMARY KEY (market, symbol, session, seq, exchange, trade_id)
);
COMMENT ON TABLE market.stream_trades IS 'Only with STREAM_TICKS_IN_DATABASE: the tick lake has them in any case.';
COMMENT ON COLUMN market.stream_trades.ts_ns IS 'Nanoseconds since 1970; ts has microseconds.';

CREATE TABLE market.stream_quotes (
    market       text NOT NULL,
    symbol       text NOT NULL,
    session      date NOT NULL,
    ts           timestamptz NOT NULL,
    ts_ns        bigint NOT NULL,
    received_at  timestamptz NOT NULL,
    seq          bigint NOT NULL,
    bid          double precision,
    ask          double precision,
    bid_size     double precision,
    ask_size     double precision,
    bid_exchange text NOT NULL,
    ask_exchange text NOT NULL,
    conditions   text NOT NULL,
    marks        integer NOT NULL,
    feed         text NOT NULL,
    PRIMARY KEY (market, symbol, session, seq, ts_ns)
);
COMMENT ON TABLE market.stream_quotes IS 'Only with STREAM_TICKS_IN_DATABASE: the tick lake has them in any case.';

-- Bars out of the stream -------------------------------------------------------------------------------------

CREATE TABLE market.stream_bars (
    market      text NOT NULL,
    symbol      text NOT NULL,
    ts          timestamptz NOT NULL,
    open        double precision NOT NULL,
    high        double precision NOT NULL,
    low         double precision NOT NULL,
    close       double precision NOT NULL,
    volume      double precision NOT NULL,
    vwap        double precision,
    feed        text NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (market, symbol, ts)
);
COMMENT ON TABLE market.stream_bars IS
    'Minute bars as the stream told them (the newest version of each), for those who cannot wait for the close; bars_from_ticks is made of the trades themselves.';

CREATE TABLE market.bars_from_ticks (
    market       text NOT NULL,
    symbol       text NOT NULL,
    session      date NOT NULL,
    ts           timestamptz NOT NULL,
    phase        text NOT NULL CHECK (phase IN ('pre', 'regular', 'post')),
    open         double precision NOT NULL,
    high         double precision NOT NULL,
    low          double precision NOT NULL,
    close        double precision NOT NULL,
    volume       double precision NOT NULL,
    vwap         double precision,
    trades       integer NOT NULL,
    source       text NOT NULL CHECK (source IN ('trades', 'snapshots')),
    complete     boolean NOT NULL,
    feed         text NOT NULL,
    built_at     timestamptz NOT NULL,
    PRIMARY KEY (market, symbol, ts)
);
CREATE INDEX bars_from_ticks_by_session ON market.bars_from_ticks (market, session);
COMMENT ON TABLE market.bars_from_ticks IS 'Minute bars built after the close from what was streamed, by the rules of the consolidated tape.';
COMMENT ON COLUMN market.bars_from_ticks.complete IS 'False where the minute lies in a gap of the stream that history has not filled.';
COMMENT ON COLUMN market.bars_from_ticks.source IS 'snapshots: seen every few seconds, so that a high or low between two looks is known by the day''s only.';

-- The lake ---------------------------------------------------------------------------------------------------

ALTER TABLE market.tick_segments DROP CONSTRAINT tick_segments_kind;
ALTER TABLE market.tick_segments ADD CONSTRAINT tick_segments_kind
    CHECK (kind IN ('trades', 'quotes', 'aggregates', 'snapshots'));
ALTER TABLE market.tick_segments
    ADD COLUMN stream text,
    ADD COLUMN first_position bigint,
    ADD COLUMN last_position bigint;
COMMENT ON COLUMN market.tick_segments.first_position IS 'Of the journal of its stream; NULL where it was not streamed.';
