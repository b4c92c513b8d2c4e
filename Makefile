# `make` lists the targets. Everything they write is in .run, unless a target says otherwise.

GOLANGCI_LINT ?= v2.15.0
GREMLINS      ?= v0.6.0
TRAEFIK       ?= v3.6.12
FUZZTIME      ?= 10s
KEYS          ?= 1000000
PART          ?=
ROUNDS        ?= 13
DURATION      ?= 30m
SEED          ?= 0
FAILOVERS     ?= 50
STEPS         ?= 1000000
PACKAGES      ?= keystore keystore/node keystore/manage caddymodule caddymodule/redact
FILES         ?=

# The race detector watches the main module: its tests, and the Caddys that the tests in tests/ run.
# The tests in tests/ and the commands of Caddy that they call are only clients, and run without it.
# The two packages are SQLite, translated from C: instrumented, they take six times the CPU time and
# find nothing, since no memory of ours is read or written in them. The driver around them,
# modernc.org/sqlite, stays instrumented.
RACE = -race -gcflags=modernc.org/sqlite/lib=-race=false -gcflags=modernc.org/libc=-race=false

# Tests wait for disks, leases and processes, so one more package than there are processors runs
# at a time.
JOBS = $(shell expr $$(nproc) + 1)

# SQLite waits for the disk after each change. Where there are two gigabytes per processor, the
# tests keep their files in memory. They kill processes but not the machine, so none could see what
# a disk loses.
MEMORY    = $(shell df --output=avail --block-size=1G /dev/shm 2>/dev/null | tr -dc 0-9)
IN_MEMORY = $(shell test 0$(MEMORY) -ge $$((2 * $$(nproc))) && \
	echo "TMPDIR=/dev/shm GOTMPDIR=$${TMPDIR:-/tmp}")

# Without debugging information, linking Caddy takes half the time. Stack traces do not need it.
LDFLAGS = -ldflags=-w

# axe-core has the accessibility rules that the browser tests check.
AXE = .run/axe/node_modules/axe-core/axe.min.js

# The version is in the name, so that another one is installed beside it.
GOLANGCI = .run/bin/golangci-lint-$(GOLANGCI_LINT)
MUTATOR  = .run/bin/gremlins-$(GREMLINS)

.PHONY: help run build test test-unit test-blackbox caddy-race caddy-faults deps check lint bench \
	bench-fleet bench-keys faults pictures screenshots traefik property fuzz mutate clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 15

run: build ## Serve Caddyfile.example on this machine
	@scripts/run

build: ## Build Caddy with this plugin as .run/caddy
	go build $(LDFLAGS) -o .run/caddy ./cmd/caddy

# Without -race and -count, go test repeats only the packages whose code or files have changed.
check: lint ## Check formatting, lint, and test what has changed; before each commit
	go test ./...

# Without -j, make runs the two kinds of tests one after the other: together they take longer.
test: deps lint build caddy-race caddy-faults test-unit test-blackbox ## Run everything that must pass before a merge

# The packages that take longest come first. golangci-lint has run vet.
test-unit: ## Run the tests of the main module
	$(IN_MEMORY) go test $(RACE) $(LDFLAGS) -vet=off -p $(JOBS) -timeout 40m \
		./keystore/sqldb ./admin ./keystore/node ./caddymodule ./keystore/manage ./...

test-blackbox: build caddy-race caddy-faults ## Run the tests of the real programs, in tests/
	cd tests && CADDY_UNDER_TEST=$(CURDIR)/.run/caddy-race \
		CADDY_WITH_FAULTS=$(CURDIR)/.run/caddy-faults CADDY_CLIENT=$(CURDIR)/.run/caddy \
		$(IN_MEMORY) go test $(LDFLAGS) -vet=off -p $(JOBS) -count 1 -timeout 40m \
		./faults ./adversarial ./browser ./...

caddy-race:
	go build $(RACE) $(LDFLAGS) -o .run/caddy-race ./cmd/caddy

caddy-faults:
	@scripts/faults .run/faults
	go build $(RACE) $(LDFLAGS) -tags faults -overlay .run/faults/overlay.json \
		-o .run/caddy-faults ./cmd/caddy

deps: $(AXE) ## Install the programs that the tests need (Debian)
	@scripts/deps gcc chromium curl etcd-server faketime haproxy jq \
		libnginx-mod-http-headers-more-filter nginx node-jose nodejs openssl patroni postgresql \
		prometheus python3-cryptography python3-etcd python3-jwt redis-server spin sqlite3 systemd

$(AXE): tests/chromium/package-lock.json
	@scripts/deps npm
	mkdir -p .run/axe && cp tests/chromium/package.json tests/chromium/package-lock.json .run/axe
	cd .run/axe && npm ci --ignore-scripts --no-audit --no-fund

