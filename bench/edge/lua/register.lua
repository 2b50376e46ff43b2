-- Each request registers another device. Arguments: a word that no other run has, and a file with the body.
dofile("report.lua")

local POOL = 65536
local requests = {}
local count = 0

function init(args)
  local file = assert(io.open(args[2], "rb"))
  local body = file:read("*a")
  file:close()
  for number = 1, POOL do
    local path = wrk.path .. args[1] .. "-" .. number
    requests[number] = wrk.format("PUT", path, {["Content-Type"] = "application/json"}, body)
  end
  prepared = os.clock()
end

function request()
  count = count % POOL + 1
  return requests[count]
end
