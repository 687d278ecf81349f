//! A CSI driver for tests.
fn main() {}
