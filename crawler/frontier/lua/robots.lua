#!lua flags=allow-oom
-- The robots.txt of an origin was fetched, or is not there: its rules for every worker, and a page if it names sitemaps.
-- ARGV, by name: token; told, elapsed, took; latency (ms); size (bytes fetched); rules (packed); valid (ms);
--       crawl_delay (ms); page ('': none)
-- Returns 0 if the lease was lost.
local arg = named()
local lease = take(arg.token)
if not lease then return 0 end
local host, origin = lease.host, origin_of(lease.member)
call('HDEL', p .. 'h:' .. host, 'strikes')
count_request(lease, arg.size)
count('robots')
if arg.page ~= '' then
  call('XADD', p .. 'pages', '*', 'page', arg.page)
  count('pages')
end
keep_robots(host, lease.origin, arg)
-- Moved within the host to where another origin has its own.
if origin ~= lease.origin and lease.member == origin .. '/robots.txt' then keep_robots(host, origin, arg) end
place(host, now_ms() + rest(host, arg.latency))
return 1
