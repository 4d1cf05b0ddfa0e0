-- What is listed ---------------------------------------------------------------------------------------------

ALTER TABLE market.stocks
    ADD COLUMN venue text,
    ADD COLUMN security_type text,
    ADD COLUMN figi text,
    ADD COLUMN listed_by text,
    ADD COLUMN followed boolean NOT NULL DEFAULT true;
CREATE INDEX stocks_by_figi ON market.stocks (market, figi) WHERE figi IS NOT NULL;
COMMENT ON COLUMN market.stocks.venue IS 'Where it is listed, as the provider of the list names it: NASDAQ, NYSE ARCA, XNYS.';
COMMENT ON COLUMN market.stocks.security_type IS 'equity, etf, preferred, warrant, unit, right, fund, other: finer than kind.';
COMMENT ON COLUMN market.stocks.listed_by IS 'Whose list of the exchange names it; NULL where no list has named it yet.';
COMMENT ON COLUMN market.stocks.followed IS 'Named by the market file or pulled by somebody; false where only a list of the exchange names it.';

CREATE TABLE market.listing_history (
    listing_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    market         text NOT NULL,
    symbol         text NOT NULL,
    company_name   text NOT NULL,
    figi           text,
    venue          text,
    security_type  text,
    valid_from     date NOT NULL,
    valid_to       date CHECK (valid_to >= valid_from),
    ended_by       text,
    other_symbol   text,
    provider       text NOT NULL,
    recorded_at    timestamptz NOT NULL,
    CONSTRAINT listing_history_end CHECK (
        (valid_to IS NULL) = (ended_by IS NULL)
        AND ended_by IN ('delisted', 'vanished', 'renamed', 'reused')
    )
);
CREATE UNIQUE INDEX listing_history_bearer ON market.listing_history (market, symbol) WHERE valid_to IS NULL;
CREATE INDEX listing_history_by_symbol ON market.listing_history (market, symbol, valid_from);
COMMENT ON TABLE market.listing_history IS
    'Who bore a ticker when. A ticker is not a company: it is renamed, and given to another one. stocks has its bearer of today.';
COMMENT ON COLUMN market.listing_history.valid_from IS 'The first session where the list says so, otherwise the day on which it was first seen.';
COMMENT ON COLUMN market.listing_history.valid_to IS 'The last day on which this company bore the ticker; NULL while it does.';
COMMENT ON COLUMN market.listing_history.ended_by IS
    'delisted (the provider gives the day), vanished (it was no longer on the list), renamed (other_symbol is what it is called since), reused (another company has the ticker).';

-- Who they are -----------------------------------------------------------------------------------------------

CREATE TABLE market.company_profiles (
    market             text NOT NULL,
    symbol             text NOT NULL,
    name               text NOT NULL,
    description        text,
    sector             text,
    industry           text,
    exchange           text,
    country            text,
    currency           text,
    website            text,
    employees          bigint,
    market_cap         double precision,
    shares_outstanding double precision,
    isin               text,
    figi               text,
    cik                text,
    provider           text NOT NULL,
    updated_at         timestamptz NOT NULL,
    checked_at         timestamptz NOT NULL,
    PRIMARY KEY (market, symbol)
);
COMMENT ON TABLE market.company_profiles IS
    'The newest profile of a company. What its provider left empty is kept from an earlier one.';
COMMENT ON COLUMN market.company_profiles.updated_at IS 'When it last changed; checked_at: when it was last asked for.';

-- Corporate actions, as each provider tells them ----------------------------------------------------------------

CREATE TABLE market.provider_actions (
    market     text NOT NULL,
    symbol     text NOT NULL,
    provider   text NOT NULL,
    ex_date    date NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('split', 'dividend')),
    value      double precision NOT NULL CHECK (value > 0 AND value < 'infinity'),
    claimed_at timestamptz NOT NULL,
    PRIMARY KEY (market, symbol, provider, ex_date, kind)
);
COMMENT ON TABLE market.provider_actions IS
    'What each provider says happened; corporate_actions is what was agreed on from it. Several dividends of one date are their sum.';
COMMENT ON COLUMN market.provider_actions.claimed_at IS 'Since when it has said so.';

INSERT INTO market.provider_actions (market, symbol, provider, ex_date, kind, value, claimed_at)
SELECT market, symbol, provider, ex_date, kind, coalesce(factor, amount), ingested_at
FROM market.corporate_actions;