lint: $(GOLANGCI) ## Check formatting and run golangci-lint, which includes go vet and staticcheck
	@scripts/formatted
	$(GOLANGCI) run ./...
	cd tests && ../$(GOLANGCI) run ./...

$(GOLANGCI):
	GOBIN=$(CURDIR)/.run/bin go install \
		github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT)
	mv .run/bin/golangci-lint $@

bench: BENCHMARK = Benchmark
bench-fleet: BENCHMARK = BenchmarkFleet
bench-keys: BENCHMARK = BenchmarkKeys

# With a PART, such as go, caddy/wrk or caddy/access_log, a benchmark prints its results only.
# CADDY_WITH_RATE_LIMIT is a Caddy with caddy-ratelimit, which bench-fleet then measures too.
bench: ## Measure one Caddy and write docs/benchmarks.md (15 minutes); PART prints a part
bench-fleet: ## Measure three Caddys on one PostgreSQL and write docs/benchmarks.md (5 minutes)
bench-keys: ## Measure SQLite and PostgreSQL with KEYS keys and write docs/benchmarks.md (30 minutes)
bench bench-fleet bench-keys: build
	@scripts/deps postgresql redis-server
	cd tests && CADDY_UNDER_TEST=$(CURDIR)/.run/caddy \
		BENCHMARKS=$(if $(PART),,$(CURDIR)/docs/benchmarks.md) \
		BENCH_KEYS=$(KEYS) BENCH_ROUNDS=$(ROUNDS) \
		go test -run '^$$' -bench '^$(BENCHMARK)$$$(if $(PART),/^$(subst /,$$/^,$(PART))$$)' \
		-benchtime 1x -timeout 3h -v ./bench

faults: caddy-faults ## Break fleets for DURATION and a Patroni primary FAILOVERS times; SEED repeats
	@scripts/deps etcd-server faketime patroni postgresql python3-etcd redis-server
	cd tests && CADDY_WITH_FAULTS=$(CURDIR)/.run/caddy-faults \
		go test -count 1 -timeout 0 -v ./faults \
		-faults.long -faults.seed $(SEED) -faults.duration $(DURATION)
	cd tests && CADDY_UNDER_TEST=$(CURDIR)/.run/caddy-faults \
		go test -count 1 -timeout 0 -v ./failover \
		-faults.long -faults.seed $(SEED) -faults.failovers $(FAILOVERS)

pictures: build $(AXE) ## Save each page of the console in each window and colour in .run/pictures
	@scripts/deps chromium
	cd tests && CADDY_UNDER_TEST=$(CURDIR)/.run/caddy SCREENSHOTS=$(CURDIR)/.run/pictures \
		go test -count 1 ./browser

screenshots: build $(AXE) ## Take the pictures of the console that README.md and docs/ show
	@scripts/deps chromium fonts-inter
	cd tests && CADDY_UNDER_TEST=$(CURDIR)/.run/caddy \
		FONTCONFIG_FILE=$(CURDIR)/tests/chromium/pictures.conf \
		SCREENSHOTS=$(CURDIR)/docs/screenshots \
		go test -count 1 -run '^TestScreenshots$$' ./browser

traefik: build ## Build Traefik and test its recipe (10 minutes of CPU time, 3 GB)
	go mod download github.com/traefik/traefik/v3@$(TRAEFIK)
	cd "$$(go env GOMODCACHE)/github.com/traefik/traefik/v3@$(TRAEFIK)" && \
		CGO_ENABLED=0 go build -o $(CURDIR)/.run/bin/traefik ./cmd/traefik
	cd tests && CADDY_UNDER_TEST=$(CURDIR)/.run/caddy \
		TRAEFIK_BINARY=$(CURDIR)/.run/bin/traefik \
		go test -count 1 -run '^TestProxyRecipes$$/^Traefik$$' ./docs

property: ## Try STEPS random operations against the rules of authority; SEED repeats
	go test -count 1 -timeout 0 -v -run TestRandomHistories ./keystore/manage \
		-history.steps $(STEPS) -history.seed $(SEED)

fuzz: ## Run each fuzz target for FUZZTIME
	@scripts/fuzz $(FUZZTIME)

$(MUTATOR):
	GOBIN=$(CURDIR)/.run/bin go install github.com/go-gremlins/gremlins/cmd/gremlins@$(GREMLINS)
	mv .run/bin/gremlins $@

mutate: $(MUTATOR) ## List the one-operator changes of PACKAGES (or their FILES) that no test notices
	@for package in $(PACKAGES); do scripts/mutate $(CURDIR)/$(MUTATOR) $$package $(FILES) || exit; done

clean: ## Remove .run
	rm -rf .run
