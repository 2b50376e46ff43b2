-- Every accepted event, once. An event that comes twice, because a device or the shipper tried again, has the same
-- sorting key and is replaced. The key holds nothing that a second delivery could change (no received_at), so FINAL
-- finds duplicates whenever they come.
CREATE TABLE IF NOT EXISTS raw_events (
    organization_id LowCardinality(String),
    application_id LowCardinality(String),
    environment LowCardinality(String),
    model LowCardinality(String),
    type LowCardinality(String),
    device_id String,
    event_id UUID,
    day Date,
    received_at DateTime('UTC'),
    arrival UInt64,
    occurred_at DateTime('UTC'),
    version Nullable(UInt32),
    from_version Nullable(UInt32),
    bytes Nullable(UInt64),
    full_bytes Nullable(UInt64),
    duration_ms Nullable(UInt32),
    encoding LowCardinality(String),
    error String,
    os LowCardinality(String),
    os_version LowCardinality(String),
    device_model LowCardinality(String),
    app_version LowCardinality(String),
    locale LowCardinality(String),
    organization LowCardinality(String),
    application LowCardinality(String)
) ENGINE = ReplacingMergeTree(arrival)
PARTITION BY toYYYYMM(day)
ORDER BY (organization_id, application_id, environment, model, type, device_id, event_id);

-- What analysts ask.
CREATE VIEW IF NOT EXISTS events AS
SELECT event_id, type, occurred_at, received_at, device_id, model, version, from_version, bytes, full_bytes,
    duration_ms, encoding, error, os, os_version, device_model, app_version, locale,
    organization, application, environment, organization_id, application_id
FROM raw_events FINAL;

-- The version each device held on each day, by the last event of the day that tells. argMax and max are idempotent: an
-- event inserted twice changes nothing. Two tables of plain states, no counters, so a retried insert is harmless.
CREATE TABLE IF NOT EXISTS device_days (
    organization_id LowCardinality(String),
    application_id LowCardinality(String),
    environment LowCardinality(String),
    model LowCardinality(String),
    day Date,
    device_id String,
    version AggregateFunction(argMax, UInt32, UInt64)
) ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(day)
ORDER BY (organization_id, application_id, environment, model, day, device_id);

-- held_by: the arrival of an event that tells which version is in place (a check, an activation, or one with from_version), else 0.
CREATE MATERIALIZED VIEW IF NOT EXISTS device_days_feed TO device_days AS
SELECT organization_id, application_id, environment, model, day, device_id,
    argMaxState(
        toUInt32(ifNull(if(type = 'check' OR type = 'activate', version, from_version), toUInt32(0))),
        toUInt64(if(type = 'check' OR type = 'activate' OR isNotNull(from_version), arrival, toUInt64(0)))
    ) AS version
FROM raw_events
WHERE model != ''
GROUP BY organization_id, application_id, environment, model, day, device_id;

-- One row a device and model: the version it holds, when it was last heard of, whether it ever activated a version.
CREATE TABLE IF NOT EXISTS devices (
    organization_id LowCardinality(String),
    application_id LowCardinality(String),
    environment LowCardinality(String),
    model LowCardinality(String),
    device_id String,
    version AggregateFunction(argMax, UInt32, UInt64),
    activated AggregateFunction(max, UInt8),
    last_day AggregateFunction(max, Date)
) ENGINE = AggregatingMergeTree
ORDER BY (organization_id, application_id, environment, model, device_id);

CREATE MATERIALIZED VIEW IF NOT EXISTS devices_feed TO devices AS
SELECT organization_id, application_id, environment, model, device_id,
    argMaxState(
        toUInt32(ifNull(if(type = 'check' OR type = 'activate', version, from_version), toUInt32(0))),
        toUInt64(if(type = 'check' OR type = 'activate' OR isNotNull(from_version), arrival, toUInt64(0)))
    ) AS version,
    maxState(toUInt8(type = 'activate')) AS activated,
    maxState(day) AS last_day
FROM raw_events
WHERE model != ''
GROUP BY organization_id, application_id, environment, model, device_id;
