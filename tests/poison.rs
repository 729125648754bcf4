//! See the issue.
