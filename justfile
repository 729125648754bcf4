# Names for the parts of `.ci/run`, which has the commands themselves. `just --list` shows them.

# Everything that must pass before a change lands: 20 to 25 minutes on two cores
ci:
    .ci/run

# Formatting and clippy
lint:
    .ci/run format clippy

# Builds without the default features
features:
    .ci/run features

# Unit, integration and documentation tests
test:
    .ci/run tests

# The tests that the other features add, a process each
test-all:
    .ci/run tests-all-features

# The command `larder`
cli:
    cargo test -p larder-cli

# The queue under random schedules, 20 s
model-check:
    .ci/run model-check

# The fault harness, a few minutes
faults:
    .ci/run faults

# Damaged files and hostile input, a minute
fuzz:
    .ci/run fuzz

# Licences, sources and vulnerabilities of the dependencies
deny:
    .ci/run deny

# The documentation, with warnings as errors
doc:
    .ci/run docs

# Benches compile; `cargo bench --bench ratios` runs one
bench:
    .ci/run benches

# The quickstart on little data
quickstart:
    .ci/run quickstart

# The long suites: hours. `just nightly mutants` runs one of them
nightly *PARTS:
    .ci/nightly {{PARTS}}
