# Everyday commands. `just` lists them.

_list:
    @just --list --unsorted

# Type-check everything
check:
    cargo check --release --all-targets --locked

# Run the tests; `just test validate::` runs some of them
test *filter:
    cargo test --release --locked {{filter}}

# Format and lint, repairing what can be repaired
fix:
    cargo clippy --release --all-targets --fix --allow-dirty --allow-staged
    cargo fmt

# Everything that must hold before a change is merged
ci *steps:
    .ci/run {{steps}}

# The documentation of the library, in a browser
doc:
    cargo doc --release --no-deps --locked --open

# Rebuild a small database from real documents
quickstart *args:
    cargo run --release --locked -- quickstart {{args}}
