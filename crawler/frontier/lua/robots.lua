#!lua flags=allow-oom
-- A host's robots.txt was fetched, or is not there: its rules for every worker, and a page if it names sitemaps.
-- ARGV: token, rest ms, bytes fetched, page ('': none), rules, valid ms, Crawl-delay ms
-- Returns 0 if the lease was lost.
local lease = take(ARGV[1])
if not lease then return 0 end
local host, h, now = lease.host, p .. 'h:' .. lease.host, now_ms()
call('HDEL', h, 'inflight', 'strikes')
call('HDEL', p .. 'attempts', url_of(host, lease.member))
call('SREM', p .. 'norobots', host)
count_request(host, ARGV[3])
count('robots')
if ARGV[4] ~= '' then
  call('XADD', p .. 'pages', '*', 'page', ARGV[4])
  count('pages')
end
if ARGV[5] ~= '' then call('SET', p .. 'r:' .. host, ARGV[5]) else call('DEL', p .. 'r:' .. host) end
call('HSET', h, 'robots_until', now + ARGV[6])
if tonumber(ARGV[7]) > 0 then call('HSET', h, 'crawl_delay', ARGV[7]) else call('HDEL', h, 'crawl_delay') end
place(host, now + rest(host, ARGV[2]))
return 1
