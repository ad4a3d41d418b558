# Every target is one command of cargo; `cargo xtask help` lists the rest.
.PHONY: up test verify chaos bench bench-cost bench-wire fmt clean-cache

# Build the gateway and start it: with no fairlead.yaml, in front of the bundled demo servers.
up:
	cargo run --locked --release -p fairlead -- up

# Everything a change must pass; prints the time of each stage.
test:
	cargo xtask test

# What `test` does, and what takes longer.
verify:
	cargo xtask test --full

# Servers that are killed, hang, are slow, fail or flap, under load (four minutes; part of `verify`).
chaos:
	cargo xtask test --stage chaos

# The bench, on the builds that are distributed (link-time optimised: some minutes). Not part of the tests.
bench:
	cargo build --locked --profile dist -p fairlead -p fairlead-bench
	target/dist/fairlead-bench run --fairlead target/dist/fairlead

# What each feature costs a call that it is configured for, in CPU time; fails where one is over its bound.
bench-cost:
	cargo build --locked --profile dist -p fairlead -p fairlead-bench
	target/dist/fairlead-bench cost --fairlead target/dist/fairlead --instructions

# Instructions of what every message passes, by callgrind (skipped without valgrind).
bench-wire:
	cargo bench --locked --profile dist -p fairlead-wire --bench instructions

fmt:
	cargo fmt --all

# The installed servers, clients and suites. They are installed again by the next `make test`.
clean-cache:
	rm -rf "$${FAIRLEAD_CACHE:-.cache/tools}"
