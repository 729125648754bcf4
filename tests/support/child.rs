//! Processes of their own.
