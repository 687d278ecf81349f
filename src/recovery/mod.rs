//! The recovery pod: data directory, recovery settings, PostgreSQL under supervision.
