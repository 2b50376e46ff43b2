-- What the questions of queries.py are answered from. Every row and state is idempotent: an event that is inserted twice
-- changes nothing, on servers without de-duplication too. ADR 22 says why these tables and no others.
--
-- Each table gets its view first, and what is there already afterwards: what arrives in between comes twice, which does
-- no harm; the other order would lose it.

-- What each device was and held in each hour, by its last events. tells: whether the event says which version the device
-- holds; it is part of the key, so that an event that tells nothing does not replace one that tells.
-- device: a hash of device_id, which groups several times as fast. Columns are plain: states are slower to read.
CREATE TABLE IF NOT EXISTS device_hours (
    organization_id LowCardinality(String),
    application_id LowCardinality(String),
    environment LowCardinality(String),
    model LowCardinality(String),
    hour DateTime('UTC'),
    device UInt64,
    tells UInt8,
    arrival UInt64,
    held UInt32,
    device_id String,
    os LowCardinality(String),
    os_version LowCardinality(String),
    device_model LowCardinality(String),
    app_version LowCardinality(String),
    locale LowCardinality(String)
) ENGINE = ReplacingMergeTree(arrival)
PARTITION BY toYYYYMM(hour)
ORDER BY (organization_id, application_id, environment, model, hour, device, tells);

CREATE MATERIALIZED VIEW IF NOT EXISTS device_hours_feed TO device_hours AS
SELECT organization_id, application_id, environment, model, toStartOfHour(received_at) AS hour,
    cityHash64(device_id) AS device,
    toUInt8(type = 'check' OR type = 'activate' OR isNotNull(from_version)) AS tells,
    arrival,
    toUInt32(ifNull(if(type = 'check' OR type = 'activate', version, from_version), toUInt32(0))) AS held,
    device_id, os, os_version, device_model, app_version, locale
FROM raw_events
WHERE model != '';

INSERT INTO device_hours
SELECT organization_id, application_id, environment, model, toStartOfHour(received_at) AS hour,
    cityHash64(device_id) AS device,
    toUInt8(type = 'check' OR type = 'activate' OR isNotNull(from_version)) AS tells,
    arrival,
    toUInt32(ifNull(if(type = 'check' OR type = 'activate', version, from_version), toUInt32(0))) AS held,
    device_id, os, os_version, device_model, app_version, locale
FROM raw_events
WHERE model != '';

-- The steps of updates, and their errors: a narrow copy of the few events that are no checks, sorted for the questions
-- about a version. Sums and percentiles are taken over distinct events (event: a hash of event_id), so that a retry
-- doubles none. bytes, full_bytes: 0 when the device did not tell; duration_ms: -1.
CREATE TABLE IF NOT EXISTS updates (
    organization_id LowCardinality(String),
    application_id LowCardinality(String),
    environment LowCardinality(String),
    model LowCardinality(String),
    type LowCardinality(String),
    version UInt32,
    day Date,
    device UInt64,
    event UInt64,
    arrival UInt64,
    device_id String,
    bytes UInt64,
    full_bytes UInt64,
    duration_ms Int64,
    encoding LowCardinality(String),
    error String
) ENGINE = ReplacingMergeTree(arrival)
PARTITION BY toYYYYMM(day)
ORDER BY (organization_id, application_id, environment, model, type, version, day, device, event);

CREATE MATERIALIZED VIEW IF NOT EXISTS updates_feed TO updates AS
SELECT organization_id, application_id, environment, model, type, ifNull(version, toUInt32(0)) AS version, day,
    cityHash64(device_id) AS device, cityHash64(toString(event_id)) AS event, arrival, device_id,
    ifNull(bytes, toUInt64(0)) AS bytes, ifNull(full_bytes, ifNull(bytes, toUInt64(0))) AS full_bytes,
    toInt64(ifNull(duration_ms, toInt64(-1))) AS duration_ms, encoding, error
FROM raw_events
WHERE model != '' AND type IN ('download', 'verify', 'activate', 'error');

