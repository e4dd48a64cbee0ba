#!lua flags=allow-oom
-- Pages before a position are in the corpus, or judged: they go, and with them the bytes that nothing left is part of.
-- Of one ack the pages follow each other, so only the first that is left may share bytes with one that went.
-- ARGV: the first position that is left
local READ_AT_ONCE = 500
local stream, names, from = p .. 'pages', {}, '-'
repeat
  local entries = call('XRANGE', stream, from, '(' .. ARGV[1], 'COUNT', READ_AT_ONCE)
  for _, entry in ipairs(entries) do
    if entry[2][1] == 'at' then names[string.match(entry[2][2], '^%S+')] = true end
    from = '(' .. entry[1]
  end
until #entries < READ_AT_ONCE
call('HSET', p .. 'meta', 'trimmed', ARGV[1])
local trimmed, left = call('XTRIM', stream, 'MINID', ARGV[1]), call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
if left and left[2][1] == 'at' then names[string.match(left[2][2], '^%S+')] = nil end
for name in pairs(names) do call('UNLINK', p .. 'b:' .. name) end
return trimmed
