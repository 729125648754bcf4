#![doc = include_str!("../../docs/guide/index.md")]

// The text is in `docs/guide`. The imports are for its links.

pub mod getting_started {
    #![doc = include_str!("../../docs/guide/getting-started.md")]
    #[allow(unused_imports)]
    use crate::*;
}

pub mod writing {
    #![doc = include_str!("../../docs/guide/writing.md")]
    #[allow(unused_imports)]
    use crate::*;
}

pub mod reading {
    #![doc = include_str!("../../docs/guide/reading.md")]
    #[allow(unused_imports)]
    use crate::*;
}

pub mod asynchronous {
    #![doc = include_str!("../../docs/guide/async.md")]
    #[allow(unused_imports)]
    use crate::*;
}

pub mod errors {
    #![doc = include_str!("../../docs/guide/errors.md")]
    #[allow(unused_imports)]
    use crate::*;
}

pub mod repository_and_tests {
    #![doc = include_str!("../../docs/guide/repository-and-tests.md")]
    #[allow(unused_imports)]
    use crate::*;
}

pub mod testing {
    #![doc = include_str!("../../docs/guide/testing.md")]
    #[allow(unused_imports)]
    use crate::*;
}

pub mod full_text {
    #![doc = include_str!("../../docs/guide/full-text.md")]
    #[allow(unused_imports)]
    use crate::*;
}

pub mod vector_search {
    #![doc = include_str!("../../docs/guide/vector-search.md")]
    #[allow(unused_imports)]
    use crate::*;
}

pub mod migrations {
    #![doc = include_str!("../../docs/guide/migrations.md")]
    #[allow(unused_imports)]
    use crate::*;
}

pub mod backups {
    #![doc = include_str!("../../docs/guide/backups.md")]
    #[allow(unused_imports)]
    use crate::*;
}

pub mod replication {
    #![doc = include_str!("../../docs/guide/replication.md")]
    #[allow(unused_imports)]
    use crate::*;
}

pub mod monitoring {
    #![doc = include_str!("../../docs/guide/monitoring.md")]
    #[allow(unused_imports)]
    use crate::*;
}

pub mod tuning {
    #![doc = include_str!("../../docs/guide/tuning.md")]
    #[allow(unused_imports)]
    use crate::*;
}

pub mod bulk_loading {
    #![doc = include_str!("../../docs/guide/bulk-loading.md")]
    #[allow(unused_imports)]
    use crate::*;
}

#[cfg(feature = "postgres")]
pub mod postgres {
    #![doc = include_str!("../../docs/guide/postgres.md")]
    #[allow(unused_imports)]
    use crate::*;
}

pub mod operations {
    #![doc = include_str!("../../docs/guide/operations.md")]
    #[allow(unused_imports)]
    use crate::*;
}

pub mod command_line {
    #![doc = include_str!("../../docs/guide/command-line.md")]
    #[allow(unused_imports)]
    use crate::*;
}

pub mod coming_from {
    #![doc = include_str!("../../docs/guide/coming-from.md")]
    #[allow(unused_imports)]
    use crate::*;
}
