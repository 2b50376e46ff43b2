-- Posts a file's content again and again. Arguments: the content type, the file.
dofile("report.lua")

function init(args)
  local file = assert(io.open(args[2], "rb"))
  wrk.method = "POST"
  wrk.headers["Content-Type"] = args[1]
  wrk.body = file:read("*a")
  file:close()
  prepared = os.clock()
end
