-- What providers say differently of the same bar.

CREATE TABLE market.provider_disagreements (
    disagreement_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    market          text NOT NULL,
    symbol          text NOT NULL,
    session         date NOT NULL,
    provider        text NOT NULL,
    other           text NOT NULL,
    close           double precision NOT NULL,
    other_close     double precision NOT NULL,
    bp              double precision NOT NULL,
    volume          double precision,
    other_volume    double precision,
    volume_share    double precision,
    kind            text NOT NULL,
    tolerance_bp    double precision NOT NULL,
    first_seen      timestamptz NOT NULL,
    last_seen       timestamptz NOT NULL,
    times_seen      integer NOT NULL DEFAULT 1,
    resolved_at     timestamptz,
    run_id          text,
    CONSTRAINT provider_disagreements_kind CHECK (kind IN ('same', 'other')),
    CONSTRAINT provider_disagreements_pair UNIQUE (market, symbol, session, provider, other)
);
CREATE INDEX provider_disagreements_open ON market.provider_disagreements (market, session) WHERE resolved_at IS NULL;
COMMENT ON TABLE market.provider_disagreements IS
    'Final daily bars of two providers that are further apart than the market lets pass. The same pair again only counts up.';
COMMENT ON COLUMN market.provider_disagreements.provider IS 'Whose bar was agreed on.';
COMMENT ON COLUMN market.provider_disagreements.bp IS 'Between the closes: hundredths of a percent of their mean.';
COMMENT ON COLUMN market.provider_disagreements.volume_share IS 'Between the volumes, as a share of the larger one.';
COMMENT ON COLUMN market.provider_disagreements.kind IS 'Whether both closes are of one kind: official, consolidated, last trade.';
COMMENT ON COLUMN market.provider_disagreements.tolerance_bp IS 'What that kind lets pass. A bp within it: the volumes disagree.';
COMMENT ON COLUMN market.provider_disagreements.resolved_at IS 'Since when the two agree again, or are no longer compared; NULL while they do not.';
COMMENT ON COLUMN market.provider_disagreements.run_id IS 'The run that saw it last.';
