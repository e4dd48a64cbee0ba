#!lua flags=allow-oom
-- A robots.txt moved to another host (or to another origin of its own): that is an errand of the host it moved to.
-- ARGV: that host, its registrable domain, the member; then of each that asks for it: host, origin, redirects so far
-- Returns 0 if it may never be asked for, 1 if it will be, 2 if it is known: the valid rules of its origin.
-- Without a member: takes all errands from the host, and returns who asks for them, as JSON.
local host, domain, member = ARGV[1], ARGV[2], ARGV[3]
if not member then
  local askers = call('HVALS', p .. 'e:' .. host)
  call('DEL', p .. 'e:' .. host)
  return askers
end
local h, origin = p .. 'h:' .. host, origin_of(member)
local known = call('HMGET', h, 'gone', of_origin('robots_until', origin), 'domain')
if known[1] or call('SISMEMBER', p .. 'gone', url_of(host, member)) == 1 then return 0 end
if member == origin .. '/robots.txt' and tonumber(known[2] or 0) > now_ms() then return 2 end
local askers = {}
for i = 4, #ARGV, 3 do askers[#askers + 1] = {ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])} end
if #askers == 0 then return 1 end
if not known[3] then
  -- One too many of its domain is not met. Who waits for it does so in vain.
  if not meet(host, domain, rules('hosts_per_domain')) then return 1 end
  call('ZREM', p .. 'forgotten', host)
end
queue_errand(host, member, askers)
return 1
