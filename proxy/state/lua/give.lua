-- Gives back, or takes whatever the limit says. ARGV: rates (packed).
for _, rate in ipairs(rates) do keep(rate, outstanding(rate) - rate[4]) end
return 1
