#!lua flags=allow-oom
-- Budgets may have grown: hosts that had spent theirs are looked at again.
-- ARGV: how many at most
-- Returns how many are left.
for _, host in ipairs(call('SPOP', p .. 'spent', ARGV[1])) do
  call('SREM', p .. 'o:' .. (call('HGET', p .. 'h:' .. host, 'domain') or host), host)
  place(host, tonumber(call('HGET', p .. 'h:' .. host, 'next')))
end
return call('SCARD', p .. 'spent')
