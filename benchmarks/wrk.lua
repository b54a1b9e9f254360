-- Posts the lines of a file, one after the other, and prints what wrk measured as JSON.
--   wrk ... -s wrk.lua URL -- FILE
local requests, sent = {}, 0

function init(arguments)
  if arguments[1] then
    for line in io.lines(arguments[1]) do
      requests[#requests + 1] = wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, line)
    end
  else
    requests[1] = wrk.format("GET")
  end
end

function request()
  sent = sent % #requests + 1
  return requests[sent]
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'result {"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "p999": %d, "failed": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
