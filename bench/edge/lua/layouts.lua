-- Every request has a header block that no request had before. Arguments: the entity tag, a word that no other run has.
-- The requests are made before the clock starts. A long run comes round to the first again after 131,072 others, which
-- is more than a memory of header blocks with a sensible bound can hold.
dofile("report.lua")

local POOL = 131072
local requests = {}
local count = 0

function init(args)
  for number = 1, POOL do
    requests[number] = wrk.format("GET", wrk.path, {
      ["Accept"] = "*/*",
      ["Accept-Language"] = "de-AT,de;q=0.9",
      ["Accept-Encoding"] = "identity",
      ["Connection"] = "keep-alive",
      ["If-None-Match"] = args[1],
      ["User-Agent"] = "Models/" .. number .. " CFNetwork/1494.0.7 Darwin/23.4.0",
      ["X-Request-Id"] = args[2] .. "-" .. number,
    })
  end
  prepared = os.clock()
end

function request()
  count = count % POOL + 1
  return requests[count]
end
