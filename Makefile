.PHONY: build demo demo-clean test test-vm install lint bench fuzz

build:
	cargo build --release --bin sampan

demo:
	@scripts/demo.sh

demo-clean:
	@scripts/demo-clean.sh

test:
	@scripts/test.sh

test-vm:
	@scripts/test-vm.sh $(ONLY)

install:
	@scripts/install.sh

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --features sampan/fault-points -- -D warnings

bench:
	@benches/run.sh

fuzz:
	@fuzz/run.sh
