#!lua flags=no-writes,allow-oom
-- What is known of hosts, for people.
-- ARGV: hosts
-- Returns of each the time of the crawl and what its hash has, as JSON; '' if it was never met.
local FIELDS = {
  'domain', 'shared', 'fetched', 'failed', 'failure', 'unreached', 'next', 'blocked', 'paused', 'gone', 'chosen',
  'crawl_delay', 'tail', 'cold', 'awaits', 'inflight',
}
local found = {}
for i, host in ipairs(ARGV) do
  local known, facts = call('HMGET', p .. 'h:' .. host, unpack(FIELDS)), {now = now_ms()}
  for at, name in ipairs(FIELDS) do facts[name] = known[at] or nil end
  facts.best = call('ZCARD', p .. 'q:' .. host)
  facts.spent = call('SISMEMBER', p .. 'spent', host)
  facts.norobots = call('SISMEMBER', p .. 'norobots', host)
  facts.cooling = call('ZSCORE', p .. 'cooling', host) or nil
  facts.busy = facts.shared and call('ZSCORE', p .. 'w:' .. facts.domain, host) or nil
  found[i] = facts.next and cjson.encode(facts) or ''
end
return found
