//! A replica of the database: with the feature `replicate`.

use larder::{Options, Store};

use crate::failure::Result;
#[cfg(feature = "replicate")]
use crate::load;

#[cfg_attr(not(feature = "replicate"), expect(dead_code, reason = "only the URL is named"))]
pub(crate) struct Replica {
    pub(crate) url: String,
    pub(crate) take_over: bool,
}

/// A missing database is restored, if its owner has closed the replica or `--take-over` says that it is gone.
#[cfg(feature = "replicate")]
pub(crate) fn replicate(options: Options, replica: &Replica) -> Result<Options> {
    let to = larder::ReplicaOptions::to(&replica.url);
    Ok(options.replicate_to(to.restore_if_missing(true).take_over(replica.take_over)))
}

#[cfg(not(feature = "replicate"))]
pub(crate) fn replicate(_: Options, replica: &Replica) -> Result<Options> {
    let Replica { url, .. } = replica;
    Err(format!("to replicate to {url}, build with `--features replicate`, or `--features s3` for S3").into())
}

/// Says what is here, so that it can be compared with what a restore brings back. Nothing without a replica.
#[cfg(feature = "replicate")]
pub(crate) fn tell(store: &Store) -> Result<()> {
    let Some(replica) = store.stats().replica else {
        return Ok(());
    };
    match load::newest(store)? {
        Some((row, at)) => println!("newest row    {row}, written at {at} UTC; {} uploads", replica.uploads),
        None => println!("newest row    none: {} is empty", load::TABLE),
    }
    Ok(())
}

#[cfg(not(feature = "replicate"))]
pub(crate) fn tell(_: &Store) -> Result<()> {
    Ok(())
}
