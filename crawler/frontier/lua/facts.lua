#!lua flags=no-writes,allow-oom
-- What is known of hosts, for people.
-- ARGV: hosts
-- Returns of each the time of the crawl and what its hash has, as JSON; '' if it was never met.
local found, now = {}, now_ms()
for i, host in ipairs(ARGV) do
  local known, facts = call('HGETALL', p .. 'h:' .. host), {now = now}
  for at = 1, #known, 2 do facts[known[at]] = known[at + 1] end
  facts.best = call('ZCARD', p .. 'q:' .. host)
  facts.spent = call('SISMEMBER', p .. 'spent', host)
  facts.cooling = call('ZSCORE', p .. 'cooling', host) or nil
  facts.busy = facts.shared and call('ZSCORE', p .. 'w:' .. facts.domain, host) or nil
  found[i] = facts.next and cjson.encode(facts) or ''
end
return found
