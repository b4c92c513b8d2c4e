# `make` lists the targets. Everything they write is in .run, unless a target says otherwise.

GOLANGCI_LINT ?= v2.15.0
GREMLINS      ?= v0.6.0
ACTIONLINT    ?= v1.7.12
CYCLONEDX     ?= v1.10.0
GORELEASER    ?= v2.16.0
GOVULNCHECK   ?= v1.9.0
HELM          ?= v3.22.0
KUBECONFORM   ?= v0.8.0
KUBERNETES    ?= 37.0
XCADDY        ?= v0.4.5
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
UPDATE        ?=

# Where release-test builds, and keeps a Debian of 300 MB.
RELEASE       ?= $(CURDIR)/.run/release

# The race detector quadruples the CPU time of a program. `make test` uses it only in those unit tests
# of the packages in RACED that start goroutines themselves, and in the Caddy processes of one
# black-box package, faults, which loads several nodes with everything at once (gate.DetectRaces).
# `make test RACES=all` uses it everywhere, as the nightly workflow does.
#
# RACE excludes two packages, which are SQLite translated from C. With the detector they take six
# times the CPU time, and it finds nothing: they neither read nor write memory of ours. The driver
# that calls them, modernc.org/sqlite, is not excluded.
RACES ?=
RACE   = -race -gcflags=modernc.org/sqlite/lib=-race=false -gcflags=modernc.org/libc=-race=false
ALL    = $(if $(filter all,$(RACES)),$(RACE))

# The packages whose own goroutines share memory. Of their tests, those that start no goroutine run
# without the race detector: see scripts/sequential.
RACED = ./keystore/node ./keystore/manage ./caddymodule ./caddymodule/redact ./admin/events \
	./keystore/sharedcache

# Tests wait for disks, leases and processes, so one more package than there are processors runs
# at a time.
JOBS = $(shell expr $$(nproc) + 1)

# With fewer garbage collections, tests and the programs that they start take four fifths of the CPU
# time and golangci-lint two thirds, with more memory. Beyond GOMEMLIMIT, a process collects garbage
# more often. Measurements use Go's default.
check lint test test-unit test-databases test-packages test-blackbox: export GOGC ?= 400
check lint test test-unit test-databases test-packages test-blackbox: export GOMEMLIMIT ?= 3GiB
bench bench-fleet bench-keys: export GOGC = 100

# Without debugging information, linking Caddy takes half the time. Stack traces do not need it.
LDFLAGS = -ldflags=-w

# axe-core has the accessibility rules that the browser tests check.
AXE = .run/axe/node_modules/axe-core/axe.min.js

# The version is in the name, so that another one is installed beside it.
GOLANGCI = .run/bin/golangci-lint-$(GOLANGCI_LINT)
MUTATOR  = .run/bin/gremlins-$(GREMLINS)
TOOLS    = .run/bin/actionlint-$(ACTIONLINT) .run/bin/helm-$(HELM) .run/bin/kubeconform-$(KUBECONFORM)
RELEASER = .run/bin/goreleaser-$(GORELEASER) .run/bin/cyclonedx-gomod-$(CYCLONEDX)

.PHONY: help run build room test test-unit test-databases test-packages test-386 test-blackbox \
	caddy-race caddy-faults deps check lint bench bench-fleet bench-keys faults pictures screenshots \
	traefik property fuzz mutate lint-deploy vulnerabilities snapshot release release-test plugins clean

help: ## List the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 15

run: build ## Serve Caddyfile.example on this machine
	@scripts/run

build: ## Build Caddy with this plugin as .run/caddy
	go build $(LDFLAGS) -o .run/caddy ./cmd/caddy

# Without -race and -count, go test repeats only the packages whose code or files have changed.
check: lint ## Check formatting, lint, and test what has changed; before each commit
	go test ./...

# Without -j, make runs the two kinds of tests one after the other: at the same time, they would
# take longer.
test: room deps lint build caddy-race caddy-faults test-unit test-blackbox ## Run everything that must pass before a merge

# It only warns: what is cached already takes no new space.
room:
	@df --output=avail --block-size=1G "$$(go env GOCACHE)" .run 2>/dev/null | awk \
		'NR > 1 && $$1 < 10 { print "make test needs up to 10 GB for compiled packages (go env" \
			" GOCACHE) and 1 GB in .run. Free: " $$1 " GB. go clean -cache frees space."; exit }'

