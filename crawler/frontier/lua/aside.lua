#!lua flags=allow-oom
-- An entry of the stream that its reader could not go on with is kept beside it, to be looked at and tried again, and
-- the stream goes on. What is kept is bounded: of what is too much only the count goes up.
-- ARGV: the entry's id, what to do: 'keep' and the reason; 'retry' puts it at the end of the stream; 'drop' forgets it
-- Returns 1 if that was done.
local MOST, MOST_BYTES = 1000, 64 * 1024 * 1024  -- entries and their bytes: 10 KB each is a usual page
local id, what = ARGV[1], ARGV[2]
local known = call('HGET', p .. 'aside', id)

if what ~= 'keep' then
  local bytes = call('HGET', p .. 'aside_bytes', id)
  if not known or (what == 'retry' and not bytes) then return 0 end
  if what == 'retry' then call('XADD', p .. 'pages', '*', cjson.decode(known).kind, bytes) end
  call('HDEL', p .. 'aside', id)
  call('HDEL', p .. 'aside_bytes', id)
  count('set_aside', -1)
  count('set_aside_bytes', -#(bytes or ''))
  return 1
end

local entry = call('XRANGE', p .. 'pages', id, id)[1]
if known or not entry then return 0 end
if call('HLEN', p .. 'aside') >= MOST then
  count('set_aside_lost')
  return 0
end
local left = MOST_BYTES - (call('HGET', p .. 'counts', 'set_aside_bytes') or 0)
local kind, bytes = entry[2][1], entry[2][2]
if kind == 'at' then
  local name, first, length = string.match(bytes, '^(%S+) (%d+) (%d+)$')
  kind, bytes = 'page', ''
  if name and tonumber(length) <= left then
    bytes = call('GETRANGE', p .. 'b:' .. name, first, whole(first + length - 1))
  end
end
call('HSET', p .. 'aside', id, cjson.encode({reason = ARGV[3], kind = kind, at = now_ms()}))
count('set_aside')
if bytes ~= '' and #bytes <= left then
  call('HSET', p .. 'aside_bytes', id, bytes)
  count('set_aside_bytes', #bytes)
end
return 1
