#!lua flags=allow-oom
-- The robots.txt of an origin was fetched, or is not there: its rules for every worker, and a page if it names sitemaps.
-- ARGV, by name: token; elapsed (ms since the lease); latency (ms); size (bytes fetched); rules (packed); valid (ms);
--       crawl_delay (ms); page ('': none)
-- Returns 0 if the lease was lost.
local arg = named()
local lease = take(arg.token, arg.elapsed)
if not lease then return 0 end
local host, h, origin = lease.host, p .. 'h:' .. lease.host, origin_of(lease.member)
call('HDEL', h, 'strikes')
call('HDEL', p .. 'attempts', url_of(host, lease.member))
call('SREM', p .. 'norobots', host)
count_request(lease, arg.size)
count('robots')
if arg.page ~= '' then
  call('XADD', p .. 'pages', '*', 'page', arg.page)
  count('pages')
end
keep_rules(host, origin, arg.rules, arg.valid)
-- The host rests as the origin wants that asks for most.
local delay = call('HMGET', h, 'crawl_delay', 'delayed_by')
if tonumber(arg.crawl_delay) >= tonumber(delay[1] or 0) or delay[2] == origin then
  if tonumber(arg.crawl_delay) > 0 then
    call('HSET', h, 'crawl_delay', arg.crawl_delay, 'delayed_by', origin)
  else
    call('HDEL', h, 'crawl_delay', 'delayed_by')
  end
end
place(host, now_ms() + rest(host, arg.latency))
return 1
