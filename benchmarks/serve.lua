-- What `wrk` sends: forms with one picture each, in turn. The name of a picture tells what is expected of it, and what
-- is answered is compared, so that no caller gets another's answer unnoticed.
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  local folder, field = args[1], args[2]
  requests, place = {}, math.random(1000)
  ok, wrong, refused, other = 0, 0, 0, 0
  for line in io.lines(folder .. "/pictures.tsv") do
    local path, expected = line:match("([^\t]*)\t(.*)")
    local file = io.open(path, "rb")
    local body = "--limit\r\ncontent-disposition: form-data; name=\"" .. field .. "\"; filename=\"" .. expected ..
      "\"\r\n\r\n" .. file:read("*a") .. "\r\n--limit--\r\n"
    file:close()
    local headers = { ["content-type"] = "multipart/form-data; boundary=limit" }
    table.insert(requests, wrk.format("POST", "/predict", headers, body))
  end
end

function request()
  place = place % #requests + 1
  return requests[place]
end

function response(status, headers, body)
  if status == 200 then
    local name = body:match('"path":"(.-)"')
    local label, probability = body:match('"label":"(.-)","probability":(.-),')
    if name == nil or name == label .. " " .. probability then ok = ok + 1 else wrong = wrong + 1 end
  elseif status == 503 then
    refused = refused + 1
  elseif status == 422 and body:match('"path": ?"unusable"') then
    ok = ok + 1
  else
    other = other + 1
  end
end

function done(summary, latency, _)
  local sums = { ok = 0, wrong = 0, refused = 0, other = 0 }
  for _, thread in ipairs(threads) do
    for name in pairs(sums) do sums[name] = sums[name] + thread:get(name) end
  end
  local errors = summary.errors
  io.write(string.format(
    '{"seconds": %f, "ok": %d, "wrong": %d, "refused": %d, "other": %d, "lost": %d, "p50": %f, "p99": %f}\n',
    summary.duration / 1e6, sums.ok, sums.wrong, sums.refused, sums.other,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e6, latency:percentile(99) / 1e6))
end
