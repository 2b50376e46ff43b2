-- What newer servers do better; 18.16 works without.

-- A retried insert is recognized by its token, in the tables that the views feed too.
-- requires: 22.3
ALTER TABLE raw_events MODIFY SETTING non_replicated_deduplication_window = 1000;
-- requires: 22.3
ALTER TABLE device_days MODIFY SETTING non_replicated_deduplication_window = 1000;
-- requires: 22.3
ALTER TABLE devices MODIFY SETTING non_replicated_deduplication_window = 1000;

-- Raw events are kept for 90 days, the daily table (one row a device and day) for two years.
-- requires: 22.3
ALTER TABLE raw_events MODIFY TTL day + INTERVAL 90 DAY;
-- requires: 22.3
ALTER TABLE device_days MODIFY TTL day + INTERVAL 730 DAY;
