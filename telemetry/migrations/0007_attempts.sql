-- How far each device came on the way to each version, a row for what it said of that in one batch: download, verify and
-- activate are three rows in updates and one here, so what counts devices reads and groups a third of the rows.
--
-- steps: a bit each for download (1), verify (2), activate (4) and error (8). It is part of the key, so that what comes
-- again replaces itself and nothing else. earliness: bitNot of the arrival; of the rows of a key the earliest stays.
CREATE TABLE IF NOT EXISTS attempts (
    organization_id LowCardinality(String),
    application_id LowCardinality(String),
    environment LowCardinality(String),
    model LowCardinality(String),
    version UInt32,
    day Date,
    device UInt64,
    steps UInt8,
    earliness UInt64,
    device_id String
) ENGINE = ReplacingMergeTree(earliness)
PARTITION BY toYYYYMM(day)
ORDER BY (organization_id, application_id, environment, model, version, day, device, steps);

-- A batch's events arrive in one millisecond; arrival counts them up behind it.
CREATE MATERIALIZED VIEW IF NOT EXISTS attempts_feed TO attempts AS
SELECT organization_id, application_id, environment, model, assumeNotNull(version) AS version, day,
    cityHash64(device_id) AS device,
    toUInt8(groupBitOr(transform(type, ['download', 'verify', 'activate'], [1, 2, 4], 8))) AS steps,
    bitNot(min(arrival)) AS earliness, device_id
FROM raw_events
WHERE model != '' AND type IN ('download', 'verify', 'activate', 'error') AND version > 0
GROUP BY organization_id, application_id, environment, model, version, day, device_id, intDiv(arrival, 1000);

-- What is there already goes in by events, without a sum over all of them.
INSERT INTO attempts
SELECT organization_id, application_id, environment, model, version, day, device,
    toUInt8(transform(type, ['download', 'verify', 'activate'], [1, 2, 4], 8)) AS steps,
    bitNot(arrival) AS earliness, device_id
FROM updates
WHERE version > 0;

-- A retried insert is recognized by its token.
-- requires: 22.3
ALTER TABLE attempts MODIFY SETTING non_replicated_deduplication_window = 1000;

-- As long as updates.
-- requires: 22.3
ALTER TABLE attempts MODIFY TTL day + INTERVAL 730 DAY;
-- requires: 22.3
ALTER TABLE attempts MODIFY COLUMN device_id String CODEC(ZSTD(1));
