#!lua flags=allow-oom
-- Budgets may have grown: hosts that had spent theirs are looked at again.
for _, host in ipairs(call('SMEMBERS', p .. 'spent')) do
  call('SREM', p .. 'spent', host)
  call('SREM', p .. 'o:' .. (call('HGET', p .. 'h:' .. host, 'domain') or host), host)
  place(host, tonumber(call('HGET', p .. 'h:' .. host, 'next')))
end
return 1
