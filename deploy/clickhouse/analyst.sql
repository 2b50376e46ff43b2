-- The same user for servers that keep users in SQL (20.4 and newer, with access_management for whoever runs this).
-- clickhouse-client --multiquery < analyst.sql, with a password, networks and the database of your own.
CREATE SETTINGS PROFILE IF NOT EXISTS skafos_analyst SETTINGS
    readonly = 1 CONST,
    max_execution_time = 60 CONST,
    max_memory_usage = 4000000000 CONST,
    max_memory_usage_for_user = 8000000000 CONST,
    max_concurrent_queries_for_user = 8 CONST;
CREATE USER IF NOT EXISTS analyst
    IDENTIFIED WITH sha256_password BY 'the password' HOST IP '10.0.0.0/8'
    SETTINGS PROFILE 'skafos_analyst';
GRANT SELECT ON skafos.* TO analyst;
