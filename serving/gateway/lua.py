"""The one thing Envoy cannot do by itself: a sticky unit for a client that sends no header.

Envoy's own cookie hash policy does not set the cookie with weighted clusters, so a small Lua filter reads the cookie,
or mints one, and puts it in the unit header, where the hash policy finds it.
"""

from __future__ import annotations

import json

# The file handle and its buffer are shared by all requests of a worker: one read(2) serves 256 minted ids.
_SOURCE = """
local header, cookie = HEADER, COOKIE
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
"""


def unit_filter(header: str, cookie: str) -> str:
    """Return the filter's source for these (already checked) names; several values of the header count as the first."""
    return _SOURCE.replace("HEADER", json.dumps(header.lower())).replace("COOKIE", json.dumps(cookie), 1)
