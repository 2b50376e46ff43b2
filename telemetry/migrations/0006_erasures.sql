-- Devices and organizations that were erased: what comes of them later is left out. `subject` is empty for a whole
-- organization, else a hash of organization and device (telemetry/erasure.py), so that the list does not keep what it is
-- there to forget.
CREATE TABLE IF NOT EXISTS erasures (
    organization_id String,
    subject String,
    erased_on Date
) ENGINE = ReplacingMergeTree(erased_on)
PARTITION BY toYYYYMM(erased_on)
ORDER BY (organization_id, subject);

-- As long as the events themselves.
-- requires: 22.3
ALTER TABLE erasures MODIFY TTL erased_on + INTERVAL 90 DAY;
