#!lua flags=no-writes,allow-oom
-- Returns all counts, name and value in turn, with what is leased and what waits in the stream.
local found = call('HGETALL', p .. 'counts')
for name, value in pairs({leased = call('ZCARD', p .. 'deadlines'), backlog = call('XLEN', p .. 'pages')}) do
  found[#found + 1] = name
  found[#found + 1] = value
end
return found
