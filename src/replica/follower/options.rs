//! [`FollowerOptions`]: which replica is followed, and how.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::replica::storage::Storage;

/// The longest pause between two looks at the replica.
const LONGEST: Duration = Duration::from_secs(3600);

/// The replica that a [`Follower`](crate::Follower) follows. It is given to
/// [`Options::follow`](crate::Options::follow), which also takes a URL as it is.
///
/// ```no_run
/// use std::time::Duration;
/// use larder::{FollowerOptions, Options};
///
/// let replica = FollowerOptions::of("s3://bucket/app").interval(Duration::from_millis(200));
/// let follower = Options::new().readers(16).follow(replica, "follower.db")?;
/// # Ok::<_, larder::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct FollowerOptions {
    pub(crate) url: String,
    pub(super) interval: Duration,
}

impl FollowerOptions {
    /// The replica at a URL, or in a folder: that of [`Options::replicate_to`](crate::Options::replicate_to), or one
    /// that Litestream 0.5 writes.
    pub fn of(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            interval: Duration::from_secs(1),
        }
    }

    /// The pause between two looks at the replica. The default is 1 s. From 0 to 1 h; 0 means 5 ms.
    ///
    /// A look is one GET of an object that is not there yet, which costs a twelfth of a LIST. After a look that found
    /// something, and after a call of [`wait_for`](crate::Follower::wait_for) that has to wait, the next six pauses are a
    /// quarter of this. What is committed on a busy primary is here after the primary's
    /// [`interval`](crate::ReplicaOptions::interval), one upload, and at most a quarter of this time; what is committed
    /// after a quiet time, after at most all of it.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    pub(super) fn validate(&self) -> Result<()> {
        if self.interval > LONGEST {
            return Err(Error::Options {
                option: "follow",
                problem: format!("an interval of {:?} is longer than 1 h", self.interval),
            });
        }
        Ok(())
    }
}

impl From<&str> for FollowerOptions {
    fn from(url: &str) -> Self {
        Self::of(url)
    }
}

impl From<String> for FollowerOptions {
    fn from(url: String) -> Self {
        Self::of(url)
    }
}

/// Without what may be secret in the URL.
impl fmt::Debug for FollowerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FollowerOptions")
            .field("url", &Storage::shown(&self.url))
            .field("interval", &self.interval)
            .finish()
    }
}
