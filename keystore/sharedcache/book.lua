-- Books requests of rate limits: the generic cell rate algorithm, as in keystore.Meter.
--
-- KEYS are the names of the limits. Each holds TAT/requests/per/burst: a theoretical arrival time
-- in microseconds since the Unix epoch, and the limit with which it was booked, whose per is in
-- microseconds. ARGV is the time now, and for each limit: requests, per in microseconds,
-- burst, known, spent, want. The answer is two integers for each limit: granted, and the new TAT.
--
-- Former versions store no burst. They read the first 64 bytes of a value, and these must end
-- before it. So zeros are put before the TAT until it, requests and per take 64 bytes.
--
-- Numbers are doubles. Integers are exact up to 2^53 microseconds, which is the year 2255.

-- scaled returns a * b / d, rounded up. For limits within the bounds of keystore.RateLimit, no
-- intermediate number exceeds 2^53 unless the result does.
local function scaled(a, b, d)
	local rest = math.fmod(a, d)
	local whole = (a - rest) / d * b
	local high, low = math.floor(b / 16384), b % 16384
	local over = math.fmod(rest * high, d)
	return whole + (rest * high - over) / d * 16384 +
		math.ceil((over * 16384 + rest * low) / d)
end

-- later returns a + b. If the sum is not exact, it adds more than rounding can have lost.
local function later(a, b)
	local sum = a + b
	if sum > 2 ^ 53 then
		sum = sum + 4096
	end
	return sum
end

local now = tonumber(ARGV[1])
local answers = {}
for i, name in ipairs(KEYS) do
	local arg = 6 * i - 4
	local requests, per, burst =
		tonumber(ARGV[arg]), tonumber(ARGV[arg + 1]), tonumber(ARGV[arg + 2])
	local known, spent, want =
		tonumber(ARGV[arg + 3]), tonumber(ARGV[arg + 4]), tonumber(ARGV[arg + 5])

	-- Not GET, which would fetch a value of any size that another program has stored.
	local stored = redis.pcall('GETRANGE', name, 0, 79)
	if type(stored) == 'table' then
		if not string.find(stored.err, 'WRONGTYPE', 1, true) then
			return stored
		end
		stored = ''
	end
	local stored_tat, stored_requests, stored_per =
		string.match(string.sub(stored, 1, 64), '^(%d+)/(%d+)/(%d+)$')
	stored_tat, stored_requests, stored_per =
		tonumber(stored_tat) or 0, tonumber(stored_requests) or 0, tonumber(stored_per) or 0
	local stored_burst = tonumber(string.match(stored, '^/(%d+)$', 65)) or burst
	local same = stored_requests == requests and stored_per == per and stored_burst <= burst
	if stored_requests == 0 or stored_per == 0 then
		stored_tat = 0
	elseif not same and stored_tat > now then
		-- The limit has changed. As much of the burst stays in use as before.
		local used = math.min(scaled(stored_tat - now, stored_requests, stored_per), burst)
		stored_tat = later(now, scaled(used, per, requests))
	end

	-- A value that another program has stored does not block the limit forever. A TAT is at most
	-- the sum of now, two bursts, a tenth of per and a minute. That is more than nodes book: what
	-- they admit in advance takes up to a twentieth of per.
	local tat = math.min(stored_tat,
		math.floor(now + 2 * burst * per / requests + per / 10 + 6e7))
	tat = math.max(tat, known, now)

	local ahead = later(tat - now, scaled(spent, per, requests))
	local room = math.max(burst - scaled(ahead, requests, per), 0)
	local granted = math.min(want, room)
	if spent + granted > 0 then
		-- 9.2e18 is within 64 bits, and beyond the burst of every limit.
		tat = math.min(later(tat, scaled(spent + granted, per, requests)), 9.2e18)
	end
	if tat > now and not (same and tat == stored_tat) then
		-- The clocks of nodes and servers differ, so the value is kept for another minute.
		local ttl = math.ceil((tat - now) / 1000) + 60000
		local value = string.format('%.0f/%.0f/%.0f', tat, requests, per)
		value = string.rep('0', 64 - #value) .. value .. string.format('/%.0f', burst)
		redis.call('SET', name, value, 'PX', string.format('%.0f', ttl))
	end
	answers[2 * i - 1], answers[2 * i] = granted, tat
end
return answers
