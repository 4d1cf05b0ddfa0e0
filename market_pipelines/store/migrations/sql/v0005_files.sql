CREATE TABLE market.tick_segments (
    path       text PRIMARY KEY,
    kind       text NOT NULL,
    feed       text NOT NULL,
    market     text NOT NULL,
    session    date NOT NULL,
    rows       bigint NOT NULL,
    symbols    text[] NOT NULL,
    first_ts   timestamptz NOT NULL,
    last_ts    timestamptz NOT NULL,
    bytes      bigint NOT NULL,
    source     text NOT NULL,
    written_at timestamptz NOT NULL,
    CONSTRAINT tick_segments_kind CHECK (kind IN ('trades', 'quotes', 'aggregates'))
);
CREATE INDEX tick_segments_by_session ON market.tick_segments (kind, session, feed);
CREATE INDEX tick_segments_by_symbol ON market.tick_segments USING gin (symbols);
COMMENT ON TABLE market.tick_segments IS
    'The segments of the tick lake that count: a file that is not listed here is what an interrupted writer left.';
COMMENT ON COLUMN market.tick_segments.path IS 'Below the lake''s folder.';
COMMENT ON COLUMN market.tick_segments.source IS 'What it was written from: a request, an imported file, a journal.';

CREATE TABLE market.file_imports (
    fingerprint text PRIMARY KEY,
    kind        text NOT NULL,
    market      text NOT NULL,
    name        text NOT NULL,
    bytes       bigint NOT NULL,
    position    text NOT NULL DEFAULT '',
    rows        bigint NOT NULL DEFAULT 0,
    stored      bigint NOT NULL DEFAULT 0,
    started_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    finished_at timestamptz
);
COMMENT ON TABLE market.file_imports IS 'How far each file was read and committed, so that an interrupted import goes on.';
COMMENT ON COLUMN market.file_imports.fingerprint IS 'Of the file''s size, its first and last bytes, and what of it was asked for.';
COMMENT ON COLUMN market.file_imports.position IS 'Up to where everything is stored: a member of a zip, or a number of rows.';
