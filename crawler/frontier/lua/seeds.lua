#!lua
-- Seeds go to the walker the way pages do.
-- ARGV: seeds as JSON
return call('XADD', p .. 'pages', '*', 'seeds', ARGV[1])