INSERT INTO updates
SELECT organization_id, application_id, environment, model, type, ifNull(version, toUInt32(0)) AS version, day,
    cityHash64(device_id) AS device, cityHash64(toString(event_id)) AS event, arrival, device_id,
    ifNull(bytes, toUInt64(0)) AS bytes, ifNull(full_bytes, ifNull(bytes, toUInt64(0))) AS full_bytes,
    toInt64(ifNull(duration_ms, toInt64(-1))) AS duration_ms, encoding, error
FROM raw_events
WHERE model != '' AND type IN ('download', 'verify', 'activate', 'error');

-- When something last arrived for an hour, by ClickHouse's own clock: it tells whether a kept figure still holds.
CREATE TABLE IF NOT EXISTS arrivals (
    organization_id LowCardinality(String),
    application_id LowCardinality(String),
    environment LowCardinality(String),
    model LowCardinality(String),
    hour DateTime('UTC'),
    inserted_at AggregateFunction(max, DateTime)
) ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (organization_id, application_id, environment, model, hour);

CREATE MATERIALIZED VIEW IF NOT EXISTS arrivals_feed TO arrivals AS
SELECT organization_id, application_id, environment, model, toStartOfHour(received_at) AS hour,
    maxState(now()) AS inserted_at
FROM raw_events
WHERE model != ''
GROUP BY organization_id, application_id, environment, model, hour;

INSERT INTO arrivals
SELECT organization_id, application_id, environment, model, hour, maxState(now()) AS inserted_at
FROM device_hours
GROUP BY organization_id, application_id, environment, model, hour;

-- Days whose raw events are gone.
INSERT INTO arrivals
SELECT organization_id, application_id, environment, model,
    toDateTime(concat(toString(day), ' 00:00:00'), 'UTC') AS hour, maxState(now()) AS inserted_at
FROM device_days
GROUP BY organization_id, application_id, environment, model, hour;

-- Figures of days and hours that are over: counted once from the tables above, and kept as numbers while nothing more
-- arrives for them. model: all names that the model has had. Of a period, the rows of the newest kept_at count.
CREATE TABLE IF NOT EXISTS kept_figures (
    organization_id LowCardinality(String),
    application_id LowCardinality(String),
    environment LowCardinality(String),
    model String,
    question LowCardinality(String),
    period DateTime('UTC'),
    value String,
    numbers Array(UInt64),
    kept_at DateTime('UTC')
) ENGINE = ReplacingMergeTree(kept_at)
PARTITION BY toYYYYMM(period)
ORDER BY (organization_id, application_id, environment, model, question, period, value)
SETTINGS index_granularity = 256;

-- A retried insert is recognized by its token, in the tables that the views feed too.
-- requires: 22.3
ALTER TABLE device_hours MODIFY SETTING non_replicated_deduplication_window = 1000;
-- requires: 22.3
ALTER TABLE updates MODIFY SETTING non_replicated_deduplication_window = 1000;
-- requires: 22.3
ALTER TABLE arrivals MODIFY SETTING non_replicated_deduplication_window = 1000;

-- Rows are kept as long as those of the daily table (0002).
-- requires: 22.3
ALTER TABLE device_hours MODIFY TTL hour + INTERVAL 730 DAY;
-- requires: 22.3
ALTER TABLE updates MODIFY TTL day + INTERVAL 730 DAY;
-- requires: 22.3
ALTER TABLE arrivals MODIFY TTL hour + INTERVAL 730 DAY;
-- requires: 22.3
ALTER TABLE kept_figures MODIFY TTL period + INTERVAL 730 DAY;

-- Texts, and numbers that differ a little from row to row, pack better than with the default.
-- requires: 22.3
ALTER TABLE raw_events MODIFY COLUMN arrival UInt64 CODEC(Delta, ZSTD(1)), MODIFY COLUMN error String CODEC(ZSTD(1));
-- requires: 22.3
ALTER TABLE device_hours
    MODIFY COLUMN arrival UInt64 CODEC(Delta, ZSTD(1)), MODIFY COLUMN device_id String CODEC(ZSTD(1));
-- requires: 22.3
ALTER TABLE updates MODIFY COLUMN device_id String CODEC(ZSTD(1)), MODIFY COLUMN error String CODEC(ZSTD(1));
