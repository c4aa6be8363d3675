-- How full scopes are. ARGV: scopes (packed).
return levels(read_all(cmsgpack.unpack(ARGV[1])))
