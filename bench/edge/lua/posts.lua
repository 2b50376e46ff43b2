-- Posts another body each time: the lines of a file in turn. Arguments: the content type, the file. The requests are made
-- before the clock starts.
dofile("report.lua")

local requests = {}
local count = 0

function init(args)
  for body in io.lines(args[2]) do
    table.insert(requests, wrk.format("POST", wrk.path, {["Content-Type"] = args[1]}, body))
  end
  prepared = os.clock()
end

function request()
  count = count % #requests + 1
  return requests[count]
end
