#!lua flags=allow-oom
-- The errand of a host whose robots.txt is at another one was done. Told twice, or to a host that does not wait for it,
-- it changes nothing.
-- ARGV, by name: host; origin; known (0: it could not be asked); rules (packed); valid (ms); crawl_delay (ms)
-- Returns 1 if it was waited for.
local arg = named()
local host, origin = arg.host, arg.origin
local h, now = p .. 'h:' .. host, now_ms()
local known = call('HMGET', h, 'awaits', 'inflight', 'gone')
local rested, of = string.match(known[1] or '', '^(%S+) (.*)$')
local lease = (known[2] or '') ~= '' and cjson.decode(call('HGET', p .. 'leases', known[2]))
-- The errand may be done before it is known that its host waits for it.
local asking = lease and lease.kind == 'robots' and lease.origin == origin
if known[3] or not (of == origin or asking) then return 0 end
if arg.known == '1' then
  keep_robots(host, origin, arg)
else
  back_off(host, {asked = 0, back_off = '1'})
end
if of == origin then
  call('HDEL', h, 'awaits')
  if not lease then place(host, math.max(now, tonumber(rested))) end
end
return 1
