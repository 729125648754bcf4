//! A first bench.
fn main() {}
