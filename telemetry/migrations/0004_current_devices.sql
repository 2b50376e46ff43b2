-- The current state of each device: what it is and holds, and its last error. A device has a row for each kind of event
-- (0: an event that tells nothing, 1: it tells which version the device holds, 2 and 3: the same of errors), so that no
-- kind replaces another; device is a hash of device_id. When it first activated each version is in the table updates.
CREATE TABLE IF NOT EXISTS device_states (
    organization_id LowCardinality(String),
    application_id LowCardinality(String),
    environment LowCardinality(String),
    model LowCardinality(String),
    device UInt64,
    kind UInt8,
    arrival UInt64,
    received_at DateTime('UTC'),
    device_id String,
    held UInt32,
    tried UInt32,
    error String,
    os LowCardinality(String),
    os_version LowCardinality(String),
    device_model LowCardinality(String),
    app_version LowCardinality(String),
    locale LowCardinality(String)
) ENGINE = ReplacingMergeTree(arrival)
ORDER BY (organization_id, application_id, environment, model, device, kind);

CREATE MATERIALIZED VIEW IF NOT EXISTS device_states_feed TO device_states AS
SELECT organization_id, application_id, environment, model, cityHash64(device_id) AS device,
    toUInt8((type = 'check' OR type = 'activate' OR isNotNull(from_version)) + 2 * (type = 'error')) AS kind,
    arrival, received_at, device_id,
    toUInt32(ifNull(if(type = 'check' OR type = 'activate', version, from_version), toUInt32(0))) AS held,
    ifNull(version, toUInt32(0)) AS tried, error, os, os_version, device_model, app_version, locale
FROM raw_events
WHERE model != '';

INSERT INTO device_states
SELECT organization_id, application_id, environment, model, cityHash64(device_id) AS device,
    toUInt8((type = 'check' OR type = 'activate' OR isNotNull(from_version)) + 2 * (type = 'error')) AS kind,
    arrival, received_at, device_id,
    toUInt32(ifNull(if(type = 'check' OR type = 'activate', version, from_version), toUInt32(0))) AS held,
    ifNull(version, toUInt32(0)) AS tried, error, os, os_version, device_model, app_version, locale
FROM raw_events
WHERE model != '';

-- A retried insert is recognized by its token.
-- requires: 22.3
ALTER TABLE device_states MODIFY SETTING non_replicated_deduplication_window = 1000;
