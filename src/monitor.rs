//! The parts that look at a store from outside.

mod collect;