# The tests of the databases take longest but use at most one processor, so they run beside the rest.
# golangci-lint has run vet. make -n expands this recipe too: it must not touch the temporary directory.
test-unit: ## Run the tests of the main module
	+$(if $(findstring n,$(firstword -$(MAKEFLAGS))),,scripts/temporary) \
		$(MAKE) --no-print-directory --jobs 2 test-databases test-packages

test-databases:
	go test $(ALL) $(LDFLAGS) -vet=off -timeout 40m ./keystore/sqldb

test-packages:
	go test $(ALL) $(LDFLAGS) -vet=off -p $(JOBS) -timeout 40m \
		$$(go list ./... | grep -v -e 'keystore/sqldb$$' $(RACED:.%=-e '%$$'))
	go test $(ALL) $(LDFLAGS) -vet=off -p $(JOBS) -timeout 40m \
		-run "$$(scripts/sequential $(RACED))" $(RACED)
	go test $(RACE) $(LDFLAGS) -vet=off -p $(JOBS) -timeout 40m \
		-skip "$$(scripts/sequential $(RACED))" $(RACED)

test-386: ## Run the tests whose code depends on the size of an int, in 32-bit programs
	GOARCH=386 go test -vet=off ./keystore ./caddymodule/route

# The packages that spend the most time waiting come first, so that others can run beside them. Their
# results must not be cached, because go test does not know that they depend on the programs. Those of
# model depend only on its files.
test-blackbox: build caddy-race caddy-faults ## Run the tests of the real programs, in tests/
	cd tests && CADDY_UNDER_TEST=$(CURDIR)/.run/caddy$(if $(ALL),-race) \
		CADDY_WITH_RACE=$(CURDIR)/.run/caddy-race \
		CADDY_WITH_FAULTS=$(CURDIR)/.run/caddy-faults CADDY_CLIENT=$(CURDIR)/.run/caddy \
		../scripts/temporary go test $(LDFLAGS) -vet=off -p $(JOBS) -count 1 -timeout 40m \
		./webhooks ./failover ./faults ./browser ./limits ./durability \
		$$(go list ./... | grep -v '/model$$')
	cd tests && ../scripts/temporary go test $(LDFLAGS) -vet=off -timeout 40m ./model

caddy-race:
	go build $(RACE) $(LDFLAGS) -o .run/caddy-race ./cmd/caddy

caddy-faults:
	@scripts/faults .run/faults
	go build $(ALL) $(LDFLAGS) -tags faults -overlay .run/faults/overlay.json \
		-o .run/caddy-faults ./cmd/caddy

deps: $(AXE) ## Install the programs that the tests need (Debian)
	@scripts/deps gcc chromium-headless-shell curl etcd-server faketime haproxy jq \
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

# With a PART, such as go, caddy/wrk or caddy/access_log, a benchmark only prints its results.
# CADDY_WITH_RATE_LIMIT is a Caddy with caddy-ratelimit, which bench-fleet then measures too.
bench: ## Measure one Caddy and write docs/benchmarks.md (30 to 45 minutes); PART prints a part
bench-fleet: ## Measure three Caddys on one PostgreSQL and write docs/benchmarks.md (5 minutes)
bench-keys: ## Measure SQLite and PostgreSQL with KEYS keys and write docs/benchmarks.md (30 minutes)
bench bench-fleet bench-keys: build
	@scripts/deps postgresql redis-server
	cd tests && CADDY_UNDER_TEST=$(CURDIR)/.run/caddy \
		BENCHMARKS=$(if $(PART),,$(CURDIR)/docs/benchmarks.md) \
		BENCH_KEYS=$(KEYS) BENCH_ROUNDS=$(ROUNDS) \
		go test -run '^$$' -bench '^$(BENCHMARK)$$$(if $(PART),/^$(subst /,$$/^,$(PART))$$)' \
		-benchtime 1x -timeout 3h -v ./bench

