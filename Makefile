# make run     builds Caddy with this plugin and serves Caddyfile.example on this machine
# make test    everything a change must pass; needs Go, make and git, and installs the rest
# make bench   measures on this machine and writes it into docs/benchmarks.md (about ten minutes); bench-fleet does for three Caddys on one
#              PostgreSQL (five minutes), bench-keys for KEYS keys in SQLite and in PostgreSQL (half an hour for a million)
# make faults  breaks a fleet in every way that one machine can, for DURATION at random; SEED repeats a run (tests/faults/doc.go);
#              then breaks the primary of a Patroni cluster FAILOVERS times (tests/failover/doc.go); make test runs short versions of both
# make screenshots takes the pictures of the console that README.md and docs show
# make traefik builds Traefik (ten minutes of CPU time, 3 GB) and tries its recipe in docs/api_key.md; make test tries the other proxies'
# make property  tries STEPS random operations against who may do what (keystore/manage/history_test.go); SEED repeats a run; a short one is in make test
# make fuzz    each fuzz target for FUZZTIME
# make lint    runs golangci-lint with .golangci.yml in both modules

GOLANGCI_LINT ?= v2.15.0
STATICCHECK   ?= v0.8.2
TRAEFIK       ?= v3.6.12
FUZZTIME      ?= 10s
KEYS          ?= 1000000
DURATION      ?= 30m
SEED          ?= 0
FAILOVERS     ?= 50
STEPS         ?= 1000000

# The race detector is wanted in all that the tests build, vet's view of the dependencies included: that way Caddy is compiled once.
# The two packages are SQLite, translated from C: instrumented, they take six times the CPU time and find nothing, since no memory of
# ours is read or written in them. The driver around them, modernc.org/sqlite, stays instrumented.
RACE = -race -gcflags=modernc.org/sqlite/lib=-race=false -gcflags=modernc.org/libc=-race=false

# The rules of accessibility that the console's pages are checked against.
AXE = .run/axe/node_modules/axe-core/axe.min.js

# The version is in the name, so that another one is installed beside it.
GOLANGCI = .run/bin/golangci-lint-$(GOLANGCI_LINT)

.PHONY: run build test deps check lint bench bench-fleet bench-keys faults caddy-faults screenshots traefik property fuzz clean

run: build
	@scripts/run

build:
	go build -o .run/caddy ./cmd/caddy

test: deps check caddy-faults
	go build $(RACE) -o .run/caddy-race ./cmd/caddy
	go test $(RACE) -timeout 40m ./...
	cd tests && CADDY_UNDER_TEST=$(CURDIR)/.run/caddy-race CADDY_WITH_FAULTS=$(CURDIR)/.run/caddy-faults go test $(RACE) -count 1 -timeout 40m ./...

caddy-faults:
	go build $(RACE) -tags faults -o .run/caddy-faults ./cmd/caddy

deps: $(AXE)
	@scripts/deps gcc chromium curl etcd-server faketime haproxy jq libnginx-mod-http-headers-more-filter nginx \
		patroni postgresql prometheus python3-etcd redis-server spin sqlite3 systemd

$(AXE): tests/chromium/package-lock.json
	@scripts/deps npm
	mkdir -p .run/axe && cp tests/chromium/package.json tests/chromium/package-lock.json .run/axe
	cd .run/axe && npm ci --ignore-scripts --no-audit --no-fund

check:
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; }
	go vet $(RACE) ./...
	cd tests && go vet $(RACE) ./...
	GOBIN=$(CURDIR)/.run/bin go install honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK)
	GOFLAGS="$(RACE)" .run/bin/staticcheck ./...
	cd tests && GOFLAGS="$(RACE)" ../.run/bin/staticcheck ./...

$(GOLANGCI):
	GOBIN=$(CURDIR)/.run/bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT)
	mv .run/bin/golangci-lint $@

lint: $(GOLANGCI)
	$(GOLANGCI) run ./...
	cd tests && ../$(GOLANGCI) run ./...

bench: BENCHMARK = Benchmark
bench-fleet: BENCHMARK = BenchmarkFleet
bench-keys: BENCHMARK = BenchmarkKeys

bench bench-fleet bench-keys: build
	@scripts/deps postgresql redis-server
	cd tests && CADDY_UNDER_TEST=$(CURDIR)/.run/caddy BENCHMARKS=$(CURDIR)/docs/benchmarks.md BENCH_KEYS=$(KEYS) \
		go test -run '^$$' -bench '^$(BENCHMARK)$$' -benchtime 1x -timeout 3h -v ./bench

faults: caddy-faults
	@scripts/deps etcd-server faketime patroni postgresql python3-etcd redis-server
	cd tests && CADDY_WITH_FAULTS=$(CURDIR)/.run/caddy-faults \
		go test $(RACE) -count 1 -timeout 0 -v ./faults -faults.long -faults.seed $(SEED) -faults.duration $(DURATION)
	cd tests && CADDY_UNDER_TEST=$(CURDIR)/.run/caddy-faults \
		go test $(RACE) -count 1 -timeout 0 -v ./failover -faults.long -faults.seed $(SEED) -faults.failovers $(FAILOVERS)

screenshots: build $(AXE)
	@scripts/deps chromium fonts-inter
	cd tests && CADDY_UNDER_TEST=$(CURDIR)/.run/caddy FONTCONFIG_FILE=$(CURDIR)/tests/chromium/pictures.conf SCREENSHOTS=$(CURDIR)/docs/screenshots \
		go test -count 1 -run '^TestScreenshots$$' ./browser

traefik: build
	go mod download github.com/traefik/traefik/v3@$(TRAEFIK)
	cd "$$(go env GOMODCACHE)/github.com/traefik/traefik/v3@$(TRAEFIK)" && CGO_ENABLED=0 go build -o $(CURDIR)/.run/bin/traefik ./cmd/traefik
	cd tests && CADDY_UNDER_TEST=$(CURDIR)/.run/caddy TRAEFIK_BINARY=$(CURDIR)/.run/bin/traefik \
		go test -count 1 -run '^TestProxyRecipes$$/^Traefik$$' ./docs

property:
	go test -count 1 -timeout 0 -v -run TestNoHistory ./keystore/manage -history.steps $(STEPS) -history.seed $(SEED)

fuzz:
	@scripts/fuzz $(FUZZTIME)

clean:
	rm -rf .run
