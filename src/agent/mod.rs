//! One per protected database: drives the backup session and ships WAL.
