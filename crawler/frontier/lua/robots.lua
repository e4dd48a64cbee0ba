#!lua flags=allow-oom
-- A host's robots.txt was fetched, or is not there: its rules for every worker, and a page if it names sitemaps.
-- ARGV, by name: token; latency (ms); size (bytes fetched); rules; valid (ms); crawl_delay (ms); page ('': none)
-- Returns 0 if the lease was lost.
local arg = named()
local lease = take(arg.token)
if not lease then return 0 end
local host, h, now = lease.host, p .. 'h:' .. lease.host, now_ms()
call('HDEL', h, 'inflight', 'strikes')
call('HDEL', p .. 'attempts', url_of(host, lease.member))
call('SREM', p .. 'norobots', host)
count_request(host, arg.size)
count('robots')
if arg.page ~= '' then
  call('XADD', p .. 'pages', '*', 'page', arg.page)
  count('pages')
end
if arg.rules ~= '' then call('SET', p .. 'r:' .. host, arg.rules) else call('DEL', p .. 'r:' .. host) end
call('HSET', h, 'robots_until', now + arg.valid)
if tonumber(arg.crawl_delay) > 0 then call('HSET', h, 'crawl_delay', arg.crawl_delay) else call('HDEL', h, 'crawl_delay') end
place(host, now + resting(rules('delay', 'latency_factor', 'longest_delay'))(arg.latency, arg.crawl_delay))
return 1
