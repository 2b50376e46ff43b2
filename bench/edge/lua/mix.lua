-- 99 of 100 requests are conditional, the last one is not. Arguments: the entity tag.
dofile("report.lua")

local conditional, whole
local count = 0

function init(args)
  whole = wrk.format("GET", wrk.path, {})
  conditional = wrk.format("GET", wrk.path, {["If-None-Match"] = args[1]})
  prepared = os.clock()
end

function request()
  count = count + 1
  if count % 100 == 0 then
    return whole
  end
  return conditional
end
