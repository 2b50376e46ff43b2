-- One and the same conditional request, handed out by a function: what Lua costs the load generator. Arguments: the entity tag.
dofile("report.lua")

local conditional

function init(args)
  conditional = wrk.format("GET", wrk.path, {["If-None-Match"] = args[1]})
  prepared = os.clock()
end

function request()
  return conditional
end
