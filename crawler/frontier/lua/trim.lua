#!lua flags=allow-oom
-- Pages up to a position are in the corpus, or judged.
-- ARGV: the position after it
return call('XTRIM', p .. 'pages', 'MINID', ARGV[1])
