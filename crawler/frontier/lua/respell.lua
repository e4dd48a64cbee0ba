#!lua flags=allow-oom
-- The page is at another address of its own: the lease was of one spelling, and the URL waits under the one it was sent to.
-- A request as any other, and an attempt, so that spellings that point to each other end as a dead letter.
-- ARGV, by name: token; told, elapsed, took; latency (ms); size (bytes fetched); to (member)
-- Returns 0 if the lease was lost.
local arg = named()
local lease = take(arg.token)
if not lease then return 0 end
local host, from, to = lease.host, url_of(lease.host, lease.member), url_of(lease.host, arg.to)
count_request(lease, arg.size)
call('HDEL', p .. 'h:' .. host, 'strikes')
local known, failures = call('HGET', p .. 'revisit', from), call('HGET', p .. 'attempts', from)
if known then
  call('HSET', p .. 'revisit', to, known)
  call('HDEL', p .. 'revisit', from)
end
call('HDEL', p .. 'attempts', from)
if failures then call('HSET', p .. 'attempts', to, failures) end
lease.member = arg.to
fail(lease, 'respelled', rules('attempts'), lease.promise)
place(host, now_ms() + rest(host, arg.latency))
return 1
