//! Bulk jobs: every row once, beside other writes, through errors, cancellations and kills.

mod copy_from;
mod deletes;
pub(crate) mod inserts;
pub(crate) mod retention;
