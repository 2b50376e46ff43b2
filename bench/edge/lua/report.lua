-- What wrk counted, exact and in one line; its own report rounds to three digits. Every script loads this one, and sets
-- `prepared` at the end of its `init`: the generator's CPU counts from there.
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init()
  prepared = os.clock()
end

function done(summary, latency, requests)
  io.write(string.format(
    'skafos-bench {"requests": %d, "bytes": %d, "duration_us": %d, "cpu_us": %d, "connect_errors": %d, '
      .. '"read_errors": %d, "write_errors": %d, "status_errors": %d, "timeouts": %d}\n',
    summary.requests, summary.bytes, summary.duration, (os.clock() - threads[1]:get("prepared")) * 1e6,
    summary.errors.connect, summary.errors.read, summary.errors.write, summary.errors.status, summary.errors.timeout))
end