faults: caddy-race caddy-faults ## Break fleets for DURATION and a Patroni primary FAILOVERS times; SEED repeats
	@scripts/deps etcd-server faketime patroni postgresql python3-etcd redis-server
	cd tests && CADDY_WITH_RACE=$(CURDIR)/.run/caddy-race \
		CADDY_WITH_FAULTS=$(CURDIR)/.run/caddy-faults \
		go test -count 1 -timeout 0 -v ./faults \
		-faults.long -faults.seed $(SEED) -faults.duration $(DURATION)
	cd tests && CADDY_UNDER_TEST=$(CURDIR)/.run/caddy-race \
		go test -count 1 -timeout 0 -v ./failover \
		-faults.long -faults.seed $(SEED) -faults.failovers $(FAILOVERS)

pictures: build $(AXE) ## Save each page of the console in each window size and theme in .run/pictures
	@scripts/deps chromium-headless-shell
	cd tests && CADDY_UNDER_TEST=$(CURDIR)/.run/caddy SCREENSHOTS=$(CURDIR)/.run/pictures \
		go test -count 1 ./browser

screenshots: build $(AXE) ## Take the pictures of the console that README.md and docs/ show
	@scripts/deps chromium-headless-shell fonts-inter
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

.run/bin/actionlint-$(ACTIONLINT): PROGRAM = github.com/rhysd/actionlint/cmd/actionlint
.run/bin/cyclonedx-gomod-$(CYCLONEDX): PROGRAM = github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod
.run/bin/goreleaser-$(GORELEASER): PROGRAM = github.com/goreleaser/goreleaser/v2
.run/bin/govulncheck-$(GOVULNCHECK): PROGRAM = golang.org/x/vuln/cmd/govulncheck
.run/bin/helm-$(HELM): PROGRAM = helm.sh/helm/v3/cmd/helm
.run/bin/kubeconform-$(KUBECONFORM): PROGRAM = github.com/yannh/kubeconform/cmd/kubeconform
$(TOOLS) $(RELEASER) .run/bin/govulncheck-$(GOVULNCHECK):
	GOBIN=$(CURDIR)/.run/bin CGO_ENABLED=0 go install $(PROGRAM)@$(lastword $(subst -, ,$@))
	mv $(patsubst %-$(lastword $(subst -, ,$@)),%,$@) $@

# kubeconform checks the objects against the API of Kubernetes 1.$(KUBERNETES).
lint-deploy: $(TOOLS) ## Check the workflows and the Helm chart; UPDATE=update accepts changed objects
	@scripts/deps jq
	.run/bin/actionlint-$(ACTIONLINT)
	scripts/chart $(CURDIR)/.run/bin/helm-$(HELM) $(CURDIR)/.run/bin/kubeconform-$(KUBECONFORM) \
		$(KUBERNETES) $(UPDATE)

vulnerabilities: .run/bin/govulncheck-$(GOVULNCHECK) ## List known vulnerabilities that the code reaches
	.run/bin/govulncheck-$(GOVULNCHECK) ./...

# goreleaser finds cyclonedx-gomod by its name.
GORELEASE = ln -sf cyclonedx-gomod-$(CYCLONEDX) .run/bin/cyclonedx-gomod && \
	PATH=$(CURDIR)/.run/bin:$$PATH .run/bin/goreleaser-$(GORELEASER)

snapshot: $(RELEASER) ## Build the archives, packages, SBOMs and checksums of a release in .run/dist
	$(GORELEASE) release --snapshot --clean --timeout 6h

# Only .github/workflows/release.yml runs this, for a tag. It publishes nothing: another step of the
# workflow does. The notes of the release are its section of the changelog.
release: $(RELEASER)
	sed -n '/^## \['"$${GITHUB_REF_NAME#v}"'\]/,/^## /{/^## /d;p}' CHANGELOG.md >.run/notes.md
	test -s .run/notes.md
	$(GORELEASE) release --clean --timeout 3h

release-test: $(RELEASER) ## Build the release twice, compare, and test the .deb in a Debian (root)
	@scripts/deps debian-archive-keyring debootstrap git systemd-container
	ln -sf cyclonedx-gomod-$(CYCLONEDX) .run/bin/cyclonedx-gomod
	scripts/release-test $(CURDIR)/.run/bin/goreleaser-$(GORELEASER) $(RELEASE)

plugins: ## Build Caddy with this plugin and the plugins that people combine most (xcaddy)
	scripts/plugins $(XCADDY)

clean: ## Remove .run
	rm -rf .run
