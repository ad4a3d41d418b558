# Every target is one command of cargo; `cargo xtask help` lists the rest.
.PHONY: up test verify bench fmt clean-cache

# Build the gateway and start it: with no fairlead.yaml, in front of the bundled demo servers.
up:
	cargo run --locked --release -p fairlead -- up

# Everything a change must pass; prints the time of each stage.
test:
	cargo xtask test

# What `test` does, and what takes longer.
verify:
	cargo xtask test --full

# The bench, on the builds that are distributed (link-time optimised: some minutes). Not part of the tests.
bench:
	cargo build --locked --profile dist -p fairlead -p fairlead-bench
	target/dist/fairlead-bench run --fairlead target/dist/fairlead

fmt:
	cargo fmt --all

# The installed servers, clients and suites. They are installed again by the next `make test`.
clean-cache:
	rm -rf "$${FAIRLEAD_CACHE:-.cache/tools}"
