//! Defects that were found and mended, each with its story.

mod harness;
mod store;
