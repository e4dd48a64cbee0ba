#!lua
-- Discovered links. A new one is queued; one still in the queue takes the new promise; any other changes nothing.
-- A queue holds the `hot` best; the others go to the lists, or to the spool if there is a disk.
-- Not allowed over the memory limit (noeviction refuses it), so that a full server only drains.
-- Nothing is kept of links to a host that was given up lately, or that would be one too many of its domain: they may be
-- met again.
-- ARGV: 1 if there is a disk; then for each host: host, its registrable domain, number of referring domains, those,
--       number of links, and for each link: member, promise, seen shard, low 32 bits of its keyed fingerprint
-- Returns how many were new.
local disk = ARGV[1] == '1'
local hot, found, each, hosts_per_domain, most_of_domain, version = rules('hot_per_host', 'pages_per_found_host',
  'pages_per_referring_domain', 'hosts_per_domain', 'pages_per_domain', 'version')
-- Hosts that were never asked are woken in their own order: strangers make up more than can be woken in a second, and
-- those that rested would stand among them.
local JUST_MET = 1e13
local TAKEN_OVER = 5  -- begun by version 4, which knew no domains
local most_refs = math.ceil((most_of_domain - found) / math.max(1, each))  -- more would not raise the domain's budget
local now = now_ms()
local total = 0

-- Whether links to a host not met before may be; one that a person chose always.
local function admit(host, domain, chosen)
  if chosen then
    call('ZREM', p .. 'forgotten', host)
    return meet(host, domain)
  end
  if tonumber(call('ZSCORE', p .. 'forgotten', host) or 0) > now then return false, 'skipped:host_given_up' end
  return meet(host, domain, hosts_per_domain), 'skipped:hosts_per_domain'
end

local function refer(host, domain, first, last)
  local refs, more = p .. 'refs:' .. domain, 0
  for i = first, last do
    if ARGV[i] == 'seed' then
      more = more + call('HSET', p .. 'h:' .. host, 'chosen', 1) + call('HSET', p .. 'd:' .. domain, 'chosen', 1)
    elseif call('SCARD', refs) < most_refs then
      more = more + call('SADD', refs, ARGV[i])
    end
  end
  if more == 0 then return end
  for _, spent in ipairs(call('SMEMBERS', p .. 'o:' .. domain)) do
    call('SREM', p .. 'spent', spent)
    wake(spent)
  end
  call('DEL', p .. 'o:' .. domain)
end

local function overflow(host, promise, member, known)
  if disk then
    call('RPUSH', p .. 'spool', host .. ' ' .. promise .. ' ' .. member)
    known.cold = known.cold + 1
  else
    call('RPUSH', p .. 't:' .. host .. ':' .. tenth(promise), promise .. ' ' .. member)
    known.tail = known.tail + 1
  end
  known.top = math.max(known.top, tenth(promise))
end

local function queue_links(host, first, last, known)
  local queue, new, changed, length = p .. 'q:' .. host, 0, false, nil
  for i = first, last, 4 do
    local member, promise = ARGV[i], ARGV[i + 1]  -- a number would cost its printing
    if call('SADD', p .. 'seen:' .. ARGV[i + 2], ARGV[i + 3]) == 0 then
      changed = call('ZADD', queue, 'XX', 'CH', promise, member) == 1 or changed
    else
      new = new + 1
      length = length or call('ZCARD', queue)
      if tenth(promise) < known.top then
        overflow(host, promise, member, known)
      else
        call('ZADD', queue, promise, member)
        length = length + 1
        if length > hot then
          local least = call('ZPOPMIN', queue)
          overflow(host, least[2], least[1], known)
          length = hot
        end
      end
    end
  end
  return new, changed
end

local i = 2
while i <= #ARGV do
  local host, domain, refs = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local first = i + 4 + refs
  local last = first + 4 * tonumber(ARGV[first - 1]) - 1
  local h = p .. 'h:' .. host
  local known = call('HMGET', h, 'next', 'gone', 'tail', 'cold', 'top')
  local refused = known[2] and 'skipped:taken_down'
  if not known[1] then
    local chosen = false
    for r = i + 3, i + 2 + refs do chosen = chosen or ARGV[r] == 'seed' end
    local admitted, why = admit(host, domain, chosen)
    if not admitted then refused = why end
  elseif version == TAKEN_OVER and call('HEXISTS', h, 'domain') == 0 then
    meet(host, domain)
    if host ~= domain then
      call('SUNIONSTORE', p .. 'refs:' .. domain, p .. 'refs:' .. domain, p .. 'refs:' .. host)
      call('DEL', p .. 'refs:' .. host)
    end
  end
  if refused then
    count(refused, (last - first + 1) / 4)
  else
    if refs > 0 then refer(host, domain, i + 3, i + 2 + refs) end
    local tails = {tail = tonumber(known[3] or 0), cold = tonumber(known[4] or 0), top = tonumber(known[5] or -1)}
    local before = tails.tail + tails.cold
    local new, changed = queue_links(host, first, last, tails)
    if tails.tail + tails.cold ~= before then
      call('HSET', h, 'tail', tails.tail, 'cold', tails.cold, 'top', tails.top)
    end
    if new > 0 and not known[1] then
      call('ZADD', p .. 'cooling', whole(now - JUST_MET), host)
    elseif new > 0 or changed then
      wake(host)
    end
    total = total + new
  end
  i = last + 1
end
if total > 0 then
  count('discovered', total)
  count('queued', total)
end
return total
