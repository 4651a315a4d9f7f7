local header, cookie = "{{header}}", "{{cookie}}"
local randomness = assert(io.open("/dev/urandom", "rb"))

local function mint()
  return (randomness:read(16):gsub(".", function(c) return string.format("%02x", c:byte()) end))
end

local function from_cookies(headers)
  for index = 0, headers:getNumValues("cookie") - 1 do
    for name, value in headers:getAtIndex("cookie", index):gmatch("([^=;%s]+)=([^;]*)") do
      if name == cookie then
        value = value:gsub('^"(.*)"$', "%1"):gsub("%s+$", "")
        if value ~= "" then return value end
      end
    end
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local given = headers:getNumValues(header)
  local unit = given > 0 and headers:getAtIndex(header, 0) or ""
  if given == 1 and unit ~= "" then return end
  if unit == "" then unit = from_cookies(headers) end
  if unit == nil then
    unit = mint()
    handle:streamInfo():dynamicMetadata():set("tidegate", "minted", unit)
  end
  headers:replace(header, unit)
  handle:clearRouteCache()
end

function envoy_on_response(handle)
  local ours = handle:streamInfo():dynamicMetadata():get("tidegate")
  if ours ~= nil and ours.minted ~= nil then
    local attributes = "; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax"
    handle:headers():add("set-cookie", cookie .. "=" .. ours.minted .. attributes)
  end
end