CREATE TABLE market.action_flags (
    market      text NOT NULL,
    symbol      text NOT NULL,
    ex_date     date NOT NULL,
    kind        text NOT NULL,
    problem     text NOT NULL CHECK (problem IN ('unconfirmed', 'value', 'ex_date')),
    used        boolean NOT NULL,
    detail      text NOT NULL,
    claimed_by  text[] NOT NULL,
    denied_by   text[] NOT NULL,
    first_seen  timestamptz NOT NULL,
    resolved_at timestamptz,
    PRIMARY KEY (market, symbol, ex_date, kind, problem)
);
CREATE INDEX action_flags_open ON market.action_flags (market, ex_date) WHERE resolved_at IS NULL;
COMMENT ON TABLE market.action_flags IS
    'Where providers contradict each other about an action: one that another would have shown and does not, amounts or days that differ.';
COMMENT ON COLUMN market.action_flags.used IS 'Whether corporate_actions has it nevertheless.';
COMMENT ON COLUMN market.action_flags.resolved_at IS 'When the providers agreed; NULL while they do not.';

-- Quotes -----------------------------------------------------------------------------------------------------

CREATE TABLE market.latest_quotes (
    market         text NOT NULL,
    symbol         text NOT NULL,
    price          double precision NOT NULL CHECK (price < 'infinity' AND price > '-infinity'),
    currency       text NOT NULL,
    bid            double precision,
    ask            double precision,
    bid_size       double precision,
    ask_size       double precision,
    open           double precision,
    high           double precision,
    low            double precision,
    previous_close double precision,
    volume         double precision,
    session        date,
    quoted_at      timestamptz,
    as_of          timestamptz NOT NULL,
    provider       text NOT NULL,
    received_at    timestamptz NOT NULL,
    PRIMARY KEY (market, symbol)
) WITH (fillfactor = 70);  -- rewritten in place all day
COMMENT ON TABLE market.latest_quotes IS 'One row a symbol: the newest quote wins, whenever it arrives and whoever sent it.';
COMMENT ON COLUMN market.latest_quotes.quoted_at IS 'Of the latest trade; NULL where the provider does not say.';
COMMENT ON COLUMN market.latest_quotes.as_of IS
    'What newest means: quoted_at; else the end of its session where that is past; else when it arrived.';

-- Options ----------------------------------------------------------------------------------------------------

CREATE TABLE market.option_contracts (
    market     text NOT NULL,
    contract   text NOT NULL,
    underlying text NOT NULL,
    "right"    text NOT NULL CHECK ("right" IN ('call', 'put')),
    strike     double precision NOT NULL CHECK (strike > 0 AND strike < 'infinity'),
    expires    date NOT NULL,
    shares     double precision NOT NULL,
    style      text,
    exchange   text,
    provider   text NOT NULL,
    first_seen timestamptz NOT NULL,
    last_seen  timestamptz NOT NULL,
    PRIMARY KEY (market, contract)
);
CREATE INDEX option_contracts_by_expiry ON market.option_contracts (market, underlying, expires, strike);
COMMENT ON COLUMN market.option_contracts.contract IS 'As its provider spells it.';

CREATE TABLE market.option_quotes (
    market             text NOT NULL,
    contract           text NOT NULL,
    quoted_on          date NOT NULL,
    last               double precision,
    bid                double precision,
    ask                double precision,
    volume             double precision,
    open_interest      double precision,
    implied_volatility double precision,
    provider           text NOT NULL,
    received_at        timestamptz NOT NULL,
    PRIMARY KEY (market, contract, quoted_on)
);
COMMENT ON TABLE market.option_quotes IS
    'One row a contract and day: nobody sells the past of a chain cheaply, so that each day''s last look at it is kept.';
COMMENT ON COLUMN market.option_quotes.quoted_on IS 'The provider''s day, or the exchange''s date when it was asked.';

-- Venues -----------------------------------------------------------------------------------------------------

CREATE TABLE market.venue_status (
    market     text NOT NULL,
    provider   text NOT NULL,
    venue      text NOT NULL,
    status     text NOT NULL,
    opens      text NOT NULL,
    closes     text NOT NULL,
    note       text NOT NULL,
    checked_at timestamptz NOT NULL,
    PRIMARY KEY (market, provider, venue)
);
COMMENT ON TABLE market.venue_status IS 'What the provider said of its venues when it was last asked.';

CREATE TABLE market.venue_holidays (
    market     text NOT NULL,
    provider   text NOT NULL,
    venue      text NOT NULL,
    day        date NOT NULL,
    status     text NOT NULL,
    opens      text NOT NULL,
    closes     text NOT NULL,
    note       text NOT NULL,
    checked_at timestamptz NOT NULL,
    PRIMARY KEY (market, provider, venue, day)
);
COMMENT ON TABLE market.venue_holidays IS
    'Days on which the provider expects a venue to be closed or to close early. Sessions come from the calendar; this is compared with it.';
