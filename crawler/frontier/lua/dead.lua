#!lua flags=no-writes,allow-oom
-- Returns the dead letters: url, and what is known of it as JSON, in turn.
return call('HGETALL', p .. 'dead')
