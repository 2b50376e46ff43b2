-- What analysts ask beside the view events: a view for each family of questions, by what a device called the model. The
-- definitions are in docs/telemetry.md. An alias never has a column's name where the column is still needed: 18.16 would
-- put the one in place of the other.

CREATE VIEW IF NOT EXISTS adoption_by_day AS
SELECT organization_id, application_id, environment, model, day, held AS version, count() AS devices
FROM (
    SELECT organization_id, application_id, environment, model, day, device_id, argMaxMerge(version) AS held
    FROM device_days
    GROUP BY organization_id, application_id, environment, model, day, device_id
) AS device_day
GROUP BY organization_id, application_id, environment, model, day, held;

CREATE VIEW IF NOT EXISTS adoption_by_hour AS
SELECT organization_id, application_id, environment, model, hour, last_held AS version, count() AS devices
FROM (
    SELECT organization_id, application_id, environment, model, hour, device,
        argMax(held, if(tells = 1, arrival, toUInt64(0))) AS last_held
    FROM device_hours
    GROUP BY organization_id, application_id, environment, model, hour, device
) AS device_hour
GROUP BY organization_id, application_id, environment, model, hour, last_held;

CREATE VIEW IF NOT EXISTS active_devices_by_day AS
SELECT organization_id, application_id, environment, model, day, pair.1 AS dimension, pair.2 AS value,
    count() AS devices
FROM (
    SELECT organization_id, application_id, environment, model, toDate(hour) AS day, device,
        arrayJoin([
            ('os', argMax(toString(os), arrival)),
            ('os_version', argMax(toString(os_version), arrival)),
            ('device_model', argMax(toString(device_model), arrival)),
            ('app_version', argMax(toString(app_version), arrival)),
            ('locale', argMax(toString(locale), arrival))
        ]) AS pair
    FROM device_hours
    GROUP BY organization_id, application_id, environment, model, day, device
) AS device_day
GROUP BY organization_id, application_id, environment, model, day, dimension, value;

CREATE VIEW IF NOT EXISTS current_devices AS
SELECT organization_id, application_id, environment, model, any(device_id) AS id,
    argMax(held, if(kind % 2 = 1, arrival, toUInt64(0))) AS version,
    max(received_at) AS last_seen,
    argMax(os, arrival) AS last_os,
    argMax(os_version, arrival) AS last_os_version,
    argMax(device_model, arrival) AS last_device_model,
    argMax(app_version, arrival) AS last_app_version,
    argMax(locale, arrival) AS last_locale,
    argMax(if(kind >= 2, error, ''), if(kind >= 2, arrival, toUInt64(0))) AS last_error,
    argMax(if(kind >= 2, tried, toUInt32(0)), if(kind >= 2, arrival, toUInt64(0))) AS last_error_version
FROM device_states
GROUP BY organization_id, application_id, environment, model, device;

CREATE VIEW IF NOT EXISTS first_activations AS
SELECT organization_id, application_id, environment, model, version, device_id,
    toDateTime(intDiv(min(arrival), 1000000), 'UTC') AS activated_at
FROM updates
WHERE type = 'activate' AND version > 0
GROUP BY organization_id, application_id, environment, model, version, device_id;

-- Devices by the step they came to in each hour; who activated in it has downloaded and verified as well.
CREATE VIEW IF NOT EXISTS update_funnel_by_hour AS
SELECT organization_id, application_id, environment, model, version, hour,
    uniqExactMerge(state) AS tried,
    uniqExactMergeIf(state, type IN ('download', 'verify', 'activate')) AS downloaded,
    uniqExactMergeIf(state, type IN ('verify', 'activate')) AS verified,
    uniqExactMergeIf(state, type = 'activate') AS activated,
    uniqExactMergeIf(state, type = 'error') AS failed
FROM (
    SELECT organization_id, application_id, environment, model, version, type,
        toDateTime(intDiv(arrival, 3600000000) * 3600, 'UTC') AS hour, uniqExactState(device) AS state
    FROM updates
    WHERE version > 0
    GROUP BY organization_id, application_id, environment, model, version, type, hour
) AS step
GROUP BY organization_id, application_id, environment, model, version, hour;

CREATE VIEW IF NOT EXISTS update_failures_by_day AS
SELECT organization_id, application_id, environment, model, version, day, error,
    uniqExact(event) AS failures, uniqExact(device) AS devices
FROM updates
WHERE type = 'error'
GROUP BY organization_id, application_id, environment, model, version, day, error;

-- One row a download, however often it was reported; duration_ms is -1 when the device did not tell.
CREATE VIEW IF NOT EXISTS downloads AS
SELECT organization_id, application_id, environment, model, device_id, event,
    argMax(version, arrival) AS downloaded_version, argMax(day, arrival) AS downloaded_on,
    argMax(encoding, arrival) AS with_encoding, argMax(bytes, arrival) AS bytes_sent,
    argMax(full_bytes, arrival) AS bytes_whole, argMax(duration_ms, arrival) AS took_ms
FROM updates
WHERE type = 'download'
GROUP BY organization_id, application_id, environment, model, device_id, event;

-- Devices that tried a version and did not activate it: since when, how far they came, and their last error about it.
CREATE VIEW IF NOT EXISTS unfinished_updates AS
SELECT organization_id, application_id, environment, model, version, device_id,
    toDateTime(intDiv(min(arrival), 1000000), 'UTC') AS since,
    multiIf(max(type = 'verify') = 1, 'verify', max(type = 'download') = 1, 'download', 'check') AS step,
    argMax(if(type = 'error', error, ''), if(type = 'error', arrival, toUInt64(0))) AS last_error
FROM updates
WHERE version > 0
GROUP BY organization_id, application_id, environment, model, version, device_id
HAVING max(type = 'activate') = 0;
